"""Write the page of a trace folder: ``python -m mpdf_langgraph.view traces/ --open``."""

import argparse
import contextlib
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from mpdf_langgraph.errors import MPDFError
from mpdf_langgraph.traces.view.page import write_page

_LISTED = 5  # number of unreadable records that the command names one by one


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit status: 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mpdf_langgraph.view",
        description="Make one HTML page of traces: a list of the episodes to filter and search, "
        "each as a lattice of agents and rounds, and totals over them. The page opens from disk "
        "and needs no network. It holds everything the traces hold but the routers' numeric "
        "features, private contexts included: share it like the traces.",
        epilog="example: python -m mpdf_langgraph.view traces/ --out page.html --open",
    )
    parser.add_argument(
        "traces", type=Path, help="folder of *.jsonl segments, sub-folders included, or one segment"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("episodes.html"),
        metavar="FILE.html",
        help="where to write the page (default: %(default)s), an older page is replaced",
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    options = parser.parse_args(arguments)
    if options.out.suffix.lower() not in (".html", ".htm"):
        parser.error(f"--out {options.out}: the page is an HTML file, name it so (*.html)")
    try:
        summary = write_page(options.traces, options.out, progress=_progress())
    except MPDFError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for line in summary.unreadable[:_LISTED]:
        sys.stderr.write(f"left out: {line}\n")
    if len(summary.unreadable) > _LISTED:
        sys.stderr.write(f"left out: {len(summary.unreadable) - _LISTED:,} more, see the page\n")
    counts = f"{summary.episodes:,} episodes, {summary.size / 1e6:.1f} MB"
    if summary.duplicates:
        counts += f"; {summary.duplicates:,} duplicates left out"
    if summary.unreadable:
        counts += f"; {len(summary.unreadable):,} torn or invalid records left out"
    sys.stderr.write(f"{options.out}: {counts}\n")
    if options.open and not webbrowser.open(options.out.resolve().as_uri()):
        sys.stderr.write(f"no browser found: open {options.out} yourself\n")
    return 0


def _progress() -> Callable[[int], None]:
    """Return a counter for a terminal, and silence for anything else."""

    def show(count: int) -> None:
        if count % 500 == 0:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"\r{count:,} episodes\r")

    return show if sys.stderr.isatty() else lambda count: None


if __name__ == "__main__":
    sys.exit(main())
