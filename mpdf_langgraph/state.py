"""The records of a deliberation and the graph's state, all plain data.

Everything here consists of `str`, `int`, `float`, `bool`, `list`, `dict` and LangChain messages.
Only those survive every LangGraph checkpointer unchanged.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AnyMessage
from langgraph.channels import EphemeralValue, UntrackedValue
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict  # typing.TypedDict is of no use to pydantic before 3.12

Action = Literal["PERSIST", "REFINE", "CONCEDE"]
#: The fixed order of actions in every mask and probability vector.
ACTIONS: tuple[Action, ...] = ("PERSIST", "REFINE", "CONCEDE")
#: Indices into `ACTIONS`. Of equally good actions the first of these, the cheapest, counts.
CHEAPEST_FIRST = (0, 2, 1)
#: Stands in `Turn.blocked` where no REFINE of the round could change the answer.
DECIDED = "decided"


class Usage(TypedDict):
    """What some calls cost.

    Attributes:
        calls: Calls started, failed ones included.
        prompt_tokens: As reported by the endpoint.
        completion_tokens: As reported by the endpoint.
        unreported: Successful calls whose usage the endpoint did not report.
        estimated: The upper bound in tokens of these calls, and of failed calls that may have
            generated something. A budget is charged with it.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int
    unreported: int
    estimated: int


class Profile(TypedDict):
    """Reasoning profile of a response (z_prof), read from its text.

    Attributes:
        steps: Non-empty lines or sentences, whichever are more.
        operators: Arithmetic operators and relations.
        length: Characters.
        hedges: Words that mark what the text does not know ("guess", "assume").
        claimed_confidence: The confidence that the text claims ("Confidence: 80 %"), in [0, 1].
            It is never used as z_conf.
        truncated: The endpoint stopped the response at its length limit.
    """

    steps: int
    operators: int
    length: int
    hedges: int
    claimed_confidence: float | None
    truncated: bool


class LogprobSummary(TypedDict):
    """Token log-probabilities of a response in short (natural logarithms).

    Attributes:
        mean: Mean over tokens. exp(mean) is the length-normalised sequence probability.
        total: Sum over tokens. exp(total) is the raw sequence probability.
        lowest_window: Lowest mean over any eight consecutive tokens.
        tokens: Number of tokens.
    """

    mean: float
    total: float
    lowest_window: float
    tokens: int


class Critique(TypedDict):
    """What the critic says of one response.

    Attributes:
        confidence: P(correct) in [0, 1]. None: the critic failed or could not tell.
        raw: The critic's own confidence, if a calibration has replaced it (see `calibration`).
        source: The measurement that `confidence` is: ``"logprob"``, ``"self"``, ``"agreement"``...
        scores: Every measurement taken, by name, each in [0, 1].
        usage: What the critic's own calls cost.
    """

    confidence: float | None
    raw: NotRequired[float]
    source: str
    scores: dict[str, float]
    usage: Usage


class Response(TypedDict):
    """One response of an agent.

    Attributes:
        id: ``"<agent>@<round>"``, and ``"<agent>@<round>+<k>"`` for alternatives.
        cluster: Index of the answer's equivalence class within the episode. None: there is no
            valid answer, or the consensus node has not compared it yet.
        text: The answer as it was written, without the thought before it.
        logprobs: Summary over the answer's tokens alone.
        seconds: Wall-clock time of the call, retries included.
        usage: What it cost, failed attempts included.
        thought: The model's thought before the answer, if the endpoint shows it. It stands in the
            trace alone: no peer, critic or caller sees it.
        refused: The model refused to answer. `text` is the refusal.
    """

    id: str
    agent: str
    round: int
    text: str
    answer: str | None
    cluster: int | None
    profile: Profile
    logprobs: LogprobSummary | None
    critique: Critique | None
    finish_reason: str | None
    model: str | None
    usage: Usage
    seconds: float
    thought: NotRequired[str]
    refused: NotRequired[bool]


class Observation(TypedDict):
    """o_i: everything that agent i's policy may see, as numbers (see `observation.FEATURES`).

    Attributes:
        own: Features of the agent itself, shape ``[F]``.
        peers: Features of its peers, shape ``[N - 1, F]``. Their order has no meaning.
    """

    own: list[float]
    peers: list[list[float]]


