"""Measures what a deliberation costs beside the same calls made bare, in one run.

    python -m training.studies.speed                  # five minutes on two cores
    python -m training.studies.speed --repeats 3 --questions 5

The models are a server in a process of its own (`speed_server`): 60 tokens a reply with their
log-probabilities, and 200 ms a call where wall-clock time is measured. The bare calls are the
requests of the deliberation itself, recorded, and sent round by round through LangChain's own
`ChatOpenAI.ainvoke`. The deliberation asks a model that `vllm_chat_model` made. They take turns,
and every figure is the median over the repeats. Processor time is that of this process, so it
depends less on what else the machine does.

Other ways to let agents answer together are measured on the same endpoint and questions, one
question after the other (`speed_peers`).

The table and a plot go to `--out`. A line for each run is added to `history.jsonl` there.
"""

import asyncio
import gc
import json
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import SecretStr
from tqdm import tqdm

from mpdf_langgraph import (
    Episode,
    TraceReader,
    load_router,
    vllm_chat_model,
)
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.nodes.router import current_situation
from mpdf_langgraph.observation import observe
from mpdf_langgraph.traces.writer import TraceWriter
from training.collect.team import load_object
from training.command import check_least, run_command
from training.studies.speed_cases import CASES, QUESTION, Case, Requests, deliberate, record
from training.studies.speed_endpoint import measure_prefixes, measure_throughput
from training.studies.speed_peers import llm_debate, of_graph, supervisor, time_systems
from training.studies.speed_report import Row, describe_run, format_table, plot
from training.studies.speed_server import ROOT, speed_server


@dataclass(frozen=True)
class SpeedOptions:
    """Options of the measurement."""

    repeats: int = 5
    """How often everything is measured. The figures are medians."""
    questions: int = 20
    """Deliberations in a row, for processor time."""
    at_once: int = 32
    """Deliberations side by side, for wall-clock time."""
    delay: float = 0.2
    """Seconds that a call takes, for wall-clock time."""
    observations: int = 1000
    """Decisions in the router's large batch."""
    records: int = 300
    """Trace records to write and read."""
    endpoint: str | None = None
    """A vLLM server, such as http://localhost:8000/v1. Debates run against it too: tokens a second
    beside their raw requests, and the hit rate of its prefix cache."""
    prompts: str | None = None
    """module:NAME of the `Prompts` of debates against that server. Default: the plugin's."""
    endpoint_questions: int = 100
    """Debates of 9 calls in each run against that server."""
    router: Path = ROOT / "examples/tiny_lm/router"
    """A fitted router, whose decisions are timed."""
    out: Path = Path("runs/speed")
    """Folder for the table, the plot and the history."""


# --- the bare calls ------------------------------------------------------------------------------


def bare_model(url: str) -> ChatOpenAI:
    """Return LangChain's own chat model, with the settings of `vllm_chat_model`."""
    return ChatOpenAI(
        model="speed",
        base_url=url,
        api_key=SecretStr("EMPTY"),
        temperature=1.0,
        max_completion_tokens=1024,
        logprobs=True,
        timeout=60.0,
        max_retries=0,
        use_responses_api=False,
    )


async def call_bare(model: BaseChatModel, requests: Requests) -> None:
    """Make the calls of one deliberation, those of a round side by side."""
    for calls in requests:
        await asyncio.gather(*(model.ainvoke(m, temperature=heat) for m, heat in calls))


# --- the measurements ----------------------------------------------------------------------------


async def _timed(clock: Callable[[], float], work: Awaitable[Any]) -> float:
    began = clock()
    await work
    return clock() - began


