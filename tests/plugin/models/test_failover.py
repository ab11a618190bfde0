"""Several servers of one model: real processes that are killed, restarted, busy and stuck."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx2
import openai
import pytest

from mpdf_langgraph import Agent, ConfigurationError, create_deliberation, vllm_chat_model
from mpdf_langgraph.models import failover
from mpdf_langgraph.runtime import retries
from mpdf_langgraph.runtime.caller import calling
from tests.support.loopback import loopback
from tests.support.server import Server, cards, completion

Ask = Callable[[Any], str]


def by_invoke(llm: Any) -> str:
    return str(llm.invoke("Hello").content)


def by_ainvoke(llm: Any) -> str:
    return str(asyncio.run(llm.ainvoke("Hello")).content)


@pytest.fixture(params=[by_invoke, by_ainvoke])
def ask(request: pytest.FixtureRequest) -> Ask:
    asker: Ask = request.param
    return asker


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "LONGEST_REST", 0.05)


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def test_servers_take_turns(ask: Ask) -> None:
    with loopback("a") as (a, _), loopback("b") as (b, _):
        llm = vllm_chat_model([a, b], "tiny")
        assert [ask(llm) for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_killed_server_is_left_alone_until_it_is_back(ask: Ask) -> None:
    with loopback("a") as (a, process), loopback("b") as (b, _):
        llm = vllm_chat_model([a, b], "tiny")
        assert {ask(llm), ask(llm)} == {"a", "b"}
        process.kill()
        process.wait()
        for _ in range(3):
            assert [ask(llm) for _ in range(4)] == ["b"] * 4
            time.sleep(0.06)  # it has rested, and a request tries it in vain
        with loopback("a", port=port_of(a)):
            time.sleep(0.06)
            answers = Counter(ask(llm) for _ in range(10))
            assert answers == {"a": 5, "b": 5}


async def test_no_request_fails_while_servers_are_killed_in_turn() -> None:
    """Requests that were under way are lost with their server, and the agent asks again."""
    with ExitStack() as stack:
        running = [stack.enter_context(loopback(name, delay=0.05)) for name in "abc"]
        team = [Agent("ann", vllm_chat_model([url for url, _ in running], "tiny"), retries=3)]
        graph = create_deliberation(team, router="always-persist", critic=None).compile()
        answers: list[str] = []
        over = asyncio.Event()

        async def keep_asking() -> None:
            while not over.is_set():
                outcome = await graph.ainvoke({"question": "Who?"})
                answers.append(outcome["deliberation"]["answer"])

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(keep_asking())
            for _ in range(2):
                for name, (url, process) in zip("abc", list(running), strict=True):
                    await asyncio.sleep(0.3)
                    process.kill()
                    process.wait()
                    await asyncio.sleep(0.3)
                    again = loopback(name, port=port_of(url), delay=0.05)
                    running.append(stack.enter_context(again))
                del running[:3]
            await asyncio.sleep(1)
            seen = len(answers)
            await asyncio.sleep(1)
            over.set()
        assert set(answers) == {"a", "b", "c"}
        assert set(answers[seen:]) == {"a", "b", "c"}  # all are back


def answering(server: Server) -> Server:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        status, given = completion(body)
        if "top_logprobs" in body:  # a verdict
            yes = {"token": "yes", "logprob": -0.1, "bytes": None, "top_logprobs": []}
            given["choices"][0]["logprobs"]["content"] = [{**yes, "top_logprobs": [yes]}]
        return status, given

    server.routes["/v1/chat/completions"] = reply
    return server


def agents_of(server: Server) -> Counter[str]:
    """Count the requests that a server got, by the agent's system prompt."""
    bodies = [body for path, _, body in server.requests if "chat" in path]
    return Counter(body["messages"][0]["content"] for body in bodies)


@pytest.mark.parametrize("sync", [True, False])
def test_an_agent_stays_at_one_server(sync: bool) -> None:
    with Server() as a, Server() as b, Server() as c:
        servers = [answering(server) for server in (a, b, c)]
        llm = vllm_chat_model([server.url for server in servers], "tiny")
        team = [Agent(name, llm, system_prompt=name) for name in ("ann", "bob", "cid")]
        graph = create_deliberation(
            team, router="always-refine", critic="self", max_rounds=2, stop_when_settled=False
        ).compile()
        asked = {"question": "Who?"}
        _ = graph.invoke(asked) if sync else asyncio.run(graph.ainvoke(asked))
        found = [agents_of(server) for server in servers]
        assert sorted(name for seen in found for name in seen) == ["ann", "bob", "cid"]
        assert [seen.total() for seen in found] == [6, 6, 6]  # a call and a verdict a round
        _ = graph.invoke(asked) if sync else asyncio.run(graph.ainvoke(asked))
        assert [agents_of(server).total() for server in servers] == [12, 12, 12]


