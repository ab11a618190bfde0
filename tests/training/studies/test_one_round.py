"""Debates of one round replayed: the same outcome as the graph's, and what can be learned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, Episode, MathAnswer, TraceReader, create_deliberation
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import Failure, Response, Usage, no_usage
from tests.support.written import write_traces
from training.learn.dataset import make_groups
from training.learn.measures import honest_error
from training.learn.recalibrate import with_responses
from training.learn.rewards import tokens_of
from training.studies.one_round import (
    OneRoundOptions,
    describe_error,
    find_strongest,
    study,
    vote,
)
from training.studies.recorded_round import (
    CONFIDENCE,
    MAJORITY,
    Answered,
    Debate,
    charge,
    read_debates,
    read_proposals,
)

MATH = MathAnswer()
NAMES = ("ann", "bo", "cy")


def answer(name: str) -> Any:
    """Of even questions one agent knows the answer, and refining confuses it. Of odd questions
    nobody knows it, and who refines finds it."""

    def reply(messages: list[Any]) -> AIMessage:
        usage = {"input_tokens": 20 * len(messages), "output_tokens": 7, "total_tokens": 0}
        return AIMessage(said(messages), usage_metadata=usage)

    def said(messages: list[Any]) -> str:
        number = int(str(messages[0].text).split()[1])
        owner = NAMES[number // 2 % 3]
        refines = len(messages) > 1
        nothing = f'{name} does not know. {{"answer": null}}'
        if number % 2:
            return f"It is {number}." if refines else nothing
        if name == owner:
            return "Perhaps it is 1000." if refines else f"It is {number}."
        return nothing

    return RunnableLambda(reply)


def collect(
    folder: Path,
    count: int,
    start: int = 0,
    say: Callable[[str], Any] = answer,
    **options: Any,
) -> Path:
    given: dict[str, Any] = {
        "router": "always-refine",
        "max_rounds": 1,
        "stop_when_settled": False,
        "critic": lambda question, response: 0.8 if response["answer"] else 0.3,
    }
    given |= options
    graph = create_deliberation(
        [Agent(name, say(name)) for name in NAMES],
        answer=MATH,
        traces=folder,
        **given,
    ).compile()
    for number in range(start, start + count):
        graph.invoke({"question": f"Number {number}", "reference": str(number)})
    return folder


def accuracies(text: str) -> dict[str, float]:
    """Return the accuracy of every method in a table of results."""
    return {
        cells[1].strip(): float(cells[2].split()[0])
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("| "))
        if cells[1].strip() not in ("method", "---")
    }


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect(tmp_path_factory.mktemp("traces"), 60)


def test_a_replayed_debate_ends_as_it_did(traces: Path) -> None:
    for episode in TraceReader(traces):
        debate = Debate(episode, MATH.equivalent)
        played = debate.play(debate.refining(only_without_answer=False), CONFIDENCE)
        told = episode.outcome["answer"]
        assert played.right == (told is not None and MATH.equivalent(told, str(episode.reference)))
        assert played.tokens == episode.outcome["usage"]["total"]["tokens"]


def test_other_actions_and_the_bound(traces: Path) -> None:
    known, unknown, *_ = (Debate(e, MATH.equivalent) for e in TraceReader(traces))
    assert known.play({}, MAJORITY).right == 1
    assert known.single().right == pytest.approx(1 / 3)
    assert unknown.play({}, MAJORITY).right == 0
    everybody = dict.fromkeys(NAMES, "REFINE")
    assert known.play(everybody, MAJORITY).right == 0  # type: ignore[arg-type]
    assert unknown.play(everybody, MAJORITY).right == 1  # type: ignore[arg-type]
    assert known.oracle().right == unknown.oracle().right == 1


def test_a_router_learns_who_should_refine(traces: Path, tmp_path: Path) -> None:
    options = OneRoundOptions((traces,), out=tmp_path, algorithms=("softrankpo",), folds=2, seeds=1)
    found = accuracies(study(options))
    assert found["vote of 3"] == found["debate, 1 round"] == 0.5
    assert found["learned, softrankpo"] == found["refine where no answer"] == 1.0
    assert (tmp_path / "results.md").read_text().startswith("| method")


def test_fresh_proposals_give_larger_votes_and_controls(traces: Path, tmp_path: Path) -> None:
    fresh = collect(tmp_path / "fresh", 60, router="always-persist")
    again = read_proposals([fresh])
    for key, episode in read_debates([traces]).items():
        debate = Debate(episode, MATH.equivalent, [again[key]])
        everybody = debate.refining(only_without_answer=False)
        control = debate.play(everybody, MAJORITY, control=True)
        # These agents say the same when they are asked once more, so nothing changes.
        assert control.right == debate.play({}, MAJORITY).right
        six = vote(debate, None)["vote of 6"]
        assert six.right == control.right
        alone = [tokens_of(said) for said in debate.fresh[0].values() if said]
        assert six.tokens == debate.play({}, MAJORITY).tokens + sum(alone)


def test_a_new_answer_has_a_cluster_of_its_own(traces: Path) -> None:
    known, unknown, *_ = TraceReader(traces)
    debate = Debate(unknown, MATH.equivalent, [known])  # where one agent proposed 0
    places = {said["cluster"] for said in debate.fresh[0].values() if said and said["answer"]}
    assert places == {len(unknown.representatives)}
    assert debate.representatives == [*unknown.representatives, "0"]


def test_the_controls_of_a_study(traces: Path, tmp_path: Path) -> None:
    fresh = collect(tmp_path / "fresh", 60, router="always-persist")
    options = OneRoundOptions(
        (traces,), (fresh, fresh), fresh, (), "profile", tmp_path / "out",
        algorithms=("softrankpo",), folds=2, seeds=1,
    )  # fmt: skip
    found = accuracies(study(options))
    assert found["vote of 6"] == found["vote of 9 by confidence"] == found["greedy vote"] == 0.5
    assert found["adaptive consistency, 9 at most"] == 0.5
    assert found["greedy"] == pytest.approx(1 / 6, abs=1e-3)
    assert "strongest alone, vote of 1" not in found
    assert found["learned, softrankpo, learned consensus"] == 1.0
    assert found["learned, softrankpo, learned consensus: its control"] == 0.5
    assert found["expected gain"] == 1.0


def test_fresh_proposals_are_calibrated_too(tmp_path: Path) -> None:
    """The critic says .8 or so of every answer, and a third is right. So new wrong answers of two
    agents do not outvote what all three proposed."""

    def surely(_: str, response: Any) -> float:
        return 0.8 + 0.02 * NAMES.index(response["agent"])

    def first(name: str) -> Any:
        return say(name, lambda number: number if number % 3 == 0 else 1000)

    def second(name: str) -> Any:
        return say(name, lambda _: "null" if name == "cy" else 1000)

    def say(name: str, what: Callable[[int], object]) -> Any:
        return RunnableLambda(
            lambda messages: f'{name}: {{"answer": {what(int(str(messages[0].text).split()[1]))}}}'
        )

    traces = collect(tmp_path / "traces", 60, say=first, critic=surely)
    given: dict[str, Any] = {"say": second, "critic": surely, "router": "always-persist"}
    fresh = collect(tmp_path / "fresh", 60, **given)
    options = OneRoundOptions((traces,), (fresh,), out=tmp_path, algorithms=("none",), folds=2)
    found = accuracies(study(replace(options, seeds=1)))
    assert found["vote of 6 by confidence"] == found["vote of 3"] == pytest.approx(1 / 3, abs=1e-3)


def test_the_strongest_of_unlike_agents_alone(traces: Path) -> None:
    _, _, owned_by_bo, *_ = TraceReader(traces)
    assert find_strongest([Debate(owned_by_bo, MATH.equivalent)]) is None  # one model
    told = [{**agent, "model": agent["name"]} for agent in owned_by_bo.agents]
    mixed = owned_by_bo.model_copy(update={"agents": told})
    assert find_strongest([Debate(mixed, MATH.equivalent)]) == "bo"
    turned = mixed.model_copy(update={"agents": [told[1], told[2], told[0]]})
    for episode in (mixed, turned):
        debate = Debate(episode, MATH.equivalent, [episode])
        found = vote(debate, "bo")
        assert found["strongest alone, vote of 1"].right == 1
        assert found["strongest alone, vote of 2"].right == 1
        own = debate.proposed["bo"]
        assert own
        assert found["strongest alone, vote of 2"].tokens == 2 * tokens_of(own)
    assert "strongest alone, vote of 1" not in vote(Debate(mixed, MATH.equivalent), "somebody else")


def test_tokens_count_as_often_as_their_price(traces: Path) -> None:
    episode = asked_judges(next(iter(TraceReader(traces))))
    priced = Debate(charge(episode, {"ann": 11}), MATH.equivalent)
    plain = Debate(episode, MATH.equivalent)
    everybody = plain.refining(only_without_answer=False)
    own = [r for r in episode.responses.values() if r["agent"] == "ann"]
    more = priced.play(everybody, MAJORITY).tokens - plain.play(everybody, MAJORITY).tokens
    assert more == 10 * sum(tokens_of(r, judged=False) for r in own) > 0
    for name, judged in (("vote of 3", False), ("vote of 3 by confidence", True)):
        votes = [vote(debate, None)[name].tokens for debate in (plain, priced)]
        assert votes[1] - votes[0] == 10 * tokens_of(own[0], judged=judged)
    cost = make_groups([charge(episode, {"ann": 11})], MATH.equivalent).tokens
    least = make_groups([episode], MATH.equivalent).tokens
    assert cost.sum() - least.sum() == 10 * tokens_of(own[1])
    with pytest.raises(ConfigurationError, match="--prices eve: the team is ann, bo, cy"):
        charge(episode, {"eve": 2})
    with pytest.raises(
        ConfigurationError, match="--prices ann must be a whole number of at least 0"
    ):
        study(OneRoundOptions((traces,), prices={"ann": -1}))


def test_only_who_reads_confidences_pays_for_them(traces: Path) -> None:
    debate = Debate(asked_judges(next(iter(TraceReader(traces)))), MATH.equivalent, [])
    plain, judged = debate.play({}, MAJORITY).tokens, debate.play({}, CONFIDENCE).tokens
    assert judged == plain + 3 * 50
    found = vote(debate, None)
    assert found["vote of 3"].tokens == plain
    assert found["vote of 3 by confidence"].tokens == judged
    assert debate.single().tokens == pytest.approx(plain / 3)


def test_debates_of_several_teams_are_refused(traces: Path, tmp_path: Path) -> None:
    episode = next(iter(TraceReader(traces)))
    alone = episode.model_copy(update={"agents": episode.agents[:2], "question": "Another?"})
    other = tmp_path / "other.jsonl"
    names = {agent["name"] for agent in alone.agents}
    kept = {i: r for i, r in alone.responses.items() if r["agent"] in names}
    turns = [t for t in alone.turns if t["agent"] in names]
    other.write_bytes(alone.model_copy(update={"responses": kept, "turns": turns}).to_json())
    with pytest.raises(ConfigurationError, match="the debates are those of several teams"):
        study(OneRoundOptions((traces, other), out=tmp_path))


def asked_judges(episode: Episode) -> Episode:
    """Return the episode as if every verdict had taken 50 tokens."""

    def judged(response: Response) -> Response:
        assert response["critique"]
        usage = Usage({**no_usage(), "calls": 1, "prompt_tokens": 48, "completion_tokens": 2})
        return Response({**response, "critique": {**response["critique"], "usage": usage}})

    return with_responses(episode, judged)


def test_the_calibration_error_of_a_table() -> None:
    once = [Answered(float(k < 8), 1, stated=((0.8, float(k < 8)),)) for k in range(10)]
    assert describe_error(once) == f"0.000 ({honest_error(np.full(10, 0.8)):.3f})"
    assert describe_error([replace(a, stated=a.stated * 3) for a in once]) == describe_error(once)
    unstated = [replace(a, stated=(None,)) for a in once]
    assert describe_error(unstated) == describe_error([Answered(1.0, 1)]) == ""
    assert describe_error([*once, *unstated]) == describe_error(once)


def test_questions_without_fresh_proposals_are_left_out(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = collect(tmp_path / "fresh", 25, router="always-persist")
    options = OneRoundOptions((traces,), (fresh,), out=tmp_path, algorithms=("none",), folds=2)
    assert "25 questions of" in study(replace(options, seeds=1))
    assert "35 debates are left out, as --fresh or --greedy lacks" in capsys.readouterr().out


def test_what_is_learned_from_other_questions(traces: Path, tmp_path: Path) -> None:
    new = collect(tmp_path / "new", 80, start=60)
    given: dict[str, Any] = {"out": tmp_path / "out", "algorithms": ("none",), "seeds": 1}
    text = study(OneRoundOptions((new,), train=(traces,), **given))
    assert f"80 questions of {new}, each answered by what was learned from {traces}." in text
    assert accuracies(text)["learned, SFT alone"] == 1.0
    with pytest.raises(ConfigurationError, match="60 questions of --train are in --traces too"):
        study(OneRoundOptions((new, traces), train=(traces,), **given))


def test_a_question_is_known_by_what_the_models_are_told(traces: Path, tmp_path: Path) -> None:
    sorted_ = [
        episode.model_copy(update={"category": "numbers"}) for episode in TraceReader(traces)
    ]
    new = write_traces(tmp_path / "new", sorted_)
    with pytest.raises(ConfigurationError, match="60 questions of --train are in --traces too"):
        study(OneRoundOptions((new,), train=(traces,), out=tmp_path))


def test_what_failed_is_told_and_paid_for(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [*TraceReader(traces)]
    failure = Failure(
        agent="bo", round=0, stage="propose", error="gone", usage=no_usage(), seconds=0.0
    )
    lost = [episode.model_copy(update={"failures": [failure]}) for episode in whole[:20]]
    kept = write_traces(tmp_path / "traces", [*lost, *whole[20:]])
    assert len(read_debates([kept])) == 40
    assert "20 questions of" in capsys.readouterr().out
    read_debates([kept, traces])  # they were asked again
    assert capsys.readouterr().out == ""

    spent = Usage({**no_usage(), "calls": 1, "prompt_tokens": 1000, "completion_tokens": 200})
    episode = whole[0]
    responses = {k: r for k, r in episode.responses.items() if k != "bo@1"}
    failures = [Failure({**failure, "round": 1, "stage": "refine", "usage": spent})]
    failed = episode.model_copy(update={"responses": responses, "failures": failures})
    known, without = (Debate(e, MATH.equivalent) for e in (episode, failed))
    everybody = known.refining(only_without_answer=False)
    refined = tokens_of(episode.responses["bo@1"])
    saved = known.play(everybody, CONFIDENCE).tokens - without.play(everybody, CONFIDENCE).tokens
    assert saved == refined - 1200
    assert without.play({}, CONFIDENCE).tokens == known.play({}, CONFIDENCE).tokens


def test_other_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no debate of one round"):
        read_debates([collect(tmp_path / "a", 1, router="always-persist")])
    with pytest.raises(ConfigurationError, match="1 debates are too few for 5 folds"):
        study(OneRoundOptions((collect(tmp_path / "b", 1),)))


# Fourteen look-ups, answered by Qwen2.5-Coder-1.5B-Instruct under vLLM (docs/real-models.md).
REAL = Path(__file__).parent / "data" / "lookups-1.5B.jsonl"


def test_real_debates_end_as_they_did() -> None:
    episodes = [*read_debates([REAL]).values()]
    assert len(episodes) == 14
    for episode in episodes:
        debate = Debate(episode, MATH.equivalent)
        played = debate.play(debate.refining(only_without_answer=False), CONFIDENCE)
        assert played.tokens == episode.outcome["usage"]["total"]["tokens"]
        assert played.right == debate.right(episode.outcome["answer"])


def test_in_real_debates_merging_notes_helps() -> None:
    debates = [Debate(episode, MATH.equivalent) for episode in read_debates([REAL]).values()]
    alone = sum(debate.single().right for debate in debates)
    merged = sum(debate.play(debate.refining(only_without_answer=False), MAJORITY).right
                 for debate in debates)  # fmt: skip
    assert merged > 2 * alone
