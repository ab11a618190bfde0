"""Traces as arrays: the graded groups of any number of segments, and how they are split."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.state import ACTIONS, CHEAPEST_FIRST
from mpdf_langgraph.traces.reader import find_segments, first_episode
from mpdf_langgraph.traces.records import Episode
from training.collect.team import Answer
from training.learn.joint import Joint
from training.learn.joint_rounds import after, count, describe, group_right
from training.learn.recorded import ReadingReport, Recorded, joint_of, read_recorded, record
from training.learn.rewards import REFINE, TOLERANCE, Grader, Weights
from training.learn.trace_rows import place_of

_CHUNK = 32_768


@dataclass
class Groups:
    """Groups of rollouts as arrays: G groups of up to K rollouts, teams of up to P + 1 agents.

    Attributes:
        own: Features of the deciding agent, ``[G, F]`` float32.
        peers: Features of its peers, ``[G, P, F]`` float32, zero where there is none.
        peer_mask: There is a peer, ``[G, P]`` bool.
        action_mask: The action was allowed, ``[G, 3]`` bool, in the order of `ACTIONS`.
        actions: Index of each rollout's action, ``[G, K]`` int8. PERSIST is always the first.
        local: r_local of each rollout, ``[G, K]`` float32.
        global_: r_global of each rollout, ``[G, K]`` float32.
        tokens: What each rollout took, ``[G, K]`` float32.
        rollout_mask: There is a rollout, ``[G, K]`` bool. Elsewhere everything is 0.
        consensus: The consensus after the rollout is correct, ``[G, K]`` bool.
        correct: The agent's answer after the rollout is correct, ``[G, K]`` bool. That of the
            first is the answer it held before.
        taken: Index of the action that the episode took, ``[G]`` int8.
        behaviour: Probabilities that it was drawn from, ``[G, 3]`` float32.
        disagreement: The team held different valid answers at the decision, ``[G]`` bool.
        question: Index into `questions`, ``[G]`` int64.
        episode: Index into `episodes`, ``[G]`` int32.
        agent: Index of the deciding agent into `agents`, ``[G]`` int16. Where all episodes are
            of one team, its position there.
        peer_agent: The same of its peers, ``[G, P]`` int16. It is 0 if there is none.
        round: Round of decisions, from 1, ``[G]`` int16.
        questions: Every question text once.
        episodes: Ids of the episodes, those without a decision included.
        agents: Every name of an agent once.
        told: Hashes of what the models were told: a question's text and its contexts. Each once.
    """

    own: np.ndarray
    peers: np.ndarray
    peer_mask: np.ndarray
    action_mask: np.ndarray
    actions: np.ndarray
    local: np.ndarray
    global_: np.ndarray
    tokens: np.ndarray
    rollout_mask: np.ndarray
    consensus: np.ndarray
    correct: np.ndarray
    taken: np.ndarray
    behaviour: np.ndarray
    disagreement: np.ndarray
    question: np.ndarray
    episode: np.ndarray
    agent: np.ndarray
    peer_agent: np.ndarray
    round: np.ndarray
    questions: list[str]
    episodes: list[str]
    agents: list[str]
    told: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.own)

    @property
    def held_right(self) -> np.ndarray:
        """The answer held at the decision is correct, ``[G]`` bool."""
        return np.asarray(self.correct[:, 0]) if len(self) else np.zeros(0, bool)

    def rewards(self, weights: Weights) -> np.ndarray:
        """Return the reward of every rollout, ``[G, K]`` float32. It is 0 if there is none."""
        gain = weights.local * self.local + weights.global_ * self.global_
        return np.asarray(gain - weights.cost / 1000 * self.tokens, np.float32)

    def action_means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean by action of what rollouts have ``[G, K]``, ``[G, 3]``. NaN: none has."""
        means = np.full((len(self), len(ACTIONS)), np.nan)
        for action in range(len(ACTIONS)):
            drawn = self.rollout_mask & (self.actions == action)
            total = np.sum(values, axis=1, where=drawn, dtype=np.float64)
            np.divide(total, drawn.sum(axis=1), out=means[:, action], where=drawn.any(axis=1))
        return means

    def mean_rewards(self, weights: Weights) -> np.ndarray:
        """Return the mean reward by action, ``[G, 3]`` float64. It is -inf without a rollout."""
        return np.asarray(np.nan_to_num(self.action_means(self.rewards(weights)), nan=-np.inf))

    def labels(self, weights: Weights) -> np.ndarray:
        """Return the action with the best mean reward, ``[G]`` int8.

        Ties go to the cheapest: PERSIST, CONCEDE, REFINE.
        """
        means = self.mean_rewards(weights)[:, CHEAPEST_FIRST]
        best = means.max(axis=1, keepdims=True) - TOLERANCE
        return np.asarray(np.array(CHEAPEST_FIRST, np.int8)[np.argmax(means >= best, axis=1)])

    def soft_labels(self, weights: Weights, temperature: float) -> np.ndarray:
        """Return softmax(mean reward / temperature), ``[G, 3]`` float32.

        It is 0 for actions without a rollout.

        Raises:
            ConfigurationError: The temperature is not positive.
        """
        if not temperature > 0:
            raise ConfigurationError(f"temperature must be above 0, got {temperature}")
        means = self.mean_rewards(weights)
        powers = np.exp((means - means.max(axis=1, keepdims=True)) / temperature)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

    def tied(self, weights: Weights) -> np.ndarray:
        """Tell which groups have nothing to choose: all rewards equal, ``[G]`` bool."""
        rewards = self.rewards(weights)
        return np.asarray(np.all((rewards == rewards[:, :1]) | ~self.rollout_mask, axis=1))

    def untried(self) -> np.ndarray:
        """Tell which groups allowed REFINE and have no rollout of it, ``[G]`` bool."""
        refined = np.any(self.rollout_mask & (self.actions == REFINE), axis=1)
        return np.asarray(self.action_mask[:, REFINE] & ~refined)

    def select(self, index: Any) -> "Groups":
        """Return some groups: by indices, a boolean mask or a slice.

        What they are indices into stays whole, so that these keep their meaning.
        """
        chosen = {name: getattr(self, name)[index] for name in _ARRAYS}
        return replace(self, **chosen)


