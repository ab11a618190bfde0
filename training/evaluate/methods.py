"""The methods that are compared, by name: one table for the evaluation and the benchmarks.

    single            the first proposal
    greedy            one agent at temperature 0; greedy-vote: the team, if of several models
    vote-K            plain vote of K proposals; weighted-vote-K, best-of-K: by confidence
    alone-K           the strongest member's vote, without the others; weighted-alone-K
    adaptive          resampling until the vote is settled; adaptive-K: of K proposals at most
    debate-R          R rounds in which everybody refines, then a vote
    random, threshold routers without training
    php, dylan        methods of others (training/evaluate/rivals.py)
    oracle-R          the best actions of R rounds, seen with the reference: a bound, no method

Every folder of a fitted router is a method too, several seeds of one together. All share their
proposals: whoever asks the same thing for the n-th time gets the same n-th sample.
"""

import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from mpdf_langgraph import ConfigurationError, Episode, ThresholdRouter, load_router
from mpdf_langgraph.consensus import ConsensusRule, confidence_weighted, majority, make_rule
from mpdf_langgraph.router import Router, make_router
from training.collect.questions import Question
from training.evaluate import rivals
from training.evaluate import votes as pools
from training.evaluate.runner import VOTES, Bench, Seeded
from training.evaluate.votes import Outcome
from training.learn.fit_config import Config

Outcomes = Sequence[Outcome | None]
"""What a method made of all questions; None where it raised."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the methods have in common; part of the options of every command that runs them."""

    rounds: int = 3
    """Rounds of decisions at most."""
    critic: Literal["logprob", "self+logprob", "self", "self-reasoning"] = "logprob"
    """Where confidence comes from; it must be what the routers were fitted with."""
    consensus: Literal["confidence", "majority"] = "confidence"
    """How deliberations count their votes."""
    bar: float = ThresholdRouter.bar
    """The threshold router's bar, where it is not tuned; choose it on other questions."""
    gap: float = ThresholdRouter.gap
    """The threshold router's gap, likewise."""
    strongest: int = 1
    """Which agent of a team of unlike ones is the strongest, from 1, likewise."""
    share: float = 0.8
    """Share of the summed confidence at which adaptive resampling stops, likewise."""
    sampled: bool = False
    """Let routers draw their actions instead of taking the most probable one."""
    seed: int = 0
    """Another seed draws another pool of samples."""


class Play:
    """Some questions, and what methods have in common on them, made when it is first needed.

    Args:
        bench: The team.
        questions: What it is asked.
        methods: All that will be run: they say how many proposals and rounds are needed.

    Raises:
        ConfigurationError: More proposals are needed than the bench can give.
    """

    def __init__(
        self, bench: Bench, questions: Sequence[Question], methods: Sequence["Method"]
    ) -> None:
        self.bench, self.questions = bench, questions
        self._pool_size = max((method.needs for method in methods), default=0)
        self._oracle_rounds = max((method.oracle for method in methods), default=0)
        if self._pool_size > len(bench.crowd):
            raise ConfigurationError(f"--methods: votes are of {len(bench.crowd)} agents at most")
        self._pool: list[Episode | None] | None = None
        self._fresh: list[Episode | None] | None = None
        self._oracles: list[Outcomes] = []
        self._routed: dict[str, tuple[Outcomes, Outcomes]] = {}

    async def run(self, label: str, **given: Any) -> list[Episode | None]:
        """Deliberate on all questions; see `Bench.run`."""
        return await self.bench.run(label, self.questions, **given)

    async def pool(self) -> list[Episode | None]:
        """Return the vote of all proposals that any method needs."""
        if self._pool is None:
            self._pool = await self.bench.pool("pool", self.questions, self._pool_size)
        return self._pool

    async def fresh(self, rounds: int) -> list[Episode | None]:
        """Return the vote that the controls take their fresh proposals from."""
        if self._fresh is None:
            self._fresh = await self.bench.fresh("fresh proposals", self.questions, rounds)
        return self._fresh

    async def oracle(self, rounds: int) -> Outcomes:
        """Return what the oracle of so many rounds gives; all are played in one go."""
        if not self._oracles:
            played = await self.bench.oracle("oracle", self.questions, self._oracle_rounds)
            self._oracles = [outcomes_of(episodes) for episodes in played]
        return self._oracles[rounds - 1]

    async def routed(
        self, label: str, router: Router, setting: Setting, *, control: bool, observes: bool
    ) -> tuple[Outcomes, Outcomes]:
        """Return what a router gives, and if wanted its control (else nothing).

        Args:
            label: Stands before the progress bar, and in the seed of its draws.
            router: Who decides.
            setting: What all methods have in common.
            control: Make the control, too.
            observes: See `pool.outcome_of`.
        """
        if label not in self._routed:
            seed = f"{setting.seed}/{label}"
            episodes = await self.run(
                label, each=lambda q: {"router": Seeded(router, f"{seed}/{q.id}")}
            )
            controls: Outcomes = ()
            if control:
                rule = make_rule(setting.consensus)[1]
                pairs = zip(episodes, await self.fresh(setting.rounds), strict=True)
                controls = [
                    None if e is None or p is None else pools.replaced(e, p, rule) for e, p in pairs
                ]
            self._routed[label] = outcomes_of(episodes, observes=observes), controls
        return self._routed[label]


