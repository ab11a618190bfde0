r"""Collect traces to learn from: ask a team many questions, and record what it does.

    python training/collect.py --questions Q.jsonl --base-url http://localhost:8000/v1 --out traces/
    python training/collect.py --questions Q.jsonl --out traces/ \
        --model-factory examples.tiny_lm.chat_model:make \
        --prompts examples.tiny_lm.prompts:PROMPTS --max-tokens 200
    python training/collect.py --import answers.jsonl --out traces/

The questions are JSON Lines or Parquet with `question`, `reference`, and if wanted `id`,
`category` and `contexts` (private text by agent name). A question is finished once its episode is
in the folder, so a stopped or killed command goes on where it was. Questions that fail are asked
once more at the end. Those that fail again are in failures.log, and the exit code is 1. It is 2 if
the command itself is wrong.

With --import no model is asked. A table of recorded answers (columns `question`, `reference`,
`agent`, `response`, and if known `round`, `confidence` and `category`) becomes episodes. PERSIST
and CONCEDE can be learned from all of them. REFINE can be learned from debates: rows of `round` 1
and more. For the table of model solutions that comes with GSM8K add
`--convert training.collect.importing:gsm8k_solutions`.
"""

import asyncio
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import tyro
from tqdm import tqdm

from mpdf_langgraph import (
    Agent,
    ConfigurationError,
    MPDFError,
    TraceReader,
    TraceWriter,
    create_deliberation,
    load_router,
)
from mpdf_langgraph.critic import BudgetedCritic
from mpdf_langgraph.router import Router, make_router
from training.collect.asking import (
    Answered,
    Ask,
    RayOptions,
    WorkerLostError,
    ask_all,
    ask_question,
    find_fault,
)
from training.collect.files import keep_settings, lock
from training.collect.importing import Replay, read_answers
from training.collect.questions import (
    Question,
    check_contexts,
    is_sound,
    key_of,
    read_questions,
)
from training.collect.team import TeamOptions, check_references, load_object, open_critic
from training.command import check_least

#: Name of the graph. It marks the episodes of this command in the folder.
NAME = "collect"
ADVICE = "Use another --out, or the options of then."


@dataclass(frozen=True)
class CollectOptions:
    """Options of collecting."""

    questions: Path | None = None
    """What to ask: JSON Lines or Parquet."""
    out: Path = Path("traces")
    """Folder for the traces."""
    team: tyro.conf.OmitArgPrefixes[TeamOptions] = TeamOptions()
    rounds: int = 3
    """Rounds of decisions at most."""
    alternatives: int = 4
    """Extra REFINE samples per decision, drawn only to learn from."""
    router: str = "random"
    """The router: random, threshold, always-refine, always-persist, or the folder of a fitted
    router. A team that always persists stops after one round and shows nothing of later rounds."""
    explore: float = 0.1
    """Least probability of every allowed action, at most 1/3."""
    critic: str = "self+logprob"
    """Where confidence comes from: self+logprob, logprob (no extra call), self, self-reasoning,
    none, or module:function, which returns a critic: a chat model that judges every answer, or a
    callable."""
    consensus: Literal["confidence", "majority"] = "confidence"
    """How votes are counted."""
    concurrency: int = 64
    """Deliberations at a time. With --ray: of each worker."""
    cluster: tyro.conf.OmitArgPrefixes[RayOptions] = RayOptions()
    import_answers: Annotated[Path | None, tyro.conf.arg(name="import")] = None
    """A table of recorded answers (JSON Lines or Parquet) to turn into episodes, instead of
    asking."""
    convert: str | None = None
    """module:function that turns a row of a table of another form into rows for --import."""


def main(options: CollectOptions) -> int:
    """Collect or import, and return the exit code."""
    try:
        if options.import_answers is not None:
            return import_table(options)
        return collect(options)
    except MPDFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


# --- asking ---------------------------------------------------------------------------------


def collect(options: CollectOptions) -> int:
    """Ask every question that is not finished. Return 1 if a question failed twice, else 0."""
    if options.questions is None:
        raise ConfigurationError("give --questions FILE, or --import FILE")
    check_least(options, concurrency=1)
    options.cluster.check()
    if options.convert is not None:
        raise ConfigurationError("--convert is for --import only")
    questions = read_questions(options.questions)
    agents = options.team.build_agents()
    check_contexts(questions, agents)
    schema = options.team.answer_schema()
    check_references(questions, schema)
    router = open_router(options.router)
    critic = open_critic(options.critic)
    writer = TraceWriter(options.out)
    graph = build_graph(options, agents, router, critic, writer)
    keep_settings(options.out / "collect.json", settings_of(options, agents, router), ADVICE)
    nameless = sum(question.reference is None for question in questions)
    if nameless:
        print(f"{nameless} questions have no reference: fitting will need their labels")
    with closing(writer), (options.out / "collect.lock").open("ab") as held:
        lock(held, "Another collect.py writes there: wait for it, or give another --out.")
        if options.cluster.ray is None:
            todo = tell_unfinished(questions, options.out)
            attempts, failed = asyncio.run(ask(partial(ask_question, graph), todo, options))
        else:
            attempts, failed = collect_on_ray(questions, options)
    print(summarise(attempts))
    if failed:
        print(f"{len(failed)} questions failed twice, see {options.out / 'failures.log'}:")
        for error, count in Counter(str(one.error) for one in failed).most_common(3):
            print(f"  {count} x {error}")
    return 1 if failed else 0


