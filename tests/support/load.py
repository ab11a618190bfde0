"""Many deliberations against a server in a process of its own, and what they take."""

import asyncio
import gc
from typing import Any

from mpdf_langgraph import MPDFError, create_deliberation, vllm_chat_model


def deliberation(url: str, **options: Any) -> Any:
    """A team of three that proposes and votes: three calls a deliberation."""
    llm = vllm_chat_model(url, "tiny", **options)
    team = [llm, llm, llm]
    return create_deliberation(team, router="always-persist", critic=None).compile()


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
    """The process's resident memory in MB."""
    gc.collect()
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096 / 1e6
