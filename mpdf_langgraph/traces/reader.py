"""Reads the episodes of a folder, each once.

A deliberation that is resumed or replayed may leave several records of one id. The last one tells
what the caller got in the end, so it counts.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.traces.records import Episode, read_id

NOT_A_FILE = "not a file that can be read"


def find_segments(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Path]:
    """Return the segments in files and folders, sub-folders included, each once, in order.

    Raises:
        TraceError: There is no such path.
    """
    return find_files(paths)[0]


def find_files(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> tuple[list[Path], list[Path]]:
    """Return the segments, as `find_segments` does, and what only bears the name of one.

    That is a folder, a link to nowhere, or a file that may not be read.

    Raises:
        TraceError: There is no such path.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[str, Path] = {}
    for path in map(_home_of, given):
        if not path.exists():
            raise TraceError(f"no traces at {path}: no such file or folder")
        for segment in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            found.setdefault(os.path.realpath(segment), segment)
    odd = [path for path in found.values() if not (path.is_file() and os.access(path, os.R_OK))]
    return [path for path in found.values() if path not in odd], odd


def _home_of(path: str | os.PathLike[str]) -> Path:
    """Return a path whose `~` is the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise TraceError(f"no traces at {path}: {error}") from error


class TraceReader:
    """Iterates over the episodes of folders or files, each once, in order of writing.

    Of several records of one id, the last readable one is taken, at its own place in the order.
    Records that are written after the iteration has begun are not in it.

    Attributes:
        counts: After iterating: records by fate (``read``, ``duplicate``, ``skipped``).
        skipped: Where and why records were skipped, one line each.

    Args:
        paths: A folder of ``*.jsonl`` segments, in sub-folders too, or one segment, or several of
            these. Those of a later path count as later.

    Raises:
        TraceError: There is no such path.

    Example:
        >>> import tempfile
        >>> list(TraceReader(tempfile.mkdtemp()))
        []
    """

    def __init__(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> None:
        self.paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        find_segments(self.paths)
        self.counts: Counter[str] = Counter()
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Episode]:
        self.counts, self.skipped = Counter(), []
        segments, odd = find_files(self.paths)
        self.counts.update({"skipped": len(odd)} if odd else {})
        self.skipped += [f"{path}: {NOT_A_FILE}" for path in odd]
        ends = {segment: segment.stat().st_size for segment in segments}
        last = _find_last(ends)
        for segment, end in ends.items():
            for number, line in _lines(segment, end):
                try:
                    episode = Episode.from_json(line)
                except TraceError as error:
                    self.counts["skipped"] += 1
                    self.skipped.append(f"{segment}:{number}: {error}"[:500])
                    continue
                if last.get(episode.id, (segment, number)) != (segment, number):
                    self.counts["duplicate"] += 1
                    continue
                self.counts["read"] += 1
                yield episode


def first_episode(segment: Path) -> Episode | None:
    """Return the first readable record of a segment. None: there is none."""
    for _, line in _lines(segment, segment.stat().st_size):
        with suppress(TraceError):
            return Episode.from_json(line)
    return None


def spread_episodes(segment: Path, most: int) -> Iterator[tuple[int, Episode]]:
    """Yield readable records spread over a segment, each with the bytes of its line.

    The first records are no fair sample. Of deliberations side by side those that settle at once
    end first. A short segment gives the same record several times.
    """
    size = segment.stat().st_size
    with segment.open("rb") as file:
        for part in range(most):
            file.seek(part * size // most)
            if part:
                file.readline()  # the rest of a record
            for line in file:
                with suppress(TraceError):
                    yield len(line), Episode.from_json(line)
                    break


def _lines(segment: Path, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the records that start before the byte `end`, with their line numbers."""
    with segment.open("rb", buffering=1 << 20) as file:
        start = 0
        for number, line in enumerate(file, 1):
            if start >= end:
                return
            start += len(line)
            if line.strip():
                yield number, line


def _find_last(ends: Mapping[Path, int]) -> dict[str, tuple[Path, int]]:
    """Return where the last readable record of each id stands that has several records."""
    seen: set[str] = set()
    last: dict[str, tuple[Path, int]] = {}
    for segment, end in ends.items():
        for number, line in _lines(segment, end):
            id_ = read_id(line)
            if id_ is None:
                continue
            if id_ in seen:
                with suppress(TraceError):
                    Episode.from_json(line)
                    last[id_] = segment, number
            seen.add(id_)
    return last
