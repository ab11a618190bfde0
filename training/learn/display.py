"""Tables and figures, as the reports and the studies show them. It loads no torch."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

COLORS = {"PERSIST": "#4477aa", "REFINE": "#ee6677", "CONCEDE": "#ccbb44"}


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def percent(shares: Sequence[float]) -> list[str]:
    """Return shares as percentages, a dash where there is nothing to share."""
    return ["–" if math.isnan(share) else f"{share:.1%}" for share in shares]


def start_figure(
    path: Path, panels: int, width: float = 4.2, height: float = 3.4, **options: Any
) -> tuple[Any, Callable[[], None]]:
    """Return the axes of a figure, side by side, and what writes it. A size is that of a panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (width * panels, height)
    figure, axes = plt.subplots(1, panels, figsize=size, squeeze=False, **options)
    for axis in axes[0]:
        axis.grid(alpha=0.3)

    def done() -> None:
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)

    return axes[0], done
