"""Runs a team on questions in one way after another, every way on the same samples."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from mpdf_langgraph import Agent, Calibration, ConfigurationError, Episode, create_deliberation
from mpdf_langgraph.errors import describe_error
from mpdf_langgraph.router import (
    PERSIST,
    REFINE,
    Router,
    behaviour,
    check_rows,
    draw,
    known_calibration,
    known_competence,
)
from mpdf_langgraph.state import ACTIONS
from training.collect.questions import Question
from training.collect.team import Source, grader
from training.evaluate.shared_samples import RememberingChatModel, Samples, one_question
from training.learn.calibrate import fit_calibration, judge

VOTES = (3, 5, 9, 15)
"""Sizes of the votes; the largest is the least size of the pool."""

T = TypeVar("T")
_finished: ContextVar[list[Episode]] = ContextVar("finished")


class _Keeper:
    """Takes the place of a trace folder: leaves the episode to whoever asked."""

    def write_state(self, state: Any) -> None:
        _finished.get().append(Episode.from_state(state))


@dataclass
class Script:
    """A router that plays given rounds of actions, then always the same one; for one deliberation.

    Attributes:
        rounds: Actions by agent; who is not named persists.
        names: The team, in its order.
        then: What follows the last round.
    """

    rounds: Sequence[Mapping[str, str]]
    names: Sequence[str]
    then: list[float]
    name: str = "script"
    version: str = "1"
    played: int = 0

    def decide(self, observations: Any, masks: Any) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        self.played += 1
        if self.played > len(self.rounds):
            return [self.then for _ in self.names]
        actions = self.rounds[self.played - 1]
        chosen = [actions.get(name, "PERSIST") for name in self.names]
        return [[float(action == a) for a in ACTIONS] for action in chosen]


@dataclass
class Seeded:
    """Draws the actions of a router from a seed: repeated, a run decides the same.

    For one deliberation. The graph itself draws from the episode's id, which is always new.
    """

    inner: Router
    seed: str
    name: str = field(init=False)
    version: str = field(init=False)
    competence: Mapping[str, float] = field(init=False)
    calibration: Calibration | None = field(init=False)
    played: int = 0

    def __post_init__(self) -> None:
        self.name, self.version = self.inner.name, self.inner.version
        self.competence = known_competence(self.inner)
        self.calibration = known_calibration(self.inner)

    def decide(self, observations: Any, masks: Any) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        self.played += 1
        rows = check_rows(self.inner.decide(observations, masks), len(observations), self.name)
        drawn = [
            draw(behaviour(row, mask, 0.0), f"{self.seed}/{self.played}/{place}")
            for place, (row, mask) in enumerate(zip(rows, masks, strict=True))
        ]
        return [[float(action == a) for a in ACTIONS] for action in drawn]


class Bench:
    """A team, a larger crowd of its like, and their samples.

    Args:
        source: Whom to ask.
        folder: For the file of samples.
        critic: Where confidence comes from.
        consensus: How deliberations count their votes.
        rounds: Rounds of decisions at most.
        concurrency: Questions at a time.
        seed: Another seed has samples of its own.

    Attributes:
        agents: The team.
        crowd: At least 15 agents, and one more a round for each of the team: the team, then its
            doubles in turn, who know what their originals do.
        samples: What was drawn so far.

    Raises:
        ConfigurationError: An option is wrong, or an agent is no plain chat model.
    """

    def __init__(
        self,
        source: Source,
        folder: Path,
        *,
        critic: str = "logprob",
        consensus: str = "confidence",
        rounds: int = 2,
        concurrency: int = 64,
        seed: int = 0,
    ) -> None:
        self.schema = source.answer_schema()
        self.rounds, self.concurrency, self.seed = rounds, concurrency, seed
        self._given = {"critic": critic, "consensus": consensus, "answer": self.schema}
        team = source.build_agents()
        if any(agent.chat_model is not agent.runnable for agent in team):
            raise ConfigurationError("an evaluation needs plain chat models as agents")
        self.samples = Samples(folder / f"samples-{seed}.jsonl")
        names = {f"agent-{k + 1}": k % len(team) for k in range(max(*VOTES, _needed(team, rounds)))}
        self.crowd = [self._double(name, team[k], source, k) for name, k in names.items()]
        self.agents = self.crowd[: len(team)]
        self._original = {name: team[k].name for name, k in names.items()}
        self._verdicts: dict[tuple[str, str], bool] = {}

    def _double(self, name: str, agent: Agent, source: Source, place: int) -> Agent:
        # Not the server's URL: a server that is started again may have another port.
        factory = (
            source.model_factory[place % len(source.model_factory)] if not source.base_url else ""
        )
        label = f"{name} {factory} {agent.describe()['model']}"
        model = RememberingChatModel(self.samples, inner=agent.chat_model, name=label)
        return replace(agent, name=name, runnable=model)

    def close(self) -> None:
        """Close the file of samples."""
        self.samples.close()

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Grade; no answer is wrong."""
        if answer is None or question.reference is None:
            return False
        key = (answer, question.reference)
        if key not in self._verdicts:
            self._verdicts[key] = grader(self.schema)(*key)
        return self._verdicts[key]

    def tell(self, label: str, question: Question, error: Exception) -> None:
        """Say at once that a method failed on a question."""
        tqdm.write(f"{label}: {question.id}: {describe_error(error)}", sys.stderr)

    async def every(
        self, label: str, questions: Sequence[Question], one: Callable[[Question], Awaitable[T]]
    ) -> list[T | None]:
        """Call `one` on every question, a few at a time; None where it raised.

        Args:
            label: Stands before the progress bar.
            questions: What to ask.
            one: One method's handling of one question.
        """
        gate = asyncio.Semaphore(self.concurrency)

        async def ask(question: Question) -> T | None:
            async with gate:
                try:
                    with one_question(self.seed):
                        return await one(question)
                except Exception as error:  # of any kind: the other questions must be answered
                    self.tell(label, question, error)
                    return None
                finally:
                    bar.update()

        with tqdm(total=len(questions), desc=label, unit="question", mininterval=1) as bar:
            return await asyncio.gather(*(ask(question) for question in questions))

    async def run(
        self,
        label: str,
        questions: Sequence[Question],
        *,
        agents: Sequence[Agent] | None = None,
        each: Callable[[Question], dict[str, Any]] | None = None,
        **settings: Any,
    ) -> list[Episode | None]:
        """Deliberate on all questions.

        Args:
            label: Stands before the progress bar.
            questions: What to ask.
            agents: Part of the crowd, instead of the team.
            each: Further arguments of `create_deliberation` for one question.
            settings: The same for all questions.

        Returns:
            The episodes, also of deliberations that failed; None where there is none.
        """
        team = list(agents or self.agents)
        given = {**self._given, "max_rounds": self.rounds, "traces": _Keeper(), **settings}
        shared = None if each else create_deliberation(team, **given).compile()

        async def one(question: Question) -> Episode | None:
            graph = shared
            if graph is None and each is not None:
                graph = create_deliberation(team, **{**given, **each(question)}).compile()
            known = {a.name: question.contexts.get(self._original[a.name]) for a in team}
            contexts = {name: text for name, text in known.items() if text is not None}
            kept: list[Episode] = []
            token = _finished.set(kept)
            try:
                await graph.ainvoke({**question.input(), "contexts": contexts})
            except Exception as error:
                if not kept:
                    raise
                self.tell(label, question, error)
            finally:
                _finished.reset(token)
            return kept[-1]

        return await self.every(label, questions, one)

    async def pool(
        self, label: str, questions: Sequence[Question], size: int | None = None
    ) -> list[Episode | None]:
        """Draw the pool of proposals: one vote of the first so many of the crowd, or of all."""
        settings = {"router": "always-persist", "consensus": "majority"}
        return await self.run(label, questions, agents=self.crowd[:size], **settings)

    async def calibrate(self, questions: Sequence[Question]) -> Calibration:
        """Fit a calibration of the confidences, and use it from now on.

        Routers that bring one of their own keep it; everything else, votes and debates included,
        gets this one.

        Args:
            questions: Others than will be tested on.
        """
        debates = await self.run(
            "calibration: debate", questions, router="always-refine", stop_when_settled=False
        )
        episodes = [episode for episode in debates if episode is not None]
        found = fit_calibration(judge(episodes, grader(self.schema)))
        self._given["calibration"] = found
        return found

    async def oracle(
        self, label: str, questions: Sequence[Question], rounds: int
    ) -> list[list[Episode | None]]:
        """Play the best actions of every round, seen with the reference; one list per round.

        An agent persists where it is right, else concedes where that makes it right, else
        refines where that does, else persists. What refining would give is drawn by a trial run
        in which everyone refines; the shared samples make the real run repeat it.
        """
        names = [agent.name for agent in self.agents]
        scripts: dict[str, list[dict[str, str]]] = {q.id: [] for q in questions}
        results = []
        for round_ in range(1, rounds + 1):

            def play(then: list[float]) -> Callable[[Question], dict[str, Any]]:
                return lambda q: {"router": Script(tuple(scripts[q.id]), names, then)}

            settings: dict[str, Any] = {"max_rounds": round_, "stop_when_settled": False}
            trial = await self.run(
                f"{label} {round_}, trial", questions, each=play(REFINE), **settings
            )
            for question, episode in zip(questions, trial, strict=True):
                best = {} if episode is None else self._best_actions(question, episode, round_)
                scripts[question.id].append(best)
            results.append(
                await self.run(f"{label} {round_}", questions, each=play(PERSIST), **settings)
            )
        return results

    def _best_actions(self, question: Question, trial: Episode, round_: int) -> dict[str, str]:
        def right(response_id: str | None) -> bool:
            response = trial.responses.get(response_id or "")
            return response is not None and self.is_right(question, response["answer"])

        actions = {}
        for turn in (turn for turn in trial.turns if turn["round"] == round_):
            best = "PERSIST"
            if not right(turn["before"]):
                if right(turn["target"]):
                    best = "CONCEDE"
                elif right(turn["after"]):
                    best = "REFINE"
            actions[turn["agent"]] = best
        return actions


def _needed(team: Sequence[Agent], rounds: int) -> int:
    """How large a crowd the control may use up."""
    return len(team) * (rounds + 1)
