"""The rules of a round: what moves result in, what is held by round, who agrees, and the stops."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph.rounds import (
    after_move,
    answer_of,
    complete_turn,
    confidence_of,
    find_stop_reason,
    has_answer,
    held_by_round,
    is_settled,
)
from mpdf_langgraph.state import ACTIONS, Action, Observation, Response, Turn
from tests.support.records import response, team

VALID, OTHER = response("ann", 0, 0.9), response("bob", 1, 0.4)
UNPARSABLE = response("ann", None, round_=1)
BETTER = response("ann", 2, round_=1)


def turn(agent: str, action: Action, round_: int = 1, **fields: Any) -> Turn:
    plain = Turn(
        agent=agent,
        round=round_,
        observation=Observation(own=[], peers=[]),
        mask=[True, True, True],
        probabilities=[1.0, 0.0, 0.0],
        action=action,
        before=f"{agent}@0",
        after=None,
        target=None,
        alternatives=[],
        blocked=None,
    )
    return Turn(**{**plain, **fields})


def test_what_a_response_says() -> None:
    assert has_answer(VALID)
    assert (answer_of(VALID), confidence_of(VALID)) == ("0", 0.9)
    assert not has_answer(UNPARSABLE)
    assert (answer_of(UNPARSABLE), confidence_of(UNPARSABLE)) == (None, None)
    assert not has_answer(None)
    assert answer_of(None) is None
    # An answer that was never compared with the others does not vote.
    assert answer_of(response("ann", None, answer="4")) is None


@pytest.mark.parametrize(
    ("action", "before", "drawn", "after"),
    [
        ("PERSIST", VALID, BETTER, VALID),
        ("PERSIST", None, None, None),
        ("CONCEDE", VALID, None, OTHER),
        ("CONCEDE", None, None, OTHER),
        ("REFINE", VALID, BETTER, BETTER),
        ("REFINE", VALID, UNPARSABLE, VALID),
        ("REFINE", VALID, None, VALID),
        ("REFINE", None, UNPARSABLE, UNPARSABLE),
        ("REFINE", UNPARSABLE, response("ann", None, round_=2), response("ann", None, round_=2)),
        ("REFINE", UNPARSABLE, BETTER, BETTER),
    ],
)
def test_what_a_move_results_in(
    action: Action, before: Response | None, drawn: Response | None, after: Response | None
) -> None:
    assert after_move(action, before, drawn=drawn, target=OTHER) == after


responses = st.none() | st.builds(response, st.just("ann"), st.none() | st.integers(0, 2))


@given(st.sampled_from(ACTIONS), responses, responses, st.none() | st.just(OTHER))
def test_no_move_loses_a_valid_answer(
    action: Action, before: Response | None, drawn: Response | None, target: Response | None
) -> None:
    after = after_move(action, before, drawn=drawn, target=target)
    assert after in (before, drawn, target)
    assert has_answer(after) or not has_answer(before)


def test_a_turn_is_completed_from_the_responses() -> None:
    said = {r["id"]: r for r in (VALID, OTHER, UNPARSABLE)}
    assert complete_turn(turn("ann", "REFINE"), said)["after"] == "ann@0"
    assert complete_turn(turn("ann", "REFINE", before=None), said)["after"] == "ann@1"
    assert complete_turn(turn("ann", "CONCEDE", target="bob@0"), said)["after"] == "bob@0"
    assert complete_turn(turn("cid", "REFINE", before=None), said)["after"] is None
    with pytest.raises(KeyError):
        complete_turn(turn("cid", "PERSIST"), said)


def test_what_is_held_by_round() -> None:
    said = {r["id"]: r for r in (VALID, OTHER, BETTER)}
    turns = [
        turn("ann", "REFINE", after="ann@1"),
        turn("bob", "PERSIST", after="bob@0"),
        turn("ann", "PERSIST", 2, after="ann@1"),
        turn("bob", "CONCEDE", 2, after="ann@1"),
    ]
    names = ["ann", "bob", "cid"]
    expected = [
        {"ann": VALID, "bob": OTHER, "cid": None},
        {"ann": BETTER, "bob": OTHER, "cid": None},
        {"ann": BETTER, "bob": BETTER, "cid": None},
    ]
    assert held_by_round(names, said, turns) == expected
    assert held_by_round(names, said, turns[:2], rounds=2) == [*expected[:2], expected[1]]
    assert held_by_round(names, said, []) == expected[:1]
    with pytest.raises(KeyError):
        held_by_round(names, {"ann@0": VALID}, turns)


def test_who_has_settled() -> None:
    assert is_settled(team((0, 0.9), (0, 0.5), None), 0)
    assert is_settled(team((0, 0.9), (0, 0.5), None), 0, bar=0.5)
    assert not is_settled(team((0, 0.9), (0, 0.5), None), 0, bar=0.6)
    assert not is_settled(team((0, 0.9), (0, None)), 0, bar=0.6)  # unknown is below any bar
    assert not is_settled(team((0, 0.9), (1, 0.5)), 0)
    assert not is_settled(team((0, 0.9), None), 0)  # half is no majority
    assert not is_settled(team((1, 0.9), (1, 0.9)), None)  # the rule elected nobody
    assert not is_settled(team(None, (None, 0.9)), None)


def test_why_it_stops() -> None:
    agreed, split = team((0, 0.9), (0, 0.9)), team((0, 0.9), (1, 0.4))
    persisted = [turn("a", "PERSIST"), turn("b", "PERSIST")]
    moved = [turn("a", "PERSIST"), turn("b", "REFINE")]
    blocked = [Turn({**t, "blocked": "max_calls"}) for t in persisted]

    def reason(held: Any, turns: Any = (), **options: Any) -> str | None:
        return find_stop_reason(held, turns, 0, **{"last_round": False, **options})

    assert reason(team(None, None), last_round=True) == "failed"
    assert reason(agreed, blocked) == "agreement"
    assert reason(agreed, settle_confidence=0.95) is None
    assert reason(agreed, stop_when_settled=False) is None
    assert reason(split) is None
    assert reason(split, blocked, out_of_time=True) == "max_calls"
    assert reason(split, [blocked[0], persisted[1]]) == "all_persisted"
    assert reason(split, persisted, stop_when_settled=False) is None
    ended: dict[str, Any] = {"asking_limit": "max_calls", "stop_when_settled": False}
    assert reason(split, last_round=True, **ended) == "max_calls"
    assert reason(split, persisted, last_round=True, **ended) == "max_rounds"
    assert reason(split, **ended) is None
    assert reason(split, moved, out_of_time=True, last_round=True) == "timeout"
    assert reason(split, moved, last_round=True) == "max_rounds"
    assert reason(split, moved) is None
