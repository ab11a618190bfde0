"""Whether two mathematical answers are the same: taken apart alike, then compared part by part.

What is neither number, list nor words is an expression. Two expressions are handed to a function
that compares them (see `math_equality`).
"""

import operator
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from mpdf_langgraph.answers.math_latex import to_latex
from mpdf_langgraph.answers.math_notation import canonical, split_label
from mpdf_langgraph.answers.math_numbers import (
    MAX_LENGTH,
    Quantity,
    read_quantity,
    same_value,
    write_number,
)
from mpdf_langgraph.answers.math_parts import (
    Bracketed,
    is_plain_name,
    read_assignment,
    read_based,
    read_bracketed,
    read_compound,
    read_congruence,
    read_determinant,
    read_intervals,
    read_matrix,
    read_proportion,
    read_ratio,
    read_time,
    split_list,
    total_in,
)
from mpdf_langgraph.answers.math_units import NO_UNITS, Units, scale_between
from mpdf_langgraph.answers.math_words import has_words, split_unit, synonym, word_tokens
from mpdf_langgraph.answers.patterns import Pattern

_MOST_QUESTIONS = 200  # to the function that compares expressions, about one pair of answers
_LONGEST_LIST = 60
_T = TypeVar("_T")
_ELLIPSIS = Pattern(r"\\[lcv]?dots[cbmio]?(?![a-z])|\.\.\.")
_PLUS_MINUS = Pattern(r"\\pm(?![a-z])|±|\\mp(?![a-z])|\+/-|\+-")
_POINTS = Pattern(r"[A-Z]{2,}")


class Equation(NamedTuple):
    """An assignment such as ``x = 5``, and its text."""

    name: str
    value: str
    text: str


