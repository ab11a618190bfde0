"""Handing over to a person, and the clock that does not run while one is awaited."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from mpdf_langgraph import (
    Agent,
    Episode,
    MathAnswer,
    StructuredAnswer,
    TraceReader,
    Unsure,
    create_deliberation,
)
from mpdf_langgraph.errors import ConfigurationError
from tests.support.running import ON, asks_a_person
from tests.support.scripted import Request, Scripted, counted, says, totals

Q: Any = {"question": "What is 2 + 2?"}
SETTLE: Any = {"action": "settle"}
HINT: Any = {"action": "hint", "text": "It is not five."}
ANSWER: Any = {"action": "answer", "answer": " 7 "}
LOW = Unsure(support_below=0.9)


def team() -> list[Scripted]:
    """Two that differ, the second of which gives in once it is told a hint."""

    def reply(request: Request) -> str:
        return f"b{request.number}. #### {4 if 'not five' in request.text else 5}"

    return [says("a. #### 4", "a again. #### 4"), Scripted(reply=reply)]


def build(models: list[Any], **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "router": "always-persist", "critic": None, "answer": MathAnswer(),
        "interrupt_when": LOW, "name": "team",
    }  # fmt: skip
    return create_deliberation(models, **{**defaults, **options})


def graph(models: list[Any], **options: Any) -> Any:
    return build(models, **options).compile(checkpointer=InMemorySaver())


async def follow(compiled: Any, given_: Any, asynchronous: bool, config: Any = ON) -> Any:
    return (
        await compiled.ainvoke(given_, config)
        if asynchronous
        else await asyncio.to_thread(compiled.invoke, given_, config)
    )


def episode_of(compiled: Any) -> Episode:
    return Episode.from_state(compiled.get_state(ON).values)


def asked(out: Any) -> dict[str, Any]:
    [one] = out["__interrupt__"]
    value: dict[str, Any] = one.value
    return value


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


# --- replies --------------------------------------------------------------------------------


@BOTH
async def test_a_person_is_shown_the_standing_answers_and_lets_them_stand(
    asynchronous: bool, tmp_path: Path
) -> None:
    models = team()
    compiled = graph(models, traces=tmp_path)
    stopped = asked(await follow(compiled, Q, asynchronous))
    orjson.dumps(stopped)  # plain data: it may go to a browser
    episode = compiled.get_state(ON).values["header"]["id"]
    assert stopped == {
        "question": "What is 2 + 2?",
        "episode": episode,
        "answer": "4",
        "confidence": None,
        "accepted": None,
        "support": 0.5,
        "tie": True,
        "votes": {"agent-1": "4", "agent-2": "5"},
        "agent": "agent-1",
        "rounds": 1,
        "stop_reason": "all_persisted",
        "responses": {
            "agent-1": {"text": "a. #### 4", "answer": "4", "confidence": None},
            "agent-2": {"text": "b1. #### 5", "answer": "5", "confidence": None},
        },
        "replies": [
            {"action": "settle"},
            {"action": "hint", "text": "what the agents should know in one more round"},
            {"action": "answer", "answer": "the right answer"},
        ],
    }
    assert list(TraceReader(tmp_path)) == []
    out = await follow(compiled, Command(resume=SETTLE), asynchronous)
    assert out["messages"][-1].text == "a. #### 4"
    result = out["deliberation"]
    assert (result["answer"], result["stop_reason"], result["person"]) == (
        "4",
        "all_persisted",
        "settle",
    )
    assert counted(result["usage"]["total"]) == totals(models)
    reader = TraceReader(tmp_path)
    [record] = reader
    assert reader.counts == {"read": 1}
    assert record == episode_of(compiled)
    [done] = record.interventions
    assert (done["action"], done["round"], done["text"]) == ("settle", 1, "")
    assert record.reference is None


@BOTH
async def test_the_person_is_shown_the_vote_field_by_field(asynchronous: bool) -> None:
    properties = {name: {"type": "integer"} for name in "abc"}
    schema = StructuredAnswer({"type": "object", "properties": properties}, by_field=True)
    said = ('{"a": 1, "b": 2, "c": 9}', '{"a": 1, "b": 8, "c": 3}', '{"a": 7, "b": 2, "c": 3}')
    compiled = graph([*map(says, said)], answer=schema, max_rounds=0)
    shown = asked(await follow(compiled, Q, asynchronous))
    out = await follow(compiled, Command(resume=SETTLE), asynchronous)
    assert (shown["answer"], shown["agent"]) == ('{"a":1,"b":2,"c":3}', None)
    assert out["deliberation"]["answer"] == shown["answer"]


@BOTH
async def test_a_hint_that_no_request_can_hold_is_mended(asynchronous: bool) -> None:
    models = team()
    compiled = graph(models)
    await follow(compiled, Q, asynchronous)
    await follow(compiled, Command(resume={**HINT, "text": "not \ud83d five"}), asynchronous)
    assert "not ? five" in models[1].requests[-1].text


@BOTH
async def test_a_hint_is_for_one_more_round_in_which_everyone_refines(
    asynchronous: bool, tmp_path: Path
) -> None:
    models = team()
    compiled = graph(models, traces=tmp_path, max_rounds=1)
    await follow(compiled, Q, asynchronous)
    out = await follow(compiled, Command(resume=HINT), asynchronous)
    result = out["deliberation"]
    assert (result["answer"], result["support"], result["rounds"]) == ("4", 1.0, 2)
    assert (result["stop_reason"], result["person"]) == ("agreement", "hint")
    assert result["actions"][2:] == ["agent-1@2: REFINE", "agent-2@2: REFINE"]
    for model in models:
        assert model.kinds() == ["propose", "refine"]
        assert (
            " begin: a person who follows the discussion, to all]\nIt is not five.\n["
            in model.requests[-1].last
        )
    assert counted(result["usage"]["total"]) == totals(models)
    [record] = TraceReader(tmp_path)
    assert [turn["probabilities"] for turn in record.turns[2:]] == [[0.0, 1.0, 0.0]] * 2
    [done] = record.interventions
    assert (done["action"], done["round"], done["text"]) == ("hint", 2, "It is not five.")


@BOTH
async def test_a_named_answer_is_the_outcome_and_the_reference(
    asynchronous: bool, tmp_path: Path
) -> None:
    models = team()
    compiled = graph(models, traces=tmp_path)
    await follow(compiled, {**Q, "reference": "5"}, asynchronous)
    out = await follow(compiled, Command(resume=ANSWER), asynchronous)
    assert [(m.type, m.text) for m in out["messages"]][-1] == ("ai", "7")
    assert out["messages"][-1].name == "team"
    result = out["deliberation"]
    assert (result["answer"], result["confidence"], result["agent"]) == ("7", None, None)
    assert (result["person"], result["votes"]) == ("answer", {"agent-1": "4", "agent-2": "5"})
    [record] = TraceReader(tmp_path)
    assert record.reference == "7"
    assert record.tallies[-1]["answer"] == "4"
    assert record == episode_of(compiled)


@BOTH
async def test_hints_add_up_and_the_person_is_asked_again(asynchronous: bool) -> None:
    models = [says(f"a. #### {i}", f"a again. #### {i}") for i in (4, 5)]
    compiled = graph(models, max_rounds=1)
    await follow(compiled, Q, asynchronous)
    for number in (1, 2, 3):
        hint = {"action": "hint", "text": f"hint {number}"}
        stopped = asked(await follow(compiled, Command(resume=hint), asynchronous))
        assert (stopped["rounds"], stopped["stop_reason"]) == (number + 1, "max_rounds")
    assert all(f"hint {n}" in models[0].requests[-1].last for n in (1, 2, 3))
    assert "hint 2" not in models[0].requests[1].last
    out = await follow(compiled, Command(resume=SETTLE), asynchronous)
    assert out["deliberation"]["rounds"] == 4
    actions = [done["action"] for done in episode_of(compiled).interventions]
    assert actions == ["hint"] * 3 + ["settle"]


unreadable = st.one_of(
    st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=9),
    st.lists(st.text(max_size=3), max_size=2),
    st.fixed_dictionaries({"action": st.sampled_from(["hint", "answer", "stop", 3, None])}),
    st.fixed_dictionaries({"action": st.just("hint"), "text": st.sampled_from(["", " ", 1, None])}),
    st.fixed_dictionaries({"action": st.just("answer"), "text": st.text(min_size=1)}),
)


@settings(max_examples=40)
@given(replies=st.lists(unreadable, min_size=1, max_size=3))
def test_a_reply_that_cannot_be_read_is_asked_for_again(replies: list[Any]) -> None:
    models = team()
    compiled = graph(models)
    first = asked(compiled.invoke(Q, ON))
    for reply in replies:
        again = asked(compiled.invoke(Command(resume=reply), ON))
        error = again.pop("error")
        assert "reply with one of" in error
        assert again == first
    out = compiled.invoke(Command(resume=SETTLE), ON)
    assert out["deliberation"]["person"] == "settle"
    assert [model.kinds() for model in models] == [["propose"]] * 2
    assert len(episode_of(compiled).interventions) == 1


def test_nothing_is_paid_twice_nor_written_twice(tmp_path: Path) -> None:
    """A judge that compares the answers is a paid call of the consensus node."""
    compared: list[tuple[str, str]] = []

    class Judged(MathAnswer):
        def equivalent(self, a: str, b: str) -> bool:
            compared.append((a, b))
            return super().equivalent(a, b)

    compiled = graph(team(), traces=tmp_path, answer=Judged())
    compiled.invoke(Q, ON)
    before = list(compared)
    assert before
    compiled.invoke(Command(resume="?"), ON)
    out = compiled.invoke(Command(resume=SETTLE), ON)
    assert compared == before
    [segment] = tmp_path.iterdir()
    assert segment.read_bytes().count(b'"schema_version"') == 1
    assert len(out["messages"]) == 2


# --- when -----------------------------------------------------------------------------------


def test_sure_groups_are_left_alone() -> None:
    compiled = graph([says("a. #### 4"), says("b. #### 4")])
    result = compiled.invoke(Q, ON)["deliberation"]
    assert (result["stop_reason"], result["person"]) == ("agreement", None)
    assert episode_of(compiled).interventions == []
    assert episode_of(compiled).options["interrupt_when"] == repr(LOW)


def test_nobody_is_asked_before_the_agents_have_done_what_they_can() -> None:
    standings: list[dict[str, Any]] = []

    def look(standing: dict[str, Any]) -> bool:
        standings.append(standing)
        return False

    compiled = graph(team(), interrupt_when=look, router="always-refine", max_rounds=3)
    assert compiled.invoke(Q, ON)["deliberation"]["rounds"] == 3
    [standing] = standings
    assert (standing["rounds"], standing["stop_reason"]) == (3, "max_rounds")
    assert episode_of(compiled).options["interrupt_when"] == "look"
    assert set(standing["responses"]) == {"agent-1", "agent-2"}


def test_an_asynchronous_condition_is_refused() -> None:
    async def look(standing: dict[str, Any]) -> bool:
        return False

    with pytest.raises(ConfigurationError, match="interrupt_when must be a plain function"):
        graph(team(), interrupt_when=look)


def test_a_condition_of_ones_own_that_fails_is_named() -> None:
    compiled = graph(team(), interrupt_when=lambda standing: standing["sureness"] < 1)
    with pytest.raises(ConfigurationError, match="interrupt_when failed: KeyError: 'sureness'"):
        compiled.invoke(Q, ON)


bars = st.none() | st.floats(0.0, 1.0)


@given(support=st.floats(0.0, 1.0), confidence=bars, support_bar=bars, confidence_bar=bars)
def test_unsure_is_low_support_or_low_or_unknown_confidence(
    support: float,
    confidence: float | None,
    support_bar: float | None,
    confidence_bar: float | None,
) -> None:
    if support_bar is None and confidence_bar is None:
        with pytest.raises(ConfigurationError, match="needs support_below"):
            Unsure()
        return
    unsure = Unsure(support_below=support_bar, confidence_below=confidence_bar)
    low = support_bar is not None and support < support_bar
    doubtful = confidence_bar is not None and (confidence is None or confidence < confidence_bar)
    assert unsure({"support": support, "confidence": confidence}) == (low or doubtful)


@pytest.mark.parametrize(
    ("options", "says_what"),
    [
        ({"interrupt_when": 0.5}, "Unsure"),
        ({"interrupt_when": Unsure}, "Unsure"),
        ({"interrupt_when": Unsure(confidence_below=0.5)}, "critic"),
    ],
)
def test_wrong_options_fail_when_the_graph_is_built(options: Any, says_what: str) -> None:
    with pytest.raises(ConfigurationError, match=says_what):
        build(team(), **options)


@pytest.mark.parametrize("bar", [-0.1, 1.1, float("nan")])
def test_bars_are_shares(bar: float) -> None:
    with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
        Unsure(support_below=bar)


@pytest.mark.parametrize("nested", [False, True])
@BOTH
async def test_without_a_checkpointer_nothing_is_started(asynchronous: bool, nested: bool) -> None:
    models = team()
    compiled = build(models).compile()
    if nested:
        parent = StateGraph(MessagesState)
        parent.add_node("team", compiled)
        parent.add_edge(START, "team")
        compiled = parent.compile()
    with pytest.raises(ConfigurationError, match="interrupt_when needs a checkpointer"):
        await follow(compiled, {"messages": [("user", "2 + 2?")]}, asynchronous)
    assert totals(models)["calls"] == 0


def test_the_graph_has_a_fifth_node_only_where_a_person_may_be_asked() -> None:
    plain = build(team(), interrupt_when=None).compile().get_graph()
    asking = build(team()).compile().get_graph()
    assert set(asking.nodes) - set(plain.nodes) == {"person"}
    edges = {(edge.source, edge.target) for edge in asking.edges}
    assert {("consensus", "person"), ("person", "router"), ("person", "__end__")} <= edges


# --- inside other graphs --------------------------------------------------------------------


@BOTH
async def test_nested_in_a_parent_with_a_checkpointer(asynchronous: bool, tmp_path: Path) -> None:
    models = team()
    parent = StateGraph(MessagesState)
    parent.add_node("team", build(models, traces=tmp_path).compile())
    parent.add_edge(START, "team")
    compiled = parent.compile(checkpointer=InMemorySaver())
    out = await follow(compiled, {"messages": [("user", "2 + 2?")]}, asynchronous)
    assert asked(out)["answer"] == "4"
    out = await follow(compiled, Command(resume={"action": "?"}), asynchronous)
    assert "error" in asked(out)
    out = await follow(compiled, Command(resume=HINT), asynchronous)
    assert [m.text for m in out["messages"]] == ["2 + 2?", "a again. #### 4"]
    [record] = TraceReader(tmp_path)
    assert counted(record.outcome["usage"]["total"]) == totals(models)


def test_a_new_question_while_a_person_is_awaited() -> None:
    models = team()
    compiled = graph(models)
    asked(compiled.invoke(Q, ON))
    stopped = asked(compiled.invoke({"question": "And 3 + 3?"}, ON))
    assert stopped["question"] == "And 3 + 3?"
    out = compiled.invoke(Command(resume=SETTLE), ON)
    assert out["deliberation"]["usage"]["total"]["calls"] == 2
    assert [done["action"] for done in episode_of(compiled).interventions] == ["settle"]
    asked(compiled.invoke({"question": "And 4 + 4?"}, ON))
    assert compiled.get_state(ON).values["interventions"] == []


def test_events_tell_of_the_person_once() -> None:
    compiled = graph(team())
    first = list(compiled.stream(Q, ON, stream_mode="custom"))
    assert first[-1]["event"] == "handed_over"
    assert first[-1]["text"] == "a person is asked about 4"
    assert list(compiled.stream(Command(resume=1), ON, stream_mode="custom")) == []
    rest = list(compiled.stream(Command(resume=HINT), ON, stream_mode="custom"))
    assert rest[0] == {
        "event": "person",
        "episode": first[0]["episode"],
        "round": 2,
        "text": "a person hints: It is not five.",
        "action": "hint",
        "said": "It is not five.",
    }
    assert [event["event"] for event in rest].count("person") == 1


# --- budgets --------------------------------------------------------------------------------


def test_a_hint_does_not_buy_calls() -> None:
    models = team()
    compiled = graph(models, max_calls=2, router="always-refine")
    assert asked(compiled.invoke(Q, ON))["stop_reason"] == "max_calls"
    stopped = asked(compiled.invoke(Command(resume=HINT), ON))
    assert (stopped["stop_reason"], stopped["rounds"]) == ("max_calls", 2)
    assert totals(models)["calls"] == 2
    out = compiled.invoke(Command(resume=SETTLE), ON)
    assert out["deliberation"]["actions"][2:] == ["agent-1@2: PERSIST", "agent-2@2: PERSIST"]


WAIT = 100
TIMEOUT = 60
Jump = Callable[[float], None]


@BOTH
async def test_the_time_budget_does_not_run_while_a_person_is_awaited(
    asynchronous: bool, jump: Jump
) -> None:
    models = team()
    compiled = graph(models, timeout=TIMEOUT)
    await follow(compiled, Q, asynchronous)
    jump(WAIT)
    out = await follow(compiled, Command(resume=HINT), asynchronous)
    result = out["deliberation"]
    assert (result["stop_reason"], result["answer"]) == ("agreement", "4")
    assert result["failures"] == []
    assert result["seconds"] < TIMEOUT
    record = episode_of(compiled)
    assert WAIT <= record.interventions[0]["seconds"] < WAIT + TIMEOUT


@BOTH
async def test_nor_while_an_agent_waits_for_a_person(asynchronous: bool, jump: Jump) -> None:
    compiled = graph(
        [Agent("careful", asks_a_person()), says("b. #### 5", "c. #### 4")],
        interrupt_when=None,
        timeout=TIMEOUT,
        router=lambda _: ["PERSIST", "REFINE"],
    )
    await follow(compiled, Q, asynchronous)
    jump(WAIT)
    result = (await follow(compiled, Command(resume="4"), asynchronous))["deliberation"]
    assert (result["stop_reason"], result["failures"]) == ("agreement", [])
    assert result["seconds"] < TIMEOUT


@pytest.mark.parametrize("node", ["agent", "critic", "consensus", "router"])
@BOTH
async def test_nor_at_a_breakpoint(asynchronous: bool, node: str, jump: Jump) -> None:
    compiled = graph(
        team(), interrupt_when=None, timeout=TIMEOUT, router="always-refine", max_rounds=1,
        critic=lambda question, response: 0.5,
    )  # fmt: skip
    given_: Any = Q
    for _ in range(3 if node == "router" else 2):
        call = compiled.ainvoke if asynchronous else compiled.invoke
        out = call(given_, ON, interrupt_before=[node])
        out = await out if asynchronous else out
        if out and out.get("deliberation"):
            break
        given_ = None
        jump(WAIT)
    result = (await follow(compiled, None, asynchronous))["deliberation"]
    assert (result["stop_reason"], result["failures"]) == ("max_rounds", [])
    assert result["seconds"] < TIMEOUT


async def test_it_runs_on_after_the_wait(jump: Jump) -> None:
    def slow(request: Request) -> str:
        jump(25)
        return f"{request.number}. #### 4"

    compiled = graph([Scripted(reply=slow), says("c. #### 5")], timeout=TIMEOUT, max_rounds=50)
    stops = [asked(await compiled.ainvoke(Q, ON))["stop_reason"]]
    for _ in range(2):
        jump(WAIT)
        stops.append(asked(await compiled.ainvoke(Command(resume=HINT), ON))["stop_reason"])
    assert stops == ["all_persisted", "all_persisted", "timeout"]
