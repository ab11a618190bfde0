"""The examples in which somebody steps in: a person, and a fork."""

from pathlib import Path

import pytest

from mpdf_langgraph import TraceReader
from tests.support.running import run_python


@pytest.mark.parametrize(
    ("replies", "given"),
    [
        (["--replies", "hint", "answer"], ""),
        # At the terminal: what makes no sense is asked for again, and answers end it.
        ([], "what?\nh Add them up.\n" + "a 7\n" * 9),
    ],
    ids=["by itself", "at the terminal"],
)
def test_a_person_is_asked(replies: list[str], given: str, tmp_path: Path) -> None:
    words = ("examples/human_in_the_loop.py", "--traces", tmp_path, *replies)
    done = run_python(*words, given=given)
    assert done.returncode == 0, done.stderr
    assert "the answer would be" in done.stdout
    assert bool(given) == ("cannot read {'action': 'what?'" in done.stdout)
    episodes = list(TraceReader(tmp_path))
    assert len(episodes) == 3
    stepped_in = [episode for episode in episodes if episode.interventions]
    assert stepped_in
    assert stepped_in[0].interventions[0]["action"] == "hint"
    for episode in stepped_in:
        last = episode.interventions[-1]
        if last["action"] == "answer":
            assert episode.reference == episode.outcome["answer"] == last["text"]
        else:
            assert (last["action"], episode.outcome["support"]) == ("hint", 1.0)


def test_without_a_terminal_it_ends_with_a_line(tmp_path: Path) -> None:
    done = run_python("examples/human_in_the_loop.py", "--traces", tmp_path, given="")
    assert done.returncode == 1
    assert "error: nobody is at the terminal to reply" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_round_is_forked_three_ways(tmp_path: Path) -> None:
    words = ("--agent", "agent-2", "--traces", tmp_path)
    done = run_python("examples/time_travel.py", *words)
    assert done.returncode == 0, done.stderr
    *_, first, persist, refine, concede = TraceReader(tmp_path)
    assert first.interventions == []
    for action, fork in {"PERSIST": persist, "REFINE": refine, "CONCEDE": concede}.items():
        assert f"agent-2: {action}" in done.stdout
        assert fork.id.startswith(f"{first.id}~")
        turns = {turn["agent"]: turn for turn in fork.turns if turn["round"] == 1}
        assert turns["agent-2"]["action"] == action
        assert fork.tallies[0] == first.tallies[0]