class Turn(TypedDict):
    """One agent's decision in one round.

    Attributes:
        mask: Which of `ACTIONS` were allowed.
        probabilities: The action was drawn from them, after mask, temperature and floor.
        before: Id of the response held at the decision (None: none).
        after: Id of the response held once the round's moves are made.
        target: Id of the response that CONCEDE adopts, also if the action was another one.
        alternatives: Ids of extra REFINE samples, drawn only to learn from.
        blocked: The budget that forbade REFINE, or ``"decided"`` where no REFINE of the round could
            change the answer. None: nothing forbade it.
        estimates: What the decision rests on, where the router says so (see `Router`).
    """

    agent: str
    round: int
    observation: Observation
    mask: list[bool]
    probabilities: list[float]
    action: Action
    before: str | None
    after: str | None
    target: str | None
    alternatives: list[str]
    blocked: str | None
    estimates: NotRequired[dict[str, float]]


class Failure(TypedDict):
    """A failure that the deliberation survived. It is counted and reported.

    Attributes:
        agent: The agent's name, or "consensus" if answers could not be compared.
    """

    agent: str
    round: int
    stage: Literal["context", "propose", "refine", "critique", "alternative", "compare"]
    error: str
    usage: Usage
    seconds: float


class Consensus(TypedDict):
    """The group's answer from the responses held.

    Attributes:
        answer: None if no agent holds a valid answer.
        response: Id of the response that stands for the answer.
        support: Share of the valid votes that the winning cluster got.
        votes: Cluster that each agent votes for. None abstains.
        weights: Weight of each agent's vote under the rule.
        tie: The rule alone did not decide, so the tie rule did.
        probability: How probably the answer is right, where the rule says so.
    """

    answer: str | None
    cluster: int | None
    response: str | None
    support: float
    votes: dict[str, int | None]
    weights: dict[str, float]
    tie: bool
    probability: NotRequired[float]


class Recruit(TypedDict):
    """A decision whether another agent is asked to propose (see `recruiting`).

    Attributes:
        asked: The agents that were asked before it.
        action: The next agents were asked, or nobody else.
        next: The agents that it asked.
        waiting: The agents that were not asked then.
        leader: Votes for the leading answer.
        runner_up: Votes for the best other answer.
        gain: Expected gain in accuracy of asking on.
        price: Its price, in accuracy.
        why: A line for people: where the gain comes from, or the budget that forbade to ask.
    """

    asked: list[str]
    action: Literal["ASK", "STOP"]
    next: list[str]
    waiting: list[str]
    leader: int
    runner_up: int
    gain: float
    price: float
    why: str


class Intervention(TypedDict):
    """An intervention of a person or of a fork.

    Attributes:
        action: A person let the answers stand ("settle"), gave a hint for one more round
            ("hint"), or named the right answer ("answer"). Or a fork forced actions ("force").
        round: The round that it shaped. For "hint" and "force", this is the round that followed.
        text: The hint, the answer, or the forced actions. Empty on "settle".
        seconds: Seconds that the deliberation waited for it.
    """

    action: Literal["settle", "hint", "answer", "force"]
    round: int
    text: str
    seconds: float


class Clock(TypedDict):
    """The pauses of a deliberation, for the time budget, in seconds.

    Attributes:
        paused: Total length of the pauses so far.
        at: Epoch seconds at which the last step ended.
    """

    paused: float
    at: float


class Header(TypedDict):
    """What is fixed when a question arrives.

    Attributes:
        history: The conversation before the question, as every agent can read it (see `history`).
        attachments: Content blocks of the question that are not text, such as images.
        category: Of the question. Absent: none was given.
    """

    id: str
    started: float
    question: str
    reference: str | None
    history: list[AnyMessage]
    graph: str
    agents: list[dict[str, Any]]
    options: dict[str, Any]
    attachments: NotRequired[list[dict[str, Any]]]
    category: NotRequired[str | None]


class Assignment(TypedDict):
    """What the router sends to one agent task, and that to its critic task.

    Attributes:
        notes: What only this agent knows. None: its `context` is still to be called.
        own: The response it holds.
        peers: The responses its peers hold, by name.
        act: It proposes or refines. False: only alternatives are drawn.
        alternatives: Extra REFINE samples to draw.
        prefix_tokens: Tokens of the agent's first prompt. None: they were not reported.
        largest_usage: The most that any call of the agent took so far, figure by figure.
        drawn: Ids of the responses to criticise (for the critic).
        hints: A person's hints so far, in order.
        running: Absent if the task was restored from a checkpoint (see `runtime.clock`).
    """

    episode: str
    question: str
    history: list[AnyMessage]
    agent: str
    round: int
    notes: str | None
    own: "Response | None"
    peers: "dict[str, Response]"
    act: bool
    alternatives: int
    prefix_tokens: int | None
    largest_usage: Usage
    allowance: "Allowance"
    drawn: "list[Response]"
    hints: list[str]
    clock: Clock
    running: NotRequired[bool]
    attachments: NotRequired[list[dict[str, Any]]]


class Allowance(TypedDict):
    """What one task may still spend. The router hands it out. None: no limit."""

    calls: int | None
    tokens: int | None
    deadline: float | None


