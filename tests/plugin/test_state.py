"""State: plain data only, reducers that leave their arguments alone, sums that add up."""

import inspect
import math
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.channels import EphemeralValue
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typing_extensions import is_typeddict

from mpdf_langgraph import create_deliberation, state
from mpdf_langgraph.state import (
    ACTIONS,
    Action,
    DeliberationInput,
    DeliberationOutput,
    DeliberationState,
    Usage,
    add_usage,
    charged_tokens,
    extend,
    largest_usage,
    merge,
    no_usage,
    tokens,
)
from tests.support.records import usages
from tests.support.running import final_state

RECORDS = [
    record
    for _, record in inspect.getmembers(state, is_typeddict)
    if record.__module__ == state.__name__
]


def leaves(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of."""
    is_message = inspect.isclass(annotation) and issubclass(annotation, BaseMessage)
    if is_message or is_typeddict(annotation):
        return set()  # messages are allowed, and every record is looked at by itself
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return {type(value) for value in arguments}
    if origin is None:
        return {annotation}
    found = set().union(*(leaves(argument) for argument in arguments))
    return found if origin in (typing.Union, types.UnionType) else {origin} | found


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_are_declared_as_plain_data(record: Any) -> None:
    plain = {str, int, float, bool, list, dict, type(None), Any}
    for name, annotation in typing.get_type_hints(record).items():
        assert leaves(annotation) <= plain, name
    assert record.__doc__


def test_there_are_records() -> None:
    names = {record.__name__ for record in RECORDS}
    assert {"Usage", "Response", "Turn", "Consensus", "Failure", "Header", "Allowance"} <= names


def only_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(k) is str and only_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(only_plain, value))
    finite = not isinstance(value, float) or math.isfinite(value)
    return finite and type(value) in (str, int, float, bool, type(None), HumanMessage, AIMessage)


def test_a_finished_state_survives_a_checkpointer() -> None:
    """Every channel of a real run comes back from the serialiser as it went in."""
    script = iter(["1", "2", "2"])
    answer = RunnableLambda(lambda _: AIMessage(next(script)))
    builder = create_deliberation(
        [answer, RunnableLambda(lambda _: "2")],
        router=lambda observations: ["REFINE", "PERSIST"],
        critic=lambda question, response: 0.5,
        max_rounds=1,
    )
    messages = [("user", "hi"), ("ai", "ho"), ("user", "?")]
    given = {"messages": messages, "contexts": {"agent-1": "notes"}}
    values = final_state(builder, given)
    assert only_plain(values)
    assert {"header", "responses", "turns", "tallies", "deliberation"} <= set(values)
    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    assert serde.loads_typed(serde.dumps_typed(values)) == values


def test_inputs_last_for_one_question_only() -> None:
    """A value that stayed would answer the next question with this one's."""
    hints = typing.get_type_hints(DeliberationState, include_extras=True)
    given_keys = set(typing.get_type_hints(DeliberationInput))
    assert given_keys == {"messages", "question", "reference", "contexts", "category"}
    for key in (given_keys - {"messages"}) | {"phase"}:
        assert EphemeralValue in hints[key].__metadata__, key
    assert set(typing.get_type_hints(DeliberationOutput)) == {"messages", "deliberation"}
    assert not DeliberationInput.__required_keys__


def test_actions_have_a_fixed_order() -> None:
    assert ACTIONS == ("PERSIST", "REFINE", "CONCEDE") == typing.get_args(Action)


# --- reducers and sums ----------------------------------------------------------------------

mappings = st.dictionaries(st.sampled_from("abc"), st.integers())
lists = st.lists(st.integers(), max_size=4)


@given(mappings, mappings)
def test_merge(left: dict[str, int], right: dict[str, int]) -> None:
    before = dict(left), dict(right)
    merged = merge(left, right)
    assert (left, right) == before
    assert set(merged) == set(left) | set(right)
    assert all(merged[key] == right.get(key, left.get(key)) for key in merged)
    assert merge(None, right) == right
    assert merge(left, None) == left
    assert merge(left, None) is not left


@given(lists, lists)
def test_extend(left: list[int], right: list[int]) -> None:
    before = list(left), list(right)
    assert extend(left, right) == left + right
    assert (left, right) == before
    assert extend(None, right) == right
    assert extend(left, None) == left


@given(st.lists(usages, max_size=5))
def test_add_usage(parts: list[Usage]) -> None:
    total = add_usage(*parts)
    assert set(total) == set(Usage.__annotations__)
    assert all(value == sum(part[key] for part in parts) for key, value in total.items())
    assert tokens(total) == sum(tokens(part) for part in parts)
    assert add_usage(total, no_usage()) == total
    assert add_usage() == no_usage() == dict.fromkeys(Usage.__annotations__, 0)


def test_largest_usage_takes_every_figure_by_itself() -> None:
    long = Usage(calls=1, prompt_tokens=5, completion_tokens=900, unreported=0, estimated=0)
    wide = Usage(calls=3, prompt_tokens=800, completion_tokens=9, unreported=1, estimated=70)
    largest = largest_usage(long, wide)
    assert (largest["calls"], largest["prompt_tokens"], largest["completion_tokens"]) == (
        3,
        800,
        900,
    )
    assert charged_tokens(wide) == 800 + 9 + 70
    assert largest_usage() == no_usage()
