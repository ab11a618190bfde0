"""Values to the end: exact where a deliberation ends, and fitted well where it goes on."""

import operator

import numpy as np
import pytest

from mpdf_langgraph import TextAnswer
from mpdf_langgraph.traces.records import Episode
from tests.support.synthetic import synthetic_episodes
from training.collect.importing import Answer, Answers, Replay
from training.learn.dataset import make_groups
from training.learn.joint import Joint
from training.learn.joint_rounds import after, count, group_right
from training.learn.recorded import record
from training.learn.values import ToTheEnd, Values, draws_for, states_of
from training.studies.environment_episodes import episodes
from training.studies.environments import ENVIRONMENTS


def joined(made: list[Episode]) -> Joint:
    return record(made, operator.eq).joint


@pytest.fixture(scope="module")
def relay() -> list[Episode]:
    return list(episodes(ENVIRONMENTS["relay"], 500))


def test_in_the_last_round_rewards_are_those_of_one_step() -> None:
    """With one round the peers' moves are all that differs: where they persist, nothing does."""
    made = list(synthetic_episodes(40, 3, rounds=1))
    groups, joint = make_groups(made, operator.eq), joined(made)
    ends = ToTheEnd(joint, [groups], {}, seed=0)
    still = np.zeros((len(joint), 3, 3))
    still[:, :, 0] = 1.0
    _, [found] = ends.revalue(still)
    there = groups.rollout_mask
    assert found.tokens[there] == pytest.approx(groups.tokens[there])
    # Of episodes in which the peers did persist, the one-step gains are known.
    state = states_of(joint, groups.episode, groups.round)
    places = np.arange(len(groups)) % 3
    quiet = np.array(
        [
            all(joint.action[s, p, joint.taken[s, p]] == 0 for p in range(3) if p != own)
            for s, own in zip(state, places, strict=True)
        ]
    )
    assert quiet.sum() > 5
    gain = groups.consensus.astype(float) - groups.consensus[:, :1]
    assert found.global_[quiet] == pytest.approx((gain * there)[quiet])


def test_a_prepared_state_is_worth_more(relay: list[Episode]) -> None:
    joint = joined(relay)
    policy = joint.behaviour.astype(float)
    # cyd refines in the last round. Until then and otherwise everybody goes on as recorded.
    last = joint.left == 1
    policy[last, 2] = [0.0, 1.0, 0.0]
    values = Values(joint, policy)
    first = np.flatnonzero(joint.round == 1)
    persist, refine = np.zeros((len(first), 3), int), np.zeros((len(first), 3), int)
    refine[:, 1] = 1
    open_ = ~values.next(joint, first, *after(joint, first, persist)[:2]).right.astype(bool)
    held, _, _ = after(joint, first, persist)
    plain = values.of(joint, first, held)
    held, _, _ = after(joint, first, refine)
    assert (joint.action[first, 1, 1] == 1).all()
    prepared = values.of(joint, first, held)
    assert open_.any()
    # Two that agree may outvote cyd, whatever it finds.
    assert 0.15 < plain.right.mean() < 0.45
    assert prepared.right.mean() > plain.right.mean() + 0.25
    assert prepared.tokens.mean() > 300


def test_where_all_persist_a_state_is_worth_what_it_is() -> None:
    """Else the error of V, and not what a move does, would pay for a REFINE or forbid it."""
    joint = joined(list(episodes(ENVIRONMENTS["nothing"], 500)))
    still = np.zeros((*joint.before.shape, 3))
    still[:, :, 0] = 1.0
    values = Values(joint, still)
    first = np.flatnonzero(joint.round == 1)
    refine = np.zeros((len(first), 3), int)
    refine[:, 0] = 1
    held, _, _ = after(joint, first, refine)
    now = group_right(joint, held, count(joint, first, held))
    worth = values.of(joint, first, held)
    assert 0.4 < now.mean() < 0.8
    assert np.abs(worth.right - now).mean() < 0.05
    assert abs((worth.right - now).mean()) < 0.02
    assert worth.tokens.mean() < 10


