"""Joint states: what a whole team held at a decision, and every move that each agent had there.

`recorded` makes them of traces. `joint_rounds` plays rounds on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]

#: Columns of `Joint.rule`: kind of the consensus rule, whether agreement ends the deliberation, the
#: bar for that, the score of "none is right", what a voice adds to that, a pair with a refined
#: response, a known confidence, and its log-odds.
KIND, SETTLES, BAR, NONE, NONE_PER_VOICE, REFINED_PAIR, KNOWN, SLOPE = range(8)
#: The fields that have a row for each state.
BY_STATE = (
    "episode", "before", "previous", "moves", "action", "tokens", "taken", "mask", "behaviour",
    "competence", "round", "left", "cut",
)  # fmt: skip
#: Those of them that have a column for each agent, and for each move.
_BY_MOVE = ("moves", "action", "tokens")
_BY_AGENT = (
    "before", "previous", "taken", "mask", "behaviour", "competence", *_BY_MOVE,
)  # fmt: skip


@dataclass
class Joint:
    """Joint states of E episodes: S states of up to N agents with up to K moves each.

    Attributes:
        static: Features of R responses alone (`OF_RESPONSE`), ``[R, 16]``. Row 0 stands for no
            response.
        cluster: Cluster of each response's answer, from 1, ``[R]``. 0: no valid answer.
        confidence: The critic's, ``[R]``; below 0: unknown.
        author: Place in the team of whoever gave the response, ``[R]``.
        right: The answer that stands for its cluster is right, ``[R]``.
        correct: Its own answer is right, ``[R]``.
        weight: Score of each response as the only voice, by a probabilistic rule, ``[R]``. By
            log-odds, without the confidence if that is unknown.
        size: Of the team, ``[E]``.
        pair: What a pair of authors adds to the score of their answer, ``[P, N, N]``. The first one
            adds nothing.
        pairs: Which of these each episode has, ``[E]``.
        rule: The consensus rule as numbers, from `KIND` to `SLOPE`, ``[E, 8]``.
        episode: Position of each state's episode, ``[S]``.
        before: Response that each agent held, ``[S, N]``.
        previous: Cluster of the answer held a round before, -1 in the first round, ``[S, N]``.
        moves: Response held after each move, ``[S, N, K]``.
        action: Index of each move's action, -1 where there is no move, ``[S, N, K]``.
        tokens: What each move takes, ``[S, N, K]``.
        taken: The move that the episode took, ``[S, N]``.
        mask: Which actions were allowed, ``[S, N, 3]``.
        behaviour: Probabilities that the action was drawn from, ``[S, N, 3]``.
        competence: Of each agent, ``[S, N]``.
        round: From 1, ``[S]``.
        left: Rounds of decisions left, this one included, ``[S]``.
        cut: A budget ends the deliberation after this round, ``[S]``.
    """

    static: Floats
    cluster: Integers
    confidence: Floats
    author: Integers
    right: Booleans
    correct: Booleans
    weight: Floats
    size: Integers
    pair: Floats
    pairs: Integers
    rule: Floats
    episode: Integers
    before: Integers
    previous: Integers
    moves: Integers
    action: Integers
    tokens: Floats
    taken: Integers
    mask: Booleans
    behaviour: Floats
    competence: Floats
    round: Integers
    left: Integers
    cut: Booleans

    def __len__(self) -> int:
        return len(self.before)

    @property
    def there(self) -> Booleans:
        """Which places are taken by an agent, ``[S, N]``."""
        return self.places_of(self.episode)

    def places_of(self, episodes: Integers) -> Booleans:
        """Return which places of episodes ``[n]`` are taken by an agent, ``[n, N]``."""
        return np.asarray(np.arange(self.before.shape[1]) < self.size[episodes][:, None])

    def select(self, chosen: NDArray[Any]) -> "Joint":
        """Return some of the states. All responses and episodes are kept."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in BY_STATE})

    def by_size(self, most: int) -> Iterator[tuple[Integers, "Joint"]]:
        """Yield which states have teams of one size, `most` at a time, and these without padding.

        So a large team beside many small ones takes no time or memory for the small ones.
        """
        sizes = self.size[self.episode]
        for size in np.unique(sizes).tolist():
            every = np.flatnonzero(sizes == size)
            for start in range(0, len(every), most):
                chosen = every[start : start + most]
                part = self.select(chosen)
                moves = int((part.action >= 0).sum(2).max())
                cut = {name: getattr(part, name)[:, :size] for name in _BY_AGENT}
                cut |= {name: cut[name][:, :, :moves] for name in _BY_MOVE}
                yield chosen, replace(part, pair=self.pair[:, :size, :size], **cut)
