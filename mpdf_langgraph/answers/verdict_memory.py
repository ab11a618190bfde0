"""A bounded memory of verdicts on pairs of answers."""

import threading
from typing import Any


class VerdictMemory:
    """A bounded, thread-safe memory of verdicts on unordered pairs."""

    _CAPACITY = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], bool] = {}

    def get(self, a: str, b: str) -> bool | None:
        """Return the verdict on a pair, None where there is none."""
        return self._known.get((min(a, b), max(a, b)))

    def put(self, a: str, b: str, verdict: bool) -> bool:
        """Remember a verdict; where another thread was faster, its verdict stands."""
        with self._lock:
            if len(self._known) >= self._CAPACITY:
                del self._known[next(iter(self._known))]
            return self._known.setdefault((min(a, b), max(a, b)), verdict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock and the verdicts out: another process makes its own."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        VerdictMemory.__init__(self)
