"""The deliberation graph for LangGraph Studio, with its options as a form.

    cd examples/studio && langgraph dev        # pip install "langgraph-cli[inmem]"

Studio shows the four nodes, streams the run, and makes an assistant's configuration a form of
`StudioOptions`. The team is three agents of the bundled model. With MPDF_BASE_URL in the
environment it is three agents of that server's model (MPDF_MODEL, if the server serves several).
Give `messages` or a `question`, and in `contexts` what only one of the agents `agent-1`, `agent-2`
and `agent-3` knows.
"""

import os
from typing import Any, Literal

from langgraph_sdk.runtime import ServerRuntime
from pydantic import BaseModel, Field

from mpdf_langgraph import Agent, MathAnswer, ThresholdRouter, create_deliberation, vllm_chat_model


class StudioOptions(BaseModel):
    """What may be set for an assistant or a single run."""

    rounds: int = Field(2, ge=0, le=10, description="Rounds of decisions at most.")
    router: Literal["threshold", "always-persist", "always-refine", "random"] = Field(
        "threshold", description="Who decides what every agent does in a round."
    )
    bar: float = Field(0.975, ge=0, le=1, description="Threshold router: persist from here on.")
    gap: float = Field(0.01, ge=0, le=1, description="Threshold router: concede beyond this gap.")
    consensus: Literal["confidence", "majority"] = Field(
        "confidence", description="How votes are weighed."
    )
    max_calls: int | None = Field(None, ge=1, description="Budget of model calls per question.")
    max_tokens: int | None = Field(None, ge=1, description="Budget of tokens per question.")
    timeout: float | None = Field(None, gt=0, description="Budget of seconds per question.")


def make_team() -> list[Agent]:
    """Three agents of one model, told apart by their `contexts`."""
    names = ("agent-1", "agent-2", "agent-3")
    if base_url := os.environ.get("MPDF_BASE_URL"):
        llm = vllm_chat_model(base_url, os.environ.get("MPDF_MODEL"))
        return [Agent(name, llm) for name in names]
    from examples.tiny_lm.chat_model import make
    from examples.tiny_lm.prompts import PROMPTS

    return [Agent(name, make(), prompts=PROMPTS) for name in names]


# Once, when the server imports this file: models load slowly, and the factory must not block.
TEAM = make_team()


def make_graph(runtime: ServerRuntime[StudioOptions]) -> Any:
    """Build the graph for one run, or, without one, for its drawing and its schemas."""
    running = runtime.execution_runtime
    given = running.context if running else None
    options = StudioOptions.model_validate(given or {})
    threshold = ThresholdRouter(bar=options.bar, gap=options.gap)
    builder = create_deliberation(
        TEAM,
        router=threshold if options.router == "threshold" else options.router,
        critic="logprob",
        answer=MathAnswer(),
        consensus=options.consensus,
        max_rounds=options.rounds,
        max_calls=options.max_calls,
        max_tokens=options.max_tokens,
        timeout=options.timeout,
    )
    builder.context_schema = StudioOptions
    return builder
