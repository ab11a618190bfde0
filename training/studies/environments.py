"""Teams whose every probability is known: a learner can be compared with the best possible policy.

An `Environment` says what each agent proposes and what its REFINE gives. `environment_episodes`
writes the traces of such a team. `known_values` plays the same rules exactly, without samples.

relay     bob's REFINE leaves his answer as it is but shows a partial result. With that result on
          the table cyd's REFINE is right with .90, else with .25. His move pays a round later.
hetero    ann's REFINE is right with .92 while cyd shows its own response. bob is equally sure right
          or wrong, and his REFINE does nothing. cyd is right but unsure.
concede   ann is loud. bob is quiet, and right where he has worked the answer out.
nothing   REFINE gives the same answer again, and confidence says nothing: there is nothing to gain.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

CHOICES = 4
LETTERS = "ABCD"
PROPOSE_TOKENS, REFINE_TOKENS = (100, 50), (270, 70)
_LOGPROBS = 10  # tokens with a log-probability in every response

Kind = Literal["plain", "partial", "worked"]


class Said(NamedTuple):
    """What a response says.

    Attributes:
        answer: 0 is the right one, 1 to 3 are wrong.
        confidence: Its sequence probability.
        kind: What everybody can see about it.
    """

    answer: int
    confidence: float
    kind: Kind = "plain"


class Held(NamedTuple):
    """A response on the table: whose, from REFINE or not, and what it says."""

    author: str
    refined: bool
    said: Said


Chances = Mapping[Said, float]
"""Probabilities, which sum to 1."""
Propose = Callable[[str], Chances]
"""From an agent to what it proposes."""
Refine = Callable[[str, Mapping[str, Held]], Chances]
"""From an agent and what everybody holds (itself included) to what its REFINE gives."""


@dataclass(frozen=True)
class Environment:
    """A team with known probabilities.

    Attributes:
        name: Stands in the questions.
        sentences: Number of sentences of each agent's responses, by agent: the team's order, and
            a style that tells the agents apart.
        price: Of 1,000 tokens, in accuracy.
        propose: What an agent proposes.
        refine: What its REFINE gives.
        rounds: Rounds of decisions.
    """

    name: str
    sentences: Mapping[str, int]
    price: float
    propose: Propose = field(repr=False)
    refine: Refine = field(repr=False)
    rounds: int = 2

    @property
    def agents(self) -> tuple[str, ...]:
        """Return the agents' names in the team's order."""
        return tuple(self.sentences)


def make_chances(right: float, confidences: Mapping[float, float], kind: Kind = "plain") -> Chances:
    """Return chances of a response that is right with a probability, else equally often wrong.

    `confidences` are the probabilities of every confidence, whatever the answer.
    """
    wrong = (1 - right) / (CHOICES - 1)
    return {
        Said(answer, confidence, kind): share * (wrong if answer else right)
        for answer in range(CHOICES)
        for confidence, share in confidences.items()
    }


def mix_chances(*parts: tuple[float, Chances]) -> Chances:
    """Return a mixture of chances, each with its weight."""
    total: Counter[Said] = Counter()
    for weight, chances in parts:
        for said, chance in chances.items():
            total[said] += weight * chance  # type: ignore[assignment]
    return dict(total)


def _relay() -> Environment:
    def propose(agent: str) -> Chances:
        return make_chances(0.28, {0.45: 0.5, 0.55: 0.5} if agent == "ann" else {0.5: 1.0})

    def refine(agent: str, held: Mapping[str, Held]) -> Chances:
        if agent == "bob":
            return {held["bob"].said._replace(kind="partial"): 1.0}
        if agent == "cyd" and held["bob"].said.kind == "partial":
            return make_chances(0.9, {0.85: 1.0})
        return make_chances(0.25, {0.5: 1.0})

    return Environment("relay", {"ann": 2, "bob": 5, "cyd": 9}, 0.05, propose, refine)


def _hetero() -> Environment:
    unsure = {0.3: 0.5, 0.4: 0.5}

    def propose(agent: str) -> Chances:
        if agent == "ann":
            return make_chances(0.4, {0.45: 1.0})
        return make_chances(0.5, {0.8: 1.0}) if agent == "bob" else make_chances(0.65, unsure)

    def refine(agent: str, held: Mapping[str, Held]) -> Chances:
        if agent == "ann":
            return make_chances(0.92 if held["cyd"].author == "cyd" else 0.4, {0.9: 1.0})
        if agent == "bob":
            return {held["bob"].said: 1.0}
        return make_chances(0.45, unsure)

    return Environment("hetero", {"ann": 2, "bob": 5, "cyd": 9}, 0.1, propose, refine)


def _concede() -> Environment:
    def propose(agent: str) -> Chances:
        if agent == "ann":
            return make_chances(0.55, {0.7: 1.0})
        return mix_chances(
            (0.5, make_chances(0.95, {0.4: 1.0}, "worked")), (0.5, make_chances(0.25, {0.4: 1.0}))
        )

    def refine(agent: str, held: Mapping[str, Held]) -> Chances:
        return propose(agent)

    return Environment("concede", {"ann": 2, "bob": 5}, 0.1, propose, refine)


def _nothing() -> Environment:
    confidences = {0.5: 0.5, 0.7: 0.5}

    def propose(agent: str) -> Chances:
        return make_chances(0.6, confidences if agent == "ann" else {0.6: 1.0})

    def refine(agent: str, held: Mapping[str, Held]) -> Chances:
        answer = held[agent].said.answer
        return {Said(answer, confidence): share for confidence, share in confidences.items()}

    return Environment("nothing", {"ann": 4, "bob": 4, "cyd": 4}, 0.05, propose, refine)


ENVIRONMENTS = {one.name: one for one in (_relay(), _hetero(), _concede(), _nothing())}

# --- what they write ----------------------------------------------------------------------------

_VISIBLE = {
    "plain": "",
    "partial": "It follows: x + y = z.\n" * 6,
    "worked": "It follows: x + y = z.\n" * 12,
}


def question(environment: Environment, number: int) -> dict[str, str]:
    """Return a question and its reference, as the graph's input wants them."""
    return {
        "question": f"Question {number} of {environment.name}?",
        "reference": LETTERS[truth_of(number)],
    }


