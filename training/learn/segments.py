"""One segment of traces as columns: read once, then kept beside it as a Parquet file.

As the columns leave open what the reference, the grader or a calibration decides, a cache stays
valid whatever is joined, graded or calibrated later.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule, votes_of
from mpdf_langgraph.errors import ConfigurationError, MPDFError, TraceError
from mpdf_langgraph.observation import FEATURE_VERSION
from mpdf_langgraph.traces.records import READABLE_VERSIONS, SCHEMA_VERSION, Episode
from training.learn.columns import Block, schema_of
from training.learn.recalibrate import Held, holdings, recalibrated
from training.learn.rewards import Decision, check_tally, decisions, rule_of

#: Of the cache; to be raised whenever what stands in it, or how it is computed, changes.
CACHE_VERSION = 3
VERSIONS = [CACHE_VERSION, SCHEMA_VERSION, FEATURE_VERSION]
EPISODES_PER_BATCH = 1000
#: Of segments without a cache, in bytes: below, processes take longer to start than they save.
WORTH_PROCESSES = 1_000_000_000
#: Problems told in full; the counts tell of the others.
MOST_PROBLEMS = 20
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError)
_META = b"mpdf"


@dataclass
class Segment:
    """The ungraded groups of one segment.

    Attributes:
        batches: Rows are episodes; see `columns.unpacked` for the columns.
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
        calibration: Of the confidences of episodes with such a rule. With a built-in rule the
            columns as recorded are all that is needed: see `training.learn.calibrated`.
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


def cache_segments(paths: Sequence[Path], processes: int) -> None:
    """Write the caches that are missing or stale, where several processes make that faster.

    It only saves time: `read_segment` reads whatever has no cache then.

    Raises:
        MPDFError: A process was killed; or as `read_segment`.
    """
    stale = [path for path in paths if not _is_cached(path) and os.access(path.parent, os.W_OK)]
    sizes = [path.stat().st_size for path in stale]
    if min(processes, len(stale)) < 2 or sum(sizes) < WORTH_PROCESSES:
        return
    # Not forked: the threads of torch and of Arrow do not survive that.
    with (
        ProcessPoolExecutor(min(processes, len(stale)), get_context("spawn")) as pool,
        tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="caching traces") as bar,
    ):
        try:
            for size, _ in zip(sizes, pool.map(_cache, stale), strict=True):
                bar.update(size)
        except BrokenProcessPool as error:
            raise MPDFError(
                f"a process that read traces was killed, perhaps for want of memory: {error}; "
                "fewer threads take less"
            ) from error


def _cache(path: Path) -> None:
    read_segment(path)


# --- from the traces ------------------------------------------------------------------------


def _read_traces(
    path: Path,
    rule: ConsensusRule | None,
    calibration: Calibration | None,
    cache: bool,
    advance: Callable[[int], Any],
) -> Segment:
    segment = Segment([])
    blocks = [Block()]
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
                blocks.append(Block())
    blocks[-1].pack()
    # Of one width throughout, as a column of fixed-size lists has to be; never of none.
    schema = schema_of(
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
    block: Block, line: bytes, rule: ConsensusRule | None, calibration: Calibration | None
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
        made = decisions(episode, rule)
        held = holdings(episode)
        _check_other_rounds(episode, made, held, rule)
        block.add(episode, made, held)
    except _MALFORMED as error:
        try:
            Episode.from_json(line)
        except TraceError as reason:
            return "invalid record", str(reason)
        if isinstance(error, ConfigurationError):
            raise
        return "invalid record", f"{type(error).__name__}: {error}"
    return "read", ""


def _check_other_rounds(
    episode: Episode, made: list[Decision], held: list[Held], rule: ConsensusRule | None
) -> None:
    """Compare the tallies without decisions too, as a calibration counts all votes anew."""
    chosen = rule_of(episode) if rule is None else rule
    decided = made[-1].round if made else 0
    for round_, responses in enumerate(held):
        if not 0 < round_ <= decided:
            check_tally(episode, round_, chosen(votes_of(responses)))


# --- cache ----------------------------------------------------------------------------------


def _is_cached(path: Path) -> bool:
    """Tell whether a cache of a segment's content is there; what is in it may yet be torn."""
    try:
        _open_cache(path)
    except _UNREADABLE:
        return False
    return True


def _open_cache(path: Path) -> tuple[pq.ParquetFile, dict[str, Any]]:
    """Return the cache of a segment and what it says of itself.

    Raises:
        ValueError: It is stale; or another of `_UNREADABLE`.
    """
    file = pq.ParquetFile(cache_of(path), page_checksum_verification=True)
    meta = orjson.loads(file.schema_arrow.metadata[_META])
    if meta["versions"] != VERSIONS or not _unchanged(path, meta):
        raise ValueError("of other content or of another version")
    return file, meta


def _read_cache(path: Path) -> Segment | None:
    """Return what the cache of a segment holds; None where it is torn, stale or not there."""
    try:
        file, meta = _open_cache(path)
        batches = []
        for i in range(file.num_row_groups):
            table = file.read_row_group(i).replace_schema_metadata(None)
            batches += table.combine_chunks().to_batches()
        return Segment(batches, Counter(meta["counts"]), meta["problems"], cached=True)
    except _UNREADABLE:
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
