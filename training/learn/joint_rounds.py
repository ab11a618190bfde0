"""Rounds on joint states: the moves that are drawn, what is held after them, how the group votes.

Within a round the agents move at once, so that given the state their moves are independent of each
other. The cached responses of a recorded state therefore give the next joint state under *any*
joint action, and a draw of it under any policy, without importance weights: each agent's move is
drawn by that policy from its own cached ones.

`describe` is `observation.observe` for arrays, and a test holds the two equal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logit

from mpdf_langgraph.calibration import EDGE
from mpdf_langgraph.consensus import NO_CONFIDENCE, ROUNDING
from mpdf_langgraph.observation import INDEX, NAMES
from mpdf_langgraph.state import ACTIONS
from training.learn.episode_rows import (
    CONFIDENCE,
    LEARNED,
    LOG_ODDS,
    MAJORITY,
    OF_RESPONSE,
    OWN,
    UNCHANGED,
)
from training.learn.joint import (
    BAR,
    KIND,
    KNOWN,
    NONE,
    NONE_PER_VOICE,
    REFINED_PAIR,
    SETTLES,
    SLOPE,
    Booleans,
    Floats,
    Integers,
    Joint,
)


@dataclass
class Tally:
    """The votes of teams, ``[n, N]`` each where not said otherwise.

    Attributes:
        valid: The agent holds a valid answer.
        votes: For its answer.
        best_other: Most votes for another answer.
        backing: Summed confidence behind its answer.
        total: Summed confidence, ``[n]``.
        distinct: Distinct valid answers, ``[n]``.
        elected: It holds the group's answer.
        speaks: Its response has a voice. If several agents hold one author's answer, the surest of
            them speaks (see `consensus.voices`).
        winner: Place of one agent that holds the group's answer, ``[n]``. -1: there are no votes.
        probability: P(right) of the group's answer, ``[n]``. NaN: the rule gives none.
    """

    valid: Booleans
    votes: Integers
    best_other: Integers
    backing: Floats
    total: Floats
    distinct: Integers
    elected: Booleans
    speaks: Booleans
    winner: Integers
    probability: Floats


def count(joint: Joint, states: Integers, held: Integers) -> Tally:
    """Count the votes of teams that come from `states` ``[n]`` and hold `held` ``[n, N]``."""
    return count_held(joint, joint.episode[states], held)


def count_held(
    joint: Joint, episodes: Integers, held: Integers, *, by_confidence: bool = False
) -> Tally:
    """Count the votes of the teams of episodes ``[n]`` that hold `held` ``[n, N]``.

    By the episodes' own rules, or by confidence.
    """
    there = joint.places_of(episodes)
    cluster, confidence = joint.cluster[held], joint.confidence[held]
    valid = there & (cluster > 0)
    same = (cluster[:, :, None] == cluster[:, None]) & valid[:, :, None] & valid[:, None]
    votes = same.sum(2)
    weight = _fill(confidence, valid) * valid
    backing = _add(same * weight[:, None])
    others = valid[:, None] & ~same
    best_other = np.where(others, votes[:, None], 0).max(2)
    # Every answer once: each of its k votes counts 1 / k.
    distinct = np.where(valid, 1.0 / np.maximum(1, votes), 0.0).sum(1).round().astype(int)
    kind = np.full(len(held), CONFIDENCE) if by_confidence else joint.rule[episodes, KIND]
    unknown = ~(valid & (confidence >= 0)).any(1)
    # By log-odds the majority decides where no confidence is known.
    plain = (kind == MAJORITY) | ((kind == LOG_ODDS) & unknown)
    probable = ((kind == LEARNED) | (kind == LOG_ODDS)) & ~plain
    first = np.where(plain[:, None], votes, backing)
    speaks = _speak(joint, held, same)
    score, none = backing, np.zeros(len(held))
    if probable.any():
        score, none = _score(joint, episodes, held, same, speaks)
        first = np.where(probable[:, None], score, first)
    tied = _best(first, valid, np.where(probable, ROUNDING, 0.0)[:, None])
    leading = _best(np.where(plain[:, None], backing, votes), tied)
    if probable.any():  # the majority decides among those that tie
        surest = _fill(confidence, tied) * tied
        leading = _best(np.where(probable[:, None], _add(same * surest[:, None]), 0.0), leading)
    place = np.argmax(leading, 1)
    winner = np.where(valid.any(1), place, -1)
    rows = np.arange(len(held))
    elected = valid & (cluster == cluster[rows, place][:, None])
    probability = np.full(len(held), np.nan)
    if probable.any():
        probability[probable] = _probability(score, none, votes, place)[probable]
    return Tally(
        valid=valid,
        votes=votes,
        best_other=best_other,
        backing=backing,
        total=_add(weight),
        distinct=distinct,
        elected=elected,
        speaks=speaks,
        winner=winner,
        probability=probability,
    )


def _best(key: Floats, among: Booleans, rounding: Any = 0.0) -> Booleans:
    """Tell whose key is the largest of some, ``[n, N]``."""
    largest = np.where(among, key, -np.inf).max(1, keepdims=True)
    return np.asarray(among & (key >= largest - rounding))


def _fill(confidence: Floats, valid: Booleans) -> Floats:
    """Return confidences ``[n, N]``, an unknown one as `consensus.confidence_weights` counts it."""
    known = valid & (confidence >= 0)
    mean = _add(np.where(known, confidence, 0.0)) / np.maximum(1, known.sum(1))
    mean = np.where(known.any(1), mean, NO_CONFIDENCE)
    return np.where(known, confidence, mean[:, None])


def _add(terms: Floats) -> Floats:
    """Return the sums along the last axis by Neumaier's summation.

    They are nearly always those of `math.fsum`, so that the order of the team decides no tie.
    """
    total, rest = np.zeros(terms.shape[:-1]), np.zeros(terms.shape[:-1])
    for k in range(terms.shape[-1]):
        term = terms[..., k]
        more = total + term
        large = np.abs(total) >= np.abs(term)
        rest += np.where(large, (total - more) + term, (term - more) + total)
        total = more
    return np.asarray(total + rest)


def concede(joint: Joint, states: Integers, places: Integers) -> Integers:
    """Return the response that agents would adopt by CONCEDE, ``[n]``, 0: there is none.

    It is chosen as in `consensus.concession`. The agents are at `places` ``[n]`` of `states`.
    """
    rows = np.arange(len(states))
    held = joint.before[states]
    cluster = joint.cluster[held]
    others = np.where(cluster != cluster[rows, places][:, None], held, 0)
    others = np.where(joint.cluster[others] > 0, others, 0)
    tally = count_held(joint, joint.episode[states], others, by_confidence=True)
    weight = _fill(joint.confidence[others], tally.valid)
    surest = np.argmax(np.where(tally.elected, weight, -1.0), 1)
    return np.asarray(np.where(tally.winner >= 0, others[rows, surest], 0))


def _speak(joint: Joint, held: Integers, same: Booleans) -> Booleans:
    """Tell who has a voice, ``[n, N]``: of equal authors and answers the surest, then the first."""
    author, confidence = joint.author[held], joint.confidence[held]
    refined = _refined(joint, held)
    twin = same & (author[:, :, None] == author[:, None])
    sure = confidence[:, None] > confidence[:, :, None]
    level = confidence[:, None] == confidence[:, :, None]
    sure |= level & (refined[:, None] > refined[:, :, None])
    level &= refined[:, None] == refined[:, :, None]
    earlier = np.tri(held.shape[1], k=-1, dtype=bool)
    return np.asarray(same.diagonal(axis1=1, axis2=2) & ~(twin & (sure | level & earlier)).any(2))


def _refined(joint: Joint, held: Integers) -> Booleans:
    return np.asarray(joint.static[held, OF_RESPONSE.index("refined")] > 0)


def _score(
    joint: Joint, episodes: Integers, held: Integers, same: Booleans, speaks: Booleans
) -> tuple[Floats, Floats]:
    """Return the scores of a probabilistic rule, as `learned_consensus` and `LogOdds` do.

    They are those of each agent's answer ``[n, N]``, and of "none is right" ``[n]``. `same`: two
    agents hold the same valid answer, ``[n, N, N]``.
    """
    author, confidence = joint.author[held], joint.confidence[held]
    rule = joint.rule[episodes]
    refined = _refined(joint, held)
    weight = joint.weight[held]
    unknown = speaks & (confidence < 0) & (rule[:, KIND] == LOG_ODDS)[:, None]
    if unknown.any():
        weight = weight + np.where(unknown, to_log_odds(_fill(confidence, speaks)), 0.0)
    weight = weight * speaks
    pairs = joint.pairs[episodes][:, None, None]
    pair = joint.pair[pairs, author[:, :, None], author[:, None]]
    pair = pair + (refined[:, :, None] | refined[:, None]) * rule[:, REFINED_PAIR, None, None]
    pair *= same & speaks[:, :, None] & speaks[:, None]
    pair *= author[:, :, None] != author[:, None]
    alone = (same * weight[:, None]).sum(2)
    # Each pair of voices of the agent's answer stands twice in the sum.
    together = (same * pair.sum(2)[:, None]).sum(2) / 2
    none = rule[:, NONE] + rule[:, NONE_PER_VOICE] * speaks.sum(1)
    return alone + together, none


def weigh(joint: Joint, base: Floats, of_response: Integers) -> Floats:
    """Return the score of each response as the only voice, ``[R]``. See `Joint`.

    `base` is that without its confidence, and `of_response` the position of its episode, ``[R]``.
    """
    rule = joint.rule[of_response] if len(joint.rule) else np.zeros((1, 8))
    scored = (joint.cluster > 0) & np.isin(rule[:, KIND], (LEARNED, LOG_ODDS))
    of_confidence = rule[:, KNOWN] + rule[:, SLOPE] * to_log_odds(joint.confidence)
    told = np.where(joint.confidence >= 0, of_confidence, 0.0)
    return np.asarray(np.where(scored, base + told, 0.0))


def to_log_odds(probability: Floats) -> Floats:
    """Return the log-odds of probabilities, as `calibration.log_odds` does."""
    return np.asarray(logit(np.clip(probability, EDGE, 1 - EDGE)))


def _probability(score: Floats, none: Floats, votes: Integers, place: Integers) -> Floats:
    """Return P(right) of the answer of the agent at `place`, ``[n]``."""
    valid = votes > 0
    top = np.maximum(none, np.where(valid, score, -np.inf).max(1))
    # Every answer once: each of its k votes counts 1 / k.
    each = np.where(valid, np.exp(score - top[:, None]), 0.0) / np.maximum(1, votes)
    total = each.sum(1) + np.exp(none - top)
    rows = np.arange(len(score))
    return np.asarray(each[rows, place] * votes[rows, place] / total)


def group_right(joint: Joint, held: Integers, tally: Tally) -> Booleans:
    """Tell whether the groups' answers are right, ``[n]``."""
    rows = np.arange(len(held))
    return np.asarray((tally.winner >= 0) & joint.right[held[rows, tally.winner]])


