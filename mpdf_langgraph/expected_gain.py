"""The expected-gain rule: an agent refines where that pays, by rates that were measured.

The answer that an agent holds is right with probability p. REFINE turns a wrong answer into a right
one with probability h, and a right one into a wrong one with probability d. So it gains, in
expectation, ``(1 - p) * h - p * d``, and it costs ``cost * tokens / 1000``. CONCEDE gains
``q - p``, where q is the probability that the answer it would adopt is right, and it costs nothing.
The agent takes the action that gains most, and persists where none gains anything.

``training/fit_rules.py`` measures the rates on graded traces: on REFINE samples drawn only to learn
from (`alternatives`), or on recorded debates. Each rate is a logistic curve of a few numbers, and
the file is JSON that a person can read. Every agent has a shift of its own, which is shrunk: the
less is known of the agent, the nearer it stays to the team.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from mpdf_langgraph.calibration import Calibration, log_odds, sigmoid
from mpdf_langgraph.fitted_file import Fitted, read_fitted
from mpdf_langgraph.observation import FEATURE_VERSION, feature, rival_of
from mpdf_langgraph.options import check_number
from mpdf_langgraph.state import ACTIONS, CHEAPEST_FIRST, Observation

#: How an agent's answer stands: it has none, every valid answer agrees with it, or it has more
#: votes, as many, or fewer than the best other answer.
Standing = Literal["no answer", "agreed", "ahead", "tied", "behind"]
STANDINGS: tuple[Standing, ...] = get_args(Standing)
#: What recorded debates of GPT-3.5 over MATH showed: P(wrong to right) and P(right to wrong).
DEFAULT_HEALED, DEFAULT_BROKEN = 0.15, 0.45
#: Tokens of a REFINE of which nothing is known.
DEFAULT_TOKENS = 1000.0
#: Gains closer to zero than this are rounding.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class View:
    """What the rates depend on.

    Attributes:
        standing: How the agent's answer stands.
        confidence: Log-odds of its confidence, 0 if it is unknown.
        rival: Log-odds of the confidence in the answer that CONCEDE would adopt, 0 if unknown.
        refined: 1 if its response came from REFINE, else 0.
    """

    standing: Standing
    confidence: float
    rival: float
    refined: float


def view_of(observation: Observation) -> View:
    """Return what the rates depend on, from an agent's observation."""
    own, rival = observation["own"], rival_of(observation)
    margin = feature(own, "margin")
    standing: Standing
    if not feature(own, "answer_valid"):
        standing = "no answer"
    elif rival is None:
        standing = "agreed"
    else:
        standing = "ahead" if margin > 0 else "behind" if margin < 0 else "tied"
    return View(
        standing,
        _known_odds(own),
        0.0 if rival is None else _known_odds(rival),
        feature(own, "refined"),
    )


def _known_odds(vector: list[float]) -> float:
    if not feature(vector, "confidence_known"):
        return 0.0
    return log_odds(feature(vector, "confidence"))


class Rate(Fitted):
    """A probability as a logistic curve of a `View`.

    Attributes:
        standing: Log-odds by standing.
        confidence: Weight of the agent's own confidence.
        rival: Weight of the confidence in the rival's answer.
        refined: What a response from REFINE adds.
        agents: What an agent adds, by name. An agent that is not there adds nothing.
    """

    standing: dict[Standing, float]
    confidence: float = 0.0
    rival: float = 0.0
    refined: float = 0.0
    agents: dict[str, float] = Field(default_factory=dict)

    @field_validator("standing")
    @classmethod
    def _complete(cls, value: dict[Standing, float]) -> dict[Standing, float]:
        if missing := [standing for standing in STANDINGS if standing not in value]:
            raise ValueError(f"it lacks the standing {missing[0]!r}")
        return value

    def __call__(self, view: View, agent: str) -> float:
        """Return the probability."""
        return sigmoid(
            self.standing[view.standing]
            + self.confidence * view.confidence
            + self.rival * view.rival
            + self.refined * view.refined
            + self.agents.get(agent, 0.0)
        )


def _flat(probability: float, confidence: float = 0.0, rival: float = 0.0) -> Rate:
    odds = log_odds(probability)
    return Rate(standing=dict.fromkeys(STANDINGS, odds), confidence=confidence, rival=rival)


