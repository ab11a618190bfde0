"""The methods that are compared, by name.

    single            the first proposal
    greedy            one agent at temperature 0
    greedy-vote       the whole team at temperature 0
    vote-K            plain vote of K proposals
    weighted-vote-K   the same by confidence, as is best-of-K
    alone-K           the strongest member's vote, without the others (also weighted-alone-K)
    adaptive          resampling until the vote is settled
    adaptive-K        the same with K proposals at most
    adaptive-consistency-K  draws until the leading answer is the likely majority (95 %)
    early-stopping-K  draws windows of K proposals, until all of a window agree
    debate-R          R rounds in which everybody refines, then a vote
    random, threshold routers without training
    php, dylan        published methods (see training/evaluate/rivals.py)
    oracle-R          each agent's best actions in R rounds, chosen with the reference: no method

Every fitted router is a method too, several seeds of one together. All methods share their
proposals: whoever asks the same thing for the n-th time gets the same n-th sample.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mpdf_langgraph import ConfigurationError, Episode, ThresholdRouter
from mpdf_langgraph.consensus import ConsensusRule, confidence_weighted, majority
from mpdf_langgraph.learned_consensus import rule_for
from mpdf_langgraph.router import Router, choose_consensus, for_team, make_router
from training.collect.questions import Question
from training.collect.team import open_critic
from training.evaluate import rivals
from training.evaluate.bench import VOTES, Bench, Seeded
from training.evaluate.compare import CONTROL
from training.evaluate.votes import (
    Result,
    adaptive,
    adaptive_consistency,
    best_of,
    early_stopping,
    member,
    replay_with_fresh_samples,
    result_of,
    vote,
    weighted_vote,
)


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What the methods have in common."""

    rounds: int = 3
    """Rounds of decisions at most."""
    critic: str = "self+logprob"
    """Where confidence comes from: self+logprob, logprob (no extra call), self, self-reasoning, or
    module:function, as in `collect.py`. It must be what the routers were fitted with."""
    consensus: Literal["confidence", "majority"] = "confidence"
    """How deliberations count their votes."""
    bar: float = ThresholdRouter.bar
    """The threshold router's bar. --validation tunes it."""
    gap: float = ThresholdRouter.gap
    """The threshold router's gap. --validation tunes it."""
    strongest: int = 1
    """Which agent of a team of unlike agents is the strongest, from 1. --validation finds it."""
    share: float = 0.8
    """Share of the summed confidence at which adaptive resampling stops. --validation tunes it."""
    sampled: bool = False
    """Let routers draw their actions instead of taking the most probable one."""
    seed: int = 0
    """Another seed draws other samples."""

    @property
    def critic_name(self) -> str | None:
        """The critic's name in traces, which is not `module:function`."""
        critic = open_critic(self.critic)
        return critic.name if critic else None


class Play:
    """One question, and what methods have in common on it, made when it is first needed.

    Args:
        bench: The team.
        question: The question.
        methods: All methods that will be run. They say how many proposals and rounds are needed.
    """

    def __init__(self, bench: Bench, question: Question, methods: Sequence["Method"]) -> None:
        self.bench, self.question = bench, question
        self._pool_size = max((method.needs for method in methods), default=0)
        self._oracle_rounds = max((method.oracle for method in methods), default=0)
        self._pool: Episode | None = None
        self._fresh: Episode | None = None
        self._oracles: list[Result] = []
        self._routed: dict[str, Episode] = {}

    async def pool(self) -> Episode:
        """Return the vote of all proposals that any method needs."""
        if self._pool is None:
            self._pool = await self.bench.draw_pool(self.question, self._pool_size)
        return self._pool

    async def fresh(self, rounds: int) -> Episode:
        """Return the vote that the controls take their fresh proposals from."""
        if self._fresh is None:
            self._fresh = await self.bench.draw_fresh(self.question, rounds)
        return self._fresh

    async def oracle(self, rounds: int) -> Result:
        """Return what the oracle of so many rounds gives. All of them are played in one go."""
        if not self._oracles:
            played = await self.bench.play_oracle(self.question, self._oracle_rounds)
            self._oracles = [result_of(episode) for episode in played]
        return self._oracles[rounds - 1]

    async def deliberate(self, label: str, router: Router, seed: int) -> Episode:
        """Return the deliberation of a router.

        Args:
            label: Part of the seed of its draws.
            router: The router.
            seed: The seed of the options.
        """
        if label not in self._routed:
            bound = for_team(router, [agent.name for agent in self.bench.agents])
            seeded = Seeded(bound, f"{seed}/{label}/{self.question.id}")
            self._routed[label] = await self.bench.deliberate(self.question, router=seeded)
        return self._routed[label]


