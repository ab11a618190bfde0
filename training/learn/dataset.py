"""Traces as arrays: any number of segments, joined with references, graded, and split."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import ConsensusRule
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.observation import FEATURES
from mpdf_langgraph.state import ACTIONS
from mpdf_langgraph.traces.reader import TraceReader
from training.collect.team import Answer
from training.learn.calibrated import calibrated
from training.learn.columns import BY_GROUP, unpacked
from training.learn.rewards import CHEAPEST_FIRST, REFINE, TOLERANCE, Grader, Weights
from training.learn.segments import read_segment


@dataclass
class Episodes:
    """What became of each episode, in the order of `Groups.episodes`.

    Attributes:
        vote: The consensus on the proposals, before any deliberation, is correct, ``[E]`` bool.
        final: The consensus at the end is, ``[E]`` bool.
    """

    vote: np.ndarray
    final: np.ndarray


@dataclass
class Groups:
    """Groups of rollouts as arrays: G groups of up to K rollouts, teams of up to P + 1 agents.

    Attributes:
        own: Features of the deciding agent, ``[G, F]`` float32.
        peers: Features of its peers, ``[G, P, F]`` float32, zero where there is none.
        peer_mask: There is a peer, ``[G, P]`` bool.
        action_mask: The action was allowed, ``[G, 3]`` bool, in the order of `ACTIONS`.
        actions: Index of each rollout's action, ``[G, K]`` int8; PERSIST is always the first.
        local: r_local of each rollout, ``[G, K]`` float32.
        global_: r_global of each rollout, ``[G, K]`` float32.
        tokens: What each rollout took, ``[G, K]`` float32.
        rollout_mask: There is a rollout, ``[G, K]`` bool; elsewhere everything is 0.
        consensus: The consensus after the rollout is correct, ``[G, K]`` bool.
        correct: The agent's answer after the rollout is correct, ``[G, K]`` bool; that of the
            first is the answer it held before.
        taken: Index of the action that the episode took, ``[G]`` int8.
        behaviour: Probabilities that it was drawn from, ``[G, 3]`` float32.
        disagreement: The team held different valid answers at the decision, ``[G]`` bool.
        question: Index into `questions`, ``[G]`` int64.
        episode: Index into `episodes`, ``[G]`` int32.
        agent: Index of the deciding agent into `agents`, ``[G]`` int16; where all episodes are
            of one team, its position there.
        peer_agent: The same of its peers, ``[G, P]`` int16; 0 where there is none.
        round: Round of decisions, from 1, ``[G]`` int16.
        questions: Every question text once.
        episodes: Ids of the episodes, those without a decision included.
        agents: Every name of an agent once.
        outcomes: What became of the episodes.
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
    outcomes: Episodes

    def __len__(self) -> int:
        return len(self.own)

    @property
    def held_right(self) -> np.ndarray:
        """The answer held at the decision is correct, ``[G]`` bool."""
        return np.asarray(self.correct[:, 0]) if len(self) else np.zeros(0, bool)

    def rewards(self, weights: Weights) -> np.ndarray:
        """Return the reward of every rollout, ``[G, K]`` float32; 0 where there is none."""
        gain = weights.local * self.local + weights.global_ * self.global_
        return np.asarray(gain - weights.cost / 1000 * self.tokens, np.float32)

    def mean_rewards(self, weights: Weights) -> np.ndarray:
        """Return the mean reward by action, ``[G, 3]`` float64; -inf without a rollout."""
        rewards = self.rewards(weights)
        means = np.full((len(self), len(ACTIONS)), -np.inf)
        for action in range(len(ACTIONS)):
            drawn = self.rollout_mask & (self.actions == action)
            total = np.sum(rewards, axis=1, where=drawn, dtype=np.float64)
            np.divide(total, drawn.sum(axis=1), out=means[:, action], where=drawn.any(axis=1))
        return means

    def labels(self, weights: Weights) -> np.ndarray:
        """Return the best action by mean reward, ``[G]`` int8; ties as in `oracle_label`."""
        means = self.mean_rewards(weights)[:, CHEAPEST_FIRST]
        best = means.max(axis=1, keepdims=True) - TOLERANCE
        return np.array(CHEAPEST_FIRST, np.int8)[np.argmax(means >= best, axis=1)]

    def soft_labels(self, weights: Weights, temperature: float) -> np.ndarray:
        """Return softmax(mean reward / temperature), ``[G, 3]`` float32; see `soft_label`.

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
        return np.all((rewards == rewards[:, :1]) | ~self.rollout_mask, axis=1)

    def untried(self) -> np.ndarray:
        """Tell which groups allowed REFINE and have no rollout of it, ``[G]`` bool."""
        refined = np.any(self.rollout_mask & (self.actions == REFINE), axis=1)
        return self.action_mask[:, REFINE] & ~refined

    def select(self, index: Any) -> "Groups":
        """Return some groups: by indices, a boolean mask or a slice.

        What they are indices into stays whole, so that these keep their meaning.
        """
        chosen = {name: getattr(self, name)[index] for name in _ARRAYS}
        return replace(self, **chosen)


_ARRAYS = tuple(f.name for f in fields(Groups) if f.type is np.ndarray)


@dataclass
class Report:
    """What became of the records.

    Attributes:
        segments: Segments read.
        cached: Of these, read from their caches.
        episodes: Episodes kept.
        undecided: Of these, settled without a decision: they have no groups.
        duplicates: Records of an episode that was there already.
        dropped: Records dropped, by reason: ``"torn record"``, ``"other version"``, ``"invalid
            record"``, ``"no reference"``.
        groups: Groups kept.
        rollouts: Their rollouts.
        tied: Groups whose rollouts all have the same reward (weights 1, no cost): kept, but
            there is nothing to learn from them.
        untried: Groups that allowed REFINE and have no rollout of it.
        problems: Where and why records were dropped, the first of each segment.
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

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return (
            f"{self.episodes} episodes ({self.undecided} without a decision) from "
            f"{self.segments} segments ({self.cached} cached); "
            f"{self.duplicates} duplicates; dropped: {dropped or 'none'}; "
            f"{self.groups} groups of {self.rollouts} rollouts, {self.tied} all tied, "
            f"{self.untried} without the REFINE they allowed"
        )


