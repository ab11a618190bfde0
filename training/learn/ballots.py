"""What teams held when votes were counted, as arrays: what a consensus is learned from."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import Vote, voices, votes_of
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.rounds import held_by_round
from mpdf_langgraph.traces.records import Episode
from training.learn.dataset import is_held_out
from training.learn.rewards import Grader, first_hint, rule_of
from training.learn.trace_rows import (
    Row,
    Rows,
    cache_kind,
    grade_answers,
    look_up,
    read_rows,
    stack_rows,
)

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


def read_ballots(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    grader: Grader,
    labels: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
    processes: int = 1,
    share: float = 1.0,
) -> Ballots:
    """Return the ballots of traces. The arguments are those of `dataset.load`.

    Records that cannot be read are passed over. `load` tells of those.

    Raises:
        TraceError: There is no such path, or it cannot be read.
    """
    kind = cache_kind("ballots", calibration)
    row_of = partial(_make_row, calibration=calibration)
    rows = read_rows(paths, kind, row_of, share=share, processes=processes)
    return _join(rows, grader, labels or {})


def make_ballots(episodes: Iterable[Episode], grader: Grader) -> Ballots:
    """Return the ballots of episodes, as `read_ballots` does."""
    return _join(stack_rows(map(_make_row, episodes)), grader, {})


def _make_row(episode: Episode, calibration: Calibration | None = None) -> Row:
    responses = episode.responses
    if calibration is not None:
        responses = {i: calibration.apply(one) for i, one in responses.items()}
    team = episode.team
    # What a person's hint gave away is no agent's doing.
    rounds = held_by_round(team, responses, episode.turns)
    states = [held for r, held in enumerate(rounds) if r < first_hint(episode)]
    heard = [voices(votes_of(held)) for held in states]
    flat = [voice for those in heard for voice in those]
    names = {name: i for i, name in enumerate(team)}
    try:  # as the episode's rule decides with these confidences
        rule = rule_of(episode)
        winners = [rule(votes_of(held)) for held in states]
    except ConfigurationError:  # a callable, which no record holds
        winners = [tally["cluster"] for tally in episode.tallies[: len(states)]]
    arrays = {
        "states": np.array([len(states)]),
        "voices": np.array([len(those) for those in heard], np.int16),
        "author": np.array([names[v.agent] for v in flat], np.int16),
        "cluster": np.array([v.cluster for v in flat], np.int16),
        "confidence": np.array(
            [np.nan if v.confidence is None else v.confidence for v in flat], float
        ),
        "refined": np.array([v.refined for v in flat], bool),
        "recorded": np.array([-1 if c is None else c for c in winners], np.int16),
    }
    texts = {
        "id": episode.id,
        "question": episode.question,
        "reference": episode.reference,
        "category": episode.category,
        "answers": episode.representatives,
        "agents": team,
    }
    return Row(arrays, texts)


def _join(rows: Rows, grader: Grader, labels: Mapping[str, str]) -> Ballots:
    """Grade rows, and give every voice a place in its state."""
    texts, arrays = rows.texts, rows.arrays
    _, keep, verdicts = grade_answers(texts, labels, grader)
    answers = texts.get("answers", [])
    teams = texts.get("agents", [])
    agents = tuple(dict.fromkeys(name for team in teams for name in team))
    place = {name: i for i, name in enumerate(agents)}
    named = np.array([place[name] for team in teams for name in team] + [-1])
    member = np.zeros((len(teams), len(agents)), bool)
    for row, team in enumerate(teams):
        member[row, [place[name] for name in team]] = True
    questions = tuple(dict.fromkeys(texts.get("question", [])))
    asked = {text: i for i, text in enumerate(questions)}
    given = texts.get("category", [])
    categories = tuple(dict.fromkeys(name for name in given if name is not None))
    kinds = {name: i for i, name in enumerate(categories)}

    def array(name: str, dtype: Any = np.int64) -> NDArray[Any]:
        return arrays.get(name, np.zeros(0)).astype(dtype)

    per_episode, per_state = array("states"), array("voices")
    of = np.repeat(np.arange(len(per_episode)), per_episode)  # the episode of every state
    state = np.repeat(np.arange(len(per_state)), per_state)  # the state of every voice
    column = np.arange(len(state)) - np.repeat(np.cumsum(per_state) - per_state, per_state)
    answers_from = np.cumsum([0, *map(len, answers)])
    team_from = np.cumsum([0, *map(len, teams)])
    shape = (len(per_state), int(per_state.max(initial=0)))

    def table(values: NDArray[Any], none: Any) -> NDArray[Any]:
        whole = np.full(shape, none, values.dtype)
        whole[state, column] = values
        return whole

    of_voice = of[state]
    number = np.arange(len(of)) - np.repeat(np.cumsum(per_episode) - per_episode, per_episode)
    found = Ballots(
        agents=agents,
        categories=categories,
        questions=questions,
        member=member[of],
        author=table(look_up(named, team_from[of_voice], array("author")), -1),
        cluster=table(array("cluster"), -1),
        confidence=table(array("confidence", float), np.nan),
        refined=table(array("refined", bool), False),
        right=table(look_up(verdicts, answers_from[of_voice], array("cluster")), False),
        category=np.array([kinds.get(name, -1) for name in given], np.int64)[of],
        question=np.array([asked[text] for text in texts.get("question", [])], np.int64)[of],
        episode=(np.cumsum(keep) - 1)[of],
        first=number == 0,
        last=number == per_episode[of] - 1,
        recorded=look_up(verdicts, answers_from[of], array("recorded")),
        weight=1.0 / np.maximum(1, per_episode[of]),
    )
    return found.select(keep[of])


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
