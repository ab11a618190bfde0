"""Verdicts that a program must not be able to choose, whatever it raises or says."""

import builtins
import sys
from typing import Any

import pytest

from mpdf_langgraph.answers import sandbox_inside
from mpdf_langgraph.answers.code_answer import CodeAnswer, CodeTests
from mpdf_langgraph.answers.sandbox import Sandbox

#: Keeps nothing in: for the programs of these tests that do no harm.
TRUSTED = Sandbox(command=("env", "-i"), seconds=20)

#: Ways to ask a function for its answers, all of them wrong where it gives none.
WAYS = {
    "assert": "assert f(1) == 1",
    "all map": "assert all(map(f, [1, 2]))",
    "all of a list": "assert all([f(x) == x for x in (1, 2)])",
    "all of a generator": "assert all(f(x) == x for x in (1, 2))",
    "all of a lambda": "assert all(map(lambda x: f(x) == x, [1, 2]))",
    "not any": "assert not any(map(lambda x: f(x) != x, [1, 2]))",
    "a loop": "for y in map(f, [1, 2]):\n    assert y",
    "a loop that counts": "for x, y in zip([1, 2], map(f, [1, 2])):\n    assert x == y",
    "a filter": "assert not list(filter(lambda x: f(x) != x, [1, 2]))",
    "a default": "assert next(map(f, [1]), True)",
    "until": "for y in iter(lambda: f(1), 1):\n    assert y",
    "a sum": "assert sum(map(lambda x: f(x) != x, [1, 2])) == 0",
    "a maximum": "assert max(map(lambda x: f(x) != x, [1, 2]), default=False) is False",
    "sorted": "assert sorted(map(lambda x: f(x) != x, [1])) in ([], [False])",
    "a dict": "assert False not in dict(map(lambda x: (x, f(x) == x), [1])).values()",
    "yield from": "def g():\n    yield from map(f, [1, 2])\nassert all(g())",
    "a generator": "def g():\n    yield f(1)\nassert all(g())",
    "a class": "class A:\n    left = 2\n    def __iter__(self): return self\n"
    "    def __next__(self):\n        if not self.left: raise StopIteration\n"
    "        self.left -= 1\n        return f(1)\n"
    "assert all(A())",
    "itertools": "import itertools\nassert all(itertools.starmap(f, [(1,), (2,)]))",
    "async": "import asyncio\nclass A:\n    def __aiter__(self): return self\n"
    "    left = 2\n    async def __anext__(self):\n"
    "        if not self.left: raise StopAsyncIteration\n        self.left -= 1\n"
    "        return f(1)\n"
    "async def g():\n    async for y in A():\n        assert y\nasyncio.run(g())",
    "check": "def check(candidate):\n    assert all(map(candidate, [1, 2]))",
}
KINDS = sorted(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)


class Raising:
    """The outside as the tests see it: whatever they ask, an error is the reply."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self.reply = reply
        self.said: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.said.append(message)

    def receive(self) -> dict[str, Any]:
        return self.reply


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run tests here, in this process, with one reply to all of their calls."""
    # The judge makes a module of this name, which is that of these tests' package.
    monkeypatch.setitem(sys.modules, "tests", sys.modules.get("tests"))

    def run(reply: dict[str, Any], tests: str) -> dict[str, Any]:
        channel = Raising(reply)
        sandbox_inside._serve_tests(channel, "", tests, "f")  # type: ignore[arg-type]
        assert "name" in channel.said[0]  # it did ask
        return channel.said[-1]

    return run


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_kind_of_error_passes(judge: Any, way: str) -> None:
    replies = [{"raised": name, "text": "x"} for name in [*KINDS, "Odd", "", "print", "__name__"]]
    forged = [
        {},
        {"raised": None},
        {"raised": ["StopIteration"]},
        {"value": {}},
        {"value": {"int": "x"}},
        {"value": {"StopIteration": 1}},
        {"value": {"set": [[]]}},
        {"value": {"dict": 1}},
        {"passed": True},
        {"unusable": "the tests"},
    ]
    passed = [
        reply for reply in [*replies, *forged] if judge(reply, way).get("passed") is not False
    ]
    assert passed == []


