"""Answer schemas: reading, comparing, clustering."""

import os
import random
import signal
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from mpdf_langgraph import create_deliberation
from mpdf_langgraph.answers import math_answer
from mpdf_langgraph.answers.choice_answer import ChoiceAnswer
from mpdf_langgraph.answers.math_answer import MathAnswer
from mpdf_langgraph.answers.memory import Memory
from mpdf_langgraph.answers.schema import AnswerSchema, assign_clusters
from mpdf_langgraph.answers.text_answer import TextAnswer
from mpdf_langgraph.errors import ConfigurationError
from tests.plugin.answers.test_properties import texts

SCHEMAS: list[AnswerSchema] = [MathAnswer(), ChoiceAnswer(4), TextAnswer()]

numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.integers(-(10**9), 10**9).map("{:,}".format),
    st.decimals(-1000, 1000, places=2).map(str),
    st.tuples(st.integers(-50, 50), st.integers(1, 50)).map(
        lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"
    ),
)


# --- every schema ---------------------------------------------------------------------------


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@given(text=texts)
@settings(max_examples=300)
def test_parse_never_raises_and_what_it_finds_equals_itself(
    schema: AnswerSchema, text: str
) -> None:
    answer = schema.parse(text)
    assert answer is None or (answer.strip() == answer != "" and schema.equivalent(answer, answer))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@pytest.mark.parametrize("text", ["", " \n\t", "\\boxed{}", "\\boxed{ }", "Answer:"])
