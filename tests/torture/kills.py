"""Deliberations, the writing of traces and collecting, killed at random moments."""

import itertools
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from langgraph.checkpoint.sqlite import SqliteSaver

from mpdf_langgraph import Episode, TraceReader, TraceWriter, create_deliberation
from tests.support.loopback import loopback
from tests.support.nursery import note, notes, nursery
from tests.support.scripted import Scripted
from tests.support.synthetic import synthetic_episodes
from tests.torture.table import Row, timed
from training.collect.collecting import CollectOptions
from training.collect.collecting import main as collect
from training.collect.questions import content_key, key_of
from training.collect.team import TeamOptions

Progress = Callable[[str], None]
Durability = Literal["sync", "async", "exit"]
DURABILITIES: tuple[Durability, ...] = ("sync", "async", "exit")


def kill_often(
    row: Row,
    work: Callable[[Path], None],
    folder: Path,
    kills: int,
    longest: float,
    progress: Progress,
    at_once: int = 1,
) -> None:
    """Start workers, and kill them after up to `longest` seconds, `kills` times in all.

    At last one may finish: it finds the file `finish`.
    """
    draw = random.Random(time.time_ns())
    with nursery(work, folder) as place:
        killed = 0
        while killed < kills:
            workers = [place.start() for _ in range(at_once)]
            time.sleep(draw.uniform(0.02, longest))
            ended = [place.kill(worker) for worker in workers]
            killed += ended.count(-signal.SIGKILL)
            wrong = [status for status in ended if status not in (0, -signal.SIGKILL)]
            if wrong or 0 in ended:
                row.foreign += len(wrong)
                row.note(f"a worker ended with {ended}: {_last_words(folder)}")
                break
            if killed % 50 < at_once:
                progress(f"{killed} of {kills} kills")
        row.attempts += killed
        (folder / "finish").touch()
        if place.wait(place.start()) != 0:
            row.foreign += 1
            row.note(f"the last worker failed: {_last_words(folder)}")


def _last_words(folder: Path) -> str:
    log = folder / "worker.log"
    return log.read_text(errors="replace")[-300:] if log.exists() else ""


# --- deliberations with a checkpointer ------------------------------------------------------


def _graph(folder: Path, saver: Any) -> Any:
    """A team whose answers vary: a call that is made again is answered in another way."""

    def reply(_: Any) -> str:
        return f"Answer: {random.randrange(1000)}"

    team = [Scripted(reply=reply, delay=0.003, logprob=-0.3) for _ in range(3)]
    return create_deliberation(
        team,
        router="random",
        critic=lambda question, response: 0.74,  # unlike "logprob", a step of its own
        max_rounds=2,
        traces=folder / "traces",
    ).compile(checkpointer=saver)


def deliberate(folder: Path, durability: Durability) -> None:
    """Answer question after question, first the one that was under way."""
    with SqliteSaver.from_conn_string(str(folder / "state.db")) as saver:
        graph = _graph(folder, saver)
        for number in itertools.count(len(notes(folder / "acknowledged"))):
            config: Any = {"configurable": {"thread_id": str(number)}}
            state = graph.get_state(config)
            given = None if state.tasks else {"question": f"Question {number}?"}
            if "header" in state.values:
                note(folder / "resumed", number, state.values["header"]["id"])
            if state.values.get("deliberation") and not state.tasks:
                outcome = state.values["deliberation"]  # killed before it was acknowledged
            else:
                outcome = graph.invoke(given, config, durability=durability)["deliberation"]
            note(folder / "acknowledged", number, outcome["episode"], outcome["answer"])
            if (folder / "finish").exists():
                return


def deliberate_sync(folder: Path) -> None:
    deliberate(folder, "sync")


def deliberate_async(folder: Path) -> None:
    deliberate(folder, "async")


def deliberate_exit(folder: Path) -> None:
    deliberate(folder, "exit")


_DELIBERATE = {"sync": deliberate_sync, "async": deliberate_async, "exit": deliberate_exit}


def _lasting(episode: Episode) -> dict[str, Any]:
    """All but the time at which the outcome was computed, which a rerun moves."""
    record = episode.model_dump()
    del record["outcome"]["seconds"]
    return record


