"""Cross-validation on recorded answers: its folds, its votes, and that it learns whom to follow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpdf_langgraph import Agent, MathAnswer, RecordedChatModel, create_deliberation
from mpdf_langgraph.consensus import Vote
from mpdf_langgraph.errors import ConfigurationError
from tests.support.recorded import recorded_episode
from tests.support.written import write_traces
from training.collect.importing import Answer
from training.studies import cross_validation
from training.studies.cross_validation import CALIBRATED, GREEDY, LEARNED, Fold, FoldOptions
from training.studies.recordings import (
    Recording,
    assign_folds,
    leave_out_rare_agents,
    measure_records,
    plain_majority,
    read_recordings,
)

MATH = MathAnswer()


def write(folder: Path, rows: dict[str, tuple[str, dict[str, str]]]) -> Path:
    """Write recorded answers (question -> reference, answers by agent) as traces."""
    episodes = []
    for question, (reference, said) in rows.items():
        answers = [Answer(agent, f"#### {text}", None) for agent, text in said.items()]
        episodes.append(recorded_episode(question, reference, answers, schema=MATH))
    return write_traces(folder, episodes)


def recordings(folder: Path, rows: dict[str, tuple[str, dict[str, str]]]) -> list[Recording]:
    return read_recordings((write(folder, rows),), MATH.equivalent)


def test_proposals_are_read_and_judged(tmp_path: Path) -> None:
    [found] = recordings(tmp_path, {"2+2?": ("4", {"ann": "4", "bo": "5"})})
    assert found.right == {"ann": True, "bo": False}
    assert [r["text"] for r in found.proposals.values()] == ["#### 4", "#### 5"]
    assert measure_records([found]) == {"ann": 1.0, "bo": 0.0}


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    two = [Answer("ann", "4", None), Answer("bo", "5", None)]
    write_traces(tmp_path, [recorded_episode("2+2?", None, two, schema=MATH)])
    with pytest.raises(ConfigurationError, match="no episode has a reference"):
        read_recordings((tmp_path,), MATH.equivalent)
    with pytest.raises(ConfigurationError, match="--folds"):
        FoldOptions((tmp_path,), folds=1).check()


def test_a_question_is_in_one_fold_alone(tmp_path: Path) -> None:
    found = recordings(tmp_path, {f"{i}?": ("1", {"a": "1", "b": "2"}) for i in range(50)})
    folds = assign_folds([*found, *found], 5)
    assert np.array_equal(folds[:50], folds[50:])
    assert np.bincount(folds).tolist() == [20] * 5
    with pytest.raises(ConfigurationError, match="50 questions are too few for 6 folds"):
        assign_folds(found, 6)


def test_who_answered_in_one_fold_alone_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {f"{i}?": ("1", {"a": "1", "b": "2"}) for i in range(40)}
    rows["0?"][1]["rare"] = "1"
    rows["1?"] = ("1", {"a": "1", "odd": "1"})
    found = recordings(tmp_path, rows)
    places = assign_folds(found, 2)
    kept, where = leave_out_rare_agents(found, places)
    assert [sorted(r.proposals) for r in kept] == [["a", "b"]] * 39
    assert all(r.right.keys() == r.proposals.keys() for r in kept)
    assert where.tolist() == [p for r, p in zip(found, places, strict=True) if r.question != "1?"]
    told = capsys.readouterr().err
    assert "fold only: odd, rare; with them 1 episodes" in told
    again, same = leave_out_rare_agents(kept, where)
    assert again == kept
    assert same is where
    assert capsys.readouterr().err == ""


def fold_of(folder: Path, rest: list[Recording], asked: list[Recording]) -> Fold:
    options = FoldOptions((folder,), consensus="majority", seeds=1)
    return Fold(options, MATH, rest, asked, folder / "fold", {})


@pytest.mark.parametrize(
    ("said", "moves"),
    [
        ({"cy": "7", "bo": "4", "ann": "5"}, {"cy": 1.0, "bo": 0.0, "ann": 1.0}),
        ({"cy": "4", "bo": "4", "ann": "5"}, {"cy": 1.0, "bo": 1.0, "ann": 0.0}),
        ({"cy": "5", "bo": "4", "ann": "4"}, {"cy": 0.0, "bo": 1.0, "ann": 1.0}),
        ({"cy": "5", "bo": "5", "ann": "4"}, {"cy": 0.0, "bo": 0.0, "ann": 0.0}),
    ],
)
def test_it_deliberates_as_the_graph_does(
    tmp_path: Path, said: dict[str, str], moves: dict[str, float]
) -> None:
    asked = recordings(tmp_path / "asked", {"What is 2+2?": ("4", said)})
    fold = fold_of(tmp_path, asked, asked)
    team = [*fold.record]

    def decide(observations: Any) -> list[str]:
        return ["CONCEDE" if moves[name] else "PERSIST" for name in team]

    told = {"What is 2+2?": {name: f"#### {text}" for name, text in said.items()}}
    graph = create_deliberation(
        [Agent(name, RecordedChatModel(agent=name, recordings=told)) for name in team],
        router=decide,
        critic=None,
        consensus="majority",
        answer=MATH,
        max_rounds=1,
        max_calls=3,
    ).compile()
    answer = graph.invoke({"question": "What is 2+2?"})["deliberation"]["answer"]
    assert fold._deliberate(fold.asked[0], asked[0], moves) == float(answer == "4")


def test_probabilities_are_weighted(tmp_path: Path) -> None:
    asked = recordings(tmp_path / "a", {"2+2?": ("4", {"ann": "4", "bo": "5"})})
    fold = fold_of(tmp_path, asked, asked)
    # ann is the better one, so that ties are hers: right unless she concedes.
    assert [*fold.record] == ["ann", "bo"]
    given = {"ann": 0.25, "bo": 0.5}
    # She concedes: both hold 5 unless bo concedes as well, and then ann holds 5 and comes first.
    assert fold._deliberate(fold.asked[0], asked[0], given) == pytest.approx(0.75)


def test_ties_of_a_plain_majority_are_drawn(tmp_path: Path) -> None:
    said = {"a": "4", "b": "5", "c": "6", "d": "5", "e": "4"}
    asked = recordings(tmp_path / "a", {"2+2?": ("4", said)})
    fold = fold_of(tmp_path, asked, asked)
    assert fold._draw_ties(fold.asked[0], asked[0]) == 0.5


def test_a_majority_counts_heads_and_ties_go_to_the_first() -> None:
    def votes(*given: tuple[int | None, float | None]) -> list[Vote]:
        return [Vote(str(i), cluster, sure) for i, (cluster, sure) in enumerate(given)]

    assert plain_majority(votes((0, 0.1), (1, 0.9), (0, 0.1))) == 0
    assert plain_majority(votes((1, 0.1), (0, 0.9))) == 1
    assert plain_majority(votes((None, None), (2, None), (0, 0.9))) == 2
    assert plain_majority(votes((None, 0.5))) is None


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, {"2+2?": ("4", {"ann": "4", "bo": "5"}), "3+3?": ("6", {"bo": "6"})})
    assert len(read_recordings((folder,), MATH.equivalent)) == 1
    assert "1 episodes without a reference or a second proposal" in capsys.readouterr().err


def test_it_learns_whom_to_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = {}
    for i in range(200):
        truth, wrong = int(rng.integers(100)), int(rng.integers(100, 200))
        said = {"ann": wrong, "bo": wrong, "cy": truth if rng.random() < 0.9 else wrong + 1}
        rows[f"Question {i}?"] = (str(truth), {name: str(n) for name, n in said.items()})
    folder = write(tmp_path / "traces", rows)
    options = FoldOptions((folder,), out=tmp_path / "out", folds=2, seeds=1)
    right = {n: float(v.mean()) for n, v in cross_validation.cross_validate(options).items()}
    assert right["majority, ties drawn"] == right["single: ann"] == 0.0
    assert right["any of them right (a bound)"] == right["single: cy"] > 0.8
    assert right[GREEDY] == pytest.approx(right["single: cy"], abs=0.02)
    # Epochs are chosen by the likeliest actions, however sharp the policy is.
    assert right[GREEDY] / 2 < right[LEARNED] <= right[GREEDY]
    text = (tmp_path / "out" / "results.md").read_text()
    assert text in capsys.readouterr().out
    assert "200 questions" in text


def test_what_calibration_gives_is_told_apart(tmp_path: Path) -> None:
    """Two who are wrong and half sure outvote one who is right and sure, until calibrated."""
    rng = np.random.default_rng(0)
    episodes = []
    for i in range(100):
        truth = int(rng.integers(100))
        known = rng.random() < 0.9
        said = [("ann", truth + 500, 0.6), ("bo", truth + 500, 0.6)]
        said += [("cy", truth, 0.99) if known else ("cy", truth + 900, 0.7)]
        answers = [Answer(name, f"#### {number}", sure) for name, number, sure in said]
        episodes.append(recorded_episode(f"Question {i}?", str(truth), answers, schema=MATH))
    write_traces(tmp_path / "traces", episodes)
    options = FoldOptions((tmp_path / "traces",), out=tmp_path / "out", folds=2, seeds=1)
    right = {n: float(v.mean()) for n, v in cross_validation.cross_validate(options).items()}
    assert right["vote by confidence"] == 0.0
    assert right[CALIBRATED] == pytest.approx(right["single: cy"], abs=0.02)
