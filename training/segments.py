"""One segment of traces as columns: read once, then kept beside it as a Parquet file.

A row is an episode, its groups lie in lists, and what the reference or the grader decides is
left open: answers are kept as indices into the episode's own answers, so that a cache stays
valid whatever is joined or graded later.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.observation import FEATURE_VERSION, FEATURES
from mpdf_langgraph.state import ACTIONS
from mpdf_langgraph.traces import READABLE_VERSIONS, SCHEMA_VERSION, Episode
from training.recalibrated import recalibrated
from training.rewards import Decision, decisions

#: Of the cache; to be raised whenever what stands in it, or how it is computed, changes.
CACHE_VERSION = 1
VERSIONS = [CACHE_VERSION, SCHEMA_VERSION, FEATURE_VERSION]
EPISODES_PER_BATCH = 1000
#: Problems told in full; the counts tell of the others.
MOST_PROBLEMS = 20
_NO_ANSWER = -1
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
_META = b"mpdf"


@dataclass
class Segment:
    """The ungraded groups of one segment.

    Attributes:
        batches: Rows are episodes; see `unpacked` for the columns.
        counts: Records by fate: ``read``, or why they were dropped.
        problems: Where and why records were dropped, the first `MOST_PROBLEMS`.
        cached: They come from the cache.
    """

    batches: list[pa.RecordBatch]
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    cached: bool = False


def cache_of(segment: Path) -> Path:
    """Return where a segment's columns are kept."""
    return segment.with_name(f".{segment.name}.parquet")


def read_segment(
    path: Path,
    *,
    rule: ConsensusRule | None = None,
    calibration: Calibration | None = None,
    cache: bool = True,
    advance: Callable[[int], Any] = lambda size: None,
) -> Segment:
    """Return a segment's columns, from its cache where that is whole and of this content.

    Args:
        path: The segment.
        rule: Consensus rule of its episodes, where it is not built in. A cache cannot tell one
            callable from another, so none is read or written then.
        calibration: Of the confidences (see `recalibrated`); nothing is cached either.
        cache: Use and write the cache.
        advance: Called with the bytes done since the last call.

    Raises:
        ConfigurationError: An episode's consensus rule is not built in and not given.
        TraceError: The segment cannot be read.
    """
    cache = cache and rule is None and calibration is None
    try:
        known = _read_cache(path) if cache else None
        if known is not None:
            advance(path.stat().st_size)
            return known
        return _read_traces(path, rule, calibration, cache, advance)
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error}") from error


# --- from the traces ------------------------------------------------------------------------


def _read_traces(
    path: Path,
    rule: ConsensusRule | None,
    calibration: Calibration | None,
    cache: bool,
    advance: Callable[[int], Any],
) -> Segment:
    segment = Segment([])
    blocks = [_Block()]
    digest, size = hashlib.sha256(), 0
    modified = path.stat().st_mtime_ns  # before reading: what is appended later makes it stale
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            digest.update(line)
            size += len(line)
            advance(len(line))
            if not line.strip():
                continue
            fate, problem = _add(blocks[-1], line, rule, calibration)
            segment.counts[fate] += 1
            if problem and len(segment.problems) < MOST_PROBLEMS:
                segment.problems.append(f"{path}:{number}: {problem}"[:500])
            if len(blocks[-1].ids) >= EPISODES_PER_BATCH:
                blocks[-1].pack()
                blocks.append(_Block())
    blocks[-1].pack()
    # Of one width throughout, as a column of fixed-size lists has to be; never of none.
    schema = _schema(
        rollouts=max(1, *(block.rollouts for block in blocks)),
        peers=max(1, *(block.peers for block in blocks)),
    )
    for block in blocks:
        if block.ids:
            segment.batches.append(block.batch(schema))
        block.columns.clear()
    if cache:
        identity = {"size": size, "modified": modified, "sha256": digest.hexdigest()}
        _write_cache(path, segment, schema, identity)
    return segment


