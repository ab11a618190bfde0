"""Risk control: from which probability on a group's answer may be accepted.

The promise: of the answers that are accepted, at most a share `risk` is wrong. It is kept by
fixed-sequence testing (Angelopoulos et al., "Learn then Test", 2021), on questions that nothing
else was fitted on. One bar after another is tested, each lower than the one before. A bar passes if
Clopper and Pearson's upper bound of the share of errors among its accepted answers is at most
`risk`. The last bar before the first that fails is the one to use.

The bound holds with 99 %. With 95 %, the errors on some hundreds of fresh questions, which scatter
themselves, would exceed `risk` more often than one time in twenty.

The sequence starts at the bar that should pass most easily by what the probabilities themselves
say. The verdicts play no part in that, so the promise stands where the probabilities are wrong.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import ConfigDict, Field, RootModel, model_validator

from mpdf_langgraph.fitted_file import Fitted

#: Probability that the share of errors lies above its upper bound.
MISTRUST = 0.01


class Step(Fitted):
    """What was found at one bar.

    Attributes:
        bar: Answers at least this probable are accepted.
        accepted: So many were.
        wrong: So many of these were wrong.
        doubt: So many should be wrong by their probabilities: the sum of 1 - P.
    """

    bar: Annotated[float, Field(ge=0, le=1)]
    accepted: Annotated[int, Field(ge=0, le=10**9)]
    wrong: Annotated[int, Field(ge=0)]
    doubt: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _check(self) -> "Step":
        if self.wrong > self.accepted:
            raise ValueError("more answers were wrong than accepted")
        return self


class RiskCurve(RootModel[tuple[Step, ...]]):
    """Accepted and wrong answers by bar, the highest bar first.

    Example:
        >>> high = Step(bar=0.9, accepted=200, wrong=2, doubt=3.0)
        >>> low = Step(bar=0.5, accepted=300, wrong=30, doubt=28.0)
        >>> RiskCurve((high, low)).bar(0.05)
        0.9
    """

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="after")
    def _check(self) -> "RiskCurve":
        pairs = list(zip(self.root, self.root[1:], strict=False))
        if any(a.bar <= b.bar for a, b in pairs):
            raise ValueError("the bars must fall")
        if any(a.accepted > b.accepted or a.wrong > b.wrong for a, b in pairs):
            raise ValueError("a lower bar accepts what a higher one does")
        return self

    def bar(self, risk: float) -> float | None:
        """Return the lowest bar that keeps the promise. None: no bar does, so accept nothing."""
        steps = [step for step in self.root if step.accepted]
        ease = [(risk * s.accepted - s.doubt) / math.sqrt(s.accepted) for s in steps]
        found = None
        for step in steps[ease.index(max(ease)) :] if steps else ():
            if not keeps_promise(step.accepted, step.wrong, risk):
                break
            found = step.bar
        return found


def keeps_promise(accepted: int, wrong: int, risk: float) -> bool:
    """Tell whether Clopper and Pearson's upper bound of the share of errors is at most `risk`.

    It is where ``P(Bin(accepted, risk) <= wrong)`` is at most `MISTRUST`.
    """
    if wrong >= risk * accepted:  # a binomial's median is its mean, rounded up or down
        return False
    log_p, log_q = math.log(risk), math.log1p(-risk)
    whole = math.lgamma(accepted + 1)
    chance = math.fsum(
        math.exp(
            whole
            - math.lgamma(k + 1)
            - math.lgamma(accepted - k + 1)
            + k * log_p
            + (accepted - k) * log_q
        )
        for k in range(wrong + 1)
    )
    return chance <= MISTRUST


def count_errors(
    bars: Sequence[float], probability: Sequence[float], right: Sequence[bool]
) -> RiskCurve:
    """Return the curve of answers that nothing was fitted on, at bars chosen without them."""
    steps = []
    for bar in sorted(set(bars), reverse=True):
        above = [(p, ok) for p, ok in zip(probability, right, strict=True) if p >= bar]
        wrong = sum(not ok for _, ok in above)
        doubt = max(0.0, math.fsum(1 - p for p, _ in above))
        steps.append(Step(bar=bar, accepted=len(above), wrong=wrong, doubt=doubt))
    return RiskCurve(tuple(steps))
