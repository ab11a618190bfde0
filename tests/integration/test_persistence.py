"""Deliberations in every checkpointer: interrupted, resumed elsewhere, forked."""

import asyncio
import logging
import math
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.constants import CONFIG_KEY_CHECKPOINTER
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from mpdf_langgraph import (
    Episode,
    MathAnswer,
    TraceReader,
    Unsure,
    create_deliberation,
    force_actions,
)
from mpdf_langgraph.state import Response
from tests.support.scripted import Scripted, counted, says, totals

KINDS = [f"{kind}-{way}" for kind in ("memory", "sqlite", "postgres") for way in ("sync", "async")]
Q: Any = {"question": "What is 2 + 2?", "reference": "4", "contexts": {"agent-1": "a note"}}


class Store:
    """A kind of checkpointer that is opened anew for every step, as another process would."""

    def __init__(self, kind: str, path: Path, postgres: str) -> None:
        self.kind, way = kind.split("-")
        self.asynchronous = way == "async"
        self.path, self.postgres = str(path / "state.db"), postgres
        self.memory = InMemorySaver()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        if self.kind == "memory":
            yield self.memory
        elif self.kind == "sqlite" and self.asynchronous:
            async with AsyncSqliteSaver.from_conn_string(self.path) as saver:
                yield saver
        elif self.kind == "sqlite":
            with SqliteSaver.from_conn_string(self.path) as saver:
                yield saver
        elif self.asynchronous:
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

            async with AsyncPostgresSaver.from_conn_string(self.postgres) as saver:
                await saver.setup()
                yield saver
        else:
            from langgraph.checkpoint.postgres import PostgresSaver

            with PostgresSaver.from_conn_string(self.postgres) as saver:
                saver.setup()
                yield saver

    async def step(self, builder: Any, given: Any, config: Any, **options: Any) -> Any:
        """Invoke a graph on a checkpointer that is opened for this alone."""
        async with self.open() as saver:
            graph = builder.compile(checkpointer=saver)
            if self.asynchronous:
                return await graph.ainvoke(given, config, **options)
            return await asyncio.to_thread(graph.invoke, given, config, **options)

    async def state(self, builder: Any, config: Any) -> Any:
        async with self.open() as saver:
            graph = builder.compile(checkpointer=saver)
            if self.asynchronous:
                return await graph.aget_state(config)
            return await asyncio.to_thread(graph.get_state, config)

    async def history(self, builder: Any, config: Any) -> list[Any]:
        async with self.open() as saver:
            graph = builder.compile(checkpointer=saver)
            if self.asynchronous:
                return [snapshot async for snapshot in graph.aget_state_history(config)]
            return await asyncio.to_thread(lambda: list(graph.get_state_history(config)))

    async def fork(self, builder: Any, config: Any, actions: Any) -> Any:
        async with self.open() as saver:
            graph = builder.compile(checkpointer=saver)
            forced = force_actions(actions)
            if self.asynchronous:
                return await graph.aupdate_state(config, forced, as_node="consensus")
            return await asyncio.to_thread(graph.update_state, config, forced, as_node="consensus")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    wanted = request.param.startswith("postgres")
    postgres = request.getfixturevalue("postgres_server") if wanted else ""
    return Store(request.param, tmp_path, postgres)


@pytest.fixture(autouse=True)
def nothing_is_lost_in_silence(caplog: pytest.LogCaptureFixture) -> Any:
    """Serialisers only log what they drop or do not know."""
    yield
    logged = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert logged == []


def team() -> list[Scripted]:
    """What they say does not depend on the order in which refinements and alternatives come."""
    scripts = [("ann", 4, 5), ("bo", 5, 6), ("cy", 6, 4)]
    return [
        says(f"{name} says #### {first}", f"{name}! #### {later}", logprob=-0.1 * number)
        for number, (name, first, later) in enumerate(scripts, 1)
    ]


def sequence_probability(question: str, response: Response) -> float | None:
    """A critic that is a node's step of its own, as the built-in one of this kind is not."""
    told = response["logprobs"]
    return told and math.exp(told["mean"])


def build(models: list[Scripted], **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "router": "always-refine", "critic": sequence_probability, "answer": MathAnswer(),
        "max_rounds": 2, "alternatives": 1, "stop_when_settled": False,
    }  # fmt: skip
    return create_deliberation(models, **{**defaults, **options})


def on_new_thread() -> Any:
    return {"configurable": {"thread_id": uuid.uuid4().hex}}


def comparable(episode: Episode) -> dict[str, Any]:
    """All but what differs from run to run."""
    record = episode.model_dump(exclude={"id", "started"})
    for response in record["responses"].values():
        del response["seconds"]
    for key in ("episode", "started", "seconds"):
        del record["outcome"][key]
    return record


