from collections import Counter
from itertools import islice
from typing import get_args

import pytest

from examples.real_models.lookups import (
    AGENTS,
    DISTRACTORS,
    OWNER_SHARES,
    PROMPTS,
    Lookup,
    Split,
    lookups,
    make_questions,
)
from mpdf_langgraph import MathAnswer

COUNT = 400


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Lookup]]:
    return {split: list(islice(lookups(split), COUNT)) for split in get_args(Split)}


def test_every_needed_fact_is_in_the_notes_of_its_owner_alone(
    drawn: dict[str, list[Lookup]],
) -> None:
    for lookup in drawn["train"]:
        for fact, owner in zip(lookup.facts, lookup.owners, strict=True):
            assert [a for a in AGENTS if fact in lookup.notes[a]] == [owner]
        held = [fact for notes in lookup.notes.values() for fact in notes]
        assert len(held) == len(set(held)) == len(lookup.facts) + DISTRACTORS * len(AGENTS)


def test_the_answer_follows_from_the_facts(drawn: dict[str, list[Lookup]]) -> None:
    for lookup in drawn["train"]:
        numbers = [
            int(word.strip(".")) for f in lookup.facts for word in f.split() if word[0] < "A"
        ]
        assert lookup.answer == (sum(numbers) if lookup.kind == "sum" else numbers[-1])


def test_no_other_fact_gives_an_answer_of_its_own(drawn: dict[str, list[Lookup]]) -> None:
    # Of everything that is told about the first link of the chain, there is one fact.
    for lookup in drawn["train"]:
        everything = [fact for notes in lookup.notes.values() for fact in notes]
        for fact in lookup.facts:
            [verb] = [v for v in (" costs ", " meets ", " is in ", " wants ") if v in fact]
            subject = fact.split(verb)[0]
            assert [f for f in everything if f.startswith(subject + verb)] == [fact]


def test_the_shares_of_owners(drawn: dict[str, list[Lookup]]) -> None:
    counts = Counter(len(set(lookup.owners)) for split in drawn.values() for lookup in split)
    for owners, share in OWNER_SHARES.items():
        assert counts[owners] / (3 * COUNT) == pytest.approx(share, abs=0.05)


def test_no_facts_are_in_two_splits(drawn: dict[str, list[Lookup]]) -> None:
    facts = [frozenset(lookup.facts) for split in drawn.values() for lookup in split]
    assert len(set(facts)) == len(facts)


def test_the_same_seed_gives_the_same_questions() -> None:
    assert make_questions("test", 20) == make_questions("test", 30)[:20]
    assert make_questions("test", 20, seed=1) != make_questions("test", 20)


def test_an_informed_agent_knows_everything() -> None:
    [own] = make_questions("test", 1)
    [all_] = make_questions("test", 1, informed=True)
    notes = set("\n".join(own["contexts"].values()).splitlines())
    assert [set(text.splitlines()) for text in all_["contexts"].values()] == [notes] * 3


def test_the_answers_of_the_examples_can_be_read() -> None:
    schema = MathAnswer()
    said = [text.partition("Answer:")[2] for text in PROMPTS.context.split("Example\n")[1:]]
    answers = [schema.parse(text.format(context="")) for text in said]
    assert answers == [None, "15", None, "42", None]
