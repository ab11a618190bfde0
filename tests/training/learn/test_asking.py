"""What asking another agent is worth: computed on recorded answers, and judged on others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpdf_langgraph import AdaptiveRecruiting, ChoiceAnswer, Episode, load_recruiting
from mpdf_langgraph.consensus import count_votes, majority
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.recruiting import Stand, leading_confidence, stand_of
from mpdf_langgraph.state import Response, Usage
from tests.support.recorded import recorded_episode
from tests.support.records import critique, usage
from tests.support.running import run_python
from tests.support.written import write_traces
from training.collect.importing import Answer
from training.learn.asking import (
    Asked,
    by_doubt,
    describe_asking,
    fit_asking,
    gather,
    learn_rule,
    play_asking,
)
from training.learn.rules import RuleOptions, fit_rules
from training.studies import asking as study

ANY: dict[str, Any] = {"probability": None, "confidence": None, "price": 1.0, "tokens": 0.0}
CHOICE = ChoiceAnswer(4)
RIGHT = {"ann": 0.7, "bo": 0.7, "cy": 0.7, "dan": 0.3}


def episodes(
    count: int, right: dict[str, float], seed: int = 0, silent: float = 0.0
) -> list[Episode]:
    """Independent agents, right with the given probabilities, wrong answers drawn evenly.

    `silent` is the share of proposals without an answer.
    """
    random = np.random.default_rng(seed)
    played = []
    for number in range(count):
        said = {
            name: "A" if random.random() < p else str(random.choice(["B", "C", "D"]))
            for name, p in right.items()
        }
        if silent:
            said = {n: "I pass." if random.random() < silent else a for n, a in said.items()}
        answers = [Answer(name, letter, None) for name, letter in said.items()]
        played.append(
            recorded_episode(f"Q{number}?", "A", answers, schema=CHOICE, consensus="majority")
        )
    return played


def charged(
    played: list[Episode], cost: Usage, verdict: Usage | None = None, confidence: float | None = 0.6
) -> list[Episode]:
    """The same where every proposal cost so much, and the verdict on it, if there is one."""
    judged = None if verdict is None else critique(confidence, cost=verdict)
    return [
        e.model_copy(
            update={
                "responses": {
                    i: Response({**r, "usage": cost, "critique": judged})
                    for i, r in e.responses.items()
                }
            }
        )
        for e in played
    ]


def gathered(count: int = 60, right: dict[str, float] | None = None, seed: int = 0) -> Asked:
    return gather(episodes(count, right or RIGHT, seed), CHOICE.equivalent, majority)


@pytest.fixture(scope="module")
def asked() -> Asked:
    return gathered()


@pytest.mark.parametrize("wave", [1, 2, 3])
@pytest.mark.parametrize("cost", [0.0, 0.02, 0.2])
def test_the_value_is_what_playing_by_it_gives(asked: Asked, cost: float, wave: int) -> None:
    values = fit_asking(asked, cost=cost, wave=wave, consensus="majority")
    right, calls = play_asking(asked, values)
    spent = cost * calls  # a call is 1,000 tokens where the traces report none
    assert values.measured["value"] == pytest.approx((right - spent).mean())
    assert set(calls) <= {*range(wave, 4, wave), 4}


def test_a_higher_price_asks_fewer(asked: Asked) -> None:
    calls = [
        play_asking(asked, fit_asking(asked, cost=cost, consensus="majority"))[1].mean()
        for cost in (0.0, 0.05, 1.0)
    ]
    assert calls[0] >= calls[1] >= calls[2] == 1
    assert calls[0] > 2


def test_who_is_always_right_is_asked_alone() -> None:
    asked = gathered(30, {"ann": 0.5, "bo": 1.0, "cy": 0.5})
    values = fit_asking(asked, cost=0.01, consensus="majority")
    assert values.order[0] == "bo"
    right, calls = play_asking(asked, values)
    assert right.all()
    assert set(calls) == {1}
    # If it is dear enough, the others are asked.
    dear = fit_asking(asked, cost=0.01, prices={"bo": 100.0}, consensus="majority")
    assert dear.order[0] != "bo"
    assert dear.prices == {"ann": 1.0, "bo": 100.0, "cy": 1.0}


def test_the_graph_decides_as_the_values_say(asked: Asked) -> None:
    values = fit_asking(asked, cost=0.02, consensus="majority")
    recruiting = AdaptiveRecruiting(values=values)
    for number, stage in values.stages.items():
        for key, gain in stage.gains.items():
            leader, runner_up = map(int, key.split("-"))
            worth = recruiting.weigh(int(number), Stand(leader, runner_up), **ANY)
            assert worth.pays == (gain > 0)


@pytest.mark.parametrize("rule", ["majority", "learned"])
@pytest.mark.parametrize("cost", [0.0, 0.02, 0.05, 0.3])
def test_the_graph_asks_whom_the_measurement_asks(cost: float, rule: str) -> None:
    """Also where nobody has answered, where no question stood so, and where one agent is best."""
    often = {"ann": 0.8, "bo": 0.5, "cy": 0.5, "dan": 0.3}
    known, new = (
        gather(episodes(count, often, seed, silent=0.2), CHOICE.equivalent, majority)
        for count, seed in ((150, 1), (80, 2))
    )
    if rule == "learned":
        learned = learn_rule(known, CHOICE.equivalent)
        known, new = known.decided_by(learned), new.decided_by(learned)
    values = fit_asking(known, cost=cost, consensus=rule)
    _, measured = play_asking(new, values)
    recruiting = AdaptiveRecruiting(values=values)
    for episode, count in zip(new.episodes, measured.tolist(), strict=True):
        for asked in range(1, 5):
            held = {n: episode.responses.get(f"{n}@0") for n in values.order[:asked]}
            held = {n: held[n] for n in new.team if n in held}
            tally = count_votes(held, new.rule, episode.representatives)
            worth = recruiting.weigh(
                asked, stand_of(held), **ANY
                | {"probability": tally.get("probability"),
                   "confidence": leading_confidence(held, tally)},
            )  # fmt: skip
            if asked == 4 or not worth.pays:
                break
        assert asked == count


@pytest.fixture(scope="module")
def probable(asked: Asked) -> Asked:
    """The same with a consensus that gives P(right)."""
    return asked.decided_by(learn_rule(asked, CHOICE.equivalent))


@pytest.mark.parametrize("wave", [1, 2, 4])
@pytest.mark.parametrize("cost", [0.0, 0.02, 0.2])
def test_where_the_consensus_gives_p_right_it_says_what_is_enough(
    probable: Asked, cost: float, wave: int
) -> None:
    values = fit_asking(probable, cost=cost, wave=wave, consensus="learned")
    counts = [str(n) for n in range(wave, 4, wave)]
    assert list(values.enough) == counts
    assert len({round(least, 6) for least in values.enough.values()}) <= 1  # all cost the same
    right, calls = play_asking(probable, values)
    worth = (right - cost * calls).mean()
    assert values.measured["value"] == pytest.approx(worth)
    assert set(calls) <= {*range(wave, 4, wave), 4}
    for other in by_doubt(probable, values):  # none is worth more
        right, calls = play_asking(probable, other)
        assert (right - cost * calls).mean() <= worth + 1e-9
    if counts:
        assert not values.stages
        assert all(f"| {n} | {values.enough[n]:.3f} |" in describe_asking(values) for n in counts)


def test_more_doubt_is_borne_before_a_dear_agent(probable: Asked) -> None:
    values = fit_asking(probable, cost=0.02, prices={"dan": 9.0}, consensus="learned")
    place = values.order.index("dan")
    assert place  # the worst agent, and dear
    dear, *cheap = sorted(values.enough, key=lambda n: values.enough[n])
    assert dear == str(place)
    doubts = [1 - values.enough[n] for n in cheap]
    assert 1 - values.enough[dear] == pytest.approx(min(1.0, 9 * doubts[0]))
    assert doubts == pytest.approx([doubts[0]] * len(doubts))


def test_the_steps_of_doubt_go_from_asking_few_to_many(probable: Asked) -> None:
    steps = by_doubt(probable, fit_asking(probable, cost=0.02, consensus="learned"))
    calls = [play_asking(probable, one)[1].mean() for one in steps]
    assert calls == sorted(calls)
    assert calls[0] < 1.1
    assert calls[-1] == 4


def test_the_graph_stops_where_p_right_is_enough(probable: Asked) -> None:
    values = fit_asking(probable, cost=0.02, consensus="learned")
    recruiting = AdaptiveRecruiting(values=values)
    for number, least in values.enough.items():
        for p in (least - 0.01, least + 0.01):
            about = {**ANY, "probability": p, "confidence": p}
            assert recruiting.weigh(int(number), Stand(1, 0), **about).pays == (p < least)
        assert recruiting.weigh(int(number), Stand(0, 0), **ANY).pays  # nobody has an answer
        assert recruiting.weigh(int(number), Stand(1, 0), **ANY).pays  # as without values


def test_what_says_nothing_of_the_team_is_left_out(asked: Asked) -> None:
    first, *rest = episodes(4, RIGHT)
    stopped = first.model_copy(update={"recruits": [{"action": "STOP"}]})
    unknown = first.model_copy(update={"reference": None})
    other = episodes(1, {"ann": 0.5, "eve": 0.5})
    found = gather([stopped, unknown, *other, *rest], CHOICE.equivalent, majority)
    assert (len(found), found.left_out) == (3, 3)
    part = gather([*rest], CHOICE.equivalent, majority, ["cy", "ann"])
    assert part.team == ["cy", "ann"]
    with pytest.raises(ConfigurationError, match="asked all of ann, zoe"):
        gather(rest, CHOICE.equivalent, majority, ["ann", "zoe"])


def test_episodes_of_one_question_share_its_number() -> None:
    found = gather([*episodes(3, RIGHT), *episodes(2, RIGHT, 1)], CHOICE.equivalent, majority)
    assert found.question.tolist() == [0, 1, 2, 0, 1]
    assert found.select([4, 0, 1]).question.tolist() == [0, 1, 0]


def test_tokens_of_verdicts_are_told_apart() -> None:
    played = charged(episodes(3, RIGHT), usage(1, 80, 20), usage(1, 200, 0))
    found = gather(played, CHOICE.equivalent, majority)
    assert found.tokens == dict.fromkeys(RIGHT, 300.0)
    assert found.plain_tokens == dict.fromkeys(RIGHT, 100.0)
    unreported = gathered(3)
    assert unreported.tokens == unreported.plain_tokens == dict.fromkeys(RIGHT, 1000.0)


def test_the_command_writes_values_that_can_be_loaded(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in episodes(30, RIGHT)))
    options = RuleOptions(
        (traces,), tmp_path / "rules", answer="choice", cost=0.02, prices={"dan": 3.0}
    )
    text = fit_rules(options)
    assert "Nobody refined in these traces" in text
    assert not (tmp_path / "rules" / "expected_gain.json").exists()
    loaded = load_recruiting(tmp_path / "rules")
    assert loaded.values is not None
    assert (loaded.values.critic, loaded.calibration) == ("profile", None)
    assert loaded.values.prices["dan"] == 3.0
    assert describe_asking(loaded.values) in text
    assert "| 1 | 1-0 | 30 |" in text


def test_it_loads_no_torch() -> None:
    code = "import sys, training.learn.rules; print('torch' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"


@pytest.mark.parametrize("consensus", ["majority", "learned"])
def test_the_study_judges_on_held_out_questions(tmp_path: Path, consensus: Any) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in episodes(40, RIGHT)))
    options = study.AskingOptions(
        (traces,),
        tmp_path / "out",
        answer="choice",
        cost=(0.02,),
        seeds=1,
        folds=2,
        consensus=consensus,
    )
    text = study.main(options)
    assert text == (tmp_path / "out" / "results.md").read_text()
    for name in ("everybody", "the best alone", "adaptive consistency, .95", "adaptive, cost 0.02"):
        assert f"| {name} |" in text
    assert "40 questions, 4 agents: ann, bo, cy, dan" in text


def row(text: str, name: str) -> list[str]:
    """The cells of a method in the study's table."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return line.removesuffix(" |").split(" | ")[1:]


