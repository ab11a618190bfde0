"""Recorded answers under the real graph, and the examples that use them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from examples import replay_gsm8k
from mpdf_langgraph import Agent, MathAnswer, Prompts, RecordedChatModel, create_deliberation
from mpdf_langgraph.errors import DeliberationError, EndpointError
from tests.support.paths import DATA
from tests.support.running import run_python
from training.collect.importing import gsm8k_solutions
from training.collect.questions import TableError

SOLUTIONS = DATA / "gsm8k" / "model_solutions.jsonl"
SUM, LONGER = "What is 2 + 2?", "Ann asks: What is 2 + 2? And what is it doubled?"
TOLD = {
    SUM: {"ann": "It is \\boxed{4}", "bo": "It is \\boxed{5}", "cy": "Four, so \\boxed{4}"},
    LONGER: {"ann": "It is \\boxed{8}", "bo": "So it is \\boxed{8}"},
}


def recorded(agent: str, told: Any = TOLD) -> RecordedChatModel:
    return RecordedChatModel(agent=agent, recordings=told)


def team(*names: str, told: Any = TOLD) -> list[Agent]:
    return [Agent(name, recorded(name, told)) for name in names]


def deliberate(question: str, *names: str, **options: Any) -> dict[str, Any]:
    given = {"critic": None, "consensus": "majority", "answer": MathAnswer(), **options}
    graph = create_deliberation(team(*names, told=given.pop("told", TOLD)), **given).compile()
    outcome: dict[str, Any] = graph.invoke({"question": question})["deliberation"]
    return outcome


def test_each_agent_says_what_it_said() -> None:
    for name, text in TOLD[SUM].items():
        reply = recorded(name).invoke(SUM)
        assert reply.text == text
        assert reply.response_metadata["model_name"] == name
        assert asyncio.run(recorded(name).ainvoke(SUM)).text == text


def test_the_question_is_found_in_any_prompt() -> None:
    messages = [SystemMessage("You add."), HumanMessage(f"Please: {SUM}\n\nIn a box.")]
    assert recorded("bo").invoke(messages).text == TOLD[SUM]["bo"]


def test_the_longest_question_counts() -> None:
    assert recorded("ann").invoke(LONGER).text == TOLD[LONGER]["ann"]


def test_another_question_later_in_a_conversation() -> None:
    messages = [HumanMessage(SUM), AIMessage("4"), HumanMessage(LONGER)]
    assert recorded("ann").invoke(messages).text == TOLD[LONGER]["ann"]


def test_recorded_probabilities_and_usage_come_along() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    tokens = [{"token": "4", "logprob": -0.1, "top_logprobs": []}]
    message = AIMessage(
        "4", usage_metadata=usage, response_metadata={"logprobs": {"content": tokens}}
    )
    told = {SUM: {"ann": message, "bo": "5"}}
    outcome = deliberate(SUM, "ann", told=told, critic="logprob", max_rounds=1)
    assert outcome["usage"]["total"]["tokens"] == 7
    assert outcome["confidence"] == pytest.approx(0.9048, abs=1e-3)
    recorded("ann", told).invoke(SUM).content = "9"
    assert recorded("ann", told).invoke(SUM).text == "4"  # the recording stays as it is


@pytest.mark.parametrize(
    ("agent", "asked", "said"),
    [
        ("ann", "What is 3 + 3?", "none of the 2 recorded questions"),
        ("ann", "", "none of the 2 recorded questions"),
        ("cy", LONGER, "no answer of agent 'cy' is recorded.*ann, bo"),
        ("ann", [HumanMessage(SUM), AIMessage("4"), HumanMessage("Is it?")], "cannot refine"),
        (
            "ann",
            [HumanMessage(SUM), AIMessage("4"), HumanMessage(f"{SUM} Again!")],
            "cannot refine",
        ),
    ],
)
def test_what_is_not_recorded_is_an_error(agent: str, asked: Any, said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        recorded(agent).invoke(asked)


def test_a_deliberation_over_recordings() -> None:
    outcome = deliberate(SUM, "ann", "bo", "cy", router="always-persist", max_calls=3)
    assert (outcome["answer"], outcome["usage"]["total"]["calls"]) == ("4", 3)
    assert outcome["votes"] == {"ann": "4", "bo": "5", "cy": "4"}


def test_without_calls_left_agents_still_concede() -> None:
    def concede(observations: Any) -> list[str]:
        return ["CONCEDE"] * len(observations)

    outcome = deliberate(SUM, "bo", "cy", "ann", router=concede, max_calls=3)
    assert not outcome["failures"]
    assert "REFINE" not in str(outcome["actions"])
    assert "CONCEDE" in str(outcome["actions"])


@pytest.mark.parametrize("prompts", [Prompts(), Prompts(refine="{question} again! {own} {peers}")])
def test_who_refines_keeps_its_answer_and_the_failure_is_told(prompts: Prompts) -> None:
    agents = [Agent(name, recorded(name), prompts=prompts) for name in ("ann", "bo")]
    graph = create_deliberation(
        agents, router="always-refine", critic=None, answer=MathAnswer(), max_rounds=1
    ).compile()
    outcome = graph.invoke({"question": SUM})["deliberation"]
    assert outcome["votes"] == {"ann": "4", "bo": "5"}
    assert len(outcome["failures"]) == 2
    assert all("it cannot refine" in failure for failure in outcome["failures"])


def test_one_agent_without_an_answer_is_a_failure_like_any_other() -> None:
    outcome = deliberate(LONGER, "ann", "bo", "cy", router="always-persist", max_calls=3)
    assert outcome["answer"] == "8"
    assert any("no answer of agent 'cy'" in failure for failure in outcome["failures"])
    with pytest.raises(DeliberationError, match="recorded questions"):
        deliberate("What is 9?", "ann", "bo")


# --- real models' words ---------------------------------------------------------------------


def solutions() -> Path:
    if not SOLUTIONS.exists():
        pytest.skip(f"public data is not here: {SOLUTIONS}")
    return SOLUTIONS


def test_four_models_on_gsm8k_deliberate_without_a_server() -> None:
    recordings = replay_gsm8k.read(solutions(), 60)
    right = asyncio.run(replay_gsm8k.replay(recordings, 8))
    alone = {name: sum(right[name]) for name in recordings.agents}
    assert len(alone) == 4
    best = next(name for name in right if name.startswith("best single"))
    assert sum(right[best]) == max(alone.values())
    held = right["majority"]
    bound = right["any of them right (a bound)"]
    assert all(b or not h for h, b in zip(held, bound, strict=True))
    # Without confidences nothing tells who is right but the votes: agents end where a vote does.
    assert right["deliberation without confidences"] == held
    assert min(alone.values()) < sum(held) < sum(bound)


def test_verdicts_are_those_that_were_published() -> None:
    from training.collect.questions import read_table

    agreed = total = 0
    for _, row in read_table(solutions()):
        assert isinstance(row, dict)
        for answer in gsm8k_solutions(row):
            parsed = MathAnswer().parse(answer["response"])
            mine = replay_gsm8k.is_right(parsed, answer["reference"])
            agreed += mine == row[answer["agent"]]["is_correct"]
            total += 1
        if total >= 1200:
            break
    assert agreed / total > 0.995


def test_what_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"question": "?", "answer": "#### 1"}')
    with pytest.raises(TableError, match="no recorded solution"):
        replay_gsm8k.read(path)


# --- examples -------------------------------------------------------------------------------


def test_the_replay_prints_a_table() -> None:
    words = ("examples/replay_gsm8k.py", "--data", solutions(), "--limit", "12")
    done = run_python("-W", "error", *words)
    assert done.returncode == 0, done.stderr
    for expected in ("best single model", "majority", "deliberation", "±", "12 questions"):
        assert expected in done.stdout


def test_free_text_agents_agree_once_somebody_judges() -> None:
    done = run_python("-W", "error", "examples/free_text.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" 33% ") == 2
    assert done.stdout.count(" 100% ") == 2