def test_nothing_is_no_answer(schema: AnswerSchema, text: str) -> None:
    if not (isinstance(schema, TextAnswer) and "boxed" in text):
        assert schema.parse(text) is None


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@pytest.mark.parametrize(
    "unit",
    [
        "9",
        "1,",
        "\\boxed{",
        "{",
        "}",
        "(A) ",
        "answer ",
        "answer is ",
        " ",
        "$",
        "####\n",
        "-",
        "a ",
    ],
)
def test_long_responses_take_linear_time(schema: AnswerSchema, unit: str) -> None:
    text = unit * ((10_000_000 if unit == "9" else 2_000_000) // len(unit))
    start = time.process_time()
    schema.parse(text)
    assert time.process_time() - start < 5  # quadratic time would take hours


@pytest.mark.parametrize("unit", ["\n", "\n-", " ", "- "])
def test_blank_lines_take_no_longer_than_words(unit: str) -> None:
    """Expressions that begin with white space tried every line from every line on."""

    def seconds(text: str) -> float:
        start = time.process_time()
        ChoiceAnswer(4).parse(text)
        return time.process_time() - start

    words, lines = "so " * 5_000, unit * (15_000 // len(unit))
    assert min(seconds(lines) for _ in range(3)) < 3 * min(seconds(words) for _ in range(3))


# --- clusters -------------------------------------------------------------------------------


def partition(labels: list[int | None]) -> set[frozenset[int]]:
    groups: dict[int, set[int]] = {}
    for position, label in enumerate(labels):
        if label is not None:
            groups.setdefault(label, set()).add(position)
    return {frozenset(group) for group in groups.values()}


EXACT = [
    (MathAnswer(), numbers.map(MathAnswer().parse)),
    (ChoiceAnswer(4), st.sampled_from("ABCD")),
    (TextAnswer(), st.text(alphabet="aAbB .the", min_size=1)),
]


@pytest.mark.parametrize(("schema", "values"), EXACT, ids=lambda value: getattr(value, "name", ""))
@given(data=st.data())
def test_clusters_are_the_classes_of_an_equivalence(
    schema: AnswerSchema, values: st.SearchStrategy[str], data: st.DataObject
) -> None:
    given_answers = data.draw(st.lists(st.none() | values, max_size=8))
    labels, representatives = assign_clusters(given_answers, [], schema.equivalent)

    assert [label is None for label in labels] == [a is None for a in given_answers]
    assert {label for label in labels if label is not None} == set(range(len(representatives)))
    for a, label in zip(given_answers, labels, strict=True):
        for b, other in zip(given_answers, labels, strict=True):
            if a is not None and b is not None:
                assert schema.equivalent(a, b) == (label == other)

    order = data.draw(st.permutations(range(len(given_answers))))
    shuffled, _ = assign_clusters([given_answers[i] for i in order], [], schema.equivalent)
    restored: list[int | None] = [None] * len(order)
    for position, label in zip(order, shuffled, strict=True):
        restored[position] = label
    assert partition(restored) == partition(labels)

    cut = data.draw(st.integers(0, len(given_answers)))
    first, known = assign_clusters(given_answers[:cut], [], schema.equivalent)
    second, extended = assign_clusters(given_answers[cut:], known, schema.equivalent)
    assert (first + second, extended) == (labels, representatives)
    assert assign_clusters(given_answers, representatives, schema.equivalent) == (
        labels,
        representatives,
    )


def test_clusters_symmetrise_and_leave_their_input_alone() -> None:
    class OneWay(TextAnswer):
        def equivalent(self, a: str, b: str) -> bool:
            return (a, b) == ("x", "y")

    known = ["x"]
    assert assign_clusters(["y", None, "z"], known, OneWay().equivalent) == (
        [0, None, 1],
        ["x", "z"],
    )
    assert assign_clusters(["x"], ["y"], OneWay().equivalent) == ([0], ["y"])
    assert known == ["x"]


def test_equal_text_comes_before_an_equivalent_earlier_representative() -> None:
    assert assign_clusters(["50"], ["50%", "50"], MathAnswer().equivalent)[0] == [1]


# --- mathematics ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so \\boxed{3} or rather \\boxed{4}. #### 5", "4"),
        ("#### 5\nThe answer is 6. And 7", "5"),
        ("The answer is 6. And 7", "6"),
        ("6 and 7", "6, 7"),
        ("6 and then 7", "7"),
        ("first \\boxed{12}, then \\boxed{13", "12"),
        ("6 * 7 = 42, thus \\boxed{4", "42"),
        ("\\boxed{\\boxed{8}}", "8"),
        ("in \\framebox{204} minutes, as 2010 says", "204"),
        ("204 minutes, so \\framebox{20", "204 minutes"),
        ("\\boxed{x = \\boxed{8}}", "8"),
        ("{ \\boxed{8}", "8"),
        ("\\boxed{9} \\boxed{}", "9"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed {\\frac{3}{4}}", "3/4"),
        ("\\boxed{\\dfrac12}", "1/2"),
        ("\\boxed{-\\frac{270}7}", "-270/7"),
        ("\\boxed{1,000}", "1000"),
        ("\\boxed{1{,}000}", "1000"),
        ("\\boxed{11,\\! 111,\\! 111}", "11111111"),
        ("\\boxed{\\$16,\\!386.16}", "$16386.16"),
        ("\\boxed{100, 200}", "100, 200"),
        ("\\boxed{-\\$5}", "-$5"),
        ("\\boxed{12\\text{ marbles}}", "12 marbles"),
        ("\\boxed{12 marbles}", "12 marbles"),
        ("\\boxed{45 \\mbox{ inches}^2}", "45 inches^2"),
        ("\\boxed{90^\\circ}", "90°"),
        ("\\boxed{50\\%}", "50%"),
        ("\\boxed{50 percent}", "50%"),
        ("\\boxed{\\text{Friday}}", "Friday"),
        ("\\boxed{0.50}", "0.5"),
        ("\\boxed{.5}", "0.5"),
        ("\\boxed{007.0}", "7"),
        ("\\boxed{3 million}", "3000000"),
        ("\\boxed{5 millions}", "5000000"),
        ("\\boxed{2 sin x}", "2 sin x"),
        ("\\boxed{3 tenths}", "3 tenths"),
        ("\\boxed{5 squared}", "5 squared"),
        ("\\boxed{12 inches squared}", "12 inches squared"),
        ("\\boxed{30 sec}", "30 sec"),
        ("\\boxed{2 pi}", "2 pi"),
        ("\\boxed{12 and 13}", "12 and 13"),
        (
            "\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}",
            "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
        ),
        ("#### -1,450", "-1450"),
        ("#### $12 dollars", "12 dollars"),
        ("#### 12\n#### 1. Check the result\nIt is 12, not 13.", "12"),
        ("#### Step 2\nSo 4 + 4 = 8", "8"),
        ("**Answer:** 42", "42"),
        ("Answer: $12, so she has $5 left", "$12"),
        ("The final answer is: $\\sqrt{2}$.", "\\sqrt{2}"),
        ("The answer is\n\\[ \\frac{\\sqrt{3}}{2} \\]", "\\frac{\\sqrt{3}}{2}"),
        ("The answer is 12 marbles out of 20.", "12"),
        ("The answer is 2**10.", "2**10"),
        ("Answer: **3*x**2 + 10**-3**", "3*x**2 + 10**-3"),
        ("The answer is **5**kg.", "5 kg"),
        ("The answer is $-3$. Done", "-3"),
        ("10-3", "10-3"),
        ("we take 10-3", "3"),
        ("It is \u22123 there", "-3"),
        ("It is 42.", "42"),
        ("It's 42", "42"),
        ("So 3", "3"),
        ("x is 5", "5"),
        ("Hm, 12.", "12"),
        ("it", None),
        ("we get 1/2 there", "1/2"),
        ("A: 26", "26"),
        ("so it costs $1,234.50.", "$1234.5"),
        ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt{3}}{2}"),
        ("(3, 4)", "(3, 4)"),
        ("3 + 4 = 7", "7"),
        ("\\boxed{5 − 3 = 2}", "2"),
        ("\\boxed{2^{3} = 8}", "8"),
        ("\\boxed{\\sqrt{16} = 4}", "4"),
        ("Answer: 3² + 4² = 25", "25"),
        ("The answer is $3 + 4 = 7$.", "7"),
        ("The answer is 5! = 120.", "120"),
        ("Answer: 5! - 3! = 114", "114"),
        ("The answer is 5! Great.", "5"),
        ("\\boxed{x^2 = 4}", "x^2 = 4"),
        ("\\boxed{\\theta^2 = 4}", "\\theta^2 = 4"),
        ("الجواب: ٣٫٥", "3.5"),
        ("\\boxed{١٬٢٣٤٫٥}", "1234.5"),
        ("no idea", None),
        ("\\boxed{" + "9" * 1001 + "}", None),
    ],
)
def test_math_parse(text: str, expected: str | None) -> None:
    assert MathAnswer().parse(text) == expected


