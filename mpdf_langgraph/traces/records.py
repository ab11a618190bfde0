"""The trace record: one `Episode` per deliberation."""

import binascii
import json
import math
import re
import reprlib
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import NoneType
from typing import Any, ClassVar

import orjson
from langchain_core.messages import BaseMessage
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.history import kinds_of
from mpdf_langgraph.state import (
    Consensus,
    DeliberationState,
    Failure,
    Intervention,
    Recruit,
    Response,
    Turn,
)

#: Version 2 added `interventions`. Records without it are read as if nobody had intervened.
#: Version 3 added `attachments`, and `thought` and `refused` to responses that have them.
#: Version 4 added `category`, `recruits`, `probability` to the tallies of rules that give one, and
#: `estimates` to turns that have them.
#: Version 5 may be packed: the record, compressed by zlib, stands in `packed` in base64.
SCHEMA_VERSION = 5

READABLE_VERSIONS = (1, 2, 3, 4, 5)

#: A packed record unpacks to so many bytes at most. A longer one is written as it is.
MOST_BYTES = 64_000_000

#: A record nests no deeper than this: json and Python have a limit of their own.
DEEPEST = 64


#: How far the sum of an action's probabilities may be from 1.
ROUNDING = 1e-3

_PLAIN = frozenset((str, int, bool, NoneType))  # nothing is inside of these, and all are finite


class Episode(BaseModel):
    """The record of one deliberation.

    Attributes:
        schema_version: Version of this form.
        id: Drawn when the question arrived. A resumed run keeps it.
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
        recruits: Decisions whether another agent is asked to propose. Empty: everybody was.
        attachments: What came with the question beside its text, such as ``"image"``; the record
            does not hold them.
        category: Of the question, if one was given.
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
    recruits: list[Recruit] = []
    attachments: list[str] = []
    category: str | None = None
    outcome: dict[str, Any]

    @property
    def team(self) -> list[str]:
        """Names of the agents that were asked, in the team's order."""
        waiting = self.recruits[-1]["waiting"] if self.recruits else []
        return [agent["name"] for agent in self.agents if agent["name"] not in waiting]

    @field_validator("agents", "options", "outcome")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Reject what `allow_inf_nan` does not see below `Any`, and what nests too deep to read."""
        level = [value]
        for _ in range(DEEPEST):
            parts: list[Any] = []
            for one in level:
                kind = type(one)
                if kind is dict:
                    parts += one.values()
                elif kind is list:
                    parts += one
                elif isinstance(one, float):
                    if not math.isfinite(one):
                        raise ValueError("a number is not finite")  # orjson would write null
                elif isinstance(one, Mapping):
                    parts += one.values()
                elif isinstance(one, list | tuple):
                    parts += one
            level = [part for part in parts if type(part) not in _PLAIN]
            if not level:
                break
        if level:
            raise ValueError(f"it nests more than {DEEPEST} levels deep")
        return value

    @model_validator(mode="after")
    def _hangs_together(self) -> "Episode":
        """Reject names, rounds and clusters that nobody could look up."""
        names = [agent.get("name") for agent in self.agents]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("each agent needs a name of its own")
        parts: list[Response | Turn] = [*self.responses.values(), *self.turns]
        rounds = range(len(self.tallies))
        if wrong := [one["round"] for one in parts if one["round"] not in rounds]:
            raise ValueError(f"round {wrong[0]} has no tally")
        clusters = [one["cluster"] for one in (*self.responses.values(), *self.tallies)]
        clusters += [vote for tally in self.tallies for vote in tally["votes"].values()]
        known = range(len(self.representatives))
        if wrong := [one for one in clusters if one is not None and one not in known]:
            raise ValueError(f"cluster {wrong[0]} has no representative")
        return self

    @model_validator(mode="after")
    def _are_probabilities(self) -> "Episode":
        """Reject numbers that stand for probabilities and are none."""
        for turn in self.turns:
            given = turn["probabilities"]
            if not given or min(given) < 0 or abs(sum(given) - 1) > ROUNDING:
                raise ValueError(f"{given!r:.80} are no probabilities of actions")
        for response in self.responses.values():
            critique = response["critique"]
            known = None if critique is None else critique["confidence"]
            if known is not None and not 0 <= known <= 1:
                raise ValueError(f"{known!r:.80} is no confidence: it must be in [0, 1]")
        return self

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
                "the state holds no finished deliberation. Give all of the graph's channels "
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
                recruits=state.get("recruits", []),
                attachments=kinds_of(header.get("attachments", [])),
                category=header.get("category"),
                outcome=outcome,
            )
        except (ValidationError, RecursionError) as error:
            raise TraceError(f"the state is not a valid episode: {error}") from error

    @classmethod
    def from_json(cls, line: bytes | str) -> "Episode":
        """Read one record.

        Raises:
            TraceError: It is torn, of another version, or not an episode.
        """
        record = _loads(line)
        version = record.get("schema_version") if isinstance(record, dict) else None
        if type(version) is not int or version not in READABLE_VERSIONS:  # True equals 1
            raise TraceError(
                f"schema version {reprlib.repr(version)}, but this release reads versions 1 to "
                f"{READABLE_VERSIONS[-1]}"
            )
        try:
            return cls.model_validate(_unpack(record) if "packed" in record else record)
        except (ValidationError, RecursionError) as error:
            raise TraceError(f"invalid record: {error}") from error

    def to_json(self, *, packed: bool = False) -> bytes:
        """Return the record as one line without a newline.

        Args:
            packed: Compress it, to about a fifth, unless it is longer than `MOST_BYTES`. `id` and
                version stay readable.

        Raises:
            TraceError: It holds what JSON cannot hold.
        """
        record = self._to_json()
        if not packed or len(record) > MOST_BYTES:
            return record
        inside = binascii.b2a_base64(zlib.compress(record, 1), newline=False).decode()
        head = {"schema_version": self.schema_version, "id": self.id, "packed": inside}
        return orjson.dumps(head)

    def _to_json(self) -> bytes:
        """Return the record as JSON, which can be read if the record itself is a checked one."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        free = [self.agents, self.options, self.outcome]
        with suppress(TypeError, ValueError):  # `Any` may hide what is no plain data
            if orjson.loads(orjson.dumps(free)) == free:
                return orjson.dumps(fields)
        line = self._turned_plain()
        self.from_json(line)
        return line

    def _turned_plain(self) -> bytes:
        fields = self.model_dump()
        try:
            return orjson.dumps(fields)
        except TypeError:  # a lone surrogate in user text, which no UTF-8 can hold
            with suppress(TypeError, ValueError, RecursionError):
                return json.dumps(fields, ensure_ascii=False).encode(errors="replace")
            raise TraceError("the episode holds what JSON cannot hold") from None