def load(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    grader: Grader,
    labels: Mapping[str, str] | None = None,
    rule: ConsensusRule | None = None,
    calibration: Calibration | None = None,
    cache: bool = True,
    progress: bool = True,
) -> tuple[Groups, Report]:
    """Return the graded groups of traces, and what became of every record.

    Args:
        paths: Segments, or folders of them (``*.jsonl``).
        grader: Tells whether an answer is correct, given the reference; asked once for each
            pair. E.g. ``MathAnswer().equivalent``.
        labels: References by episode id; they go before the episodes' own.
        rule: Consensus rule of the episodes, where it is not built in; nothing is cached then.
        calibration: Of the confidences, as if all episodes had been recorded with it. None: as
            they were recorded.
        cache: Keep each segment's columns in a hidden Parquet file beside it.
        progress: Show a progress bar.

    Raises:
        ConfigurationError: An episode's consensus rule is not built in and not given.
        TraceError: There is no such path, or it cannot be read.
    """
    segments = find_segments(paths)
    report = Report(segments=len(segments))
    joined = _Joined(grader, labels or {}, report)
    # The votes of a rule that is not built in are counted record by record, not in columns.
    by_record, by_column = (None, calibration) if rule is None else (calibration, None)
    total = sum(path.stat().st_size for path in segments)
    with tqdm(total=total, unit="B", unit_scale=True, desc="traces", disable=not progress) as bar:
        for path in segments:
            segment = read_segment(
                path, rule=rule, calibration=by_record, cache=cache, advance=bar.update
            )
            report.cached += segment.cached
            report.problems += segment.problems
            report.dropped.update({k: n for k, n in segment.counts.items() if k != "read"})
            for batch in segment.batches:
                columns = unpacked(batch)
                if by_column is not None:
                    columns = calibrated(batch, columns, by_column)
                joined.add(batch, columns)
            bar.set_postfix(groups=joined.size, refresh=False)
    groups = joined.groups()
    report.episodes, report.groups = len(groups.episodes), len(groups)
    report.rollouts = int(groups.rollout_mask.sum())
    report.tied = int(groups.tied(Weights()).sum())
    report.untried = int(groups.untried().sum())
    return groups, report


