"""A team that answers questions in one way after another, every way on the same samples."""

from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mpdf_langgraph import (
    Agent,
    AnswerSchema,
    Calibration,
    ConfigurationError,
    Episode,
    LearnedConsensus,
    create_deliberation,
)
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
from training.collect.team import TeamOptions, grader, open_critic
from training.evaluate.shared_samples import RememberingChatModel, Samples, one_question
from training.evaluate.votes import Result
from training.learn.calibrate import fit_calibration, judge

VOTES = (3, 5, 9, 15)
"""Sizes of the votes. The largest is the least size of the pool."""

_finished: ContextVar[list[Episode]] = ContextVar("finished")


class _Keeper:
    """Takes the place of a trace folder, and leaves the episode to the caller."""

    def write_state(self, state: Any) -> None:
        _finished.get().append(Episode.from_state(state))


@dataclass
class Script:
    """A router that plays given rounds of actions and then always the same one.

    For one deliberation.

    Attributes:
        rounds: Actions by agent. An agent that is not named persists.
        names: The team, in its order.
        then: Probabilities of the actions after the last round.
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
    """A router whose actions are drawn from a seed, so that a repeated run decides the same.

    For one deliberation. The graph itself draws from the episode's id, which is always new.
    """

    inner: Router
    seed: str
    name: str = field(init=False)
    version: str = field(init=False)
    competence: Mapping[str, float] = field(init=False)
    calibration: Calibration | None = field(init=False)
    consensus: LearnedConsensus | None = field(init=False)
    rule: str | None = field(init=False)
    played: int = 0

    def __post_init__(self) -> None:
        self.name, self.version = self.inner.name, self.inner.version
        self.competence = known_competence(self.inner)
        self.calibration = known_calibration(self.inner)
        self.consensus = getattr(self.inner, "consensus", None)
        self.rule = getattr(self.inner, "rule", None)

    def decide(self, observations: Any, masks: Any) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        self.played += 1
        rows = check_rows(self.inner.decide(observations, masks), len(observations), self.name)
        actions = [
            draw(behaviour(row, mask, 0.0), f"{self.seed}/{self.played}/{place}")
            for place, (row, mask) in enumerate(zip(rows, masks, strict=True))
        ]
        return [[float(action == a) for a in ACTIONS] for action in actions]


class Bench:
    """A team, a larger crowd of the same agents, and their samples.

    Args:
        team: The team to ask.
        folder: For the file of samples.
        shared: Where to find more samples (see `Samples`).
        critic: Where confidence comes from.
        consensus: How deliberations count their votes.
        rounds: Rounds of decisions at most.
        seed: Another seed has other samples.
        schema: Reads and compares the answers. Default: as `team` says.

    Attributes:
        agents: The team.
        crowd: The team and then its doubles in turn, who know what their originals know. At least
            15 agents, and one more a round for each of the team.
        samples: All samples drawn so far.

    Raises:
        ConfigurationError: An option is wrong, or an agent is not a plain chat model.
    """

    def __init__(
        self,
        team: TeamOptions,
        folder: Path,
        *,
        shared: Path | None = None,
        critic: str = "logprob",
        consensus: str = "confidence",
        rounds: int = 2,
        seed: int = 0,
        schema: AnswerSchema | None = None,
    ) -> None:
        self.schema = schema or team.answer_schema()
        self.rounds, self.seed = rounds, seed
        self._given: dict[str, Any] = {
            "critic": open_critic(critic),
            "consensus": consensus,
            "answer": self.schema,
        }
        agents = team.build_agents()
        if any(agent.chat_model is not agent.runnable for agent in agents):
            raise ConfigurationError("an evaluation needs plain chat models as agents")
        self.samples = Samples(folder / f"samples-{seed}.jsonl", shared)
        size = max(*VOTES, len(agents) * (rounds + 1))  # the control may use up the latter
        places = {f"agent-{k + 1}": k % len(agents) for k in range(size)}
        self.crowd = [self._double(name, agents[k], team, k) for name, k in places.items()]
        self.agents = self.crowd[: len(agents)]
        self._original = {name: agents[k].name for name, k in places.items()}
        self._is_right = grader(self.schema)
        self._verdicts: dict[tuple[str, str], bool] = {}
        self._graphs: dict[Any, Any] = {}

    def _double(self, name: str, agent: Agent, team: TeamOptions, place: int) -> Agent:
        # The server's URL is left out: a server that is started again may have another port.
        factory = team.model_factory[place % len(team.model_factory)] if not team.base_url else ""
        label = f"{name} {factory} {agent.describe()['model']}"
        model = RememberingChatModel(self.samples, inner=agent.chat_model, name=label)
        return replace(agent, name=name, runnable=model)

    @cached_property
    def greedy_agents(self) -> list[Agent]:
        """The team at temperature 0."""
        return [replace(a, sampling={**a.sampling, "temperature": 0.0}) for a in self.agents]

    @cached_property
    def refining_doubles(self) -> list[Agent]:
        """The doubles with the sampling that agents refine with."""
        doubles = self.crowd[len(self.agents) :]
        return [replace(agent, sampling=agent.sampling_for(refine=True)) for agent in doubles]

    def close(self) -> None:
        """Close the file of samples."""
        self.samples.close()

    # --- grading ------------------------------------------------------------------------------

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Grade an answer. No answer is wrong. Testing a program may take seconds."""
        if answer is None or question.reference is None:
            return False
        key = (answer, question.reference)
        if key not in self._verdicts:
            self._verdicts[key] = self._is_right(*key)
        return self._verdicts[key]

    def grade(self, question: Question, result: Result) -> Result:
        """Return a result with its grade."""
        return replace(result, right=self.is_right(question, result.answer))

    # --- deliberations ------------------------------------------------------------------------

    async def deliberate(
        self, question: Question, *, agents: Sequence[Agent] | None = None, **options: Any
    ) -> Episode:
        """Deliberate on one question, with samples of its own number (see `shared_samples`).

        Args:
            question: The question.
            agents: Agents of this bench. Default: the team.
            options: Further arguments of `create_deliberation`.

        Returns:
            The episode, also of a deliberation that failed.

        Raises:
            Exception: Whatever the deliberation raises, if it left no episode behind.
        """
        team = list(agents or self.agents)
        known = {agent.name: question.contexts.get(self._original[agent.name]) for agent in team}
        contexts = {name: text for name, text in known.items() if text is not None}
        kept: list[Episode] = []
        token = _finished.set(kept)
        try:
            with one_question(self.seed):
                graph = self._graph(team, options)
                await graph.ainvoke({**question.input(), "contexts": contexts})
        except Exception:
            if not kept:
                raise
        finally:
            _finished.reset(token)
        return kept[-1]

    def _graph(self, team: list[Agent], options: dict[str, Any]) -> Any:
        """Build a graph, or return it again where all its options are plain values."""
        given = {**self._given, "max_rounds": self.rounds, "traces": _Keeper()}
        if rule := getattr(options.get("router"), "rule", None):  # as where it will run
            given["consensus"] = rule
        given |= options
        if not all(isinstance(value, str | int) for value in options.values()):
            return create_deliberation(team, **given).compile()
        key = (*map(id, team), *sorted(options.items()))
        if key not in self._graphs:
            self._graphs[key] = create_deliberation(team, **given).compile()
        return self._graphs[key]

    async def draw_pool(self, question: Question, size: int | None = None) -> Episode:
        """Draw the pool of proposals: one vote of the first `size` of the crowd, or of all."""
        options = {"router": "always-persist", "consensus": "majority"}
        return await self.deliberate(question, agents=self.crowd[:size], **options)

    async def draw_fresh(self, question: Question, rounds: int) -> Episode:
        """Draw what the controls take instead of refinements: one vote of everything.

        First come the team's own proposals, then fresh ones of its doubles, enough for every
        round. These are drawn with the sampling that the agents *refine* with: a model that never
        reads its peers may still gain by being asked cooler, or by being given more room.
        """
        doubles = self.refining_doubles[: len(self.agents) * rounds]
        options = {"router": "always-persist", "consensus": "majority"}
        return await self.deliberate(question, agents=[*self.agents, *doubles], **options)

    async def debate(self, question: Question) -> Episode | None:
        """Run the debate from which a calibration is fitted. None: it failed."""
        try:
            return await self.deliberate(question, router="always-refine", stop_when_settled=False)
        except Exception:  # of any kind: the progress bar counts it
            return None

    def fit_calibration(self, debates: Iterable[Episode | None]) -> Calibration:
        """Return the calibration of the confidences in some debates. Those that failed are none."""
        return fit_calibration(judge([e for e in debates if e is not None], self._is_right))

    def use_calibration(self, calibration: Calibration | None) -> None:
        """Use a calibration from now on, for votes and debates too.

        A router that brings one keeps its own. Doubles take the curves of their originals.
        """
        if calibration is not None:
            curves = dict(calibration.root)
            for double, original in self._original.items():
                for key, own in calibration.root.items():
                    source, _, agent = key.partition("@")
                    if agent == original:
                        curves[f"{source}@{double}"] = own
            calibration = Calibration(curves)
        self._given["calibration"] = calibration
        self._graphs.clear()

    async def play_oracle(self, question: Question, rounds: int) -> list[Episode]:
        """Play the best actions of every round, chosen with the reference: an episode a round.

        An agent persists if it is right, else concedes if that makes it right, else refines if
        that makes it right, else persists. A trial run in which everyone refines draws what
        refining would give. The shared samples make the real run repeat it.
        """
        names = [agent.name for agent in self.agents]
        script: list[dict[str, str]] = []
        episodes = []
        for round_ in range(1, rounds + 1):

            async def play(then: list[float], last: int = round_) -> Episode:
                router = Script(tuple(script), names, then)
                return await self.deliberate(
                    question, router=router, max_rounds=last, stop_when_settled=False
                )

            script.append(self._best_actions(question, await play(REFINE), round_))
            episodes.append(await play(PERSIST))
        return episodes

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
