"""The methods of `training/evaluate.py` by name, one question at a time.

    single            the first proposal
    greedy            one agent at temperature 0; greedy-vote: the team, if of several models
    vote-K            plain vote of K proposals; weighted-vote-K, best-of-K: by confidence
    adaptive-K        resampling until the vote is settled, at most K proposals
    debate-R          R rounds in which everybody refines, then a vote
    random, threshold routers without training
    php, dylan        methods of others (training/peers.py)
    oracle-R          the best actions of R rounds, seen with the reference: a bound, no method

Every folder given as `--router` is a method too, several seeds of one together. All share their
proposals: whoever asks the same thing for the n-th time gets the same n-th sample.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from examples.benchmarks.loaders import Benchmark
from mpdf_langgraph import AnswerSchema, ConfigurationError, Episode, ThresholdRouter
from mpdf_langgraph.consensus import make_rule
from mpdf_langgraph.router import Router, make_router
from training import peers
from training import pool as pools
from training.evaluate import families, open_router
from training.pool import Outcome
from training.questions import Question
from training.replay import one_question
from training.runs import Bench, Seeded
from training.source import Source

T = TypeVar("T")
Critic = Literal["logprob", "self+logprob", "self"]


@dataclass(frozen=True)
class Setting:
    """What the methods have in common.

    Attributes:
        rounds: Rounds of decisions at most.
        bar: The threshold router's.
        gap: The threshold router's.
        share: Share of the summed confidence at which adaptive resampling stops.
        sampled: Routers draw their actions instead of taking the most probable one.
        control: Every router also with each REFINE replaced by a fresh proposal.
        seed: Another seed draws other samples.
    """

    rounds: int = 3
    critic: Critic = "logprob"
    consensus: Literal["confidence", "majority"] = "confidence"
    bar: float = ThresholdRouter.bar
    gap: float = ThresholdRouter.gap
    share: float = 0.8
    sampled: bool = False
    control: bool = False
    seed: int = 0


class Team(Bench):
    """The team and its samples, as an evaluation has them; it grades as the benchmark does.

    Args:
        benchmark: Grades.
        schema: Reads and compares answers.
        source: Whom to ask.
        setting: See `Setting`.
        folder: Where the samples lie.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        schema: AnswerSchema,
        source: Source,
        setting: Setting,
        folder: Path,
    ) -> None:
        super().__init__(
            source,
            folder,
            critic=setting.critic,
            consensus=setting.consensus,
            rounds=setting.rounds,
            seed=setting.seed,
        )
        self.schema = self._given["answer"] = schema
        self.benchmark = benchmark

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Grade as the benchmark does; no answer is wrong."""
        key = (str(answer), str(question.reference))
        if key not in self._verdicts:
            self._verdicts[key] = self.benchmark.grade(self.schema, answer, question)
        return self._verdicts[key]

    def remember(self, question: Question, answer: str | None, right: bool) -> None:
        """Take over an earlier verdict: testing a program again would take its time again."""
        self._verdicts[str(answer), str(question.reference)] = right

    async def every(
        self, label: str, questions: Sequence[Question], one: Callable[[Question], Awaitable[T]]
    ) -> list[T | None]:
        """Call `one` on every question; unlike an evaluation, show nothing and raise errors on."""
        results: list[T | None] = []
        for question in questions:
            with one_question(self.seed):
                results.append(await one(question))
        return results


class Asked:
    """What methods have in common on one question, made when it is first needed."""

    def __init__(self, team: Team, question: Question, methods: Sequence["Method"]) -> None:
        self.team, self.question = team, question
        self._pool_size = max((method.needs for method in methods), default=0)
        self._known: dict[str, Episode] = {}
        if self._pool_size > len(team.crowd):
            raise ConfigurationError(f"--methods: votes are of {len(team.crowd)} agents at most")

    async def pool(self) -> Episode:
        """Return the vote of all proposals that any method needs."""
        crowd = self.team.crowd[: self._pool_size]
        return await self.deliberate(
            "pool", agents=crowd, router="always-persist", consensus="majority"
        )

    async def deliberate(self, label: str, **given: Any) -> Episode:
        """Return the deliberation of that label; who asks for it first says how it is made."""
        if label not in self._known:
            [episode] = await self.team.run(label, [self.question], **given)
            assert episode is not None  # `Team.every` raises
            self._known[label] = episode
        return self._known[label]


Ask = Callable[[Asked], Awaitable[Outcome]]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: As in the tables of an evaluation.
        runs: How to get an outcome, by the version of the router; one run where there is none.
        kind: ``"baseline"``, ``"learned"``, ``"control"`` or ``"oracle"``.
        needs: Proposals that it takes from the pool.
    """

    name: str
    runs: tuple[tuple[str | None, Ask], ...]
    kind: str = "baseline"
    needs: int = 0


_PARAMETER = re.compile(r"(.*?)(?:-(\d+))?")
_ON_POOL = {
    "single": ("single sample", pools.vote),
    "vote": ("vote of {}", pools.vote),
    "weighted-vote": ("weighted vote of {}", pools.weighted_vote),
    "best-of": ("best of {}", pools.best_of),
}


