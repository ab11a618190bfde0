"""Traces as they were recorded, graded: read once, and seen with any calibration or consensus.

`read_recorded` reads traces, and `record` takes episodes. From what they return, `judged_of` takes
the confidences, `ballots_of` the votes, and `groups_of` the turns to learn from.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.errors import MPDFError, TraceError
from mpdf_langgraph.traces.records import Episode
from training.learn.episode_rows import (
    CUSTOM,
    EMPTY,
    HALF,
    OF_RESPONSE,
    make_row,
)
from training.learn.joint import (
    BY_STATE,
    KIND,
    Booleans,
    Floats,
    Integers,
    Joint,
)
from training.learn.joint_rounds import weigh
from training.learn.rewards import Grader, not_built_in
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
        static=with_none(arrays["static"], 0.0),
        cluster=with_none(arrays["cluster"], 0),
        confidence=with_none(arrays["confidence"], -1.0),
        author=with_none(arrays["author"], -1),
        right=with_none(right, False),
        correct=with_none(correct, False),
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
        raw=with_none(arrays["raw"], -1.0),
        source=with_none(
            source[of_response, arrays["source"]] if source.size else arrays["source"], 0
        ),
        stage=with_none(arrays["stage"], 0),
        judged=with_none(arrays["judged"], False),
        author=with_none(agent[of_response, arrays["author"]], -1),
        base=with_none(arrays["base"], 0.0),
        of_response=with_none(of_response, 0),
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
    joint.weight = weigh(joint, recorded.base, recorded.of_response)
    return recorded


def _number_texts(lists: list[list[str]]) -> tuple[list[str], Integers]:
    """Return every text once, and where those of each list are among them, -1: none, ``[E, N]``."""
    places: dict[str, int] = {}
    codes = np.full((len(lists), max(map(len, lists), default=0)), -1)
    for row, texts in enumerate(lists):
        codes[row, : len(texts)] = [places.setdefault(text, len(places)) for text in texts]
    return [*places], codes


def with_none(values: NDArray[Any], none: Any) -> NDArray[Any]:
    """Return rows with one in front that stands for none of them."""
    return np.concatenate([np.full((1, *values.shape[1:]), none, values.dtype), values])
