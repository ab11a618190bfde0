"""The rates of the expected-gain rule: measured on teams whose rates are known."""

from pathlib import Path

import numpy as np
import pytest

from mpdf_langgraph import load_expected_gain
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.router import make_router
from training.collect.team import answer_schema, grader
from training.learn.calibrate import fit_calibration, judge
from training.learn.dataset import Groups, make_groups
from training.learn.gains import describe_gains, fit_gains
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
    assert router.gains.measured["questions"] == 60
    assert router.calibration is not None
    assert router.gains.tokens["ann"] > 0


def test_traces_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    played = [e.model_copy(update={"reference": None}) for e in episodes(HETERO, 5)]
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in played))
    with pytest.raises(ConfigurationError, match="no episode has a reference"):
        fit_rules(RuleOptions((traces,), tmp_path / "rules", answer="choice"))