class Comparison:
    """One comparison of two answers.

    Args:
        ask: Tells whether two expressions in LaTeX have the same value.
    """

    def __init__(self, ask: Callable[[str, str], bool]) -> None:
        self._ask = ask
        self._asked = 0
        # Forms that answers have: how one is read, how two are compared, and how one is compared
        # with the text of an answer of another form. None leaves the verdict to the next form.
        self._forms: list[tuple[Callable[[str], Any], Callable[..., bool | None], Any]] = [
            (read_time, _same_time, None),
            (read_number, same_quantity, None),
            (read_based, operator.eq, lambda based, other: False),
            (split_label, self._same_labelled, self._label_or_rest),
            (_with_ellipsis, self._same_sequence, lambda sequence, other: False),
            (read_congruence, self._same_congruence, None),
            (read_compound, _same_compound, _compound_is),
            (read_matrix, self._same_matrix, self._matrix_is_vector),
            (_both_signs, self._same_set, lambda x, b: self._same_set(x, unnamed(_members(b)))),
            (read_intervals, self._same_union, None),
            (read_bracketed, self._same_bracketed, self._bracketed_is),
            (_read_list, self._same_list, self._list_is),
            (_read_equation, self._same_assignment, self._assignment_is),
            (read_ratio, operator.eq, _ratio_is),
        ]

    def same(self, a: str, b: str) -> bool:
        """Tell whether two canonical answers are the same."""
        a, b = synonym(a), synonym(b)
        if a == b or squeezed(a) == squeezed(b):
            return True
        for read, compare, compare_with_text in self._forms:
            x, y = read(a), read(b)
            verdict = None
            if x is not None and y is not None:
                verdict = compare(x, y)
            elif compare_with_text and (x is not None or y is not None):
                verdict = compare_with_text(x, b) if y is None else compare_with_text(y, a)
            if verdict is not None:
                return verdict
        if any(has_words(split_unit(text)[0]) for text in (a, b)):
            return word_tokens(a) == word_tokens(b)
        return self._same_expression(a, b)

    def _same_labelled(self, x: tuple[str, str], y: tuple[str, str]) -> bool:
        return x[0] == y[0] and self.same(x[1], y[1])

    def _label_or_rest(self, labelled: tuple[str, str], other: str) -> bool:
        letter, rest = labelled
        return other.strip("()") == letter or self.same(canonical(rest), other)

    def _same_congruence(self, x: tuple[str, str], y: tuple[str, str]) -> bool:
        if x[1] != y[1]:
            return False
        p, q = read_quantity(x[0]), read_quantity(y[0])
        if p and q and x[1].isdigit() and int(x[1]):
            return (p.value - q.value) % int(x[1]) == 0
        return self.same(x[0], y[0])

    # --- structures ---

    def _same_sequence(self, x: list[str], y: list[str]) -> bool:
        return len(x) == len(y) and all(
            squeezed(p) == squeezed(q) if "…" in p + q else self.same(p, q)
            for p, q in zip(x, y, strict=True)
        )

    def _same_matrix(self, x: list[list[str]], y: list[list[str]]) -> bool:
        return [len(row) for row in x] == [len(row) for row in y] and self._all_same(
            [*chain(*x)], [*chain(*y)]
        )

    def _matrix_is_vector(self, matrix: list[list[str]], other: str) -> bool | None:
        bracketed = read_bracketed(other)
        if bracketed is None or (len(matrix) > 1 and len(matrix[0]) > 1):
            return None
        return self._all_same([*chain(*matrix)], bracketed.items)

    def _same_union(self, x: list[Bracketed], y: list[Bracketed]) -> bool | None:
        return self._matched(x, y, self._same_bracketed) if len(x) == len(y) else None

    def _same_bracketed(self, x: Bracketed, y: Bracketed) -> bool:
        kinds = [(p.opening.replace("<", "("), p.closing.replace(">", ")")) for p in (x, y)]
        if kinds[0] != kinds[1]:
            return False
        return (self._same_set if x.opening == "{" else self._all_same)(x.items, y.items)

    def _bracketed_is(self, x: Bracketed, other: str) -> bool | None:
        items = split_list(other)
        if len(items) < 2:
            if x.opening == "{" and len(x.items) == 1:
                return self.same(x.items[0], other)
            return None
        if x.opening == "{":
            return self._same_set(unnamed(x.items), unnamed(items))
        if any(read_bracketed(item) for item in items):
            return None
        return self._all_same(x.items, _in_order_of_names(items))

    def _same_list(self, x: list[str], y: list[str]) -> bool:
        named = [[read_assignment(item) for item in items] for items in (x, y)]
        if all(one is not None for items in named for one in items):
            names = [sorted(one[0] for one in items if one) for items in named]
            if len(set(names[0])) > 1 or len(set(names[1])) > 1:
                return names[0] == names[1] and self._all_same(
                    _in_order_of_names(x), _in_order_of_names(y)
                )
        return self._same_set(unnamed(x), unnamed(y))

    def _list_is(self, items: list[str], other: str) -> bool:
        assigned = read_assignment(other)
        if assigned and is_plain_name(assigned[0]):
            return self.same(assigned[1], ", ".join(items))
        return self._same_list([other], items)

    def _same_assignment(self, x: Equation, y: Equation) -> bool:
        named = squeezed(x.name) == squeezed(y.name) or has_words(x.text) or has_words(y.text)
        if not named and x.text.count("=") == y.text.count("=") == 1:
            if self._asks(x.text, y.text):
                return True
            if len(x.name + y.name) < 3 or not (is_plain_name(x.name) and is_plain_name(y.name)):
                return False
        return self.same(x.value, y.value)

    def _assignment_is(self, x: Equation, other: str) -> bool | None:
        unknowns = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", x.name))
        if len(unknowns) > 1 and read_quantity(x.value) and read_quantity(other):
            return self.same(x.value, other)
        if not is_plain_name(x.name) or squeezed(x.name) == squeezed(other):
            return None if "=" in other else False
        if "=" in other and not has_words(x.text + other):
            return self._asks(x.text, other)
        return self.same(x.value, other)

    # --- what is left ---

    def _same_expression(self, a: str, b: str) -> bool:
        (x, unit_x), (y, unit_y) = _without_unit(a), _without_unit(b)
        scale = scale_between(unit_x, unit_y)
        if scale is None:
            return False
        return self._asks(x if scale == 1 else f"{fraction_text(scale)}({x})", y)

    def _asks(self, a: str, b: str) -> bool:
        x, y = to_latex(a), to_latex(b)
        if x == y:
            return True
        if _POINTS.fullmatch(x) or _POINTS.fullmatch(y):
            return False  # no product
        self._asked += 1
        if self._asked > _MOST_QUESTIONS or max(len(x), len(y)) > 4 * MAX_LENGTH:
            return False
        return self._ask(x, y)

    def _all_same(self, x: list[str], y: list[str]) -> bool:
        return len(x) == len(y) and all(
            self.same(canonical(p), canonical(q)) for p, q in zip(x, y, strict=True)
        )

    def _same_set(self, x: list[str], y: list[str]) -> bool:
        return self._matched(x, y, self.same)

    def _matched(self, x: list[_T], y: list[_T], same: Callable[[_T, _T], bool]) -> bool:
        """Tell whether every member of either list has its like in the other."""
        if max(len(x), len(y)) > _LONGEST_LIST:
            return x == y
        found: set[int] = set()
        for p in x:
            free = sorted((k for k in range(len(y)) if k not in found), key=lambda k: y[k] != p)
            if (like := next((k for k in free if same(p, y[k])), None)) is not None:
                found.add(like)
            elif not any(same(p, y[k]) for k in found):
                return False
        return all(k in found or any(same(y[k], y[j]) for j in found) for k in range(len(y)))


