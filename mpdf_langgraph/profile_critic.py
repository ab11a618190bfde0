"""A critic that reads how a response looks, without a call.

Long, branching or hedging responses are more often wrong, and so are answers of an odd form,
responses whose own equations do not hold, and those that leave out numbers of the question. A
logistic curve of all this tells how probably a response is right, and every agent has a shift of
its own. Where the endpoint gives token log-probabilities, the curve is of these as well.
``training/fit_rules.py`` fits it on graded traces, so it is calibrated for the agents and the kind
of questions there. It serves recorded answers and endpoints without log-probabilities too.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from mpdf_langgraph.arithmetic import check_equations, numbers_of
from mpdf_langgraph.calibration import sigmoid
from mpdf_langgraph.fitted_file import Fitted, read_fitted
from mpdf_langgraph.state import Response

#: What the curve is of, by name. Counts are ``log(1 + count)``, log-probabilities ``log(1 - x)``.
PROFILE_FEATURES = (
    "steps", "operators", "length", "hedges", "answer length", "question length", "equations",
    "false equations", "numbers left out", "answer has blanks", "truncated", "answer is whole",
    "answer repeated", "mean logprob", "total logprob", "lowest logprob window",
)  # fmt: skip


def profile_features(question: str, response: Response) -> dict[str, float]:
    """Return what the curve is of, for a response with an answer.

    Log-probabilities that are not known count as 0.
    """
    profile, answer = response["profile"], response["answer"] or ""
    equations = check_equations(response["text"])
    numbers, answered = numbers_of(response["text"]), numbers_of(answer)
    counts = {
        "steps": profile["steps"],
        "operators": profile["operators"],
        "length": profile["length"],
        "hedges": profile["hedges"],
        "answer length": len(answer),
        "question length": len(question),
        "equations": equations.checked,
        "false equations": equations.false,
        "numbers left out": len({*numbers_of(question)} - {*numbers}),
    }
    marks = {
        "answer has blanks": " " in answer.strip(),
        "truncated": profile["truncated"],
        "answer is whole": len(answered) == 1 and answered[0].is_integer(),
        # Once where it is computed, and once where it is stated.
        "answer repeated": len(answered) == 1 and numbers[-2:] == 2 * answered,
    }
    given = response["logprobs"]
    logprobs = {
        "mean logprob": given["mean"] if given else 0.0,
        "total logprob": given["total"] if given else 0.0,
        "lowest logprob window": given["lowest_window"] if given else 0.0,
    }
    return {
        **{name: math.log1p(count) for name, count in counts.items()},
        **{name: float(mark) for name, mark in marks.items()},
        **{name: math.log1p(max(0.0, -value)) for name, value in logprobs.items()},
    }


class ProfileCurve(Fitted):
    """The fitted curve: what ``profile_critic.json`` holds.

    Attributes:
        format: Version of this form.
        intercept: Log-odds of a response whose features are all 0.
        weights: Of `PROFILE_FEATURES`, by name.
        refined: What a refined response adds.
        agents: What an agent adds, by name. An agent that is not there adds nothing.
        auroc: How well it tells right responses from wrong ones, on held-out questions.
        responses: What it was fitted on.
    """

    format: Literal[1] = 1
    intercept: float
    weights: dict[str, float]
    refined: float = 0.0
    agents: dict[str, float] = Field(default_factory=dict)
    auroc: Annotated[float, Field(ge=0, le=1)] | None = None
    responses: int = 0

    @field_validator("weights")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := [name for name in value if name not in PROFILE_FEATURES]:
            raise ValueError(f"no feature is named {unknown[0]!r}")
        return value


@dataclass(frozen=True)
class ProfileCritic:
    """Gives P(correct) from the reasoning profile (`Critic`). `load_profile_critic` makes one.

    Attributes:
        curve: The fitted curve.
    """

    curve: ProfileCurve = field(repr=False)
    __name__: ClassVar[str] = "profile"

    def __call__(self, question: str, response: Response) -> float | None:
        """Return P(correct), None if the response has no answer."""
        if response["answer"] is None:
            return None
        curve = self.curve
        odds = curve.intercept + curve.agents.get(response["agent"], 0.0)
        odds += curve.refined * (response["round"] > 0)
        for name, value in profile_features(question, response).items():
            odds += curve.weights.get(name, 0.0) * value
        return sigmoid(odds)


def load_profile_critic(path: str | os.PathLike[str]) -> ProfileCritic:
    """Load the critic that ``training/fit_rules.py`` has written.

    Args:
        path: ``profile_critic.json``, or the folder that holds it.

    Raises:
        RouterError: There is no such file, or it is of another form.
    """
    return ProfileCritic(read_fitted(path, "profile_critic.json", ProfileCurve, "curve"))