_ARRAYS = tuple(f.name for f in fields(Groups) if f.type is np.ndarray)


def load(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    grader: Grader,
    labels: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
    consensus: LearnedConsensus | None = None,
    share: float = 1.0,
    cached: bool = True,
    processes: int = 1,
    progress: bool = True,
) -> tuple[Groups, ReadingReport]:
    """Return the graded groups of traces, and what became of every record.

    The arguments are those of `read_recorded` and `joint_of`.

    Raises:
        ConfigurationError: An episode's consensus rule is not built in.
        TraceError: There is no such path, or it cannot be read.
    """
    recorded = read_recorded(
        paths,
        grader,
        labels,
        share=share,
        cached=cached,
        processes=processes,
        progress=progress,
    )
    groups = groups_of(recorded, joint_of(recorded, calibration, consensus))
    return groups, report_of(recorded, groups)


def make_groups(
    episodes: Iterable[Episode],
    grader: Grader,
    labels: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
) -> Groups:
    """Return the graded groups of episodes, as `load` does.

    Raises:
        ConfigurationError: The consensus rule is not built in.
        TraceError: A record contradicts itself or the rule.
    """
    recorded = record(episodes, grader, labels)
    return groups_of(recorded, joint_of(recorded, calibration))


def report_of(recorded: Recorded, groups: Groups) -> ReadingReport:
    """Return what became of the records, and what the groups hold."""
    return replace(
        recorded.reading,
        groups=len(groups),
        rollouts=int(groups.rollout_mask.sum()),
        tied=int(groups.tied(Weights()).sum()),
        untried=int(groups.untried().sum()),
    )


