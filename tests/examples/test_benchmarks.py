"""Public benchmarks: their formats, and the command that runs every method on them."""

import gzip
import json
import os
import signal
import string
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import orjson
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from examples.benchmarks import run
from examples.benchmarks.loaders import (
    BENCHMARKS,
    PROGRAM,
    load,
    sample,
)
from examples.benchmarks.loaders import Options as LoaderOptions
from examples.benchmarks.loaders import main as convert
from mpdf_langgraph import (
    CodeAnswer,
    CodeTests,
    ConfigurationError,
    MathAnswer,
    Sandbox,
    SandboxError,
)
from tests.plugin.test_learned_router import fitted
from tests.plugin.test_learned_router import write as write_router
from tests.support import summers
from tests.support.paths import DATA, ROOT
from training.collect.questions import TableError, read_questions
from training.evaluate.methods import Setting, open_routers, select
from training.learn.policy import export

FILES = {
    "gsm8k": ("gsm8k/test.jsonl", 1319),
    "math": ("math/test.jsonl", 5000),
    "aime": ("aime24/test.jsonl", 30),
    "amc": ("amc23/test.jsonl", 40),
    "mmlu": ("mmlu_stem/test.jsonl", 3018),
    "humaneval": ("humaneval/HumanEval.jsonl.gz", 164),
    "mbpp": ("mbpp/mbpp.jsonl", 974),
}
MODELS = ("tests.support.summers:ann", "tests.support.summers:bo", "tests.support.summers:cy")
EVERY = (
    "single", "greedy", "greedy-vote", "vote-3", "weighted-vote-3", "best-of-2", "adaptive-5",
    "debate-1", "debate-2", "random", "threshold", "php", "dylan", "oracle-2",
)  # fmt: skip


def real(name: str) -> Path:
    path = DATA / FILES[name][0]
    if not path.exists():
        pytest.skip(f"public data is not here: {path}")
    return path


# --- formats --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_published_files_are_read_whole(name: str) -> None:
    questions = load(BENCHMARKS[name], str(real(name)))
    assert len(questions) == FILES[name][1]
    assert len({question.id for question in questions}) == len(questions)
    assert all(question.question and question.reference for question in questions)


def test_references_of_gsm8k_are_what_stands_behind_the_marks() -> None:
    path = real("gsm8k")
    questions = load(BENCHMARKS["gsm8k"], str(path))
    for question, line in zip(questions, path.read_text().splitlines(), strict=True):
        answer = json.loads(line)["answer"].rpartition("####")[2]
        assert question.reference == answer.strip().replace(",", "")


@pytest.mark.parametrize("name", ["math", "aime", "amc"])
def test_references_are_right_answers_and_others_are_not(name: str) -> None:
    benchmark, schema = BENCHMARKS[name], MathAnswer()
    questions = load(benchmark, str(real(name)))[:40]
    for question in questions:
        answer = schema.parse(f"So it is \\boxed{{{question.reference}}}.")
        assert benchmark.grade(schema, answer, question)
        assert not benchmark.grade(schema, "-123456789", question)
        assert not benchmark.grade(schema, None, question)


def test_competition_answers_lose_their_padding() -> None:
    references = [q.reference for q in load(BENCHMARKS["aime"], str(real("aime")))]
    assert references[7] == "25"  # published as 025
    assert load(BENCHMARKS["amc"], str(real("amc")))[0].reference == "27"  # published as 27.0


def test_canonical_programs_pass_and_others_do_not() -> None:
    path = real("humaneval")
    try:
        schema = CodeAnswer()
    except SandboxError as error:
        pytest.skip(str(error))
    benchmark = BENCHMARKS["humaneval"]
    questions = load(benchmark, str(path))
    with gzip.open(path) as lines:
        rows = [json.loads(line) for line in lines]
    for question, row in list(zip(questions, rows, strict=True))[:4]:
        program = row["prompt"] + row["canonical_solution"]
        answer = schema.parse(f"Here it is.\n\n```python\n{program}\n```")
        try:
            assert benchmark.grade(schema, answer, question)
        except SandboxError as error:
            pytest.skip(str(error))
        wrong = f"{row['prompt']}    return None\n"
        assert not benchmark.grade(schema, wrong, question)
        assert PROGRAM.propose.format(question=question.question, instructions="").count("```") == 2


