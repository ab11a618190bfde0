"""Questions with known answers: hidden profiles, and plain ones as the honest comparison.

A question is a short chain of arithmetic about what people own. In a *hidden* question some of
the starting numbers are missing. Each stands in the private notes of exactly one agent:

    Ann has 3 times as many coins as Kim. Bo has 7 more coins than Lee.
    How many coins do Ann and Bo have together?
    agent-1: "Kim has 12 coins."    agent-2: "Max has 25 coins."    agent-3: "Lee has 20 coins."

In a *plain* question every number is given and the chain is longer. The split of a question is a
hash of its text, so no text of one split can occur in another, whatever the seeds.

    python examples/tiny_lm/questions.py --kind hidden --split test --count 1000 --out q.jsonl
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["hidden", "plain"]
Split = Literal["train", "validation", "test"]

AGENTS = ("agent-1", "agent-2", "agent-3")
GIVERS = ("Kim", "Lee", "Max", "Sue")
"""People with a number of their own."""
TAKERS = ("Ann", "Bo", "Cy", "Dee", "Eli", "Fay")
"""People whose number follows from others', in the order in which they appear."""
ITEMS = ("beads", "books", "cards", "coins", "marbles", "pens", "shells", "stamps")
FACT_RANGE = (10, 19)
"""Range of every hidden number. Who lacks one guesses within it."""
OWNER_SHARES = {0: 0.30, 1: 0.35, 2: 0.25, 3: 0.10}
"""Share of hidden questions by the number of agents who own a missing fact."""


@dataclass(frozen=True)
class Relation:
    """One derived quantity: `name` has `number` times / more / fewer than, or the sum of, `of`."""

    name: str
    kind: Literal["times", "more", "fewer", "sum"]
    of: tuple[str, ...]
    number: int = 0

    def sentence(self, item: str) -> str:
        """The relation in words, as the question states it."""
        if self.kind == "sum":
            return f"{self.name} has as many {item} as {self.of[0]} and {self.of[1]} together."
        words = {"times": f"times as many {item} as", "more": f"more {item} than"}
        words["fewer"] = f"fewer {item} than"
        return f"{self.name} has {self.number} {words[self.kind]} {self.of[0]}."

    def result(self, values: dict[str, int]) -> int:
        """The quantity, from the values of those before it."""
        first = values[self.of[0]]
        if self.kind == "times":
            return self.number * first
        if self.kind == "more":
            return first + self.number
        if self.kind == "fewer":
            return first - self.number
        return first + values[self.of[1]]


