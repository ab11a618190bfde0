"""The router that comes with the small model, in a graph: on onnxruntime alone, as in an app."""

import warnings

import pytest

from mpdf_langgraph import MathAnswer, create_deliberation, load_router
from tests.integration.dev_server import ROOT
from tests.support.scripted import says

FOLDER = ROOT / "examples" / "tiny_lm" / "router"


@pytest.mark.parametrize("apart", [False, True], ids=["sync", "async"])
async def test_the_bundled_router_decides(apart: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its gate is "pass"
        router = load_router(FOLDER)
    # As the small model writes, which is all that the router has seen.
    known = "Ann: Kim(14), 3*14=42, Ann(42).\n#### 42"
    sure = says(known, logprob=-0.001)
    guess = says("Ann: Kim(guess 11), 3*11=33, Ann(33).\n#### 33", known, logprob=-0.08)
    other = says("Ann: Kim(guess 17), 3*17=51, Ann(51).\n#### 51", known, logprob=-0.08)
    graph = create_deliberation(
        [sure, guess, other],
        router=router,
        critic="logprob",
        answer=MathAnswer(),
        max_rounds=1,
        name="team",
    ).compile()
    given = {"question": "Ann has 3 times as many coins as Kim. How many coins does Ann have?"}
    events = (
        [event async for event in graph.astream(given, stream_mode="custom")]
        if apart
        else list(graph.stream(given, stream_mode="custom"))
    )
    decided = {e["agent"]: e["probabilities"] for e in events if e["event"] == "decided"}
    assert set(decided) == {"agent-1", "agent-2", "agent-3"}
    for probabilities in decided.values():
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-6)
        assert min(probabilities) >= 0.0
    persist = {agent: probabilities[0] for agent, probabilities in decided.items()}
    assert persist["agent-1"] > 0.8
    assert max(persist["agent-2"], persist["agent-3"]) < 0.2
