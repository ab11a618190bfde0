"""Consensus: the rules against brute force, ties, and whom one concedes to."""

import functools
import itertools
import math
import operator
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mpdf_langgraph.consensus import (
    ConsensusRule,
    Vote,
    concession,
    confidence_weighted,
    confidence_weights,
    count_votes,
    majority,
    make_rule,
    strongest_response,
    votes_of,
)
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import Response
from tests.support.records import response, team, teams, unit

ANSWERS = [str(cluster) for cluster in range(9)]
Held = dict[str, Response | None]


def cast(*members: tuple[int | None, float | None]) -> list[Vote]:
    """Return the votes of agents a, b, c, ..."""
    return [Vote("abcdefgh"[i], *member) for i, member in enumerate(members)]


clusters = st.none() | st.integers(0, 3)
# Coarse confidences tie often, any others hardly ever.
confidences = st.none() | st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0]) | unit
ballots = st.lists(st.tuples(clusters, confidences), max_size=8).map(lambda ms: cast(*ms))


def standing(votes: list[Vote], rule: ConsensusRule) -> dict[int, tuple[Any, Any]]:
    """Return, per cluster, what `rule` compares first and second, in exact arithmetic.

    A sum of floats is rounded once, as the documents promise no more than that.
    """
    valid = [v for v in votes if v.cluster is not None]
    known = [Fraction(v.confidence) for v in valid if v.confidence is not None]
    fill = float(sum(known)) / len(known) if known else 1.0
    table: dict[int, tuple[Any, Any]] = {}
    for cluster in {v.cluster for v in valid if v.cluster is not None}:
        mine = [
            fill if v.confidence is None else v.confidence for v in valid if v.cluster == cluster
        ]
        weight = float(sum(map(Fraction, mine)))
        pair = (len(mine), weight)
        table[cluster] = pair if rule is majority else pair[::-1]
    return table


RULES = pytest.mark.parametrize("rule", [majority, confidence_weighted])


@RULES
@given(votes=ballots)
def test_rules_against_brute_force(rule: ConsensusRule, votes: list[Vote]) -> None:
    table = standing(votes, rule)
    if not table:
        assert rule(votes) is None
        return
    best = [cluster for cluster, score in table.items() if score == max(table.values())]
    first_in_team = next(v.cluster for v in votes if v.cluster in best)
    assert rule(votes) == first_in_team


@RULES
@given(votes=ballots, rng=st.randoms(use_true_random=False))
@example(votes=cast((0, 0.1), (0, 0.2), (0, 0.3), (1, 0.6)), rng=random.Random(1))
def test_the_order_of_the_team_decides_ties_only(
    rule: ConsensusRule, votes: list[Vote], rng: random.Random
) -> None:
    scores = list(standing(votes, rule).values())
    assume(not scores or scores.count(max(scores)) == 1)
    shuffled = rng.sample(votes, len(votes))
    assert rule(shuffled) == rule(votes)


def test_rounding_does_not_depend_on_the_order() -> None:
    tenths = [0.1, 0.2, 0.3, 0.7]
    sums = {functools.reduce(operator.add, order) for order in itertools.permutations(tenths)}
    assert len(sums) > 1  # plain sums, as `sum` makes them before Python 3.12, depend on the order
    exact = math.fsum(tenths)
    for order in itertools.permutations(tenths):
        left = [(0, c) for c in order]
        # The other cluster's two votes sum to exactly the same, with fewer votes.
        votes = cast((1, exact / 2), (1, exact / 2), *left)
        assert confidence_weighted(votes) == 0
        votes = cast((1, exact / 2), (1, math.nextafter(exact / 2, 9)), *left)
        assert confidence_weighted(votes) == 1


@RULES
def test_abstaining(rule: ConsensusRule) -> None:
    assert rule([]) is None
    assert rule(cast((None, 1.0), (None, None))) is None
    assert rule(cast((None, 1.0), (None, 1.0), (2, 0.1))) == 2


