"""HTTP clients for one endpoint. Every request ends, and a key goes to its own host alone."""

import os
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from mpdf_langgraph.errors import EndpointError

#: A reply is refused beyond so many bytes, counted after decompression.
MOST_BYTES = 64_000_000
_PIECE = 65_536


@dataclass(frozen=True)
class EndpointClient:
    """How one endpoint is spoken to.

    Attributes:
        url: The endpoint. The key and all other headers go to its host alone.
        key: Sent as a bearer token.
        timeout: Seconds without a byte, and seconds to connect.
        deadline: Seconds that a request may take in all, from its connection on. Bytes that drip
            in do not prolong it. Waiting for a free connection does not count.
    """

    url: str
    key: str = field(repr=False)
    timeout: httpx2.Timeout
    deadline: float

    def client(self) -> httpx2.Client:
        """Return a synchronous client."""
        hooks = {"request": [self._request_hook()], "response": [_cap_body]}
        client = httpx2.Client(**self._options(), event_hooks=hooks)
        for pool in _pools(client):
            pool._network_backend = _Backend(pool._network_backend, self.deadline)
        return client

    def async_client(self) -> httpx2.AsyncClient:
        """Return an asynchronous client."""
        prepare = self._request_hook()

        async def prepare_async(request: httpx2.Request) -> None:
            prepare(request)

        async def cap_async(response: httpx2.Response) -> None:
            _cap_body(response)

        client = httpx2.AsyncClient(
            **self._options(),
            event_hooks={"request": [prepare_async], "response": [cap_async]},
        )
        for pool in _pools(client):
            pool._network_backend = _AsyncBackend(pool._network_backend, self.deadline)
        return client

    def _options(self) -> dict[str, Any]:
        # A connection that is kept alive belongs to one event loop. A second `asyncio.run` would
        # find it dead, and nothing closes it when the model is dropped. So none is kept. A new
        # one costs nothing beside a model's call. Each connection then carries one request.
        limits = httpx2.Limits(max_connections=_most_connections(), max_keepalive_connections=0)
        return {"timeout": self.timeout, "limits": limits, "follow_redirects": False}

    def _request_hook(self) -> Any:
        """Return what makes a request ready: its own credentials, and no others."""
        host = _host(httpx2.URL(self.url))
        foreign = {"OpenAI-Organization", "OpenAI-Project"}
        # The OpenAI client adds these headers, and reads them when it is made.
        values = {}
        for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"):
            name, colon, value = line.partition(":")
            if colon:
                values[name.strip().lower()] = value.strip()

        def prepare(request: httpx2.Request) -> None:
            if _host(request.url) != host:
                raise EndpointError(f"a request for {self.url} was to go to another host")
            for name in foreign:
                request.headers.pop(name, None)
            for name, value in values.items():
                if request.headers.get(name) == value:
                    del request.headers[name]
            request.headers["Authorization"] = f"Bearer {self.key}"
            request.headers["Accept-Encoding"] = "identity"
            # Many calls at once wait for a connection. The server is not to blame for that.
            times = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {**times, "pool": None}

        return prepare


def _host(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _most_connections() -> int:
    """Return how many connections one client may have at once, by the limit on open files."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 1000
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 10_000 if soft == resource.RLIM_INFINITY else min(10_000, max(16, soft // 2))


def _pools(client: httpx2.Client | httpx2.AsyncClient) -> Iterator[Any]:
    """Yield a client's connection pools, those of proxies included.

    httpx2 has no option for the network backend of a pool. Its own timeouts start anew with every
    byte, so the backend is where a deadline can be kept.
    """
    for transport in [client._transport, *client._mounts.values()]:
        if transport is not None:
            yield transport._pool


# --- the deadline ---------------------------------------------------------------------------


class _Clock:
    """Cuts the timeouts of one connection to what its deadline leaves."""

    def __init__(self, deadline: float) -> None:
        self._end = time.monotonic() + deadline

    def cut(self, timeout: float | None, error: type[Exception]) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise error("the request took longer than its deadline")
        return left if timeout is None else min(left, timeout)


class _Stream:
    def __init__(self, inner: Any, clock: _Clock) -> None:
        self._inner, self._clock = inner, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, self._clock.cut(timeout, httpx2.ReadTimeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            left = self._clock.cut(timeout, httpx2.WriteTimeout)
            self._inner.write(buffer[start : start + _PIECE], left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        left = self._clock.cut(timeout, httpx2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend:
    def __init__(self, inner: Any, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
        clock = _Clock(self._deadline)
        return _Stream(self._inner.connect_tcp(*args, **kwargs), clock)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _AsyncStream:
    def __init__(self, inner: Any, clock: _Clock) -> None:
        self._inner, self._clock = inner, clock

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        left = self._clock.cut(timeout, httpx2.ReadTimeout)
        data: bytes = await self._inner.read(max_bytes, left)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._inner.write(buffer, self._clock.cut(timeout, httpx2.WriteTimeout))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Any:
        left = self._clock.cut(timeout, httpx2.ConnectTimeout)
        inner = await self._inner.start_tls(ssl_context, server_hostname, left)
        return _AsyncStream(inner, self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _AsyncBackend:
    def __init__(self, inner: Any, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
        clock = _Clock(self._deadline)
        return _AsyncStream(await self._inner.connect_tcp(*args, **kwargs), clock)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


# --- the size -------------------------------------------------------------------------------


class _Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A reply's body, decompressed and counted."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._unzip = zlib.decompressobj(wbits=47) if encoding else None  # gzip or zlib
        self._left = MOST_BYTES

    def _plain(self, chunk: bytes) -> Iterable[bytes]:
        while chunk:
            piece = chunk
            if self._unzip is not None:
                try:
                    piece = self._unzip.decompress(chunk, _PIECE)
                except zlib.error as error:
                    raise EndpointError(f"the reply cannot be decompressed: {error}") from error
            chunk = b"" if self._unzip is None else self._unzip.unconsumed_tail
            self._left -= len(piece)
            if self._left < 0:
                raise EndpointError(f"the reply is longer than {MOST_BYTES:,} bytes")
            yield piece

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            yield from self._plain(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            for piece in self._plain(chunk):
                yield piece

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _cap_body(response: httpx2.Response) -> None:
    """Refuse a reply that grows too long, however well it is compressed."""
    encoding = response.headers.pop("Content-Encoding", "").strip().lower()
    encoding = "" if encoding == "identity" else encoding
    if encoding not in ("", "gzip", "x-gzip", "deflate"):
        raise EndpointError(f"the reply is compressed in an unknown way ({encoding[:40]})")
    response.stream = _Body(response.stream, encoding)
