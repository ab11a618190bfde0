"""Reads the episodes of a folder, each once."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mpdf_langgraph.errors import TraceError
from mpdf_langgraph.traces.records import Episode


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
