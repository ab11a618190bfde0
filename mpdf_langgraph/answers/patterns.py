"""Regular expressions that are compiled when they are first used."""

import re
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any


class Pattern:
    """A regular expression that is compiled when it is first used.

    Compiling all of those that read answers takes a tenth of a second, which an app that imports
    the package should not wait. The methods are those of `re.Pattern`.

    Args:
        text: The expression.
        flags: Of `re`.
    """

    def __init__(self, text: str, flags: int = 0) -> None:
        self._text, self._flags = text, flags

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self._text, self._flags)

    def match(self, text: str, start: int = 0) -> re.Match[str] | None:
        """Match at a place of the text."""
        return self._compiled.match(text, start)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        """Match the whole text."""
        return self._compiled.fullmatch(text)

    def search(self, text: str, start: int = 0, end: int = sys.maxsize) -> re.Match[str] | None:
        """Find the first match."""
        return self._compiled.search(text, start, end)

    def finditer(self, text: str, start: int = 0) -> Iterator[re.Match[str]]:
        """Find all matches."""
        return self._compiled.finditer(text, start)

    def findall(self, text: str) -> list[Any]:
        """Return what all matches hold."""
        return self._compiled.findall(text)

    def sub(
        self, replacement: str | Callable[[re.Match[str]], str], text: str, count: int = 0
    ) -> str:
        """Replace the matches."""
        return self._compiled.sub(replacement, text, count)

    def split(self, text: str, maxsplit: int = 0) -> list[str]:
        """Split at the matches."""
        return self._compiled.split(text, maxsplit)
