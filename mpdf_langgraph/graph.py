"""The deliberation graph: four nodes, and how they are wired."""

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any, Literal, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import START, StateGraph

from mpdf_langgraph.agents import Agent
from mpdf_langgraph.answers.schema import AnswerSchema, refuse_async
from mpdf_langgraph.answers.text_answer import TextAnswer
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule
from mpdf_langgraph.critic import CriticLike, make_critic
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.nodes.agent import agent_steps
from mpdf_langgraph.nodes.consensus import consensus_steps
from mpdf_langgraph.nodes.critic import critic_steps
from mpdf_langgraph.nodes.person import person_steps
from mpdf_langgraph.nodes.router import router_steps
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.recruiting import RecruitLike, make_recruiting
from mpdf_langgraph.router import RouterLike, choose_consensus, make_router
from mpdf_langgraph.runtime.budget import Budget
from mpdf_langgraph.runtime.calls import Steps, arun, run
from mpdf_langgraph.state import (
    Assignment,
    DeliberationInput,
    DeliberationOutput,
    DeliberationState,
)
from mpdf_langgraph.traces.writer import TraceWriter

#: What `create_deliberation` takes for a consensus rule.
ConsensusLike = (
    Literal["learned", "log-odds", "confidence", "majority"] | ConsensusRule | LearnedConsensus
)
Builder = StateGraph[DeliberationState, Any, DeliberationInput, DeliberationOutput]


def create_deliberation(
    agents: Sequence[Agent | Runnable[Any, Any]],
    *,
    recruit: RecruitLike = "all",
    router: RouterLike = "threshold",
    critic: CriticLike = "self+logprob",
    calibration: Calibration | None = None,
    answer: AnswerSchema | None = None,
    consensus: ConsensusLike | None = None,
    max_rounds: int = 3,
    max_calls: int | None = None,
    max_tokens: int | None = None,
    timeout: float | None = None,
    max_cost: float | None = None,
    stop_when_settled: bool = True,
    stop_when_decided: bool = False,
    settle_confidence: float | None = None,
    risk: float | None = None,
    interrupt_when: Callable[[dict[str, Any]], bool] | None = None,
    explore: float = 0.0,
    alternatives: int = 0,
    traces: str | PathLike[str] | TraceWriter | None = None,
    name: str = "deliberation",
) -> Builder:
    """Build the graph in which agents propose, decide by their router, refine, and vote.

    Args:
        agents: Agents, or anything that can be one: chat models, chains, compiled graphs
            (named ``agent-1``, ``agent-2``, ... in order).
        recruit: ``"all"`` asks every agent to propose. ``"adaptive"`` asks one after the other, as
            long as another answer is worth its price. Or `AdaptiveRecruiting(wave=2, cost=...)`,
            or measured values (`load_recruiting`). Those who were not asked take no part.
        router: ``"threshold"``, ``"expected-gain"``, ``"always-persist"``, ``"always-refine"``,
            ``"random"``, a fitted router (`load_router`), measured rates (`load_expected_gain`),
            any `Router`, or a callable of the observations.
        critic: ``"self+logprob"``, ``"self"``, ``"self-reasoning"``, ``"logprob"``, a chat model,
            a callable of the question and the response (`Critic`), or None for no critic.
        calibration: Turns the critic's confidence into the probability that the answer is right:
            ``load_router("routers/mine").calibration``. The router's own calibration, if it has
            one, comes first.
        answer: How answers are read and compared. Default: `TextAnswer()`.
        consensus: ``"learned"`` (the router's, or ``load_router(folder).consensus`` beside another
            router), ``"log-odds"``, ``"confidence"``, ``"majority"``, or a callable from votes to a
            cluster. Default: the rule that the router was fitted with, else ``"confidence"``.
        max_rounds: Rounds of decisions after the proposals.
        max_calls: Budget of LLM calls per question, the critic's included.
        max_tokens: Budget of prompt plus completion tokens per question, the critic's included.
        max_cost: Budget of tokens per question, each counted as often as its agent's `price` says.
        timeout: Budget of seconds per question. When it is spent, asynchronous calls are
            cancelled. Synchronous calls that have started are waited for.
        stop_when_settled: Stop once the agents agree or all persist. False: a classical debate.
        stop_when_decided: Do not ask for what cannot change the answer any more: a REFINE of the
            last round, or a further proposal with `recruit`, when the votes without it decide. The
            answer is the same. Its support and confidence, and the winning response, are those of
            the votes so far. Needs the consensus ``"confidence"`` or ``"majority"``.
        settle_confidence: Agreement settles only if every agent's confidence is at least this, or
            P(right) of the group's answer where the consensus rule gives it.
        risk: Greatest share of wrong answers among those that are accepted, such as .05. Below the
            bar that keeps it, the outcome's `accepted` is False. Needs a learned consensus.
        interrupt_when: `Unsure(support_below=..., confidence_below=...)`, or a callable. It is
            called when the deliberation is about to end, with a dict of `question`, `answer`,
            `confidence`, `accepted`, `support`, `votes`, `responses`, `stop_reason`, ... If it
            returns True, the graph is interrupted with that dict. A person's reply resumes it:
            ``Command(resume={"action": "settle"})`` ends it. ``{"action": "hint", "text": ...}``
            adds one round in which everyone refines, also after `max_rounds`.
            ``{"action": "answer", "answer": ...}`` ends it with that answer, which the trace
            keeps as the reference. A reply that cannot be read is asked for again. Needs a
            checkpointer.
        explore: Least probability of every allowed action, for collecting traces.
        alternatives: Extra REFINE samples per turn, drawn only to learn from. They do not count
            towards `max_calls` and `max_tokens`.
        traces: Folder (or writer) for one record per deliberation.
        name: The name that the final message bears.

    Returns:
        A builder. Call `.compile()` on it, with a checkpointer or a store if you want one.

    Raises:
        ConfigurationError: An option is wrong. The message says what to change.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> team = [FakeListChatModel(responses=[text]) for text in ("Rome", "Rome.", "Paris")]
        >>> graph = create_deliberation(team, router="always-persist", critic=None).compile()
        >>> graph.invoke({"question": "Capital of Italy?"})["deliberation"]["answer"]
        'Rome'
    """
    chosen = make_router(router)
    consensus_name, rule = choose_consensus(consensus, chosen)
    settings = Settings(
        name=name,
        agents=_team(agents),
        router=chosen,
        critic=make_critic(critic),
        answer=TextAnswer() if answer is None else _checked_schema(answer),
        consensus_name=consensus_name,
        consensus=rule,
        max_rounds=max_rounds,
        budget=Budget(max_calls, max_tokens, timeout, max_cost),
        stop_when_settled=stop_when_settled,
        stop_when_decided=stop_when_decided,
        settle_confidence=settle_confidence,
        interrupt_when=interrupt_when,
        explore=explore,
        alternatives=alternatives,
        traces=TraceWriter(traces) if isinstance(traces, str | PathLike) else traces,
        calibration=calibration,
        recruiting=make_recruiting(recruit),
        risk=risk,
    )

    def node(steps: Callable[[Settings, Any], Steps[Any]]) -> Runnable[Any, Any]:
        return _Node(partial(steps, settings))

    ends = ("router", "person", "__end__") if interrupt_when else ("router", "__end__")
    builder: Builder = StateGraph(
        DeliberationState, input_schema=DeliberationInput, output_schema=DeliberationOutput
    )
    builder.add_node("router", node(router_steps), destinations=("agent", "consensus"))
    after_agent = ("critic",) if settings.asks_critic else ("consensus",)
    builder.add_node("agent", node(agent_steps), input_schema=Assignment, destinations=after_agent)
    builder.add_node("critic", node(critic_steps), input_schema=Assignment)
    builder.add_node("consensus", node(consensus_steps), destinations=ends)
    if interrupt_when:
        builder.add_node("person", node(person_steps), destinations=("router", "__end__"))
    builder.add_edge(START, "router")
    builder.add_edge("critic", "consensus")
    return builder


