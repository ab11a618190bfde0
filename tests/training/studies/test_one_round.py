"""Debates of one round replayed: the same outcome as the graph's, and what can be learned."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, MathAnswer, TraceReader, create_deliberation
from mpdf_langgraph.errors import ConfigurationError
from training.studies.one_round import (
    CONFIDENCE,
    MAJORITY,
    Debate,
    OneRoundOptions,
    read_debates,
    study,
)

MATH = MathAnswer()
NAMES = ("ann", "bo", "cy")


def answer(name: str) -> Any:
    """Of even questions one agent knows the answer, and refining confuses it. Of odd questions
    nobody knows it, and who refines finds it."""

    def reply(messages: list[Any]) -> AIMessage:
        usage = {"input_tokens": 20 * len(messages), "output_tokens": 7, "total_tokens": 0}
        return AIMessage(said(messages), usage_metadata=usage)

    def said(messages: list[Any]) -> str:
        number = int(str(messages[0].text).split()[1])
        owner = NAMES[number // 2 % 3]
        refines = len(messages) > 1
        nothing = f'{name} does not know. {{"answer": null}}'
        if number % 2:
            return f"It is {number}." if refines else nothing
        if name == owner:
            return "Perhaps it is 1000." if refines else f"It is {number}."
        return nothing

    return RunnableLambda(reply)


def collect(folder: Path, count: int, **options: Any) -> Path:
    given = {"router": "always-refine", "max_rounds": 1, "stop_when_settled": False, **options}
    graph = create_deliberation(
        [Agent(name, answer(name)) for name in NAMES],
        critic=lambda question, response: 0.8 if response["answer"] else 0.3,
        answer=MATH,
        traces=folder,
        **given,
    ).compile()
    for number in range(count):
        graph.invoke({"question": f"Number {number}", "reference": str(number)})
    return folder


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect(tmp_path_factory.mktemp("traces"), 60)


def test_a_replayed_debate_ends_as_it_did(traces: Path) -> None:
    for episode in TraceReader(traces):
        debate = Debate(episode, MATH.equivalent)
        played = debate.play(debate.refining(only_without_answer=False), CONFIDENCE)
        told = episode.outcome["answer"]
        assert played.right == (told is not None and MATH.equivalent(told, str(episode.reference)))
        assert played.tokens == episode.outcome["usage"]["total"]["tokens"]


def test_other_actions_and_the_bound(traces: Path) -> None:
    known, unknown, *_ = (Debate(e, MATH.equivalent) for e in TraceReader(traces))
    assert known.play({}, MAJORITY).right == 1
    assert known.single().right == pytest.approx(1 / 3)
    assert unknown.play({}, MAJORITY).right == 0
    everybody = dict.fromkeys(NAMES, "REFINE")
    assert known.play(everybody, MAJORITY).right == 0  # type: ignore[arg-type]
    assert unknown.play(everybody, MAJORITY).right == 1  # type: ignore[arg-type]
    assert known.oracle().right == unknown.oracle().right == 1


def test_a_router_learns_who_should_refine(traces: Path, tmp_path: Path) -> None:
    options = OneRoundOptions((traces,), tmp_path, algorithms=("softrankpo",), folds=2, seeds=1)
    lines = study(options).splitlines()
    found = {
        cells[1].strip(): float(cells[2].split()[0])
        for cells in (line.split("|") for line in lines if line.startswith("| "))
        if cells[1].strip() not in ("method", "---")
    }
    assert found["vote of 3"] == found["debate, 1 round"] == 0.5
    assert found["learned, softrankpo"] == found["refine where no answer"] == 1.0
    assert (tmp_path / "results.md").read_text().startswith("| method")


def test_other_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no debate of one round"):
        read_debates([collect(tmp_path / "a", 1, router="always-persist")])
    with pytest.raises(ConfigurationError, match="1 debates are too few for 5 folds"):
        study(OneRoundOptions((collect(tmp_path / "b", 1),)))


# Fourteen look-ups, answered by Qwen2.5-Coder-1.5B-Instruct under vLLM (docs/real-models.md).
REAL = Path(__file__).parent / "data" / "lookups-1.5B.jsonl"


def test_real_debates_end_as_they_did() -> None:
    episodes = read_debates([REAL])
    assert len(episodes) == 14
    for episode in episodes:
        debate = Debate(episode, MATH.equivalent)
        played = debate.play(debate.refining(only_without_answer=False), CONFIDENCE)
        assert played.tokens == episode.outcome["usage"]["total"]["tokens"]
        assert played.right == debate.right(episode.outcome["answer"])


def test_in_real_debates_merging_notes_helps() -> None:
    debates = [Debate(episode, MATH.equivalent) for episode in read_debates([REAL])]
    alone = sum(debate.single().right for debate in debates)
    merged = sum(debate.play(debate.refining(only_without_answer=False), MAJORITY).right
                 for debate in debates)  # fmt: skip
    assert merged > 2 * alone
