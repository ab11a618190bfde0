"""The study of a second feature of the calibration."""

from pathlib import Path

import numpy as np
import pytest

from mpdf_langgraph import MathAnswer
from mpdf_langgraph.errors import ConfigurationError
from tests.support.recorded import recorded_episode
from tests.support.written import write_traces
from training.collect.importing import Answer
from training.studies.calibration_features import FeatureOptions, compare


def write(folder: Path, questions: int, *, shared: bool) -> Path:
    """Write questions where ann is sure or unsure, and bob guesses.

    `shared`: bob says what ann says. Else nobody gives his answer but he.
    """
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(questions):
        knows = rng.random() < 0.5
        right = rng.random() < (0.95 if knows else 0.2)
        said = "1" if right else "2"
        guess = said if shared else "3"
        answers = [Answer("ann", f"#### {said}", 0.9 if knows else 0.4)]
        answers.append(Answer("bob", f"#### {guess}", 0.4 + 0.1 * rng.random()))
        episodes.append(recorded_episode(f"{number}?", "1", answers, schema=MathAnswer()))
    return write_traces(folder, episodes)


def losses(text: str) -> dict[tuple[str, str], float]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): float(row[5]) for row in rows[2:]}


@pytest.mark.parametrize("shared", [True, False])
def test_the_second_feature_helps_where_answers_are_shared(tmp_path: Path, shared: bool) -> None:
    traces = write(tmp_path / "traces", 300, shared=shared)
    found = losses(compare(FeatureOptions((traces,), tmp_path / "out")))
    gain = found["proposed", "own confidence"]
    gain -= found["proposed", "and the surest first proposal's"]
    assert (gain > 0.05) is shared
    assert ("refined", "own confidence") not in found
    assert "the team in the end" in (tmp_path / "out" / "results.md").read_text()


def test_few_questions_are_refused(tmp_path: Path) -> None:
    traces = write(tmp_path / "traces", 20, shared=True)
    with pytest.raises(ConfigurationError, match="too few"):
        compare(FeatureOptions((traces,), tmp_path / "out"))
