"""Whom to ask: everybody at once, or one after the other, as long as another answer is worth it.

With ``recruit="adaptive"`` the agents propose in an order. After each wave the router weighs what
asking on would gain against its price, and stops asking where it gains less:

    V(s) = max( P(the leading answer is right | s),  E V(s', another agent asked) - its price )

The state s is how the answers stand: how many agents were asked, how many gave the leading answer,
how many the runner-up, and how sure the leading answer is. ``training/fit_rules.py`` computes the
value backwards on graded traces in which everybody was asked. Where the consensus gives P(right),
the state is that number: asking ends once it is enough. Without such values, the gain is
bounded by the probability that the leading answer is overturned, which is the stopping rule of
adaptive consistency (Aggarwal et al., "Let's Sample Step by Step", 2023) in units of accuracy.
"""

import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from mpdf_langgraph.calibration import Calibration, give_same_confidence, log_odds
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.fitted_file import Fitted, read_fitted
from mpdf_langgraph.options import check_number
from mpdf_langgraph.rounds import Held, confidence_of
from mpdf_langgraph.state import Consensus

#: Price of 1,000 tokens, in accuracy, where nothing else is said.
DEFAULT_COST = 0.1


class Stand(NamedTuple):
    """How the answers of a part of a team stand.

    Attributes:
        leader: Votes for the answer that has the most.
        runner_up: Votes for the best other answer.
    """

    leader: int
    runner_up: int


def stand_of(held: Held) -> Stand:
    """Return how the answers of those who were asked stand."""
    clusters = [r["cluster"] for r in held.values() if r is not None and r["cluster"] is not None]
    votes = sorted(Counter(clusters).values(), reverse=True)
    first, second, *_ = [*votes, 0, 0]
    return Stand(first, second)


def leading_confidence(held: Held, tally: Consensus) -> float | None:
    """Return the confidence in the leading answer.

    It is P(right) where the consensus rule gives it, else that of the surest response.
    """
    if (known := tally.get("probability")) is not None:
        return known
    surest = next((r for r in held.values() if r and r["id"] == tally["response"]), None)
    return None if surest is None else confidence_of(surest)


def overturn_probability(stand: Stand) -> float:
    """Return P(the leader is not the more frequent of the two), as adaptive consistency has it.

    With a uniform prior on the leader's share p of the votes for these two answers, the posterior
    of p is Beta(leader + 1, runner_up + 1). This is P(p <= 1/2), which for whole numbers is a sum
    of binomial terms.

    Example:
        >>> overturn_probability(Stand(2, 0))
        0.125
    """
    a, b = stand.leader + 1, stand.runner_up + 1
    n = a + b - 1
    return sum(math.comb(n, k) for k in range(a, n + 1)) / (1 << n)


class Stage(Fitted):
    """What asking on is worth once a number of agents were asked.

    Attributes:
        gains: By stand, as ``"2-1"``: expected gain in accuracy of asking on, the further price
            taken off.
        decisions: By stand: how many questions this was measured on.
        right: By stand: share of questions whose leading answer was right.
        centre: By stand: mean log-odds of the confidence in the leading answer, of those known.
        slope: What the gain changes where these log-odds are 1 higher.
    """

    gains: dict[str, float]
    decisions: dict[str, int]
    right: dict[str, Annotated[float, Field(ge=0, le=1)]]
    centre: dict[str, float] = Field(default_factory=dict)
    slope: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> "Stage":
        for name in ("decisions", "right"):
            if missing := self.gains.keys() - getattr(self, name):
                raise ValueError(f"{name} lacks the stand {min(missing)!r}")
        return self

    def gain(self, stand: str, confidence: float | None) -> float | None:
        """Return the gain of asking on, None if no question stood so."""
        if stand not in self.gains:
            return None
        if confidence is None or stand not in self.centre:
            return self.gains[stand]
        return self.gains[stand] + self.slope * (log_odds(confidence) - self.centre[stand])


