"""Traces as arrays: the graded groups of any number of segments, and how they are split."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, get_args

import numpy as np

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.state import ACTIONS
from mpdf_langgraph.traces.reader import find_segments, first_episode
from mpdf_langgraph.traces.records import Episode
from training.collect.team import Answer
from training.learn.group_rows import make_arrays, make_row
from training.learn.rewards import CHEAPEST_FIRST, REFINE, TOLERANCE, Grader, Weights
from training.learn.trace_rows import (
    Rows,
    cache_kind,
    grade_answers,
    look_up,
    place_of,
    read_rows,
    stack_rows,
)


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


@dataclass
class ReadingReport:
    """What became of the records.

    Attributes:
        segments: Segments read.
        cached: Of these, read from their caches.
        episodes: Episodes kept.
        undecided: Of these, settled without a decision: they have no groups.
        duplicates: Records of an episode that has a later record.
        dropped: Records dropped, by reason: ``"unreadable"`` (torn, of another version, not an
            episode), ``"contradictory"``, ``"no reference"``.
        groups: Groups kept.
        rollouts: Their rollouts.
        tied: Groups whose rollouts all have the same reward (weights 1, no cost): kept, but
            there is nothing to learn from them.
        untried: Groups that allowed REFINE and have no rollout of it.
        problems: Where and why records were dropped, the first of each segment.
        left_out: Records of questions that were not drawn.
        unused_labels: Labels of no episode that was read.
    """

    segments: int = 0
    cached: int = 0
    episodes: int = 0
    undecided: int = 0
    duplicates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    rollouts: int = 0
    tied: int = 0
    untried: int = 0
    problems: list[str] = field(default_factory=list)
    left_out: int = 0
    unused_labels: int = 0

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        left_out = f"{self.left_out} of other questions left out, " if self.left_out else ""
        unused = self.unused_labels
        unused_labels = f"{unused} labels are of no episode that was read. " if unused else ""
        return (
            f"{self.episodes} episodes ({self.undecided} without a decision) from "
            f"{self.segments} segments ({self.cached} cached), "
            f"{self.duplicates} duplicates. Dropped: {dropped or 'none'}. "
            f"{unused_labels}{left_out}"
            f"{self.groups} groups of {self.rollouts} rollouts, {self.tied} all tied, "
            f"{self.untried} without the REFINE they allowed"
        )


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

    Args:
        paths: Segments, or folders of them, sub-folders included.
        grader: Tells whether an answer is correct, given the reference. It is asked once for
            each pair. E.g. ``MathAnswer().equivalent``.
        labels: References by episode id. They go before the episodes' own.
        calibration: Calibration of the confidences, as if all episodes had been recorded with
            it. None: as they were recorded.
        consensus: Decides instead of the rule that the episodes were recorded with.
        share: Of the questions, see `trace_rows.share_of`.
        cached: Keep what is read in a hidden file beside each segment, for each calibration.
            Other labels or another grader need no new one.
        processes: Read large traces in so many processes.
        progress: Show a progress bar.

    Raises:
        ConfigurationError: An episode's consensus rule is not built in.
        TraceError: There is no such path, or it cannot be read.
    """
    rows = read_rows(
        paths,
        cache_kind("groups", calibration, consensus) if cached else "",
        partial(make_row, calibration=calibration, consensus=consensus),
        share=share,
        processes=processes,
        progress=progress,
    )
    return grade_rows(rows, grader, labels)


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
    rows = stack_rows(make_row(e, calibration=calibration) for e in episodes)
    return grade_rows(rows, grader, labels)[0]


def grade_rows(
    rows: Rows, grader: Grader, labels: Mapping[str, str] | None = None
) -> tuple[Groups, ReadingReport]:
    """Grade rows that `make_row` has made, and empty them. See `load`."""
    nobody = make_arrays([], [], lambda _: -1) | {"groups": np.zeros(0, int)}
    arrays, texts = rows.arrays or nobody, rows.texts
    answers, teams = texts.get("answers", []), texts.get("agents", [])
    last, keep, right = grade_answers(texts, labels or {}, grader)
    agents: dict[str, int] = {}
    named = np.array([agents.setdefault(n, len(agents)) for team in teams for n in team] + [0])
    questions: dict[str, int] = {}
    asked = np.array(
        [
            questions.setdefault(question, len(questions)) if kept else -1
            for question, kept in zip(texts.get("question", []), keep, strict=True)
        ],
        np.int64,
    )

    sizes = arrays.pop("groups")
    of = np.repeat(np.arange(len(sizes)), sizes)  # the episode of every group
    if not keep.all():
        arrays = {name: array[keep[of]] for name, array in arrays.items()}
        of = of[keep[of]]
    answers_from = np.cumsum([0, *map(len, answers)])
    team_from = np.cumsum([0, *map(len, teams)])[of]

    def grade(name: str) -> np.ndarray:
        return look_up(right, answers_from[of], arrays.pop(name))

    drawn = arrays["rollout_mask"] = _trim(arrays["rollout_mask"])
    peer_mask = arrays["peer_mask"] = _trim(arrays["peer_mask"])
    for name in ("actions", "answer", "agreed", "tokens"):
        arrays[name] = arrays[name][:, : drawn.shape[1]]
    for name in ("peers", "peer_agent"):
        arrays[name] = arrays[name][:, : peer_mask.shape[1]]
    peers = np.where(peer_mask, arrays["peer_agent"], -1)
    for name, places in (("agent", arrays["agent"]), ("peer_agent", peers)):
        arrays[name] = look_up(named, team_from, places).astype(np.int16)
    correct, consensus = grade("answer") & drawn, grade("agreed") & drawn
    before, without = (grade(n)[:, None].astype(np.float32) for n in ("before", "without"))
    groups = Groups(
        **arrays,
        local=(correct - before) * drawn,
        global_=(consensus - without) * drawn,
        consensus=consensus,
        correct=correct,
        question=asked[of],
        episode=(np.cumsum(keep) - 1)[of].astype(np.int32),
        questions=list(questions),
        episodes=[id_ for id_, kept in zip(texts.get("id", []), keep, strict=True) if kept],
        agents=list(agents),
        told=sorted({one for one, kept in zip(texts.get("told", []), keep, strict=True) if kept}),
    )
    missing = int((last & ~keep).sum())
    report = ReadingReport(
        segments=rows.segments,
        cached=rows.cached,
        episodes=len(groups.episodes),
        undecided=int((sizes[keep] == 0).sum()),
        duplicates=int((~last).sum()),
        dropped=rows.dropped + Counter({"no reference": missing}),
        groups=len(groups),
        rollouts=int(drawn.sum()),
        tied=int(groups.tied(Weights()).sum()),
        untried=int(groups.untried().sum()),
        problems=rows.problems,
        left_out=rows.left_out,
        unused_labels=len((labels or {}).keys() - set(texts.get("id", []))),
    )
    return groups, report


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
