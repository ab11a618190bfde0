"""What the numbers of a response say about it, without a call: do its own equations hold and chain?

``4 boxes x 6 pens = 24 pens`` is an equation with units between. It is checked where its left side
is a chain of numbers and ``+ - * /`` without parentheses or unknowns, and its right side is a
number. Equations of another form are passed over.
"""

import re
from collections.abc import Sequence
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


class Equation(NamedTuple):
    """An equation of a text.

    Attributes:
        operands: The numbers of its left side. A percentage is a share.
        result: Its right side. A percentage is a share.
        holds: Its sides are equal, as far as rounding goes.
    """

    operands: tuple[float, ...]
    result: float
    holds: bool


def numbers_of(text: str) -> list[float]:
    """Return the numbers of a text in order, without signs.

    Example:
        >>> numbers_of("She sells 1,200 for $2.50")
        [1200.0, 2.5]
    """
    return [float(found.replace(",", "")) for found in _NUMBERS.findall(text)]


def equations_of(text: str) -> list[Equation]:
    """Return the equations of a text that can be checked, in order.

    Example:
        >>> [one.holds for one in equations_of("4 boxes x 6 pens = 24 pens. Then 24 - 5 = 18.")]
        [True, False]
    """
    found = []
    for match in _EQUATION.finditer(_without_words(text)):
        left, right = _calculate(match["left"]), _value(match["right"])
        if left is not None:
            # 20 / 50 = 40 % is written without its sign, too.
            gaps = [abs(left * unit - right) for unit in (1.0, 100.0, 0.01)]
            holds = min(gaps) <= ROUNDING * max(1.0, right)
            operands = tuple(_value(term) for term in match["left"].split()[::2])
            found.append(Equation(operands, right, holds))
    return found


def leaves_result(equations: Sequence[Equation]) -> bool:
    """Does any equation but the last have a result that no equation goes on with?

    Example:
        >>> leaves_result(equations_of("2 + 3 = 5. 4 + 4 = 8. 8 + 1 = 9."))
        True
    """
    used = {round(operand, 6) for equation in equations for operand in equation.operands}
    return any(round(equation.result, 6) not in used for equation in equations[:-1])


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
