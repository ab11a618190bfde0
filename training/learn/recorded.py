"""Traces as they were recorded, graded: read once, and seen with any calibration or consensus.

`read_recorded` reads traces, and `record` takes episodes. From what they return, `judged_of` takes
the confidences, `ballots_of` the votes, and `groups_of` the turns to learn from.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import STAGES, Calibration, Curve
from mpdf_langgraph.errors import MPDFError, TraceError
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.traces.records import Episode
from training.learn.episode_rows import (
    CUSTOM,
    EMPTY,
    HALF,
    LEARNED,
    LOG_ODDS,
    OF_RESPONSE,
    make_row,
)
from training.learn.joint import (
    BY_STATE,
    KIND,
    KNOWN,
    NONE,
    NONE_PER_VOICE,
    REFINED_PAIR,
    SLOPE,
    Booleans,
    Floats,
    Integers,
    Joint,
)
from training.learn.joint_rounds import concede, to_log_odds
from training.learn.rewards import CONCEDE, Grader, not_built_in
from training.learn.trace_rows import (
    CONTRADICTIONS,
    Row,
    Rows,
    grade_answers,
    read_rows,
    stack_rows,
)

_BY_RESPONSE = (
    "static", "cluster", "answer", "author", "confidence", "raw", "source", "stage", "judged",
    "base",
)  # fmt: skip
_BY_HOLDING = ("held", "elected")
_OF_EPISODE = ("size", "rule")
_NUMBERS = ("held", "before", "moves")
_CHUNK = 32_768


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

    @property
    def records(self) -> int:
        """All records: kept, dropped, doubled and left out."""
        return self.episodes + self.duplicates + self.dropped.total() + self.left_out

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


@dataclass
class Recorded:
    """The episodes of traces that are the last of their id and have a reference, E of them.

    Attributes:
        joint: Their joint states, with the confidences and the consensus rule as recorded.
        raw: Confidence of each response as the critic gave it, ``[R]``; below 0: unknown.
        source: Which measurement that is, an index into `sources`, ``[R]``.
        stage: Index into `STAGES`, ``[R]``.
        judged: It has a valid answer and a confidence, and no person's hint came before it,
            ``[R]``.
        author: Index into `agents` of whoever gave it, -1 where there is no response, ``[R]``.
        base: Score of each response as the only voice, without its confidence, ``[R]``.
        of_response: Position of its episode, ``[R]``.
        held: What the team held after the proposals and after each round, ``[H, N]``.
        of_held: Position of its episode, ``[H]``.
        elected: The answer that the team elected then is right, ``[H]``.
        agent: Index of each member of the team into `agents`, -1: none, ``[E, N]``.
        agents: Every name of an agent once.
        sources: Every measurement of confidence once.
        ids: Of the episodes.
        questions: Their questions.
        told: Hashes of what the models were told.
        categories: Of the questions.
        rules: Names of the consensus rules.
        reading: What became of the records.
    """

    joint: Joint
    raw: Floats
    source: Integers
    stage: Integers
    judged: Booleans
    author: Integers
    base: Floats
    of_response: Integers
    held: Integers
    of_held: Integers
    elected: Booleans
    agent: Integers
    agents: list[str]
    sources: list[str]
    ids: list[str]
    questions: list[str]
    told: list[str]
    categories: list[str | None]
    rules: list[str]
    reading: ReadingReport

    def __len__(self) -> int:
        return len(self.ids)

    def check_rules(self) -> None:
        """Refuse episodes that a callable of the user's own decided.

        Raises:
            ConfigurationError: There is one.
        """
        custom = np.flatnonzero(self.joint.rule[:, KIND] == CUSTOM)
        if len(custom):
            raise not_built_in(self.ids[custom[0]], self.rules[custom[0]])


def read_recorded(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    grader: Grader,
    labels: Mapping[str, str] | None = None,
    *,
    share: float = 1.0,
    cached: bool = True,
    processes: int = 1,
    progress: bool = False,
) -> Recorded:
    """Return the graded episodes of traces, in order of writing.

    Args:
        paths: Segments, or folders of them, sub-folders included.
        grader: Tells whether an answer is correct, given the reference. It is asked once for
            each pair. E.g. ``MathAnswer().equivalent``.
        labels: References by episode id. They go before the episodes' own.
        share: Of the questions, see `trace_rows.share_of`.
        cached: Keep what is read in a hidden file beside each segment. Other labels or another
            grader need no new one.
        processes: Read large traces in so many processes.
        progress: Show a progress bar.

    Raises:
        TraceError: There is no such path, or it cannot be read.
    """
    kind = "episodes" if cached else ""
    rows = read_rows(paths, kind, make_row, share=share, processes=processes, progress=progress)
    return join(rows, grader, labels or {})


def record(
    episodes: Iterable[Episode], grader: Grader, labels: Mapping[str, str] | None = None
) -> Recorded:
    """Return the graded episodes, as `read_recorded` does.

    Raises:
        TraceError: A record contradicts itself, or the rule its tallies.
    """
    return join(stack_rows(map(_row_of, episodes)), grader, labels or {})


def _row_of(episode: Episode) -> Row:
    try:
        return make_row(episode)
    except MPDFError:
        raise
    except CONTRADICTIONS as error:
        raise TraceError(f"episode {episode.id} contradicts itself: {error!r}") from error


def join(rows: Rows, grader: Grader, labels: Mapping[str, str]) -> Recorded:
    """Grade rows that `make_row` has made, and join them. The rows are emptied."""
    arrays, texts = {**(rows.arrays or EMPTY)}, rows.texts
    last, keep, verdicts = grade_answers(texts, labels, grader)
    answers = texts.get("answers", [])
    first_answer = np.cumsum([0, *map(len, answers)])[:-1][keep]
    sizes = arrays.pop("sizes")

    def owners(column: int) -> tuple[Booleans, Integers]:
        """Return which rows of a table are kept, and the episodes of these."""
        kept = keep[np.repeat(np.arange(len(sizes)), sizes[:, column])]
        return kept, np.repeat(np.arange(keep.sum()), sizes[keep, column])

    tables = (_BY_RESPONSE, _BY_HOLDING, tuple(set(BY_STATE) - {"episode"}), ("pair",))
    of: list[Integers] = []
    for column, names in enumerate(tables):
        kept, episode = owners(column)
        of.append(episode)
        if not kept.all():
            arrays |= {name: arrays[name][kept] for name in names}
    if not keep.all():
        arrays |= {name: arrays[name][keep] for name in _OF_EPISODE}
    of_response, of_held, of_state, of_pair = of
    pairs = np.zeros(int(keep.sum()), int)
    pairs[of_pair] = 1 + np.arange(len(of_pair))
    most, known = arrays["held"].shape[1], arrays["pair"].shape[1]
    pair = np.zeros((1 + len(of_pair), most, most))
    pair[1:, :known, :known] = arrays["pair"]
    start = np.cumsum(sizes[keep, 0]) - sizes[keep, 0]
    for name, episode in zip(_NUMBERS, (of_held, of_state, of_state), strict=True):
        number = arrays[name].astype(np.int32)
        number += (number > 0) * start[episode].reshape(-1, *[1] * (number.ndim - 1))
        arrays[name] = number

    def graded(codes: Integers, episode: Integers) -> Booleans:
        """Return whether answers of episodes are right. No code is below 0."""
        where = first_answer[episode] + np.maximum(0, codes) if len(codes) else codes
        return np.asarray((codes >= 0) & verdicts[where])

    elected = graded(arrays["elected"].astype(np.int64) - 1, of_held)
    right = graded(arrays["cluster"].astype(np.int64) - 1, of_response)
    correct = graded(arrays["answer"].astype(np.int64), of_response)

    def chosen(name: str) -> list[Any]:
        return [text for text, kept in zip(texts.get(name, []), keep, strict=True) if kept]

    agents, agent = _number_texts(chosen("agents"))
    sources, source = _number_texts(chosen("sources"))
    joint = Joint(
        static=_with_none(arrays["static"], 0.0),
        cluster=_with_none(arrays["cluster"], 0),
        confidence=_with_none(arrays["confidence"], -1.0),
        author=_with_none(arrays["author"], -1),
        right=_with_none(right, False),
        correct=_with_none(correct, False),
        weight=np.zeros(len(right) + 1),
        pair=pair,
        pairs=pairs,
        action=arrays["action"] - 1,
        episode=of_state.astype(np.int32),
        **{name: arrays[name] for name in _OF_EPISODE},
        **{name: arrays[name] for name in BY_STATE if name not in ("action", "episode")},
    )
    for name in HALF:  # of a response that is not there nothing is known
        joint.static[0, OF_RESPONSE.index(name)] = 0.5
    recorded = Recorded(
        joint=joint,
        raw=_with_none(arrays["raw"], -1.0),
        source=_with_none(
            source[of_response, arrays["source"]] if source.size else arrays["source"], 0
        ),
        stage=_with_none(arrays["stage"], 0),
        judged=_with_none(arrays["judged"], False),
        author=_with_none(agent[of_response, arrays["author"]], -1),
        base=_with_none(arrays["base"], 0.0),
        of_response=_with_none(of_response, 0),
        held=arrays["held"],
        of_held=of_held,
        elected=elected,
        agent=agent,
        agents=agents,
        sources=sources,
        ids=chosen("id"),
        questions=chosen("question"),
        told=chosen("told"),
        categories=chosen("category"),
        rules=chosen("rule"),
        reading=ReadingReport(
            segments=rows.segments,
            cached=rows.cached,
            episodes=int(keep.sum()),
            undecided=int((sizes[keep, 2] == 0).sum()),
            duplicates=int((~last).sum()),
            dropped=rows.dropped + Counter({"no reference": int((last & ~keep).sum())}),
            problems=rows.problems,
            left_out=rows.left_out,
            unused_labels=len(labels.keys() - set(texts.get("id", []))),
        ),
    )
    joint.weight = _weigh(recorded, joint)
    return recorded


def _number_texts(lists: list[list[str]]) -> tuple[list[str], Integers]:
    """Return every text once, and where those of each list are among them, -1: none, ``[E, N]``."""
    places: dict[str, int] = {}
    codes = np.full((len(lists), max(map(len, lists), default=0)), -1)
    for row, texts in enumerate(lists):
        codes[row, : len(texts)] = [places.setdefault(text, len(places)) for text in texts]
    return [*places], codes


def _with_none(values: NDArray[Any], none: Any) -> NDArray[Any]:
    return np.concatenate([np.full((1, *values.shape[1:]), none, values.dtype), values])


# --- with another calibration or consensus ------------------------------------------------------


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
    changed.weight = _weigh(replace(recorded, base=base), changed)
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
    return np.array([curve(one) for one in confidence.tolist()], float)


def _weigh(recorded: Recorded, joint: Joint) -> Floats:
    """Return the score of each response as the only voice, ``[R]``. See `Joint`."""
    rule = joint.rule[recorded.of_response] if len(recorded) else np.zeros((1, 8))
    scored = (joint.cluster > 0) & np.isin(rule[:, KIND], (LEARNED, LOG_ODDS))
    of_confidence = rule[:, KNOWN] + rule[:, SLOPE] * to_log_odds(joint.confidence)
    told = np.where(joint.confidence >= 0, of_confidence, 0.0)
    return np.asarray(np.where(scored, recorded.base + told, 0.0))


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
    return rule, _with_none(pair, 0.0), 1 + of_team.reshape(-1), base


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
