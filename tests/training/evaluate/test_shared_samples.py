"""The model that remembers: who asks the same gets the same, and nothing is drawn twice."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from mpdf_langgraph import Agent, ConfigurationError, create_deliberation, vllm_chat_model
from mpdf_langgraph.response_profile import token_logprobs
from tests.support.paths import ROOT
from tests.support.scripted import Scripted, StatusError
from tests.support.server import Server, cards, completion
from training.evaluate.shared_samples import RememberingChatModel, Samples, one_question


def counting(**fields: Any) -> Scripted:
    """A model that says how many requests it has had."""
    return Scripted(reply=lambda request: f"The answer is {request.number}", **fields)


@pytest.fixture
def samples(tmp_path: Path) -> Iterator[Samples]:
    with closing(Samples(tmp_path / "samples.jsonl")) as opened:
        yield opened


def remembering(samples: Samples, inner: BaseChatModel, name: str = "a") -> RememberingChatModel:
    return RememberingChatModel(samples, inner=inner, name=name)


async def ask(model: RememberingChatModel, *texts: str, seed: int = 0, **options: Any) -> list[str]:
    """Ask one thing after another as one method does, and return what is said."""
    with one_question(seed):
        return [str((await model.ainvoke(text, **options)).text) for text in texts]


def number(text: str) -> int:
    return int(text.split()[-1])


async def test_the_nth_time_gives_the_nth_sample(samples: Samples) -> None:
    inner = counting()
    model = remembering(samples, inner)
    first = await ask(model, "x", "y", "x", "x")
    assert [number(text) for text in first] == [1, 2, 3, 4]
    # Another method asks in another order, and once more than the first did.
    assert await ask(model, "x", "x", "y", "x") == [first[0], first[2], first[1], first[3]]
    assert (samples.counts["drawn"], samples.counts["reused"]) == (4, 4)
    assert number((await ask(model, *"xxxx"))[3]) == 5
    assert len(inner.requests) == 5


async def test_whatever_tells_requests_apart_tells_samples_apart(samples: Samples) -> None:
    inner = counting()
    model, other = remembering(samples, inner), remembering(samples, inner, "b")
    drawn = [
        *await ask(model, "x"),
        *await ask(model, "x", seed=1),
        *await ask(model, "x", temperature=0.5),
        *await ask(model, "x", stop=["."]),
        *await ask(other, "x"),
    ]
    assert [number(text) for text in drawn] == [1, 2, 3, 4, 5]
    assert number((await ask(model, "x"))[0]) == 1
    assert number((await ask(model, "x", seed=1))[0]) == 2
    with one_question(0):
        await model.ainvoke([HumanMessage("x")])
        await model.ainvoke([HumanMessage("x"), AIMessage("x"), HumanMessage("x")])
    assert len(inner.requests) == 6


async def test_those_who_ask_at_once_draw_once(samples: Samples) -> None:
    inner = counting(delay=0.5)
    model = remembering(samples, inner)
    said = await asyncio.gather(*(ask(model, "x", "x") for _ in range(5)))
    assert {tuple(map(number, one)) for one in said} == {(1, 2)}
    assert len(inner.requests) == 2


async def test_one_method_that_asks_at_once_gets_different_samples(samples: Samples) -> None:
    model = remembering(samples, counting(delay=0.5))
    with one_question(0):
        said = await asyncio.gather(*(model.ainvoke("x") for _ in range(3)))
    assert sorted(number(str(m.text)) for m in said) == [1, 2, 3]


async def test_a_failure_is_not_kept_and_the_same_sample_is_tried_again(samples: Samples) -> None:
    inner = counting(fail={1: StatusError(503), 3: StatusError(503)})
    model = remembering(samples, inner)
    with one_question(0):
        with pytest.raises(StatusError):
            await model.ainvoke("x")
        second = str((await model.ainvoke("x")).text)
    assert samples.counts["drawn"] == 1
    with pytest.raises(StatusError):
        await ask(model, "y")
    assert await ask(model, "x") == [second]
    assert number((await ask(model, "y"))[0]) == 4


@pytest.mark.parametrize("end", ["fails", "cancelled"])
async def test_where_the_one_who_draws_drops_out_a_waiter_draws(samples: Samples, end: str) -> None:
    inner = counting(delay=0.5, fail={1: StatusError(503)} if end == "fails" else {})
    model = remembering(samples, inner)
    drawing = asyncio.create_task(ask(model, "x"))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(ask(model, "x")) for _ in range(2)]
    await asyncio.sleep(0.01)
    if end == "cancelled":
        drawing.cancel()
    results = await asyncio.wait_for(
        asyncio.gather(drawing, *waiting, return_exceptions=True), timeout=5
    )
    expected = StatusError if end == "fails" else asyncio.CancelledError
    assert isinstance(results[0], expected)
    assert results[1] == results[2]
    assert samples.counts["drawn"] == 1


async def test_a_waiter_that_is_cancelled_stops_nobody(samples: Samples) -> None:
    model = remembering(samples, counting(delay=0.5))
    drawing = asyncio.create_task(ask(model, "x"))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(ask(model, "x"))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await drawing == ["The answer is 1"]
    assert waiting.cancelled()


async def test_another_process_goes_on_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "samples.jsonl"
    with closing(Samples(path)) as samples:
        first = await ask(remembering(samples, counting(logprob=-0.25)), "x", "x", "ü\ud800")
    inner = counting()
    with closing(Samples(path)) as samples:
        model = remembering(samples, inner)
        assert await ask(model, "x", "x", "ü\ud800") == first
        with one_question(0):
            message = await model.ainvoke("x")
        assert (samples.counts["drawn"], samples.counts["reused"]) == (0, 4)
    assert not inner.requests
    assert set(token_logprobs(message.response_metadata)) == {-0.25}
    assert message.usage_metadata is not None
    assert message.response_metadata["finish_reason"] == "stop"


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    hold = "import sys\nfrom pathlib import Path\n"
    hold += "from training.evaluate.shared_samples import Samples\n"
    hold += "samples = Samples(Path(sys.argv[1]))\nprint('ready', flush=True)\ninput()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigurationError, match=r"is in use\. Wait .*--out"):
            Samples(path)
        other.kill()
    Samples(path).close()


async def test_a_torn_line_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with closing(Samples(path)) as samples:
        first = await ask(remembering(samples, counting()), "x", "y")
    path.write_bytes(path.read_bytes()[:-9])
    inner = Scripted(reply=lambda _: "anew")
    for again in range(2):
        with closing(Samples(path)) as samples:
            assert await ask(remembering(samples, inner), "x", "y") == [first[0], "anew"]
            assert samples.counts["drawn"] == (again == 0)


async def test_what_no_file_could_hold_comes_back(samples: Samples) -> None:
    strange = AIMessage("half a \ud83d", response_metadata={"a": {1, 2}, "logprobs": float("nan")})
    model = remembering(samples, Scripted(reply=lambda _: strange))
    assert await ask(model, "x") == await ask(model, "x") == ["half a \ud83d"]


async def test_a_full_disk_is_an_error_and_no_sample(samples: Samples) -> None:
    class Full:
        name = "full"

        def write(self, line: bytes) -> int:
            return len(line) - 1

        def close(self) -> None:
            pass

    model = remembering(samples, counting())
    file, samples._file = samples._file, Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="disk full"):
        await ask(model, "x")
    samples._file = file
    assert await ask(model, "x") == ["The answer is 2"]


async def test_it_is_for_asynchronous_runs_of_a_question(samples: Samples) -> None:
    model = remembering(samples, counting())
    with pytest.raises(ConfigurationError, match="one_question"):
        await model.ainvoke("x")
    with pytest.raises(ConfigurationError, match="asynchronous"):
        model.invoke("x")


async def test_an_agent_is_metered_and_sampled_as_with_the_model_itself(samples: Samples) -> None:
    plain, inner = (
        Scripted(reply=lambda r: f"{r.kind}: 5", temperature=1.0, logprob=-0.3) for _ in range(2)
    )
    outcomes = []
    for model in (plain, remembering(samples, inner)):
        agents = [Agent(f"a{k}", model, sampling={"max_tokens": 9}) for k in range(2)]
        graph = create_deliberation(
            agents, router="always-refine", max_rounds=1, stop_when_settled=False
        ).compile()
        with one_question(0):
            outcomes.append((await graph.ainvoke({"question": "x"}))["deliberation"])
    assert outcomes[0]["usage"] == outcomes[1]["usage"]
    assert outcomes[1]["usage"]["total"]["calls"] == len(inner.requests)
    assert [r.kwargs for r in inner.requests] == [r.kwargs for r in plain.requests]
    refined = [r.kwargs for r in inner.requests if r.kind == "refine"]
    assert refined == [{"max_tokens": 9, "temperature": 0.6}] * 2


async def test_an_endpoints_log_probabilities_and_finish_reason_are_kept(samples: Samples) -> None:
    server = Server()
    server.routes = {
        "/v1/models": lambda _: (200, cards("tiny")),
        "/v1/chat/completions": completion,
    }
    try:
        inner = vllm_chat_model(server.url, "tiny")
        model = remembering(samples, inner)
        graph = create_deliberation([model], critic="logprob", max_rounds=0).compile()
        for _ in range(2):
            with one_question(0):
                outcome = (await graph.ainvoke({"question": "x"}))["deliberation"]
            assert outcome["confidence"] == pytest.approx(0.6065, abs=1e-4)  # exp(-0.5)
            assert outcome["usage"]["total"]["calls"] == 1
            assert outcome["usage"]["total"]["tokens"] == 4
    finally:
        server.close()
    assert server.paths().count("/v1/chat/completions") == 1
    assert samples.counts["reused"] == 1


async def test_a_model_that_gives_no_message_fails_alone(samples: Samples) -> None:
    class Odd(Scripted):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=HumanMessage("?"))])

    model = remembering(samples, Odd(reply=lambda _: ""))
    with pytest.raises(AssertionError):
        await ask(model, "x")
    assert samples.counts["drawn"] == 0
