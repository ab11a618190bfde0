"""The fitted consensus: the same as the one that runs, its optimum, and what it learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from mpdf_langgraph import LearnedConsensus, MathAnswer
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_consensus import Shared
from tests.support.recorded import recorded_episode
from training.collect.importing import Answer
from training.learn.ballots import Ballots, drop_voices, make_ballots, merge_equal
from training.learn.choices import (
    LEARNED,
    RECORDED,
    SINGLE,
    Choice,
    choose,
    choose_rule,
    compare,
    cross_fit,
    fit_choosers,
    measure_records,
)
from training.learn.consensus_fit import (
    choose_strength,
    fit_consensus,
    fit_weights,
    learning_design,
    log_loss,
    make_design,
    measure_agreement,
)
from training.learn.origins import Origins

MATH = MathAnswer()


def synthetic(
    count: int,
    accuracy: tuple[float, ...],
    *,
    seed: int = 0,
    copies: dict[int, int] | None = None,
    confidence: bool = False,
    categories: tuple[str, ...] = (),
) -> Ballots:
    """Return states of agents that are right with these probabilities.

    Wrong answers are among three. `copies` maps an agent to the one whose answers it repeats.
    With categories, the first agent is right in the first category alone.
    """
    rng = np.random.default_rng(seed)
    size = len(accuracy)
    category = rng.integers(0, len(categories), count) if categories else np.full(count, -1)
    chance = np.tile(accuracy, (count, 1))
    if categories:
        chance[:, 0] = np.where(category == 0, 0.98, 0.1)
    told = np.clip(rng.beta(5 * chance, 5 * (1 - chance)), 0.001, 0.999)
    right = rng.random((count, size)) < (told if confidence else chance)
    cluster = np.where(right, 0, rng.integers(1, 4, (count, size)))
    for copy, original in (copies or {}).items():
        right[:, copy], cluster[:, copy] = right[:, original], cluster[:, original]
    every = np.arange(count)
    return Ballots(
        agents=tuple("abcdefgh"[:size]),
        categories=categories,
        questions=tuple(f"question {i}" for i in every),
        member=np.ones((count, size), bool),
        author=np.tile(np.arange(size), (count, 1)),
        cluster=cluster,
        confidence=told if confidence else np.full((count, size), np.nan),
        refined=np.zeros((count, size), bool),
        right=right,
        category=category,
        question=every,
        episode=every,
        first=np.ones(count, bool),
        last=np.ones(count, bool),
        recorded=right[:, 0],
        weight=np.ones(count),
    )


def accuracy(rule: LearnedConsensus, ballots: Ballots) -> float:
    chosen = [rule.of(ballots.category_of(e))(ballots.votes(e)) for e in range(len(ballots))]
    return float(np.mean([ballots.is_right(e, c) for e, c in enumerate(chosen)]))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_the_fit_scores_as_the_consensus_that_runs(data: Any, seed: int) -> None:
    """The design's probabilities are those of the plugin, for any weights."""
    rng = np.random.default_rng(seed)
    ballots = synthetic(6, (0.7, 0.6, 0.5), seed=seed, confidence=True, categories=("x", "y"))
    ballots = drop_voices(ballots, seed) if data.draw(st.booleans()) else ballots
    ballots.refined[:] = rng.random(ballots.refined.shape) < 0.3
    ballots.confidence[rng.random(ballots.confidence.shape) < 0.3] = np.nan
    design = make_design(ballots)
    weights = rng.normal(size=design.rows.shape[1])
    shared, own, (ab, ac, bc), x, y = np.split(weights, [8, 11, 14, 17])
    fit = LearnedConsensus(
        shared=Shared(**dict(zip(Shared.model_fields, shared.tolist(), strict=True))),
        agents=ballots.agents,
        votes=tuple(own.tolist()),
        pairs=((0.0, ab, ac), (ab, 0.0, bc), (ac, bc, 0.0)),
        categories={"x": tuple(x.tolist()), "y": tuple(y.tolist())},
    )
    scores = design.rows @ weights
    for state in range(len(ballots)):
        part = np.exp(scores[design.start[state] : design.start[state + 1]])
        expected = sorted((part / part.sum())[1:])
        found = fit.of(ballots.category_of(state)).probabilities(ballots.votes(state))
        assert sorted(found.values()) == pytest.approx(expected)


