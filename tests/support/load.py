"""Many deliberations, by a server in a process of its own or without one, and what they take."""

import asyncio
import gc
import random
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from mpdf_langgraph import MPDFError, create_deliberation, vllm_chat_model

T = TypeVar("T")


def deliberation(url: str, **options: Any) -> Any:
    """A team of three that proposes and votes: three calls a deliberation."""
    llm = vllm_chat_model(url, "tiny", **options)
    team = [llm, llm, llm]
    return create_deliberation(team, router="always-persist", critic=None).compile()


class Guesses(BaseChatModel):
    """A model that guesses, and remembers nothing of it."""

    @property
    def _llm_type(self) -> str:
        return "guesses"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        usage: Any = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
        logprobs = {"content": [{"token": "A", "logprob": -random.random()}]}
        message = AIMessage(
            f"Answer: {random.randrange(10**6)}",
            usage_metadata=usage,
            response_metadata={"logprobs": logprobs},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        return self._generate()


def guessing(traces: Path) -> Any:
    """A team of two that guesses, and then decides once by chance."""
    team = [Guesses() for _ in range(2)]
    return create_deliberation(
        team, router="random", critic="logprob", max_rounds=1, traces=traces
    ).compile()


async def failures_of(graph: Any, count: int, at_once: int) -> list[str]:
    """Ask `count` questions, and return what failed: proposals and whole deliberations."""
    gate = asyncio.Semaphore(at_once)

    async def ask(number: int) -> list[str]:
        async with gate:
            try:
                out = await graph.ainvoke({"question": f"Question {number}?"})
            except MPDFError as error:
                return [str(error)]
            return [str(failure["error"]) for failure in out["deliberation"]["failures"]]

    return [error for errors in await asyncio.gather(*map(ask, range(count))) for error in errors]


def memory() -> float:
    """The process's resident memory in MB, without what is garbage."""
    gc.collect()
    return resident()


def resident() -> float:
    """The process's resident memory in MB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096 / 1e6


async def peak_of(work: Awaitable[T]) -> tuple[T, float]:
    """Return what some work returns, and the most resident memory in MB while it is under way."""
    task = asyncio.ensure_future(work)
    peak = resident()
    while not task.done():
        await asyncio.wait([task], timeout=0.5)
        peak = max(peak, resident())
    return task.result(), peak