def _add(
    block: "_Block", line: bytes, rule: ConsensusRule | None, calibration: Calibration | None
) -> tuple[str, str]:
    """Add a record to a block; return its fate, and what is wrong with it.

    Validating every record takes longer than all the rest: those that can be made sense of are
    taken as they are, the others validated to learn what is wrong.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return "torn record", f"torn record: {error}"
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version not in READABLE_VERSIONS:
        return "other version", f"schema version {version!r}, not one of {READABLE_VERSIONS}"
    try:
        episode = Episode.model_construct(**record)
        if calibration is not None:
            episode = recalibrated(episode, calibration, rule)
        block.add(episode, decisions(episode, rule))
    except _MALFORMED as error:
        try:
            Episode.from_json(line)
        except TraceError as reason:
            return "invalid record", str(reason)
        if isinstance(error, ConfigurationError):
            raise
        return "invalid record", f"{type(error).__name__}: {error}"
    return "read", ""


class _Block:
    """Columns of some episodes under construction, without padding."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.questions: list[str] = []
        self.references: list[str | None] = []
        self.answers: list[list[str]] = []
        self.agents: list[list[str]] = []
        self.parts: dict[str, list[Any]] = {}
        self.columns: dict[str, np.ndarray] = {}
        self.rollouts = self.peers = 0

    def add(self, episode: Episode, made: list[Decision]) -> None:
        """Add an episode, or nothing where it cannot be made numbers of."""
        place = {agent["name"]: i for i, agent in enumerate(episode.agents)}
        codes: dict[str | None, int] = {None: _NO_ANSWER}

        def code(answer: str | None) -> int:
            return codes.setdefault(answer, len(codes) - 1)

        moves = [move for decision in made for move in decision.moves]
        features, others = len(FEATURES), len(place) - 1
        own = np.array([d.observation["own"] for d in made], np.float32)
        peers = np.array([d.observation["peers"] for d in made], np.float32)
        row = {
            "own": own.reshape(len(made), features),
            "peers": peers.reshape(len(made), others * features),
            "mask": np.array([d.mask for d in made], np.uint8).reshape(-1, len(ACTIONS)),
            "behaviour": np.array([d.behaviour for d in made], np.float32).reshape(
                -1, len(ACTIONS)
            ),
            "agent": np.array([place[d.agent] for d in made], np.int16),
            "round": np.array([d.round for d in made], np.int16),
            "taken": np.array([d.action for d in made], np.int8),
            "disagreement": np.array([d.disagreement for d in made], np.uint8),
            "before": np.array([code(d.before) for d in made], np.int16),
            "without": np.array([code(d.without) for d in made], np.int16),
            "rollouts": np.array([len(d.moves) for d in made], np.int16),
            # By rollout
            "action": np.array([move.action for move in moves], np.int8),
            "answer": np.array([code(move.answer) for move in moves], np.int16),
            "consensus": np.array([code(move.consensus) for move in moves], np.int16),
            "tokens": np.array([move.tokens for move in moves], np.float32),
        }
        if not all(np.isfinite(row[name]).all() for name in ("own", "peers", "behaviour")):
            raise TraceError("a number is missing or not finite")
        for name, tally in (("vote", episode.tallies[0]), ("final", episode.tallies[-1])):
            row[name] = np.array([code(tally["answer"])], np.int16)
        answers = [answer for answer in codes if answer is not None]
        texts = [episode.id, episode.question, *place, *answers]
        if episode.reference is not None:
            texts.append(episode.reference)
        if not all(isinstance(text, str) for text in texts):
            raise TraceError("the id, the question, a name, the reference or an answer is no text")
        self.ids.append(episode.id)
        self.questions.append(episode.question)
        self.references.append(episode.reference)
        self.answers.append(answers)
        self.agents.append(list(place))
        row["groups"] = np.array([len(made)], np.int32)
        for name, values in row.items():
            self.parts.setdefault(name, []).append(values)

    def pack(self) -> None:
        """Join the episodes' arrays, which are many and small."""
        if not self.ids:
            return
        peers = self.parts["peers"]
        width = max(array.shape[1] for array in peers)
        self.parts["peers"] = [_widened(array, width) for array in peers]
        self.columns = {name: np.concatenate(values) for name, values in self.parts.items()}
        self.parts.clear()
        self.peers = width // len(FEATURES)
        self.rollouts = int(self.columns["rollouts"].max(initial=0))

    def batch(self, schema: pa.Schema) -> pa.RecordBatch:
        """Return the columns as rows of episodes, padded to the widths of `schema`."""
        columns = dict(self.columns)
        rollouts, features = (
            schema.field(n).type.value_type.list_size for n in ("action", "peers")
        )
        filled = np.arange(rollouts) < columns["rollouts"][:, None]
        for name in ("action", "answer", "consensus", "tokens"):
            padded = np.zeros(filled.shape, columns[name].dtype)
            padded[filled] = columns[name]
            columns[name] = padded
        columns["peers"] = _widened(columns["peers"], features)
        offsets = pa.array(np.append(0, np.cumsum(columns["groups"])), pa.int32())
        arrays: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "question": pa.array(self.questions, pa.string()),
            "reference": pa.array(self.references, pa.string()),
            "answers": pa.array(self.answers, schema.field("answers").type),
            "agents": pa.array(self.agents, schema.field("agents").type),
            "vote": pa.array(columns["vote"]),
            "final": pa.array(columns["final"]),
        }
        for entry in schema:
            if entry.name in arrays:
                continue
            values: pa.Array = pa.array(columns[entry.name].ravel())
            if pa.types.is_fixed_size_list(entry.type.value_type):
                values = pa.FixedSizeListArray.from_arrays(values, type=entry.type.value_type)
            arrays[entry.name] = pa.ListArray.from_arrays(offsets, values, type=entry.type)
        return pa.record_batch([arrays[name] for name in schema.names], schema=schema)


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    if array.shape[1] == width:
        return array
    wider = np.zeros((len(array), width), array.dtype)
    wider[:, : array.shape[1]] = array
    return wider