def critics_of(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the critics that traces were made with, by each segment's first sound episode.

    Confidence means something else under another critic, so a router must not be run with one.

    Raises:
        TraceError: There is no such path.
    """
    found = (next(iter(TraceReader(segment)), None) for segment in find_segments(paths))
    return sorted({str(episode.options.get("critic")) for episode in found if episode is not None})


def check_answer(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], answer: str
) -> None:
    """Refuse to grade answers otherwise than they were compared when the traces were made.

    Goes by each segment's first sound episode; a schema of one's own may be anything.

    Raises:
        ConfigurationError: It was another one of those built in.
        TraceError: There is no such path.
    """
    for segment in find_segments(paths):
        episode = next(iter(TraceReader(segment)), None)
        made = "" if episode is None else str(episode.options.get("answer")).partition("(")[0]
        if made in get_args(Answer) and made != answer:
            raise ConfigurationError(
                f"{segment}: its answers were compared with --answer {made}, not {answer}"
            )


def find_segments(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Path]:
    """Return the segments in files and folders, each once, in order.

    Raises:
        TraceError: There is no such path.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, Path] = {}
    for path in map(Path, given):
        if not path.exists():
            raise TraceError(f"no traces at {path}: no such file or folder")
        for segment in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            found.setdefault(segment.resolve(), segment)
    return list(found.values())


