"""Tokens, events and runs, as a caller and a tracer get them from a running deliberation."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tracers import BaseTracer, Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from mpdf_langgraph import Agent, TextAnswer, create_deliberation, vllm_chat_model
from tests.support.running import ON
from tests.support.scripted import Scripted, by_kind, counted, totals, yes
from tests.support.server import Server

Q: Any = {"messages": [("user", "What is 2 + 2?")]}
MODES = ["values", "updates", "messages", "custom", "debug", "tasks"]


class Streaming(Scripted):
    """Sends its replies word by word, and what they took with the last one."""

    def _chunks(self, messages: Any, kwargs: dict[str, Any]) -> Iterator[ChatGenerationChunk]:
        message = self._serve(messages, kwargs).generations[0].message
        assert isinstance(message, AIMessage)
        words = str(message.text).split(" ")
        for i, word in enumerate(words):
            last = i == len(words) - 1
            yield ChatGenerationChunk(
                message=AIMessageChunk(
                    word if last else f"{word} ",
                    usage_metadata=message.usage_metadata if last else None,
                    response_metadata=message.response_metadata if last else {},
                    chunk_position="last" if last else None,
                )
            )

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages, kwargs):
            if run_manager:
                run_manager.on_llm_new_token(str(chunk.message.text), chunk=chunk)
            yield chunk

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages, kwargs):
            if run_manager:
                await run_manager.on_llm_new_token(str(chunk.message.text), chunk=chunk)
            yield chunk


def team() -> list[Agent]:
    replies = {
        "ann": by_kind("ann says. Answer: 4", "ann again. Answer: 4", yes(0.7)),
        "bo": by_kind("bo says. Answer: 5", "bo again. Answer: 4", yes(0.6)),
    }
    return [Agent(name, Streaming(reply=reply)) for name, reply in replies.items()]


def build(agents: list[Agent], **options: Any) -> Any:
    defaults: dict[str, Any] = {"router": "always-refine", "critic": "self", "max_rounds": 1}
    return create_deliberation(agents, name="team", **{**defaults, **options})


def models(agents: list[Agent]) -> list[Any]:
    return [agent.runnable for agent in agents]


def said(tokens: list[tuple[Any, dict[str, Any]]]) -> dict[str, str]:
    """What was streamed, put together by who said it when."""
    texts: dict[str, str] = {}
    for chunk, metadata in tokens:
        if isinstance(chunk, AIMessageChunk):
            key = f"{metadata['mpdf_agent']} {metadata['mpdf_stage']}@{metadata['mpdf_round']}"
            texts[key] = texts.get(key, "") + str(chunk.text)
    return texts


EXPECTED = {
    "ann propose@0": "ann says. Answer: 4",
    "bo propose@0": "bo says. Answer: 5",
    "ann refine@1": "ann again. Answer: 4",
    "bo refine@1": "bo again. Answer: 4",
}


def nest(agents: list[Agent], **options: Any) -> Any:
    parent = StateGraph(MessagesState)
    parent.add_node("experts", build(agents, **options).compile())
    parent.add_edge(START, "experts")
    return parent.compile()


# --- tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alternatives", [0, 1])
async def test_tokens_of_the_agents_bear_their_names_and_the_critics_are_silent(
    alternatives: int,
) -> None:
    async def stream(graph: Any) -> list[Any]:
        return [part async for part in graph.astream(Q, stream_mode="messages")]

    for asynchronous in (False, True):
        agents = team()
        graph = build(agents, alternatives=alternatives).compile()
        if asynchronous:
            tokens = await stream(graph)
        else:
            tokens = list(graph.stream(Q, stream_mode="messages"))
        assert said(tokens) == EXPECTED  # neither verdicts nor alternatives are among them
        assert "critique" in models(agents)[0].kinds()
        whole = [(message, metadata) for message, metadata in tokens if message.name == "team"]
        [(final, metadata)] = whole
        assert type(final) is AIMessage
        assert final.text == "ann again. Answer: 4"
        assert metadata["langgraph_node"] == "consensus"


def test_of_a_question_in_the_input_its_message_comes_first() -> None:
    graph = build(team()).compile()
    tokens = list(graph.stream({"question": "2 + 2?"}, stream_mode="messages"))
    assert [m.text for m, _ in tokens if m.type == "human"] == ["2 + 2?"]
    assert tokens[0][0].type == "human"
    asked = graph.stream({"messages": [("user", "2 + 2?")]}, stream_mode="messages")
    assert not [m for m, _ in asked if m.type == "human"]


async def test_tokens_of_a_deliberation_inside_another_graph() -> None:
    graph = nest(team())
    parts = list(graph.stream(Q, stream_mode="messages", subgraphs=True))
    assert {namespace[0].split(":")[0] for namespace, _ in parts if namespace} == {"experts"}
    inside = [part for namespace, part in parts if namespace]
    assert said(inside) == EXPECTED
    # Without `subgraphs` LangGraph shows what the node returns: the messages of the answer.
    plain = list(graph.stream(Q, stream_mode="messages"))
    assert said(plain) == {}
    assert [message.text for message, _ in plain] == ["ann again. Answer: 4"]
    again = [part async for part in graph.astream(Q, stream_mode="messages", subgraphs=True)]
    assert said([part for namespace, part in again if namespace]) == EXPECTED


def test_events_of_a_deliberation_inside_another_graph() -> None:
    graph = nest(team())
    assert list(graph.stream(Q, stream_mode="custom")) == []
    events = [event for _, event in graph.stream(Q, stream_mode="custom", subgraphs=True)]
    assert [event["event"] for event in events[-1:]] == ["consensus"]
    assert all({"event", "episode", "round", "text"} <= set(event) for event in events)


# --- usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True], ids=["root", "nested"])
@pytest.mark.parametrize("mode", [*MODES, MODES])
async def test_usage_is_right_in_every_stream_mode(mode: Any, nested: bool) -> None:
    def outcome(graph: Any, config: Any) -> Any:
        snapshot = graph.get_state(config, subgraphs=True)
        return snapshot.values["deliberation"]["usage"]["total"]

    async def drain(graph: Any, config: Any) -> None:
        async for _ in graph.astream(Q, config, stream_mode=mode, subgraphs=nested):
            pass

    for asynchronous in (False, True):
        agents = team()
        graph: Any
        if nested:
            shared = StateGraph(Parent)
            shared.add_node("experts", build(agents).compile())
            shared.add_edge(START, "experts")
            graph = shared.compile(checkpointer=InMemorySaver())
        else:
            graph = build(agents).compile(checkpointer=InMemorySaver())
        if asynchronous:
            await drain(graph, ON)
        else:
            for _ in graph.stream(Q, ON, stream_mode=mode, subgraphs=nested):
                pass
        assert counted(outcome(graph, ON)) == totals(models(agents))


class Parent(MessagesState):
    deliberation: dict[str, Any]


def sse(body: dict[str, Any]) -> tuple[int, bytes]:
    """A completion as vLLM streams it: the usage in a chunk of its own, where asked for."""
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    words = ["Rome ", "is ", "right"]
    entries: list[dict[str, Any]] = [
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": word},
                    "finish_reason": "stop" if i == 2 else None,
                    "logprobs": {"content": [{"token": word, "logprob": -0.5, "bytes": None,
                                              "top_logprobs": []}]},
                }
            ]
        }
        for i, word in enumerate(words)
    ]  # fmt: skip
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        entries.append({"choices": [], "usage": usage})
    lines = [f"data: {json.dumps({**base, **entry})}\n\n" for entry in entries]
    return 200, "".join([*lines, "data: [DONE]\n\n"]).encode()


async def test_usage_and_tokens_of_a_streaming_endpoint(server: Server) -> None:
    def route(body: dict[str, Any]) -> tuple[int, Any]:
        server.headers = {"Content-Type": "text/event-stream"}
        assert body["stream"]
        return sse(body)

    server.routes["/v1/chat/completions"] = route
    llm = vllm_chat_model(server.url, "tiny")
    graph = create_deliberation([llm], critic="logprob", router="always-persist").compile()
    asked = graph.astream({"question": "?"}, stream_mode=["messages", "values"])
    parts: list[Any] = [part async for part in asked]
    tokens = [value for mode, value in parts if mode == "messages"]
    assert said(tokens) == {"agent-1 propose@0": "Rome is right"}
    result = parts[-1][1]["deliberation"]
    assert result["usage"]["total"] == {
        "calls": 1, "prompt_tokens": 7, "completion_tokens": 3, "unreported": 0, "estimated": 0,
        "tokens": 10,
    }  # fmt: skip
    assert result["confidence"] == pytest.approx(2.718281828**-0.5)


# --- runs -----------------------------------------------------------------------------------


class Recorder(BaseTracer):
    """Keeps every run that LangSmith would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        pass

    def _on_run_create(self, run: Run) -> None:
        self.runs.append(run)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Run]]:
    """Return a function that runs a graph without an account and returns its runs."""
    for name in ("LANGSMITH_API_KEY", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.delenv(name, raising=False)

    def run(graph: Any) -> list[Run]:
        recorder = Recorder()
        graph.invoke(Q, {"callbacks": [recorder], "tags": ["mine"], "metadata": {"tenant": "7"}})
        return recorder.runs

    return run


def test_runs_of_models_say_who_what_when_and_why(traced: Any) -> None:
    agents = team()
    runs = [run for run in traced(build(agents, alternatives=1).compile()) if "llm" in run.run_type]
    stages = ("propose", "critique", "refine", "critique", "alternative", "critique")
    expected = [f"{name} {stage}" for name in ("ann", "bo") for stage in stages]
    assert sorted(run.name for run in runs) == sorted(expected)
    assert len(runs) == sum(len(model.requests) for model in models(agents))
    for run in runs:
        name, stage = run.name.split()
        metadata = run.extra["metadata"]
        round_ = metadata["mpdf_round"]
        tags = {f"mpdf:{stage}", f"mpdf:agent:{name}", f"mpdf:round:{round_}", "mine"}
        if round_:
            tags.add("mpdf:action:REFINE")
        if stage in ("critique", "alternative"):
            tags.add("nostream")
        assert {tag for tag in run.tags or [] if not tag.startswith("seq:")} == tags
        assert (metadata["mpdf_agent"], metadata["mpdf_stage"]) == (name, stage)
        assert metadata.get("mpdf_action") == ("REFINE" if round_ else None)
        assert metadata["langgraph_node"] == ("critic" if stage == "critique" else "agent")
        assert metadata["tenant"] == "7"
    assert {run.extra["metadata"]["mpdf_round"] for run in runs if "refine" in run.name} == {1}
    assert len({run.extra["metadata"]["mpdf_episode"] for run in runs}) == 1


def test_runs_of_the_nodes_bear_their_names(traced: Any) -> None:
    graph = build(team(), answer=TextAnswer(lambda a, b: a == b))
    runs = traced(graph.compile(name="inquiry"))
    names = [run.name for run in runs]
    assert names[0] == "inquiry"
    assert {"router", "agent", "critic", "consensus"} <= set(names)
    compared = [run for run in runs if run.name == "compare answers"]
    # In round 1 every answer is written as one that is known already.
    assert [run.extra["metadata"]["mpdf_round"] for run in compared] == [0]
    assert all({"mpdf:judge", "nostream"} <= set(run.tags or []) for run in compared)


def test_runs_of_an_agent_that_is_a_graph_bear_its_name(traced: Any) -> None:
    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [Scripted(reply=by_kind("Answer: 4")).invoke(state["messages"])]}

    inner = StateGraph(MessagesState)
    inner.add_node("think", think)
    inner.add_edge(START, "think")
    agents = [Agent("ann", inner.compile())]
    runs = traced(build(agents, critic=None).compile())
    assert "ann propose" in [run.name for run in runs]
    [model] = [run for run in runs if "llm" in run.run_type]
    assert model.extra["metadata"]["mpdf_agent"] == "ann"
