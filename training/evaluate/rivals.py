"""Two published methods, PHP and DyLAN, on the same agents, prompts, samples and parser.

The docstrings say what had to be changed.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig

from mpdf_langgraph import Agent, AnswerSchema, Episode, Prompts
from mpdf_langgraph.answers.schema import schema_for
from mpdf_langgraph.consensus import Vote, majority
from mpdf_langgraph.errors import describe_error
from mpdf_langgraph.replies import response_from
from mpdf_langgraph.router import PERSIST, REFINE
from mpdf_langgraph.runtime.calls import Steps, arun
from mpdf_langgraph.state import add_usage, no_usage, tokens
from training.collect.questions import Question
from training.evaluate.bench import Bench
from training.evaluate.shared_samples import one_question
from training.evaluate.votes import Result

HINT = "{question} (Hint: The answer is near to {hints}.)"
MOST_HINTED_ANSWERS = 6
"""Answers of PHP at most. The authors' code has no limit."""
DYLAN_AGENTS = 4


def progressive_hints(
    agent: Agent, question: str, notes: str, schema: AnswerSchema, most: int = MOST_HINTED_ANSWERS
) -> Steps[Result]:
    """Progressive-Hint Prompting (Zheng et al. 2023): ask again until two answers in a row agree.

    Every time the question is asked anew with all earlier answers as a hint. This is not a
    deliberation: the graph shows an agent its peers' responses, never its own earlier ones.

    A model with prompts of its own may know no other prompts (the bundled one does not). It is
    asked with its own refine prompt instead, which shows its last response as a peer's.

    Args:
        agent: The one agent.
        question: The question.
        notes: What it knows about the question. May be empty.
        schema: Reads and compares the answers.
        most: Answers at most. Then the last one counts.
    """
    opening = agent.conversation(question, schema=schema, history=[], notes=notes)
    hinted = agent.prompts.refine == Prompts().refine
    schema = schema_for(schema, question)
    messages, usage = opening, no_usage()
    answers: list[str] = []
    previous, responses = None, 0
    failures: tuple[str, ...] = ()
    for number in range(most):
        call = agent.call(
            messages,
            refine=number > 0 and not hinted,
            retries=agent.retries,
            bound=0,
            deadline=None,
            config=RunnableConfig(run_name="php"),
        )
        [reply] = yield [call]
        usage = add_usage(usage, reply.usage)
        if reply.cause is not None:
            failures = (describe_error(reply.cause),)
            break
        responses += 1
        response = response_from(
            reply, response_id=f"{number}", agent=agent.name, round_=number, schema=schema
        )
        answer = response["answer"]
        if answer is not None:
            answers.append(answer)
            if previous is not None and schema.equivalent(previous, answer):
                break
        previous = answer
        if hinted:
            hints = ", ".join(dict.fromkeys(answers))
            asked = HINT.format(question=question, hints=hints) if hints else question
            messages = agent.conversation(asked, schema=schema, history=[], notes=notes)
        else:
            own = response["text"]
            again = agent.refine_turn(
                question,
                schema=schema,
                own=own,
                peers={agent.name: own},
                private=bool(notes),
            )
            messages = [*opening, *again]
    return Result(
        answer=answers[-1] if answers else None,
        tokens=tokens(usage),
        calls=usage["calls"],
        actions={},
        failed=not responses,
        failures=failures,
        unreported=usage["unreported"],
        gaps=len(failures),
    )


async def ask_with_progressive_hints(bench: Bench, question: Question) -> Result:
    """Run PHP with the first agent."""
    agent = bench.agents[0]
    notes = question.contexts.get(agent.name, "")
    steps = progressive_hints(agent, question.question, notes, bench.schema)
    with one_question(bench.seed):
        return await arun(steps, RunnableConfig())


class Dylan:
    """DyLAN (Liu et al. 2023) as a router and a consensus rule, for one deliberation.

    There are three rounds of answers. First all propose, then all refine, then the two most
    important agents refine and only they vote. It stops as soon as more than two thirds of the
    agents agree.

    Different from the authors' code:

    - The two agents that did best are kept, as the paper means it. The authors' code keeps others:
      it shuffles the responses before it ranks them, and then reads the ranks as places in the
      order before the shuffle.
    - The critic's confidence ranks the agents. The authors ask the model for a ranking, so DyLAN
      saves that call here.
    - All agents of a round answer at the same time. So DyLAN does not save the last call of a
      round in which the agents before it agree already.
    """

    name = "dylan"
    version = "1"

    def __init__(self) -> None:
        self.votes: list[Vote] = []
        self.active: set[str] | None = None  # None: all
        self.played = 0

    def count(self, votes: Sequence[Vote]) -> int | None:
        """Return the most frequent answer of the active agents: the graph's consensus rule."""
        self.votes = list(votes)
        return majority([v for v in votes if self.active is None or v.agent in self.active])

    def decide(self, observations: Any, masks: Any) -> Sequence[Sequence[float]]:
        """See `Router.decide`. The votes that were counted just before decide."""
        self.played += 1
        leader = majority(self.votes)
        backing = sum(v.cluster == leader for v in self.votes if v.cluster is not None)
        if 3 * backing > 2 * len(self.votes):
            return [PERSIST for _ in self.votes]
        if self.played > 1:
            ranked = sorted(self.votes, key=_importance, reverse=True)  # stable: the team's order
            self.active = {vote.agent for vote in ranked[:2]}
        return [
            REFINE if self.active is None or v.agent in self.active else PERSIST for v in self.votes
        ]


def _importance(vote: Vote) -> float:
    return -1.0 if vote.cluster is None else vote.confidence or 0.0


async def deliberate_as_dylan(bench: Bench, question: Question) -> Episode:
    """Run DyLAN with four agents, as its authors do, or with the team if it is larger."""
    one = Dylan()
    agents = bench.crowd[: max(DYLAN_AGENTS, len(bench.agents))]
    return await bench.deliberate(
        question, agents=agents, router=one, consensus=one.count, max_rounds=2
    )
