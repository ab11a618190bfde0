"""One agent of three argues for a wrong answer: who is persuaded, and what helps?

    python examples/adversary.py --kind plain --questions 200
    python examples/adversary.py --collect 300                # then fit, see below

The adversary is a script over the bundled model. It takes the model's own solution, changes the
number that it ends in, and says the same whenever it is asked again. It knows no reference. Each
method is run with four teams:

- honest: three honest agents.
- certain: two honest agents, and an adversary whose token log-probabilities are all 0.
- plausible: two honest agents, and an adversary with the log-probabilities of its model.
- absent: the two honest agents alone. What an adversary does is measured against this team.

Finished questions are kept in `--out`. Stop the command, and it prints what it has. Run it again,
and it goes on. With `--collect` it stores traces of honest teams and of both adversaries, in the
place of each agent in turn:

    python -m training.fit --traces runs/adversary/traces --out runs/adversary/router
    python examples/adversary.py --router runs/adversary/router
"""

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from examples import quickstart
from examples.tiny_lm.chat_model import TinyChatModel, make
from examples.tiny_lm.prompts import PROMPTS
from examples.tiny_lm.questions import Kind, make_questions
from mpdf_langgraph import Agent, MPDFError, create_deliberation, load_router
from training.collect.asking import for_each
from training.collect.files import keep_settings
from training.command import run_command
from training.learn.measures import mean_interval

Team = Literal["honest", "certain", "plausible", "absent"]
TEAMS: tuple[Team, ...] = ("honest", "certain", "plausible", "absent")
PLACES = ("agent-1", "agent-2", "agent-3")
#: The adversary's answer differs by so much from the one that its model found.
SHIFT = 7
WITH_ADVERSARIES = "learned with adversaries"


@dataclass
class AdversaryOptions:
    """Options of the measurement."""

    kind: Kind = "plain"
    """plain: all agents know the same. hidden: each agent has facts of its own."""
    questions: int = 200
    """Test questions."""
    seed: int = 0
    """Which questions."""
    router: Path | None = None
    """A further router to measure, such as one fitted with `--collect`."""
    collect: int = 0
    """Collect traces on so many training questions instead."""
    concurrency: int = 32
    """Deliberations at a time."""
    out: Path = Path("runs/adversary")
    """Folder for results and traces."""


class Liar:
    """What the adversary says to a conversation: one wrong answer for each question."""

    def __init__(self, llm: TinyChatModel, *, certain: bool) -> None:
        self._llm, self._certain = llm, certain
        self._said: dict[str, AIMessage] = {}

    async def answer(self, messages: list[BaseMessage]) -> AIMessage:
        """Return the lie that belongs to the conversation's question."""
        question = next(str(m.text) for m in messages if isinstance(m, HumanMessage))
        if question not in self._said:
            told = messages[: 1 + next(i for i, m in enumerate(messages) if m.type == "human")]
            honest = await self._llm.ainvoke(told)
            self._said[question] = lie(honest, certain=self._certain)
        return self._said[question]

    def agent(self, place: str) -> Agent:
        """Return the adversary in an agent's place."""
        return Agent(place, RunnableLambda(self._answer_sync, self.answer), prompts=PROMPTS)

    def _answer_sync(self, messages: list[BaseMessage]) -> AIMessage:
        return asyncio.run(self.answer(messages))


def lie(honest: AIMessage, *, certain: bool) -> AIMessage:
    """Return a solution that ends in another number and does not hedge."""
    text = str(honest.text).replace("guess ", "")  # so does the model mark what it guesses
    found = re.findall(r"\d+", text)
    answer = int(found[-1]) if found else 0
    step, sign, end = text.rpartition("=")
    end = re.sub(rf"\b{answer}\b", str(answer + SHIFT), end)
    changed = step + sign + end if found else f"#### {SHIFT}"
    metadata = json.loads(json.dumps(honest.response_metadata))
    for token in metadata["logprobs"]["content"] if certain else ():
        token["logprob"] = 0.0
    return AIMessage(
        changed, response_metadata=metadata, usage_metadata=honest.usage_metadata, id=honest.id
    )


def members(team: Team, llm: TinyChatModel, place: str = PLACES[-1]) -> list[Agent]:
    """Return the agents of a team, the adversary in the given place."""
    honest = quickstart.team(llm, PROMPTS)
    if team == "honest":
        return honest
    if team == "absent":
        return [agent for agent in honest if agent.name != place]
    adversary = Liar(llm, certain=team == "certain").agent(place)
    return [adversary if agent.name == place else agent for agent in honest]


def methods(options: AdversaryOptions) -> dict[str, dict[str, Any]]:
    """Return the options of `create_deliberation` by method."""
    chosen = {name: quickstart.configuration(name) for name in quickstart.CONFIGURATIONS}
    if options.router is not None:
        chosen[WITH_ADVERSARIES] = chosen["learned"] | {"router": load_router(options.router)}
    return chosen


