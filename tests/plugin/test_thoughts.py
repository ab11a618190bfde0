"""Models that think before they answer, end to end: only the answer counts."""

import json
import math
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from mpdf_langgraph import Agent, DeliberationError, TraceReader, create_deliberation
from mpdf_langgraph.answers.choice_answer import ChoiceAnswer
from mpdf_langgraph.models.endpoints import vllm_chat_model
from tests.support.strict import Completion, StrictServer, tokens_of

SURE, UNSURE = -0.01, -2.0
DRAFT = "Is it B? No. So is it C, or D? Answer: D. Wait."
ANSWER = "Four is choice A.\n\nAnswer: A"


def served(shape: str) -> Completion:
    """Return how a server sends a thought and an answer, as model and template have it."""
    opened, closed = f"<think>\n{DRAFT}", "</think>\n\n"
    harmony = (
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    before = {
        "the model opened the tag": f"{opened}\n{closed}",
        "the template opened the tag": f"{DRAFT}\n{closed}",
        "a parser took it out": f"{opened}\n{closed}",
        "harmony": harmony,
        "harmony, special tokens dropped": harmony,
    }[shape]
    content = {
        "a parser took it out": ANSWER,
        "harmony, special tokens dropped": f"analysis{DRAFT}assistantfinal{ANSWER}",
    }.get(shape, before + ANSWER)
    return Completion(
        content,
        reasoning=DRAFT if shape == "a parser took it out" else None,
        tokens=[*tokens_of(before, UNSURE), *tokens_of(ANSWER, SURE), ("<|im_end|>", SURE)],
    )


SHAPES = [
    "the model opened the tag",
    "the template opened the tag",
    "a parser took it out",
    "harmony",
    "harmony, special tokens dropped",
]


def models(strict: StrictServer, **options: Any) -> list[Agent]:
    model = vllm_chat_model(strict.url, "tiny", timeout=20, **options)
    return [Agent(name, model, retries=2) for name in ("ann", "bo", "cy")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore:all 3 agents proposed the very same text")
def test_a_thought_is_no_answer(strict: StrictServer, shape: str, tmp_path: Any) -> None:
    strict.reply = lambda asked: (
        Completion("yes") if asked.startswith("Is the final") else served(shape)
    )
    graph = create_deliberation(
        models(strict),
        answer=ChoiceAnswer(4),
        router="always-refine",
        stop_when_settled=False,
        max_rounds=1,
        traces=tmp_path,
    ).compile()
    out = graph.invoke({"question": "Two and two? (A) 4 (B) 5 (C) 6 (D) 7"})
    assert out["deliberation"]["failures"] == []
    assert out["deliberation"]["votes"] == {"ann": "A", "bo": "A", "cy": "A"}
    assert out["messages"][-1].content == ANSWER
    assert out["deliberation"]["confidence"] == pytest.approx(math.exp(SURE))
    sent = str(strict.conversations())
    assert ANSWER.split("\n", maxsplit=1)[0] in sent  # quoted to peers, and to the critic
    assert "Wait" not in sent
    [episode] = TraceReader(tmp_path)
    assert len(episode.responses) == 6
    for response in episode.responses.values():
        assert response["text"] == ANSWER
        assert response["thought"] == DRAFT
        assert response["profile"]["length"] == len(ANSWER)


@pytest.mark.parametrize(
    "cut",
    [
        Completion("<think>Is it 41? No, 4", finish_reason="length"),
        Completion("analysisIs it 41? No, 4", finish_reason="length"),
        Completion("<|channel|>analysis<|message|>Is it 41?", finish_reason="length"),
        Completion(None, reasoning="Is it 41?", finish_reason="length"),
        Completion("", finish_reason="length"),
    ],
    ids=["tags", "words", "harmony", "parser", "nothing to see"],
)
@pytest.mark.parametrize("plain", [False, True])
def test_a_thought_that_used_up_max_tokens(
    strict: StrictServer, cut: Completion, plain: bool
) -> None:
    strict.reply = lambda _: cut
    team = models(strict)[:1]
    if plain:  # as users have it, without what this package adds
        given = {"base_url": strict.url, "api_key": SecretStr("x"), "max_retries": 0}
        team = [Agent("ann", ChatOpenAI(model="tiny", **given), retries=2)]
    with pytest.raises(DeliberationError, match="max_tokens was used up by reasoning"):
        create_deliberation(team, critic=None).compile().invoke({"question": "2 + 2?"})
    assert len(strict.conversations()) == 1


def test_a_thought_alone_is_asked_for_again(
    strict: StrictServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpdf_langgraph.runtime.retries.LONGEST_PAUSE", 0.001)
    replies = iter([Completion(None, reasoning="Hm."), Completion("<think>Hm."), "Answer: 4"])
    strict.reply = lambda _: next(replies)
    graph = create_deliberation(models(strict)[:1], critic=None).compile()
    out = graph.invoke({"question": "2 + 2?"})
    assert out["deliberation"]["answer"] == "4"
    assert out["deliberation"]["usage"]["total"]["calls"] == 3


def test_a_refusal_is_recorded_and_not_asked_again(strict: StrictServer, tmp_path: Any) -> None:
    said = "I can't help with that. Answer: 7"
    strict.reply = lambda _: Completion(None, refusal=said)
    graph = create_deliberation(
        models(strict)[:1], critic=None, router="always-persist", traces=tmp_path
    ).compile()
    out = graph.invoke({"question": "2 + 2?"})
    assert out["deliberation"]["answer"] is None
    assert len(strict.conversations()) == 1
    [episode] = TraceReader(tmp_path)
    [response] = episode.responses.values()
    assert (response["text"], response["answer"], response["refused"]) == (said, None, True)
    assert "thought" not in response


def streamed(*deltas: dict[str, Any], finish_reason: str = "stop") -> bytes:

    lines = []
    for place, delta in enumerate(deltas):
        last = place == len(deltas) - 1
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason if last else None}
        about = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        lines.append(f"data: {json.dumps({**about, 'choices': [choice]})}\n\n")
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_streamed_thought_is_kept(strict: StrictServer, field: str) -> None:
    strict.server.headers = {"Content-Type": "text/event-stream"}
    strict.server.routes["/v1/chat/completions"] = lambda _: (
        200,
        streamed(
            {"role": "assistant", "content": None, field: "Is it "},
            {field: "41?"},
            {"content": "Answer: "},
            {"content": "4"},
        ),
    )
    graph = create_deliberation(models(strict)[:1], critic=None).compile()
    *_, (_, last) = graph.stream(
        {"messages": [HumanMessage("2 + 2?")]}, stream_mode=["messages", "values"]
    )
    assert last["messages"][-1].content == "Answer: 4"
    [message] = [vllm_chat_model(strict.url, "tiny", streaming=True).invoke("2 + 2?")]
    assert message.additional_kwargs["reasoning_content"] == "Is it 41?"
    assert message.text == "Answer: 4"
