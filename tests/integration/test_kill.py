"""Processes killed at random moments and resumed: no record is lost, none is doubled."""

import random
import signal
import time
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from mpdf_langgraph import Episode, TraceReader, create_deliberation
from tests.support.nursery import note, notes, nursery
from tests.support.scripted import says

KILLS = 20
QUESTIONS = 60
LIMIT_SECONDS = 240


def graph(folder: Path, saver: Any) -> Any:
    team = [
        says(f"{name}. Answer: {name}", f"{name}! Answer: {name}", delay=0.003, logprob=-0.3)
        for name in ("a", "b", "c")
    ]
    return create_deliberation(
        team, router="random", critic="logprob", max_rounds=3, traces=folder / "traces"
    ).compile(checkpointer=saver)


def config(question: int) -> Any:
    return {"configurable": {"thread_id": str(question)}}


def work(folder: Path) -> None:
    """Answer every question that is not answered yet, first the one that was under way."""
    with SqliteSaver.from_conn_string(str(folder / "state.db")) as saver:
        compiled = graph(folder, saver)
        for question in range(QUESTIONS):
            state = compiled.get_state(config(question))
            # Not `next`: that leaves out tasks which are done but not yet checkpointed.
            unfinished = bool(state.tasks)
            if state.values.get("deliberation") and not unfinished:
                continue
            given = None if unfinished else {"question": f"Question {question}?"}
            if "header" in state.values:
                note(folder / "resumed", question, state.values["header"]["id"])
            out = compiled.invoke(given, config(question), durability="sync")
            note(folder / "acknowledged", question, out["deliberation"]["episode"])


def lines(path: Path) -> list[tuple[int, str]]:
    return [(int(question), episode) for question, episode in notes(path)]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    draw = random.Random(time.time_ns())
    killed = 0
    began = time.monotonic()
    with nursery(work, tmp_path) as place:
        while time.monotonic() < began + LIMIT_SECONDS:
            worker = place.start()
            if killed < KILLS:
                time.sleep(draw.uniform(0.02, 0.3))
                status = place.kill(worker)
            else:
                status = place.wait(worker)
            assert status in (0, -signal.SIGKILL)
            if status == 0:
                break
            killed += 1

    assert status == 0, "the questions were not all answered in time"
    assert killed >= KILLS // 2
    with SqliteSaver.from_conn_string(str(tmp_path / "state.db")) as saver:
        compiled = graph(tmp_path, saver)
        states = [compiled.get_state(config(question)) for question in range(QUESTIONS)]
    assert not any(state.tasks for state in states)
    ids = [state.values["deliberation"]["episode"] for state in states]
    assert len(set(ids)) == QUESTIONS

    # A resumed question keeps its id, and no acknowledged one is answered again.
    for name in ("resumed", "acknowledged"):
        assert all(ids[question] == episode for question, episode in lines(tmp_path / name)), name
    assert lines(tmp_path / "resumed")
    acknowledged = [question for question, _ in lines(tmp_path / "acknowledged")]
    assert len(set(acknowledged)) == len(acknowledged)

    # Every finished deliberation is read exactly once, as the checkpointer has it.
    reader = TraceReader(tmp_path / "traces")
    records = {episode.id: episode for episode in reader}
    assert reader.counts["read"] == len(records) == QUESTIONS
    assert list(map(comparable, map(records.__getitem__, ids))) == [
        comparable(Episode.from_state(state.values)) for state in states
    ]


def comparable(episode: Episode) -> dict[str, Any]:
    """All but the time at which the outcome was computed, which a rerun moves."""
    record = episode.model_dump()
    del record["outcome"]["seconds"]
    return record
