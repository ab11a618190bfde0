"""An OpenAI-compatible server in a process of its own, for many requests at once.

    python -m tests.support.loopback --name ann --delay 12

It prints its port when it listens. It answers every request after `delay` seconds, and `name` is
the model's name and the answer.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.paths import ROOT


class _Connection(asyncio.Protocol):
    """One request per connection. Nothing is kept but the bytes of an unfinished request."""

    def __init__(self, replies: dict[bytes, bytes], delay: float) -> None:
        self.replies, self.delay = replies, delay
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        lengths = [
            line.partition(b":")[2]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        if len(body) < int(lengths[0] if lengths else 0):
            return
        self.received = b""
        reply = self.replies[head.partition(b" ")[0]]
        asyncio.get_running_loop().call_later(self.delay, self.answer, reply)

    def answer(self, reply: bytes) -> None:
        self.transport.write(reply)
        self.transport.close()


def _reply(content: object) -> bytes:
    body = json.dumps(content).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(name: str, port: int, delay: float) -> None:
    tokens = [{"token": "A", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": name},
        "logprobs": {"content": tokens},
    }
    completion = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": name,
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
    models = {"object": "list", "data": [{"id": name}]}
    replies = {b"POST": _reply(completion), b"GET": _reply(models)}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(replies, delay), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


@contextmanager
def loopback(
    name: str = "tiny", *, port: int = 0, delay: float = 0.0
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server. Yield its URL and its process, and kill it at the end."""
    arguments = [f"--name={name}", f"--port={port}", f"--delay={delay}"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.loopback", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1", process
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name")
    parser.add_argument("--port", type=int)
    parser.add_argument("--delay", type=float)
    options = parser.parse_args()
    asyncio.run(serve(**vars(options)))


if __name__ == "__main__":
    main()
