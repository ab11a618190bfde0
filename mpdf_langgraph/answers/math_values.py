"""The values that mathematical answers give: numbers, unnamed items, both signs."""

import re
from fractions import Fraction

from mpdf_langgraph.answers.math_notation import canonical
from mpdf_langgraph.answers.math_numbers import Quantity, read_quantity, same_value, write_number
from mpdf_langgraph.answers.math_parts import (
    is_plain_name,
    read_assignment,
    read_proportion,
    split_list,
)
from mpdf_langgraph.answers.math_units import scale_between
from mpdf_langgraph.answers.patterns import Pattern

PLUS_MINUS = Pattern(r"\\pm(?![a-z])|±|\\mp(?![a-z])|\+/-|\+-")


def squeezed(text: str) -> str:
    """The text without the white space that means nothing."""
    text = re.sub(r"\s*([^\w\s\\]|_)\s*", r"\1", text)
    return re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r"\1", text)


def read_number(text: str) -> Quantity | None:
    """Read a quantity, or a proportion such as "1 in 4"."""
    quantity = read_quantity(text)
    if quantity is None and (proportion := read_proportion(text)) is not None:
        return Quantity(proportion)
    return quantity


def same_quantity(x: Quantity, y: Quantity) -> bool:
    """Tell whether two quantities are the same; a percentage is its value and its bare number."""
    scale = scale_between(x.units, y.units)
    if scale is None:
        return False
    rounded = x.decimal or y.decimal
    a, b = x.value * scale, y.value
    if x.percent == y.percent or same_value(a, b, rounded):
        return same_value(a, b, rounded)
    return same_value(a / 100 if x.percent else a, b / 100 if y.percent else b, rounded)


def may_be_intervals(text: str) -> bool:
    """Tell whether an answer may be read as a union of intervals."""
    return bool(
        re.search(
            r"[<>≤≥≠]|\\(?:le|ge|lt|gt|ne|leq|geq|neq|cup|infty|in)(?![a-z])|∪|∞|[)\]]\s?U", text
        )
    ) or (text[:1] in "([" and text[-1:] in ")]")


def is_tuple_of_names(name: str) -> bool:
    """Tell whether a name is a tuple such as (x,y)."""
    return bool(re.fullmatch(r"\([A-Za-z](?:,[A-Za-z])+\)", name))


def unnamed(items: list[str]) -> list[str]:
    """The items of a list without the name of what they are values of, in canonical form."""
    values = []
    for item in items:
        assigned = read_assignment(item)
        values.append(canonical(assigned[1] if assigned and is_plain_name(assigned[0]) else item))
    return values


def in_order_of_names(items: list[str]) -> list[str]:
    """The values of ``y = 2, x = 1`` in the order of the names, else the items as they stand."""
    named = [read_assignment(item) for item in items]
    if all(named) and len({one[0] for one in named if one}) == len(items):
        return [one[1] for one in sorted(one for one in named if one)]
    return unnamed(items)


def both_signs(text: str) -> list[str] | None:
    """Return the values of a list in which a plus-or-minus gives two; None: too many."""
    values: list[str] = []
    for item in split_list(text):
        assigned = read_assignment(item)
        value = assigned[1] if assigned and is_plain_name(assigned[0]) else item
        signs = PLUS_MINUS.findall(value)
        if not signs:
            values.append(canonical(value))
            continue
        if len(signs) > 4:
            return None
        for upper, lower in (("+", "-"), ("-", "+")):
            written = PLUS_MINUS.sub(
                lambda sign, u=upper, v=lower: v if "mp" in sign.group() else u,  # type: ignore[misc]
                value,
            )
            values.append(canonical(re.sub(r"^\s*\+\s*", "", written)))
    return values


def fraction_text(value: Fraction) -> str:
    """Write a fraction in LaTeX."""
    if value.denominator == 1:
        return str(value)
    sign = "-" * (value < 0)
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def decimal_text(quantity: Quantity) -> str:
    """A number as a decimal, which may be rounded; a fraction where it has no end."""
    written = write_number(quantity.value, True)
    return written if "/" not in written else fraction_text(quantity.value)
