"""Running a program that tries to escape, and looking for what is left of it.

Also a command: `python -m tests.plugin.answers.escapes.running UID [NAME...]` takes a user's
rights, runs the programs, and prints what each came to as JSON.
"""

import ctypes
import json
import os
import resource  # noqa: F401 - while its file may still be read
import sys
import time
from pathlib import Path

from mpdf_langgraph.answers.sandbox import ProgramEndedError, Sandbox
from mpdf_langgraph.answers.sandbox_inside import decode, encode
from tests.plugin.answers.escapes.calls import CALLS, PRELUDE
from tests.plugin.answers.escapes.endless import ENDLESS
from tests.plugin.answers.escapes.memory import LIMIT, MEMORY
from tests.plugin.answers.escapes.processes import PROCESSES
from tests.plugin.answers.escapes.reach import REACH

#: Programs that come to an end. Their `f` returns what it got: nothing, or no memory over `LIMIT`.
ENDING = {**CALLS, **PROCESSES, **REACH, **MEMORY}
NAMES = [*ENDING, *ENDLESS]
#: A user without rights.
NOBODY = 65534
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def adopt_orphans() -> None:
    """Become the parent of every process whose parent ends, so that `children` finds it."""
    assert ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0) == 0


def children() -> set[str]:
    """The running processes that this one, or one of its children, has started."""
    found: set[str] = set()
    parents = {str(os.getpid())}
    while parents:
        new = set()
        for process in Path("/proc").iterdir():  # a glob looks at each, and they may end
            if not process.name.isdigit():
                continue
            try:
                state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if parent in parents and state not in "ZX" and process.name not in found:
                new.add(process.name)
        found |= new
        parents = new
    return found


def run(name: str) -> str:
    """Run one program. Return what it got that it must not have, in words."""
    ending = name in ENDING
    program = PRELUDE + ENDING[name] if ending else ENDLESS[name]
    sandbox = Sandbox(seconds=60 if ending else 0.5, memory=LIMIT)
    before = children()
    got = None
    with sandbox.start() as process:
        deadline = time.monotonic() + sandbox.seconds
        try:
            process.send({"program": program}, deadline)
            reply = process.receive(deadline)
            if "ready" in reply:
                call = {"name": "f", "args": encode([]), "kwargs": encode({})}
                process.send(call, deadline)
                reply = process.receive(deadline)
            got = decode(reply["value"]) if "value" in reply else None
        except ProgramEndedError as error:
            if ending and "too long" in str(error):
                return "it did not come to its end, so nothing was tried"
    if left := children() - before:
        return f"processes were left: {left}"
    if name in MEMORY:
        return "" if (got or 0) <= LIMIT else f"it had {got} bytes"
    return str(got) if got else ""


def main(user: int, names: list[str]) -> None:
    """Run programs as a user, the present one or any if that is root."""
    if user != os.getuid():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    adopt_orphans()
    sys.stdout.write(json.dumps({name: run(name) for name in names or NAMES}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
