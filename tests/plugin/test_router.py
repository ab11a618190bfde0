"""Routers: what is drawn from, the threshold's rules, and messages for wrong output."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph.consensus import concession
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.observation import Situation, observe
from mpdf_langgraph.router import (
    CONCEDE,
    PERSIST,
    REFINE,
    FixedRouter,
    FunctionRouter,
    Router,
    ThresholdRouter,
    behaviour,
    check_estimates,
    check_rows,
    competences,
    draw,
    make_router,
)
from mpdf_langgraph.state import ACTIONS, LogprobSummary, Observation
from tests.support.records import critique, response, team
from tests.support.running import run_python

ALL = [True, True, True]
masks = st.tuples(st.just(True), st.booleans(), st.booleans()).map(list)
weights = st.floats(0, 1) | st.floats(0, 1e300) | st.just(0.0)
rows = st.tuples(weights, weights, weights).map(list)


# --- what an action is drawn from -----------------------------------------------------------


@given(rows, masks, st.floats(0, 1 / 3))
def test_behaviour_is_a_distribution(row: list[float], mask: list[bool], floor: float) -> None:
    probabilities = behaviour(row, mask, floor)
    assert math.fsum(probabilities) == pytest.approx(1.0, abs=1e-12)
    for p, allowed in zip(probabilities, mask, strict=True):
        assert p >= floor if allowed else p == 0.0


@given(rows, masks)
def test_behaviour_keeps_the_ratios_of_what_is_allowed(row: list[float], mask: list[bool]) -> None:
    total = math.fsum(p for p, ok in zip(row, mask, strict=True) if ok)
    probabilities = behaviour(row, mask, 0.0)
    if total == 0:
        assert probabilities == [1.0, 0.0, 0.0]
        return
    for p, given_p, allowed in zip(probabilities, row, mask, strict=True):
        assert p == pytest.approx(given_p / total if allowed else 0.0)


def test_nothing_allowed_is_left_persists() -> None:
    assert behaviour([0, 1, 0], [True, False, True], 0.0) == [1.0, 0.0, 0.0]
    assert behaviour([0, 0.5, 0.5], [True, False, False], 0.1) == [1.0, 0.0, 0.0]
    assert behaviour([0, 1, 0], [True, False, True], 0.1) == pytest.approx([0.9, 0.0, 0.1])
    assert behaviour([0.2, 0.3, 0.5], ALL, 1 / 3) == pytest.approx([1 / 3] * 3)


def test_draws_repeat_and_differ() -> None:
    seeds = [f"episode/1/{n}" for n in range(30)]
    drawn = [draw([0.3, 0.3, 0.4], seed) for seed in seeds]
    assert drawn == [draw([0.3, 0.3, 0.4], seed) for seed in seeds]
    assert set(drawn) == set(ACTIONS)
    # In a process of its own, whose str hashes differ.
    code = (
        "from mpdf_langgraph.router import draw\n"
        "print(*(draw([0.3, 0.3, 0.4], f'episode/1/{n}') for n in range(30)))"
    )
    assert run_python("-W", "error", "-c", code).stdout.split() == drawn


@pytest.mark.parametrize("probabilities", [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.1, 0.0, 0.9]])
def test_draws_have_the_right_frequencies(probabilities: list[float]) -> None:
    n = 4000
    counts = Counter(draw(probabilities, f"{i}") for i in range(n))
    for action, p in zip(ACTIONS, probabilities, strict=True):
        spread = 4 * math.sqrt(p * (1 - p) / n)
        assert counts[action] / n == pytest.approx(p, abs=spread)


# --- the threshold --------------------------------------------------------------------------


def decisions(router: Router, *members: tuple[int | None, float | None] | None) -> list[Any]:
    """Return what `router` decides for a team of (answer, confidence), one action for each."""
    observations = observe(Situation(team(*members), {}, {}, 1, 3))
    rows = router.decide(list(observations.values()), [ALL] * len(members))
    named = {tuple(PERSIST): "P", tuple(REFINE): "R", tuple(CONCEDE): "C"}
    return [named[tuple(row)] for row in rows]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # 1. no valid answer: concede to a confident peer, else refine
        ([None, (0, 0.9)], "CP"),
        ([None, (0, 0.89)], "RP"),
        ([(None, 1.0), (0, 0.9)], "CP"),
        ([None, None], "RR"),
        # 2. all agree, or nobody else has an answer
        ([(0, 0.1), (0, 0.2)], "PP"),
        ([(0, 0.1), None], "PR"),
        ([(0, 0.1)], "P"),
        # an unknown confidence counts as 0
        ([(0, None), (0, None), (1, None)], "RRR"),
        ([(0, None), (1, 0.9)], "CP"),
        # 3. and 4.: at the bar, and the gap
        ([(0, 0.9), (1, 0.5)], "PC"),
        ([(0, 0.9), (1, 0.94)], "PP"),
        ([(0, 0.9), (1, 0.96)], "CP"),
        ([(0, 0.95), (0, 0.3), (1, 0.2)], "PRC"),
        # 5. nobody is sure
        ([(0, 0.8), (1, 0.5)], "RR"),
        ([(0, 0.89), (1, 0.9)], "RP"),
        ([(0, None), (1, None)], "RR"),
    ],
)
def test_threshold_rules(members: list[Any], expected: str) -> None:
    assert decisions(ThresholdRouter(bar=0.9, gap=0.05), *members) == list(expected)


def test_the_rival_is_the_one_that_concede_adopts() -> None:
    # A and B have the same sum of confidences. B has more votes.
    held = team((0, 0.1), (1, 0.9), (2, 0.45), (2, 0.45))
    assert concession(held, "a") == "c@0"
    assert decisions(ThresholdRouter(), (0, 0.1), (1, 0.9), (2, 0.45), (2, 0.45))[0] == "R"
    # The surest response is adopted, whatever score is compared.
    unsure, sure = (
        response(name, 1, critique=critique(confidence, {"self": verdict}))
        for name, confidence, verdict in (("b", 0.5, 0.95), ("c", 0.6, 0.2))
    )
    held = {"a": response("a", 0, critique=critique(0.4, {"self": 0.1})), "b": unsure, "c": sure}
    assert concession(held, "a") == "c@0"
    seen = list(observe(Situation(held, {}, {}, 1, 3)).values())
    assert ThresholdRouter(score="self_verdict").decide(seen, [ALL] * 3)[0] == REFINE


def test_an_unknown_confidence_reaches_no_bar() -> None:
    for bar in (0.9, 0.5, 0.1):
        assert decisions(ThresholdRouter(bar=bar), (0, None), (1, None)) == ["R", "R"]
    assert decisions(ThresholdRouter(bar=0.4), (0, None), (1, 0.45)) == ["C", "P"]


def test_threshold_options() -> None:
    assert decisions(ThresholdRouter(bar=0.5), (0, 0.6), (1, 0.3)) == ["P", "C"]
    assert decisions(ThresholdRouter(gap=0.0), (0, 0.95), (1, 0.95)) == ["C", "C"]
    by_logprob = response(
        "a", 0, logprobs=LogprobSummary(mean=-0.01, total=-1.0, lowest_window=-1.0, tokens=9)
    )
    by_verdict = response("b", 1, critique=critique(0.1, {"self": 0.97}))
    observations = list(
        observe(Situation({"a": by_logprob, "b": by_verdict}, {}, {}, 1, 3)).values()
    )
    decide = {s: ThresholdRouter(score=s).decide(observations, [ALL] * 2) for s in
              ("confidence", "logprob", "self_verdict")}  # fmt: skip
    assert decide["confidence"] == [REFINE, REFINE]
    assert decide["logprob"] == [PERSIST, CONCEDE]
    assert decide["self_verdict"] == [CONCEDE, PERSIST]
    with pytest.raises(ConfigurationError, match="use one of confidence, logprob, self_verdict"):
        ThresholdRouter(score="margin")
    for wrong in ({"bar": "0.8"}, {"bar": 80}, {"gap": -0.1}, {"gap": float("nan")}):
        with pytest.raises(ConfigurationError, match=r"must be a number in \[0, 1\]"):
            ThresholdRouter(**wrong)  # type: ignore[arg-type]


def test_each_decides_from_its_own_observation() -> None:
    observations = list(observe(Situation(team((0, 0.95), (1, 0.2), None), {}, {}, 1, 3)).values())
    router = ThresholdRouter()
    alone = [router.decide([o], [ALL])[0] for o in observations]
    assert alone == router.decide(observations, [ALL] * 3)


# --- routers of other kinds -----------------------------------------------------------------


SEEN = [Observation(own=[], peers=[])] * 2


def test_fixed_routers() -> None:
    expected = {
        "always-persist": [1, 0, 0],
        "always-refine": [0, 1, 0],
        "random": [1 / 3, 1 / 3, 1 / 3],
    }
    for name, row in expected.items():
        router = make_router(name)
        assert router.name == name
        assert router.decide(SEEN, [ALL] * 2) == [row, row]
    assert make_router("threshold") == ThresholdRouter()


def test_functions_give_names_or_probabilities() -> None:
    def alternate(observations: Any) -> list[Any]:
        return ["CONCEDE", [0.5, 0.5, 0.0]]

    router = make_router(alternate)
    assert router.name == "alternate"
    assert router.decide(SEEN, [ALL] * 2) == [CONCEDE, [0.5, 0.5, 0.0]]
    arrays = FunctionRouter(lambda o: np.array([[0.2, 0.3, 0.5]] * len(o)))
    assert check_rows(arrays.decide(SEEN, [ALL] * 2), 2, "f") == [[0.2, 0.3, 0.5]] * 2


def test_functions_that_return_something_else() -> None:
    with pytest.raises(ConfigurationError, match=r"'f' returned 'GIVE UP', expected one of PERS"):
        FunctionRouter(lambda o: ["GIVE UP"], "f").decide(SEEN, [])
    for wrong in (None, 1.0, "PERSIST"):
        with pytest.raises(ConfigurationError, match=r"'f' returned .* expected a list with one"):
            FunctionRouter(lambda o, wrong=wrong: wrong, "f").decide(SEEN, [])


def test_objects_with_the_protocol_are_taken_as_they_are() -> None:
    class Mine:
        name, version = "mine", "7"

        def decide(self, observations: Any, masks: Any) -> Any:
            return [[1, 0, 0]] * len(observations)

    mine = Mine()
    assert make_router(mine) is mine


@pytest.mark.parametrize("spec", ["allways-refine", None, 3, ThresholdRouter, FixedRouter])
def test_bad_specs(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"use one of 'always-persist', .*a callable"):
        make_router(spec)


@pytest.mark.parametrize(
    "wrong",
    [
        [[1.0, 0.0, 0.0]],
        [[1.0, 0.0, 0.0]] * 3,
        [[1.0, 0.0]] * 2,
        [[1.0, 0.0, math.nan]] * 2,
        [[1.0, 0.0, math.inf]] * 2,
        [[1.0, 0.0, 0.0], [1.0, -0.1, 0.1]],
        [[1e308, 1e308, 1e308]] * 2,
        [[10**400, 0, 0]] * 2,
        [1.0, 0.0],
        ["PERSIST", "PERSIST"],
        [[None] * 3] * 2,
        None,
        {},
    ],
)
def test_wrong_rows(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'r' must return 2 rows of 3 finite, non-neg"):
        check_rows(wrong, 2, "r")


@pytest.mark.parametrize(
    "wrong", [[{}], [{}, {"p": math.nan}], [{}, {"p": "high"}], [{}, [0.5]], None, 3]
)
def test_wrong_estimates(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="'r' must estimate finite numbers by name for 2"):
        check_estimates(wrong, 2, "r")
    assert check_estimates([{}, {"p": np.float32(0.5)}], 2, "r") == [{}, {"p": 0.5}]


def test_right_rows_become_plain_floats() -> None:
    for right in ([(1, 0, 0), (0, 2, 0)], np.array([[1, 0, 0], [0, 2, 0]], dtype=np.float32)):
        rows = check_rows(right, 2, "r")
        assert rows == [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
        assert all(type(p) is float for row in rows for p in row)


def test_competences() -> None:
    assert competences([{"name": "a", "competence": 1}, {"name": "b", "competence": 0.25}]) == {
        "a": 1.0,
        "b": 0.25,
    }
