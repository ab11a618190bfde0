"""Joint states as arrays: equal to what the plugin computes one by one."""

import operator

import numpy as np
import pytest

from mpdf_langgraph import Calibration, LearnedConsensus
from mpdf_langgraph.learned_consensus import Shared
from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.rounds import confidence_of, held_by_round
from mpdf_langgraph.traces.records import Episode
from tests.support.synthetic import synthetic_episodes
from training.learn import joint_rounds as play
from training.learn.joint import Joint
from training.learn.recalibrate import observations, recalibrate
from training.learn.recorded import record

APART = INDEX["agrees"]  # who looks is another


def joined(episodes: list[Episode]) -> Joint:
    return record(episodes, operator.eq).joint


@pytest.mark.parametrize("rule", ["confidence", "majority"])
@pytest.mark.parametrize("agents", [1, 2, 3, 5])
def test_a_state_is_described_as_the_plugin_observes_it(agents: int, rule: str) -> None:
    episodes = list(synthetic_episodes(12, agents, agents=agents, rounds=3, consensus=rule))
    joint = joined(episodes)
    assert len(joint) == 36
    every = np.arange(len(joint))
    now, there, tally = play.describe(joint, every, joint.before, later=False)
    held, persisted, _ = play.after(joint, every, joint.taken)
    then, _, later = play.describe(joint, every, held)
    assert there.all()
    right = play.group_right(joint, held, later)
    for state in every:
        episode, round_ = episodes[joint.episode[state]], int(joint.round[state])
        told = episode.tallies
        clusters = joint.cluster[joint.before[state]]
        winner = tally.winner[state]
        assert (None if winner < 0 else clusters[winner] - 1) == told[round_ - 1]["cluster"]
        assert right[state] == (told[round_]["answer"] == episode.reference)
        turns = [t for t in episode.turns if t["round"] == round_]
        assert persisted[state] == all(t["action"] == "PERSIST" for t in turns)
        seen = [o["own"] for o in observations(episode, round_).values()]
        assert np.delete(now[state], APART, 1) == pytest.approx(np.delete(seen, APART, 1), abs=1e-6)
        if round_ < 3:
            seen = [o["own"] for o in observations(episode, round_ + 1).values()]
            assert np.delete(then[state], APART, 1) == pytest.approx(
                np.delete(seen, APART, 1), abs=1e-6
            )


def fitted(agents: int, seed: int) -> LearnedConsensus:
    """Return a consensus of random weights, which does not know the last agent."""
    rng = np.random.default_rng(seed)
    names = synthetic_names(agents)[:-1] if agents > 1 else synthetic_names(agents)
    pairs = rng.normal(size=(len(names), len(names)))
    pairs = (pairs + pairs.T) * (1 - np.eye(len(names)))
    return LearnedConsensus(
        shared=Shared(**{name: float(rng.normal()) for name in Shared.model_fields}),
        agents=tuple(names),
        votes=tuple(rng.normal(size=len(names)).tolist()),
        pairs=tuple(tuple(row) for row in pairs.tolist()),
    )


def synthetic_names(agents: int) -> list[str]:
    [episode] = synthetic_episodes(1, 1, agents=agents)
    return [agent["name"] for agent in episode.agents]


@pytest.mark.filterwarnings("ignore:the learned consensus does not know")
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("agents", [1, 2, 3, 5])
def test_a_probabilistic_rule_decides_as_in_the_plugin(agents: int, learned: bool) -> None:
    """Also where several agents hold the response of one, and where an agent is not known."""
    rule = "confidence" if learned else "log-odds"
    episodes = list(synthetic_episodes(20, agents, agents=agents, rounds=3, consensus=rule))
    if learned:
        fit = fitted(agents, agents)
        episodes = [recalibrate(e, Calibration({}), consensus=fit) for e in episodes]
    joint = joined(episodes)
    every = np.arange(len(joint))
    held, _, _ = play.after(joint, every, joint.taken)
    tally = play.count(joint, every, held)
    checked = 0
    for state in every:
        episode, round_ = episodes[joint.episode[state]], int(joint.round[state])
        told = episode.tallies[round_]
        if tally.winner[state] < 0 or "probability" not in told:
            continue
        cluster = joint.cluster[held[state, tally.winner[state]]] - 1
        known = [r for r in held_by_round([a["name"] for a in episode.agents], episode.responses,
                                          episode.turns)[round_].values() if r]  # fmt: skip
        unsure = any(confidence_of(r) is None for r in known)
        if not learned and unsure:
            continue  # by log-odds, the mean of the episode stands for that of the team
        assert tally.probability[state] == pytest.approx(told["probability"], abs=1e-4)
        assert cluster == told["cluster"] or told["tie"]
        checked += 1
    assert checked > 20


def test_teams_of_several_sizes_share_arrays() -> None:
    episodes = [*synthetic_episodes(3, 1, agents=2), *synthetic_episodes(3, 2, agents=4)]
    joint = joined(episodes)
    alone = joined(episodes[:3])
    every = np.arange(len(alone))
    wide, there, _ = play.describe(joint, every, joint.before[every], later=False)
    narrow, _, _ = play.describe(alone, every, alone.before, later=False)
    assert there.sum(1).tolist() == [2] * len(alone)
    assert wide[:, :2] == pytest.approx(narrow)
    assert not wide[:, 2:].any()


def test_moves_are_drawn_as_the_policy_says() -> None:
    joint = joined(list(synthetic_episodes(1, 0, rounds=1)))
    policy = np.array([[[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    chances = play.move_chances(joint, np.array([0]), policy)
    action = joint.action[[0]]
    assert chances.sum(2) == pytest.approx(np.ones((1, 3)))
    known = {a for a in range(3) if (action[0, 0] == a).any()}
    total = sum(policy[0, 0, a] for a in known)
    for a in known:
        assert chances[0, 0][action[0, 0] == a].sum() == pytest.approx(policy[0, 0, a] / total)
    many = np.zeros(4000, int)
    drawn = play.draw_moves(joint, many, np.repeat(policy, 4000, 0), np.random.default_rng(0))
    found = [(drawn[:, 0] == k).mean() for k in range(chances.shape[2])]
    assert found == pytest.approx(chances[0, 0].tolist(), abs=0.03)
    assert (joint.action[0, 1][drawn[:, 1]] == 1).all()
    assert (drawn[:, 2] == 0).all()
