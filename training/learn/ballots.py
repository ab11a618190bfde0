"""What teams held when votes were counted, as arrays: what a consensus is learned from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import Vote
from mpdf_langgraph.traces.records import Episode
from training.learn.dataset import is_held_out
from training.learn.episode_rows import CUSTOM, OF_RESPONSE
from training.learn.joint import KIND
from training.learn.joint_calibration import joint_of
from training.learn.joint_rounds import count_held, group_right
from training.learn.recorded import Recorded, record
from training.learn.rewards import Grader

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ballots:
    """E states of up to M voices. A state is what a team held after a round.

    Attributes:
        agents: Names.
        categories: Names.
        questions: Texts.
        member: Which agents are of the state's team, ``[E, A]`` bool.
        author: Who gave each voice's response, ``[E, M]``. -1: there is no voice.
        cluster: Of its answer within the state, ``[E, M]``.
        confidence: Calibrated, NaN where unknown, ``[E, M]``.
        refined: It is a refined response, ``[E, M]`` bool.
        right: Its answer is right, ``[E, M]`` bool.
        category: Of the question, -1: none, ``[E]``.
        question: Index into `questions`, ``[E]``.
        episode: Position of the state's record among those kept, as in `Groups`, ``[E]``.
        first: It is what the team proposed, ``[E]`` bool.
        last: It is what the team held in the end, ``[E]`` bool.
        recorded: The consensus by the traces' own rule is right, ``[E]`` bool.
        weight: Of the state in a fit, ``[E]``.
    """

    agents: tuple[str, ...]
    categories: tuple[str, ...]
    questions: tuple[str, ...]
    member: NDArray[np.bool_]
    author: NDArray[np.int64]
    cluster: NDArray[np.int64]
    confidence: Array
    refined: NDArray[np.bool_]
    right: NDArray[np.bool_]
    category: NDArray[np.int64]
    question: NDArray[np.int64]
    episode: NDArray[np.int64]
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    recorded: NDArray[np.bool_]
    weight: Array

    def __len__(self) -> int:
        return len(self.question)

    def select(self, index: NDArray[Any]) -> "Ballots":
        """Return some states, by a mask or by indices."""
        names = [
            f.name for f in fields(self) if f.name not in ("agents", "categories", "questions")
        ]
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def split(self, validation: float, seed: int) -> tuple["Ballots", "Ballots"]:
        """Return a training and a validation part, by question as `dataset.split` does."""
        out = np.array([is_held_out(q, validation, seed) for q in self.questions], bool)
        chosen: NDArray[np.bool_] = out[self.question]
        return self.select(~chosen), self.select(chosen)

    def of_agents(self, names: Sequence[str]) -> "Ballots":
        """Return the states as if only these agents had been asked.

        States of which none of them was asked are left out. One in which they all are silent is
        kept: they were asked, and gave no answer.
        """
        places = {name: i for i, name in enumerate(names)}
        new = np.array([*(places.get(name, -1) for name in self.agents), -1])
        author = new[self.author]
        member = self.member[:, [self.agents.index(name) for name in names]]
        asked = np.flatnonzero(member.any(axis=1))
        return replace(self, agents=tuple(names), author=author, member=member).select(asked)

    def votes(self, state: int) -> list[Vote]:
        """Return the votes of a state, as a consensus rule takes them."""
        return [
            Vote(
                self.agents[self.author[state, k]],
                int(self.cluster[state, k]),
                None if np.isnan(self.confidence[state, k]) else float(self.confidence[state, k]),
                refined=bool(self.refined[state, k]),
            )
            for k in np.flatnonzero(self.author[state] >= 0)
        ]

    def category_of(self, state: int) -> str | None:
        """Return the name of a state's category."""
        place = int(self.category[state])
        return self.categories[place] if place >= 0 else None

    def is_right(self, state: int, cluster: int | None) -> bool:
        """Tell whether a cluster's answer is right. None is not."""
        if cluster is None:
            return False
        chosen = (self.author[state] >= 0) & (self.cluster[state] == cluster)
        return bool(self.right[state][chosen].any())


def make_ballots(episodes: Iterable[Episode], grader: Grader) -> Ballots:
    """Return the ballots of episodes, with confidences as recorded."""
    return ballots_of(record(episodes, grader))


