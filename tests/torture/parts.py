"""All parts of the torture, by name."""

import sys
import tempfile
import time
from pathlib import Path

from tests.torture.altered import ALTERED
from tests.torture.fuzz import FUZZ
from tests.torture.kills import KILLS
from tests.torture.kills_of_training import KILLS_OF_TRAINING
from tests.torture.matrix import MATRIX
from tests.torture.others import ESCAPES, MEMORY, burst, frames, torn
from tests.torture.table import Attack, Row

#: Those that take longest come first.
PARTS: dict[str, Attack] = {
    **MEMORY, **FUZZ, **KILLS_OF_TRAINING, **MATRIX, **KILLS, "burst": burst, **ALTERED, **ESCAPES,
    "torn": torn, "frames": frames,
}  # fmt: skip
#: Those that mostly wait, for an endpoint or for the moment of a kill.
WAITING = {*MATRIX, *KILLS, "burst"}


def attack(name: str, scale: float) -> Row:
    """Carry out one part, in a folder that is removed afterwards."""
    began = time.monotonic()

    def progress(words: str) -> None:
        print(f"{name}, {time.monotonic() - began:.0f} s: {words}", file=sys.stderr, flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        return PARTS[name](scale, Path(folder) / "work", progress)