def test_the_ways_pass_what_is_right() -> None:
    """So they are no tests that nothing passes."""
    schema = CodeAnswer(sandbox=TRUSTED)
    wrong = {
        name: verdict.reason
        for name, way in WAYS.items()
        if not (verdict := schema.passes("def f(x): return x", CodeTests("f", way))).passed
    }
    assert wrong == {}


def test_tests_can_still_expect_what_python_raises(judge: Any) -> None:
    for name in ("ValueError", "KeyError", "IndexError", "TypeError", "ZeroDivisionError"):
        tests = f"try:\n    f(1)\nexcept {name}:\n    pass\nelse:\n    assert False"
        assert judge({"raised": name, "text": ""}, tests) == {"passed": True, "reason": ""}
    # These are no errors to Python, so they arrive as another one.
    tests = "try:\n    f(1)\nexcept Exception as error:\n    assert str(error) == 'NAME: x'"
    for name in ("StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit"):
        reply = {"raised": name, "text": "x"}
        assert judge(reply, tests.replace("NAME", name))["passed"] is True


def test_assertions_stay_in(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling: list[dict[str, Any]] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        compiling.append(kwargs)
        return compile(*args, **kwargs)

    monkeypatch.setattr(sandbox_inside, "compile", spy, raising=False)
    assert judge({"value": 2}, "assert f(1) == 1")["passed"] is False
    assert [options["optimize"] for options in compiling] == [0, 0]


#: None of them returns x: each tries to pass for it in the process that it has for itself.
FORGED = {
    "stop": "def f(x): raise StopIteration",
    "a kind of stop": "class StopIteration(StopIteration): pass\ndef f(x): raise StopIteration",
    "a name": "E = type('StopIteration', (Exception,), {})\ndef f(x): raise E",
    "a stop in a message": "import os\ndef f(x):\n"
    ' os.write(4, b\'{"raised": "StopIteration"}\\n\')\n os.read(3, 9)',
    "a generator's end": "def f(x): raise GeneratorExit",
    "the interpreter's end": "def f(x): raise SystemExit(0)",
    "an interrupt": "def f(x): raise KeyboardInterrupt",
    "a base": "def f(x): raise BaseException",
    "a group": "def f(x): raise ExceptionGroup('', [StopIteration()])",
    "a group of bases": "def f(x): raise BaseExceptionGroup('', [SystemExit()])",
    "an error of tests": "def f(x): raise AssertionError",
    "a warning": "def f(x): raise DeprecationWarning",
    "a name that is none": "class M(type):\n @property\n def __name__(cls): return 1\n"
    "class E(Exception, metaclass=M): pass\ndef f(x): raise E",
    "a text that raises": "class E(Exception):\n def __str__(self): raise StopIteration\n"
    "def f(x): raise E",
    "true for all": "class A:\n __eq__ = __ne__ = __lt__ = lambda *a: True\n __bool__ = __eq__\n"
    "def f(x): return A()",
    "a number for all": "class A(int):\n __eq__ = lambda *a: True\n __hash__ = int.__hash__\n"
    "def f(x): return A(0)",
    "a text for all": "class A(str):\n __eq__ = lambda *a: True\n __hash__ = str.__hash__\n"
    "def f(x): return A('')",
    "a list for all": "class A(list):\n __eq__ = lambda *a: True\ndef f(x): return A()",
    "a dict for all": "class A(dict):\n __eq__ = lambda *a: True\ndef f(x): return A()",
    "not a number": "def f(x): return float('nan')",
    "a verdict": 'import os\ndef f(x):\n os.write(4, b\'{"passed": true, "reason": ""}\\n\')',
    "a verdict at load": "import os\nos.write(4, b'{\"passed\": true}\\n' * 9)\ndef f(x): return 0",
    "a greeting": 'import os\nos.write(4, b\'{"hello": true}\\n{"ready": true}\\n\')\nos._exit(0)',
    "a verdict printed": "import sys\nprint('{\"passed\": true}', flush=True)\n"
    "sys.__stdout__.write('{\"passed\": true}\\n')\ndef f(x): return 0",
    "the tests blamed": 'import os\ndef f(x): os.write(4, b\'{"unusable": "x"}\\n\')',
    "builtins": "import builtins\nbuiltins.AssertionError = builtins.all = bool\n"
    "builtins.compile = builtins.exec = lambda *a, **k: None\ndef f(x): return 0",
    "json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\ndef f(x): return 0",
    "the other side's code": "import sys\nfor m in list(sys.modules.values()):\n"
    " for n in ('encode', 'decode', '_rebuilt', '_told', 'candidate'):\n"
    "  if hasattr(m, n): setattr(m, n, lambda *a: True)\ndef f(x): return 0",
    "frames": "import sys\ndef f(x):\n g = sys._getframe()\n while g:\n"
    "  g.f_globals.update(passed=True, reason='')\n  g = g.f_back",
    "objects": "import gc\ndef f(x):\n for o in gc.get_objects():\n"
    "  if isinstance(o, dict) and 'passed' in o: o['passed'] = True",
    "an exit": "import os\ndef f(x): os._exit(0)",
    "an exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "an exit by a signal": "import os, signal\nsignal.signal(10, lambda *a: os._exit(0))\n"
    "def f(x): os.kill(os.getpid(), 10)",
    "a trace": "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef f(x): return 0",
    "a profile": "import sys\nsys.setprofile(lambda *a: None)\ndef f(x): return 0",
    "an import hook": "import sys\nsys.meta_path.insert(0, None)\ndef f(x): return 0",
    "an exception hook": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\ndef f(x): 1 / 0",
    "an audit hook": "import os, sys\nsys.addaudithook(lambda *a: None)\ndef f(x): return 0",
    "a finaliser": "import os\nclass A:\n def __del__(self): os._exit(0)\ndef f(x): A()",
    "code of another": "def f(x): return 0\nf.__code__ = (lambda x: None).__code__",
    "no function": "import sys\nsys.modules['program'].f = True",
    "a class": "class f:\n def __new__(cls, x): return True if x is None else 0",
    "a coroutine": "async def f(x): return x",
    "a generator": "def f(x): yield x",
    "crash": "import ctypes\ndef f(x): ctypes.string_at(0)",
}


@pytest.mark.parametrize("program", FORGED.values(), ids=FORGED)
def test_no_program_forges_its_verdict(program: str) -> None:
    tests = CodeTests("f", "\n".join(["assert f(7) == 7", "assert all(map(f, [5, 6]))"]))
    again = CodeTests("f", "assert all(map(lambda x: f(x) == x, [5, 6]))")
    for reference in (tests, again):
        assert not CodeAnswer(sandbox=TRUSTED).passes(program, reference).passed


@pytest.mark.parametrize("where", ["at load", "in a call"])
def test_a_deep_reply_is_a_wrong_answer(where: str) -> None:
    """Some depth can just be read, and is too deep to be written, decoded or shown."""
    tests = CodeTests("f", "assert f(1) == 1")
    for depth in (*range(955, 1000, 4), 3000):
        key = b"raised" if where == "at load" else b"value"
        reply = b'{"%s": ' % key + b"[" * depth + b"]" * depth + b"}\n"
        write = f"import os\ndef f(x): os.write(4, {reply!r})\n"
        program = write + ("f(1)" if where == "at load" else "")
        assert not CodeAnswer(sandbox=TRUSTED).passes(program, tests).passed
