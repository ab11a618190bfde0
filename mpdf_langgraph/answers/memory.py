"""What schemas remember: verdicts on pairs of answers, and the outputs of programs."""

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Memory(Generic[T]):
    """A bounded, thread-safe memory. A pickled one is empty: another process has its own."""

    CAPACITY = 10_000

    def __init__(self) -> None:
        #: Comparisons without a verdict.
        self.undecided = 0
        self._lock = threading.Lock()
        self._known: dict[Hashable, T] = {}

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of a key. Compute it if it is not known.

        If two threads compute it, the first value stays. An error is raised and not remembered.
        """
        with contextlib.suppress(KeyError):  # another thread may drop it at any moment
            return self._known[key]
        value = compute()
        with self._lock:
            if len(self._known) >= self.CAPACITY:
                del self._known[next(iter(self._known))]
            return self._known.setdefault(key, value)

    def count_undecided(self) -> int:
        """Count one more comparison without a verdict, and return how many there are."""
        with self._lock:
            self.undecided += 1
            return self.undecided

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
