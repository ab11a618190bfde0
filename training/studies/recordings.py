"""Recorded answers of a team, graded and split into folds."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph import TraceReader
from mpdf_langgraph.consensus import Vote
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import Response
from training.command import check_questions


@dataclass(frozen=True)
class Recording:
    """The answers of a team to a question, and which of them are right.

    Attributes:
        question: Its text.
        reference: The right answer.
        proposals: By agent.
        right: By agent.
    """

    question: str
    reference: str
    proposals: Mapping[str, Response]
    right: Mapping[str, bool]


def read_recordings(paths: Sequence[Path], is_right: Callable[[str, str], bool]) -> list[Recording]:
    """Read the first proposals of every episode that has a reference and two of them.

    Raises:
        ConfigurationError: None is left.
    """
    found, left_out = [], 0
    for path in paths:
        reader = TraceReader(path)
        for episode in tqdm(reader, desc=path.name, unit="episode", mininterval=1):
            truth, ids = episode.reference, {a["name"]: f"{a['name']}@0" for a in episode.agents}
            said = {n: episode.responses[i] for n, i in ids.items() if i in episode.responses}
            if truth is None or len(said) < 2:
                left_out += 1
                continue
            right = {
                name: r["answer"] is not None and is_right(r["answer"], truth)
                for name, r in said.items()
            }
            found.append(Recording(episode.question, truth, said, right))
        if unread := reader.counts["skipped"]:
            print(f"{path}: {unread} records could not be read", file=sys.stderr)
    if left_out:
        print(
            f"{left_out} episodes without a reference or a second proposal are left out",
            file=sys.stderr,
        )
    if not found:
        raise ConfigurationError("no episode has a reference and the proposals of two agents")
    return found


def plain_majority(votes: list[Vote]) -> int | None:
    """Return the cluster with the most votes, at a tie the one that was voted for first."""
    counted = Counter(vote.cluster for vote in votes if vote.cluster is not None)
    return max(counted, key=counted.__getitem__, default=None)


def assign_folds(recordings: Sequence[Recording], folds: int) -> NDArray[np.int64]:
    """Return each recording's fold. Recordings of one question share it.

    Raises:
        ConfigurationError: There are too few questions.
    """
    questions = list(dict.fromkeys(r.question for r in recordings))
    check_questions(len(questions), folds)
    places = np.random.default_rng(0).permutation(len(questions)) % folds
    fold = dict(zip(questions, places.tolist(), strict=True))
    return np.array([fold[r.question] for r in recordings])


def leave_out_rare_agents(
    recordings: Sequence[Recording], places: NDArray[np.int64]
) -> tuple[list[Recording], NDArray[np.int64]]:
    """Leave out the agents that answered in one fold only, because nothing tells of them there.

    Return the recordings of two or more of the other agents, with their folds.
    """
    folds: dict[str, set[int]] = {}
    for recording, place in zip(recordings, places.tolist(), strict=True):
        for name in recording.proposals:
            folds.setdefault(name, set()).add(place)
    rare = {name for name, those in folds.items() if len(those) < 2}
    if not rare:
        return list(recordings), places
    kept = [
        replace(
            r,
            proposals={n: p for n, p in r.proposals.items() if n not in rare},
            right={n: right for n, right in r.right.items() if n not in rare},
        )
        for r in recordings
    ]
    enough = np.array([len(r.proposals) > 1 for r in kept])
    print(
        f"left out, as they answered questions of one fold only: {', '.join(sorted(rare))}; "
        f"with them {int((~enough).sum())} episodes of fewer than two others",
        file=sys.stderr,
    )
    return [r for r, there in zip(kept, enough, strict=True) if there], places[enough]


def measure_records(recordings: Sequence[Recording]) -> dict[str, float]:
    """Return each agent's share of right proposals, the best first."""
    verdicts: dict[str, list[bool]] = {}
    for recording in recordings:
        for name, right in recording.right.items():
            verdicts.setdefault(name, []).append(right)
    shares = {name: float(np.mean(right)) for name, right in verdicts.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
