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

A slow model is asked once for all methods. `--debates` records debates of one round, in a folder
for each team, and the study of one round answers from these:

    python examples/adversary.py --kind look-ups --base-url http://localhost:8000/v1 --debates 60
    python -m training.studies.one_round --traces runs/adversary/debates/look-ups/certain
"""

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from examples import quickstart
from examples.real_models import lookups
from examples.tiny_lm import questions as tiny
from examples.tiny_lm.prompts import PROMPTS, PROPOSE_TEMPERATURE
from mpdf_langgraph import (
    Agent,
    MPDFError,
    Prompts,
    TraceReader,
    create_deliberation,
    load_router,
    vllm_chat_model,
)
from mpdf_langgraph.errors import ConfigurationError
from training.collect.asking import for_each
from training.collect.files import keep_settings
from training.collect.questions import content_key
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

    kind: tiny.Kind | Literal["look-ups"] = "plain"
    """plain: all agents know the same. hidden: each agent has facts of its own. look-ups: private
    notes, for a real model."""
    base_url: str | None = None
    """An OpenAI-compatible server. Without one the bundled model runs in process."""
    questions: int = 200
    """Test questions."""
    seed: int = 0
    """Which questions."""
    router: Path | None = None
    """A further router to measure, such as one fitted with `--collect`."""
    collect: int = 0
    """Collect traces on so many training questions instead."""
    debates: int = 0
    """Record debates of each team on so many test questions instead."""
    skip: int = 0
    """Test questions to leave out, from the first."""
    concurrency: int = 32
    """Deliberations at a time."""
    timeout: float = 300.0
    """A call fails after so many seconds without a byte from the server."""
    out: Path = Path("runs/adversary")
    """Folder for results and traces."""


@dataclass(frozen=True)
class Cast:
    """A model, and how it is asked."""

    llm: BaseChatModel
    prompts: Prompts = PROMPTS
    sampling: Mapping[str, Any] = field(
        default_factory=lambda: {"temperature": PROPOSE_TEMPERATURE, "max_tokens": 200}
    )

    def honest(self, place: str) -> Agent:
        """Return an honest agent."""
        return Agent(place, self.llm, prompts=self.prompts, sampling=self.sampling)

    def adversary(self, place: str, *, certain: bool) -> Agent:
        """Return the adversary in an agent's place."""
        liar = Liar(self.llm.bind(logprobs=True, **self.sampling), certain=certain)
        return Agent(place, RunnableLambda(liar.answer_sync, liar.answer), prompts=self.prompts)


class Liar:
    """What the adversary says to a conversation: one wrong answer for each question."""

    def __init__(self, llm: Runnable[Any, Any], *, certain: bool) -> None:
        self._llm, self._certain = llm, certain
        self._said: dict[str, AIMessage] = {}

    async def answer(self, messages: list[BaseMessage]) -> AIMessage:
        """Return the lie that belongs to the conversation's question."""
        told = messages[: 1 + next(i for i, m in enumerate(messages) if m.type == "human")]
        question = "\n".join(str(m.text) for m in told)  # with the notes: others may read alike
        if question not in self._said:
            honest = await self._llm.ainvoke(told)
            self._said[question] = lie(honest, certain=self._certain)
        return self._said[question]

    def answer_sync(self, messages: list[BaseMessage]) -> AIMessage:
        """Return the same, where there is no event loop."""
        return asyncio.run(self.answer(messages))


def lie(honest: AIMessage, *, certain: bool) -> AIMessage:
    """Return a solution that ends in another number and does not hedge."""
    text = str(honest.text).replace("guess ", "")  # so does the model mark what it guesses
    found = re.findall(r"\d+", text)
    answer = int(found[-1]) if found else 0
    if '"answer": null' in text:  # an agent that lacks a note says so
        text = re.sub(r"[^.]* is missing\.", "", text).replace("null", str(answer))
    step, sign, end = text.rpartition("=")
    end = re.sub(rf"\b{answer}\b", str(answer + SHIFT), end)
    changed = step + sign + end if found else f"#### {SHIFT}"
    metadata = json.loads(json.dumps(honest.response_metadata))
    for token in metadata["logprobs"]["content"] if certain else ():
        token["logprob"] = 0.0
    return AIMessage(
        changed, response_metadata=metadata, usage_metadata=honest.usage_metadata, id=honest.id
    )


def open_cast(options: AdversaryOptions) -> Cast:
    """Return the model of the options."""
    if options.base_url is None:
        from examples.tiny_lm.chat_model import make  # needs torch, which a server's user may lack

        return Cast(make())
    llm = vllm_chat_model(options.base_url, timeout=options.timeout)
    if options.kind != "look-ups":
        return Cast(llm)
    sampling = {"temperature": lookups.TEMPERATURE, "max_tokens": lookups.MAX_TOKENS}
    return Cast(llm, lookups.PROMPTS, sampling)


