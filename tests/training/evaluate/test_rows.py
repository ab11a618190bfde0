"""Rows of an evaluation: every method answers every question, whatever stops it on the way."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from mpdf_langgraph import ConfigurationError, MathAnswer, SandboxError
from tests.plugin.test_learned_router import fitted
from tests.plugin.test_learned_router import write as write_router
from tests.support import summers
from tests.support.paths import ROOT
from tests.support.summers import sums
from training.collect.questions import Question
from training.collect.team import TeamOptions
from training.evaluate.evaluation import evaluate
from training.evaluate.methods import Method, select
from training.evaluate.options import EvaluateOptions
from training.evaluate.rows import Rows
from training.learn.policy import export

MODELS = ("tests.support.summers:ann", "tests.support.summers:bo", "tests.support.summers:cy")
EVERY = (
    "single", "greedy", "greedy-vote", "vote-3", "weighted-vote-3", "best-of-2", "adaptive-5",
    "debate-1", "debate-2", "random", "threshold", "php", "dylan", "oracle-2",
)  # fmt: skip


def options(tmp_path: Path, count: int = 3, **changes: Any) -> EvaluateOptions:
    team = {"model_factory": MODELS, "temperature": 0.7}
    team |= {name: changes.pop(name) for name in ("model_factory",) if name in changes}
    given: dict[str, Any] = {
        "benchmark": "gsm8k",
        "out": tmp_path / "out",
        "data": str(sums(tmp_path / "questions.jsonl", count)),
        "methods": EVERY,
        "team": TeamOptions(**team),
        "critic": "logprob",
        "control": False,
        "rounds": 2,
        "concurrency": 2,
        **changes,
    }
    return EvaluateOptions(**given)


def evaluate_now(given: EvaluateOptions) -> int:
    """Run the evaluation. Return whether something failed, as the command does."""
    results, _ = asyncio.run(evaluate(given))
    return int(any(method.failed for method in results.values()))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / "rows.jsonl").read_bytes().splitlines()]


def test_every_method_answers_every_question(tmp_path: Path) -> None:
    given = options(tmp_path, control=True, bar=0.99)
    assert evaluate_now(given) == 0
    rows = rows_of(given.out)
    assert [row["id"] for row in rows] == ["gsm8k/1", "gsm8k/2", "gsm8k/3"]
    names = {m.name for m in select(EVERY, {}, given, 3, control=given.control)}
    assert len(names) == len(EVERY) + 2  # two routers have controls
    for k, row in enumerate(rows):
        runs = {name: run for name, [run] in row["methods"].items()}
        assert set(runs) == names
        truth = 8 * k + 2
        assert all(r["right"] == (r["answer"] == str(truth)) for r in runs.values())
        assert [runs["vote of 3"][key] for key in ("calls", "actions")] == [3, {}]
        assert runs["debate, 2 rounds"]["calls"] == 9
        assert runs["debate, 1 round"]["actions"] == {"REFINE": 3}
        assert runs["single sample"]["tokens"] < runs["vote of 3"]["tokens"]
        assert runs["oracle, 2 rounds"]["right"] >= runs["vote of 3"]["right"]
    text = (given.out / "results.md").read_text()
    figures = json.loads((given.out / "results.json").read_text())
    assert set(figures["methods"]) == names
    for name, figure in figures["methods"].items():
        mean = sum(row["methods"][name][0]["right"] for row in rows) / len(rows)
        assert figure["accuracy"] == pytest.approx(mean)
        assert figure["interval"][0] <= mean <= figure["interval"][1]
        assert f"| {name} |" in text
    assert (given.out / "tokens.png").stat().st_size > 1000


def test_votes_are_those_of_the_proposals(tmp_path: Path) -> None:
    given = options(tmp_path, 8, methods=("single", "vote-3"))
    evaluate_now(given)
    for k, row in enumerate(rows_of(given.out)):
        a, b = 7 * k, k + 2
        asked = f"What is {a} and {b} together?\n\nReason step by step. {MathAnswer().instructions}"
        said = [
            MathAnswer().parse(model().invoke(asked).text)
            for model in (summers.ann, summers.bo, summers.cy)
        ]
        assert row["methods"]["single sample"][0]["answer"] == said[0]
        most = max(said, key=lambda answer: (said.count(answer), -said.index(answer)))
        if said.count(most) > 1:
            assert row["methods"]["vote of 3"][0]["answer"] == most


def test_more_methods_and_questions_ask_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "asked"
    monkeypatch.setenv("ASKED", str(log))
    evaluate_now(options(tmp_path, 6, limit=3, methods=("single", "vote-3")))
    before = rows_of(tmp_path / "out")
    assert len(log.read_text().splitlines()) == 9
    evaluate_now(options(tmp_path, 6, limit=4, methods=("single", "debate-1")))
    after = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert len(after) == 4
    assert len(log.read_text().splitlines()) == 9 + 3 + 4 * 3
    for row in before:
        assert after[row["id"]]["methods"].items() >= row["methods"].items()


def test_what_failed_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(tmp_path, methods=("single", "vote-3", "debate-1"))
    monkeypatch.setenv("BROKEN", "7 and 3")
    assert evaluate_now(given) == 1
    assert "failed: " in capsys.readouterr().err
    broken = rows_of(given.out)
    assert ["error" in row["methods"]["vote of 3"][0] for row in broken] == [False, True, False]
    figures = json.loads((given.out / "results.json").read_text())["methods"]
    assert figures["vote of 3"]["failed"] == 1
    assert figures["vote of 3"]["accuracy"] <= 2 / 3
    monkeypatch.delenv("BROKEN")
    assert evaluate_now(given) == 0
    mended = rows_of(given.out)
    assert [mended[0], mended[2]] == [broken[0], broken[2]]
    assert "error" not in mended[1]["methods"]["vote of 3"][0]


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    evaluate_now(options(tmp_path, methods=("single",)))
    evaluate_now(options(tmp_path, methods=("single",), concurrency=1, control=True))
    with pytest.raises(ConfigurationError, match="rounds was 2 and is 3"):
        evaluate_now(options(tmp_path, methods=("single",), rounds=3))


def test_rows_of_changed_questions_do_not_count(tmp_path: Path) -> None:
    given = options(tmp_path, methods=("single",))
    evaluate_now(given)
    path = Path(str(given.data))
    path.write_text(path.read_text().replace("7 and 3", "7 and 4").replace("#### 10", "#### 11"))
    evaluate_now(given)
    [_, changed, _] = rows_of(given.out)
    assert changed["methods"]["single sample"][0]["answer"] in ("11", "12")


def test_programs_are_compared_and_graded_by_what_they_do(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f'def {name}(a, b):\n    """Add two {kind} numbers.\n    >>> {name}(5, 2)\n'
            '    7\n    """\n',
            "entry_point": name,
            "test": "def check(candidate):\n    assert candidate(20, 3) == 23\n",
        }
        for name, kind in (("plus", "easy"), ("add", "hard"))
    ]
    path = tmp_path / "programs.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    given = options(
        tmp_path,
        benchmark="humaneval",
        data=str(path),
        methods=("single", "vote-3", "threshold"),
        model_factory=(
            "tests.support.summers:dee",
            "tests.support.summers:eve",
            "tests.support.summers:fay",
        ),
    )
    try:
        assert evaluate_now(given) == 0
    except SandboxError as error:
        pytest.skip(str(error))
    right = [
        {name: found["right"] for name, [found] in row["methods"].items()}
        for row in rows_of(given.out)
    ]
    # The first model is wrong and outvoted by the two programs that do the same. Nobody adds
    # where it is hard.
    assert [one["single sample"] for one in right] == [False, False]
    assert [one["vote of 3"] for one in right] == [True, False]