async def test_a_server_that_is_behind_gets_no_more_requests() -> None:
    caught_up = threading.Event()

    def late(body: dict[str, Any]) -> tuple[int, Any]:
        caught_up.wait(60)
        return completion(body)

    with Server() as slow, Server() as fast:
        slow.routes["/v1/chat/completions"] = late
        answering(fast)
        llm = vllm_chat_model([slow.url, fast.url], "tiny")
        first = asyncio.create_task(llm.ainvoke("Hello"))
        while not slow.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for _ in range(5):
            await llm.ainvoke("Hello")
        assert (len(slow.requests), len(fast.requests)) == (1, 5)
        caught_up.set()
        await first
        for _ in range(4):
            await llm.ainvoke("Hello")
        assert (len(slow.requests), len(fast.requests)) == (3, 7)


@contextmanager
def beginning(
    kind: str, body: bytes, over: threading.Event
) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that sends the head and the beginning of a reply, and hangs up once it is over."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                accepted.append(connection)
                connection.recv(65_536)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
                connection.sendall(head.encode() + body)
                over.wait(60)
                connection.close()

    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", accepted
        over.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def test_a_stream_is_open_until_it_ends() -> None:
    chunk = {
        "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}],
    }  # fmt: skip
    event, over = f"data: {json.dumps(chunk)}\n\n".encode(), threading.Event()
    with beginning("text/event-stream", event, over) as (url, accepted), Server() as fast:
        answering(fast)
        llm = vllm_chat_model([url, fast.url], "tiny")
        stream = llm.stream("Hello")
        assert next(stream).content == "Hi"
        for _ in range(5):
            by_invoke(llm)
        assert (len(accepted), len(fast.requests)) == (1, 5)
        stream.close()  # type: ignore[attr-defined]
        assert next(llm.stream("Hello")).content == "Hi"  # it is the first one's turn again


def test_a_server_that_breaks_off_a_reply_is_left_alone(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "backoff", lambda failures, longest: 3600.0)
    over = threading.Event()
    over.set()
    with beginning("application/json", b'{"id"', over) as (url, accepted), loopback("b") as (b, _):
        llm = vllm_chat_model([url, b], "tiny")
        with pytest.raises(openai.APIConnectionError):
            ask(llm)
        assert [ask(llm) for _ in range(3)] == ["b"] * 3
        assert len(accepted) == 1


def test_a_server_that_breaks_off_again_rests_longer(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []
    monkeypatch.setattr(failover, "backoff", lambda number, _: failures.append(number) or 0.0)
    over = threading.Event()
    over.set()
    with beginning("application/json", b'{"id"', over) as (url, _), loopback("b") as (b, _):
        llm = vllm_chat_model([url, b], "tiny")
        for _ in range(6):
            with suppress(openai.APIConnectionError):
                assert ask(llm) == "b"
    assert failures == [1, 2, 3]


def test_the_reply_to_an_older_request_does_not_end_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "backoff", lambda failures, longest: 3600.0)
    servers = failover._Servers([Any, Any])  # type: ignore[list-item]
    server = servers.take(servers.in_turn())
    asked_at = time.monotonic()
    server.open += 1  # another request, that fails
    time.sleep(0.001)
    servers.failed(server)
    servers.answered(server, asked_at)
    servers.ended(server, asked_at)
    assert (server.failures, server.open) == (1, 0)
    assert not server.is_ready(time.monotonic())


def test_an_agent_whose_server_is_down_stays_at_another_and_goes_back() -> None:
    with Server() as a, Server() as b, Server() as c:
        servers = [answering(server) for server in (a, b, c)]
        llm = vllm_chat_model([server.url for server in servers], "tiny")
        with calling({"mpdf_episode": "1", "mpdf_agent": "ann"}):
            by_invoke(llm)
            a.routes["/v1/chat/completions"] = lambda _: (503, {})
            for _ in range(3):
                by_invoke(llm)
            assert [len(server.requests) for server in (b, c)] == [3, 0]
            answering(a)
            a.requests.clear()
            time.sleep(0.06)
            for _ in range(3):
                by_invoke(llm)
            assert [len(server.requests) for server in servers] == [3, 3, 0]


