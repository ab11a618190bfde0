"""Asking agents one after the other: the values, the graph, budgets, records and resuming."""

import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from mpdf_langgraph import (
    AdaptiveRecruiting,
    Agent,
    ConfigurationError,
    DeliberationError,
    Episode,
    MathAnswer,
    RouterError,
    TraceReader,
    create_deliberation,
    force_actions,
    load_recruiting,
)
from mpdf_langgraph.calibration import Calibration, Curve, Curves
from mpdf_langgraph.nodes.outcome import final_message
from mpdf_langgraph.recruiting import (
    AskingValues,
    Stage,
    Stand,
    make_recruiting,
    overturn_probability,
)
from mpdf_langgraph.traces.view.page import write_page
from tests.support.running import ON
from tests.support.scripted import says


def team(*texts: str, **options: Any) -> list[Agent]:
    return [Agent(f"a{n}", says(text), **options) for n, text in enumerate(texts)]


def build(agents: Sequence[Agent], **options: Any) -> Any:
    given_: dict[str, Any] = {
        "answer": MathAnswer(), "critic": None, "consensus": "majority", "recruit": "adaptive",
        "router": "always-persist", **options,
    }  # fmt: skip
    return create_deliberation(agents, **given_)


def outcome(agents: Sequence[Agent], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = build(agents, **options).compile().invoke({"question": "2+2?"})
    return found["deliberation"]  # type: ignore[no-any-return]


def asking(order: Sequence[str], gains: dict[str, dict[str, float]], **more: Any) -> AskingValues:
    stages = {
        k: Stage(gains=g, decisions=dict.fromkeys(g, 10), right=dict.fromkeys(g, 0.5))
        for k, g in gains.items()
    }
    given_: dict[str, Any] = {
        "prices": {}, "tokens": {}, "cost": 0.1, "wave": 1, "consensus": "majority", **more,
    }  # fmt: skip
    return AskingValues(order=list(order), stages=stages, **given_)


# --- the values -------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 12))
def test_the_chance_of_being_overturned_is_the_beta_posteriors(leader: int, runner_up: int) -> None:
    special = pytest.importorskip("scipy.special")
    expected = special.betainc(leader + 1, runner_up + 1, 0.5)
    assert overturn_probability(Stand(leader, runner_up)) == pytest.approx(expected)


def test_a_thousand_votes_are_no_more_than_a_float_holds() -> None:
    assert overturn_probability(Stand(1500, 0)) == 0.0
    assert overturn_probability(Stand(1500, 1500)) == pytest.approx(0.5)


def test_without_values_doubt_is_weighed_against_the_price() -> None:
    free = AdaptiveRecruiting(cost=0.0)
    assert free.weigh(
        3, Stand(3, 0), probability=None, confidence=None, price=1.0, tokens=300.0
    ).pays
    dear = AdaptiveRecruiting(cost=0.1)  # 300 tokens at a price of 1 are worth .03
    for stand, pays in (((2, 0), True), ((4, 0), True), ((5, 0), False), ((5, 4), True)):
        assert (
            dear.weigh(
                9, Stand(*stand), probability=None, confidence=None, price=1.0, tokens=300.0
            ).pays
            == pays
        )
    # What the consensus says of its answer comes first.
    assert not dear.weigh(
        1, Stand(1, 0), probability=0.99, confidence=None, price=1.0, tokens=300.0
    ).pays
    assert dear.weigh(
        1, Stand(1, 0), probability=0.95, confidence=None, price=1.0, tokens=300.0
    ).pays
    assert not dear.weigh(
        1, Stand(1, 0), probability=0.95, confidence=None, price=9.0, tokens=300.0
    ).pays
    assert free.weigh(
        2, Stand(0, 0), probability=None, confidence=None, price=1.0, tokens=0.0
    ).pays  # nobody has an answer


def test_a_sure_answer_stops_the_asking_where_a_doubtful_one_does_not() -> None:
    stage = Stage(
        gains={"1-0": 0.02},
        decisions={"1-0": 9},
        right={"1-0": 0.8},
        centre={"1-0": 1.0},
        slope=-0.1,
    )
    assert stage.gain("1-0", None) == 0.02
    assert stage.gain("1-0", 0.5) == pytest.approx(0.12)
    assert stage.gain("1-0", 0.9) < 0  # type: ignore[operator]
    assert stage.gain("2-0", 0.9) is None
    values = asking(["a0", "a1"], {}).model_copy(update={"stages": {"1": stage}})
    for confidence, asked in ((0.9, 1), (0.5, 2)):
        found = outcome(
            team("4", "5"),
            recruit=AdaptiveRecruiting(values=values),
            critic=lambda question, response, c=confidence: c,
        )
        assert len(found["votes"]) == asked


def test_no_more_are_asked_once_p_right_is_enough() -> None:
    values = asking(["a0", "a1"], {}, enough={"1": 0.85}, consensus="log-odds")
    for confidence, asked in ((0.9, 1), (0.8, 2)):
        found = outcome(
            team("4", "5"),
            recruit=AdaptiveRecruiting(values=values),
            consensus="log-odds",
            critic=lambda question, response, c=confidence: c,
        )
        assert len(found["votes"]) == asked


def test_nobody_is_asked_after_a_number_that_is_missing() -> None:
    values = asking(["a0", "a1", "a2"], {"1": {"1-0": 0.5}})
    found = outcome(team("4", "5", "6"), recruit=AdaptiveRecruiting(values=values))
    assert found["not_asked"] == ["a2"]


def test_values_bring_the_calibration_that_they_were_measured_with() -> None:
    flat = Curve(slope=0.0, shift=0.0)
    calibration = Calibration({"<lambda>": Curves(proposed=flat, refined=flat)})
    values = asking(
        ["a0", "a1"], {}, enough={"1": 0.6}, consensus="log-odds", critic="<lambda>",
        calibration=calibration,
    )  # fmt: skip
    given_: dict[str, Any] = {
        "recruit": AdaptiveRecruiting(values=values),
        "consensus": "log-odds",
        "critic": lambda question, response: 0.99,
    }
    assert len(outcome(team("4", "5"), **given_)["votes"]) == 2  # .99 means 1/2
    own = Calibration({"<lambda>": Curves(proposed=Curve(slope=1.0, shift=0.0), refined=flat)})
    assert len(outcome(team("4", "5"), calibration=own, **given_)["votes"]) == 1
    with pytest.warns(UserWarning, match="critic '<lambda>', and this team has 'logprob'") as told:
        build(team("4", "5"), **{**given_, "critic": "logprob"})
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="critic '<lambda>', and this team has none"):
        build(team("4", "5"), **{**given_, "critic": None})
    with pytest.warns(UserWarning, match="those of this team are not calibrated"):
        build(team("4", "5"), **given_, calibration=Calibration({}))


