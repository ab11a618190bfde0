"""Models that the commands of `training` make by name, in their own process too."""

import os
import zlib
from collections import Counter

from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Prompts
from tests.support.scripted import Reply, Request, Scripted, StatusError

PROMPTS = Prompts(propose="MINE: {question} {instructions}")
NO_PROMPTS = "text"


def wavering(request: Request) -> Reply:
    """One of three answers, by the words and the number of the request."""
    answer = zlib.crc32(f"{request.number} {request.text}".encode()) % 3
    return f"I say {answer}. The answer is {answer}"


def make() -> Scripted:
    """A model that disagrees with itself. A call takes DELAY seconds."""
    delay = float(os.environ.get("DELAY", "0"))
    return Scripted(reply=wavering, logprob=-0.3, model_name="wavering", delay=delay)


def other() -> Scripted:
    return Scripted(reply=wavering, logprob=-0.3, model_name="other")


def down() -> Scripted:
    return Scripted(reply=lambda _: StatusError(400, "out of order"), model_name="down")


def flaky() -> Scripted:
    """The second time it hears a question it proposes an answer, not before."""
    heard: Counter[str] = Counter()

    def reply(request: Request) -> Reply:
        if request.kind == "propose":
            heard[request.text] += 1
            if heard[request.text] == 1:
                return StatusError(400, "not now")
        return wavering(request)

    return Scripted(reply=reply, logprob=-0.3, model_name="flaky")


def chain() -> RunnableLambda:
    return RunnableLambda(lambda _: "The answer is 5")


def no_model() -> str:
    return "a string"
