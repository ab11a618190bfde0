"""Critics: they measure P(correct) of a response, and never read it from the agent's words."""

import asyncio
import copy
import math
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ContextThreadPoolExecutor
from typing_extensions import override

from mpdf_langgraph.agents import Agent
from mpdf_langgraph.answers.schema import is_async
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.history import unreadable_kinds, with_question
from mpdf_langgraph.options import check_number
from mpdf_langgraph.runtime.budget import (
    Cost,
    count_affordable,
    prompt_bound,
    remaining_allowance,
    response_bound,
)
from mpdf_langgraph.runtime.calls import Call, Steps
from mpdf_langgraph.runtime.retries import is_transient
from mpdf_langgraph.state import Allowance, Critique, Response, add_usage, no_usage
from mpdf_langgraph.verdicts import (
    NoVerdictError,
    UnreadableVerdictError,
    VerdictRequest,
    check_probability,
    verdict_requests,
)

#: After so many responses in a row without any verdict, a model is not asked again. After so many
#: whose first request gave none, that request is left out.
FAILURES_TO_GIVE_UP = 3


@dataclass(frozen=True)
class Subject:
    """One response to be criticised, what its critic may need, and its budget.

    Attributes:
        conversation: The messages that the agent answered with this response.
        attachments: Content blocks of the question that are not text, such as images.
        scores_read: Somebody reads measurements beside the confidence: a router or a trace.
    """

    question: str
    response: Response
    agent: Agent
    conversation: list[BaseMessage]
    allowance: Allowance
    config: RunnableConfig
    attachments: Sequence[dict[str, Any]] = ()
    scores_read: bool = True


@dataclass(frozen=True)
class CritiqueResult:
    """A critique, and the errors that happened on the way to it."""

    critique: Critique
    errors: list[str] = field(default_factory=list)


class Critic(Protocol):
    """A critic of your own: any callable, plain or async, of a question and a response.

    It returns the confidence that the response is right, or a `Critique` with more measurements,
    or None if it cannot tell. Where it asks a chat model, the call and its tokens are counted as
    the critic's. Its name, or the `source` that it returns, stands as the source in traces. If the
    package's own critics use that name, such as "self", it becomes "function:self".

    Example:
        >>> def short_is_sure(question: str, response: Response) -> float:
        ...     return 0.9 if response["profile"]["length"] < 200 else 0.5
    """

    def __call__(self, question: str, response: Response, /) -> "CriticReply":
        """Return P(correct) of a response, in [0, 1]."""
        ...


CriticReply = Mapping[str, Any] | float | None | Awaitable[Mapping[str, Any] | float | None]


@runtime_checkable
class BudgetedCritic(Protocol):
    """A critic as the graph runs it: it says beforehand what it may cost."""

    @property
    def name(self) -> str:
        """The name that stands in traces."""
        ...

    def max_calls(self, agent: Agent) -> int:
        """Return the usual number of LLM calls per response of this agent, for the budget."""
        ...

    @property
    def max_tokens(self) -> int:
        """The most tokens that one of its calls may generate."""
        ...

    def critique(self, subject: Subject) -> Steps[CritiqueResult]:
        """Criticise one response, as a generator of lists of calls (see `runtime.calls`)."""
        ...


def _free_critique(
    confidence: float | None, source: str, scores: Mapping[str, float] | None = None
) -> Critique:
    return Critique(
        confidence=confidence, source=source, scores=dict(scores or {}), usage=no_usage()
    )


def sequence_scores(response: Response) -> dict[str, float]:
    """Return the length-normalised ("logprob") and raw ("logprob_raw") sequence probability."""
    summary = response["logprobs"]
    if summary is None:
        return {}
    return {"logprob": math.exp(summary["mean"]), "logprob_raw": math.exp(summary["total"])}


@dataclass(frozen=True)
class LogprobCritic:
    """The response's own sequence probability, length-normalised. It costs no call.

    If the endpoint gives no log-probabilities, agreement among the round's samples is used.
    """

    name: str = "logprob"
    max_tokens: int = 0

    def max_calls(self, agent: Agent) -> int:
        """See `BudgetedCritic.max_calls`."""
        return 0

    def critique(self, subject: Subject) -> Steps[CritiqueResult]:
        """See `BudgetedCritic.critique`."""
        yield from ()
        scores = sequence_scores(subject.response)
        if not scores:
            return CritiqueResult(_free_critique(None, "agreement"))
        return CritiqueResult(_free_critique(scores["logprob"], "logprob", scores))