@pytest.mark.parametrize("critic", ["logprob", "self+logprob", "self"])
@pytest.mark.parametrize("measured", ["logprob", "self+logprob", "self", None])
def test_critics_that_read_log_probabilities_are_alike(critic: str, measured: Any) -> None:
    values = asking(["a0", "a1"], {"1": {}}, critic=measured)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        build(team("4", "5"), recruit=AdaptiveRecruiting(values=values), critic=critic)
    alike = measured in (None, critic) or "self" not in (critic, measured)
    assert any("its values were measured with" in str(one.message) for one in told) != alike


def test_without_p_right_what_is_enough_says_nothing() -> None:
    values = asking(["a0", "a1"], {}, enough={"1": 0.6}, consensus="log-odds")
    with pytest.warns(UserWarning, match="measured with consensus='log-odds'"):
        found = outcome(
            team("4", "5"),
            recruit=AdaptiveRecruiting(values=values, cost=0.0),
            critic=lambda question, response: 0.95,
        )
    assert len(found["votes"]) == 2


def test_the_values_belong_to_their_wave() -> None:
    values = asking(["a0", "a1", "a2"], {"2": {}}, wave=2)
    AdaptiveRecruiting(wave=2, values=values)
    with pytest.raises(
        ConfigurationError, match="wave=1, and its values were measured with wave=2"
    ):
        AdaptiveRecruiting(values=values)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for wrong in ("some", 3, None, AdaptiveRecruiting):
        with pytest.raises(ConfigurationError, match="recruit="):
            make_recruiting(wrong)
    for options in ({"wave": 0}, {"cost": -1.0}):
        with pytest.raises(ConfigurationError):
            AdaptiveRecruiting(**options)  # type: ignore[arg-type]
    values = asking(["a0", "a1"], {})
    with pytest.raises(ConfigurationError, match="measured on a0, a1"):
        build(team("4", "4", "4"), recruit=AdaptiveRecruiting(values=values))
    with pytest.raises(ConfigurationError, match="price=2"):
        build(team("4", "4", price=2.0), recruit=AdaptiveRecruiting(values=values))
    with pytest.warns(UserWarning, match="votes by 'confidence'"):
        build(team("4", "4"), recruit=AdaptiveRecruiting(values=values), consensus="confidence")
    with pytest.raises(ConfigurationError, match="price must be"):
        Agent("a", says("4"), price=-1.0)


