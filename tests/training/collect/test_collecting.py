"""Collecting traces: questions in, episodes out, whatever happens in between."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import (
    Agent,
    ChoiceAnswer,
    ConfigurationError,
    Episode,
    MathAnswer,
    Prompts,
    TextAnswer,
    TraceReader,
    create_deliberation,
)
from mpdf_langgraph.errors import EndpointError
from mpdf_langgraph.observation import feature
from tests.support.paths import DATA, ROOT
from tests.support.recorded import played_episode, recorded_episode
from tests.support.scripted import says
from tests.support.server import Server, cards, completion
from training.collect import collecting
from training.collect.asking import ask_all, ask_question
from training.collect.files import keep_settings, lock
from training.collect.importing import Answer, gsm8k_solutions, read_answers
from training.collect.questions import (
    Question,
    TableError,
    check_contexts,
    content_key,
    read_questions,
)
from training.collect.team import TeamOptions

GSM8K = DATA / "gsm8k/model_solutions.jsonl"


def table(path: Path, *rows: Any) -> Path:
    """Write rows as JSON Lines. Text goes in as it stands."""
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def numbered(folder: Path, count: int = 8) -> Path:
    rows = [
        {
            "id": f"q{n}",
            "question": f"What is {n}?",
            "reference": n % 3,
            "contexts": {"agent-2": "!"},
        }
        for n in range(count)
    ]
    return table(folder / "questions.jsonl", *rows)


def options(folder: Path, *arguments: str) -> collecting.CollectOptions:
    """The options of a command line, with scripted agents where nothing else is said."""
    words = ["--out", str(folder / "traces"), *arguments]
    if "--import" not in words and not {"--model-factory", "--base-url"} & set(words):
        words += ["--model-factory", "tests.support.factories:make"]
    return tyro.cli(collecting.CollectOptions, args=words)


def asked(folder: Path, *arguments: str, count: int = 8) -> int:
    """Collect on `count` questions, and return the exit code."""
    questions = str(numbered(folder, count))
    return collecting.main(options(folder, "--questions", questions, *arguments))


def episodes(folder: Path) -> list[Episode]:
    reader = TraceReader(folder / "traces")
    found = list(reader)
    assert not reader.skipped
    return found


# --- reading questions ------------------------------------------------------------------------


def test_questions_with_all_and_with_little(tmp_path: Path) -> None:
    path = table(
        tmp_path / "q.jsonl",
        {
            "id": 7,
            "question": " One? ",
            "reference": 1.5,
            "contexts": {"agent-1": "x"},
            "category": "sums",
            "kind": "k",
        },
        "",
        {"question": "Two?", "reference": None},
        {"question": "Two?", "reference": None, "contexts": None},
    )
    first, second, third = read_questions(path)
    assert first == Question("7", "One?", "1.5", {"agent-1": "x"}, "sums")
    assert first.input() == {
        "question": "One?",
        "reference": "1.5",
        "contexts": {"agent-1": "x"},
        "category": "sums",
    }
    assert second.category is None
    assert (second.question, second.reference, second.contexts) == ("Two?", None, {})
    assert second.key == third.key == second.id
    assert third.id == f"{second.id}-2"


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip())


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "question": words,
                "reference": st.none() | words,
                "contexts": st.dictionaries(st.sampled_from(["agent-1", "agent-2"]), words),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_parquet_and_json_lines_give_the_same_questions(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    pairs = pyarrow.map_(pyarrow.string(), pyarrow.string())
    struct = pyarrow.struct([("agent-1", pyarrow.string()), ("agent-2", pyarrow.string())])
    read = [read_questions(table(folder / "q.jsonl", *rows))]
    for kind in (pairs, struct):
        schema = pyarrow.schema(
            [("question", pyarrow.string()), ("reference", pyarrow.string()), ("contexts", kind)]
        )
        # A map column is given as pairs, a struct column as dicts.
        given_rows = [
            {**row, "contexts": list(row["contexts"].items()) if kind is pairs else row["contexts"]}
            for row in rows
        ]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(given_rows, schema), folder / "q.parquet"
        )
        read.append(read_questions(folder / "q.parquet"))
    assert read[0] == read[1] == read[2]
    assert [q.question for q in read[0]] == [row["question"].strip() for row in rows]
    assert len({q.id for q in read[0]}) == len(rows)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"question": "torn', "no JSON"),
        ("[1]", "no JSON object"),
        ({"reference": "1"}, "'question' must be text, got None"),
        ({"question": "?", "reference": "1", "category": 3}, "'category' must be text, got 3"),
        ({"question": "  ", "reference": "1"}, "'question' must be text"),
        ({"question": "?", "answer": "1"}, "'reference' is missing"),
        ({"question": "?", "reference": True}, "'reference' must be text, got True"),
        ({"question": "?", "reference": ""}, "'reference' must be text"),
        ({"question": "?", "reference": "1", "contexts": {"agent-1": 3}}, "'contexts' must be"),
        *(
            ({"question": "?", "reference": "1", "contexts": wrong}, "'contexts' must be")
            for wrong in ("x", 5, 0, False, "", [], [["agent-1", "x"]], [1], {"agent-1": ["x"]})
        ),
        ('{"question": ' + "[" * 900 + "]" * 900 + ', "reference": "1"}', "'question' must be"),
        ({"question": "?", "reference": "1", "id": 1.5}, "'id' must be"),
        ({"question": "?", "reference": "1", "id": "a"}, "id 'a' stands in line 1 already"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, row: Any, fault: str) -> None:
    good = {"id": "a", "question": "?", "reference": "1"}
    path = table(tmp_path / "q.jsonl", good, "", row)
    with pytest.raises(TableError) as error:
        read_questions(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(TableError) as error:
        read_questions(table(tmp_path / "q.jsonl", *["{"] * 9))
    assert len(str(error.value).splitlines()) == 6
    assert str(error.value).endswith("and 4 more lines")


def test_files_that_hold_no_questions(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(TableError, match="there is no question"):
        read_questions(table(tmp_path / "empty.jsonl", ""))
    with pytest.raises(TableError, match=r"bad\.parquet: ArrowInvalid"):
        read_questions(table(tmp_path / "bad.parquet", "no parquet"))


def test_a_key_is_the_content_and_nothing_else() -> None:
    base = content_key("q", "r", {"a": "1", "b": "2"})
    assert content_key("q", "r", {"b": "2", "a": "1"}) == base
    others = [("q ", "r", {"a": "1", "b": "2"}), ("q", None, {"a": "1", "b": "2"})]
    others += [("q", "r", {"a": "1"}), ("q", "r", {"a": "2", "b": "1"})]
    others += [("q", "r", {"a": "1", "b": "2"}, "sums")]
    assert len({base, *(content_key(*other) for other in others)}) == 6


def test_a_context_for_nobody_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    questions = read_questions(numbered(tmp_path))
    check_contexts(questions, [Agent("agent-2", says("x"))])
    with pytest.raises(
        TableError, match="'q0': contexts names agent-2, but the agents are agent-1"
    ):
        check_contexts(questions, [Agent("agent-1", says("x"))])


# --- the team ---------------------------------------------------------------------------------


def test_models_are_dealt_out_in_turn() -> None:
    source = TeamOptions(
        model_factory=("tests.support.factories:make", "tests.support.factories:other"),
        agents=5,
        temperature=0.9,
        max_tokens=50,
        prompts="tests.support.factories:PROMPTS",
    )
    team = source.build_agents()
    assert [agent.name for agent in team] == [f"agent-{n}" for n in range(1, 6)]
    models = [agent.describe()["model"] for agent in team]
    assert models == ["wavering", "other", "wavering", "other", "wavering"]
    assert team[0].runnable is team[2].runnable
    assert all(agent.sampling == {"temperature": 0.9, "max_tokens": 50} for agent in team)
    assert all(agent.prompts.propose.startswith("MINE") for agent in team)


def test_a_chain_keeps_its_own_sampling() -> None:
    [agent] = TeamOptions(model_factory=("tests.support.factories:chain",), agents=1).build_agents()
    assert agent.sampling == {}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (TeamOptions(), "either --base-url or --model-factory"),
        (TeamOptions(base_url=("x",), model_factory=("y:z",)), "either --base-url or"),
        (
            TeamOptions(model_factory=("tests.support.factories:make",), model=("m",)),
            "--model names a served",
        ),
        (
            TeamOptions(model_factory=("tests.support.factories:make",), agents=0),
            "--agents must be 1",
        ),
        (TeamOptions(model_factory=("tests.support.factories",)), "the form module:name"),
        (TeamOptions(model_factory=("tests.nowhere:make",)), "cannot load tests.nowhere:make"),
        (TeamOptions(model_factory=("tests.support.factories:nothing",)), "cannot load"),
        (TeamOptions(model_factory=("tests.support.factories:no_model",)), "returned str"),
        (
            TeamOptions(
                model_factory=("tests.support.factories:make",),
                prompts="tests.support.factories:NO_PROMPTS",
            ),
            "is not a mpdf_langgraph.Prompts",
        ),
        (TeamOptions(base_url=("a", "b"), model=("m",) * 3), "2 --base-url and 3 --model"),
    ],
)
def test_a_wrong_option_says_what_to_change(source: TeamOptions, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        source.build_agents()


def test_answer_schemas() -> None:
    assert isinstance(TeamOptions().answer_schema(), MathAnswer)
    assert isinstance(TeamOptions(answer="text").answer_schema(), TextAnswer)
    choice = TeamOptions(answer="choice", choices=5).answer_schema()
    assert isinstance(choice, ChoiceAnswer)
    assert choice.name == "choice(5)"


@pytest.fixture
def servers() -> Any:
    """Two servers. The first also serves an adapter."""
    running = [Server(), Server()]
    for server, names in zip(running, (("tiny", "adapter"), ("big",)), strict=True):
        card = cards(*names)
        server.routes = {
            "/v1/models": lambda _, card=card: (200, card),
            "/v1/chat/completions": completion,
        }
    yield running
    for server in running:
        server.close()


def test_servers_are_checked_and_dealt_out(
    tmp_path: Path, servers: list[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = servers
    urls = ("--base-url", first.url, "--base-url", second.url)
    code = asked(
        tmp_path, *urls, "--model", "tiny", "--model", "big", "--critic", "logprob", "--answer",
        "text", "--router", "always-persist", "--max-tokens", "9", count=2,
    )  # fmt: skip
    assert code == 0
    assert capsys.readouterr().out.count(" serves ") == 2
    # One completion is the check's. Agents 1 and 3 ask the first server, agent 2 the other.
    bodies = [[body for path, _, body in s.requests if "chat" in path][1:] for s in servers]
    assert [len(part) for part in bodies] == [4, 2]
    assert {body["model"] for body in bodies[0]} == {"tiny"}
    assert {body["model"] for body in bodies[1]} == {"big"}
    assert {body.get("max_completion_tokens", body.get("max_tokens")) for body in bodies[0]} == {9}


def test_servers_of_one_model_share_its_requests(
    tmp_path: Path, servers: list[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = servers
    second.routes["/v1/models"] = lambda _: (200, cards("tiny"))
    both = f"{first.url},{second.url}"
    arguments = ("--base-url", both, "--critic", "logprob", "--answer", "text", "--router",
                 "always-persist", "--agents", "2")  # fmt: skip
    assert asked(tmp_path, *arguments, "--model", "tiny", count=4) == 0
    assert capsys.readouterr().out.count(" serves ") == 2
    asked_of = [sum("What is" in str(body) for _, _, body in s.requests) for s in servers]
    assert sum(asked_of) == 8
    assert min(asked_of) > 0
    second.routes["/v1/models"] = lambda _: (200, cards("big"))
    assert asked(tmp_path, *arguments, "--model", "tiny") == 2
    assert "does not serve 'tiny'" in capsys.readouterr().err


def test_one_server_with_two_models(servers: list[Server]) -> None:
    team = TeamOptions(base_url=(servers[0].url,), model=("tiny", "adapter")).build_agents()
    assert [a.describe()["model"] for a in team] == ["tiny", "adapter", "tiny"]


def test_an_answer_longer_than_the_context_is_refused_at_once(servers: list[Server]) -> None:
    given = {"base_url": (servers[1].url,), "answer": "text"}
    assert TeamOptions(**given, max_tokens=1024).build_agents()
    with pytest.raises(ConfigurationError, match=r"--max-tokens 1025 .* 1024 tokens"):
        TeamOptions(**given, max_tokens=1025).build_agents()


def test_a_server_that_cannot_be_used_ends_it_at_once(
    tmp_path: Path, servers: list[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EndpointError, match="does not serve 'none'"):
        TeamOptions(base_url=(servers[0].url,), model=("none",)).build_agents()
    assert asked(tmp_path, "--base-url", servers[0].url) == 2
    assert "serves several models" in capsys.readouterr().err
    assert not (tmp_path / "traces").exists()


# --- collecting -------------------------------------------------------------------------------


def test_every_question_becomes_an_episode_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, "--rounds", "2", "--alternatives", "3", count=12) == 0
    found = episodes(tmp_path)
    assert sorted(e.question for e in found) == sorted(f"What is {n}?" for n in range(12))
    for episode in found:
        assert episode.reference == str(int(episode.question[8:-1]) % 3)
        assert episode.contexts == {"agent-2": "!"}
        assert episode.options["router"]["name"] == "random"
        assert episode.options["critic"] == "self+logprob"
        assert len(episode.tallies) <= 3
    turns = [turn for episode in found for turn in episode.turns]
    assert {turn["action"] for turn in turns} == {"PERSIST", "REFINE", "CONCEDE"}
    assert all(len(turn["alternatives"]) == 3 for turn in turns)
    for turn in turns:
        allowed = [p for p, ok in zip(turn["probabilities"], turn["mask"], strict=True) if ok]
        assert allowed == pytest.approx([1 / len(allowed)] * len(allowed))
    told = capsys.readouterr()
    assert f"12 episodes with {len(turns)} decisions" in told.out
    assert "failed=0" in told.err
    assert "12/12" in told.err


def test_exploration_keeps_every_action_alive(tmp_path: Path) -> None:
    assert asked(tmp_path, "--router", "always-persist", "--explore", "0.1") == 0
    rows = [t["probabilities"] for e in episodes(tmp_path) for t in e.turns if all(t["mask"])]
    assert rows
    assert all(row == pytest.approx([0.8, 0.1, 0.1]) for row in rows)


def test_without_a_round_the_proposals_are_collected(tmp_path: Path) -> None:
    """Also with the defaults of options that are about rounds."""
    assert asked(tmp_path, "--rounds", "0", "--explore", "0.1", "--alternatives", "2") == 0
    found = episodes(tmp_path)
    assert found
    assert all(not e.turns and len(e.tallies) == 1 for e in found)


def test_finished_questions_are_not_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, count=5) == 0
    assert asked(tmp_path, "--concurrency", "1", count=8) == 0
    assert "8 questions, 5 of them finished already" in capsys.readouterr().out
    assert asked(tmp_path, count=8) == 0
    told = capsys.readouterr().out
    assert "8 questions, 8 of them finished already\nnothing was left to ask" in told
    assert "0 episodes" not in told
    assert Counter(e.question for e in episodes(tmp_path)) == Counter(
        f"What is {n}?" for n in range(8)
    )
    assert asked(tmp_path, count=8) == 0
    assert len(episodes(tmp_path)) == 8


def test_equal_questions_take_an_episode_each(tmp_path: Path) -> None:
    rows = [{"question": "Same?", "reference": "1"}] * 3
    path = str(table(tmp_path / "q.jsonl", *rows))
    assert collecting.main(options(tmp_path, "--questions", path)) == 0
    assert len(episodes(tmp_path)) == 3
    segment = next((tmp_path / "traces").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes()[:-5])  # the last record is torn
    assert collecting.main(options(tmp_path, "--questions", path)) == 0
    reader = TraceReader(tmp_path / "traces")
    assert len(list(reader)) == 3
    assert reader.counts["skipped"] == 1


def test_other_options_need_another_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, count=2) == 0
    assert asked(tmp_path, "--explore", "0.2", "--critic", "logprob", count=3) == 2
    told = capsys.readouterr().err
    assert "critic was 'self+logprob' and is 'logprob'" in told
    assert "explore was 0.1 and is 0.2" in told
    assert len(episodes(tmp_path)) == 2
    assert asked(tmp_path, "--model-factory", "tests.support.factories:other", count=3) == 2
    assert "model_factory" in capsys.readouterr().err
    (tmp_path / "traces/collect.json").write_text("{")
    assert asked(tmp_path, count=3) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_failed_question_is_asked_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Only agent 1 is flaky: its proposal fails, and the deliberation goes on without.
    team = (
        "--model-factory",
        "tests.support.factories:flaky",
        "--model-factory",
        "tests.support.factories:make",
    )
    assert asked(tmp_path, *team, "--agents", "2", "--critic", "logprob", count=4) == 0
    found = episodes(tmp_path)
    assert Counter(collecting.is_sound(e) for e in found) == {True: 4, False: 4}
    told = capsys.readouterr()
    assert "failed=4" in told.err
    assert "retry" in told.err
    assert "failed twice" not in told.out
    assert "8 episodes" in told.out  # those of the first attempts are in the folder, too
    log = (tmp_path / "traces/failures.log").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    assert sorted(entry["id"] for entry in entries) == ["q0", "q1", "q2", "q3"]
    assert all(entry["attempt"] == 1 and "not now" in entry["error"] for entry in entries)


def test_what_fails_twice_is_reported_and_asked_again_by_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(tmp_path, "--model-factory", "tests.support.factories:down", count=2) == 1
    told = capsys.readouterr().out
    assert "2 questions failed twice" in told
    assert "2 x DeliberationError: every agent's proposal failed" in told
    assert "0 episodes with 0 decisions" in told
    log = (tmp_path / "traces/failures.log").read_text().splitlines()
    assert [json.loads(line)["attempt"] for line in log] == [1, 1, 2, 2]
    # The same model, mended.
    mended = says("The answer is 1", logprob=-0.1, model_name="down")
    monkeypatch.setattr("tests.support.factories.down", lambda: mended)
    assert asked(tmp_path, "--model-factory", "tests.support.factories:down", count=2) == 0
    assert "2 questions, 0 of them finished already" in capsys.readouterr().out
    assert sum(collecting.is_sound(episode) for episode in episodes(tmp_path)) == 2


def test_one_command_at_a_time_has_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ("--model-factory", "tests.support.factories:make")
    assert asked(tmp_path, *mine, count=1) == 0
    with (tmp_path / "traces" / "collect.lock").open("ab") as held:
        lock(held, "")
        assert asked(tmp_path, *mine, count=2) == 2
    assert "is in use. Another collect.py writes there" in capsys.readouterr().err
    assert asked(tmp_path, *mine, count=2) == 0


def test_prompts_that_were_changed_need_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ("--prompts", "tests.support.factories:PROMPTS", "--model-factory")
    assert asked(tmp_path, *mine, "tests.support.factories:make", count=2) == 0
    changed = Prompts(propose="OTHER: {question} {instructions}")
    monkeypatch.setattr("tests.support.factories.PROMPTS", changed)
    assert asked(tmp_path, *mine, "tests.support.factories:make", count=2) == 2
    assert "templates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "give --questions FILE, or --import FILE"),
        (("--questions", "no.jsonl"), "no.jsonl: no such file"),
        (("--questions", "Q", "--concurrency", "0"), "--concurrency must be 1 or more"),
        (("--questions", "Q", "--convert", "a:b"), "--convert is for --import only"),
        (("--questions", "Q", "--workers", "2"), "--workers is for --ray alone"),
        (("--questions", "Q", "--ray", "local", "--workers", "0"), "--workers must be 1 or more"),
        (("--questions", "Q", "--out", "s3://bucket/traces"), "s3:/bucket/traces is a URL"),
        (("--import", "no.jsonl", "--ray", "local"), "--ray is for --questions only"),
        (("--questions", "Q", "--import", "x"), "either --questions or --import"),
        (("--import", "x", "--agents", "7"), "--agents 7: --import asks nobody, so leave it out"),
        (("--import", "x", "--explore", "0.2"), "--explore 0.2: --import asks nobody"),
        (("--questions", "Q", "--router", "nobody"), "router='nobody'"),
        (("--questions", "Q", "--router", "nobody"), "There is no folder of that name either"),
        (("--questions", "Q", "--max-tokens", "0"), "--max-tokens must be 1 or more, got 0"),
        (("--questions", "Q", "--timeout", "-3"), "--timeout must be above 0, got -3"),
        (("--questions", "Q", "--agents", "1"), "contexts names agent-2"),
        (("--import", "no.jsonl"), "no.jsonl: no such file"),
    ],
)
def test_a_wrong_command_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], fault: str
) -> None:
    questions = str(numbered(tmp_path))
    given_words = [questions if word == "Q" else word for word in arguments]
    assert collecting.main(options(tmp_path, *given_words)) == 2
    told = capsys.readouterr().err
    assert fault in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "traces").exists()


def test_runs_keep_the_order_and_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """`ask_all` with a graph that counts how many questions it is asked at a time."""
    now, most = 0, 0

    class Graph:
        async def ainvoke(self, asked: dict[str, Any]) -> dict[str, Any]:
            nonlocal now, most
            now += 1
            most = max(most, now)
            number = int(asked["question"])
            await asyncio.sleep(0.001 * (9 - number))
            now -= 1
            if number == 3:
                raise ValueError("the third")
            failures = {4: ["agent-1@0 propose: gone"], 5: ["agent-1@1 refine: gone"]}
            return {"deliberation": {"answer": number, "failures": failures.get(number, [])}}

    questions = [Question(str(n), str(n), None, {}) for n in range(9)]
    noted: list[str] = []
    done = asyncio.run(
        ask_all(
            partial(ask_question, Graph()),
            questions,
            4,
            "x",
            lambda one: noted.append(one.question.id),
        )
    )
    assert most == 4
    assert [one.question for one in done] == questions
    errors = {one.question.id: one.error for one in done if one.error}
    assert errors == {"3": "ValueError: the third", "4": "agent-1@0 propose: gone"}
    assert sorted(noted) == ["3", "4"]
    assert [one.deliberation and one.deliberation["answer"] for one in done] == [
        0, 1, 2, None, 4, 5, 6, 7, 8,
    ]  # fmt: skip


def test_a_trace_that_the_disk_refuses_is_a_failure() -> None:
    class FullDisk:
        def write_state(self, state: Any) -> None:
            raise OSError("no space left")

    team = [says("The answer is 1"), says("Answer: 1")]
    graph = create_deliberation(team, critic=None, traces=FullDisk()).compile()  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="the trace was not stored"):
        [one] = asyncio.run(
            ask_all(partial(ask_question, graph), [Question("1", "?", None, {})], 1, "x")
        )
    assert one.error == "the trace was not stored: OSError: no space left"


def command(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "training/collect.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A job in the background of a shell is started with Ctrl-C switched off, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    count = 40
    arguments = [
        "--questions", str(numbered(tmp_path, count)), "--out", str(tmp_path / "traces"),
        "--model-factory", "tests.support.factories:make", "--concurrency", "3",
        "--critic", "logprob",
    ]  # fmt: skip
    with command(*arguments, DELAY="0.05") as first:
        until = time.monotonic() + 60
        while sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("traces/*.jsonl")) < 6:
            assert time.monotonic() < until
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    kept = len(list(TraceReader(tmp_path / "traces")))
    assert 5 <= kept < count
    with command(*arguments) as second:
        told, _ = second.communicate(timeout=100)
    assert second.returncode == 0, told
    assert f"{count} questions, {kept} of them finished already" in told.decode()
    # A record is on disk or it is not: nothing is asked twice that was answered.
    asked_for = Counter(e.question for e in TraceReader(tmp_path / "traces"))
    assert asked_for == Counter(f"What is {n}?" for n in range(count))


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = [
        "--questions", str(numbered(tmp_path)), "--out", str(tmp_path / "traces"),
        "--model-factory", "tests.support.factories:make",
    ]  # fmt: skip
    with command(*arguments, DELAY="60") as run:
        until = time.monotonic() + 60
        while not (tmp_path / "traces/failures.log").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        told, _ = run.communicate(timeout=60)
    assert run.returncode == 130, told
    assert b"the same command goes on from here" in told
    assert b"Traceback" not in told


# --- importing --------------------------------------------------------------------------------


def logged(question: str, agent: str, response: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "reference": "4", "agent": agent, "response": response, **more}


def imported(folder: Path, *rows: Any) -> int:
    path = str(table(folder / "answers.jsonl", *rows))
    return collecting.main(options(folder, "--import", path))


def test_a_table_becomes_episodes(tmp_path: Path) -> None:
    code = imported(
        tmp_path,
        logged("2+2?", "ann", "It is 4. The answer is 4", confidence=0.9),
        logged("2+2?", "bo", "I guess 5", confidence=0.3),
        logged("1+3?", "bo", "4"),
        logged("1+3?", "cy", "\\boxed{4}"),
        logged("2+2?", "cy", "no idea"),
    )
    assert code == 0
    first, second = episodes(tmp_path)
    assert [agent["name"] for agent in first.agents] == ["ann", "bo", "cy"]
    assert [agent["name"] for agent in second.agents] == ["bo", "cy"]
    assert first.reference == "4"
    assert {n: r["answer"] for n, r in first.responses.items()} == {
        "ann@0": "4", "bo@0": "5", "cy@0": None,
    }  # fmt: skip
    assert [turn["action"] for turn in first.turns] == ["PERSIST"] * 3
    assert [turn["probabilities"] for turn in first.turns] == [[1.0, 0.0, 0.0]] * 3
    assert [turn["mask"] for turn in first.turns] == [[True, False, True]] * 3
    assert [turn["target"] for turn in first.turns] == ["bo@0", "ann@0", "ann@0"]
    assert [turn["mask"] for turn in second.turns] == [[True, False, False]] * 2
    own = first.turns[1]["observation"]["own"]
    assert feature(own, "confidence") == 0.3
    assert feature(own, "hedges") > 0
    assert feature(own, "rounds_left") == pytest.approx(0.3)
    assert first.outcome["answer"] == "4"
    assert first.outcome["usage"]["total"]["unreported"] == 3
    assert second.options["critic"] is None
    assert feature(second.turns[0]["observation"]["own"], "confidence_known") == 0


def test_importing_twice_doubles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [logged("2+2?", "ann", "4"), logged("2+2?", "bo", "5")]
    assert imported(tmp_path, *rows) == 0
    more = [logged("3+1?", "ann", "4"), logged("3+1?", "bo", "6")]
    assert imported(tmp_path, *rows, *more) == 0
    assert "1 episodes written" in capsys.readouterr().out
    again = ["--import", str(tmp_path / "answers.jsonl"), "--rounds", "2"]
    assert collecting.main(options(tmp_path, *again)) == 2
    assert "rounds was 3 and is 2" in capsys.readouterr().err
    assert len(episodes(tmp_path)) == 2
    # Imported questions are not finished for a live team.
    path = str(table(tmp_path / "q.jsonl", {"question": "2+2?", "reference": "4"}))
    assert collecting.main(options(tmp_path, "--questions", path)) == 0
    assert Counter(e.graph for e in episodes(tmp_path)) == {"import": 2, "collect": 1}


@pytest.mark.parametrize("column", ["question", "agent", "response", "confidence", "round"])
def test_values_that_nest_deep_are_unusable(tmp_path: Path, column: str) -> None:
    deep = "[" * 1000 + "]" * 1000
    row = json.dumps({**logged("2+2?", "ann", "4"), column: "@"}).replace('"@"', deep)
    path = tmp_path / "answers.jsonl"
    path.write_text(row)
    assert sum(read_answers(path).unusable.values()) == 1


def test_unusable_rows_are_counted_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = imported(
        tmp_path,
        logged("2+2?", "ann", "4"),
        logged("2+2?", "bo", "5"),
        logged("2+2?", "ann", "7"),
        logged("2+2?", "cy", "4", confidence=80),
        logged("2+2?", "cy", "4", confidence="high"),
        logged("2+2?", "c@y", "4"),
        logged("2+2?", "cy", ""),
        {**logged("2+2?", "cy", "4"), "reference": "5"},
        {"question": "2+2?", "agent": "cy", "response": "4"},
        "{",
        logged("lonely?", "ann", "4"),
    )
    assert code == 0
    told = capsys.readouterr().out
    assert "11 rows: 2 answers to 1 questions" in told
    for reason in (
        "2 x 'confidence' must be in [0, 1] (first: line 4)",
        "1 x a second answer of the same agent to the same question (first: line 3)",
        "1 x 'agent' must not contain '@', '+' or line breaks (first: line 6)",
        "1 x 'response' must be text (first: line 7)",
        "1 x another reference than the question's first row (first: line 8)",
        "1 x 'reference' is missing; write null where it is not known yet (first: line 9)",
        "1 x no JSON (first: line 10)",
        "1 x the only agent that answered its question (first: line 11)",
    ):
        assert f"left out: {reason}" in told
    [episode] = episodes(tmp_path)
    assert episode.responses["ann@0"]["text"] == "4"


def test_a_table_without_a_usable_row_fails(tmp_path: Path) -> None:
    assert imported(tmp_path, logged("2+2?", "ann", "4")) == 1
    assert (
        collecting.main(
            options(tmp_path, "--import", str(tmp_path / "answers.jsonl"), "--rounds", "0")
        )
        == 2
    )


answers = st.builds(
    lambda text, confidence: (text, confidence),
    st.sampled_from(["The answer is 4", "4.0", "maybe 5", "\\boxed{5}", "\\frac{8}{2}", "nothing"]),
    st.none() | st.floats(0, 1),
)


@settings(max_examples=30)
@given(st.lists(answers, min_size=2, max_size=5), st.sampled_from(["confidence", "majority"]))
def test_an_imported_record_is_what_the_graph_writes(
    said: list[tuple[str, float | None]], consensus: str
) -> None:
    team = [Answer(f"agent {n}", text, confidence) for n, (text, confidence) in enumerate(said)]
    schema = MathAnswer()
    built = recorded_episode("2+2?", "4", team, schema=schema, consensus=consensus, max_rounds=2)

    confidences = {answer.agent: answer.confidence for answer in team}
    has_critic = any(confidence is not None for confidence in confidences.values())

    def logged(question: str, response: Any) -> float | None:
        return confidences[response["agent"]]

    written = played_episode(
        "2+2?",
        "4",
        [Agent(a.agent, RunnableLambda(lambda _, text=a.response: text)) for a in team],
        router="always-persist",
        critic=logged if has_critic else None,
        answer=schema,
        consensus=consensus,
        max_rounds=2,
        max_calls=len(team),
        stop_when_settled=False,
    )

    def comparable(episode: Episode) -> dict[str, Any]:
        record = episode.model_dump(exclude={"id", "started", "graph", "agents"})
        for response in record["responses"].values():
            del response["seconds"], response["usage"]["estimated"]
        for key in ("episode", "name", "started", "seconds", "usage"):
            del record["outcome"][key]
        record["options"]["router"] = "persists"
        return record

    assert comparable(built) == comparable(written)
    calls = [e.outcome["usage"]["total"]["calls"] for e in (built, written)]
    assert calls == [len(team)] * 2
    assert Episode.from_json(built.to_json()) == built


def test_an_id_stands_for_everything_that_shapes_a_record() -> None:
    def id_of(first: str = "4", confidence: float | None = 0.5, **options: Any) -> str:
        team = [Answer("a", first, confidence), Answer("b", "5", None)]
        return recorded_episode("?", "4", team, schema=MathAnswer(), **options).id

    ids = [
        id_of(),
        id_of("3"),
        id_of(confidence=0.6),
        id_of(max_rounds=2),
        id_of(consensus="majority"),
    ]
    assert len(set(ids)) == 5
    assert id_of() == ids[0]


def test_a_row_that_cannot_be_converted_is_counted(tmp_path: Path) -> None:
    good = {"question": "?", "ground_truth": "So\nA: 3", "m": {"solution": "A: 3"}}
    good["n"] = {"solution": "A: 4"}
    path = table(tmp_path / "t.jsonl", {"question": "?"}, good)
    read = read_answers(path, gsm8k_solutions)
    assert read.groups == {("?", "3"): [Answer("m", "A: 3", None), Answer("n", "A: 4", None)]}
    assert read.unusable == {"it cannot be converted: KeyError('ground_truth')": 1}


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K table of model solutions is not here")
def test_the_gsm8k_table_of_model_solutions(tmp_path: Path) -> None:
    records = [json.loads(line) for line in GSM8K.read_text().splitlines()][:150]
    path = table(tmp_path / "solutions.jsonl", *records)
    code = collecting.main(
        options(
            tmp_path,
            "--import",
            str(path),
            "--convert",
            "training.collect.importing:gsm8k_solutions",
        )
    )
    assert code == 0
    found = {episode.question: episode for episode in episodes(tmp_path)}
    assert len(found) == 150
    schema = MathAnswer()
    checked = agreed = 0
    for record in records:
        episode = found[record["question"].strip()]
        assert [a["name"] for a in episode.agents] == [
            "6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification",
        ]  # fmt: skip
        for response in episode.responses.values():
            is_right = response["answer"] is not None and schema.equivalent(
                response["answer"], str(episode.reference)
            )
            checked += 1
            agreed += is_right == record[response["agent"]]["is_correct"]
    assert checked == 600
    assert agreed / checked > 0.99


def test_changed_settings_are_told_by_their_innermost_keys_and_shortened(tmp_path: Path) -> None:
    def agents(count: int, **changes: Any) -> dict[str, Any]:
        about = {"model": "m", "sampling": {"temperature": 1.0, "top_p": 1.0}, **changes}
        return {"agents": [{"name": f"agent-{n}", **about} for n in range(count)]}

    path = tmp_path / "settings.json"
    keep_settings(path, agents(2) | {"prompt": "a" * 500 + "b"}, "")
    for now, told in (
        (agents(2, model="x"), "agents 1.model was 'm' and is 'x'; agents 2.model was 'm' and"),
        (agents(2, sampling={"top_p": 1.0}), "agents 1.sampling.temperature was 1.0 and is None"),
        (agents(3), "agents were 2 and are 3"),
        ({"prompt": "a" * 500 + "c"}, f"prompt was …{'a' * 30}b' and is …{'a' * 30}c'"),
        (agents(2, a=1, b=2, c=3), "agents 2.a was None and is 1; and 2 more"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(told)) as error:
            keep_settings(path, now, "")
        assert len(str(error.value)) < 400 + len(str(tmp_path))