Ask = Callable[[Play], Awaitable[Result]]


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        name: As in the tables of results.
        runs: How to get a result, by the version of the router. One run where there is no router.
        kind: ``"baseline"``, ``"learned"``, ``"control"`` or ``"oracle"``.
        needs: Proposals that it takes from the pool.
        oracle: Rounds that it takes from the oracle.
    """

    name: str
    runs: tuple[tuple[str | None, Ask], ...]
    kind: str = "baseline"
    needs: int = 0
    oracle: int = 0


# --- the table --------------------------------------------------------------------------------


def on_pool(name: str, choose: Callable[[Episode], Result], needs: int) -> Method:
    """Return a method that only takes proposals from the pool (see `votes`)."""

    async def ask(play: Play) -> Result:
        return choose(await play.pool())

    return Method(name, ((None, ask),), needs=needs)


def _alone(k: int, team: int, options: MethodOptions, way: str, rule: ConsensusRule) -> Method:
    if not 1 <= options.strongest <= team:
        raise ConfigurationError(f"--strongest must be 1 to {team}, got {options.strongest}")
    place = options.strongest - 1
    name = "strongest alone" + (f", {way} of {k}" if k > 1 else "")
    return on_pool(name, member(place, team, vote(k, rule)), team * (k - 1) + place + 1)


def _adaptive(name: str, most: int, options: MethodOptions) -> Method:
    return on_pool(name, adaptive(options.share, min(3, most), most), most)


def _greedy(size: int) -> Method:
    async def ask(play: Play) -> Result:
        team = play.bench.greedy_agents[:size]
        given = {"router": "always-persist", "consensus": "majority"}
        return vote(size)(await play.bench.deliberate(play.question, agents=team, **given))

    return Method("greedy, team vote" if size > 1 else "greedy, one agent", ((None, ask),))


def _rounds(number: int) -> str:
    return f"{number} round{'s' * (number > 1)}"


def _debate(rounds: int) -> Method:
    async def ask(play: Play) -> Result:
        episode = await play.bench.deliberate(
            play.question,
            router="always-refine",
            stop_when_settled=False,
            consensus="majority",
            max_rounds=rounds,
        )
        return result_of(episode, judged=False)  # but for ties, nobody reads confidences

    return Method(f"debate, {_rounds(rounds)}", ((None, ask),))


def _oracle(rounds: int) -> Method:
    async def ask(play: Play) -> Result:
        return await play.oracle(rounds)

    return Method(f"oracle, {_rounds(rounds)}", ((None, ask),), "oracle", oracle=rounds)


async def _progressive_hints(play: Play) -> Result:
    return await rivals.ask_with_progressive_hints(play.bench, play.question)


async def _dylan(play: Play) -> Result:
    return result_of(await rivals.deliberate_as_dylan(play.bench, play.question))


TABLE: dict[str, Callable[[int, int, MethodOptions], Method]] = {
    "single": lambda _k, _n, _o: on_pool("single sample", vote(1), 1),
    "greedy": lambda _k, _n, _o: _greedy(1),
    "greedy-vote": lambda _k, n, _o: _greedy(n),
    "vote-K": lambda k, _n, _o: on_pool(f"vote of {k}", vote(k), k),
    "weighted-vote-K": lambda k, _n, _o: on_pool(f"weighted vote of {k}", weighted_vote(k), k),
    "best-of-K": lambda k, _n, _o: on_pool(f"best of {k}", best_of(k), k),
    "alone-K": lambda k, n, o: _alone(k, n, o, "vote", majority),
    "weighted-alone-K": lambda k, n, o: _alone(k, n, o, "weighted vote", confidence_weighted),
    "adaptive": lambda _k, _n, o: _adaptive("adaptive resampling", max(VOTES), o),
    "adaptive-K": lambda k, _n, o: _adaptive(f"adaptive resampling of {k}", k, o),
    "adaptive-consistency-K": lambda k, _n, _o: on_pool(
        f"adaptive consistency of {k}", adaptive_consistency(most=k), k
    ),
    "early-stopping-K": lambda k, _n, _o: on_pool(
        f"early stopping, window of {k}", early_stopping(k, max(VOTES)), max(k, *VOTES)
    ),
    "debate-R": lambda r, _n, _o: _debate(r),
    "php": lambda _k, _n, _o: Method("PHP", ((None, _progressive_hints),)),
    "dylan": lambda _k, _n, _o: Method("DyLAN", ((None, _dylan),)),
    "oracle-R": lambda r, _n, _o: _oracle(r),
}
"""Makers of methods from the number in their name, the size of the team and the options."""
ROUTERS: dict[str, Callable[[MethodOptions], Router]] = {
    "random": lambda _: make_router("random"),
    "threshold": lambda options: ThresholdRouter(options.bar, options.gap),
}
"""Routers without training."""


def select(
    names: Sequence[str],
    routers: Mapping[str, Sequence[Router]],
    options: MethodOptions,
    agents: int,
    *,
    control: bool = False,
) -> list[Method]:
    """Return the methods of these names, and one method for every group of routers.

    Args:
        names: See the module.
        routers: From `open_routers`.
        options: What all methods have in common.
        agents: Size of the team.
        control: Add for every router the same decisions with each REFINE replaced by a fresh
            proposal, at the sampling of refinements. If that does as well, reading the peers was
            worth nothing.

    Raises:
        ConfigurationError: There is no such method, it needs more proposals than there are, or a
            router has the name of another method.
    """
    methods: list[Method] = []
    for name in dict.fromkeys(names):
        if name in ROUTERS:
            label = f"{name} router"
            one = {label: ROUTERS[name](options)}
            methods += router_methods(label, one, "baseline", options, control=control)
        else:
            methods.append(_find_method(name, agents, options))
    for name, seeds in routers.items():
        labelled = {f"{name} {k}": router for k, router in enumerate(seeds)}
        methods += router_methods(name, labelled, "learned", options, control=control)
    if not methods:
        raise ConfigurationError("name at least one method (--methods), or give a --router")
    repeated = [name for name, n in Counter(m.name for m in methods).items() if n > 1]
    if repeated:
        if repeated[0] not in routers:
            raise ConfigurationError(f"--methods: two of them are {repeated[0]!r}: leave one out")
        raise ConfigurationError(f"{repeated[0]!r} is another method's name: rename that router")
    most = max(*VOTES, agents * (1 + options.rounds))
    if any(method.needs > most for method in methods):
        raise ConfigurationError(f"--methods: votes are of {most} agents at most")
    return methods


def _find_method(given: str, agents: int, options: MethodOptions) -> Method:
    stem, _, number = given.rpartition("-")
    if re.fullmatch(r"[1-9]\d*", number):
        for parameter in "KR":
            if make := TABLE.get(f"{stem}-{parameter}"):
                return make(int(number), agents, options)
    elif number not in ("K", "R") and given in TABLE:
        return TABLE[given](0, agents, options)
    raise ConfigurationError(
        f"--methods: no method is named {given!r}; use {', '.join([*TABLE, *ROUTERS])}, with "
        "numbers of 1 or more for K and R"
    )


def router_methods(
    name: str,
    routers: Mapping[str, Router],
    kind: str,
    options: MethodOptions,
    *,
    control: bool,
) -> list[Method]:
    """Return the seeds of a router as one method, and its control if wanted.

    Args:
        name: The method's.
        routers: The seeds by their labels.
        kind: ``"baseline"`` or ``"learned"``.
        options: What all methods have in common.
        control: See `select`.
    """

    def deliberation(label: str, router: Router) -> Ask:
        async def ask(play: Play) -> Result:
            episode = await play.deliberate(label, router, options.seed)
            return result_of(episode, observes=kind == "learned")

        return ask

    def replay(label: str, router: Router) -> Ask:
        decides = getattr(router, "rule", None) or options.consensus
        chosen = choose_consensus(decides, router)[1]

        async def ask(play: Play) -> Result:
            rule = rule_for(chosen, play.question.category)
            episode = await play.deliberate(label, router, options.seed)
            return replay_with_fresh_samples(episode, await play.fresh(options.rounds), rule)

        return ask

    def runs(make: Callable[[str, Router], Ask]) -> tuple[tuple[str | None, Ask], ...]:
        return tuple((router.version, make(label, router)) for label, router in routers.items())

    methods = [Method(name, runs(deliberation), kind)]
    if control:
        methods.append(Method(name + CONTROL, runs(replay), "control"))
    return methods
