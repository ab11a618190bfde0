"""What a deliberation graph was built with: checked once, then only read by the nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mpdf_langgraph.agents import Agent
from mpdf_langgraph.answers import AnswerSchema
from mpdf_langgraph.budget import Budget
from mpdf_langgraph.consensus import ConsensusRule
from mpdf_langgraph.critic import Critic
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.observation import FEATURE_VERSION
from mpdf_langgraph.router import Router, known_competence
from mpdf_langgraph.state import DeliberationState


class EpisodeSink(Protocol):
    """Where finished deliberations go."""

    def write_state(self, state: DeliberationState) -> None:
        """Store the episode that a finished state describes."""
        ...


@dataclass(frozen=True)
class Settings:
    """The options of `create_deliberation`, resolved."""

    name: str
    agents: Mapping[str, Agent]
    router: Router
    critic: Critic | None
    answer: AnswerSchema
    consensus_name: str
    consensus: ConsensusRule
    max_rounds: int
    budget: Budget
    stop_when_settled: bool
    settle_confidence: float | None
    explore: float
    alternatives: int
    traces: EpisodeSink | None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigurationError(f"name must be a non-empty string, got {self.name!r}")
        if self.traces is not None and not hasattr(self.traces, "write_state"):
            raise ConfigurationError(
                f"traces={self.traces!r}: give a folder, a TraceWriter or None"
            )
        for name in ("max_rounds", "alternatives"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigurationError(f"{name} must be a whole number of 0 or more: {value!r}")
        known_competence(self.router)
        if not isinstance(self.explore, int | float) or not 0.0 <= self.explore <= 1 / 3:
            raise ConfigurationError(
                "explore is the least probability of each of three actions: use 0 to 1/3, "
                f"got {self.explore!r}"
            )
        if self.settle_confidence is not None:
            if not 0.0 <= self.settle_confidence <= 1.0:
                raise ConfigurationError(
                    f"settle_confidence must be in [0, 1], got {self.settle_confidence}"
                )
            if self.critic is None:
                raise ConfigurationError("settle_confidence needs a critic, and critic is None")

    def describe_agents(self) -> list[dict[str, Any]]:
        """Return what a trace says of the agents, each with the prior competence that is used."""
        known = known_competence(self.router)
        described = [agent.describe() for agent in self.agents.values()]
        for agent in described:
            if agent["competence"] is None:
                agent["competence"] = known.get(agent["name"], 0.5)
        return described

    def describe(self) -> dict[str, Any]:
        """Return what a trace says of the options: plain data."""
        return {
            "router": {"name": self.router.name, "version": self.router.version},
            "critic": self.critic.name if self.critic else None,
            "answer": self.answer.name,
            "consensus": self.consensus_name,
            "max_rounds": self.max_rounds,
            "max_calls": self.budget.max_calls,
            "max_tokens": self.budget.max_tokens,
            "timeout": self.budget.timeout,
            "stop_when_settled": self.stop_when_settled,
            "settle_confidence": self.settle_confidence,
            "explore": self.explore,
            "alternatives": self.alternatives,
            "feature_version": FEATURE_VERSION,
        }