def test_the_gradient_is_the_loss_s() -> None:
    design = make_design(synthetic(20, (0.7, 0.5), confidence=True))
    weights = np.random.default_rng(1).normal(size=design.rows.shape[1])
    error = check_grad(lambda w: log_loss(design, w)[0], lambda w: log_loss(design, w)[1], weights)
    assert error < 1e-4


def test_it_finds_the_optimum_from_anywhere() -> None:
    design = learning_design(synthetic(200, (0.8, 0.6, 0.5), confidence=True))
    first = fit_weights(design, 3.0)
    start = np.random.default_rng(2).normal(size=len(first))
    again = fit_weights(design, 3.0, start)
    assert design.rows @ again == pytest.approx(design.rows @ first, abs=0.05)


def test_it_follows_the_expert() -> None:
    train, fresh = synthetic(400, (0.95, 0.4, 0.4)), synthetic(400, (0.95, 0.4, 0.4), seed=9)
    alone = fresh.right[:, 0].mean()
    assert accuracy(fit_consensus(train, strength=3.0), fresh) > alone - 0.02


def test_a_copy_adds_nothing() -> None:
    """c repeats b. Two voices that are one must not outvote a better one."""
    given: dict[str, Any] = {"copies": {2: 1}}
    train = synthetic(600, (0.75, 0.6, 0.6), **given)
    fresh = synthetic(600, (0.75, 0.6, 0.6), seed=9, **given)
    fit = fit_consensus(train, strength=3.0)
    assert fit.pairs[1][2] < fit.pairs[0][1]
    assert accuracy(fit, fresh) > fresh.right[:, 1].mean() + 0.08


def test_confidence_and_category_count() -> None:
    train, fresh = (synthetic(500, (0.6,) * 3, seed=s, confidence=True) for s in (0, 9))
    fit = fit_consensus(train, strength=3.0)
    assert fit.shared.confidence > 0.5
    deaf = fit_consensus(synthetic(500, (0.6,) * 3), strength=3.0)
    assert accuracy(fit, fresh) > accuracy(deaf, fresh) + 0.03
    train, fresh = (synthetic(500, (0.5,) * 3, seed=s, categories=("x", "y")) for s in (0, 9))
    fit = fit_consensus(train, strength=3.0)
    assert fit.categories["x"][0] > fit.categories["y"][0] + 1
    assert accuracy(fit, fresh) > 0.7


def test_its_probabilities_are_honest_also_in_part_of_the_team() -> None:
    train, fresh = synthetic(1000, (0.8, 0.6, 0.5)), synthetic(2000, (0.8, 0.6, 0.5), seed=9)
    fit = fit_consensus(train, strength=3.0)
    for asked in (fresh, drop_voices(fresh, 3)):
        right, told = [], []
        for e in range(len(asked)):
            found = fit.of().probabilities(asked.votes(e))
            best = max(found, key=found.__getitem__)
            right.append(asked.is_right(e, best))
            told.append(found[best])
        assert np.mean(told) == pytest.approx(np.mean(right), abs=0.03)


def test_strong_penalties_win_where_agents_are_alike() -> None:
    alike, apart = synthetic(200, (0.7,) * 4), synthetic(200, (0.95, 0.3, 0.3, 0.3))
    assert choose_strength(alike) > choose_strength(apart)


def test_wrong_answers_agree_as_measured() -> None:
    assert measure_agreement(synthetic(3000, (0.2,) * 3)) == pytest.approx(1 / 3, abs=0.03)


# --- reading -----------------------------------------------------------------------------------


