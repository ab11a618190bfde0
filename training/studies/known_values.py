"""What policies give in a known environment, and what the best one would: exact, without samples.

`Known.value` plays a router against every state that can occur, each with its probability.
`Known.optimum` is dynamic programming over everything that a policy can see: what the team holds
and held, never which answer is right.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import Vote, concession, confidence_weighted
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.response_profile import logprob_summary, reasoning_profile
from mpdf_langgraph.router import Router, behaviour
from mpdf_langgraph.state import ACTIONS, Critique, Observation, Response, Usage, no_usage
from training.learn.rewards import CONCEDE, PERSIST, REFINE
from training.studies.environments import (
    PROPOSE_TOKENS,
    REFINE_TOKENS,
    Environment,
    Held,
    letter_of,
    logprobs_of,
    text_of,
)

REFINE_COST, PROPOSE_COST = sum(REFINE_TOKENS), sum(PROPOSE_TOKENS)


class State(NamedTuple):
    """What the team holds at a decision, and whose answer changed in the round before."""

    held: tuple[Held, ...]
    changed: tuple[bool, ...] | None = None


class Value(NamedTuple):
    """What a policy gives: expectations over questions.

    Attributes:
        accuracy: Probability that the group's answer is right.
        tokens: Prompt and completion tokens.
        utility: Accuracy minus the price of the tokens.
    """

    accuracy: float
    tokens: float
    utility: float


_profile = cache(reasoning_profile)


def response_of(
    environment: Environment, held: Held, id_: str, cluster: int, truth: int = 0
) -> Response:
    """Return the record of a response, as the graph would have it, its confidence as it came."""
    text = text_of(environment, held, truth)
    summary = logprob_summary(logprobs_of(held.said))
    assert summary is not None
    prompt, made = REFINE_TOKENS if held.refined else PROPOSE_TOKENS
    confidence = math.exp(summary["mean"])
    scores = {"logprob": confidence, "logprob_raw": math.exp(summary["total"])}
    usage = {"calls": 1, "prompt_tokens": prompt, "completion_tokens": made}
    return Response(
        id=id_,
        agent=held.author,
        round=int(held.refined),
        text=text,
        answer=letter_of(truth, held.said),
        cluster=cluster,
        profile=_profile(text),
        logprobs=summary,
        critique=Critique(confidence=confidence, source="logprob", scores=scores, usage=no_usage()),
        finish_reason="stop",
        model=held.author,
        usage=Usage(**usage, unreported=0, estimated=0),  # type: ignore[typeddict-item]
        seconds=0.0,
    )


class Known:
    """An environment as seen with one calibration and prior competences (default: 0.5 each)."""

    def __init__(
        self,
        environment: Environment,
        calibration: Calibration | None = None,
        competence: Mapping[str, float] | None = None,
    ) -> None:
        self.environment = environment
        self.agents = environment.agents
        self._calibration = calibration or Calibration({})
        self._competence = competence or {}
        self._responses: dict[Held, Response] = {}
        self._winners: dict[tuple[tuple[int, float], ...], int | None] = {}
        self._targets: dict[tuple[Held, ...], tuple[int | None, ...]] = {}

    # --- the rules of a round ---

    def _response(self, held: Held) -> Response:
        if held not in self._responses:
            raw = response_of(self.environment, held, "", held.said.answer)
            self._responses[held] = self._calibration.apply(raw)
        return self._responses[held]

    def _ballot(self, held: Held) -> tuple[int, float]:
        critique = self._response(held)["critique"]
        assert critique is not None
        assert critique["confidence"] is not None
        return held.said.answer, critique["confidence"]

    def winner(self, ballots: Sequence[tuple[int, float]]) -> int | None:
        """Return the answer with the most confidence. 0 is the right one."""
        key = tuple(ballots)
        if key not in self._winners:
            votes = [Vote(name, *ballot) for name, ballot in zip(self.agents, ballots, strict=True)]
            self._winners[key] = confidence_weighted(votes)
        return self._winners[key]

    def right(self, state: State) -> bool:
        """Tell whether the group's answer is right."""
        return self.winner([self._ballot(one) for one in state.held]) == 0

    def targets(self, held: tuple[Held, ...]) -> tuple[int | None, ...]:
        """Return whom each agent's CONCEDE would adopt from, by place."""
        if held not in self._targets:
            records = {
                name: Response({**self._response(one), "id": name})
                for name, one in zip(self.agents, held, strict=True)
            }
            found = [concession(records, name) for name in self.agents]
            self._targets[held] = tuple(None if t is None else self.agents.index(t) for t in found)
        return self._targets[held]

    def situation(self, state: State, round_: int) -> Situation:
        """Return what the observations of a round are computed from."""
        responses = {
            name: self._response(one) for name, one in zip(self.agents, state.held, strict=True)
        }
        previous: dict[str, int | None] = {}
        if state.changed is not None:
            pairs = zip(self.agents, state.held, state.changed, strict=True)
            previous = {name: -1 if new else one.said.answer for name, one, new in pairs}
        rounds = self.environment.rounds
        return Situation(responses, previous, self._competence, round_, rounds)

    def move(self, state: State, place: int, action: int) -> list[tuple[Held, float]]:
        """Return what an agent holds after a move, with probabilities."""
        if action == REFINE:
            seen = dict(zip(self.agents, state.held, strict=True))
            name = self.agents[place]
            chances = self.environment.refine(name, seen)
            return [(Held(name, True, said), p) for said, p in chances.items()]
        target = self.targets(state.held)[place] if action == CONCEDE else None
        return [(state.held[place if target is None else target], 1.0)]

    def proposals(self) -> dict[State, float]:
        """Return what the team may hold at first, with probabilities."""
        drawn = [
            [(Held(name, False, said), p) for said, p in self.environment.propose(name).items()]
            for name in self.agents
        ]
        return {
            State(tuple(held for held, _ in combination)): math.prod(p for _, p in combination)
            for combination in itertools.product(*drawn)
        }

    # --- what a policy gives ---

    def value(self, router: Router, *, stop_when_settled: bool = True) -> Value:
        """Return what a router gives. Its probabilities are taken as the graph takes them."""
        reached = self.proposals()
        right, tokens = 0.0, float(PROPOSE_COST * len(self.agents))
        for round_ in range(1, self.environment.rounds + 1):
            standing: dict[State, float] = {}
            for state, chance in reached.items():
                if stop_when_settled and len({one.said.answer for one in state.held}) == 1:
                    right += chance * self.right(state)
                else:
                    standing[state] = chance
            states = list(standing)
            rows = self._decide(router, states, round_)
            weights = np.array([standing[state] for state in states])
            tokens += REFINE_COST * float((weights * rows[:, :, REFINE].sum(1)).sum())
            if round_ == self.environment.rounds:
                return self._value(right + float(weights @ self._last(states, rows)), tokens)
            following: Counter[State] = Counter()
            for state, row, weight in zip(states, rows, weights, strict=True):
                for after, chance, persisted in self._steps(state, row):
                    if persisted and stop_when_settled:
                        right += weight * chance * self.right(after)
                    else:
                        following[after] += weight * chance
            reached = dict(following)
        return self._value(right, tokens)

    def _value(self, accuracy: float, tokens: float) -> Value:
        return Value(accuracy, tokens, accuracy - self.environment.price * tokens / 1000)

    def _decide(self, router: Router, states: Sequence[State], round_: int) -> NDArray[Any]:
        """Return the probabilities of every agent's actions, ``[S, N, 3]``."""
        observations: list[Observation] = []
        masks: list[list[bool]] = []
        for state in states:
            observations += observe(self.situation(state, round_)).values()
            masks += [[True, True, target is not None] for target in self.targets(state.held)]
        rows = router.decide(observations, masks) if states else []
        found = [behaviour(row, mask, 0.0) for row, mask in zip(rows, masks, strict=True)]
        return np.array(found).reshape(len(states), len(self.agents), len(ACTIONS))

    def _steps(self, state: State, row: NDArray[Any]) -> Iterable[tuple[State, float, bool]]:
        """Yield what may follow a round, its probability, and whether all persisted."""
        parts = []
        for place, probabilities in enumerate(row):
            part: list[tuple[Held, float, bool]] = []
            for action in np.flatnonzero(probabilities):
                part += [
                    (held, p * probabilities[action], action == PERSIST)
                    for held, p in self.move(state, place, int(action))
                ]
            parts.append(part)
        for combination in itertools.product(*parts):
            held = tuple(one for one, _, _ in combination)
            changed = tuple(
                new.said.answer != old.said.answer
                for new, old in zip(held, state.held, strict=True)
            )
            chance = math.prod(p for _, p, _ in combination)
            yield State(held, changed), chance, all(stayed for _, _, stayed in combination)

    def _ballots(self, states: Sequence[State]) -> NDArray[Any]:
        """Return P(ballot) by state, agent and action, ``[S, N, 3, M]``, and keep the catalogue."""
        catalogue: dict[tuple[int, float], int] = {}
        shape = (len(states), len(self.agents), len(ACTIONS))
        found = [
            [(catalogue.setdefault(self._ballot(h), len(catalogue)), p) for h, p in
             self.move(state, place, action)]
            for state in states
            for place in range(len(self.agents))
            for action in range(len(ACTIONS))
        ]  # fmt: skip
        result = np.zeros((len(found), len(catalogue)))
        for row, parts in enumerate(found):
            for ballot, p in parts:
                result[row, ballot] += p
        self._catalogue = list(catalogue)
        return result.reshape(*shape, len(catalogue))

    def _table(self) -> NDArray[Any]:
        """Return whether the group is right, by the ballots of all agents, ``[M, ..., M]``."""
        combinations = itertools.product(self._catalogue, repeat=len(self.agents))
        right = [self.winner(ballots) == 0 for ballots in combinations]
        return np.array(right, float).reshape([len(self._catalogue)] * len(self.agents))

    def _last(self, states: Sequence[State], rows: NDArray[Any]) -> NDArray[Any]:
        """Return P(right) after the last round, ``[S]``."""
        if not states:
            return np.zeros(0)
        chances = np.einsum("sna,snam->snm", rows, self._ballots(states))
        return _expectation(self._table(), [chances[:, n, None] for n in range(chances.shape[1])])[
            :, 0
        ]

    def _last_by_action(self, states: Sequence[State]) -> NDArray[Any]:
        """Return P(right) after the last round by joint action, ``[S, 3 ** N]``."""
        chances = self._ballots(states)
        return _expectation(self._table(), [chances[:, n] for n in range(chances.shape[1])])

    # --- what the best policy gives ---

    def optimum(self) -> Value:
        """Return what the best policy gives that sees all that can be seen, at the price.

        Raises:
            ConfigurationError: The environment does not have two rounds.
        """
        if self.environment.rounds != 2:
            raise ConfigurationError(
                f"the optimum is known for two rounds only: {self.environment.name} has "
                f"{self.environment.rounds}"
            )
        price = self.environment.price / 1000
        joint = list(itertools.product(range(len(ACTIONS)), repeat=len(self.agents)))
        cost = np.array([REFINE_COST * actions.count(REFINE) for actions in joint], float)
        right, tokens = 0.0, float(PROPOSE_COST * len(self.agents))
        seen: defaultdict[Any, list[tuple[State, float]]] = defaultdict(list)
        for state, chance in self.proposals().items():
            if len({one.said.answer for one in state.held}) == 1:
                right += chance * self.right(state)
            else:
                seen[_visible(state)].append((state, chance))
        steps = {
            (state, actions): list(self._steps(state, np.eye(len(ACTIONS))[list(actions)]))
            for group in seen.values()
            for state, _ in group
            for actions in joint
        }
        later = sorted({after for found in steps.values() for after, _, _ in found})
        number = {state: i for i, state in enumerate(later)}
        known = self._last_by_action(later)
        ends = np.array([self.right(state) for state in later])
        agree = np.array([len({one.said.answer for one in s.held}) == 1 for s in later])
        views = [_visible(state) for state in later]
        for group in seen.values():
            best = (-math.inf, 0.0, 0.0)
            for actions, spent in zip(joint, cost, strict=True):
                share = sum(chance for _, chance in group)
                gained, paid = 0.0, share * spent
                views_of: dict[Any, NDArray[Any]] = {}
                weight_of: Counter[Any] = Counter()
                for state, chance in group:
                    for after, p, persisted in steps[state, actions]:
                        i = number[after]
                        if persisted or agree[i]:
                            gained += chance * p * ends[i]
                            continue
                        view = views[i]
                        if view not in views_of:
                            views_of[view] = np.zeros(len(joint))
                        views_of[view] += chance * p * known[i]
                        weight_of[view] += chance * p  # type: ignore[assignment]
                for view, reached in views_of.items():
                    chosen = int(np.argmax(reached - price * weight_of[view] * cost))
                    gained += reached[chosen]
                    paid += weight_of[view] * cost[chosen]
                best = max(best, (gained - price * paid, gained, paid))
            right, tokens = right + best[1], tokens + best[2]
        return self._value(right, tokens)


def _expectation(table: NDArray[Any], chances: list[NDArray[Any]]) -> NDArray[Any]:
    """Return E[table] by state and joint action, ``[S, A ** N]``. `chances`: ``[S, A, M]``."""
    letters, actions = "uvwxyz"[: len(chances)], "abcdef"[: len(chances)]
    terms = ",".join(f"s{a}{m}" for a, m in zip(actions, letters, strict=True))
    found = np.einsum(f"{letters},{terms}->s{actions}", table, *chances, optimize=True)
    return np.asarray(found.reshape(len(chances[0]), -1))


def _visible(state: State) -> Any:
    """Return all of a state that can be seen: answers by who agrees, not by who is right."""
    names: dict[int, int] = {}
    held = []
    for author, refined, said in state.held:
        answer = names.setdefault(said.answer, len(names))
        held.append((author, refined, said._replace(answer=answer)))
    return tuple(held), state.changed
