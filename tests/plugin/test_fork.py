"""Rounds forked with other actions: what would have happened."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from mpdf_langgraph import Episode, create_deliberation, force_actions
from mpdf_langgraph.errors import ConfigurationError
from tests.support.running import ON
from tests.support.scripted import says


def graph(answers: str = "4567", **options: Any) -> Any:
    team = [says(f"m{i}. Answer: {a}", f"m{i}! Answer: {a}") for i, a in enumerate(answers, 1)]
    defaults = {"critic": None, "router": "random", "stop_when_settled": False, "max_rounds": 3}
    compiled = create_deliberation(team, **{**defaults, **options})  # type: ignore[arg-type]
    return compiled.compile(checkpointer=InMemorySaver())


def run(compiled: Any) -> Episode:
    compiled.invoke({"question": "What is 2 + 2?"}, ON)
    return Episode.from_state(compiled.get_state(ON).values)


def before(compiled: Any, round_: int) -> Any:
    """The config from which a round starts."""
    return next(
        s.config
        for s in compiled.get_state_history(ON)
        if s.next == ("router",) and s.values.get("tallies") and s.values["round"] == round_ - 1
    )


def fork(compiled: Any, config: Any, actions: Any) -> Episode:
    forked = compiled.update_state(config, force_actions(actions), as_node="consensus")
    compiled.invoke(None, forked)
    return Episode.from_state(compiled.get_state(ON).values)


def actions(episode: Episode, round_: int) -> list[str]:
    return [turn["action"] for turn in episode.turns if turn["round"] == round_]


def test_only_the_forced_agent_and_only_that_round_differ() -> None:
    held: set[Any] = set()
    while len(held) < 2:  # chance may leave nobody to concede to in round 2: begin again then
        compiled = graph()
        first = run(compiled)
        start = before(compiled, 2)
        state = compiled.get_state(start).values
        held = {state["responses"][i]["answer"] for i in state["held"].values()}
    ids = {first.id}
    for forced in ("PERSIST", "REFINE", "CONCEDE"):
        episode = fork(compiled, start, {"agent-2": forced})
        assert actions(episode, 1) == actions(first, 1)
        assert actions(episode, 2)[1] == forced
        for other in (0, 2, 3):  # the same state, the same random number
            assert actions(episode, 2)[other] == actions(first, 2)[other]
        probabilities = [t["probabilities"] for t in episode.turns if t["round"] == 3]
        assert all(max(row) < 1.0 for row in probabilities)  # drawn again
        assert [i["round"] for i in episode.interventions] == [2]
        assert episode.id.startswith(f"{first.id}~")
        ids.add(episode.id)
    assert len(ids) == 4


def test_a_fork_of_a_fork_is_an_episode_of_its_own() -> None:
    compiled = graph(max_rounds=2)
    first = run(compiled)
    # All are told what to do, so that two other answers are left to concede to.
    told = {"agent-1": "REFINE", "agent-2": "CONCEDE", "agent-3": "PERSIST", "agent-4": "PERSIST"}
    once = fork(compiled, before(compiled, 1), told)
    twice = fork(compiled, before(compiled, 2), {"agent-1": "CONCEDE"})
    assert [i["text"] for i in twice.interventions] == [
        "agent-1: REFINE, agent-2: CONCEDE, agent-3: PERSIST, agent-4: PERSIST",
        "agent-1: CONCEDE",
    ]
    assert actions(twice, 1) == list(told.values())
    assert twice.id.count("~") == 1
    assert len({first.id, once.id, twice.id}) == 3


@pytest.mark.parametrize(
    "wrong",
    [{}, {"agent-1": "persist"}, {"agent-1": "REFINE", "agent-2": None}, [("agent-1", "REFINE")]],
)
def test_what_is_no_action_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="give PERSIST, REFINE, CONCEDE by agent name"):
        force_actions(wrong)


@pytest.mark.parametrize(
    ("forced", "options", "says_what"),
    [
        ({"ann": "PERSIST"}, {}, "names ann, but the agents are agent-1, agent-2"),
        ({7: "PERSIST"}, {}, "names 7, but the agents are agent-1, agent-2"),
        ({"agent-1": "CONCEDE"}, {"answers": "44"}, "no peer holds another answer"),
        ({"agent-1": "REFINE"}, {"max_calls": 4}, "the budget is spent"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_the_run(
    forced: Any, options: Any, says_what: str
) -> None:
    compiled = graph(**options, router="always-persist")
    run(compiled)
    with pytest.raises(ConfigurationError, match=says_what):
        fork(compiled, before(compiled, 1), forced)


def test_nothing_is_forced_before_anybody_was_asked() -> None:
    compiled = graph(max_rounds=1)
    run(compiled)
    first = [s for s in compiled.get_state_history(ON) if s.next == ("router",)][-1]
    with pytest.raises(ConfigurationError, match="no round starts from this checkpoint"):
        fork(compiled, first.config, {"agent-1": "REFINE"})


def test_the_next_question_is_nobodys_fork() -> None:
    compiled = graph(router="always-persist", max_rounds=1)
    run(compiled)
    fork(compiled, before(compiled, 1), {"agent-1": "REFINE"})
    again = run(compiled)
    assert actions(again, 1) == ["PERSIST"] * 4
    assert again.interventions == []
    assert "~" not in again.id