def test_ballots_of_episodes() -> None:
    rows = {"2+2?": ("4", {"ann": "4", "bo": "5", "cy": "nothing"}), "3+3?": ("6", {"ann": "7"})}
    rows["3+3?"][1]["bo"] = "7"
    episodes = [
        recorded_episode(
            question, truth, [Answer(a, f"#### {t}" if t.isdigit() else t, None)
                              for a, t in said.items()], schema=MATH,
        )
        for question, (truth, said) in rows.items()
    ]  # fmt: skip
    ballots = make_ballots(episodes, MATH.equivalent)
    first = ballots.select(ballots.first)
    assert [[vote.agent for vote in first.votes(e)] for e in range(2)] == [["ann", "bo"]] * 2
    assert first.right[0, :2].tolist() == [True, False]
    assert not first.right[1].any()
    assert first.member[0].tolist() == [True, True, True]
    assert measure_records(ballots) == {"ann": 0.5, "bo": 0.0, "cy": 0.0}
    alone = ballots.of_agents(["bo"])
    assert [len(alone.votes(e)) for e in range(len(alone))] == [1] * len(alone)
    assert len(make_ballots([], MATH.equivalent)) == 0


def test_a_part_of_the_team_that_was_asked_and_gave_no_answer_is_kept() -> None:
    said = [{"ann": "#### 4", "bo": "no idea"}, {"ann": "#### 4", "cy": "#### 5"}]
    episodes = [
        recorded_episode(f"{n}?", "4", [Answer(a, t, None) for a, t in one.items()], schema=MATH)
        for n, one in enumerate(said)
    ]
    ballots = make_ballots(episodes, MATH.equivalent)
    alone = ballots.select(ballots.first).of_agents(["bo"])  # nobody asked bo the second question
    assert [alone.questions[q] for q in alone.question] == ["0?"]
    assert alone.votes(0) == []
    assert measure_records(alone) == {"bo": 0.0}


# --- which rule to run -------------------------------------------------------------------------


def test_asking_the_best_agent_alone_is_advised_where_nothing_beats_it() -> None:
    train, held = (synthetic(200, (0.95, 0.4, 0.4), seed=s) for s in (0, 9))
    found = compare(train, held)
    assert found.chosen == SINGLE
    assert found.best == "a"
    assert found.advise(Origins()).startswith("Run: ask agent a alone (accuracy 0.9")
    assert found.held_out[SINGLE].calls.mean() == 1


def test_few_held_out_questions_are_told_before_the_advice() -> None:
    few = compare(synthetic(200, (0.95, 0.4, 0.4)), synthetic(4, (0.999, 0.4, 0.4), seed=9))
    told = few.advise(Origins())
    assert told.startswith("The held-out questions are too few to advise: 4, and 30 are needed.")
    # Wilson's interval: four of four right are no proof of never being wrong.
    assert told.endswith("agent a alone (accuracy 1.000 [0.510, 1.000] on 4 held-out questions).")


@pytest.mark.parametrize(
    ("routers", "says"),
    [
        (
            ("threshold",),
            "Run: the whole debate, with the router threshold and the",
        ),
        (("random",), "The traces' router (random) is none to deploy: training/evaluate.py tells"),
        (("logged",), "The traces' router (logged) is none to deploy: training/evaluate.py tells"),
        (("mine", "threshold"), "The traces' router (mine, threshold) is none to deploy"),
        ((), "The traces' router (unknown) is none to deploy"),
    ],
)
def test_a_policy_that_only_makes_traces_is_not_advised(
    routers: tuple[str, ...], says: str
) -> None:
    found = compare(synthetic(200, (0.6,) * 3), synthetic(100, (0.6,) * 3, seed=9))
    held_out = {**found.held_out, RECORDED: found.held_out["majority"]}
    told = replace(found, chosen=RECORDED, held_out=held_out).advise(Origins(routers=routers))
    assert says in told
    assert "on 100 held-out questions, as recorded)" in told
    assert ("Deliberating pays." in told) == (routers != ("threshold",))


def test_the_team_is_advised_where_it_is_surely_better() -> None:
    train, held = (synthetic(300, (0.65,) * 5, seed=s) for s in (0, 9))
    found = compare(train, held)
    assert found.chosen not in (SINGLE, "debate as recorded")
    assert found.difference(found.chosen, SINGLE).low > 0
    assert found.held_out["adaptive consistency"].calls.mean() < 5


