"""Folders of traces."""

from collections.abc import Iterable
from pathlib import Path

from mpdf_langgraph import Episode, TraceWriter


def write_traces(folder: Path, episodes: Iterable[Episode]) -> Path:
    """Write episodes as one segment. Return the folder."""
    writer = TraceWriter(folder)
    for episode in episodes:
        writer.write(episode)
    writer.close()
    return folder
