"""Programs as answers: reading, comparing, testing, and programs that try to cheat."""

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel

from mpdf_langgraph import create_deliberation
from mpdf_langgraph.answers import bubblewrap
from mpdf_langgraph.answers.code_answer import CodeAnswer, CodeTests, Verdict
from mpdf_langgraph.answers.memory import Memory
from mpdf_langgraph.answers.programs import canonical
from mpdf_langgraph.answers.sandbox import Sandbox
from mpdf_langgraph.answers.sandbox_inside import encode
from mpdf_langgraph.answers.schema import assign_clusters, schema_for
from mpdf_langgraph.answers.text_answer import TextAnswer
from mpdf_langgraph.errors import ConfigurationError, SandboxError
from tests.support.paths import DATA

HUMANEVAL = DATA / "humaneval/HumanEval.jsonl.gz"

#: Keeps nothing in: for the programs of these tests that do no harm.
TRUSTED = Sandbox(command=("env", "-i"), seconds=5)
ADD = '''def add(a: int, b: int) -> int:
    """Add two numbers.
    >>> add(2, 3)
    5
    >>> add(2, -2)
    0
    """
'''


@pytest.fixture(scope="module")
def box() -> Sandbox:
    try:
        working = Sandbox(seconds=10)
        with working.start():
            return working
    except SandboxError as error:
        pytest.skip(f"needs bubblewrap: {error}")


@pytest.fixture(scope="module")
def tasks() -> list[dict[str, str]]:
    if not HUMANEVAL.exists():
        pytest.skip(f"needs {HUMANEVAL}, a public data file that is not part of this repository")
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == 164
    return rows


# --- reading --------------------------------------------------------------------------------

F = "def f():\n    return 1"
G = "def g():\n    return 2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"```python\n{F}\n```", F),
        (f"```\n{F}\n```", F),
        (f"```py \n\n{F}\n\n```\nDone", F),
        (f"```python\n{F}\n```\nor rather\n```python\n{G}\n```", G),
        (f"```python\n{F}\n```\nTry it:\n```python\nprint(f())\n```\n```bash\nls\n```", F),
        (f"```python\n{F}\n```\nand cut off\n```python\ndef g():", F),
        ("cut off\n```python\ndef g():\n    return", None),
        ("```text\nfound nothing\n```", None),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", F),
        ("```python\n    return a + b\n```", "    return a + b"),
        (f"{F}\n", F),
        ("import math\n\nasync def f(): ...", "import math\n\nasync def f(): ..."),
        (f"Here it is:\n{F}", F),
        (f"Here it is:\n{F}\nIt gives 1.", F),
        (f"````python\n{F}\n````", F),
        (f"~~~\n{F}\n~~~", F),
        (f"```python\n{F}", F),
        (f"```python\n{F}\n```".replace("\n", "\r\n"), F),
        ("def f(:", None),
        ("no code", None),
        ("", None),
        ("```python\n```", None),
        ("[PYTHON][/PYTHON]", None),
        ("```python\n \n```", None),
        ("def f(): return '" + "x" * 100_000 + "'", None),
    ],
)
def test_parse(text: str, expected: str | None) -> None:
    assert CodeAnswer(sandbox=TRUSTED).parse(text) == expected


pieces = st.sampled_from(["```", "```python", "\n", "def f():", " ", "return 1", "\\", "'", "("])


@given(text=st.one_of(st.text(), st.lists(pieces, max_size=12).map("".join)))
@settings(max_examples=200)
def test_parse_never_raises_and_what_it_finds_equals_itself(text: str) -> None:
    schema = CodeAnswer(sandbox=TRUSTED)
    code = schema.parse(text)
    assert code is None or (code.rstrip() == code != "" and schema.equivalent(code, code + "\n"))


