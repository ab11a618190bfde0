"""Estimates: counted by hand, from stand-in models alone."""

import re
from pathlib import Path
from typing import Any

from tests.support.summers import sums
from training.collect.team import TeamOptions
from training.evaluate.estimate import estimate
from training.evaluate.options import EvaluateOptions


def told(tmp_path: Path, count: int, *methods: str, **changes: Any) -> str:
    data = str(sums(tmp_path / "questions.jsonl", count))
    team = TeamOptions(model_factory=("tests.support.summers:nobody",))
    given: dict[str, Any] = {"benchmark": "gsm8k", "data": data, "out": tmp_path / "out"}
    given |= {"methods": methods, "team": team, "rounds": 2, "control": False}
    return estimate(EvaluateOptions(**{**given, "critic": "logprob", **changes}))


def test_an_estimate_counts_what_the_methods_ask(tmp_path: Path) -> None:
    def calls(*methods: str, **changes: Any) -> str:
        text = told(tmp_path, 20, *methods, **changes)
        assert "20 questions to ask, answers of about 180 tokens" in text
        [line] = [line for line in text.splitlines() if line.startswith("calls:")]
        return line.removeprefix("calls:").strip()

    assert calls("single") == "20 to 20"
    assert calls("single", "vote-3") == "60 to 60"  # they share
    assert calls("vote-3", "debate-2") == "180 to 180"
    # Agents that agree are done. Others refine in both rounds.
    assert calls("vote-3", "threshold") == "60 to 180"
    assert calls("single", critic="self") == "40 to 40"
    assert calls("vote-3", "threshold", control=True) == "180 to 300"  # nine proposals instead
    assert not (tmp_path / "out").exists()


def test_an_estimate_of_tokens_follows_the_length_of_answers(tmp_path: Path) -> None:
    for length in (100, 1000):
        text = told(tmp_path, 10, "vote-3", usual_tokens=length)
        assert f"completion tokens: {30 * length:,} to {30 * length:,}" in text


def test_an_estimate_for_questions_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"question": "{k} + 1?", "reference": 2}}\n' for k in (1, 2)))
    text = told(tmp_path, 1, "single", benchmark=None, data=None, questions=path)
    assert re.search(r"^2 questions to ask, answers of about 250 tokens\ncalls: +2 to 2\n", text)
