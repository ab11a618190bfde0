"""Whole deliberations over the bundled model, served by a real vLLM server."""

import asyncio
import math
from pathlib import Path

import pytest

from examples.quickstart import KEYS, MATH, is_right, team
from examples.tiny_lm.prompts import PROMPTS
from examples.tiny_lm.questions import make_questions
from examples.tiny_lm.scores import auroc
from mpdf_langgraph import Episode, TraceReader, create_deliberation, vllm_chat_model
from mpdf_langgraph.critic import SelfCritic
from tests.support.running import run_python

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.vllm


@pytest.fixture
def agents(vllm_server):
    return team(vllm_chat_model(vllm_server), PROMPTS)


def questions(count, split="validation", kind="hidden"):
    return [{key: q[key] for key in KEYS} for q in make_questions(kind, split, count)]


def accuracy(asked, outcomes):
    return sum(
        is_right(o["deliberation"]["answer"], q["reference"])
        for q, o in zip(asked, outcomes, strict=True)
    ) / len(asked)


async def test_a_hundred_deliberations_at_once_through_one_graph(agents, tmp_path):
    graph = create_deliberation(agents, answer=MATH, traces=tmp_path).compile()
    asked = questions(100)
    outcomes = await asyncio.gather(*(graph.ainvoke(q) for q in asked))

    reader = TraceReader(tmp_path)
    episodes = {episode.id: episode for episode in reader}
    assert reader.counts == {"read": 100}
    for question, outcome in zip(asked, outcomes, strict=True):
        episode = episodes[outcome["deliberation"]["episode"]]
        assert episode.question == question["question"]
        assert episode.outcome == outcome["deliberation"]
        assert Episode.from_json(episode.to_json()) == episode
        for response in episode.responses.values():
            assert response["logprobs"] is not None
            assert response["logprobs"]["tokens"] > 0
            assert response["usage"]["unreported"] == 0
            scores = response["critique"]["scores"]
            assert set(scores) == {"logprob", "logprob_raw", "self"}
            assert all(0 <= score <= 1 for score in scores.values())
    assert not any(episode.failures for episode in episodes.values())


def test_synchronous_batch(agents, tmp_path):
    graph = create_deliberation(agents, answer=MATH, traces=tmp_path).compile()
    asked = questions(100)
    outcomes = graph.batch(asked, {"max_concurrency": 16})
    assert [o["messages"][0].content for o in outcomes] == [q["question"] for q in asked]
    assert {e.id for e in TraceReader(tmp_path)} == {o["deliberation"]["episode"] for o in outcomes}


# Where the budget allows two proposals alone, these are now and then the same by chance.
@pytest.mark.filterwarnings("ignore:all 2 agents proposed the very same text")
async def test_budgets_hold_against_the_servers_own_counts(agents):
    budget = {"max_rounds": 5, "max_calls": 9, "max_tokens": 2500}
    graph = create_deliberation(  # nothing but a budget can stop it
        agents, answer=MATH, router="always-refine", stop_when_settled=False, **budget
    )
    outcomes = await asyncio.gather(*(graph.compile().ainvoke(q) for q in questions(40)))
    totals = [o["deliberation"]["usage"] for o in outcomes]
    assert all(t["total"]["calls"] <= 9 and t["total"]["tokens"] <= 2500 for t in totals)
    assert all(t["overshoot_tokens"] == 0 for t in totals)
    reasons = {o["deliberation"]["stop_reason"] for o in outcomes}
    assert reasons <= {"max_calls", "max_tokens"}


async def test_time_limit_cancels(agents):
    graph = create_deliberation(agents, answer=MATH, timeout=0.15, max_rounds=50, router="random")
    outcomes = await asyncio.gather(
        *(graph.compile().ainvoke(q) for q in questions(12)), return_exceptions=True
    )
    spent = [o["deliberation"]["seconds"] for o in outcomes if isinstance(o, dict)]
    assert all(seconds < 30 for seconds in spent)


async def test_a_check_in_writing_tells_right_from_wrong(agents, tmp_path):
    """Where all see the same, one word cannot: it would have to redo the sums."""
    graph = create_deliberation(
        agents,
        answer=MATH,
        critic=SelfCritic(reasoning_tokens=200),
        router="always-refine",
        max_rounds=1,
        stop_when_settled=False,
        traces=tmp_path,
    ).compile()
    asked = questions(80, kind="plain")
    await asyncio.gather(*(graph.ainvoke(q) for q in asked))

    episodes = list(TraceReader(tmp_path))
    responses = [r for episode in episodes for r in episode.responses.values()]
    checked = [r for r in responses if r["critique"]["source"] == "self_reasoning"]
    assert len(responses) == 6 * len(asked)
    assert len(checked) >= 0.95 * len(responses)
    # The check is as long as a solution, and its tokens are counted.
    assert all(r["critique"]["usage"]["completion_tokens"] > 20 for r in checked)
    judged = [
        [
            (r["critique"]["confidence"], is_right(r["answer"], str(episode.reference)))
            for r in episode.responses.values()
            if r["critique"]["source"] == "self_reasoning"
        ]
        for episode in episodes
    ]
    assert auroc(judged, within=False)["value"] > 0.7


async def test_streamed_tokens_bear_the_agents_name_and_usage_is_counted_once(agents):
    graph = create_deliberation(agents, answer=MATH, max_rounds=1).compile()
    question = questions(1)[0]
    names, final = set(), None
    modes = ["messages", "values"]
    async for mode, payload in graph.astream(question, stream_mode=modes):
        if mode == "messages":
            _, metadata = payload
            names.add(metadata.get("mpdf_agent"))
            assert metadata.get("mpdf_stage") != "critique"
        else:
            final = payload
    usage = final["deliberation"]["usage"]["total"]
    assert {agent.name for agent in agents} <= names
    assert usage["unreported"] == 0
    assert usage["prompt_tokens"] > 0
    assert usage["calls"] >= 3


async def test_same_accuracy_as_in_process(agents):
    """The bundled model is the same model, whoever runs it."""
    chat_model = pytest.importorskip("examples.tiny_lm.chat_model")
    asked = questions(150)
    options = {"answer": MATH, "critic": "logprob", "max_rounds": 2}
    served = create_deliberation(agents, **options).compile()
    local = create_deliberation(team(chat_model.make(), PROMPTS), **options).compile()
    rates = [
        accuracy(asked, await asyncio.gather(*(graph.ainvoke(q) for q in asked)))
        for graph in (served, local)
    ]
    pooled = sum(rates) / 2
    error = math.sqrt(2 * pooled * (1 - pooled) / len(asked))
    assert abs(rates[0] - rates[1]) <= 3 * error, rates


def test_quickstart_runs_against_the_server(vllm_server, tmp_path):
    words = ("--base-url", vllm_server, "--questions", 12, "--show", 2, "--prompts", "tiny")
    done = run_python("examples/quickstart.py", *words, "--traces", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "threshold" in done.stdout
    assert len(list(TraceReader(tmp_path / "always-refine"))) == 12