@pytest.mark.parametrize("unit", ["```\n", "```python\n", "def f(): ", "(", " ", "\n", ">>> f("])
def test_long_responses_take_linear_time(unit: str) -> None:
    start = time.process_time()
    text = unit * (1_000_000 // len(unit))
    CodeAnswer(sandbox=TRUSTED).parse(text)
    CodeAnswer(sandbox=TRUSTED).for_question(text)
    assert time.process_time() - start < 5  # quadratic time would take hours


# --- questions ------------------------------------------------------------------------------


def test_for_question_finds_the_examples_and_the_setup() -> None:
    schema = CodeAnswer(sandbox=TRUSTED).for_question(ADD)
    assert schema.examples == ("add(2, 3)", "add(2, -2)")
    assert schema.setup == ADD
    assert schema.sandbox is TRUSTED
    prose = CodeAnswer(sandbox=TRUSTED).for_question(f"Complete this:\n```python\n{ADD}```")
    assert prose.examples == schema.examples
    assert prose.setup.strip() == ADD.strip()


@pytest.mark.parametrize(
    ("text", "examples"),
    [
        (
            "def f(x):\n    '''f([1, (2)], k=None) == 3; f(\")\") => 1'''",
            ["f([1, (2)], k=None)", 'f(")")'],
        ),
        ("def f():\n    '''f() is 1 and f() is not 2'''", ["f()"]),
        (
            "def f(x):\n '''>>> round(f(2.5), 2) # f(x)\n g.f(1), ff(1), f(y), f(*a), f(**{})'''",
            ["f(2.5)"],
        ),
        ("def f(x):\n    '''>>> f([1,\n    ...    2])'''", ["f([1,\n    2])"]),
        ("def g(x): ...\ndef f(x):\n    '''g(1), f(1)'''", ["f(1)"]),
        (
            "def f(x): " + repr(" ".join(f"f({i})" for i in range(99))),
            [f"f({i})" for i in range(20)],
        ),
        ("Write a function.\n>>> f(1)\n1\n>>> x = 3\n>>> f(x)", ["f(1)"]),
        ("Write a function f(1).", []),
        ("Cities A and B", []),
        ("x", []),
        ("", []),
    ],
)
def test_examples_of_questions(text: str, examples: list[str]) -> None:
    assert CodeAnswer(sandbox=TRUSTED).for_question(text).examples == tuple(examples)


def test_most_humaneval_questions_have_examples(tasks: list[dict[str, str]]) -> None:
    schema = CodeAnswer(sandbox=TRUSTED)
    bound = [schema.for_question(task["prompt"]) for task in tasks]
    assert all(
        example.startswith(task["entry_point"] + "(")
        for one, task in zip(bound, tasks, strict=True)
        for example in one.examples
    )
    assert [one.setup for one in bound] == [task["prompt"] for task in tasks]
    assert sum(bool(one.examples) for one in bound) == 141  # the rest speak of theirs in prose


@pytest.mark.parametrize(
    "example", ["add(2, x)", "add", "2 + 3", "add(2", "a.add(2)", "f(**{})", ""]
)
def test_examples_must_be_literal_calls(example: str) -> None:
    with pytest.raises(ConfigurationError, match="literal arguments"):
        CodeAnswer(examples=["add(1, 1)", example], sandbox=TRUSTED)


def test_other_schemas_do_not_care_about_the_question() -> None:
    schema = TextAnswer()
    assert schema_for(schema, ADD) is schema
    assert schema_for(CodeAnswer(sandbox=TRUSTED), ADD) is not schema


# --- comparing ------------------------------------------------------------------------------

PLUS = "def add(a, b):\n    return a + b"
SUM = "def add(a, b):\n    # another way\n    return float(sum([a, b]))"
TIMES = "def add(a, b):\n    return a * b"


def test_programs_are_compared_by_what_they_give() -> None:
    schema = CodeAnswer(sandbox=TRUSTED).for_question(ADD)
    assert schema.equivalent(PLUS, SUM)
    assert not schema.equivalent(PLUS, TIMES)
    assert not schema.equivalent(TIMES, SUM)
    assert schema.equivalent("    return a + b", PLUS)  # the rest of the function
    assert schema.outputs(PLUS) == schema.outputs(SUM) == ("value 0x5", "value 0x0")
    assert assign_clusters([PLUS, TIMES, SUM, None], [], schema.equivalent)[0] == [0, 1, 0, None]
    # The same answers, as far as the examples show.
    assert schema.equivalent(PLUS, "def add(a, b): return 5 if b == 3 else 0")


def test_without_examples_the_text_decides() -> None:
    schema = CodeAnswer(sandbox=Sandbox(command=("false",)))  # nothing is run
    other = 'def add( a,b ):\n  "Add."\n  return (a + b)  # sum'
    assert schema.equivalent(PLUS, other)
    assert schema.equivalent("not: python", "not:  python")
    assert not schema.equivalent(PLUS, SUM)
    assert not schema.equivalent("def f(): 'a'", "def f(): 'b'")
    assert schema.outputs(PLUS) is None


@pytest.mark.parametrize(
    "broken",
    [
        "def add(a, b): return a +",
        "def add(a, b): raise ValueError",
        "add = None",
        "def add(a, b): return object()",
        "import os\ndef add(a, b): os._exit(0)",
        "1 / 0",
    ],
)
def test_programs_that_give_nothing_agree_with_nobody(broken: str) -> None:
    schema = CodeAnswer(sandbox=TRUSTED).for_question(ADD)
    assert schema.outputs(broken) is None
    assert not schema.equivalent(broken, PLUS)
    assert not schema.equivalent(broken, broken + "\nx = 1")
    assert schema.equivalent(broken, broken)


def test_an_error_is_an_output_among_others() -> None:
    schema = CodeAnswer(examples=["f(1)", "f(0)"], sandbox=TRUSTED)
    divide, invert = "def f(x): return 1 / x", "def f(x): return x ** -1"
    assert schema.equivalent(divide, invert)
    assert not schema.equivalent(divide, "def f(x): return {1: 1}[x]")


def test_outputs_are_remembered_across_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = CodeAnswer(sandbox=TRUSTED)
    assert schema.for_question(ADD).equivalent(PLUS, SUM)
    monkeypatch.setattr(Sandbox, "start", None)
    assert schema.for_question(ADD).equivalent(SUM, PLUS)
    monkeypatch.setattr(Memory, "CAPACITY", 2)
    monkeypatch.setattr(CodeAnswer, "_outputs", lambda self, code: None)
    for number in range(9):
        schema.for_question(ADD).outputs(f"{PLUS}\n{number}")
    assert len(schema._memory._known) <= 2


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True),
        (1, True, True),
        ([1, 2], (1, 2), False),
        ({1, 2}, {2, 1}, True),
        ({1: 2, 3: 4}, {3: 4, 1: 2}, True),
        ({1: 2}, [[1, 2]], False),
        (0.1 + 0.2, 0.3, True),
        (2.0000000000000004, 2, True),
        (0.3001, 0.3, False),
        (-0.0, 0, True),
        (float("nan"), float("nan"), True),
        (float("inf"), float("inf"), True),
        (float("inf"), float("-inf"), False),
        (2**70, 2**70 + 1, False),
        (2**70, float(2**70), True),
        ("1", 1, False),
        (b"a", "a", False),
        ("nan", float("nan"), False),
        ("[0x1]", [1], False),
        (None, "null", False),
        (["a, b"], ["a", "b"], False),
    ],
)
def test_equal_values_have_one_form(a: Any, b: Any, same: bool) -> None:
    assert (canonical(encode(a)) == canonical(encode(b))) is same


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "0x1", "]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers(0, 2) | st.text(max_size=1), inner, max_size=3)
        | st.frozensets(st.integers(0, 3), max_size=3)
    ),
    max_leaves=6,
)


