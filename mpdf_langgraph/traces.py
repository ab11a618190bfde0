"""Traces: one Episode record per deliberation, written so that kill -9 loses none.

A folder of traces holds one segment (JSON Lines) per writing process. Every record is one
write, its newline first, so that a torn tail can swallow no other record; a record counts as
written once it is on disk.
"""

import json
import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import orjson
from langchain_core.messages import BaseMessage
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.state import Consensus, DeliberationState, Failure, Intervention, Response, Turn

#: Version 2 added `interventions`; records without it are read as if nobody had intervened.
SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)


class Episode(BaseModel):
    """The record of one deliberation.

    Attributes:
        schema_version: Version of this form.
        id: Drawn when the question arrived; a resumed run keeps it.
        started: Epoch seconds at which the question arrived.
        graph: Name of the graph.
        question: The question.
        reference: The reference answer, where one was given.
        contexts: What only one agent knew, by agent name.
        history: The conversation before the question, as role and text.
        agents: Name, model, sampling and prior competence of each agent, in the team's order.
        options: What the graph was built with: router and its version, critic, answer schema,
            consensus rule, limits, exploration, feature version.
        responses: Every response by id, alternatives (``...+k``) included.
        turns: Every decision, in order.
        failures: Everything that went wrong and was survived.
        representatives: One answer per cluster.
        tallies: The consensus after every round, round 0 first.
        interventions: What a person did, and actions forced at a fork.
        outcome: What the caller got (`deliberation` in the graph's output).
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")
    version: ClassVar[int] = SCHEMA_VERSION

    schema_version: int
    id: str
    started: float
    graph: str
    question: str
    reference: str | None
    contexts: dict[str, str]
    history: list[dict[str, str]]
    agents: list[dict[str, Any]]
    options: dict[str, Any]
    responses: dict[str, Response]
    turns: list[Turn]
    failures: list[Failure]
    representatives: list[str]
    tallies: list[Consensus]
    interventions: list[Intervention] = []
    outcome: dict[str, Any]

    @field_validator("agents", "options", "outcome")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Reject what `allow_inf_nan` does not see below `Any`: orjson would write null."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number is not finite")
        if isinstance(value, Mapping | list):
            for part in value.values() if isinstance(value, Mapping) else value:
                cls._finite(part)
        return value

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | DeliberationState) -> "Episode":
        """Return the episode that a finished graph state holds.

        Args:
            state: All channels, e.g. ``graph.get_state(config).values``, so that a
                checkpointer is as good a source as a trace folder.

        Raises:
            TraceError: No finished deliberation is in it, or a number is not finite.
        """
        header, outcome = state.get("header"), state.get("deliberation")
        if not header or not outcome:
            raise TraceError(
                "the state holds no finished deliberation; give all of the graph's channels "
                "(graph.get_state(config).values), after the run has ended"
            )
        history: Sequence[BaseMessage] = header["history"]
        try:
            return cls(
                schema_version=SCHEMA_VERSION,
                id=header["id"],
                started=header["started"],
                graph=header["graph"],
                question=header["question"],
                reference=header["reference"],
                contexts=state["notes"],
                history=[{"role": m.type, "text": str(m.text)} for m in history],
                agents=header["agents"],
                options=header["options"],
                responses=state["responses"],
                turns=state["turns"],
                failures=state["failures"],
                representatives=state["representatives"],
                tallies=state["tallies"],
                interventions=state.get("interventions", []),
                outcome=outcome,
            )
        except ValidationError as error:
            raise TraceError(f"the state is not a valid episode: {error}") from error

    @classmethod
    def from_json(cls, line: bytes | str) -> "Episode":
        """Read one record.

        Raises:
            TraceError: It is torn, of another version, or not an episode.
        """
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise TraceError(f"torn record: {error}") from error
        version = record.get("schema_version") if isinstance(record, dict) else None
        if version not in READABLE_VERSIONS:
            read = " and ".join(map(str, READABLE_VERSIONS))
            raise TraceError(f"schema version {version!r}; this release reads versions {read}")
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise TraceError(f"invalid record: {error}") from error

    def to_json(self) -> bytes:
        """Return the record as one line without a newline."""
        try:
            return orjson.dumps(self.model_dump())
        except TypeError:  # a lone surrogate in user text, which no UTF-8 can hold
            text = json.dumps(self.model_dump(), ensure_ascii=False)
            return text.encode(errors="replace")


class TraceWriter:
    """Appends episodes to a folder, in a segment of this process's own.

    Args:
        folder: Made if it does not exist.

    Raises:
        TraceError: The folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._segments: dict[int, int] = {}  # file descriptors by process id
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TraceError(f"cannot make the trace folder {self.folder}: {error}") from error
        if not os.access(self.folder, os.W_OK):
            raise TraceError(f"cannot write to the trace folder {self.folder}")

    def write(self, episode: Episode) -> None:
        """Append one record; on return it is on disk.

        Raises:
            TraceError: The disk refused it.
        """
        line = b"\n" + episode.to_json()
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

    def write_state(self, state: DeliberationState) -> None:
        """Append the episode that a finished state describes."""
        self.write(Episode.from_state(state))

    def _descriptor(self) -> int:
        pid = os.getpid()
        if pid in self._segments and not os.fstat(self._segments[pid]).st_nlink:
            # Somebody has removed the segment. Not closed: another thread may be about to write.
            self._segments.pop(pid, None)
            self.folder.mkdir(parents=True, exist_ok=True)
        if pid not in self._segments:  # a fork gets a segment of its own
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            path = self.folder / f"{stamp}-{pid}-{uuid.uuid4().hex[:8]}.jsonl"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            opened = os.open(path, flags, 0o644)
            # Of several threads the first wins; a lock could be held across a fork for ever.
            if self._segments.setdefault(pid, opened) != opened:
                os.close(opened)
                path.unlink()
        return self._segments[pid]

    def close(self) -> None:
        """Close the segment; a later write opens another."""
        descriptor = self._segments.pop(os.getpid(), None)
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        with suppress(OSError):  # the descriptor may be gone at interpreter exit
            self.close()


class TraceReader:
    """Iterates over the episodes of a folder or file, each once, in order of writing.

    Attributes:
        counts: After iterating: records by fate (``read``, ``duplicate``, ``skipped``).
        skipped: Where and why records were skipped, one line each.

    Args:
        path: A folder of ``*.jsonl`` segments, or one segment.

    Raises:
        TraceError: There is no such path.

    Example:
        >>> import tempfile
        >>> list(TraceReader(tempfile.mkdtemp()))
        []
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise TraceError(f"no traces at {self.path}: no such file or folder")
        self.counts: Counter[str] = Counter()
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Episode]:
        self.counts, self.skipped = Counter(), []
        seen: set[str] = set()
        segments = sorted(self.path.glob("*.jsonl")) if self.path.is_dir() else [self.path]
        for segment in segments:
            with segment.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.strip():
                        continue
                    try:
                        episode = Episode.from_json(line)
                    except TraceError as error:
                        self.counts["skipped"] += 1
                        self.skipped.append(f"{segment}:{number}: {error}"[:500])
                        continue
                    if episode.id in seen:
                        self.counts["duplicate"] += 1
                        continue
                    seen.add(episode.id)
                    self.counts["read"] += 1
                    yield episode
