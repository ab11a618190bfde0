"""The sandbox: what a program can do in it, and what it cannot get out of it."""

import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_langgraph.answers import bubblewrap
from mpdf_langgraph.answers import sandbox as module
from mpdf_langgraph.answers.sandbox import ProgramEndedError, Sandbox
from mpdf_langgraph.answers.sandbox_inside import decode, encode
from mpdf_langgraph.errors import ConfigurationError, SandboxError
from tests.plugin.answers.escapes.running import children

#: Keeps nothing in: for the programs of these tests that do no harm.
TRUSTED = Sandbox(command=("env", "-i"), seconds=5)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    try:
        sandbox = Sandbox(seconds=5)
        with sandbox.start():
            return sandbox
    except SandboxError as error:
        pytest.skip(f"needs bubblewrap: {error}")


def answer(sandbox: Sandbox, program: str, *args: Any) -> Any:
    """What `f` of a program gives, or the name and text of the error it raises."""
    with sandbox.start() as process:
        deadline = time.monotonic() + sandbox.seconds
        process.send({"program": program}, deadline)
        reply = process.receive(deadline)
        if "ready" in reply:
            call = {"name": "f", "args": encode(list(args)), "kwargs": encode({})}
            process.send(call, deadline)
            reply = process.receive(deadline)
    return decode(reply["value"]) if "value" in reply else (reply["raised"], reply["text"])


# --- plain values ---------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=10,
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and same(list(a.items()), list(b.items()))
    return type(a) is type(b) and a == b


@given(value=plain)
def test_plain_values_travel(value: Any) -> None:
    assert same(decode(json.loads(json.dumps(encode(value)))), value)


def test_what_is_built_on_plain_values_arrives_plain() -> None:
    class Always(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        def __str__(self) -> str:
            return "other"

    value = decode(encode([Always(3), Text("ab"), {Always(1): Text("c")}, bytearray(b"x")]))
    assert value == [3, "ab", {1: "c"}, b"x"]
    assert [type(item) for item in value] == [int, str, dict, bytes]
    assert decode(json.loads(json.dumps(encode(float("nan"))))) != 0
    assert decode(encode(2**70000)) == 2**70000


def test_what_is_not_plain_cannot_travel() -> None:
    for value in (object(), len, [iter([])], {"a": range(3)}, {1: {2: print}}):
        with pytest.raises(TypeError, match="not plain data"):
            encode(value)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        encode(endless)


@pytest.mark.parametrize(
    "data", [{}, {"a": 1, "b": 2}, {"module": "os"}, {"int": "x"}, {"dict": [1]}, {"set": [[1]]}]
)
def test_other_forms_are_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(data)


# --- without bubblewrap ---------------------------------------------------------------------


def test_a_program_answers() -> None:
    assert answer(TRUSTED, "def f(x, y): return [x + y, {x: (y,)}]", 1, 2) == [3, {1: (2,)}]
    assert answer(TRUSTED, "def f(): return g()\ndef g(): return __name__") == "program"


def test_a_program_has_the_standard_library_and_its_dataclasses() -> None:
    program = """
from __future__ import annotations
from dataclasses import dataclass
import collections, heapq, math, re
@dataclass
class Point:
    x: int
    y: int = 2
def f(x):
    return collections.Counter([Point(x).y, 2]), math.sqrt(4)
"""
    assert answer(TRUSTED, program, 1) == ({2: 2}, 2.0)


def test_printing_and_reading_are_no_part_of_the_conversation() -> None:
    program = "import sys\nprint(1)\ndef f():\n print('{}')\n return sys.stdin.read()"
    assert answer(TRUSTED, program) == ""


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("def g(): pass", "NameError"),
        ("f = 3", "NameError"),
        ("def f(): raise KeyError(1)", "KeyError"),
        ("import sys\ndef f(): sys.exit(0)", "SystemExit"),
        ("def f(): return f", "TypeError"),
        ("def f():\n a = []\n a.append(a)\n return a", "RecursionError"),
        ("class E(Exception):\n def __str__(self): 1 / 0\ndef f(): raise E", "E"),
        ("def f(): return f()", "RecursionError"),
        ("\0", "ValueError"),
    ],
)
def test_errors_are_told_by_name(program: str, kind: str) -> None:
    raised, text = answer(TRUSTED, program)
    # Null characters are another error since Python 3.12.
    assert raised == kind or {raised, kind} == {"SyntaxError", "ValueError"}
    assert isinstance(text, str)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os\nos._exit(0)", "ended by itself"),
        ("import os\ndef f(): os._exit(0)", "ended by itself"),
        ("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGKILL)", "ended by itself"),
        ("import os, time\nos.closerange(0, 64)\ntime.sleep(60)", "fell silent"),
        ("while True: pass", "too long"),
        ("def f():\n while True: print('x' * 1000)", "too long"),
        ("def f(): return 'x' * 2_000_000", "at once"),
        ("import os\nwhile True: os.write(4, b'x' * 10000)", "at once"),
        ("import os\nos.write(4, b'x\\n' * 10000)", "cannot be read"),
        ("import os\nos.write(4, b'[' * 100000 + b'\\n')", "cannot be read"),
        ("import os\nos.write(4, b'[1]\\n')", "cannot be read"),
    ],
)
def test_what_ends_a_program(program: str, reason: str) -> None:
    sandbox = Sandbox(command=("env", "-i"), seconds=3)
    start = time.monotonic()
    with pytest.raises(ProgramEndedError, match=reason):
        answer(sandbox, program)
    assert time.monotonic() - start < 30


