"""HTTP clients for one endpoint. Every request ends, and a key goes to its own host alone."""

import os
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from mpdf_langgraph.errors import EndpointError
from mpdf_langgraph.models.connections import bound_async_requests, bound_requests

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
        bound_requests(client, self.deadline)
        return client

    def async_client(self) -> httpx2.AsyncClient:
        """Return an asynchronous client."""
        prepare = self._request_hook()

        async def prepare_async(request: httpx2.Request) -> None:
            prepare(request)

        async def cap_async(response: httpx2.Response) -> None:
            _cap_body(response)

        hooks: dict[str, list[Any]] = {"request": [prepare_async], "response": [cap_async]}
        client = httpx2.AsyncClient(**self._options(), event_hooks=hooks)
        bound_async_requests(client, self.deadline)
        return client

    def _options(self) -> dict[str, Any]:
        return {"timeout": self.timeout, "follow_redirects": False}

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

        return prepare


def _host(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


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
