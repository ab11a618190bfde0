"""Episode records: written, torn, mixed up, read back."""

import base64
import copy
import itertools
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import SecretStr

from mpdf_langgraph import Agent, Episode, TraceReader, TraceWriter, create_deliberation
from mpdf_langgraph.errors import DeliberationError, TraceError
from mpdf_langgraph.traces import records
from mpdf_langgraph.traces.records import SCHEMA_VERSION, read_id, read_question
from tests.support.running import ON
from tests.support.scripted import Scripted, StatusError, says, yes
from tests.support.synthetic import synthetic_episodes


class Kept:
    """Keeps the finished states instead of writing them."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def write_state(self, state: Any) -> None:
        self.states.append(state)


def graph(sink: Any, **options: Any) -> Any:
    """Three agents with every kind of record: a failure, alternatives, scores, both verdicts."""
    team = [
        Agent("ann", says(*(f"ann{i}. Answer: {i}" for i in (1, 2, 3)), logprob=-0.4)),
        Agent("bob", says("bob. Answer: 2", StatusError(400), critique=yes(0.3), logprob=-0.1)),
        Agent("cy", says(StatusError(400), "cy. Answer: 3"), context=lambda q: f"notes on {q}"),
    ]
    return create_deliberation(
        team, router="always-refine", max_rounds=2, alternatives=1, traces=sink, **options
    )


QUESTION = {
    "messages": [("user", "Hello."), ("ai", "Hi."), ("user", "Which — été?")],
    "reference": "2",
    "contexts": {"ann": "private\nto Ann"},
}


@pytest.fixture(scope="module")
def states() -> list[Any]:
    sink = Kept()
    compiled = graph(sink).compile()
    for _ in range(6):
        compiled.invoke(QUESTION)
    return sink.states


@pytest.fixture(scope="module")
def episodes(states: list[Any]) -> list[Episode]:
    return [Episode.from_state(state) for state in states]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def ids(episodes: Any) -> list[str]:
    return [episode.id for episode in episodes]


def test_what_is_written_is_read(tmp_path: Path, episodes: list[Episode]) -> None:
    writer = TraceWriter(tmp_path / "new" / "folder")
    for episode in episodes:
        writer.write(episode)
    reader = TraceReader(writer.folder)
    assert list(reader) == episodes
    assert list(reader) == episodes  # a reader can be used again
    assert reader.counts == {"read": 6}
    [segment] = segments(writer.folder)
    assert list(TraceReader(segment)) == episodes
    assert segment.read_bytes().startswith(b"\n{")
    writer.close()
    writer.write(episodes[0])
    assert len(segments(writer.folder)) == 2
    writer.close()


def test_a_record_holds_all_that_happened(episodes: list[Episode]) -> None:
    episode = episodes[0]
    assert (episode.question, episode.reference) == ("Which — été?", "2")
    assert episode.history == [
        {"role": "human", "text": "Hello."},
        {"role": "ai", "text": "Hi."},
    ]
    assert episode.contexts == {"ann": "private\nto Ann", "cy": "notes on Which — été?"}
    assert [agent["name"] for agent in episode.agents] == ["ann", "bob", "cy"]
    assert episode.options["router"] == {"name": "always-refine", "version": "1"}
    assert len(episode.turns) == 6
    assert all(len(turn["observation"]["peers"]) == 2 for turn in episode.turns)
    assert len(episode.tallies) == 3
    assert {"ann@0", "ann@1", "ann@1+1", "ann@2", "ann@2+1"} <= set(episode.responses)
    assert "cy@0" not in episode.responses
    stages = Counter(failure["stage"] for failure in episode.failures)
    assert stages["propose"] == 1
    assert stages["refine"] == 2
    assert episode.outcome["episode"] == episode.id
    assert episode.responses["bob@0"]["critique"]["scores"].keys() == {
        "logprob",
        "logprob_raw",
        "self",
    }


def test_torn_tail_costs_only_itself(tmp_path: Path, episodes: list[Episode]) -> None:
    first, torn, later = episodes[:3]
    whole = b"\n" + first.to_json() + b"\n" + torn.to_json()
    last = whole.rindex(b"\n")
    segment = tmp_path / "segment.jsonl"
    # Every byte near both ends, and a sample of those between.
    cuts = {*range(last, last + 30), *range(len(whole) - 30, len(whole))}
    for cut in sorted(cuts | set(range(last, len(whole), 499))):
        segment.write_bytes(whole[:cut])
        reader = TraceReader(tmp_path)
        assert ids(reader) == [first.id]
        assert reader.counts["skipped"] == (1 if cut > last + 1 else 0)
        # The next writer's record is not swallowed by it.
        segment.write_bytes(whole[:cut] + b"\n" + later.to_json())
        assert ids(TraceReader(tmp_path)) == [first.id, later.id]


def answered(episode: Episode, answer: str) -> Episode:
    """Return a later record of the same id."""
    return episode.model_copy(update={"outcome": {**episode.outcome, "answer": answer}})


def test_the_last_record_of_an_id_counts(tmp_path: Path, episodes: list[Episode]) -> None:
    first, second, third = episodes[:3]
    segments = {
        "1.jsonl": [first, second, answered(first, "again")],
        "2.jsonl": [answered(second, "later"), third, answered(first, "last")],
    }
    for name, written in segments.items():
        (tmp_path / name).write_bytes(b"".join(b"\n" + e.to_json() for e in written))
    reader = TraceReader(tmp_path)
    found = list(reader)
    assert ids(found) == ids([second, third, first])
    assert [e.outcome["answer"] for e in found] == ["later", third.outcome["answer"], "last"]
    assert reader.counts == {"read": 3, "duplicate": 3}
    # The order of the paths says which is later.
    found = list(TraceReader([tmp_path / "2.jsonl", tmp_path / "1.jsonl"]))
    assert [e.outcome["answer"] for e in found][-2:] == [second.outcome["answer"], "again"]


def test_a_torn_or_invalid_last_record_leaves_the_one_before(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    first, later = episodes[0], answered(episodes[0], "later")
    torn = later.to_json()[:-20]
    invalid = orjson.dumps({**later.model_dump(), "turns": 7})
    lines = [invalid, first.to_json(), torn, later.to_json(), invalid, torn]
    (tmp_path / "a.jsonl").write_bytes(b"\n" + b"\n".join(lines))
    reader = TraceReader(tmp_path)
    assert [e.outcome["answer"] for e in reader] == ["later"]
    assert reader.counts == {"read": 1, "duplicate": 1, "skipped": 4}


def test_what_is_written_meanwhile_is_not_read_twice(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    writer = TraceWriter(tmp_path)
    writer.write(episodes[0])
    writer.write(episodes[1])
    found = []
    for episode in TraceReader(tmp_path):
        writer.write(answered(episodes[0], "later"))
        writer.write(episodes[2])
        found.append(episode.id)
    writer.close()
    assert found == ids(episodes[:2])


def test_segments_of_one_second_sort_by_their_beginning(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    for i in range(8):
        writer = TraceWriter(tmp_path)
        writer.write(answered(episodes[0], str(i)))
        writer.close()
    [episode] = TraceReader(tmp_path)
    assert episode.outcome["answer"] == "7"


def test_duplicates_are_dropped_and_counted(tmp_path: Path, episodes: list[Episode]) -> None:
    for written in ([0, 1, 1], [1, 0, 2]):
        writer = TraceWriter(tmp_path)
        for i in written:
            writer.write(episodes[i])
        writer.close()
    reader = TraceReader(tmp_path)
    assert sorted(ids(reader)) == sorted(ids(episodes[:3]))
    assert reader.counts == {"read": 3, "duplicate": 3}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"garbage", "torn record"),
        (b"\xff\xfe\x00", "torn record"),
        (b"\x00" * 50, "torn record"),
        (b"[" * 5000, "torn record"),
        (b"[]", "schema version None"),
        (b"null", "schema version None"),
        (b'{"schema_version": 99}', "schema version 99, but this release reads versions 1 to 5"),
        (b'{"schema_version": 1, "id": "x"}', "invalid record"),
        (b'{"schema_version": ' + b"[" * 1000 + b"]" * 1000 + b"}", "schema version [[["),
    ],
    ids=["word", "bytes", "zeros", "deep", "list", "null", "version", "incomplete", "deep version"],
)
def test_bad_lines_are_skipped_and_reported(
    tmp_path: Path, episodes: list[Episode], line: bytes, reason: str
) -> None:
    segment = tmp_path / "segment.jsonl"
    segment.write_bytes(
        b"\n" + episodes[0].to_json() + b"\n" + line + b"\n" + episodes[1].to_json()
    )
    reader = TraceReader(tmp_path)
    assert ids(reader) == ids(episodes[:2])
    assert reader.counts == {"read": 2, "skipped": 1}
    [report] = reader.skipped
    assert report.startswith(f"{segment}:3: {reason}")


def test_numbers_that_json_has_no_word_for_are_rejected(states: list[Any]) -> None:
    state = states[0]
    for bad in (float("nan"), float("inf")):
        response = state["responses"]["ann@0"]
        for part in (
            {"responses": {**state["responses"], "ann@0": {**response, "seconds": bad}}},
            {"deliberation": {**state["deliberation"], "confidence": bad}},
            {"header": {**state["header"], "options": {"deep": [{"explore": bad}]}}},
        ):
            with pytest.raises(TraceError, match=r"finite|valid episode"):
                Episode.from_state({**state, **part})


@pytest.mark.parametrize("told", [-1_000_000, math.nan, 10**30, "50", True, 2.5], ids=repr)
def test_no_usage_voids_a_budget_or_costs_a_trace(tmp_path: Path, told: Any) -> None:
    number = itertools.count()

    def reply(_: Any) -> AIMessage:
        message = AIMessage(f"{next(number)}. Answer: 4")
        usage: Any = {"input_tokens": told, "output_tokens": told, "total_tokens": 5}
        message.usage_metadata = usage
        return message

    team = [Scripted(reply=reply, reports_usage=False, max_tokens=20) for _ in range(2)]
    graph = create_deliberation(
        team, critic=None, router="always-refine", max_tokens=3000, max_rounds=50,
        traces=tmp_path, stop_when_settled=False,
    )  # fmt: skip
    outcome = graph.compile().invoke({"question": "2 + 2?"})["deliberation"]
    assert outcome["stop_reason"] == "max_tokens"
    assert sum(len(model.served) for model in team) < 20
    assert "trace_error" not in outcome
    [episode] = TraceReader(tmp_path)
    usage = episode.outcome["usage"]["total"]
    assert usage["unreported"] == usage["calls"]
    assert usage["prompt_tokens"] == usage["completion_tokens"] == 0
    assert 0 < usage["estimated"] <= 3000


def test_a_record_that_cannot_be_read_again_is_not_written(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    deep: Any = 1
    for _ in range(990):
        deep = [deep]
    writer = TraceWriter(tmp_path)
    for update in (
        {"schema_version": 99},
        {"started": math.nan},
        {"options": {"deep": deep}},
        {"options": {"object": object()}},
    ):
        with pytest.raises(TraceError):
            writer.write(episodes[0].model_copy(update=update))
    writer.write(episodes[1])
    writer.close()
    reader = TraceReader(tmp_path)
    assert ids(reader) == ids(episodes[1:2])
    assert not reader.skipped


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (orjson.Fragment(b"{"), "torn record"),
        (object(), "JSON cannot hold"),
        (Enum("Odd", {"DEEP": json.loads("[" * 99 + "]" * 99)})["DEEP"], "levels deep"),
    ],
    ids=["fragment", "object", "enum"],
)
def test_a_state_that_could_not_be_read_is_not_written(
    tmp_path: Path, states: list[Any], odd: Any, told: str
) -> None:
    writer = TraceWriter(tmp_path)

    def write(**options: Any) -> None:
        header = states[0]["header"]
        options = {**header["options"], **options}
        writer.write_state({**states[0], "header": {**header, "options": options}})

    with pytest.raises(TraceError, match=told):
        write(odd=odd)
    write(odd=(1, 2))
    writer.close()
    reader = TraceReader(tmp_path)
    assert [episode.options["odd"] for episode in reader] == [[1, 2]]
    assert not reader.skipped


def test_a_record_holds_the_fields_alone(episodes: list[Episode]) -> None:
    @dataclass
    class Made:
        _hidden: int = 1

    first = episodes[0]
    assert first.model_copy(update={"nonsense": 1}).to_json() == first.to_json()
    options = {**first.options, "made": Made()}
    written = Episode.from_json(first.model_copy(update={"options": options}).to_json())
    assert written.options["made"] == {"_hidden": 1}


def test_hostile_files_are_skipped_and_counted(tmp_path: Path, episodes: list[Episode]) -> None:
    good = episodes[0].to_json()
    record = orjson.loads(good)
    bad = [
        good.replace(b'"options":{', b'"options":{"deep":' + b"[" * 990 + b"]" * 990 + b",", 1),
        b"[" * 100_000,
        orjson.dumps({**record, "schema_version": True}),
        orjson.dumps({**record, "schema_version": 2.0}),
        orjson.dumps({**record, "id": {"a": 1}}),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n" + b"\n".join([*bad, good, *bad]))
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder.jsonl" / "b.jsonl").write_bytes(b"\n" + episodes[1].to_json())
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    reader = TraceReader(tmp_path)
    assert ids(reader) == ids(episodes[:2])
    assert reader.counts == {"read": 2, "skipped": 13}
    assert sum("not a file" in line for line in reader.skipped) == 3
    assert sum(line.startswith(f"{tmp_path}/a.jsonl:") for line in reader.skipped) == 10


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("agents.0.name", 3, "a name of its own"),
        ("agents.0.name", "bob", "a name of its own"),
        ("agents.0", {}, "a name of its own"),
        ("turns.0.round", 10**15, "round 1000000000000000 has no tally"),
        ("turns.0.round", -1, "round -1 has no tally"),
        ("responses.ann@0.round", 10**15, "has no tally"),
        ("responses.ann@0.cluster", 834, "cluster 834 has no representative"),
        ("responses.ann@0.cluster", -1, "cluster -1 has no representative"),
        ("tallies.0.cluster", 834, "cluster 834 has no representative"),
        ("tallies.0.votes", {"ann": 834}, "cluster 834 has no representative"),
    ],
)
def test_what_nobody_could_look_up_is_skipped(
    tmp_path: Path, episodes: list[Episode], place: str, value: Any, told: str
) -> None:
    """A round so late would be waited for, and a cluster that is not there ends a fit."""
    record = orjson.loads(episodes[0].to_json())
    inside: Any = record
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in path:
        inside = inside[key]
    inside[last] = value
    lines = [orjson.dumps(record), episodes[1].to_json()]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    reader = TraceReader(tmp_path)
    assert ids(reader) == ids(episodes[1:2])
    [skipped] = reader.skipped
    assert told in skipped


def test_unfinished_state_is_no_episode(states: list[Any]) -> None:
    for state in ({}, {**states[0], "deliberation": {}}, {"deliberation": {"answer": "2"}}):
        with pytest.raises(TraceError, match="no finished deliberation"):
            Episode.from_state(state)


def test_lone_surrogates_do_not_cost_the_record(tmp_path: Path) -> None:
    odd = "caf\ud83d 2 + 2?"
    given = {
        "messages": [("user", odd), ("ai", odd), ("user", odd)],
        "reference": odd,
        "contexts": {"agent-1": odd},
    }
    team = [says("Answer: 4"), says("It is so. Answer: 4")]
    graph = create_deliberation(team, critic=None, traces=tmp_path).compile()
    result = graph.invoke(given)
    reader = TraceReader(tmp_path)
    episodes = list(reader)
    assert reader.skipped == []
    [episode] = episodes
    assert episode.id == result["deliberation"]["episode"]
    assert episode.question == episode.reference == episode.contexts["agent-1"] == "caf? 2 + 2?"


def test_several_threads_share_a_writer(tmp_path: Path, episodes: list[Episode]) -> None:
    writer = TraceWriter(tmp_path)
    copies = [e.model_copy(update={"id": f"{e.id}-{i}"}) for i in range(20) for e in episodes]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(writer.write, copies))
    reader = TraceReader(tmp_path)
    assert sorted(ids(reader)) == sorted(ids(copies))
    assert reader.counts == {"read": 120}
    assert len(segments(tmp_path)) == 1
    writer.close()


WRITE_IN_PROCESSES = """
import os, sys
from mpdf_langgraph import Episode, TraceWriter
folder, record = sys.argv[1:]
episode = Episode.from_json(open(record, "rb").read())
writer = TraceWriter(folder)