def test_it_repeats_itself_and_leaves_the_seed_alone(relay: list[Episode]) -> None:
    joint = joined(relay[:60])
    policy = joint.behaviour.astype(float)
    every = np.arange(len(joint))
    one, two = (Values(joint, policy, seed=4).of(joint, every, joint.before) for _ in range(2))
    assert np.array_equal(one.right, two.right)


def test_draws_are_few_where_states_are_many() -> None:
    assert [draws_for(n) for n in (0, 100, 15_000, 10**6)] == [4, 4, 2, 1]


@pytest.mark.parametrize("action", [0, 2])
def test_a_policy_is_judged_by_what_all_its_moves_give_together(action: int) -> None:
    """Two that CONCEDE to each other swap their answers, which no reward of one turn sees."""
    made = list(synthetic_episodes(60, 3, agents=2, rounds=1))
    groups, joint = make_groups(made, operator.eq), joined(made)
    ends = ToTheEnd(joint, [groups], {}, seed=0)
    policy = np.zeros((len(groups), 3))
    policy[np.arange(len(groups)), np.where(groups.action_mask[:, action], action, 0)] = 1.0
    every = np.arange(len(joint))
    held = joint.before.copy()
    both = (joint.action == action).any(2).all(1)
    assert both.sum() > 10
    if action == 2:
        held[both] = held[both][:, ::-1]
    right = group_right(joint, held, count(joint, every, held))
    values = ends.values()
    assert ends.team_worth(0, values, policy, 0.1) == pytest.approx(right.mean())
    refine = np.tile([0.0, 1.0, 0.0], (len(groups), 1))
    free, paid = (ends.team_worth(0, values, refine, cost) for cost in (0.0, 1.0))
    tokens = np.where(joint.action == 1, joint.tokens, np.nan)
    assert free - paid == pytest.approx(np.nanmean(tokens, 2).sum(1).mean() / 1000, rel=0.05)


def imported(count: int, rounds: int) -> list[Episode]:
    """Recorded answers and confidences by chance, of three agents. A budget ends each episode."""
    rng = np.random.default_rng(rounds)
    answers = Answers()
    for number in range(count):
        answers.groups[f"Question {number}", "red"] = [
            Answer(
                f"m{k}", f"Answer: {rng.choice(['red', 'blue', 'green'])}", float(rng.random()), r
            )
            for r in range(rounds)
            for k in range(3)
        ]
    return [*Replay(TextAnswer()).play_all(answers)]


def test_where_no_trace_goes_on_rewards_are_those_of_one_step() -> None:
    made = imported(40, rounds=1)
    groups, joint = make_groups(made, operator.eq), joined(made)
    assert joint.cut.all()
    assert set(joint.left.tolist()) == {3}
    _, [found] = ToTheEnd(joint, [groups], {}, seed=0).revalue()
    gain = (groups.global_ - groups.global_[:, :1]) * groups.rollout_mask
    assert np.ptp(gain) > 0
    assert found.global_ == pytest.approx(gain)


@pytest.mark.parametrize("rounds", [1, 2])
def test_persisting_is_worth_the_vote_where_a_budget_ends_it(rounds: int) -> None:
    made = imported(40, rounds)
    groups, joint = make_groups(made, operator.eq), joined(made)
    ends = ToTheEnd(joint, [groups], {}, seed=0)
    persist = ends.policy([np.tile([1.0, 0.0, 0.0], (len(groups), 1))])
    values, states = ends.values(persist), np.flatnonzero(joint.round == rounds)
    found = values.expected_worth(joint, states, persist[states], 1)
    vote = group_right(joint, joint.before[states], count(joint, states, joint.before[states]))
    assert found.right == pytest.approx(vote.astype(float))
    assert not found.tokens.any()


def test_of_a_round_that_no_trace_went_on_to_only_the_vote_is_known() -> None:
    joint = joined(list(synthetic_episodes(40, 3, rounds=1)))
    joint.left[:] = 3  # as if there had been more rounds, which nobody saw
    values = Values(joint, joint.behaviour.astype(float))
    every = np.arange(len(joint))
    found = values.of(joint, every, joint.before)
    vote = group_right(joint, joint.before, count(joint, every, joint.before))
    assert found.right == pytest.approx(vote.astype(float))
