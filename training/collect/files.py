"""Files that are whole or not there, that one process writes, and the settings of a folder."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mpdf_langgraph.errors import ConfigurationError

MOST_CHANGES = 4
"""Changed settings that are told. The others are counted."""
SHOWN = 60
"""Characters of a changed setting that are told."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file takes the place of `path` at the end.

    A stop or an error in between leaves the old file as it was.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(target) as draft:
        ...     _ = draft.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as indented JSON, whole or not at all. What JSON lacks becomes text."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=1, default=str) + "\n")


def check_folder(option: str, folder: Path) -> None:
    """Refuse an option whose folder can neither be made nor written to. Nothing is made.

    Raises:
        ConfigurationError: It cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigurationError(f"{option} {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{option} {folder}: {there} cannot be written to")


def lock(file: IO[bytes], advice: str) -> None:
    """Lock an open file until it is closed, where the system has such locks.

    Args:
        file: The file.
        advice: What to do if it is locked already. It ends the error message.

    Raises:
        ConfigurationError: It is locked already, mostly by another process. It is closed then.
    """
    try:
        import fcntl  # not on Windows

        # Not lockf: that lock would end once this process closes another handle of the file.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigurationError(f"{file.name} is in use. {advice}") from error
    except (ImportError, OSError):  # not every system and not every network folder has locks
        return


def keep_settings(path: Path, settings: Mapping[str, Any], advice: str) -> None:
    """Keep settings in a file, or compare them with those that are kept there.

    A setting that is not in the file does not count as changed.

    Args:
        path: The file.
        settings: Plain data.
        advice: What to do if the settings differ. It ends the error message.

    Raises:
        ConfigurationError: The file is damaged, or a setting differs.
    """
    now = json.loads(json.dumps(settings, default=str))  # tuples become lists, as in the file
    if not path.exists():
        write_json(path, now)
        return
    try:
        kept = json.loads(path.read_bytes())
        if not isinstance(kept, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is damaged ({error}). {advice}") from error
    changed = [
        change
        for name, value in now.items()
        if name in kept
        for change in describe_changes(name, kept[name], value)
    ]
    if changed:
        told = "; ".join(changed[:MOST_CHANGES])
        if len(changed) > MOST_CHANGES:
            told += f"; and {len(changed) - MOST_CHANGES} more"
        raise ConfigurationError(f"{path.parent} was made with other settings: {told}. {advice}")


def describe_changes(name: str, old: Any, new: Any) -> Iterator[str]:
    """Describe how plain data differ, by the innermost keys that changed, each shortened."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from describe_changes(f"{name}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True), 1):
            yield from describe_changes(f"{name} {number}", *pair)
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{name} were {len(old)} and are {len(new)}"
    elif old != new:
        texts = [repr(value) for value in (old, new)]
        pairs = enumerate(zip(*texts, strict=False))
        first = next((place for place, (one, other) in pairs if one != other), 0)
        start = max(0, first - SHOWN // 2)
        was, is_ = (_shorten(text, start) for text in texts)
        yield f"{name} was {was} and is {is_}"


def _shorten(text: str, start: int) -> str:
    """Return a text, of a long one what stands around a place."""
    if len(text) <= SHOWN:
        return text
    end = start + SHOWN
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))
