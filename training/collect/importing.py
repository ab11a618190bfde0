"""Episodes from answers that agents gave elsewhere: a table of logs instead of a server.

The real graph runs over the recorded answers. It has no calls left for a second answer, so its one
round of decisions masks REFINE, and everybody persists. PERSIST and CONCEDE can be learned from
such an episode, because the record shows what both lead to.
"""

import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from mpdf_langgraph import (
    Agent,
    AnswerSchema,
    ConfigurationError,
    Critique,
    Episode,
    RecordedChatModel,
    create_deliberation,
)
from mpdf_langgraph.consensus import ConsensusName
from mpdf_langgraph.replies import Reply, response_from
from mpdf_langgraph.router import FixedRouter
from mpdf_langgraph.runtime.calls import CallResult
from mpdf_langgraph.state import Response, Usage, no_usage
from training.collect.questions import TableError, read_table, reference_of, text_of

NAME = "import"
#: The usage of a recorded response: there was one call, and nothing else is known of it.
_LOGGED = Usage(calls=1, prompt_tokens=0, completion_tokens=0, unreported=1, estimated=0)

Convert = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """One usable row: an agent's response to a question, and P(correct) if it was measured."""

    agent: str
    response: str
    confidence: float | None


@dataclass
class Answers:
    """The usable rows of a table, by question.

    Attributes:
        groups: (question, reference) -> answers, one per agent, in the team's order.
        rows: Number of rows read, after conversion.
        unusable: Number of rows left out, by reason.
        examples: The place of the first row left out, by reason.
    """

    groups: dict[tuple[str, str | None], list[Answer]] = field(default_factory=dict)
    rows: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """Return what was read and what was left out, as lines."""
        used = sum(len(answers) for answers in self.groups.values())
        lines = [f"{self.rows} rows: {used} answers to {len(self.groups)} questions"]
        lines += [
            f"left out: {count} x {reason} (first: {self.examples[reason]})"
            for reason, count in self.unusable.most_common()
        ]
        return "\n".join(lines)


def read_answers(path: Path, convert: Convert | None = None) -> Answers:
    """Read a table of answers from JSON Lines or Parquet.

    The columns are:

    - `question`
    - `reference`: text, a number, or null if it is not known yet.
    - `agent`: the same name for the same agent throughout.
    - `response`: the whole text, from which the answer is read.
    - `confidence`, which may be left out: P(correct) in [0, 1], from a critic or from token
      log-probabilities, not what the text claims of itself.

    The team of a question are the agents that answered it, in the order in which the file first
    names them. If an agent has several rows for a question the first one counts. Give samples
    different agent names to use them all. A question keeps its first reference, and rows with
    another reference are left out. A question that only one agent has answered is left out too.

    Args:
        path: The table.
        convert: Turns one row of a table of another form into such rows.

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
        for row in _convert_row(raw, convert):
            answers.rows += 1
            try:
                if isinstance(row, TableError):
                    raise row
                question, reference = text_of(row, "question"), reference_of(row)
                answer = _answer(row)
            except TableError as error:
                # The reason leaves out what differs from row to row.
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


def _convert_row(
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

    A row is a question with its `ground_truth` and, under every model's name, a `solution`. Both
    end in ``A: <answer>``. Every model becomes an agent.
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


class Replay:
    """Plays recorded proposals through the real graph.

    Args:
        schema: Compares the answers.
        consensus: ``"confidence"`` or ``"majority"``.
        max_rounds: Rounds that a team may take where the router will be used. It is a feature.

    Raises:
        ConfigurationError: `max_rounds` leaves no room for the round of decisions.
    """

    def __init__(
        self, schema: AnswerSchema, consensus: ConsensusName = "confidence", max_rounds: int = 3
    ):
        if max_rounds < 1:
            raise ConfigurationError(
                "--rounds must be 1 or more: the decisions are what is learned"
            )
        self.schema, self.consensus, self.max_rounds = schema, consensus, max_rounds
        self._graphs: dict[tuple[str, ...], Any] = {}

    def play(self, question: str, reference: str | None, proposals: Sequence[Response]) -> Episode:
        """Return the episode of a team that gave these proposals and had no calls left.

        The same arguments give the same id, so importing a table twice doubles nothing.

        Args:
            question: The question.
            reference: The reference answer, if known.
            proposals: One per agent, in the order of the team. The graph decides which of them
                are equivalent.
        """
        graph = self._graph_for(proposals)
        config: Any = {"configurable": {"thread_id": "replay"}}
        with warnings.catch_warnings():
            # The schema counts the first, and neither is news in a log of thousands.
            warnings.filterwarnings("ignore", "Two answers could not be compared")
            warnings.filterwarnings("ignore", "all .* agents proposed the very same text")
            # It stops before any agent is asked, takes the proposals as theirs, and goes on.
            given = {"question": question, "reference": reference}
            graph.invoke(given, config, durability="exit")
            said = {r["id"]: Response({**r, "cluster": None}) for r in proposals}
            graph.update_state(config, {"responses": said}, as_node="critic")
            graph.invoke(None, config, durability="exit")
        episode = Episode.from_state(graph.get_state(config).values)
        graph.checkpointer.delete_thread("replay")
        id_ = _episode_id(question, reference, proposals, episode.options)
        outcome = {**episode.outcome, "episode": id_}
        return episode.model_copy(update={"id": id_, "outcome": outcome})

    def _graph_for(self, proposals: Sequence[Response]) -> Any:
        """Return the graph of a team, built once."""

        def no_critic(question: str, response: Response) -> float:
            raise AssertionError("the critic's verdicts are recorded, so it is not asked")

        names = [r["agent"] for r in proposals]
        critic = no_critic if any(r["critique"] is not None for r in proposals) else None
        key = (*names, "" if critic is None else "logged")
        if key not in self._graphs:
            self._graphs[key] = create_deliberation(
                [Agent(name, RecordedChatModel(agent=name, recordings={})) for name in names],
                router=FixedRouter("logged", (1.0, 0.0, 0.0)),
                critic=critic,
                answer=self.schema,
                consensus=self.consensus,
                max_rounds=self.max_rounds,
                max_calls=len(names),
                stop_when_settled=False,
                name=NAME,
            ).compile(checkpointer=InMemorySaver(), interrupt_before=["agent"])
        return self._graphs[key]

    def play_all(self, answers: Answers) -> Iterator[Episode]:
        """Yield the episode of every question of a table."""
        for (question, reference), team in answers.groups.items():
            yield self.play(question, reference, make_proposals(team, self.schema))


def make_proposals(answers: Sequence[Answer], schema: AnswerSchema) -> list[Response]:
    """Return what the agents of a team said, as the records of their first responses."""
    criticised = any(answer.confidence is not None for answer in answers)
    proposals = []
    for answer in answers:
        reply = Reply(answer.response, finish_reason=None, model=None, token_logprobs=[])
        response = response_from(
            CallResult(reply, None, attempts=1, seconds=0.0, usage=_LOGGED),
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