@dataclass(frozen=True)
class SelfCritic:
    """A model's own verdict on a response: P(yes) / (P(yes) + P(no)) of one constrained token.

    If the endpoint gives no log-probabilities, the model is asked for a probability as JSON. If
    that fails too, agreement among the round's samples is used. The first way that works is
    remembered for each model, unless the ways before it failed for a passing reason. A model that
    gave no log-probabilities is asked for JSON only. If its first JSON reply cannot be read either,
    it is not asked again, with a warning. An agent that is no chat model cannot be asked: its
    confidence is left unknown, beside those that are judged.

    With `reasoning_tokens`, the model first writes a check, as generative verifiers do (Zhang et
    al. 2024, arXiv 2408.15240). It is worth its tokens if a verdict needs more steps than one token
    can take. The check's sequence probability draws the verdict towards 1/2, so an unsure check
    counts less. If such a reply has no verdict, agreement is used.

    Attributes:
        reasoning_tokens: Length of the longest check, verdict included. 0 asks for the verdict
            alone.
        judge: The model to ask instead of the agent's own. It sees the question and the
            response, never the agent's private context.
    """

    name: str = "self"
    judge: Runnable[Any, Any] | None = None
    reasoning_tokens: int = 0
    _asked: dict[int, "_Asked"] = field(default_factory=dict, repr=False, compare=False)  # by id

    def __post_init__(self) -> None:
        check_number("reasoning_tokens", self.reasoning_tokens, 0, whole=True)
        if self.judge is not None and not isinstance(self.judge, Runnable):
            raise ConfigurationError(f"judge must be a chat model, got {self.judge!r:.80}")

    def max_calls(self, agent: Agent) -> int:
        """Return 1, or 0 for a chain, a graph and a model that gives no verdicts."""
        known = self._known(agent)
        return int(known is not None and known.first < len(self._requests))

    def _known(self, agent: Agent) -> "_Asked | None":
        """Return what is known of the model to ask, None if there is none."""
        model = self._model(agent)
        return None if model is None else self._asked.setdefault(id(model), _Asked(model))

    def _model(self, agent: Agent) -> Any:
        return self.judge or (agent.runnable if agent.chat_model else None)

    @property
    def max_tokens(self) -> int:
        """See `BudgetedCritic.max_tokens`."""
        longest: int = max(request.sampling["max_tokens"] for request in self._requests)
        return longest

    @property
    def _requests(self) -> tuple[VerdictRequest, ...]:
        return verdict_requests(self.reasoning_tokens)

    def critique(self, subject: Subject) -> Steps[CritiqueResult]:
        """See `BudgetedCritic.critique`."""
        known = self._known(subject.agent)
        errors: list[str] = []
        usage = no_usage()
        confidence, source = None, "none" if known is None else "agreement"
        odd = unread = False
        first = len(self._requests) if known is None else known.first
        for index, request in enumerate(self._requests[first:], first):
            assert known is not None
            messages = self._messages(subject, request)
            cost = Cost(1, self._prompt_bound(subject, messages) + request.sampling["max_tokens"])
            times = count_affordable(remaining_allowance(subject.allowance, usage), cost)
            if not times:
                errors.append("not asked: the rest of the budget is less than the critic's call")
                source = "none"
                break
            [outcome] = yield [
                Call(
                    _bind(
                        known.model, request.sampling, {} if self.judge else subject.agent.sampling
                    ),
                    messages,
                    request.parse,
                    config=subject.config,
                    retries=min(subject.agent.retries, times - 1),
                    bound=cost.tokens,
                    deadline=subject.allowance["deadline"],
                )
            ]
            usage = add_usage(usage, outcome.usage)
            if outcome.cause is None:
                known.failures = 0
                known.odd += odd
                if not odd or known.odd >= FAILURES_TO_GIVE_UP:
                    known.settle(index)
                confidence, source, errors = outcome.value, request.source, []
                break
            errors.append(str(outcome.error))
            odd = odd or isinstance(outcome.cause, NoVerdictError)
            unread = isinstance(outcome.cause, UnreadableVerdictError) and not odd
            if unread and index == len(self._requests) - 2 and not known.settled:
                known.first = index + 1  # it gives no log-probabilities
            if is_transient(outcome.cause):
                source = "none"  # the endpoint is down: another request would fail too
                break
        else:
            if known is not None and not known.settled:
                known.failures += 1
                if unread or known.failures >= FAILURES_TO_GIVE_UP:
                    known.settle(len(self._requests))
                    self._warn_given_up(subject.agent, unread=unread)
        scores = {} if confidence is None else {source: confidence}
        critique = Critique(confidence=confidence, source=source, scores=scores, usage=usage)
        return CritiqueResult(critique, errors)

    def _warn_given_up(self, agent: Agent, *, unread: bool) -> None:
        whose = f"the model of agent {agent.name!r}" if self.judge is None else "the critic's model"
        gives = "no log-probabilities and no readable probability" if unread else "no verdict"
        warnings.warn(
            f"critic {self.name!r}: {whose} gives {gives}, and is not asked again. A confidence "
            "that nothing else tells is the share of the answers that agree. Use critic=None, "
            'critic="logprob" with a server that reports log-probabilities, another chat model as '
            "the critic, or a callable",
            stacklevel=2,
        )

    def _messages(self, subject: Subject, request: VerdictRequest) -> list[BaseMessage]:
        before = subject.conversation
        if self.judge is not None:
            shown = () if unreadable_kinds(self.judge, subject.attachments) else subject.attachments
            before = with_question([], subject.question, shown)
        reply, asked = subject.agent.critique_turn(
            subject.question, subject.response["text"], reasoning=request.reasoning
        )
        return [*before, reply, HumanMessage(request.prompt) if request.prompt else asked]

    def _prompt_bound(self, subject: Subject, messages: list[BaseMessage]) -> int:
        usage = subject.response["usage"]
        if self.judge is not None or usage["calls"] != 1 or usage["unreported"]:
            return prompt_bound(messages)
        known = usage["prompt_tokens"] + response_bound(subject.response, subject.response["model"])
        return known + prompt_bound(messages[-1:])


