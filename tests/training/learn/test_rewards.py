"""Rewards: by hand, against the graph's own records, and as properties of made-up episodes."""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph import Agent, Episode, MathAnswer, create_deliberation
from mpdf_langgraph.consensus import count_votes, make_rule
from mpdf_langgraph.errors import ConfigurationError, TraceError
from mpdf_langgraph.observation import FEATURE_VERSION, FEATURES
from mpdf_langgraph.state import ACTIONS, Failure, Observation, Response, Turn
from tests.support.counterfactuals import Decision, decisions
from tests.support.records import critique, response, usage
from tests.support.running import record_of
from tests.support.scripted import Reply, Request, Scripted, StatusError
from tests.support.synthetic import synthetic_episodes
from training.learn.dataset import Groups, make_groups
from training.learn.recalibrate import observations
from training.learn.rewards import (
    CONCEDE,
    PERSIST,
    REFINE,
    Grader,
    Weights,
)

BOTH = Weights()


def exactly(answer: str, reference: str) -> bool:
    return answer == reference


# --- by hand --------------------------------------------------------------------------------


def said(id_: str, cluster: int | None, confidence: float, tokens: int = 0) -> Response:
    """A response to clusters "4" (0) and "5" (1) that took `tokens`, and its critique 2 more."""
    agent, round_ = id_.split("+")[0].split("@")
    return response(
        agent,
        cluster,
        round_=int(round_),
        id=id_,
        answer=None if cluster is None else ("4", "5")[cluster],
        critique=critique(confidence, cost=usage(prompt=1, completion=1)),
        usage=usage(prompt=tokens // 2, completion=tokens - tokens // 2),
    )


def turn(agent: str, action: Any, after: str | None, **fields: Any) -> Turn:
    nothing = [0.0] * len(FEATURES)
    plain = Turn(
        agent=agent,
        round=1,
        observation=Observation(own=nothing, peers=[nothing, nothing]),
        mask=[True, True, True],
        probabilities=[0.2, 0.3, 0.5],
        action=action,
        before=f"{agent}@0",
        after=after,
        target=None,
        alternatives=[],
        blocked=None,
    )
    return Turn(**{**plain, **fields})


def by_hand(
    consensus: str = "majority", refined: float = 0.7, **changes: Mapping[str, Any]
) -> Episode:
    """Ann is wrong and refines, bob persists, cy concedes to what ann held. The answer is 5.

    `changes` are those of the agents' turns.
    """
    told = [
        said("ann@0", 0, 0.9),
        said("bob@0", 1, 0.6),
        said("cy@0", 1, 0.5),
        said("ann@1", 1, refined, tokens=10),
        said("ann@1+1", 0, 0.8, tokens=20),
        said("ann@1+2", None, 0.1, tokens=30),
    ]
    responses = {r["id"]: r for r in told}
    turns = [
        turn("ann", "REFINE", "ann@1", target="bob@0", alternatives=[f"ann@1+{k}" for k in "123"]),
        turn("bob", "PERSIST", "bob@0", target="ann@0", mask=[True, False, True]),
        turn("cy", "CONCEDE", "ann@0", target="ann@0"),
    ]
    turns = [Turn(**{**t, **changes.get(t["agent"], {})}) for t in turns]
    rule = make_rule(consensus)[1]
    before = {t["agent"]: responses[f"{t['agent']}@0"] for t in turns}
    after = {t["agent"]: responses[t["after"]] if t["after"] else None for t in turns}
    return Episode(
        schema_version=1,
        id="e",
        started=0.0,
        graph="g",
        question="2 + 3?",
        reference="5",
        contexts={},
        history=[],
        agents=[{"name": name, "competence": 0.5} for name in ("ann", "bob", "cy")],
        options={"consensus": consensus, "max_rounds": 1, "feature_version": FEATURE_VERSION},
        responses=responses,
        turns=turns,
        failures=[],
        representatives=["4", "5"],
        tallies=[count_votes(held, rule, ["4", "5"]) for held in (before, after)],
        outcome={},
    )


Rollout = tuple[int, int, int, int, str | None, bool]


def grade(
    episode: Episode, grader: Grader = exactly, **options: Any
) -> tuple[Groups, list[Decision]]:
    """The graded groups of an episode, and the decisions that they are of."""
    return make_groups([episode], grader, **options), decisions(episode)


def seen(episode: Episode, **options: Any) -> list[list[Rollout]]:
    """By group: action, local and global reward, tokens, response held, whether it was taken."""
    groups, made = grade(episode, **options)
    return [
        [
            (
                move.action,
                int(groups.local[i, k]),
                int(groups.global_[i, k]),
                int(groups.tokens[i, k]),
                move.response,
                move.taken,
            )
            for k, move in enumerate(decision.moves)
        ]
        for i, decision in enumerate(made)
    ]


@pytest.mark.parametrize("consensus", ["majority", "confidence"])
def test_three_agents_by_hand(consensus: str) -> None:
    """Afterwards ann holds 5 (.7), bob 5 (.6), cy 4 (.9, ann's old response)."""
    episode = by_hand(consensus)
    ann, bob, cy = seen(episode)
    groups, made = grade(episode)

    # Without ann 5 (.6) ties with 4 (.9): the tie goes to 4, which is wrong.
    assert ann == [
        (PERSIST, 0, 0, 0, "ann@0", False),  # 4, 5, 4
        (REFINE, 1, 1, 12, "ann@1", True),  # 5, 5, 4
        (REFINE, 0, 0, 22, "ann@1+1", False),  # 4, 5, 4
        (REFINE, 0, 0, 32, "ann@0", False),  # no answer: it keeps its own
        (CONCEDE, 1, 1, 0, "bob@0", False),  # 5, 5, 4
    ]
    assert groups.held_right.tolist() == [False, True, True]
    assert groups.disagreement.all()
    assert groups.taken.tolist() == [REFINE, PERSIST, CONCEDE]
    assert (groups.episodes, groups.questions) == (["e"], ["2 + 3?"])
    assert (groups.agents, groups.round.tolist()) == (["ann", "bob", "cy"], [1, 1, 1])
    assert made[0].behaviour == [0.2, 0.3, 0.5]
    assert groups.correct[0].tolist() == [False, True, False, False, True]
    assert groups.consensus[0].tolist() == [False, True, False, False, True]

    # Without bob 5 (.7) ties with 4 (.9), which wins. REFINE was not allowed.
    assert bob == [
        (PERSIST, 0, 1, 0, "bob@0", True),
        (CONCEDE, -1, 0, 0, "ann@0", False),  # ann's response before, not the one she has now
    ]
    assert groups.action_mask[1].tolist() == [True, False, True]

    # Without cy both others say 5. REFINE was allowed, but nobody knows what it would have said.
    assert cy == [
        (PERSIST, 0, 0, 0, "cy@0", False),
        (CONCEDE, -1, 0, 0, "ann@0", True),
    ]
    assert groups.labels(BOTH).tolist() == [CONCEDE, PERSIST, PERSIST]


def test_the_consensus_is_the_episodes_own() -> None:
    """Refined to a confidence of .2 only, ann and bob have .8 against cy's .9."""
    taken = {name: seen(by_hand(name, refined=0.2))[0][1] for name in ("majority", "confidence")}
    assert {name: r[2] for name, r in taken.items()} == {"majority": 1, "confidence": 0}
    assert {r[1] for r in taken.values()} == {1}


def test_weights_by_hand() -> None:
    groups, _ = grade(by_hand())
    _, refine, worse, _, concede = groups.rewards(Weights(cost=10))[0].tolist()
    assert (refine, worse, concede) == pytest.approx((2 - 0.12, -0.22, 2))
    assert groups.rewards(BOTH)[0, 1] == 2
    assert groups.rewards(Weights(local=0.5, global_=3))[0, 1] == 3.5
    # Means: PERSIST 0, REFINE 2/3, CONCEDE 2.
    powers = [1, math.exp(2 / 3), math.exp(2)]
    soft = groups.soft_labels(BOTH, 1.0)
    assert soft[0].tolist() == pytest.approx([power / sum(powers) for power in powers])
    assert soft[2, REFINE] == 0.0
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="temperature"):
            groups.soft_labels(BOTH, wrong)


