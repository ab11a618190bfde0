"""Methods of others, on the same agents, prompts, samples and parser: PHP and DyLAN.

What of them had to be changed is said where it is.
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
from training.evaluate.runner import Bench
from training.evaluate.votes import Outcome

HINT = "{question} (Hint: The answer is near to {hints}.)"
PHP_ASKS = 6
"""Answers at most; the authors' code has no limit."""
DYLAN_AGENTS = 4


def php_steps(
    agent: Agent, question: str, notes: str, schema: AnswerSchema, most: int = PHP_ASKS
) -> Steps[Outcome]:
    """Progressive-Hint Prompting (Zheng et al. 2023): ask again until two answers in a row agree.

    Every time the question is asked anew with all earlier answers as a hint. It is no
    deliberation: the graph shows an agent its peers' responses, never its own earlier ones.

    A model that brings prompts of its own may know no others (the bundled one does not): it is
    asked with its own refine prompt instead, in which its last response stands as a peer's.

    Args:
        agent: The one agent.
        question: The question.
        notes: What it knows about the question; may be empty.
        schema: Reads and compares the answers.
        most: Answers at most; then the last one counts.
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
            again = agent.refine_turn(question, schema=schema, own=own, peers={agent.name: own})
            messages = [*opening, *again]
    return Outcome(
        answer=answers[-1] if answers else None,
        tokens=tokens(usage),
        calls=usage["calls"],
        actions={},
        failed=not responses,
        failures=failures,
    )


async def php(bench: Bench, questions: Sequence[Question]) -> list[Outcome | None]:
    """Run PHP with the first agent on all questions."""
    agent = bench.agents[0]

    async def one(question: Question) -> Outcome:
        notes = question.contexts.get(agent.name, "")
        steps = php_steps(agent, question.question, notes, bench.schema)
        return await arun(steps, RunnableConfig())

    return await bench.every("PHP", questions, one)


class Dylan:
    """DyLAN (Liu et al. 2023) as a router and a consensus rule; for one deliberation.

    Three rounds of answers: proposals, all refine, the two most important agents refine and they
    alone vote. It stops as soon as more than two thirds of the agents agree.

    Meant, and done here: those two stay who did best. In the authors' code others do: the
    responses are shuffled before they are ranked, and the ranks are then read as places in the
    order before the shuffle. Changed: the critic's confidence ranks the agents, where the authors
    ask the model with a prompt for it, so that DyLAN saves that call; and all agents of a round
    answer at the same time, so that it does not save a round's last call where those before it
    agree already.
    """

    name = "dylan"
    version = "1"

    def __init__(self) -> None:
        self.votes: list[Vote] = []
        self.active: set[str] | None = None  # None: all
        self.played = 0

    def count(self, votes: Sequence[Vote]) -> int | None:
        """Return the most frequent answer of the active agents; the graph's consensus rule."""
        self.votes = list(votes)
        return majority([v for v in votes if self.active is None or v.agent in self.active])

    def decide(self, observations: Any, masks: Any) -> Sequence[Sequence[float]]:
        """See `Router.decide`; what it goes by are the votes, as counted just before."""
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


async def dylan(bench: Bench, questions: Sequence[Question]) -> list[Episode | None]:
    """Run DyLAN on all questions; with four agents, as its authors do, or the team if larger."""

    def each(question: Question) -> dict[str, Any]:
        one = Dylan()
        return {"router": one, "consensus": one.count}

    agents = bench.crowd[: max(DYLAN_AGENTS, len(bench.agents))]
    return await bench.run("DyLAN", questions, agents=agents, each=each, max_rounds=2)
