"""Public benchmarks: their published formats, and what is made of them."""

import gzip
import json
import string
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import (
    CodeAnswer,
    CodeTests,
    ConfigurationError,
    MathAnswer,
    Sandbox,
    SandboxError,
)
from tests.support.paths import DATA
from tests.support.summers import sums
from training.collect.questions import TableError, read_questions
from training.collect.team import grader
from training.evaluate.benchmarks import BENCHMARKS, PROGRAM, ConvertOptions, load, sample
from training.evaluate.benchmarks import main as convert

FILES = {
    "gsm8k": ("gsm8k/test.jsonl", 1319),
    "math": ("math/test.jsonl", 5000),
    "aime": ("aime24/test.jsonl", 30),
    "amc": ("amc23/test.jsonl", 40),
    "mmlu": ("mmlu_stem/test.jsonl", 3018),
    "humaneval": ("humaneval/HumanEval.jsonl.gz", 164),
    "mbpp": ("mbpp/mbpp.jsonl", 974),
}


def real(name: str) -> Path:
    path = DATA / FILES[name][0]
    if not path.exists():
        pytest.skip(f"public data is not here: {path}")
    return path


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
    schema, benchmark = MathAnswer(timeout=60), BENCHMARKS[name]  # on a busy machine
    assert benchmark.answer == schema.name
    grade = grader(schema)
    questions = load(benchmark, str(real(name)))[:40]
    for question in questions:
        answer = schema.parse(f"So it is \\boxed{{{question.reference}}}.")
        assert answer is not None
        assert grade(answer, str(question.reference))
        assert not grade("-123456789", str(question.reference))


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
    grade = grader(schema)
    questions = load(BENCHMARKS["humaneval"], str(path))
    with gzip.open(path) as lines:
        rows = [json.loads(line) for line in lines]
    for question, row in list(zip(questions, rows, strict=True))[:4]:
        program = row["prompt"] + row["canonical_solution"]
        answer = schema.parse(f"Here it is.\n\n```python\n{program}\n```")
        assert answer is not None
        try:
            assert grade(answer, str(question.reference))
        except SandboxError as error:
            pytest.skip(str(error))
        wrong = f"{row['prompt']}    return None\n"
        assert not grade(wrong, str(question.reference))
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
    convert(ConvertOptions("gsm8k", out, data=str(path), limit=5))
    assert read_questions(out) == sample(load(BENCHMARKS["gsm8k"], str(path)), 5)
