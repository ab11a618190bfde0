"""Questions about people, teams, rooms and prices, whose facts lie in private notes.

    python examples/real_models/lookups.py --split train --count 400 --out train.jsonl

A question needs two or three facts: two or three hops ("Ann is in the red team", "the red team
meets in room 217"), or the sum of two prices. Each fact is in the notes of one agent. All notes
hold further facts of the same kinds, which do not matter. In known shares the needed facts have one
owner, two or three. An agent that lacks one can only guess. Answers are numbers.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpdf_langgraph import Prompts
from training.command import run_command

Split = Literal["train", "validation", "test"]
AGENTS = ("agent-1", "agent-2", "agent-3")
PEOPLE = (
    "Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ines", "Jack", "Kate", "Leo",
)  # fmt: skip
TEAMS = ("red", "blue", "green", "white", "black", "yellow", "purple", "orange")
THINGS = ("lamp", "chair", "vase", "clock", "kettle", "mirror", "carpet", "bag", "drum", "kite")
#: Sampling of proposals, cool enough for a model of 1.5B parameters to copy what it read.
TEMPERATURE = 0.4
#: Longest answer in tokens.
MAX_TOKENS = 130
#: How many agents own the needed facts, and how often.
OWNER_SHARES = {1: 0.4, 2: 0.4, 3: 0.2}
#: Further facts in the notes of every agent.
DISTRACTORS = 1
#: How the agents are asked. Small models copy a form literally: the examples show it. They come
#: first, so that a server's prefix cache holds them for all questions. Going step by step, a model
#: notices far more often that a note is missing (docs/real-models.md).
PROMPTS = Prompts(
    context="""\
You and two others hold different notes about one question. The answer follows from two or three \
notes, step by step. Copy your notes, so that the others learn them. Then go step by step. If a \
note that you need is missing, the answer is null. Never guess.

Example
Notes:
The gray team meets in room 512.
Sam is in the pink team.
Question: What is the number of the room in which Sam's team meets?
Answer: My notes: The gray team meets in room 512. Sam is in the pink team. Steps: Sam is in the \
pink team. The room of the pink team is missing. {{"answer": null}}

Example
Notes:
Room 530 costs 15 dollars.
Sam is in the pink team.
The pink team meets in room 530.
Question: How many dollars does the room cost in which Sam's team meets?
Answer: My notes: Room 530 costs 15 dollars. Sam is in the pink team. The pink team meets in room \
530. Steps: Sam is in the pink team. The pink team meets in room 530. Room 530 costs 15 dollars. \
{{"answer": 15}}

Example
Notes:
A cup costs 30 dollars.
A pen costs 12 dollars.
Question: How many dollars does the thing cost that Sam wants?
Answer: My notes: A cup costs 30 dollars. A pen costs 12 dollars. Steps: The thing that Sam wants \
is missing. {{"answer": null}}

Example
Notes:
A cup costs 30 dollars.
A pen costs 12 dollars.
Question: How many dollars do a pen and a cup cost together?
Answer: My notes: A cup costs 30 dollars. A pen costs 12 dollars. Steps: A pen costs 12 dollars. \
A cup costs 30 dollars. 12 + 30 = 42. {{"answer": 42}}

Example
Notes:
A cup costs 30 dollars.
Question: How many dollars do a pen and a cup cost together?
Answer: My notes: A cup costs 30 dollars. Steps: A cup costs 30 dollars. The price of a pen is \
missing. {{"answer": null}}

Your notes:
{context}""",
    propose=(
        '{question}\nBegin with "My notes:" and copy them. Then go step by step. Then give the '
        "answer, or null."
    ),
    refine="""\
The others hold other notes. They said:

{peers}

