"""What a fit keeps while it runs: checkpoints that it can go on from, and a log of its epochs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.collect.files import atomic_write, keep_settings, lock


def prepare_folder(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> IO[bytes]:
    """Make a router's folder ready for a fit, to go on from its checkpoints or without them.

    `settings`, all that the fit depends on as plain data, are kept beside the checkpoints.

    Returns:
        A file that keeps the folder to this fit until it is closed.

    Raises:
        ConfigurationError: The checkpoints are of a fit with other settings, or a fit that is under
            way has the folder.
    """
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    held = (checkpoints / "lock").open("ab")
    lock(held, "Another fit has this folder: wait for it, or give another --out.")
    kept = checkpoints / "settings.json"
    if not (resume and kept.exists()):
        for old in (kept, *checkpoints.glob("*.pt")):
            old.unlink(missing_ok=True)
    advice = "Give the same options and traces, or start anew without --resume"
    try:
        keep_settings(kept, settings, advice)
    except BaseException:
        held.close()
        raise
    return held


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that a stop in between leaves the old one."""
    with atomic_write(path) as draft:
        torch.save(dict(state), draft)


def content_hash(*tensors: Tensor) -> str:
    """Return a hash of what tensors hold, and of their shapes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class Log:
    """The epochs' rows: in `log.jsonl`, for TensorBoard, and in memory (`rows`) for the plots.

    A fit that goes on writes the rows of its checkpoints anew, so that a stop leaves neither a torn
    row nor one twice.
    """

    def __init__(self, folder: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        board = folder / "tensorboard"
        for old in board.glob("events.out.tfevents.*"):
            old.unlink()
        self._file = (folder / "log.jsonl").open("w")
        self._board = SummaryWriter(str(board))

    def write(self, row: dict[str, Any]) -> None:
        """Append one epoch."""
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{row['stage']}/{name}", value, row["epoch"])

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._board.close()
