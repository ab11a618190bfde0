"""Votes and controls from a pool: equal to the real graph, and to what one computes by hand."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mpdf_langgraph import Episode
from mpdf_langgraph.consensus import confidence_weighted, majority
from mpdf_langgraph.router import FixedRouter
from mpdf_langgraph.state import Critique, Response, Turn
from tests.support.asking import each
from tests.support.records import critique, failure, response, usage
from training.collect.questions import Question
from training.collect.team import TeamOptions
from training.evaluate import votes
from training.evaluate.bench import Bench, Seeded

Member = tuple[int | None, float | None] | None


def held(name: str, member: Member, tokens: int, round_: int = 0) -> Response:
    assert member is not None
    return response(name, *member, round_=round_, usage=usage(1, tokens - 1, 1))


def episode(*members: Member, turns: list[tuple[int, str, str]] = [], **fields: Any) -> Episode:  # noqa: B006
    """An episode of agent-1, ... Their proposals took 10, 20, ... tokens. None: it failed.

    Turns are (round, agent, action).
    """
    names = [f"agent-{k}" for k in range(1, len(members) + 1)]
    drawn = [
        held(name, member, 10 * k)
        for k, (name, member) in enumerate(zip(names, members, strict=True), 1)
        if member is not None
    ]
    return Episode.model_construct(
        agents=[{"name": name} for name in names],
        responses={r["id"]: r for r in drawn},
        turns=[Turn(round=r, agent=f"agent-{k}", action=a) for r, k, a in turns],  # type: ignore[typeddict-item]
        failures=fields.get("failures", []),
        options=fields.get("options", {}),
        representatives=[str(k) for k in range(9)],
        outcome={"rounds": max((r for r, _, _ in turns), default=0)},
    )


# --- votes, by hand ---------------------------------------------------------------------------

POOL = episode((0, 0.9), (1, 0.5), (1, 0.3), (None, 0.9), (1, 0.2), (2, 0.95))


@pytest.mark.parametrize(
    ("method", "answer", "tokens", "calls"),
    [
        (votes.vote(1), "0", 10, 1),
        (votes.member(1, 3, votes.vote(2)), "1", 70, 2),
        (votes.member(2, 3, votes.weighted_vote(2)), "2", 90, 2),
        (votes.vote(2), "0", 30, 2),  # a tie goes to the surer one
        (votes.vote(3), "1", 60, 3),
        (votes.weighted_vote(3), "0", 60, 3),
        (votes.weighted_vote(5), "1", 150, 5),
        (votes.best_of(5), "0", 150, 5),
        (votes.best_of(6), "2", 210, 6),
        (votes.adaptive(0.52), "0", 60, 3),  # 0.9 of 1.7 are 0.529
        (votes.adaptive(0.53), "1", 210, 6),  # nor 1.0 of 1.9, which is 0.526
        (votes.adaptive(0.53, most=5), "1", 150, 5),
        (votes.adaptive(0.6, least=1), "0", 10, 1),
    ],
)
def test_methods_by_hand(method: Any, answer: str, tokens: int, calls: int) -> None:
    outcome = method(POOL)
    assert (outcome.answer, outcome.tokens, outcome.calls) == (answer, tokens, calls)
    assert not outcome.failed


def test_adaptive_resampling_stops_in_the_middle() -> None:
    pool = episode((0, 0.5), (1, 0.5), (0, 0.5), (0, 0.5), (0, 0.5), (1, 0.5))
    assert votes.adaptive(0.75)(pool) == votes.weighted_vote(4)(pool)
    assert votes.adaptive(0.8)(pool) == votes.weighted_vote(5)(pool)


def test_without_confidences_weights_are_equal() -> None:
    pool = episode((0, None), (1, None), (1, None), (1, None), (0, None))
    for method in (votes.vote(5), votes.weighted_vote(5), votes.best_of(5)):
        assert method(pool).answer == "1"
    assert votes.adaptive(0.74)(pool).calls == 4  # 3 of 4 say so
    assert votes.adaptive(0.76)(pool).calls == 5


def test_agreement_within_the_pool_is_not_known_to_a_smaller_vote() -> None:
    pool = episode((0, 0.2), (1, 0.8), (1, 0.8), (1, 0.8))
    for one in pool.responses.values():
        assert one["critique"]
        one["critique"]["source"] = "agreement"
    assert votes.best_of(2)(pool).answer == votes.weighted_vote(2)(pool).answer == "0"


def test_failures_and_critics_are_paid_for() -> None:
    pool = episode(None, (1, 0.5), (0, 0.9))
    second = pool.responses["agent-2@0"]
    second["critique"] = Critique({**critique(0.5), "usage": usage(1, 5, 1)})
    pool.failures.append(failure("agent-1", "propose", usage(3, 7, 0)))
    pool.failures.append(failure("agent-3", "critique", usage(1, 100, 0)))
    assert votes.weighted_vote(2)(pool) == votes.Result("1", 7 + 20 + 6, 3 + 1 + 1, {})
    assert votes.weighted_vote(3)(pool) == votes.Result("0", 33 + 30 + 100, 5 + 1 + 1, {})
    # A plain vote needs no critic that has to be asked, so it pays for none and reads none.
    assert votes.vote(2)(pool) == votes.Result("1", 7 + 20, 3 + 1, {})
    assert votes.vote(3)(pool) == votes.Result("1", 7 + 20 + 30, 3 + 1 + 1, {})


def test_a_vote_tells_how_many_proposals_it_asked_for() -> None:
    pool = episode((0, 0.5), None, (0, 0.5), (0, 0.5), (0, 0.5))
    for one in pool.responses.values():
        one["usage"] = usage(3, 10, 0)  # each was retried
    pool.failures.append(failure("agent-2", "propose", usage(3, 7, 0)))
    assert [votes.vote(k)(pool).proposals for k in (1, 2, 5, 9)] == [1, 2, 5, 5]
    assert votes.early_stopping(2)(pool).proposals == 4
    found = votes.adaptive_consistency(0.8)(pool)
    assert (found.proposals, found.calls) == (3, 9)


def test_a_verdict_beside_the_sequence_probability_costs_a_vote_nothing() -> None:
    pool = episode(None, (1, 0.5), (0, 0.9))
    before = votes.weighted_vote(2)(pool).tokens
    second = pool.responses["agent-2@0"]
    second["critique"] = Critique({**critique(0.5), "source": "logprob", "usage": usage(1, 5, 1)})
    assert votes.weighted_vote(2)(pool).tokens == votes.vote(2)(pool).tokens == before
    second["critique"] = Critique({**critique(0.5), "source": "self", "usage": usage(1, 5, 1)})
    assert votes.weighted_vote(2)(pool).tokens == before + 6
    assert votes.vote(2)(pool).tokens == before


def test_a_vote_without_a_response_has_failed_and_one_without_an_answer_has_not() -> None:
    pool = episode(None, (None, 0.5), (0, 0.9))
    pool.failures.append(failure("agent-1", "propose", usage(3, 7, 0)))
    for method in (votes.vote, votes.weighted_vote, votes.best_of):
        assert method(1)(pool) == votes.Result(None, 7, 3, {}, failed=True)
        assert method(2)(pool) == votes.Result(None, 27, 4, {})


async def test_nor_does_it_cost_a_rule_anything(tmp_path: Path) -> None:
    found = {}
    for critic in ("logprob", "self+logprob"):
        source = TeamOptions(model_factory=("tests.support.factories:make",))
        with closing(Bench(source, tmp_path / critic, critic=critic)) as bench:
            one = await bench.deliberate(QUESTIONS[0], router="always-refine")
        found[critic] = votes.result_of(one), votes.result_of(one, observes=True)
    cheap, dear = found["logprob"], found["self+logprob"]
    assert cheap[0] == cheap[1]
    assert (dear[0].tokens, dear[0].calls) == (cheap[0].tokens, cheap[0].calls)
    assert dear[1].tokens > dear[0].tokens  # what a learned router pays
    assert dear[1].calls > dear[0].calls


# --- the control, by hand ---------------------------------------------------------------------

# The team's proposals, then doubles of 1, 2, 3, 1, 2, 3.
CROWD: list[Member] = [
    *((0, 0.6), (1, 0.5), (2, 0.4)),
    *((3, 0.3), (1, 0.2), (4, 0.9)),
    *((4, 0.8), (None, 0.1), (5, 0.7)),
]


@pytest.mark.parametrize(
    ("turns", "answer", "tokens"),
    [
        ([], "0", 60),
        # 3 and 1 and 2: the surest of three.
        ([(1, 1, "REFINE")], "1", 60 + 40),
        ([(1, 3, "REFINE"), (1, 1, "PERSIST")], "4", 60 + 60),
        # Agent 3 goes over to the surest of the others as they were: 0, not the new 3.
        ([(1, 1, "REFINE"), (1, 3, "CONCEDE")], "0", 60 + 40),
        # Everyone twice. Agent 2's second sample has no answer, so it keeps its 1.
        (
            [(r, k, "REFINE") for r in (1, 2) for k in (1, 2, 3)],
            "4",
            60 + 40 + 50 + 60 + 70 + 80 + 90,
        ),
        # Over to 4, in which agents 1 and 3 agree after the second round.
        ([(1, 3, "REFINE"), (2, 1, "CONCEDE"), (2, 2, "CONCEDE")], "4", 60 + 60),
    ],
)
def test_the_control_by_hand(turns: list[Any], answer: str, tokens: int) -> None:
    played, pool = episode((0, 0.6), (1, 0.5), (2, 0.4), turns=turns), episode(*CROWD)
    before = pool.model_dump()
    outcome = votes.replay_with_fresh_samples(played, pool, confidence_weighted)
    assert (outcome.answer, outcome.tokens) == (answer, tokens)
    assert sum(outcome.actions.values()) == len(turns)
    assert outcome.calls == 3 + outcome.actions.get("REFINE", 0)
    assert pool.model_dump() == before


def test_the_control_takes_failures_as_the_graph_does() -> None:
    turns = [(1, 1, "REFINE"), (1, 2, "REFINE"), (2, 2, "CONCEDE")]
    played = episode((0, 0.6), None, turns=turns)
    pool = episode((0, 0.6), None, None, (None, 0.3))
    # Agent 1 keeps its 0, as the fresh one failed. Agent 2 takes the one without an answer, as it
    # had none, and then goes over to 0.
    assert votes.replay_with_fresh_samples(played, pool, majority).answer == "0"
    assert votes.replay_with_fresh_samples(played, pool, majority).calls == 2


def test_the_control_keeps_an_answer_rather_than_none() -> None:
    played = episode((1, 0.9), (0, 0.5), turns=[(1, 1, "REFINE")])
    pool = episode((1, 0.9), (0, 0.5), (None, 0.3))
    assert votes.replay_with_fresh_samples(played, pool, confidence_weighted) == votes.Result(
        "1", 60, 3, {"REFINE": 1}
    )


# --- the real graph ---------------------------------------------------------------------------

QUESTIONS = [
    Question(f"q{n}", f"Question {n}?", "1", {f"agent-{k}": f"You are number {k}." for k in (1, 2)})
    for n in range(6)
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    source = TeamOptions(model_factory=("tests.support.riddles:motley",))
    with closing(Bench(source, tmp_path)) as opened:
        yield opened


@pytest.mark.parametrize("rule", ["majority", "confidence"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
async def test_a_vote_from_the_pool_is_the_graph_of_k_that_persist(
    bench: Bench, k: int, rule: str
) -> None:
    pool = await each(QUESTIONS, bench.draw_pool)
    drawn = bench.samples.counts["drawn"]

    async def persist(question: Question) -> Episode:
        team = bench.crowd[:k]
        return await bench.deliberate(
            question, agents=team, router="always-persist", consensus=rule
        )

    graph = await each(QUESTIONS, persist)
    assert bench.samples.counts["drawn"] == drawn == 10 * len(QUESTIONS)  # a third of 15 fails
    method = votes.vote(k) if rule == "majority" else votes.weighted_vote(k)
    answers = set()
    for one, large in zip(graph, pool, strict=True):
        real, computed = votes.result_of(one), method(large)
        assert (real.answer, real.tokens, real.calls) == (
            computed.answer,
            computed.tokens,
            computed.calls,
        )
        answers.add(real.answer)
    assert len(answers) > 1


async def test_a_control_without_refinements_is_the_deliberation_itself(bench: Bench) -> None:
    """The team's proposals are the first of the pool, and CONCEDE does what the graph does."""
    concede = FixedRouter("concede", (0.5, 0.0, 0.5))
    pool = await each(QUESTIONS, bench.draw_pool)
    played = await each(QUESTIONS, lambda q: bench.deliberate(q, router=Seeded(concede, q.id)))
    moved = 0
    for one, large in zip(played, pool, strict=True):
        control = votes.replay_with_fresh_samples(one, large, confidence_weighted)
        assert control == votes.result_of(one)
        moved += control.actions.get("CONCEDE", 0)
        for response_id, drawn in one.responses.items():
            assert drawn["text"] == large.responses[response_id]["text"]
    assert moved > 1


