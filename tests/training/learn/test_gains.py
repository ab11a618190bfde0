"""The rates of the expected-gain rule: measured on teams whose rates are known."""

from pathlib import Path

import numpy as np
import pytest

from mpdf_langgraph import load_expected_gain, load_profile_critic
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.expected_gain import ExpectedGainRouter, View
from mpdf_langgraph.router import make_router
from training.collect.team import answer_schema, grader
from training.learn.calibrate import fit_calibration, judge
from training.learn.dataset import Groups, make_groups
from training.learn.gains import _fit_rate, describe_gains, fit_gains
from training.learn.rules import RuleOptions, fit_rules
from training.studies.environment_episodes import episodes
from training.studies.environments import ENVIRONMENTS
from training.studies.known_values import Known

HETERO = ENVIRONMENTS["hetero"]
CHOICE = grader(answer_schema("choice"))


def learned(count: int = 200, alternatives: int = 4) -> tuple[Groups, Calibration]:
    played = list(episodes(HETERO, count, alternatives=alternatives))
    calibration = fit_calibration(judge(played, CHOICE))
    return make_groups(played, CHOICE, calibration=calibration), calibration


def test_it_finds_who_gains_by_refining() -> None:
    """In this team ann's REFINE is right with .92, and bob's gives the same answer again."""
    gains = fit_gains(*learned(), cost=HETERO.price)
    rates = gains.measured["by agent"]
    assert rates["ann"]["h"] > 0.6
    assert rates["bob"]["h"] < 0.1
    assert gains.healed.agents["ann"] > gains.healed.agents["bob"]
    known = Known(HETERO, gains.calibration)
    router = ExpectedGainRouter(gains).for_team(HETERO.agents)
    vote = known.value(make_router("always-persist")).utility
    debate = known.value(make_router("always-refine")).utility
    assert known.value(router).utility > max(vote, debate) + 0.05


def test_little_evidence_moves_an_agent_little() -> None:
    """An agent's shift is shrunk: ten decisions tell less of it than a thousand."""
    groups, calibration = learned()
    ann = groups.agents.index("ann")
    few = np.flatnonzero(groups.agent == ann)[:10]
    rest = np.flatnonzero(groups.agent != ann)
    little = fit_gains(groups.select(np.sort(np.r_[few, rest])), calibration)
    much = fit_gains(groups, calibration)
    assert abs(little.healed.agents["ann"]) < abs(much.healed.agents["ann"])


def test_the_report_shows_the_rates() -> None:
    text = describe_gains(fit_gains(*learned(60)))
    assert "| by agent | decisions | p | h | d | refined |" in text
    assert "| ann |" in text
    assert "| behind |" in text


def test_the_command_writes_what_can_be_loaded(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in episodes(HETERO, 60)))
    text = fit_rules(RuleOptions((traces,), tmp_path / "rules", answer="choice", cost=0.1))
    assert (tmp_path / "rules" / "report.md").read_text() == text
    router = load_expected_gain(tmp_path / "rules")
    assert router.gains.cost == 0.1
    assert router.critics == ("profile",)
    assert router.gains.measured["questions"] == 60
    assert router.gains.tokens["ann"] > 0
    # Who answered tells more here than the recorded confidence.
    assert "AUROC on held-out questions" in text
    assert load_profile_critic(tmp_path / "rules").curve.auroc > 0.6  # type: ignore[operator]
    assert router.calibration is None


def test_traces_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    played = [e.model_copy(update={"reference": None}) for e in episodes(HETERO, 5)]
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in played))
    with pytest.raises(ConfigurationError, match="no episode has a reference"):
        fit_rules(RuleOptions((traces,), tmp_path / "rules", answer="choice"))


@pytest.mark.parametrize(("tries", "most"), [(1, 0.34), (3, 0.21), (10, 0.084)])
def test_a_few_failures_are_no_proof(tries: int, most: float) -> None:
    """Two pretended answers: after n failures in n tries the rate is not far below 1 / (n + 2)."""
    view = View("tied", 0.0, 0.0, 0.0)
    rate = _fit_rate([view] * tries, ["a"] * tries, np.zeros(tries), np.ones(tries, bool))
    assert most / 2 < rate(view, "a") < most
