"""The critic that runs a question's own examples."""

from typing import cast

import pytest

from examples.real_models.programs import critic, shown_tests
from mpdf_langgraph import CodeAnswer, Sandbox, SandboxError
from mpdf_langgraph.answers.code_answer import Verdict
from mpdf_langgraph.state import Response

QUESTION = "def add(a, b):\n    '''\n    >>> add(2, 3)\n    5\n    >>> add(1, 0)\n    1\n    '''\n"


@pytest.mark.parametrize(
    ("text", "tests"),
    [
        ("assert f(2) == [4]", ["assert f(2) == [4]"]),
        (">>> f(2)\n    {'a': 4}\n    more words", ["assert f(2) == {'a': 4}"]),
        ("f(2) => 4", ["assert f(2) == 4"]),
        ("f(2) ➞ -4.5, as it should.", ["assert f(2) == -4.5"]),
        ("f(2) should return True  # a remark", ["assert f(2) == True  # a remark"]),
        ("f(2) = 4 (a remark)", ["assert f(2) == 4"]),
        ("f(2) = 1 + 3", []),  # no literal
        ("f(2) helps.", []),
        ("f(2)", []),
    ],
)
def test_results_that_are_shown(text: str, tests: list[str]) -> None:
    assert shown_tests(text, ("f(2)",)) == tests


def test_the_examples_of_a_question_are_found_by_its_schema() -> None:
    bound = CodeAnswer(sandbox=Sandbox(command=("env", "-i"))).for_question(QUESTION)
    assert shown_tests(QUESTION, bound.examples) == [
        "assert add(2, 3) == 5",
        "assert add(1, 0) == 1",
    ]


def test_confidence_is_the_share_of_examples_passed() -> None:
    try:
        judge = critic()
        found = [
            judge(QUESTION, answered(body))
            for body in ("return a + b", "return a", "return 7", "import nothing")
        ]
    except SandboxError as error:
        pytest.skip(str(error))
    assert found == pytest.approx([0.95, 0.5, 0.05, 0.05])
    assert judge(QUESTION, answered(None)) == 0.05
    assert judge("Write a program that adds.", answered("return a + b")) is None


def answered(body: str | None) -> Response:
    return cast("Response", {"answer": body and f"def add(a, b):\n    {body}"})


def test_a_program_that_hangs_takes_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def hang(*_: object) -> Verdict:
        started.append(1)
        clock[0] += 10.0  # as long as a program has
        return Verdict(False, "it did not end")

    clock = [0.0]
    monkeypatch.setattr("examples.real_models.programs.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(CodeAnswer, "passes", hang)
    try:
        judge = critic()
    except SandboxError as error:
        pytest.skip(str(error))
    calls = "\n".join(f"    >>> add({n}, 3)\n    {n + 3}" for n in range(9))
    question = f"def add(a, b):\n    '''\n{calls}\n    '''\n"
    assert judge(question, answered("while 1: pass")) == 0.05
    assert len(started) <= 2
