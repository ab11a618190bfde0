"""What a real vLLM server does for deliberations: tokens a second, and hits of its prefix cache.

*Tokens a second* are those of debates, prompts included, over those of the same requests sent raw:
bodies that are ready, and replies of which nothing is read but their usage. Both have as many
questions under way, and both wait for a round before they send the next. They take turns. Every
question has a number of its own in front, so that no run finds its prompts in the cache.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any, TypeVar

import httpx2
from langchain_core.messages import convert_to_openai_messages

from mpdf_langgraph import Prompts, vllm_chat_model
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.models.endpoints import read_prefix_cache
from mpdf_langgraph.models.prefix_cache import known_share
from training.studies.speed_cases import CASES, QUESTION, Case, Requests, deliberate, record
from training.studies.speed_report import Row

T = TypeVar("T")
MAX_TOKENS = 100
"""Longest reply where throughput is measured."""


async def measure_prefixes(url: str, endpoint: str | None, repeats: int) -> list[Row]:
    """Return how much of the prompts of a debate was computed before.

    Args:
        url: The server that costs nothing.
        endpoint: A vLLM server. Debates run there too, and its metrics tell the rate.
        repeats: How often.
    """
    case = CASES[1]
    requests = await record(case.build(vllm_chat_model(url, "speed")).compile())
    share = 100 * known_share([messages for calls in requests for messages, _ in calls])
    rows = [
        Row.of(f"prompts known to a prefix cache: {case.name}", [share], unit="% of characters")
    ]
    if endpoint is None:
        return rows
    for critic in (None, "self"):
        debate = replace(case, critic=critic).build(vllm_chat_model(endpoint)).compile()
        rates = []
        for _ in range(repeats):
            before = read_prefix_cache(endpoint)
            await deliberate(debate, question=f"{uuid.uuid4().hex[:8]}: {QUESTION}")
            after = read_prefix_cache(endpoint)
            if before is None or after is None or (rate := (after - before).rate) is None:
                raise ConfigurationError(f"{endpoint} tells nothing of a prefix cache")
            rates.append(100 * rate)
        name = f"hit rate of the prefix cache: {case.name}, critic {critic}"
        rows.append(Row.of(name, rates, unit="% of tokens"))
    return rows


async def measure_throughput(
    url: str,
    name: str | None = None,
    *,
    prompts: Prompts | None = None,
    repeats: int,
    questions: int,
    at_once: int,
) -> list[Row]:
    """Return the tokens a second of debates over those of their requests sent raw."""
    model = vllm_chat_model(url, name, max_tokens=MAX_TOKENS)
    graph = Case("debate 3 × 2", 3, 2, prompts=prompts or Prompts()).build(model).compile()
    numbers = map("{:06d}".format, count(int(time.time()) % 900_000))
    recorded: dict[str, Requests] = {}
    body = {"model": model.model_name, "max_completion_tokens": MAX_TOKENS, "logprobs": True}

    async def keep(number: str) -> int:
        recorded[number] = await record(graph, f"{number}: {QUESTION}")
        return 0

    async def debate(number: str) -> int:
        state = await deliberate(graph, f"{number}: {QUESTION}")
        return int(state["deliberation"]["usage"]["total"]["tokens"])

    async def send_all(rounds: list[list[dict[str, Any]]]) -> int:
        return sum([sum(await asyncio.gather(*map(send, calls))) for calls in rounds])

    async def send(content: dict[str, Any]) -> int:
        reply = await client.post("chat/completions", json=content)
        return int(reply.raise_for_status().json()["usage"]["total_tokens"])

    ours, raw = [], []
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=300.0, limits=limits) as client:
        await _rate(keep, [*islice(numbers, questions)], at_once)
        for _ in range(repeats):
            ready = [
                bodies(requests, body, old, next(numbers)) for old, requests in recorded.items()
            ]
            raw.append(await _rate(send_all, ready, at_once))
            ours.append(await _rate(debate, [*islice(numbers, questions)], at_once))
    ratios = [own / bare for own, bare in zip(ours, raw, strict=True)]
    return [
        Row.of("tokens a second, debates", ours, unit="/s"),
        Row.of("tokens a second, raw requests", raw, unit="/s"),
        Row.of("tokens a second, debates / raw", ratios, aim=0.95, at_least=True),
    ]


def bodies(
    requests: Requests, shared: dict[str, Any], old: str, new: str
) -> list[list[dict[str, Any]]]:
    """Return the bodies of recorded requests by round, with another number before the question."""
    found: list[list[dict[str, Any]]] = []
    for calls in requests:
        found.append([])
        for messages, heat in calls:
            texts = convert_to_openai_messages(messages)
            said = [{**text, "content": text["content"].replace(old, new)} for text in texts]
            found[-1].append({**shared, "temperature": heat, "messages": said})
    return found


async def _rate(ask: Callable[[T], Awaitable[int]], questions: Sequence[T], at_once: int) -> float:
    """Return tokens a second, with so many questions under way."""
    waiting = iter(questions)

    async def work() -> int:
        return sum([await ask(question) for question in waiting])

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(work() for _ in range(at_once))))
    return tokens / (time.perf_counter() - began)