def test_ties_go_to_the_cheapest() -> None:
    nothing = Weights(local=0.0, global_=0.0)
    assert grade(by_hand())[0].labels(nothing).tolist() == [PERSIST] * 3
    # Equal at the top without PERSIST: both REFINE and CONCEDE lead to 5.
    alone = grade(by_hand(ann={"alternatives": []}))[0]
    assert alone.actions[0].tolist() == [PERSIST, REFINE, CONCEDE]
    assert alone.labels(BOTH)[0] == CONCEDE
    assert alone.labels(Weights(local=1 / 3, global_=0.1))[0] == CONCEDE


def test_a_failed_refine_keeps_the_response_and_is_a_rollout() -> None:
    failed = by_hand(ann={"after": "ann@0", "alternatives": []})
    cost = Failure(
        agent="ann",
        round=1,
        stage="refine",
        error="x",
        usage=usage(prompt=7, completion=4),
        seconds=0.0,
    )
    other = Failure(**{**cost, "stage": "alternative"})
    lost = {k: r for k, r in failed.responses.items() if k != "ann@1"}
    failed = failed.model_copy(update={"responses": lost, "failures": [cost, other]})
    assert seen(failed)[0][1] == (REFINE, 0, 0, 11, "ann@0", True)

    # It was drawn, but no answer could be parsed: the tokens are known.
    useless = by_hand(ann={"after": "ann@0", "alternatives": []})
    useless.responses["ann@1"] = said("ann@1", None, 0.4, tokens=10)
    assert seen(useless)[0][1] == (REFINE, 0, 0, 12, "ann@0", True)


