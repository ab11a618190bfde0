"""The types of `create_deliberation`: what a type checker accepts, and what it catches.

mypy checks this file (see pyproject.toml). It reports an ignore that nothing needs, so each ignore
below marks a mistake that it catches.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import (
    Agent,
    ConfigurationError,
    Critique,
    MathAnswer,
    Observation,
    Response,
    ThresholdRouter,
    Unsure,
    Vote,
    create_deliberation,
)
from mpdf_langgraph.state import no_usage

LLM = FakeListChatModel(responses=["Rome"])
TEAM = [LLM]
NODES = {"agent", "critic", "router", "consensus"}
ROOT = Path(__file__).parents[2]


def persist(observations: list[Observation]) -> list[str]:
    return ["PERSIST" for _ in observations]


def draw_lots(observations: Sequence[Observation]) -> list[list[float]]:
    return [[1.0, 1.0, 1.0] for _ in observations]


class MyRouter:
    name = "mine"
    version = "1"

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> list[list[float]]:
        return draw_lots(observations)


def trust(question: str, response: Response) -> float | None:
    return 0.9 if response["answer"] else None


async def judge(question: str, response: Response) -> Critique:
    return Critique(confidence=0.5, source="judge", scores={}, usage=no_usage())


def elect_first(votes: Sequence[Vote]) -> int | None:
    return votes[0].cluster


def test_mypy_checks_this_file_and_reports_needless_ignores() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert Path(__file__).relative_to(ROOT).as_posix() in config["files"]
    assert config["strict"]
    assert config.get("warn_unused_ignores", True)


def test_what_is_accepted() -> None:
    accepted = [
        create_deliberation([Agent("ann", LLM), LLM, RunnableLambda(str)], answer=MathAnswer()),
        create_deliberation(
            TEAM, router="always-refine", critic="self-reasoning", consensus="majority"
        ),
        create_deliberation(
            TEAM, router=ThresholdRouter(bar=0.8), critic=None, consensus=elect_first
        ),
        create_deliberation(TEAM, router=MyRouter(), critic=trust, traces=None),
        create_deliberation(TEAM, router=draw_lots, critic=LLM),
    ]
    assert all(set(graph.nodes) == NODES for graph in accepted)
    ask_a_person = [
        create_deliberation(TEAM, router=persist, critic=judge, interrupt_when=Unsure(0.5)),
        create_deliberation(
            TEAM, critic=LLM.bind(stop=["."]), interrupt_when=lambda standing: True
        ),
    ]
    assert all(set(graph.nodes) == NODES | {"person"} for graph in ask_a_person)


def test_what_is_caught_by_types_is_caught_when_the_graph_is_built_as_well() -> None:
    with pytest.raises(ConfigurationError, match="threshold"):
        create_deliberation(TEAM, router="threshhold")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="logprob"):
        create_deliberation(TEAM, critic="log-prob")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="majority"):
        create_deliberation(TEAM, consensus="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="router"):
        create_deliberation(TEAM, router=ThresholdRouter)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="answer"):
        create_deliberation(TEAM, answer=MathAnswer)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="traces"):
        create_deliberation(TEAM, traces=1)  # type: ignore[arg-type]


def test_what_only_a_type_checker_catches() -> None:
    def takes_nothing() -> float:
        return 0.5

    graph = create_deliberation(TEAM, critic=takes_nothing)  # type: ignore[arg-type]
    assert set(graph.nodes) == NODES

    def chooses_a_name(votes: Any) -> str:
        return "ann"

    graph = create_deliberation(TEAM, consensus=chooses_a_name)  # type: ignore[arg-type]
    assert set(graph.nodes) == NODES
