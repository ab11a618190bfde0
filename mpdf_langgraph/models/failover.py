"""Several servers of one model: a request goes to one that answers."""

import math
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from mpdf_langgraph.errors import EndpointError
from mpdf_langgraph.models.http_client import EndpointClient
from mpdf_langgraph.runtime.caller import current_caller
from mpdf_langgraph.runtime.retries import backoff, retry_after

#: A server that failed rests for so many seconds at most, unless it asks for more.
LONGEST_REST = 30.0
#: So many callers are remembered with their server.
MOST_HOMES = 10_000
#: The server turned the request down: it is busy, or it is down behind a gateway.
_TURNED_DOWN = {429, 502, 503}


@dataclass(eq=False)
class _Server:
    """One server and its circuit breaker.

    Attributes:
        failures: Failures in a row. A reply that does not break off ends the row.
        failed_at: The `time.monotonic()` of the latest one that counted.
        rests_until: Before this time, requests rather go elsewhere. 0 once a reply has begun.
        probed: It has failed, and one request is trying it again.
        open: Requests whose replies have not ended yet.
    """

    endpoint: EndpointClient
    failures: int = 0
    failed_at: float = -math.inf
    rests_until: float = 0.0
    probed: bool = False
    open: int = 0

    def is_ready(self, now: float) -> bool:
        """Tell whether requests may go there."""
        return now >= self.rests_until and not self.probed


class _Servers:
    """Servers that share the load.

    A request goes to the server with the fewest open requests of this process. At a tie they take
    turns. A server that failed rests, longer with each failure. Then one request at a time tries
    it. It gets others again once a reply to that one begins. What it replies to older requests
    says nothing. If all rest, they are tried nevertheless.

    This chooses an agent's server at its first call for a question. Its later calls for the
    question begin at the same server, whose prefix cache holds what they share.
    """

    def __init__(self, endpoints: Sequence[EndpointClient]) -> None:
        self._servers = [_Server(endpoint) for endpoint in endpoints]
        self._turn = 0
        self._homes: dict[tuple[str, str], int] = {}  # by caller, the latest last
        self._lock = threading.Lock()  # one model may serve threads and event loops

    def in_turn(self) -> list[_Server]:
        """Return all servers, the one to begin with first."""
        caller = current_caller()
        with self._lock:
            start = None if caller is None else self._homes.pop(caller, None)
            if start is None:
                start = self._least_busy()
                self._turn = start + 1
            if caller is not None:
                self._homes[caller] = start
                if len(self._homes) > MOST_HOMES:
                    del self._homes[next(iter(self._homes))]
        return self._servers[start:] + self._servers[:start]

    def _least_busy(self) -> int:
        now, count = time.monotonic(), len(self._servers)

        def load(place: int) -> tuple[bool, int, int]:
            server = self._servers[place]
            return not server.is_ready(now), server.open, (place - self._turn) % count

        return min(range(count), key=load)

    def take(self, waiting: list[_Server]) -> _Server:
        """Remove the best server from those that a request has not tried yet."""
        with self._lock:
            now = time.monotonic()
            ready = [server for server in waiting if server.is_ready(now)]
            server = ready[0] if ready else min(waiting, key=lambda s: s.rests_until)
            server.probed = server.rests_until > 0
            server.open += 1
            waiting.remove(server)
            return server

    def release(self, server: _Server) -> None:
        """Note that a request ended which says nothing about the server."""
        with self._lock:
            server.probed = False
            server.open -= 1

    def answered(self, server: _Server, asked_at: float) -> None:
        """Let a server take its share again, as a reply to a request of that time has begun."""
        with self._lock:
            if asked_at >= server.failed_at:
                server.rests_until, server.probed = 0.0, False

    def ended(self, server: _Server, asked_at: float) -> None:
        """Note that a reply to a request of that time has ended."""
        with self._lock:
            server.open -= 1
            if asked_at >= server.failed_at:
                server.failures = 0

    def failed(
        self, server: _Server, rest: float | None = None, *, silent_since: float = math.inf
    ) -> None:
        """Let a server rest. Of many requests that fail together, the first one counts.

        One that was silent rests at least as long as it was, so that the next try goes elsewhere.
        """
        with self._lock:
            server.probed = False
            server.open -= 1
            now = time.monotonic()
            if now >= server.rests_until:
                server.failures += 1
                server.failed_at = now
                if rest is None:
                    silent = min(now - silent_since, LONGEST_REST)
                    rest = max(silent, backoff(server.failures, LONGEST_REST))
                server.rests_until = now + rest


