"""Progress events: their lines and their keys."""

from typing import Any

import pytest

from mpdf_langgraph.runtime import events
from mpdf_langgraph.state import Consensus, Failure, Observation, Turn, no_usage
from tests.support.records import critique, response


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "get_stream_writer", lambda: written.append)
    return written


def said(agent: str, answer: str | None, round_: int = 0) -> Any:
    return {**response(agent, 0, round_=round_), "answer": answer}


def turn(**fields: Any) -> Turn:
    plain = Turn(
        agent="ann",
        round=1,
        observation=Observation(own=[], peers=[]),
        mask=[True] * 3,
        probabilities=[0.2, 0.3, 0.5],
        action="PERSIST",
        before="ann@0",
        after=None,
        target="bob@0",
        alternatives=[],
        blocked=None,
    )
    return Turn(**{**plain, **fields})  # type: ignore[typeddict-item]


def test_responses(heard: list[dict[str, Any]]) -> None:
    events.emit_response("e", said("ann", "4"))
    events.emit_response("e", said("ann", None, round_=2))
    events.emit_response("e", said("ann", "a\n  long " + "x" * 80))
    assert heard[0] == {
        "event": "proposed",
        "episode": "e",
        "round": 0,
        "text": "ann proposes 4",
        "agent": "ann",
        "answer": "4",
    }
    assert (heard[1]["event"], heard[1]["round"]) == ("refined", 2)
    assert heard[1]["text"] == "ann now says no answer"
    assert heard[2]["text"] == f"ann proposes a long {'x' * 50}..."
    assert heard[2]["answer"].endswith("x" * 80)


def test_confidences(heard: list[dict[str, Any]]) -> None:
    for given in (critique(0.256), critique(None), None):
        events.emit_critique("e", {**said("ann", "4"), "critique": given})
    assert [event["text"] for event in heard] == [
        "ann: confidence in 4 is 0.26",
        "ann: confidence in 4 is unknown",
        "ann: confidence in 4 is unknown",
    ]
    assert [event["confidence"] for event in heard] == [0.256, None, None]


def test_decisions(heard: list[dict[str, Any]]) -> None:
    held = {"ann": said("ann", "4"), "bob": said("bob", "5"), "cy": None}
    for action in ("PERSIST", "REFINE", "CONCEDE"):
        events.emit_decision("e", turn(action=action), held)
    events.emit_decision("e", turn(agent="cy", before=None), held)
    assert [event["text"] for event in heard] == [
        "ann persists with 4",
        "ann refines its answer",
        "ann concedes to bob",
        "cy persists with no answer",
    ]
    assert [event.get("adopts") for event in heard] == [None, None, "bob", None]
    assert heard[0]["probabilities"] == [0.2, 0.3, 0.5]


def test_conceding_names_who_holds_the_answer_now(heard: list[dict[str, Any]]) -> None:
    held = {"ann": said("bob", "5"), "bob": said("ann", "4")}
    events.emit_decision("e", turn(action="CONCEDE", target="ann@0"), held)
    assert heard[0]["text"] == "ann concedes to bob"


def test_failures(heard: list[dict[str, Any]]) -> None:
    failure = Failure(
        agent="ann", round=3, stage="refine", error="Oops: no", usage=no_usage(), seconds=0.1
    )
    events.emit_failure("e", failure)
    assert heard == [
        {
            "event": "failed",
            "episode": "e",
            "round": 3,
            "text": "ann: refine failed (Oops: no)",
            "agent": "ann",
            "stage": "refine",
            "error": "Oops: no",
        }
    ]


def test_votes(heard: list[dict[str, Any]]) -> None:
    tally = Consensus(
        answer="4",
        cluster=0,
        response="ann@0",
        support=0.5,
        votes={"ann": 0, "bob": 1, "cy": None},
        weights={},
        tie=True,
    )
    events.emit_vote("e", 1, tally, None)
    events.emit_vote("e", 2, tally, "max_rounds")
    nobody: Any = {**tally, "answer": None, "cluster": None, "votes": {"ann": None}}
    events.emit_vote("e", 2, nobody, "max_rounds")
    assert [event["text"] for event in heard] == [
        "the vote stands at 1 of 2 for 4",
        "the vote stands at 1 of 2 for 4; stopped: max_rounds",
        "the vote stands at 0 of 0 for no answer; stopped: max_rounds",
    ]
    assert [event["stop_reason"] for event in heard] == [None, "max_rounds", "max_rounds"]
