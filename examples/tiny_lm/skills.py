"""The three skills in text: a programmatic solver, what it may know, and training examples.

A solution calculates from left to right and writes every value after the name of its owner, so
that each look-up is one step. A value that is neither given nor known is guessed, and says so:

    Ann: Kim(guess 14), 3*14=42, Ann(42). Bo: Lee(20), 20+7=27, Bo(27).
    Together: Ann(42), Bo(27), 42+27=69.
    #### 69

The same solver writes the training targets (without slips) and plays the simulated teammates
(with slips), because what an agent lacking a fact does, guess and say so, is exactly known.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass

from examples.tiny_lm.prompts import (
    PROMPTS,
    Message,
    critique_messages,
    refine_messages,
    solve_messages,
)
from examples.tiny_lm.questions import AGENTS, FACT_RANGE, GIVERS, ITEMS, TAKERS, Problem

VALUE = re.compile(r"(\w+)\((guess )?(-?\d+)\)")
RESULT = re.compile(r"(\w+):.*=(-?\d+)(?:, \w+\(-?\d+\))?\.?\s*$")
ANSWER = re.compile(r"#### (-?\d+)\s*$")
SLIPS = (-100, -20, -10, -2, -1, 1, 2, 10, 20, 100)
"""By how much a slip misses a result."""


@dataclass(frozen=True)
class Example:
    """One training conversation.

    Attributes:
        messages: The conversation, ending with an assistant message.
        learn: For every assistant message in turn, whether its tokens are targets.
        right: For every assistant message in turn, whether each of its sentences and finally
            its answer are right so far. Empty where it holds no solution.
    """

    messages: list[Message]
    learn: list[bool]
    right: list[list[bool]]


def answer_of(text: str) -> int | None:
    """The final answer of a solution, None if there is none."""
    match = ANSWER.search(text)
    return int(match.group(1)) if match else None


def is_right(problem: Problem, text: str) -> bool:
    """Whether the final answer of a solution is the reference."""
    return answer_of(text) == problem.answer


def stated_facts(problem: Problem, text: str) -> dict[str, tuple[int, bool]]:
    """The missing facts as a solution states them: value, and whether it is marked as a guess."""
    stated: dict[str, tuple[int, bool]] = {}
    for name, guess, value in VALUE.findall(text):
        if name in problem.owner:
            stated.setdefault(name, (int(value), bool(guess)))
    return stated


def guesses_in(problem: Problem, text: str) -> dict[str, int]:
    """The missing facts that a solution guesses and marks as guesses."""
    return {name: v for name, (v, guess) in stated_facts(problem, text).items() if guess}


def right_so_far(problem: Problem, text: str) -> list[bool]:
    """Whether all is right up to each sentence of a solution, and at last whether its answer is."""
    values = {**problem.values, "Together": problem.answer}
    right, verdicts = True, []
    for sentence in text.rpartition("####")[0].split(". ") if "." in text else []:
        result = RESULT.match(sentence)
        right = right and result is not None and values.get(result[1]) == int(result[2])
        verdicts.append(right)
    return [*verdicts, is_right(problem, text)]


def solve(
    problem: Problem,
    known: dict[str, int],
    rng: random.Random,
    guesses: dict[str, int] | None = None,
    slip: float = 0.0,
) -> str:
    """Writes a solution from what is known, ending in `#### N`.

    What is neither known nor guessed earlier is guessed. `slip` is the probability of an error per
    sentence.
    """
    values = {name: value for name, value in problem.facts.items() if name not in problem.owner}
    guessed = {name for name in problem.owner if name not in known}
    for name in problem.owner:
        if name in known:
            wrong = rng.random() < slip / 2  # a wrong look-up in the notes
            values[name] = rng.choice([*known.values()]) if wrong else known[name]
        else:
            values[name] = (guesses or {}).get(name, rng.randint(*FACT_RANGE))

    def look_up(name: str) -> tuple[str, int]:
        value = values[name]
        if name not in guessed and rng.random() < slip / 4:
            value = rng.choice(list(values.values()))
        return f"{name}({'guess ' if name in guessed else ''}{value})", value

    def with_slip(result: int) -> int:
        return result + rng.choice(SLIPS) if rng.random() < slip else result

    sentences = []
    for relation in problem.relations:
        texts, terms = zip(*map(look_up, relation.of), strict=True)
        sign = "-" if relation.kind == "fewer" else "+"
        working = {
            "times": f"{relation.number}*{terms[0]}",
            "sum": "+".join(map(str, terms)),
        }.get(relation.kind, f"{terms[0]}{sign}{relation.number}")
        result = with_slip(relation.result(dict(zip(relation.of, terms, strict=True))))
        values[relation.name] = result
        stated = ", ".join(texts)
        sentences.append(
            f"{relation.name}: {stated}, {working}={result}, {relation.name}({result})."
        )
    if len(problem.ask) == 1 and problem.ask[0] not in problem.owner:
        answer = values[problem.ask[0]]
    else:
        texts, terms = zip(*map(look_up, problem.ask), strict=True)
        answer = with_slip(sum(terms))
        total = "+".join(map(str, terms))
        sentences.append(f"Together: {', '.join(texts)}, {total}={answer}.")
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

    Its own notes come first, then what somebody states without calling it a guess. Where
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
    return solve(problem, known, rng, guesses_in(problem, own), slip)


def check(problem: Problem, notes: dict[str, int], response: str, rng: random.Random) -> str:
    """A first solution written anew to check it: the same guesses, no slip."""
    return solve(problem, notes, rng, guesses_in(problem, response))


def solve_example(problem: Problem, rng: random.Random) -> Example:
    """A first solution from an agent's own notes, or, one time in five, from everyone's."""
    agent = rng.choice(AGENTS)
    notes, context = problem.notes(agent), problem.contexts.get(agent, "")
    if rng.random() < 0.2:
        notes, context = problem.facts, " ".join(problem.contexts.values())
    target = solve(problem, notes, rng)
    messages = solve_messages(problem.question, context)
    messages.append({"role": "assistant", "content": target})
    return Example(messages, [True], [right_so_far(problem, target)])


def look_up_example(rng: random.Random) -> Example:
    """A list of facts, and what some people have.

    Whole problems teach it slowly, as rules of thumb are often right there. So do short lists.
    """
    item = rng.choice(ITEMS)
    names = rng.sample(GIVERS + TAKERS, rng.randint(4, 8))
    values = {name: rng.randint(10, 99) for name in names}
    facts = [f"{name} has {value} {item}." for name, value in values.items()]
    cut = rng.randint(0, len(facts))
    asked = rng.choices(names, k=rng.randint(4, 8))  # repeats: no answer by elimination
    question = f"How many {item} do {', '.join(asked)} have?"
    messages = solve_messages(" ".join([*facts[cut:], question]), " ".join(facts[:cut]))
    target = ", ".join(f"{name}({values[name]})" for name in asked)
    return Example([*messages, {"role": "assistant", "content": target}], [True], [[]])


def sums_example(rng: random.Random, limits: tuple[int, ...] = (99, 200, 999)) -> Example:
    """Bare sums, each up to one of `limits`.

    In whole problems they are too rare among the tokens to be learnt in time, and started with
    large numbers they are not learnt at all.
    """
    sums = [_sum(rng, rng.choice(limits)) for _ in range(8)]
    request = f"Compute {', '.join(text for text, _ in sums)}."
    target = ", ".join(f"{text}={result}" for text, result in sums)
    messages = [{"role": "user", "content": request}, {"role": "assistant", "content": target}]
    return Example(messages, [True], [[]])


def checks_example(rng: random.Random, limits: tuple[int, ...] = (99, 200, 999)) -> Example:
    """Bare sums, each checked in writing: in whole problems verdicts are too rare to be learnt."""
    messages: list[Message] = []
    for _ in range(4):
        most = rng.choice(limits)
        text, result = _sum(rng, most)
        # Any difference can occur, as an early slip goes on through a solution.
        slipped = rng.choice([abs(result + rng.choice(SLIPS)), rng.randint(1, most)])
        stated = rng.choice([result, slipped])
        verdict = "yes" if stated == result else "no"
        checked = f"{text}={result}\n{comparison(result, stated)}\n{verdict}"
        messages += [
            {"role": "user", "content": f"Compute {text}."},
            {"role": "assistant", "content": f"{text}={stated}"},
            {"role": "user", "content": PROMPTS.critique_reasoning},
            {"role": "assistant", "content": checked},
        ]
    return Example(messages, [False, True] * 4, [[], []] * 4)


def comparison(answer: int | None, stated: int | None) -> str:
    """Two answers compared in writing: their difference, which a model that does sums can write.

    Whether two numbers are the same it did not learn beside its other skills.
    """
    if answer is None or stated is None:
        return f"{answer} or {stated}"
    return f"{answer}-{stated}={answer - stated}"


def _sum(rng: random.Random, most: int) -> tuple[str, int]:
    """A sum in writing and its result, which is `most` or less."""
    sign = rng.choices("+-*", [0.45, 0.3, 0.25])[0]
    if sign == "+":
        total = rng.randint(3, most)
        first = rng.randint(1, total - 1)
        second = total - first
    elif sign == "-":
        first = rng.randint(min(12, most), most)
        second = rng.randint(2, min(99, first - 1))
    else:
        first = rng.randint(2, 5)
        second = rng.randint(2, most // first)
    result = {"+": first + second, "-": first - second, "*": first * second}[sign]
    return f"{first}{sign}{second}", result


def refine_example(
    problem: Problem, agent: str, own: str, peers: list[str], rng: random.Random, learn_own: bool
) -> Example:
    """A new solution in view of the peers'. `learn_own` makes the first one a target, too."""
    notes = problem.notes(agent)
    target = refine(problem, notes, own, peers, rng)
    messages = refine_messages(problem.question, problem.contexts.get(agent, ""), own, peers)
    messages.append({"role": "assistant", "content": target})
    right = [right_so_far(problem, own) if own else [], right_so_far(problem, target)]
    return Example(messages, [learn_own, True], right)