class Gains(Fitted):
    """The measured rates: what ``expected_gain.json`` holds.

    Attributes:
        format: Version of this form.
        feature_version: `observation.FEATURE_VERSION` of the traces.
        right: p, the probability that the answer held is right.
        healed: h, the probability that REFINE makes a wrong answer right.
        broken: d, the probability that REFINE makes a right answer wrong.
        rival: q, the probability that the answer that CONCEDE would adopt is right.
        tokens: Mean tokens of a REFINE by agent, and of all agents under ``""``.
        cost: Price of 1,000 tokens, in accuracy.
        calibration: Calibration of the confidences that the rates were measured with.
        critic: Name of the critic that gave these confidences. None: there were several, or nobody
            wrote it down.
        measured: What they were measured on, for people who read the file.
    """

    format: Literal[1] = 1
    feature_version: int = FEATURE_VERSION
    right: Rate
    healed: Rate
    broken: Rate
    rival: Rate
    tokens: dict[str, Annotated[float, Field(ge=0)]]
    cost: Annotated[float, Field(ge=0)]
    calibration: Calibration = Calibration({})
    critic: str | None = None
    measured: dict[str, Any] = Field(default_factory=dict)

    @field_validator("feature_version")
    @classmethod
    def _current(cls, value: int) -> int:
        if value != FEATURE_VERSION:
            raise ValueError(
                f"it was measured on features of version {value}, and this is version "
                f"{FEATURE_VERSION}. Run training/fit_rules.py again"
            )
        return value


#: The rates of a team of which nothing is known: p is the confidence.
DEFAULT = Gains(
    right=_flat(0.5, confidence=1.0),
    healed=_flat(DEFAULT_HEALED),
    broken=_flat(DEFAULT_BROKEN),
    rival=_flat(0.5, rival=1.0),
    tokens={"": DEFAULT_TOKENS},
    cost=0.0,
)


@dataclass(frozen=True)
class ExpectedGainRouter:
    """The router that takes the action with the largest expected gain (`Router`).

    Attributes:
        gains: The rates. Default: p is the agent's confidence, h is .15 and d is .45, as recorded
            debates of GPT-3.5 over MATH had them. Measure those of your own team.
        cost: Price of 1,000 tokens, in accuracy. None: as `gains` has it.
        team: Names of the agents that it decides for, in order.

    Example:
        >>> ExpectedGainRouter().estimate([])
        []
    """

    gains: Gains = field(default=DEFAULT, repr=False)
    cost: float | None = None
    team: tuple[str, ...] = ()
    name: str = "expected-gain"
    reads_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("cost", self.cost, 0, optional=True)

    @property
    def version(self) -> str:
        """Content hash of the rates, and the price if it is another one."""
        content = self.gains.model_dump_json(exclude_none=True)  # as it was without a critic
        known = hashlib.sha256(content.encode()).hexdigest()[:12]
        return known if self.cost is None else f"{known}+cost={self.cost:g}"

    @property
    def calibration(self) -> Calibration | None:
        """The calibration that the rates were measured with."""
        return self.gains.calibration if self.gains.calibration.root else None

    @property
    def critics(self) -> tuple[str, ...]:
        """Name of the critic that its confidences came from. Empty: unknown."""
        return () if self.gains.critic is None else (self.gains.critic,)

    def for_team(self, names: Sequence[str]) -> "ExpectedGainRouter":
        """See `router.for_team`."""
        return replace(self, team=tuple(names))

    def estimate(self, observations: Sequence[Observation]) -> list[dict[str, float]]:
        """Return what each decision rests on.

        Args:
            observations: One per agent, in the order of the team, of one team or of several.

        Returns:
            For each `p`, `h`, `d` and `q` (see `Gains`), `refine` and `concede` (the expected
            gains of the two actions, REFINE's price taken off), and `price`.
        """
        price = self.gains.cost if self.cost is None else self.cost
        rows = []
        for place, observation in enumerate(observations):
            agent = self.team[place % len(self.team)] if self.team else ""
            view = view_of(observation)
            p = 0.0 if view.standing == "no answer" else self.gains.right(view, agent)
            h, d = self.gains.healed(view, agent), self.gains.broken(view, agent)
            q = self.gains.rival(view, agent)
            tokens = self.gains.tokens.get(agent, self.gains.tokens.get("", DEFAULT_TOKENS))
            charged = price * tokens / 1000
            rows.append(
                {"p": p, "h": h, "d": d, "q": q}
                | {"refine": (1 - p) * h - p * d - charged, "concede": q - p, "price": charged}
            )
        return rows

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        rows = []
        for estimated, mask in zip(self.estimate(observations), masks, strict=True):
            gains = (0.0, estimated["refine"], estimated["concede"])
            allowed = [g if ok else -math.inf for g, ok in zip(gains, mask, strict=True)]
            best = max(CHEAPEST_FIRST, key=lambda i: (allowed[i] > TOLERANCE) * allowed[i])
            rows.append([float(i == best) for i in range(len(ACTIONS))])
        return rows


def load_expected_gain(
    path: str | os.PathLike[str], *, cost: float | None = None
) -> ExpectedGainRouter:
    """Load the rule that ``training/fit_rules.py`` has written.

    Args:
        path: ``expected_gain.json``, or the folder that holds it.
        cost: Price of 1,000 tokens, in accuracy. None: as fitted.

    Raises:
        RouterError: There is no such file, it is of another form or of another feature version.
    """
    gains = read_fitted(path, "expected_gain.json", Gains, "table of rates")
    return ExpectedGainRouter(gains, cost)