def test_the_simplest_of_equals_is_advised() -> None:
    def choice(*right: float) -> Choice:
        values = np.array(right * 100)
        return Choice(values, values, values, np.zeros((0, 2)))

    question = np.arange(200)
    found = {SINGLE: choice(0, 1), "majority": choice(1, 1), LEARNED: choice(1, 1)}
    assert choose_rule(found, question) == "majority"
    assert choose_rule({**found, SINGLE: choice(1, 1)}, question) == SINGLE
    recorded = {**found, "debate as recorded": choice(1, 1)}
    assert choose_rule(recorded, question) == "majority"
    recorded["majority"] = recorded[LEARNED] = choice(1, 0)
    assert choose_rule(recorded, question) == "debate as recorded"


def test_cross_fitting_learns_from_other_questions_alone() -> None:
    """An agent that is right at random cannot look good by being remembered."""
    ballots = synthetic(300, (0.5,) * 3, seed=4)
    found, gain = cross_fit(ballots, 1.0)
    assert gain.mean == pytest.approx(found[LEARNED].right.mean() - ballots.recorded.mean())
    assert all(len(choice.right) == len(ballots) for choice in found.values())
    assert not np.isnan(found[LEARNED].probability).any()
    whole = choose(fit_choosers(ballots, 1.0), ballots)
    assert found[LEARNED].right.mean() <= whole[LEARNED].right.mean() + 0.01


def few_confidences(*known: int) -> Ballots:
    """States of which only these have confidences."""
    ballots = synthetic(60, (0.7, 0.6, 0.5), confidence=True)
    rest = np.setdiff1d(np.arange(60), known)
    ballots.confidence[rest] = np.nan
    return ballots


def test_a_rule_that_some_fold_cannot_learn_is_left_out() -> None:
    """Whoever answers the one question with confidences has learned from none."""
    for known in range(3):
        ballots = few_confidences(known)
        found, _ = cross_fit(ballots, 1.0)
        assert [*found] == [SINGLE, "majority", "vote by record", "adaptive consistency", LEARNED]
        assert compare(ballots, synthetic(20, (0.7, 0.6, 0.5), seed=9)).chosen in found
    assert "vote by confidence" in cross_fit(few_confidences(*range(20)), 1.0)[0]


@pytest.mark.parametrize("questions", [0, 3])
def test_where_no_training_question_has_an_answer_nothing_is_compared(questions: int) -> None:
    training, held = synthetic(questions, (0.7, 0.6)), synthetic(1, (0.7, 0.6))
    training.author[:] = -1
    told = rf"{questions + 1} questions leave none .* and 1 to report: collect more traces"
    held = replace(held, question=held.question + 99)
    with pytest.raises(ConfigurationError, match=told):
        compare(training, held)


def test_the_risk_curve_is_of_held_out_questions() -> None:
    train, held = (synthetic(n, (0.8,) * 4, seed=s) for n, s in ((250, 0), (400, 9)))
    risk = compare(train, held).consensus.risk
    assert risk.root[-1].accepted <= 400
    bar = risk.bar(0.1)
    assert bar is not None
    [step] = [step for step in risk.root if step.bar == bar]
    assert step.wrong / step.accepted < 0.1


def test_what_a_bar_accepts_is_counted_where_it_was_not_chosen() -> None:
    train, held = (synthetic(n, (0.8,) * 4, seed=s) for n, s in ((250, 0), (800, 9)))
    found = compare(train, held)
    accepted, wrong = found.try_risk(0.1)
    assert 0 < wrong < 0.1 * accepted < 0.1 * 800
    half = np.random.default_rng(0).permutation(800) % 2
    # Where one half is always wrong, it lets the other accept nothing. Its own bar stays.
    worse = replace(found.ends, right=np.where(half == 0, 0.0, found.ends.right))
    fewer, bad = replace(found, ends=worse).try_risk(0.1)
    assert 0 < fewer == bad < accepted


def test_equal_states_are_learned_from_once() -> None:
    ballots = synthetic(300, (0.8, 0.6, 0.5))
    merged = merge_equal(ballots)
    assert len(merged) < 100
    assert merged.weight.sum() == 300
    weights = np.random.default_rng(3).normal(size=make_design(ballots).rows.shape[1])
    (loss, slope), (again, same) = (
        log_loss(make_design(one), weights) for one in (ballots, merged)
    )
    assert again == pytest.approx(loss)
    assert same == pytest.approx(slope)
