"""Joint states: what a whole team held at a decision, and every move that each agent had there.

`joint_row` takes an episode apart, and `Joint` holds the arrays of many. `joint_rounds` plays
rounds on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import LogOdds, Vote, confidence_weighted, majority
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import LearnedConsensus, QuestionConsensus
from mpdf_langgraph.observation import INDEX, Situation, observe
from mpdf_langgraph.rounds import confidence_of, find_limit
from mpdf_langgraph.router import competences
from mpdf_langgraph.state import ACTIONS, Response
from mpdf_langgraph.traces.records import Episode
from training.learn.recalibrate import recalibrate
from training.learn.rewards import Grader, decisions, rule_of
from training.learn.trace_rows import (
    Arrays,
    Row,
    Rows,
    cache_kind,
    grade_answers,
    look_up,
    read_rows,
)

Floats = NDArray[Any]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]

#: Features of a response alone, whoever holds it.
OF_RESPONSE = (
    "steps", "operators", "length", "hedges", "claimed_confidence", "claim_given", "truncated",
    "refined", "confidence", "confidence_known", "logprob", "logprob_known", "logprob_raw",
    "lowest_window", "self_verdict", "self_known",
)  # fmt: skip
#: Their places among the features of an observation.
OWN = [INDEX[name] for name in OF_RESPONSE]
#: In `Joint.previous`: the first round, in which nobody has changed.
UNCHANGED = -1
_CONFIDENCE, _MAJORITY, PROBABLE = 0, 1, 2


def joint_row(
    episode: Episode,
    calibration: Calibration | None = None,
    consensus: LearnedConsensus | None = None,
) -> Row:
    """Return an episode's responses and joint states as arrays.

    Responses, clusters and actions are numbered from 1: 0 stands for none, as it pads. With a
    calibration or a consensus it is as if the episode had been recorded with it.

    Raises:
        ConfigurationError: The consensus rule is not built in.
    """
    if calibration is not None or consensus is not None:
        episode = recalibrate(episode, calibration or Calibration({}), consensus)
    names = episode.team
    rule = _rule_as_arrays(episode, names)
    number = {id_: i for i, id_ in enumerate(episode.responses, 1)}
    rounds: dict[int, list[Any]] = {}
    for decision in decisions(episode):
        rounds.setdefault(decision.round, []).append(decision)
    most = max((len(d.moves) for ds in rounds.values() for d in ds), default=1)
    shape = (len(rounds), len(names))
    before = np.zeros(shape, np.int16)
    taken, action = np.zeros(shape, np.int8), np.zeros((*shape, most), np.int8)
    moves, tokens = np.zeros((*shape, most), np.int16), np.zeros((*shape, most), np.float32)
    previous = np.full(shape, UNCHANGED, np.int16)
    for row, (round_, made) in enumerate(rounds.items()):
        votes = episode.tallies[round_ - 2]["votes"] if round_ > 1 else {}
        for place, decision in enumerate(made):
            for k, move in enumerate(decision.moves):
                action[row, place, k] = move.action + 1
                moves[row, place, k] = number[move.response] if move.response else 0
                tokens[row, place, k] = move.tokens
                if move.taken:
                    taken[row, place] = k
            before[row, place] = moves[row, place, 0]
            if round_ > 1:
                previous[row, place] = _number(votes[decision.agent])
    prior = competences(episode.agents)
    limit = episode.options["max_rounds"]
    bar = episode.options.get("settle_confidence")
    settles = episode.options.get("stop_when_settled", True)
    responses = list(episode.responses.values())
    every = [[*rounds]] if rounds else [[]]
    return Row(
        arrays={
            "static": np.array([_static(r) for r in responses], np.float32).reshape(
                -1, len(OF_RESPONSE)
            ),
            "cluster": np.array([_number(r["cluster"]) for r in responses], np.int16),
            "confidence": np.array([_confidence(r) for r in responses], np.float32),
            "author": np.array([names.index(r["agent"]) for r in responses], np.int16),
            "before": before,
            "previous": previous,
            "moves": moves,
            "action": action,
            "tokens": tokens,
            "taken": taken,
            "behaviour": np.array(
                [[d.behaviour for d in made] for made in rounds.values()], np.float32
            ).reshape(*shape, len(ACTIONS)),
            "competence": np.array([[prior[n] for n in names]] * len(rounds), np.float32).reshape(
                shape
            ),
            "round": np.array(every[0], np.int16),
            "left": np.array([limit - r + 1 for r in every[0]], np.int16),
            "cut": np.array([_is_cut(episode, r) for r in every[0]], bool),
            "size": np.full(len(rounds), len(names), np.int16),
            "sizes": np.array([[len(responses), len(rounds)]], np.int32),
            "weight": np.array(rule.weight),
            "pair": np.tile(np.array(rule.pair), (len(rounds), 1, 1)),
            "ends": np.array(
                [[rule.kind, settles, -1.0 if bar is None else bar, *rule.none, rule.refined_pair]]
            ),
        },
        texts={
            "id": episode.id,
            "reference": episode.reference,
            "representatives": episode.representatives,
        },
    )


def _is_cut(episode: Episode, round_: int) -> bool:
    """Tell whether a budget ended the deliberation after a round, whatever was decided in it."""
    if find_limit([turn for turn in episode.turns if turn["round"] == round_]):
        return True
    last = round_ == len(episode.tallies) - 1
    return bool(last and episode.outcome.get("stop_reason") == "timeout")


class _Rule(NamedTuple):
    """A consensus rule as numbers: see `Joint`."""

    kind: int
    weight: list[float]
    pair: list[list[float]]
    none: tuple[float, float] = (0.0, 0.0)
    refined_pair: float = 0.0


def _rule_as_arrays(episode: Episode, names: list[str]) -> _Rule:
    """Return the rule of an episode, with the weight of each of its responses.

    By log-odds, an unknown confidence counts as the mean of the episode's known ones.
    """
    rule = rule_of(episode)
    responses = episode.responses.values()
    alone = [
        Vote(r["agent"], r["cluster"], confidence_of(r), refined=r["round"] > 0) for r in responses
    ]
    nothing = [0.0] * len(alone)
    no_pair = [[0.0] * len(names) for _ in names]
    if isinstance(rule, QuestionConsensus):
        shared = rule.fitted.shared
        place = {name: i for i, name in enumerate(rule.fitted.agents)}
        at = [place.get(name) for name in names]
        pairs = [[0.0 if a == b else sum(rule.pair(at[a], at[b])) for b in range(len(at))]
                 for a in range(len(at))]  # fmt: skip
        return _Rule(
            PROBABLE,
            [0.0 if vote.cluster is None else rule.score([vote]) for vote in alone],
            pairs,
            (shared.none, shared.none_per_voice),
            shared.refined_pair,
        )
    known = [vote.confidence for vote in alone if vote.confidence is not None]
    if isinstance(rule, LogOdds) and known:
        mean = sum(known) / len(known)
        told = [mean if vote.confidence is None else vote.confidence for vote in alone]
        return _Rule(PROBABLE, [rule.weight(p) for p in told], no_pair, (rule.none, 0.0))
    if rule is confidence_weighted:
        return _Rule(_CONFIDENCE, nothing, no_pair)
    if rule is majority or isinstance(rule, LogOdds):
        return _Rule(_MAJORITY, nothing, no_pair)
    raise ConfigurationError("fitted values need a consensus rule that is built in")


def _number(cluster: int | None) -> int:
    return 0 if cluster is None else cluster + 1


def _confidence(response: Response) -> float:
    critique = response["critique"]
    known = critique["confidence"] if critique else None
    return -1.0 if known is None else known


def _static(response: Response) -> list[float]:
    """Return the features of a response alone, by the plugin's own rule."""
    name = response["agent"]
    [seen] = observe(Situation({name: response}, {}, {}, 1, 1)).values()
    return [seen["own"][i] for i in OWN]