# --- stopping rules ---------------------------------------------------------------------------


def pool_of(clusters: list[int | None]) -> Episode:
    return episode(*((cluster, None) for cluster in clusters))


@pytest.mark.parametrize(
    ("clusters", "calls"),
    [
        ([0, 0, 0, 0, 0, 0], 4),  # 1 - I_1/2(5, 1) = .969, and .938 before
        ([0, 0, 1, 0, 0, 0], 6),  # 1 - I_1/2(6, 2) = .938: everybody is asked
        ([0, 1, 2, 3, 4, 5], 6),
        ([None, 0, 0, 0, 0, 0], 5),
    ],
)
def test_adaptive_consistency_draws_until_the_leader_is_likely_the_majority(
    clusters: list[int | None], calls: int
) -> None:
    assert votes.adaptive_consistency(0.95, 6)(pool_of(clusters)).calls == calls


@pytest.mark.parametrize(
    ("clusters", "window", "calls"),
    [
        ([0, 0, 1, 1, 1, 1], 2, 2),
        ([0, 1, 1, 1, 2, 2], 2, 4),
        ([0, 1, 1, 0, 2, 1], 2, 6),
        ([None, None, 1, 1, 1, 1], 2, 4),
        ([0, 1, 1, 1, 1, 1], 3, 6),
    ],
)
def test_early_stopping_draws_windows_until_one_agrees(
    clusters: list[int | None], window: int, calls: int
) -> None:
    assert votes.early_stopping(window, 6)(pool_of(clusters)).calls == calls