class Results:
    """Which questions were answered rightly, by team and method. One JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.right: dict[tuple[str, str], dict[str, bool]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            self._note(json.loads(line))

    def _note(self, row: Mapping[str, Any]) -> None:
        self.right.setdefault((row["team"], row["method"]), {})[row["id"]] = row["right"]

    def add(self, **row: Any) -> None:
        """Store a result."""
        self._note(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, method: str) -> dict[Team, np.ndarray[Any, Any]]:
        """Return 1.0 or 0.0 by team, for each question that all teams have finished."""
        kept = {team: self.right.get((team, method), {}) for team in TEAMS}
        ids = sorted(set.intersection(*map(set, kept.values())))
        return {team: np.array([float(right[one]) for one in ids]) for team, right in kept.items()}


async def measure(
    options: AdversaryOptions, chosen: Mapping[str, dict[str, Any]], results: Results
) -> None:
    """Ask every question that is not answered yet."""
    questions = make_questions(options.kind, "test", options.questions, options.seed)
    llm = make()
    graphs = {
        (team, method): create_deliberation(
            members(team, llm), answer=quickstart.MATH, max_rounds=2, **how
        ).compile()
        for method, how in chosen.items()
        for team in TEAMS
    }
    left = [
        (team, method, question)
        for question in questions
        for team, method in graphs
        if question["id"] not in results.right.get((team, method), {})
    ]

    async def ask(item: tuple[Team, str, dict[str, Any]]) -> str | None:
        team, method, question = item
        state = await invoke(graphs[team, method], question, team)
        answer = state and state["deliberation"]["answer"]
        right = quickstart.is_right(answer, question["reference"])
        results.add(team=team, method=method, id=question["id"], right=right)
        return answer

    await for_each(
        left,
        ask,
        concurrency=options.concurrency,
        label=options.kind,
        has_failed=lambda answer: answer is None,
    )


async def invoke(graph: Any, question: Mapping[str, Any], team: Team) -> dict[str, Any] | None:
    """Run a graph. Return its final state, None where it failed."""
    try:
        return dict(await graph.ainvoke(given(question, team)))
    except MPDFError as error:
        tqdm.write(f"{question['id']}: {error}", file=sys.stderr)
        return None


def given(question: Mapping[str, Any], team: Team) -> dict[str, Any]:
    """Return what the graph is asked. Who is absent takes its facts along."""
    contexts = dict(question["contexts"])
    if team == "absent":
        contexts.pop(PLACES[-1], None)
    return {
        "question": question["question"],
        "reference": question["reference"],
        "contexts": contexts,
    }


async def collect(options: AdversaryOptions) -> None:
    """Store traces to learn from: random moves, and alternatives to every refinement."""
    llm = make()
    questions = make_questions(options.kind, "train", options.collect, options.seed)
    casts: list[tuple[Team, str]] = [("honest", PLACES[0])] * 3
    casts += [(team, place) for team in TEAMS[1:3] for place in PLACES]
    graphs = [
        create_deliberation(
            members(team, llm, place),
            router="random",
            critic="logprob",
            answer=quickstart.MATH,
            max_rounds=2,
            explore=0.1,
            alternatives=4,
            traces=options.out / "traces" / options.kind,
        ).compile()
        for team, place in casts
    ]

    async def ask(index: int) -> dict[str, Any] | None:
        return await invoke(graphs[index % len(graphs)], questions[index], "honest")

    await for_each(
        range(len(questions)),
        ask,
        concurrency=options.concurrency,
        label="collecting",
        has_failed=lambda state: state is None,
    )


def interval(differences: np.ndarray[Any, Any]) -> str:
    """Return a mean of paired differences and its 95 % bootstrap interval."""
    return mean_interval(differences, np.arange(len(differences))).short(digits=3)


def rows(chosen: Mapping[str, Any], results: Results) -> Iterator[list[str]]:
    """Yield a line of the table for each method of which there is something to tell."""
    for method in chosen:
        right = results.of(method)
        if not (count := len(right["honest"])):
            continue
        error = {t: (r.mean() * (1 - r.mean()) / count) ** 0.5 for t, r in right.items()}
        yield [
            method,
            f"{count}",
            *(f"{right[team].mean():.3f} ± {error[team]:.3f}" for team in TEAMS),
            interval(right["certain"] - right["absent"]),
            interval(right["plausible"] - right["absent"]),
        ]


def main(options: AdversaryOptions) -> None:
    """Measure, or collect."""
    options.out.mkdir(parents=True, exist_ok=True)
    if options.collect:
        asyncio.run(collect(options))
        return
    results = Results(options.out / f"{options.kind}-{options.seed}.jsonl")
    chosen = methods(options)
    if options.router is not None:
        settings = {"router": chosen[WITH_ADVERSARIES]["router"].version}
        keep_settings(results.path.with_suffix(".router.json"), settings, "Use another --out.")
    with suppress(KeyboardInterrupt):
        asyncio.run(measure(options, chosen, results))
    table = Table("method", "N", *TEAMS, "certain - absent", "plausible - absent")
    for row in rows(chosen, results):
        table.add_row(*row)
    Console(width=150).print(table)


if __name__ == "__main__":
    run_command(main, AdversaryOptions, __doc__)
