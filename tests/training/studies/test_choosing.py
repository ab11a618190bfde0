"""Choosing among recorded answers: on real traces, folds, the team, and what is refused."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import math_samples
from examples.gsm8k_models import to_rows
from mpdf_langgraph import MathAnswer
from mpdf_langgraph.errors import ConfigurationError
from tests.support.recorded import recorded_episode
from tests.support.written import write_traces
from training.collect.importing import Answer
from training.learn.choices import LEARNED, SINGLE, Choice
from training.studies.choosing import ChoosingOptions, honest_error, study, try_risk

MATH = MathAnswer()


def write(folder: Path, *, confident: bool | Collection[int], silent: Collection[int] = ()) -> Path:
    """Write 60 questions: ann is mostly right, bo and cy half of the time.

    `confident` may name the questions with confidences. Nobody answers the `silent` ones.
    """
    if isinstance(confident, bool):
        confident = range(60) if confident else ()
    rng = np.random.default_rng(1)
    episodes = []
    for question in range(60):
        answers = []
        for agent, chance in (("ann", 0.9), ("bo", 0.5), ("cy", 0.5)):
            right = rng.random() < chance
            said = "1" if right else str(rng.integers(2, 5))
            sure = None
            if question in confident:
                sure = float(rng.beta(5, 2) if right else rng.beta(2, 5))
            text = "I do not know." if question in silent else f"#### {said}"
            answers.append(Answer(agent, text, sure))
        episodes.append(recorded_episode(f"{question}?", "1", answers, schema=MATH))
    return write_traces(folder, episodes)


@pytest.mark.parametrize("confident", [True, False])
def test_rules_are_compared(tmp_path: Path, confident: bool) -> None:
    traces = write(tmp_path / "traces", confident=confident)
    options = ChoosingOptions((traces,), tmp_path / "out", folds=3, seeds=2, splits=5)
    results = study(options)
    assert results["questions"] == 60
    rules = results["rules"]
    assert rules[SINGLE]["calls"] == 1
    assert rules[SINGLE]["accuracy"][0] > 0.75
    assert ("log-odds" in rules) is confident
    assert rules[LEARNED]["learned minus it"] == [0.0, 0.0, 0.0]
    assert 0 <= results["risk"]["accepted"] <= 1
    text = (tmp_path / "out" / "results.md").read_text()
    assert all(f"| {name} |" in text for name in rules)


def test_a_profile_critic_of_the_other_folds_gives_confidence(tmp_path: Path) -> None:
    """Wrong answers come with a false equation, and the majority does not look."""
    rng = np.random.default_rng(1)
    recorded = []
    for question in range(60):
        answers = [("ann", rng.random() < 0.9), ("bo", rng.random() < 0.4), ("cy", False)]
        texts = [(who, "1 + 1 = 2. #### 1" if ok else "1 + 1 = 3. #### 7") for who, ok in answers]
        said = [Answer(who, text, None) for who, text in texts]
        recorded.append(recorded_episode(f"{question}?", "1", said, schema=MATH))
    traces = write_traces(tmp_path / "traces", recorded)
    options = ChoosingOptions((traces,), tmp_path, critic="profile", folds=3, seeds=1, splits=2)
    rules = study(options)["rules"]
    assert rules["majority"]["accuracy"][0] < 0.5
    assert rules[LEARNED]["accuracy"][0] > 0.85  # ann or bo is right, and it can be seen
    assert rules["vote by confidence"]["accuracy"][0] > 0.8


def test_a_part_of_the_team(tmp_path: Path) -> None:
    traces = write(tmp_path / "traces", confident=False)
    given = {"folds": 2, "seeds": 1, "splits": 2, "team": ("cy", "bo")}
    results = study(ChoosingOptions((traces,), tmp_path / "out", **given))  # type: ignore[arg-type]
    assert results["agents"] == ["cy", "bo"]
    assert results["rules"]["majority"]["calls"] == 2


@pytest.mark.parametrize("critic", ["recorded", "profile"])
def test_questions_that_nobody_answers_count_as_wrong(tmp_path: Path, critic: Any) -> None:
    traces = write(tmp_path / "traces", confident=False, silent=range(20))
    given: Any = {"critic": critic, "folds": 3, "seeds": 1, "splits": 2}
    whole, named = (
        study(ChoosingOptions((traces,), tmp_path / "out", team=team, **given))
        for team in ((), ("ann", "bo", "cy"))
    )
    assert whole == named
    assert whole["questions"] == 60
    assert 0.5 < whole["rules"][SINGLE]["accuracy"][0] <= 40 / 60


def test_what_nobody_of_the_team_was_asked_stays_out_for_a_profile_critic_too(
    tmp_path: Path,
) -> None:
    traces = write(tmp_path / "traces", confident=False)
    said = [Answer("dee", "#### 1", None), Answer("eve", "#### 2", None)]
    others = [recorded_episode(f"other {n}?", "1", said, schema=MATH) for n in range(9)]
    write_traces(traces, others)
    given: Any = {"critic": "profile", "folds": 3, "seeds": 1, "splits": 2, "team": ("ann", "bo")}
    assert study(ChoosingOptions((traces,), tmp_path / "out", **given))["questions"] == 60


def test_rules_that_some_fold_or_split_lacks_are_left_out(tmp_path: Path) -> None:
    """Two questions have confidences. In the second split they are in one fold."""
    first, second = (np.random.default_rng(seed).permutation(60) % 3 for seed in (0, 1))
    one, other = next(
        (i, j) for i in range(60) for j in range(i)
        if first[i] != first[j] and second[i] == second[j]
    )  # fmt: skip
    traces = write(tmp_path / "traces", confident={one, other})
    given: Any = {"folds": 3, "splits": 2}
    for seeds, known in ((1, True), (2, False)):
        results = study(ChoosingOptions((traces,), tmp_path / "out", seeds=seeds, **given))
        assert ("vote by confidence" in results["rules"]) is known


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"folds": 1}, "--folds"),
        ({"seeds": 0}, "--seeds"),
        ({"risk": 0.0}, "--risk"),
        ({"folds": 7}, "questions are too few for 7 folds: 70 are needed"),
        ({"team": ("dee",)}, "--team dee"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, given: dict[str, int], told: str) -> None:
    traces = write(tmp_path / "traces", confident=False)
    with pytest.raises(ConfigurationError, match=told):
        study(ChoosingOptions((traces,), tmp_path / "out", **given))  # type: ignore[arg-type]


def test_risk_control_is_tried_on_fresh_questions() -> None:
    rng = np.random.default_rng(0)
    told = rng.uniform(0.3, 1, 1500)
    right = (rng.random(1500) < told).astype(float)
    choice = Choice(right, np.ones(1500), told, np.stack([told, right], 1))
    found = try_risk(choice, ChoosingOptions((), risk=0.2))
    assert found["promise kept"] >= 0.95
    assert 0.2 < found["accepted"] < 0.9
    assert 0.1 < found["errors among the accepted"] <= 0.2


def test_risk_control_accepts_nothing_where_nobody_answers() -> None:
    rng = np.random.default_rng(0)
    told = np.where(rng.random(1500) < 0.5, rng.uniform(0.9, 1, 1500), np.nan)
    right = (rng.random(1500) < np.nan_to_num(told)).astype(float)
    choice = Choice(right, np.ones(1500), told, np.zeros((0, 2)))
    found = try_risk(choice, ChoosingOptions((), risk=0.2))
    assert 0.4 < found["accepted"] < 0.6
    nobody = Choice(0 * right, np.ones(1500), np.full(1500, np.nan), np.zeros((0, 2)))
    found = try_risk(nobody, ChoosingOptions((), risk=0.2))
    assert (found["accepted"], found["no bar found"]) == (0.0, 1.0)


def test_chance_alone_makes_an_error() -> None:
    told = np.full(1000, 0.5)
    error = honest_error(told)
    assert error == pytest.approx(np.sqrt(0.25 / 1000 * 2 / np.pi), rel=0.2)
    assert honest_error(told[:0]) is None


def test_answers_of_the_models_are_found_in_their_json() -> None:
    said = {
        "a": '{"reasoning": "2", "answer": "18"}',
        "b": '```json\n{"reasoning": "x", "answer": 7\n}```',
        "c": "I say 5",
        "d": "",
    }
    rows = list(to_rows({"question": "?", "reference": "18", "answers": said}))
    assert [row["response"] for row in rows] == ["18", "7", "I say 5", "no answer"]
    assert {row["question"] for row in rows} == {"?"}


def test_samples_become_agents() -> None:
    row = {"question": "?", "answer": 4, "code": ["4", "5"], "pred_score": [[0.0], [-2.0]]}
    rows = list(math_samples.to_rows(row))
    assert [(r["agent"], r["response"], r["reference"]) for r in rows] == [
        ("sample-1", "4", "4"),
        ("sample-2", "5", "4"),
    ]
    assert rows[0]["confidence"] == 0.5
    assert rows[1]["confidence"] < 0.2
