"""Prompts: the documented fields, and text that looks like a field."""

import dataclasses
import inspect
import re
from string import Formatter
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage

from mpdf_langgraph import Agent, ConfigurationError, MathAnswer, Prompts, create_deliberation
from mpdf_langgraph.models.prefix_cache import known_share
from tests.support.scripted import says, yes

TEMPLATES = [field.name for field in dataclasses.fields(Prompts)]
HOSTILE = r"Let {x} be \frac{1}{2}, {0} and {question!r}} %s"


def fields_of(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def documented(name: str) -> set[str]:
    """Return the fields that the class's documentation gives a template."""
    doc = inspect.cleandoc(Prompts.__doc__ or "").split("Attributes:")[1]
    entry = re.search(rf"^    {name}: (.*?)(?=^    \w+: |\Z)", doc, re.MULTILINE | re.DOTALL)
    assert entry, f"{name} is not documented"
    return set(re.findall(r"``\{(\w+)\}``", entry[1]))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_use_documented_fields_only(name: str) -> None:
    template = getattr(Prompts(), name)
    if name in ("propose_private", "refine_private"):
        template = Prompts().template(name.removesuffix("_private"), private=True)  # type: ignore[arg-type]
    if name == "no_response":
        assert template.strip()
        return
    assert fields_of(template) <= documented(name)


def test_a_missing_response_needs_words() -> None:
    with pytest.raises(ConfigurationError, match="'no_response' must be a text"):
        Prompts(no_response=None)  # type: ignore[arg-type]


def test_what_a_prompt_cannot_do_without() -> None:
    prompts = Prompts()
    assert fields_of(prompts.propose) == {"question", "instructions"}
    assert {"peers", "instructions"} <= fields_of(prompts.refine)
    assert fields_of(prompts.peer) == {"name", "response", "fence"}
    assert fields_of(prompts.context) == {"context"}
    for answer in ("yes", "no"):  # the critic looks for these two words
        assert re.search(rf"\b{answer}\b", prompts.critique)


def test_they_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prompts().propose = "?"  # type: ignore[misc]
    assert dataclasses.replace(Prompts(), propose="{question}?").refine == Prompts().refine


@pytest.fixture
def agent() -> Agent:
    return Agent("ann", FakeListChatModel(responses=["x"]), system_prompt="You are {ann}.")


def test_text_is_filled_in_as_it_stands(agent: Agent) -> None:
    schema = MathAnswer()
    system, asked = agent.conversation(HOSTILE, schema=schema, history=[], notes=HOSTILE)
    assert str(system.text).startswith("You are {ann}.")
    assert HOSTILE in system.text
    assert HOSTILE in asked.text
    assert schema.instructions in asked.text
    own, refine = agent.refine_turn(HOSTILE, schema=schema, own=HOSTILE, peers={"bob": HOSTILE})
    assert own.text == HOSTILE
    assert HOSTILE in refine.text
    assert "bob" in refine.text
    assert agent.critique_turn(HOSTILE, HOSTILE)[0].text == HOSTILE


def test_the_three_tasks_share_one_prefix(agent: Agent) -> None:
    """What a server's prefix cache relies on: later prompts only append."""
    schema = MathAnswer()
    opening = agent.conversation("Q?", schema=schema, history=[HumanMessage("Hi")], notes="")
    assert [type(m).__name__ for m in opening] == ["SystemMessage", "HumanMessage"]
    assert opening[1].text.startswith("Hi\n\nQ?")
    later = agent.refine_turn("Q?", schema=schema, own="mine", peers={"bob": "his", "cid": "hers"})
    assert [type(m) for m in later] == [AIMessage, HumanMessage]
    assert "his" in later[1].text
    assert "hers" in later[1].text
    assert "mine" not in later[1].text  # it stands in the assistant's turn already
    judged = agent.critique_turn("Q?", "mine")
    assert judged[0] == later[0]
    absent = agent.refine_turn("Q?", schema=schema, own=None, peers={})
    assert absent[0].text == Prompts().no_response


def test_every_call_of_an_agent_goes_on_from_an_earlier_one() -> None:
    question = "How many sheep are there, if " + "there are seven more than that, and " * 20
    models = [says(f"{n} sheep. " * 40, f"{n} sheep, or more. " * 40, yes(0.6)) for n in range(2)]
    team = [Agent(f"a{n}", m, system_prompt=f"You are {n}.") for n, m in enumerate(models)]
    options: dict[str, Any] = {"max_rounds": 2, "stop_when_settled": False, "critic": "self"}
    create_deliberation(team, router="always-refine", **options).compile().invoke(
        {"question": question}
    )
    for model in models:
        asked = [request.messages for request in model.requests]
        assert model.kinds() == ["propose", "critique", "refine", "critique", "refine", "critique"]
        opening, proposed, refined, judged, again, judged_again = asked
        assert proposed[: len(opening)] == refined[: len(opening)] == again[: len(opening)]
        assert proposed[: len(opening)] == opening
        assert refined[len(opening)] == proposed[len(opening)]  # its proposal
        assert judged[: len(refined)] == refined
        assert judged_again[: len(again)] == again
        assert again[len(opening)] == judged[len(refined)]  # its refined response
        assert known_share(asked) > 0.55


def test_no_empty_system_message() -> None:
    bare = Agent("ann", FakeListChatModel(responses=["x"]))
    assert len(bare.conversation("Q?", schema=MathAnswer(), history=[], notes="")) == 1
    noted = bare.conversation("Q?", schema=MathAnswer(), history=[], notes="fact")
    assert [m.type for m in noted] == ["system", "human"]


def test_an_agent_brings_its_own(agent: Agent) -> None:
    compact = Prompts(propose="Q: {question}", refine="{peers}\nQ: {question}", peer="{response}")
    mine = dataclasses.replace(agent, prompts=compact)
    schema = MathAnswer()
    assert mine.conversation("1+1", schema=schema, history=[], notes="")[-1].text == "Q: 1+1"
    turn = mine.refine_turn("1+1", schema=schema, own="2", peers={"b": "3", "c": "4"})
    assert turn[-1].text == "3\n4\nQ: 1+1"


def test_agents_with_private_context_are_asked_for_all_they_know(agent: Agent) -> None:
    schema = MathAnswer()
    plain = agent.conversation("Q?", schema=schema, history=[], notes="")[-1].text
    private = agent.conversation("Q?", schema=schema, history=[], notes="a fact")[-1].text
    assert "every fact you know" in private
    assert "every fact you know" not in plain
    given = {"schema": schema, "own": "mine", "peers": {"bob": "his"}}
    merged = agent.refine_turn("Q?", **given, private=True)[-1].text
    assert "all facts that matter, yours and theirs" in merged
    assert "his" in merged
    assert merged.endswith(schema.instructions)
    assert "all facts" not in agent.refine_turn("Q?", **given)[-1].text


def test_own_prompts_stand_for_private_context_too() -> None:
    mine = dataclasses.replace(Prompts(), propose="Mine: {question}")
    assert mine.template("propose", private=True) == "Mine: {question}"
    assert mine.template("refine", private=True) == Prompts().template("refine", private=True)
    both = Prompts(propose="{question}", propose_private="Tell: {question}")
    assert both.template("propose", private=True) == "Tell: {question}"
    assert both.template("propose", private=False) == "{question}"
    with pytest.raises(ConfigurationError, match="propose_private"):
        Prompts(propose_private="{wrong}")