def outcomes_of(episodes: Sequence[Episode | None], *, observes: bool = False) -> Outcomes:
    """Return what deliberations made of their questions; see `pool.outcome_of`."""
    return [None if e is None else pools.outcome_of(e, observes=observes) for e in episodes]


def on_pool(pool: Sequence[Episode | None], method: Callable[[Episode], Outcome]) -> Outcomes:
    """Apply a method of `pool` to every question."""
    return [None if e is None else method(e) for e in pool]


Ask = Callable[[Play], Awaitable[Outcomes]]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: As in the tables of results.
        runs: How to get outcomes, by the version of the router; one run where there is none.
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


def _on_pool(name: str, method: Callable[[Episode], Outcome], needs: int) -> Method:
    async def ask(play: Play) -> Outcomes:
        return on_pool(await play.pool(), method)

    return Method(name, ((None, ask),), needs=needs)


def _alone(k: int, team: int, setting: Setting, way: str, rule: ConsensusRule) -> Method:
    if not 1 <= setting.strongest <= team:
        raise ConfigurationError(f"--strongest must be 1 to {team}, got {setting.strongest}")
    place = setting.strongest - 1
    name = "strongest alone" + (f", {way} of {k}" if k > 1 else "")
    method = pools.member(place, team, pools.vote(k, rule))
    return _on_pool(name, method, team * (k - 1) + place + 1)


def _adaptive(name: str, most: int, setting: Setting) -> Method:
    return _on_pool(name, pools.adaptive(setting.share, min(3, most), most), most)


def _greedy(size: int) -> Method:
    async def ask(play: Play) -> Outcomes:
        team = play.bench.agents[:size]
        cold = [replace(a, sampling={**a.sampling, "temperature": 0.0}) for a in team]
        given: dict[str, Any] = {"router": "always-persist", "consensus": "majority"}
        with warnings.catch_warnings():  # equal answers are what is wanted here
            warnings.filterwarnings("ignore", "all .* agents proposed the very same", UserWarning)
            return on_pool(await play.run("greedy", agents=cold, **given), pools.vote(size))

    return Method("greedy, team vote" if size > 1 else "greedy, one agent", ((None, ask),))


def _rounds(number: int) -> str:
    return f"{number} round{'s' * (number > 1)}"


