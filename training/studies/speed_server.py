"""An OpenAI-compatible server whose replies cost nothing, in a process of its own.

    python -m training.studies.speed_server --delay 0.2

It prints its port once it listens. Every reply has 60 tokens with their log-probabilities, in the
form that vLLM sends. The answers of a team differ. A reply comes `--delay` seconds after its
request. A supervisor's request offers tools. It is answered by a call of the first tool that was
not called yet, then by text.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOKENS = 60
#: In turn. Their number has no factor in common with the usual sizes of a team.
ANSWERS = ("42", "17", "42", "42", "8")


def completion(answer: str) -> dict[str, Any]:
    """Return a chat completion of `TOKENS` tokens whose text ends with the answer."""
    end = [".", "\n", "The", " answer", " is", f" {answer}"]
    steps = [f" {n % 9} + {n % 7}"[n % 3 :] if n % 2 else " so" for n in range(TOKENS - len(end))]
    tokens = ["First", *steps[1:], *end]
    content = [
        {"token": t, "logprob": -0.05 * (n % 8), "bytes": list(t.encode()), "top_logprobs": []}
        for n, t in enumerate(tokens)
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(tokens)},
        "logprobs": {"content": content},
        "finish_reason": "stop",
        "stop_reason": None,
    }
    usage = {"prompt_tokens": 130, "completion_tokens": TOKENS, "total_tokens": 130 + TOKENS}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 1,
        "model": "speed",
        "choices": [choice],
        "usage": usage,
    }


def hand_over(request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the call of the first tool that was not called yet. None: all were."""
    called = {
        call["function"]["name"]
        for message in request["messages"]
        for call in message.get("tool_calls") or ()
    }
    offered = [tool["function"]["name"] for tool in request["tools"]]
    left = [name for name in offered if name not in called]
    if not left:
        return None
    reply = completion("42")
    call = {"id": f"call-{left[0]}", "type": "function"}
    call["function"] = {"name": left[0], "arguments": "{}"}  # type: ignore[assignment]
    reply["choices"][0] |= {"finish_reason": "tool_calls", "logprobs": None}
    reply["choices"][0]["message"] |= {"content": None, "tool_calls": [call]}
    return reply


async def serve(delay: float) -> None:
    """Answer requests until the process is killed."""
    bodies = (json.dumps(completion(answer)).encode() for answer in ANSWERS)
    replies = cycle([_with_head(body) for body in bodies])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:  # a connection may be kept alive, as a real server allows
                header = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = header.partition(b"content-length:")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                await asyncio.sleep(delay)
                handed = hand_over(json.loads(body)) if b'"tools"' in body else None
                writer.write(_with_head(json.dumps(handed).encode()) if handed else next(replies))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _with_head(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def speed_server(delay: float) -> Iterator[str]:
    """Start a server, yield its URL, and kill it at the end."""
    command = [sys.executable, "-m", "training.studies.speed_server", f"--delay={delay}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args().delay))