def merge(left: dict[str, Any] | None, right: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge two mappings by key, the right one winning (reducer)."""
    return {**(left or {}), **(right or {})}


def extend(left: list[Any] | None, right: list[Any] | None) -> list[Any]:
    """Append `right` to `left` (reducer)."""
    return [*(left or []), *(right or [])]


def latest(left: Clock | None, right: Clock) -> Clock:
    """Return the later of two clocks, figure by figure (reducer)."""
    if not left:
        return right
    return Clock(paused=max(left["paused"], right["paused"]), at=max(left["at"], right["at"]))


class DeliberationInput(TypedDict):
    """What a caller gives: `messages` (the last human one is the question) or `question`."""

    messages: NotRequired[Annotated[list[AnyMessage], add_messages]]
    question: NotRequired[Annotated[str, EphemeralValue]]
    reference: NotRequired[Annotated[str | None, EphemeralValue]]
    contexts: NotRequired[Annotated[dict[str, str] | None, EphemeralValue]]
    category: NotRequired[Annotated[str | None, EphemeralValue]]


class DeliberationOutput(TypedDict):
    """What a caller gets back: the final message, and the outcome as a plain dict."""

    messages: Annotated[list[AnyMessage], add_messages]
    deliberation: dict[str, Any]


class DeliberationState(TypedDict):
    """Input, output and the private keys, which the router resets at every new question.

    Attributes:
        phase: ``"decide"`` for exactly the step after consensus asks for another round, and
            ``"recruit"`` for the one after a wave of proposals. So a new question is never taken
            for an unfinished one.
        stopped: The reason to end, for exactly the step that asks a person.
        forced: Actions by agent name for exactly the round that follows (`force_actions`).
        running: True while one run lasts. It is never checkpointed (see `runtime.clock`).
        notes: Private context by agent name.
        held: Id of the response each agent holds, of those who were asked.
        recruits: Decisions whether another agent is asked, in order.
        representatives: One answer per cluster, in order of first appearance.
        tallies: The consensus after every round, round 0 first.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    question: Annotated[str, EphemeralValue]
    reference: Annotated[str | None, EphemeralValue]
    contexts: Annotated[dict[str, str] | None, EphemeralValue]
    category: Annotated[str | None, EphemeralValue]
    deliberation: dict[str, Any]
    phase: Annotated[str, EphemeralValue]
    stopped: Annotated[str, EphemeralValue]
    forced: Annotated[dict[str, Action] | None, EphemeralValue]
    running: Annotated[bool, UntrackedValue(bool, guard=False)]
    clock: Annotated[Clock, latest]
    header: Header
    notes: Annotated[dict[str, str], merge]
    round: int
    responses: Annotated[dict[str, Response], merge]
    failures: Annotated[list[Failure], extend]
    held: dict[str, str | None]
    recruits: list[Recruit]
    turns: list[Turn]
    representatives: list[str]
    tallies: list[Consensus]
    judge_usage: Usage
    interventions: list[Intervention]


def no_usage() -> Usage:
    """Return the usage of no call."""
    return Usage(calls=0, prompt_tokens=0, completion_tokens=0, unreported=0, estimated=0)


def add_usage(*usages: Usage) -> Usage:
    """Return the sum of `usages`."""
    total = no_usage()
    for usage in usages:
        total["calls"] += usage["calls"]
        total["prompt_tokens"] += usage["prompt_tokens"]
        total["completion_tokens"] += usage["completion_tokens"]
        total["unreported"] += usage["unreported"]
        total["estimated"] += usage["estimated"]
    return total


def largest_usage(*usages: Usage) -> Usage:
    """Return the largest value of each figure."""
    largest = no_usage()
    for usage in usages:
        largest = Usage(
            calls=max(largest["calls"], usage["calls"]),
            prompt_tokens=max(largest["prompt_tokens"], usage["prompt_tokens"]),
            completion_tokens=max(largest["completion_tokens"], usage["completion_tokens"]),
            unreported=max(largest["unreported"], usage["unreported"]),
            estimated=max(largest["estimated"], usage["estimated"]),
        )
    return largest


def tokens(usage: Usage) -> int:
    """Return prompt plus completion tokens, as reported."""
    return usage["prompt_tokens"] + usage["completion_tokens"]


def charged_tokens(usage: Usage) -> int:
    """Return the tokens that a budget is charged: reported ones, plus estimates for the rest."""
    return tokens(usage) + usage["estimated"]


def held_responses(state: DeliberationState) -> dict[str, Response | None]:
    """Return the response that each agent holds, in the order of the team."""
    return {
        agent: state["responses"][response_id] if response_id else None
        for agent, response_id in state["held"].items()
    }
