"""What a joint state is worth to the end of its deliberation, fitted on traces.

The one-step reward of a move does not see what the move prepares for the others. Here the group's
gain is measured at the end instead:

    r_global = V(next joint state) − V(next joint state if the agent had persisted)

V is the probability that the group's final answer is right, less the price of the tokens still to
come. It is exact where the deliberation ends, and a network of the joint state elsewhere. The
network knows nothing of a round that no trace went on to. There the deliberation counts as over.

The network sees who is right, too, as nobody runs it where that is unknown (an asymmetric critic:
Pinto et al., arXiv 1710.06542). Without that an exact end, which knows the reference, would be
compared with a guess that does not, and the noise of that guess outweighs the price of a REFINE.

V is fitted backwards. The states of the last round come first, as there the cached responses alone
give the expectation under any policy. Those before follow, on draws of their next states (see
`joint_rounds`).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mpdf_langgraph.observation import FEATURES
from training.learn.dataset import Groups
from training.learn.joint import Booleans, Floats, Integers, Joint
from training.learn.joint_rounds import (
    Tally,
    after,
    agrees,
    count,
    describe,
    draw_moves,
    group_right,
    move_chances,
)
from training.learn.policy import Standardise
from training.learn.tensors import rows_of

#: Of every agent: the features that the policies see, then whether its answer is right, and whether
#: it is also the group's.
_SEEN = len(FEATURES) + 2
#: As many teams at a time as the processor's cache holds. And rows, as the memory does.
_CHUNK, _ROWS = 8_192, 100_000
#: States that training is stopped by, at most.
_MOST_UNSEEN = 32_768
_WIDTH = 64
_STEPS, _BATCH, _LEARNING_RATE, _PATIENCE = 600, 256, 4e-3, 8
#: Draws of the peers' moves per rollout, at most.
MOST_DRAWS = 4
#: Draws of the whole team's moves, at most, where a policy is judged.
MOST_TEAM_DRAWS = 16
#: Rollouts times draws that are enough, as the noise of many averages out.
ENOUGH = 30_000


class ValueNetwork(nn.Module):
    """From a joint state to the chance that the group ends right, and the tokens still to come.

    The agents' features are pooled by mean and maximum, so that a team of any size fits and its
    order carries no meaning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = Standardise(_SEEN)
        self.member = nn.Sequential(
            nn.Linear(_SEEN, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU()
        )
        self.head = nn.Sequential(nn.Linear(2 * _WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 2))

    def forward(self, features: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-odds of ending right and thousands of tokens to come, both ``[B]``.

        `features` are ``[B, N, F]``. `there` tells which places are taken, ``[B, N]``.
        """
        return self.judge(self.scale(features), there)

    def judge(self, scaled: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same of features that are scaled already."""
        each = self.member(scaled) * there.unsqueeze(-1)
        mean = each.sum(1) / there.sum(1, keepdim=True).clamp_min(1)
        # An agent that is not there counts 0, as does a feature that nobody shows.
        found = self.head(torch.cat([mean, each.amax(1)], 1))
        return found[:, 0], nn.functional.softplus(found[:, 1])


@dataclass
class Worth:
    """What teams may expect, ``[n]`` each.

    Attributes:
        right: Probability that the group's final answer is right.
        tokens: Tokens still to come.
    """

    right: Floats
    tokens: Floats


class Values:
    """V of one policy, fitted on joint states.

    `policy` holds the probabilities of its actions at them, ``[S, N, 3]``.

    Attributes:
        network: V after proposals and rounds that some deliberation went on from.
        rounds: The rounds that these deliberations went on to.
    """

    rounds: Integers

    def __init__(self, joint: Joint, policy: Floats, *, seed: int = 0) -> None:
        self._rng = np.random.default_rng([seed, 5])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = ValueNetwork()
            self._fit(joint, policy)

    def of(self, joint: Joint, states: Integers, held: Integers) -> Worth:
        """Return what teams may expect that hold this a round later, without looking for an end.

        It is the network's word for rounds that it was fitted on. In others it is the vote.
        """
        return self._worth(joint, states, held, None)

    def next(self, joint: Joint, states: Integers, held: Integers, persisted: Booleans) -> Worth:
        """Return what teams may expect after a round: exact where the deliberation ends with it.

        `held` is what the agents hold after it, ``[n, N]``. `persisted`: all did, which ends it,
        ``[n]``.
        """
        over = persisted | (joint.left[states] <= 1) | joint.cut[states]
        return self._worth(joint, states, held, over)

    @torch.no_grad()
    def _worth(
        self, joint: Joint, states: Integers, held: Integers, over: Booleans | None
    ) -> Worth:
        """Return what teams may expect. `over`: the deliberation is, ``[n]``. None: nowhere."""
        self.network.eval()
        right, tokens = np.zeros(len(held)), np.zeros(len(held))
        known = np.isin(joint.round[states] + 1, self.rounds)
        if over is not None:
            known &= ~over
        right[~known] = _vote(joint, states[~known], held[~known])
        places = np.flatnonzero(known)
        for start in range(0, len(places), _CHUNK):
            part = places[start : start + _CHUNK]
            seen, there, tally = _described(joint, states[part], held[part])
            if over is not None:
                right[part] = group_right(joint, held[part], tally)
                open_ = ~agrees(joint, states[part], held[part], tally)
                part, seen, there = part[open_], seen[open_], there[open_]
            odds, to_come = self.network(torch.from_numpy(seen), torch.from_numpy(there))
            right[part] = odds.sigmoid().numpy()
            tokens[part] = to_come.numpy() * 1000
        return Worth(right, tokens)

    def expected_worth(
        self,
        joint: Joint,
        states: Integers,
        policy: Floats,
        draws: int,
        rng: np.random.Generator | None = None,
    ) -> Worth:
        """Return what states themselves are worth: a round by `policy` ``[n, N, 3]``, then V.

        Args:
            joint: The states.
            states: Which of them, ``[n]``.
            policy: Probabilities of the actions at these, ``[n, N, 3]``.
            draws: Draws of all moves.
            rng: Of the draws. Default: other draws each time.
        """
        rng = self._rng if rng is None else rng
        right, tokens = np.zeros(len(states)), np.zeros(len(states))
        chances = move_chances(joint, states, policy)
        spent = (chances * joint.tokens[states] * joint.there[states][:, :, None]).sum((1, 2))
        for _ in range(draws):
            moves = draw_moves(joint, states, policy, rng)
            held, persisted, _ = after(joint, states, moves)
            found = self.next(joint, states, held, persisted)
            right += found.right / draws
            tokens += found.tokens / draws
        return Worth(right, tokens + spent)

    def _fit(self, joint: Joint, policy: Floats) -> None:
        every = np.arange(len(joint))
        seen, there, _ = _described(joint, every, joint.before, later=False)
        features, mask = torch.from_numpy(seen), torch.from_numpy(there)
        if mask.any():
            self.network.scale.fit(features[mask])
        right, tokens = np.zeros(len(joint)), np.zeros(len(joint))
        draws = draws_for(len(joint))
        later = joint.round > 1  # nothing leads to the states of the first round
        self.rounds = np.unique(joint.round[later])
        for left in np.unique(joint.left[later]).tolist():
            fresh = np.flatnonzero((joint.left == left) & later)
            found = self.expected_worth(joint, fresh, policy[fresh], draws)
            right[fresh], tokens[fresh] = found.right, found.tokens
            known = torch.from_numpy(np.flatnonzero((joint.left <= left) & later))
            self._train(features, mask, right, tokens, known)

    def _train(
        self, features: Tensor, there: Tensor, right: Floats, tokens: Floats, known: Tensor
    ) -> None:
        """Fit the network to the states that are known, until unseen ones stop gaining by it."""
        scaled = self.network.scale(features)
        target = torch.from_numpy(right).float()
        to_come = torch.from_numpy(tokens / 1000).float()

        def loss_of(batch: Tensor) -> Tensor:
            seen, places, share, spent = rows_of(batch, scaled, there, target, to_come)
            odds, expected = self.network.judge(seen, places)
            wrong = nn.functional.binary_cross_entropy_with_logits(odds, share)
            return wrong + nn.functional.mse_loss(expected, spent)

        known = known[torch.randperm(len(known))]
        unseen, known = known[: len(known) // 6][:_MOST_UNSEEN], known[len(known) // 6 :]
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4, fused=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        best, kept = math.inf, copy.deepcopy(self.network.state_dict())
        since = 0
        for step in range(_STEPS):
            batch = known[torch.randint(len(known), (min(_BATCH, len(known)),))]
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step % 25 == 24 and len(unseen):
                with torch.no_grad():
                    score = loss_of(unseen).item()
                since += 1
                if score < best:
                    best, kept, since = score, copy.deepcopy(self.network.state_dict()), 0
                if since >= _PATIENCE:
                    break
        if len(unseen):
            self.network.load_state_dict(kept)

    def rollouts(
        self, joint: Joint, states: Integers, places: Integers, policy: Floats
    ) -> tuple[Floats, Floats]:
        """Return what every cached move of an agent is worth, its peers moving by `policy`.

        That is the chance that the group ends right ``[G, K]``, and the tokens that come after the
        move, the peers' included ``[G, K]``. 0 where there is no move. `states` and `places` are
        those of each decision, ``[G]``. `policy` is ``[S, N, 3]``.
        """
        draws = draws_for(len(states))
        parts = [
            self._rollouts(joint, states[k : k + _ROWS], places[k : k + _ROWS], policy, draws)
            for k in range(0, max(1, len(states)), _ROWS)
        ]
        right, tokens = (np.concatenate(found) for found in zip(*parts, strict=True))
        return right, tokens

    def _rollouts(
        self, joint: Joint, states: Integers, places: Integers, policy: Floats, draws: int
    ) -> tuple[Floats, Floats]:
        shape = (len(states), joint.moves.shape[2])
        right, tokens = np.zeros(shape), np.zeros(shape)
        rows = np.arange(len(states))
        for _ in range(draws):
            moves = draw_moves(joint, states, policy[states], self._rng)
            for k in range(shape[1]):
                real = np.flatnonzero(joint.action[states, places, k] >= 0)
                if not len(real):
                    continue
                moves[rows, places] = k
                held, persisted, _ = after(joint, states[real], moves[real])
                found = self.next(joint, states[real], held, persisted)
                right[real, k] += found.right / draws
                tokens[real, k] += found.tokens / draws
        return right, tokens


def _vote(joint: Joint, states: Integers, held: Integers) -> Floats:
    """Return whether the answers that teams hold elect a right one, ``[n]``, in parts."""
    right = np.zeros(len(held))
    for start in range(0, len(held), _CHUNK):
        part = slice(start, start + _CHUNK)
        right[part] = group_right(joint, held[part], count(joint, states[part], held[part]))
    return right


def _described(
    joint: Joint, states: Integers, held: Integers, *, later: bool = True
) -> tuple[Floats, Booleans, Tally]:
    """Return what the network sees of teams, ``[n, N, F]`` float32.

    Beside it: which places are taken, ``[n, N]``, and the votes.
    """
    seen, there, tally = describe(joint, states, held, later=later)
    right = joint.right[held] & there
    more = np.stack([right, right & tally.elected], 2).astype(np.float32)
    return np.concatenate([seen, more], 2), there, tally


def draws_for(states: int) -> int:
    """Return how many draws of the peers' moves so many states get."""
    return int(min(MOST_DRAWS, max(1, ENOUGH // max(1, states))))


def states_of(joint: Joint, episode: NDArray[Any], round_: NDArray[Any]) -> NDArray[Any]:
    """Return the state of each decision, by the position of its episode and its round."""
    width = int(joint.round.max(initial=0)) + 1
    keys = joint.episode.astype(np.int64) * width + joint.round
    order = np.argsort(keys)
    wanted = episode.astype(np.int64) * width + round_
    found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    if len(found) and not np.array_equal(keys[found], wanted):
        raise ValueError("a decision without its joint state")
    return np.asarray(found)


class ToTheEnd:
    """Turns one-step groups into groups whose rewards look to the end of the deliberation.

    Of the parts of the groups, the training part comes first. V is fitted on that alone.
    `competence` is by agent, as the policy sees it.
    """

    def __init__(
        self,
        joint: Joint,
        groups: Sequence[Groups],
        competence: Mapping[str, float],
        seed: int = 0,
    ) -> None:
        self.groups, self.seed = groups, seed
        self.joint = joint
        self.states = [states_of(joint, part.episode, part.round) for part in groups]
        self.places = [_places(joint, states) for states in self.states]
        for part, states, places in zip(groups, self.states, self.places, strict=True):
            known = np.array([competence.get(name, 0.5) for name in part.agents], np.float32)
            joint.competence[states, places] = known[part.agent]
        self.distinct = [np.unique(states, return_inverse=True) for states in self.states]

    def policy(self, probabilities: Sequence[Floats]) -> Floats:
        """Return a policy at all joint states, ``[S, N, 3]``, from that at the groups."""
        found = self.joint.behaviour.astype(float)
        for states, places, rows in zip(self.states, self.places, probabilities, strict=True):
            found[states, places] = rows
        return found

    def values(self, policy: Floats | None = None) -> Values:
        """Fit V of a policy at all joint states. None: of the one that made the traces."""
        policy = self.joint.behaviour.astype(float) if policy is None else policy
        train = self.distinct[0][0]
        return Values(self.joint.select(train), policy[train], seed=self.seed)

    def team_worth(self, part: int, values: Values, probabilities: Floats, cost: float) -> float:
        """Return the mean worth of a part's states to teams of which all move by a policy.

        A turn's reward is what one agent's move is worth while the others move as before. This
        tells what they all give together: a round by the policy, then V. The draws are the same
        each time, so that two policies differ by their moves alone.

        Args:
            part: Which part of the groups.
            values: V.
            probabilities: Of the actions at the part's groups, ``[G, 3]``.
            cost: Taken off per 1,000 tokens.
        """
        states, place = self.distinct[part]
        policy = self.joint.behaviour[states].astype(float)
        policy[place, self.places[part]] = probabilities
        draws = int(np.clip(ENOUGH // max(1, len(states)), 1, MOST_TEAM_DRAWS))
        rng = np.random.default_rng([self.seed, 6])
        found = values.expected_worth(self.joint, states, policy, draws, rng)
        return float((found.right - cost / 1000 * found.tokens).mean())

    def held_out(self, part: int, policy: Floats) -> tuple[Joint, Floats, NDArray[Any]]:
        """Return the states of one part of the groups, a policy at them, and their questions."""
        states, first = np.unique(self.states[part], return_index=True)
        question = self.groups[part].question[first]
        return self.joint.select(states), policy[states], question

    def revalue(self, policy: Floats | None = None) -> tuple[Values, list[Groups]]:
        """Return V of a policy, and the groups with rewards to the end, the peers moving by it.

        `global_` is the gain in the chance to end right. `tokens` are those of the move itself, and
        what it adds to those that come later.
        """
        values = self.values(policy)
        policy = self.joint.behaviour.astype(float) if policy is None else policy
        result = []
        for part, states, places in zip(self.groups, self.states, self.places, strict=True):
            right, later = values.rollouts(self.joint, states, places, policy)
            width = part.actions.shape[1]
            right, later = right[:, :width], later[:, :width]
            gain, more = right - right[:, :1], later - later[:, :1]
            there = part.rollout_mask
            result.append(
                replace(
                    part,
                    global_=np.where(there, gain, 0.0).astype(np.float32),
                    tokens=np.where(there, part.tokens + more, 0.0).astype(np.float32),
                )
            )
        return values, result


def _places(joint: Joint, states: Integers) -> Integers:
    """Return who decides in groups that come in order, those of a state one after another."""
    first = np.r_[True, states[1:] != states[:-1]] if len(states) else np.zeros(0, bool)
    start = np.maximum.accumulate(np.where(first, np.arange(len(states)), 0))
    return np.arange(len(states)) - start