@dataclass(frozen=True)
class Problem:
    """A question with everything needed to write it, share it out and solve it.

    Attributes:
        kind: `hidden` or `plain`.
        item: What is counted.
        facts: The starting numbers by person.
        relations: The derived quantities, in an order in which they can be computed.
        ask: One person, or two whose quantities are asked for together.
        owner: The agent in whose notes a missing fact stands, by person.
        distractors: Irrelevant facts in the notes, by agent.
    """

    kind: Kind
    item: str
    facts: dict[str, int]
    relations: tuple[Relation, ...]
    ask: tuple[str, ...]
    owner: dict[str, str] = field(default_factory=dict)
    distractors: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The text that every agent sees."""
        given = [f"{n} has {v} {self.item}." for n, v in self.facts.items() if n not in self.owner]
        steps = [relation.sentence(self.item) for relation in self.relations]
        if len(self.ask) == 1:
            ask = f"How many {self.item} does {self.ask[0]} have?"
        else:
            ask = f"How many {self.item} do {self.ask[0]} and {self.ask[1]} have together?"
        return " ".join([*given, *steps, ask])

    def mentions(self) -> list[str]:
        """The people whose starting numbers are needed, in the order in which they are needed."""
        needed = [name for relation in self.relations for name in relation.of] + list(self.ask)
        return [name for name in dict.fromkeys(needed) if name in self.facts]

    @property
    def values(self) -> dict[str, int]:
        """The true quantity of every person in the question."""
        values = dict(self.facts)
        for relation in self.relations:
            values[relation.name] = relation.result(values)
        return values

    @property
    def answer(self) -> int:
        """The reference answer."""
        return sum(self.values[name] for name in self.ask)

    def notes(self, agent: str) -> dict[str, int]:
        """The missing facts that `agent` holds."""
        return {name: self.facts[name] for name, owner in self.owner.items() if owner == agent}

    @property
    def contexts(self) -> dict[str, str]:
        """The private notes by agent. Agents without notes are left out."""
        contexts = {}
        for agent in AGENTS:
            facts = [*self.notes(agent).items()]
            if agent in self.distractors:
                # Sorting by name places the distractor anywhere among the facts.
                facts = sorted([*facts, self.distractors[agent]])
            if facts:
                contexts[agent] = " ".join(f"{n} has {v} {self.item}." for n, v in facts)
        return contexts

    @property
    def steps(self) -> int:
        """The number of calculations."""
        return len(self.relations) + len(self.ask) - 1

    def split(self) -> Split:
        """The only split in which this question may occur, whatever its hidden numbers."""
        bucket = hashlib.sha256(self.question.encode()).digest()[0] % 8
        return "validation" if bucket == 0 else "test" if bucket == 1 else "train"

    def record(self, identifier: str) -> dict[str, Any]:
        """The question as one line of a JSONL file."""
        return {
            "id": identifier,
            "question": self.question,
            "reference": str(self.answer),
            "contexts": self.contexts,
            "kind": self.kind,
            "owners": len(set(self.owner.values())),
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Difficulty:
    """How hard the arithmetic of a kind of question is."""

    relations: tuple[int, int]
    fact: tuple[int, int]
    times: tuple[int, int]
    more: tuple[int, int]
    fewer: tuple[int, int]
    limit: int


DIFFICULTY: dict[Kind, Difficulty] = {
    "hidden": Difficulty((2, 4), FACT_RANGE, (2, 4), (2, 60), (2, 9), 299),
    "plain": Difficulty((3, 6), (10, 49), (2, 4), (2, 60), (2, 30), 299),
}


def _chain(rng: random.Random, level: Difficulty, n_facts: int) -> Problem | None:
    """A random chain in which every fact and every relation is needed, or None if too large."""
    n_relations = max(rng.randint(*level.relations), n_facts - 1)
    facts = {name: rng.randint(*level.fact) for name in rng.sample(GIVERS, n_facts)}
    values, relations = dict(facts), []
    # Guesses may be smaller than the facts: the chain must stay positive with the smallest.
    guessable = level.fact == FACT_RANGE
    lowest = {name: FACT_RANGE[0] if guessable else value for name, value in facts.items()}
    open_ends = list(facts)
    times_left = 1  # two would exceed the limit more often than not
    for i, name in enumerate(TAKERS[:n_relations]):
        left = n_relations - i
        # The question can join two open ends. The relations must have joined all others by then.
        must_join = len(open_ends) - 2 >= left
        if len(open_ends) > 1 and (must_join or rng.random() < 0.25):
            relation = Relation(name, "sum", tuple(rng.sample(open_ends, 2)))
        else:
            of = rng.choice(open_ends)
            kind = rng.choice(["times", "more", "fewer"] if times_left else ["more", "fewer"])
            times_left -= kind == "times"
            relation = Relation(name, kind, (of,), rng.randint(*getattr(level, kind)))  # type: ignore[arg-type]
        relations.append(relation)
        values[name] = relation.result(values)
        lowest[name] = relation.result(lowest)
        open_ends = [*(end for end in open_ends if end not in relation.of), name]
    if len(open_ends) == 1 and relations and rng.random() < 0.5:
        earlier = [name for name in values if name not in open_ends]
        open_ends.append(rng.choice(earlier))
    rng.shuffle(open_ends)
    if min(lowest.values()) < 1 or max(values.values()) > level.limit:
        return None
    if sum(values[name] for name in open_ends) > level.limit:
        return None
    return Problem("plain", rng.choice(ITEMS), facts, tuple(relations), tuple(open_ends))


def _shares(rng: random.Random, n_owners: int) -> list[str]:
    """The owner of every missing fact, one entry per fact, `n_owners` different ones."""
    owners = rng.sample(AGENTS, n_owners)
    second = {1: 0.3, 2: 0.2}.get(n_owners, 0.0)
    return [*owners, rng.choice(owners)] if rng.random() < second else owners


def random_problem(rng: random.Random, kind: Kind) -> Problem:
    """Draws one problem of a kind, of any split."""
    level = DIFFICULTY[kind]
    n_owners = 0
    if kind != "plain":
        n_owners = rng.choices(list(OWNER_SHARES), list(OWNER_SHARES.values()))[0]
    owners = _shares(rng, n_owners) if n_owners else []
    n_facts = rng.randint(max(1, len(owners)), 3)
    chain = None
    while chain is None:
        chain = _chain(rng, level, n_facts)
    hidden = rng.sample(list(chain.facts), len(owners))
    hidden.sort(key=chain.mentions().index)  # solutions state them in this order
    distractors: dict[str, tuple[str, int]] = {}
    if kind != "plain":
        strangers = {n: rng.randint(*FACT_RANGE) for n in GIVERS if n not in chain.facts}
        for agent in AGENTS:
            if rng.random() < 0.3:
                distractors[agent] = rng.choice(list(strangers.items()))
    return Problem(
        kind,
        chain.item,
        chain.facts,
        chain.relations,
        chain.ask,
        dict(zip(hidden, owners, strict=True)),
        distractors,
    )


def problems(kind: Kind, split: Split, seed: int | str = 0) -> Iterator[Problem]:
    """An endless stream of problems of one split, without two of the same text."""
    rng = random.Random(f"{kind}/{split}/{seed}")
    seen: set[str] = set()
    while True:
        problem = random_problem(rng, kind)
        if problem.split() == split and problem.question not in seen:
            seen.add(problem.question)
            yield problem


def make_questions(
    kind: Kind, split: Split, count: int, seed: int | str = 0
) -> list[dict[str, Any]]:
    """Makes `count` questions. No question text occurs in two splits.

    `hidden` questions have private facts. In `plain` ones all facts stand in the question, with
    more steps. The same seed gives the same questions, and a smaller count the first of them.

    Returns:
        Dicts with `id`, `question`, `reference`, `contexts` (private text by agent name), and
        for analysis `kind`, `owners` (agents who own a missing fact) and `steps`.
    """
    stream = problems(kind, split, seed)
    return [next(stream).record(f"{kind}-{split}-{seed}-{i:05d}") for i in range(count)]


def main(
    kind: Literal["hidden", "plain"] = "hidden",
    split: Split = "test",
    count: int = 1000,
    seed: int = 0,
    out: Path = Path("questions.jsonl"),
) -> None:
    """Writes questions to a JSONL file.

    Args:
        kind: Hidden profiles, or plain questions without private notes.
        split: No question text occurs in two splits.
        count: How many questions.
        seed: Seed of the generator.
        out: The file to write.
    """
    with out.open("w") as file:
        for question in make_questions(kind, split, count, seed):
            file.write(json.dumps(question) + "\n")
    print(f"{count} {kind} questions of the {split} split -> {out}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