def test_without_votes_the_consensus_is_wrong() -> None:
    silent = by_hand(ann={"after": None, "before": None, "action": "PERSIST", "alternatives": []})
    for id_ in [id_ for id_ in silent.responses if id_.startswith("ann")]:
        del silent.responses[id_]
    for name in ("bob", "cy"):
        silent.responses[f"{name}@0"] = said(f"{name}@0", None, 0.5)
    persists = {"action": "PERSIST", "mask": [True, False, False], "target": None}
    turns = [Turn(**{**t, **persists, "after": t["before"]}) for t in silent.turns]
    nobody = count_votes(dict.fromkeys("abc"), make_rule("majority")[1], [])
    silent = silent.model_copy(
        update={"turns": turns, "tallies": [nobody, nobody], "representatives": []}
    )
    asked = []
    groups, made = grade(silent, lambda *pair: bool(asked.append(pair)))
    assert len(groups) == len(made) == 3
    assert groups.rollout_mask.sum() == 3
    for values in (groups.local, groups.global_, groups.consensus, groups.disagreement):
        assert not values.any()
    assert asked == []  # there is no answer to grade


def test_the_reference_may_come_from_outside() -> None:
    unknown = by_hand().model_copy(update={"reference": None})
    assert len(make_groups([unknown], exactly)) == 0
    assert seen(unknown, labels={"e": "5"}) == seen(by_hand())
    assert seen(by_hand(), labels={"e": "4"}) != seen(by_hand())
    pairs: list[tuple[str, str]] = []
    make_groups([by_hand()], lambda *pair: bool(pairs.append(pair)), {"e": "7"})
    assert sorted(pairs) == [("4", "7"), ("5", "7")]  # each once, the answer first


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ann": {"after": "bob@0"}, "cy": {"after": "bob@0"}}, "cannot lead to"),
        ({"bob": {"action": "REFINE"}}, "REFINE .* cannot lead to"),  # masked
        ({"bob": {"target": None}}, "CONCEDE without a target"),
        ({"cy": {"observation": Observation(own=[0.0], peers=[])}}, "another shape"),
        ({"cy": {"agent": "dan"}}, "turns of ann, bob, dan"),
        ({"cy": {"agent": "bob"}}, "turns of ann, bob; the team is"),
    ],
)
def test_contradictions_are_errors(changes: Any, reason: str) -> None:
    wrong = by_hand()
    turns = [Turn(**{**t, **changes.get(t["agent"], {})}) for t in wrong.turns]
    with pytest.raises(TraceError, match=reason):
        decisions(wrong.model_copy(update={"turns": turns}))


