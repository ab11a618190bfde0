"""What holds for every text: nothing raises, forms are stable, comparing is symmetric and quick."""

import pickle
import string
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_langgraph import ChoiceAnswer, CodeAnswer, MathAnswer, Sandbox, TextAnswer
from mpdf_langgraph.answers.math_comparison import Comparison
from mpdf_langgraph.answers.math_latex import to_latex
from mpdf_langgraph.answers.math_notation import canonical
from mpdf_langgraph.answers.math_numbers import read_quantity, write_number
from mpdf_langgraph.answers.math_units import read_units, scale_between
from mpdf_langgraph.answers.program_reading import parse_python
from mpdf_langgraph.answers.programs import normalise as normalise_program
from mpdf_langgraph.answers.reading import answering_part, find_boxes, json_answer
from mpdf_langgraph.answers.text_form import normalise

TRUSTED = Sandbox(command=("env", "-i"), seconds=5)
# Text that is made of what the parsers look for.
pieces = st.sampled_from(
    [
        "\\boxed{", "}", "{", "\\", "\\\\", "####", "answer is", "Answer:", "答案", "$",
        "%", "(", ")", "\n", "1,000", "-", ".", "\\frac", "\\frac{1}{2}", "12", "A",
        "b", "(C)", " ", "\\text{", "marbles", "/", "0", "\\circ", "^", "_2", "½", "√",
        "π", "\u0663", "=", "x", "cm", "million", "two", "and", "or", ",", "\\pm",
        "<think>", "</think>", '{"answer": ', "<answer>", "</answer>", "Question:",
        "\\pmod", "<", "\\cup", "\\infty", "[", "]", "PM", ":", "…", "€", "!", "|",
        "\\frac{1}{0}", "\ud800", "\u00b2", "option",
        "is correct", "```python\n", "def f():", "\n```", "    return 1",
    ]
)  # fmt: skip
texts = st.text(max_size=60) | st.lists(pieces, max_size=14).map("".join)


@given(texts)
@settings(deadline=None, max_examples=400)
def test_reading_never_raises_and_canonical_forms_are_stable(text: str) -> None:
    answering_part(text), find_boxes(text), json_answer(text), to_latex(text), read_units(text)
    normalise(text)
    once = canonical(text)
    assert canonical(once) == once
    answer = MathAnswer().parse(text)
    assert answer is None or canonical(answer) == answer
    CodeAnswer(sandbox=TRUSTED).parse(text)
    CodeAnswer(sandbox=TRUSTED).for_question("def f(x):\n    '''f(1)'''\n").parse(text)


@given(texts, texts)
@settings(deadline=None, max_examples=300)
def test_comparing_is_symmetric(a: str, b: str) -> None:
    """Without the worker: whatever it says of two expressions, it says in either order."""
    first = canonical(a)
    schema = MathAnswer()
    schema._same_expression = lambda x, y: x < y  # type: ignore[method-assign]
    assert schema.equivalent(a, b) == schema.equivalent(b, a)
    assert Comparison(lambda x, y: x == y).same(first, first)


@given(st.fractions(max_denominator=1000), st.sampled_from(["", " cm", " apples", "%", "°"]))
def test_a_written_number_is_read_again(value: Any, unit: str) -> None:
    quantity = read_quantity(write_number(value, False) + unit)
    assert quantity is not None
    assert quantity.value == value


@given(st.integers(0, 999_999_999))
def test_number_words(number: int) -> None:
    quantity = read_quantity(_in_words(number))
    assert quantity is not None
    assert quantity.value == number


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def _in_words(number: int) -> str:
    small, tens = _SMALL.split(), _TENS.split()
    for scale, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= scale:
            whole, rest = divmod(number, scale)
            joint = " and " if scale == 100 else " "
            return f"{_in_words(whole)} {name}" + (joint + _in_words(rest) if rest else "")
    if number < 20:
        return small[number]
    ten, one = divmod(number, 10)
    return tens[ten - 2] + (f"-{small[one]}" if one else "")