def split(groups: Groups, validation: float = 0.2, seed: int = 0) -> tuple[Groups, Groups]:
    """Return a training and a validation part that share no question.

    A question's text alone (and the seed) decides where it goes, so that more traces, or the
    same in another order, move none.

    Args:
        groups: What to split.
        validation: Share of the questions that is held out, in [0, 1].
        seed: Another one gives another split.

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
    digest = hashlib.sha256(f"{seed}\n{question}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < validation


class _Joined:
    """Batches of episodes, graded as they come, and joined at the end."""

    def __init__(self, grader: Grader, labels: Mapping[str, str], report: Report) -> None:
        self.grader, self.labels, self.report = grader, labels, report
        self.questions: dict[str, int] = {}
        self.episodes: list[str] = []
        self.agents: dict[str, int] = {}
        self.size = 0
        self._seen: set[str] = set()
        self._verdicts: dict[tuple[str, str], bool] = {}
        self._parts: list[dict[str, np.ndarray]] = []
        self._vote: list[np.ndarray] = []
        self._final: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch, columns: dict[str, np.ndarray]) -> None:
        """Grade the episodes of a batch that are new and have a reference."""
        sizes = columns["groups"]
        keep, question, episode = self._keep(batch, sizes)
        right, start = self._graded(batch, keep)
        row = np.repeat(np.arange(len(sizes)), sizes)  # the episode of every group

        def correct(codes: np.ndarray, of: np.ndarray) -> np.ndarray:
            """Grade answers, given as indices into those of their episodes."""
            first = start[of].reshape(-1, *[1] * (codes.ndim - 1))
            return right[np.where(codes < 0, len(right) - 1, first + codes)]

        whose = np.arange(len(sizes))
        self._vote.append(correct(columns["vote"], whose)[keep])
        self._final.append(correct(columns["final"], whose)[keep])
        columns = {name: columns[name] for name in BY_GROUP}
        if not keep.all():
            chosen = keep[row]
            columns = {name: values[chosen] for name, values in columns.items()}
            row = row[chosen]
        if not len(row):
            return

        drawn = np.arange(columns["action"].shape[1]) < columns["rollouts"][:, None]
        after = correct(columns["answer"], row) & drawn
        consensus = correct(columns["consensus"], row) & drawn
        before, without = correct(columns["before"], row), correct(columns["without"], row)
        peers = columns["peers"].reshape(len(row), -1, len(FEATURES))
        names, size = self._teams(batch, peers.shape[1] + 1)
        place, peer = columns["agent"], np.arange(peers.shape[1])
        there = peer < size[row, None] - 1
        # The peers are the team without the agent itself, in its order.
        others = names[row[:, None], peer + (peer >= place[:, None])] * there
        self._parts.append(
            {
                "own": columns["own"],
                "peers": peers,
                "peer_mask": there,
                "action_mask": columns["mask"].astype(bool),
                "actions": columns["action"],
                "local": _gain(after, before) * drawn,
                "global_": _gain(consensus, without) * drawn,
                "tokens": columns["tokens"],
                "rollout_mask": drawn,
                "consensus": consensus,
                "correct": after,
                "taken": columns["taken"],
                "behaviour": columns["behaviour"],
                "disagreement": columns["disagreement"].astype(bool),
                "question": question[row],
                "episode": episode[row],
                "agent": names[row, place],
                "peer_agent": others,
                "round": columns["round"],
            }
        )
        self.size += len(row)

    def _keep(
        self, batch: pa.RecordBatch, sizes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tell which episodes to keep; number them and their questions."""
        keep = np.zeros(len(sizes), bool)
        question, episode = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int32)
        self._references: list[str | None] = batch["reference"].to_pylist()
        texts = batch["question"].to_pylist()
        for i, id_ in enumerate(batch["id"].to_pylist()):
            if id_ in self._seen:
                self.report.duplicates += 1
                continue
            self._seen.add(id_)
            if (label := self.labels.get(id_)) is not None:
                self._references[i] = label
            if self._references[i] is None:
                self.report.dropped["no reference"] += 1
                continue
            keep[i] = True
            question[i] = self.questions.setdefault(texts[i], len(self.questions))
            episode[i] = len(self.episodes)
            self.episodes.append(id_)
            self.report.undecided += not sizes[i]
        return keep, question, episode

    def _teams(self, batch: pa.RecordBatch, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each episode's agents as indices, ``[E, most]``, and how many they are."""
        lists = batch["agents"]
        size = np.diff(lists.offsets.to_numpy())
        known = self.agents
        flat = [known.setdefault(name, len(known)) for name in lists.flatten().to_pylist()]
        names = np.zeros((len(size), max(most, size.max(initial=1))), np.int16)
        names[np.arange(names.shape[1]) < size[:, None]] = flat
        return names, size

    def _graded(self, batch: pa.RecordBatch, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each answer is right, with a last False, and where episodes start."""
        lists = batch["answers"]
        offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
        answers = lists.flatten().to_pylist()
        right = np.zeros(len(answers) + 1, bool)
        for i in np.flatnonzero(keep):
            truth = self._references[i]
            for j in range(offsets[i], offsets[i + 1]):
                right[j] = self._correct(answers[j], truth)
        return right, offsets[:-1]

    def _correct(self, answer: str, truth: str | None) -> bool:
        pair = (answer, truth)
        verdict = self._verdicts.get(pair)  # type: ignore[arg-type]
        if verdict is None:
            verdict = self._verdicts[pair] = bool(self.grader(answer, truth))  # type: ignore[arg-type, index]
        return verdict

    def groups(self) -> Groups:
        """Return all of them as one; afterwards this is empty."""
        first = {name: [part.pop(name) for part in self._parts] for name in _ARRAYS}
        peers = max((a.any(axis=0).sum() for a in first["peer_mask"]), default=0)
        rollouts = max((a.any(axis=0).sum() for a in first["rollout_mask"]), default=0)
        arrays = {}
        for name in _ARRAYS:  # one by one, freeing the parts: no column is held twice for long
            parts, empty = first.pop(name), _EMPTY[name]
            widths = {"P": int(peers), "K": int(rollouts), "F": len(FEATURES), "3": len(ACTIONS)}
            shape = [widths[axis] for axis in empty[1]]
            arrays[name] = np.concatenate(
                [np.zeros((0, *shape), empty[0]), *(_fitted(a, shape) for a in parts)]
            )
            del parts
        none = np.zeros(0, bool)
        return Groups(
            **arrays,
            questions=list(self.questions),
            episodes=self.episodes,
            agents=list(self.agents),
            outcomes=Episodes(
                vote=np.concatenate([none, *self._vote]),
                final=np.concatenate([none, *self._final]),
            ),
        )


#: The type of each array, and its axes after the first.
_EMPTY: dict[str, tuple[Any, str]] = {
    "own": (np.float32, "F"),
    "peers": (np.float32, "PF"),
    "peer_mask": (bool, "P"),
    "action_mask": (bool, "3"),
    "actions": (np.int8, "K"),
    "local": (np.float32, "K"),
    "global_": (np.float32, "K"),
    "tokens": (np.float32, "K"),
    "rollout_mask": (bool, "K"),
    "consensus": (bool, "K"),
    "correct": (bool, "K"),
    "taken": (np.int8, ""),
    "behaviour": (np.float32, "3"),
    "disagreement": (bool, ""),
    "question": (np.int64, ""),
    "episode": (np.int32, ""),
    "agent": (np.int16, ""),
    "peer_agent": (np.int16, "P"),
    "round": (np.int16, ""),
}


def _gain(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    return after.astype(np.float32) - before.astype(np.float32)[:, None]


def _fitted(array: np.ndarray, shape: list[int]) -> np.ndarray:
    """Return an array with its later axes cut or padded with zeros to `shape`."""
    if list(array.shape[1:]) == shape:
        return array
    result = np.zeros((len(array), *shape), array.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(array.shape[1:], shape, strict=True))
    result[(slice(None), *common)] = array[(slice(None), *common)]
    return result
