"""The three skills in text: a programmatic solver, what it may know, and training examples.

A solution first states the facts that the question leaves out, marking guesses, then calculates:

    Kim has 14 (guess). Lee has 20. Ann has 3*14=42. Bo has 20+7=27. Together 42+27=69.
    #### 69

The same solver writes the training targets (without slips) and plays the simulated teammates
(with slips), because what an agent lacking a fact does, guess and say so, is exactly known.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass

from examples.tiny_lm.prompts import (
    Message,
    critique_messages,
    refine_messages,
    solve_messages,
)
from examples.tiny_lm.questions import AGENTS, FACT_RANGE, Problem

FACT = re.compile(r"(\w+) has (\d+)( \(guess\))?\.")
ANSWER = re.compile(r"#### (-?\d+)\s*$")


@dataclass(frozen=True)
class Example:
    """One training conversation.

    Attributes:
        messages: The conversation, ending with an assistant message.
        learn: For every assistant message in turn, whether its tokens are targets.
        right: For every assistant message in turn, whether each of its sentences and finally
            its answer are right so far; None for verdicts.
    """

    messages: list[Message]
    learn: list[bool]
    right: list[list[bool] | None]


def answer_of(text: str) -> int | None:
    """The final answer of a solution, None if there is none."""
    match = ANSWER.search(text)
    return int(match.group(1)) if match else None


def is_right(problem: Problem, text: str) -> bool:
    """Whether the final answer of a solution is the reference."""
    return answer_of(text) == problem.answer


def stated_facts(problem: Problem, text: str) -> dict[str, tuple[int, bool]]:
    """The missing facts as a solution states them: value, and whether it is marked as a guess."""
    return {
        name: (int(value), bool(guess))
        for name, value, guess in FACT.findall(text)
        if name in problem.owner
    }


def right_so_far(problem: Problem, text: str) -> list[bool]:
    """Whether all is right up to each sentence of a solution, and at last whether its answer is."""
    values = {**problem.values, "Together": problem.answer}
    right, verdicts = True, []
    for sentence in text.rpartition("####")[0].split(". ") if "." in text else []:
        words = re.match(r"(\w+)\b.*?(-?\d+)(?: \(guess\))?\.?\s*$", sentence)
        right = right and words is not None and values.get(words[1]) == int(words[2])
        verdicts.append(right)
    return [*verdicts, is_right(problem, text)]


def solve(
    problem: Problem,
    known: dict[str, int],
    rng: random.Random,
    guesses: dict[str, int] | None = None,
    slip: float = 0.0,
) -> str:
    """Writes a solution from what is known.

    Args:
        problem: The problem.
        known: The missing facts that the writer knows.
        rng: Source of guesses and slips.
        guesses: Earlier guesses to keep; what is neither known nor guessed is guessed anew.
        slip: Probability of an error per sentence.

    Returns:
        The solution, ending in `#### N`.
    """
    values = {name: value for name, value in problem.facts.items() if name not in problem.owner}
    sentences = []
    for name in problem.facts:
        if name not in problem.owner:
            continue
        if name in known:
            values[name] = known[name]
            if rng.random() < slip / 2:
                values[name] = rng.choice([rng.randint(*FACT_RANGE), *known.values()])
            sentences.append(f"{name} has {values[name]}.")
        else:
            kept = (guesses or {}).get(name)
            values[name] = rng.randint(*FACT_RANGE) if kept is None else kept
            sentences.append(f"{name} has {values[name]} (guess).")

    def calculate(working: str, result: int) -> tuple[str, int]:
        if rng.random() < slip:
            result += rng.choice([-100, -20, -10, -2, -1, 1, 2, 10, 20, 100])
            result = max(result, 1)
        return f"{working}={result}.", result

    for relation in problem.relations:
        seen = values
        if rng.random() < slip / 2:  # a wrong look-up
            wrong = rng.choice(relation.of)
            seen = {**values, wrong: rng.choice(list(values.values()))}
        text, values[relation.name] = calculate(*relation.working(seen))
        sentences.append(f"{relation.name} has {text}")
    terms = [values[name] for name in problem.ask]
    answer = terms[0]
    if len(terms) == 2:
        text, answer = calculate(f"{terms[0]}+{terms[1]}", sum(terms))
        sentences.append(f"Together {text}")
    return "\n".join([*([" ".join(sentences)] if sentences else []), f"#### {answer}"])


def refine(
    problem: Problem,
    notes: dict[str, int],
    own: str,
    peers: list[str],
    rng: random.Random,
    slip: float = 0.0,
) -> str:
    """The solution that a careful agent writes when it sees its peers' solutions.

    Its own notes come first, then what somebody states without calling it a guess; where
    statements differ the most frequent one counts, at a tie one that is true. What nobody states
    stays the agent's own guess: adopting a peer's guess would look like knowledge.
    """
    statements = [stated_facts(problem, text) for text in (own, *peers)]
    known = dict(notes)
    for name in problem.owner:
        votes = Counter(s[name][0] for s in statements if name in s and not s[name][1])
        if votes and name not in known:
            truth = problem.facts[name]
            known[name] = max(votes, key=lambda v: (votes[v], v == truth))
    guesses = {name: value for name, (value, guess) in statements[0].items() if guess}
    return solve(problem, known, rng, guesses, slip)


def solve_example(problem: Problem, rng: random.Random, informed: float = 0.2) -> Example:
    """A first solution from an agent's own notes, or, at rate `informed`, from everyone's."""
    agent = rng.choice(AGENTS)
    notes, context = problem.notes(agent), problem.contexts.get(agent, "")
    if rng.random() < informed:
        notes, context = problem.facts, " ".join(problem.contexts.values())
    target = solve(problem, notes, rng)
    messages = solve_messages(problem.question, context)
    messages.append({"role": "assistant", "content": target})
    return Example(messages, [True], [right_so_far(problem, target)])


def repeat_example(problem: Problem) -> Example:
    """The question word for word: copying is the first thing to learn, and is learnt fast alone."""
    messages = [
        {"role": "user", "content": f"Repeat: {problem.question}"},
        {"role": "assistant", "content": problem.question},
    ]
    return Example(messages, [True], [[]])


def refine_example(
    problem: Problem, agent: str, own: str, peers: list[str], rng: random.Random, learn_own: bool
) -> Example:
    """A new solution in view of the peers'; `learn_own` makes the first solution a target too."""
    notes = problem.notes(agent)
    target = refine(problem, notes, own, peers, rng)
    messages = refine_messages(problem.question, problem.contexts.get(agent, ""), own, peers)
    messages.append({"role": "assistant", "content": target})
    right = [right_so_far(problem, own) if own else None, right_so_far(problem, target)]
    return Example(messages, [learn_own, True], right)


