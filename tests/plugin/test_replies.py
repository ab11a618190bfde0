"""What is made of odd replies."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from mpdf_langgraph import Agent, TextAnswer, create_deliberation
from mpdf_langgraph.errors import ModelOutputError, OutOfTokensError
from mpdf_langgraph.replies import NO_WORDS, read_reply, response_from
from mpdf_langgraph.runtime import retries
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
        ({"messages": []}, "one or more 'messages'"),
        ({1: "4", "value": 4}, r"got the keys \[1, 'value'\]"),
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
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.001)
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


# --- thoughts and refusals ------------------------------------------------------------------


def with_logprobs(content: str, *tokens: tuple[Any, float], **fields: Any) -> AIMessage:
    entries = [
        {"token": t, "bytes": None, "logprob": p}
        if isinstance(t, str)
        else {"token": "\ufffd", "bytes": list(t), "logprob": p}
        for t, p in tokens
    ]
    metadata = {"finish_reason": "stop", "logprobs": {"content": entries}}
    return AIMessage(content, response_metadata=metadata, **fields)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # In the text, and in the tokens.
        (with_logprobs("<think>5</think>4", ("<think>5", -2), ("</think>", -1), ("4", -0.5)),
         [-0.5]),
        # Taken out of the text by a parser.
        (with_logprobs("4", ("5</think>", -1), ("\n\n", -1), ("4", -0.5), ("<|end|>", -0.1)),
         [-0.5, -0.1]),
        # The answer's first token holds the end of the thought's.
        (with_logprobs("4", ("5</think>", -2), ("\n4", -0.5)), [-0.5]),
        # A character in several tokens. The thought holds one, too.
        (with_logprobs("π", (b"\xcf", -3), (b"\x80", -3), ("</think>", -1), (b"\xcf", -0.5),
                       (b"\x80", -0.25)), [-0.5, -0.25]),
        # The answer's words stand in the thought as well.
        (with_logprobs("4", ("4", -3), ("</think>", -1), ("4", -0.5)), [-0.5]),
        # An empty thought, as of Qwen3 told not to think.
        (with_logprobs("4", ("<think>", -3), ("\n\n", -3), ("</think>", -1), ("4", -0.5)), [-0.5]),
        # No thought at all.
        (with_logprobs("So 4", ("So", -3), (" 4", -0.5), ("</s>", -0.1)), [-3, -0.5, -0.1]),
        # The tokens' texts do not tell where the thought ends.
        (with_logprobs("<think>5</think>4", ("token_id:7", -3), ("token_id:8", -0.5)), []),
        # The answer cannot be found in them.
        (with_logprobs("4", ("5</think>", -2), (b"\xcf", -0.5)), []),
    ],
)  # fmt: skip
def test_log_probabilities_of_the_answer_alone(message: AIMessage, expected: list[float]) -> None:
    reply = read_reply(message)
    assert reply.token_logprobs == expected


@pytest.mark.parametrize(
    "message",
    [
        "<think>hm</think>4",
        AIMessage("4", additional_kwargs={"reasoning_content": " hm\n"}),
        AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "4"}]),
        AIMessage(
            [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "4"},
            ],
            response_metadata={"model_provider": "anthropic"},
        ),
        {"messages": [HumanMessage("Q"), AIMessage("hm</think>4")]},
    ],
)
def test_a_thought_is_told_apart(message: Any) -> None:
    reply = read_reply(message)
    assert (reply.text, reply.thought, reply.refused) == ("4", "hm", False)


def test_no_thought_leaves_no_trace() -> None:
    reply = read_reply("4")
    assert reply.thought is None
    outcome = CallResult(reply, None, 1, 0.5, no_usage())
    record = response_from(outcome, response_id="ann@0", agent="ann", round_=0, schema=TextAnswer())
    assert not {"thought", "refused"} & set(record)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (AIMessage("", additional_kwargs={"refusal": "I won't. "}), "I won't."),
        (AIMessage([{"type": "refusal", "refusal": "I won't."}]), "I won't."),
        (AIMessage("I", response_metadata={"stop_reason": "refusal"}), "I"),
        (AIMessage("", response_metadata={"finish_reason": "content_filter"}), NO_WORDS),
    ],
)
def test_a_refusal(message: AIMessage, words: str) -> None:
    reply = read_reply(message)
    assert (reply.text, reply.refused) == (words, True)
    outcome = CallResult(reply, None, 1, 0.5, no_usage())
    record = response_from(outcome, response_id="ann@0", agent="ann", round_=0, schema=TextAnswer())
    assert (record["answer"], record["logprobs"], record["refused"]) == (None, None, True)


def test_what_is_no_refusal() -> None:
    assert not read_reply(AIMessage("4", additional_kwargs={"refusal": None})).refused
    filtered = AIMessage("Answer: 4", response_metadata={"finish_reason": "content_filter"})
    assert not read_reply(filtered).refused


def test_only_a_cut_reply_is_out_of_tokens() -> None:
    cut = {"finish_reason": "length"}
    with pytest.raises(OutOfTokensError, match="raise max_tokens"):
        read_reply(AIMessage("<think>hm", response_metadata=cut))
    with pytest.raises(ModelOutputError, match="holds a thought and no answer") as info:
        read_reply("<think>hm")
    assert not isinstance(info.value, OutOfTokensError)
    call = {"name": "add", "args": '{"a": 1', "id": "1", "error": "cut"}
    with pytest.raises(ModelOutputError, match="is empty") as info:
        read_reply(AIMessage("", invalid_tool_calls=[call], response_metadata=cut))
    assert not isinstance(info.value, OutOfTokensError)
