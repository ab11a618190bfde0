"""Grading against data that others wrote: gold answers, and verdicts on real solutions."""

import json
from typing import Any

import pytest

from mpdf_langgraph.answers import math_answer
from mpdf_langgraph.answers.math_answer import MathAnswer
from tests.support.paths import DATA
from training.collect.team import remembering_grader


def test_fits_of_one_process_grade_an_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        MathAnswer, "equivalent", lambda _, answer, reference: asked.append((answer, reference))
    )
    remembering_grader.cache_clear()
    try:
        for _ in range(2):
            right = remembering_grader("math")
            right("4", "8/2")
            right("5", "8/2")
    finally:
        remembering_grader.cache_clear()
    assert asked == [("4", "8/2"), ("5", "8/2")]


def read(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {path}, a public data file that is not part of this repository")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain answers are compared here and now, without math-verify."""
    monkeypatch.setattr(math_answer, "_WORKER", None)


def last_boxed(solution: str) -> str:
    """The contents of the last box by counting braces: another way than the parser's."""
    start = max(solution.rfind(box) + len(box) for box in ("\\boxed{", "\\fbox{"))
    depth = 1
    for end in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[start:end]
    raise ValueError(solution)


# --- gold answers ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_worker")
def test_gsm8k_gold_answers() -> None:
    schema = MathAnswer()
    rows = read("gsm8k/test.jsonl")
    assert len(rows) == 1319
    for row in rows:
        written = row["answer"].split("####")[1].strip()
        parsed = schema.parse(row["answer"])
        assert parsed == written.replace(",", "")
        assert schema.equivalent(parsed, written)
        assert schema.equivalent(written, parsed + ".00")
        assert not schema.equivalent(parsed, f"{int(parsed) + 1}")


@pytest.mark.usefixtures("_no_worker")
def test_math_gold_answers() -> None:
    schema = MathAnswer()
    rows = read("math/test.jsonl")
    assert len(rows) == 5000
    for row in rows:
        parsed = schema.parse(row["solution"])
        assert parsed is not None
        last = schema.parse(f"\\boxed{{{last_boxed(row['solution'])}}}")
        # A few solutions put each of two values in a box of its own, or the unit behind it.
        assert last is not None
        assert parsed == last or parsed.endswith(last) or parsed.startswith(last)
        assert schema.equivalent(parsed, parsed)
        assert schema.equivalent(parsed, parsed + " ")  # past the check for the same string


@pytest.mark.parametrize(("name", "number"), [("aime24", 30), ("amc23", 40)])
def test_competition_gold_answers(name: str, number: int) -> None:
    """AIME writes 25 as 025, and AMC's whole numbers are stored as 27.0."""
    schema = MathAnswer(timeout=10)
    rows = read(f"{name}/test.jsonl")
    assert len(rows) == number
    for row in rows:
        reference = schema.parse(f"\\boxed{{{row['answer']}}}")
        assert reference == str(int(float(row["answer"])))
        assert schema.equivalent(reference, str(row["answer"]))
        if "solution" in row:
            parsed = schema.parse(row["solution"])
            assert parsed is not None
            assert schema.equivalent(parsed, reference)


# --- verdicts -------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_worker")
def test_gsm8k_solutions_of_four_models_are_graded_as_they_were() -> None:
    schema = MathAnswer()
    graded = right = 0
    for row in read("gsm8k/model_solutions.jsonl"):
        reference = schema.parse(row["ground_truth"])
        assert reference is not None
        for solution in row.values():
            if isinstance(solution, dict):
                parsed = schema.parse(solution["solution"])
                same = parsed is not None and schema.equivalent(parsed, reference)
                assert same is solution["is_correct"], solution["solution"]
                graded, right = graded + 1, right + same
    assert graded == 5276
    assert right == 2001


def test_math_samples_are_graded_as_they_were() -> None:
    """All but one of 800, where the verdict of the data is wrong.

    49,994 / 7 + 20,006 / 7 is 10,000, which one sample of eight found. The reference is written
    ``10{,}000``, and the data's own grader did not read that as 10000.
    """
    schema = MathAnswer(timeout=10)
    graded = right = 0
    differing = []
    for row in read("math/sampled_solutions_100x8.jsonl"):
        reference = schema.parse(f"\\boxed{{{row['gt']}}}")
        assert reference is not None
        for solution, score in zip(row["code"], row["score"], strict=True):
            parsed = schema.parse(solution)
            same = parsed is not None and schema.equivalent(parsed, reference)
            graded, right = graded + 1, right + same
            if same is not score:
                differing.append((row["idx"], row["gt"], parsed, score))
    assert (graded, right) == (800, 729)
    assert differing == [(72, "10{,}000", "10000", False)]
    assert schema.undecided == 0