def _debate(rounds: int) -> Method:
    name = f"debate, {_rounds(rounds)}"
    given = {"router": "always-refine", "stop_when_settled": False, "consensus": "majority"}

    async def ask(play: Play) -> Outcomes:
        return outcomes_of(await play.run(name, max_rounds=rounds, **given))

    return Method(name, ((None, ask),))


def _oracle(rounds: int) -> Method:
    async def ask(play: Play) -> Outcomes:
        return await play.oracle(rounds)

    return Method(f"oracle, {_rounds(rounds)}", ((None, ask),), "oracle", oracle=rounds)


async def _php(play: Play) -> Outcomes:
    return await rivals.php(play.bench, play.questions)


async def _dylan(play: Play) -> Outcomes:
    return outcomes_of(await rivals.dylan(play.bench, play.questions))


TABLE: dict[str, Callable[[int, int, Setting], Method]] = {
    "single": lambda _k, _n, _s: _on_pool("single sample", pools.vote(1), 1),
    "greedy": lambda _k, _n, _s: _greedy(1),
    "greedy-vote": lambda _k, n, _s: _greedy(n),
    "vote-K": lambda k, _n, _s: _on_pool(f"vote of {k}", pools.vote(k), k),
    "weighted-vote-K": lambda k, _n, _s: _on_pool(
        f"weighted vote of {k}", pools.weighted_vote(k), k
    ),
    "best-of-K": lambda k, _n, _s: _on_pool(f"best of {k}", pools.best_of(k), k),
    "alone-K": lambda k, n, s: _alone(k, n, s, "vote", majority),
    "weighted-alone-K": lambda k, n, s: _alone(k, n, s, "weighted vote", confidence_weighted),
    "adaptive": lambda _k, _n, s: _adaptive("adaptive resampling", max(VOTES), s),
    "adaptive-K": lambda k, _n, s: _adaptive(f"adaptive resampling of {k}", k, s),
    "debate-R": lambda r, _n, _s: _debate(r),
    "php": lambda _k, _n, _s: Method("PHP", ((None, _php),)),
    "dylan": lambda _k, _n, _s: Method("DyLAN", ((None, _dylan),)),
    "oracle-R": lambda r, _n, _s: _oracle(r),
}
"""Makers of methods from the number in their name, the size of the team and the setting."""
ROUTERS: dict[str, Callable[[Setting], Router]] = {
    "random": lambda _: make_router("random"),
    "threshold": lambda setting: ThresholdRouter(setting.bar, setting.gap),
}
"""Routers without training; they come with a control where one is wanted."""


def select(
    names: Sequence[str],
    routers: Mapping[str, Sequence[Router]],
    setting: Setting,
    agents: int,
    *,
    control: bool = False,
) -> list[Method]:
    """Return the methods of these names, and one for every family of routers.

    Args:
        names: See the module.
        routers: From `open_routers`.
        setting: What all have in common.
        agents: Size of the team.
        control: Every router also with each REFINE replaced by a fresh proposal, at the sampling
            of refinements: where that does as well, reading the peers was worth nothing.

    Raises:
        ConfigurationError: There is no such method, or a router bears the name of another one.
    """
    methods = []
    controlled = agents if control else 0
    for name in dict.fromkeys(names):
        if name in ROUTERS:
            label = f"{name} router"
            router = ROUTERS[name](setting)
            methods += _of_router(label, {label: router}, "baseline", setting, controlled)
        else:
            methods.append(_named(name, agents, setting))
    for name, seeds in routers.items():
        labelled = {f"{name} {k}": router for k, router in enumerate(seeds)}
        methods += _of_router(name, labelled, "learned", setting, controlled)
    if not methods:
        raise ConfigurationError("name at least one method (--methods), or give a --router")
    repeated = [name for name, n in Counter(m.name for m in methods).items() if n > 1]
    if repeated:
        raise ConfigurationError(f"{repeated[0]!r} is another method's name: rename that router")
    return methods


