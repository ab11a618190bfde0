"""Requests that would never end, replies that would fill the memory, and headers of others."""

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from mpdf_langgraph import check_endpoint, vllm_chat_model
from mpdf_langgraph.errors import EndpointError, describe_error
from mpdf_langgraph.models import connections, http_client
from mpdf_langgraph.models.http_client import EndpointClient
from mpdf_langgraph.runtime.retries import is_transient
from tests.support.server import Server, completion
from tests.support.sockets import raw_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = HEAD.replace(b"application/json", b"text/event-stream")
CHUNK = (
    b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", '
    b'"choices": [{"index": 0, "delta": {"role": "assistant", "content": "x"}}]}\n\n'
)
#: What comes at once, and what then comes for ever.
DRIPS = {
    "headers": (HEAD + b"X-Long: ", b"x"),
    "body": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "stream": (STREAM + b"\r\n", CHUNK),
    "comments": (STREAM + b"\r\n", b": still here\n\n"),
}


@contextmanager
def dripping(at_once: bytes, drop: bytes) -> Iterator[str]:
    """A server that sends a drop every 20 ms until it is hung up on."""

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(at_once)
        while True:
            connection.sendall(drop)
            time.sleep(0.02)

    with raw_server(drip) as url:
        yield url


def ask(llm: Any, how: str) -> Any:
    async def stream() -> list[Any]:
        return [chunk async for chunk in llm.astream("Hello")]

    ways: dict[str, Callable[[], Any]] = {
        "invoke": lambda: llm.invoke("Hello"),
        "ainvoke": lambda: asyncio.run(llm.ainvoke("Hello")),
        "stream": lambda: list(llm.stream("Hello")),
        "astream": lambda: asyncio.run(stream()),
    }
    return ways[how]()


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("kind", DRIPS)
def test_bytes_that_drip_in_do_not_prolong_a_request(kind: str, how: str) -> None:
    if kind in ("stream", "comments") and "stream" not in how:
        how = {"invoke": "stream", "ainvoke": "astream"}[how]
    with dripping(*DRIPS[kind]) as url:
        llm = vllm_chat_model(url, "tiny", timeout=30, deadline=0.5)
        with pytest.raises((openai.APITimeoutError, httpx2.TimeoutException)):
            ask(llm, how)


def test_the_deadline_is_ten_timeouts() -> None:
    with dripping(*DRIPS["body"]) as url:
        llm = vllm_chat_model(url, "tiny", timeout=0.05)
        with pytest.raises(openai.APITimeoutError):
            llm.invoke("Hello")


def test_headers_that_drip_in_do_not_prolong_a_check() -> None:
    with dripping(*DRIPS["headers"]) as url:
        assert "did not answer within 0.5 s" in check_endpoint(url, timeout=0.5).message


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(size)), packer.flush()])


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("encoding", ["gzip", None, "br"])
def test_long_replies_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, how: str, encoding: str | None
) -> None:
    monkeypatch.setattr(http_client, "MOST_BYTES", 3_000_000)
    content = b" " * 3_000_001 if encoding is None else bomb(1000)
    server.routes["/v1/chat/completions"] = lambda _: (200, content)
    server.headers = {} if encoding is None else {"Content-Encoding": encoding}
    with pytest.raises((openai.APIConnectionError, EndpointError)) as caught:
        ask(vllm_chat_model(server.url, "tiny"), how)
    told = describe_error(caught.value)
    assert ("an unknown way (br)" if encoding == "br" else "longer than 3,000,000 bytes") in told
    assert not is_transient(caught.value)
    assert not check_endpoint(server.url, "tiny").ok


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_replies_are_read(
    server: Server, how: str, pack: Callable[[bytes], bytes]
) -> None:
    plain = httpx2.Response(200, json=completion({"model": "tiny"})[1]).content
    server.routes["/v1/chat/completions"] = lambda _: (200, pack(plain))
    server.headers = {"Content-Encoding": "gzip" if pack is gzip.compress else "deflate"}
    assert ask(vllm_chat_model(server.url, "tiny"), how).content == "Hi"
    assert server.requests[-1][1]["accept-encoding"] == "identity"


def test_waiting_for_a_connection_is_no_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call takes a third of the timeout, and six wait for one connection."""
    monkeypatch.setattr(connections, "_most_connections", lambda: 1)

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(1.0)
        return completion(body)

    server.routes["/v1/chat/completions"] = slow
    llm = vllm_chat_model(server.url, "tiny", timeout=3, deadline=3)

    async def many() -> list[Any]:
        return await asyncio.gather(*(llm.ainvoke("Hello") for _ in range(6)))

    assert [answer.content for answer in asyncio.run(many())] == ["Hi"] * 6
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: llm.invoke("Hello"), range(6)))
    assert [answer.content for answer in answers] == ["Hi"] * 6


def test_connections_fit_into_the_limit_on_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for soft, most in ((1024, 512), (8, 16), (10**6, 10_000), (resource.RLIM_INFINITY, 10_000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections._most_connections() == most


# --- headers --------------------------------------------------------------------------------


def test_a_key_goes_to_its_own_host_alone(server: Server) -> None:
    endpoint = EndpointClient("http://127.0.0.1:9/v1", "sk-mine", httpx2.Timeout(5), 5)

    async def ask_elsewhere() -> None:
        async with endpoint.async_client() as client:
            await client.get(server.url)

    with endpoint.client() as client, pytest.raises(EndpointError, match="to another host"):
        client.get(server.url)
    with pytest.raises(EndpointError, match="to another host"):
        asyncio.run(ask_elsewhere())
    assert server.requests == []


def test_custom_headers_of_the_environment_are_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "X-Own: environment\nX-Other: secret-of-openai\nAuthorization: Bearer sk-of-openai"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", given)
    llm = vllm_chat_model(server.url, "tiny", default_headers={"X-Own": "mine"})
    for how in ("invoke", "ainvoke"):
        ask(llm, how)
    for _, headers, _ in server.requests:
        assert headers["x-own"] == "mine"
        assert headers["authorization"] == "Bearer EMPTY"
        assert "x-other" not in headers


def test_a_client_shows_no_key() -> None:
    client = EndpointClient("http://h/v1", "sk-mine-alone-123", httpx2.Timeout(1), 1)
    assert "sk-mine" not in repr(client)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_another_event_loop(host: str) -> None:
    """Servers such as uvicorn, and Ray's workers, run on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    with (
        Server() as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        server.routes["/v1/chat/completions"] = completion
        llm = vllm_chat_model(server.url.replace("127.0.0.1", host), "tiny")
        assert runner.run(llm.ainvoke("Hello")).content == "Hi"
        server.close()
        with pytest.raises(openai.APIConnectionError):
            runner.run(llm.ainvoke("Hello"))


# --- encrypted connections ------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine that nobody trusts, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    making = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {made} -subj /CN=test "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    subprocess.run(making.split(), check=True, capture_output=True)
    return made, key


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_long_requests_and_replies_are_encrypted(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    _, reply = completion({"model": "tiny"})
    reply["choices"][0]["message"]["content"] = "x" * 1_000_000
    body = json.dumps(reply).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://{host}:{server.sockets[0].getsockname()[1]}/v1"
        with pytest.raises(openai.APIConnectionError) as untrusted:
            await vllm_chat_model(url, "tiny").ainvoke("Hello")
        assert "CERTIFICATE_VERIFY_FAILED" in describe_error(untrusted.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        said = await vllm_chat_model(url, "tiny").ainvoke("y" * 1_000_000)
    assert len(str(said.content)) == 1_000_000