class _Reply(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A reply's body. Its request is open until it ends. A server that breaks it off has failed."""

    def __init__(self, stream: Any, attempts: "_Attempts") -> None:
        self._stream, self._servers = stream, attempts.servers
        self._server, self._asked_at = attempts.server, attempts.asked_at
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx2.TransportError:
            self._end(broken=True)
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except httpx2.TransportError:
            self._end(broken=True)
            raise

    def close(self) -> None:
        self._end()
        self._stream.close()

    async def aclose(self) -> None:
        self._end()
        await self._stream.aclose()

    def _end(self, broken: bool = False) -> None:
        if self._over:
            return
        self._over = True
        if broken:
            self._servers.failed(self._server)
        else:
            self._servers.ended(self._server, self._asked_at)


class _Attempts:
    """One request on its way from server to server."""

    def __init__(self, servers: _Servers, first: str, request: httpx2.Request) -> None:
        self.servers, self._first, self._request = servers, first, request
        self._waiting = servers.in_turn()
        self.go_on()

    def go_on(self) -> None:
        """Take the best server of those that are left."""
        self.server = self.servers.take(self._waiting)
        self.asked_at = time.monotonic()

    def request(self) -> httpx2.Request:
        """Return the request as one to the current server."""
        asked = str(self._request.url)
        if not asked.startswith(self._first + "/"):
            raise EndpointError(f"a request for {self._first} was to go to another host")
        headers = [(name, text) for name, text in self._request.headers.items() if name != "host"]
        return httpx2.Request(
            self._request.method,
            self.server.endpoint.url + asked.removeprefix(self._first),
            headers=headers,
            content=self._request.content,
            extensions=self._request.extensions,
        )

    def can_go_on_after(self, error: BaseException) -> bool:
        """Note a failure. Tell whether the next server may be asked: this one got no request."""
        if not isinstance(error, httpx2.TransportError):
            self.servers.release(self.server)
            return False
        silent_since = self.asked_at if isinstance(error, httpx2.TimeoutException) else math.inf
        self.servers.failed(self.server, silent_since=silent_since)
        refused = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
        return refused and bool(self._waiting)

    def can_go_on_from(self, response: httpx2.Response) -> bool:
        """Note a reply. Tell whether the next server may be asked: this one turned it down."""
        if response.status_code not in _TURNED_DOWN:
            self.servers.answered(self.server, self.asked_at)
            response.stream = _Reply(response.stream, self)
            return False
        self.servers.failed(self.server, retry_after(response.headers))
        return bool(self._waiting)


class _Failover(httpx2.BaseTransport):
    def __init__(self, servers: _Servers, endpoints: Sequence[EndpointClient]) -> None:
        self._servers, self._first = servers, endpoints[0].url
        self._clients = {endpoint.url: endpoint.client() for endpoint in endpoints}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        attempts = _Attempts(self._servers, self._first, request)
        while True:
            client = self._clients[attempts.server.endpoint.url]
            try:
                response = client.send(attempts.request(), stream=True)
            except BaseException as error:
                if attempts.can_go_on_after(error):
                    attempts.go_on()
                    continue
                raise
            if not attempts.can_go_on_from(response):
                return response
            response.close()
            attempts.go_on()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


class _AsyncFailover(httpx2.AsyncBaseTransport):
    def __init__(self, servers: _Servers, endpoints: Sequence[EndpointClient]) -> None:
        self._servers, self._first = servers, endpoints[0].url
        self._clients = {endpoint.url: endpoint.async_client() for endpoint in endpoints}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        attempts = _Attempts(self._servers, self._first, request)
        while True:
            client = self._clients[attempts.server.endpoint.url]
            try:
                response = await client.send(attempts.request(), stream=True)
            except BaseException as error:
                if attempts.can_go_on_after(error):
                    attempts.go_on()
                    continue
                raise
            if not attempts.can_go_on_from(response):
                return response
            await response.aclose()
            attempts.go_on()

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def failover_clients(
    endpoints: Sequence[EndpointClient],
) -> tuple[httpx2.Client, httpx2.AsyncClient]:
    """Return clients whose requests to the first endpoint go to any of `endpoints`.

    The servers share the load, and the calls of an agent for a question stay at one of them. If one
    cannot be reached, or turns a request down as it is busy or down, the request goes to the next
    one at once. Any other failure is raised, as the server may have begun to answer.
    """
    servers = _Servers(endpoints)
    return (
        httpx2.Client(transport=_Failover(servers, endpoints), trust_env=False),
        httpx2.AsyncClient(transport=_AsyncFailover(servers, endpoints), trust_env=False),
    )
