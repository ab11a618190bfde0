"""How many calls and tokens an evaluation will take, measured with stand-in models.

One model always gives the same answer, so that nobody has anything to decide. The other never gives
the same answer twice, so that everybody refines until the rounds are over. Real models lie between.
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

from mpdf_langgraph import TextAnswer
from training.collect.questions import Question, leave_out_repeated, read_questions
from training.collect.team import open_critic
from training.evaluate.benchmarks import load, sample
from training.evaluate.methods import Method, Play, select
from training.evaluate.options import EvaluateOptions
from training.evaluate.routers import open_routers

BYTES_PER_TOKEN = 4
USUAL_TOKENS = 250
"""Length of an answer if neither an option nor a benchmark says it."""
TRIED = 8
"""Number of questions that the methods are tried on."""


class StandIn(BaseChatModel):
    """Answers with filler of a given length, and counts.

    Attributes:
        tokens: Length of every answer.
        agreeing: Give the same answer every time, in other words. False: never the same twice.
        calls: Calls so far.
        prompt_tokens: Of these calls.
        completion_tokens: Of these calls.
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
    """Reads the answers of a `StandIn`, with the instructions of another schema in the prompts."""

    def __init__(self, instructions: str) -> None:
        super().__init__()
        self.instructions = instructions


def make_agreeing() -> StandIn:
    """Return a model whose samples all agree."""
    return StandIn(tokens=1_000_000, agreeing=True)


def make_disagreeing() -> StandIn:
    """Return a model whose samples never agree."""
    return StandIn(tokens=1_000_000, agreeing=False)


@dataclass(frozen=True)
class Load:
    """What some questions take: calls to the server, and the tokens of these calls."""

    calls: float
    prompt_tokens: float
    completion_tokens: float


def _without_calls(critic: str) -> str:
    """Return a critic in place of one of the user's own, which would be asked.

    One that judges by a model becomes the self-critic, which makes as many calls.
    """
    if ":" not in critic:
        return critic
    judges = getattr(open_critic(critic), "judge", None) is not None
    return "self" if judges else "logprob"


async def _try(
    options: EvaluateOptions,
    methods: Sequence[Method],
    questions: Sequence[Question],
    factory: str,
    tokens: int,
) -> Load:
    """Run methods on some questions with a stand-in model."""
    team = replace(
        options.team,
        base_url=(),
        model=(),
        model_factory=(f"{__name__}:{factory}",),
        max_tokens=tokens,
    )
    schema = Words(options.team.answer_schema().instructions)
    with tempfile.TemporaryDirectory() as folder:
        stand_in = replace(options, team=team, critic=_without_calls(options.critic))
        bench = stand_in.open_bench(Path(folder), schema=schema)
        with closing(bench):
            for question in questions:
                play = Play(bench, question, methods)
                for method in methods:
                    for _, ask in method.runs:
                        await ask(play)
    model: Any = bench.agents[0].runnable
    return Load(model.inner.calls, model.inner.prompt_tokens, model.inner.completion_tokens)


def estimate(options: EvaluateOptions) -> str:
    """Return, in words, what the methods take on the test questions. Nobody is asked.

    Raises:
        MPDFError: An option, a file of questions or a router is wrong.
    """
    options = options.with_benchmark()
    routers = open_routers(options.router, options)
    methods = select(
        options.method_names(), routers, options, options.team.agents, control=options.control
    )
    if benchmark := options.known_benchmark:
        questions = leave_out_repeated(load(benchmark, options.data, options.split))
    else:
        assert options.questions is not None  # options.check()
        questions = leave_out_repeated(read_questions(options.questions))
    questions = sample(questions, options.limit)
    usual = benchmark.usual_tokens if benchmark else USUAL_TOKENS
    tokens = options.usual_tokens or usual
    tried = questions[:: -(-len(questions) // TRIED)]
    scale = len(questions) / len(tried)
    least, most = (
        asyncio.run(_try(options, methods, tried, factory, tokens))
        for factory in ("make_agreeing", "make_disagreeing")
    )

    def between(name: str) -> str:
        low, high = (scale * getattr(load, name) for load in (least, most))
        return f"{low:,.0f} to {high:,.0f}"

    return (
        f"{len(questions):,} questions to ask, answers of about {tokens} tokens\n"
        f"calls:             {between('calls')}\n"
        f"prompt tokens:     {between('prompt_tokens')}\n"
        f"completion tokens: {between('completion_tokens')}\n"
        "The first number is for agents that always agree, the second for agents that never do. "
        f"{BYTES_PER_TOKEN} bytes count as a token. An endpoint with a prefix cache computes far "
        "fewer of the prompt tokens. Validation questions are not included."
    )