def test_a_file_of_values(tmp_path: Path) -> None:
    file = tmp_path / "recruiting.json"
    values = asking(["a1", "a0"], {"1": {"1-0": 0.1}}, cost=0.3, wave=2)
    file.write_text(values.model_dump_json())
    loaded = load_recruiting(tmp_path)
    assert loaded == load_recruiting(file) == AdaptiveRecruiting(2, 0.3, values)
    assert loaded.order(["a0", "a1"]) == ["a1", "a0"]
    with pytest.raises(RouterError, match="fit_rules"):
        load_recruiting(tmp_path / "nothing")
    stage = {"gains": {"1-0": 0.1}, "decisions": {"1-0": 9}, "right": {}}
    for change, told in (
        ({"wave": 0}, "holds no values of asking: wave"),
        ({"order": ["a0", "a0"]}, "order: .* names an agent twice"),
        ({"stages": {"1": stage}}, "stages.1: .* right lacks the stand '1-0'"),
    ):
        file.write_text(json.dumps(json.loads(values.model_dump_json()) | change))
        with pytest.raises(RouterError, match=told):
            load_recruiting(tmp_path)


# --- the graph --------------------------------------------------------------------------------

SURE = AdaptiveRecruiting(cost=100.0)  # stops as soon as there is an answer, if a token costs one


def counted(text: str, calls: list[str], name: str) -> RunnableLambda[Any, str]:
    def answer(_: Any) -> str:
        calls.append(name)
        return text

    return RunnableLambda(answer)


