import itertools
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.tiny_lm.questions import (
    AGENTS,
    FACT_RANGE,
    OWNER_SHARES,
    make_questions,
    problems,
    random_problem,
)
from examples.tiny_lm.skills import (
    answer_of,
    check,
    critique_example,
    guesses_in,
    is_right,
    refine,
    right_so_far,
    simulated_example,
    solve,
    stated_facts,
)
from tests.support.running import run_python

SPLITS = ("train", "validation", "test")
FACT = re.compile(r"(\w+) has (\d+) \w+\.")
DERIVED = [
    (re.compile(r"(\w+) has (\d+) times as many \w+ as (\w+)\."), lambda n, a: n * a),
    (re.compile(r"(\w+) has (\d+) more \w+ than (\w+)\."), lambda n, a: a + n),
    (re.compile(r"(\w+) has (\d+) fewer \w+ than (\w+)\."), lambda n, a: a - n),
]
SUM = re.compile(r"(\w+) has as many \w+ as (\w+) and (\w+) together\.")
ASK = re.compile(r"How many \w+ (?:does (\w+) have|do (\w+) and (\w+) have together)\?")

any_problem = st.builds(
    lambda kind, seed: random_problem(random.Random(seed), kind),
    st.sampled_from(["hidden", "plain"]),
    st.integers(0, 10**9),
)


def solve_from_text(question: str, contexts: dict[str, str]) -> int:
    """Solves a question from its words alone."""
    values = {n: int(v) for n, v in FACT.findall(" ".join([question, *contexts.values()]))}
    for sentence in re.findall(r"[^.?]+[.?]", question):
        if match := SUM.search(sentence):
            values[match[1]] = values[match[2]] + values[match[3]]
        for pattern, operation in DERIVED:
            if match := pattern.search(sentence):
                values[match[1]] = operation(int(match[2]), values[match[3]])
    return sum(values[name] for name in ASK.search(question).groups() if name)


@pytest.mark.parametrize("kind", ["hidden", "plain"])
def test_references_are_right(kind):
    for question in make_questions(kind, "test", 300):
        answer = solve_from_text(question["question"], question["contexts"])
        assert str(answer) == question["reference"]


@pytest.mark.parametrize("kind", ["hidden", "plain"])
def test_splits_share_no_question_whatever_the_seed(kind):
    texts = [
        {q["question"] for seed in (0, 1) for q in make_questions(kind, split, 500, seed)}
        for split in SPLITS
    ]
    for left, right in itertools.combinations(texts, 2):
        assert not left & right


def test_questions_are_reproducible_and_a_prefix_of_more():
    few, many = make_questions("hidden", "test", 20, 3), make_questions("hidden", "test", 40, 3)
    assert many[:20] == few
    assert len({q["id"] for q in many}) == len({q["question"] for q in many}) == 40
    assert make_questions("hidden", "test", 20, 4) != few


def test_every_missing_fact_stands_in_exactly_one_context():
    for problem in itertools.islice(problems("hidden", "validation"), 300):
        contexts, question = problem.contexts, problem.question
        assert set(contexts) <= set(AGENTS)
        for name, value in problem.facts.items():
            sentence = f"{name} has {value} {problem.item}."
            holders = [agent for agent, text in contexts.items() if sentence in text]
            if name in problem.owner:
                assert holders == [problem.owner[name]]
                assert f"{name} has {value} {problem.item}." not in question
            else:
                assert not holders
                assert sentence in question


def test_owners_come_in_the_documented_shares():
    questions = make_questions("hidden", "train", 3000)
    for owners, share in OWNER_SHARES.items():
        found = sum(q["owners"] == owners for q in questions) / len(questions)
        assert found == pytest.approx(share, abs=0.03)


def test_plain_questions_need_no_context():
    for question in make_questions("plain", "test", 50):
        assert question["contexts"] == {}
        assert question["owners"] == 0
        assert question["steps"] >= 3


