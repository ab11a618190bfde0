"""The adversary: what it says, and that a measurement goes on where it stopped."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from examples.adversary import (
    PLACES,
    TEAMS,
    AdversaryOptions,
    Liar,
    Results,
    interval,
    lie,
    main,
)
from examples.tiny_lm.questions import make_questions
from mpdf_langgraph import TraceReader
from mpdf_langgraph.errors import ConfigurationError


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
        (
            'Room 530 costs 15 dollars. Steps: The pink team meets in room 530. {"answer": 530}',
            'Room 537 costs 15 dollars. Steps: The pink team meets in room 537. {"answer": 537}',
        ),
        (
            'My notes: Room 530 costs 15 dollars. Steps: The room is missing. {"answer": null}',
            'My notes: Room 530 costs 22 dollars. {"answer": 22}',
        ),
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
    asyncio.run(liar.answer([SystemMessage("other notes"), HumanMessage("1+2?")]))
    assert model.asked == 2  # the same words over other notes are another question


@pytest.mark.filterwarnings("ignore:no calibration")
def test_debates_of_every_team_are_recorded_once(tmp_path: Path) -> None:
    options = AdversaryOptions(debates=3, out=tmp_path)
    for _ in range(2):  # the second time nothing is left to ask
        main(options)
    for team in TEAMS:
        episodes = list(TraceReader(tmp_path / "debates" / "plain" / team))
        assert len(episodes) == 3
        for place, name in enumerate(PLACES):  # the adversary sits in each place in turn
            (episode,) = [e for e in episodes if e.question == asked(place)]
            names = [agent["name"] for agent in episode.agents]
            assert names == [one for one in PLACES if team != "absent" or one != name]
            said = [
                [episode.responses[f"{one}@{turn}"]["text"] for turn in (0, 1)] for one in names
            ]
            stubborn = {
                one for one, (first, then) in zip(names, said, strict=True) if first == then
            }
            assert (name in stubborn) or team in ("honest", "absent")


def asked(place: int) -> str:
    return str(make_questions("plain", "test", 3, 0)[place]["question"])


def test_a_real_model_needs_its_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--base-url"):
        main(AdversaryOptions(kind="look-ups", out=tmp_path))


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