def collect_on_ray(
    questions: Sequence[Question], options: CollectOptions
) -> tuple[list[Answered], list[Answered]]:
    """Let the workers of a Ray cluster ask the questions that are not finished. See `ask`."""
    from training.collect import on_ray  # file locks, which Windows does not have

    with on_ray.connect(options.cluster, options.out) as (ray, count):
        todo = tell_unfinished(questions, options.out)
        if (router := Path(options.router)).is_dir():
            options = replace(options, router=str(router.resolve()))
        build = partial(build_worker, options)

        async def run() -> tuple[list[Answered], list[Answered]]:
            async with on_ray.run_workers(
                ray, build, find_left, options.out.resolve(), count, options.concurrency
            ) as ask_worker:

                async def ask_one(question: Question) -> Answered:
                    try:
                        answered: Answered = await ask_worker(question)
                    except WorkerLostError as error:
                        answered = Answered(question, None, str(error))
                    return answered

                return await ask(ask_one, todo, options, count)

        return asyncio.run(run())


def build_worker(options: CollectOptions, folder: Path) -> Callable[..., Awaitable[Answered]]:
    """Return what a worker does, built from the options alone. Its traces go to the folder."""
    agents, router = options.team.build_agents(), open_router(options.router)
    critic, writer = open_critic(options.critic), TraceWriter(folder)
    graph = build_graph(options, agents, router, critic, writer)
    return lambda question, _: ask_question(graph, question)


def find_left(folder: Path, reported: Sequence[Answered]) -> Callable[[Question], Answered | None]:
    """Return what finds the episodes that a lost worker has written but not reported."""
    known = {one.deliberation["episode"] for one in reported if one.deliberation is not None}
    left = defaultdict(list)
    for episode in TraceReader(folder):
        if episode.id not in known:
            key = key_of(episode)
            left[key].append(dict(episode.outcome))

    def find(question: Question) -> Answered | None:
        if not left[question.key]:
            return None
        outcome = left[question.key].pop()
        return Answered(question, outcome, find_fault(outcome))

    return find


def build_graph(
    options: CollectOptions,
    agents: Sequence[Agent],
    router: Router,
    critic: BudgetedCritic | None,
    writer: TraceWriter,
) -> Any:
    """Return the compiled graph that the questions are put to."""
    decides = options.rounds > 0  # else nobody explores or refines
    with warnings.catch_warnings():  # traces of one rule are collected with any router
        warnings.filterwarnings("ignore", "router .* was fitted with consensus", UserWarning)
        return create_deliberation(
            agents,
            router=router,
            critic=critic,
            answer=options.team.answer_schema(),
            consensus=options.consensus,
            max_rounds=options.rounds,
            explore=options.explore if decides else 0.0,
            alternatives=options.alternatives if decides else 0,
            traces=writer,
            name=NAME,
        ).compile()


def open_router(router: str) -> Router:
    """Return the router of that name, or the fitted one in the folder of that name."""
    if Path(router).is_dir():
        return load_router(router)
    try:
        return make_router(router)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}. There is no folder of that name either") from error


def settings_of(options: CollectOptions, agents: Sequence[Agent], router: Router) -> dict[str, Any]:
    """Return the settings that all traces of a folder have in common."""
    return {
        "agents": [agent.describe() for agent in agents],
        "model_factory": options.team.model_factory,
        "prompts": options.team.prompts,
        "templates": vars(agents[0].prompts),
        "answer": options.team.answer_schema().name,
        "router": {"name": router.name, "version": router.version},
        "critic": options.critic,
        "consensus": options.consensus,
        "rounds": options.rounds,
        "explore": options.explore,
        "alternatives": options.alternatives,
    }


def tell_unfinished(questions: Sequence[Question], folder: Path) -> list[Question]:
    """Print how many questions are finished, and return the others."""
    todo, skipped = find_unfinished(questions, folder)
    if skipped:
        print(f"{skipped} torn or foreign records in {folder} do not count")
    print(f"{len(questions)} questions, {len(questions) - len(todo)} of them finished already")
    return todo


