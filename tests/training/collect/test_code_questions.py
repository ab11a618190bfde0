"""Programs from questions to a router's data and an evaluation: tested, never compared as text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from mpdf_langgraph import CodeAnswer, CodeTests, MathAnswer, SandboxError, TraceReader
from mpdf_langgraph.answers import bubblewrap
from mpdf_langgraph.answers.sandbox import Sandbox
from tests.support.recorded import recorded_episode
from training.collect import collecting
from training.collect.importing import Answer
from training.collect.questions import Question
from training.collect.team import TeamOptions, grader
from training.evaluate import evaluation
from training.evaluate.benchmarks import leave_out_unusable
from training.evaluate.options import EvaluateOptions
from training.learn.dataset import load
from training.learn.rewards import REFINE

# Adders of `tests.support.summers`: the first subtracts, the others add, save where it is "hard".
TEAM = [
    w
    for name in ("dee", "eve", "fay")
    for w in ("--model-factory", f"tests.support.summers:{name}")
]


def prompt(name: str, kind: str) -> str:
    return (
        f'def {name}(a, b):\n    """Add two {kind} numbers.\n    >>> {name}(5, 2)\n    7\n    """'
    )


def questions(folder: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for name, kind in (("plus", "easy"), ("add", "hard")):
        tests = CodeTests(name, f"assert {name}(20, 3) == 23", setup=prompt(name, kind))
        rows.append({"id": name, "question": prompt(name, kind), "reference": tests.to_json()})
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def sandbox() -> Sandbox:
    """The sandbox that the commands use, where there is one that works."""
    try:
        made = Sandbox()
        with made.start():
            return made
    except SandboxError as error:
        pytest.skip(str(error))


def options(kind: Any, folder: Path, *arguments: str) -> Any:
    words = ["--answer", "code", "--questions", str(questions(folder)), *TEAM, *arguments]
    return tyro.cli(kind, args=[*words, "--out", str(folder / "out")])


@pytest.mark.usefixtures("sandbox")
def test_traces_of_programs_are_collected_and_graded_by_their_tests(tmp_path: Path) -> None:
    given = options(collecting.CollectOptions, tmp_path, "--critic", "logprob", "--rounds", "1")
    assert collecting.main(given) == 0
    episodes = {episode.question: episode for episode in TraceReader(tmp_path / "out")}
    easy = episodes[prompt("plus", "easy")]
    clusters = [easy.responses[f"agent-{k}@0"]["cluster"] for k in (1, 2, 3)]
    assert clusters == [0, 1, 1]
    groups, _ = load(tmp_path / "out", grader=grader(CodeAnswer()), progress=False)
    # Only the easy one has something to decide. There agent-1 is wrong and can do no better.
    assert groups.held_right.tolist() == [False, True, True]
    refined = groups.rollout_mask & (groups.actions == REFINE)
    assert refined.any(axis=1).all()
    assert [bool(groups.correct[k][refined[k]].any()) for k in range(3)] == [False, True, True]
    # As text no program equals its tests: the mistake that `grader` is there to prevent.
    unfit, _ = load(tmp_path / "out", grader=CodeAnswer().equivalent, progress=False)
    assert not unfit.correct.any()


@pytest.mark.usefixtures("sandbox")
async def test_programs_are_evaluated(tmp_path: Path) -> None:
    given = options(EvaluateOptions, tmp_path, "--debate-rounds", "1", "--oracle-rounds", "1")
    methods, _ = await evaluation.evaluate(given)
    assert methods["single sample"].right.tolist() == [0, 0]
    assert methods["vote of 3"].right.tolist() == [1, 0]
    assert methods["oracle, 1 round"].right.tolist() == [1, 0]
    assert not any(method.failed for method in methods.values())


@pytest.mark.parametrize("reference", ["23", '{"tests": "assert plus(1, 1) == 2"}', "[]"])
@pytest.mark.usefixtures("sandbox")
def test_a_reference_that_is_no_test_is_found_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reference: str
) -> None:
    given = options(collecting.CollectOptions, tmp_path)
    row = {"id": "odd", "question": "def plus(a, b):", "reference": reference}
    given.questions.write_text(json.dumps(row))
    assert collecting.main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: question 'odd': the reference of a program must be CodeTests")
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def unusable(name: str) -> str:
    """Tests that call a function with what cannot be sent into the sandbox."""
    return CodeTests(name, f"assert {name}(20, int) == 23").to_json()


@pytest.mark.usefixtures("sandbox")
def test_tests_that_cannot_be_run_are_found_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(collecting.CollectOptions, tmp_path)
    row = {"id": "odd", "question": "def plus(a, b):", "reference": unusable("plus")}
    given.questions.write_text(json.dumps(row))
    assert collecting.main(given) == 2
    assert "question 'odd': the tests of plus are of no use" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("sandbox")
def test_a_benchmark_goes_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    good = CodeTests("plus", "assert plus(20, 3) == 23").to_json()
    rows = [Question("a", "?", good, {}), Question("b", "?", unusable("plus"), {})]
    assert leave_out_unusable(rows, CodeAnswer()) == rows[:1]
    assert "b is left out: the tests of plus are of no use" in capsys.readouterr().out


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    bubblewrap.bubblewrap_command.cache_clear()
    yield
    bubblewrap.bubblewrap_command.cache_clear()


@pytest.mark.usefixtures("without_bubblewrap")
def test_without_bubblewrap_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collecting.main(options(collecting.CollectOptions, tmp_path)) == 2
    told = capsys.readouterr().err
    assert "bwrap is not installed" in told
    assert "apt install bubblewrap" in told
    assert len(told.splitlines()) == 1
    with pytest.raises(SandboxError, match="apt install bubblewrap"):
        TeamOptions(answer="code").answer_schema()
    assert isinstance(TeamOptions().answer_schema(), MathAnswer)  # which needs none


@pytest.mark.usefixtures("sandbox")
def test_imported_programs_that_do_the_same_are_one_answer() -> None:
    written = ("return a + b", "return sum((a, b))", "return a - b")
    answers = [
        Answer(f"agent-{k}", f"```python\ndef plus(a, b):\n    {line}\n```", None)
        for k, line in enumerate(written, 1)
    ]
    episode = recorded_episode(prompt("plus", "easy"), None, answers, schema=CodeAnswer())
    assert [r["cluster"] for r in episode.responses.values()] == [0, 0, 1]