_AS_READ = (
    "previous", "tokens", "taken", "behaviour", "competence", "round", "left", "cut", "size",
    "pair",
)  # fmt: skip
_BY_STATE = (*_AS_READ, "episode", "before", "moves", "action", "ends")


@dataclass
class Joint:
    """Joint states of many episodes: S states of up to N agents with up to K moves each.

    Attributes:
        static: Features of responses alone, ``[R, 16]``; row 0 stands for no response.
        cluster: Cluster of each response's answer, from 1, ``[R]``; 0: no valid answer.
        confidence: The critic's, ``[R]``; below 0: unknown.
        author: Place in the team of whoever gave the response, ``[R]``.
        right: The answer that stands for its cluster is right, ``[R]``.
        episode: Position of the state's episode among those kept, ``[S]``.
        before: Response that each agent held, ``[S, N]``.
        previous: Cluster of the answer held a round before, -1 in the first round, ``[S, N]``.
        moves: Response held after each move, ``[S, N, K]``.
        action: Index of each move's action, -1 where there is no move, ``[S, N, K]``.
        tokens: What each move takes, ``[S, N, K]``.
        taken: The move that the episode took, ``[S, N]``.
        behaviour: Probabilities that it was drawn from, ``[S, N, 3]``.
        competence: Of each agent, ``[S, N]``.
        round: From 1, ``[S]``.
        left: Rounds of decisions left, this one included, ``[S]``.
        cut: A budget ends the deliberation after this round, ``[S]``.
        size: Of the team, ``[S]``.
        weight: Score of each response as the only voice, where the rule is probabilistic, ``[R]``.
        pair: What a pair of authors adds to the score of their answer, ``[S, N, N]``.
        ends: Kind of consensus rule, whether agreement ends it, the bar for that, the score of
            "none is right", what a voice adds to that, and a pair with a refined response,
            ``[S, 6]``.
    """

    static: Floats
    cluster: Integers
    confidence: Floats
    author: Integers
    right: Booleans
    episode: Integers
    before: Integers
    previous: Integers
    moves: Integers
    action: Integers
    tokens: Floats
    taken: Integers
    behaviour: Floats
    competence: Floats
    round: Integers
    left: Integers
    cut: Booleans
    size: Integers
    weight: Floats
    pair: Floats
    ends: Floats

    def __len__(self) -> int:
        return len(self.before)

    @property
    def there(self) -> Booleans:
        """Which places are taken by an agent, ``[S, N]``."""
        return np.asarray(np.arange(self.before.shape[1]) < self.size[:, None])

    def select(self, chosen: NDArray[Any]) -> "Joint":
        """Return some of the states. All responses are kept."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _BY_STATE})


def load_joint(
    paths: Any,
    *,
    grader: Grader,
    labels: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
    consensus: LearnedConsensus | None = None,
    share: float = 1.0,
    processes: int = 1,
) -> Joint:
    """Return the joint states of traces, in the order of `dataset.load`, and cached as there.

    Raises:
        ConfigurationError: A consensus rule is not built in.
        TraceError: There is no such path, or it cannot be read.
    """
    row_of = partial(joint_row, calibration=calibration, consensus=consensus)
    kind = cache_kind("joint", calibration, consensus)
    rows = read_rows(paths, kind, row_of, share=share, processes=processes)
    return join(rows, grader, labels or {})


def join(rows: Rows, grader: Grader, labels: Mapping[str, str]) -> Joint:
    """Return the joint states of the episodes that are the first of their id and have a reference.

    `labels` are references by episode id. The grader is asked once for each pair.
    """
    arrays: Arrays = dict(rows.arrays)
    texts = rows.texts
    _, keep, verdicts = grade_answers(texts, labels, grader, "representatives")
    sizes = arrays.pop("sizes")
    start = np.cumsum([0, *map(len, texts["representatives"])])[:-1]
    owner = np.repeat(np.arange(len(sizes)), sizes[:, 0])
    cluster = arrays["cluster"]
    good = look_up(verdicts, start[owner], cluster.astype(np.int64) - 1)
    base = (np.cumsum(sizes[:, 0]) - sizes[:, 0])[np.repeat(np.arange(len(sizes)), sizes[:, 1])]
    of = np.repeat(np.arange(len(sizes)), sizes[:, 1])

    def shifted(index: Integers) -> Integers:
        first_response = base.reshape(-1, *[1] * (index.ndim - 1))
        return np.where(index > 0, index + first_response, 0).astype(np.int32)

    def with_none(values: NDArray[Any], none: Any) -> NDArray[Any]:
        return np.concatenate([np.full((1, *values.shape[1:]), none, values.dtype), values])

    found = Joint(
        static=with_none(arrays["static"], 0.0),
        cluster=with_none(cluster, 0),
        confidence=with_none(arrays["confidence"], -1.0),
        author=with_none(arrays["author"], -1),
        right=with_none(good, False),
        episode=(np.cumsum(keep) - 1)[of].astype(np.int32),
        before=shifted(arrays["before"]),
        moves=shifted(arrays["moves"]),
        action=arrays["action"] - 1,
        weight=with_none(arrays["weight"], 0.0),
        ends=arrays["ends"][of],
        **{name: arrays[name] for name in _AS_READ},
    )
    # Of a response that is not there nothing is known: as in `observation`.
    for name in ("claimed_confidence", "confidence", "logprob", "self_verdict"):
        found.static[0, OF_RESPONSE.index(name)] = 0.5
    return found if keep.all() else found.select(keep[of])
