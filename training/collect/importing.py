"""Episodes from answers that agents gave elsewhere: a table of logs instead of a server.

Every question becomes the record of a team whose calls were spent on its proposals: one round of
decisions in which everybody persists. From it PERSIST and CONCEDE can be learned, as what they
lead to stands in the record; REFINE is masked, as nobody knows what it would have said.
"""

import hashlib
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, AnswerSchema, ConfigurationError, Critique, Episode
from mpdf_langgraph.answers.schema import assign_clusters, schema_for
from mpdf_langgraph.consensus import concession, count_votes, make_rule
from mpdf_langgraph.critic import make_critic
from mpdf_langgraph.nodes.outcome import outcome_of
from mpdf_langgraph.nodes.router import situation_of
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.observation import observe
from mpdf_langgraph.replies import Reply, response_from
from mpdf_langgraph.router import FixedRouter, behaviour
from mpdf_langgraph.runtime.budget import Budget
from mpdf_langgraph.runtime.calls import Outcome
from mpdf_langgraph.state import (
    ACTIONS,
    Clock,
    DeliberationState,
    Header,
    Response,
    Turn,
    Usage,
    no_usage,
)
from training.collect.questions import TableError, read_table, reference_of, text_of

NAME = "import"
#: What is known of the call behind a logged response: that there was one.
_LOGGED = Usage(calls=1, prompt_tokens=0, completion_tokens=0, unreported=1, estimated=0)

Convert = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """One usable row: what an agent said to a question, and P(correct) where it was measured."""

    agent: str
    response: str
    confidence: float | None


@dataclass
class Answers:
    """The usable rows of a table, by question.

    Attributes:
        groups: (question, reference) -> answers, one per agent, in the team's order.
        rows: Rows read, after conversion.
        unusable: Rows left out, counted by reason.
        examples: Where the first row left out for each reason stands.
    """

    groups: dict[tuple[str, str | None], list[Answer]] = field(default_factory=dict)
    rows: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """Return what was read and what was left out, line by line."""
        used = sum(len(answers) for answers in self.groups.values())
        lines = [f"{self.rows} rows: {used} answers to {len(self.groups)} questions"]
        lines += [
            f"left out: {count} x {reason} (first: {self.examples[reason]})"
            for reason, count in self.unusable.most_common()
        ]
        return "\n".join(lines)


def read_answers(path: Path, convert: Convert | None = None) -> Answers:
    """Read a table of answers from JSON Lines or Parquet.

    Columns: `question`, `reference` (text, a number, or null where it is not known yet), `agent`
    (the same name for the same agent throughout), `response` (the whole text, from which the
    answer is read), and `confidence`, which may be left out: P(correct) in [0, 1], from a critic
    or token log-probabilities, not what the text claims of itself.

    The team of a question are the agents that answered it, in the order in which the file first
    names them. Of several rows of one agent on one question the first counts; give samples
    different agent names to use them all. A question keeps its first reference: rows with
    another one are left out. Where one agent alone has answered there is nothing to decide.

    Args:
        path: The table.
        convert: Turns one row of a table of another form into rows as above.

    Raises:
        TableError: There is no such table.
    """
    answers = Answers()
    references: dict[str, str | None] = {}
    given: dict[str, dict[str, Answer]] = {}
    places: dict[str, str] = {}
    order: dict[str, None] = {}

    def leave_out(reason: str, where: str, count: int = 1) -> None:
        answers.unusable[reason] += count
        answers.examples.setdefault(reason, where)

    for number, raw in read_table(path):
        where = f"line {number}"
        for row in _converted(raw, convert):
            answers.rows += 1
            try:
                if isinstance(row, TableError):
                    raise row
                question, reference = text_of(row, "question"), reference_of(row)
                answer = _answer(row)
            except TableError as error:
                # What differs from row to row is no part of the reason.
                leave_out(re.split(r", got| \(", str(error))[0], where)
                continue
            if references.setdefault(question, reference) != reference:
                leave_out("another reference than the question's first row", where)
                continue
            order.setdefault(answer.agent)
            places.setdefault(question, where)
            if given.setdefault(question, {}).setdefault(answer.agent, answer) is not answer:
                leave_out("a second answer of the same agent to the same question", where)
    for question, by_agent in given.items():
        if len(by_agent) == 1:
            leave_out("the only agent that answered its question", places[question])
            continue
        team = [by_agent[name] for name in order if name in by_agent]
        answers.groups[question, references[question]] = team
    return answers


