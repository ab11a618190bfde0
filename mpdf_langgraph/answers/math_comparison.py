"""Whether two mathematical answers are the same: taken apart alike, then compared part by part.

What is neither number, list nor words is an expression, and two of these are handed to a function
that compares them (see `math_equality`).
"""

import re
from collections.abc import Callable
from typing import TypeVar

from mpdf_langgraph.answers.math_latex import to_latex
from mpdf_langgraph.answers.math_notation import canonical, split_label
from mpdf_langgraph.answers.math_numbers import (
    MAX_LENGTH,
    read_quantity,
    same_value,
)
from mpdf_langgraph.answers.math_parts import (
    Bracketed,
    is_plain_name,
    read_assignment,
    read_based,
    read_bracketed,
    read_compound,
    read_congruence,
    read_intervals,
    read_matrix,
    read_ratio,
    read_time,
    split_list,
    total_in,
)
from mpdf_langgraph.answers.math_units import NO_UNITS, scale_between
from mpdf_langgraph.answers.math_values import (
    PLUS_MINUS,
    both_signs,
    decimal_text,
    fraction_text,
    in_order_of_names,
    is_tuple_of_names,
    may_be_intervals,
    read_number,
    same_quantity,
    squeezed,
    unnamed,
)
from mpdf_langgraph.answers.math_words import has_words, split_unit, synonym, word_tokens
from mpdf_langgraph.answers.patterns import Pattern

_MOST_QUESTIONS = 200  # to the function that compares expressions, about one pair of answers
_LONGEST_LIST = 60
_T = TypeVar("_T")
_ELLIPSIS = Pattern(r"\\[lcv]?dots[cbmio]?(?![a-z])|\.\.\.")