def test_who_holds_anothers_response_speaks_with_its_voice() -> None:
    own, adopted = response("ann", 0, 0.9), response("bo", 1, 0.8)
    found = votes.ballot([own, adopted, adopted, None], ["ann", "bo", "cy", "di"])
    assert [vote.author for vote in found] == [None, None, "bo", None]
    assert [vote.author for vote in votes.ballot([own, adopted])] == [None, None]


async def test_a_plain_debate_pays_for_no_verdict(tmp_path: Path) -> None:
    source = TeamOptions(model_factory=("tests.support.factories:make",))
    with closing(Bench(source, tmp_path, critic="self")) as bench:
        given = {"router": "always-refine", "consensus": "majority", "max_rounds": 1}
        one = await bench.deliberate(QUESTIONS[0], stop_when_settled=False, **given)
    judged, plain = votes.result_of(one), votes.result_of(one, judged=False)
    spent = sum(votes.tokens(response["usage"]) for response in one.responses.values())
    assert (plain.calls, plain.tokens) == (6, spent)
    assert judged.calls > plain.calls
    assert judged.tokens > plain.tokens
    assert judged.failures  # the riddler knows no yes or no
    assert plain.failures == ()
    one.failures.append(failure("somebody else", "refine", usage(1, 10, 0)))
    found = votes.result_of(one, judged=False)
    assert (len(found.failures), found.gaps, found.calls) == (1, 1, plain.calls)