@dataclass
class _Asked:
    """What a critic knows of a model that it asks.

    Attributes:
        model: The model itself, so that no other one gets its id.
        first: Place of the first request that is worth trying.
        settled: That stays so: this request works, or none does.
        failures: Responses in a row without any verdict.
        odd: Responses whose first request gave none, and a later one did.
    """

    model: Any
    first: int = 0
    settled: bool = False
    failures: int = 0
    odd: int = 0

    def settle(self, first: int) -> None:
        """Keep to a request from now on, unless one is kept to already."""
        if not self.settled:
            self.first, self.settled = first, True


def _bind(model: Any, sampling: Mapping[str, Any], agents: Mapping[str, Any]) -> Runnable[Any, Any]:
    """Bind `sampling`. `extra_body` is merged, as binding it would replace the model's own.

    The `extra_body` of the agent's sampling is merged too, as it may switch off thinking.
    """
    if "extra_body" in sampling:
        inner = model
        own = dict(agents.get("extra_body") or {})
        while isinstance(inner, RunnableBinding):
            own = {**(inner.kwargs.get("extra_body") or {}), **own}
            inner = inner.bound
        own = {**(getattr(inner, "extra_body", None) or {}), **own}
        sampling = {**sampling, "extra_body": {**own, **sampling["extra_body"]}}
    return model.bind(**sampling)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SelfLogprobCritic:
    """Sequence probability and the model's own verdict, both recorded.

    `confidence` is the length-normalised sequence probability, or the verdict if the endpoint
    gives no log-probabilities. A verdict that nobody would read is not asked for.
    """

    name: str = "self+logprob"
    verdict: SelfCritic = field(default_factory=SelfCritic)

    def max_calls(self, agent: Agent) -> int:
        """See `BudgetedCritic.max_calls`."""
        return self.verdict.max_calls(agent)

    def unread_calls(self, agent: Agent, response: Response) -> int:
        """Return the calls that are left out for a response whose verdict nobody would read."""
        return self.max_calls(agent) if response["logprobs"] else 0

    @property
    def max_tokens(self) -> int:
        """See `BudgetedCritic.max_tokens`."""
        return self.verdict.max_tokens

    def critique(self, subject: Subject) -> Steps[CritiqueResult]:
        """See `BudgetedCritic.critique`."""
        scores = sequence_scores(subject.response)
        if scores and not subject.scores_read:
            return CritiqueResult(_free_critique(scores["logprob"], "logprob", scores))
        verdict = yield from self.verdict.critique(subject)
        if not scores:
            return verdict
        scores |= verdict.critique["scores"]
        usage = verdict.critique["usage"]
        critique = Critique(
            confidence=scores["logprob"], source="logprob", scores=scores, usage=usage
        )
        return CritiqueResult(critique, verdict.errors)


