"""The measurement of fits: its made-up traces, its stages, its table."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from mpdf_langgraph.errors import ConfigurationError
from training.collect.team import answer_schema
from training.learn.dataset import load
from training.studies import fit_speed
from training.studies.fit_speed import Measured, SpeedOptions, format_report, write_traces


def test_the_traces_are_episodes_of_questions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_speed, "BASE_EPISODES", 4)
    monkeypatch.setattr(fit_speed, "EPISODES_PER_SEGMENT", 5)
    written = write_traces(tmp_path / "traces", 100)
    groups, reading = load(
        tmp_path / "traces", grader=answer_schema("math").equivalent, progress=False
    )
    assert written == 108  # 12 episodes of 9 decisions
    assert len(groups) == written
    assert (reading.segments, reading.duplicates, reading.dropped.total()) == (3, 0, 0)
    assert len(groups.questions) == len(set(groups.episodes)) == 12


def test_a_small_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_speed, "in_a_process", lambda function, *given: function(*given))
    out = tmp_path / "bench.md"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fit_speed.main(SpeedOptions(sizes=(450,), epochs=1, out=out))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in out.read_text().split("\n")
    ]
    stages = {row[1]: row for row in rows[2:5]}
    assert list(stages) == ["read", "fit", "train"]
    assert {row[0] for row in stages.values()} == {"450"}
    for column in (2, 3):  # time on the wall and of the processor
        seconds = {stage: float(row[column]) for stage, row in stages.items()}
        assert 0 < seconds["train"] <= seconds["fit"]
    assert out.read_text() in capsys.readouterr().out
    assert not list(tmp_path.glob("bench-*"))


def test_peak_memory_is_a_process_of_its_own() -> None:
    held = np.ones(400_000_000, np.uint8)
    del held
    ours = fit_speed.peak_memory()
    assert ours > 4e8
    assert 1e7 < fit_speed.in_a_process(fit_speed.peak_memory) < ours - 1e8


def test_the_table() -> None:
    text = format_report([Measured(1_000_000, "fit", 300.0, 100, 2_500_000_000)], SpeedOptions())
    assert "| 1,000,000 | fit | 300.000 | 100.000 | 100 | 2.50 GB |" in text


@pytest.mark.parametrize("sizes", [(), (0,)])
def test_nothing_to_measure_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="--sizes"):
        fit_speed.main(SpeedOptions(sizes=sizes))