def test_callers_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "MOST_HOMES", 2)
    servers = failover._Servers([Any, Any, Any])  # type: ignore[list-item]
    first = []
    for agent in ("ann", "bob", "cid", "bob", "ann"):
        with calling({"mpdf_episode": "1", "mpdf_agent": agent}):
            first.append(servers._servers.index(servers.in_turn()[0]))
    assert first == [0, 1, 2, 1, 0]  # ann was forgotten, and it was the first one's turn again
    assert len(servers._homes) == 2


def test_one_request_at_a_time_tries_a_server_again() -> None:
    with Server() as slow, loopback("b") as (b, _):
        slow.routes["/v1/chat/completions"] = lambda _: (503, {})
        llm = vllm_chat_model([slow.url, b], "tiny")
        assert [by_invoke(llm) for _ in range(2)] == ["b"] * 2

        def late(body: dict[str, Any]) -> tuple[int, Any]:
            time.sleep(1)
            return completion(body)

        slow.routes["/v1/chat/completions"] = late
        tried = len(slow.requests)
        time.sleep(0.06)

        async def many() -> list[str]:
            return [
                str(m.content) for m in await asyncio.gather(*(llm.ainvoke("") for _ in "x" * 9))
            ]

        assert Counter(asyncio.run(many())) == {"b": 8, "Hi": 1}
        assert len(slow.requests) == tried + 1


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_busy_server_passes_its_requests_on_and_rests_as_long_as_it_says(
    ask: Ask, status: int
) -> None:
    with Server() as busy, loopback("b") as (b, _):
        busy.headers = {"Retry-After": "30"}
        busy.routes["/v1/chat/completions"] = lambda _: (status, {"error": "busy"})
        llm = vllm_chat_model([busy.url, b], "tiny")
        assert [ask(llm) for _ in range(3)] == ["b"] * 3
        time.sleep(0.06)
        assert ask(llm) == "b"
        assert len(busy.requests) == 1