@pytest.mark.parametrize(
    ("a", "b", "factor"),
    [
        ("km", "m", 1000),
        ("\\text{cm}^2", "square meters", "1/10000"),
        ("hours", "min", 60),
        ("m/s", "\\mathrm{m} \\, \\mathrm{s}^{-1}", 1),
        ("dollars", "\\$", 1),
        ("cents", "dollars", "1/100"),
        ("mL", "cm^3", 1),
        ("red marbles", "marbles", 1),
        ("", "marbles", 1),
        ("dollars per hour", "$", 1),
        ("cm", "cm^2", None),
        ("wins", "losses", None),
        ("kg", "lb", None),
        ("m", "marbles", None),
    ],
)
def test_units(a: str, b: str, factor: Any) -> None:
    first, second = read_units(a), read_units(b)
    assert first is not None
    assert second is not None
    scale = scale_between(first, second)
    if factor is None:
        assert scale is None or (a, b) == ("kg", "lb")
    else:
        assert str(scale) == str(factor)
        assert scale_between(second, first) == 1 / scale  # type: ignore[operator]


BOMB = "a" + "\u0301\u0327" * 80_000


@pytest.mark.parametrize(
    "text", [BOMB, f"Answer: {BOMB}", f"\\boxed{{{BOMB}}}", f"```python\ndef {BOMB}(): pass\n```"]
)
def test_combining_marks_do_not_freeze_the_process(text: str) -> None:
    start = time.process_time()
    schema = TextAnswer()
    schema.equivalent(schema.parse(text) or "", BOMB + "x")
    MathAnswer().parse(text)
    ChoiceAnswer(4).parse(text)
    code = CodeAnswer(sandbox=TRUSTED)
    code.parse(text), code.for_question(text)
    normalise_program(text), parse_python(text)
    assert time.process_time() - start < 5  # normalising them all takes half a minute


_WORDS = st.sampled_from(
    [
        "A",
        "(B)",
        "c",
        "option",
        "answer",
        "is",
        "not",
        "wrong",
        "right",
        ":",
        ",",
        ".",
        "\n",
        "so",
        "wait",
        "if",
        "only",
        "**",
        "✅",
        "❌",
        "[",
        "A)",
        "because",
        "正确",
        "\\boxed{D}",
        "rule out",
        "?",
        "many students",
    ]
)


@given(st.lists(_WORDS, max_size=30).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_a_choice_is_one_of_the_letters_or_none(text: str) -> None:
    assert ChoiceAnswer(4).parse(text) in ("A", "B", "C", "D", None)


@pytest.mark.parametrize(
    "unit",
    [
        "A",
        "A ",
        "(A) ",
        "A) x\n",
        "not ",
        "is A. ",
        "\n",
        "~~",
        "[",
        "if A, ",
        "A: ",
        "选",
        "✅",
        "**",
        "$",
        "\\text{",
        "the answer is ",
        "from A to ",
        "A-",
        "' ",
        "A,",
        "w ✅ ",
    ],
)
def test_long_replies_on_choices_take_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    ChoiceAnswer(4).parse("A")  # compiles the patterns
    start = time.process_time()
    ChoiceAnswer(4).parse(text)
    assert time.process_time() - start < 10  # a quadratic pattern takes minutes


def test_schemas_travel_to_other_processes() -> None:
    code = CodeAnswer(examples=["f(1)"], sandbox=TRUSTED)
    for schema in (MathAnswer(timeout=3), ChoiceAnswer(5), TextAnswer(), code):
        again = pickle.loads(pickle.dumps(schema))
        assert again.name == schema.name
        assert again.parse("Answer: B") == schema.parse("Answer: B")
        assert again.equivalent("2", "2")
    assert pickle.loads(pickle.dumps(MathAnswer(timeout=3))).timeout == 3


def test_letters_of_every_choice_are_read_back() -> None:
    for letter in string.ascii_uppercase:
        schema = ChoiceAnswer(26)
        for written in (
            letter,
            letter.lower(),
            f"({letter})",
            f"Answer: {letter}",
            f"\\boxed{{{letter}}}",
        ):
            assert schema.parse(written) == letter
        assert schema.equivalent(f"({letter})", letter)


def test_deep_nesting_is_no_crash() -> None:
    deep = "(" * 240 + "1,2" + ",3)" * 240
    assert not MathAnswer().equivalent(deep, deep.replace("1,2", "1,5"))
