"""What a real vLLM server does with the requests that this package makes."""

import asyncio
import json
import math
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI

from mpdf_langgraph.models.endpoints import check_endpoint, vllm_chat_model

pytestmark = pytest.mark.vllm

QUESTION = "Kim has 12 marbles and gets 7 more. How many marbles does Kim have?"
YES_NO = {"structured_outputs": {"choice": ["yes", "no"]}}


@pytest.fixture
def llm(vllm_server: str) -> ChatOpenAI:
    return vllm_chat_model(vllm_server, max_tokens=32)


def tokens(message: AIMessage) -> list[dict[str, Any]]:
    content = message.response_metadata["logprobs"]["content"]
    assert isinstance(content, list)
    return content


def masses(message: AIMessage, *words: str) -> list[float]:
    """Return, for each word, the probability of all first tokens that begin it."""
    first = tokens(message)[0]["top_logprobs"]
    return [
        sum(math.exp(t["logprob"]) for t in first if t["token"] and word.startswith(t["token"]))
        for word in words
    ]


def test_the_server_is_found_sound(vllm_server: str) -> None:
    status = check_endpoint(vllm_server, timeout=60)  # the very first answer takes its time
    assert status.ok, status.message
    assert status.logprobs is True
    assert status.max_model_len == 1024
    assert len(status.models) == 1


def test_a_wrong_model_is_told(vllm_server: str) -> None:
    (served,) = check_endpoint(vllm_server).models
    status = check_endpoint(vllm_server, "another")
    assert not status.ok
    assert f"does not serve 'another', but: {served!r}" in status.message


def test_a_wrong_path_is_told(vllm_server: str) -> None:
    status = check_endpoint(vllm_server.replace("/v1", "/v2"))
    assert "does not speak the OpenAI chat API (status 404)" in status.message


def test_the_model_is_discovered(vllm_server: str) -> None:
    assert vllm_chat_model(vllm_server).model_name == check_endpoint(vllm_server).models[0]


def check_answer(message: AIMessage) -> None:
    assert message.usage_metadata is not None
    # One logprob for every generated token, the end-of-text token included.
    assert len(tokens(message)) == message.usage_metadata["output_tokens"] > 0
    assert all(math.isfinite(t["logprob"]) and t["logprob"] <= 0 for t in tokens(message))
    assert message.response_metadata["finish_reason"] in ("stop", "length")


def test_an_answer_comes_with_logprobs_and_usage(llm: ChatOpenAI) -> None:
    message = llm.invoke(QUESTION)
    assert isinstance(message, AIMessage)
    check_answer(message)


async def test_so_does_an_async_one(llm: ChatOpenAI) -> None:
    message = await llm.ainvoke(QUESTION)
    assert isinstance(message, AIMessage)
    check_answer(message)


async def test_so_does_a_streamed_one(llm: ChatOpenAI) -> None:
    whole: AIMessageChunk | None = None
    for chunk in llm.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    check_answer(whole)
    whole = None
    async for chunk in llm.astream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    check_answer(whole)


def test_an_answer_is_cut_down_to_the_room_left(vllm_server: str) -> None:
    # As long as it is no more than the whole context, the largest answer need not fit behind the
    # prompt: the server asks for less by itself.
    check_answer(vllm_chat_model(vllm_server, max_tokens=1024).invoke(QUESTION))


def test_logprobs_are_those_before_temperature(llm: ChatOpenAI) -> None:
    cold, hot = (
        tokens(llm.bind(max_tokens=1, top_logprobs=5, temperature=temperature).invoke(QUESTION))[0]
        for temperature in (0, 2)
    )
    best = max(t["logprob"] for t in hot["top_logprobs"])
    assert best == pytest.approx(cold["logprob"], abs=0.02)
    assert hot["top_logprobs"][0]["token"] == hot["token"]  # the drawn one, and then the best


def test_a_choice_is_kept_to(llm: ChatOpenAI) -> None:
    judge = llm.bind(extra_body=YES_NO, temperature=1.0)
    for _ in range(5):
        message = judge.invoke("Is it so?")
        assert message.content in ("yes", "no")
        assert message.response_metadata["finish_reason"] == "stop"


def test_logprobs_of_a_choice_are_those_after_its_mask(llm: ChatOpenAI) -> None:
    message = llm.bind(extra_body=YES_NO, temperature=2, max_tokens=1, top_logprobs=20).invoke(
        "Is it so?"
    )
    first = tokens(message)[0]["top_logprobs"]
    assert len(first) == 20
    # What the choice forbids is given as -9999, not as -inf and not left out.
    assert {t["token"] for t in first if t["logprob"] > -9000} <= {"y", "ye", "yes", "n", "no"}
    assert min(t["logprob"] for t in first) == -9999.0
    # A word may be spelled in several tokens: only with its beginnings do the masses make one.
    yes, no = masses(message, "yes", "no")
    assert yes + no == pytest.approx(1, abs=1e-4)


def test_the_masses_of_a_choice_are_the_rates_of_its_answers(llm: ChatOpenAI) -> None:
    judge = llm.bind(extra_body=YES_NO, temperature=1.0, max_tokens=4, top_logprobs=20)
    messages = judge.batch(["Is it so?"] * 200, config={"max_concurrency": 16})
    yes, _ = masses(messages[0], "yes", "no")
    rate = sum(message.content == "yes" for message in messages) / len(messages)
    assert rate == pytest.approx(yes, abs=4 * math.sqrt(yes * (1 - yes) / len(messages)) + 0.005)


def test_a_regular_expression_is_kept_to(llm: ChatOpenAI) -> None:
    # Tighter than a JSON schema, which vLLM lets a weak model fill with white space.
    regex = r'\{"percent": (100|[1-9]?[0-9])\}'
    judge = llm.bind(extra_body={"structured_outputs": {"regex": regex}})
    for _ in range(5):
        assert 0 <= json.loads(str(judge.invoke("How sure?").content))["percent"] <= 100


async def test_many_requests_at_once(llm: ChatOpenAI) -> None:
    questions = [f"What is {i} + {i}?" for i in range(64)]
    messages = await asyncio.gather(*(llm.ainvoke(question) for question in questions))
    for message in messages:
        assert isinstance(message, AIMessage)
        check_answer(message)