class AskingValues(Fitted):
    """The measured values: what ``recruiting.json`` holds.

    Attributes:
        format: Version of this form.
        order: Names of the agents in the order in which they are asked.
        prices: Price of each agent's tokens that the values were computed with.
        tokens: Mean tokens of each agent's proposal.
        cost: Price of 1,000 tokens, in accuracy.
        wave: Agents asked at a time.
        consensus: The consensus rule that the values were computed with.
        critic: Name of the critic whose confidences they were computed with. None: it is not known.
        calibration: Calibration of these confidences.
        enough: P(the leading answer is right) from which nobody else is asked, by number of agents
            asked, as text. Empty: the consensus gives no such probability, or only the best agent
            is worth asking.
        stages: By number of agents asked, from `wave`, as text. Empty where `enough` decides.
            Nobody is asked after a number that is missing, unless nobody has answered.
        measured: What they were measured on, for people who read the file.
    """

    format: Literal[1] = 1
    order: list[str] = Field(min_length=1)
    prices: dict[str, float]
    tokens: dict[str, float]
    cost: Annotated[float, Field(ge=0)]
    wave: Annotated[int, Field(ge=1)]
    consensus: str
    critic: str | None = None
    calibration: Calibration = Calibration({})
    enough: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    stages: dict[str, Stage]
    measured: dict[str, Any] = Field(default_factory=dict)

    @field_validator("order")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("it names an agent twice")
        return value


class Worth(NamedTuple):
    """What asking on is worth.

    Attributes:
        gain: Expected gain in accuracy, or a bound of it. With measured stages the price is off.
        price: What the gain has to exceed. 0 with measured stages.
        why: A line for people.
    """

    gain: float
    price: float
    why: str

    @property
    def pays(self) -> bool:
        """Whether the gain is more than the price."""
        return self.gain > self.price


@dataclass(frozen=True)
class AdaptiveRecruiting:
    """Asks agents in waves, as long as another answer is worth its price.

    Attributes:
        wave: Agents asked at a time. More than one saves time and costs answers.
        cost: Price of 1,000 tokens of an agent whose `price` is 1, in accuracy.
        values: Measured values (`load_recruiting`). None: the agents are asked in the order of the
            team, and the gain is bounded by the probability that the leader is overturned.
    """

    wave: int = 1
    cost: float = DEFAULT_COST
    values: AskingValues | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_number("wave", self.wave, 1, whole=True)
        check_number("cost", self.cost, 0)
        if self.values is not None and self.values.wave != self.wave:
            raise ConfigurationError(
                f"recruit: wave={self.wave}, and its values were measured with wave="
                f"{self.values.wave}. Use load_recruiting, or measure with another --wave"
            )

    @property
    def calibration(self) -> Calibration | None:
        """The calibration that the values were measured with."""
        known = self.values and self.values.calibration
        return known if known and known.root else None

    def check_team(self, prices: Mapping[str, float], consensus: str, critic: str | None) -> None:
        """Check that the values were measured on this team, these prices by agent and this rule.

        Raises:
            ConfigurationError: The team or a price is another one.

        Warns:
            UserWarning: The consensus rule or the critic is another one.
        """
        if self.values is None:
            return
        if set(self.values.order) != set(prices):
            raise ConfigurationError(
                f"recruit: its values were measured on {', '.join(self.values.order)}, and the "
                f"agents are {', '.join(prices)}. Name them alike, or measure this team"
            )
        for name, price in prices.items():
            if not math.isclose(price, self.values.prices.get(name, 1.0), rel_tol=1e-6):
                raise ConfigurationError(
                    f"recruit: agent {name!r} has price={price:g}, and its values were computed "
                    f"with {self.values.prices.get(name, 1.0):g}. Run training/fit_rules.py with "
                    "the prices of the team"
                )
        if consensus != self.values.consensus:
            warnings.warn(
                f"recruit: its values were measured with consensus={self.values.consensus!r}, and "
                f"this team votes by {consensus!r}",
                stacklevel=5,
            )
        known = self.values.critic
        if known is not None and not give_same_confidence(known, critic):
            has = "has none" if critic is None else f"has {critic!r}"
            warnings.warn(
                f"recruit: its values were measured with the confidences of the critic {known!r}, "
                f"and this team {has}. Use that critic, or measure again with this one",
                stacklevel=5,
            )

    def describe(self) -> dict[str, Any]:
        """Return the options for the trace, as plain data."""
        return {"wave": self.wave, "cost": self.cost, "measured": self.values is not None}

    def order(self, team: Sequence[str]) -> list[str]:
        """Return the names in the order in which they are asked."""
        return list(team) if self.values is None else list(self.values.order)

    def weigh(
        self,
        asked: int,
        stand: Stand,
        *,
        probability: float | None,
        confidence: float | None,
        price: float,
        tokens: float,
    ) -> Worth:
        """Return what asking the next wave is worth.

        Args:
            asked: Number of agents asked so far.
            stand: How their answers stand.
            probability: P(the leading answer is right), where the consensus rule gives it.
            confidence: That in the leading answer, see `leading_confidence`.
            price: Summed price of the next wave's tokens.
            tokens: Mean tokens of a proposal so far.
        """
        if stand.leader == 0:
            return Worth(1.0, 0.0, "nobody has given an answer")
        if self.values is not None:
            known = _measured_worth(self.values, str(asked), stand, probability, confidence)
            if known is not None:
                return known
        doubt = overturn_probability(stand) if probability is None else 1 - probability
        charged = self.cost * price * tokens / 1000
        return Worth(doubt, charged, f"the chance that it is wrong is taken for {doubt:.3f}")


