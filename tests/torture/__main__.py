"""Attack everything, and print the closing table.

    python -m tests.torture                       # all of it
    python -m tests.torture --scale 0.05          # a slice of each
    python -m tests.torture --parts frames torn   # some of it

Each core has a process that carries out one part after the other. One process more carries out the
parts that mostly wait. Each finished part is kept in `--out`, so that a command that was stopped
goes on. A part is carried out again if the code has changed since, or with `--anew`. The exit code
is 1 if anything was found.
"""

import argparse
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.torture.parts import PARTS, WAITING, attack
from tests.torture.table import Row, code_version, load, save, table


def _path(options: argparse.Namespace, name: str) -> Path:
    folder: Path = options.out
    return folder / f"{name}-{options.scale:g}.json"


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
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1,
        help="busy parts at a time, beside one that mostly waits (default: cores)",
    )  # fmt: skip
    parser.add_argument("--anew", action="store_true", help="carry out finished parts again")
    options = parser.parse_args()
    if options.scale <= 0 or options.jobs < 1:
        parser.error("--scale must be more than 0, and --jobs 1 or more")
    options.out.mkdir(parents=True, exist_ok=True)
    version = code_version()
    rows: dict[str, Row] = {}
    pool = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))
    with pool(options.jobs) as busy, pool(1) as waiting:
        under_way: dict[Future[Row], str] = {}
        for name in options.parts:
            row = None if options.anew else load(_path(options, name), version)
            if row is None:
                processes = waiting if name in WAITING else busy
                under_way[processes.submit(attack, name, options.scale)] = name
            else:
                print(f"{name}: kept from an earlier run of this code", file=sys.stderr)  # noqa: T201
                rows[name] = row
        for done in as_completed(under_way):
            name = under_way[done]
            rows[name] = done.result()
            save(rows[name], _path(options, name), version)
    found = [rows[name] for name in options.parts]
    print(table(found))  # noqa: T201
    for row in found:
        for words in row.notes:
            print(f"{row.test}: {words}")  # noqa: T201
    return 0 if all(row.clean for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