def write():
    for i in range(25):
        writer.write(episode.model_copy(update={"id": f"{os.getpid()}-{i}"}))

write()
children = [os.fork() for _ in range(1)]
if children == [0]:
    write()
    os._exit(0)
write()
os.waitpid(children[0], 0)
"""


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copy_of_a_writer_has_a_segment_of_its_own(
    tmp_path: Path, episodes: list[Episode], copied: Any
) -> None:
    writer = TraceWriter(tmp_path)
    writer.write(episodes[0])
    copied(writer).write(episodes[1])  # the copy is gone, and its segment is closed
    with (tmp_path / "other").open("wb") as other:
        writer.write(episodes[2])
        assert os.fstat(other.fileno()).st_size == 0
    assert {e.id for e in TraceReader(tmp_path)} == {e.id for e in episodes[:3]}


def test_several_processes_share_a_folder(tmp_path: Path, episodes: list[Episode]) -> None:
    (tmp_path / "record").write_bytes(episodes[0].to_json())
    folder = tmp_path / "traces"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_IN_PROCESSES, str(folder), str(tmp_path / "record")]
        )
        for _ in range(2)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    reader = TraceReader(folder)
    assert len(ids(reader)) == 2 * 2 * 25
    assert reader.counts == {"read": 100, "duplicate": 50}  # parents write theirs twice
    assert len(segments(folder)) == 4  # a fork gets a segment of its own


def test_folders_that_cannot_be_written(
    tmp_path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (None, "", 5):
        with pytest.raises(TraceError, match=f"traces need a folder, got {wrong!r}"):
            TraceWriter(wrong)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=r"got ''$"):  # and of no other type
        TraceWriter("")
    for path in (tmp_path / "file", tmp_path / "file" / "folder", tmp_path / "a\0b"):
        with pytest.raises(TraceError, match="cannot make the trace folder"):
            TraceWriter(path)
    writer = TraceWriter(tmp_path / "gone")
    writer.folder.rmdir()
    writer.folder.write_text("now a file")
    with pytest.raises(TraceError, match="cannot write a trace"):
        writer.write(episodes[0])
    with monkeypatch.context() as patched:  # root may write everywhere
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(TraceError, match="cannot write to the trace folder"):
            TraceWriter(tmp_path)
    with pytest.raises(TraceError, match="no such file or folder"):
        TraceReader(tmp_path / "nowhere")


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path, episodes: list[Episode]) -> None:
    writer = TraceWriter(tmp_path / "gone")
    writer.folder.rmdir()  # before the first record
    writer.write(episodes[0])
    assert ids(TraceReader(tmp_path / "gone")) == [episodes[0].id]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    create_deliberation([says("4")], critic=None, max_rounds=0, traces="~/traces").compile().invoke(
        {"question": "2 + 2?"}
    )
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert len(list(TraceReader("~/traces"))) == len(list(TraceReader(Path("~/traces")))) == 1
    for refused in (TraceWriter, TraceReader):
        with pytest.raises(TraceError, match="home directory"):
            refused("~nobody-of-that-name/traces")


def test_a_record_is_on_disk_before_write_returns(
    tmp_path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fdatasync = os.fdatasync

    def watch(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", watch)
    writer = TraceWriter(tmp_path)
    writer.write(episodes[0])
    assert synced == [len(episodes[0].to_json(packed=True)) + 1]
    writer.close()


def test_without_fdatasync_a_record_is_on_disk_all_the_same(
    tmp_path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync")  # as on macOS
    writer = TraceWriter(tmp_path)
    writer.write(episodes[0])
    writer.close()
    assert len(list(TraceReader(tmp_path))) == 1


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_removed_segment_takes_no_later_record_with_it(
    tmp_path: Path, episodes: list[Episode], whole_folder: bool
) -> None:
    folder = tmp_path / "traces"
    writer = TraceWriter(folder)
    writer.write(episodes[0])
    if whole_folder:
        shutil.rmtree(folder)
    else:
        next(folder.glob("*.jsonl")).unlink()
    writer.write(episodes[1])
    writer.close()
    assert [e.id for e in TraceReader(folder)] == [episodes[1].id]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_is_an_error(
    tmp_path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TraceWriter(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(writer, "_segments", {os.getpid(): full})
    with pytest.raises(TraceError, match="No space left"):
        writer.write(episodes[0])
    writer.close()


def test_a_checkpointer_is_as_good_a_source(tmp_path: Path) -> None:
    compiled = graph(tmp_path).compile(checkpointer=InMemorySaver())
    compiled.invoke(QUESTION, ON)
    compiled.invoke({"question": "And now?"}, ON)
    *_, last = TraceReader(tmp_path)
    assert last.question == "And now?"
    assert Episode.from_state(compiled.get_state(ON).values) == last


def test_record_is_plain_json(episodes: list[Episode]) -> None:
    record = orjson.loads(episodes[0].to_json())
    assert record["schema_version"] == SCHEMA_VERSION
    assert Episode.model_validate(record) == episodes[0]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_records_of_earlier_versions_are_read(
    tmp_path: Path, episodes: list[Episode], version: int
) -> None:
    """They were written before anybody could intervene, attach an image, or be left unasked."""
    added = ["interventions", "attachments", "recruits"][version - 1 :]
    lines = []
    for episode in episodes:
        record = orjson.loads(episode.to_json())
        assert [record.pop(key) for key in added] == [[]] * len(added)
        lines.append(orjson.dumps({**record, "schema_version": version}))
    (tmp_path / "old.jsonl").write_bytes(b"\n" + b"\n".join(lines))
    reader = TraceReader(tmp_path)
    now = {"schema_version": SCHEMA_VERSION}
    assert [e.model_copy(update=now) for e in reader] == episodes
    assert reader.counts == {"read": len(episodes)}


def test_a_packed_record_is_the_same_record(episodes: list[Episode]) -> None:
    for episode in episodes:
        line = episode.to_json(packed=True)
        assert Episode.from_json(line) == episode
        assert read_id(line) == read_id(episode.to_json()) == episode.id
        assert b"\n" not in line
    assert len(episodes[0].to_json(packed=True)) < len(episodes[0].to_json()) / 4


def test_a_packed_record_that_was_altered_is_refused(
    episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (orjson.loads(episode.to_json(packed=True)) for episode in episodes[:2])

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(TraceError, match=match):
            Episode.from_json(orjson.dumps({**first, **changes}))

    refused("head is that of another", packed=second["packed"])
    refused("head is that of another", id="another")
    refused("head is that of another", schema_version=3)
    refused("torn record", packed=first["packed"][:-8])
    refused("torn record", packed=first["packed"][:400] + "A" + first["packed"][401:])
    refused("torn record", packed="é")
    refused("torn record", packed=7)
    refused("head is that of another", packed=base64.b64encode(zlib.compress(b"[1]")).decode())
    refused("torn record", packed=base64.b64encode(zlib.compress(b"{")).decode())
    monkeypatch.setattr(records, "MOST_BYTES", 1000)  # as if it grew without end
    refused("longer than 1,000 bytes")


@pytest.mark.parametrize(
    ("ours", "altered", "told"),
    [
        (b'"tie":', b'"more":1,"tie":', "Extra inputs are not permitted"),
        (b'"category":null,', b'"category":null,"more":1,', "Extra inputs are not permitted"),
        (b'"truncated":false', b'"truncated":"so"', "valid boolean"),
        (b'"action":"REFINE"', b'"action":"REFUSE"', "'PERSIST', 'REFINE' or 'CONCEDE'"),
        (b'"agents":[', b'"agents":[' + b"[" * 65 + b"]" * 65 + b",", "valid dictionary"),
        (b'"options":{', b'"options":{"deep":' + b"[" * 65 + b"]" * 65 + b",", "levels deep"),
        (b'"category":null', b'"category":NaN', "torn record"),
        (b'"truncated":false', b'"truncated":"no"', None),
        (b'"category":null', b'"category" : null', None),
        (b'"interventions":[],', b"", None),
    ],
    ids=str,
)
def test_what_is_packed_is_checked_as_what_is_not(
    episodes: list[Episode], ours: bytes, altered: bytes, told: str | None
) -> None:
    first = episodes[0]
    text = first.to_json()
    assert ours in text
    inside = text.replace(ours, altered, 1)
    packed = base64.b64encode(zlib.compress(inside)).decode()
    record = orjson.dumps({**orjson.loads(first.to_json(packed=True)), "packed": packed})
    for line in (inside, record):
        if told is None:
            assert Episode.from_json(line) == first
        else:
            with pytest.raises(TraceError, match=told):
                Episode.from_json(line)


def test_a_record_that_is_too_long_to_unpack_is_written_as_it_is(
    episodes: list[Episode], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 1000)
    TraceWriter(tmp_path).write(episodes[0])
    assert list(TraceReader(tmp_path)) == [episodes[0]]


@given(st.text(), st.sampled_from([0, 1, 9, 40]))
def test_an_id_is_read_as_json_reads_it(id_: str, cut: int) -> None:
    whole = orjson.dumps({"schema_version": 4, "id": id_, "packed": "x"})
    line = whole[: len(whole) - cut]
    assert read_id(line) == (id_ if cut == 0 else None)
    assert read_id(orjson.dumps({"packed": "x", "id": id_})) == id_


def test_no_secret_reaches_a_trace(tmp_path: Path) -> None:
    secrets = ["sk-verysecretkey123", "hunter2pw", "headersecret1", "contextkey99"]
    model = ChatOpenAI(
        base_url="http://ada:hunter2pw@127.0.0.1:9/v1",
        api_key=SecretStr("sk-verysecretkey123"),
        model="m",
        temperature=0.7,
        max_retries=0,
        default_headers={"X-Token": "headersecret1"},
    )
    remote = Agent("remote", model, sampling={"extra_headers": {"X": "headersecret1"}}, retries=0)
    errors = [
        StatusError(401, "Incorrect API key provided: sk-verysecretkey123"),
        StatusError(
            500, "http://ada:hunter2pw@host/v1 said no; Authorization: Bearer contextkey99"
        ),
    ]
    local = Agent("local", says(errors), retries=1)
    config = {"configurable": {"api_key": "contextkey99"}, "metadata": {"k": "contextkey99"}}
    compiled = create_deliberation([remote, local], traces=tmp_path).compile()
    with pytest.raises(DeliberationError) as raised:
        compiled.invoke({"question": "2 + 2?"}, config)
    [episode] = TraceReader(tmp_path)
    written = episode.to_json().decode() + str(raised.value)
    assert "ConnectionError" in written
    assert "***" in written
    assert [secret for secret in secrets if secret in written] == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("question", ["", 'a "b" \\ c\n\u2028é, ","question":"no",'])
def test_a_question_is_read_off_a_line(question: str, packed: bool) -> None:
    [episode] = synthetic_episodes(1)
    asked = episode.model_copy(update={"question": question, "graph": 'a "graph" \\'})
    line = asked.to_json(packed=packed)
    assert read_question(line) == Episode.from_json(line).question == question
    other_order = orjson.dumps(dict(reversed(orjson.loads(line).items())))
    assert read_question(other_order) == question
    assert read_question(line[:40]) is None
    assert read_question(b'{"question": 3}') is None


@pytest.mark.parametrize("given", [[1, 2, 3], [-0.5, 1.0, 0.5], [0.0, 0.0, 0.0], []])
def test_numbers_that_are_no_probabilities_are_refused(
    episodes: list[Episode], given: list[float]
) -> None:
    record = json.loads(episodes[0].to_json())
    record["turns"][0]["probabilities"] = [1 / 3 + 1e-6] * 3
    Episode.from_json(json.dumps(record))
    record["turns"][0]["probabilities"] = given
    with pytest.raises(TraceError, match="are no probabilities of actions"):
        Episode.from_json(json.dumps(record))


@pytest.mark.parametrize("given", [-0.1, 1.5])
def test_a_confidence_out_of_range_is_refused(episodes: list[Episode], given: float) -> None:
    record = json.loads(episodes[0].to_json())
    judged = next(r for r in record["responses"].values() if r["critique"])
    for kept in (None, 0.0, 1.0):
        judged["critique"]["confidence"] = kept
        Episode.from_json(json.dumps(record))
    judged["critique"]["confidence"] = given
    with pytest.raises(TraceError, match="is no confidence"):
        Episode.from_json(json.dumps(record))