def truth_of(number: int) -> int:
    """Return the position of the right letter of a question."""
    return random.Random(number).randrange(CHOICES)


def letter_of(truth: int, said: Said) -> str:
    """Return the letter that a response gives, where `truth` is the position of the right one."""
    return LETTERS[(truth + said.answer) % CHOICES]


def text_of(environment: Environment, held: Held, truth: int) -> str:
    """Return the text of a response. Everything that matters can be read off it."""
    said, stage = held.said, "refined" if held.refined else "proposed"
    letter = letter_of(truth, said)
    tag = f"[{held.author} {stage} {said.kind} {letter} {said.confidence}]"
    told = "It was so said.\n" * environment.sentences[held.author]
    return f"{tag}\n{told}{_VISIBLE[said.kind]}\\boxed{{{letter}}}"


def logprobs_of(said: Said) -> list[float]:
    """Return the log-probabilities of a response's tokens."""
    return [math.log(said.confidence)] * _LOGPROBS


class Replies:
    """Draws responses: the same request, made for the n-th time, gets the same response."""

    def __init__(self, environment: Environment, seed: int = 0) -> None:
        self.environment, self.seed = environment, seed
        self._asked: Counter[str] = Counter()

    def draw(self, number: int, agent: str, seen: Mapping[str, Held] | None) -> Said:
        """Draw a response. For a REFINE, `seen` is what everybody holds. None: a proposal."""
        if seen is None:
            chances, request = self.environment.propose(agent), f"{agent}/{number}"
        else:
            chances = self.environment.refine(agent, seen)
            request = f"{agent}/{number}/{sorted(seen.items())}"
        self._asked[request] += 1
        rng = random.Random(f"{self.seed}/{request}/{self._asked[request]}")
        [said] = rng.choices(list(chances), weights=list(chances.values()))
        return said