@given(a=values, b=values)
def test_the_form_is_the_same_exactly_for_equal_values(a: Any, b: Any) -> None:
    assert (canonical(encode(a)) == canonical(encode(b))) is (a == b)


def test_a_deliberation_over_programs() -> None:
    def says(code: str) -> FakeListChatModel:
        return FakeListChatModel(responses=[f"So:\n```python\n{code}\n```"])

    graph = create_deliberation(
        [says(TIMES), says(PLUS), says(SUM)],
        router="always-persist",
        critic=None,
        consensus="majority",
        answer=CodeAnswer(sandbox=TRUSTED),
    ).compile()
    told = graph.invoke({"question": ADD})["deliberation"]
    assert told["answer"] == PLUS
    assert told["support"] == pytest.approx(2 / 3)


# --- testing --------------------------------------------------------------------------------

CHECK = CodeTests("f", "def check(candidate):\n    assert candidate(2) == 4\n    assert f(3) == 9")


def test_verdicts() -> None:
    schema = CodeAnswer(sandbox=TRUSTED)
    assert schema.passes("def f(x): return x * x", CHECK) == Verdict(True)
    assert schema.passes("def f(x): return x * x", CHECK.to_json()) == Verdict(True)
    assert schema.passes("def f(x): return x + 2", CHECK) == Verdict(False, "AssertionError:")
    assert "SyntaxError" in schema.passes("def f(", CHECK).reason
    assert "no function f" in schema.passes("def g(x): return x * x", CHECK).reason
    assert "boom" in schema.passes("def f(x): raise RuntimeError('boom')", CHECK).reason
    assert "not plain data" in schema.passes("def f(x): return f", CHECK).reason


def test_tests_can_expect_errors_and_use_the_setup() -> None:
    tests = CodeTests(
        "f",
        "for wrong in (TypeError, ValueError):\n"
        "    try:\n"
        "        f(wrong.__name__)\n"
        "    except wrong as error:\n"
        "        assert 'x' in str(error)\n"
        "    else:\n"
        "        assert False\n"
        "try:\n    f('other')\nexcept Exception as error:\n    assert 'Odd' in str(error)\n"
        "assert f(TWO) == helper(TWO)",
        "TWO = 2\ndef helper(x): return x\ndef f(x):\n    'To be written.'\n",
    )
    program = """
from __future__ import annotations
class Odd(Exception): pass
def helper(x): return 'mine'
def f(x):
    if x == TWO:
        return x
    raise {"TypeError": TypeError, "ValueError": ValueError}.get(x, Odd)('x')
"""
    schema = CodeAnswer(sandbox=TRUSTED)
    assert schema.passes(program, tests) == Verdict(True)
    assert schema.passes("    return x", tests).passed is False