def _converted(
    raw: dict[str, Any] | TableError, convert: Convert | None
) -> Iterator[dict[str, Any] | TableError]:
    if convert is None or isinstance(raw, TableError):
        yield raw
        return
    try:
        yield from convert(raw)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        yield TableError(f"it cannot be converted: {error!r:.80}")


def _answer(row: Mapping[str, Any]) -> Answer:
    agent, response, confidence = text_of(row, "agent"), text_of(row, "response"), None
    if any(character in agent for character in "@+\n"):
        raise TableError("'agent' must not contain '@', '+' or line breaks")
    if (given := row.get("confidence")) is not None:
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if not number or not 0 <= given <= 1:
            raise TableError(f"'confidence' must be in [0, 1], got {given!r:.60}")
        confidence = float(given)
    return Answer(agent, response, confidence)


def gsm8k_solutions(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Convert the table of model solutions that comes with GSM8K (Cobbe et al. 2021).

    There a row is a question with its `ground_truth` and, under every model's name, a
    `solution`; both end in ``A: <answer>``. Every model becomes an agent.
    """
    reference = str(row["ground_truth"]).rpartition("A:")[2].strip()
    for name, said in row.items():
        if isinstance(said, dict) and "solution" in said:
            yield {
                "question": row["question"],
                "reference": reference,
                "agent": name,
                "response": said["solution"],
            }


def build_episode(
    question: str,
    reference: str | None,
    answers: Sequence[Answer],
    *,
    schema: AnswerSchema,
    consensus: str = "confidence",
    max_rounds: int = 3,
) -> Episode:
    """Return the episode of a team that gave `answers` and had no calls left to refine.

    It is what the graph writes for `max_calls` = number of agents, `stop_when_settled=False` and
    a router that always persists, except for what only a live run knows (times, models, tokens).
    The same arguments give the same id, so that importing twice doubles nothing.

    Args:
        question: The question.
        reference: The reference answer, if known.
        answers: One per agent, in the order of the team.
        schema: Reads and compares the answers.
        consensus: ``"confidence"`` or ``"majority"``.
        max_rounds: Rounds that a team may take where the router will be used; it is a feature.
    """
    proposals = _proposals(answers, schema)
    return episode_of(
        question, reference, proposals, schema=schema, consensus=consensus, max_rounds=max_rounds
    )


def episode_of(
    question: str,
    reference: str | None,
    proposals: Sequence[Response],
    *,
    schema: AnswerSchema,
    consensus: str,
    max_rounds: int,
) -> Episode:
    """Return the episode of a team whose proposals are there, as `build_episode` does.

    Args:
        question: The question.
        reference: The reference answer, if known.
        proposals: One per agent, in the order of the team; which are equivalent is decided here.
        schema: Compares the answers.
        consensus: ``"confidence"`` or ``"majority"``.
        max_rounds: See `build_episode`.
    """
    settings = _settings(proposals, schema, consensus, max_rounds)
    given = [response["answer"] for response in proposals]
    labels, representatives = assign_clusters(given, [], schema_for(schema, question).equivalent)
    responses = {
        response["id"]: Response({**response, "cluster": cluster})
        for response, cluster in zip(proposals, labels, strict=True)
    }
    held = {response["agent"]: response for response in responses.values()}
    tally = count_votes(held, settings.consensus, representatives)
    options = settings.describe()
    header = Header(
        id=_episode_id(question, reference, proposals, options),
        started=time.time(),
        question=question,
        reference=reference,
        history=[],
        graph=NAME,
        agents=[{**agent, "model": "unknown"} for agent in settings.describe_agents()],
        options=options,
    )
    state = DeliberationState(
        messages=[],
        question=question,
        reference=reference,
        contexts=None,
        deliberation={},
        phase="decide",
        header=header,
        notes={},
        round=1,
        responses=responses,
        failures=[],
        held={agent: response["id"] for agent, response in held.items()},
        turns=[],
        representatives=representatives,
        tallies=[tally],
        judge_usage=no_usage(),
        interventions=[],
        clock=Clock(paused=0.0, at=header["started"]),
    )
    observations = observe(situation_of(state))
    for agent, response in held.items():
        target = concession(held, agent)
        mask = [True, False, target is not None]
        row = settings.router.decide([observations[agent]], [mask])[0]
        turn = Turn(
            agent=agent,
            round=1,
            observation=observations[agent],
            mask=mask,
            probabilities=behaviour(row, mask, settings.explore),
            action=ACTIONS[0],  # the only one that this behaviour ever draws
            before=response["id"],
            after=response["id"],
            target=target,
            alternatives=[],
            blocked="max_calls",
        )
        state["turns"].append(turn)
    state["tallies"].append(tally)  # nobody moved
    state["deliberation"] = outcome_of(state, "max_calls")
    return Episode.from_state(state)


def _settings(
    proposals: Sequence[Response], schema: AnswerSchema, consensus: str, max_rounds: int
) -> Settings:
    """Return what a graph that had heard these answers would have been built with."""

    def logged(*_: Any) -> float:
        raise AssertionError("nobody is asked: the answers are there already")

    consensus_name, rule = make_rule(consensus)
    critic = make_critic(logged if any(r["critique"] is not None for r in proposals) else None)
    return Settings(
        name=NAME,
        agents={r["agent"]: Agent(r["agent"], RunnableLambda(logged)) for r in proposals},
        router=FixedRouter("logged", (1.0, 0.0, 0.0)),
        critic=critic,
        answer=schema,
        consensus_name=consensus_name,
        consensus=rule,
        max_rounds=max_rounds,
        budget=Budget(len(proposals), None, None),
        stop_when_settled=False,
        settle_confidence=None,
        interrupt_when=None,
        explore=0.0,
        alternatives=0,
        traces=None,
    )


def _proposals(answers: Sequence[Answer], schema: AnswerSchema) -> list[Response]:
    criticised = any(answer.confidence is not None for answer in answers)
    proposals = []
    for answer in answers:
        reply = Reply(answer.response, finish_reason=None, model=None, token_logprobs=[])
        response = response_from(
            Outcome(reply, None, attempts=1, seconds=0.0, usage=_LOGGED),
            response_id=f"{answer.agent}@0",
            agent=answer.agent,
            round_=0,
            schema=schema,
        )
        if criticised:
            known = {} if answer.confidence is None else {"logged": answer.confidence}
            response["critique"] = Critique(
                confidence=answer.confidence, source="logged", scores=known, usage=no_usage()
            )
        proposals.append(response)
    return proposals


def _episode_id(
    question: str, reference: str | None, proposals: Sequence[Response], options: Mapping[str, Any]
) -> str:
    said = [
        [r["agent"], r["text"], r["critique"]["confidence"] if r["critique"] else None]
        for r in proposals
    ]
    content = json.dumps([question, reference, said, options], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def build_episodes(answers: Answers, **options: Any) -> Iterator[Episode]:
    """Yield the episode of every question; `options` as for `build_episode`.

    Raises:
        ConfigurationError: `max_rounds` leaves no room for the round of decisions.
    """
    if options.get("max_rounds", 1) < 1:
        raise ConfigurationError("--rounds must be 1 or more: the decisions are what is learned")
    with warnings.catch_warnings():
        # Counted by the schema; in a log of thousands the first one is no news.
        warnings.filterwarnings("ignore", "Two answers could not be compared")
        for (question, reference), team in answers.groups.items():
            yield build_episode(question, reference, team, **options)
