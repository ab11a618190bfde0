"""vLLM's prefix cache: how much of the prompts it has served, as the server's metrics say."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage

_COUNTER = re.compile(
    r"(?m)^vllm:prefix_cache_(queries|hits)(?:_total)?(?:\{[^}\n]*\})? "
    r"([0-9]{1,30}(?:\.[0-9]{1,30})?(?:e[+-]?[0-9]{1,2})?)$"
)


class PrefixCache(NamedTuple):
    """Counters of a server's prefix cache, in tokens of prompts.

    Attributes:
        queries: Tokens that were looked up.
        hits: Tokens that were there, so that nothing had to be computed for them.

    Example:
        >>> (PrefixCache(200, 90) - PrefixCache(100, 10)).rate
        0.8
    """

    queries: float
    hits: float

    def __sub__(self, earlier: "PrefixCache") -> "PrefixCache":
        """Return what came since the counters stood as in `earlier`."""
        return PrefixCache(self.queries - earlier.queries, self.hits - earlier.hits)

    @property
    def rate(self) -> float | None:
        """Share of the tokens that were there. None: none was looked up."""
        return self.hits / self.queries if self.queries > 0 else None

    @classmethod
    def of(cls, metrics: str) -> "PrefixCache | None":
        """Read the counters from the text of ``/metrics``, summed over the server's engines.

        None: they are not there, as the server is another one or caches no prefixes.
        """
        sums = {"queries": 0.0, "hits": 0.0}
        found = set()
        for name, value in _COUNTER.findall(metrics):
            found.add(name)
            sums[name] += float(value)
        return cls(**sums) if len(found) == 2 else None


def known_share(requests: Sequence[Sequence[BaseMessage]]) -> float:
    """Return the share of prompts that a perfect prefix cache holds, in characters.

    Args:
        requests: The messages of each call, in the order of the calls.

    Example:
        >>> from langchain_core.messages import AIMessage, HumanMessage
        >>> asked = [HumanMessage("Why is the sky so blue?")]
        >>> round(known_share([asked, [*asked, AIMessage("It is."), HumanMessage("Sure?")]]), 2)
        0.35
    """
    seen: list[str] = []
    known = total = 0
    for messages in requests:
        prompt = "".join(f"<{message.type}>{message.text}</>" for message in messages)
        known += max((_common(prompt, one) for one in seen), default=0)
        total += len(prompt)
        seen.append(prompt)
    return known / total if total else 0.0


def _common(a: str, b: str) -> int:
    differs = (n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    return next(differs, min(len(a), len(b)))
