"""Regular expressions that are compiled when they are first used."""

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
