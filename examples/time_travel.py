"""What if an agent had acted otherwise? One round of a real deliberation, forked three ways.

    python examples/time_travel.py

Three agents of the bundled model deliberate over a question, with a checkpointer. Then the round
is played again from its checkpoint with one agent's action forced, once for each action that it
could have taken: `update_state` with `force_actions`, and `invoke(None, ...)`. Proposals are not
made again, the other agents act as they would have, and every fork is an episode of its own in
the traces.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from rich.table import Table

from examples.tiny_lm.chat_model import make
from examples.tiny_lm.prompts import PROMPTS
from examples.tiny_lm.questions import make_questions
from mpdf_langgraph import Agent, Episode, MathAnswer, create_deliberation, force_actions
from mpdf_langgraph.state import ACTIONS
from training.command import run_command

ROOT = Path(__file__).resolve().parents[1]
MATH = MathAnswer()


@dataclass
class TimeTravelOptions:
    """Options of the example."""

    agent: str = "agent-1"
    """Whose action to change: agent-1, agent-2 or agent-3."""
    round: int = 1
    """In which round of decisions."""
    rounds: int = 2
    """Rounds of decisions at most."""
    traces: Path = Path("traces/time_travel")
    """Folder for the traces."""


def row(label: str, episode: Episode, reference: str) -> list[str]:
    """One course of the deliberation in a line of the table."""
    outcome = episode.outcome
    right = outcome["answer"] is not None and MATH.equivalent(outcome["answer"], reference)
    answers = [
        ", ".join(
            "none" if vote is None else episode.representatives[vote]
            for vote in tally["votes"].values()
        )
        for tally in episode.tallies
    ]
    actions = [
        ", ".join(turn["action"] for turn in episode.turns if turn["round"] == round_)
        for round_ in range(1, len(episode.tallies))
    ]
    course = [answers[0]]
    for acted, then in zip(actions, answers[1:], strict=True):
        course += [f"[dim]{acted}[/dim]", then]
    verdict = f"[green]{outcome['answer']}[/green]" if right else f"[red]{outcome['answer']}[/red]"
    return [label, "\n".join(course), verdict, str(outcome["usage"]["total"]["tokens"])]


def main(options: TimeTravelOptions) -> None:
    """Deliberate, then fork one round."""
    console = Console()
    llm = make()
    team = [
        Agent(f"agent-{number}", llm, prompts=PROMPTS, sampling={"max_tokens": 200})
        for number in (1, 2, 3)
    ]
    graph = create_deliberation(
        team,
        router="threshold",
        critic="logprob",
        answer=MATH,
        max_rounds=options.rounds,
        traces=options.traces,
    ).compile(checkpointer=InMemorySaver())

    for question in make_questions("hidden", "test", 50):
        config: Any = {"configurable": {"thread_id": question["id"]}}
        graph.invoke(
            {
                "question": question["question"],
                "reference": question["reference"],
                "contexts": question["contexts"],
            },
            config,
        )
        first = Episode.from_state(graph.get_state(config).values)
        turns = {t["agent"]: t for t in first.turns if t["round"] == options.round}
        if options.agent in turns and all(turns[options.agent]["mask"]):
            break
    else:
        sys.exit(f"{options.agent} had no choice in round {options.round} of any question")

    console.print(f"[bold]{question['question']}[/bold]\nIt is {question['reference']}.")
    taken = turns[options.agent]["action"]
    table = Table("course", "answers, actions, answers, ...", "outcome", "tokens", show_lines=True)
    table.add_row(*row(f"as it was: {taken}", first, question["reference"]))
    start = next(
        snapshot.config
        for snapshot in graph.get_state_history(config)
        if snapshot.next == ("router",)
        and snapshot.values.get("tallies")
        and snapshot.values["round"] == options.round - 1
    )
    for action in ACTIONS:
        forced = force_actions({options.agent: action})
        fork = graph.update_state(start, forced, as_node="consensus")
        graph.invoke(None, fork)
        episode = Episode.from_state(graph.get_state(config).values)
        table.add_row(*row(f"{options.agent}: {action}", episode, question["reference"]))
    console.print(table)
    console.print(f"traces: {options.traces}/ (a fork's id is that of the first, ~ and its own)")


if __name__ == "__main__":
    run_command(main, TimeTravelOptions, __doc__)
