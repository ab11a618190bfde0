"""What the numbers of a response say about it, without a call: do its own equations hold?

``4 boxes x 6 pens = 24 pens`` is an equation with units between. It is checked where its left side
is a chain of numbers and ``+ - * /`` without parentheses or unknowns, and its right side is a
number. Equations of another form are passed over.
"""

import re
from typing import NamedTuple

_NUMBERS = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+")
_PARTS = re.compile(
    rf"(?P<number>{_NUMBERS.pattern})(?:(?P<percent>\s*%)|(?P<unknown>[A-WYZa-wyz]|[xX](?![0-9])))?"
    r"|(?P<operator>(?:[-+*/×÷·]|(?<![A-Za-z])[xX])(?=\s*\$?\.?[0-9]))"  # none is in "3-egg"
    r"|(?P<other>[=()])|(?P<stop>[.;:!?\n](?=\s|$))"
)
_OPERATORS = str.maketrans({"×": "*", "·": "*", "x": "*", "X": "*", "÷": "/"})
_TERM = r"[0-9.]*[0-9]%?"
_EQUATION = re.compile(
    rf"(?<![-+*/()?] )(?<!\S)(?P<left>{_TERM}(?: [-+*/] {_TERM})+) = (?P<right>{_TERM})"
    r"(?!\S)(?! [-+*/])"
)
#: An equation holds where its sides differ by at most this share, as numbers are rounded.
ROUNDING = 0.011


class Equations(NamedTuple):
    """What was found in a text.

    Attributes:
        checked: Equations that could be checked.
        false: So many of these do not hold.
    """

    checked: int
    false: int


def numbers_of(text: str) -> list[float]:
    """Return the numbers of a text in order, without signs.

    Example:
        >>> numbers_of("She sells 1,200 for $2.50")
        [1200.0, 2.5]
    """
    return [float(found.replace(",", "")) for found in _NUMBERS.findall(text)]


def check_equations(text: str) -> Equations:
    """Check the equations of a text.

    Example:
        >>> check_equations("4 boxes x 6 pens = 24 pens. Then 24 - 5 = 18.")
        Equations(checked=2, false=1)
    """
    verdicts = []
    for found in _EQUATION.finditer(_without_words(text)):
        left, right = _calculate(found["left"]), _calculate(found["right"])
        if left is not None and right is not None:
            # 20 / 50 = 40 % is written without its sign, too.
            gaps = [abs(left * unit - right) for unit in (1.0, 100.0, 0.01)]
            verdicts.append(min(gaps) <= ROUNDING * max(1.0, right))
    return Equations(len(verdicts), verdicts.count(False))


def _without_words(text: str) -> str:
    """Return numbers, operators and what ends a calculation, with blanks between.

    Words are mostly units, and left out. ``3x`` is not known and becomes ``?``, ``3x4`` is a
    product. The end of a sentence becomes ``;``.
    """
    parts = []
    for found in _PARTS.finditer(text):
        if found["unknown"] or found["stop"]:
            parts.append("?" if found["unknown"] else ";")
        elif found["number"]:
            parts.append(found["number"].replace(",", "") + ("%" if found["percent"] else ""))
        else:
            parts.append((found["operator"] or found["other"]).translate(_OPERATORS))
    return " ".join(parts)


def _calculate(chain: str) -> float | None:
    """Return the value of numbers with operators between. None: it divides by 0."""
    first, *rest = chain.split()
    terms = [_value(first)]
    for operator, operand in zip(rest[::2], map(_value, rest[1::2]), strict=True):
        if operator == "*":
            terms[-1] *= operand
        elif operator == "/" and not operand:
            return None
        elif operator == "/":
            terms[-1] /= operand
        else:
            terms.append(operand if operator == "+" else -operand)
    return sum(terms)


def _value(number: str) -> float:
    return float(number.rstrip("%")) / (100 if number.endswith("%") else 1)
