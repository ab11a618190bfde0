"""Several questions at a time, for the tests of what answers one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from training.collect.questions import Question

T = TypeVar("T")


async def each(questions: Sequence[Question], ask: Callable[[Question], Awaitable[T]]) -> list[T]:
    return await asyncio.gather(*(ask(question) for question in questions))
