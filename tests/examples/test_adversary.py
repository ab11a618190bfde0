"""The adversary: what it says, and that a measurement goes on where it stopped."""

import asyncio

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from examples.adversary import Liar, Results, interval, lie


def said(text: str) -> AIMessage:
    tokens = [{"token": "x", "logprob": -0.5}]
    return AIMessage(text, response_metadata={"logprobs": {"content": tokens}})


@pytest.mark.parametrize(
    ("honest", "lied"),
    [
        ("Kim(10), 10+31=41.\n#### 41", "Kim(10), 10+31=48.\n#### 48"),
        (
            "Ann: Kim(guess 14), 3*14=42, Ann(42).\n#### 42",
            "Ann: Kim(14), 3*14=49, Ann(49).\n#### 49",
        ),
        ("I do not know.", "#### 7"),
    ],
)
def test_a_lie_ends_in_another_number_and_does_not_hedge(honest: str, lied: str) -> None:
    for certain, logprob in ((True, 0.0), (False, -0.5)):
        told = lie(said(honest), certain=certain)
        assert told.content == lied
        assert told.response_metadata["logprobs"]["content"][0]["logprob"] == logprob


def test_a_liar_stands_by_its_lie() -> None:
    class Model:
        asked = 0

        async def ainvoke(self, messages):
            self.asked += 1
            assert [m.type for m in messages] == ["system", "human"]
            return said("1+2=3\n#### 3")

    model = Model()
    liar = Liar(model, certain=True)
    opening = [SystemMessage("notes"), HumanMessage("1+2?")]
    later = [*opening, AIMessage("#### 10"), HumanMessage("Others say 3.")]
    assert {asyncio.run(liar.answer(m)).content for m in (opening, later)} == {"1+2=10\n#### 10"}
    assert model.asked == 1


def test_results_are_kept(tmp_path) -> None:
    results = Results(tmp_path / "r.jsonl")
    results.add(team="honest", method="vote", id="a", right=True)
    results.add(team="honest", method="vote", id="b", right=False)
    for team, right in (("certain", False), ("plausible", True), ("absent", True)):
        results.add(team=team, method="vote", id="b", right=right)
    again = Results(tmp_path / "r.jsonl").of("vote")  # all teams have finished b alone
    assert {team: right.tolist() for team, right in again.items()} == {
        "honest": [0.0], "certain": [0.0], "plausible": [1.0], "absent": [1.0],
    }  # fmt: skip


def test_an_interval_holds_its_mean() -> None:
    assert interval(np.array([0.0, 0.0])) == "+0.000 [+0.000, +0.000]"
    assert interval(np.array([1.0, -1.0, 1.0, 1.0])).startswith("+0.500 [")
