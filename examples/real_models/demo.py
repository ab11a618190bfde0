"""Three agents of a real model, each with notes of its own, deliberate over look-ups.

    python examples/real_models/demo.py                                  # 0.5B under vLLM
    python examples/real_models/demo.py --model 1.5B --server llamacpp
    python examples/real_models/demo.py --base-url http://localhost:8000/v1   # your own server

It fetches the model and the server where they are missing, serves the model, shows one question in
full, and compares a vote, a debate and a rule on a few questions. The questions are from the
validation split: the prompts were made on it.
"""

import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from examples import quickstart
from examples.quickstart import KEYS, compare, show
from examples.real_models.catalogue import CACHE
from examples.real_models.lookups import AGENTS, MAX_TOKENS, PROMPTS, TEMPERATURE, make_questions
from examples.real_models.serve import Server, command_for, free_port, served
from mpdf_langgraph import (
    Agent,
    Episode,
    MathAnswer,
    check_endpoint,
    create_deliberation,
    vllm_chat_model,
)
from training.command import run_command

LOG = quickstart.ROOT / "runs" / "real_models" / "server.log"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    **{name: quickstart.CONFIGURATIONS[name] for name in ("always-persist", "always-refine")},
    "threshold": {"router": "threshold", "critic": "logprob", "consensus": "confidence"},
}


@dataclass
class DemoOptions:
    """Options of the demonstration."""

    model: str = "0.5B"
    """0.5B, 1.5B, 135M, or owner/name on the Hugging Face Hub (for vLLM alone)."""
    server: Server = "vllm"
    """Which server to start."""
    base_url: str | None = None
    """A server that runs already, instead."""
    questions: int = 12
    """Questions in the comparison."""
    concurrency: int = 8
    """Deliberations at a time."""
    cache: Path = CACHE
    """Folder for the weights."""


def run(url: str, options: DemoOptions, console: Console) -> None:
    """Show one deliberation, then compare the configurations."""
    status = check_endpoint(url, timeout=300)
    console.print(status.message)
    if not status.ok:
        sys.exit(1)
    llm = vllm_chat_model(url, status.models[0], timeout=600)
    sampling = {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS}
    team = [Agent(name, llm, prompts=PROMPTS, sampling=sampling) for name in AGENTS]

    def build(name: str) -> Any:
        given = CONFIGURATIONS[name]
        return create_deliberation(team, answer=MathAnswer(), max_rounds=1, **given).compile()

    questions = make_questions("validation", options.questions)
    console.rule("One deliberation, by a rule")
    shared = next(question for question in questions if question["owners"] > 1)
    *_, state = build("threshold").stream({k: shared[k] for k in KEYS}, stream_mode="values")
    show(console, Episode.from_state(state))
    console.rule(f"{options.questions} questions")
    graphs = {name: build(name) for name in CONFIGURATIONS}
    console.print(compare(graphs, questions, options.concurrency))
    console.print(
        "So few questions only show that everything runs. docs/real-models.md says how to measure."
    )


def main(options: DemoOptions) -> None:
    """Run the demonstration, with a server of its own unless one is given."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as for Ctrl-C
    console = Console()
    with ExitStack() as stack:
        url = options.base_url
        if url is None:
            port = free_port()
            url = f"http://127.0.0.1:{port}/v1"
            command = command_for(options.model, options.server, cache=options.cache, port=port)
            LOG.parent.mkdir(parents=True, exist_ok=True)
            console.print(f"Starting the server. Its output goes to {LOG}.")
            stack.enter_context(served(command, url, stack.enter_context(LOG.open("wb"))))
        run(url, options, console)


if __name__ == "__main__":
    run_command(main, DemoOptions, __doc__)
