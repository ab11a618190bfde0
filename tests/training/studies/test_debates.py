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
from training.learn.fit_config import Config
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
    options = debates.DebateOptions(
        (traces,), tmp_path / "out", answer="choice", folds=2, seeds=1, settings=("tau=2",)
    )
    text = debates.main(options)
    assert text == (tmp_path / "out" / "results.md").read_text()
    cells = [line.split(" | ") for line in text.splitlines() if " | " in line]
    rows = {row[0].removeprefix("| "): row for row in cells}
    learned = debates.learned_name("softrankpo")
    for name in (debates.FIRST, debates.RECORDED, "expected gain", "threshold, tuned", learned):
        assert name in rows
    assert rows[learned][6] != "–"  # its actions were counted
    assert rows[learned][4] == "="
    assert rows[f"{learned}, tau=2"][4] != "="
    folders = [path.name for path in (tmp_path / "out" / "fits").iterdir()]
    assert len(folders) == 4
    assert sum("tau-2.0" in name for name in folders) == 2
    assert debates.main(options) == text  # the fits are there
    report = fit_rules(RuleOptions((traces,), tmp_path / "rules", answer="choice", cost=0.0))
    assert "The traces hold no confidence" in report
    assert load_profile_critic(tmp_path / "rules").curve.responses > 100
    rates = load_expected_gain(tmp_path / "rules").gains.measured["by agent"]
    assert rates["a"]["h"] == pytest.approx(0.8, abs=0.25)
    assert rates["a"]["d"] == pytest.approx(0.6, abs=0.25)


@pytest.mark.parametrize(
    "setting",
    ["nothing=1", "tau", "tau=x", "values=two", "tau=-1", "", "=1", "out=x", "traces=x", "seed=7",
     "consensus=learned", "help=1", "resume=True", "temperature=2"],
)  # fmt: skip
def test_a_setting_that_changes_no_learning_is_refused(setting: str) -> None:
    options = debates.DebateOptions((Path("nowhere"),), settings=("beta=1", setting))
    with pytest.raises(ConfigurationError, match=r"--settings|--tau"):
        options.check()


@pytest.mark.parametrize(
    ("setting", "option", "value"),
    [
        ("global=0", "global_", 0.0),
        ("label-temperature=2", "label_temperature", 2.0),
        ("policy-iterations=1", "policy_iterations", 1),
        ("values=one-step", "values", "one-step"),
    ],
)
def test_a_setting_changes_one_option(setting: str, option: str, value: object) -> None:
    options = debates.DebateOptions((), settings=(setting,))
    first, changed = debates.configs(Config(()), options).values()
    assert vars(changed) == {**vars(first), option: value}
    assert getattr(first, option) != value


def test_too_few_questions_are_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in debates_of(19)))
    options = debates.DebateOptions((traces,), tmp_path / "out", answer="choice", folds=2)
    with pytest.raises(ConfigurationError, match="19 questions are too few for 2 folds: 20 are"):
        debates.main(options)
    assert not (tmp_path / "out").exists()


def test_folds_of_a_kind_hold_one_kind_each() -> None:
    pairs = [debate("AB", "BB", question=f"{n}?") for n in range(3)]
    threes = [debate("ABC", "ABB", question=f"{n}!") for n in range(3)]
    both = [*pairs, *threes]
    teams = debates.DebateOptions((), split="agents", seeds=2)
    assert [p.tolist() for p in debates.split(both, teams)] == [[0, 0, 0, 1, 1, 1]] * 2
    kinds = debates.DebateOptions((), split="category", seeds=1)
    named = [e.model_copy(update={"category": c}) for e, c in zip(both, "xyxyzx", strict=True)]
    assert debates.split(named, kinds)[0].tolist() == [0, 1, 0, 1, 2, 0]
    with pytest.raises(ConfigurationError, match="1 debates have no category"):
        debates.split([*named, pairs[0]], kinds)
    with pytest.raises(ConfigurationError, match="all of one kind"):
        debates.split([named[0], named[2]], kinds)


def test_a_held_out_question_is_never_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [debate("AB", "BB", question=f"{n}?") for n in range(10)]
    threes = [debate("ABC", "ABB", question=f"{n}?") for n in range(10)]
    extra = [debate("ABC", "ABB", question=f"{n}!") for n in range(10)]
    more = [debate("AB", "BB", question=f"{n};") for n in range(10)]
    both = [*pairs, *threes, *extra, *more]
    critic = fit_profile(gather_looks(debates_of(20), CHOICE.equivalent))
    learned: list[tuple[set[str], set[str]]] = []

    def make(rest: list[Episode], held_out: list[int], *_: object) -> debates.Fold:
        learned.append(({e.question for e in rest}, {both[n].question for n in held_out}))
        return debates.Fold(critic, {}, {}, held_out)

    monkeypatch.setattr(debates, "make_fold", make)
    for kind in ("random", "agents"):
        options = debates.DebateOptions((), tmp_path, split=kind, answer="choice")  # type: ignore[arg-type]
        played = debates.cross_validate(both, CHOICE.equivalent, options)
        asked = {question for _, _, question in played[debates.FIRST].results}
        assert asked == set(range(30))
    assert len(learned) == 3 * (5 + 2)
    for known, held_out in learned:
        assert known
        assert held_out
        assert not known & held_out


def test_traces_without_a_debate_are_refused(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"\n" + debate("ABC").to_json())
    with pytest.raises(ConfigurationError, match="no debate"):
        debates.main(debates.DebateOptions((traces,), answer="choice"))