class Comparison:
    """One comparison of two answers.

    Args:
        ask: Tells whether two expressions in LaTeX have the same value.
    """

    def __init__(self, ask: Callable[[str, str], bool]) -> None:
        self._ask = ask
        self._asked = 0

    def same(self, a: str, b: str) -> bool:
        """Tell whether two canonical answers are the same."""
        a, b = synonym(a), synonym(b)
        if a == b or squeezed(a) == squeezed(b):
            return True
        for judge in (
            self._by_time,
            self._by_number,
            self._by_base,
            self._by_label,
            self._by_ellipsis,
            self._by_congruence,
            self._by_compound,
            self._by_matrix,
            self._by_signs,
            self._by_intervals,
            self._by_brackets,
            self._by_list,
            self._by_assignment,
            self._by_ratio,
            self._by_words,
        ):
            verdict = judge(a, b)
            if verdict is not None:
                return verdict
        return self._by_value(a, b)

    # --- numbers ---

    @staticmethod
    def _by_time(a: str, b: str) -> bool | None:
        x, y = read_time(a), read_time(b)
        if x is None or y is None or not (x[1] or y[1]):
            return None
        return x[0] == y[0] or (x[1] != y[1] and x[0] % 720 == y[0] % 720)

    @staticmethod
    def _by_number(a: str, b: str) -> bool | None:
        x, y = read_number(a), read_number(b)
        return same_quantity(x, y) if x and y else None

    @staticmethod
    def _by_base(a: str, b: str) -> bool | None:
        x, y = read_based(a), read_based(b)
        if x is None and y is None:
            return None
        return x == y

    def _by_label(self, a: str, b: str) -> bool | None:
        (letter_a, rest_a), (letter_b, rest_b) = split_label(a), split_label(b)
        if letter_a is None and letter_b is None:
            return None
        if letter_a and letter_b:
            return letter_a == letter_b and self.same(rest_a, rest_b)
        letter, rest, other = (letter_a, rest_a, b) if letter_a else (letter_b, rest_b, a)
        return other.strip("()") == letter or self.same(canonical(rest), other)

    def _by_congruence(self, a: str, b: str) -> bool | None:
        if "mod" not in a and "mod" not in b:
            return None
        x, y = read_congruence(a), read_congruence(b)
        if x is None or y is None:
            return None
        if x[1] != y[1]:
            return False
        numbers = [read_quantity(residue) for residue in (x[0], y[0])]
        if all(number is not None for number in numbers) and x[1].isdigit() and int(x[1]):
            difference = numbers[0].value - numbers[1].value  # type: ignore[union-attr]
            return difference % int(x[1]) == 0
        return self.same(x[0], y[0])

    @staticmethod
    def _by_compound(a: str, b: str) -> bool | None:
        x, y = read_compound(a), read_compound(b)
        if x is None and y is None:
            return None
        if x and y:
            unit = x[-1].units
            same_kind = x[0].units.dimensions == y[0].units.dimensions
            return same_kind and total_in(x, unit) == total_in(y, unit)
        parts, other = (x or y or []), read_number(b if x else a)
        if other is None:
            return False
        if other.units == NO_UNITS:
            return any(total_in(parts, part.units) == other.value for part in parts)
        if scale_between(parts[0].units, other.units) is None:
            return False
        return same_value(total_in(parts, other.units), other.value, other.decimal)

    def _by_ratio(self, a: str, b: str) -> bool | None:
        x, y = read_ratio(a), read_ratio(b)
        if x and y:
            return x == y
        if x or y:
            terms, other = (x or y or []), read_number(b if x else a)
            return len(terms) == 2 and other is not None and terms[1] * other.value == terms[0]
        return None

    # --- structures ---

    def _by_ellipsis(self, a: str, b: str) -> bool | None:
        if not (_ELLIPSIS.search(a) or _ELLIPSIS.search(b)):
            return None
        a, b = (_ELLIPSIS.sub("…", text) for text in (a, b))
        x, y = split_list(a), split_list(b)
        if len(x) != len(y) or len(x) < 2:
            return squeezed(a) == squeezed(b)
        return all(p == q if "…" in p + q else self.same(p, q) for p, q in zip(x, y, strict=True))

    def _by_matrix(self, a: str, b: str) -> bool | None:
        x, y = read_matrix(a), read_matrix(b)
        if x is None and y is None:
            return None
        if x is not None and y is not None:
            if [len(row) for row in x] != [len(row) for row in y]:
                return False
            return self._all_same([c for row in x for c in row], [c for row in y for c in row])
        matrix, other = (x or y or []), read_bracketed(b if x is not None else a)
        if other is None or (len(matrix) > 1 and len(matrix[0]) > 1):
            return None
        return self._all_same([cell for row in matrix for cell in row], other.items)

    def _by_intervals(self, a: str, b: str) -> bool | None:
        if not may_be_intervals(a) or not may_be_intervals(b):
            return None
        x, y = read_intervals(a), read_intervals(b)
        if x is None or y is None or len(x) != len(y):
            return None
        if len(x) == 1 and a[:1] in "([" and b[:1] in "([":
            return None  # two pairs of brackets are compared as such
        return self._matched(x, y, self._same_bracketed)

    def _by_brackets(self, a: str, b: str) -> bool | None:
        x, y = read_bracketed(a), read_bracketed(b)
        if x and y:
            return self._same_bracketed(x, y)
        if x is None and y is None:
            return None
        bracketed, other = (x, b) if x else (y, a)
        assert bracketed is not None
        items = split_list(other)
        if len(items) < 2:
            assigned = read_assignment(other)
            if assigned and (is_tuple_of_names(assigned[0]) or is_plain_name(assigned[0])):
                return self.same(*((a, assigned[1]) if x else (assigned[1], b)))
            if bracketed.opening == "{" and len(bracketed.items) == 1:
                return self.same(bracketed.items[0], other)
            return None
        if bracketed.opening == "{":
            return self._matched(unnamed(bracketed.items), unnamed(items), self.same)
        if any(read_bracketed(item) for item in items):
            return None
        return self._all_same(bracketed.items, in_order_of_names(items))

    def _same_bracketed(self, x: Bracketed, y: Bracketed) -> bool:
        kinds = [
            ("(" if one.opening == "<" else one.opening, ")" if one.closing == ">" else one.closing)
            for one in (x, y)
        ]
        if kinds[0] != kinds[1]:
            return False
        if x.opening == "{":
            return self._matched(x.items, y.items, self.same)
        return self._all_same(x.items, y.items)

    def _by_list(self, a: str, b: str) -> bool | None:
        x, y = split_list(a), split_list(b)
        if len(x) < 2 and len(y) < 2:
            return None
        if len(x) < 2 or len(y) < 2:
            single = a if len(x) < 2 else b
            assigned = read_assignment(single)
            if assigned and len(split_list(assigned[1])) < 2 and is_plain_name(assigned[0]):
                return self.same(*((assigned[1], b) if len(x) < 2 else (a, assigned[1])))
        named = [[read_assignment(item) for item in items] for items in (x, y)]
        if all(one is not None for items in named for one in items):
            names = [[one[0] for one in items if one] for items in named]
            if len(set(names[0])) > 1 or len(set(names[1])) > 1:
                if sorted(names[0]) != sorted(names[1]):
                    return False
                return self._all_same(in_order_of_names(x), in_order_of_names(y))
        return self._matched(unnamed(x), unnamed(y), self.same)

    def _by_signs(self, a: str, b: str) -> bool | None:
        r"""Read ``\pm`` as two values."""
        if not (PLUS_MINUS.search(a) or PLUS_MINUS.search(b)):
            return None
        x, y = (both_signs(part) for part in (a, b))
        if x is None or y is None:
            return False
        return self._matched(x, y, self.same)

    def _by_assignment(self, a: str, b: str) -> bool | None:
        x, y = read_assignment(a), read_assignment(b)
        if x is None and y is None:
            return None
        if x and y:
            if squeezed(x[0]) == squeezed(y[0]):
                return self.same(x[1], y[1])
            single = Pattern(r"[A-Za-z]|\\[a-z]+")
            if (
                single.fullmatch(x[0])
                and single.fullmatch(y[0])
                and not re.search(r"[A-Za-z]", x[1] + y[1])
            ):
                return False
            if a.count("=") == b.count("=") == 1 and not (has_words(a) or has_words(b)):
                return self._asks(a, b) or (
                    is_plain_name(x[0])
                    and is_plain_name(y[0])
                    and len(x[0] + y[0]) > 2
                    and self.same(x[1], y[1])
                )
            return self.same(x[1], y[1])
        assigned, other = (x, b) if x else (y, a)
        assert assigned is not None
        unknowns = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", assigned[0]))
        if len(unknowns) > 1 and read_quantity(assigned[1]) and read_quantity(other):
            return self.same(*((assigned[1], b) if x else (a, assigned[1])))
        if not is_plain_name(assigned[0]) or squeezed(assigned[0]) == squeezed(other):
            return None if "=" in other else False
        if "=" in other and not has_words(a + b):
            return self._asks(a, b)
        return self.same(*((assigned[1], b) if x else (a, assigned[1])))

    # --- what is left ---

    def _by_words(self, a: str, b: str) -> bool | None:
        plain = [split_unit(text) for text in (a, b)]
        words = [has_words(expression) for expression, _, _ in plain]
        if not any(words):
            return None
        return word_tokens(a) == word_tokens(b)

    def _by_value(self, a: str, b: str) -> bool:
        (x, unit_x, percent_x), (y, unit_y, percent_y) = split_unit(a), split_unit(b)
        first, second = read_number(a), read_number(b)
        unit_x = first.units if first else unit_x or NO_UNITS
        unit_y = second.units if second else unit_y or NO_UNITS
        x = fraction_text(first.value) if first else x
        y = fraction_text(second.value) if second else y
        if first and first.decimal:
            x = decimal_text(first)
        if second and second.decimal:
            y = decimal_text(second)
        percent_x, percent_y = (
            percent_x or bool(first and first.percent),
            percent_y or bool(second and second.percent),
        )
        scale = scale_between(unit_x, unit_y)
        if scale is None:
            return False
        if scale != 1:
            x = f"{fraction_text(scale)}({x})"
        if self._asks(x, y):
            return True
        if percent_x != percent_y:
            x, y = (
                (f"\\frac{{1}}{{100}}({x})" if percent_x else x),
                (f"\\frac{{1}}{{100}}({y})" if percent_y else y),
            )
            return self._asks(x, y)
        return False

    def _asks(self, a: str, b: str) -> bool:
        x, y = to_latex(a), to_latex(b)
        if x == y:
            return True
        if re.fullmatch(r"[A-Z]{2}|[A-Z]{3,}", x) or re.fullmatch(r"[A-Z]{2}|[A-Z]{3,}", y):
            return False  # points and the like: no product
        self._asked += 1
        if self._asked > _MOST_QUESTIONS or max(len(x), len(y)) > 4 * MAX_LENGTH:
            return False
        return self._ask(x, y)

    def _all_same(self, x: list[str], y: list[str]) -> bool:
        return len(x) == len(y) and all(
            self.same(canonical(p), canonical(q)) for p, q in zip(x, y, strict=True)
        )

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
