"""Keys and headers that endpoints give back: in no failure, trace, event, warning or repr."""

import base64
import json
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from mpdf_langgraph import Agent, TraceReader, create_deliberation, vllm_chat_model
from mpdf_langgraph.errors import DeliberationError, describe_error
from mpdf_langgraph.secrets import hide_secrets, mask_secrets
from tests.support.scripted import says
from tests.support.server import Server, completion

#: No prefix gives it away, and it has marks that JSON, URLs and HTML write otherwise.
KEY = 'q7w"Zk/p+9<x&Lm0v'
HEADER = "tenant: blue/Whale+77"


def forms(secret: str) -> list[str]:
    return [
        secret, secret.upper(), json.dumps(secret), quote(secret), quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode(),
    ]  # fmt: skip


def ours(url: str) -> Any:
    return vllm_chat_model(url, "tiny", api_key=KEY, default_headers={"X-Tenant": HEADER})


def plain(url: str) -> Any:
    return ChatOpenAI(
        base_url=url, model="tiny", api_key=SecretStr(KEY), max_retries=0,
        default_headers={"X-Tenant": HEADER},
    )  # fmt: skip


@pytest.mark.parametrize("make", [ours, plain])
@pytest.mark.parametrize("status", [401, 500, 200])
def test_an_endpoint_that_echoes_them(tmp_path: Path, make: Any, status: int) -> None:
    server = Server()

    def echo(body: dict[str, Any]) -> tuple[int, Any]:
        said = "You sent " + " and ".join(forms(KEY) + forms(HEADER))
        if status != 200:
            return status, {"error": {"message": said}}
        _, content = completion(body)
        content["choices"][0]["message"]["content"] = f"{said}. Answer: 4"
        return 200, content

    server.routes["/v1/chat/completions"] = echo
    team = [Agent("ann", make(server.url), retries=0), Agent("bo", says("Answer: 4"))]
    graph = create_deliberation(team, critic=None, traces=tmp_path).compile()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        events = list(
            graph.stream({"question": "2 + 2?"}, stream_mode=["custom", "values", "updates"])
        )
    server.close()
    [episode] = TraceReader(tmp_path)  # unpacked, or no key could be found in it
    seen = repr(events) + episode.to_json().decode() + repr([str(one.message) for one in told])
    seen += repr(team) + repr(graph)
    for secret in (KEY, HEADER):
        for form in forms(secret):
            assert form not in seen
            assert form not in repr(episode.model_dump())
    assert "***" in seen


def test_a_chain_that_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a model that nobody can see into stands in the environment."""
    monkeypatch.setenv("SOME_API_KEY", "abcdeFGHIJ")

    def fail(_: Any) -> str:
        raise ValueError("401: abcdeFGHIJ is not known")

    team = [Agent(name, RunnableLambda(fail), retries=0) for name in ("a", "b")]
    with pytest.raises(DeliberationError) as caught:
        create_deliberation(team).compile().invoke({"question": "?"})
    assert "abcdeFGHIJ" not in str(caught.value)


def test_headers_that_say_who_asks_are_no_secrets() -> None:
    said = "The app is the Marie Curie Physics Quiz. Answer: Marie Curie Physics Quiz"
    headers = {"HTTP-Referer": "https://quiz.example.org", "X-Title": "Marie Curie Physics Quiz"}
    llm = vllm_chat_model("http://127.0.0.1:9", "tiny", default_headers=headers)
    team = [Agent("ann", says(said)), Agent("bo", llm, retries=0)]
    out = create_deliberation(team, critic=None, max_rounds=0).compile().invoke({"question": "?"})
    assert out["deliberation"]["failures"]  # bo's, so the headers were looked at
    assert out["messages"][-1].text == said


def test_nothing_shows_headers() -> None:
    llm = ours("http://h/v1")
    agent = Agent("ann", llm, sampling={"extra_headers": {"X-More": "more-of-my-secrets"}})
    other = Agent("bo", plain("http://h/v1"))
    shown = [repr(llm), str(llm), repr(agent), repr(other), repr([agent, other]), dumps(llm)]
    for text in shown:
        assert KEY not in text
        assert HEADER not in text
        assert "more-of-my-secrets" not in text
    assert repr(agent) == "Agent('ann', 'tiny')"
    assert "model_name='tiny'" in repr(llm)


def test_the_cause_is_told_and_masked() -> None:
    hide_secrets("a-secret-of-mine")
    error = ValueError("Connection error.")
    error.__cause__ = OSError("refused a-secret-of-mine")
    assert describe_error(error) == "ValueError: Connection error. (OSError: refused ***)"


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=16),
    st.text(),
    st.text(),
)
def test_no_secret_stays(secret: str, before: str, after: str) -> None:
    hide_secrets(f"Bearer {secret}")
    assert secret not in mask_secrets(f"{before} {secret} {after}")
    assert secret not in mask_secrets(f"{before} Bearer {secret} {after}")


def test_short_values_and_schemes_are_not_masked() -> None:
    hide_secrets("abc", "Bearer a-key-of-sixteen-letters")
    assert mask_secrets("abc Bearer of news") == "abc Bearer of news"


def test_what_stands_for_no_key_is_an_everyday_word() -> None:
    Agent("ann", vllm_chat_model("http://localhost:9/v1", "m"))
    hide_secrets("EMPTY")
    assert mask_secrets("the response is empty, EMPTY") == "the response is empty, EMPTY"