@given(number=numbers)
def test_a_parsed_number_is_its_own_answer(number: str) -> None:
    schema = MathAnswer()
    answer = schema.parse(f"\\boxed{{{number}}}")
    assert answer is not None
    assert schema.parse(answer) == schema.parse(f"\\boxed{{{answer}}}") == answer


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1,000", "1000", True),
        ("1000", "1000.00", True),
        ("\\frac12", "0.5", True),
        ("\\frac{2}{4}", "1/2", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.333", False),
        ("1234567.89", "1234567.90", False),
        ("0.0000001", "0.0000002", False),
        ("12 marbles", "12", True),
        ("12 marbles", "$12", False),
        ("12 marbles", "13 marbles", False),
        ("50\\%", "50", True),
        ("50\\%", "\\frac12", True),
        ("50\\%", "5\\%", False),
        ("0.5", "50", False),
        ("-5", "5", False),
        ("Friday", "\\text{friday}", True),
        ("listen", "silent", False),
        ("Friday", "5", False),
        ("9" * 1000, "9" * 999 + "8", False),
        ("9" * 1000, "9" * 1000, True),
        ("9" * 10_000_000, "9" * 9_999_999, False),
    ],
)
def test_plain_answers_need_no_worker(
    a: str, b: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_answer, "_WORKER", None)
    assert MathAnswer().equivalent(a, b) is MathAnswer().equivalent(b, a) is same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x=5", "5", True),
        ("x=5", "y=5", False),
        ("x<5", "(-\\infty,5)", True),
        ("1\\frac12", "3/2", True),
        ("2,3", "3,2", True),
        ("(1,2)", "[1,2]", False),
        ("2\\pi", "6.28", False),
        ("3 million", "3", False),
        ("5 millions", "5", False),
        ("2 sin x", "2 cos x", False),
        ("\\frac{1}{0}", "5", False),
        ("{", "5", False),
    ],
)
def test_expressions_go_to_math_verify(a: str, b: str, same: bool) -> None:
    schema = MathAnswer(timeout=10)
    assert schema.equivalent(a, b) is schema.equivalent(b, a) is same
    assert schema.undecided == 0


