"""Budgets: nobody is handed more than there is, and bounds are bounds."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.runtime.budget import (
    Budget,
    BudgetShares,
    Cost,
    count_affordable,
    is_alternative,
    prompt_bound,
    remaining_allowance,
    response_bound,
    text_bound,
    total_usage,
)
from mpdf_langgraph.state import Allowance, add_usage, no_usage, tokens
from tests.support.records import critique, failure, response, state, usage, usages

limits = st.none() | st.integers(1, 10_000)
costs = st.builds(Cost, calls=st.integers(0, 9), tokens=st.integers(0, 5_000))


def allowance(calls: int | None = None, tokens: int | None = None) -> Allowance:
    return Allowance(calls=calls, tokens=tokens, deadline=None)


# --- the shares ------------------------------------------------------------------------------


@given(limits, limits, usages, st.lists(costs, max_size=8))
def test_never_more_than_there_is(
    max_calls: int | None, max_tokens: int | None, used: Any, wishes: list[Cost]
) -> None:
    shares = BudgetShares(Budget(max_calls, max_tokens), used, started=0.0)
    granted = []
    for cost in wishes:
        if shares.lacks(cost, now=1.0) is None:
            shares.reserve(cost)
            granted.append(cost)
    dealt = list(shares.allowances())
    assert len(dealt) == len(granted)
    for cost, share in zip(granted, dealt, strict=True):  # everyone can pay what it asked for
        assert count_affordable(share, cost) >= 1
    if not granted:
        return
    if max_calls is not None:
        assert sum(a["calls"] or 0 for a in dealt) <= max_calls - used["calls"]
    if max_tokens is not None:
        assert sum(a["tokens"] or 0 for a in dealt) <= max_tokens - tokens(used)
    for limit, key in ((max_calls, "calls"), (max_tokens, "tokens")):
        assert all((a[key] is None) == (limit is None) for a in dealt)


@given(limits, st.lists(costs, min_size=1, max_size=8))
def test_not_even_where_nobody_asked_first(limit: int | None, wishes: list[Cost]) -> None:
    """Reserving without asking may overdraw the shares, but hands out no more for it."""
    shares = BudgetShares(Budget(max_tokens=limit), no_usage(), started=0.0)
    for cost in wishes:
        shares.reserve(cost)
    handed_out = [a["tokens"] for a in shares.allowances()]
    if limit is None:
        assert handed_out == [None] * len(wishes)
    else:
        assert sum(share or 0 for share in handed_out) <= limit


def test_the_purse_by_hand() -> None:
    shares = BudgetShares(Budget(10, 1000, 5.0), usage(2, 150, 50), started=100.0)
    assert shares.lacks(Cost(8, 800), now=104.9) is None
    assert shares.lacks(Cost(9, 800), now=104.9) == "max_calls"
    assert shares.lacks(Cost(8, 801), now=104.9) == "max_tokens"
    assert shares.lacks(Cost(0, 0), now=105.0) == "timeout"
    shares.reserve(Cost(1, 300))
    shares.reserve(Cost(2, 100))
    assert shares.lacks(Cost(1, 401), now=101.0) == "max_tokens"
    assert list(shares.allowances()) == [
        Allowance(calls=3, tokens=500, deadline=105.0),
        Allowance(calls=4, tokens=300, deadline=105.0),
    ]
    assert list(BudgetShares(Budget(), no_usage(), 0.0).allowances()) == []


@given(
    st.none() | st.integers(-50, 300),
    st.none() | st.integers(-50, 300),
    st.integers(1, 9),
    st.integers(1, 300),
)
def test_affordable(calls: int | None, left: int | None, each: int, size: int) -> None:
    times = count_affordable(allowance(calls, left), Cost(each, size))
    for limit, cost in ((calls, each), (left, size)):
        assert limit is None or times == 0 or times * cost <= limit
    if calls is None and left is None:
        assert times == 1_000_000
        return
    too_many = times + 1
    assert any(
        limit is not None and too_many * cost > limit
        for limit, cost in ((calls, each), (left, size))
    )


def test_what_costs_nothing_is_affordable() -> None:
    assert count_affordable(allowance(3, 10), Cost(0, 0)) == 3
    assert count_affordable(allowance(0, 10), Cost(1, 0)) == 0
    assert count_affordable(allowance(3, 0), Cost(1, 0)) == 3
    assert count_affordable(allowance(3, -1), Cost(1, 0)) == 0


def test_remaining() -> None:
    assert remaining_allowance(allowance(5, 100), usage(2, 30, 40)) == allowance(3, 30)
    assert remaining_allowance(allowance(), usage(2, 30, 40)) == allowance()
    kept = Allowance(calls=None, tokens=10, deadline=7.5)
    assert remaining_allowance(kept, usage(1, 20, 0)) == {
        "calls": None,
        "tokens": -10,
        "deadline": 7.5,
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("max_calls", "whole number"),
        ("max_tokens", "whole number"),
        ("timeout", "number"),
        ("max_cost", "number"),
    ],
)
def test_wrong_limits(name: str, kind: str) -> None:
    fractions = (2.5,) if kind == "whole number" else ()
    for wrong in (0, -1, math.nan, math.inf, "100", 10**400, *fractions):
        with pytest.raises(ConfigurationError, match=f"{name} must be a {kind} above 0 or None"):
            Budget(**{name: wrong})
    assert getattr(Budget(**{name: 1}), name) == 1
    assert Budget() == Budget(None, None, None)


# --- bounds ---------------------------------------------------------------------------------

TEMPLATE = "<|im_start|>{}\n{}<|im_end|>\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level BPE, as most served models have one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["Kim has 12 marbles and gives 5 away. #### 7"] * 9, trainer)
    return made


KINDS: list[type[BaseMessage]] = [SystemMessage, HumanMessage, AIMessage]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.lists(st.one_of(*(texts.map(kind) for kind in KINDS)), min_size=1, max_size=6))
@example([HumanMessage("日本語 👩‍👩‍👧‍👦 \x00" * 50)])
@example([HumanMessage("Kim has 12 marbles.")] * 6)
def test_no_prompt_has_more_tokens_than_its_bound(
    tokenizer: Tokenizer, messages: list[BaseMessage]
) -> None:
    rendered = "".join(TEMPLATE.format(m.type, m.text) for m in messages)
    count = len(tokenizer.encode(rendered + "<|im_start|>assistant\n").ids)
    assert count <= prompt_bound(messages)
    body = sum(len(tokenizer.encode(str(m.text)).ids) for m in messages)
    assert body <= sum(text_bound(str(m.text)) for m in messages)


def test_a_bound_counts_tool_calls() -> None:
    call = {"name": "search", "args": {"query": "x" * 500}, "id": "1", "type": "tool_call"}
    plain, calling = AIMessage(""), AIMessage("", tool_calls=[call])
    assert prompt_bound([calling]) >= prompt_bound([plain]) + 500


def test_text_bound_takes_anything() -> None:
    assert text_bound("") == 0
    assert text_bound("aé日👩") == 1 + 2 + 3 + 4
    assert text_bound("\ud800") >= 1  # a lone surrogate


def test_response_bound() -> None:
    said = response("a", 0, text="x" * 100, model="m", usage=usage(1, 50, 20))
    assert response_bound(said, "m") == 20
    assert response_bound(said, "other") == 100
    assert response_bound(said, None) == 100
    nameless = response("a", 0, text="x" * 100, model=None, usage=usage(1, 50, 20))
    assert response_bound(nameless, None) == 100
    for unsure in (usage(2, 50, 20), usage(1, 50, 20, unreported=1), usage(1, 50, 0)):
        retried = response("a", 0, text="x" * 100, model="m", usage=unsure)
        assert response_bound(retried, "m") == 100
    # thoughts that are not in the text cost tokens, but none in another's prompt
    thoughtful = response("a", 0, text="x" * 100, model="m", usage=usage(1, 50, 900))
    assert response_bound(thoughtful, "m") == 100


# --- what was spent -------------------------------------------------------------------------


def test_spent_with_alternatives_and_failures() -> None:
    parts = {
        "proposal": usage(1, 100, 10),
        "its critique": usage(1, 120, 1),
        "judge": usage(1, 7, 1),
        "failed": usage(3, 300, 0, unreported=2),
    }
    apart = {
        "alternative": usage(1, 200, 20),
        "its critique": usage(1, 220, 1),
        "failed": usage(2, 0, 0, unreported=2),
    }
    taken = response("a", 0, usage=parts["proposal"])
    taken["critique"] = critique(0.5, cost=parts["its critique"])
    extra = response("a", 0, round_=1, id="a@1+1", usage=apart["alternative"])
    extra["critique"] = critique(0.5, cost=apart["its critique"])
    told = state(
        responses={r["id"]: r for r in (taken, extra, response("b", usage=no_usage()))},
        failures=[
            failure("b", "refine", parts["failed"], 1),
            failure("b", "alternative", apart["failed"], 1),
        ],
        judge_usage=parts["judge"],
    )
    assert [is_alternative(r) for r in (taken, extra)] == [False, True]
    assert total_usage(told) == add_usage(*parts.values())
    assert total_usage(told, alternatives=True) == add_usage(*apart.values())
    assert total_usage(state()) == no_usage()