def test_tie_rules_as_documented() -> None:
    # majority: votes, then confidence, then the team's order
    assert majority(cast((0, 0.9), (1, 0.1), (1, 0.1))) == 1
    assert majority(cast((0, 0.2), (1, 0.3))) == 1
    assert majority(cast((1, 0.3), (0, 0.3))) == 1
    # confidence: confidence, then votes, then the team's order
    assert confidence_weighted(cast((0, 0.9), (1, 0.4), (1, 0.4))) == 0
    assert confidence_weighted(cast((0, 0.5), (1, 0.25), (1, 0.25))) == 1
    assert confidence_weighted(cast((1, 0.3), (0, 0.3))) == 1
    # nobody is confident: a plain vote
    assert confidence_weighted(cast((0, 0.0), (1, 0.0), (1, 0.0))) == 1


def test_unknown_confidences() -> None:
    mean = confidence_weights(cast((0, 0.2), (0, None), (1, 0.8), (None, 0.9)))
    assert mean == {"a": 0.2, "b": 0.5, "c": 0.8}
    assert confidence_weights(cast((0, None), (1, None))) == {"a": 1.0, "b": 1.0}
    assert confidence_weighted(cast((0, None), (1, None), (1, None))) == 1
    assert confidence_weights([]) == {}


@given(ballots)
def test_a_dead_critic_leaves_the_plain_vote(votes: list[Vote]) -> None:
    silent = [Vote(v.agent, v.cluster) for v in votes]
    assert confidence_weighted(silent) == majority(silent)


# --- counting -------------------------------------------------------------------------------


@RULES
@given(held=teams(whole=False))
def test_the_record_of_a_vote(rule: ConsensusRule, held: Held) -> None:
    tally = count_votes(held, rule, ANSWERS)
    votes = votes_of(held)
    valid = [v.cluster for v in votes if v.cluster is not None]
    assert tally["votes"] == {v.agent: v.cluster for v in votes}
    assert list(tally["votes"]) == list(held)
    assert tally["cluster"] == rule(votes)
    if not valid:
        empty = (tally["answer"], tally["cluster"], tally["response"], tally["support"])
        assert empty == (None, None, None, 0.0)
        assert not tally["tie"]
        return
    assert tally["answer"] == ANSWERS[tally["cluster"] or 0]
    assert tally["support"] == valid.count(tally["cluster"]) / len(valid)
    assert set(tally["weights"]) == {v.agent for v in votes if v.cluster is not None}
    firsts = [score[0] for score in standing(votes, rule).values()]
    assert tally["tie"] == (firsts.count(max(firsts)) > 1)
    # The strongest_response of those who hold it speaks for it.
    weights = confidence_weights(votes)
    spokesman = next(r for r in held.values() if r and r["id"] == tally["response"])
    assert spokesman["cluster"] == tally["cluster"]
    backers = [v for v in votes if v.cluster == tally["cluster"]]
    assert weights[spokesman["agent"]] == max(weights[v.agent] for v in backers)


def test_weights_are_those_of_the_rule() -> None:
    held = team((0, 0.9), (1, 0.3), (1, None), None)
    assert count_votes(held, majority, ANSWERS)["weights"] == {"a": 1.0, "b": 1.0, "c": 1.0}
    weights = count_votes(held, confidence_weighted, ANSWERS)["weights"]
    assert weights == {"a": 0.9, "b": 0.3, "c": pytest.approx(0.6)}


def test_rules_of_ones_own() -> None:
    held = team((0, 0.9), (1, 0.3), (None, None))
    last = count_votes(held, lambda votes: votes[1].cluster, ANSWERS)
    assert (last["answer"], last["response"], last["support"]) == ("1", "b@0", 0.5)
    nobody = count_votes(held, lambda votes: None, ANSWERS)
    assert (nobody["answer"], nobody["response"], nobody["support"]) == (None, None, 0.0)
    counted = count_votes(held, lambda votes: np.int64(1), ANSWERS)
    assert type(counted["cluster"]) is int  # checkpointers refuse numpy's
    for wrong in (2, "0", -1, 0.5):
        with pytest.raises(ConfigurationError, match=r"expected None or one of \[0, 1\]"):
            count_votes(held, lambda votes, wrong=wrong: wrong, ANSWERS)


