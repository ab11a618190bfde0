"""Starting a Python in bubblewrap: nothing of the host's in sight, limits, few system calls.

The order matters. The limits are set first, so they hold for bubblewrap's own processes too. As
root, another user is taken next. The filter of system calls comes last, when all is mounted.
"""

import contextlib
import json
import os
import platform
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from mpdf_langgraph.answers.sandbox_inside import lower
from mpdf_langgraph.answers.system_calls import build_filter
from mpdf_langgraph.errors import SandboxError

_NOBODY = "65534"
_START_LIMIT = 30.0  # seconds until bubblewrap says what it started. It takes 0.02 as a rule.


def find_command(program: str, package: str) -> str:
    """Return the path of a program.

    Args:
        program: Its name.
        package: What to install if it is missing, for the message.

    Raises:
        SandboxError: It is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise SandboxError(
            f"{program} is not installed, and programs that a model wrote must not run without a "
            f"sandbox: install it (apt install {package}), or name another sandbox command, "
            "Sandbox(command=[...])"
        )
    return path


def is_readable(descriptor: int, seconds: float) -> bool:
    """Wait until a file descriptor can be read, and tell whether it came to that in time.

    Args:
        descriptor: Of a pipe, or a pidfd, which can be read once its process is gone.
        seconds: The time to wait.
    """
    poll = select.poll()  # `select.select` fails from descriptor 1024 on
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def start_bubblewrap(
    arguments: Sequence[str], limits: Mapping[str, int]
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start a Python in the sandbox.

    Args:
        arguments: What follows the Python on its command line.
        limits: Resource limits by name, as `prlimit` and `setrlimit(2)` name them.

    Returns:
        The process of bubblewrap outside, and a pidfd of the first process inside. When that one
        dies, the kernel kills all others inside before it reports the end. The pidfd is None if
        there is none. Nothing must then run inside.

    Raises:
        SandboxError: A program that it takes is not installed.
    """
    prlimit, bubblewrap, options = bubblewrap_command()
    rules_read, rules_write = os.pipe()
    told_read, told_write = os.pipe()
    with os.fdopen(told_read, "rb", buffering=0) as told:
        with os.fdopen(rules_read, "rb") as rules, os.fdopen(told_write, "wb") as telling:
            with os.fdopen(rules_write, "wb") as writing:
                writing.write(build_filter(platform.machine()))  # much less than a pipe holds
            process = subprocess.Popen(
                [
                    prlimit,
                    *(f"--{name}={lower(name, limit)}" for name, limit in limits.items()),
                    *bubblewrap,
                    *("--seccomp", str(rules.fileno()), "--info-fd", str(telling.fileno())),
                    *options,
                    *arguments,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={},  # it needs none of the keys in ours
                start_new_session=True,
                pass_fds=(rules.fileno(), telling.fileno()),
            )
        return process, _first_inside(process.pid, told.fileno())


def _first_inside(outside: int, told: int) -> int | None:
    """A pidfd of the process whose number bubblewrap tells, made sure to be its child."""
    text = b""
    while is_readable(told, _START_LIMIT) and (part := os.read(told, 1000)):
        text += part
    try:
        number = json.loads(text)["child-pid"]
        first = os.pidfd_open(number)
    except (ValueError, OSError):
        return None  # where nothing was started, standard error says why
    with contextlib.suppress(OSError):
        # Field 4 is the parent. The number of a process that is gone may be another's by now.
        if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1] == str(outside):
            return first
    os.close(first)
    return None


@lru_cache
def bubblewrap_command() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return `prlimit`, how bubblewrap is started, and its options with the Python at their end.

    Raises:
        SandboxError: A program that it takes is not installed.
    """
    bubblewrap = [find_command("bwrap", "bubblewrap")]
    prlimit = find_command("prlimit", "util-linux")
    root = os.getuid() == 0
    if root:  # limits do not hold for root
        become = f"--reuid={_NOBODY} --regid={_NOBODY} --clear-groups --no-new-privs"
        bubblewrap = [find_command("setpriv", "util-linux"), *become.split(), *bubblewrap]
    command = ["--unshare-all", "--unshare-user", "--disable-userns"]
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
    # No /proc: a file in there is the memory of the first process, which guards the others.
    # No /dev/shm and no writable /tmp: files are memory beyond the limit on memory, and even
    # empty ones are, as bubblewrap can bound the size of a /tmp but not the number of its files.
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    command += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return prlimit, tuple(bubblewrap), (*command, str(python))


def _python(root: bool) -> Path:
    """This very Python without its packages, or the system's where that user may not run ours."""
    prefix = Path(sys.base_prefix).resolve()
    ours = prefix / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if root:  # it is another user who will run it
        may_run = all(folder.stat().st_mode & 0o001 for folder in (prefix, *prefix.parents))
    else:
        may_run = os.access(ours, os.X_OK)
    if may_run and ours.exists():
        return ours
    for path in (Path("/usr/local/bin/python3"), Path("/usr/bin/python3")):
        if path.exists():
            return path
    raise SandboxError(
        f"No Python that an unprivileged user may run: {prefix} is closed to it, and there is no "
        "/usr/bin/python3. Install one (apt install python3), or run this as another user than root"
    )