def find_unfinished(questions: Sequence[Question], folder: Path) -> tuple[list[Question], int]:
    """Return the questions without a sound episode in the folder, and how many records are torn.

    A question is recognised by the text, reference and contexts in the episode. Questions that are
    equal in all of these take an episode each.
    """
    traces = TraceReader(folder)
    finished = Counter(
        key_of(episode)
        for episode in tqdm(traces, desc="read traces", unit="episode", leave=False, delay=1)
        if episode.graph == NAME and is_sound(episode)
    )
    todo = []
    for question in questions:
        if finished[question.key]:
            finished[question.key] -= 1
        else:
            todo.append(question)
    return todo, traces.counts["skipped"]


async def ask(
    ask_one: Ask, questions: Sequence[Question], options: CollectOptions, workers: int = 1
) -> tuple[list[Answered], list[Answered]]:
    """Ask the questions, and ask those that fail once more.

    Returns:
        The result of every attempt, and the questions that failed twice.
    """
    attempts: list[Answered] = []
    failed: list[Answered] = []
    todo = list(questions)
    with (options.out / "failures.log").open("ab", buffering=0) as log:
        for attempt, label in enumerate(("collect", "retry"), 1):

            def note(failure: Answered, attempt: int = attempt) -> None:
                question = failure.question
                entry = {"time": time.time(), "id": question.id, "attempt": attempt}
                entry |= {"error": failure.error, "question": question.question}
                log.write(orjson.dumps(entry) + b"\n")

            if not todo:
                break
            results = await ask_all(ask_one, todo, options.concurrency * workers, label, note)
            attempts += results
            failed = [one for one in results if one.error is not None]
            todo = [one.question for one in failed]
    return attempts, failed


def summarise(attempts: Sequence[Answered]) -> str:
    """Return in a line how much was collected, and what it cost."""
    if not attempts:
        return "nothing was left to ask"
    outcomes = [one.deliberation for one in attempts if one.deliberation is not None]
    without = sum(outcome["rounds"] == 0 for outcome in outcomes)
    decisions = sum(len(outcome["actions"]) for outcome in outcomes)
    spent = [(o["usage"]["total"], o["usage"]["alternatives"]) for o in outcomes]
    own, extra = (
        sum(part["prompt_tokens"] + part["completion_tokens"] for part in parts)
        for parts in (zip(*spent, strict=True) if spent else ((), ()))
    )
    return (
        f"{len(outcomes)} episodes with {decisions} decisions ({without} had no round "
        f"of decisions); {own:,} tokens, and {extra:,} for alternatives"
    )


# --- importing ------------------------------------------------------------------------------


def unused_options(options: CollectOptions) -> dict[str, Any]:
    """Return the options that were given, and that an import would not use, by name."""
    team = {n: v for n, v in vars(options.team).items() if n not in ("answer", "choices")}
    asking = ("router", "explore", "critic", "alternatives", "concurrency")
    told = {**team, **vars(options.cluster), **{name: getattr(options, name) for name in asking}}
    usual = {**vars(TeamOptions()), **vars(RayOptions()), **vars(CollectOptions())}
    return {n.replace("_", "-"): v for n, v in told.items() if v != usual[n]}


def import_table(options: CollectOptions) -> int:
    """Write the episodes of a table of answers that are not in the folder yet."""
    if options.questions is not None:
        raise ConfigurationError("give either --questions or --import")
    if options.cluster.ray is not None:
        raise ConfigurationError("--ray is for --questions only")
    for name, given in unused_options(options).items():
        raise ConfigurationError(f"--{name} {given}: --import asks nobody, so leave it out")
    assert options.import_answers is not None
    convert = None if options.convert is None else load_object(options.convert)
    answers = read_answers(options.import_answers, convert)
    print(answers.report())
    schema = options.team.answer_schema()
    replay = Replay(schema, options.consensus, options.rounds)
    writer = TraceWriter(options.out)
    keep_settings(
        options.out / "import.json",
        {"answer": schema.name, "consensus": options.consensus, "rounds": options.rounds},
        ADVICE,
    )
    known = {episode.id for episode in TraceReader(options.out)}
    written = 0
    for episode in tqdm(
        replay.play_all(answers), total=len(answers.groups), desc="import", unit="question"
    ):
        if episode.id not in known:
            writer.write(episode)
            written += 1
    writer.close()
    print(f"{written} episodes written to {options.out}, {len(answers.groups) - written} known")
    return 0 if answers.groups else 1


def command() -> None:
    """Run the command."""
    sys.exit(main(tyro.cli(CollectOptions, description=__doc__)))