def select(
    names: Sequence[str], routers: Sequence[Path], setting: Setting, agents: int
) -> list[Method]:
    """Return the methods of these names, and one for every family of routers.

    Args:
        names: See the module.
        routers: Folders of fitted routers.
        setting: See `Setting`.
        agents: Size of the team.

    Raises:
        ConfigurationError: There is no such method.
        RouterError: A router cannot be loaded.
    """
    methods = []
    for name in dict.fromkeys(names):
        methods += _named(name, setting, agents)
    for name, folders in families(routers).items():
        loaded = [open_router(folder, setting) for folder in folders]  # type: ignore[arg-type]
        methods += _routed(name, loaded, "learned", setting, agents)
    if not methods:
        raise ConfigurationError("name at least one method (--methods), or give a --router")
    repeated = [m.name for k, m in enumerate(methods) if m.name in {n.name for n in methods[:k]}]
    if repeated:
        raise ConfigurationError(f"{repeated[0]!r} is another method's name: rename that router")
    return methods


def _named(given: str, setting: Setting, agents: int) -> list[Method]:
    match = _PARAMETER.fullmatch(given)
    assert match is not None
    name, number = match[1], int(match[2]) if match[2] else None
    takes_number = name in ("vote", "weighted-vote", "best-of", "adaptive", "debate", "oracle")
    if takes_number != (number is not None) or number == 0:
        name = ""  # falls through to the error
    if name in _ON_POOL:
        title, make = _ON_POOL[name]
        return [_on_pool(title.format(number), make(number or 1), number or 1)]
    if name == "adaptive":
        assert number is not None
        adaptive = pools.adaptive(setting.share, least=min(3, number), most=number)
        return [_on_pool(f"adaptive resampling of {number}", adaptive, number)]
    if name in ("greedy", "greedy-vote"):
        size = agents if name == "greedy-vote" else 1
        return [_one("greedy, team vote" if size > 1 else "greedy, one agent", _greedy(size))]
    if name == "debate":
        return [_one(f"debate, {_rounds(number)}", _debate(number))]
    if name == "oracle":
        return [_one(f"oracle, {_rounds(number)}", _oracle(number), "oracle")]
    if name in _PEERS:
        return [_one(*_PEERS[name])]
    if name in ("threshold", "random"):
        threshold = ThresholdRouter(setting.bar, setting.gap)
        router: Router = threshold if name == "threshold" else make_router(name)
        return _routed(f"{name} router", [router], "baseline", setting, agents)
    raise ConfigurationError(
        f"--methods: no method is named {given!r}; use single, greedy, greedy-vote, vote-K, "
        "weighted-vote-K, best-of-K, adaptive-K, debate-R, random, threshold, php, dylan, "
        "oracle-R, with numbers of 1 or more for K and R"
    )


def _rounds(number: Any) -> str:
    return f"{number} round{'s' * (number > 1)}"


def _one(name: str, ask: Ask, kind: str = "baseline") -> Method:
    return Method(name, ((None, ask),), kind)


def _on_pool(name: str, method: Callable[[Episode], Outcome], needs: int) -> Method:
    async def ask(asked: Asked) -> Outcome:
        return method(await asked.pool())

    return Method(name, ((None, ask),), needs=needs)


async def _php(asked: Asked) -> Outcome:
    [outcome] = await peers.php(asked.team, [asked.question])
    assert outcome is not None  # `Team.every` raises
    return outcome


async def _dylan(asked: Asked) -> Outcome:
    [episode] = await peers.dylan(asked.team, [asked.question])
    assert episode is not None
    return pools.outcome_of(episode)


_PEERS = {"php": ("PHP", _php), "dylan": ("DyLAN", _dylan)}


def _greedy(size: int) -> Ask:
    async def ask(asked: Asked) -> Outcome:
        cold = [
            replace(agent, sampling={**agent.sampling, "temperature": 0.0})
            for agent in asked.team.agents[:size]
        ]
        return pools.outcome_of(
            await asked.deliberate(
                f"greedy {size}", agents=cold, router="always-persist", consensus="majority"
            )
        )

    return ask


def _debate(rounds: Any) -> Ask:
    async def ask(asked: Asked) -> Outcome:
        return pools.outcome_of(
            await asked.deliberate(
                f"debate {rounds}",
                router="always-refine",
                max_rounds=rounds,
                stop_when_settled=False,
                consensus="majority",
            )
        )

    return ask


def _oracle(rounds: Any) -> Ask:
    async def ask(asked: Asked) -> Outcome:
        *_, [episode] = await asked.team.oracle("oracle", [asked.question], rounds)
        assert episode is not None  # `Team.run` raises
        return pools.outcome_of(episode)

    return ask


def _routed(
    name: str, routers: Sequence[Router], kind: str, setting: Setting, agents: int
) -> list[Method]:
    rule = make_rule(setting.consensus)[1]

    def asks(label: str, router: Router) -> tuple[Ask, Ask]:
        async def episode(asked: Asked) -> Episode:
            seed = f"{setting.seed}/{label}/{asked.question.id}"
            return await asked.deliberate(label, each=lambda _: {"router": Seeded(router, seed)})

        async def deliberate(asked: Asked) -> Outcome:
            return pools.outcome_of(await episode(asked))

        async def control(asked: Asked) -> Outcome:
            return pools.replaced(await episode(asked), await asked.pool(), rule)

        return deliberate, control

    made = [(r.version, *asks(f"{name} {k}", r)) for k, r in enumerate(routers)]
    methods = [Method(name, tuple((version, ask) for version, ask, _ in made), kind)]
    if setting.control:
        runs = tuple((version, control) for version, _, control in made)
        methods.append(Method(f"{name}: control", runs, "control", agents * (1 + setting.rounds)))
    return methods