# --- columns --------------------------------------------------------------------------------


def _schema(rollouts: int, peers: int) -> pa.Schema:
    features = len(FEATURES)

    def by_group(kind: pa.DataType, width: int | None = None) -> pa.DataType:
        if width is not None:
            kind = pa.list_(pa.field("item", kind, False), width)
        return pa.list_(pa.field("item", kind, False))

    types = {
        "id": pa.string(),
        "question": pa.string(),
        "reference": pa.string(),
        "answers": by_group(pa.string()),
        "agents": by_group(pa.string()),
        "vote": pa.int16(),
        "final": pa.int16(),
        "agent": by_group(pa.int16()),
        "round": by_group(pa.int16()),
        "taken": by_group(pa.int8()),
        "disagreement": by_group(pa.uint8()),
        "before": by_group(pa.int16()),
        "without": by_group(pa.int16()),
        "rollouts": by_group(pa.int16()),
        "mask": by_group(pa.uint8(), len(ACTIONS)),
        "behaviour": by_group(pa.float32(), len(ACTIONS)),
        "action": by_group(pa.int8(), rollouts),
        "answer": by_group(pa.int16(), rollouts),
        "consensus": by_group(pa.int16(), rollouts),
        "tokens": by_group(pa.float32(), rollouts),
        "own": by_group(pa.float32(), features),
        "peers": by_group(pa.float32(), peers * features),
    }
    return pa.schema([pa.field(n, kind, n == "reference") for n, kind in types.items()])


def unpacked(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """Return the columns by group as arrays, without copying.

    Returns:
        By episode, ``[E]``: ``groups`` (how many), ``vote`` and ``final`` (what the team
        answered before and after deliberating). By group, ``[G]``: ``agent`` (position in the
        team), ``round``, ``taken``, ``disagreement``, ``before``, ``without``, ``rollouts``;
        ``mask`` and ``behaviour [G, 3]``; ``action``, ``answer``, ``consensus`` and ``tokens
        [G, K]``, of which the first ``rollouts`` count; ``own [G, F]``; ``peers [G, P * F]``.
        Answers are indices into the episode's ``answers``, -1 for none.
    """
    result = {name: batch[name].to_numpy() for name in ("vote", "final")}
    for entry in batch.schema:
        column = batch[entry.name]
        if entry.name in ("agents", "answers") or not pa.types.is_list(entry.type):
            continue
        result.setdefault("groups", np.diff(column.offsets.to_numpy()))
        values = column.flatten()
        if pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            result[entry.name] = values.flatten().to_numpy().reshape(-1, width)
        else:
            result[entry.name] = values.to_numpy()
    return result


# --- cache ----------------------------------------------------------------------------------


def _read_cache(path: Path) -> Segment | None:
    """Return what the cache of a segment holds; None where it is torn, stale or not there."""
    try:
        file = pq.ParquetFile(cache_of(path), page_checksum_verification=True)
        meta = orjson.loads(file.schema_arrow.metadata[_META])
        if meta["versions"] != VERSIONS or not _unchanged(path, meta):
            return None
        batches = []
        for i in range(file.num_row_groups):
            table = file.read_row_group(i).replace_schema_metadata(None)
            batches += table.combine_chunks().to_batches()
        return Segment(batches, Counter(meta["counts"]), meta["problems"], cached=True)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _unchanged(path: Path, meta: dict[str, Any]) -> bool:
    """Tell whether a segment has the content that its cache was made from.

    Same length and time of change will do, as segments only grow; else the content decides.
    """
    stat = path.stat()
    if stat.st_size != meta["size"]:
        return False
    if stat.st_mtime_ns == meta["modified"]:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == meta["sha256"]


def _write_cache(path: Path, segment: Segment, schema: pa.Schema, identity: dict[str, Any]) -> None:
    """Write the cache, whole or not at all; a folder that takes none costs only time."""
    meta = identity | {
        "versions": VERSIONS,
        "counts": dict(segment.counts),
        "problems": segment.problems,
    }
    schema = schema.with_metadata({_META: orjson.dumps(meta)})
    cache = cache_of(path)
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        ) as writer:
            for batch in segment.batches:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        temporary.replace(cache)
    except OSError as error:
        warnings.warn(f"{path} is read anew each time: {error}", stacklevel=2)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
