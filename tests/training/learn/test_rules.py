"""Which confidence the fitted rules stand on: the recorded one, or that of a profile critic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import (
    Agent,
    ConfigurationError,
    MathAnswer,
    TraceReader,
    create_deliberation,
    load_expected_gain,
    load_profile_critic,
    load_recruiting,
    load_router,
)
from mpdf_langgraph.errors import RouterError
from mpdf_langgraph.profile_critic import PROFILE_FEATURES
from mpdf_langgraph.state import Response
from tests.support.synthetic import synthetic_episodes
from training.learn.measures import auroc
from training.learn.profile_fit import Looks, fit_profile
from training.learn.rules import (
    RuleOptions,
    choose_critic,
    fit_rules,
    measure_asking,
    read_graded,
)

MATH = MathAnswer()


def model(name: str) -> Any:
    """Answers every third question wrongly, and then with more words and less sure tokens."""

    def reply(messages: list[Any]) -> AIMessage:
        number = int(str(messages[0].text).split()[1])
        wrong = number % 3 == 0
        tokens = [{"token": "x", "logprob": -2.0 if wrong else -0.1, "bytes": None}] * 9
        text = "Well, let me see. " * 5 * wrong + f"{name} says it is {number + wrong}."
        return AIMessage(text, response_metadata={"logprobs": {"content": tokens}})

    return RunnableLambda(reply)


def collect(folder: Path, critic: Any) -> list[Any]:
    graph = create_deliberation(
        [Agent(name, model(name)) for name in ("ann", "bo")],
        critic=critic, router="always-persist", max_rounds=1, answer=MATH, traces=folder,
    ).compile()  # fmt: skip
    for number in range(30):
        graph.invoke({"question": f"Number {number}", "reference": str(number)})
    return [*TraceReader(folder)]


def knows(question: str, response: Response) -> float:
    return 0.9 if response["answer"] == question.split()[1] else 0.2


def test_looks_that_tell_more_than_the_recorded_confidence_replace_it(tmp_path: Path) -> None:
    episodes = collect(tmp_path, lambda question, response: 0.5)
    _, critic, told = choose_critic(episodes, MATH.equivalent)
    assert critic is not None
    assert "That of the recorded confidence is 0.500" in told
    for episode in episodes:
        for response in episode.responses.values():
            right = response["answer"] == episode.reference
            confidence = critic(episode.question, response)
            assert confidence is not None
            assert (confidence > 0.5) == right


def test_a_recorded_confidence_that_tells_as_much_stays(tmp_path: Path) -> None:
    _, critic, told = choose_critic(collect(tmp_path, knows), MATH.equivalent)
    assert critic is None
    assert "has an AUROC of 1.000" in told


def test_without_a_recorded_confidence_looks_are_all_there_is(tmp_path: Path) -> None:
    _, critic, told = choose_critic(collect(tmp_path, None), MATH.equivalent)
    assert critic is not None
    assert "The traces hold no confidence." in told


def test_log_probabilities_are_among_the_looks(tmp_path: Path) -> None:
    [episode, *_] = collect(tmp_path, "logprob")
    [response, *_] = episode.responses.values()
    assert response["logprobs"]["mean"] == pytest.approx(-2.0)
    _, critic, _ = choose_critic(collect(tmp_path / "b", None), MATH.equivalent)
    assert critic is not None
    assert critic.curve.weights["mean logprob"] < 0  # the less sure, the less often right


def test_where_all_answers_are_right_the_report_says_why_the_recorded_one_stays(
    tmp_path: Path,
) -> None:
    episodes = [e for e in collect(tmp_path, knows) if int(e.question.split()[1]) % 3]
    _, critic, told = choose_critic(episodes, MATH.equivalent)
    assert critic is None
    assert "All answers in these traces are right" in told


def test_the_held_out_figure_is_that_of_folds_side_by_side() -> None:
    """Each fold has an intercept of its own. Without it the folds would lie beside one another."""
    rng = np.random.default_rng(0)
    features = rng.normal(6.5, 1.0, (400, len(PROFILE_FEATURES) + 1))
    right = (rng.random(400) < 1 / (1 + np.exp(6.5 - features[:, 0]))).astype(float)
    looks = Looks(features, ["a"] * 400, np.repeat(np.arange(80), 5), right)
    found = fit_profile(looks).curve
    assert found.auroc == pytest.approx(auroc(features[:, 0], right.astype(bool)), abs=0.04)


def test_a_folder_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    collect(tmp_path, knows)
    episodes, told = read_graded([tmp_path, tmp_path], {})
    assert (len(episodes), told) == (30, "30 records were read. Dropped: none")


def test_records_that_contradict_themselves_are_left_out_and_counted(tmp_path: Path) -> None:
    [first, second, *sound] = synthetic_episodes(6, rounds=1)
    wrong = [
        first.model_copy(update={"options": {**first.options, "max_rounds": "3"}}),
        second.model_copy(update={"agents": [{**a, "competence": "x"} for a in second.agents]}),
    ]
    path = tmp_path / "traces.jsonl"
    nameless = sound[0].model_copy(update={"id": "x", "reference": None})
    lines = [episode.to_json() for episode in [*wrong, *sound, nameless]]
    path.write_bytes(b"".join(b"\n" + line for line in [*lines, b'{"id": "torn']))
    episodes, told = read_graded([path], {})
    assert len(episodes) == 4
    assert told == ("8 records were read. Dropped: 2 contradictory, 1 no reference, 1 unreadable")


def test_without_an_episode_to_learn_from_the_error_counts_the_records(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigurationError, match=r"0 records were read. Dropped: none. Check"):
        fit_rules(RuleOptions((tmp_path / "a",)))
    (tmp_path / "a" / "torn.jsonl").write_text('{"id": "tor\n{"id"\n')
    with pytest.raises(ConfigurationError, match=r"2 records were read. Dropped: 2 unreadable"):
        fit_rules(RuleOptions((tmp_path / "a",)))


def test_votes_counted_by_different_rules_are_not_mixed(tmp_path: Path) -> None:
    episodes = collect(tmp_path, knows)
    other = {**episodes[0].options, "consensus": "majority"}
    mixed = [*episodes, episodes[0].model_copy(update={"options": other})]
    with pytest.raises(ConfigurationError, match=r"different rules \(confidence, majority\)"):
        measure_asking(RuleOptions((tmp_path,)), mixed, MATH.equivalent)


def test_a_mixture_of_critics_and_rules_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(tmp_path / "a", knows)
    collect(tmp_path / "b", "logprob")
    text = fit_rules(RuleOptions((tmp_path / "a", tmp_path / "b"), tmp_path / "out"))
    [sign] = [line for line in text.splitlines() if "several critics" in line]
    assert text.index("## Signs of trouble") < text.index(sign) < text.index("## Confidence")
    assert f"warning: {sign.removeprefix('- ')}\n" in capsys.readouterr().err
    assert "Signs of trouble" not in fit_rules(RuleOptions((tmp_path / "a",), tmp_path / "one"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"wave": 0}, "--wave must be a whole number of at least 1"),
        ({"cost": float("nan")}, "--cost must be a number"),
        ({"prices": {"ann": -1.0}}, "--prices ann must be a number"),
        ({"agents": ("ann", "ann")}, "--agents names somebody twice"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        fit_rules(RuleOptions((tmp_path,), **options))


@pytest.mark.parametrize(
    "load", [load_router, load_expected_gain, load_recruiting, load_profile_critic]
)
def test_what_is_no_path_is_refused(load: Any) -> None:
    with pytest.raises(RouterError, match="give the path of a folder, got 5"):
        load(5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"agents": ("ann", "zed")}, "--agents zed"),
        ({"prices": {"bo": 2.0, "an": 9.0}}, "--prices an"),
    ],
)
def test_an_agent_that_nobody_knows_is_refused(tmp_path: Path, options: Any, says: str) -> None:
    collect(tmp_path, knows)
    with pytest.raises(ConfigurationError, match=rf"{says}: nobody .* They have ann, bo"):
        fit_rules(RuleOptions((tmp_path,), tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()
