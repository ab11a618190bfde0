"""Whom questions are put to, and how: the team from its options, and many questions at a time.

What collecting traces and evaluating a router have in common. Models of one's own come in by
name (``module:function``), so that nothing here knows any of them.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import tyro
from langchain_core.runnables import Runnable
from tqdm import tqdm

from mpdf_langgraph import (
    Agent,
    AnswerSchema,
    ChoiceAnswer,
    CodeAnswer,
    CodeTests,
    ConfigurationError,
    MathAnswer,
    Prompts,
    TextAnswer,
    check_endpoint,
    vllm_chat_model,
)
from mpdf_langgraph.errors import EndpointError, describe_error
from training.collect.questions import Question

Answer = Literal["math", "choice", "text", "code"]

# --- models ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Whom to ask, and how answers are read."""

    base_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An OpenAI-compatible server. Several (give the option again) are dealt out to the agents
    in turn, each with the model of the same place."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A served model's name; may be left out where the server serves only one."""
    api_key: str | None = None
    """Key for the servers, if they want one."""
    model_factory: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Instead of servers: module:function that is called without arguments and returns a chat
    model (or any Runnable). Several are dealt out to the agents in turn."""
    agents: int = 3
    """Agents in the team, named agent-1, agent-2, ..."""
    prompts: str | None = None
    """module:NAME of a `Prompts` of your own; the plugin's otherwise."""
    temperature: float = 1.0
    """Sampling temperature of proposals; refinements are sampled at 0.6 at most."""
    max_tokens: int | None = None
    """Longest answer in tokens; as the model was made otherwise (1024 for servers)."""
    timeout: float = 300.0
    """Seconds without a sign of life from a server before a call fails."""
    answer: Answer = "math"
    """How answers are read and compared. Code is run in a sandbox; a question's reference is then
    what `CodeTests.to_json()` gives."""
    choices: int = 4
    """Number of choices of a multiple-choice question (--answer choice)."""

    @property
    def mixed(self) -> bool:
        """Whether the agents do not all have the same model."""
        return max(map(len, map(set, (self.base_url, self.model, self.model_factory)))) > 1

    def answer_schema(self) -> AnswerSchema:
        """Return the answer schema.

        Raises:
            SandboxError: Programs cannot be run here.
        """
        return answer_schema(self.answer, self.choices)

    def build_agents(self) -> list[Agent]:
        """Return the team; servers are checked first, with a line each on standard output.

        Raises:
            ConfigurationError: An option is wrong.
            EndpointError: A server cannot be deliberated with.
        """
        if self.agents < 1:
            raise ConfigurationError(f"--agents must be 1 or more, got {self.agents}")
        if bool(self.base_url) == bool(self.model_factory):
            raise ConfigurationError("give either --base-url or --model-factory")
        prompts = Prompts() if self.prompts is None else load_object(self.prompts)
        if not isinstance(prompts, Prompts):
            raise ConfigurationError(f"--prompts {self.prompts} is no mpdf_langgraph.Prompts")
        models = self._served() if self.base_url else self._made()
        sampling: dict[str, Any] = {"temperature": self.temperature}
        if self.max_tokens is not None:
            sampling["max_tokens"] = self.max_tokens
        team = []
        for number in range(self.agents):
            agent = Agent(f"agent-{number + 1}", models[number % len(models)], prompts=prompts)
            # Only chat models take sampling options; a chain or graph has its own.
            team.append(replace(agent, sampling=sampling) if agent.chat_model else agent)
        return team

    def _made(self) -> list[Runnable[Any, Any]]:
        if self.model:
            raise ConfigurationError("--model names a served model: it needs --base-url")
        models = [load_object(name)() for name in self.model_factory]
        for name, model in zip(self.model_factory, models, strict=True):
            if not isinstance(model, Runnable):
                raise ConfigurationError(
                    f"--model-factory {name} returned {type(model).__name__}; expected a chat "
                    "model or another LangChain Runnable"
                )
        return models

    def _served(self) -> list[Runnable[Any, Any]]:
        names: tuple[str | None, ...] = self.model or (None,)
        count = max(len(self.base_url), len(names))
        if len(self.base_url) not in (1, count) or len(names) not in (1, count):
            raise ConfigurationError(
                f"{len(self.base_url)} --base-url and {len(names)} --model do not pair up: give "
                "one of them once, or both equally often"
            )
        models: list[Runnable[Any, Any]] = []
        for place in range(count):
            url, name = self.base_url[place % len(self.base_url)], names[place % len(names)]
            status = check_endpoint(url, name, api_key=self.api_key)
            if not status.ok:
                raise EndpointError(status.message)
            print(status.message)
            if self.max_tokens and self.max_tokens > (status.max_model_len or self.max_tokens):
                raise ConfigurationError(
                    f"--max-tokens {self.max_tokens} is more than the {status.max_model_len} "
                    f"tokens of {status.models[0] if name is None else name} for prompt and "
                    "answer together: give less"
                )
            given = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
            models.append(
                vllm_chat_model(
                    url,
                    name or status.models[0],
                    api_key=self.api_key,
                    temperature=self.temperature,
                    timeout=self.timeout,
                    **given,
                )
            )
        return models


