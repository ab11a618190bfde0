"""PHP and DyLAN: what they ask, when they stop, who stays."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig

from mpdf_langgraph import Agent, MathAnswer, Prompts
from mpdf_langgraph.consensus import Vote
from mpdf_langgraph.runtime.calls import run
from tests.support.scripted import Request, Scripted, StatusError, totals
from training.collect.questions import Question
from training.collect.team import TeamOptions
from training.evaluate import rivals
from training.evaluate.bench import Bench
from training.evaluate.votes import Result, vote

PLUGIN = Prompts()
OWN = Prompts(
    propose="{question}", refine="Others say:\n{peers}\nSolve it again.", peer="* {response}"
)


def saying(*replies: Any) -> Scripted:
    """Replies in turn, the last one repeated. Numbers are answers."""
    rest = itertools.chain(replies, itertools.repeat(replies[-1]))

    def reply(_: Request) -> Any:
        given = next(rest)
        return f"The answer is {given}" if isinstance(given, int) else given

    return Scripted(reply=reply, temperature=1.0)


def hinted(model: Scripted, prompts: Prompts = PLUGIN, **options: Any) -> Result:
    agent = Agent("ann", model, prompts=prompts, retries=0)
    return run(
        rivals.progressive_hints(agent, "How many?", "You know.", MathAnswer(), **options),
        RunnableConfig(),
    )


# --- PHP --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "answer", "calls"),
    [
        ([5, 5], "5", 2),
        ([5, "#### 5.0", 7], "5", 2),
        ([5, 6, 5, 6, 6], "6", 5),  # not two in a row before
        (["none", 5, "none", 5, 5], "5", 5),
        ([1, 2, 3, 4, 5, 6, 7], "6", 6),  # never agrees: the last one counts
        ([3, "none"], "3", 6),
        (["none"], None, 6),
        ([3, StatusError(400)], "3", 2),
    ],
)
@pytest.mark.parametrize("prompts", [PLUGIN, OWN])
def test_php_asks_until_two_in_a_row_agree(
    replies: list[Any], answer: str | None, calls: int, prompts: Prompts
) -> None:
    model = saying(*replies)
    outcome = hinted(model, prompts)
    assert (outcome.answer, outcome.calls) == (answer, calls)
    used = totals([model])
    assert outcome.tokens == used["prompt_tokens"] + used["completion_tokens"]
    assert not outcome.failed


def test_php_without_a_response_has_failed() -> None:
    assert hinted(saying(StatusError(400))) == Result(None, 0, 1, {}, failed=True)


def test_php_gives_all_earlier_answers_as_hints() -> None:
    model = saying("none", 5, 6, 5, 5)
    hinted(model)
    asked = [request.last.splitlines()[0] for request in model.requests]
    assert asked == [
        "How many?",
        "How many?",
        "How many? (Hint: The answer is near to 5.)",
        "How many? (Hint: The answer is near to 5, 6.)",
        "How many? (Hint: The answer is near to 5, 6.)",
    ]
    # Anew each time, with what the agent knows and how answers are to be written.
    assert all(len(request.messages) == 2 for request in model.requests)
    assert all("You know." in request.text for request in model.requests)
    assert all("boxed" in request.last for request in model.requests)
    assert all(
        "temperature" not in r.kwargs or r.kwargs["temperature"] == 1 for r in model.requests
    )


def test_php_asks_a_model_with_prompts_of_its_own_by_them() -> None:
    model = saying(5, 6, 6)
    hinted(model, OWN)
    first, second, third = ([str(m.text) for m in r.messages[1:]] for r in model.requests)
    assert first == ["How many?"]
    for asked, earlier in ((second, 5), (third, 6)):
        own = f"The answer is {earlier}"
        assert asked == ["How many?", own, f"Others say:\n* {own}\nSolve it again."]
    assert [r.kwargs.get("temperature") for r in model.requests] == [None, 0.6, 0.6]


# --- DyLAN ------------------------------------------------------------------------------------


def votes(*members: tuple[int | None, float | None]) -> list[Vote]:
    return [Vote(f"agent-{k}", *member) for k, member in enumerate(members, 1)]


def refining(dylan: rivals.Dylan) -> list[int]:
    rows = dylan.decide(None, None)
    assert all(row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]) for row in rows)
    return [k for k, row in enumerate(rows, 1) if row[1]]


def test_dylan_refines_all_then_the_two_that_did_best() -> None:
    dylan = rivals.Dylan()
    assert dylan.count(votes((0, 0.1), (0, 0.9), (1, 0.8), (2, 0.3))) == 0
    assert refining(dylan) == [1, 2, 3, 4]
    # It goes by name, not by place in a shuffled order. The surest has no answer and goes.
    second = votes((0, 0.1), (1, 0.4), (None, 0.9), (1, 0.7))
    assert dylan.count(second) == 1
    assert refining(dylan) == [2, 4]
    assert dylan.count(votes((0, 0.1), (0, 0.4), (0, 0.9), (3, 0.7))) == 3  # they alone vote


@pytest.mark.parametrize(
    ("clusters", "stops"),
    [
        ([0, 0, 0, 1], True),
        ([0, 0, 1, 1], False),
        ([0, 0, None, None], False),
        ([0, 0, 0, None], True),
        ([None] * 4, False),
        ([0, 0, 1], False),  # exactly two thirds are not more
        ([0, 0, 0], True),
    ],
)
def test_dylan_stops_where_more_than_two_thirds_agree(clusters: list[Any], stops: bool) -> None:
    for played in (0, 1):
        dylan = rivals.Dylan()
        dylan.played = played
        dylan.count(votes(*((cluster, 0.5) for cluster in clusters)))
        assert (not refining(dylan)) == stops
        assert dylan.active is None or (played and not stops)


def test_dylan_without_confidences_keeps_the_first_two_with_an_answer() -> None:
    dylan = rivals.Dylan()
    dylan.played = 1
    dylan.count(votes((None, None), (0, None), (1, None), (2, None)))
    assert refining(dylan) == [2, 3]


def fourfold(request: Request) -> str:
    """Everyone different until the third answers of 1 and 2, who are the surer ones."""
    agent = int(request.text.split("You are number ")[1][0])
    refinements = request.text.count("round one")
    if request.kind == "refine":
        return "The answer is 7" if refinements else f"round one. The answer is {agent}1"
    return f"The answer is {agent}0"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    model = Scripted(reply=fourfold, logprob=-0.3)
    monkeypatch.setattr("tests.support.factories.make", lambda: model)
    source = TeamOptions(model_factory=("tests.support.factories:make",), agents=4)
    with closing(Bench(source, tmp_path)) as opened:
        yield opened


async def test_dylan_in_the_graph(bench: Bench) -> None:
    contexts = {f"agent-{k}": f"You are number {k}." for k in range(1, 5)}
    question = Question("q", "How many?", "7", contexts)
    episode = await rivals.deliberate_as_dylan(bench, question)
    assert episode.outcome["actions"] == [
        *(f"agent-{k}@1: REFINE" for k in (1, 2, 3, 4)),
        *("agent-1@2: REFINE", "agent-2@2: REFINE", "agent-3@2: PERSIST", "agent-4@2: PERSIST"),
    ]
    # Agents 3 and 4 still hold 31 and 41, and have no vote.
    assert episode.outcome["votes"] == {
        "agent-1": "7", "agent-2": "7", "agent-3": "31", "agent-4": "41"
    }  # fmt: skip
    assert episode.outcome["answer"] == "7"
    assert episode.outcome["usage"]["total"]["calls"] == 4 + 4 + 2


async def test_php_begins_with_the_pools_first_proposal(bench: Bench) -> None:
    contexts = {f"agent-{k}": f"You are number {k}." for k in range(1, 5)}
    question = Question("q", "How many?", "7", contexts)
    pool = await bench.draw_pool(question)
    drawn = bench.samples.counts["drawn"]
    outcome = await rivals.ask_with_progressive_hints(bench, question)
    assert outcome.answer == vote(1)(pool).answer == "10"
    assert outcome.calls == 2
    assert bench.samples.counts["drawn"] == drawn + 1