def critique_example(
    problem: Problem, conversation: list[Message], response: str, learn: list[bool]
) -> Example:
    """A verdict on a solution in the conversation that produced it.

    `learn` says of the assistant's earlier messages, the response included, whether they are
    targets as well.
    """
    messages = critique_messages(conversation, problem.question, response)
    solutions = [m["content"] for m in messages if m["role"] == "assistant"]
    verdict = {"role": "assistant", "content": "yes" if is_right(problem, response) else "no"}
    right = [right_so_far(problem, text) for text in solutions]
    return Example([*messages, verdict], [*learn, True], [*right, None])


def simulated_example(problem: Problem, rng: random.Random) -> Example:
    """A solve, refine or critique example with simulated teammates.

    Slips come at about the rates of a half-trained model, more often in solutions to be judged.
    Some solutions are refined ones already, as in a second round.
    """
    skill = rng.choices(["solve", "refine", "critique"], [0.2, 0.45, 0.35])[0]
    if skill == "solve":
        return solve_example(problem, rng)
    agent = rng.choice(AGENTS)
    others = [member for member in AGENTS if member != agent]
    notes, context = problem.notes(agent), problem.contexts.get(agent, "")

    def respond(member: str, rate: float = 0.1, again: float = 0.25) -> tuple[str, bool]:
        """A member's solution, and whether it is what it should have written at first."""
        slip = rate if rng.random() < 0.4 else 0.0
        text = solve(problem, problem.notes(member), rng, slip=slip)
        if rng.random() < again:
            peers = [solve(problem, problem.notes(m), rng) for m in AGENTS if m != member]
            return refine(problem, problem.notes(member), text, peers, rng), False
        return text, slip == 0.0

    if skill == "critique" and rng.random() < 0.6:
        response, clean = respond(agent, rate=0.2, again=0.0)
        conversation = solve_messages(problem.question, context)
        return critique_example(problem, conversation, response, [clean])
    own, clean = respond(agent)
    n_peers = rng.choices([1, 2, 3, 4], [0.15, 0.65, 0.1, 0.1])[0]
    members = rng.sample(others, min(n_peers, 2))
    members += rng.choices(AGENTS, k=n_peers - len(members))
    rng.shuffle(members)
    peers = [respond(member)[0] for member in members]
    if skill == "critique":
        slip = 0.2 if rng.random() < 0.4 else 0.0
        response = refine(problem, notes, own, peers, rng, slip)
        conversation = refine_messages(problem.question, context, own, peers)
        return critique_example(problem, conversation, response, [clean, slip == 0.0])
    if rng.random() < 0.02:  # its own proposal failed
        own, clean = "", False
    return refine_example(problem, agent, own, peers, rng, clean)
