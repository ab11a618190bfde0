"""A sandbox for programs that a model wrote: bubblewrap, an unprivileged user, and limits.

A program in there has no network, none of the host's files but a read-only /usr and the Python
it runs on, no environment, and no other process in sight. It can have neither children nor
threads, so its memory is bounded by the one limit on it; time is bounded by a clock outside that
kills everything in the sandbox at once; and what it says is read up to a limit. What is decided
about it is decided elsewhere (`mpdf_langgraph.answers.sandbox_inside` says how).

Linux alone has bubblewrap. On other systems name a sandbox command of your own.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mpdf_langgraph.errors import ConfigurationError, SandboxError

_START_LIMIT = 30.0  # seconds until the sandbox greets; 0.05 as a rule
_LONGEST_MESSAGE = 1 << 20  # bytes
_DISK = 16 << 20  # bytes; all that can be written, and it is memory
_NOBODY = "65534"
_INSIDE = Path(__file__).with_name("sandbox_inside.py")


class ProgramEndedError(Exception):
    """The process in the sandbox is of no more use; the message says why, for people."""


@dataclass(frozen=True)
class Sandbox:
    """Where programs run, and what they may use.

    Args:
        command: Another sandbox command, to whose end the Python command line is added; it must
            pass standard input and output through, and what it keeps out is its own business.
            Default: bubblewrap, and as root `setpriv` before it, since limits on the number of
            processes do not hold for root.
        seconds: Wall-clock time of one program with all its tests, the start of the sandbox
            not included.
        memory: Bytes that a program may use.

    Raises:
        ConfigurationError: An option is wrong.
        SandboxError: Nothing here can keep a program in; the message says what to install.

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
        self.command_line()

    def command_line(self) -> list[str]:
        """Return the command that starts a Python in the sandbox.

        Raises:
            SandboxError: A program that it takes is not installed.
        """
        if self.command is not None:
            return [_installed(self.command[0]), *self.command[1:], sys.executable]
        return list(_bubblewrap(os.getuid() == 0 if hasattr(os, "getuid") else False))

    @contextlib.contextmanager
    def start(self) -> Iterator["SandboxedProcess"]:
        """Start a Python in the sandbox and wait until it is there; in the end it is killed.

        Raises:
            SandboxError: The sandbox does not work here; the message says what it said.
        """
        limits = [str(self.seconds), str(self.memory)]
        process = SandboxedProcess(self.command_line(), limits, self.command is not None)
        try:
            process.greet()
            yield process
        finally:
            process.kill()


class SandboxedProcess:
    """The process in a sandbox: lines of JSON to it and from it, each with a deadline."""

    def __init__(
        self, command_line: Sequence[str], limits: Sequence[str], keep_environment: bool
    ) -> None:
        self._process = subprocess.Popen(
            [*command_line, "-I", "-S", "-c", _INSIDE.read_text(encoding="utf-8"), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            # A command of the user's may need its variables; bubblewrap needs none of the keys.
            env=None if keep_environment else {},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._buffer = b""

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
            ProgramEndedError: It was not taken by the deadline (of `time.monotonic`), or there
                is nobody any more.
        """
        rest = memoryview(json.dumps(message).encode() + b"\n")
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
        """Kill all that runs in the sandbox, and wait until it is gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

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


def _installed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise SandboxError(
            f"{program} is not installed, and programs that a model wrote must not run without a "
            "sandbox: install it (apt install bubblewrap), or name another sandbox command, "
            "Sandbox(command=[...])"
        )
    return path


@lru_cache
def _bubblewrap(root: bool) -> tuple[str, ...]:
    """The command line with bubblewrap, the Python included."""
    bwrap = _installed("bwrap")
    command: list[str] = []
    if root:
        become = f"--reuid={_NOBODY} --regid={_NOBODY} --clear-groups --no-new-privs"
        command += [_installed("setpriv"), *become.split()]
    command += [bwrap, "--unshare-all", "--unshare-user", "--disable-userns"]
    command += ["--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        folder = Path("/", name)
        if folder.is_symlink():
            command += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    python = _python(root)
    if not python.is_relative_to("/usr"):
        prefix = str(Path(sys.base_prefix).resolve())
        command += ["--ro-bind", prefix, prefix]
    # /dev brings a folder of shared memory without a limit: read-only, its devices still work.
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--size", str(_DISK), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return (*command, str(python))


def _python(root: bool) -> Path:
    """This very Python without its packages, or the system's where nobody else may read ours."""
    prefix = Path(sys.base_prefix).resolve()
    ours = prefix / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    others_may = all(folder.stat().st_mode & 0o001 for folder in (prefix, *prefix.parents))
    if ours.exists() and (others_may or not root):
        return ours
    for path in (Path("/usr/local/bin/python3"), Path("/usr/bin/python3")):
        if path.exists():
            return path
    raise SandboxError(
        f"No Python that an unprivileged user may run: {prefix} is readable by root alone, and "
        "there is no /usr/bin/python3. Install one (apt install python3), or run this as another "
        "user than root"
    )