def test_seeds_of_a_router_are_one_method_and_a_new_fit_is_run_anew(tmp_path: Path) -> None:
    network = tmp_path / "policy.onnx"
    export(fitted(), network)
    folders = tuple(
        write_router(tmp_path / f"mine-{seed}", network.read_bytes(), version=f"v{seed}")
        for seed in (0, 1)
    )
    given = options(tmp_path, methods=("vote-3",), router=folders, control=True)
    assert evaluate_now(given) == 0
    for row in rows_of(given.out):
        for name in ("mine", "mine: control"):
            assert [one["router"].split("+")[0] for one in row["methods"][name]] == ["v0", "v1"]
            assert row["methods"][name][0]["calls"] >= 3
    figures = json.loads((given.out / "results.json").read_text())["methods"]
    assert (figures["mine"]["kind"], figures["mine"]["runs"]) == ("learned", 2)
    write_router(tmp_path / "mine-1", network.read_bytes(), version="v2")
    assert evaluate_now(given) == 0
    for row in rows_of(given.out):
        assert [one["router"].split("+")[0] for one in row["methods"]["mine"]] == ["v0", "v2"]


def command(given: EvaluateOptions) -> list[str]:
    words = [
        "--benchmark",
        str(given.benchmark),
        "--data",
        str(given.data),
        "--out",
        str(given.out),
    ]
    words += ["--methods", *given.methods, "--critic", "logprob", "--temperature", "0.7"]
    words += [word for name in given.team.model_factory for word in ("--model-factory", name)]
    words += ["--no-control"]
    words += ["--rounds", str(given.rounds), "--concurrency", "1"]
    return [sys.executable, "training/evaluate.py", *words]


