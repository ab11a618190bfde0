"""The endpoint functions against a real HTTP server that misbehaves on request."""

import asyncio
import gc
import socket
import threading
import time
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from mpdf_langgraph.errors import ConfigurationError, EndpointError
from mpdf_langgraph.models.endpoints import (
    EndpointStatus,
    check_endpoint,
    read_prefix_cache,
    vllm_chat_model,
)
from mpdf_langgraph.models.prefix_cache import PrefixCache
from tests.support.server import Server, cards, completion
from tests.support.sockets import raw_server

KEY = "sk-very-secret"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# --- the prefix cache -------------------------------------------------------------------------

METRICS = """\
# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{{engine="0",model_name="tiny"}} {queries}
vllm:prefix_cache_queries_total{{engine="1",model_name="tiny"}} 1.2e+03
vllm:prefix_cache_queries_created{{engine="0",model_name="tiny"}} 1.7e+09
vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} {hits}
vllm:prefix_cache_hits_total{{engine="1",model_name="tiny"}} 200.0
vllm:external_prefix_cache_hits_total{{engine="0",model_name="tiny"}} 7.0
"""


def test_the_check_tells_the_hit_rate_of_the_prefix_cache(server: Server) -> None:
    text = METRICS.format(queries="800.0", hits="1000.0").encode()
    server.routes["/metrics"] = lambda _: (200, text)
    status = check_endpoint(server.url)
    assert status.prefix_cache == PrefixCache(2000, 1200)
    assert status.message.endswith(", prefix cache hit rate 60% so far")
    before = read_prefix_cache(server.url)
    text = METRICS.format(queries="1000.0", hits="1150.0").encode()
    after = read_prefix_cache(server.url)
    assert before is not None
    assert after is not None
    assert (after - before).rate == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, b""),
        (200, b"vllm:prefix_cache_queries_total 5.0\n"),
        (200, b"vllm:prefix_cache_queries_total many\nvllm:prefix_cache_hits_total 1\n"),
        (200, b"vllm:prefix_cache_queries_total 1.2.3\nvllm:prefix_cache_hits_total 1\n"),
        (200, b"[1, 2]"),
        (404, b"vllm:prefix_cache_queries_total 5.0\nvllm:prefix_cache_hits_total 1.0\n"),
    ],
)
def test_a_server_may_keep_its_prefix_cache_to_itself(
    server: Server, status: int, text: bytes
) -> None:
    server.routes["/metrics"] = lambda _: (status, text)
    found = check_endpoint(server.url)
    assert found.ok
    assert found.prefix_cache is None
    assert "prefix cache" not in found.message


# --- check_endpoint ---------------------------------------------------------------------------


def test_a_sound_endpoint(server: Server) -> None:
    status = check_endpoint(server.url, "tiny", api_key=KEY)
    assert status == EndpointStatus(
        ok=True,
        message=f"{server.url} serves 'tiny' (1024 tokens of context), with logprobs",
        models=("tiny",),
        logprobs=True,
        max_model_len=1024,
    )
    assert {headers["authorization"] for _, headers, _ in server.requests} == {f"Bearer {KEY}"}


def test_the_context_of_llama_cpp(server: Server) -> None:
    card = {"id": "tiny", "meta": {"n_ctx": 2048, "n_ctx_train": 8192}}
    server.routes["/v1/models"] = lambda _: (200, {"object": "list", "data": [card]})
    assert check_endpoint(server.url).max_model_len == 2048


def test_the_model_is_found_where_there_is_one(server: Server) -> None:
    assert check_endpoint(server.url).ok


def test_nothing_listens(free_port: int) -> None:
    status = check_endpoint(f"http://127.0.0.1:{free_port}/v1", "tiny")
    assert not status.ok
    assert "cannot connect" in status.message
    assert "vllm serve" in status.message


def test_a_name_that_does_not_resolve() -> None:
    assert "cannot connect" in check_endpoint("http://nowhere.invalid:8000/v1").message


