"""Recorded debates played by a rule: by hand, and as the graph would have gone on."""

from pathlib import Path

import numpy as np
import pytest

from mpdf_langgraph import ChoiceAnswer, ConfigurationError, Episode, load_expected_gain
from mpdf_langgraph.consensus import majority
from mpdf_langgraph.profile_critic import load_profile_critic
from mpdf_langgraph.router import make_router
from tests.support.recorded import recorded_episode
from training.collect.importing import Answer
from training.learn.profile_fit import fit_profile, gather_looks
from training.learn.rules import RuleOptions, fit_rules
from training.studies import debates
from training.studies.debates import play, vote_of_round

CHOICE = ChoiceAnswer(4)


def debate(*rounds: str, question: str = "Q?") -> Episode:
    """A debate of agents a, b, ... One text per round, a letter for each agent's answer."""
    said = [
        Answer("abcd"[n], letter, None, round_)
        for round_, letters in enumerate(rounds)
        for n, letter in enumerate(letters)
        if letter != "-"
    ]
    return recorded_episode(question, "A", said, schema=CHOICE, consensus="majority")


def answer(episode: Episode, router: str) -> tuple[str | None, int]:
    cluster, messages = play(episode, make_router(router), majority)
    return None if cluster is None else episode.representatives[cluster], messages


def test_a_refine_gives_what_was_said() -> None:
    episode = debate("ABC", "ABB")
    assert answer(episode, "always-persist") == ("A", 3)
    assert answer(episode, "always-refine") == ("B", 6)
    assert episode.representatives[vote_of_round(episode, 1, majority) or 0] == "B"


def test_it_goes_on_only_as_the_debate_did() -> None:
    assert answer(debate("ABC", "ABB", "AAB"), "always-refine") == ("A", 9)
    # In the second round b and c spoke to an a that had refined. Here a could not.
    assert answer(debate("ABC", "-BB", "AAA"), "always-refine") == ("B", 5)
    # Who agrees does not go on.
    assert answer(debate("AAA", "BBB"), "always-refine") == ("A", 3)


def debates_of(count: int, seed: int = 0) -> list[Episode]:
    """Long answers are wrong. A refined answer is right with .8 if it was wrong, else with .4."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        said = []
        for name in "abc":
            right = random.random() < 0.5
            text = "The answer is A" if right else "So " * 40 + f"it is {random.choice([*'BCD'])}"
            said.append(Answer(name, text, None))
            again = random.random() < (0.4 if right else 0.8)
            said.append(Answer(name, "A" if again else str(random.choice([*"BCD"])), None, 1))
        said.sort(key=lambda one: one.round)
        found.append(
            recorded_episode(f"Q{number}?", "A", said, schema=CHOICE, consensus="majority")
        )
    return found


def test_the_critic_learns_how_right_answers_look() -> None:
    looks = gather_looks(debates_of(40), CHOICE.equivalent)
    curve = fit_profile(looks).curve
    assert curve.auroc is not None
    assert curve.auroc > 0.6
    assert curve.weights["length"] < 0


def test_the_study_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in debates_of(40)))
    options = debates.DebateOptions((traces,), tmp_path / "out", answer="choice", folds=2, seeds=1)
    text = debates.main(options)
    assert text == (tmp_path / "out" / "results.md").read_text()
    cells = [line.split(" | ") for line in text.splitlines() if " | " in line]
    rows = {row[0].removeprefix("| "): row for row in cells}
    learned = debates.learned_name("softrankpo")
    for name in (debates.FIRST, debates.RECORDED, "expected gain", "threshold, tuned", learned):
        assert name in rows
    assert rows[learned][5] != "–"  # its actions were counted
    assert len([*(tmp_path / "out" / "fits").iterdir()]) == 2
    assert debates.main(options) == text  # the fits are there
    report = fit_rules(RuleOptions((traces,), tmp_path / "rules", answer="choice", cost=0.0))
    assert "The traces hold no confidence" in report
    assert load_profile_critic(tmp_path / "rules").curve.responses > 100
    rates = load_expected_gain(tmp_path / "rules").gains.measured["by agent"]
    assert rates["a"]["h"] == pytest.approx(0.8, abs=0.25)
    assert rates["a"]["d"] == pytest.approx(0.6, abs=0.25)


def test_a_setting_is_a_method_of_its_own(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in debates_of(40)))
    options = debates.DebateOptions(
        (traces,), tmp_path / "out", answer="choice", folds=2, seeds=1,
        settings=("tau=2", "values=one-step"),
    )  # fmt: skip
    text = debates.main(options)
    first = debates.learned_name("softrankpo")
    assert f"against {first}" in text
    assert f"| {first}, tau=2 |" in text
    assert f"| {first}, values=one-step |" in text
    folders = [path.name for path in (tmp_path / "out" / "fits").iterdir()]
    assert len(folders) == 6
    assert sum("tau-2.0" in name for name in folders) == 2
    assert sum("values-one-step" in name for name in folders) == 2


@pytest.mark.parametrize("setting", ["nothing=1", "tau", "tau=x", "values=two", "tau=-1", ""])
def test_a_setting_that_is_none_is_refused(setting: str) -> None:
    options = debates.DebateOptions((Path("nowhere"),), settings=("beta=1", setting))
    with pytest.raises(ConfigurationError, match=r"--settings|--tau"):
        options.check()


def test_folds_of_a_kind_hold_one_kind_each() -> None:
    pairs = [debate("AB", "BB", question=f"{n}?") for n in range(3)]
    threes = [debate("ABC", "ABB", question=f"{n}!") for n in range(4)]
    algebra = [e.model_copy(update={"category": "algebra"}) for e in (*pairs, threes[0])]
    teams = debates.DebateOptions((), split="agents")
    assert [p.tolist() for p in debates.split([*pairs, *threes], teams)] == [[0] * 3 + [1] * 4]
    kinds = debates.DebateOptions((), split="category")
    assert len(set(debates.split([*algebra, *threes[1:]], kinds)[0].tolist())) == 2
    with pytest.raises(ConfigurationError, match="all of one kind"):
        debates.split(algebra, kinds)
    for places in debates.split(pairs * 10, debates.DebateOptions(())):
        assert np.bincount(places).tolist() == [6] * 5


def test_traces_without_a_debate_are_refused(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"\n" + debate("ABC").to_json())
    with pytest.raises(ConfigurationError, match="no debate"):
        debates.main(debates.DebateOptions((traces,), answer="choice"))
