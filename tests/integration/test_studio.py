"""`langgraph dev` serves examples/studio: its drawing, form of options, runs and their streams."""

from collections.abc import Iterator
from typing import Any

import pytest
from langgraph_sdk import get_sync_client

from tests.integration.dev_server import ROOT, dev_server, needs_dev_server

STUDIO = ROOT / "examples" / "studio"
ASKED = {
    "question": "Ann has 3 times as many coins as Kim. Bo has 7 more coins than Lee. "
    "How many coins do Ann and Bo have together?",
    "contexts": {"agent-1": "Kim has 12 coins.", "agent-2": "Lee has 20 coins."},
}

pytestmark = [pytest.mark.integration, needs_dev_server]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studio")
    for file in ("langgraph.json", "graph.py"):
        (folder / file).symlink_to(STUDIO / file)
    with dev_server(folder) as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with get_sync_client(url=server) as client:
        yield client


def test_studio_sees_four_nodes_and_the_options_as_a_form(client: Any) -> None:
    [assistant] = client.assistants.search()
    drawing = client.assistants.get_graph(assistant["assistant_id"])
    nodes = {node["id"] for node in drawing["nodes"]}
    assert nodes == {"__start__", "router", "agent", "critic", "consensus", "__end__"}
    schemas = client.assistants.get_schemas(assistant["assistant_id"])
    form = schemas["context_schema"]["properties"]
    assert {"rounds", "router", "consensus", "max_calls", "max_tokens", "timeout"} <= set(form)
    assert form["rounds"]["default"] == 2
    assert "always-refine" in form["router"]["enum"]
    assert all(field["description"] for field in form.values())
    given = schemas["input_schema"]["properties"]
    assert set(given) == {"messages", "question", "reference", "contexts", "category"}


def test_a_run_streams_its_events_with_the_options_of_the_run(client: Any) -> None:
    thread = client.threads.create()["thread_id"]
    options = {"rounds": 1, "router": "always-refine", "consensus": "majority"}
    stream = client.runs.stream(
        thread, "deliberation", input=ASKED, stream_mode=["custom", "updates"], context=options
    )
    parts = [(part.event, part.data) for part in stream]
    assert not [data for event, data in parts if event == "error"]
    told = [data["event"] for event, data in parts if event == "custom"]
    assert told.count("proposed") == 3
    assert told[-1] == "consensus"
    updated = [node for event, data in parts if event == "updates" for node in data]
    assert updated[0] == "router"
    assert updated[-1] == "consensus"
    values = client.threads.get_state(thread)["values"]
    used = values["header"]["options"]
    assert (used["max_rounds"], used["router"]["name"], used["consensus"]) == (
        1,
        "always-refine",
        "majority",
    )
    assert set(values["deliberation"]["votes"]) == {"agent-1", "agent-2", "agent-3"}
    # A second question on the same thread, with the options as they come.
    again = {"messages": [{"role": "user", "content": "Kim has 9 pens. How many has Kim?"}]}
    out = client.runs.wait(thread, "deliberation", input=again)
    assert [message["type"] for message in out["messages"]] == ["human", "ai"] * 2


def test_an_assistant_keeps_options_of_its_own(client: Any) -> None:
    assistant = client.assistants.create("deliberation", context={"rounds": 0}, name="a plain vote")
    out = client.runs.wait(None, assistant["assistant_id"], input=ASKED)
    assert out["deliberation"]["rounds"] == 0
    assert out["deliberation"]["usage"]["total"]["calls"] == 3


def test_wrong_options_are_refused_by_name(client: Any) -> None:
    out = client.runs.wait(
        None, "deliberation", input=ASKED, context={"rounds": 99}, raise_error=False
    )
    assert "rounds" in out["__error__"]["message"]
    assert "less than or equal to 10" in out["__error__"]["message"]