def test_a_wrong_model_names_the_served_ones(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (200, cards("tiny", "adapter"))
    status = check_endpoint(server.url, "big")
    assert not status.ok
    assert "does not serve 'big', but: 'tiny', 'adapter'" in status.message
    assert status.models == ("tiny", "adapter")
    assert server.paths() == ["/v1/models"]


def test_many_models_are_not_all_listed(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (200, cards(*(f"m{i}" for i in range(20))))
    assert check_endpoint(server.url).message.endswith("'m7' and 12 more")


@pytest.mark.parametrize("status_code", [401, 403])
def test_a_wrong_key(server: Server, status_code: int) -> None:
    server.routes["/v1/models"] = lambda _: (status_code, {"error": f"bad key {KEY}"})
    with_key = check_endpoint(server.url, "tiny", api_key=KEY)
    assert not with_key.ok
    assert "refuses the key" in with_key.message
    assert KEY not in repr(with_key)
    assert "pass api_key=" in check_endpoint(server.url, "tiny").message


def test_no_logprobs_is_said_but_no_fault(server: Server) -> None:
    server.routes["/v1/chat/completions"] = lambda body: completion(body | {"logprobs": False})
    status = check_endpoint(server.url)
    assert status.ok
    assert status.logprobs is False
    assert "without logprobs" in status.message


def test_logprobs_may_be_refused(server: Server) -> None:
    def refuse(body: dict[str, Any]) -> tuple[int, Any]:
        if "logprobs" in body:
            return 400, {"error": {"message": "logprobs is not supported"}}
        return completion(body)

    server.routes["/v1/chat/completions"] = refuse
    assert check_endpoint(server.url).logprobs is False
    server.routes["/v1/chat/completions"] = lambda _: (400, {"error": {"message": "no template"}})
    status = check_endpoint(server.url)
    assert not status.ok
    assert status.message.endswith("answers with status 400: no template")


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>welcome</html>"),
        (200, b"\xff\xfe\x00"),
        (200, b""),
        (200, b"[" * 100_000),
        (200, [1, 2]),
        (200, {"data": None}),
        (200, {"data": [{"id": None}]}),
        (200, {"data": ["tiny"]}),
        (200, b" " * 3_000_000),
        (404, {"detail": "Not Found"}),
        (404, b"<html>not here</html>"),
    ],
)
def test_something_else_listens(server: Server, answer: tuple[int, Any]) -> None:
    server.routes["/v1/models"] = lambda _: answer
    status = check_endpoint(server.url, "tiny")
    assert not status.ok
    assert "does not speak the OpenAI chat API" in status.message


@pytest.mark.parametrize(
    "answer", [b"null", b"{}", b'{"choices": []}', b'{"choices": [null]}', b'{"choices": [{}]}']
)
def test_a_completion_that_is_none(server: Server, answer: bytes) -> None:
    server.routes["/v1/chat/completions"] = lambda _: (200, answer)
    status = check_endpoint(server.url)
    assert not status.ok
    assert status.models == ("tiny",)


@pytest.mark.parametrize("logprob", [None, "-0.5", float("nan"), 10**400])
def test_unusable_logprobs_are_none(server: Server, logprob: object) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        status, content = completion(body)
        content["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": logprob}]}
        return status, content

    server.routes["/v1/chat/completions"] = answer
    assert check_endpoint(server.url).logprobs is False


def test_a_name_that_no_request_can_hold(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (200, b'{"data": [{"id": "\\ud800"}]}')
    assert "does not speak the OpenAI chat API" in check_endpoint(server.url).message
    with pytest.raises(EndpointError, match="does not speak"):
        vllm_chat_model(server.url)


def test_no_model_at_all(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (200, cards())
    assert "serves no model" in check_endpoint(server.url).message


def test_a_redirect_is_reported(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (307, b"")
    server.headers = {"Location": f"{server.url}/elsewhere"}
    assert "redirects elsewhere (status 307)" in check_endpoint(server.url).message
    assert server.paths() == ["/v1/models"]


def test_a_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        status = check_endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        assert time.monotonic() - start < 30
    assert not status.ok
    assert "did not answer within 0.2 s" in status.message


def test_a_server_that_drips() -> None:
    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                for _ in range(1000):
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                return  # hung up on, as hoped

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        status = check_endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3)
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert "did not answer within 0.3 s" in status.message


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_server_that_is_not_http(reply: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(reply)

    with raw_server(answer) as url:
        status = check_endpoint(url)
    assert not status.ok
    assert "broke off the exchange" in status.message


def test_https_against_plain_http(server: Server) -> None:
    assert not check_endpoint(server.url.replace("http:", "https:"), timeout=2).ok


def test_messages_are_one_clean_line(server: Server) -> None:
    evil = f"boom\n\x1b[31m {KEY} " + "x" * 1000
    server.routes["/v1/chat/completions"] = lambda _: (500, {"error": {"message": evil}})
    message = check_endpoint(server.url, api_key=KEY).message
    assert message.isprintable()
    assert KEY not in message
    assert len(message) < 300


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        (" https://host/proxy/v1/ ", "https://host/proxy/v1"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1"),
    ],
)
def test_base_urls_are_completed(given: str, used: str) -> None:
    assert vllm_chat_model(given, "tiny").openai_api_base == used


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        "http://",
        "ftp://host",
        "http://host:port",
        "http://host:99999",
        "http://two words",
        "http://a..b",
        "http://[::1",
        "http://host?key=PASSWORD",
        "http://me:PASSWORD@host:8000/v1",
        "me:PASSWORD@host:8000",
    ],
)
def test_wrong_base_urls(url: Any) -> None:
    for function in (vllm_chat_model, check_endpoint):
        with pytest.raises(ConfigurationError, match="base_url") as caught:
            function(url, "tiny")
        assert "PASSWORD" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "sk-x\n", "two words", "schlüssel", 7])
