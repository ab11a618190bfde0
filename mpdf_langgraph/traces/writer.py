"""Writes episodes so that kill -9 loses none.

A folder of traces holds one segment (JSON Lines) per writing process. Every record is one write,
with its newline first. So a torn record never swallows the next one. A record counts as written
when it is on disk. The names of the segments sort by the time at which they were begun.
"""

import os
import re
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.state import DeliberationState
from mpdf_langgraph.traces.records import Episode


def is_url(folder: Path) -> bool:
    """Tell whether a folder is a URL by mistake. `Path` has made one slash of its two."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(folder)) is not None  # longer than a drive's letter


class TraceWriter:
    """Appends episodes to a folder. Each process writes a segment of its own.

    Args:
        folder: Created if it does not exist. `~` is the home folder.

    Raises:
        TraceError: The folder cannot be made or written to, or is a URL.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._segments: dict[int, int] = {}  # file descriptors by process id
        if folder == "":
            raise TraceError("traces need a folder, got ''")
        try:
            self.folder = Path(folder).expanduser()
        except (TypeError, RuntimeError) as error:  # the latter where nobody has such a home
            raise TraceError(f"traces need a folder, got {folder!r:.80}: {error}") from error
        if is_url(self.folder):
            raise TraceError(
                f"{self.folder} is a URL. Traces need a folder: appending is safe in no object "
                "store. Mount the store, or copy the folder there afterwards"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # no name of a file holds a null character
            raise TraceError(f"cannot make the trace folder {str(folder)!r}: {error}") from error
        if not os.access(self.folder, os.W_OK):
            raise TraceError(f"cannot write to the trace folder {self.folder}")

    def write(self, episode: Episode) -> None:
        """Append one record. It is on disk when this returns, and can be read.

        Raises:
            TraceError: The disk refused it, or it could not be read again.
        """
        line = episode.to_json(packed=True)
        try:
            Episode.from_json(line)  # it may be a copy that nobody has checked
        except TraceError as error:
            raise TraceError(f"the trace could not be read again: {error}") from error
        self._append(line)

    def write_state(self, state: DeliberationState) -> None:
        """Append the episode that a finished state describes, as `write` does.

        Raises:
            TraceError: The disk refused it, or the state is not a valid episode.
        """
        self._append(Episode.from_state(state).to_json(packed=True))

    def _append(self, line: bytes) -> None:
        line = b"\n" + line
        try:
            descriptor = self._descriptor()
            written = os.write(descriptor, line)
            getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has the latter alone
        except OSError as error:
            raise TraceError(f"cannot write a trace to {self.folder}: {error}") from error
        if written != len(line):
            raise TraceError(
                f"the disk took {written} of {len(line)} bytes of a trace: is {self.folder} full?"
            )

    def _descriptor(self) -> int:
        pid = os.getpid()
        if pid in self._segments and not os.fstat(self._segments[pid]).st_nlink:
            # Somebody removed the segment. It stays open, as another thread may be about to write.
            self._segments.pop(pid, None)
        if pid not in self._segments:  # a fork gets a segment of its own
            self.folder.mkdir(parents=True, exist_ok=True)  # perhaps somebody removed it
            now = time.time_ns()  # fine enough to tell a killed process from the one that resumes
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
            path = self.folder / f"{stamp}{now % 10**9:09d}-{pid}-{uuid.uuid4().hex[:8]}.jsonl"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            opened = os.open(path, flags, 0o644)
            # The first of several threads wins. A lock could stay held across a fork for ever.
            if self._segments.setdefault(pid, opened) != opened:
                os.close(opened)
                path.unlink()
        return self._segments[pid]

    def close(self) -> None:
        """Close the segment. A later write opens another one."""
        descriptor = self._segments.pop(os.getpid(), None)
        if descriptor is not None:
            os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open segments: a copy, also one in another process, opens its own."""
        return {**self.__dict__, "_segments": {}}

    def __del__(self) -> None:
        with suppress(OSError):  # the descriptor may be gone at interpreter exit
            self.close()
