"""What a response itself shows: its reasoning profile z_prof and token log-probabilities."""

import math
import re
from collections.abc import Mapping
from typing import Any

from mpdf_langgraph.state import LogprobSummary, Profile

WINDOW = 8
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
# Hyphens and slashes inside words, and bullets at the start of a line, are not operators.
_OPERATOR = re.compile(
    r"(?m:^[ \t]*[-*+][ \t])"
    r"|((?<=[\w)\]}\s])[+*^=<>×÷](?=[\s\w(\[{\\])"
    r"|(?:(?<=[\d)\]}\s])|(?<=\b[^\W\d_]))[-/](?=[\s\d(\[{\\]|[^\W\d_]\b)"
    r"|\\(?:times|cdot|div|frac|sqrt)\b)"
)
_HEDGE = re.compile(
    r"(?i)\b(?:guess\w*|assum\w*|perhaps|maybe|probably|possibly|presumably|unsure|uncertain|unclear"
    r"|unknown|not\s+(?:sure|certain|given|known))\b"
)
_NUMBER = r"(\d{1,3}(?:\.\d+)?|\.\d+)(?!\d|[.,]\d)"
# "I am confident that 42 ..." claims no number, so only few words may stand before the number.
_CLAIM = re.compile(
    r"(?i)\b(?:confident|confidence(?:[^\w\n]{1,6}(?:level|score|in|my|this|the|final|answer|is|of"
    rf"|at|about|around|approximately)\b){{0,5}})[^\w\n]{{0,8}}?{_NUMBER}"
    r"\s*(?:(\\?%)|(?:/|out\s+of)\s*(100?)\b)?"
    rf"|(?<![\d.,]){_NUMBER}\s*\\?%\s*(?:confident|sure|certain)\b"
)


def reasoning_profile(text: str, finish_reason: str | None = None) -> Profile:
    r"""Return the reasoning profile of a response (MPDF: z_prof).

    Example:
        >>> reasoning_profile("3 + 4 = 7.\nSo 7. Confidence: 80%")["claimed_confidence"]
        0.8
    """
    lines = sum(1 for line in text.splitlines() if line.strip())
    return Profile(
        steps=max(lines, len(_SENTENCE_END.findall(text))),
        operators=sum(bool(found[1]) for found in _OPERATOR.finditer(text)),
        length=len(text),
        hedges=len(_HEDGE.findall(text)),
        claimed_confidence=_claimed_confidence(text),
        truncated=finish_reason == "length",
    )


def _claimed_confidence(text: str) -> float | None:
    claims = list(_CLAIM.finditer(text))
    if not claims:
        return None
    last = claims[-1]
    value = float(last[1] or last[4])
    if last[3]:
        value /= int(last[3])
    elif last[2] or last[4] or value > 1:
        value /= 100
    return value if 0 <= value <= 1 else None


def logprob_summary(token_logprobs: list[float]) -> LogprobSummary | None:
    """Summarise the log-probabilities of a response's tokens. Return None if there are none."""
    count = len(token_logprobs)
    if not count:
        return None
    width = min(WINDOW, count)
    windows = [sum(token_logprobs[i : i + width]) / width for i in range(count - width + 1)]
    total = sum(token_logprobs)
    return LogprobSummary(mean=total / count, total=total, lowest_window=min(windows), tokens=count)


def token_logprobs(response_metadata: Mapping[str, Any]) -> list[float]:
    """Return the sampled tokens' log-probabilities of a chat completion, [] if they are unusable.

    Endpoints sometimes return null, NaN or strings here. One bad value makes all of them unusable.
    """
    logprobs = response_metadata.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        return []
    values: list[Any] = [
        entry.get("logprob") if type(entry) is dict or isinstance(entry, Mapping) else None
        for entry in content
    ]
    kinds = set(map(type, values))
    if not kinds or any(kind is bool or not issubclass(kind, float | int) for kind in kinds):
        return []
    # A little above 0 is rounding. NaN, infinities and huge values are wrong.
    if not (min(values) > -1e6 and max(values) < 0.01) or math.isnan(math.fsum(values)):
        return []
    return [0.0 if value > 0 else float(value) for value in values]
