"""Fits a calibration: what the critic said of responses, and whether they were right."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from mpdf_langgraph.calibration import EDGE, STAGES, Calibration, Curve, Curves
from mpdf_langgraph.traces.records import Episode
from training.learn.dataset import is_held_out
from training.learn.joint_calibration import apply_calibration, apply_curve
from training.learn.recorded import Recorded, record
from training.learn.rewards import Grader

Array = NDArray[np.float64]

LEAST = 20
"""Right and wrong responses each that a stage needs for a curve of its own."""


@dataclass(frozen=True)
class Judged:
    """Responses with a valid answer and a confidence, ``[R]``, alternatives included.

    Attributes:
        question: The question.
        source: Which measurement the confidence is.
        stage: One of `STAGES`.
        agent: Whose response it is.
        confidence: As the critic gave it.
        right: 1 where the answer is right, else 0.
    """

    question: NDArray[Any]
    source: NDArray[Any]
    stage: NDArray[Any]
    agent: NDArray[Any]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.right)

    def select(self, chosen: NDArray[np.bool_]) -> "Judged":
        """Return some of them."""
        return Judged(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def split(self, validation: float, seed: int) -> tuple["Judged", "Judged"]:
        """Return a training and a validation part, by question as `dataset.split` does."""
        known = cache(lambda question: is_held_out(question, validation, seed))
        held_out = np.array([known(question) for question in self.question], bool)
        return self.select(~held_out), self.select(held_out)

    def apply_calibration(self, calibration: Calibration) -> NDArray[np.float64]:
        """Return the calibrated confidences, ``[R]``."""
        source = np.unique(self.source, return_inverse=True)
        agent = np.unique(self.agent, return_inverse=True)
        stage = np.array([STAGES.index(one) for one in self.stage], int)
        return apply_calibration(calibration, self.confidence, source, agent, stage)

    def parts(self) -> dict[str, "Judged"]:
        """Return them by measurement and stage, named ``"logprob, proposed"``."""
        pairs = [(source, stage) for source in sorted(set(self.source)) for stage in STAGES]
        chosen = {p: (self.source == p[0]) & (self.stage == p[1]) for p in pairs}
        return {", ".join(p): self.select(c) for p, c in chosen.items() if c.any()}


def judge(
    episodes: Iterable[Episode], grader: Grader, references: Mapping[str, str] | None = None
) -> Judged:
    """Return the judged responses of episodes. An episode without a reference has none.

    `references` (by episode id) go before the episodes' own.
    """
    return judged_of(record(episodes, grader, references))


def judged_of(recorded: Recorded) -> Judged:
    """Return the judged responses of episodes.

    The confidences are taken as the critic gave them, also of calibrated episodes. From a person's
    hint on there are none: what it gave away is in no confidence.
    """
    chosen = np.flatnonzero(recorded.judged)
    question = np.array(recorded.questions, object)[recorded.of_response[chosen]]
    return Judged(
        question=question,
        source=np.array(recorded.sources, object)[recorded.source[chosen]],
        stage=np.array(STAGES, object)[recorded.stage[chosen]],
        agent=np.array(recorded.agents, object)[recorded.author[chosen]],
        confidence=recorded.raw[chosen],
        right=recorded.joint.correct[chosen].astype(float),
    )


def fit_calibration(judged: Judged) -> Calibration:
    """Fit a calibration: a curve for the proposals and one for the refined, of each measurement.

    A stage with fewer than `LEAST` right or wrong responses takes the curve of both stages.

    Agents whose answers are right more or less often than their confidences say get curves of
    their own: the curve of all, shifted. Each shift is shrunk: the more, the less certain it is,
    and the less the agents differ at all. Agents that are alike share one curve, or nearly.
    """
    fitted = {}
    for source in sorted(set(judged.source)):
        both = judged.select(judged.source == source)
        stages, shifts = {}, {}
        for stage in STAGES:
            part = both.select(both.stage == stage)
            enough = min(part.right.sum(), len(part) - part.right.sum()) >= LEAST
            used = part if enough else both
            stages[stage] = fit_curve(used.confidence, used.right)
            shifts[stage] = _shifts(used, stages[stage])
        fitted[source] = Curves(**stages)
        for agent in sorted({name for found in shifts.values() for name in found}):
            own = {
                stage: Curve(slope=curve.slope, shift=curve.shift + shifts[stage].get(agent, 0.0))
                for stage, curve in stages.items()
            }
            fitted[f"{source}@{agent}"] = Curves(**own)
    return Calibration(fitted)


def _shifts(part: Judged, curve: Curve) -> dict[str, float]:
    """Return by how much each agent's log-odds lie above the curve of all. Empty: by nothing.

    One step of Newton's method gives each agent's shift. Its variance counts the responses to one
    question as dependent. The variance between agents is DerSimonian and Laird's ("Meta-analysis in
    clinical trials", 1986), and 0 where the shifts differ no more than chance would have it.
    """
    names = sorted(set(part.agent))
    expected = apply_curve(curve, part.confidence)
    found, variances = [], []
    for name in names:
        own = part.agent == name
        shift = 0.0
        odds = logit(np.clip(expected[own], EDGE, 1 - EDGE))
        for _ in range(20):
            p = expit(odds + shift)
            information = float((p * (1 - p)).sum())
            # A little of the curve's own opinion, or an agent that is always right has no shift.
            shift += float((part.right[own] - p).sum() - 0.1 * shift) / (information + 0.1)
        p = expit(odds + shift)
        _, question = np.unique(part.question[own], return_inverse=True)
        spread = float((np.bincount(question, part.right[own] - p) ** 2).sum())
        information = float((p * (1 - p)).sum()) + 0.1
        found.append(shift)
        variances.append((spread + 0.1) / information**2)
    if len(names) < 2:
        return {}
    shifts, weight = np.array(found), 1 / np.array(variances)
    centre = float((weight * shifts).sum() / weight.sum())
    excess = float((weight * (shifts - centre) ** 2).sum()) - (len(names) - 1)
    between = excess / float(weight.sum() - (weight**2).sum() / weight.sum())
    if between <= 0:
        return {}
    share = between / (between + np.array(variances))
    return dict(zip(names, (centre + share * (shifts - centre)).tolist(), strict=True))


def fit_curve(confidence: Array, right: Array) -> Curve:
    """Fit Platt scaling to confidences ``[n]`` of answers that were right (1) or wrong (0).

    The targets are Platt's: a little short of 0 and 1, so that a few well separated answers do not
    give an endless slope (Platt, "Probabilistic outputs for support vector machines", 1999). The
    curve is the identity if there is nothing to learn from: no answer, all right, all wrong, or all
    equally confident. It is flat at the share of right answers if the less confident ones are more
    often right.
    """
    good = float(np.sum(right))
    bad = len(right) - good
    if not good or not bad or np.ptp(confidence) == 0:
        return Curve(slope=1.0, shift=0.0)
    x = logit(np.clip(confidence, EDGE, 1 - EDGE))
    target = np.where(right > 0.5, (good + 1) / (good + 2), 1 / (bad + 2))

    def loss(parameters: Array) -> tuple[float, Array]:
        """Return the mean log-loss and its gradient."""
        z = parameters[0] * x + parameters[1]
        gap = expit(z) - target
        gradient = np.array([np.mean(gap * x), np.mean(gap)])
        return float(np.mean(np.logaddexp(0, z) - target * z)), gradient

    # Not by Nelder-Mead, which stops in the flat valley before the minimum.
    slope, shift = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    if slope < 0:
        return Curve(slope=0.0, shift=float(logit((good + 1) / (len(right) + 2))))
    return Curve(slope=float(slope), shift=float(shift))
