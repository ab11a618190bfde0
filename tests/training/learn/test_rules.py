"""Which confidence the fitted rules stand on: the recorded one, or that of a profile critic."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import Agent, MathAnswer, TraceReader, create_deliberation
from mpdf_langgraph.state import Response
from training.learn.rules import choose_critic

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