@settings(max_examples=200)
@given(any_problem, st.integers(0, 10**9))
def test_solutions_are_right_exactly_when_the_guesses_are(problem, seed):
    rng = random.Random(seed)
    informed = solve(problem, problem.facts, rng)
    assert is_right(problem, informed)
    assert all(right_so_far(problem, informed))
    for agent in AGENTS:
        notes = problem.notes(agent)
        text = solve(problem, notes, rng)
        stated = stated_facts(problem, text)
        assert set(stated) == set(problem.owner)
        for name, (value, guess) in stated.items():
            assert guess == (name not in notes)
            assert FACT_RANGE[0] <= value <= FACT_RANGE[1]
        lucky = all(value == problem.facts[name] for name, (value, _) in stated.items())
        assert right_so_far(problem, text)[-1] == is_right(problem, text)
        assert is_right(problem, text) or not lucky


@settings(max_examples=200)
@given(any_problem, st.integers(0, 10**9))
def test_values_stay_positive_even_with_the_lowest_guesses(problem, seed):
    lowest = dict.fromkeys(problem.owner, FACT_RANGE[0])
    text = solve(problem, {}, random.Random(seed), guesses=lowest)
    assert "-" not in text.replace("-", " ", 0) or "=-" not in text
    assert answer_of(text) > 0


@settings(max_examples=200)
@given(any_problem, st.integers(0, 10**9))
def test_refining_pools_what_the_team_knows(problem, seed):
    rng = random.Random(seed)
    first = {agent: solve(problem, problem.notes(agent), rng) for agent in AGENTS}
    for agent in AGENTS:
        peers = [first[other] for other in AGENTS if other != agent]
        assert is_right(problem, refine(problem, problem.notes(agent), first[agent], peers, rng))


def test_refining_keeps_own_guesses_and_ignores_those_of_peers():
    stream = (p for p in problems("hidden", "train") if len(p.owner) == 1)
    problem = next(stream)
    [(name, owner)] = problem.owner.items()
    others = [agent for agent in AGENTS if agent != owner]
    rng = random.Random(0)
    own, peer = (solve(problem, {}, rng, {name: guess}) for guess in (11, 22))
    refined = refine(problem, problem.notes(others[0]), own, [peer], rng)
    assert stated_facts(problem, refined) == {name: (11, True)}


@settings(max_examples=200)
@given(any_problem, st.integers(0, 10**9))
def test_simulated_examples_are_well_formed(problem, seed):
    example = simulated_example(problem, random.Random(seed))
    turns = [m for m in example.messages if m["role"] == "assistant"]
    assert len(turns) == len(example.learn) == len(example.right)
    assert example.messages[-1]["role"] == "assistant"
    assert example.learn[-1]
    roles = [m["role"] for m in example.messages if m["role"] != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_critique_examples_say_the_truth():
    problem = next(problems("plain", "train"))
    right = solve(problem, {}, random.Random(0))
    wrong = right.replace(f"#### {problem.answer}", f"#### {problem.answer + 1}")
    for text, verdict in ((right, "yes"), (wrong, "no")):
        example = critique_example(problem, [], text, [False])
        assert example.messages[-1]["content"] == verdict
        written = critique_example(problem, [], text, [False], working=right)
        assert written.messages[-2]["content"] != example.messages[-2]["content"]
        *working, compared, word = written.messages[-1]["content"].split("\n")
        assert "\n".join(working) == right
        assert compared == f"{problem.answer}-{answer_of(text)}={problem.answer - answer_of(text)}"
        assert word == verdict
        assert written.right == [right_so_far(problem, text), right_so_far(problem, right)]


@given(any_problem, st.integers(0, 10**9))
def test_a_check_repeats_the_guesses_and_mends_the_slips(problem, seed):
    rng = random.Random(seed)
    notes = problem.notes("agent-1")
    response = solve(problem, notes, rng, slip=0.5)
    working = check(problem, notes, response, rng)
    assert guesses_in(problem, working) == guesses_in(problem, response)
    assert set(guesses_in(problem, working)) == set(problem.owner) - set(notes)
    if set(notes) == set(problem.owner):
        assert is_right(problem, working)


def test_command_writes_the_same_questions(tmp_path):
    out = tmp_path / "q.jsonl"
    words = ("--kind", "hidden", "--count", 5, "--out", out, "--split", "validation")
    assert run_python("examples/tiny_lm/questions.py", *words).returncode == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == make_questions("hidden", "validation", 5)
