"""A sandbox for programs that a model wrote: bubblewrap, a system call filter, and limits.

A program in there has no network, no environment and no other process in sight. Of the host's
files it has a read-only /usr and the Python it runs on. It can write no file. It can have neither
children nor threads, so its memory is bounded by the one limit on it. A clock outside bounds its
time: it kills everything in the sandbox at once, and waits until all of it is gone. What a program
says is read up to a limit. What is decided about it is decided elsewhere
(`mpdf_langgraph.answers.sandbox_inside` says how).

Linux alone has bubblewrap. On other systems name a sandbox command of your own.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpdf_langgraph.answers.bubblewrap import (
    bubblewrap_command,
    find_command,
    is_readable,
    start_bubblewrap,
)
from mpdf_langgraph.errors import ConfigurationError, SandboxError

_START_LIMIT = 30.0  # seconds until the sandbox greets. It takes 0.05 as a rule.
_LONGEST_MESSAGE = 1 << 20  # bytes
#: Resource limits of every program, as `setrlimit(2)` names them.
_LIMITS = {
    "core": 0,
    "fsize": 16 << 20,
    "memlock": 0,
    "msgqueue": 0,
    "nofile": 64,
    "sigpending": 64,
}
_END_LIMIT = 10.0  # seconds until all is gone that was killed. It takes 0.01 as a rule.
_INSIDE = Path(__file__).with_name("sandbox_inside.py").read_text(encoding="utf-8")


class ProgramEndedError(Exception):
    """The process in the sandbox is of no more use. The message says why."""


@dataclass(frozen=True)
class Sandbox:
    """Where programs run, and what they may use.

    Args:
        command: Another sandbox command, to whose end the Python command line is added. It must
            pass standard input and output through. The default is bubblewrap, and as root
            `setpriv` before it, since limits on the number of processes do not hold for root.
        seconds: Wall-clock time of one program with all its tests, the start of the sandbox
            not included.
        memory: Bytes that a program may use. The kernel's tables of this memory come on top:
            a program that means harm can make them as large as the memory itself.

    Raises:
        ConfigurationError: An option is wrong.
        SandboxError: Nothing here can keep a program in. The message says what to install.

    Example:
        >>> Sandbox(command=("env", "-i"), seconds=5).seconds  # keeps nothing in: trusted code only
        5
    """

    command: Sequence[str] | None = None
    seconds: float = 10.0
    memory: int = 512 << 20

    def __post_init__(self) -> None:
        if not (isinstance(self.seconds, int | float) and 0 < self.seconds <= 3600):
            raise ConfigurationError(f"seconds must be in (0, 3600]: {self.seconds!r}")
        if not isinstance(self.memory, int) or self.memory < 64 << 20:
            raise ConfigurationError(f"memory must be 64 MiB or more, in bytes: {self.memory!r}")
        if isinstance(self.command, str) or (self.command is not None and not self.command):
            raise ConfigurationError(
                f"command must be a list of words, e.g. ['firejail', '--quiet']: {self.command!r}"
            )
        if self.command is None:
            bubblewrap_command()
        else:
            find_command(self.command[0], self.command[0])

    @contextlib.contextmanager
    def start(self) -> Iterator["SandboxedProcess"]:
        """Start a Python in the sandbox and wait until it is there. Kill it in the end.

        Raises:
            SandboxError: The sandbox does not work here. The message says what it said.
        """
        try:
            process = SandboxedProcess(*self._start())
        except OSError as error:
            raise SandboxError(f"The sandbox cannot be started: {error}") from error
        try:
            process.greet()
            if self.command is None and not process.can_be_killed:
                raise SandboxError(
                    "The sandbox does not work here: its first process cannot be watched, which "
                    "takes Linux 5.3 and a /proc that shows it"
                )
            yield process
        finally:
            process.kill()

    def _start(self) -> tuple[subprocess.Popen[bytes], int | None]:
        """The process outside, and a pidfd of the first one inside if there is one."""
        limits = {"as": self.memory, "cpu": int(self.seconds) + 2, **_LIMITS}
        # Neither threads nor children, however many there are by now.
        inside = ["-I", "-S", "-c", _INSIDE, json.dumps({**limits, "nproc": 0})]
        if self.command is None:
            return start_bubblewrap(inside, limits)
        process = subprocess.Popen(
            [*self.command, sys.executable, *inside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        return process, None


class SandboxedProcess:
    """The process in a sandbox: lines of JSON to it and from it, each with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes], first: int | None) -> None:
        self._process, self._first = process, first
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._buffer = b""

    @property
    def can_be_killed(self) -> bool:
        """Whether all in the sandbox can be killed at once, and seen to be gone."""
        return self._first is not None

    def greet(self) -> None:
        """Wait for the first sign of life, before any foreign code runs.

        Raises:
            SandboxError: There was none.
        """
        try:
            if self.receive(time.monotonic() + _START_LIMIT) == {"hello": True}:
                return
            problem = "it said something else than expected"
        except ProgramEndedError as error:
            problem = str(error)
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        told = (self._process.stderr.read(2000) or b"").decode(errors="replace").strip()
        raise SandboxError(f"The sandbox does not work here: {problem}. {told}".strip())

    def send(self, message: dict[str, Any], deadline: float) -> None:
        """Send a message.

        Raises:
            ProgramEndedError: It was not taken by the deadline (of `time.monotonic`), it is
                nested too deeply, or there is nobody any more.
        """
        try:
            rest = memoryview(json.dumps(message).encode() + b"\n")
        except RecursionError:  # it could just be read, and is too deep to be written
            raise ProgramEndedError("it gave what cannot be passed on") from None
        while rest:
            self._wait(self._input, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._input, rest) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._ended() from None

    def receive(self, deadline: float) -> dict[str, Any]:
        """Wait for a message.

        Raises:
            ProgramEndedError: None came by the deadline, or it is too long or no JSON object,
                or there is nobody any more.
        """
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST_MESSAGE:
                raise ProgramEndedError(f"it gave more than {_LONGEST_MESSAGE} bytes at once")
            self._wait(self._output, select.POLLIN, deadline)
            received = os.read(self._output, 1 << 16)
            if not received:
                raise self._ended()
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ProgramEndedError("it gave what cannot be read")
        return message

    def kill(self) -> None:
        """Kill all that runs in the sandbox, and wait until it is gone.

        Raises:
            SandboxError: It is not gone after ten seconds.
        """
        if self._first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            # Bubblewrap outside then collects it and ends by itself.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_LIMIT)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_LIMIT)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        gone = self._process.returncode is not None
        if self._first is not None:
            # The end of a namespace's first process is told after that of all others in it.
            gone = is_readable(self._first, _END_LIMIT) and gone
            os.close(self._first)
        if not gone:
            raise SandboxError(
                f"A program in the sandbox is still there {_END_LIMIT:.0f} s after it was killed"
            )

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ProgramEndedError("it took too long")

    def _ended(self) -> ProgramEndedError:
        try:
            # Without reaping it: the group is killed by a number that must stay taken.
            flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
            for _ in range(50):
                if status := os.waitid(os.P_PID, self._process.pid, flags):
                    return ProgramEndedError(f"it ended by itself (status {status.si_status})")
                time.sleep(0.01)
        except OSError:
            pass
        return ProgramEndedError("it fell silent")
