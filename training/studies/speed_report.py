"""The figures of `speed`: a table, a plot, and how they went from run to run."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from training.learn.display import start_figure
from training.studies.speed_server import ROOT


@dataclass(frozen=True)
class Row:
    """One figure: its median, its range over the repeats, and its aim."""

    name: str
    value: float
    low: float
    high: float
    unit: str = ""
    aim: float | None = None
    at_least: bool = False

    @classmethod
    def of(cls, name: str, values: Sequence[float], **rest: Any) -> "Row":
        """Return the row of a figure that was measured several times."""
        return cls(name, median(values), min(values), max(values), **rest)

    @property
    def met(self) -> bool:
        """The aim is met, or there is none."""
        if self.aim is None:
            return True
        return self.value >= self.aim if self.at_least else self.value <= self.aim


def describe_run() -> dict[str, Any]:
    """Return when, on what machine and with what versions the measurement was made."""
    asked = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(asked, check=False, capture_output=True, text=True, cwd=ROOT)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    packages = ("langgraph", "langchain-core", "langchain-openai", "openai", "pydantic")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": found.stdout.strip(),
        "processors": os.cpu_count(),
        "load": load,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def format_table(rows: Sequence[Row], note: str = "") -> str:
    """Return the table in Markdown, with a note on what was measured."""
    run = describe_run()
    lines = ["| | median | range | aim | |", "| --- | ---: | ---: | ---: | --- |"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        aim = "" if row.aim is None else f"{sign} {_figure(row.aim)}"
        met = "" if row.aim is None else ("met" if row.met else "missed")
        unit = f" {row.unit}" if row.unit else ""
        lines.append(
            f"| {row.name} | {_figure(row.value)}{unit} "
            f"| {_figure(row.low)}–{_figure(row.high)} | {aim} | {met} |"
        )
    note += (
        f"{run['processors']} processors ({run['machine']}), Python {run['python']}, "
        f"commit {run['commit']}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def plot(rows: Sequence[Row], history: Path, path: Path) -> None:
    """Draw the ratios with their aims, and beside them how they went from run to run."""
    shown = [row for row in rows if not row.unit]
    (now, before), done = start_figure(path, 2, width=6.5, height=5.5)
    for y, row in enumerate(shown):
        color = "#4477aa" if row.met else "#cc6677"
        now.plot([row.low, row.high], [y, y], color=color, lw=2)
        now.plot(row.value, y, "o", color=color)
        if row.aim is not None:
            now.plot(row.aim, y, "|", color="black", ms=14)
    now.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=8)
    now.invert_yaxis()
    now.set_xlabel("ratio, with its range. A black mark is its aim")
    runs = [json.loads(line) for line in history.read_text().splitlines()]
    for row in shown:
        if row.aim is not None:
            found = [
                (n, past["value"])
                for n, run in enumerate(runs)
                for past in run["rows"]
                if past["name"] == row.name
            ]
            before.plot(*zip(*found, strict=True), ".-", label=row.name, lw=1)
    before.set_xticks(range(len(runs)), [run["commit"] for run in runs], rotation=60, fontsize=7)
    before.set_ylabel("ratio")
    before.legend(fontsize=6)
    done()