async def measure_processor(url: str, options: SpeedOptions, bar: Any) -> list[Row]:
    """Return the processor time of deliberations over that of their bare calls."""
    model, bare_chat = vllm_chat_model(url, "speed"), bare_model(url)
    rows, bare_calls, own_calls = [], [], []
    for case in CASES:
        graph = case.build(model).compile()
        requests = await record(graph)
        calls, count = sum(map(len, requests)), options.questions
        works: tuple[Callable[[], Awaitable[Any]], ...] = (
            partial(call_bare, bare_chat, requests),
            partial(call_bare, model, requests),
            partial(deliberate, graph),
        )
        for work in works:
            await work()
        ratios = []
        for _ in range(options.repeats):
            # In turn, so that what else the machine does weighs on all alike.
            spent = [0.0] * len(works)
            for _ in range(count):
                for place, work in enumerate(works):
                    spent[place] += await _timed(time.process_time, work())
            bare, own, whole = spent
            ratios.append(whole / bare)
            bare_calls.append(1e3 * bare / count / calls)
            own_calls.append(1e3 * own / count / calls)
            bar.update()
        rows.append(Row.of(f"processor time / bare calls: {case.name}", ratios, aim=1.2))
    unit = "ms of processor time"
    return [
        Row.of("a bare call of ChatOpenAI", bare_calls, unit=unit),
        Row.of("a bare call of vllm_chat_model", own_calls, unit=unit),
        *rows,
    ]


async def measure_wall(url: str, options: SpeedOptions, bar: Any) -> list[Row]:
    """Return the wall-clock time of deliberations over their waiting and over their bare calls."""
    model, bare_chat = vllm_chat_model(url, "speed"), bare_model(url)
    rows = []
    for case in (CASES[0], CASES[1], CASES[4]):
        graph = case.build(model).compile()
        requests = await record(graph)
        path = options.delay * len(requests)
        alone, bare_alone, many = [], [], []
        for _ in range(options.repeats):
            bare_alone.append(await _timed(time.perf_counter, call_bare(bare_chat, requests)))
            alone.append(await _timed(time.perf_counter, deliberate(graph)))
            crowd: list[Awaitable[Any]] = [
                call_bare(bare_chat, requests) for _ in range(options.at_once)
            ]
            bare = await _timed(time.perf_counter, asyncio.gather(*crowd))
            crowd = [deliberate(graph) for _ in range(options.at_once)]
            many.append(await _timed(time.perf_counter, asyncio.gather(*crowd)) / bare)
            bar.update()
        aim = 1.05 if case.agents == 16 else 1.03
        rows += [
            Row.of(f"wall / critical path: {case.name}", [t / path for t in alone], aim=aim),
            Row.of(f"wall / critical path, bare: {case.name}", [t / path for t in bare_alone]),
            Row.of(f"{options.at_once} at once, wall / bare: {case.name}", many, aim=1.15),
        ]
    return rows


