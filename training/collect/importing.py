"""Episodes from answers that agents gave elsewhere: a table of logs instead of a server.

The real graph runs over the recorded answers. An agent that answered again in a round refined in
it. After the last recorded answer the graph has no calls left, so one more round of decisions masks
REFINE, and everybody persists. PERSIST and CONCEDE can be learned from every such episode, because
the record shows what both lead to. REFINE can be learned from recorded debates.
"""

import hashlib
import json
import re
import reprlib
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
    Observation,
    RecordedChatModel,
    create_deliberation,
)
from mpdf_langgraph.consensus import ConsensusName
from mpdf_langgraph.replies import Reply, response_from
from mpdf_langgraph.router import PERSIST, REFINE
from mpdf_langgraph.runtime.calls import CallResult
from mpdf_langgraph.state import Response, Usage, no_usage
from training.collect.questions import (
    TableError,
    category_of,
    read_table,
    reference_of,
    text_of,
)

NAME = "import"
#: The usage of a recorded response: there was one call, and nothing else is known of it.
_LOGGED = Usage(calls=1, prompt_tokens=0, completion_tokens=0, unreported=1, estimated=0)

Convert = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """One usable row: an agent's response to a question, and P(correct) if it was measured.

    Attributes:
        round: 0 for its first answer. A later one refined the answer of the round before.
    """

    agent: str
    response: str
    confidence: float | None
    round: int = 0


@dataclass
class Answers:
    """The usable rows of a table, by question.

    Attributes:
        groups: (question, reference) -> answers, in the order of rounds and of the team.
        categories: Question -> its category, for those that have one.
        rows: Number of rows read, after conversion.
        unusable: Number of rows left out, by reason.
        examples: The place of the first row left out, by reason.
    """

    groups: dict[tuple[str, str | None], list[Answer]] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """Return what was read and what was left out, as lines."""
        used = sum(len(answers) for answers in self.groups.values())
        lines = [f"{self.rows} rows: {used} answers to {len(self.groups)} questions"]
        debated = [max(a.round for a in answers) for answers in self.groups.values()]
        if any(debated):
            count = sum(last > 0 for last in debated)
            lines.append(f"{count} of the questions were debated, in {max(debated)} rounds at most")
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
    - `round`, which may be left out: 0 for a first answer, 1 for the answer that the agent gave
      after it had read the first answers of its peers, and so on. An agent without a row for a
      round kept its answer in it.
    - `confidence`, which may be left out: P(correct) in [0, 1], from a critic or from token
      log-probabilities, not what the text claims of itself.

    The team of a question are the agents that answered it, in the order in which the file first
    names them. If an agent has several rows for a question and a round the first one counts. Give
    samples different agent names to use them all. A question keeps its first reference and
    category, and rows with others are left out. So are a question that only one agent has answered,
    and later rounds of an agent without a first answer.

    Args:
        path: The table.
        convert: Turns one row of a table of another form into such rows.

    Raises:
        TableError: There is no such table.
    """
    answers = Answers()
    references: dict[str, str | None] = {}
    categories: dict[str, str] = {}
    given: dict[str, dict[tuple[int, str], Answer]] = {}
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
                category = category_of(row)
                answer = _answer(row)
            except TableError as error:
                # The reason leaves out what differs from row to row.
                leave_out(re.split(r", got| \(", str(error))[0], where)
                continue
            if references.setdefault(question, reference) != reference:
                leave_out("another reference than the question's first row", where)
                continue
            if category is not None and categories.setdefault(question, category) != category:
                leave_out("another category than the question has", where)
                continue
            order.setdefault(answer.agent)
            places.setdefault(question, where)
            said, key = given.setdefault(question, {}), (answer.round, answer.agent)
            if said.setdefault(key, answer) is not answer:
                leave_out("a second answer of the same agent to the same question", where)
    for question, said in given.items():
        if late := sum((0, name) not in said for _, name in said):
            leave_out(
                "a later round of an agent without a first answer (round 0)", places[question], late
            )
        team = [name for name in order if (0, name) in said]
        if len(team) < 2:
            if left := sum(name in team for _, name in said):
                leave_out("the only agent that answered its question", places[question], left)
            continue
        rounds = sorted({round_ for round_, _ in said})
        answers.groups[question, references[question]] = [
            said[round_, name] for round_ in rounds for name in team if (round_, name) in said
        ]
    answers.categories = {q: categories[q] for q, _ in answers.groups if q in categories}
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
            raise TableError(f"'confidence' must be in [0, 1], got {reprlib.repr(given)}")
        confidence = float(given)
    round_ = row.get("round")
    if isinstance(round_, float) and round_.is_integer():
        round_ = int(round_)  # pandas makes a column of whole numbers with gaps one of floats
    if round_ is not None and (type(round_) is not int or round_ < 0):
        raise TableError(f"'round' must be a whole number of 0 or more, got {reprlib.repr(round_)}")
    return Answer(agent, response, confidence, round_ or 0)


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


#: The critic of imported answers, whatever gave their confidence.
LOGGED = "logged"


class _LoggedRouter:
    """Sends those to refine who answered again.

    Attributes:
        team: The agents' names.
        coming: For every round of decisions to come, who refines in it. Afterwards nobody does.
    """

    name, version = "logged", "1"

    def __init__(self, team: Sequence[str]) -> None:
        self.team = team
        self.coming: Iterator[set[str]] = iter(())

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`. There is an observation for every agent of the team."""
        refining = next(self.coming, set())
        return [REFINE if name in refining else PERSIST for name in self.team]


