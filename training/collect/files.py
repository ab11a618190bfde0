"""Files that are whole or not there, that one process writes, and the settings of a folder."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mpdf_langgraph.errors import ConfigurationError


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
        f"{name} was {kept[name]!r} and is {value!r}"
        for name, value in now.items()
        if name in kept and kept[name] != value
    ]
    if changed:
        raise ConfigurationError(
            f"{path.parent} was made with other settings: {'; '.join(changed)}. {advice}"
        )
