"""Connections that carry one request each, within its deadline, as many at once as files allow.

httpx2 has no option for any of this, so its connection pools are replaced:

- A pool looks at all of its connections at every request. That is quadratic: 6,000 requests at
  once kept it busy for minutes.
- A connection that is kept alive belongs to one event loop. A second `asyncio.run` would find it
  dead, and nothing closes it when the model is dropped. A new one costs nothing beside a model's
  call.
- Its timeouts start anew with every byte, so a reply that drips in never ends.
- Its timeouts count the time in which the event loop was busy with other things. Where thousands
  of requests start together, each of them would look like a silent server.
"""

import asyncio
import re
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpcore2
import httpx2

#: A timeout is counted in so many ticks. A tick that comes late, as the event loop is busy, counts
#: as one.
_TICKS = 10
_PIECE = 65_536
#: A host that is an address and no name.
_ADDRESS = re.compile(r"[\d.]+|.*:.*")
#: After so many seconds the next address of a name is tried too.
_NEXT_ADDRESS_SECONDS = 0.25


def bound_requests(client: httpx2.Client, deadline: float) -> None:
    """Give every request of a client a connection of its own, for `deadline` seconds at most."""
    for transport in _transports(client):
        transport._pool = _Connections(transport._pool, deadline)


def bound_async_requests(client: httpx2.AsyncClient, deadline: float) -> None:
    """Give every request of a client a connection of its own, for `deadline` seconds at most."""
    for transport in _transports(client):
        transport._pool = _AsyncConnections(transport._pool, deadline)


def _transports(client: httpx2.Client | httpx2.AsyncClient) -> Iterator[Any]:
    """Yield a client's transports, those over proxies included."""
    transports: list[Any] = [client._transport, *client._mounts.values()]
    yield from (transport for transport in transports if transport is not None)


def _most_connections() -> int:
    """Return how many connections one client may have at once, by the limit on open files."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 1000
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 10_000 if soft == resource.RLIM_INFINITY else min(10_000, max(16, soft // 2))


# --- one connection per request -------------------------------------------------------------


class _Body:
    """A reply's body. Its connection ends with it."""

    def __init__(self, parts: Any, close: Callable[[], Any]) -> None:
        self._parts, self._close = parts, close

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._parts
        finally:
            self.close()

    def close(self) -> None:
        close, self._close = self._close, lambda: None
        close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._parts:
                yield part
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        close, self._close = self._close, _do_nothing
        await close()


async def _do_nothing() -> None:
    pass


class _Connections:
    """Stands in for a connection pool, of which it only uses how connections are made."""

    def __init__(self, pool: Any, deadline: float) -> None:
        pool._network_backend = _Backend(pool._network_backend, deadline)
        self._pool = pool
        self._free = threading.Semaphore(_most_connections())

    def handle_request(self, request: httpcore2.Request) -> httpcore2.Response:
        self._free.acquire()  # for as long as it takes: the server is not to blame
        connection: Any = None

        def close() -> None:
            try:
                if connection is not None:
                    connection.close()
            finally:
                self._free.release()

        try:
            connection = self._pool.create_connection(request.url.origin)
            reply = connection.handle_request(request)
        except BaseException:
            close()
            raise
        body: Any = _Body(reply.stream, close)
        return httpcore2.Response(reply.status, headers=reply.headers, content=body,
                                  extensions=reply.extensions)  # fmt: skip

    def __enter__(self) -> "_Connections":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: connections end with their requests."""


class _AsyncConnections:
    """Stands in for a connection pool, of which it only uses how connections are made."""

    def __init__(self, pool: Any, deadline: float) -> None:
        pool._network_backend = _AsyncBackend(deadline)
        self._pool = pool
        self._most = _most_connections()
        self._free: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )  # per event loop
        self._lock = threading.Lock()

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        with self._lock:
            loop = asyncio.get_running_loop()
            free = self._free.setdefault(loop, asyncio.Semaphore(self._most))
        await free.acquire()  # for as long as it takes: the server is not to blame
        connection: Any = None

        async def close() -> None:
            try:
                if connection is not None:
                    await connection.aclose()
            finally:
                free.release()

        try:
            connection = self._pool.create_connection(request.url.origin)
            reply = await connection.handle_async_request(request)
        except BaseException:
            await close()
            raise
        body: Any = _Body(reply.stream, close)
        return httpcore2.Response(reply.status, headers=reply.headers, content=body,
                                  extensions=reply.extensions)  # fmt: skip

    async def __aenter__(self) -> "_AsyncConnections":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Do nothing: connections end with their requests."""


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

    @asynccontextmanager
    async def limit(self, seconds: float | None, error: type[Exception]) -> AsyncIterator[None]:
        """Limit what is awaited inside. Only time in which the event loop runs freely counts."""
        tick = self.cut(seconds, error) / _TICKS
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)
        left = _TICKS
        timer: asyncio.TimerHandle | None = None

        def count() -> None:
            nonlocal left, timer
            timer = loop.call_later(tick, count)
            left -= 1
            if left < 0:
                timer.cancel()
                limit.reschedule(loop.time())

        count()
        try:
            async with limit:
                try:
                    yield
                finally:
                    if timer is not None:
                        timer.cancel()
        except TimeoutError as late:
            raise error("the server was silent for too long") from late


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
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: _Clock
    ) -> None:
        self._reader, self._writer, self._clock = reader, writer, clock

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        async with self._clock.limit(timeout, httpx2.ReadTimeout):
            with _as_error(httpcore2.ReadError):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with _as_error(httpcore2.WriteError):
            self._writer.write(buffer)
        if self._writer.transport.get_write_buffer_size():  # not all of it went out at once
            async with self._clock.limit(timeout, httpx2.WriteTimeout):
                with _as_error(httpcore2.WriteError):
                    await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.transport.abort()  # nothing is under way any more

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Any:
        try:
            async with self._clock.limit(timeout, httpx2.ConnectTimeout):
                with _as_error(httpcore2.ConnectError):
                    await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except BaseException:
            await self.aclose()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._writer.get_extra_info(info)


class _AsyncBackend:
    """Connects by asyncio's own streams. anyio's, which httpcore2 uses, take twice the time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        **_: Any,
    ) -> Any:
        clock = _Clock(self._deadline)
        options: dict[str, Any] = {}
        # A name may stand for several addresses, some of them dead. uvloop lacks this option. It
        # tries one address after the other.
        if not _ADDRESS.fullmatch(host) and isinstance(
            asyncio.get_running_loop(), asyncio.BaseEventLoop
        ):
            options["happy_eyeballs_delay"] = _NEXT_ADDRESS_SECONDS
        async with clock.limit(timeout, httpx2.ConnectTimeout):
            with _as_error(httpcore2.ConnectError):
                streams = await asyncio.open_connection(host, port, **options)
        return _AsyncStream(*streams, clock)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@contextmanager
def _as_error(kind: type[Exception]) -> Iterator[None]:
    """Raise what goes wrong with a socket as an error of httpcore2."""
    try:
        yield
    except OSError as error:
        raise kind(str(error)) from error
