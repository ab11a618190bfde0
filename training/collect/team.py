"""The team from its options, for collecting traces and for evaluating a router.

Models of your own are given by name (``module:function``).
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import tyro
from langchain_core.runnables import Runnable

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
from mpdf_langgraph.critic import BudgetedCritic, make_critic
from mpdf_langgraph.errors import EndpointError, describe_error
from training.collect.questions import Question

Answer = Literal["math", "choice", "text", "code"]


@dataclass(frozen=True)
class TeamOptions:
    """The team to ask, and how its answers are read."""

    base_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An OpenAI-compatible server, or several servers of one model with commas in between. Give the
    option again for more models: the agents get them in turn, each with the model of the same
    place."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A served model's name. It may be left out if the server serves only one."""
    api_key: str | None = None
    """Key for the servers, if they need one."""
    model_factory: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Instead of servers: module:function that is called without arguments and returns a chat
    model (or any Runnable). Give the option again for more: the agents get them in turn."""
    agents: int = 3
    """Agents in the team, named agent-1, agent-2, ..."""
    prompts: str | None = None
    """module:NAME of a `Prompts` of your own. Default: the plugin's."""
    temperature: float = 1.0
    """Sampling temperature of proposals. Refinements are sampled at 0.6 at most."""
    max_tokens: int | None = None
    """Longest answer in tokens. Default: as the model was made (1024 for servers)."""
    timeout: float = 300.0
    """A call fails after so many seconds without a byte from the server."""
    answer: Answer = "math"
    """How answers are read and compared. Code runs in a sandbox, and a question's reference is
    then what `CodeTests.to_json()` gives."""
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
        """Return the team. Servers are checked first, and a line is printed for each.

        Raises:
            ConfigurationError: An option is wrong.
            EndpointError: A server cannot be deliberated with.
        """
        for name in ("agents", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise ConfigurationError(f"--{option} must be 1 or more, got {value}")
        if not self.timeout > 0:
            raise ConfigurationError(f"--timeout must be above 0, got {self.timeout}")
        if bool(self.base_url) == bool(self.model_factory):
            raise ConfigurationError("give either --base-url or --model-factory")
        prompts = Prompts() if self.prompts is None else load_object(self.prompts)
        if not isinstance(prompts, Prompts):
            raise ConfigurationError(f"--prompts {self.prompts} is not a mpdf_langgraph.Prompts")
        models = self._serve_models() if self.base_url else self._make_models()
        sampling: dict[str, Any] = {"temperature": self.temperature}
        if self.max_tokens is not None:
            sampling["max_tokens"] = self.max_tokens
        team = []
        for number in range(self.agents):
            agent = Agent(f"agent-{number + 1}", models[number % len(models)], prompts=prompts)
            # Only chat models take sampling options. A chain or graph has its own.
            team.append(replace(agent, sampling=sampling) if agent.chat_model else agent)
        return team

    def _make_models(self) -> list[Runnable[Any, Any]]:
        if self.model:
            raise ConfigurationError("--model names a served model: it needs --base-url")
        models = [make_object(name) for name in self.model_factory]
        for name, model in zip(self.model_factory, models, strict=True):
            if not isinstance(model, Runnable):
                raise ConfigurationError(
                    f"--model-factory {name} returned {type(model).__name__}; expected a chat "
                    "model or another LangChain Runnable"
                )
        return models

    def _serve_models(self) -> list[Runnable[Any, Any]]:
        names: tuple[str | None, ...] = self.model or (None,)
        count = max(len(self.base_url), len(names))
        if len(self.base_url) not in (1, count) or len(names) not in (1, count):
            raise ConfigurationError(
                f"{len(self.base_url)} --base-url and {len(names)} --model do not pair up: give "
                "one of them once, or both equally often"
            )
        models: list[Runnable[Any, Any]] = []
        for place in range(count):
            urls = self.base_url[place % len(self.base_url)].split(",")
            name = names[place % len(names)]
            for url in urls:
                name = self._check_server(url, name)
            given = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
            models.append(
                vllm_chat_model(
                    urls,
                    name,
                    api_key=self.api_key,
                    temperature=self.temperature,
                    timeout=self.timeout,
                    **given,
                )
            )
        return models

    def _check_server(self, url: str, name: str | None) -> str:
        """Check a server, and return the name of its model. None: it serves only one."""
        status = check_endpoint(url, name, api_key=self.api_key)
        if not status.ok:
            raise EndpointError(status.message)
        print(status.message)
        name = name or status.models[0]
        if self.max_tokens and self.max_tokens > (status.max_model_len or self.max_tokens):
            raise ConfigurationError(
                f"--max-tokens {self.max_tokens} is more than the {status.max_model_len} tokens of "
                f"{name} for prompt and answer together: give less"
            )
        return name


def answer_schema(name: Answer, choices: int = 4) -> AnswerSchema:
    """Return the answer schema of that name. `choices` counts for ``"choice"`` only.

    Raises:
        SandboxError: Programs cannot be run here.
    """
    if name == "code":
        return CodeAnswer()
    if name == "choice":
        return ChoiceAnswer(choices)
    return MathAnswer() if name == "math" else TextAnswer()


def grader(schema: AnswerSchema) -> Callable[[str, str], bool]:
    """Return the function that tells whether an answer is right, given the reference.

    The reference of a program is its tests, not another program. Testing takes up to seconds.
    """
    if isinstance(schema, CodeAnswer):
        return lambda answer, tests: schema.passes(answer, tests).passed
    return schema.equivalent


@cache
def remembering_grader(name: Answer) -> Callable[[str, str], bool]:
    """Return the grader for an answer schema, the same one throughout a process.

    It grades an answer once. Many fits on the same answers then take no longer to grade than one.

    Raises:
        SandboxError: Programs cannot be run here.
    """
    return cache(grader(answer_schema(name)))


def check_references(questions: Iterable[Question], schema: AnswerSchema) -> None:
    """See that every reference can be read, before the first question is asked.

    One that cannot would be a wrong mark for every agent. The references of programs are tests. A
    program that does nothing is put to them.

    Raises:
        ConfigurationError: One cannot be read.
    """
    for question in questions:
        if question.reference is not None:
            try:
                check_reference(question.reference, schema)
            except ConfigurationError as error:
                raise ConfigurationError(f"question {question.id!r}: {error}") from error


def check_reference(reference: str, schema: AnswerSchema) -> None:
    """See that a reference can be read, and that a program's tests can be run.

    Raises:
        ConfigurationError: It cannot.
        SandboxError: Programs cannot be run here.
    """
    if isinstance(schema, CodeAnswer):
        tests = CodeTests.from_json(reference)
        schema.passes(f"def {tests.entry_point}(*_, **__): ...", tests)
        return
    written = f"\\boxed{{{reference}}}" if isinstance(schema, MathAnswer) else reference
    if schema.parse(written) is None:
        raise ConfigurationError(
            f"the reference {reference!r:.200} cannot be read as an answer of {schema.name}"
        )


def open_critic(critic: str) -> BudgetedCritic | None:
    """Return the critic of that name, or the one that `module:function` makes.

    Raises:
        ConfigurationError: There is none.
    """
    judge = make_object(critic) if ":" in critic else critic
    return make_critic(None if judge == "none" else judge)


def load_object(name: str) -> Any:
    """Return the object that ``module:name`` names. The working folder is searched too.

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
    except Exception as error:  # whatever the module does while it is imported
        raise ConfigurationError(f"cannot load {name}: {describe_error(error)}") from error


def make_object(name: str) -> Any:
    """Return what the function gives that ``module:name`` names.

    Raises:
        ConfigurationError: There is no such function, or it fails.
    """
    make = load_object(name)
    try:
        return make()
    except Exception as error:
        raise ConfigurationError(f"{name}() failed: {describe_error(error)}") from error