def test_a_comparison_without_end_is_given_up_counted_and_remembered() -> None:
    schema = MathAnswer(timeout=0.5)
    assert schema.equivalent("2x+x", "3x")  # the worker runs
    start = time.perf_counter()
    with pytest.warns(RuntimeWarning, match="count as different"):
        assert not schema.equivalent("9^{9^{9^9}}", "5x")
    assert time.perf_counter() - start < 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not schema.equivalent("5x", "9^{9^{9^9}}")  # remembered
        assert schema.undecided == 1
        assert not schema.equivalent("10**10**10", "5x")
        assert schema.equivalent("x+x", "2x")  # a new worker
        schema.equivalent("8^{9^{9^9}}", "5x")
    assert schema.undecided == 2


def test_a_worker_killed_from_outside_is_replaced() -> None:
    schema = MathAnswer(timeout=10)
    assert schema.equivalent("a+b", "b+a")
    pid = math_answer._WORKER.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert schema.equivalent("a+c", "c+a")
    assert math_answer._WORKER.pid != pid
    assert schema.undecided == 0


def test_threads_share_the_worker() -> None:
    schema = MathAnswer(timeout=10)
    verdicts: dict[int, bool] = {}

    def compare(i: int) -> None:
        verdicts[i] = schema.equivalent(f"x+{i}", f"{i // 2 * 2}+x")

    threads = [threading.Thread(target=compare, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdicts[i] for i in range(2, 20)] == [i % 2 == 0 for i in range(2, 20)]


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_math_timeout_must_be_positive(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        MathAnswer(timeout=timeout)


# --- multiple choice ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{b}", "B"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("\\boxed{D. Paris}", "D"),
        ("\\boxed{B} is better than (C)", "B"),
        ("\\boxed{E}, or (A)", None),
        ("\\boxed{Both}", None),
        ("(C) no; the answer is (B)", "B"),
        ("the answer is (b).", "B"),
        ("Answer: B", "B"),
        ("**Answer:** B", "B"),
        ("Answer: B, as Answer: A fails. Answer: C", "C"),
        ("The answer is a matter of taste: (D)", "D"),
        ("Answer: E", None),
        ("Answer: B\nOptions (A) and (C) are wrong.", "B"),
        ("**Answer: B**. (C) fails.", "B"),
        ("The Answer is (B), whereas (D) is not.", "B"),
        ("The correct answer is option B. (A) is wrong", "B"),
        ("(A) is wrong, (B) is right", "B"),
        ("P(A) = 1, so C", "C"),
        ("I think it is C", "C"),
        ("C. A triangle has three sides. I know.", "C"),
        ("truncated: \\boxed{A", None),
        ("Don't know", None),
    ],
)
def test_choice_parse(text: str, expected: str | None) -> None:
    assert ChoiceAnswer(4).parse(text) == expected


def test_choice_knows_its_letters() -> None:
    for n in range(2, 27):
        schema = ChoiceAnswer(n)
        last, beyond = chr(ord("A") + n - 1), chr(ord("A") + n)
        assert schema.name == f"choice({n})"
        assert f"A to {last}" in schema.instructions
        assert schema.parse(f"\\boxed{{{last}}}") == last
        assert schema.parse(f"\\boxed{{{beyond}}}") is None
    assert ChoiceAnswer(2).equivalent("A", "a")
    assert not ChoiceAnswer(2).equivalent("A", "B")


@pytest.mark.parametrize("n", [1, 27, 0, -3, 2.5, "4", True, None])
def test_choice_rejects_a_wrong_number(n: Any) -> None:
    with pytest.raises(ConfigurationError, match="2 to 26"):
        ChoiceAnswer(n)


# --- free text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Well.\nThe answer is Paris.", "Paris"),
        ("Answer: Rome. No, Answer:  Paris ", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ("Answer: <i><b>Paris</b></i>", "Paris"),
        ("Answer: vector<int>", "vector<int>"),
        ("Answer: Paris>", "Paris"),
        ("  just Paris \n", "just Paris"),
        ("Answer: ", None),
    ],
)
def test_text_parse(text: str, expected: str | None) -> None:
    assert TextAnswer().parse(text) == expected


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("The  Eiffel Tower.", "eiffel tower", True),
        ("U.S.", "us", True),
        ("1,000", "1000", True),
        ("5.00", "500", False),
        ("-5", "5", False),
        ("C", "C#", False),
        ("C++", "C", False),
        ("A", "The", False),
        ("?", "!", False),
        ("ﬁve", "five", True),
        ("हिंदी", "हदी", False),
    ],
)
def test_text_equality(a: str, b: str, same: bool) -> None:
    assert TextAnswer().equivalent(a, b) is TextAnswer().equivalent(b, a) is same


