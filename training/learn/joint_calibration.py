"""Joint states as if their episodes had been recorded with another calibration or consensus.

`recalibrate` does the same for one episode, and a test holds the two equal.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit

from mpdf_langgraph.calibration import STAGES, Calibration, Curve
from mpdf_langgraph.learned_consensus import LearnedConsensus
from training.learn.episode_rows import LEARNED, OF_RESPONSE
from training.learn.joint import (
    KIND,
    KNOWN,
    NONE,
    NONE_PER_VOICE,
    REFINED_PAIR,
    SLOPE,
    Floats,
    Integers,
    Joint,
)
from training.learn.joint_rounds import concede, to_log_odds, weigh
from training.learn.recorded import Recorded, with_none
from training.learn.rewards import CONCEDE

_CHUNK = 32_768


def joint_of(
    recorded: Recorded,
    calibration: Calibration | None = None,
    consensus: LearnedConsensus | None = None,
) -> Joint:
    """Return the joint states as if the episodes had been recorded so.

    That is with calibrated confidences and all that follows from them: the consensus, whom CONCEDE
    would have adopted, and what the router would have seen. What was done stays done, as in
    `recalibrate`.

    Args:
        recorded: The episodes.
        calibration: Of the confidences. None: as they were recorded, or as the critic gave them if
            there is a consensus.
        consensus: Decides in place of the rule that the episodes were recorded with.
    """
    joint = recorded.joint
    if calibration is None and consensus is None:
        return joint
    confidence = apply_calibration(
        calibration or Calibration({}),
        np.where(joint.confidence >= 0, recorded.raw, -1.0),
        (recorded.sources, recorded.source),
        (recorded.agents, recorded.author),
        recorded.stage,
    )
    static = joint.static.copy()
    static[:, OF_RESPONSE.index("confidence")] = np.where(confidence >= 0, confidence, 0.5)
    changed = replace(joint, static=static, confidence=confidence)
    base = recorded.base
    if consensus is not None:
        changed.rule, changed.pair, changed.pairs, base = _learned(recorded, consensus)
    changed.weight = weigh(changed, base, recorded.of_response)
    changed.moves = _with_concessions(changed)
    return changed


def apply_calibration(
    calibration: Calibration,
    confidence: Floats,
    source: tuple[Iterable[str], Integers],
    agent: tuple[Iterable[str], Integers],
    stage: Integers,
) -> Floats:
    """Return the calibrated confidences, ``[R]``. One below 0 is unknown, and stays so.

    Sources and agents are names, and indices into them, ``[R]``. Stages are indices into `STAGES`.
    """
    result = confidence.copy()
    for code, of_source in enumerate(source[0]):
        for place, name in enumerate(agent[0]):
            if (curves := calibration.curves_of(of_source, name)) is None:
                continue
            own = (confidence >= 0) & (source[1] == code) & (agent[1] == place)
            for number, of_stage in enumerate(STAGES):
                chosen = own & (stage == number)
                result[chosen] = apply_curve(getattr(curves, of_stage), result[chosen])
    return result


def apply_curve(curve: Curve, confidence: Floats) -> Floats:
    """Return the calibrated confidences, shape ``[n]``."""
    return np.asarray(expit(curve.slope * to_log_odds(confidence) + curve.shift))


def _learned(
    recorded: Recorded, consensus: LearnedConsensus
) -> tuple[Floats, Floats, Integers, Floats]:
    """Return `Joint.rule`, `pair` and `pairs`, and `Recorded.base`, by a learned consensus."""
    joint, shared = recorded.joint, consensus.shared
    rule = joint.rule.copy()
    rule[:, KIND] = LEARNED
    rule[:, NONE], rule[:, NONE_PER_VOICE] = shared.none, shared.none_per_voice
    rule[:, REFINED_PAIR] = shared.refined_pair
    rule[:, KNOWN], rule[:, SLOPE] = shared.known, shared.confidence
    # The last row and column stand for an agent that it does not know.
    place = {name: i for i, name in enumerate(consensus.agents)}
    at = np.array([*(place.get(name, -1) for name in recorded.agents), -1])[recorded.agent]
    pairs = np.zeros((len(place) + 1, len(place) + 1))
    pairs[:-1, :-1] = np.array(consensus.pairs).reshape(len(place), len(place))
    teams, of_team = np.unique(at, axis=0, return_inverse=True)
    pair = shared.pair + pairs[teams[:, :, None], teams[:, None]]
    pair[:, np.arange(at.shape[1]), np.arange(at.shape[1])] = 0.0
    records: dict[str | None, Any] = {
        name: np.array([*row, 0.0]) for name, row in consensus.categories.items()
    }
    own = np.array([*consensus.votes, 0.0])
    votes = np.array([own + records.get(name, 0.0) for name in recorded.categories])
    rows, author = recorded.of_response, np.maximum(0, joint.author)
    refined = joint.static[:, OF_RESPONSE.index("refined")] > 0
    base = shared.vote + shared.refined * refined
    if len(recorded):
        base = base + votes[rows, at[rows, author]]
    return rule, with_none(pair, 0.0), 1 + of_team.reshape(-1), base


def _with_concessions(joint: Joint) -> Integers:
    """Return `Joint.moves` with what a CONCEDE that was not taken would have adopted."""
    moves = joint.moves.copy()
    taken = np.arange(moves.shape[2]) == joint.taken[:, :, None]
    found = np.nonzero((joint.action == CONCEDE) & ~taken)
    for start in range(0, len(found[0]), _CHUNK):
        states, places, numbers = (part[start : start + _CHUNK] for part in found)
        adopted = concede(joint, states, places)
        known = adopted > 0
        moves[states[known], places[known], numbers[known]] = adopted[known]
    return moves
