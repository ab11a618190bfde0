"""The groups of an episode as a row of arrays, not graded."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.observation import FEATURES
from mpdf_langgraph.state import ACTIONS
from mpdf_langgraph.traces.records import Episode
from training.collect.questions import hash_told
from training.learn.recalibrate import recalibrate
from training.learn.rewards import Decision, Move, decisions
from training.learn.trace_rows import Arrays, Row


def make_row(
    episode: Episode,
    *,
    calibration: Calibration | None = None,
    consensus: LearnedConsensus | None = None,
) -> Row:
    """Return the groups of an episode, not graded.

    Answers are positions in the text ``"answers"``, -1 for none. Agents are positions in the team.
    """
    if calibration is not None or consensus is not None:
        episode = recalibrate(episode, calibration or Calibration({}), consensus)
    codes: dict[str | None, int] = {None: -1}

    def code(answer: str | None) -> int:
        return codes.setdefault(answer, len(codes) - 1)

    team = episode.team
    arrays = make_arrays(decisions(episode), team, code)
    arrays["groups"] = np.array([len(arrays["round"])])
    texts = {
        "id": episode.id,
        "question": episode.question,
        "told": hash_told(episode),
        "reference": episode.reference,
        "answers": list(codes)[1:],
        "agents": team,
    }
    return Row(arrays, texts)


def make_arrays(made: list[Decision], team: list[str], code: Callable[[str | None], int]) -> Arrays:
    """Return the arrays by group of an episode's decisions. See `Groups` and `make_row`."""
    sizes = np.array([len(decision.moves) for decision in made], np.int64)
    there = np.arange(sizes.max(initial=0)) < sizes[:, None]

    def by_group(value: Callable[[Decision], Any], dtype: Any, *shape: int) -> np.ndarray:
        return np.array([value(decision) for decision in made], dtype).reshape(len(made), *shape)

    def by_rollout(value: Callable[[Move], Any], dtype: Any) -> np.ndarray:
        array = np.zeros(there.shape, dtype)
        array[there] = [value(move) for decision in made for move in decision.moves]
        return array

    peers = max(0, len(team) - 1)
    place = {name: i for i, name in enumerate(team)}
    others = {name: [i for peer, i in place.items() if peer != name] for name in team}
    return {
        "own": by_group(lambda d: d.observation["own"], np.float32, len(FEATURES)),
        "peers": by_group(lambda d: d.observation["peers"], np.float32, peers, len(FEATURES)),
        "peer_mask": np.ones((len(made), peers), bool),
        "action_mask": by_group(lambda d: d.mask, bool, len(ACTIONS)),
        "actions": by_rollout(lambda m: m.action, np.int8),
        "answer": by_rollout(lambda m: code(m.answer), np.int16),
        "agreed": by_rollout(lambda m: code(m.consensus), np.int16),
        "tokens": by_rollout(lambda m: m.tokens, np.float32),
        "rollout_mask": there,
        "before": by_group(lambda d: code(d.before), np.int16),
        "without": by_group(lambda d: code(d.without), np.int16),
        "taken": by_group(lambda d: d.action, np.int8),
        "behaviour": by_group(lambda d: d.behaviour, np.float32, len(ACTIONS)),
        "disagreement": by_group(lambda d: d.disagreement, bool),
        "agent": by_group(lambda d: place[d.agent], np.int16),
        "peer_agent": by_group(lambda d: others[d.agent], np.int16, peers),
        "round": by_group(lambda d: d.round, np.int16),
    }
