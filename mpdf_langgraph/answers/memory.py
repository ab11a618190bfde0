"""What is remembered of answers: verdicts on pairs of them, outputs of programs, forms of texts.

An answer may be as long as its server likes. So what is remembered is bounded by its length, too.
"""

import contextlib
import threading
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

#: `cache_short` remembers nothing of longer texts.
SHORT = 1_000


def cache_short(size: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that remembers the last `size` results for short texts."""

    def decorate(compute: Callable[P, T]) -> Callable[P, T]:
        known: Any = lru_cache(size)(compute)

        @wraps(compute)
        def get(*args: P.args, **kwargs: P.kwargs) -> T:
            length = 0
            for one in args:
                if isinstance(one, str):
                    length += len(one)
            result: T = (known if length <= SHORT else compute)(*args, **kwargs)
            return result

        return get

    return decorate


class Memory(Generic[T]):
    """A bounded, thread-safe memory. A pickled one is empty: another process has its own."""

    CAPACITY = 10_000
    #: Of all keys and values together, as they are written.
    MOST_CHARACTERS = 20_000_000

    def __init__(self) -> None:
        #: Comparisons without a verdict.
        self.undecided = 0
        self._lock = threading.Lock()
        self._known: dict[Hashable, tuple[T, int]] = {}
        self._characters = 0

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of a key. Compute it if it is not known.

        If two threads compute it, the first value stays. An error is raised and not remembered.
        """
        with contextlib.suppress(KeyError):  # another thread may drop it at any moment
            return self._known[key][0]
        value = compute()
        with self._lock:
            if key not in self._known:
                length = len(repr((key, value)))
                self._known[key] = value, length
                self._characters += length
            value = self._known[key][0]
            while len(self._known) > self.CAPACITY or self._characters > self.MOST_CHARACTERS:
                self._characters -= self._known.pop(next(iter(self._known)))[1]
        return value

    def count_undecided(self) -> int:
        """Count one more comparison without a verdict, and return how many there are."""
        with self._lock:
            self.undecided += 1
            return self.undecided

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
