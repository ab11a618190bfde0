"""Attack everything, and print the closing table.

    python -m tests.torture                       # all of it: an estimated 20 minutes
    python -m tests.torture --scale 0.05          # a slice of each
    python -m tests.torture --parts frames torn   # some of it
    python -m tests.torture --parts endurance --scale 5    # memory over 50,000 deliberations

Each finished part is kept in `--out`, so that a command that was stopped goes on. `--anew` begins
from the start. The exit code is 1 if anything was found.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.fuzz import FUZZ
from tests.torture.kills import KILLS
from tests.torture.kills_of_training import KILLS_OF_TRAINING
from tests.torture.matrix import MATRIX
from tests.torture.others import burst, endurance, escapes, frames, torn
from tests.torture.table import Attack, Row, load, save, table

PARTS: dict[str, Attack] = {
    **MATRIX, **KILLS, **KILLS_OF_TRAINING, **FUZZ, "frames": frames, "torn": torn,
    "escapes": escapes, "burst": burst, "endurance": endurance,
}  # fmt: skip


def attack(name: str, scale: float) -> Row:
    """Carry out one part, in a folder that is removed afterwards."""
    began = time.monotonic()

    def progress(words: str) -> None:
        print(f"{name}, {time.monotonic() - began:.0f} s: {words}", file=sys.stderr, flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        return PARTS[name](scale, Path(folder) / "work", progress)


def main() -> int:
    """Carry out the parts that are not done yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("runs/torture"))
    parser.add_argument("--anew", action="store_true")
    options = parser.parse_args()
    if options.anew:
        shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in options.parts:
        kept = options.out / f"{name}-{options.scale:g}.json"
        if not kept.exists():
            save([attack(name, options.scale)], kept)
        rows += load(kept)
    print(table(rows))  # noqa: T201
    for row in rows:
        for words in row.notes:
            print(f"{row.test}: {words}")  # noqa: T201
    return 0 if all(row.clean for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
