"""Any conversation before a question, before a server that refuses what real servers refuse."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
    trim_messages,
)
from langgraph.checkpoint.memory import InMemorySaver

from mpdf_langgraph import Agent, ConfigurationError, DeliberationError, create_deliberation
from mpdf_langgraph.history import NOT_SHOWN, kinds_of, readable_history, with_question
from mpdf_langgraph.models.endpoints import vllm_chat_model
from tests.support.running import ON
from tests.support.scripted import Scripted, says
from tests.support.strict import StrictServer, refusal_of

PIXEL = "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
URL = {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{PIXEL}"}}
BLOCK = {"type": "image", "base64": PIXEL, "mime_type": "image/gif"}
CALL = {"name": "look_up", "args": {"city": "Rome"}, "id": "c1"}
OTHER = {"name": "look_up", "args": {"city": "Oslo"}, "id": "c2"}


def pictured(text: str, block: dict[str, Any] = URL) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": text}, block])


RESULT = ToolMessage("2.8 million", tool_call_id="c1", name="look_up")
TRAFFIC = [HumanMessage("How big is Rome?"), AIMessage("", tool_calls=[CALL]), RESULT]
#: What stands before the question, by what is odd about it.
ODD: dict[str, list[BaseMessage]] = {
    "an image in an earlier message": [pictured("What is this?"), AIMessage("A pixel.")],
    "nothing but an image": [HumanMessage([BLOCK]), AIMessage("A pixel.")],
    "an image that a model made": [HumanMessage("Draw!"), AIMessage([BLOCK])],
    "a tool call and its result": [*TRAFFIC, AIMessage("2.8 million.")],
    "a tool call that dangles": TRAFFIC[:2],
    "two tool calls, one with a result": [
        HumanMessage("Rome and Oslo?"),
        AIMessage("Let me see.", tool_calls=[CALL, OTHER]),
        RESULT,
    ],
    "a tool call that is not JSON": [
        HumanMessage("Rome?"),
        AIMessage("", invalid_tool_calls=[{**CALL, "args": '{"city":', "error": "cut"}]),
    ],
    "a tool result whose call was trimmed": [RESULT, AIMessage("2.8 million.")],
    "a tool result without a name": [ToolMessage("7", tool_call_id="x"), AIMessage("7.")],
    "a tool that failed": [*TRAFFIC[:2], ToolMessage("no net", tool_call_id="c1", status="error")],
    "a tool that shows an image": [*TRAFFIC[:2], ToolMessage([BLOCK], tool_call_id="c1")],
    "a function of old": [HumanMessage("Rome?"), FunctionMessage(name="look_up", content="2.8")],
    "two human messages in a row": [HumanMessage("Hello."), HumanMessage("Anybody?")],
    "two assistants in a row": [
        HumanMessage("Sum?"),
        AIMessage("4", name="ann"),
        AIMessage("5", name="bo"),
    ],
    "an assistant that speaks first": [AIMessage("Welcome!")],
    "system messages here and there": [
        HumanMessage("Hi"),
        SystemMessage("Be brief."),
        AIMessage("Hi."),
        SystemMessage("Be kind."),
    ],
    "nothing but a system message": [SystemMessage("Be brief.")],
    "names with spaces": [HumanMessage("Hi", name="Ann Lee"), AIMessage("Hi.", name="my team")],
    "empty messages": [HumanMessage("Hi"), AIMessage(""), HumanMessage(" \n"), AIMessage("Yes?")],
    "other roles": [
        ChatMessage("Hi", role="user"),
        ChatMessage("Be brief.", role="developer"),
        ChatMessage("Hi.", role="model"),
    ],
    "chunks of a stream": [HumanMessageChunk("Hi"), AIMessageChunk("Hi.")],
    "a thought": [HumanMessage("2+2?"), AIMessage("<think>5? No.</think>4")],
    "nothing but a thought": [HumanMessage("2+2?"), AIMessage("<think>5?"), HumanMessage("Well?")],
    "a lone surrogate": [HumanMessage("caf\ud83d"), AIMessage("", tool_calls=[{
        **CALL, "args": {"city": "\ud83d"}}])],
}  # fmt: skip


def disagree() -> Callable[[str], str]:
    """Say yes to every answer, and propose two of them, so that agents refine, too."""
    answers = iter(["Answer: 4", "Answer: 5"])

    def reply(asked: str) -> str:
        return "yes" if asked.startswith("Is the final") else next(answers, "Answer: 4")

    return reply


def agents_of(server: StrictServer, **options: Any) -> list[Agent]:
    model = vllm_chat_model(server.url, "tiny", timeout=20)
    return [Agent(name, model, **options) for name in ("ann", "bo")]


@pytest.mark.parametrize("odd", ODD)
def test_agents_read_any_history(strict: StrictServer, odd: str) -> None:
    strict.reply = disagree()
    team = agents_of(strict, system_prompt="You are terse.")
    graph = create_deliberation(team, critic="self", router="always-refine", max_rounds=1).compile()
    out = graph.invoke({"messages": [*ODD[odd], HumanMessage("What is 2 + 2?")]})
    assert strict.refusals == []
    assert out["deliberation"]["failures"] == []
    assert out["deliberation"]["answer"] == "4"
    assert len(strict.conversations()) == 2 * 4  # proposals, verdicts, refinements, verdicts


def test_most_histories_are_refused_as_they_are() -> None:
    taken = [
        odd
        for odd, history in ODD.items()
        if refusal_of(convert_to_openai_messages([*history, HumanMessage("Q?")])) is None
    ]
    assert set(taken) <= {"nothing but a system message", "a thought", "chunks of a stream"}


def rendered(odd: str) -> list[tuple[str, str]]:
    return [(m.type, str(m.text)) for m in readable_history(ODD[odd])]


def test_what_is_told_of_tools() -> None:
    called = '(I called the tool look_up with {"city": "Rome"}.)'
    returned = "(The tool look_up returned: 2.8 million)"
    assert rendered("a tool call and its result") == [
        ("human", "How big is Rome?"),
        ("ai", f"{called}\n\n{returned}\n\n2.8 million."),
    ]
    assert rendered("a tool result whose call was trimmed") == [
        ("human", NOT_SHOWN),
        ("ai", f"{returned}\n\n2.8 million."),
    ]
    assert rendered("a tool result without a name")[1][1] == "(A tool returned: 7)\n\n7."
    assert rendered("a tool that failed")[1][1] == f"{called}\n\n(The tool look_up failed: no net)"
    assert "returned: [image])" in rendered("a tool that shows an image")[1][1]
    assert (
        '(I called the tool look_up with {"city":.)'
        in rendered("a tool call that is not JSON")[1][1]
    )


def test_what_is_told_of_the_rest() -> None:
    assert rendered("an image in an earlier message")[0] == ("human", "[image]\nWhat is this?")
    assert rendered("an image that a model made")[1] == ("ai", "[image]")
    assert rendered("system messages here and there") == [
        ("system", "Be brief.\n\nBe kind."),
        ("human", "Hi"),
        ("ai", "Hi."),
    ]
    assert rendered("two assistants in a row")[1] == ("ai", "4\n\n5")
    assert rendered("a thought")[1] == ("ai", "4")
    assert rendered("nothing but a thought") == [("human", "2+2?\n\nWell?")]
    assert rendered("a lone surrogate")[0] == ("human", "caf?")
    assert rendered("other roles") == [("system", "Be brief."), ("human", "Hi"), ("ai", "Hi.")]


@given(st.lists(st.sampled_from([m for history in ODD.values() for m in history]), max_size=9))
def test_any_mixture_is_taken_and_stays_as_it_is(messages: list[BaseMessage]) -> None:
    reduced = readable_history(messages)
    assert readable_history(reduced) == reduced
    asked = with_question(reduced, "Q?")
    assert refusal_of(convert_to_openai_messages(asked)) is None
    assert asked[-1].text.endswith("Q?")


def test_a_trimmed_conversation() -> None:
    history = [*TRAFFIC, AIMessage("2.8 million."), HumanMessage("And Oslo?")]
    trimmed = trim_messages(history, max_tokens=3, token_counter=len)
    assert isinstance(trimmed[0], ToolMessage)
    assert refusal_of(convert_to_openai_messages(readable_history(trimmed))) is None


def test_turn_after_turn(strict: StrictServer) -> None:
    """What made one turn fail made every later one fail."""
    graph = create_deliberation(agents_of(strict), critic=None).compile(InMemorySaver())
    strict.images = True
    graph.invoke({"messages": [pictured("What is this?")]}, ON)
    strict.images = False  # whoever answers next takes none
    for question in ("What is 2 + 2?", "And 1 + 3?"):
        out = graph.invoke({"messages": [HumanMessage(question)]}, ON)
        assert out["deliberation"]["answer"] == "4"
    assert strict.refusals == []
    assert [m["role"] for m in strict.conversations()[-1]] == ["user", "assistant"] * 2 + ["user"]


@pytest.mark.parametrize("name", ["my team", "", "équipe", "a" * 65, "a\n", 7])
def test_the_name_is_checked_when_the_graph_is_built(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="letters, digits"):
        create_deliberation([says("4")], name=name)


# --- images of the question -----------------------------------------------------------------


@pytest.mark.parametrize("block", [URL, BLOCK], ids=["OpenAI's", "LangChain's"])
def test_an_image_of_the_question_is_passed_on(strict: StrictServer, block: dict[str, Any]) -> None:
    strict.images = True
    strict.reply = disagree()
    team = agents_of(strict)
    graph = create_deliberation(team, critic="self", router="always-refine", max_rounds=1).compile()
    out = graph.invoke({"messages": [pictured("How many pixels?", block)]})
    assert out["deliberation"]["failures"] == []
    for first, *later in strict.conversations():  # proposals, verdicts and refinements
        assert first["content"][0] == URL
        assert "How many pixels?" in first["content"][1]["text"]
        assert all(isinstance(message["content"], str) for message in later)


def test_an_unanswered_message_before_an_image() -> None:
    [asked] = with_question([HumanMessage("Look:")], "What is it?", [URL])
    assert asked.content == [URL, {"type": "text", "text": "Look:\n\nWhat is it?"}]


def test_a_judge_sees_the_image(strict: StrictServer) -> None:
    strict.images = True
    judge = vllm_chat_model(strict.url, "tiny", timeout=20)
    create_deliberation([says("4")], critic=judge).compile().invoke({"messages": [pictured("?")]})
    assert strict.conversations()[0][0]["content"] == [URL, {"type": "text", "text": "?"}]
    strict.server.requests.clear()
    blind = vllm_chat_model(strict.url, "tiny", timeout=20, profile={"image_inputs": False})
    create_deliberation([says("4")], critic=blind).compile().invoke({"messages": [pictured("?")]})
    assert strict.conversations()[0][0]["content"] == "?"


def test_a_model_known_to_take_no_images_is_not_asked(strict: StrictServer) -> None:
    blind = vllm_chat_model(strict.url, "tiny", timeout=20, profile={"image_inputs": False})
    sees = says("Answer: 4")
    graph = create_deliberation([Agent("blind", blind), Agent("sees", sees)], critic=None).compile()
    out = graph.invoke({"messages": [pictured("How many pixels?")]})
    assert out["deliberation"]["answer"] == "4"
    failures = out["deliberation"]["failures"]
    assert failures
    assert all("image content, which the model does not take" in f for f in failures)
    assert 'profile={"image_inputs": True}' in failures[0]
    assert strict.conversations() == []
    alone = create_deliberation([blind], critic=None).compile()
    with pytest.raises(DeliberationError, match="image content"):
        alone.invoke({"messages": [pictured("How many pixels?")]})


def test_an_endpoint_that_refuses_an_image_says_so_once(strict: StrictServer) -> None:
    graph = create_deliberation(agents_of(strict)[:1], critic=None).compile()
    with pytest.raises(DeliberationError, match="not a multimodal model"):
        graph.invoke({"messages": [pictured("How many pixels?")]})
    assert len(strict.refusals) == 1


def test_the_trace_says_what_was_attached() -> None:
    from mpdf_langgraph import Episode

    graph = create_deliberation([says("4")], critic=None).compile(InMemorySaver())
    graph.invoke({"messages": [*ODD["a thought"], pictured("?")]}, ON)
    episode = Episode.from_state(graph.get_state(ON).values)
    assert episode.attachments == ["image"]
    assert episode.history == [{"role": "human", "text": "2+2?"}, {"role": "ai", "text": "4"}]
    assert PIXEL.encode() not in episode.to_json()


def test_kinds_of_attachments() -> None:
    blocks = [URL, BLOCK, {"type": "input_audio"}, {"type": "document"}, {"type": "hologram"}]
    assert kinds_of(blocks) == ["image", "image", "audio", "pdf", "hologram"]


def test_a_model_bound_to_options_has_its_profile_too() -> None:
    model = Scripted(reply=lambda _: "4", profile={"image_inputs": False}).bind(temperature=0)
    with pytest.raises(DeliberationError, match="image content"):
        create_deliberation([model], critic=None).compile().invoke({"messages": [pictured("?")]})


@pytest.mark.parametrize("odd", [["x"], None, 5, {}])
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage])
def test_a_block_whose_type_is_no_text_is_refused(kind: Any, odd: Any) -> None:
    graph = create_deliberation([says("4")], critic=None, max_rounds=0).compile()
    history = [kind([{"type": odd, "x": 1}, {"type": "text", "text": "2 + 2?"}])]
    with pytest.raises(ConfigurationError, match=r"content block .* must be a text such as"):
        graph.invoke({"messages": [*history, HumanMessage("And 3 + 3?")]})
    if kind is HumanMessage:
        with pytest.raises(ConfigurationError, match="content block"):
            graph.invoke({"messages": history})