def test_a_rule_of_ones_own_has_no_ties() -> None:
    held = team((0, 0.5), (1, 0.5))
    assert count_votes(held, confidence_weighted, ANSWERS)["tie"]
    assert not count_votes(held, lambda votes: votes[0].cluster, ANSWERS)["tie"]


class Sure:
    """A rule that gives the first answer this probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, votes: Any) -> int | None:
        return 0

    def probabilities(self, votes: Any) -> dict[int, float]:
        return {0: self.probability, 1: 0.1}


@pytest.mark.parametrize("wrong", [float("nan"), 7.0, -0.1, "0.5"])
def test_the_probabilities_of_a_rule_are_checked(wrong: Any) -> None:
    held = team((0, 0.9), (1, 0.3))
    assert count_votes(held, Sure(0.8), ANSWERS)["probability"] == 0.8
    with pytest.raises(ConfigurationError, match=r"P\(0\) must be a number in \[0, 1\]"):
        count_votes(held, Sure(wrong), ANSWERS)


def test_a_rule_gives_each_answer_its_probability() -> None:
    with pytest.raises(ConfigurationError, match=r"P\(2\) must be .*, got None"):
        count_votes(team((0, 0.9), (2, 0.3)), Sure(0.8), [*ANSWERS, "7"])


def test_a_rule_cannot_change_the_record() -> None:
    held = team((0, 0.9), (1, 0.3), (1, 0.2))

    def spoils(votes: Any) -> int:
        votes.reverse()
        return int(votes[0].cluster)

    assert list(count_votes(held, spoils, ANSWERS)["votes"]) == ["a", "b", "c"]


def test_make_rule() -> None:
    assert make_rule("majority") == ("majority", majority)
    assert make_rule("confidence") == ("confidence", confidence_weighted)
    assert make_rule(majority) == ("majority", majority)
    for wrong in ("plurality", None, 3, Vote):
        with pytest.raises(
            ConfigurationError, match=r"use 'majority', 'confidence', .*or a callable"
        ):
            make_rule(wrong)


# --- whom one concedes to -------------------------------------------------------------------


def test_concession_by_hand() -> None:
    # Two peers at .5 outweigh one at .9. The stronger of the two is adopted.
    held = team((0, 0.95), (1, 0.9), (2, 0.5), (2, 0.55))
    assert concession(held, "a") == "d@0"
    assert concession(held, "b") == "d@0"
    assert concession(held, "c") == "a@0"  # its own answer has 1.05, but is its own
    assert concession(team((0, 0.1), (0, 0.9)), "a") is None
    assert concession(team((0, 0.1)), "a") is None
    assert concession(team(None, (None, 0.9)), "a") is None
    assert concession(team(None, (3, None)), "a") == "b@0"
    assert concession(team((None, 1.0), (3, 0.0)), "a") == "b@0"


def test_a_peer_that_holds_an_adopted_response_stands_for_it() -> None:
    adopted = response("c", 1, 0.8)
    held: Held = {"a": response("a", 0, 0.9), "b": adopted, "c": adopted}
    assert concession(held, "a") == "c@0"
    assert strongest_response(held, 1) == "c@0"
    assert strongest_response(held, None) is None


@given(teams(whole=False))
def test_concession_against_brute_force(held: Held) -> None:
    for agent, own in held.items():
        mine = own["cluster"] if own else None
        others = {
            n: r
            for n, r in held.items()
            if n != agent and r and r["cluster"] is not None and r["cluster"] != mine
        }
        chosen = concession(held, agent)
        if not others:
            assert chosen is None
            continue
        table = standing(votes_of(others), confidence_weighted)
        weights = confidence_weights(votes_of(others))
        target = next(r for r in others.values() if r["id"] == chosen)
        assert target["cluster"] is not None
        assert table[target["cluster"]] == max(table.values())
        same = [n for n, r in others.items() if r["cluster"] == target["cluster"]]
        assert weights[target["agent"]] == max(weights[n] for n in same)