def _loads(line: bytes | str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"torn record: {error}") from error


def _unpack(record: Mapping[str, Any]) -> Any:
    """Return what a packed record holds.

    Raises:
        TraceError: It cannot be unpacked, or its head is that of another record.
    """
    unpacker = zlib.decompressobj()
    try:
        packed = binascii.a2b_base64(record["packed"], strict_mode=True)
        line = unpacker.decompress(packed, MOST_BYTES)
    except (TypeError, ValueError, zlib.error) as error:
        raise TraceError(f"torn record: {error}") from error
    if not unpacker.eof:
        raise TraceError(f"torn record: it is cut, or longer than {MOST_BYTES:,} bytes")
    inside = _loads(line)
    head = ("schema_version", "id")
    if not isinstance(inside, dict) or any(inside.get(key) != record.get(key) for key in head):
        raise TraceError("invalid record: its head is that of another one")
    return inside


def read_id(line: bytes) -> str | None:
    """Return the id in a record's line, None if it has none or is torn."""
    if found := _HEAD.match(line):
        return found[1].decode()
    with suppress(TraceError):
        record = _loads(line)
        id_ = record.get("id") if isinstance(record, dict) else None
        return id_ if isinstance(id_, str) else None
    return None


def read_question(line: bytes) -> str | None:
    """Return the question in a record's line, None if it has none or is torn.

    A torn line still gives its question, if it is whole up to there.
    """
    with suppress(TraceError):
        if found := _ASKED.match(line):
            return str(_loads(found[1]))
        record = _loads(line)
        if isinstance(record, dict) and "packed" in record:
            record = _unpack(record)
        question = record.get("question") if isinstance(record, dict) else None
        return question if isinstance(question, str) else None
    return None


#: How a line of ours begins, up to its question.
_ASKED = re.compile(
    rb'\{"schema_version":\d+,"id":"[^"\\]*","started":[^,"]+,'
    rb'"graph":"(?:[^"\\]|\\.)*","question":("(?:[^"\\]|\\.)*"),'
)
#: How a whole line of ours begins. Its id holds nothing that JSON would write otherwise.
_HEAD = re.compile(rb'\{"schema_version":\d+,"id":"([0-9A-Za-z~_-]+)",".*\}\s*$', re.DOTALL)