def answer_schema(name: Answer, choices: int = 4) -> AnswerSchema:
    """Return the answer schema of that name; `choices` is for ``"choice"`` alone.

    Raises:
        SandboxError: Programs cannot be run here.
    """
    if name == "code":
        return CodeAnswer()
    if name == "choice":
        return ChoiceAnswer(choices)
    return MathAnswer() if name == "math" else TextAnswer()


def grader(schema: AnswerSchema) -> Callable[[str, str], bool]:
    """Return what tells whether an answer is right, given the reference.

    The reference of a program is no other program but its tests. Testing takes up to seconds.
    """
    if isinstance(schema, CodeAnswer):
        return lambda answer, tests: schema.passes(answer, tests).passed
    return schema.equivalent


def check_references(questions: Iterable[Question], schema: AnswerSchema) -> None:
    """See that every reference can be read, before the first question is asked.

    One that cannot would be a wrong mark for every agent. The references of programs are tests.

    Raises:
        ConfigurationError: One cannot be read.
    """
    for question in questions:
        if question.reference is not None:
            try:
                _check_reference(question.reference, schema)
            except ConfigurationError as error:
                raise ConfigurationError(f"question {question.id!r}: {error}") from error


def _check_reference(reference: str, schema: AnswerSchema) -> None:
    if isinstance(schema, CodeAnswer):
        CodeTests.from_json(reference)
        return
    written = f"\\boxed{{{reference}}}" if isinstance(schema, MathAnswer) else reference
    if schema.parse(written) is None:
        raise ConfigurationError(
            f"the reference {reference!r:.200} cannot be read as an answer of {schema.name}"
        )


def load_object(name: str) -> Any:
    """Return what ``module:name`` stands for; the working folder is searched too.

    Raises:
        ConfigurationError: There is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"{name!r} must have the form module:name")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  (sys.path holds text)
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"cannot load {name}: {error}") from error


# --- runs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """What came of one question.

    Attributes:
        deliberation: The graph's outcome; None where the deliberation raised.
        error: What went wrong: the error raised, else the proposals that failed, else that the
            trace was not stored. None where all is well.
    """

    question: Question
    deliberation: dict[str, Any] | None
    error: str | None


async def run_all(
    graph: Any,
    questions: Sequence[Question],
    concurrency: int,
    label: str,
    on_failure: Callable[[Answered], None] | None = None,
) -> list[Answered]:
    """Ask a compiled graph all questions, a few at a time, under a progress bar.

    Args:
        graph: From `create_deliberation(...).compile()`.
        questions: What to ask.
        concurrency: Deliberations at a time.
        label: Stands before the progress bar.
        on_failure: Called at once with every question that went wrong.

    Returns:
        What came of each question, in their order. A failure stops nothing.
    """
    gate = asyncio.Semaphore(concurrency)
    failed = 0

    async def ask(question: Question) -> Answered:
        nonlocal failed
        async with gate:
            try:
                deliberation = (await graph.ainvoke(question.input()))["deliberation"]
                answered = Answered(question, deliberation, _fault(deliberation))
            except Exception as error:  # of any kind: the other questions must be answered
                answered = Answered(question, None, describe_error(error))
        if answered.error is not None:
            failed += 1
            bar.set_postfix(errors=failed, refresh=False)
            if on_failure:
                on_failure(answered)
        bar.update()
        return answered

    with tqdm(total=len(questions), desc=label, unit="question", mininterval=0.5) as bar:
        bar.set_postfix(errors=0)
        return await asyncio.gather(*(ask(question) for question in questions))


def _fault(deliberation: Mapping[str, Any]) -> str | None:
    faults = [f for f in deliberation["failures"] if f.partition(": ")[0].endswith(" propose")]
    if stored := deliberation.get("trace_error"):
        faults.append(f"the trace was not stored: {stored}")
    return "; ".join(faults) or None