class Replay:
    """Plays recorded answers and debates through the real graph.

    Args:
        schema: Compares the answers.
        consensus: ``"confidence"`` or ``"majority"``.
        max_rounds: Rounds that a team may take where the router will be used. It is a feature. A
            longer recorded debate is played to its end.

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
        self._graphs: dict[tuple[Any, ...], tuple[Any, _LoggedRouter]] = {}

    def play(
        self,
        question: str,
        reference: str | None,
        said: Sequence[Response],
        category: str | None = None,
    ) -> Episode:
        """Return the episode of a team that gave these responses and had no calls left.

        The same arguments give the same id, so importing a table twice doubles nothing.

        Args:
            question: The question.
            reference: The reference answer, if known.
            said: A proposal of each agent, in the order of the team, and any later responses. The
                graph decides which of them are equivalent.
            category: Of the question, if it has one.
        """
        graph, router = self._graph_for(said)
        last = max(one["round"] for one in said)
        by_round: list[dict[str, Response]] = [{} for _ in range(last + 1)]
        for one in said:
            by_round[one["round"]][one["id"]] = Response({**one, "cluster": None})
        router.coming = iter([{one["agent"] for one in part.values()} for part in by_round[1:]])
        config: Any = {"configurable": {"thread_id": "replay"}}
        with warnings.catch_warnings():
            # The schema counts the first, and neither is news in a log of thousands.
            warnings.filterwarnings("ignore", "Two answers could not be compared")
            warnings.filterwarnings("ignore", "all .* agents proposed the very same text")
            given = {"question": question, "reference": reference, "category": category}
            graph.invoke(given, config, durability="exit")
            # It stops before any agent is asked, takes the responses as theirs, and goes on.
            while (stopped := graph.get_state(config)).next:
                answered = {"responses": by_round[stopped.values["round"]]}
                graph.update_state(config, answered, as_node="critic")
                graph.invoke(None, config, durability="exit")
        episode = Episode.from_state(graph.get_state(config).values)
        graph.checkpointer.delete_thread("replay")
        id_ = _episode_id(episode, said)
        outcome = {**episode.outcome, "episode": id_}
        return episode.model_copy(update={"id": id_, "outcome": outcome})

    def _graph_for(self, said: Sequence[Response]) -> tuple[Any, _LoggedRouter]:
        """Return the graph of a team and of a number of responses, built once."""

        def logged(question: str, response: Response) -> float:  # `LOGGED` stands in the record
            raise AssertionError("the critic's verdicts are recorded, so it is not asked")

        names = [r["agent"] for r in said if r["round"] == 0]
        critic = logged if any(r["critique"] is not None for r in said) else None
        rounds = max(self.max_rounds, *(r["round"] for r in said))
        key = (*names, critic is None, len(said), rounds)
        if key not in self._graphs:
            router = _LoggedRouter(names)
            graph = create_deliberation(
                [Agent(name, RecordedChatModel(agent=name, recordings={})) for name in names],
                router=router,
                critic=critic,
                answer=self.schema,
                consensus=self.consensus,
                max_rounds=rounds,
                max_calls=len(said),
                stop_when_settled=False,
                name=NAME,
            ).compile(checkpointer=InMemorySaver(), interrupt_before=["agent"])
            self._graphs[key] = graph, router
        return self._graphs[key]

    def play_all(self, answers: Answers) -> Iterator[Episode]:
        """Yield the episode of every question of a table."""
        for (question, reference), said in answers.groups.items():
            responses = make_responses(said, self.schema)
            yield self.play(question, reference, responses, answers.categories.get(question))


def make_responses(answers: Sequence[Answer], schema: AnswerSchema) -> list[Response]:
    """Return what the agents of a team said, as the records of their responses."""
    criticised = any(answer.confidence is not None for answer in answers)
    responses = []
    for answer in answers:
        reply = Reply(answer.response, finish_reason=None, model=None, token_logprobs=[])
        response = response_from(
            CallResult(reply, None, attempts=1, seconds=0.0, usage=_LOGGED),
            response_id=f"{answer.agent}@{answer.round}",
            agent=answer.agent,
            round_=answer.round,
            schema=schema,
        )
        if criticised:
            known = {} if answer.confidence is None else {LOGGED: answer.confidence}
            response["critique"] = Critique(
                confidence=answer.confidence, source=LOGGED, scores=known, usage=no_usage()
            )
        responses.append(response)
    return responses


def _episode_id(episode: Episode, said: Sequence[Response]) -> str:
    told = [
        [
            r["agent"] if r["round"] == 0 else r["id"],
            r["text"],
            r["critique"]["confidence"] if r["critique"] else None,
        ]
        for r in said
    ]
    content = [episode.question, episode.reference, told, episode.options]
    content += [] if episode.category is None else [episode.category]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