@pytest.mark.parametrize(
    "tests",
    [
        CodeTests("f", "assert f("),
        CodeTests("f", "f(print)"),
        CodeTests("f", "f(1)", "1 / 0"),
        CodeTests("f", "f(1)", "def"),
        CodeTests("f", "assert True"),
        CodeTests("f", "def check(candidate):\n    yield candidate(1)"),
        CodeTests("f", "async def check(candidate):\n    assert candidate(1)"),
    ],
)
def test_tests_that_cannot_be_run_are_nobodys_failure(tests: CodeTests) -> None:
    with pytest.raises(ConfigurationError, match="tests of f are of no use"):
        CodeAnswer(sandbox=TRUSTED).passes("def f(x): return x", tests)


@pytest.mark.parametrize("text", ["", "5", "[]", '{"tests": 1}', '{"entry_point": "f"}', "\ud800"])
def test_other_references_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="to_json"):
        CodeAnswer(sandbox=TRUSTED).passes(F, text)


def test_without_a_sandbox_there_is_no_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    bubblewrap.bubblewrap_command.cache_clear()
    with pytest.raises(SandboxError, match="bubblewrap"):
        CodeAnswer()


def test_humaneval_solutions_pass_and_others_do_not(
    box: Sandbox, tasks: list[dict[str, str]]
) -> None:
    schema = CodeAnswer(sandbox=box)

    def run(task: dict[str, str]) -> tuple[Verdict, Verdict]:
        nothing = f"def {task['entry_point']}(*args): return None"
        tests = CodeTests(task["entry_point"], task["test"], task["prompt"])
        return schema.passes(task["canonical_solution"], tests), schema.passes(nothing, tests)

    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(run, tasks))
    assert [right for right, _ in verdicts] == [Verdict(True)] * 164
    assert not any(wrong.passed for _, wrong in verdicts)


# --- cheating -------------------------------------------------------------------------------

#: Programs that are no answer and try to break the conversation. `test_verdicts` has those that
#: forge a verdict, `test_escapes` those that try to get out.
HOSTILE = {
    "deep value": "import os\ndef f(x):\n os.write(4, b'[' * 90000 + b']' * 90000 + b'\\n')",
    "hashes": """
import json, os
def f(x):
    numbers = [(2**61 - 1) * n for n in range(40000)]
    os.write(4, json.dumps({"value": {"set": numbers}}).encode() + b"\\n")
""",
    "evil error": """
class Meta(type):
    def __getattribute__(cls, name): raise KeyboardInterrupt
class E(BaseException, metaclass=Meta):
    def __str__(self): raise SystemExit(0)
def f(x): raise E
""",
    "fork bomb": "import os\ndef f(x):\n while True: os.fork()",
    "memory": "def f(x):\n a = [0]\n while True: a += a",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "flood": "import os\nwhile True: os.write(4, b'{}\\n' * 10000)",
    "long value": "def f(x): return 'x' * 10**8",
    "endless value": "def f(x):\n a = []\n a.append(a)\n return a",
    "big number": "def f(x): return 10 ** 10**9",
    "loop": "while True: pass",
    "stopped": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "closed": "import os, time\nos.closerange(0, 64)\ntime.sleep(1000)",
    "host": "def f(x): return len(open('/etc/hostname').read()) * 0 + x * x",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_programs_fail_safely(box: Sandbox, program: str) -> None:
    schema = CodeAnswer(sandbox=Sandbox(seconds=0.5), examples=["f(2)", "f(3)"])
    start = time.monotonic()
    verdict = schema.passes(program, CHECK)
    assert not verdict.passed
    assert 0 < len(verdict.reason) <= 500
    schema.outputs(program)  # whatever they are
    assert time.monotonic() - start < 60


def test_what_is_harmless_passes(box: Sandbox) -> None:
    program = """
import atexit, os, signal, sys, time
signal.signal(signal.SIGALRM, signal.SIG_IGN)
atexit.register(print, "bye")
print("loaded", file=sys.stderr)
def f(x):
    print("called" * 1000)
    return x * x if os.listdir("/tmp") == [] else None
if __name__ == "__main__":
    f(input())
"""
    assert CodeAnswer(sandbox=box).passes(program, CHECK) == Verdict(True)
    # A forged reply is an answer like any other, and right or wrong like any other.
    program = "import os\ndef f(x):\n os.write(4, b'{\"value\": %d}\\n' % (x * x))\n os.read(3, 9)"
    tests = CodeTests("f", "assert f(2) == 4")
    assert CodeAnswer(sandbox=Sandbox(seconds=3)).passes(program, tests).passed