async def test_a_request_cancelled_between_two_servers_blocks_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is cancelled while the reply of a busy server is closed, before it asks the next one."""
    close = httpx2.Response.aclose

    async def cancel(response: httpx2.Response) -> None:
        monkeypatch.setattr(httpx2.Response, "aclose", close)
        await close(response)
        asked.cancel()
        await asyncio.sleep(1)

    with Server() as busy, Server() as b, Server() as c:
        busy.headers = {"Retry-After": "30"}
        busy.routes["/v1/chat/completions"] = lambda _: (503, {})
        llm = vllm_chat_model([server.url for server in (busy, answering(b), answering(c))], "tiny")
        monkeypatch.setattr(httpx2.Response, "aclose", cancel)
        asked = asyncio.create_task(llm.ainvoke("Hello"))
        with pytest.raises(asyncio.CancelledError):
            await asked
        for _ in range(4):
            await llm.ainvoke("Hello")
        assert [len(server.requests) for server in (busy, b, c)] == [1, 2, 2]


@pytest.mark.parametrize("status", [400, 401, 500])
def test_an_error_of_the_request_goes_to_no_other_server(ask: Ask, status: int) -> None:
    with Server() as server, Server() as other:
        server.routes["/v1/chat/completions"] = lambda _: (status, {"error": "no"})
        llm = vllm_chat_model([server.url, other.url], "tiny")
        with pytest.raises(openai.APIStatusError):
            ask(llm)
        assert not other.requests


@pytest.mark.parametrize("rest", [3600.0, 0.0])  # it rests as long as it was silent at least
def test_a_silent_server_is_left_alone(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, rest: float
) -> None:
    monkeypatch.setattr(failover, "backoff", lambda failures, longest: rest)
    with socket.create_server(("127.0.0.1", 0)) as silent, loopback("b") as (b, _):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        llm = vllm_chat_model([url, b], "tiny", timeout=3)
        with pytest.raises(openai.APITimeoutError):
            ask(llm)
        assert [ask(llm) for _ in range(3)] == ["b"] * 3


def test_all_servers_are_down(ask: Ask, unused_tcp_port: int) -> None:
    with Server() as busy:
        busy.routes["/v1/chat/completions"] = lambda _: (503, {})
        dead = f"http://127.0.0.1:{unused_tcp_port}/v1"
        llm = vllm_chat_model([busy.url, dead], "tiny")
        for tries in range(1, 5):
            with pytest.raises((openai.APIConnectionError, openai.APIStatusError)):
                ask(llm)
            assert len(busy.requests) == tries  # each request has tried both
        busy.routes["/v1/chat/completions"] = completion
        assert ask(llm) == "Hi"


def test_streams_go_to_a_live_server(unused_tcp_port: int) -> None:
    chunk = {
        "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}],
    }  # fmt: skip
    with Server() as server:
        event = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        server.routes["/v1/chat/completions"] = lambda _: (200, event)
        server.headers = {"Content-Type": "text/event-stream"}
        llm = vllm_chat_model([f"http://127.0.0.1:{unused_tcp_port}/v1", server.url], "tiny")
        assert "".join(str(c.content) for c in llm.stream("Hello")) == "Hi"

        async def stream() -> str:
            return "".join([str(c.content) async for c in llm.astream("Hello")])

        assert asyncio.run(stream()) == "Hi"


def test_each_server_gets_its_own_path_and_the_key(unused_tcp_port: int) -> None:
    with Server() as server:
        server.routes["/other/v9/chat/completions"] = completion
        urls = [f"http://127.0.0.1:{unused_tcp_port}/v1", server.url.replace("/v1", "/other/v9")]
        assert by_invoke(vllm_chat_model(urls, "tiny", api_key="sk-mine")) == "Hi"
        path, headers, _ = server.requests[0]
        assert path == "/other/v9/chat/completions"
        assert headers["authorization"] == "Bearer sk-mine"
        assert headers["host"] == server.url.split("/")[2]


def test_the_model_is_found_on_the_first_server_that_answers(unused_tcp_port: int) -> None:
    with Server() as server:
        server.routes["/v1/models"] = lambda _: (200, cards("tiny"))
        urls = [f"http://127.0.0.1:{unused_tcp_port}/v1", server.url]
        assert vllm_chat_model(urls).model_name == "tiny"


@pytest.mark.parametrize("urls", [[], ["http://a/v1", "a"], [1], ["http://u:p@a"]])
def test_wrong_servers(urls: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        vllm_chat_model(urls, "tiny")


# --- Retry-After in an agent ----------------------------------------------------------------


@pytest.fixture
def busy_once() -> Iterator[Server]:
    with Server() as server:
        server.headers = {"Retry-After": "1"}
        server.routes["/v1/chat/completions"] = lambda body: (
            (429, {"error": "busy"}) if len(server.requests) == 1 else completion(body)
        )
        yield server


def deliberate(server: Server, **options: Any) -> tuple[dict[str, Any], float]:
    team = [Agent("ann", vllm_chat_model(server.url, "tiny"))]
    graph = create_deliberation(team, router="always-persist", critic=None, **options).compile()
    began = time.monotonic()
    out = graph.invoke({"question": "Who?"})
    return out["deliberation"], time.monotonic() - began


def test_an_agent_waits_as_long_as_the_server_says(busy_once: Server) -> None:
    outcome, seconds = deliberate(busy_once)
    assert outcome["answer"] == "Hi"
    assert seconds > 1
    assert len(busy_once.requests) == 2


def test_an_agent_waits_no_longer_than_the_bound(
    busy_once: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "LONGEST_RETRY_AFTER", 0.1)
    busy_once.headers = {"Retry-After": "86400"}
    assert deliberate(busy_once)[0]["answer"] == "Hi"


def test_an_agent_does_not_wait_past_the_deadline_of_the_question(busy_once: Server) -> None:
    busy_once.headers = {"Retry-After": "50"}
    with pytest.raises(Exception, match="429"):
        deliberate(busy_once, timeout=20)
    assert len(busy_once.requests) == 1


@pytest.mark.parametrize("own", [0, 1])
def test_requests_are_retried_in_one_layer(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.001)
    with Server() as server:
        server.routes["/v1/chat/completions"] = lambda _: (503, {})
        llm = vllm_chat_model(server.url, "tiny", max_retries=own)
        graph = create_deliberation([Agent("ann", llm, retries=3)], critic=None).compile()
        with pytest.raises(Exception, match="503"):
            graph.invoke({"question": "Who?"})
        assert len(server.requests) == (4 if own == 0 else 2)
