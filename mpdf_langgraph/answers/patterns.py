"""Regular expressions that are compiled when they are first used, and those that many share."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Base = re.Pattern[str]
else:
    Base = object


class Pattern(Base):  # type: ignore[misc]  # `re.Pattern` is final
    """A regular expression that is compiled when it is first used.

    Compiling all expressions that read answers takes a tenth of a second. An app that imports the
    package should not wait for that.

    Args:
        text: The expression.
        flags: Of `re`.
    """

    def __init__(self, text: str, flags: int = 0) -> None:
        self._written = text, flags

    def __getattr__(self, name: str) -> Any:
        """Return a method of the compiled expression, and keep it."""
        method = getattr(re.compile(*self._written), name)
        setattr(self, name, method)
        return method


#: Commands that set their argument in another style.
STYLES = (
    "text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|emph|operatorname"
    "|boldsymbol|bm"
)
#: Text in a style, in group 1.
STYLED_TEXT = rf"\\(?:{STYLES})\s?\{{([^{{}}]*)\}}"
STYLED = Pattern(STYLED_TEXT)
#: Mathematics in prose, in one of the groups.
MATH_SEGMENT = Pattern(r"\$\$?((?:[^$\\]|\\.)+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
#: Names of functions.
FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm"
#: Variables side by side.
PRODUCT = Pattern("(?!add|bad|cab|dad)[abcd]+|[xyz]+|[uvw]+|[pqr]+|[rst]+|[mnk]+|[ijk]+")
