"""The check of options that are numbers."""

import math
from fractions import Fraction
from typing import Any

from mpdf_langgraph.errors import ConfigurationError


def check_number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    whole: bool = False,
    optional: bool = False,
) -> None:
    """Raise a `ConfigurationError` that says what an option must be, unless it is that.

    It must be finite and in [low, high]. `above` excludes `low`, `whole` asks for a whole number,
    and `optional` allows None.

    Example:
        >>> check_number("explore", 0.5, 0, 1 / 3)
        Traceback (most recent call last):
        mpdf_langgraph.errors.ConfigurationError: explore must be a number in [0, 1/3], got 0.5
    """
    if value is None and optional:
        return
    kind: Any = int if whole else int | float
    fits = isinstance(value, kind) and not isinstance(value, bool) and _is_finite(value)
    if fits and low <= value <= high and not (above and value == low):
        return
    bounds = f"above {low:g}" if above else f"of at least {low:g}"
    if high < math.inf:
        bounds = f"in [{low:g}, {Fraction(high).limit_denominator(100)}]"
    raise ConfigurationError(
        f"{name} must be a {'whole ' if whole else ''}number {bounds}"
        f"{' or None' if optional else ''}, got {value!r:.80}"
    )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False
