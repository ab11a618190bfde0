"""A person is asked where the agents are not sure: lets it stand, gives a hint, or answers.

    python examples/human_in_the_loop.py                          # asks you
    python examples/human_in_the_loop.py --replies hint answer    # replies by itself, in turn

Three agents of the bundled model, each knowing something the others don't. Where fewer than all of
them back the answer, LangGraph interrupts the graph. The reply resumes it, days and restarts later
if the checkpointer is SQLite or PostgreSQL (here it is in memory). What the person did stands in
the trace, and the answer that they named as its reference. The small model has never seen a hint in
training: it may read it and slip all the same.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from examples.tiny_lm.chat_model import make
from examples.tiny_lm.prompts import PROMPTS, PROPOSE_TEMPERATURE
from examples.tiny_lm.questions import make_questions
from mpdf_langgraph import (
    Agent,
    ConfigurationError,
    Episode,
    MathAnswer,
    Unsure,
    create_deliberation,
)
from training.command import run_command

ROOT = Path(__file__).resolve().parents[1]
Action = Literal["settle", "hint", "answer"]


@dataclass
class PersonOptions:
    """Options of the example."""

    questions: int = 3
    """Questions to ask."""
    replies: list[Action] = field(default_factory=list)
    """Replies in place of a person's, used in turn, the last one repeated: a hint holds every
    agent's facts, an answer is the right one. None: a person is asked."""
    seed: int = 0
    """Seed of the model's sampling."""
    traces: Path = Path("traces/human_in_the_loop")
    """Folder for the traces."""


def ask_person(standing: dict[str, Any]) -> dict[str, str]:
    """Let a person at the terminal reply. LangGraph asks again if the reply makes no sense."""
    if "error" in standing:
        print(f"  {standing['error']}")
    try:
        said = input("  [s]ettle, or h <hint>, or a <answer>: ").strip()
    except EOFError:
        raise ConfigurationError(
            "nobody is at the terminal to reply: run it in one, or give --replies"
        ) from None
    letter, _, text = said.partition(" ")
    action = {"s": "settle", "h": "hint", "a": "answer"}.get(letter, letter)
    return {"action": action, "text" if action == "hint" else "answer": text}


def show(standing: dict[str, Any]) -> None:
    """Print what the person has to go by."""
    print(f"  the answer would be {standing['answer']}, backed by {standing['support']:.0%}:")
    for name, response in standing["responses"].items():
        if response is None:
            print(f"  {name} has no answer")
            continue
        confidence = response["confidence"]
        known = "" if confidence is None else f" (confidence {confidence:.2f})"
        print(f"  {name}{known}: {' / '.join(response['text'].splitlines())}")


def main(options: PersonOptions) -> None:
    """Ask some questions, and hand over those on which the agents do not agree."""
    prompts = dataclasses.replace(PROMPTS, hint="* {hint}")
    team = [
        Agent(
            f"agent-{number}",
            make(seed=options.seed + number),
            prompts=prompts,
            sampling={"temperature": PROPOSE_TEMPERATURE, "max_tokens": 200},
        )
        for number in (1, 2, 3)
    ]
    graph = create_deliberation(
        team,
        critic="logprob",
        answer=MathAnswer(),
        max_rounds=1,
        interrupt_when=Unsure(support_below=0.99),
        traces=options.traces,
    ).compile(checkpointer=InMemorySaver())

    for question in make_questions("hidden", "test", options.questions):
        print(f"\n{question['question']}")
        config: Any = {"configurable": {"thread_id": question["id"]}}
        out = graph.invoke(
            {"question": question["question"], "contexts": question["contexts"]}, config
        )
        replies = list(options.replies)
        while "__interrupt__" in out:
            standing = out["__interrupt__"][0].value
            show(standing)
            if replies:
                action = replies.pop(0) if len(replies) > 1 else replies[0]
                facts = " ".join(question["contexts"].values()) or "It is all in the question."
                reply = {"action": action, "text": facts, "answer": question["reference"]}
                print(f"  reply: {reply}")
            else:
                reply = ask_person(standing)
            out = graph.invoke(Command(resume=reply), config)
        episode = Episode.from_state(graph.get_state(config).values)
        print(f"  {episode.outcome['answer']} ({episode.outcome['stop_reason']})")
        for done in episode.interventions:
            said = f": {done['text']}" if done["text"] else ""
            print(f"  a person, after {done['seconds']:.1f} s: {done['action']}{said}")
    print(f"\ntraces: {options.traces}/")


if __name__ == "__main__":
    run_command(main, PersonOptions, __doc__)
