"""The tables of the known environments: fits that are not run twice, caps, joint actions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpdf_langgraph.errors import MPDFError
from mpdf_langgraph.observation import FEATURES
from mpdf_langgraph.state import Observation
from training.learn.tensors import decisions_of, log_probabilities, to_data
from training.studies import environment_fits, environment_sweep, environment_table
from training.studies.environment_coordination import Capped, JointChoice
from training.studies.environment_fits import Fits
from training.studies.environment_sweep import SweepOptions
from training.studies.environment_table import Options
from training.studies.environments import ENVIRONMENTS

SMALL: dict[str, Any] = {"environments": ("concede",), "episodes": 150}


def no_more_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was fitted before")

    monkeypatch.setattr(environment_fits, "prepare", refuse)


@pytest.mark.timeout(600)
def test_the_table_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(
        out=tmp_path, algorithms=("none", "softrankpo"), seeds=(0, 1), policy_iterations=1, **SMALL
    )
    text = environment_table.main(options)
    rows = [line.split("|")[1].strip() for line in text.splitlines()[2:]]
    assert rows[0] == "vote"
    assert rows[-1] == "optimum, calibrated"
    assert "softrankpo, greedy" in rows
    assert "SFT, drawn" in rows
    assert text.count("±") == 5 * 3  # two seeds: all that learns has intervals
    no_more_fits(monkeypatch)
    assert environment_table.main(options) == text
    with pytest.raises(MPDFError, match="--environments: mars: use relay"):
        environment_table.main(Options(out=tmp_path, environments=("mars",)))


@pytest.mark.timeout(600)
def test_epochs_are_chosen_by_what_the_whole_team_is_worth(tmp_path: Path) -> None:
    concede = ENVIRONMENTS["concede"]
    options: dict[str, Any] = {"policy_iterations": 1, "batch_size": 32, "epochs": 5}
    fits = Fits(concede, 0, tmp_path, episodes=150, sft_epochs=2, **options)
    policy = fits.fit_policy("softrankpo")
    lessons = fits.lessons
    assert lessons.ends is not None
    assert lessons.values is not None
    data = to_data(lessons.parts[1], fits.config, concede.price)
    decided = decisions_of(log_probabilities(policy, data), drawn=False)
    worth = lessons.ends.team_worth(1, lessons.values, decided, concede.price)
    lines = (fits.config.out / "log.jsonl").read_text().splitlines()
    scores = [row["validation"] for row in map(json.loads, lines)]
    assert len(scores) == 5
    assert worth >= max(scores) - 1e-6
    assert min(scores) < max(scores)


@pytest.mark.timeout(600)
def test_the_sweep_marks_the_best_setting_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_sweep, "GRID", {"awr": ({}, {"awr_temperature": 0.1})})
    options = SweepOptions(out=tmp_path, algorithms=("awr",), **SMALL)
    text = environment_sweep.main(options)
    found = [line.split("|")[2:5] for line in text.splitlines()[2:]]
    assert [cells[0].strip() for cells in found] == ["defaults", "awr_temperature 0.1"]
    scores = [float(cells[1]) for cells in found]
    marked = ["**" in line for line in text.splitlines()[2:]]
    assert marked == [scores[0] >= scores[1], scores[0] < scores[1]]
    no_more_fits(monkeypatch)
    assert environment_sweep.main(options) == text


# --- ways of deciding together ------------------------------------------------------------------


class Wants(nn.Module):
    """Log-probabilities by an agent's first feature: how much it wants to REFINE."""

    def forward(self, own: Tensor, *_: Tensor) -> Tensor:
        none = torch.zeros(len(own))
        return torch.stack([none, own[:, 0], none - 1], 1).log_softmax(1)


def observations(*wants: float) -> list[Observation]:
    rows = [[want, *[0.0] * (len(FEATURES) - 1)] for want in wants]
    return [Observation(own=row, peers=[rows[0]]) for row in rows]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("most", "refining"),
    [(3, [1, 1, 0, 1, 1, 1]), (2, [1, 1, 0, 0, 1, 1]), (1, [0, 1, 0, 0, 1, 0]), (0, [0] * 6)],
)
def test_of_a_team_only_the_surest_refine(most: int, refining: list[int]) -> None:
    policy: Any = Wants()
    given = observations(1.0, 2.0, -1.0, 1.0, 3.0, 2.0)
    rows = Capped(policy, 3, most).decide(given, [[True] * 3] * 6)
    assert [row[1] for row in rows] == refining
    assert np.allclose(np.sum(rows, 1), 1)


class Score(nn.Module):
    """The more CONCEDEs the better, and one REFINE is a little good."""

    def forward(self, given: Tensor) -> Tensor:
        actions = given[:, :, -3:].sum(1)
        return actions[:, 2] + 0.1 * (actions[:, 1] == 1)


def test_a_team_takes_its_best_allowed_joint_action() -> None:
    masks = [[True, True, True], [True, True, False], [True, True, False]]
    rows = np.array(JointChoice(Score(), 3).decide(observations(0.0, 0.0, 0.0), masks))
    assert rows[0].tolist() == [0, 0, 1]
    assert sorted(rows[1:].argmax(1).tolist()) == [0, 1]
