"""Other ways to let three agents answer together, on the same endpoint and questions.

- *LLM-Debate* (Du et al. 2023) as its authors run it: agents and rounds one call at a time, through
  OpenAI's own client. Each agent is shown the others' last answers and asked to update its own.
- *langgraph-supervisor*: a supervisor hands the question to each of three agents, then answers.

Both are measured beside a vote and a debate of this package.
"""

import asyncio
import time
import warnings
from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from openai import OpenAI

from mpdf_langgraph import vllm_chat_model
from training.studies.speed_report import Row

Answer = Callable[[str], int]
"""Answers a question, and returns how many calls that took."""
AGENTS, ROUNDS = 3, 2
_UNITS = {
    "speed": "questions a second",
    "processor time": "ms a question",
    "calls": "a question",
    "calls under way": "at a time",
}


def llm_debate(url: str) -> Answer:
    """Return the debate of Du et al.: 3 agents, 2 rounds of answers, 6 calls one by one."""
    client = OpenAI(base_url=url, api_key="EMPTY", max_retries=0, timeout=60.0)

    def ask(messages: list[dict[str, str]]) -> str:
        reply = client.chat.completions.create(model="speed", messages=messages, n=1)  # type: ignore[arg-type]
        return str(reply.choices[0].message.content)

    def answer(question: str) -> int:
        talks = [[{"role": "user", "content": question}] for _ in range(AGENTS)]
        for round_ in range(ROUNDS):
            for place, talk in enumerate(talks):
                if round_:
                    others = [t[2 * round_ - 1]["content"] for t in talks if t is not talks[place]]
                    said = "\n\n".join(f"One agent's answer: {text}" for text in others)
                    talk.append({"role": "user", "content": f"{said}\n\nUpdate your answer."})
                talk.append({"role": "assistant", "content": ask(talk)})
        return AGENTS * ROUNDS

    return answer


def supervisor(url: str) -> Answer:
    """Return a supervisor that hands the question to three agents in turn, and answers: 7 calls."""
    from langgraph_supervisor import create_supervisor

    model = vllm_chat_model(url, "speed")
    agents: list[Any] = [create_agent(model, [], name=f"agent-{n}") for n in range(1, AGENTS + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it builds on LangGraph's old agents
        graph = create_supervisor(agents, model=model, output_mode="last_message").compile()
    return of_graph(graph, lambda question: {"messages": [HumanMessage(question)]})


def of_graph(graph: Any, to_input: Callable[[str], Any]) -> Answer:
    """Return what answers with a graph, asynchronously as a server would."""

    def answer(question: str) -> int:
        counter = _Counter()
        asyncio.run(graph.ainvoke(to_input(question), {"callbacks": [counter]}))
        return counter.calls

    return answer


class _Counter(BaseCallbackHandler):
    """Counts calls of models."""

    run_inline = True

    def __init__(self) -> None:
        self.calls = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.calls += 1


def time_systems(
    systems: dict[str, Answer], question: str, *, delay: float, repeats: int, questions: int
) -> list[Row]:
    """Return how fast each system answers one question after the other.

    Args:
        systems: What answers, by name.
        question: What is asked. A number is put before it.
        delay: Seconds that a call takes.
        repeats: How often everything is measured.
        questions: Questions in a row.

    Raises:
        AssertionError: A system made no calls.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for answer in systems.values():
        answer(question)  # the first call loads and connects
    for repeat in range(repeats):
        for name, answer in systems.items():
            began, worked, calls = time.perf_counter(), time.process_time(), 0
            for number in range(questions):
                calls += answer(f"{repeat}.{number}: {question}")
            wall, spent = time.perf_counter() - began, time.process_time() - worked
            assert calls, name
            found[name].append(
                {
                    "speed": questions / wall,
                    "processor time": 1e3 * spent / questions,
                    "calls": calls / questions,
                    "calls under way": calls * delay / wall,
                }
            )
    return [
        Row.of(f"{name}: {figure}", [run[figure] for run in runs], unit=unit)
        for name, runs in found.items()
        for figure, unit in _UNITS.items()
    ]
