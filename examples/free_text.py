"""Open-ended questions: a judge model says which answers in free text mean the same.

    python examples/free_text.py                                       # scripted models, offline
    python examples/free_text.py --base-url http://localhost:8000/v1   # a server's model throughout

Without a judge every wording is an answer of its own and a vote finds no majority. With one the
agents learn that they agree. Verdicts are remembered, and what the judge takes is counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel, SimpleChatModel
from langchain_core.messages import AIMessage, BaseMessage
from rich.console import Console
from rich.table import Table

from mpdf_langgraph import (
    Agent,
    MPDFError,
    TextAnswer,
    check_endpoint,
    create_deliberation,
    vllm_chat_model,
)
from training.command import run_command

#: What each agent says at first, and once it has read the others.
SCRIPT: dict[str, dict[str, tuple[str, str]]] = {
    "Why do we see the same side of the Moon all the time?": {
        "ann": (
            "Tides have braked it. Answer: it turns once per orbit",
            "Bo says the same as I do. Answer: it turns once per orbit",
        ),
        "bo": (
            "It is tidally locked. Answer: its rotation takes as long as its orbit",
            "We agree. Answer: its rotation takes as long as its orbit",
        ),
        "cy": (
            "Answer: it does not rotate",
            "Then it would show all its sides; I was wrong. Answer: it rotates once in every orbit",
        ),
    },
    "Who found out what heredity in peas follows?": {
        "ann": ("Answer: Gregor Mendel", "Answer: Gregor Mendel"),
        "bo": ("A monk in Brno. Answer: Mendel, G. J.", "Answer: Mendel, G. J."),
        "cy": ("I guess. Answer: Charles Darwin", "The peas were in Brno. Answer: the monk Mendel"),
    },
}
#: Words by which the scripted judge recognises a meaning.
MEANINGS = ({"turns", "rotation", "rotates", "orbit"}, {"mendel"}, {"darwin"}, {"not"})


class ScriptedAgent(SimpleChatModel):
    """Says what the script has for an agent."""

    agent: str

    @property
    def _llm_type(self) -> str:
        return "scripted-agent"

    def _call(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> str:
        asked = " ".join(str(message.text) for message in messages)
        question = next(question for question in SCRIPT if question in asked)
        has_spoken = any(isinstance(message, AIMessage) for message in messages)
        return SCRIPT[question][self.agent][has_spoken]


class ScriptedJudge(SimpleChatModel):
    """Answers whether two answers mean the same, as a judge model does."""

    asked: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted-judge"

    def _call(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> str:
        self.asked += 1
        answers = re.findall(r"answer: (\".*\")$", str(messages[-1].text), re.MULTILINE)
        first, second = ({*re.findall(r"\w+", answer.lower())} for answer in answers)
        # "It does not rotate" shares words with what it denies.
        same_sense = ("not" in first) == ("not" in second)
        same = same_sense and any(words & first and words & second for words in MEANINGS)
        return "Yes." if same else "No."


@dataclass(frozen=True)
class FreeTextOptions:
    """Options of the example."""

    base_url: str | None = None
    """An OpenAI-compatible server, for agents and judge. Default: scripted models."""
    model: str | None = None
    """The served model's name. It is not needed where the server serves only one."""
    question: str | None = None
    """A question of your own (with --base-url)."""


def models(options: FreeTextOptions) -> tuple[list[Agent], BaseChatModel]:
    """Return the team and the judge."""
    names = ("ann", "bo", "cy")
    if options.base_url is None:
        return [Agent(name, ScriptedAgent(agent=name)) for name in names], ScriptedJudge()
    status = check_endpoint(options.base_url, options.model)
    if not status.ok:
        raise MPDFError(status.message)
    llm = vllm_chat_model(options.base_url, options.model or status.models[0])
    return [Agent(name, llm, sampling={"temperature": 1.0}) for name in names], llm


def deliberate(team: Sequence[Agent], answer: TextAnswer, question: str) -> dict[str, Any]:
    """Ask all, let everybody refine once where they do not agree, and vote."""
    graph = create_deliberation(
        team,
        router="always-refine",
        critic=None,
        answer=answer,
        consensus="majority",
        max_rounds=1,
    ).compile()
    outcome: dict[str, Any] = graph.invoke({"question": question})["deliberation"]
    return outcome


def main(options: FreeTextOptions) -> None:
    """Ask every question with and without a judge."""
    if options.question is not None and options.base_url is None:
        raise MPDFError("the scripted models know their own questions only: give --base-url too")
    team, judge = models(options)
    table = Table("question", "equivalence", "answer", "share", "different answers", "calls")
    for question in [options.question] if options.question else SCRIPT:
        for name, schema in {
            "same words": TextAnswer(),
            "same meaning (judge)": TextAnswer(judge),
        }.items():
            outcome = deliberate(team, schema, question)
            different = len(set(outcome["votes"].values()))
            usage = outcome["usage"]["total"]
            table.add_row(
                question, name, outcome["answer"], f"{outcome['support']:.0%}", str(different),
                str(usage["calls"]),
            )  # fmt: skip
    console = Console(width=max(100, Console().width))
    console.print(table)
    console.print("share: agents that hold the answer in the end; calls include the judge's")


if __name__ == "__main__":
    run_command(main, FreeTextOptions, __doc__)
