"""The shorter way through the OpenAI client: what is sent, and what is read, is the same."""

import asyncio
import copy
import json
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai.chat_models import base
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions
from openai.types.chat import ChatCompletion

from mpdf_langgraph import vllm_chat_model
from mpdf_langgraph.models.short_way import _Raw, has_usual_form, reuse_heads
from mpdf_langgraph.response_profile import token_logprobs
from mpdf_langgraph.runtime.calls import message_usage
from tests.support.server import Server, cards

MODEL = vllm_chat_model("http://localhost:1/v1", "m")
TOP = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
REPLY: dict[str, Any] = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hi!", "reasoning_content": "Hm."},
            "logprobs": {
                "content": [
                    {**TOP, "top_logprobs": [TOP]},
                    {"token": "!", "logprob": -1.5, "bytes": None, "top_logprobs": []},
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
#: What stands in for a value somewhere in a reply.
ODD = (
    None,
    "",
    "x",
    "-0.5",
    "3",
    0,
    -1,
    7,
    1e300,
    float("nan"),
    True,
    [],
    {},
    [1],
    {"a": 1},
    10**30,
)


def raw_reply(content: bytes, kind: str = "application/json") -> Any:
    request = httpx2.Request("POST", "http://localhost:1/v1/chat/completions")
    response = httpx2.Response(
        200, content=content, headers={"content-type": kind}, request=request
    )
    return LegacyAPIResponse(
        raw=response,
        client=MODEL.root_client,
        cast_to=ChatCompletion,
        stream=False,
        stream_cls=None,
        options=FinalRequestOptions.construct(method="post", url="/chat/completions"),
    )


def outcome(raw: Any) -> Any:
    """Return what a deliberation reads of a reply, or the error."""
    try:
        [generation] = MODEL._create_chat_result(raw.parse()).generations
    except Exception as error:
        return type(error), str(error)
    message: Any = generation.message
    info = generation.generation_info or {}
    return (
        type(message),
        message.content,
        message_usage(message) if isinstance(message, AIMessage) else None,
        message.tool_calls if isinstance(message, AIMessage) else None,
        {k: v for k, v in message.additional_kwargs.items() if v is not None},
        info.get("finish_reason"),
        token_logprobs(info),
    )


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, one in inside:
        found.append((*at, key))
        if isinstance(one, dict | list):
            found += paths(one, (*at, key))
    return found


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(paths(REPLY)), st.sampled_from(ODD), st.booleans())
def test_an_odd_reply_is_read_as_the_client_reads_it(
    path: tuple[Any, ...], odd: Any, left_out: bool
) -> None:
    reply = copy.deepcopy(REPLY)
    place = reply
    for key in path[:-1]:
        place = place[key]
    if left_out:
        del place[path[-1]]
    else:
        place[path[-1]] = odd
    content = json.dumps(reply).encode()
    assert outcome(_Raw(raw_reply(content))) == outcome(raw_reply(content))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>", "text/html"),
        (json.dumps(REPLY).encode(), "text/plain"),
        (json.dumps(REPLY).encode(), "application/json; charset=utf-8"),
        (json.dumps(REPLY).encode()[:-9], "application/json"),
        (b"\xff\xfe", "application/json"),
        (json.dumps(REPLY).encode("utf-16"), "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"error": {"message": "busy"}}', "application/json"),
        (b"null", "application/json"),
        (json.dumps(REPLY).replace("Hi!", "\\ud800").encode(), "application/json"),
    ],
)
def test_another_body_is_read_as_the_client_reads_it(content: bytes, kind: str) -> None:
    assert outcome(_Raw(raw_reply(content, kind))) == outcome(raw_reply(content, kind))


def test_the_usual_reply_takes_the_short_way() -> None:
    assert has_usual_form(REPLY)
    raw = raw_reply(json.dumps(REPLY).encode())
    assert _Raw(raw).parse() == REPLY
    assert isinstance(raw.parse(), ChatCompletion)
    read = outcome(_Raw(raw))
    assert read[1] == "Hi!"
    assert read[4] == {"reasoning_content": "Hm."}
    assert read[6] == [-0.5, -1.5]


@pytest.mark.parametrize("awaited", [False, True])
def test_the_request_is_the_same(awaited: bool) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Ho"), HumanMessage("?")]
    options: dict[str, Any] = {"extra_body": {"top_k": 5}, "stop": ["."], "top_logprobs": 2}
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        model = vllm_chat_model(server.url, "m")
        for _ in range(2):
            if awaited:
                asyncio.run(model.ainvoke(messages, **options))
            else:
                model.invoke(messages, **options)
            for client in (model.client, model.async_client):  # the second time, the long way
                raw = client.with_raw_response
                raw.create = raw.create.__wrapped__
        (_, _, short), (_, _, long) = server.requests
    assert short == long
    assert [one["role"] for one in short["messages"]] == ["system", "user", "assistant", "user"]
    assert short["top_k"] == 5


