"""Debates of one round replayed: the same outcome as the graph's, and what can be learned."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, MathAnswer, TraceReader, create_deliberation
from mpdf_langgraph.errors import ConfigurationError
from training.studies.one_round import OneRoundOptions, study
from training.studies.recorded_round import (
    CONFIDENCE,
    MAJORITY,
    Debate,
    read_debates,
    read_proposals,
    tokens_of,
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


def collect(folder: Path, count: int, start: int = 0, **options: Any) -> Path:
    given = {"router": "always-refine", "max_rounds": 1, "stop_when_settled": False, **options}
    graph = create_deliberation(
        [Agent(name, answer(name)) for name in NAMES],
        critic=lambda question, response: 0.8 if response["answer"] else 0.3,
        answer=MATH,
        traces=folder,
        **given,
    ).compile()
    for number in range(start, start + count):
        graph.invoke({"question": f"Number {number}", "reference": str(number)})
    return folder


def accuracies(text: str) -> dict[str, float]:
    """Return the accuracy of every method in a table of results."""
    return {
        cells[1].strip(): float(cells[2].split()[0])
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("| "))
        if cells[1].strip() not in ("method", "---")
    }


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
    options = OneRoundOptions((traces,), out=tmp_path, algorithms=("softrankpo",), folds=2, seeds=1)
    found = accuracies(study(options))
    assert found["vote of 3"] == found["debate, 1 round"] == 0.5
    assert found["learned, softrankpo"] == found["refine where no answer"] == 1.0
    assert (tmp_path / "results.md").read_text().startswith("| method")


def test_fresh_proposals_give_larger_votes_and_controls(traces: Path, tmp_path: Path) -> None:
    fresh = collect(tmp_path / "fresh", 60, router="always-persist")
    again = read_proposals([fresh])
    for key, episode in read_debates([traces]).items():
        debate = Debate(episode, MATH.equivalent, again[key])
        everybody = debate.refining(only_without_answer=False)
        control = debate.play(everybody, MAJORITY, control=True)
        # These agents say the same when they are asked once more, so nothing changes.
        assert control.right == debate.play({}, MAJORITY).right
        six = debate.vote_of_all(MAJORITY)
        assert six.right == control.right
        alone = [tokens_of(said) for said in debate.fresh.values() if said]
        assert six.tokens == debate.play({}, MAJORITY).tokens + sum(alone)


def test_a_new_answer_has_a_cluster_of_its_own(traces: Path) -> None:
    known, unknown, *_ = TraceReader(traces)
    debate = Debate(unknown, MATH.equivalent, known)  # where one agent proposed 0
    places = {said["cluster"] for said in debate.fresh.values() if said and said["answer"]}
    assert places == {len(unknown.representatives)}
    assert debate.representatives == [*unknown.representatives, "0"]


def test_the_controls_of_a_study(traces: Path, tmp_path: Path) -> None:
    fresh = collect(tmp_path / "fresh", 60, router="always-persist")
    options = OneRoundOptions(
        (traces,), (fresh,), (), "profile", tmp_path / "out",
        algorithms=("softrankpo",), folds=2, seeds=1,
    )  # fmt: skip
    found = accuracies(study(options))
    assert found["vote of 6"] == 0.5
    assert found["learned, softrankpo, learned consensus"] == 1.0
    assert found["learned, softrankpo, learned consensus: its control"] == 0.5
    assert found["expected gain"] == 1.0


def test_what_is_learned_from_other_questions(traces: Path, tmp_path: Path) -> None:
    new = collect(tmp_path / "new", 80, start=60)
    given: dict[str, Any] = {"out": tmp_path / "out", "algorithms": ("none",), "seeds": 1}
    text = study(OneRoundOptions((new,), train=(traces,), **given))
    assert f"80 questions of {new}, each answered by what was learned from {traces}." in text
    assert accuracies(text)["learned, SFT alone"] == 1.0
    with pytest.raises(ConfigurationError, match="60 questions of --train are in --traces too"):
        study(OneRoundOptions((new, traces), train=(traces,), **given))


def test_other_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no debate of one round"):
        read_debates([collect(tmp_path / "a", 1, router="always-persist")])
    with pytest.raises(ConfigurationError, match="1 debates are too few for 5 folds"):
        study(OneRoundOptions((collect(tmp_path / "b", 1),)))


# Fourteen look-ups, answered by Qwen2.5-Coder-1.5B-Instruct under vLLM (docs/real-models.md).
REAL = Path(__file__).parent / "data" / "lookups-1.5B.jsonl"


def test_real_debates_end_as_they_did() -> None:
    episodes = [*read_debates([REAL]).values()]
    assert len(episodes) == 14
    for episode in episodes:
        debate = Debate(episode, MATH.equivalent)
        played = debate.play(debate.refining(only_without_answer=False), CONFIDENCE)
        assert played.tokens == episode.outcome["usage"]["total"]["tokens"]
        assert played.right == debate.right(episode.outcome["answer"])


def test_in_real_debates_merging_notes_helps() -> None:
    debates = [Debate(episode, MATH.equivalent) for episode in read_debates([REAL]).values()]
    alone = sum(debate.single().right for debate in debates)
    merged = sum(debate.play(debate.refining(only_without_answer=False), MAJORITY).right
                 for debate in debates)  # fmt: skip
    assert merged > 2 * alone