# --- numbers ------------------------------------------------------------------------------------


def _same_time(x: tuple[int, bool], y: tuple[int, bool]) -> bool | None:
    if not (x[1] or y[1]):
        return None  # perhaps a ratio
    if x[1] == y[1]:
        return x[0] == y[0]
    # "2:20" may be meant for 2:20 p.m., "14:20" for nothing else.
    plain, said = (x[0], y[0]) if y[1] else (y[0], x[0])
    return plain == said or (plain < 13 * 60 and plain % 720 == said % 720)


def read_number(text: str) -> Quantity | None:
    """Read a quantity, or a proportion such as "1 in 4"."""
    quantity = read_quantity(text)
    if quantity is None:
        value = read_proportion(text) or read_determinant(text)
        return None if value is None else Quantity(value)
    return quantity


def same_quantity(x: Quantity, y: Quantity) -> bool:
    """Tell whether two quantities are the same. A percentage is its value and its bare number."""
    scale = scale_between(x.units, y.units)
    if scale is None:
        return False
    rounded = x.decimal or y.decimal
    a, b = x.value * scale, y.value
    if x.percent == y.percent or same_value(a, b, rounded):
        return same_value(a, b, rounded)
    return same_value(a / 100 if x.percent else a, b / 100 if y.percent else b, rounded)


def _same_compound(x: list[Quantity], y: list[Quantity]) -> bool:
    unit = x[-1].units
    return unit.dimensions == y[0].units.dimensions and total_in(x, unit) == total_in(y, unit)


def _compound_is(parts: list[Quantity], text: str) -> bool:
    other = read_number(text)
    if other is None:
        return False
    if other.units == NO_UNITS:
        return any(total_in(parts, part.units) == other.value for part in parts)
    return scale_between(parts[0].units, other.units) is not None and same_value(
        total_in(parts, other.units), other.value, other.decimal
    )


def _ratio_is(terms: list[Fraction], text: str) -> bool | None:
    other = read_number(text)
    return len(terms) == 2 and terms[1] * other.value == terms[0] if other else None


def _without_unit(text: str) -> tuple[str, Units]:
    """An expression in LaTeX without its unit, and the unit."""
    number = read_number(text)
    if number is None:
        return split_unit(text)
    written = write_number(number.value, number.decimal)
    return (fraction_text(number.value) if "/" in written else written), number.units


def fraction_text(value: Fraction) -> str:
    """Write a fraction in LaTeX."""
    sign = "-" * (value < 0)
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


# --- lists --------------------------------------------------------------------------------------


def squeezed(text: str) -> str:
    """The text without the white space that means nothing."""
    text = re.sub(r"\s*([^\w\s\\]|_)\s*", r"\1", text)
    return re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r"\1", text)


def _read_list(text: str) -> list[str] | None:
    items = split_list(text)
    return items if len(items) > 1 else None


def _read_equation(text: str) -> Equation | None:
    assigned = read_assignment(text)
    return Equation(*assigned, text) if assigned else None


def _with_ellipsis(text: str) -> list[str] | None:
    return split_list(_ELLIPSIS.sub("…", text)) if _ELLIPSIS.search(text) else None


def unnamed(items: list[str]) -> list[str]:
    """The items of a list without the name of what they are values of, in canonical form."""
    values = []
    for item in items:
        assigned = read_assignment(item)
        values.append(canonical(assigned[1] if assigned and is_plain_name(assigned[0]) else item))
    return values


def _in_order_of_names(items: list[str]) -> list[str]:
    """The values of ``y = 2, x = 1`` in the order of the names, else the items as they stand."""
    named = [one for item in items if (one := read_assignment(item))]
    if len({name for name, _ in named}) == len(items):
        return [value for _, value in sorted(named)]
    return unnamed(items)


def _members(text: str) -> list[str]:
    bracketed = read_bracketed(text)
    return bracketed.items if bracketed and bracketed.opening == "{" else split_list(text)


def _both_signs(text: str) -> list[str] | None:
    """The values of a list in which a plus-or-minus gives two. None if there is no such sign."""
    if not _PLUS_MINUS.search(text):
        return None
    values: list[str] = []
    for value in unnamed(split_list(text)):
        for plus, minus in ("+-", "-+"):
            written = value
            for sign in _PLUS_MINUS.findall(value):
                written = written.replace(sign, minus if "mp" in sign else plus)
            values.append(canonical(written.removeprefix("+")))
    return values
