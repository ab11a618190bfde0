"""Reads the episodes of a folder, each once."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.traces.records import Episode


def find_segments(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Path]:
    """Return the segments in files and folders, sub-folders included, each once, in order.

    Raises:
        TraceError: There is no such path.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, Path] = {}
    for path in map(Path, given):
        if not path.exists():
            raise TraceError(f"no traces at {path}: no such file or folder")
        for segment in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            found.setdefault(segment.resolve(), segment)
    return list(found.values())


class TraceReader:
    """Iterates over the episodes of a folder or file, each once, in order of writing.

    Attributes:
        counts: After iterating: records by fate (``read``, ``duplicate``, ``skipped``).
        skipped: Where and why records were skipped, one line each.

    Args:
        path: A folder of ``*.jsonl`` segments, in sub-folders too, or one segment.

    Raises:
        TraceError: There is no such path.

    Example:
        >>> import tempfile
        >>> list(TraceReader(tempfile.mkdtemp()))
        []
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        find_segments(self.path)
        self.counts: Counter[str] = Counter()
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Episode]:
        self.counts, self.skipped = Counter(), []
        seen: set[str] = set()
        for segment in find_segments(self.path):
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