Now all notes are known, yours and theirs. {question}
Begin with "Steps:" and go step by step, with the notes that lead to the answer, whoever has them. \
Then give the answer.""",
)
_SPLITS: dict[int, Split] = {0: "validation", 1: "test", 2: "test"}


@dataclass(frozen=True)
class Lookup:
    """One question.

    Attributes:
        kind: ``"room"`` and ``"price"`` (two hops), ``"rent"`` (three hops) or ``"sum"``.
        question: What all agents are asked.
        answer: The number.
        facts: The needed facts, in the order of the hops.
        owners: The owner of each of them.
        notes: All facts that an agent holds, by its name.
    """

    kind: str
    question: str
    answer: int
    facts: tuple[str, ...]
    owners: tuple[str, ...]
    notes: dict[str, tuple[str, ...]]

    def split(self) -> Split:
        """Return the split that the needed facts belong to. No set of them is in two splits."""
        digest = hashlib.sha256("\n".join(sorted(self.facts)).encode()).digest()
        return _SPLITS.get(digest[0] % 8, "train")

    def record(self, id_: str, *, informed: bool = False) -> dict[str, Any]:
        """Return the question as a row for `collect.py` and `evaluate.py`.

        An informed team has all notes, every agent.
        """
        own = {agent: "\n".join(notes) for agent, notes in self.notes.items()}
        everything = dict.fromkeys(own, "\n".join(own.values()))
        return {
            "id": id_,
            "question": self.question,
            "reference": str(self.answer),
            "contexts": everything if informed else own,
            "kind": self.kind,
            "owners": len(set(self.owners)),
        }


class _World:
    """Who is in which team, where teams meet, what rooms and things cost."""

    def __init__(self, rng: random.Random) -> None:
        people, teams, things = (rng.sample(all_, len(all_)) for all_ in (PEOPLE, TEAMS, THINGS))
        rooms = rng.sample(range(101, 500), len(teams))
        self.team = {p: teams[k % len(teams)] for k, p in enumerate(people)}
        self.room = dict(zip(teams, rooms, strict=True))
        self.rent = dict(zip(rooms, rng.sample(range(21, 99), len(rooms)), strict=True))
        self.thing = {p: things[k % len(things)] for k, p in enumerate(people)}
        self.price = dict(zip(things, rng.sample(range(11, 99), len(things)), strict=True))

    def in_team(self, person: str) -> str:
        return f"{person} is in the {self.team[person]} team."

    def meets(self, team: str) -> str:
        return f"The {team} team meets in room {self.room[team]}."

    def rents(self, room: int) -> str:
        return f"Room {room} costs {self.rent[room]} dollars."

    def wants(self, person: str) -> str:
        return f"{person} wants a {self.thing[person]}."

    def costs(self, thing: str) -> str:
        return f"A {thing} costs {self.price[thing]} dollars."

    def facts(self, kind: str) -> list[str]:
        """All facts of the kinds that a question of `kind` needs."""
        said: dict[str, list[str]] = {
            "room": [self.in_team(p) for p in self.team] + [self.meets(t) for t in self.room],
            "price": [self.wants(p) for p in self.thing] + [self.costs(t) for t in self.price],
            "sum": [self.costs(t) for t in self.price],
        }
        said["rent"] = said["room"] + [self.rents(r) for r in self.rent]
        return said[kind]


def random_lookup(rng: random.Random) -> Lookup:
    """Draw one question, of any split."""
    world = _World(rng)
    owners = rng.choices(list(OWNER_SHARES), list(OWNER_SHARES.values()))[0]
    kind = "rent" if owners == 3 else rng.choice(("room", "price", "sum", "rent"))
    person = rng.choice(PEOPLE)
    if kind == "room":
        team = world.team[person]
        facts = [world.in_team(person), world.meets(team)]
        question = f"What is the number of the room in which {person}'s team meets?"
        answer = world.room[team]
    elif kind == "rent":
        team = world.team[person]
        room = world.room[team]
        facts = [world.in_team(person), world.meets(team), world.rents(room)]
        question = f"How many dollars does the room cost in which {person}'s team meets?"
        answer = world.rent[room]
    elif kind == "price":
        thing = world.thing[person]
        facts = [world.wants(person), world.costs(thing)]
        question = f"How many dollars does the thing cost that {person} wants?"
        answer = world.price[thing]
    else:
        one, other = rng.sample(THINGS, 2)
        facts = [world.costs(one), world.costs(other)]
        question = f"How many dollars do a {one} and a {other} cost together?"
        answer = world.price[one] + world.price[other]
    team_of_owners = rng.sample(AGENTS, owners)
    spare = [rng.choice(team_of_owners) for _ in range(len(facts) - owners)]
    holders = rng.sample([*team_of_owners, *spare], len(facts))
    others = [fact for fact in world.facts(kind) if fact not in facts]
    rng.shuffle(others)
    notes = {}
    for place, agent in enumerate(AGENTS):
        held = [fact for fact, holder in zip(facts, holders, strict=True) if holder == agent]
        held += others[place * DISTRACTORS : (place + 1) * DISTRACTORS]
        rng.shuffle(held)
        notes[agent] = tuple(held)
    return Lookup(kind, question, answer, tuple(facts), tuple(holders), notes)


def lookups(split: Split, seed: int = 0) -> Iterator[Lookup]:
    """Yield an endless stream of questions of one split."""
    rng = random.Random(f"lookups/{split}/{seed}")
    seen: set[tuple[str, ...]] = set()
    while True:
        lookup = random_lookup(rng)
        if lookup.split() == split and lookup.facts not in seen:
            seen.add(lookup.facts)
            yield lookup


def make_questions(
    split: Split, count: int, seed: int = 0, *, informed: bool = False
) -> list[dict[str, Any]]:
    """Return the first `count` questions of a split as rows (see `Lookup.record`)."""
    stream = lookups(split, seed)
    return [
        next(stream).record(f"lookup-{split}-{seed}-{place:05}", informed=informed)
        for place in range(count)
    ]


@dataclass(frozen=True)
class LookupOptions:
    """Options of writing questions."""

    split: Split = "test"
    """No set of needed facts occurs in two splits."""
    count: int = 500
    """How many questions."""
    seed: int = 0
    """Another seed has other questions. A smaller count gives the first of them."""
    informed: bool = False
    """Give all notes to every agent, to see what the model could do if it knew everything."""
    out: Path = Path("questions.jsonl")
    """The file to write."""


def main(options: LookupOptions) -> None:
    """Write questions for `collect.py` and `evaluate.py`."""
    rows = make_questions(options.split, options.count, options.seed, informed=options.informed)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} questions of the {options.split} split -> {options.out}")


if __name__ == "__main__":
    run_command(main, LookupOptions, __doc__)
