"""Traces as rows: read in parallel, and kept in a cache beside each segment.

A *row* is what a function makes of one episode: arrays, which are joined along their first axis,
and texts, of which each column becomes a list with one entry per episode.
"""

import hashlib
import math
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph.errors import ConfigurationError, MPDFError, TraceError
from mpdf_langgraph.observation import FEATURE_VERSION
from mpdf_langgraph.traces.reader import NOT_A_FILE, find_files, find_segments, spread_episodes
from mpdf_langgraph.traces.records import SCHEMA_VERSION, Episode, read_question
from training.collect.files import atomic_write
from training.collect.pool import make_pool
from training.learn.rewards import Grader

Arrays = dict[str, NDArray[Any]]

#: Raise the first one if what a row holds, or how it is computed, changes.
VERSIONS = [7, SCHEMA_VERSION, FEATURE_VERSION]
#: What a record raises that contradicts itself, or holds what cannot be computed with.
CONTRADICTIONS = (KeyError, IndexError, TypeError, ValueError, OverflowError)
#: A process reads this many bytes of a segment at a time.
CHUNK = 16_000_000
#: Below this many bytes, processes take longer to start than they save.
WORTH_PROCESSES = 300_000_000
#: Caches that a segment keeps, as each share of the questions needs its own.
MOST_CACHES = 4
#: The number of turns is estimated on so many segments at most, and so many records of them all.
PROBED_SEGMENTS, PROBED_RECORDS = 32, 256
#: Problems that are told in full. The counts tell of the others.
MOST_PROBLEMS = 20
_TORN = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)


class Row(NamedTuple):
    """What a function makes of one episode."""

    arrays: Arrays
    texts: dict[str, Any]


RowFunction = Callable[[Episode], Row]