def test_another_rule_than_the_records_is_an_error() -> None:
    tallies = [{**tally, "cluster": 1 - int(tally["cluster"] or 0)} for tally in by_hand().tallies]
    with pytest.raises(TraceError, match="was decided by another rule"):
        make_groups([by_hand().model_copy(update={"tallies": tallies})], exactly)


# --- against the graph ----------------------------------------------------------------------


def wavering(request: Request) -> Reply:
    """An answer, no answer or an error, by the words and the number of the request."""
    drawn = zlib.crc32(f"{request.number} {request.text}".encode()) % 10
    if drawn == 0:
        return StatusError(400)
    return "no idea" if drawn == 1 else f"Answer: {drawn % 3}"


def deliberate(router: Any, consensus: Any, seed: int, **options: Any) -> Episode:
    team = [
        Agent(name, Scripted(reply=wavering, logprob=-0.1 * i), retries=0)
        for i, name in enumerate(("ann", "bob", "cy", "dan"), 1)
    ]
    options |= {"router": router, "consensus": consensus, "stop_when_settled": False}
    builder = create_deliberation(team, critic="logprob", answer=MathAnswer(), **options)
    return record_of(builder, {"question": f"Question {seed}?", "reference": "1"})


@pytest.mark.parametrize("router", ["random", "always-refine", "always-persist"])
@pytest.mark.parametrize("consensus", ["majority", "confidence"])
@pytest.mark.parametrize("alternatives", [0, 2])
def test_what_was_done_is_what_the_graph_recorded(
    router: str, consensus: str, alternatives: int
) -> None:
    for seed in range(3):
        episode = deliberate(router, consensus, seed, alternatives=alternatives)
        episode = Episode.from_json(episode.to_json())
        check(episode, alternatives, MathAnswer().equivalent)


def test_a_budget_that_forbids_refine() -> None:
    episode = deliberate("random", "majority", 1, alternatives=2, max_calls=4)
    groups, made = grade(episode)
    assert made
    assert not groups.action_mask[:, REFINE].any()
    check(episode, 0)


def check(episode: Episode, alternatives: int, grader: Grader = exactly) -> None:
    """Check groups against the record, the counterfactuals by a count of the votes from it."""
    groups, made = grade(episode, grader)
    rule = make_rule(episode.options["consensus"])[1]

    def right(answer: str | None) -> bool:
        return answer == episode.reference

    def holding(held: dict[str, str | None]) -> str | None:
        told = {n: episode.responses[i] if i else None for n, i in held.items()}
        return count_votes(told, rule, episode.representatives)["answer"]

    def answer_of(response_id: str | None) -> str | None:
        return episode.responses[response_id]["answer"] if response_id else None

    assert [(d.agent, d.round) for d in made] == [(t["agent"], t["round"]) for t in episode.turns]
    for i, (decision, recorded) in enumerate(zip(made, episode.turns, strict=True)):
        assert decision.observation == recorded["observation"]
        assert decision.observation == observations(episode, decision.round)[decision.agent]
        [k] = [k for k, move in enumerate(decision.moves) if move.taken]
        taken = decision.moves[k]
        assert ACTIONS[taken.action] == recorded["action"]
        assert taken.action == decision.action == groups.taken[i]
        assert taken.response == recorded["after"]
        assert groups.consensus[i, k] == right(episode.tallies[decision.round]["answer"])
        actions = [move.action for move in decision.moves]
        assert actions[0] == PERSIST
        assert actions.count(PERSIST) == 1
        assert actions.count(CONCEDE) == decision.mask[CONCEDE]
        if not decision.mask[REFINE]:
            assert REFINE not in actions
        drawn = [id_ for id_ in recorded["alternatives"] if id_ in episode.responses]
        assert actions.count(REFINE) == len(drawn) + (recorded["action"] == "REFINE")
        assert len(drawn) <= alternatives

        after = {t["agent"]: t["after"] for t in episode.turns if t["round"] == decision.round}
        without = right(holding({**after, decision.agent: None}))
        before = right(answer_of(recorded["before"]))
        assert groups.held_right[i] == before
        for k, move in enumerate(decision.moves):
            consensus = right(holding({**after, decision.agent: move.response}))
            assert groups.consensus[i, k] == consensus
            assert groups.global_[i, k] == consensus - without
            assert groups.correct[i, k] == right(answer_of(move.response))
            assert groups.local[i, k] == right(answer_of(move.response)) - before
            assert (move.tokens > 0) <= (move.action == REFINE)

    # r_local telescopes: over the rounds an agent gains what it ended with.
    gained: dict[str, float] = {}
    ended: dict[str, bool] = {}
    for i, decision in enumerate(made):
        [k] = [k for k, move in enumerate(decision.moves) if move.taken]
        gained[decision.agent] = gained.get(decision.agent, 0.0) + groups.local[i, k]
        ended[decision.agent] = bool(groups.correct[i, k])
    for i, decision in enumerate(made):
        if decision.round == 1:
            assert gained[decision.agent] == ended[decision.agent] - float(groups.held_right[i])


