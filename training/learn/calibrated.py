"""A segment's columns as with another calibration of the confidences: `recalibrated`, on arrays.

All numbers are those of `recalibrated` to the last bit, sums included, so that no vote is decided
by rounding: where it matters, they are taken by `math.fsum`.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mpdf_langgraph.calibration import STAGES, Calibration
from mpdf_langgraph.consensus import NO_CONFIDENCE
from mpdf_langgraph.observation import FEATURES, INDEX
from training.learn.rewards import CONCEDE

Array = NDArray[Any]


def calibrated(
    batch: pa.RecordBatch, columns: dict[str, Array], calibration: Calibration
) -> dict[str, Array]:
    """Return the columns of episodes with built-in rules as if recorded with a calibration.

    Args:
        batch: What `columns` were unpacked from.
        columns: See `columns.unpacked`; left as they are.
        calibration: ``Calibration({})`` gives the confidences back as the critic gave them.
    """
    team = np.diff(batch["agents"].offsets.to_numpy())
    width = int(team.max(initial=1))
    # Episode's first response; a last row stands for a response that is not there.
    start = np.cumsum(columns["responses"]) - columns["responses"]
    confidence = np.append(_confidences(batch, columns, calibration), np.nan)
    cluster, said, stands = (np.append(columns[n], -1) for n in ("cluster", "said", "stands"))
    none = len(cluster) - 1

    rounds = columns["holdings"] // team  # round 0 included
    of = np.repeat(np.arange(len(team)), rounds)  # the episode of every holding
    held = np.full((len(of), width), -1)
    held[np.arange(width) < team[of, None]] = columns["held"]
    held = np.where(held < 0, none, start[of, None] + held)
    first = np.cumsum(rounds) - rounds
    majority = columns["majority"].astype(bool)

    def elect(those: Array, by_majority: Array) -> Array:
        """Return the answer that stands for the winner among responses, ``[M, N]``; -1: none."""
        slot = winner(cluster[those], confidence[those], by_majority)
        chosen = those[np.arange(len(those)), slot]
        return np.where(slot < 0, -1, stands[chosen])

    row = np.repeat(np.arange(len(team)), columns["groups"])  # the episode of every group
    after = first[row] + columns["round"]
    before = after - 1
    place = columns["agent"]
    own, peers = _features(columns, held, cluster, confidence, before, team[row])

    # Whom CONCEDE would have adopted; where it was taken, that stays.
    response = np.where(columns["response"] < 0, none, start[row, None] + columns["response"])
    drawn = np.arange(response.shape[1]) < columns["rollouts"][:, None]
    would = drawn & (columns["action"] == CONCEDE) & (columns["taken"] != CONCEDE)[:, None]
    group = np.nonzero(would)[0]
    response[would] = _concessions(held[before[group]], place[group], cluster, confidence, none)

    votes = np.repeat(held[after], drawn.sum(axis=1), axis=0)
    group = np.nonzero(drawn)[0]
    votes[np.arange(len(votes)), place[group]] = response[drawn]
    consensus = np.zeros_like(columns["consensus"])
    consensus[drawn] = elect(votes, majority[row[group]])
    without = held[after]
    without[np.arange(len(without)), place] = none
    return columns | {
        "own": own,
        "peers": peers,
        "vote": elect(held[first], majority),
        "final": elect(held[first + rounds - 1], majority),
        "without": elect(without, majority[row]),
        "answer": np.where(would, said[response], columns["answer"]),
        "consensus": consensus,
    }


def _confidences(
    batch: pa.RecordBatch, columns: dict[str, Array], calibration: Calibration
) -> Array:
    """Return the calibrated confidence of every response, ``[R]``."""
    result = columns["confidence"].copy()
    source = sources(batch, columns)
    for name, curves in calibration.root.items():
        for refined, stage in enumerate(STAGES):
            chosen = (source == name) & (columns["refined"] == refined) & ~np.isnan(result)
            curve = getattr(curves, stage)  # not numpy's exp, which may differ in the last bit
            result[chosen] = [curve(one) for one in columns["confidence"][chosen].tolist()]
    return result


def sources(batch: pa.RecordBatch, columns: dict[str, Array]) -> Array:
    """Return which measurement every response's confidence is, ``[R]`` of texts or None."""
    lists = batch["sources"]
    names = np.array([*lists.flatten().to_pylist(), None], object)
    first = lists.offsets.to_numpy()[:-1] - lists.offsets[0].as_py()
    code = columns["source"]
    places = np.where(code < 0, len(names) - 1, np.repeat(first, columns["responses"]) + code)
    return np.asarray(names[places])


