"""Calibration: from what a critic says to the probability that the answer is right.

A length-normalised sequence probability is .99 for a sure answer and .95 for a guess: it ranks
answers well, and is no probability of being right. A calibration, fitted on graded traces
(``training/fit_router.py``), maps it to one by a curve of two numbers. Each measurement has its
own, and of each the proposals and the refined responses: these were scored in contexts that hold
the peers' responses, which makes wrong answers look likely too.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from mpdf_langgraph.state import Critique, Response

#: Confidences are kept this far from 0 and 1, where the log-odds have no end.
EDGE = 1e-4
#: Kinds of responses; each has a curve of its own.
STAGES: tuple[Literal["proposed", "refined"], ...] = ("proposed", "refined")


class Curve(BaseModel):
    """Platt scaling of a confidence: ``sigmoid(slope * logit(confidence) + shift)``.

    Attributes:
        slope: Below 1 the raw confidence is overconfident; not below 0: who was surer stays so.
        shift: Moves the whole curve.

    Example:
        >>> Curve(slope=1.0, shift=0.0)(0.25)
        0.25
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True, extra="forbid")

    slope: Annotated[float, Field(ge=0)]
    shift: float

    def __call__(self, confidence: float) -> float:
        """Return the calibrated confidence."""
        clipped = min(max(confidence, EDGE), 1 - EDGE)
        odds = self.slope * math.log(clipped / (1 - clipped)) + self.shift
        # Of the two forms the one that cannot overflow.
        return 1 / (1 + math.exp(-odds)) if odds >= 0 else 1 - 1 / (1 + math.exp(odds))


class Curves(BaseModel):
    """The curves of one measurement."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    proposed: Curve
    refined: Curve


class Calibration(RootModel[dict[str, Curves]]):
    """Curves by measurement (`Critique` ``source``: ``"logprob"``, ``"self"``, ...).

    A confidence from another source stays as the critic gave it: with no curve at all, all do.
    A learned router brings the calibration that its policy was fitted with; others are given one
    by ``create_deliberation(..., calibration=load_router("routers/mine").calibration)``.

    Example:
        >>> import json
        >>> curve = {"slope": 2.0, "shift": -1.0}
        >>> text = json.dumps({"logprob": {"proposed": curve, "refined": curve}})
        >>> round(Calibration.model_validate_json(text).root["logprob"].proposed(0.5), 3)
        0.269
    """

    model_config = ConfigDict(frozen=True, strict=True)

    def apply(self, response: Response) -> Response:
        """Return the response with its confidence calibrated, and what the critic said as `raw`.

        A confidence that was calibrated before is calibrated anew, from what the critic said.
        """
        critique = response["critique"]
        if critique is None or critique["confidence"] is None:
            return response
        curves = self.root.get(critique["source"])
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
    """Return which of `STAGES` a response is of."""
    return "refined" if response["round"] > 0 else "proposed"


def raw_confidence(critique: Critique) -> float | None:
    """Return the confidence as the critic gave it."""
    return critique.get("raw", critique["confidence"])
