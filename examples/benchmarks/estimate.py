"""What a run will cost, measured: the methods run on a few questions with stand-in models.

One model always says the same, so that nobody has anything to decide; the other never says the
same twice, so that everybody refines until the rounds are over. Real models lie between.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from examples.benchmarks.loaders import Benchmark
from examples.benchmarks.team import Team
from mpdf_langgraph import TextAnswer
from training.collect.questions import Question
from training.collect.team import Source
from training.evaluate.methods import Method, Play, Setting

BYTES_PER_TOKEN = 4
LOOKED_AT = 8
"""Questions that the methods are tried on."""


class StandIn(BaseChatModel):
    """Says nothing in so many tokens, and counts.

    Attributes:
        tokens: Length of every answer.
        agreeing: Give the same answer every time, in other words, else never the same one twice.
        calls: Calls so far, also `prompt_tokens` and `completion_tokens`.
    """

    tokens: int
    agreeing: bool
    temperature: float | None = None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _numbers: Any = PrivateAttr(default_factory=lambda: itertools.count(1))

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        number = next(self._numbers)
        asked = sum(3 + len(str(m.text).encode()) // BYTES_PER_TOKEN for m in messages)
        said = min(self.tokens, kwargs.get("max_tokens") or self.tokens)  # a critic asks for one
        self.calls += 1
        self.prompt_tokens += asked
        self.completion_tokens += said
        token = {"token": "no", "logprob": -0.5, "top_logprobs": [{"token": "no", "logprob": -0.5}]}
        message = AIMessage(
            f"{number:<{said * BYTES_PER_TOKEN}}. Answer: {0 if self.agreeing else number}",
            response_metadata={"logprobs": {"content": [token] * said}, "finish_reason": "stop"},
            usage_metadata={
                "input_tokens": asked,
                "output_tokens": said,
                "total_tokens": asked + said,
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


class Words(TextAnswer):
    """Reads what a `StandIn` says, with another schema's instructions in the prompts."""

    def __init__(self, instructions: str) -> None:
        super().__init__()
        self.instructions = instructions


@dataclass(frozen=True)
class Cost:
    """What some questions take: calls to the server, and tokens of these calls."""

    calls: float
    prompt_tokens: float
    completion_tokens: float


async def _cost(
    benchmark: Benchmark,
    source: Source,
    setting: Setting,
    methods: Sequence[Method],
    questions: Sequence[Question],
    agreeing: bool,
    tokens: int,
) -> Cost:
    factory = "stand_in_agreeing" if agreeing else "stand_in_quarrelling"
    made = replace(
        source, base_url=(), model=(), model_factory=(f"{__name__}:{factory}",), max_tokens=tokens
    )
    with tempfile.TemporaryDirectory() as folder:
        schema = Words(benchmark.schema().instructions)
        with closing(Team(benchmark, schema, made, setting, Path(folder))) as team:
            for question in questions:
                play = Play(team, [question], methods)
                for method in methods:
                    for _, ask in method.runs:
                        await ask(play)
    model: Any = team.agents[0].runnable
    return Cost(model.inner.calls, model.inner.prompt_tokens, model.inner.completion_tokens)


def stand_in_agreeing() -> StandIn:
    """Make a model whose samples all agree."""
    return StandIn(tokens=1_000_000, agreeing=True)


def stand_in_quarrelling() -> StandIn:
    """Make a model whose samples never agree."""
    return StandIn(tokens=1_000_000, agreeing=False)


def estimate(
    benchmark: Benchmark,
    source: Source,
    setting: Setting,
    methods: Sequence[Method],
    questions: Sequence[Question],
    *,
    tokens: int,
) -> tuple[Cost, Cost]:
    """Return what a run on these questions takes if agents always agree, and if they never do.

    Args:
        benchmark: Gives the instructions in the prompts.
        source: The team; nobody in it is asked.
        setting: See `Setting`.
        methods: From `training.evaluate.methods.select`.
        questions: All that would be asked; a few of them are looked at.
        tokens: Length of a model's answer.
    """
    step = -(-len(questions) // LOOKED_AT)
    looked_at = questions[::step]
    scale = len(questions) / len(looked_at)
    least, most = (
        asyncio.run(_cost(benchmark, source, setting, methods, looked_at, agreeing, tokens))
        for agreeing in (True, False)
    )
    return (
        Cost(*(scale * n for n in vars(least).values())),
        Cost(*(scale * n for n in vars(most).values())),
    )


def told(least: Cost, most: Cost, questions: int, tokens: int) -> str:
    """Return an estimate in words."""

    def between(low: float, high: float) -> str:
        return f"{low:,.0f} to {high:,.0f}"

    return (
        f"{questions:,} questions to ask, answers of about {tokens} tokens\n"
        f"calls:             {between(least.calls, most.calls)}\n"
        f"prompt tokens:     {between(least.prompt_tokens, most.prompt_tokens)}\n"
        f"completion tokens: {between(least.completion_tokens, most.completion_tokens)}\n"
        "The first number is for agents that always agree, the second for agents that never do; "
        f"{BYTES_PER_TOKEN} bytes count as a token. An endpoint with a prefix cache computes far "
        "fewer of the prompt tokens."
    )
