"""The bench: teams and crowds, what each of them knows, what fails, and the oracle."""

import itertools
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mpdf_langgraph import Calibration, ConfigurationError, Episode
from mpdf_langgraph.consensus import confidence_weighted
from mpdf_langgraph.router import FixedRouter
from tests.support import riddles
from tests.support.asking import each
from training.collect.questions import Question, read_questions
from training.collect.team import TeamOptions
from training.evaluate import votes
from training.evaluate.bench import Bench, Script, Seeded

RIDDLES = TeamOptions(model_factory=("tests.support.riddles:make",))


def bench_of(folder: Path, source: TeamOptions = RIDDLES, **options: Any) -> Bench:
    return Bench(source, folder, **options)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(bench_of(tmp_path)) as opened:
        yield opened


def some(folder: Path, kinds: str, **options: Any) -> list[Question]:
    return read_questions(riddles.questions(folder / "riddles.jsonl", kinds, **options))


def answers(episodes: list[Episode]) -> list[str | None]:
    return [episode.outcome["answer"] for episode in episodes]


async def persist(bench: Bench, questions: list[Question]) -> list[Episode]:
    return await each(questions, lambda q: bench.deliberate(q, router="always-persist"))


# --- the team and the crowd -------------------------------------------------------------------


def test_the_crowd_is_the_team_and_doubles_enough_for_every_refinement(tmp_path: Path) -> None:
    for agents, rounds, size in ((3, 2, 15), (2, 1, 15), (5, 3, 20), (16, 1, 32)):
        source = TeamOptions(model_factory=RIDDLES.model_factory, agents=agents)
        with closing(bench_of(tmp_path, source, rounds=rounds)) as bench:
            assert [a.name for a in bench.crowd] == [f"agent-{k + 1}" for k in range(size)]
            assert bench.agents == bench.crowd[:agents]


async def test_doubles_know_what_their_originals_do(bench: Bench, tmp_path: Path) -> None:
    [episode] = await each(some(tmp_path, "A"), bench.draw_pool)
    said = [episode.responses[f"agent-{k}@0"]["answer"] for k in range(1, 16)]
    assert said == ["100", "200", "300"] * 5
    assert episode.contexts["agent-5"] == "You are number 2."


async def test_a_mixed_team_keeps_its_models_apart_even_of_one_name(tmp_path: Path) -> None:
    both = TeamOptions(
        model_factory=("tests.support.riddles:make", "tests.support.riddles:agreeable")
    )
    with closing(bench_of(tmp_path, both)) as bench:
        [episode] = await each(some(tmp_path, "A", contexts=False), bench.draw_pool)
    # Agents 1 and 3 are of the first make, agent 2 of the other. So are their doubles.
    assert [episode.responses[f"agent-{k}@0"]["answer"] for k in range(1, 7)] == [
        *("100", "1", "100"),
        *("100", "1", "100"),
    ]


async def test_another_model_of_one_name_has_samples_of_its_own(tmp_path: Path) -> None:
    questions = some(tmp_path, "AB", contexts=False)
    for factory, expected in (("make", ["100", "2"]), ("agreeable", ["1", "2"])):
        with closing(
            bench_of(tmp_path, TeamOptions(model_factory=(f"tests.support.riddles:{factory}",)))
        ) as b:
            assert answers(await persist(b, questions)) == expected
            assert b.samples.counts["drawn"] == 6


def test_chains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="plain chat models"):
        bench_of(tmp_path, TeamOptions(model_factory=("tests.support.factories:chain",)))
    assert not list(tmp_path.iterdir())


# --- runs -------------------------------------------------------------------------------------


async def test_a_failed_question_leaves_its_episode_and_stops_no_other(
    bench: Bench, tmp_path: Path
) -> None:
    episodes = await persist(bench, some(tmp_path, "XBU"))
    outcomes = [votes.result_of(episode) for episode in episodes]
    assert [o.failed for o in outcomes] == [True, False, False]
    assert [o.answer for o in outcomes] == [None, "2", None]
    assert [o.calls for o in outcomes] == [3, 3, 3]


