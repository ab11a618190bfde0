r"""Recorded debates of real models become traces, so that REFINE is learned from its real outcomes.

    python examples/import_debates.py --data debates.jsonl.gz
    python training/collect.py --import debates.jsonl.gz --out traces/ --answer math \
        --consensus majority --convert examples.import_debates:debate_rows
    python training/fit_router.py --traces traces/ --out routers/debates

The first command plays every debate through the real graph, and prints what the debates were worth:
how often the group and its agents were right after every round, and how often an answer that was
given again turned from wrong to right, or from right to wrong. The second command writes the same
episodes as traces. The third fits a router to them.

A row of the table is a debate: `question`, `reference`, if known its `subject`, and under `agents`
what every agent said, first of all and then after it had read the answers of the others. A table of
another form needs another `debate_rows`: any generator of rows of `question`, `reference`, `agent`,
`round` and `response`, and if known `confidence` and `category`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mpdf_langgraph import Episode, MathAnswer
from mpdf_langgraph.rounds import answer_of, held_by_round
from training.collect.importing import Replay, make_responses, read_answers
from training.collect.questions import TableError
from training.command import run_command

MATH = MathAnswer()


@dataclass(frozen=True)
class DebateOptions:
    """Options of the example."""

    data: Path
    """The recorded debates: JSON Lines, compressed if the name ends in `.gz`."""
    limit: int | None = None
    """Only so many questions."""


def debate_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a debate as the rows that `collect.py --import` reads."""
    for agent, messages in row["agents"].items():
        for number, text in enumerate(messages):
            yield {
                "question": row["question"],
                "reference": row["reference"],
                "agent": agent,
                "round": number,
                "response": text,
                "category": row.get("subject"),
            }


def answer_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the answers to a question, one by every agent under `answers`, as such rows.

    The texts stay whole, so that a critic can read how they look.
    """
    for agent, text in row["answers"].items():
        shared = {"question": row["question"], "reference": row["reference"]}
        yield {**shared, "agent": agent, "response": text}


@cache
def is_right(answer: str | None, reference: str) -> bool:
    """Grade an answer. No answer is a wrong answer."""
    return answer is not None and MATH.equivalent(answer, reference)


def count(episode: Episode, counts: Counter[str]) -> None:
    """Add the standing after every round of a debate, and what became of its refined answers."""
    truth, names = str(episode.reference), [agent["name"] for agent in episode.agents]
    rounds = held_by_round(names, episode.responses, episode.turns, len(episode.tallies) - 1)
    refined = {turn["round"] for turn in episode.turns if turn["action"] == "REFINE"}
    for number, held in enumerate(rounds):
        if number and number not in refined:
            break  # the round after the last answer: everybody persisted
        counts[f"group {number}"] += is_right(episode.tallies[number]["answer"], truth)
        counts[f"debates {number}"] += 1
        for response in held.values():
            counts[f"agents {number}"] += is_right(answer_of(response), truth)
            counts[f"answers {number}"] += 1
    for turn in episode.turns:
        new = episode.responses.get(f"{turn['agent']}@{turn['round']}")
        if turn["action"] == "REFINE" and new is not None and turn["before"] is not None:
            before = is_right(answer_of(episode.responses[turn["before"]]), truth)
            counts[f"refined {before}"] += 1
            counts[f"turned {before}"] += is_right(answer_of(new), truth) != before
    last = max(refined, default=0)
    counts["first"] += is_right(episode.tallies[0]["answer"], truth)
    counts["last"] += is_right(episode.tallies[last]["answer"], truth)


def main(options: DebateOptions) -> None:
    """Play the debates, and print what they were worth."""
    answers = read_answers(options.data, debate_rows)
    print(answers.report())
    known = [(key, said) for key, said in answers.groups.items() if key[1] is not None]
    if not known:
        raise TableError(f"{options.data}: no debate with a reference")
    replay, counts, total = Replay(MATH, consensus="majority"), Counter[str](), 0
    for (question, reference), said in tqdm(list(islice(known, options.limit))):
        count(replay.play(question, reference, make_responses(said, MATH)), counts)
        total += 1
    table = Table("after", "debates", "group right", "agents right")
    for number in range(10):
        if debates := counts[f"debates {number}"]:
            table.add_row(
                f"round {number}" if number else "the first answers",
                f"{debates:,}",
                f"{counts[f'group {number}'] / debates:.3f}",
                f"{counts[f'agents {number}'] / counts[f'answers {number}']:.3f}",
            )
    console = Console()
    console.print(table)
    console.print(
        f"all {total:,} debates: vote of the first answers {counts['first'] / total:.3f}, vote of "
        f"the last answers {counts['last'] / total:.3f}"
    )
    for before, change in ((False, "wrong to right"), (True, "right to wrong")):
        if refined := counts[f"refined {before}"]:
            share = counts[f"turned {before}"] / refined
            console.print(f"{change}: {share:.3f} of {refined:,} refined answers")


if __name__ == "__main__":
    run_command(main, DebateOptions, __doc__)