def test_wrong_keys(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        vllm_chat_model("localhost:8000", "tiny", api_key=key)
    assert "sk-x" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": None},
        {"timeout": float("inf")},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"max_tokens": 0},
        {"max_retries": -1},
        {"max_retries": True},
    ],
)
def test_wrong_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        vllm_chat_model("localhost:8000", "tiny", **options)


# --- vllm_chat_model --------------------------------------------------------------------------


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    answer = vllm_chat_model(server.url, "tiny").invoke("Hello")
    assert answer.content == "Hi"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 4
    assert answer.response_metadata["logprobs"]["content"][0]["logprob"] == -0.5
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer EMPTY"
    assert body["logprobs"] is True
    assert body["temperature"] == 1.0
    assert 1024 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_options_win_over_defaults(server: Server) -> None:
    llm = vllm_chat_model(server.url, "tiny", logprobs=False, top_p=0.9, max_tokens=None)
    llm.invoke("Hello")
    body = server.requests[0][2]
    assert body["logprobs"] is False
    assert body["top_p"] == 0.9
    assert not {"max_tokens", "max_completion_tokens"} & set(body)


def test_nothing_of_openai_in_the_environment_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {KEY}")
    monkeypatch.setenv("OPENAI_PROXY", f"http://me:{KEY}@127.0.0.1:1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    llm = vllm_chat_model(server.url)
    llm.invoke("Hello")
    asyncio.run(llm.ainvoke("Hello"))
    check_endpoint(server.url)
    assert len(server.requests) == 6
    assert KEY not in repr([headers for _, headers, _ in server.requests])


def test_the_key_is_sent_and_never_shown(server: Server) -> None:
    llm = vllm_chat_model(server.url, api_key=SecretStr(KEY))
    llm.invoke("Hello")
    assert {headers["authorization"] for _, headers, _ in server.requests} == {f"Bearer {KEY}"}
    assert KEY not in repr(llm) + str(llm) + llm.model_dump_json()


def test_redirects_do_not_get_the_prompt(server: Server) -> None:
    server.routes["/v1/chat/completions"] = lambda _: (307, b"")
    server.headers = {"Location": f"{server.url}/elsewhere"}
    llm = vllm_chat_model(server.url, "tiny")
    with pytest.raises(openai.APIStatusError):
        llm.invoke("Hello")
    with pytest.raises(openai.APIStatusError):
        asyncio.run(llm.ainvoke("Hello"))
    assert server.paths() == ["/v1/chat/completions"] * 2


def test_calls_are_not_retried_here(server: Server) -> None:
    server.routes["/v1/chat/completions"] = lambda _: (503, {"error": {"message": "busy"}})
    with pytest.raises(openai.InternalServerError):
        vllm_chat_model(server.url, "tiny").invoke("Hello")
    assert len(server.requests) == 1


def test_silent_servers_end_in_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        llm = vllm_chat_model(url, "tiny", timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            llm.invoke("Hello")
        with pytest.raises(openai.APITimeoutError):
            asyncio.run(llm.ainvoke("Hello"))
        with pytest.raises(EndpointError, match=r"did not answer within 0\.2 s"):
            vllm_chat_model(url, timeout=0.2)


def test_one_model_object_serves_several_event_loops(server: Server) -> None:
    async def ask(llm: ChatOpenAI) -> list[Any]:
        return await asyncio.gather(*(llm.ainvoke("Hello") for _ in range(3)))

    llm = vllm_chat_model(server.url, "tiny")
    for _ in range(2):
        assert [answer.content for answer in asyncio.run(ask(llm))] == ["Hi"] * 3
    del llm
    gc.collect()  # an open socket would warn here, and warnings are errors


def test_the_only_served_model_is_taken(server: Server) -> None:
    assert vllm_chat_model(server.url).model_name == "tiny"


def test_several_served_models_must_be_chosen_from(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (200, cards("tiny", "adapter"))
    with pytest.raises(ConfigurationError, match="one of 'tiny', 'adapter'"):
        vllm_chat_model(server.url)


def test_a_model_cannot_be_found_without_a_server(free_port: int) -> None:
    with pytest.raises(EndpointError, match="is the server running"):
        vllm_chat_model(f"http://127.0.0.1:{free_port}")