def _named(given: str, agents: int, setting: Setting) -> Method:
    stem, _, number = given.rpartition("-")
    if re.fullmatch(r"[1-9]\d*", number):
        for parameter in "KR":
            if make := TABLE.get(f"{stem}-{parameter}"):
                return make(int(number), agents, setting)
    elif number not in ("K", "R") and given in TABLE:
        return TABLE[given](0, agents, setting)
    raise ConfigurationError(
        f"--methods: no method is named {given!r}; use {', '.join([*TABLE, *ROUTERS])}, with "
        "numbers of 1 or more for K and R"
    )


def _of_router(
    name: str, routers: dict[str, Router], kind: str, setting: Setting, controlled: int
) -> list[Method]:
    """A router's seeds by their labels as one method; with a control for a team of so many."""

    def asks(label: str, router: Router) -> tuple[Ask, Ask]:
        async def both(play: Play) -> tuple[Outcomes, Outcomes]:
            return await play.routed(
                label, router, setting, control=controlled > 0, observes=kind == "learned"
            )

        async def deliberate(play: Play) -> Outcomes:
            return (await both(play))[0]

        async def control(play: Play) -> Outcomes:
            return (await both(play))[1]

        return deliberate, control

    made = [(router.version, *asks(label, router)) for label, router in routers.items()]
    methods = [Method(name, tuple((version, ask) for version, ask, _ in made), kind)]
    if controlled:
        runs = tuple((version, ask) for version, _, ask in made)
        methods.append(Method(f"{name}: control", runs, "control"))
    return methods


# --- fitted routers ---------------------------------------------------------------------------


def families(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Group routers that are seeds of one method, by a name for each.

    Their folders differ in their last number alone, and their options in none but the seed.
    """
    alike: dict[Path, list[Path]] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        stem = re.sub(r"[-_]?(seed)?[-_]?\d+$", "", folder.name)
        alike.setdefault(folder.parent / stem, []).append(folder)  # without a stem: the parent
    groups: dict[Path, list[Path]] = {}
    for stem_folder, members in alike.items():
        options = [_options_of(folder) for folder in members]
        same = all(one == options[0] for one in options)
        groups |= {stem_folder: members} if same else {folder: [folder] for folder in members}
    names = Counter(group.name for group in groups)
    return {g.name if names[g.name] == 1 else str(g): folders for g, folders in groups.items()}


def _training(folder: Path) -> dict[str, Any]:
    """What a router's file says of its fit; empty where it says nothing."""
    try:
        found = json.loads((folder / "router.json").read_text()).get("training", {})
    except (OSError, ValueError, AttributeError):
        return {}  # `load_router` says what is wrong with it
    return found if isinstance(found, dict) else {}


def _options_of(folder: Path) -> dict[str, Any]:
    options = {field.name for field in fields(Config)}
    apart = {"seed", "out", "device", "threads", "resume"}
    return {k: v for k, v in _training(folder).items() if k in options - apart}


def open_routers(folders: Sequence[Path], setting: Setting) -> dict[str, list[Router]]:
    """Load routers by family; a line on standard error for each fitted with another critic.

    Raises:
        RouterError: One cannot be loaded.
    """
    named = families(folders)
    return {name: [_open(folder, setting) for folder in seeds] for name, seeds in named.items()}


def _open(folder: Path, setting: Setting) -> Router:
    with warnings.catch_warnings():  # that it has not been measured so yet: it is about to be
        warnings.filterwarnings("ignore", "router .* has not been shown", UserWarning)
        warnings.filterwarnings("ignore", "router .* passed its gate with", UserWarning)
        router = load_router(folder, greedy=not setting.sampled)
    fitted = _training(folder).get("critic")
    critics = [fitted] if isinstance(fitted, str) else fitted or []
    if critics and critics != [setting.critic]:
        print(
            f"warning: {folder} was fitted with the critic {', '.join(map(str, critics))}, and "
            f"is evaluated with {setting.critic}: its features mean something else now",
            file=sys.stderr,
        )
    return router
