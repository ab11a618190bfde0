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
from mpdf_langgraph.observation import FEATURES, INDEX
from mpdf_langgraph.state import ACTIONS, CHEAPEST_FIRST
from mpdf_langgraph.traces.reader import find_segments, first_episode
from mpdf_langgraph.traces.records import Episode
from training.collect.team import Answer
from training.learn.joint import Joint
from training.learn.joint_calibration import joint_of
from training.learn.joint_rounds import after, count, describe, group_right
from training.learn.recorded import ReadingReport, Recorded, read_recorded, record
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
        agent: Index of the deciding agent into `agents`, ``[G]`` int32. Where all episodes are
            of one team, its position there.
        peer_agent: The same of its peers, ``[G, P]`` int32. It is 0 if there is none.
        round: Round of decisions, from 1, ``[G]`` int32.
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
    sizes = joint.size[joint.episode]
    first = np.cumsum(sizes) - sizes  # group of each state
    count, moves = int(sizes.sum()), joint.moves.shape[2]
    peers = max(0, int(sizes.max(initial=1)) - 1)
    groups = Groups(
        own=np.zeros((count, len(FEATURES)), np.float32),
        peers=np.zeros((count, peers, len(FEATURES)), np.float32),
        peer_mask=np.zeros((count, peers), bool),
        action_mask=np.zeros((count, len(ACTIONS)), bool),
        actions=np.zeros((count, moves), np.int8),
        local=np.zeros((count, moves), np.float32),
        global_=np.zeros((count, moves), np.float32),
        tokens=np.zeros((count, moves), np.float32),
        rollout_mask=np.zeros((count, moves), bool),
        consensus=np.zeros((count, moves), bool),
        correct=np.zeros((count, moves), bool),
        taken=np.zeros(count, np.int8),
        behaviour=np.zeros((count, len(ACTIONS)), np.float32),
        disagreement=np.zeros(count, bool),
        question=np.zeros(count, np.int64),
        episode=np.repeat(joint.episode, sizes),
        agent=np.zeros(count, np.int32),
        peer_agent=np.zeros((count, peers), np.int32),
        round=np.repeat(joint.round, sizes),
        questions=list(dict.fromkeys(recorded.questions)),
        episodes=recorded.ids,
        agents=recorded.agents,
        told=sorted(set(recorded.told)),
    )
    asked = {question: i for i, question in enumerate(groups.questions)}
    numbers = np.array([asked[question] for question in recorded.questions], np.int64)
    groups.question[:] = numbers[groups.episode]
    for states, part in joint.by_size(_CHUNK):
        size = part.before.shape[1]
        _fill_in(groups, first[states][:, None] + np.arange(size), part, recorded.agent)
    most = int(groups.rollout_mask.any(0).sum())
    for name in ("actions", "local", "global_", "tokens", "rollout_mask", "consensus", "correct"):
        setattr(groups, name, getattr(groups, name)[:, :most])
    return groups


def _fill_in(groups: Groups, rows: NDArray[Any], joint: Joint, agent: NDArray[Any]) -> None:
    """Fill in the groups of states that have teams of one size. `rows` are theirs, ``[n, N]``."""
    states = np.arange(len(joint))
    size, most = joint.moves.shape[1:]
    seen, _, tally = describe(joint, states, joint.before, later=False)
    drawn = joint.action >= 0
    correct = joint.correct[joint.moves] & drawn
    held_right = joint.correct[joint.before][:, :, None].astype(np.float32)
    agreed, alone = _consensus_after(joint)
    # The peers of the agent at each place, in the order of the team.
    others = np.array([[j for j in range(size) if j != i] for i in range(size)], int)
    others = others.reshape(size, size - 1)
    cluster = joint.cluster[joint.before]
    same = (cluster[:, others] > 0) & (cluster[:, others] == cluster[:, :, None])
    groups.peers[rows, : size - 1] = seen[:, others]
    groups.peers[rows, : size - 1, INDEX["agrees"]] = same
    groups.peer_mask[rows, : size - 1] = True
    groups.peer_agent[rows, : size - 1] = agent[joint.episode][:, others]
    groups.own[rows] = seen
    groups.own[rows, INDEX["agrees"]] = 1.0
    groups.agent[rows] = agent[joint.episode, :size]
    groups.action_mask[rows] = joint.mask
    groups.actions[rows, :most] = np.where(drawn, joint.action, 0)
    groups.local[rows, :most] = (correct - held_right) * drawn
    groups.global_[rows, :most] = (agreed - alone[:, :, None].astype(np.float32)) * drawn
    groups.tokens[rows, :most] = joint.tokens * drawn
    groups.rollout_mask[rows, :most] = drawn
    groups.consensus[rows, :most] = agreed
    groups.correct[rows, :most] = correct
    taken = joint.taken[:, :, None].astype(int)
    groups.taken[rows] = np.take_along_axis(joint.action, taken, 2)[:, :, 0]
    groups.behaviour[rows] = joint.behaviour
    groups.disagreement[rows] = (tally.distinct > 1)[:, None]


def _consensus_after(joint: Joint) -> tuple[NDArray[Any], NDArray[Any]]:
    """Tell whether the consensus after each move is right, and without the agent.

    That is ``[S, N, K]`` and ``[S, N]``. The peers hold what they did hold after the round.
    """
    states = np.arange(len(joint))
    after_round, _, _ = after(joint, states, joint.taken)
    agreed, alone = np.zeros(joint.moves.shape, bool), np.zeros(joint.before.shape, bool)

    def is_right(chosen: NDArray[Any], place: int, held: NDArray[Any]) -> NDArray[Any]:
        instead = after_round[chosen]
        instead[:, place] = held
        return group_right(joint, instead, count(joint, chosen, instead))

    for place in range(joint.moves.shape[1]):
        alone[:, place] = is_right(states, place, np.zeros(len(states), int))
        for k in range(joint.moves.shape[2]):
            chosen = np.flatnonzero(joint.action[:, place, k] >= 0)
            agreed[chosen, place, k] = is_right(chosen, place, joint.moves[chosen, place, k])
    return agreed, alone


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
                f"{segment}: its answers were compared with --answer {made}, not {answer}: "
                f"give --answer {made}"
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