def test_a_program_that_reads_nothing_does_not_block() -> None:
    sandbox = Sandbox(command=("env", "-i"), seconds=0.5)
    with sandbox.start() as process:
        deadline = time.monotonic() + 0.5
        process.send({"program": "while True: pass"}, deadline)
        with pytest.raises(ProgramEndedError, match="too long"):
            process.send({"name": "f", "args": ["x" * 10_000_000], "kwargs": {}}, deadline)


def test_a_sandbox_that_does_not_work_says_why() -> None:
    with (
        pytest.raises(SandboxError, match=r"status 3.*no user namespaces"),
        Sandbox(command=("sh", "-c", "echo no user namespaces >&2; exit 3")).start(),
    ):
        pass
    with (
        pytest.raises(SandboxError, match="something else"),
        Sandbox(command=("sh", "-c", "echo {}")).start(),
    ):
        pass


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap.bubblewrap_command.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match=r"apt install bubblewrap.*command="):
        Sandbox()
    with pytest.raises(SandboxError, match="firejail is not installed"):
        Sandbox(command=["firejail", "--quiet"])


@pytest.mark.parametrize("missing", ["bwrap", "prlimit", "setpriv"])
def test_what_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/bin/{name}")
    bubblewrap.bubblewrap_command.cache_clear()
    package = "bubblewrap" if missing == "bwrap" else "util-linux"
    with pytest.raises(SandboxError, match=rf"{missing} is not installed.*apt install {package}"):
        Sandbox()
    bubblewrap.bubblewrap_command.cache_clear()


def test_root_needs_a_python_that_others_may_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = tmp_path / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    ours.parent.mkdir()
    ours.touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    tmp_path.chmod(0o700)
    assert bubblewrap._python(root=False) != ours  # it may not be run
    ours.chmod(0o755)
    assert bubblewrap._python(root=False) == ours
    system = bubblewrap._python(root=True) if Path("/usr/bin/python3").exists() else None
    assert system is None or system.is_relative_to("/usr")


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": 0},
        {"seconds": float("nan")},
        {"seconds": "5"},
        {"memory": 1},
        {"memory": 1e9},
        {"command": "firejail --quiet"},
        {"command": ()},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Sandbox(**options)


# --- the sandbox itself: `test_escapes` has what programs must not get ---------------------------


def test_what_programs_need_works(box: Sandbox) -> None:
    program = """
import asyncio, decimal, random, select, signal, socket, time
async def wait(x):
    await asyncio.sleep(0.001)
    return x
async def both(x):
    return await asyncio.gather(wait(x), asyncio.wait_for(wait(x + 1), 5))
def f(x):
    signal.signal(signal.SIGALRM, lambda *a: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    time.sleep(0.01)
    bytearray(10**8)
    a, b = socket.socketpair()
    a.send(b"x")
    select.select([b], [], [], 5)
    with open(random.__file__) as file:
        length = len(file.read())
    return asyncio.run(both(x)), b.recv(5), length > 0, random.random() < 1, decimal.Decimal(x) == x
"""
    assert answer(box, program, 1) == ([1, 2], b"x", True, True, True)


def is_there(pid: str) -> bool:
    """Whether a process is there, be it an entry that its parent has not collected yet."""
    return Path("/proc", pid).exists()


def test_all_is_gone_where_a_sandbox_ends(box: Sandbox) -> None:
    for _ in range(10):
        before = children()
        with box.start() as process:
            process.send({"program": "while True: pass"}, time.monotonic() + 5)
            started = children() - before
            assert len(started) == 3  # bubblewrap outside, the first process inside, the program
        assert not any(map(is_there, started))


def test_all_is_gone_where_bubblewrap_outside_was_killed_first(box: Sandbox) -> None:
    before = children()
    with box.start() as process:
        process.send({"program": "while True: pass"}, time.monotonic() + 5)
        started = children() - before
        os.kill(process._process.pid, signal.SIGKILL)
    assert not (children() - before) | (children() & started)


def test_a_program_that_does_not_end_is_told(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_readable", lambda descriptor, seconds: False)
    with pytest.raises(SandboxError, match="still there 10 s after it was killed"), box.start():
        pass


def test_what_cannot_be_watched_does_not_run(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(38, "Function not implemented")

    before = children()
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(SandboxError, match="cannot be watched"), box.start():
        pass
    monkeypatch.setattr(module, "start_bubblewrap", refuse)
    with pytest.raises(SandboxError, match=r"cannot be started: .*not implemented"), box.start():
        pass
    for _ in range(500):  # it ends when the one outside does, and was not waited for
        if not children() - before:
            break
        time.sleep(0.02)
    else:
        pytest.fail("a process outlived its sandbox")


def test_many_open_files_do_no_harm(box: Sandbox) -> None:
    """`select` gives up above descriptor 1023. A process with many connections is there soon."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("needs 2000 open files: ulimit -n 2000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert answer(box, "def f(): return 1") == 1
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left_open(box: Sandbox) -> None:
    answer(box, "def f(): return 1")
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        answer(box, "def f(): return 1")
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@given(source=st.text(st.characters(exclude_categories=())) | st.binary().map(repr))
@settings(max_examples=15)
def test_no_text_of_a_program_breaks_anything(source: str) -> None:
    try:
        raised, text = answer(TRUSTED, source)
        assert isinstance(raised, str)
        assert isinstance(text, str)
    except ProgramEndedError:
        pass
