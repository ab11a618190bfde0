"""The worker process behind mathematical equality."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpdf_langgraph import EqualityError, MathAnswer
from mpdf_langgraph.answers import math_answer, math_equality, math_worker
from mpdf_langgraph.answers.math_equality import EqualityWorker
from mpdf_langgraph.answers.math_worker import PATIENCE
from tests.support.paths import ROOT

ENDLESS = "9^{9^{9^9}}"


@pytest.fixture
def worker() -> Iterator[EqualityWorker]:
    worker = EqualityWorker()
    yield worker
    worker.close()


def standing(pid: int) -> tuple[str, float]:
    """A process's state, and how many seconds it has computed. Elsewhere than on Linux: asleep."""
    if not Path("/proc/self").exists():
        os.kill(pid, 0)
        return "S", 0.0
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0], (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def gone(pid: int, within: float = 3) -> bool:
    """Tell whether a process ends before it has slept or computed so many seconds.

    What it waits for a processor does not count, as that depends on the machine.
    """
    slept = 0.0
    try:
        begun = standing(pid)[1]
        while True:
            state, computed = standing(pid)
            if state == "Z":  # waits for a parent elsewhere
                return True
            slept += 0.02 if state == "S" else 0
            if slept + computed - begun > within:
                return False
            time.sleep(0.02)
    except (ProcessLookupError, FileNotFoundError):
        return True


def computed_by_children() -> float:
    """Seconds that the processes that have ended computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a user's script: no guard for the main module, another working directory."""
    script = cwd / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_start_does_not_count_and_a_kill_leaves_nothing(
    worker: EqualityWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = computed_by_children()
    assert worker.compare("x+y", "y+x", timeout=60)
    worker.close()
    start = computed_by_children() - before
    # Importing sympy alone takes longer.
    assert worker.compare("x+y", "y+x", timeout=start / 2)
    pid = worker.pid
    assert pid is not None
    # On a busy machine the clock would else end it before it has computed so long.
    monkeypatch.setattr(math_equality, "PATIENCE", 10_000)
    before = computed_by_children()
    with pytest.raises(TimeoutError, match=r"0\.3 s"):
        worker.compare(ENDLESS, "5", timeout=0.3)
    assert 0.3 <= computed_by_children() - before < 3 * start + 0.3
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(pid, 0)
    assert worker.compare("x+y", "y+x", timeout=5)


def test_a_worker_that_does_not_compute_is_killed_by_the_clock(worker: EqualityWorker) -> None:
    assert worker.compare("x+y", "y+x", timeout=60)
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError, match=rf"{PATIENCE * 0.02:g} s"):
        worker.compare("x+y", "y+x", timeout=0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_killed_while_it_compares_is_replaced_once(
    worker: EqualityWorker, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    exchange = worker._exchange
    killed: list[int] = []

    def sabotaged(process: Any, message: Any, limit: float) -> str | None:
        if limit == 20 * PATIENCE and len(killed) < deaths:
            killed.append(process.pid)
            threading.Timer(0.2, process.kill).start()
            message = [ENDLESS, "5", 20]
        return exchange(process, message, limit)

    monkeypatch.setattr(worker, "_exchange", sabotaged)
    if deaths == 1:
        assert worker.compare("x+y", "y+x", timeout=20)
    else:
        with pytest.raises(ChildProcessError):
            worker.compare("x+y", "y+x", timeout=20)
    assert len(set(killed)) == deaths
    assert worker.compare("x+y", "y+x", timeout=5)


def test_odd_text_goes_through_the_pipe(worker: EqualityWorker) -> None:
    for text in ["\n", '"', "\ud800", "\x00", "é\u2028", "}" * 50, ""]:
        assert worker.compare(text, "5", timeout=5) is False
    assert worker.compare("x+y", "y+x", timeout=5)


def test_a_forked_process_gets_a_worker_of_its_own(worker: EqualityWorker) -> None:
    assert worker.compare("x+y", "y+x", timeout=5)
    pid = worker.pid
    with worker._lock:  # as if another thread was comparing
        child = os.fork()
        if child == 0:
            try:
                fine = worker.compare("x+z", "z+x", timeout=5) and worker.pid != pid
                worker.close()
                os._exit(0 if fine else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker.compare("x+y", "y+x", timeout=5)
    assert worker.pid == pid


def test_a_script_without_main_guard_in_a_folder_of_traps(tmp_path: Path) -> None:
    (tmp_path / "sympy").mkdir()  # an empty namespace package does not hide the real one
    (tmp_path / "notes.py").write_text("")
    done = run(
        """
        import sys
        from mpdf_langgraph.answers.math_equality import EqualityWorker
        print("started")
        worker = EqualityWorker()
        print(worker.compare("2x+x", "3x", timeout=5), worker.pid)
        assert "sympy" not in sys.modules and "math_verify" not in sys.modules
        """,
        tmp_path,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("started\nTrue ")
    assert gone(int(done.stdout.split()[-1]))


def test_an_idle_worker_ends_with_its_killed_parent(tmp_path: Path) -> None:
    done = run(
        """
        import os, signal
        from mpdf_langgraph.answers.math_equality import EqualityWorker
        worker = EqualityWorker()
        worker.compare("2x+x", "3x", timeout=5)
        print(worker.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))


def test_a_hanging_worker_without_parent_ends_itself(tmp_path: Path) -> None:
    done = run(
        f"""
        import os, signal, threading
        from mpdf_langgraph.answers import math_equality
        worker = math_equality.EqualityWorker()
        worker.compare("2x+x", "3x", timeout=5)
        print(worker.pid, flush=True)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        worker.compare({ENDLESS!r}, "5", timeout=1)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout), within=PATIENCE + math_worker._ORPHAN_GRACE + 5)


def test_without_math_verify_the_error_says_what_to_install(
    worker: EqualityWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])
    monkeypatch.setattr(sys, "executable", sys._base_executable)  # type: ignore[attr-defined]
    with pytest.raises(EqualityError, match="pip install math-verify"):
        worker.compare("2x+x", "3x", timeout=5)
    assert worker.pid is None
    monkeypatch.setattr(math_answer, "_WORKER", worker)
    schema = MathAnswer()
    with pytest.warns(RuntimeWarning, match="pip install math-verify"):
        assert not schema.equivalent("2x+x", "3x")
    assert schema.undecided == 1
