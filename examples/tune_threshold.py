"""Choose the threshold router's `bar` and `gap` for the bundled model, on validation questions.

    python examples/tune_threshold.py --questions 200

What a high confidence is depends on the model and the critic, so these two numbers are chosen on
questions that are used for nothing else. The quickstart reports on the test split.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.quickstart import MATH, ask_all, load_model, summary_row, team
from examples.quickstart import Options as QuickstartOptions
from examples.tiny_lm.questions import make_questions
from mpdf_langgraph import ThresholdRouter, create_deliberation


@dataclass
class Options:
    """Options of the search."""

    base_url: str | None = None
    """An OpenAI-compatible server; without one the bundled model runs in process."""
    bars: tuple[float, ...] = (0.95, 0.965, 0.975, 0.985)
    """Values of `bar` to try."""
    gaps: tuple[float, ...] = (0.0, 0.01, 0.03)
    """Values of `gap` to try."""
    questions: int = 200
    """Validation questions for each pair."""
    rounds: int = 2
    """Rounds of decisions at most."""
    concurrency: int = 64
    """Deliberations at a time."""


def main(options: Options) -> None:
    """Try every pair and print what each gives."""
    console = Console()
    llm, prompts = load_model(QuickstartOptions(base_url=options.base_url), console)
    questions = make_questions("hidden", "validation", options.questions)
    table = Table("bar, gap", "accuracy ± s.e.", "tokens", "calls", "rounds", "failed + survived")
    for bar in options.bars:
        for gap in options.gaps:
            graph = create_deliberation(
                team(llm, prompts),
                router=ThresholdRouter(bar=bar, gap=gap),
                critic="logprob",
                answer=MATH,
                max_rounds=options.rounds,
            ).compile()
            label = f"{bar:.2f}, {gap:.2f}"
            outcomes = asyncio.run(ask_all(graph, questions, options.concurrency, label))
            table.add_row(label, *summary_row("threshold", questions, outcomes)[1:])
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