def study_of(folder: Path, played: list[Episode], **given: Any) -> study.AskingOptions:
    """Write traces. Return the options of a small study of them."""
    shared: Any = {"answer": "choice", "seeds": 1, "folds": 2, "cost": (0.02,)}
    return study.AskingOptions((write_traces(folder / "traces", played),), folder, **shared | given)


def test_no_held_out_question_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is answered twice."""
    learned: list[set[str]] = []
    judged: list[set[str]] = []

    def texts(asked: Asked) -> set[str]:
        return {episode.question for episode in asked.episodes}

    def fit(rest: Asked, **given: Any) -> Any:
        learned.append(texts(rest))
        return fit_asking(rest, **given)

    def play(test: Asked, values: Any) -> Any:
        judged.append(texts(test))
        return play_asking(test, values)

    monkeypatch.setattr(study, "fit_asking", fit)
    monkeypatch.setattr(study, "play_asking", play)
    twice = episodes(30, RIGHT) + episodes(30, RIGHT, seed=1)
    options = study_of(tmp_path, twice, seeds=2, folds=3)
    assert study.main(options).startswith("30 questions, 4 agents")
    assert len(learned) == len(judged) == 6
    assert all(not rest & held for rest, held in zip(learned, judged, strict=True))
    asked = gather(twice, CHOICE.equivalent, majority)
    for parts in study.cross_validate(asked, options, CHOICE.equivalent).values():
        numbers, counts = np.unique(np.hstack(parts)[3], return_counts=True)
        assert numbers.tolist() == [*range(30)]
        assert set(counts) == {4}  # both episodes, in both splits


def test_too_few_questions_are_refused_however_often_they_were_answered(tmp_path: Path) -> None:
    often = [e for seed in range(3) for e in episodes(19, RIGHT, seed)]
    with pytest.raises(ConfigurationError, match="19 questions are too few for 2 folds: 20 are"):
        study.main(study_of(tmp_path, often))


def test_a_proposal_counts_once_however_often_it_was_retried(tmp_path: Path) -> None:
    played = episodes(40, RIGHT)
    once, retried = (
        study.main(study_of(tmp_path / str(calls), charged(played, usage(calls, 80, 20))))
        for calls in (1, 4)
    )
    assert retried == once
    asked, spent = map(float, row(retried, "adaptive consistency, .95")[-2:])
    assert 1 < asked <= 4
    assert spent == pytest.approx(100 * asked, abs=1)


def test_a_rival_pays_for_no_verdict_that_it_does_not_read(tmp_path: Path) -> None:
    played = charged(episodes(40, RIGHT), usage(1, 80, 20), usage(1, 200, 0))
    text = study.main(study_of(tmp_path, played))
    for name, each in {
        "the best alone": 100,
        "adaptive consistency, .8": 100,
        "early stopping, window of 2": 100,
        "the best 2": 300,  # the confidence decides a tie
        "everybody": 300,
        "adaptive, cost 0.02": 300,
    }.items():
        asked, spent = map(float, row(text, name)[-2:])
        assert spent == pytest.approx(each * asked, abs=2)


def test_a_plain_majority_beside_a_profile_critic_pays_for_no_verdict(tmp_path: Path) -> None:
    """The critic of these traces gave verdicts, but no confidence."""
    played = charged(episodes(40, RIGHT), usage(1, 80, 20), usage(1, 200, 0), confidence=None)
    text = study.main(study_of(tmp_path, played))
    assert row(text, "everybody, plain majority")[-2:] == ["4.00", "400"]


def test_answers_are_graded_as_they_were_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="compared with --answer choice, not math"):
        study.main(study_of(tmp_path, episodes(40, RIGHT), answer="math"))


def test_a_price_of_an_agent_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    options = study_of(tmp_path, episodes(40, RIGHT), prices={"zed": 9.0})
    with pytest.raises(ConfigurationError, match=r"--prices zed: nobody .* They have ann, bo, cy"):
        study.main(options)
    # Agents of the traces that are not asked may have a price.
    options = study_of(tmp_path / "b", episodes(40, RIGHT), prices={"dan": 9.0})
    assert "2 agents: ann, bo" in study.main(replace(options, agents=("ann", "bo")))


def test_the_study_keeps_to_a_number_of_agents(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in episodes(40, RIGHT)))
    shared: Any = {"answer": "choice", "seeds": 1, "folds": 2, "cost": (0.5, 0.0)}
    few, many = (
        study.main(study.AskingOptions((traces,), tmp_path, calls=calls, **shared))
        for calls in (1.0, 4.0)
    )
    assert row(few, "adaptive, 1 agents") == row(few, "adaptive, cost 0.5")
    assert row(many, "adaptive, 4 agents") == row(many, "adaptive, cost 0")
    assert row(few, "adaptive, cost 0.5") != row(few, "adaptive, cost 0")


def test_the_study_waits_for_as_much_p_right_as_the_agents_to_ask_allow(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes(b"".join(b"\n" + e.to_json() for e in episodes(40, RIGHT)))
    text = study.main(
        study.AskingOptions(
            (traces,),
            tmp_path,
            answer="choice",
            seeds=1,
            folds=2,
            consensus="learned",
            cost=(0.5,),
            calls=2.5,
        )
    )
    asked = {line.split(" | ")[0]: float(line.split(" | ")[4]) for line in text.splitlines()
             if line.startswith("| adaptive, ")}  # fmt: skip
    assert asked["| adaptive, cost 0.5"] < 1.5 < asked["| adaptive, 2.5 agents"] < 3.2
    assert "against everybody, plain majority" in text
