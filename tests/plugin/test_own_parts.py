"""Parts that an app plugs in, and that fail or change what they get."""

from pathlib import Path
from typing import Any

import pytest

from mpdf_langgraph import Agent, TextAnswer, TraceReader, create_deliberation
from mpdf_langgraph.critic import SelfCritic
from mpdf_langgraph.errors import ConfigurationError
from tests.support.scripted import says


class Faulty(TextAnswer):
    """A schema of one's own that fails, or gives no text, for one answer."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given

    def parse(self, text: str) -> Any:
        if text != "odd":
            return super().parse(text)
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


@pytest.mark.parametrize(
    ("given", "why"), [(KeyError("boom"), "KeyError: 'boom'"), (True, "returned True")]
)
def test_an_answer_that_its_schema_cannot_read_costs_that_answer_alone(
    given: Any, why: str
) -> None:
    team = [
        Agent("ann", says("odd")),
        Agent("bo", says("Rome")),
        Agent("cy", says("It is Rome. Answer: Rome")),
    ]
    graph = create_deliberation(team, critic=None, answer=Faulty(given), max_rounds=0).compile()
    deliberation = graph.invoke({"question": "Capital?"})["deliberation"]
    assert deliberation["answer"] == "Rome"
    [failure] = deliberation["failures"]
    assert failure.startswith("ann@0 propose: its answer could not be read")
    assert why in failure
    assert deliberation["usage"]["total"]["calls"] == 3  # the reply was paid for


def test_parts_of_ones_own_that_fail_say_which_they_are() -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("boom")

    class Failing(TextAnswer):
        for_question = fail

    team = [Agent("ann", says("Rome")), Agent("bo", says("Paris"))]
    for part, options in (
        ("the router 'fail'", {"router": fail}),
        ("the consensus rule 'fail'", {"consensus": fail}),
        ("for_question of the answer schema 'text'", {"answer": Failing()}),
    ):
        graph = create_deliberation(team, critic=None, **options).compile()
        with pytest.raises(ConfigurationError, match=f"^{part} failed: KeyError: 'boom'"):
            graph.invoke({"question": "Capital?"})


def test_a_critic_may_change_what_it_gets() -> None:
    def hack(question: str, response: Any) -> float:
        response["answer"] = "hack"
        response["profile"]["length"] = -1
        return 0.5

    team = [Agent("ann", says("Rome")), Agent("bo", says("Paris"))]
    graph = create_deliberation(team, critic=hack, router="always-persist").compile()
    votes = graph.invoke({"question": "Capital?"})["deliberation"]["votes"]
    assert votes == {"ann": "Rome", "bo": "Paris"}


def test_a_judge_must_be_a_model() -> None:
    with pytest.raises(ConfigurationError, match="judge must be a chat model, got 'gpt'"):
        SelfCritic(judge="gpt")  # type: ignore[arg-type]


def test_a_router_may_change_what_it_gets(tmp_path: Path) -> None:
    def greedy(observations: list[Any]) -> list[str]:
        for seen in observations:
            seen["peers"].clear()
            seen["own"][0] = 99.0
        return ["PERSIST"] * len(observations)

    team = [Agent("ann", says("Rome")), Agent("bo", says("Paris"))]
    graph = create_deliberation(team, critic=None, router=greedy, traces=tmp_path).compile()
    graph.invoke({"question": "Capital?"})
    [episode] = TraceReader(tmp_path)
    for turn in episode.turns:
        assert len(turn["observation"]["peers"]) == 1
        assert turn["observation"]["own"][0] in (0.0, 1.0)