def ballots_of(recorded: Recorded, calibration: Calibration | None = None) -> Ballots:
    """Return the ballots of episodes. See `joint_of` for the calibration."""
    joint = joint_of(recorded, calibration)
    held, of = recorded.held, recorded.of_held
    tally = count_held(joint, of, held)
    voices = tally.speaks
    # Each state's voices stand first, in the order of the team.
    order = np.argsort(~voices, axis=1, kind="stable")[:, : int(voices.sum(1).max(initial=0))]
    there = np.take_along_axis(voices, order, 1)
    response = np.where(there, np.take_along_axis(held, order, 1), 0)
    confidence = joint.confidence[response]
    questions = tuple(dict.fromkeys(recorded.questions))
    asked = {text: i for i, text in enumerate(questions)}
    categories = tuple(dict.fromkeys(c for c in recorded.categories if c is not None))
    kinds = {name: i for i, name in enumerate(categories)}
    member = np.zeros((len(recorded), len(recorded.agents) + 1), bool)
    member[np.arange(len(recorded))[:, None], recorded.agent] = True  # -1 is the column that goes
    count = np.bincount(of, minlength=len(recorded))
    number = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    custom = joint.rule[of, KIND] == CUSTOM
    return Ballots(
        agents=tuple(recorded.agents),
        categories=categories,
        questions=questions,
        member=member[of, :-1],
        author=np.where(there, recorded.author[response], -1),
        cluster=joint.cluster[response].astype(np.int64) - 1,
        confidence=np.where(confidence >= 0, confidence, np.nan),
        refined=joint.static[response][:, :, OF_RESPONSE.index("refined")] > 0,
        right=joint.right[response],
        category=np.array([-1 if c is None else kinds[c] for c in recorded.categories], np.int64)[
            of
        ],
        question=np.array([asked[text] for text in recorded.questions], np.int64)[of],
        episode=of.astype(np.int64),
        first=number == 0,
        last=number == count[of] - 1,
        # What a callable of the user's own elects is in its record alone.
        recorded=np.where(custom, recorded.elected, group_right(joint, held, tally)),
        weight=1.0 / np.maximum(1, count[of]),
    )


def shuffle_into_folds(ballots: Ballots, folds: int, seed: int) -> NDArray[np.int64]:
    """Return a fold for each state, by question, ``[E]``."""
    places = np.random.default_rng(seed).permutation(len(ballots.questions)) % folds
    return np.asarray(places[ballots.question])


def drop_voices(ballots: Ballots, seed: int) -> Ballots:
    """Return the states of two or more voices with only a random part of them, at least one."""
    ballots = ballots.select((ballots.author >= 0).sum(1) > 1)
    there = ballots.author >= 0
    rng = np.random.default_rng(seed)
    count = there.sum(1)
    kept = rng.integers(1, np.maximum(2, count))
    draw = np.where(there, rng.random(there.shape), 2.0)
    stays = there & (draw.argsort(1).argsort(1) < kept[:, None])
    return replace(ballots, author=np.where(stays, ballots.author, -1))


def thin_out(ballots: Ballots, most: int, seed: int) -> Ballots:
    """Return the states of as many questions, drawn at random, as have about so many states."""
    questions = np.unique(ballots.question)
    enough = int(np.ceil(len(questions) * min(1.0, most / max(1, len(ballots)))))
    drawn = np.random.default_rng(seed).permutation(questions)[:enough]
    return ballots.select(np.isin(ballots.question, drawn))


def merge_equal(ballots: Ballots) -> Ballots:
    """Return every kind of state once, with the weights of all states of its kind."""
    there = ballots.author >= 0
    parts = [
        np.where(there, part, -1) for part in (ballots.cluster, ballots.refined, ballots.right)
    ]
    known = np.where(there, np.nan_to_num(ballots.confidence, nan=-1.0), -1)
    rows = np.hstack([ballots.author, *parts, known, ballots.category[:, None]])
    _, index, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(kind.reshape(-1), ballots.weight, len(index)).astype(float)
    return replace(ballots.select(index), weight=weight)


def join_ballots(parts: Sequence[Ballots]) -> Ballots:
    """Join ballots of the same agents, categories and questions."""
    first = parts[0]
    names = [f.name for f in fields(first) if f.name not in ("agents", "categories", "questions")]
    joined: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
    return replace(first, **joined)