@pytest.mark.parametrize("wave", [1, 2, 3])
def test_agents_are_asked_in_waves_until_it_no_longer_pays(wave: int) -> None:
    """The values say: go on until two agree."""
    stages = {str(k): {f"{v}-{w}": 0.1 if v < 2 else -0.1 for v in range(5) for w in range(v + 1)}
              for k in range(1, 6)}  # fmt: skip
    calls: list[str] = []
    texts = ["5", "4", "6", "4", "4", "4"]
    agents = [Agent(f"a{n}", counted(text, calls, f"a{n}")) for n, text in enumerate(texts)]
    order = ["a5", "a0", "a1", "a2", "a3", "a4"]
    values = asking(order, stages, wave=wave)
    found = outcome(agents, recruit=AdaptiveRecruiting(wave, values=values))
    needed = 3  # a5 says 4, a0 says 5, a1 says 4
    asked = order[: wave * -(-needed // wave)]
    assert sorted(calls) == sorted(asked)
    assert found["answer"] == "4"
    assert found["not_asked"] == [name for name in order if name not in asked]
    assert list(found["votes"]) == [f"a{n}" for n in range(6) if f"a{n}" in asked]
    assert found["usage"]["total"]["calls"] == len(asked)


def test_everybody_is_asked_where_it_pays() -> None:
    found = outcome(team("4", "5", "6"), recruit=AdaptiveRecruiting(cost=0.0))
    assert found["not_asked"] == []
    assert len(found["votes"]) == 3
    assert outcome(team("4", "5"), recruit="all")["not_asked"] == []


def test_a_failed_proposal_is_no_answer_so_the_next_agent_is_asked() -> None:
    def broken(_: Any) -> str:
        raise ValueError("down")

    agents = [Agent("a0", RunnableLambda(broken), retries=0), *team("x", "4", "5")[1:]]
    found = outcome(agents, recruit=AdaptiveRecruiting(values=asking(
        ["a0", "a1", "a2"], {"1": {"1-0": -1.0}, "2": {"1-0": -1.0}})))  # fmt: skip
    assert found["answer"] == "4"
    assert found["not_asked"] == ["a2"]
    assert "down" in found["failures"][0]


@pytest.mark.parametrize("gains", [{"1": {"1-0": -0.01}}, {"1": {"1-0": -0.01, "0-0": -0.01}}])
def test_where_nobody_answers_the_next_agent_is_asked_whatever_was_measured(
    gains: dict[str, dict[str, float]],
) -> None:
    def broken(_: Any) -> str:
        raise ValueError("down")

    down = [Agent(f"a{n}", RunnableLambda(broken), retries=0) for n in (0, 1)]
    values = asking(["a0", "a1", "a2", "a3"], gains)
    agents = [*down, *team("x", "x", "4", "5")[2:]]
    found = outcome(agents, recruit=AdaptiveRecruiting(values=values))
    assert (found["answer"], found["not_asked"]) == ("4", ["a3"])


def test_only_those_who_were_asked_decide_and_refine() -> None:
    values = asking(["a0", "a1", "a2"], {"1": {"1-0": 0.1}, "2": {"1-1": -0.1}})
    graph = build(
        team("4", "5", "6"),
        recruit=AdaptiveRecruiting(values=values),
        router="always-refine",
        max_rounds=2,
    ).compile(checkpointer=InMemorySaver())
    found = graph.invoke({"question": "2+2?"}, ON)["deliberation"]
    assert found["actions"] == [f"{a}@{r}: REFINE" for r in (1, 2) for a in ("a0", "a1")]
    state = graph.get_state(ON).values
    assert final_message(state).text in ("4", "5")
    episode = Episode.from_state(state)
    assert episode.team == ["a0", "a1"]
    assert [len(turn["observation"]["peers"]) for turn in episode.turns] == [1] * 4
    # Who was not asked cannot be forced.
    before = next(s for s in graph.get_state_history(ON) if s.values.get("phase") == "decide")
    fork = graph.update_state(before.config, force_actions({"a2": "PERSIST"}), as_node="consensus")
    with pytest.raises(ConfigurationError, match="the agents are a0, a1"):
        graph.invoke(None, fork)


def test_the_next_question_on_a_thread_starts_anew() -> None:
    values = asking(["a0", "a1"], {"1": {"1-0": -0.1}})
    graph = build(team("4", "5"), recruit=AdaptiveRecruiting(values=values)).compile(
        checkpointer=InMemorySaver()
    )
    for _ in range(2):
        graph.invoke({"question": "2+2?"}, ON)
        [decision] = graph.get_state(ON).values["recruits"]
        assert decision["action"] == "STOP"
        assert decision["waiting"] == ["a1"]


def test_a_person_is_asked_about_what_was_asked() -> None:
    values = asking(["a0", "a1"], {"1": {"1-0": -0.1}})
    graph = build(
        team("4", "5"), recruit=AdaptiveRecruiting(values=values), interrupt_when=lambda _: True
    ).compile(checkpointer=InMemorySaver())
    shown = graph.invoke({"question": "2+2?"}, ON)["__interrupt__"][0].value
    assert shown["votes"] == {"a0": "4"}
    found = graph.invoke(Command(resume={"action": "hint", "text": "4?"}), ON)
    assert found["__interrupt__"][0].value["rounds"] == 1


# --- resuming, streaming, records -------------------------------------------------------------


def test_a_stopped_run_goes_on_where_it_was() -> None:
    """At every step it is stopped, and another graph object resumes it from the checkpoint."""
    saver, calls = InMemorySaver(), list[str]()
    values = asking(
        ["a0", "a1", "a2", "a3"], {"1": {"1-0": 0.1}, "2": {"1-1": 0.1}, "3": {"2-1": -1.0}}
    )

    def graph() -> Any:
        agents = [Agent(f"a{n}", counted(t, calls, f"a{n}")) for n, t in enumerate("4544")]
        return build(agents, recruit=AdaptiveRecruiting(values=values)).compile(
            checkpointer=saver, interrupt_before=["router", "agent", "critic", "consensus"]
        )

    graph().invoke({"question": "2+2?"}, ON)
    for _ in itertools.count():
        if not graph().get_state(ON).next:
            break
        graph().invoke(None, ON)
    state = graph().get_state(ON).values
    assert calls == ["a0", "a1", "a2"]
    assert [r["action"] for r in state["recruits"]] == ["ASK", "ASK", "STOP"]
    assert [r["next"] for r in state["recruits"]] == [["a1"], ["a2"], []]
    assert state["deliberation"]["not_asked"] == ["a3"]


@pytest.mark.parametrize("texts", ["x45", "xx4", "4xx"])
def test_a_resumed_run_asks_on_after_failed_proposals(texts: str) -> None:
    """Nobody who has failed is asked again as long as others were not asked at all."""
    saver, calls = InMemorySaver(), list[str]()

    def proposal(name: str, text: str) -> RunnableLambda[Any, str]:
        def propose(_: Any) -> str:
            calls.append(name)
            if text == "x":
                raise ValueError("down")
            return text

        return RunnableLambda(propose)

    def graph() -> Any:
        agents = [Agent(f"a{n}", proposal(f"a{n}", t), retries=0) for n, t in enumerate(texts)]
        return build(agents, recruit=AdaptiveRecruiting(cost=0.0)).compile(
            checkpointer=saver, interrupt_before=["router", "agent", "consensus"]
        )

    graph().invoke({"question": "2+2?"}, ON)
    for _ in range(12):
        if graph().get_state(ON).next:
            graph().invoke(None, ON)
    assert calls == ["a0", "a1", "a2"]
    assert graph().get_state(ON).values["deliberation"]["answer"] == "4"


def test_no_round_is_forked_while_agents_are_still_being_asked() -> None:
    values = asking(["a0", "a1"], {"1": {"1-0": 0.1}})
    graph = build(team("4", "5"), recruit=AdaptiveRecruiting(values=values)).compile(
        checkpointer=InMemorySaver()
    )
    graph.invoke({"question": "2+2?"}, ON)
    history = list(graph.get_state_history(ON))
    [early] = [s for s in history if s.values.get("phase") == "recruit"]
    fork = graph.update_state(early.config, force_actions({"a0": "PERSIST"}), as_node="consensus")
    with pytest.raises(ConfigurationError, match="still decides whom to ask"):
        graph.invoke(None, fork)


def test_the_stream_tells_who_is_asked_and_who_is_not() -> None:
    values = asking(["a0", "a1", "a2"], {"1": {"1-0": 0.1}, "2": {"2-0": -0.1}})
    graph = build(team("4", "4.0", "5"), recruit=AdaptiveRecruiting(values=values)).compile()
    told = list(graph.stream({"question": "2+2?"}, stream_mode="custom"))
    recruited = [e for e in told if e["event"] == "recruited"]
    assert [e["next"] for e in recruited] == [["a1"], []]
    assert recruited[1]["waiting"] == ["a2"]
    assert recruited[1]["text"].startswith("nobody else is asked (it was right in 50.0% of 10")


async def test_it_runs_asynchronously() -> None:
    values = asking(["a0", "a1", "a2"], {"1": {"1-0": 0.1}, "2": {"2-0": -0.1}})
    graph = build(team("4", "4.0", "5"), recruit=AdaptiveRecruiting(values=values)).compile()
    found = (await graph.ainvoke({"question": "2+2?"}))["deliberation"]
    assert (found["answer"], found["not_asked"]) == ("4", ["a2"])


def test_the_record_and_the_page_show_who_was_not_asked(tmp_path: Path) -> None:
    values = asking(["a0", "a1", "a2"], {"1": {"1-0": 0.1}, "2": {"1-1": -0.1}})
    agents = [
        Agent(a.name, a.runnable, price=p)
        for a, p in zip(team("4", "5", "6"), (1, 2, 9), strict=True)
    ]
    priced = values.model_copy(update={"prices": {"a0": 1.0, "a1": 2.0, "a2": 9.0}})
    graph = build(agents, recruit=AdaptiveRecruiting(values=priced), traces=tmp_path / "traces")
    graph.compile().invoke({"question": "2+2?", "reference": "4"})
    [episode] = TraceReader(tmp_path / "traces")
    assert [agent.get("price") for agent in episode.agents] == [None, 2.0, 9.0]
    assert episode.options["recruit"] == {"wave": 1, "cost": 0.1, "measured": True}
    assert [r["asked"] for r in episode.recruits] == [["a0"], ["a0", "a1"]]
    assert episode.team == ["a0", "a1"]
    assert Episode.from_json(episode.to_json()) == episode
    summary = write_page(tmp_path / "traces", tmp_path / "page.html")
    assert (summary.episodes, summary.unreadable) == (1, [])


# --- budgets ----------------------------------------------------------------------------------


def test_a_budget_of_calls_ends_the_asking() -> None:
    found = outcome(team("4", "5", "6"), recruit=AdaptiveRecruiting(cost=0.0), max_calls=2)
    assert found["usage"]["total"]["calls"] == 2
    assert found["not_asked"] == ["a2"]


def test_who_the_budget_leaves_out_of_the_first_wave_was_not_asked() -> None:
    found = outcome(
        team("4", "5", "6"), recruit=AdaptiveRecruiting(wave=2, cost=0.0), max_calls=1, max_rounds=0
    )
    assert (found["votes"], found["not_asked"]) == ({"a0": "4"}, ["a1", "a2"])
    assert (found["stop_reason"], found["failures"]) == ("agreement", [])
    for wave in (1, 2, 3):
        recruit = AdaptiveRecruiting(wave=wave, cost=0.0)
        with pytest.raises(DeliberationError, match=r"not allow a single proposal: .*max_tok"):
            outcome(team("4", "5", "6"), recruit=recruit, max_tokens=1)


@pytest.mark.parametrize("wave", [1, 2, 3])
def test_a_budget_that_ends_the_asking_is_why_it_stopped(wave: int) -> None:
    given_: dict[str, Any] = {"recruit": AdaptiveRecruiting(wave=wave, cost=0.0), "max_calls": 2}
    found = outcome(team("4", "5", "6"), max_rounds=0, **given_)
    assert (found["stop_reason"], found["not_asked"]) == ("max_calls", ["a2"])
    unlimited = outcome(team("4", "5", "6"), **{**given_, "max_calls": None, "max_rounds": 0})
    assert unlimited["stop_reason"] == "max_rounds"


def test_a_wave_that_a_budget_cuts_short_is_recorded_as_it_was() -> None:
    graph = build(
        team("4", "5", "6", "7", "8"),
        recruit=AdaptiveRecruiting(wave=2, cost=0.0),
        max_calls=3,
        max_rounds=0,
    ).compile(checkpointer=InMemorySaver())
    graph.invoke({"question": "2+2?"}, ON)
    first, second = graph.get_state(ON).values["recruits"]
    assert (first["action"], first["next"], first["waiting"]) == ("ASK", ["a2"], ["a3", "a4"])
    assert first["why"].startswith("the chance that it is wrong is taken for 0.5")
    assert first["why"].endswith(", and max_calls allows no more of the wave")
    assert (second["action"], second["waiting"]) == ("STOP", ["a3", "a4"])
    assert second["why"] == "max_calls does not allow another proposal"


def test_values_say_nothing_of_a_wave_that_was_cut_short() -> None:
    values = asking(["a0", "a1", "a2"], {"2": {"1-1": 0.1}}, wave=2)
    graph = build(
        team("4", "5", "6"), recruit=AdaptiveRecruiting(wave=2, values=values), max_calls=1
    )
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({"question": "2+2?"}, ON)
    [decision] = compiled.get_state(ON).values["recruits"]
    assert decision["why"] == "max_calls does not allow another proposal"


def test_max_cost_weighs_tokens_by_their_price() -> None:
    """Each proposal is 15 tokens in this script. Its bound is larger."""
    agents = [
        Agent("small", says("4"), sampling={}, price=1.0),
        Agent("large", says("5"), sampling={}, price=1000.0),
    ]
    free = outcome(agents, recruit="all")
    assert len(free["votes"]) == 2
    spent = {n: free["usage"]["agents"][n] for n in ("small", "large")}
    tokens = {
        n: u["prompt_tokens"] + u["completion_tokens"] + u["estimated"] for n, u in spent.items()
    }
    assert free["usage"]["cost"] == tokens["small"] + 1000 * tokens["large"]
    # Enough for the small model by far, and not for the large one.
    bounded = outcome(agents, recruit="all", max_cost=50_000)
    assert bounded["answer"] == "4"
    assert "max_cost is 50000" in bounded["failures"][0]
    assert bounded["usage"]["cost"] <= 50_000
    adaptive = outcome(agents, recruit=AdaptiveRecruiting(cost=0.0), max_cost=50_000)
    assert (adaptive["answer"], adaptive["not_asked"]) == ("4", ["large"])
    assert adaptive["failures"] == []
    with pytest.raises(ConfigurationError, match="max_cost"):
        outcome(agents, max_cost=0)
