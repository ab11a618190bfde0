"""Importing debates: whole teams that answered again after they had read their peers."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda

from examples import import_debates
from mpdf_langgraph import Agent, Episode, MathAnswer, TraceReader
from mpdf_langgraph.observation import feature
from mpdf_langgraph.state import ACTIONS
from tests.support.counterfactuals import decisions
from tests.support.paths import DATA
from tests.support.recorded import played_episode, recorded_episode
from training.collect import collecting
from training.collect.importing import Answer, read_answers
from training.collect.questions import TableError

DEBATES = DATA / "math_debates/debates.jsonl.gz"


def logged(question: str, agent: str, response: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "reference": "4", "agent": agent, "response": response, **more}


def table(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def imported(folder: Path, *rows: Any) -> list[Episode]:
    words = ["--import", str(table(folder / "t.jsonl", *rows)), "--out", str(folder / "traces")]
    assert collecting.main(tyro.cli(collecting.CollectOptions, args=words)) == 0
    return list(TraceReader(folder / "traces"))


spoken = st.tuples(
    st.sampled_from(["The answer is 4", "4.0", "maybe 5", "\\boxed{5}", "\\frac{8}{2}", "nothing"]),
    st.none() | st.floats(0, 1),
)


def test_a_round_that_pandas_wrote_is_a_whole_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [debate] = imported(
        tmp_path,
        logged("2+2?", "ann", "5", round=0.0),
        logged("2+2?", "bo", "4", round=0.0),
        logged("2+2?", "ann", "4", round=1.0),
        logged("2+2?", "bo", "6", round=0.5),
    )
    assert list(debate.responses) == ["ann@0", "bo@0", "ann@1"]
    assert "1 x 'round' must be a whole number of 0 or more" in capsys.readouterr().out


def test_a_table_of_another_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("question,reference,agent,response\n2+2?,4,ann,4\n")
    words = ["--import", str(path), "--out", str(tmp_path / "traces")]
    assert collecting.main(tyro.cli(collecting.CollectOptions, args=words)) == 2
    assert "tables are read from JSON Lines or Parquet" in capsys.readouterr().err


def test_a_question_keeps_its_first_category(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        logged("2+2?", "ann", "5", category="sums"),
        logged("2+2?", "bo", "4", category="sums"),
        logged("2+2?", "bo", "6", category="logic", round=1),
        logged("1+3?", "ann", "4"),
        logged("1+3?", "bo", "4", category=" "),
        logged("1+3?", "cy", "4", category=7),
        logged("0+4?", "ann", "4"),
        logged("0+4?", "bo", "4", category="sums"),
    ]
    [sums, plain, late] = imported(tmp_path, *rows)
    assert [one.category for one in (sums, plain, late)] == ["sums", None, "sums"]
    assert len(plain.responses) == len(late.responses) == 2
    assert list(sums.responses) == ["ann@0", "bo@0"]
    told = capsys.readouterr().out
    assert "1 x another category than the question has (first: line 3)" in told
    assert "1 x 'category' must be text (first: line 6)" in told
    (tmp_path / "other").mkdir()
    without = [{**row, "category": None} for row in rows[:2]]
    [same] = imported(tmp_path / "other", *without)
    assert same.id != sums.id


def test_a_debate_becomes_an_episode_with_its_refinements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debate, single = imported(
        tmp_path,
        logged("2+2?", "ann", "5"),
        logged("2+2?", "bo", "The answer is 4", round=0),
        logged("2+2?", "ann", "So it is 4", round=1),
        logged("2+2?", "bo", "6", round=1),
        logged("2+2?", "bo", "nothing", round=2),
        logged("1+3?", "bo", "4"),
        logged("1+3?", "ann", "4"),
    )
    assert "1 of the questions were debated, in 2 rounds at most" in capsys.readouterr().out
    assert list(debate.responses) == ["ann@0", "bo@0", "ann@1", "bo@1", "bo@2"]
    assert [(t["agent"], t["round"], t["action"]) for t in debate.turns] == [
        ("ann", 1, "REFINE"), ("bo", 1, "REFINE"), ("ann", 2, "PERSIST"), ("bo", 2, "REFINE"),
        ("ann", 3, "PERSIST"), ("bo", 3, "PERSIST"),
    ]  # fmt: skip
    assert [turn["after"] for turn in debate.turns] == [
        "ann@1", "bo@1", "ann@1", "bo@1", "ann@1", "bo@1",
    ]  # fmt: skip
    assert [turn["mask"] for turn in debate.turns[-2:]] == [[True, False, True]] * 2
    assert [tally["answer"] for tally in debate.tallies] == ["5", "4", "4", "4"]
    assert debate.outcome["usage"]["total"]["calls"] == 5
    assert [turn["action"] for turn in single.turns] == ["PERSIST"] * 2
    first, *_ = decisions(debate)
    outcomes = [(ACTIONS[move.action], move.answer) for move in first.moves]
    assert outcomes == [("PERSIST", "5"), ("REFINE", "4"), ("CONCEDE", "4")]


def test_unusable_rows_of_a_debate_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(
        tmp_path,
        logged("2+2?", "ann", "4"),
        logged("2+2?", "bo", "5"),
        logged("2+2?", "ann", "4", round=1),
        logged("2+2?", "ann", "7", round=1),
        logged("2+2?", "cy", "7", round=1),
        logged("2+2?", "bo", "7", round=-1),
        logged("2+2?", "bo", "7", round=True),
        logged("2+2?", "bo", "7", round="1"),
        logged("lonely?", "ann", "4"),
        logged("lonely?", "ann", "4", round=1),
        logged("late?", "ann", "4", round=1),
    )
    told = capsys.readouterr().out
    assert "11 rows: 3 answers to 1 questions" in told
    for reason in (
        "1 x a second answer of the same agent to the same question (first: line 4)",
        "3 x 'round' must be a whole number of 0 or more (first: line 6)",
        "2 x a later round of an agent without a first answer (round 0) (first: line 1)",
        "2 x the only agent that answered its question (first: line 9)",
    ):
        assert f"left out: {reason}" in told


@settings(max_examples=30)
@given(
    st.integers(2, 4).flatmap(
        lambda size: st.tuples(
            st.lists(spoken, min_size=size, max_size=size),
            st.lists(
                st.lists(st.none() | spoken, min_size=size, max_size=size), min_size=1, max_size=3
            ).filter(lambda rounds: any(rounds[-1])),
        )
    )
)
def test_an_imported_debate_is_what_the_graph_writes(
    debate: tuple[list[tuple[str, float | None]], list[list[tuple[str, float | None] | None]]],
) -> None:
    """A team that says in the graph what was recorded leaves the same turns and tallies."""
    first, later = debate
    said = {
        (round_, n): Answer(f"agent-{n}", one[0], one[1], round_)
        for round_, heard in enumerate([first, *later])
        for n, one in enumerate(heard)
        if one is not None
    }
    schema = MathAnswer()
    replayed = recorded_episode("2+2?", "4", [*said.values()], schema=schema, max_rounds=4)
    confidences = {(a.agent, a.round): a.confidence for a in said.values()}

    def speaker(n: int) -> RunnableLambda[Any, str]:
        texts = iter([answer.response for (_, m), answer in said.items() if m == n])
        return RunnableLambda(lambda _: next(texts))

    def plan(observations: list[Any]) -> list[str]:
        round_ = round(10 * feature(observations[0]["own"], "round")) + 1
        return ["REFINE" if (round_, n) in said else "PERSIST" for n in range(len(first))]

    def confidence(question: str, response: Any) -> float | None:
        return confidences[response["agent"], response["round"]]

    written = played_episode(
        "2+2?",
        "4",
        [Agent(f"agent-{n}", speaker(n)) for n in range(len(first))],
        router=plan,
        critic=confidence if any(c is not None for c in confidences.values()) else None,
        answer=schema,
        max_rounds=4,
        max_calls=len(said),
        stop_when_settled=False,
    )
    assert replayed.turns == written.turns
    assert replayed.tallies == written.tallies
    for episode in (replayed, written):
        assert episode.outcome["stop_reason"] == "max_calls"
    assert replayed.outcome["answer"] == written.outcome["answer"]
    assert Episode.from_json(replayed.to_json()) == replayed


def test_the_rounds_are_part_of_an_episodes_id() -> None:
    def id_of(*answers: Answer) -> str:
        return recorded_episode("?", "4", answers, schema=MathAnswer()).id

    first = [Answer("a", "4", None), Answer("b", "5", None)]
    debates = [
        [],
        [Answer("a", "4", None, 1)],
        [Answer("b", "4", None, 1)],
        [Answer("a", "4", None, 2)],
    ]
    assert len({id_of(*first, *later) for later in debates}) == 4


@pytest.mark.skipif(not DEBATES.exists(), reason="the table of debates over MATH is not here")
def test_the_recorded_debates_over_math(capsys: pytest.CaptureFixture[str]) -> None:
    import_debates.main(import_debates.DebateOptions(DEBATES, limit=60))
    told = capsys.readouterr().out
    assert "26028 rows: 26028 answers to 4800 questions" in told
    assert "3350 of the questions were debated, in 2 rounds at most" in told
    assert "wrong to right" in told


def test_the_example_counts_what_became_of_the_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": "2+2?", "reference": "4", "agents": {"a": ["4", "5"], "b": ["5", "4"]}},
        {"question": "1+3?", "reference": "4", "agents": {"a": ["4"], "b": ["4"]}},
    ]
    path = table(tmp_path / "debates.jsonl", *rows)
    import_debates.main(import_debates.DebateOptions(path))
    told = capsys.readouterr().out
    assert "vote of the first answers 1.000, vote of the last answers 0.500" in told
    assert "wrong to right: 1.000 of 1 refined answers" in told
    assert "right to wrong: 1.000 of 1 refined answers" in told


def test_a_compressed_table_reads_as_the_plain_one(tmp_path: Path) -> None:
    rows = [logged("2+2?", "ann", "4"), logged("2+2?", "bo", "5", round=0)]
    plain = table(tmp_path / "t.jsonl", *rows)
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_answers(packed) == read_answers(plain)
    packed.write_bytes(b"no gzip")
    with pytest.raises(TableError, match=r"t\.jsonl\.gz"):
        read_answers(packed)
    packed.write_bytes(gzip.compress(plain.read_bytes())[:-9])
    with pytest.raises(TableError, match=r"t\.jsonl\.gz"):
        read_answers(packed)