def groups_of(recorded: Recorded, joint: Joint) -> Groups:
    """Return the groups of joint states that `joint_of` has made, in the order of the turns.

    Raises:
        ConfigurationError: An episode's consensus rule is not built in.
    """
    recorded.check_rules()
    parts = [_turns(joint, part) for part in _chunks(len(joint))]
    seen, disagreement, consensus, without = (
        np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    states, places = np.nonzero(joint.there)
    episodes = joint.episode[states]
    drawn = _trim(joint.action[states, places] >= 0)
    most = drawn.shape[1]
    moves = joint.moves[states, places, :most]
    correct = joint.correct[moves] & drawn
    agreed = consensus[states, places, :most] & drawn
    before = joint.correct[joint.before[states, places]][:, None].astype(np.float32)
    alone = without[states, places][:, None].astype(np.float32)

    # The peers of the agent at each place, in the order of the team.
    size = joint.before.shape[1]
    others = np.array([[j for j in range(size) if j != i] for i in range(size)], int)
    peer_mask = _trim(np.arange(max(0, size - 1)) < joint.size[episodes][:, None] - 1)
    peer = others.reshape(size, -1)[places, : peer_mask.shape[1]]
    peers = seen[states[:, None], peer]
    clusters = joint.cluster[joint.before[states]]
    held = clusters[np.arange(len(states)), places]
    those = np.take_along_axis(clusters, peer, 1)
    own = seen[states, places]
    own[:, INDEX["agrees"]] = 1.0
    peers[:, :, INDEX["agrees"]] = (those > 0) & (those == held[:, None])
    peers[~peer_mask] = 0.0
    questions: dict[str, int] = {}
    asked = np.array([questions.setdefault(q, len(questions)) for q in recorded.questions], int)
    agent = recorded.agent.astype(np.int16)
    return Groups(
        own=own,
        peers=peers,
        peer_mask=peer_mask,
        action_mask=joint.mask[states, places],
        actions=np.where(drawn, joint.action[states, places, :most], 0).astype(np.int8),
        local=(correct - before) * drawn,
        global_=(agreed - alone) * drawn,
        tokens=joint.tokens[states, places, :most] * drawn,
        rollout_mask=drawn,
        consensus=agreed,
        correct=correct,
        taken=np.take_along_axis(
            joint.action[states, places], joint.taken[states, places][:, None].astype(int), 1
        )[:, 0],
        behaviour=joint.behaviour[states, places],
        disagreement=disagreement[states],
        question=asked[episodes],
        episode=episodes,
        agent=agent[episodes, places],
        peer_agent=np.where(peer_mask, agent[episodes[:, None], peer], 0).astype(np.int16),
        round=joint.round[states],
        questions=list(questions),
        episodes=recorded.ids,
        agents=recorded.agents,
        told=sorted(set(recorded.told)),
    )


def _chunks(count: int) -> list[NDArray[Any]]:
    every = np.arange(count)
    return [every[start : start + _CHUNK] for start in range(0, max(1, count), _CHUNK)]


def _turns(joint: Joint, states: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return what is seen at states, and where their moves lead.

    That is the features of all agents ``[n, N, F]``, whether they disagree ``[n]``, whether the
    consensus after each move is right, the peers holding what they did hold after the round,
    ``[n, N, K]``, and whether it is right without the agent ``[n, N]``.
    """
    seen, _, tally = describe(joint, states, joint.before[states], later=False)
    after_round, _, _ = after(joint, states, joint.taken[states])
    shape = joint.moves[states].shape
    consensus, without = np.zeros(shape, bool), np.zeros(shape[:2], bool)

    def is_right(place: int, held: NDArray[Any]) -> NDArray[Any]:
        instead = after_round.copy()
        instead[:, place] = held
        return group_right(joint, instead, count(joint, states, instead))

    for place in range(shape[1]):
        without[:, place] = is_right(place, np.zeros(len(states), int))
        for k in range(shape[2]):
            consensus[:, place, k] = is_right(place, joint.moves[states, place, k])
    return seen, tally.distinct > 1, consensus, without


def _trim(mask: np.ndarray) -> np.ndarray:
    """Return a mask without the last columns that are False everywhere."""
    return mask[:, : int(mask.any(axis=0).sum())]


def critics_of(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the critics that traces were made with, by each segment's first sound episode.

    Confidence means something else under another critic, so a router must not be run with one.
    """
    found = map(first_episode, find_segments(paths))
    return sorted({str(episode.options.get("critic")) for episode in found if episode is not None})


def check_answer(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], answer: str
) -> None:
    """Refuse to grade answers otherwise than they were compared when the traces were made.

    It goes by each segment's first sound episode. A schema of the user's own may be anything.

    Raises:
        ConfigurationError: It was another one of those built in.
    """
    for segment in find_segments(paths):
        episode = first_episode(segment)
        made = "" if episode is None else str(episode.options.get("answer")).partition("(")[0]
        if made in get_args(Answer) and made != answer:
            raise ConfigurationError(
                f"{segment}: its answers were compared with --answer {made}, not {answer}"
            )


def split(groups: Groups, validation: float = 0.2, seed: int = 0) -> tuple[Groups, Groups]:
    """Return a training and a validation part that share no question.

    A question's text alone (and the seed) decides where it goes, so that more traces, or the same
    in another order, move none. `validation` is the share that is held out.

    Raises:
        ConfigurationError: The share is outside of [0, 1].
    """
    if not 0.0 <= validation <= 1.0:
        raise ConfigurationError(f"validation must be in [0, 1], got {validation}")
    held_out = np.array([is_held_out(q, validation, seed) for q in groups.questions], bool)
    chosen = held_out[groups.question]
    return groups.select(~chosen), groups.select(chosen)


def is_held_out(question: str, validation: float, seed: int) -> bool:
    """Tell where `split` puts a question."""
    return place_of(f"{seed}\n{question}") < validation