def agrees(joint: Joint, states: Integers, held: Integers, tally: Tally) -> Booleans:
    """Tell whether teams have settled, as `rounds.is_settled` does, ``[n]``."""
    rule = joint.rule[joint.episode[states]]
    bar = rule[:, BAR]
    sure = (joint.confidence[held] >= bar[:, None]) | ~tally.valid | (bar[:, None] < 0)
    probable = ~np.isnan(tally.probability)
    sure |= probable[:, None] & (tally.probability >= bar)[:, None]
    sure &= ~probable[:, None] | (tally.probability >= bar)[:, None]
    enough = 2 * tally.valid.sum(1) > joint.size[joint.episode[states]]
    settled = enough & (tally.distinct == 1) & sure.all(1)
    return np.asarray(settled & (rule[:, SETTLES] > 0))


def describe(
    joint: Joint, states: Integers, held: Integers, *, later: bool = True
) -> tuple[Floats, Booleans, Tally]:
    """Return the features of what teams hold, at the state itself or a round later.

    They are ``[n, N, F]`` float32, with `agrees` as the group's answer would see it (1: holds that
    answer). Beside them: which places are taken, ``[n, N]``, and the votes.
    """
    episodes = joint.episode[states]
    there, size = joint.places_of(episodes), joint.size[episodes][:, None].astype(float)
    tally = count(joint, states, held)
    cluster = joint.cluster[held]
    previous = joint.cluster[joint.before[states]] if later else joint.previous[states]
    round_ = joint.round[states] - 1 + later
    left = joint.left[states] - later
    result = np.zeros((*held.shape, len(NAMES)), np.float32)
    result[:, :, OWN] = joint.static[held]
    total = tally.total[:, None]
    values: dict[str, Any] = {
        "answer_valid": tally.valid,
        "support": np.maximum(0, tally.votes - 1) / np.maximum(1, size - 1),
        "plurality": tally.valid & (tally.votes >= tally.best_other),
        "margin": (tally.votes - tally.best_other) / size,
        "cluster_confidence": np.divide(
            tally.backing, total, out=np.zeros_like(tally.backing), where=total > 0
        ),
        "distinct_answers": tally.distinct[:, None] / size,
        "agrees": tally.elected,
        "changed": (previous != UNCHANGED) & (previous != cluster),
        "adopted": (held > 0) & (joint.author[held] != np.arange(held.shape[1])),
        "competence": joint.competence[states],
        "round": np.minimum(1.0, round_ / 10)[:, None],
        "rounds_left": np.clip(left / 10, 0.0, 1.0)[:, None],
        "team_size": 1 / size,
    }
    for name, value in values.items():
        result[:, :, INDEX[name]] = value
    result[~there] = 0.0
    return result, there, tally


