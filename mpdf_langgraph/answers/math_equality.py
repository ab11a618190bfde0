"""Mathematical equality, decided by math-verify in a worker process.

Comparing two expressions can take for ever (``9^{9^{9^9}}``) or all the memory, and a thread
cannot be stopped. So one long-lived process compares, and is killed at the limit. It is started
when it is first needed. Its file, `math_worker.py`, imports nothing of the package.

The conversation is one line of JSON each way. The first message is the module search path,
answered by null once math-verify is imported. The others are ``[a, b, limit]``, answered by true
or false.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from mpdf_langgraph.answers.math_worker import PATIENCE
from mpdf_langgraph.errors import EqualityError

_OUT_OF_TIME = -getattr(signal, "SIGPROF", 0) or None  # how the system ended it at its limit
_START_LIMIT = 300.0  # seconds. Importing sympy takes about one, on a busy machine many.
_WORKER_FILE = Path(__file__).with_name("math_worker.py")


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
        """The process id of the worker, if there is one."""
        return self._process.pid if self._process else None

    def compare(self, a: str, b: str, timeout: float) -> bool:
        """Tell whether two expressions (LaTeX or plain) are equal, in either order.

        Args:
            a: One expression.
            b: The other.
            timeout: Seconds of computing this comparison may take, and ten times as many by the
                clock, the worker's start not included.

        Returns:
            The verdict. False for what cannot be read as an expression.

        Raises:
            TimeoutError: The worker was killed at the limit.
            ChildProcessError: The worker died twice over this comparison.
            EqualityError: The worker cannot be started, e.g. math-verify is not installed.
        """
        with self._lock:
            for _ in range(2):  # a worker that somebody else killed shows only when it is used
                process = self._running()
                reply = self._exchange(process, [a, b, timeout], PATIENCE * timeout)
                if reply is not None:
                    return bool(json.loads(reply))
                if process.returncode == _OUT_OF_TIME:
                    raise TimeoutError(f"No verdict within {timeout:g} s.")
        raise ChildProcessError("The worker comparing two answers died.")

    def close(self) -> None:
        """End the worker. The next comparison starts a new one."""
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
        # -I keeps the worker's folder, the current folder and the environment out of the search
        # path. Modules there may bear names of the standard library. Ours follows on the pipe.
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER_FILE.resolve())],
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
        raise EqualityError(
            f"The worker that compares mathematical answers cannot be started: {problem}. "
            "It needs math-verify (pip install math-verify)."
        )

    def _exchange(
        self, process: "subprocess.Popen[str]", message: object, limit: float
    ) -> str | None:
        """Send a line and wait for one. Return None if the worker died of something else."""
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
        except BaseException:  # an interrupt: the reply to come must not answer the next question
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
