"""Real models' recorded answers under the real graph: GSM8K, four models, no server.

    python examples/replay_gsm8k.py --data model_solutions.jsonl

`model_solutions.jsonl` comes with GSM8K (github.com/openai/grade-school-math, MIT): what four
models of 6 and 175 billion parameters answered to its test questions. Recordings have no
log-probabilities and cannot be refined, so agents PERSIST or CONCEDE, and nothing but answers and
the agents' records can guide them: how often each was right on *other* questions (two halves, each
judged by what the other half showed). Expect the deliberation to end where the vote does: that is
what the control of a vote is for, and why confidences and REFINE matter.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mpdf_langgraph import Agent, MathAnswer, Observation, RecordedChatModel, create_deliberation
from mpdf_langgraph.observation import feature
from training.collect.asking import for_each
from training.collect.importing import gsm8k_solutions
from training.collect.questions import TableError, read_table
from training.command import run_command

MATH = MathAnswer()


@dataclass(frozen=True)
class ReplayOptions:
    """Options of the replay."""

    data: Path
    """The recorded solutions."""
    limit: int | None = None
    """Only so many questions."""
    concurrency: int = 16
    """Deliberations at a time."""


@dataclass(frozen=True)
class Recordings:
    """What was said: references, and answers by question and agent."""

    references: dict[str, str]
    said: dict[str, dict[str, str]]
    agents: list[str]


def read(path: Path, limit: int | None = None) -> Recordings:
    """Read the solutions.

    Raises:
        TableError: The file is missing, or of another form.
    """
    references: dict[str, str] = {}
    said: dict[str, dict[str, str]] = {}
    agents: dict[str, None] = {}
    for number, row in read_table(path):
        if isinstance(row, TableError) or "ground_truth" not in row:
            raise TableError(f"{path}:{number}: no recorded solution of GSM8K")
        if limit is not None and len(said) >= limit:
            break
        for answer in gsm8k_solutions(row):
            references[answer["question"]] = answer["reference"]
            said.setdefault(answer["question"], {})[answer["agent"]] = answer["response"]
            agents.setdefault(answer["agent"])
    return Recordings(references, said, list(agents))


def is_right(answer: str | None, reference: str) -> bool:
    """The one grader of this script. No answer is a wrong answer."""
    return answer is not None and MATH.equivalent(answer, reference)


def concede_if_outvoted(observations: Sequence[Observation]) -> list[str]:
    """Concede where another answer has more backers than one's own, or as many and a better one.

    No confidence is needed: who backs what is part of every observation, and so is how often
    each agent has been right before (its competence).
    """
    actions = []
    for observation in observations:
        own, peers = observation["own"], observation["peers"]
        backed: dict[bool, list[tuple[int, float]]] = {True: [], False: [(0, 0.0)]}
        for agent in (own, *peers):
            if feature(agent, "answer_valid"):
                backers = 1 + round(feature(agent, "support") * len(peers))
                agrees = bool(feature(agent, "agrees"))
                backed[agrees].append((backers, feature(agent, "competence")))
        outdone = max(backed[False]) > max(backed[True], default=(0, 0.0))
        actions.append("CONCEDE" if outdone else "PERSIST")
    return actions


def graph_of(recordings: Recordings, record: dict[str, float], **options: Any) -> Any:
    """Return the graph of all recorded models, those with the better record first."""
    best_first = sorted(recordings.agents, key=lambda name: -record[name])
    agents = [
        Agent(
            name,
            RecordedChatModel(agent=name, recordings=recordings.said),
            competence=record[name],
        )
        for name in best_first
    ]
    return create_deliberation(
        agents,
        answer=MATH,
        critic=None,
        consensus="majority",
        max_calls=len(agents),  # recordings cannot be refined: PERSIST and CONCEDE remain
        **options,
    ).compile()


def line(right: Sequence[bool]) -> str:
    """Accuracy with its standard error."""
    accuracy = sum(right) / len(right)
    return f"{accuracy:.3f} ± {math.sqrt(accuracy * (1 - accuracy) / len(right)):.3f}"


def paired_difference(right: Sequence[bool], other: Sequence[bool]) -> str:
    """Difference in accuracy with the standard error of paired answers."""
    gains = [a - b for a, b in zip(right, other, strict=True)]
    mean = sum(gains) / len(gains)
    variance = sum((gain - mean) ** 2 for gain in gains) / max(1, len(gains) - 1)
    return f"{mean:+.3f} ± {math.sqrt(variance / len(gains)):.3f}"


async def replay(recordings: Recordings, concurrency: int) -> dict[str, list[bool]]:
    """Return by method which questions it got right, in the order of the file."""
    questions = [*recordings.said]
    right: dict[str, list[bool]] = {
        agent: [
            is_right(MATH.parse(recordings.said[q].get(agent, "")), recordings.references[q])
            for q in questions
        ]
        for agent in recordings.agents
    }
    alone = dict(right)
    best = max(alone, key=lambda agent: sum(alone[agent]))
    right[f"best single model ({best})"] = alone[best]
    graphs: dict[str, dict[str, Any]] = {
        "majority": {"router": "always-persist", "max_rounds": 1},
        "deliberation without confidences": {"router": concede_if_outvoted, "max_rounds": 3},
    }
    for name, options in graphs.items():
        found = dict.fromkeys(questions, False)
        for half in (0, 1):
            others = range(1 - half, len(questions), 2)
            record = {a: sum(alone[a][k] for k in others) / len(others) for a in alone}
            asked = questions[half::2]
            graph = graph_of(recordings, record, **options)
            label = f"{name}, half {half + 1}"

            async def ask(question: str, graph: Any = graph) -> Any:
                return (await graph.ainvoke({"question": question}))["deliberation"]["answer"]

            answers = await for_each(
                asked, ask, concurrency=concurrency, label=label, has_failed=lambda _: False
            )
            for question, answer in zip(asked, answers, strict=True):
                found[question] = is_right(answer, recordings.references[question])
        right[name] = [found[question] for question in questions]
    right["any of them right (a bound)"] = [any(r) for r in zip(*alone.values(), strict=True)]
    return right


def main(options: ReplayOptions) -> None:
    """Replay, and print what each method gets right."""
    recordings = read(options.data, options.limit)
    if len(recordings.said) < 4:
        raise TableError("too few questions to halve them and learn anything")
    right = asyncio.run(replay(recordings, options.concurrency))
    table = Table("method", "accuracy ± s.e.", "against majority ± s.e.")
    for name, answers in right.items():
        compared = "" if name == "majority" else paired_difference(answers, right["majority"])
        table.add_row(name, line(answers), compared)
    console = Console()
    console.print(table)
    console.print(f"{len(recordings.said)} questions; no model was asked")


if __name__ == "__main__":
    run_command(main, ReplayOptions, __doc__)
