import io
import re

import pytest
from langchain_core.messages import AIMessage
from rich.console import Console

from examples.different_documents import (
    ARCHIVE,
    QUESTIONS,
    DocumentsOptions,
    KeywordRetriever,
    count_what_is_asked,
    look_up,
    main,
    make_team,
    open_table,
)
from mpdf_langgraph import Prompts, TraceReader
from mpdf_langgraph.nodes.agent import read_context
from tests.integration.test_ways import Boss
from tests.support.running import run_python

FACT = re.compile(r"(\w+) has (\d+) (\w+)\.")


def sources():
    return {
        "archivist": lambda q: read_context(KeywordRetriever(documents=ARCHIVE).invoke(q)),
        "clerk": look_up(open_table()),
        "keeper": count_what_is_asked,
    }


def solve(question, facts):
    """Work the questions out by their own words."""
    values = dict(facts)
    for name, number, kind, of in re.findall(
        r"(\w+) has (\d+) (times as many|more|fewer) \w+ (?:as|than) (\w+)\.", question
    ):
        change = {"times as many": values[of] * int(number), "more": values[of] + int(number)}
        values[name] = change.get(kind, values[of] - int(number))
    return sum(values[name] for name in re.search(r"do (\w+) and (\w+)", question).groups())


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.reference)
def test_every_question_takes_exactly_the_two_it_names(question):
    item = re.search(r"How many (\w+)", question.text).group(1)
    needed = set(re.findall(r"(?:as|than) (\w+)\.", question.text))
    known = {
        agent: {n: int(v) for n, v, i in FACT.findall(source(question.text)) if i == item}
        for agent, source in sources().items()
    }
    assert {agent for agent, facts in known.items() if needed & set(facts)} == set(question.takes)
    assert all(len(needed & set(facts)) < len(needed) for facts in known.values())
    together = known[question.takes[0]] | known[question.takes[1]]
    assert str(solve(question.text, together)) == question.reference


def test_the_retriever_prefers_documents_of_rare_words_and_gives_nothing_for_nothing():
    retriever = KeywordRetriever(documents=ARCHIVE, k=2)
    found = [document.page_content for document in retriever.invoke("Sue's books?")]
    assert found == ["Sue has 16 books.", "Sue has 27 coins."]
    assert retriever.invoke("Entirely other words") == []


def test_the_keeper_can_call_its_tool_by_itself(tmp_path):
    """All three on one model that reasons by the book, tools included."""

    def reply(request):
        text = request.text
        asked = next(q for q in QUESTIONS if q.text in text)
        item = re.search(r"How many (\w+)", asked.text).group(1)
        if request.kwargs.get("tools") and request.messages[-1].type != "tool":
            call = {"name": "open_chest", "args": {"item": item}, "id": str(request.number)}
            return AIMessage("", tool_calls=[call])
        facts = {n: int(v) for n, v, i in FACT.findall(text) if i == item}
        try:
            answer = solve(asked.text, facts)
        except KeyError:
            answer = 1000 + sum(facts.values())  # guesses differ
        return f"{' '.join(m.group() for m in FACT.finditer(text))}\n#### {answer}"

    llm, out = Boss(reply=reply, logprob=-0.05), io.StringIO()
    console = Console(file=out, width=110)
    main(DocumentsOptions(tools=True, traces=tmp_path), console, llm, Prompts())
    shown = " ".join(out.getvalue().split())
    assert "archivist 0, clerk 0, keeper 0; together 3" in shown
    for episode in TraceReader(tmp_path):
        assert episode.outcome["answer"] == episode.reference
        told = "Max has" in episode.responses["keeper@0"]["text"]
        assert told == ("Max" in episode.question)
    calls = [request for request in llm.requests if request.messages[-1].type == "tool"]
    assert all(request.last.startswith("Max has") for request in calls)
    assert len(calls) >= 3


def test_the_team_differs_in_what_it_knows_and_in_nothing_else():
    team = make_team(Boss(reply=lambda request: "x"), Prompts(), tools=False)
    assert len({id(agent.runnable) for agent in team}) == 1
    assert len({id(agent.context) for agent in team}) == 3


def test_it_runs_offline_and_prints_what_happened(tmp_path):
    done = run_python("examples/different_documents.py", "--traces", tmp_path)
    assert done.returncode == 0, done.stderr
    for fact in ("Kim has 12 coins.", "Lee has 20 coins.", "Max has 17 shells."):
        assert f"knows: {fact}" in done.stdout
    assert re.search(r"right of 3: .*archivist \d", done.stdout, re.DOTALL)
    assert len(list(TraceReader(tmp_path))) == 3


def test_a_dead_server_is_said_in_one_line():
    words = ("--base-url", "127.0.0.1:9", "--model", "x")
    done = run_python("examples/different_documents.py", *words)
    assert done.returncode == 1
    assert "cannot connect" in done.stdout
    assert "Traceback" not in done.stderr