def check_plain(value: Any) -> None:
    assert type(value) in (dict, list, str, int, float, bool, type(None)), type(value)
    for part in value.values() if type(value) is dict else value if type(value) is list else ():
        check_plain(part)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_interrupted_at_every_step_and_resumed_elsewhere(
    store: Store, durability: str, tmp_path: Path
) -> None:
    whole = build(team()).compile(checkpointer=InMemorySaver())
    once = on_new_thread()
    await whole.ainvoke(Q, once)
    expected = comparable(Episode.from_state(whole.get_state(once).values))

    models, config = team(), on_new_thread()
    builder = build(models, traces=tmp_path / "traces")
    given, steps = Q, 0
    while True:
        await store.step(
            builder, given, config, durability=durability,
            interrupt_before=["agent", "critic", "consensus", "router"],
        )  # fmt: skip
        state = await store.state(builder, config)
        if not state.next:
            break
        given, steps = None, steps + 1
    assert steps == 12  # four nodes, in each of three rounds
    for key in set(state.values) - {"messages", "header"}:
        check_plain(state.values[key])
    assert [(m.type, m.text) for m in state.values["messages"]] == [
        ("human", "What is 2 + 2?"),
        ("ai", expected["responses"][expected["tallies"][-1]["response"]]["text"]),
    ]
    got = Episode.from_state(state.values)
    assert comparable(got) == expected
    assert list(TraceReader(tmp_path / "traces")) == [got]
    usage = got.outcome["usage"]
    spent = {k: usage["total"][k] + usage["alternatives"][k] for k in totals([])}
    assert spent == totals(models)


async def test_a_person_replies_elsewhere(store: Store) -> None:
    models, config = team(), on_new_thread()
    builder = build(models, interrupt_when=Unsure(support_below=0.9), max_rounds=1, alternatives=0)
    out = await store.step(builder, Q, config)
    assert out["__interrupt__"][0].value["stop_reason"] == "max_rounds"
    out = await store.step(builder, Command(resume={"action": "hint", "text": "Hm."}), config)
    assert out["__interrupt__"][0].value["rounds"] == 2
    out = await store.step(builder, Command(resume={"action": "answer", "answer": "4"}), config)
    assert out["deliberation"]["person"] == "answer"
    assert counted(out["deliberation"]["usage"]["total"]) == totals(models)
    assert all("to all]\nHm.\n[" in model.requests[-1].last for model in models)


async def test_several_questions_on_one_thread(store: Store) -> None:
    models, config = team(), on_new_thread()
    builder = build(models, max_rounds=1)
    first = await store.step(builder, Q, config)
    second = await store.step(builder, {"messages": [("user", "And 3 + 3?")]}, config)
    assert len(second["messages"]) == 4
    assert second["deliberation"]["episode"] != first["deliberation"]["episode"]
    state = (await store.state(builder, config)).values
    assert (state["header"]["question"], state["header"]["reference"]) == ("And 3 + 3?", None)
    assert state["notes"] == {}


async def test_a_round_forked_with_another_action(store: Store, tmp_path: Path) -> None:
    models, config = team(), on_new_thread()
    builder = build(models, traces=tmp_path / "traces", alternatives=0)
    first = (await store.step(builder, Q, config))["deliberation"]
    history = await store.history(builder, config)
    before = [s for s in history if s.next == ("router",) and s.values.get("tallies")]
    assert [s.values["round"] for s in before] == [1, 0]  # before the second, before the first

    fork = await store.fork(builder, before[1].config, {"agent-2": "PERSIST"})
    second = (await store.step(builder, None, fork))["deliberation"]
    assert first["actions"][:3] == [f"agent-{i}@1: REFINE" for i in (1, 2, 3)]
    assert second["actions"][:3] == [
        "agent-1@1: REFINE", "agent-2@1: PERSIST", "agent-3@1: REFINE",
    ]  # fmt: skip
    assert second["rounds"] == 2
    assert second["episode"].startswith(first["episode"] + "~")

    original, forked = TraceReader(tmp_path / "traces")
    assert (original.id, forked.id) == (first["episode"], second["episode"])
    assert original.interventions == []
    assert forked.interventions == [
        {"action": "force", "round": 1, "text": "agent-2: PERSIST", "seconds": 0.0}
    ]
    assert forked.turns[1]["probabilities"] == [1.0, 0.0, 0.0]
    assert forked.turns[0]["observation"] == original.turns[0]["observation"]
    assert forked.tallies[0] == original.tallies[0]
    # What was proposed is not proposed again. Round 1 has one call less, round 2 has all.
    assert [model.kinds().count("propose") for model in models] == [1, 1, 1]
    assert counted(forked.outcome["usage"]["total"])["calls"] == 8
    # The thread goes on from the fork, and the first course is still to be found.
    assert Episode.from_state((await store.state(builder, config)).values) == forked
    assert Episode.from_state((await store.state(builder, history[0].config)).values) == original


@pytest.mark.parametrize("nested", [False, True])
def test_langgraph_tells_a_node_of_its_checkpointer(nested: bool) -> None:
    """`interrupt_when` refuses to start without this. If it fails, see `check_checkpointer`."""
    seen: list[Any] = []

    def look(state: MessagesState, config: RunnableConfig) -> None:
        seen.append(config["configurable"].get(CONFIG_KEY_CHECKPOINTER, "the key is gone"))

    builder = StateGraph(MessagesState)
    builder.add_node("look", look)
    builder.add_edge(START, "look")
    if nested:
        inner, builder = builder.compile(), StateGraph(MessagesState)
        builder.add_node("inner", inner)
        builder.add_edge(START, "inner")
    config: Any = on_new_thread()  # a thread without a checkpointer is no reason to go on
    for checkpointer in (None, InMemorySaver()):
        builder.compile(checkpointer=checkpointer).invoke({"messages": []}, config)
    without, with_one = seen  # a copy of it where types are checked strictly
    assert without is None
    assert isinstance(with_one, InMemorySaver)


def test_all_of_it_under_strict_serialisation(request: pytest.FixtureRequest) -> None:
    if os.environ.get("LANGGRAPH_STRICT_MSGPACK"):
        pytest.skip("it is on already")
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    url = request.getfixturevalue("postgres_server") if found else ""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true", "MPDF_POSTGRES_URL": url},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