def test_mbpp_shows_one_test_and_hides_the_others() -> None:
    row = {
        "text": "Write a function to double.\r\n",
        "code": "def helper(x):\r\n\treturn x\r\ndef twice(x):\r\n\treturn 2 * helper(x)",
        "test_list": ["assert twice(1) == 2", "assert twice(2) == 4", "assert twice(3) == 6"],
        "test_setup_code": "",
    }
    question, reference = BENCHMARKS["mbpp"].convert(row)
    assert "twice(1)" in question
    assert "twice(2)" not in question + row["text"]
    tests = CodeTests.from_json(reference)
    assert (tests.entry_point, tests.tests) == (
        "twice",
        "assert twice(2) == 4\nassert twice(3) == 6",
    )
    schema = CodeAnswer(sandbox=Sandbox(command=("env", "-i"))).for_question(question)
    assert schema.examples == ("twice(1)",)
    program = schema.parse(f"```python\n{row['code']}\n```")
    assert program is not None
    assert schema.passes(program, tests).passed
    assert not schema.passes("def twice(x): return 2", tests).passed


choices = st.lists(st.text(string.ascii_letters + " ", min_size=1), min_size=4, max_size=4)


@given(choices, st.integers(0, 3), st.booleans())
def test_a_choice_is_asked_by_letter(texts: list[str], answer: int, lettered: bool) -> None:
    given_as = "ABCD"[answer] if lettered else answer
    row = {"question": "Which one?", "choices": texts, "answer": given_as}
    question, letter = BENCHMARKS["mmlu"].convert(row)
    assert question.splitlines()[2 + answer] == f"{letter}. {texts[answer]}"
    assert len(question.splitlines()) == 6


@pytest.mark.parametrize(
    ("name", "row", "fault"),
    [
        ("gsm8k", {"question": "?", "answer": "It is 5."}, "####"),
        ("math", {"problem": "?", "solution": "It is 5."}, "boxed"),
        ("math", {"question": "?", "solution": r"\boxed{5}"}, "'problem'"),
        ("aime", {"problem": "?", "answer": None}, "'answer'"),
        ("amc", {"problem": "?", "answer": True}, "'answer'"),
        ("mmlu", {"question": "?", "choices": ["a", "b"], "answer": 0}, "'choices'"),
        ("mmlu", {"question": "?", "choices": list("abcd"), "answer": 4}, "'answer'"),
        ("humaneval", {"prompt": "def f():", "test": "..."}, "entry_point"),
        ("mbpp", {"text": "?", "code": "def f(): ...", "test_list": ["assert f()"]}, "test_list"),
        ("mbpp", {"text": "?", "code": "def f(): ...", "test_list": ["g()", "g()"]}, "first test"),
    ],
)
def test_another_format_is_refused_with_its_row(
    tmp_path: Path, name: str, row: dict[str, Any], fault: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(TableError, match=f"row 1: .*{fault}"):
        load(BENCHMARKS[name], str(path))


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"question": 1}\n' * 1000)[:-20])
    with pytest.raises(TableError, match=r"data\.jsonl\.gz"):
        load(BENCHMARKS["gsm8k"], str(path))


def test_neither_file_nor_dataset() -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load(BENCHMARKS["gsm8k"], "gsm8k.jsonl")


def test_the_hub_takes_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match="pip install datasets"):
        load(BENCHMARKS["gsm8k"], "openai/gsm8k")


@pytest.mark.parametrize(
    ("data", "split", "asked"),
    [
        (None, None, ("openai/gsm8k", "main", "test")),
        ("openai/gsm8k", "train", ("openai/gsm8k", "main", "train")),
        ("me/mine", None, ("me/mine", None, "test")),
        ("me/mine:hard", "dev", ("me/mine", "hard", "dev")),
    ],
)
def test_what_the_hub_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, data: str | None, split: str | None, asked: Any
) -> None:
    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, str]]:
        assert (name, config, split) == asked
        return [{"question": "1 + 1?", "answer": "#### 2"}]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    [question] = load(BENCHMARKS["gsm8k"], data, split)
    assert (question.question, question.reference) == ("1 + 1?", "2")


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(ConfigurationError, match=r"no route.*give its path"):
        load(BENCHMARKS["mmlu"])