class _Node(Runnable[Any, Any]):
    """A node that runs `steps` in synchronous and in asynchronous runs of the graph.

    The asynchronous side matters also for steps that call nobody, as the router's. LangGraph runs
    a node without one in a thread of asyncio's pool. The pool is small, and models without an
    asynchronous side may hold all of it. Then one team with hung models would hold up every
    deliberation in the process.

    It adds no run of its own to traces: LangGraph adds one for the node. A `RunnableLambda` would
    add another, and examine the function's signature at every call.
    """

    def __init__(self, steps: Callable[[Any], Steps[Any]]) -> None:
        self.steps = steps

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run the steps."""
        return run(self.steps(input), config or RunnableConfig())

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run the steps asynchronously."""
        return await arun(self.steps(input), config or RunnableConfig())


def _team(agents: Sequence[Agent | Runnable[Any, Any]]) -> dict[str, Agent]:
    if isinstance(agents, Runnable | Agent) or not isinstance(agents, Sequence) or not agents:
        raise ConfigurationError("agents must be a list with at least one Agent or Runnable")
    team: dict[str, Agent] = {}
    for number, given in enumerate(agents, 1):
        agent = given if isinstance(given, Agent) else Agent(f"agent-{number}", cast(Any, given))
        if agent.name in team:
            raise ConfigurationError(f"two agents are named {agent.name!r}: names must be unique")
        team[agent.name] = agent
    return team


def _checked_schema(answer: Any) -> AnswerSchema:
    has_all = all(hasattr(answer, a) for a in ("name", "instructions", "parse", "equivalent"))
    if isinstance(answer, type) or not has_all:
        raise ConfigurationError(
            f"answer={answer!r}: use MathAnswer(), ChoiceAnswer(n), TextAnswer(), CodeAnswer(), "
            "StructuredAnswer(schema), or an object with name, instructions, parse(text) and "
            "equivalent(a, b)"
        )
    for method in ("parse", "equivalent"):
        refuse_async(getattr(answer, method), f"{method} of answer={answer!r}")
    return cast(AnswerSchema, answer)
