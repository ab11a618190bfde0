"""A critic that reads how a response looks."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mpdf_langgraph import Agent, MathAnswer, RouterError, create_deliberation, load_profile_critic
from mpdf_langgraph.profile_critic import (
    PROFILE_FEATURES,
    ProfileCritic,
    ProfileCurve,
    profile_features,
)
from tests.support.records import response
from tests.support.scripted import says


def curve(**fields: Any) -> ProfileCurve:
    given: dict[str, Any] = {"intercept": 0.0, "weights": {}, **fields}
    return ProfileCurve(**given)


def test_it_is_a_logistic_curve_of_the_profile() -> None:
    said = response("ann", 0, None, text="4 + 4 = 8", answer="8")
    features = profile_features("What?", said)
    assert list(features) == list(PROFILE_FEATURES)
    critic = ProfileCritic(
        curve(intercept=1.0, weights={"question length": 0.5}, agents={"ann": -0.25}, refined=2.0)
    )
    odds = 1.0 + 0.5 * math.log1p(5) - 0.25
    assert critic("What?", said) == pytest.approx(1 / (1 + math.exp(-odds)))
    assert critic("What?", {**said, "agent": "eve"}) > critic("What?", said)  # type: ignore[operator]
    assert critic("What?", {**said, "round": 1}) > critic("What?", said)  # type: ignore[operator]
    assert critic("What?", {**said, "answer": None}) is None
    assert ProfileCritic(curve(intercept=-800.0))("What?", said) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("3 + 4 = 7 pens. Then 7 * 2 = 14. The answer is 14", "14", (2, 0, 0, True, True)),
        ("3 + 4 = 8. The answer is 16", "16", (1, 1, 1, True, False)),
        ("It is 2.5", "2.5", (0, 0, 3, False, False)),
        ("It is B", "B", (0, 0, 3, False, False)),
        ("It is 7, or 7", "7 or 8", (0, 0, 3, False, False)),
    ],
)
def test_it_reads_the_numbers(text: str, answer: str, expected: tuple[Any, ...]) -> None:
    said = response("ann", 0, None, text=text, answer=answer)
    features = profile_features("Ann has 3 pens, bob 4. What is 2 times that?", said)
    counts = ("equations", "false equations", "numbers left out")
    assert [features[name] for name in counts] == [math.log1p(n) for n in expected[:3]]
    assert (features["answer is whole"], features["answer repeated"]) == expected[3:]


def test_it_weighs_the_votes_of_a_team_without_log_probabilities() -> None:
    long = "Well, " + "so " * 300 + "it is 5"
    team = [Agent("a", says(long)), Agent("b", says("4"))]
    critic = ProfileCritic(curve(intercept=3.0, weights={"length": -0.8}))
    graph = create_deliberation(
        team, critic=critic, answer=MathAnswer(), router="always-persist", max_rounds=0
    ).compile()
    found = graph.invoke({"question": "2+2?"})["deliberation"]
    assert found["answer"] == "4"
    assert 0.5 < found["confidence"] < 1


def test_a_file_of_a_curve(tmp_path: Path) -> None:
    file = tmp_path / "profile_critic.json"
    known = curve(weights={"length": -1.0}, agents={"ann": 0.5})
    file.write_text(known.model_dump_json())
    assert load_profile_critic(tmp_path) == load_profile_critic(file) == ProfileCritic(known)
    with pytest.raises(RouterError, match="fit_rules"):
        load_profile_critic(tmp_path / "nothing")
    content = json.loads(known.model_dump_json())
    for change, told in (
        ({"weights": {"charm": 1.0}}, "no feature is named 'charm'"),
        ({"intercept": "high"}, "holds no curve"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(RouterError, match=told):
            load_profile_critic(tmp_path)