def test_text_callable_is_symmetrised_and_remembered() -> None:
    calls = []

    def one_way(a: str, b: str) -> bool:
        calls.append((a, b))
        return (a, b) == ("big", "large")

    schema = TextAnswer(one_way)
    assert schema.equivalent("large", "big")
    assert schema.equivalent("big", "large")
    assert not schema.equivalent("big", "small")
    assert not schema.equivalent("small", "big")
    assert schema.equivalent("same", "Same!")
    assert len(calls) == 3


def judge(*replies: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(AIMessage(reply) for reply in replies))


def test_text_judge() -> None:
    schema = TextAnswer(judge("Yes.", "**no**", "perhaps yes"))
    assert schema.equivalent("big", "large")
    assert schema.equivalent("large", "big")  # one call a pair
    assert not schema.equivalent("big", "small")
    assert schema.undecided == 0
    assert not schema.equivalent("big", "grand")
    assert not schema.equivalent("grand", "big")
    assert schema.undecided == 1


def test_text_judge_that_thinks() -> None:
    assert not TextAnswer(judge("<think>Yes? Hm.</think>No.")).equivalent("NYC", "Boston")
    assert TextAnswer(judge("<think>No? Hm.</think>\n\nYes.")).equivalent("NYC", "New York")


def test_text_judge_that_fails_is_asked_again() -> None:
    attempts: Iterator[Exception | bool] = iter([ValueError("busy"), True])

    def flaky(a: str, b: str) -> bool:
        outcome = next(attempts)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    schema = TextAnswer(flaky)
    with pytest.warns(RuntimeWarning, match="busy"):
        assert not schema.equivalent("big", "large")
    assert schema.undecided == 1
    assert schema.equivalent("big", "large")


def test_text_judge_runs_cold_and_out_of_the_token_stream() -> None:
    seen: dict[str, Any] = {}

    class Judge(GenericFakeChatModel):
        def _generate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> Any:
            seen.update(kwargs, tags=run_manager.tags, prompt=messages[0].content)
            return super()._generate(messages, stop, run_manager)

    assert TextAnswer(Judge(messages=iter([AIMessage("yes")]))).equivalent("b{0}", "{a}")
    assert seen["temperature"] == 0
    assert "nostream" in seen["tags"]
    assert "b{0}" in seen["prompt"]


def test_text_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "CAPACITY", 10)
    schema = TextAnswer(lambda a, b: False)
    pairs = [(str(random.random()), str(random.random())) for _ in range(50)]
    assert not any(schema.equivalent(a, b) for a, b in pairs)
    assert len(schema._verdicts._known) == 10


def test_nothing_long_is_kept() -> None:
    """Twenty answers of 50,000 characters each, all different."""
    schema = TextAnswer()
    schema.equivalent("1", "2")
    tracemalloc.start()
    for number in range(20):
        text = f"{number}" + " word" * 10_000
        assert not schema.equivalent(text, text + " more")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000


def test_a_memory_is_bounded_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "MOST_CHARACTERS", 1_000)
    memory = Memory[str]()
    for number in range(50):
        assert memory.remember(number, lambda: "x" * 90) == "x" * 90
    assert len(memory._known) == 10
    assert memory.remember("long", lambda: "x" * 2_000) == "x" * 2_000
    assert not memory._known
    assert memory.remember("short", lambda: "x") == memory.remember("short", lambda: "y") == "x"


def test_text_rejects_what_is_no_judge() -> None:
    with pytest.raises(ConfigurationError, match="chat model"):
        TextAnswer("gpt")  # type: ignore[arg-type]


def test_an_asynchronous_comparison_is_refused_as_a_coroutine_is_true() -> None:
    async def same(a: str, b: str) -> bool:
        return False

    class Asks:
        async def __call__(self, a: str, b: str) -> bool:
            return False

    for equivalence in (same, Asks()):
        with pytest.raises(ConfigurationError, match="plain function"):
            TextAnswer(equivalence)  # type: ignore[arg-type]

    class Schema(TextAnswer):
        async def equivalent(self, a: str, b: str) -> bool:  # type: ignore[override]
            return False

    with pytest.raises(ConfigurationError, match="equivalent"):
        create_deliberation([RunnableLambda(str)], answer=Schema())