@dataclass(frozen=True)
class FunctionCritic:
    """A callable ``(question, response) -> Critique | float | None``, plain or async."""

    function: Critic
    name: str = "function"
    max_tokens: int = 0

    def max_calls(self, agent: Agent) -> int:
        """Return 0, as nobody knows before what a function does."""
        return 0

    def critique(self, subject: Subject) -> Steps[CritiqueResult]:
        """See `BudgetedCritic.critique`."""
        call = Call(
            _critic_runnable(self.function),
            # A copy, as a callable may change what it gets.
            (subject.question, copy.deepcopy(subject.response)),
            self._check_reply,
            config=subject.config,
            is_model=False,
            deadline=subject.allowance["deadline"],
        )
        [outcome] = yield [call]
        if outcome.cause is not None:
            failed = Critique({**_free_critique(None, "none"), "usage": outcome.usage})
            return CritiqueResult(failed, [str(outcome.error)])
        critique: Critique = outcome.value
        return CritiqueResult(Critique({**critique, "usage": outcome.usage}))

    def _check_reply(self, value: Any) -> Critique:
        if value is None:
            return _free_critique(None, self.name)
        if not isinstance(value, Mapping):
            return _free_critique(
                check_probability(value), self.name, {self.name: check_probability(value)}
            )
        confidence = value.get("confidence")
        scores = {
            str(name): check_probability(score)
            for name, score in (value.get("scores") or {}).items()
        }
        checked = None if confidence is None else check_probability(confidence)
        source = _function_source(str(value.get("source", self.name)))
        return _free_critique(checked, source, scores)


#: The sources of the package's own critics and measurements. They mean something to the graph.
_OWN_SOURCES = {"agreement", "none", "logprob", "logprob_raw"} | {
    request.source for tokens in (0, 1) for request in verdict_requests(tokens)
}


def _function_source(name: str) -> str:
    """Return the source that is recorded for a callable's critique: never one of the package's."""
    return f"function:{name}" if name in _OWN_SOURCES else name


def _critic_runnable(function: Callable[[str, Response], Any]) -> Runnable[Any, Any]:
    async def acall(pair: tuple[str, Response]) -> Any:
        return await function(*pair)

    return function_runnable(acall if is_async(function) else lambda pair: function(*pair))


class _AsyncFunction(RunnableLambda[Any, Any]):
    """An asynchronous function that can be invoked, too."""

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        # In a thread of its own, as an event loop may run in the caller's.
        with ContextThreadPoolExecutor(max_workers=1) as thread:
            done = thread.submit(lambda: asyncio.run(self.ainvoke(input, config, **kwargs)))
            return done.result()


def function_runnable(function: Callable[[Any], Any]) -> Runnable[Any, Any]:
    """Return a function, plain or async, as a Runnable that can be invoked and awaited."""
    return _AsyncFunction(function) if is_async(function) else RunnableLambda(function)


CriticName = Literal["self+logprob", "self", "self-reasoning", "logprob"]
#: What `create_deliberation` takes for a critic.
CriticLike = CriticName | Critic | BudgetedCritic | BaseChatModel | RunnableBinding[Any, Any] | None

_BUILT_IN: dict[str, Callable[[], BudgetedCritic]] = {
    "logprob": LogprobCritic,
    "self": SelfCritic,
    "self-reasoning": lambda: SelfCritic(name="self-reasoning", reasoning_tokens=512),
    "self+logprob": SelfLogprobCritic,
}


def make_critic(spec: Any) -> BudgetedCritic | None:
    """Return the critic that `spec` names.

    Args:
        spec: ``"logprob"``, ``"self"``, ``"self-reasoning"``, ``"self+logprob"``, a chat model
            (judges every agent), a callable (see `Critic`), a built-in critic, or None.

    Raises:
        ConfigurationError: It is none of these.
    """
    if spec is None or (isinstance(spec, BudgetedCritic) and not isinstance(spec, type)):
        return spec
    if isinstance(spec, str) and spec in _BUILT_IN:
        return _BUILT_IN[spec]()
    if isinstance(spec, BaseChatModel | RunnableBinding):
        return SelfCritic(name="model", judge=spec)
    if callable(spec) and not isinstance(spec, type):
        return FunctionCritic(spec, _function_source(getattr(spec, "__name__", "function")))
    raise ConfigurationError(
        f"critic={spec!r}: use one of {', '.join(map(repr, _BUILT_IN))}, a chat model, "
        "load_profile_critic(folder), a callable (question, response) -> Critique, or None for "
        "no critic"
    )