def test_killed_half_way_it_goes_on_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    methods = ("single", "vote-3", "debate-1", "random", "threshold", "php")
    whole = options(tmp_path / "whole", 8, methods=methods)
    killed = options(tmp_path / "killed", 8, methods=methods)
    assert evaluate_now(whole) == 0

    slow = {**os.environ, "PAUSE": "0.02"}
    with subprocess.Popen(
        command(killed), cwd=ROOT, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        rows = killed.out / "rows.jsonl"
        deadline = time.monotonic() + 100
        while not (rows.exists() and rows.read_bytes().count(b"\n") >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    left = rows.read_bytes()
    assert 3 <= left.count(b"\n") < 8
    rows.write_bytes(left[:-25])  # the last write was torn
    assert evaluate_now(killed) == 0
    assert rows_of(killed.out) == rows_of(whole.out)
    # And the rows follow from the samples alone: nobody need be asked for them again.
    rows.unlink()
    asked = tmp_path / "asked"
    monkeypatch.setenv("ASKED", str(asked))
    capsys.readouterr()
    assert evaluate_now(killed) == 0
    assert "0 samples drawn" in capsys.readouterr().out
    assert not asked.exists()
    assert rows_of(killed.out) == rows_of(whole.out)


def test_a_control_is_run_again_with_its_router(tmp_path: Path) -> None:
    """It replays the router's decisions. After a failure there were none."""

    async def never(_: Any) -> Any:
        raise AssertionError

    methods = [Method(name, ((None, never),)) for name in ("vote", "thr", "thr: control")]
    question = Question("1", "?", "4", {})
    rows = Rows(tmp_path / "rows.jsonl")
    sound: dict[str, Any] = {"answer": "4", "right": True, "tokens": 1, "calls": 1, "actions": {}}
    failed = {**sound, "error": "down"}
    rows.put(question, {"vote": [sound], "thr": [failed], "thr: control": [sound]})
    assert [m.name for m in rows.missing(question, methods)] == ["thr", "thr: control"]
    rows.put(question, {"thr": [sound], "thr: control": [failed]})
    assert [m.name for m in rows.missing(question, methods)] == ["thr: control"]
    rows.close([question])


def test_tokens_that_nobody_told_are_told_again_by_the_next_run(tmp_path: Path) -> None:
    silent = ("tests.support.summers:silent",)
    given = options(tmp_path, methods=("single", "vote-3", "php"), model_factory=silent)
    for _ in range(2):  # the second finds all rows finished
        evaluate_now(given)
        text = (given.out / "results.md").read_text()
        assert "Calls without token counts, so the tokens are too low: single sample 3" in text
        assert ", vote of 3 9, PHP " in text


def test_a_benchmarks_question_counts_once(tmp_path: Path) -> None:
    given = options(tmp_path, 2, methods=("single",))
    assert given.data is not None
    data = Path(given.data)
    data.write_bytes(data.read_bytes() * 5)
    evaluate_now(given)
    assert len(rows_of(given.out)) == 2