def critique_example(
    problem: Problem,
    conversation: list[Message],
    response: str,
    learn: list[bool],
    working: str | None = None,
) -> Example:
    """A verdict on a solution in the conversation that produced it.

    `learn` says of the assistant's earlier messages, the response included, whether they are
    targets as well. With `working`, the solution anew, the verdict comes after that.
    """
    messages = critique_messages(conversation, problem.question, response, working is not None)
    solutions = [m["content"] for m in messages if m["role"] == "assistant"]
    right = [right_so_far(problem, text) for text in solutions]
    verdict = "yes" if is_right(problem, response) else "no"
    content = verdict
    if working is not None:
        content = f"{working}\n{comparison(answer_of(working), answer_of(response))}\n{verdict}"
    messages.append({"role": "assistant", "content": content})
    right.append([] if working is None else right_so_far(problem, working))
    return Example(messages, [*learn, True], right)


def simulated_example(problem: Problem, rng: random.Random) -> Example:
    """A solve, refine or critique example with simulated teammates.

    Slips come at about the rates of a half-trained model, more often in solutions to be judged.
    Some solutions are refined ones already, as in a second round.
    """
    skill = rng.choices(["solve", "refine", "critique"], [0.35, 0.35, 0.3])[0]
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

    reasoning = rng.random() < 0.5
    if skill == "critique" and rng.random() < 0.6:
        response, clean = respond(agent, rate=0.2, again=0.0)
        conversation = solve_messages(problem.question, context)
        working = check(problem, notes, response, rng) if reasoning else None
        return critique_example(problem, conversation, response, [clean], working)
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
        working = refine(problem, notes, own, peers, rng) if reasoning else None
        return critique_example(problem, conversation, response, [clean, slip == 0.0], working)
    if rng.random() < 0.02:  # its own proposal failed
        own, clean = "", False
    return refine_example(problem, agent, own, peers, rng, clean)
