"""Agents: named models that propose and refine answers, over any LangChain Runnable."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableWithFallbacks,
)
from langchain_core.runnables.retry import RunnableRetry
from langgraph.pregel.protocol import PregelProtocol

from mpdf_langgraph.answers.schema import AnswerSchema
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.frames import break_template_tokens, make_fence
from mpdf_langgraph.history import readable_history, with_question
from mpdf_langgraph.models.remote import is_remote, remote_runnable
from mpdf_langgraph.options import check_number
from mpdf_langgraph.prompts import Prompts
from mpdf_langgraph.replies import read_reply
from mpdf_langgraph.runtime.budget import OUTPUT_LIMITS, output_limit, text_bound
from mpdf_langgraph.runtime.calls import Call
from mpdf_langgraph.secrets import header_values, hide_secrets, hide_secrets_of

#: Refinements are sampled no hotter than this: most of the damage that refining does to right
#: answers is sampling heat.
REFINE_TEMPERATURE = 0.6
_SAMPLING_IN_TRACES = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "seed",
    "stop", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def _unbound(runnable: Any) -> Any:
    """Return what is below any bindings."""
    while isinstance(runnable, RunnableBinding):
        runnable = runnable.bound
    return runnable


@dataclass(frozen=True)
class Agent:
    """A named model with its own prompt, private context and sampling.

    Attributes:
        name: Unique in the team. It stands in traces, events and `contexts`.
        runnable: A chat model, or a chain that takes a list of messages, or a graph with
            `messages` in its state. A graph may use tools. It is compiled here or a `RemoteGraph`.
        system_prompt: Role or instructions, before the private context.
        context: A callable of the question, such as a retriever. Only this agent sees its
            result. It is called once per question, unless the input's `contexts` has the agent.
        prompts: The agent's own wording.
        sampling: Keyword arguments bound to a chat model for proposing, e.g.
            ``{"temperature": 1.0, "max_tokens": 512}``. Empty: as the model was made.
        refine_sampling: The same for refining. None: as `sampling`, at a temperature of at
            most 0.6. ``{}``: as the model was made, for models that refuse a temperature.
        competence: Prior probability that the agent is right, for the observation. None: what
            the router knows of an agent of that name, else 0.5.
        price: What a token of the agent counts, in `max_cost` and where ``recruit="adaptive"``
            weighs whether to ask it. A token of a 70B model may count as nine of an 8B model.
        retries: Further tries after a transient failure (connection, 429, 5xx, unusable
            output). `Retry-After` is honoured, up to a minute and within the question's
            deadline. Requests are left to a client that has retries of its own. Give it none
            (`max_retries=0`), and the deadline and the budget count for every try.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> Agent("ann", FakeListChatModel(responses=["42"])).describe()["model"]
        'FakeListChatModel'
    """

    name: str
    runnable: Runnable[Any, Any]
    system_prompt: str = ""
    context: Callable[[str], Any] | Runnable[str, Any] | None = None
    prompts: Prompts = Prompts()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    refine_sampling: Mapping[str, Any] | None = None
    competence: float | None = None
    price: float = 1.0
    retries: int = 2

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and self.name
        if not named or any(c in self.name for c in "@+\n"):
            raise ConfigurationError(
                f"agent name {self.name!r}: use a non-empty name without '@', '+' or line breaks"
            )
        if not isinstance(self.runnable, Runnable):
            raise ConfigurationError(
                f"agent {self.name!r}: expected a LangChain Runnable (chat model, chain or "
                f"compiled graph), got {type(self.runnable).__name__}. Wrap a plain function in "
                "RunnableLambda, and compile a graph builder first"
            )
        if not isinstance(self.system_prompt, str):
            raise ConfigurationError(
                f'agent {self.name!r}: system_prompt must be text, "" for none, got '
                f"{self.system_prompt!r:.80}"
            )
        for option, settings in (
            ("sampling", self.sampling),
            ("refine_sampling", self.refine_sampling or {}),
        ):
            if not isinstance(settings, Mapping):
                raise ConfigurationError(
                    f"agent {self.name!r}: {option} must be a dict of options of the model, got "
                    f"{settings!r:.80}"
                )
            cooled = f"agent {self.name!r}: {option}['temperature']"
            check_number(cooled, settings.get("temperature"), 0, optional=True)
        if self.chat_model is None and (self.sampling or self.refine_sampling):
            raise ConfigurationError(
                f"agent {self.name!r}: sampling can only be set for a chat model. Set it inside "
                f"the {type(self.runnable).__name__}"
            )
        if not isinstance(self.prompts, Prompts):
            raise ConfigurationError(
                f"agent {self.name!r}: prompts must be Prompts(...), got {self.prompts!r:.80}"
            )
        check_number(f"agent {self.name!r}: competence", self.competence, 0, 1, optional=True)
        check_number(f"agent {self.name!r}: price", self.price, 0)
        check_number(f"agent {self.name!r}: retries", self.retries, 0, whole=True)
        if self.context is not None and not isinstance(self.context, Runnable | Callable):
            raise ConfigurationError(
                f"agent {self.name!r}: context is a callable of the question, such as a "
                "retriever. Give fixed text as system_prompt, or per question as "
                "`contexts` in the graph's input"
            )
        for settings in (self.sampling, self.refine_sampling or {}):
            if any(told.get("n") not in (None, 1) for told in self._told(settings)):
                raise ConfigurationError(
                    f"agent {self.name!r}: leave out n, also in its model and in what is bound to "
                    "that. More agents or alternatives give more samples"
                )
        if getattr(self.runnable, "checkpointer", None) is True:
            raise ConfigurationError(
                f"agent {self.name!r}: compile it without checkpointer=True, or agents would "
                "remember one another's private messages. The outer graph's checkpointer serves "
                "its interrupts"
            )

        hide_secrets_of(self.runnable)
        hide_secrets(*header_values({"1": self.sampling, "2": self.refine_sampling}))

    def __repr__(self) -> str:
        """Return the name and the model. A model may show its headers."""
        return f"Agent({self.name!r}, {self.describe()['model']!r})"

    @cached_property
    def _is_graph(self) -> bool:
        return isinstance(self.runnable, PregelProtocol)

    @cached_property
    def chat_model(self) -> BaseChatModel | None:
        """The chat model below any bindings. None for chains and graphs."""
        inner = _unbound(self.runnable)
        return inner if isinstance(inner, BaseChatModel) else None

    @property
    def hidden_by(self) -> str | None:
        """What hides a chat model, so that it is not asked for a verdict. None if nothing does."""
        inner, hidden, by = _unbound(self.runnable), None, ""
        if isinstance(inner, RunnableRetry):
            hidden, by = inner.bound, "with_retry()"
        elif isinstance(inner, RunnableWithFallbacks):
            hidden, by = inner.runnable, "with_fallbacks()"
        return by if isinstance(_unbound(hidden), BaseChatModel) else None

    @property
    def _bound_arguments(self) -> dict[str, Any]:
        """The keyword arguments that the given bindings pass to the chat model."""
        inner: Any = self.runnable
        bound: dict[str, Any] = {}
        while isinstance(inner, RunnableBinding):
            bound = {**inner.kwargs, **bound}
            inner = inner.bound
        return bound

    def _told(self, sampling: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What a request is told: by the call, by the model, and in the extra part of its body."""
        model = self.chat_model
        if model is None:
            return []
        call = {**self._bound_arguments, **sampling}
        made = {key: getattr(model, key, None) for key in ("n", *OUTPUT_LIMITS)}
        extra: dict[str, Any] = {}
        for body in (getattr(model, "extra_body", None), call.get("extra_body")):
            extra |= body if isinstance(body, Mapping) else {}
        return [call, made, extra]

    def sampling_for(self, *, refine: bool) -> dict[str, Any]:
        """Return the keyword arguments to bind for proposing or refining."""
        if not refine:
            return dict(self.sampling)
        if self.refine_sampling is not None:
            return dict(self.refine_sampling)
        model = self.chat_model
        if model is None or not hasattr(model, "temperature"):
            return dict(self.sampling)
        own = {**self._bound_arguments, **self.sampling}.get("temperature", model.temperature)
        cooled = REFINE_TEMPERATURE if own is None else min(own, REFINE_TEMPERATURE)
        return {**self.sampling, "temperature": cooled}

    def largest_output(self, *, refine: bool) -> int | None:
        """Return the most tokens that one call may generate, None if nothing says so."""
        told = self._told(self.sampling_for(refine=refine))
        if not told:
            return None
        call, made, extra = told
        # Which of two names wins depends on the client and the server.
        return output_limit(call if any(key in call for key in OUTPUT_LIMITS) else made, extra)

    def schema_bound(self) -> int:
        """Return an upper bound on what bound tools and formats add to every prompt."""
        made = {**self._bound_arguments, **self.sampling}
        parts = [made.get(key) for key in ("tools", "functions", "response_format")]
        return sum(text_bound(json.dumps(part, default=str)) for part in parts if part)

    def describe(self) -> dict[str, Any]:
        """Return what a trace says of the agent: plain data without keys or URLs."""
        model = self.chat_model
        name = getattr(model, "model_name", None) or getattr(model, "model", None)
        kept = {
            key: {k: v for k, v in sampling.items() if k in _SAMPLING_IN_TRACES}
            for key, sampling in (
                ("sampling", self._effective_sampling(refine=False)),
                ("refine_sampling", self._effective_sampling(refine=True)),
            )
        }
        return {
            "name": self.name,
            "model": name if isinstance(name, str) else type(model or self.runnable).__name__,
            "competence": None if self.competence is None else float(self.competence),
            **({} if self.price == 1 else {"price": float(self.price)}),
            **kept,
        }

    def _effective_sampling(self, *, refine: bool) -> dict[str, Any]:
        made = {
            key: value
            for key in _SAMPLING_IN_TRACES
            if isinstance(value := getattr(self.chat_model, key, None), int | float | str)
        }
        return {**made, **self._bound_arguments, **self.sampling_for(refine=refine)}

    def conversation(
        self,
        question: str,
        *,
        schema: AnswerSchema,
        history: Sequence[BaseMessage],
        notes: str,
        attachments: Sequence[dict[str, Any]] = (),
    ) -> list[BaseMessage]:
        """Return the messages that ask for a proposal.

        The history is reduced to what a model can read. `notes` are what only this agent knows, if
        anything. `attachments` are content blocks of the question, such as images.
        """
        private = self.prompts.context.format(context=notes) if notes else ""
        told = [SystemMessage(self.system_prompt), *history, SystemMessage(private)]
        template = self.prompts.template("propose", private=bool(notes))
        asked = template.format(question=question, instructions=schema.instructions)
        return with_question(readable_history(told), asked.strip(), attachments)

    def refine_turn(
        self,
        question: str,
        *,
        schema: AnswerSchema,
        own: str | None,
        peers: Mapping[str, str],
        hints: Sequence[str] = (),
        private: bool = False,
    ) -> list[BaseMessage]:
        """Return the messages that, after `conversation`, ask for a refined answer.

        `private`: `conversation` had notes.

        No text of a peer or a person can pass for one of another (see `frames`).
        """
        own = break_template_tokens(self.prompts.no_response if own is None else own)
        texts = {name: break_template_tokens(text) for name, text in peers.items()}
        hints = [break_template_tokens(hint) for hint in hints]
        fence = make_fence([question, own, *texts, *texts.values(), *hints])
        peer, hint = self.prompts.peer, self.prompts.hint
        said = [peer.format(name=name, response=t, fence=fence) for name, t in texts.items()]
        told = [hint.format(hint=text, fence=fence) for text in hints]
        template = self.prompts.template("refine", private=private)
        asked = template.format(
            question=question,
            own=own,
            peers="\n".join([*said, *told]),
            fence=fence,
            instructions=schema.instructions,
        )
        return [AIMessage(own), HumanMessage(asked.strip())]

    def critique_turn(
        self, question: str, response: str, *, reasoning: bool = False
    ) -> list[BaseMessage]:
        """Return the messages that, after a conversation, ask for a verdict on `response`."""
        response = break_template_tokens(response)
        prompt = self.prompts.critique_reasoning if reasoning else self.prompts.critique
        asked = prompt.format(question=question, response=response)
        return [AIMessage(response), HumanMessage(asked)]

    def call(
        self,
        messages: list[BaseMessage],
        *,
        refine: bool,
        retries: int,
        bound: int | Callable[[], int],
        deadline: float | None,
        config: RunnableConfig,
        calls: int | None = None,
        response_schema: Mapping[str, Any] | None = None,
    ) -> Call:
        """Return the call that answers `messages`. The value of its result is a `Reply`.

        `response_schema` is a JSON schema. Where `vllm_chat_model` made the agent's model, it is
        asked for as structured output.
        """
        runnable = self.runnable
        sampling = self.sampling_for(refine=refine)
        if response_schema is not None and getattr(self.chat_model, "structured_outputs", False):
            sampling["extra_body"] = {
                **(getattr(self.chat_model, "extra_body", None) or {}),
                **{**self._bound_arguments, **sampling}.get("extra_body", {}),
                "structured_outputs": {"json": dict(response_schema)},
            }
        if sampling:
            runnable = runnable.bind(**sampling)
        if is_remote(self.runnable):
            runnable = remote_runnable(self.runnable)
        return Call(
            runnable,
            {"messages": messages} if self._is_graph else messages,
            read_reply,
            config=config,
            retries=min(self.retries, retries),
            bound=bound,
            deadline=deadline,
            calls=calls,
        )
