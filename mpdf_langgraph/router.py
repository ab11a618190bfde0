"""Routers: the meta-policy, from observations to probabilities of PERSIST, REFINE, CONCEDE."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import LogOdds, make_rule
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.learned_consensus import AnyRule, LearnedConsensus
from mpdf_langgraph.observation import feature, rival_of
from mpdf_langgraph.options import check_number
from mpdf_langgraph.state import ACTIONS, Action, Observation

#: What a threshold may compare, and the feature that tells whether it is known.
_SCORES = {
    "confidence": "confidence_known",
    "logprob": "logprob_known",
    "self_verdict": "self_known",
}
PERSIST, REFINE, CONCEDE = ([float(action == a) for a in ACTIONS] for action in ACTIONS)


@runtime_checkable
class Router(Protocol):
    """What the graph needs of a router.

    A router may have more attributes. `competence` maps agent names to prior probabilities of
    being right. It stands in the observations of agents that do not give their own. `calibration`
    is the `Calibration` of the confidences that the router was fitted on. `consensus` is a
    `LearnedConsensus`, for ``consensus="learned"``, and `rule` the name of the consensus rule that
    the router was fitted with. `for_team(names)` returns the router for the agents of these names,
    in the order of the observations. `reads_scores` is False if it reads no measurement of a critic
    but the confidence. `estimate` takes the observations and returns for each a dict
    of numbers that the decision rests on. They stand in the turn's record.
    """

    @property
    def name(self) -> str:
        """The name that stands in traces."""
        ...

    @property
    def version(self) -> str:
        """Tells routers of one name apart."""
        ...

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """Return the probabilities of `ACTIONS` for every observation.

        Args:
            observations: One per agent. Each decision may use its own observation only.
            masks: Allowed actions, shape ``[n, 3]``.

        Returns:
            Shape ``[n, 3]``, non-negative. The graph masks and normalises them afterwards.
        """
        ...


@dataclass(frozen=True)
class FixedRouter:
    """Gives the same probabilities for every observation."""

    name: str
    probabilities: tuple[float, float, float]
    version: str = "1"
    reads_scores: ClassVar[bool] = False

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        return [list(self.probabilities) for _ in observations]


@dataclass(frozen=True)
class ThresholdRouter:
    """PERSIST above a confidence, CONCEDE to a peer well above it, else REFINE.

    It compares an agent's confidence with that of its rival. The rival is the response that
    CONCEDE would adopt: the surest one with the other answer that has the most summed confidence.

    1. The agent has no valid answer: CONCEDE if the rival's is at least `bar`, else REFINE.
    2. Every peer with a valid answer agrees: PERSIST.
    3. Its own is at least `bar`, and the rival's is not higher by `gap`: PERSIST.
    4. The rival's is at least `bar`, and higher than its own by `gap`: CONCEDE.
    5. Else: REFINE.

    Attributes:
        bar: Confidence from which an answer is trusted. With a calibration it is the probability
            of being right. Without one, it depends on the model and on the critic: choose it on
            your own questions.
        gap: Lead that a peer's confidence needs.
        score: The feature that is compared: ``"confidence"``, ``"logprob"``, ``"self_verdict"``.
    """

    bar: float = 0.9
    gap: float = 0.05
    score: str = "confidence"
    name: str = "threshold"
    version: str = "1"

    def __post_init__(self) -> None:
        if self.score not in _SCORES:
            raise ConfigurationError(f"score={self.score!r}: use one of {', '.join(_SCORES)}")
        check_number("bar", self.bar, 0, 1)
        check_number("gap", self.gap, 0, 1)

    @property
    def reads_scores(self) -> bool:
        """See `Router`."""
        return self.score == "self_verdict"

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        return [self._decide(observation) for observation in observations]

    def _decide(self, observation: Observation) -> list[float]:
        own = observation["own"]
        peer = rival_of(observation)
        rival = 0.0 if peer is None else self._score(peer)
        if not feature(own, "answer_valid"):
            return REFINE if peer is None or rival < self.bar else CONCEDE
        if peer is None:
            return PERSIST
        mine = self._score(own)
        if mine >= self.bar and rival - mine < self.gap:
            return PERSIST
        if rival >= self.bar and rival - mine >= self.gap:
            return CONCEDE
        return REFINE

    def _score(self, features: list[float]) -> float:
        """Return the score of a response. An unknown one counts as 0."""
        return feature(features, self.score) if feature(features, _SCORES[self.score]) else 0.0


#: From the observations of a team to one row for each: the probabilities of `ACTIONS`, or the
#: name of an action.
RouterFunction = Callable[[list[Observation]], Sequence[Sequence[float]] | Sequence[str]]


@dataclass(frozen=True)
class FunctionRouter:
    """A callable from observations to probabilities, or to names of actions."""

    function: RouterFunction
    name: str = "function"
    version: str = "1"

    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        named: dict[Any, list[float]] = dict(zip(ACTIONS, (PERSIST, REFINE, CONCEDE), strict=True))
        rows = []
        given: Any = self.function(list(observations))
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(
                f"router {self.name!r} returned {given!r:.80}, expected a list with one row of "
                "probabilities, or one name of an action, for every observation"
            )
        for row in given:
            if isinstance(row, str) and row not in named:
                raise ConfigurationError(
                    f"router {self.name!r} returned {row!r}, expected one of {', '.join(ACTIONS)}"
                )
            rows.append(named[row] if isinstance(row, str) else row)
        return rows


RouterName = Literal["threshold", "expected-gain", "always-persist", "always-refine", "random"]
#: What `create_deliberation` takes for a router.
RouterLike = RouterName | Router | RouterFunction

_BUILT_IN: dict[str, Callable[[], Router]] = {
    "always-persist": lambda: FixedRouter("always-persist", (1.0, 0.0, 0.0)),
    "always-refine": lambda: FixedRouter("always-refine", (0.0, 1.0, 0.0)),
    "random": lambda: FixedRouter("random", (1 / 3, 1 / 3, 1 / 3)),
    "threshold": ThresholdRouter,
    "expected-gain": ExpectedGainRouter,
}


def make_router(spec: Any) -> Router:
    """Return the router that `spec` stands for.

    Args:
        spec: ``"threshold"``, ``"expected-gain"``, ``"always-persist"``, ``"always-refine"``,
            ``"random"``, a `Router`, or a callable from a list of observations to one row of
            probabilities, or one name of an action, for each.

    Raises:
        ConfigurationError: It is none of these.
    """
    if isinstance(spec, str) and spec in _BUILT_IN:
        return _BUILT_IN[spec]()
    if isinstance(spec, Router) and not isinstance(spec, type):
        return spec
    if callable(spec) and not isinstance(spec, type):
        return FunctionRouter(spec, name=getattr(spec, "__name__", "function"))
    raise ConfigurationError(
        f"router={spec!r}: use one of {', '.join(map(repr, _BUILT_IN))}, load_router(folder), "
        "load_expected_gain(folder), an object with name, version and decide(observations, masks), "
        "or a callable of the observations"
    )


def never_moves(router: Router) -> bool:
    """Tell whether every agent persists, whatever it observes."""
    return isinstance(router, FixedRouter) and not any(router.probabilities[1:])


def for_team(router: Router, names: Sequence[str]) -> Router:
    """Return the router for the agents of these names, if it tells agents apart."""
    bind = getattr(router, "for_team", None)
    return router if bind is None else cast(Router, bind(names))


def check_rows(rows: Any, count: int, name: str) -> list[list[float]]:
    """Return a router's output as ``[count, 3]`` floats.

    Raises:
        ConfigurationError: It has another shape, or is not finite and non-negative.
    """
    try:
        result: list[list[float]] | None = [[float(p) for p in row] for row in rows]
    except (TypeError, ValueError, OverflowError):
        result = None
    # If their sum overflows, they cannot be normalised.
    if (
        result is None
        or len(result) != count
        or any(len(row) != len(ACTIONS) or not math.isfinite(sum(row)) for row in result)
        or any(p < 0 for row in result for p in row)
    ):
        raise ConfigurationError(
            f"router {name!r} must return {count} rows of 3 finite, non-negative probabilities "
            f"({', '.join(ACTIONS)}), got {rows!r:.200}"
        )
    return result


def check_estimates(rows: Any, count: int, name: str) -> list[dict[str, float]]:
    """Return a router's estimates, finite numbers by name, one dict for each of `count` agents.

    Raises:
        ConfigurationError: They are something else.
    """
    try:
        result = [{str(key): float(value) for key, value in row.items()} for row in rows]
    except (AttributeError, TypeError, ValueError, OverflowError):
        result = []
    if len(result) != count or not all(math.isfinite(v) for row in result for v in row.values()):
        raise ConfigurationError(
            f"router {name!r} must estimate finite numbers by name for {count} agents, got "
            f"{rows!r:.200}"
        )
    return result


def behaviour(row: Sequence[float], mask: Sequence[bool], floor: float) -> list[float]:
    """Return the probabilities an action is drawn from: masked, normalised, then floored.

    Args:
        row: A router's probabilities, shape ``[3]``.
        mask: Allowed actions. PERSIST is always allowed.
        floor: Least probability of every allowed action (exploration), at most 1/3.

    If the router gives everything to forbidden actions, the agent persists.

    Example:
        >>> behaviour([0.0, 1.0, 0.0], [True, True, False], 0.1)
        [0.1, 0.9, 0.0]
    """
    allowed = [p if ok else 0.0 for p, ok in zip(row, mask, strict=True)]
    total = math.fsum(allowed)
    base = [p / total for p in allowed] if total > 0 else list(PERSIST)
    rest = 1.0 - floor * sum(mask)
    return [floor + rest * p if ok else 0.0 for p, ok in zip(base, mask, strict=True)]


def draw(probabilities: Sequence[float], seed: str) -> Action:
    """Draw an action. The same seed draws the same action, so a resumed run repeats itself."""
    return random.Random(seed).choices(ACTIONS, weights=probabilities)[0]


def known_competence(router: Router) -> dict[str, float]:
    """Return the prior competences that a router brings, by agent name.

    Raises:
        ConfigurationError: They are not a mapping from names to numbers in [0, 1].
    """
    given = getattr(router, "competence", None)
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(
        isinstance(p, int | float) and 0.0 <= p <= 1.0 for p in given.values()
    ):
        raise ConfigurationError(
            f"router {router.name!r}: competence must map agent names to numbers in [0, 1], "
            f"got {given!r:.200}"
        )
    return {name: float(p) for name, p in given.items()}


def known_calibration(router: Router) -> Calibration | None:
    """Return the calibration that a router brings, None if it brings none.

    Raises:
        ConfigurationError: It is something else.
    """
    given = getattr(router, "calibration", None)
    if not isinstance(given, Calibration | None):
        raise ConfigurationError(
            f"router {router.name!r}: calibration must be a Calibration or None, got {given!r:.80}"
        )
    return given


def choose_consensus(spec: Any, router: Router) -> tuple[str, AnyRule]:
    """Return the name of a consensus rule, and the rule.

    Args:
        spec: As `create_deliberation` takes it. None: the rule that the router was fitted with.
        router: May bring a learned consensus.

    Raises:
        ConfigurationError: There is no such rule, or the router does not bring it.
    """
    known = getattr(router, "consensus", None)
    if not isinstance(known, LearnedConsensus | None):
        raise ConfigurationError(
            f"router {router.name!r}: consensus must be a LearnedConsensus or None, "
            f"got {known!r:.80}"
        )
    if spec is None:
        spec = getattr(router, "rule", None) or "confidence"
    if isinstance(spec, LearnedConsensus):
        return "learned", spec
    if spec == "learned":
        if known is None:
            raise ConfigurationError(
                f'consensus="learned", but router {router.name!r} brings none. Use a router that '
                "training/fit_router.py wrote, or consensus=load_router(folder).consensus"
            )
        return "learned", known
    if spec == "log-odds" and known is not None:
        return "log-odds", LogOdds(known.agreement)
    return make_rule(spec)


def competences(agents: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the prior competence by name from the agents' descriptions, 0.5 if it is not known."""
    known = {agent["name"]: agent["competence"] for agent in agents}
    return {name: 0.5 if prior is None else float(prior) for name, prior in known.items()}
