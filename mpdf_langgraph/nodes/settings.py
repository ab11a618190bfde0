"""The options of a deliberation graph: checked once, then only read by the nodes."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from mpdf_langgraph.agents import Agent
from mpdf_langgraph.answers.schema import AnswerSchema, refuse_async
from mpdf_langgraph.calibration import Calibration, give_same_confidence
from mpdf_langgraph.consensus import confidence_weighted, majority
from mpdf_langgraph.critic import (
    BudgetedCritic,
    LogprobCritic,
    SelfCritic,
    SelfLogprobCritic,
)
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import AnyRule, LearnedConsensus, describe_rule
from mpdf_langgraph.observation import FEATURE_VERSION
from mpdf_langgraph.options import check_number
from mpdf_langgraph.recruiting import AdaptiveRecruiting
from mpdf_langgraph.router import Router, known_calibration, known_competence
from mpdf_langgraph.runtime.budget import Budget
from mpdf_langgraph.state import DeliberationState, Response

#: What OpenAI's API takes for the name of a message's author.
_MESSAGE_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class EpisodeSink(Protocol):
    """A store of finished deliberations."""

    def write_state(self, state: DeliberationState) -> None:
        """Store the episode that a finished state describes."""
        ...


@dataclass(frozen=True)
class Unsure:
    """Tells whether a group is too unsure of its answer, for `interrupt_when`.

    Attributes:
        support_below: The share of the valid votes for the answer is less than this.
        confidence_below: The confidence in the answer is less than this or unknown.
        unaccepted: The answer does not reach the bar of `risk`.

    Example:
        >>> Unsure(support_below=2 / 3)({"support": 0.5, "confidence": 0.9})
        True
    """

    support_below: float | None = None
    confidence_below: float | None = None
    unaccepted: bool = False

    def __post_init__(self) -> None:
        check_number("support_below", self.support_below, 0, 1, optional=True)
        check_number("confidence_below", self.confidence_below, 0, 1, optional=True)
        if self.support_below is None and self.confidence_below is None and not self.unaccepted:
            raise ConfigurationError("Unsure() needs support_below, confidence_below or unaccepted")

    def __call__(self, standing: Mapping[str, Any]) -> bool:
        """Tell whether a person should look at `standing` (see `create_deliberation`)."""
        support, confidence = standing["support"], standing["confidence"]
        if self.support_below is not None and support < self.support_below:
            return True
        if self.unaccepted and standing["accepted"] is False:
            return True
        bar = self.confidence_below
        return bar is not None and (confidence is None or confidence < bar)


@dataclass(frozen=True)
class Settings:
    """The options of `create_deliberation`, resolved."""

    name: str
    agents: Mapping[str, Agent]
    router: Router
    critic: BudgetedCritic | None
    answer: AnswerSchema
    consensus_name: str
    consensus: AnyRule
    max_rounds: int
    budget: Budget
    stop_when_settled: bool
    stop_when_decided: bool
    settle_confidence: float | None
    interrupt_when: Callable[[dict[str, Any]], bool] | None
    explore: float
    alternatives: int
    traces: EpisodeSink | None
    calibration: Calibration | None = None
    recruiting: AdaptiveRecruiting | None = None
    risk: float | None = None

    def __post_init__(self) -> None:
        if self.recruiting is not None:
            prices = {name: agent.price for name, agent in self.agents.items()}
            critic = None if self.critic is None else self.critic.name
            self.recruiting.check_team(prices, self.consensus_name, critic)
            used = self._calibration()
            if self.recruiting.calibration is not None and (used is None or not used.root):
                warnings.warn(
                    "recruit: its values were measured with calibrated confidences, and those of "
                    "this team are not calibrated. Fit its router with a calibration, or give none",
                    stacklevel=4,
                )
        self._warn_of_other_conditions()
        self._check_critic()
        if not isinstance(self.name, str) or not _MESSAGE_NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"name={self.name!r}: use 1 to 64 letters, digits, '_' and '-'. The final message "
                "bears the name, and endpoints refuse a conversation with any other"
            )
        if self.traces is not None and not hasattr(self.traces, "write_state"):
            raise ConfigurationError(
                f"traces={self.traces!r}: give a folder, a TraceWriter or None"
            )
        for name in ("stop_when_settled", "stop_when_decided"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(
                    f"{name} must be True or False, got {getattr(self, name)!r:.80}"
                )
        check_number("max_rounds", self.max_rounds, 0, whole=True)
        check_number("alternatives", self.alternatives, 0, whole=True)
        check_number("explore", self.explore, 0, 1 / 3)  # of each of three actions
        check_number("settle_confidence", self.settle_confidence, 0, 1, optional=True)
        known_competence(self.router)
        known_calibration(self.router)
        when = self.interrupt_when
        if not isinstance(self.calibration, Calibration | None):
            raise ConfigurationError(
                f"calibration={self.calibration!r:.80}: use that of a fitted router, "
                "load_router(folder).calibration, or None"
            )
        check_number("risk", self.risk, 0, 1, above=True, optional=True)
        if self.risk is not None:
            self._check_risk(self.risk)
        if isinstance(when, Unsure) and when.unaccepted and self.risk is None:
            raise ConfigurationError("Unsure(unaccepted=True) needs a risk")
        learned = isinstance(self.consensus, LearnedConsensus)
        if self.settle_confidence is not None and self.critic is None and not learned:
            raise ConfigurationError("settle_confidence needs a critic, and critic is None")
        if when is not None and (not callable(when) or isinstance(when, type)):
            raise ConfigurationError(
                f"interrupt_when={when!r}: use Unsure(support_below=..., confidence_below=...), "
                "a callable of how the deliberation stands, or None"
            )
        refuse_async(when, "interrupt_when")
        if self.stop_when_decided:
            self._check_decidable()
        self._check_effects()
        bar = when.confidence_below if isinstance(when, Unsure) else None
        if bar is not None and self.critic is None and not learned:
            raise ConfigurationError("confidence_below needs a critic, and critic is None")

    def _warn_of_other_conditions(self) -> None:
        """Warn where a fitted router says that it was fitted with another critic, rule or answer.

        What a router does not know is not compared.
        """
        name, router = f"router {self.router.name!r}", self.router
        critics: tuple[str, ...] = getattr(router, "critics", ())
        critic = "None" if self.critic is None else self.critic.name
        # Where a router reads scores, also those of equal confidence differ.
        alike = [
            critic == one
            or (not getattr(router, "reads_scores", True) and give_same_confidence(critic, one))
            for one in critics
        ]
        told = []
        if critics and not any(alike):
            told.append(
                f"{name} was fitted with the critic {', '.join(critics)}, and runs with {critic}: "
                "its features mean something else now. Give the graph the critic of the traces, "
                "or fit a router on traces of this one"
            )
        rule = getattr(router, "rule", None)
        if rule is not None and rule != self.consensus_name:
            told.append(
                f"{name} was fitted with consensus={rule!r}, and this team votes by "
                f"{self.consensus_name!r}. Leave consensus out, which takes the router's rule"
            )
        answer, known = self.answer.name.partition("(")[0], getattr(router, "answer", None)
        # Answers of any other schema may have been graded as any of these.
        if known != answer and {known, answer} <= {"math", "choice", "text", "code"}:
            told.append(
                f"{name} was fitted on answers that were compared as {known!r}, and this graph "
                f"compares them as {answer!r}. Fit a router on traces of such questions"
            )
        for message in told:
            warnings.warn(message, stacklevel=5)

    def _check_critic(self) -> None:
        """Warn of agents whose chat model the critic cannot ask, as something hides it."""
        if not isinstance(self.critic, SelfCritic | SelfLogprobCritic):
            return
        for name, agent in self.agents.items():
            hidden_by = agent.hidden_by
            if hidden_by is not None and not self.critic.max_calls(agent):
                warnings.warn(
                    f"agent {name!r}: the critic {self.critic.name!r} cannot ask a model inside "
                    f"{hidden_by}, so its confidence may be left unknown. Give the model itself, "
                    "as an agent tries again by itself (retries=2), or let another model judge: "
                    "critic=llm",
                    stacklevel=5,
                )

    def _check_decidable(self) -> None:
        """Check that stop_when_decided can work.

        Raises:
            ConfigurationError: It cannot.
        """
        obstacles = {
            'consensus="confidence" or "majority"': self.consensus
            not in (majority, confidence_weighted),
            "no interrupt_when, as a person sees all votes": self.interrupt_when is not None,
            "alternatives=0, as these are drawn in every round": self.alternatives > 0,
            "a vote on whole answers, by_field=False": getattr(self.answer, "by_field", False),
        }
        if needed := [what for what, lacks in obstacles.items() if lacks]:
            raise ConfigurationError(f"stop_when_decided needs {needed[0]}")

    def _check_effects(self) -> None:
        """Check that no option is given that another one leaves without any effect.

        Raises:
            ConfigurationError: One is.
        """
        # A person's hint adds a round.
        no_rounds = self.max_rounds == 0 and self.interrupt_when is None
        idle = {
            "settle_confidence says when agents that agree may stop: leave it out, or "
            "stop_when_settled=False": self.settle_confidence is not None
            and not self.stop_when_settled,
            "alternatives are drawn in rounds, and max_rounds is 0": self.alternatives
            and no_rounds,
            "explore is about decisions, and max_rounds=0 leaves none": self.explore and no_rounds,
            "calibration needs a critic, and critic is None": self.calibration is not None
            and self.critic is None,
            'stop_when_decided leaves out nothing with max_rounds=0 and recruit="all": leave it '
            "out, or ask one after the other": self.stop_when_decided
            and no_rounds
            and self.recruiting is None,
        }
        if told := [what for what, is_idle in idle.items() if is_idle]:
            raise ConfigurationError(told[0])

    def reads_scores(self, round_: int) -> bool:
        """Tell whether measurements of a round's critiques are read beside the confidences.

        A trace keeps them, and a router may decide by them in a later round. Where a budget counts
        calls or tokens, what they take decides what else is asked.
        """
        if self.traces is not None or self.budget.counts:
            return True
        decides = round_ < self.max_rounds or self.interrupt_when is not None
        return decides and getattr(self.router, "reads_scores", True)

    def _check_risk(self, risk: float) -> None:
        if not isinstance(self.consensus, LearnedConsensus):
            raise ConfigurationError(
                'risk needs consensus="learned", whose probabilities were checked on questions '
                "that it was not fitted on, and a router that brings it"
            )
        if risk >= 1:
            raise ConfigurationError(f"risk must be below 1, got {risk!r}")
        if self._bar is None:
            most = max((step.accepted for step in self.consensus.risk.root), default=0)
            warnings.warn(
                f"no bar keeps the share of wrong answers at {risk:g} with 99 % confidence on the "
                f"{most} questions that it can be checked on: no answer will be accepted. Fit on "
                "more questions, or allow a higher risk",
                stacklevel=5,
            )

    @cached_property
    def _bar(self) -> float | None:
        """The bar of `risk`, found once for all questions. None: no bar keeps it."""
        assert self.risk is not None
        assert isinstance(self.consensus, LearnedConsensus)
        return self.consensus.risk.bar(self.risk)

    def calibrate(self, response: Response) -> Response:
        """Return a response with its confidence calibrated, if there is a calibration."""
        chosen = self._calibration()
        return response if chosen is None else chosen.apply(response)

    def _calibration(self) -> Calibration | None:
        """Return the router's own calibration, else the given one, else that of `recruit`."""
        known = known_calibration(self.router)
        if known is None:
            known = self.calibration
        return self.recruiting.calibration if known is None and self.recruiting else known

    def first_asked(self) -> list[str]:
        """Return who is asked to propose at first, in the order of the team."""
        if self.recruiting is None:
            return list(self.agents)
        first = self.recruiting.order(list(self.agents))[: self.recruiting.wave]
        return [name for name in self.agents if name in first]

    @property
    def asks_critic(self) -> bool:
        """Whether the critic asks somebody, which is a step of its own."""
        return self.critic is not None and type(self.critic) is not LogprobCritic

    def describe_agents(self) -> list[dict[str, Any]]:
        """Return the agents' descriptions for the trace, prior competences included."""
        known = known_competence(self.router)
        described = [agent.describe() for agent in self.agents.values()]
        for agent in described:
            if agent["competence"] is None:
                agent["competence"] = known.get(agent["name"], 0.5)
        return described

    def describe(self) -> dict[str, Any]:
        """Return the options for the trace, as plain data."""
        return {
            "router": {"name": self.router.name, "version": self.router.version},
            "critic": self.critic.name if self.critic else None,
            "answer": self.answer.name,
            **describe_rule(self.consensus_name, self.consensus),
            "max_rounds": self.max_rounds,
            "max_calls": self.budget.max_calls,
            "max_tokens": self.budget.max_tokens,
            "timeout": self.budget.timeout,
            "stop_when_settled": self.stop_when_settled,
            "settle_confidence": self.settle_confidence,
            "explore": self.explore,
            "alternatives": self.alternatives,
            "feature_version": FEATURE_VERSION,
            # Left out if it says nothing, as the ids of imported records depend on the options.
            **({} if self.recruiting is None else {"recruit": self.recruiting.describe()}),
            **({} if self.budget.max_cost is None else {"max_cost": self.budget.max_cost}),
            **({"stop_when_decided": True} if self.stop_when_decided else {}),
            **({} if self.risk is None else {"risk": self.risk, "bar": self._bar}),
            **({"interrupt_when": _name_of(when)} if (when := self.interrupt_when) else {}),
            **(
                {"calibration": used.model_dump()}
                if (used := self._calibration()) is not None and used.root
                else {}
            ),
        }


def _name_of(condition: Callable[..., Any]) -> str:
    if isinstance(condition, Unsure):
        return repr(condition)
    return str(getattr(condition, "__name__", type(condition).__name__))
