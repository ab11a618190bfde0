"""Options of an evaluation: from files, from benchmarks, and refused ones."""

from pathlib import Path

import pytest
import tyro

from mpdf_langgraph import ConfigurationError
from tests.support.paths import ROOT
from tests.support.summers import sums
from training.evaluate.evaluation import main
from training.evaluate.methods import MethodOptions, select
from training.evaluate.options import EvaluateOptions, with_config


@pytest.mark.parametrize(
    "name", ["vote", "vote-0", "single-3", "oracle", "voting-3", "", "vote-3-3", "threshold-1"]
)
def test_no_such_method(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no method is named"):
        select([name], {}, MethodOptions(), 3)


def test_the_command_line_counts_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = ["a", "b"]\nrounds = 5\nmax-tokens = 99\ncontrol = true\n')
    words = ["--config", str(path), "--benchmark", "math", "--out", "x", "--rounds=1"]
    made = tyro.cli(EvaluateOptions, args=with_config([*words, "--model", "c"]))
    assert (made.rounds, made.team.max_tokens, made.team.model, made.control) == (
        1,
        99,
        ("c",),
        True,
    )
    made = tyro.cli(EvaluateOptions, args=with_config([*words, "--no-control"]))
    assert (made.team.model, made.control) == (("a", "b"), False)
    assert with_config(words[2:]) == words[2:]


@pytest.mark.parametrize("text", ["rounds = ", "rounds = {a = 1}", None])
def test_a_file_of_options_with_faults(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match="--config"):
        with_config(["--config", str(path)])


CONFIGS = sorted((ROOT / "examples" / "benchmarks" / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_backbones_configurations_are_options(path: Path, tmp_path: Path) -> None:
    words = ["--config", str(path), "--benchmark", "gsm8k", "--out", str(tmp_path)]
    made = tyro.cli(EvaluateOptions, args=with_config(words))
    [model], [url] = made.team.model, made.team.base_url
    assert url.startswith("http://localhost:")
    assert f"vllm serve {model} " in path.read_text()
    assert f"vllm serve {model} " in (path.parents[1] / "README.md").read_text()
    assert made.methods
    assert select(made.method_names(), {}, made, made.team.agents)


def test_there_is_one_for_every_backbone() -> None:
    assert len(CONFIGS) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "vote"], "no method is named 'vote'"),
        (["--methods", "vote-99"], "votes are of 15 agents at most"),
        (["--questions", "q.jsonl"], "either --questions FILE or --benchmark NAME"),
        (["--limit", "0"], "--limit"),
        (["--rounds", "0"], "--rounds"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--out", "s3://bucket/runs"], "is a URL. Results need a folder"),
        (["--workers", "2"], "--workers is for --ray alone"),
        (["--workers", "0", "--ray", "local"], "--workers must be 1 or more, got 0"),
        ([], "give either --base-url or --model-factory"),
    ],
)
def test_wrong_commands_say_so_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    path = sums(tmp_path / "q.jsonl", 3)
    given = ["--benchmark", "gsm8k", "--data", str(path), "--out", str(tmp_path / "out"), *words]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error


def test_a_benchmark_brings_prompts_and_lengths_that_options_replace() -> None:
    words = ["--benchmark", "humaneval", "--model-factory", "a:b"]
    team = tyro.cli(EvaluateOptions, args=words).with_benchmark().team
    assert (team.answer, team.max_tokens) == ("code", 1024)
    assert team.prompts == "training.evaluate.benchmarks:PROGRAM"
    words += ["--prompts", "mine:PROMPTS", "--max-tokens", "7"]
    team = tyro.cli(EvaluateOptions, args=words).with_benchmark().team
    assert (team.prompts, team.max_tokens) == ("mine:PROMPTS", 7)