def sums(path: Path, count: int) -> Path:
    """Questions in the format of GSM8K."""
    rows = [
        {"question": f"What is {7 * k} and {k + 2} together?", "answer": f"So\n#### {8 * k + 2:,}"}
        for k in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_sample_is_spread_and_always_the_same(tmp_path: Path) -> None:
    questions = load(BENCHMARKS["gsm8k"], str(sums(tmp_path / "q.jsonl", 200)))
    few, more = sample(questions, 20), sample(questions, 50)
    assert {q.id for q in few} < {q.id for q in more}
    assert [q for q in questions if q in few] == few
    places = [questions.index(q) for q in few]
    assert min(places) < 60
    assert max(places) > 140
    assert sample(questions, None) == sample(questions, 1000) == questions


def test_questions_for_collecting(tmp_path: Path) -> None:
    path = sums(tmp_path / "q.jsonl", 9)
    out = tmp_path / "out" / "questions.jsonl"
    convert(LoaderOptions("gsm8k", out, data=str(path), limit=5))
    assert read_questions(out) == sample(load(BENCHMARKS["gsm8k"], str(path)), 5)


# --- methods --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["vote", "vote-0", "single-3", "oracle", "voting-3", "", "vote-3-3", "threshold-1"]
)
def test_no_such_method(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no method is named"):
        select([name], {}, Setting(), 3)


def options(tmp_path: Path, count: int = 3, **changes: Any) -> run.Options:
    given: dict[str, Any] = {
        "benchmark": "gsm8k",
        "out": tmp_path / "out",
        "data": str(sums(tmp_path / "questions.jsonl", count)),
        "methods": EVERY,
        "model_factory": MODELS,
        "rounds": 2,
        "concurrency": 2,
        **changes,
    }
    return run.Options(**given)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / "rows.jsonl").read_bytes().splitlines()]


def test_every_method_answers_every_question(tmp_path: Path) -> None:
    given = options(tmp_path, control=True, bar=0.99)
    assert run.main(given) == 0
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
    run.main(given)
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
    run.main(options(tmp_path, 6, limit=3, methods=("single", "vote-3")))
    before = rows_of(tmp_path / "out")
    assert len(log.read_text().splitlines()) == 9
    run.main(options(tmp_path, 6, limit=4, methods=("single", "debate-1")))
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
    assert run.main(given) == 1
    assert "failed: " in capsys.readouterr().err
    broken = rows_of(given.out)
    assert ["error" in row["methods"]["vote of 3"][0] for row in broken] == [False, True, False]
    figures = json.loads((given.out / "results.json").read_text())["methods"]
    assert figures["vote of 3"]["failed"] == 1
    assert figures["vote of 3"]["accuracy"] <= 2 / 3
    monkeypatch.delenv("BROKEN")
    assert run.main(given) == 0
    mended = rows_of(given.out)
    assert [mended[0], mended[2]] == [broken[0], broken[2]]
    assert "error" not in mended[1]["methods"]["vote of 3"][0]


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    run.main(options(tmp_path, methods=("single",)))
    run.main(options(tmp_path, methods=("single",), concurrency=1, control=True))
    with pytest.raises(ConfigurationError, match="rounds 2, now 3"):
        run.main(options(tmp_path, methods=("single",), rounds=3))


def test_rows_of_changed_questions_do_not_count(tmp_path: Path) -> None:
    given = options(tmp_path, methods=("single",))
    run.main(given)
    path = Path(str(given.data))
    path.write_text(path.read_text().replace("7 and 3", "7 and 4").replace("#### 10", "#### 11"))
    run.main(given)
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
        assert run.main(given) == 0
    except SandboxError as error:
        pytest.skip(str(error))
    right = [
        {name: found["right"] for name, [found] in row["methods"].items()}
        for row in rows_of(given.out)
    ]
    # The first model is wrong and outvoted by the two programs that do the same; nobody adds
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
    assert run.main(given) == 0
    for row in rows_of(given.out):
        for name in ("mine", "mine: control"):
            assert [one["router"].split("+")[0] for one in row["methods"][name]] == ["v0", "v1"]
            assert row["methods"][name][0]["calls"] >= 3
    figures = json.loads((given.out / "results.json").read_text())["methods"]
    assert (figures["mine"]["kind"], figures["mine"]["runs"]) == ("learned", 2)
    write_router(tmp_path / "mine-1", network.read_bytes(), version="v2")
    assert run.main(given) == 0
    for row in rows_of(given.out):
        assert [one["router"].split("+")[0] for one in row["methods"]["mine"]] == ["v0", "v2"]