@dataclass
class Rows:
    """Rows of many episodes.

    Attributes:
        arrays: Joined along the first axis. Later axes are padded with zeros.
        texts: By column, one entry per episode. ``"id"`` and ``"reference"`` are among them.
        dropped: Records without a row, by reason: ``"unreadable"``, ``"contradictory"``.
        problems: Where and why, the first `MOST_PROBLEMS` of each segment.
        segments: Segments read.
        cached: Of these, read from their caches.
        left_out: Records of questions that were not drawn.
    """

    arrays: Arrays = field(default_factory=dict)
    texts: dict[str, list[Any]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    segments: int = 1
    cached: int = 0
    left_out: int = 0


def share_of(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], most_turns: int
) -> float:
    """Return the share of the questions to read: 1, or a half, a quarter, ...

    It is the largest of these that leaves about so many turns at most. Halves, so that traces may
    grow for a while before other questions are read. How many turns there are is estimated: by the
    bytes of a turn in records from all over the segments.

    Raises:
        TraceError: There is no such path.
    """
    segments = find_segments(paths)
    probed = segments[:: max(1, -(-len(segments) // PROBED_SEGMENTS))]
    each = PROBED_RECORDS // max(1, len(probed))
    found = [pair for path in probed for pair in spread_episodes(path, each)]
    read = sum(length for length, _ in found)
    turns = sum(len(episode.turns) for _, episode in found)
    estimate = turns / max(1, read) * sum(path.stat().st_size for path in segments)
    return float(0.5 ** max(0, math.ceil(math.log2(max(1.0, estimate / most_turns)))))


def is_drawn(question: str, share: float) -> bool:
    """Tell whether a question is among a share of all. A smaller share is a part of a larger."""
    return place_of(f"drawn\n{question}") < share


def place_of(text: str) -> float:
    """Return a number in [0, 1) that depends on a text alone.

    The numbers of many texts are spread evenly.
    """
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def read_rows(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    kind: str,
    row_of: RowFunction,
    *,
    share: float = 1.0,
    processes: int = 1,
    progress: bool = False,
) -> Rows:
    """Return the rows of all episodes in files and folders, in order of writing.

    Args:
        paths: Folders of traces, or segments.
        kind: Name of the cache, which has to tell one `row_of` from another. Empty: no cache.
        row_of: Makes the row of an episode.
        share: Of the questions, see `share_of`. The records of others are left out.
        processes: Read in so many processes where that is faster. `row_of` is then pickled.
        progress: Show a progress bar.

    Raises:
        ConfigurationError: `row_of` raised it.
        TraceError: There is no such path, or it cannot be read.
        MPDFError: A process was killed.
    """
    segments, odd = find_files(paths)
    kind += f"-{share:g}" * (bool(kind) and share < 1)
    try:
        # Before reading: what is appended meanwhile makes a cache stale.
        stats = {path: path.stat() for path in segments}
        parts = {path: _read_cache(path, kind) for path in segments}
        chunks = [
            (path, start)
            for path, known in parts.items()
            if known is None
            for start in range(0, max(1, stats[path].st_size), CHUNK)
        ]
        sizes = {path: stat.st_size for path, stat in stats.items()}
        with ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(
                    total=sum(sizes.values()), unit="B", unit_scale=True, desc="traces",
                    disable=not progress,
                )
            )  # fmt: skip
            bar.update(sum(sizes[path] for path, known in parts.items() if known))
            found: Iterable[_Chunk]
            if min(processes, len(chunks)) > 1 and len(chunks) * CHUNK > WORTH_PROCESSES:
                pool = make_pool(min(processes, len(chunks)))
                stack.callback(pool.shutdown, cancel_futures=True)
                found = pool.map(_read_chunk, chunks, repeat(row_of), repeat(share))
            else:
                found = map(_read_chunk, chunks, repeat(row_of), repeat(share))
            waiting: list[_Chunk] = []
            for chunk, (path, start) in zip(found, chunks, strict=True):
                waiting.append(chunk)
                bar.update(min(CHUNK, sizes[path] - start))
                if start + CHUNK >= sizes[path]:
                    parts[path] = rows = _join_chunks(path, waiting)
                    waiting = []
                    if kind:
                        _write_cache(path, kind, rows, stats[path])
    except BrokenProcessPool as error:
        raise MPDFError(
            f"a process that read traces was killed, perhaps for want of memory: {error}"
        ) from error
    except OSError as error:
        raise TraceError(f"cannot read the traces: {error}") from error
    result = join_rows([part for part in parts.values() if part])
    result.dropped.update({"unreadable": len(odd)} if odd else {})
    result.problems += [f"{path}: {NOT_A_FILE}" for path in odd]
    return result


def describe_records(read: int, dropped: Mapping[str, int]) -> str:
    """Return in a sentence how many records were read, and how many were dropped for what."""
    told = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
    return f"{read} records were read. Dropped: {told or 'none'}"


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Join rows, and empty the parts."""
    texts: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in part.texts.items():
            texts.setdefault(name, []).extend(values)
    return Rows(
        arrays=join_arrays([part.arrays for part in parts if part.arrays]),
        texts=texts,
        dropped=sum((part.dropped for part in parts), Counter()),
        problems=[problem for part in parts for problem in part.problems],
        segments=sum(part.segments for part in parts),
        cached=sum(part.cached for part in parts),
        left_out=sum(part.left_out for part in parts),
    )


def join_arrays(parts: Sequence[Arrays]) -> Arrays:
    """Join arrays by name along their first axis, later axes padded with zeros.

    The parts are emptied name by name, so that no array is held twice for long.
    """
    joined: Arrays = {}
    for name in list(parts[0]) if parts else ():
        arrays = [part.pop(name) for part in parts]
        widths = [max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True)]
        whole = np.zeros((sum(map(len, arrays)), *widths), arrays[0].dtype)
        start = 0
        for array in arrays:
            place = (slice(start, start + len(array)), *map(slice, array.shape[1:]))
            whole[place] = array
            start += len(array)
        joined[name] = whole
    return joined


def stack_rows(rows: Iterable[Row]) -> Rows:
    """Return the rows of episodes that are not read from files."""
    given = list(rows)
    names = given[0].texts if given else {}
    return Rows(
        arrays=join_arrays([row.arrays for row in given]),
        texts={name: [row.texts[name] for row in given] for name in names},
    )


def find_references(
    texts: Mapping[str, list[Any]], labels: Mapping[str, str]
) -> tuple[list[str | None], NDArray[np.bool_]]:
    """Return the reference of each episode, and which episodes are the last of their id."""
    ids = texts.get("id", [])
    pairs = zip(ids, texts.get("reference", []), strict=True)
    places = {id_: i for i, id_ in enumerate(ids)}
    last = [places[id_] == i for i, id_ in enumerate(ids)]
    return [labels.get(id_, own) for id_, own in pairs], np.array(last, bool)


def grade_answers(
    texts: Mapping[str, list[Any]], labels: Mapping[str, str], grader: Grader
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which episodes are the last of their id, which of these have a reference, and grades.

    The grades are of the answers of all episodes, one after another. One False stands at the end,
    for no answer. The grader is asked once for each pair.
    """
    references, last = find_references(texts, labels)
    keep = last & np.array([truth is not None for truth in references], bool)
    known = cache(grader)
    right = [
        bool(kept and known(answer, str(truth)))
        for kept, truth, those in zip(keep, references, texts.get("answers", []), strict=True)
        for answer in those
    ]
    return last, keep, np.array([*right, False], bool)


# --- chunks -----------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    rows: Rows
    lines: int
    problems: list[tuple[int, str]]


def _read_chunk(chunk: tuple[Path, int], row_of: RowFunction, share: float) -> _Chunk:
    """Read the lines that start in a chunk of a segment, of a share of the questions."""
    path, start = chunk
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    problems = []
    lines = left_out = 0
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < start + CHUNK and (line := file.readline()):
            lines += 1
            if not line.strip():
                continue
            question = read_question(line) if share < 1 else None
            if question is not None and not is_drawn(question, share):
                left_out += 1
                continue
            reason = "unreadable"
            try:
                episode = Episode.from_json(line)
                reason = "contradictory"
                rows.append(row_of(episode))
            except ConfigurationError:
                raise
            except CONTRADICTIONS as error:
                told = str(error) if isinstance(error, TraceError) else repr(error)
                dropped[reason] += 1
                problems.append((lines, told))
    result = stack_rows(rows)
    result.dropped, result.left_out = dropped, left_out
    return _Chunk(result, lines, problems[:MOST_PROBLEMS])


def _join_chunks(path: Path, chunks: Sequence[_Chunk]) -> Rows:
    """Return the rows of a segment, with the problems by line of the file."""
    before, problems = 0, []
    for chunk in chunks:
        problems += [f"{path}:{before + line}: {told}"[:500] for line, told in chunk.problems]
        before += chunk.lines
    result = join_rows([chunk.rows for chunk in chunks])
    result.segments, result.problems = 1, problems[:MOST_PROBLEMS]
    return result


# --- cache ------------------------------------------------------------------------------------


def cache_of(segment: Path, kind: str) -> Path:
    """Return where a segment's rows of a kind are kept."""
    return segment.with_name(f".{segment.name}.{kind}.npz")


def _read_cache(segment: Path, kind: str) -> Rows | None:
    """Return the rows that are kept of a segment, None if they are torn, stale or not there."""
    if not kind or not cache_of(segment, kind).exists():
        return None
    try:
        with cache_of(segment, kind).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        kept = orjson.loads(arrays.pop("kept").tobytes())
        if kept["versions"] != VERSIONS or not _is_unchanged(segment, kept):
            return None
        dropped = Counter(kept["dropped"])
        told = kept["problems"], kept.get("left_out", 0)
        return Rows(arrays, kept["texts"], dropped, told[0], cached=1, left_out=told[1])
    except _TORN:
        return None


def _is_unchanged(segment: Path, kept: Mapping[str, Any]) -> bool:
    """Tell whether a segment has the content that its cache was made from.

    The same size and time of change will do, as segments only grow. Else the content decides.
    """
    stat = segment.stat()
    if stat.st_size != kept["size"]:
        return False
    return bool(stat.st_mtime_ns == kept["modified"] or _digest(segment) == kept["sha256"])


def _digest(segment: Path) -> str:
    with segment.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_cache(segment: Path, kind: str, rows: Rows, stat: os.stat_result) -> None:
    """Keep the rows of a segment.

    If the folder cannot be written to, the segment is read again each time.
    """
    kept = {
        "versions": VERSIONS,
        "size": stat.st_size,
        "modified": stat.st_mtime_ns,
        "sha256": _digest(segment),
        "texts": rows.texts,
        "dropped": rows.dropped,
        "problems": rows.problems,
        "left_out": rows.left_out,
    }
    try:
        with atomic_write(cache_of(segment, kind)) as draft, draft.open("wb") as file:
            arrays = {**rows.arrays, "kept": np.frombuffer(orjson.dumps(kept), np.uint8)}
            np.savez(file, allow_pickle=False, **arrays)
        alike = segment.parent.glob(f".{segment.name}.*.npz")
        for old in sorted(alike, key=lambda path: path.stat().st_mtime)[:-MOST_CACHES]:
            old.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"{segment} is read anew each time: {error}", stacklevel=3)