async def test_a_question_that_fails_does_not_calibrate(bench: Bench, tmp_path: Path) -> None:
    questions = some(tmp_path, "AAAAAAAA")
    debates = await each(questions, bench.debate)
    lost = await bench.debate(Question("lost", "", "1", {}))  # an empty question is refused
    assert lost is None
    assert bench.fit_calibration([*debates, lost]) == bench.fit_calibration(debates)


def test_grading(bench: Bench) -> None:
    question = Question("q", "?", "0.5", {})
    assert [bench.is_right(question, a) for a in ("1/2", "1/2", "2", None)] == [1, 1, 0, 0]
    assert not bench.is_right(Question("q", "?", None, {}), "1")


async def test_a_seeded_router_decides_the_same_again(bench: Bench, tmp_path: Path) -> None:
    router = FixedRouter("r", (1 / 3, 1 / 3, 1 / 3))
    questions = some(tmp_path, "AAAABBBB")

    async def actions(seed: str) -> list[str]:
        episodes = await each(
            questions,
            lambda q: bench.deliberate(
                q, router=Seeded(router, f"{seed}/{q.id}"), stop_when_settled=False
            ),
        )
        return [turn["action"] for e in episodes for turn in e.turns]

    first = await actions("0")
    assert len(first) == 3 * 2 * len(questions)
    assert set(first) == {"PERSIST", "REFINE", "CONCEDE"}
    drawn = bench.samples.counts["drawn"]
    assert await actions("0") == first
    assert bench.samples.counts["drawn"] == drawn
    assert await actions("1") != first