def as_sent(request: tuple[str, dict[str, str], dict[str, Any]]) -> Any:
    path, headers, body = request
    return path, {k: v for k, v in headers.items() if k != "host"}, body


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {"stop": ["."], "extra_body": {"top_k": 5}},
        {"extra_headers": {"X-Which": "this"}},
        {"extra_query": {"a": "b"}},
        {"timeout": 7.0},
        {"extra_body": {"since": datetime(2026, 1, 2)}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    ],
)
def test_a_head_that_is_used_again_is_the_clients_own(
    awaited: bool, options: dict[str, Any]
) -> None:
    questions = ["Hi", "Ölpreis?", "How are you?" * 50]
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        server.routes["/v1/chat/completions?a=b"] = lambda _: (200, REPLY)

        async def ask(model: Any) -> None:
            for question in questions:
                for given in ({}, options, options):
                    if awaited:
                        await model.ainvoke(question, **given)
                    else:
                        model.invoke(question, **given)

        again = vllm_chat_model(server.url, "m", api_key="k")
        anew = vllm_chat_model(server.url, "m", api_key="k")
        for client in (anew.root_client, anew.root_async_client):
            del client._build_request
        asyncio.run(ask(again))
        asyncio.run(ask(anew))
    sent = [as_sent(request) for request in server.requests]
    half = 3 * len(questions)
    assert len(sent) == 2 * half
    assert sent[:half] == sent[half:]
    assert sent[0][1]["authorization"] == "Bearer k"


def test_a_head_follows_the_client_and_serves_no_other_method() -> None:
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        server.routes["/v2/chat/completions"] = lambda _: (200, REPLY)
        server.routes["/v1/models"] = lambda _: (200, cards("m"))
        model = vllm_chat_model(server.url, "m")
        for _ in range(2):
            model.invoke("Hi")
            assert [card.id for card in model.root_client.models.list()] == ["m"]
        model.root_client.base_url = server.url.replace("/v1", "/v2")
        model.invoke("Hi")
        server.headers["Set-Cookie"] = "replica=7"
        model.invoke("Hi")
        model.invoke("Hi")
    *_, before, with_cookie = server.requests
    assert server.paths()[-3:] == ["/v2/chat/completions"] * 3
    assert "cookie" not in before[1]
    assert with_cookie[1]["cookie"] == "replica=7"


def test_a_head_is_not_that_of_a_request_beside_it() -> None:
    """Another thread's request comes in while the heads are compared."""
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        model = vllm_chat_model(server.url, "m")

        class Key(str):
            def __eq__(self, other: object) -> bool:
                model.root_client.api_key = "k"
                model.invoke("beside", extra_headers={"X-Which": "beside"})
                return True

            __hash__ = str.__hash__

        model.root_client.api_key = "k"
        model.invoke("first")
        model.root_client.api_key = Key("k")
        model.invoke("second")
    sent = {body["messages"][0]["content"]: headers for _, headers, body in server.requests}
    assert sent["beside"]["x-which"] == "beside"
    assert "x-which" not in sent["second"]


def test_a_client_without_these_methods_stays_as_it_is() -> None:
    client = SimpleNamespace()
    reuse_heads(client)
    assert vars(client) == {}


def test_a_client_of_ones_own_builds_its_requests() -> None:
    with Server() as server, httpx2.Client(headers={"X-Trace": "1"}) as http:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        model = vllm_chat_model(server.url, "m", http_client=http)
        model.invoke("Hi")
        http.headers["X-Trace"] = "2"
        model.invoke("Hi")
    assert [headers["x-trace"] for _, headers, _ in server.requests] == ["1", "2"]


async def test_a_usual_reply_passes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was to be read in a thread")

    monkeypatch.setattr(base, "run_in_executor", refuse)
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        server.headers["Content-Type"] = "application/json"
        said = await vllm_chat_model(server.url, "m").ainvoke("Hi")
    assert said.content == "Hi!"
    assert said.additional_kwargs["reasoning_content"] == "Hm."
    assert token_logprobs(said.response_metadata) == [-0.5, -1.5]
    assert said.usage_metadata is not None
    assert said.usage_metadata["total_tokens"] == 5


async def test_the_headers_of_a_reply_can_still_be_had() -> None:
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (200, REPLY)
        server.headers |= {"Content-Type": "application/json", "X-Which": "this one"}
        model = vllm_chat_model(server.url, "m", include_response_headers=True)
        said = await model.ainvoke("Hi")
    assert said.response_metadata["headers"]["x-which"] == "this one"