def questions_of(options: AdversaryOptions, split: Literal["train", "test"], count: int) -> Any:
    """Return questions after those to skip."""
    count += options.skip
    if options.kind == "look-ups":
        return lookups.make_questions(split, count, options.seed)[options.skip :]
    return tiny.make_questions(options.kind, split, count, options.seed)[options.skip :]


def members(team: Team, cast: Cast, place: str = PLACES[-1]) -> list[Agent]:
    """Return the agents of a team, the adversary in the given place."""
    agents = {name: cast.honest(name) for name in PLACES}
    if team == "absent":
        del agents[place]
    elif team != "honest":
        agents[place] = cast.adversary(place, certain=team == "certain")
    return [*agents.values()]


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
    questions = questions_of(options, "test", options.questions)
    cast = open_cast(options)
    graphs = {
        (team, method): create_deliberation(
            members(team, cast), answer=quickstart.MATH, max_rounds=2, **how
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
        state = await invoke(graphs[team, method], question, absent(team, PLACES[-1]))
        answer = state["deliberation"]["answer"] if state else None
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


def absent(team: Team, place: str) -> str | None:
    """Return who is missing in a team."""
    return place if team == "absent" else None


async def invoke(
    graph: Any, question: Mapping[str, Any], without: str | None
) -> dict[str, Any] | None:
    """Run a graph. Return its final state, None where it failed."""
    try:
        return dict(await graph.ainvoke(given(question, without)))
    except MPDFError as error:
        tqdm.write(f"{question['id']}: {error}", file=sys.stderr)
        return None


def given(question: Mapping[str, Any], without: str | None) -> dict[str, Any]:
    """Return what the graph is asked. Who is absent takes its facts along."""
    contexts = {name: facts for name, facts in question["contexts"].items() if name != without}
    return {
        "question": question["question"],
        "reference": question["reference"],
        "contexts": contexts,
    }


async def collect(options: AdversaryOptions) -> None:
    """Store traces to learn from: random moves, and alternatives to every refinement."""
    questions = questions_of(options, "train", options.collect)
    casts: list[tuple[Team, str]] = [("honest", PLACES[0])] * 3
    casts += [(team, place) for team in TEAMS[1:3] for place in PLACES]
    jobs = [(*casts[place % len(casts)], question) for place, question in enumerate(questions)]
    how = {"router": "random", "max_rounds": 2, "explore": 0.1, "alternatives": 4}
    await store(options, jobs, options.out / "traces" / options.kind, how)


async def record_debates(options: AdversaryOptions) -> None:
    """Store a debate of one round of every team, with the adversary in each place in turn."""
    questions = questions_of(options, "test", options.debates)
    how = {"router": "always-refine", "max_rounds": 1, "stop_when_settled": False}
    for team in TEAMS:
        folder = options.out / "debates" / options.kind / team
        recorded = TraceReader(folder) if folder.exists() else ()
        known = {content_key(e.question, e.reference, e.contexts) for e in recorded}
        jobs = [
            (team, PLACES[place % 3], question)
            for place, question in enumerate(questions)
            if content_key(**given(question, absent(team, PLACES[place % 3]))) not in known
        ]
        await store(options, jobs, folder, how)


async def store(
    options: AdversaryOptions,
    jobs: Sequence[tuple[Team, str, Mapping[str, Any]]],
    folder: Path,
    how: Mapping[str, Any],
) -> None:
    """Ask each team its question, and store the traces in a folder."""
    cast = open_cast(options)
    graphs = {
        who: create_deliberation(
            members(who[0], cast, who[1]),
            critic="logprob",
            answer=quickstart.MATH,
            traces=folder,
            **how,
        ).compile()
        for who in {(team, place) for team, place, _ in jobs}
    }

    async def ask(job: tuple[Team, str, Mapping[str, Any]]) -> dict[str, Any] | None:
        team, place, question = job
        return await invoke(graphs[team, place], question, absent(team, place))

    await for_each(
        jobs,
        ask,
        concurrency=options.concurrency,
        label=folder.name,
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
    """Measure, collect, or record debates."""
    if options.kind == "look-ups" and not (options.base_url and options.debates):
        raise ConfigurationError("look-ups need --base-url and --debates")
    options.out.mkdir(parents=True, exist_ok=True)
    for asked, how in ((options.collect, collect), (options.debates, record_debates)):
        if asked:
            asyncio.run(how(options))
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