def _measured_worth(
    values: AskingValues,
    asked: str,
    stand: Stand,
    probability: float | None,
    confidence: float | None,
) -> Worth | None:
    """Return what the next wave is worth, as `training.learn.asking.play_asking` has measured it.

    See `AdaptiveRecruiting.weigh`. None: it was not measured. Then the consensus rule of the values
    gives P(right), and this one gives none, or a budget has cut a wave short.
    """
    if (enough := values.enough.get(asked)) is not None:
        if probability is None:
            return None
        why = f"it is right with probability {probability:.3f}, and {enough:.3f} is enough"
        return Worth(1 - probability, 1 - enough, why)
    if int(asked) % values.wave:
        return None
    if (stage := values.stages.get(asked)) is None:
        return Worth(0.0, 0.0, f"to ask more than {asked} did not pay")
    key = f"{stand.leader}-{stand.runner_up}"
    if (gain := stage.gain(key, confidence)) is None:
        return Worth(1.0, 0.0, "no measured question stood so")
    share, count = stage.right[key], stage.decisions[key]
    return Worth(gain, 0.0, f"it was right in {share:.1%} of {count} such questions")


RecruitName = Literal["all", "adaptive"]
#: What `create_deliberation` takes for a way of recruiting.
RecruitLike = RecruitName | AdaptiveRecruiting


def make_recruiting(spec: Any) -> AdaptiveRecruiting | None:
    """Return the way of recruiting that `spec` stands for. None: everybody is asked at once.

    Raises:
        ConfigurationError: It is none of them.
    """
    if spec == "all":
        return None
    if spec == "adaptive":
        return AdaptiveRecruiting()
    if isinstance(spec, AdaptiveRecruiting):
        return spec
    raise ConfigurationError(
        f"recruit={spec!r}: use 'all', 'adaptive', AdaptiveRecruiting(wave=..., cost=...), or "
        "load_recruiting(folder)"
    )


def load_recruiting(path: str | os.PathLike[str]) -> AdaptiveRecruiting:
    """Load the values that ``training/fit_rules.py`` has written.

    Args:
        path: ``recruiting.json``, or the folder that holds it.

    Raises:
        RouterError: There is no such file, or it is of another form.
    """
    values = read_fitted(path, "recruiting.json", AskingValues, "values of asking")
    return AdaptiveRecruiting(values.wave, values.cost, values)