def measure_peers(url: str, options: SpeedOptions, bar: Any) -> list[Row]:
    """Return how fast other systems answer, beside a vote and a debate of as many calls."""
    model = vllm_chat_model(url, "speed")
    systems = {
        case.name: of_graph(case.build(model).compile(), lambda question: {"question": question})
        for case in (CASES[0], Case("debate 3 × 1", 3, 1))
    }
    systems |= {"LLM-Debate": llm_debate(url), "langgraph-supervisor": supervisor(url)}
    bar.update(options.repeats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # identical proposals
        return time_systems(
            systems,
            QUESTION,
            delay=options.delay,
            repeats=options.repeats,
            questions=max(1, options.questions // 4),
        )


def measure_router(state: Any, options: SpeedOptions, bar: Any) -> list[Row]:
    """Return how long a fitted router takes to decide, for a team of 3 and in a large batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its gate does not matter here
        router = load_router(options.router)
    situation = current_situation(state)
    team = list(observe(situation).values())
    masks = [[True, True, True]] * len(team)
    batch = (team * -(-options.observations // len(team)))[: options.observations]
    allowed = [[True, True, True]] * len(batch)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        for name, work, count in (
            ("observations of 3 agents", lambda: observe(situation), 200),
            ("router decision: 3 agents", lambda: router.decide(team, masks), 200),
            ("batch", lambda: router.decide(batch, allowed), 10),
        ):
            began = time.process_time()
            for _ in range(count):
                work()
            times[name].append((time.process_time() - began) / count)
        bar.update()
    large = [1e3 * seconds for seconds in times.pop("batch")]
    aims = {"router decision: 3 agents": 100.0}
    rows = [
        Row.of(name, [1e6 * seconds for seconds in spent], unit="µs", aim=aims.get(name))
        for name, spent in times.items()
    ]
    name = f"router decision: {options.observations:,} observations"
    return [*rows, Row.of(name, large, unit="ms", aim=5.0)]


def measure_traces(state: Any, options: SpeedOptions, bar: Any) -> list[Row]:
    """Return how fast records of a 3 × 3 debate are written and read, and how long they are."""
    appends, spent, reads, size = [], [], [], 0
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(dir=options.out) as folder:
            writer = TraceWriter(folder)
            began, worked = time.perf_counter(), time.process_time()
            for number in range(options.records):
                state["header"]["id"] = f"{number:032x}"
                writer.write_state(state)
            appends.append(options.records / (time.perf_counter() - began))
            spent.append(options.records / (time.process_time() - worked))
            writer.close()
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            began = time.process_time()
            assert sum(1 for _ in TraceReader(folder)) == options.records
            reads.append(options.records / (time.process_time() - began))
        bar.update()
    length = size / options.records / 1e3
    return [
        Row.of("traces: durable appends", appends, unit="/s", aim=2000, at_least=True),
        Row.of("traces: appends without waiting", spent, unit="/s of processor time"),
        Row.of("traces: reads", reads, unit="/s of processor time", aim=10_000, at_least=True),
        Row.of("traces: a debate 3 × 3", [length], unit="kB", aim=6),
    ]


async def finished_state(url: str, case: Case) -> Any:
    """Return the graph's state after one deliberation."""
    graph = case.build(vllm_chat_model(url, "speed")).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await deliberate(graph, **config)
    values = graph.get_state(config).values
    Episode.from_state(values)
    return values


def main(options: SpeedOptions) -> None:
    """Measure everything, print the table, and write table, plot and history."""
    check_least(
        options, repeats=1, questions=1, at_once=1, observations=1, records=1, endpoint_questions=1
    )
    if options.delay <= 0:
        raise ConfigurationError(f"--delay must be above 0, got {options.delay}")
    options.out.mkdir(parents=True, exist_ok=True)
    # Looking through all that was imported, torch too, takes the collector .1 s. It would count
    # towards whoever's turn it is.
    gc.collect()
    gc.freeze()
    with tqdm(total=11 * options.repeats, desc="speed", unit="part") as bar:
        with speed_server(0.0) as url:
            rows = asyncio.run(measure_processor(url, options, bar))
            state = asyncio.run(finished_state(url, CASES[3]))
            rows += asyncio.run(measure_prefixes(url, options.endpoint, options.repeats))
        with speed_server(options.delay) as url:
            rows += asyncio.run(measure_wall(url, options, bar))
            rows += measure_peers(url, options, bar)
        rows += measure_router(state, options, bar)
        rows += measure_traces(state, options, bar)
    if options.endpoint is not None:
        rows += asyncio.run(
            measure_throughput(
                options.endpoint,
                prompts=load_object(options.prompts) if options.prompts else None,
                repeats=options.repeats,
                questions=options.endpoint_questions,
                at_once=options.at_once,
            )
        )
    table = format_table(
        rows,
        f"Medians of {options.repeats} repeats, {options.questions} deliberations each; "
        f"{1e3 * options.delay:.0f} ms a call in the rows of wall-clock time. ",
    )
    print(table)
    (options.out / "speed.md").write_text(table)
    history = options.out / "history.jsonl"
    with history.open("a") as file:
        file.write(json.dumps({**describe_run(), "rows": [asdict(row) for row in rows]}) + "\n")
    plot(rows, history, options.out / "speed.png")


if __name__ == "__main__":
    run_command(main, SpeedOptions, __doc__)
