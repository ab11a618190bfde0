"""Models that add two numbers, each wrong in ways of its own, and questions for them."""

import json
import os
import re
import time
import zlib
from pathlib import Path

from tests.support.scripted import Reply, Request, Scripted, StatusError


def add(name: str, slips: int) -> Scripted:
    """A model that slips at one question in `slips`, less often if it reads other answers."""

    def reply(request: Request) -> Reply:
        if pause := os.environ.get("PAUSE"):
            time.sleep(float(pause))
        if log := os.environ.get("ASKED"):
            with Path(log).open("a") as file:
                file.write(f"{name}\n")
        a, b = map(int, re.findall(r"\d+", request.text)[:2])
        if f"{a} and {b}" == os.environ.get("BROKEN"):
            return StatusError(400, "out of order")
        chance = zlib.crc32(f"{name} {request.text}".encode()) % 100
        slip = chance % (slips if request.kind == "propose" else 2 * slips) == 0
        return f"{name} adds {a} and {b}. The answer is \\boxed{{{a + b + slip}}}"

    return Scripted(reply=reply, logprob=-0.05 * (1 + slips % 3), model_name=name)


def ann() -> Scripted:
    return add("ann", 2)


def bo() -> Scripted:
    return add("bo", 3)


def cy() -> Scripted:
    return add("cy", 4)


def silent() -> Scripted:
    """A model whose endpoint tells no tokens."""
    return add("silent", 3).model_copy(update={"reports_usage": False})


def nobody() -> Scripted:
    """A model that must not be asked."""
    return Scripted(reply=lambda _: StatusError(400, "I was asked"), model_name="nobody")


def program(name: str, wrong: bool) -> Scripted:
    """A model that writes the function it is asked for, or a wrong one."""

    def reply(request: Request) -> Reply:
        [function] = {*re.findall(r"def (\w+)\(", request.messages[0].text)}
        sign = "-" if wrong or request.text.count("hard") else "+"
        return f"{name}:\n\n```python\ndef {function}(a, b):\n    return a {sign} b\n```"

    return Scripted(reply=reply, logprob=-0.2, model_name=name)


def dee() -> Scripted:
    return program("dee", wrong=True)


def eve() -> Scripted:
    return program("eve", wrong=False)


def fay() -> Scripted:
    return program("fay", wrong=False)


def sums(path: Path, count: int) -> Path:
    """Questions in the format of GSM8K."""
    rows = [
        {"question": f"What is {7 * k} and {k + 2} together?", "answer": f"So\n#### {8 * k + 2:,}"}
        for k in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
