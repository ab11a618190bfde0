"""The example that runs all ablations: how it deals notes out, and what it would run."""

import json
from pathlib import Path
from typing import Any

import pytest
import tyro

from examples import ablations as example
from examples.ablations import TEAMS, ModelAblationOptions, deal_notes, plan
from examples.tiny_lm.questions import make_questions
from mpdf_langgraph import TraceReader
from training.collect import collecting
from training.collect.team import TeamOptions
from training.studies import ablations


def sentences(question: dict[str, Any]) -> list[str]:
    return sorted(
        f"{sentence.rstrip('.')}."
        for text in question["contexts"].values()
        for sentence in text.split(". ")
    )


@pytest.mark.parametrize("agents", TEAMS)
def test_notes_are_dealt_out_whole(agents: int) -> None:
    names = {f"agent-{i + 1}" for i in range(agents)}
    holders = set()
    for question in make_questions("hidden", "test", 100):
        found = deal_notes(question, agents)
        assert sentences(found) == sentences(question)
        assert set(found["contexts"]) <= names
        assert {k: found[k] for k in ("question", "reference")} == {
            k: question[k] for k in ("question", "reference")
        }
        holders |= set(found["contexts"])
    assert holders == names


@pytest.fixture
def reproduction(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        lines = [json.dumps(question) for question in make_questions("hidden", split, 4)]  # type: ignore[arg-type]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_every_command_is_one_that_its_script_takes(reproduction: Path, tmp_path: Path) -> None:
    options = ModelAblationOptions(reproduction=reproduction, out=tmp_path / "out", transfer=3)
    *commands, ablating = plan(options, "http://here/v1", "http://other/v1")
    assert len(commands) == 6 + len(TEAMS)
    folders = set()
    for script, *arguments in commands:
        assert script == "training/collect.py"
        asked = tyro.cli(collecting.CollectOptions, args=[str(word) for word in arguments])
        assert asked.questions is not None
        assert len(asked.questions.read_text().splitlines()) in (3, 4)
        folders.add(asked.out)
    assert len(folders) == len(commands)
    given = tyro.cli(ablations.AblationOptions, args=[str(word) for word in ablating[2:]])
    for folder in folders:
        folder.mkdir(parents=True)
    find = ablations.find_folders
    named = {**find("transfer", given.transfer), **find("runs", given.runs)}
    assert set(named.values()) == folders


def test_it_tells_what_it_would_run(
    reproduction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ModelAblationOptions(reproduction=reproduction, out=tmp_path / "o", only_print=True)
    example.main(options)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 4 + len(TEAMS) + 1
    assert all(line.startswith("python training/collect.py ") for line in told[:-1])
    assert told[-1].startswith("python -m training.studies.ablations ")
    assert "--base-url URL" in told[0]


def test_another_model_is_the_critic(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "How many?", "reference": "1"}\n')
    options = tyro.cli(
        collecting.CollectOptions,
        args=[
            "--questions", str(questions), "--model-factory", "tests.support.factories:make",
            "--critic", "tests.support.factories:other", "--rounds", "1",
            "--out", str(tmp_path / "t"),
        ],
    )  # fmt: skip
    assert collecting.main(options) == 0
    [episode] = TraceReader(tmp_path / "t")
    assert episode.options["critic"] not in (None, "self", "logprob", "self+logprob")
    kept = json.loads((tmp_path / "t" / "collect.json").read_text())
    assert kept["critic"] == "tests.support.factories:other"


def test_an_unknown_critic_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "How many?", "reference": "1"}\n')
    source = TeamOptions(model_factory=("tests.support.factories:make",))
    options = collecting.CollectOptions(questions, tmp_path / "t", source, critic="oracle")
    assert collecting.main(options) == 2
    assert "critic='oracle'" in capsys.readouterr().err