def draw_moves(
    joint: Joint, states: Integers, probabilities: Floats, rng: np.random.Generator
) -> Integers:
    """Draw a move of every agent by a policy ``[n, N, 3]``. Return the moves' numbers, ``[n, N]``.

    An action without a cached move is left out.
    """
    chances = move_chances(joint, states, probabilities)
    bounds = chances.cumsum(2)
    point = rng.random(bounds.shape[:2])[:, :, None] * bounds[:, :, -1:]
    return np.asarray(np.minimum((bounds <= point).sum(2), bounds.shape[2] - 1))


def move_chances(joint: Joint, states: Integers, probabilities: Floats) -> Floats:
    """Return the probability of every cached move under a policy, ``[n, N, K]``."""
    action = joint.action[states]
    chances = np.zeros(action.shape)
    for index in range(len(ACTIONS)):
        chosen = action == index
        chances += chosen * (probabilities[:, :, index] / np.maximum(1, chosen.sum(2)))[:, :, None]
    total = chances.sum(2, keepdims=True)
    chances[:, :, 0] += total[:, :, 0] <= 0  # nothing known of it: as if it persisted
    return np.asarray(chances / chances.sum(2, keepdims=True))


def after(joint: Joint, states: Integers, moves: Integers) -> tuple[Integers, Booleans, Floats]:
    """Return what is held after moves, whether all persisted, and what they took.

    Moves and responses are ``[n, N]``, the others ``[n]``.
    """
    there = joint.places_of(joint.episode[states])
    made = states[:, None], np.arange(moves.shape[1]), moves
    held = np.where(there, joint.moves[made], 0)
    persisted = ((joint.action[made] == 0) | ~there).all(1)
    persisted &= joint.rule[joint.episode[states], SETTLES] > 0
    tokens = np.where(there, joint.tokens[made], 0.0).sum(1)
    return held, persisted, tokens
