"""Calibration: from what a critic says to the probability that the answer is right.

A length-normalised sequence probability is .99 for a sure answer and .95 for a guess. It ranks
answers well, but it is not the probability that they are right. A calibration maps it to that
probability by a curve of two numbers. ``training/fit_router.py`` fits it on graded traces. Each
measurement has a curve for proposals and another for refined responses. A refined response was
scored in a context that holds the peers' responses, which makes wrong answers look likely too.
"""

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel

from mpdf_langgraph.fitted_file import Fitted
from mpdf_langgraph.state import Critique, Response

#: Confidences are kept this far from 0 and 1, where the log-odds are infinite.
EDGE = 1e-4
#: Kinds of responses. Each has its own curve.
STAGES: tuple[Literal["proposed", "refined"], ...] = ("proposed", "refined")


def log_odds(probability: float) -> float:
    """Return the log-odds of a probability, kept away from 0 and 1."""
    clipped = min(max(probability, EDGE), 1 - EDGE)
    return math.log(clipped / (1 - clipped))


def sigmoid(odds: float) -> float:
    """Return the probability of some log-odds. None are too large for it."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else 1 - 1 / (1 + math.exp(odds))


class Curve(Fitted):
    """Platt scaling of a confidence: ``sigmoid(slope * logit(confidence) + shift)``.

    Attributes:
        slope: Below 1, the raw confidence is overconfident. It is at least 0, so the order of
            confidences stays.
        shift: Moves the whole curve.

    Example:
        >>> Curve(slope=1.0, shift=0.0)(0.25)
        0.25
    """

    slope: Annotated[float, Field(ge=0)]
    shift: float

    def __call__(self, confidence: float) -> float:
        """Return the calibrated confidence."""
        return sigmoid(self.slope * log_odds(confidence) + self.shift)


class Curves(Fitted):
    """The curves of one measurement."""

    proposed: Curve
    refined: Curve


class Calibration(RootModel[dict[str, Curves]]):
    """Curves by measurement (`Critique` ``source``: ``"logprob"``, ``"self"``, ...).

    An agent may have curves of its own, under ``"logprob@ann"`` for the agent ann. An agent without
    such curves takes those of the measurement.

    A confidence from another source stays as the critic gave it. A learned router brings the
    calibration that its policy was fitted with. With any other router, pass one:
    ``create_deliberation(..., calibration=load_router("routers/mine").calibration)``.

    Example:
        >>> import json
        >>> curve = {"slope": 2.0, "shift": -1.0}
        >>> text = json.dumps({"logprob": {"proposed": curve, "refined": curve}})
        >>> round(Calibration.model_validate_json(text).root["logprob"].proposed(0.5), 3)
        0.269
    """

    model_config = ConfigDict(frozen=True, strict=True)

    def curves_of(self, source: str, agent: str) -> Curves | None:
        """Return the curves of a measurement for an agent, None where there are none."""
        return self.root.get(f"{source}@{agent}", self.root.get(source))

    def apply(self, response: Response) -> Response:
        """Return the response with its confidence calibrated and the critic's own one as `raw`.

        A confidence that was calibrated before is calibrated anew from `raw`.
        """
        critique = response["critique"]
        if critique is None or critique["confidence"] is None:
            return response
        curves = self.curves_of(critique["source"], response["agent"])
        if curves is None and "raw" not in critique:
            return response
        raw = raw_confidence(critique)
        assert raw is not None
        if curves is None:
            changed = Critique({**critique, "confidence": raw})
            del changed["raw"]
        else:
            confidence = getattr(curves, stage_of(response))(raw)
            changed = Critique({**critique, "confidence": confidence, "raw": raw})
        return Response({**response, "critique": changed})


def stage_of(response: Response) -> Literal["proposed", "refined"]:
    """Return the kind of a response, one of `STAGES`."""
    return "refined" if response["round"] > 0 else "proposed"


def raw_confidence(critique: Critique) -> float | None:
    """Return the confidence as the critic gave it."""
    return critique.get("raw", critique["confidence"])


def give_same_confidence(first: str | None, second: str | None) -> bool:
    """Tell whether two critics, given by name, take the confidence from the same measurement."""
    return first == second or {first, second} <= {"logprob", "self+logprob"}
