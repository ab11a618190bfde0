"""What is made of odd replies."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from mpdf_langgraph import Agent, TextAnswer, create_deliberation
from mpdf_langgraph.errors import ModelOutputError
from mpdf_langgraph.replies import read_reply, response_from
from mpdf_langgraph.runtime import calls
from mpdf_langgraph.runtime.calls import CallResult
from mpdf_langgraph.state import no_usage
from tests.support.scripted import says

Q = {"question": "What is 2 + 2?"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("  4\n", "4"),
        (AIMessage("4"), "4"),
        (AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (AIMessage([{"type": "reasoning", "reasoning": "hm"}, "4"]), "4"),
        ({"messages": [HumanMessage("Q"), AIMessage("4")]}, "4"),
        ({"messages": [HumanMessage("Q"), HumanMessage("4", name="worker")]}, "4"),
        (AIMessage("caf\ud83d"), "caf?"),
    ],
)
def test_text_of_a_reply(reply: Any, expected: str) -> None:
    assert read_reply(reply).text == expected


CALL = {"name": "add", "args": {}, "id": "1"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        (AIMessage(" \n"), "empty"),
        (AIMessage([]), "empty"),
        (AIMessage("", tool_calls=[CALL]), "empty"),
        (AIMessage("", response_metadata={"finish_reason": "length"}), "'length'"),
        (AIMessage("half a", response_metadata={"model_provider": "openai"}), "ended before"),
        ({"messages": []}, "'messages'"),
        ({"messages": [AIMessage("4"), HumanMessage("And 2 + 2?")]}, "added no message"),
        ({"messages": [SystemMessage("You are ann.")]}, "added no message"),
        ({"output": "4"}, r"\['output'\]"),
        (None, "NoneType"),
        (4, "int"),
        (["4"], "list"),
    ],
)
def test_replies_that_are_none(reply: Any, reason: str) -> None:
    with pytest.raises(ModelOutputError, match=reason):
        read_reply(reply)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"stop_reason": "end_turn"}, "end_turn"),
        ({"model_provider": "openai", "status": "completed"}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
         "content_filter"),
        ({"status": "incomplete", "incomplete_details": None}, "length"),
        ({}, None),
    ],
)  # fmt: skip
def test_why_generation_ended_in_one_vocabulary(metadata: dict[str, Any], reason: Any) -> None:
    reply = read_reply(AIMessage("Answer: 4", response_metadata=metadata))
    assert reply.finish_reason == reason


def test_null_content_from_an_endpoint_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LONGEST_PAUSE", 0.001)
    broken = AIMessage("")
    cut = AIMessage("half", response_metadata={"model_provider": "openai", "finish_reason": None})
    model = says([broken, cut, "Answer: 4"])
    result = create_deliberation([Agent("ann", model, retries=2)], critic=None).compile().invoke(Q)
    assert result["deliberation"]["answer"] == "4"
    assert result["deliberation"]["usage"]["total"]["calls"] == 3


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        "none",
        {"content": None},
        {"content": [None]},
        {"content": [{"logprob": float("nan")}]},
        {"content": [{"logprob": -0.5}, {"logprob": None}]},
        {"content": [{"logprob": "-0.5"}]},
    ],
)
def test_unusable_log_probabilities_are_none(logprobs: Any) -> None:
    metadata = {"logprobs": logprobs, "finish_reason": 7, "model_name": None}
    reply = read_reply(AIMessage("4", response_metadata=metadata))
    assert (reply.token_logprobs, reply.finish_reason, reply.model) == ([], None, None)


def test_response_record() -> None:
    metadata = {
        "finish_reason": "length",
        "model_name": "m",
        "logprobs": {"content": [{"logprob": -0.2}, {"logprob": -0.4}]},
    }
    reply = read_reply(AIMessage("Perhaps so. Answer: 4", response_metadata=metadata))
    outcome = CallResult(reply, None, 1, 0.5, no_usage())
    record = response_from(outcome, response_id="ann@1", agent="ann", round_=1, schema=TextAnswer())
    assert (record["answer"], record["cluster"], record["critique"]) == ("4", None, None)
    assert record["profile"]["truncated"]
    assert record["logprobs"]["mean"] == pytest.approx(-0.3)
    assert record["logprobs"]["total"] == pytest.approx(-0.6)