def _features(
    columns: dict[str, Array],
    held: Array,
    cluster: Array,
    confidence: Array,
    before: Array,
    team: Array,
) -> tuple[Array, Array]:
    """Return the observations with the features that depend on confidence made anew."""
    voted = cluster[held]
    weight = _weights(voted, confidence[held])
    backing, _ = _support(voted, weight)
    total = _sum(weight)[:, None]
    share = np.divide(backing, total, out=np.zeros_like(backing), where=total > 0)
    known = np.where(np.isnan(confidence[held]), 0.5, confidence[held])
    own = columns["own"].copy()
    peers = columns["peers"].reshape(len(own), -1, len(FEATURES)).copy()
    place = columns["agent"]
    peer = np.arange(peers.shape[1])
    there = peer < team[:, None] - 1
    # The peers are the team without the agent itself, in its order.
    other = np.where(there, peer + (peer >= place[:, None]), 0)
    for name, values in (("cluster_confidence", share), ("confidence", known)):
        own[:, INDEX[name]] = values[before, place]
        peers[:, :, INDEX[name]] = np.where(there, values[before[:, None], other], 0.0)
    return own, peers.reshape(len(own), -1)


def _concessions(held: Array, place: Array, cluster: Array, confidence: Array, none: int) -> Array:
    """Return the response that each agent would adopt, ``[M]``: `consensus.concession`."""
    mine = held[np.arange(len(held)), place][:, None]
    others = np.where(cluster[held] == cluster[mine], none, held)
    voted = cluster[others]
    weight = _weights(voted, confidence[others])
    slot = winner(voted, confidence[others], np.zeros(len(held), bool))
    members = voted == voted[np.arange(len(held)), slot][:, None]
    best = np.argmax(np.where(members, weight, -np.inf), axis=1)
    return np.asarray(others[np.arange(len(held)), best])


# --- votes ------------------------------------------------------------------------------------


def winner(cluster: Array, confidence: Array, majority: Array) -> Array:
    """Return the first agent of the cluster that the rule elects, ``[M]``; -1: no votes.

    Args:
        cluster: What each agent of M teams votes for, ``[M, N]``; -1 abstains.
        confidence: NaN where unknown, ``[M, N]``.
        majority: The rule is `consensus.majority`, else `confidence_weighted`, ``[M]``.
    """
    valid = cluster >= 0
    slot = np.where(valid.any(axis=1), valid.argmax(axis=1), -1)
    mixed = np.any(valid & (cluster != cluster.max(axis=1, keepdims=True)), axis=1)
    voted = cluster[mixed]
    weight, count = _support(voted, _weights(voted, confidence[mixed]))
    rule = majority[mixed, None]
    score, tied = np.where(rule, count, weight), np.where(rule, weight, count)
    score[voted < 0] = -np.inf
    leads = score == score.max(axis=1, keepdims=True)
    slot[mixed] = np.argmax(np.where(leads, tied, -np.inf), axis=1)
    return slot


def _weights(cluster: Array, confidence: Array) -> Array:
    """Return what each vote weighs, ``[M, N]``: `consensus.confidence_weights`."""
    valid = cluster >= 0
    known = valid & ~np.isnan(confidence)
    count, total = known.sum(axis=1), _sum(np.where(known, confidence, 0.0))
    fill = np.divide(total, count, out=np.full(len(total), NO_CONFIDENCE), where=count > 0)
    return np.where(known, confidence, np.where(valid, fill[:, None], 0.0))


def _support(cluster: Array, weight: Array) -> tuple[Array, Array]:
    """Return the summed weights and the votes of each agent's cluster, ``[M, N]`` each."""
    same = (cluster[:, :, None] == cluster[:, None, :]) & (cluster >= 0)[:, :, None]
    return _sum(np.where(same, weight[:, None, :], 0.0)), same.sum(axis=2).astype(float)


def _sum(values: Array) -> Array:
    """Return the sums along the last axis, as `math.fsum` rounds them."""
    total = values.sum(axis=-1)
    many = np.count_nonzero(values, axis=-1) > 2  # of two, any sum is rounded once
    total[many] = [math.fsum(row) for row in values[many].tolist()]
    return np.asarray(total)
