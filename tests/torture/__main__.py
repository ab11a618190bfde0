"""Attack everything, and print the closing table.

    python -m tests.torture                       # all of it: an estimated 20 minutes
    python -m tests.torture --scale 0.05          # a slice of each
    python -m tests.torture --parts frames torn   # some of it
    python -m tests.torture --parts endurance --scale 5    # memory over 50,000 deliberations

Each finished part is kept in `--out`, so that a command that was stopped goes on. A part is carried
out again if the code has changed since, or with `--anew`. The exit code is 1 if anything was found.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.altered import ALTERED
from tests.torture.fuzz import FUZZ
from tests.torture.kills import KILLS
from tests.torture.kills_of_training import KILLS_OF_TRAINING
from tests.torture.matrix import MATRIX
from tests.torture.others import ESCAPES, burst, endurance, frames, torn
from tests.torture.table import Attack, Row, code_version, load, save, table

PARTS: dict[str, Attack] = {
    **MATRIX, **KILLS, **KILLS_OF_TRAINING, **FUZZ, **ALTERED, **ESCAPES, "frames": frames,
    "torn": torn, "burst": burst, "endurance": endurance,
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
        "python -m tests.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help=f"what to carry out, all by default: {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/torture"), help="where results are kept"
    )
    parser.add_argument("--anew", action="store_true", help="carry out finished parts again")
    options = parser.parse_args()
    if options.scale <= 0:
        parser.error("--scale must be more than 0")
    options.out.mkdir(parents=True, exist_ok=True)
    version = code_version()
    rows: list[Row] = []
    for name in options.parts:
        path = options.out / f"{name}-{options.scale:g}.json"
        row = None if options.anew else load(path, version)
        if row is None:
            row = attack(name, options.scale)
            save(row, path, version)
        else:
            print(f"{name}: kept from an earlier run of this code", file=sys.stderr)  # noqa: T201
        rows.append(row)
    print(table(rows))  # noqa: T201
    for row in rows:
        for words in row.notes:
            print(f"{row.test}: {words}")  # noqa: T201
    return 0 if all(row.clean for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
