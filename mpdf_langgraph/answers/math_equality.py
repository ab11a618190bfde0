"""Mathematical equality, decided by math-verify in a worker process.

Comparing two expressions can take for ever (``9^{9^{9^9}}``) or all the memory, and no thread
can be stopped in the middle of it. So one long-lived process compares, and is killed at the
limit. It is started when it is first needed, from this very file: it imports nothing of the
package, and nothing of the caller's program runs a second time.

The conversation is one line of JSON each way: the module search path, answered by null once
math-verify is imported; then ``[a, b, limit]``, answered by true or false.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_START_LIMIT = 60.0  # seconds; importing sympy takes about one
_MEMORY_LIMIT = 2 << 30  # bytes
_ORPHAN_GRACE = 2.0  # seconds past the limit, after which a worker without a parent ends itself


class EqualityWorker:
    r"""A process that compares expressions, restarted whenever it is gone.

    Thread-safe: one comparison runs at a time. A process forked from this one gets a worker of
    its own.

    Example:
        >>> EqualityWorker().compare(r"\sqrt{8}", r"2\sqrt{2}", timeout=5)
        True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    @property
    def pid(self) -> int | None:
        """The process id of the worker, None while there is none."""
        return self._process.pid if self._process else None

    def compare(self, a: str, b: str, timeout: float) -> bool:
        """Tell whether two expressions (LaTeX or plain) are equal, in either order.

        Args:
            a: One expression.
            b: The other.
            timeout: Seconds this comparison may take, the worker's start not included.

        Returns:
            The verdict; False for what cannot be read as an expression.

        Raises:
            TimeoutError: The worker was killed at the limit.
            ChildProcessError: The worker died twice over this comparison.
            RuntimeError: The worker cannot be started, e.g. math-verify is not installed.
        """
        with self._lock:
            for _ in range(2):  # a worker that somebody else killed shows only when it is used
                process = self._running()
                reply = self._exchange(process, [a, b, timeout], timeout)
                if reply is not None:
                    return bool(json.loads(reply))
        raise ChildProcessError("The worker comparing two answers died.")

    def close(self) -> None:
        """End the worker; the next comparison starts a new one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                    pipe.close()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        # -I keeps this file's folder, whose modules may bear names of the standard library, the
        # current folder and the environment out of the search path; ours follows on the pipe.
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        problem: object = "it ended while starting"
        try:
            reply = self._exchange(process, sys.path, _START_LIMIT)
            if reply is not None:
                problem = json.loads(reply)
        except TimeoutError:
            problem = f"not ready within {_START_LIMIT:.0f} s"
        if problem is None:
            return process
        self.close()
        raise RuntimeError(
            f"The worker that compares mathematical answers cannot be started: {problem}. "
            "It needs math-verify (pip install math-verify)."
        )

    def _exchange(
        self, process: "subprocess.Popen[str]", message: object, limit: float
    ) -> str | None:
        """Send a line and wait for one; None where the worker died of something else."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(limit, expire)
        timer.daemon = True
        timer.start()
        reply = ""
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:  # broken pipe: it is gone
            pass
        except BaseException:  # interrupted: the reply to come must not answer the next question
            self.close()
            raise
        finally:
            timer.cancel()
        if reply.endswith("\n"):
            return reply
        self.close()
        if expired.is_set():
            raise TimeoutError(f"No verdict within {limit:g} s.")
        return None

    def _forget(self) -> None:
        """In a forked child: the worker is the parent's, and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._process = None


def _serve() -> None:
    """The worker's side: import math-verify, then answer until the pipe closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be read as a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent

    def reply(value: object) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    sys.path[:] = json.loads(sys.stdin.readline())
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    try:
        from math_verify import parse, verify  # type: ignore[import-untyped]
    except ImportError as error:
        reply(repr(error))
        return

    def equal(a: str, b: str) -> bool:
        # Its own limits are off, as they are whole seconds of SIGALRM. `verify` depends on the
        # order (x < 5 equals the interval, not the other way round), hence both.
        x, y = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (a, b))
        return any(verify(*pair, timeout_seconds=None) for pair in ((x, y), (y, x)))

    # The first use loads the LaTeX grammar; without its runtime everything would be different.
    reply(None if equal(r"\frac{x}{2}", r"\frac12x") else "math-verify cannot read LaTeX")
    for line in sys.stdin:
        a, b, limit = json.loads(line)
        # Should the parent be killed in the meantime, nobody else would end a hanging worker.
        faulthandler.dump_traceback_later(limit + _ORPHAN_GRACE, exit=True)
        try:
            verdict = equal(a, b)
        except Exception:  # including MemoryError and RecursionError
            verdict = False
        faulthandler.cancel_dump_traceback_later()
        reply(verdict)


if __name__ == "__main__":
    _serve()