def command(given: run.Options) -> list[str]:
    words = ["--benchmark", given.benchmark, "--data", str(given.data), "--out", str(given.out)]
    words += ["--methods", *given.methods, "--model-factory", *given.model_factory]
    words += ["--rounds", str(given.rounds), "--concurrency", "1"]
    return [sys.executable, "examples/benchmarks/run.py", *words]


def test_killed_half_way_it_goes_on_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    methods = ("single", "vote-3", "debate-1", "random", "threshold", "php")
    whole = options(tmp_path / "whole", 8, methods=methods)
    killed = options(tmp_path / "killed", 8, methods=methods)
    assert run.main(whole) == 0

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
    assert run.main(killed) == 0
    assert rows_of(killed.out) == rows_of(whole.out)
    # And the rows follow from the samples alone: nobody need be asked for them again.
    rows.unlink()
    asked = tmp_path / "asked"
    monkeypatch.setenv("ASKED", str(asked))
    capsys.readouterr()
    assert run.main(killed) == 0
    assert "0 samples drawn" in capsys.readouterr().out
    assert not asked.exists()
    assert rows_of(killed.out) == rows_of(whole.out)


# --- estimates and options ------------------------------------------------------------------


def test_an_estimate_counts_what_the_methods_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = ("tests.support.summers:nobody",)

    def calls(*methods: str, **changes: Any) -> str:
        given = options(
            tmp_path, 20, methods=methods, model_factory=nobody, estimate=True, **changes
        )
        assert run.main(given) == 0
        told = capsys.readouterr().out
        assert "20 questions to ask, answers of about 180 tokens" in told
        [line] = [line for line in told.splitlines() if line.startswith("calls:")]
        return line.removeprefix("calls:").strip()

    assert calls("single") == "20 to 20"
    assert calls("single", "vote-3") == "60 to 60"  # they share
    assert calls("vote-3", "debate-2") == "180 to 180"
    # Agents that agree are done; others refine in both rounds.
    assert calls("vote-3", "threshold") == "60 to 180"
    assert calls("single", critic="self") == "40 to 40"
    assert not (tmp_path / "out").exists()


def test_an_estimate_of_tokens_follows_the_length_of_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for length in (100, 1000):
        run.main(
            options(
                tmp_path, 10, methods=("vote-3",), model_factory=(), estimate=True,
                usual_tokens=length,
            )
        )  # fmt: skip
        told = capsys.readouterr().out
        assert f"completion tokens: {30 * length:,} to {30 * length:,}" in told


def test_the_command_line_counts_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = ["a", "b"]\nrounds = 5\nmax-tokens = 99\ncontrol = true\n')
    words = ["--config", str(path), "--benchmark", "math", "--out", "x", "--rounds=1"]
    made = tyro.cli(run.Options, args=run.with_config([*words, "--model", "c"]))
    assert (made.rounds, made.max_tokens, made.model, made.control) == (1, 99, ("c",), True)
    made = tyro.cli(run.Options, args=run.with_config([*words, "--no-control"]))
    assert (made.model, made.control) == (("a", "b"), False)
    assert run.with_config(words[2:]) == words[2:]


@pytest.mark.parametrize("text", ["rounds = ", "rounds = {a = 1}", None])
def test_a_file_of_options_with_faults(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match="--config"):
        run.with_config(["--config", str(path)])


CONFIGS = sorted((ROOT / "examples" / "benchmarks" / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_backbones_configurations_are_options(path: Path, tmp_path: Path) -> None:
    words = ["--config", str(path), "--benchmark", "gsm8k", "--out", str(tmp_path)]
    made = tyro.cli(run.Options, args=run.with_config(words))
    [model], [url] = made.model, made.base_url
    assert url.startswith("http://localhost:")
    assert f"vllm serve {model} " in path.read_text()
    assert f"vllm serve {model} " in (path.parents[1] / "README.md").read_text()
    assert select(made.methods, open_routers(made.router, made), made, made.agents)


def test_there_is_one_for_every_backbone() -> None:
    assert len(CONFIGS) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "vote"], "no method is named 'vote'"),
        (["--limit", "0"], "--limit"),
        (["--rounds", "0"], "--rounds"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        ([], "give either --base-url or --model-factory"),
    ],
)
def test_wrong_commands_say_so_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    path = sums(tmp_path / "q.jsonl", 3)
    given = ["--benchmark", "gsm8k", "--data", str(path), "--out", str(tmp_path / "out"), *words]
    assert run.command(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