# --- made-up episodes -----------------------------------------------------------------------

some_episode = st.builds(
    lambda **options: next(synthetic_episodes(1, **options)),
    seed=st.integers(0, 10**6),
    agents=st.integers(1, 5),
    rounds=st.integers(0, 3),
    alternatives=st.integers(0, 4),
    consensus=st.sampled_from(["majority", "confidence"]),
)


@given(some_episode)
def test_made_up_episodes_are_as_the_graph_would_record_them(episode: Episode) -> None:
    assert Episode.from_json(episode.to_json()) == episode
    check(episode, episode.options["alternatives"])


@given(some_episode)
def test_nothing_but_the_answers_depends_on_the_grader(episode: Episode) -> None:
    assert decisions(episode) == decisions(episode.model_copy(update={"reference": None}))
    always, made = grade(episode, lambda answer, reference: True)
    never, _ = grade(episode, lambda answer, reference: False)
    assert not any(values.any() for values in (never.correct, never.local, never.global_))
    for i, decision in enumerate(made):
        for k, move in enumerate(decision.moves):
            assert always.correct[i, k] == (move.answer is not None)
            assert always.consensus[i, k] == (move.consensus is not None)


@given(
    some_episode,
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(0, 5),
    st.floats(0.05, 5),
)
def test_labels(
    episode: Episode, local: float, global_: float, cost: float, temperature: float
) -> None:
    weights = Weights(local, global_, cost)
    groups, _ = grade(episode)
    rewards, labels = groups.rewards(weights), groups.labels(weights)
    softs = groups.soft_labels(weights, temperature)
    for i, (label, soft) in enumerate(zip(labels, softs, strict=True)):
        chosen = {a: groups.rollout_mask[i] & (groups.actions[i] == a) for a in range(3)}
        means = {a: rewards[i, c].mean(dtype=float) for a, c in chosen.items() if c.any()}
        assert means[label] == pytest.approx(max(means.values()), abs=1e-5)
        if means[PERSIST] == max(means.values()):
            assert label == PERSIST
        assert soft.sum() == pytest.approx(1)
        assert {action for action in range(3) if soft[action] == 0} >= {0, 1, 2} - set(means)
        assert soft[label] == pytest.approx(soft.max(), rel=1e-3)


@pytest.mark.parametrize(("hinted", "left"), [(None, 3), (2, 3), (1, 0)])
def test_rounds_from_a_hint_on_are_not_learned_from(hinted: int | None, left: int) -> None:
    plain = by_hand("majority")
    told = [{"action": "settle", "round": 1, "text": "", "seconds": 1.0}]
    if hinted is not None:
        told.insert(0, {"action": "hint", "round": hinted, "text": "not 4", "seconds": 1.0})
    episode = plain.model_copy(update={"interventions": told})
    assert seen(episode) == seen(plain)[:left]


def test_observations_of_another_version_are_rebuilt() -> None:
    episode = next(synthetic_episodes(1, seed=3))
    blank = Observation(own=[], peers=[])
    turns = [Turn(**{**t, "observation": blank}) for t in episode.turns]
    old = episode.model_copy(
        update={"turns": turns, "options": {**episode.options, "feature_version": 0}}
    )
    assert seen(old) == seen(episode)
    assert decisions(old) == decisions(episode)