def deliberation(durability: Durability, scale: float, folder: Path, progress: Progress) -> Row:
    """Kill deliberations: each acknowledged one must stand in the traces, once and the same.

    One that is resumed keeps its id.
    """
    with timed(Row(f"kill: deliberation, durability {durability}")) as row:
        kill_often(row, _DELIBERATE[durability], folder, round(220 * scale), 0.35, progress)
        reader = TraceReader(folder / "traces")
        told = {episode.id: episode for episode in reader}
        acknowledged = notes(folder / "acknowledged")
        for index in (0, 1):  # a question is answered once, and so is an episode told
            seen = Counter(words[index] for words in acknowledged)
            row.duplicated += sum(count - 1 for count in seen.values())
        with SqliteSaver.from_conn_string(str(folder / "state.db")) as saver:
            graph = _graph(folder, saver)
            for number, episode, answer in acknowledged:
                config: Any = {"configurable": {"thread_id": number}}
                kept = Episode.from_state(graph.get_state(config).values)
                row.disagreeing += (kept.id, str(kept.outcome["answer"])) != (episode, answer)
                row.lost += episode not in told
                row.disagreeing += _lasting(told.get(episode, kept)) != _lasting(kept)
            for number, episode in notes(folder / "resumed"):
                config = {"configurable": {"thread_id": number}}
                row.disagreeing += graph.get_state(config).values["header"]["id"] != episode
    return row


# --- the writing of traces ------------------------------------------------------------------


def write_traces(folder: Path) -> None:
    """Write records, and note each one that counts as written."""
    [episode] = synthetic_episodes(1)
    writer = TraceWriter(folder / "traces")
    while True:
        record = episode.model_copy(update={"id": uuid.uuid4().hex})
        writer.write(record)
        note(folder / f"acknowledged-{os.getpid()}", record.id)
        if (folder / "finish").exists():
            return


def writing(scale: float, folder: Path, progress: Progress) -> Row:
    """Kill four writers at a time, on one folder."""
    with timed(Row("kill: four processes write traces")) as row:
        kill_often(row, write_traces, folder, round(240 * scale), 0.3, progress, at_once=4)
        read = Counter(episode.id for episode in TraceReader(folder / "traces"))
        files = folder.glob("acknowledged-*")
        acknowledged = {line[0] for path in files for line in notes(path)}
        row.lost = len(acknowledged - set(read))
        row.duplicated = sum(count - 1 for count in read.values())
    return row


# --- collecting -----------------------------------------------------------------------------


def collect_more(folder: Path) -> None:
    """Collect until every question is answered, slowly unless it is the last time."""
    last = (folder / "finish").exists()
    options = CollectOptions(
        questions=folder / "questions.jsonl",
        out=folder / "traces",
        rounds=1,
        alternatives=0,
        critic="logprob",
        concurrency=64 if last else 2,
        team=TeamOptions(base_url=((folder / "url").read_text(),), model=("4",)),
    )
    if collect(options) != 0:
        raise RuntimeError("collecting failed")


def collecting(scale: float, folder: Path, progress: Progress) -> Row:
    """Kill the collecting of traces: each question must be answered, once."""
    with timed(Row("kill: collect")) as row, loopback("4", delay=0.02) as (url, _):
        kills = round(120 * scale)
        questions = [f"Question {number}?" for number in range(12 * kills + 20)]
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f'{{"question": "{q}", "reference": "4"}}\n' for q in questions)
        (folder / "questions.jsonl").write_text(lines)
        (folder / "url").write_text(url)
        kill_often(row, collect_more, folder, kills, 0.6, progress)
        read = Counter(key_of(episode) for episode in TraceReader(folder / "traces"))
        asked = {content_key(question, "4", {}) for question in questions}
        row.lost = len(asked - set(read))
        row.duplicated = sum(count - 1 for count in read.values())
    return row


KILLS = {
    **{f"deliberation-{name}": partial(deliberation, name) for name in DURABILITIES},
    "writing": writing,
    "collecting": collecting,
}