def test_a_seeded_router_keeps_to_masks_and_brings_its_competence() -> None:
    class Knowing(FixedRouter):
        @property
        def competence(self) -> dict[str, float]:
            return {"agent-1": 0.7}

    router = Seeded(Knowing("k", (0.0, 0.5, 0.5)), "s")
    assert router.competence == {"agent-1": 0.7}
    assert router.decide([None] * 20, [[True, False, True]] * 20) == [[0.0, 0.0, 1.0]] * 20
    rows = router.decide([None] * 20, [[True, True, True]] * 20)
    assert {tuple(row) for row in rows} == {(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}


def test_a_script_plays_its_rounds_and_goes_on() -> None:
    script = Script([{"b": "CONCEDE"}, {}], ["a", "b"], [0.0, 1.0, 0.0])
    played = [script.decide([None] * 2, []) for _ in range(3)]
    persist, refine, concede = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    assert played == [[persist, concede], [persist, persist], [refine, refine]]


# --- the oracle -------------------------------------------------------------------------------


async def test_the_oracle_by_hand(bench: Bench, tmp_path: Path) -> None:
    questions = some(tmp_path, "ABXU")
    played = await each(questions, lambda q: bench.play_oracle(q, 2))
    one, two = ([episodes[k] for episodes in played] for k in (0, 1))
    riddle_a, riddle_b, failed, hopeless = one
    # All are wrong of A, and refining helps. Of B the third goes over to the surest other.
    assert riddle_a.outcome["actions"] == [f"agent-{k}@1: REFINE" for k in (1, 2, 3)]
    assert riddle_b.outcome["actions"] == [
        "agent-1@1: PERSIST",
        "agent-2@1: PERSIST",
        "agent-3@1: CONCEDE",
    ]
    assert hopeless.outcome["actions"] == [f"agent-{k}@1: PERSIST" for k in (1, 2, 3)]
    assert failed.outcome["answer"] is None
    assert answers(one) == answers(two) == ["1", "2", None, None]
    # All is well after the first round: in the second everyone persists, for nothing.
    for first, second in zip(one, two, strict=True):
        assert (
            second.outcome["usage"]["total"]["tokens"] == first.outcome["usage"]["total"]["tokens"]
        )
        assert all(turn["action"] == "PERSIST" for turn in second.turns if turn["round"] == 2)
    assert answers(await persist(bench, questions)) == ["100", "2", None, None]


@pytest.mark.parametrize("rule", ["majority", "confidence"])
async def test_the_oracle_is_never_below_always_persisting(tmp_path: Path, rule: str) -> None:
    questions = [
        Question(f"q{n}", f"Question {n}?", "1", {"agent-2": "You are number 2."} if n % 3 else {})
        for n in range(12)
    ]
    source = TeamOptions(model_factory=("tests.support.riddles:motley",))
    with closing(bench_of(tmp_path, source, consensus=rule)) as bench:
        first = await persist(bench, questions)
        played = await each(questions, lambda q: bench.play_oracle(q, 3))
        rounds = [list(episodes) for episodes in zip(*played, strict=True)]
        right = [
            [bench.is_right(q, e.outcome["answer"]) for q, e in zip(questions, run, strict=True)]
            for run in (first, *rounds)
        ]
    # It repeats itself: what the trial drew is what the real run has.
    assert all(e.outcome["rounds"] == k for k, run in enumerate(rounds, 1) for e in run)
    for fewer, more in itertools.pairwise(right):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert sum(right[0]) < sum(right[1]) <= sum(right[3])
    taken = {turn["action"] for run in rounds for e in run for turn in e.turns}
    assert taken == {"PERSIST", "REFINE", "CONCEDE"}


# --- calibration ------------------------------------------------------------------------------


async def test_the_bench_can_be_calibrated_and_routers_keep_their_own(
    bench: Bench, tmp_path: Path
) -> None:
    """Riddles A are guessed wrong and refined right, whatever the confidence: curves say so."""
    questions = some(tmp_path, "A" * 8)
    assert "calibration" not in (await bench.draw_pool(questions[0])).options
    calibration = bench.fit_calibration(await each(questions, bench.debate))
    bench.use_calibration(calibration)
    assert calibration.root.keys() == {"logprob"}
    pool = await each(questions, bench.draw_pool)
    debate = await each(questions, lambda q: bench.deliberate(q, router="always-refine"))
    for episode in pool + debate:
        assert Calibration.model_validate(episode.options["calibration"]) == calibration
        for response in episode.responses.values():
            assert calibration.apply(response) == response
    own = FixedRouter("own", (0.0, 1.0, 0.0))
    object.__setattr__(own, "calibration", Calibration({}))
    ran = await each(questions, lambda q: bench.deliberate(q, router=Seeded(own, q.id)))
    for episode, control in zip(ran, pool, strict=True):
        assert "calibration" not in episode.options
        # The control counts the pool's proposals with the confidences that the router had.
        replay = votes.replay_with_fresh_samples(episode, control, confidence_weighted)
        assert replay.confidence == pytest.approx(math.exp(-0.3))


async def test_who_never_reads_its_peers_is_no_better_than_its_control(tmp_path: Path) -> None:
    """Its refinements are right because they are drawn cooler, and so are the control's."""
    team = TeamOptions(model_factory=("tests.support.riddles:hot_headed",))
    with closing(bench_of(tmp_path, team, rounds=1)) as bench:
        questions = some(tmp_path, "A" * 60, contexts=False)
        given: dict[str, Any] = {"router": "always-refine", "stop_when_settled": False}
        debates = await each(questions, lambda q: bench.deliberate(q, **given))
        pool = await each(questions, lambda q: bench.draw_fresh(q, 1))
        hot = await each(questions, lambda q: bench.draw_pool(q, 6))

    def right(results: list[votes.Result]) -> float:
        pairs = zip(results, questions, strict=True)
        return sum(bench.is_right(q, r.answer) for r, q in pairs) / len(questions)

    def control(drawn: list[Episode]) -> float:
        pairs = zip(debates, drawn, strict=True)
        rule = confidence_weighted
        return right([votes.replay_with_fresh_samples(e, p, rule) for e, p in pairs])

    debate = right([votes.result_of(one) for one in debates])
    assert debate > 0.9
    assert control(pool) > debate - 0.1
    assert control(hot) < debate - 0.3  # against hot proposals it would seem to gain
    assert [a["sampling"]["temperature"] for a in pool[0].agents] == [1.0] * 3 + [0.6] * 3


def test_doubles_have_the_calibration_of_their_originals(bench: Bench) -> None:
    curve = {"slope": 2.0, "shift": -1.0}
    given = Calibration.model_validate({"logprob@agent-1": {"proposed": curve, "refined": curve}})
    bench.use_calibration(given)
    used = bench._given["calibration"]
    known = [a.name for a in bench.crowd if used.curves_of("logprob", a.name)]
    assert known == ["agent-1", "agent-4", "agent-7", "agent-10", "agent-13"]
