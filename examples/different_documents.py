"""Three agents with different information answer questions that take two of them.

    python examples/different_documents.py                                       # bundled model
    python examples/different_documents.py --base-url http://localhost:8000/v1   # a server

The archivist has documents and a small retriever, the clerk a table in a database, the keeper a
tool. Every question needs a number from two of the three, so that nobody can answer alone: whoever
lacks one has to guess it, until it reads what its peers say. No agent sees another's sources.

With `--tools` the keeper is a ReAct agent that calls its tool by itself. The server must allow tool
calls (vLLM: `--enable-auto-tool-choice --tool-call-parser ...`).
"""

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from rich.console import Console

from examples import quickstart
from mpdf_langgraph import Agent, Episode, MathAnswer, Prompts, create_deliberation

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = [
    "Kim has 12 coins.",
    "Kim has 14 shells.",
    "Kim has 25 stamps.",
    "Sue has 27 coins.",
    "Sue has 19 shells.",
    "Sue has 16 books.",
]
"""The archivist's documents."""
TABLE = [("Lee", "coins", 20), ("Lee", "books", 24), ("Lee", "pens", 13), ("Lee", "cards", 29)]
"""The clerk's table: owner, item, amount."""
CHEST = {"books": 11, "shells": 17, "marbles": 22}
"""What Max's chest holds, which only the keeper can open."""


@dataclass(frozen=True)
class Question:
    """A question, its answer, and whom it takes to find it."""

    text: str
    reference: str
    takes: tuple[str, str]


QUESTIONS = [
    Question(
        "Ann has 3 times as many coins as Kim. Bo has 7 more coins than Lee. "
        "How many coins do Ann and Bo have together?",
        "63",
        ("archivist", "clerk"),
    ),
    Question(
        "Ann has 5 fewer books than Lee. Bo has 9 more books than Max. "
        "How many books do Ann and Bo have together?",
        "39",
        ("clerk", "keeper"),
    ),
    Question(
        "Ann has 2 times as many shells as Max. Bo has 6 more shells than Kim. "
        "How many shells do Ann and Bo have together?",
        "54",
        ("keeper", "archivist"),
    ),
]


def words(text: str) -> list[str]:
    """The words of a text, lower-case."""
    return re.findall(r"[a-z]+", text.lower())


class KeywordRetriever(BaseRetriever):
    """Finds the documents that share the rarest words with the question.

    Attributes:
        documents: What is searched.
        k: How many documents to return at most.
    """

    documents: list[str]
    k: int = 1

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        found_in = Counter(word for text in self.documents for word in set(words(text)))
        asked = set(words(query))

        def score(text: str) -> float:
            shared = asked & set(words(text))
            return sum(math.log(len(self.documents) / found_in[word]) for word in shared)

        best = sorted(self.documents, key=score, reverse=True)[: self.k]
        return [Document(text) for text in best if score(text) > 0]


def open_table() -> sqlite3.Connection:
    """The clerk's database, in memory and for any thread: agents are asked in their own."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE stock (owner TEXT, item TEXT, amount INTEGER)")
    database.executemany("INSERT INTO stock VALUES (?, ?, ?)", TABLE)
    return database


def look_up(database: sqlite3.Connection) -> Callable[[str], str]:
    """What the clerk does with a question: find the rows of which it names owner and item."""

    def rows(question: str) -> str:
        named = set(words(question))
        stock = database.execute("SELECT owner, item, amount FROM stock ORDER BY owner, item")
        return " ".join(
            f"{owner} has {amount} {item}."
            for owner, item, amount in stock
            if {owner.lower(), item} <= named
        )

    return rows


@tool
def open_chest(item: str) -> str:
    """Count how many of an item (e.g. "coins") are in Max's chest."""
    return f"Max has {CHEST[item]} {item}." if item in CHEST else f"Max has no {item}."


def count_what_is_asked(question: str) -> str:
    """What the keeper does with a question where its model cannot call tools by itself."""
    if "max" not in words(question):
        return ""
    return " ".join(open_chest.invoke({"item": item}) for item in CHEST if item in words(question))


def make_team(llm: BaseChatModel, prompts: Prompts, *, tools: bool) -> list[Agent]:
    """The three agents: one model, different information."""
    sampling = {"temperature": 1.0, "max_tokens": 400}
    keeper = Agent("keeper", llm, context=count_what_is_asked, prompts=prompts, sampling=sampling)
    if tools:
        from langchain.agents import create_agent  # of the `langchain` package

        keeper = Agent("keeper", create_agent(llm, [open_chest]), prompts=prompts)
    archive = KeywordRetriever(documents=ARCHIVE)
    return [
        Agent("archivist", llm, context=archive, prompts=prompts, sampling=sampling),
        Agent("clerk", llm, context=look_up(open_table()), prompts=prompts, sampling=sampling),
        keeper,
    ]


@dataclass
class DocumentsOptions:
    """Options of the example."""

    base_url: str | None = None
    """An OpenAI-compatible server. Without one the bundled model runs in process."""
    model: str | None = None
    """The served model's name. It is not needed where the server serves only one."""
    api_key: str | None = None
    """Key for the server, if it wants one."""
    prompts: str = "auto"
    """`tiny` (the bundled model's compact prompts), `default`, or `auto`: whatever fits."""
    tools: bool = False
    """The keeper calls its tool by itself."""
    rounds: int = 2
    """Rounds of decisions at most."""
    traces: Path = Path("traces/different_documents")
    """Folder for the traces."""


def right_at_first(episode: Episode) -> list[str]:
    """The agents whose first proposal was right."""
    return [
        name
        for name in (agent["name"] for agent in episode.agents)
        if (response := episode.responses.get(f"{name}@0"))
        and quickstart.is_right(response["answer"], str(episode.reference))
    ]


def main(options: DocumentsOptions, console: Console, llm: BaseChatModel, prompts: Prompts) -> None:
    """Ask the three questions and show who knew what, who moved how, and what came of it."""
    team = make_team(llm, prompts, tools=options.tools)
    graph: Any = create_deliberation(
        team,
        answer=MathAnswer(),
        max_rounds=options.rounds,
        traces=options.traces,
        **quickstart.configuration("threshold"),
    ).compile()
    alone: Counter[str] = Counter()
    together = 0
    for question in QUESTIONS:
        console.rule(f"takes the {question.takes[0]} and the {question.takes[1]}")
        given = {"question": question.text, "reference": question.reference}
        *_, state = graph.stream(given, stream_mode="values")
        episode = Episode.from_state(state)
        quickstart.show(console, episode)
        alone.update(right_at_first(episode))
        together += quickstart.is_right(episode.outcome["answer"], question.reference)
    first = ", ".join(f"{agent.name} {alone[agent.name]}" for agent in team)
    console.print(
        f"right of {len(QUESTIONS)}: alone, before they heard of each other, {first}; "
        f"[bold]together {together}[/bold]\ntraces: {options.traces}/"
    )


if __name__ == "__main__":
    chosen = tyro.cli(DocumentsOptions, description=__doc__)
    on_screen = Console()
    if not on_screen.is_terminal:  # in a file nothing needs to fit 80 columns
        on_screen = Console(width=110)
    served = quickstart.QuickstartOptions(
        chosen.base_url, chosen.model, chosen.api_key, chosen.prompts
    )
    main(chosen, on_screen, *quickstart.load_model(served, on_screen))
