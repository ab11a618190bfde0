"""The options of an evaluation, from the command line and from a file."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from mpdf_langgraph import ConfigurationError
from mpdf_langgraph.errors import describe_error
from mpdf_langgraph.traces.writer import is_url
from training.collect.asking import RayOptions
from training.collect.team import TeamOptions
from training.command import check_least
from training.evaluate.bench import VOTES, Bench
from training.evaluate.benchmarks import BENCHMARKS, Benchmark, Name
from training.evaluate.methods import MethodOptions

#: Options that are given once for each of their values.
_REPEATED = ("--base-url", "--model", "--model-factory", "--router")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MethodOptions):
    """Options of an evaluation."""

    questions: Path | None = None
    """Test questions: JSON Lines or Parquet with `question`, `reference`, `contexts`."""
    benchmark: Name | None = None
    """A public benchmark instead. It brings its answer schema, and its prompts and longest answer
    unless --prompts and --max-tokens are given."""
    data: str | None = None
    """The benchmark's data: a file, or a dataset on the Hugging Face Hub (owner/name, or
    owner/name:configuration). Default: the benchmark's usual place on the Hub."""
    split: str | None = None
    """Split of a dataset from the Hub. Default: its test questions."""
    config: Path | None = None
    """TOML file with options by name. The command line counts more."""
    validation: Path | None = None
    """Questions to calibrate and tune the baselines on. They must not be the test questions."""
    methods: tuple[str, ...] = ()
    """Names of methods, see `training.evaluate.methods`. Default: all of them."""
    router: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A fitted router's folder. Give the option again for more routers."""
    control: bool = True
    """Compare every router with its control."""
    team: tyro.conf.OmitArgPrefixes[TeamOptions] = TeamOptions()
    out: Path = Path("runs/evaluation")
    """Folder for samples and results."""
    limit: int | None = None
    """Use only so many questions, spread over the file and always the same ones."""
    debate_rounds: int = 3
    """Debates of 1 to so many rounds, if no --methods are given."""
    oracle_rounds: int = 2
    """Oracles over actions of 1 to so many rounds, if no --methods are given."""
    bars: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    """Values of the threshold router's bar (a calibrated confidence) to try on the validation
    questions."""
    gaps: tuple[float, ...] = (0.0, 0.05, 0.2)
    """Values of its gap to try."""
    concurrency: int = 64
    """Questions at a time. With --ray: of each worker."""
    cluster: tyro.conf.OmitArgPrefixes[RayOptions] = RayOptions()
    estimate: bool = False
    """Print how many calls and tokens the methods will take on the test questions, and stop."""
    usual_tokens: int | None = None
    """Length of an answer for --estimate. Default: the benchmark's, or 250."""

    def check(self) -> None:
        """Refuse options that cannot work.

        Raises:
            ConfigurationError: Says which option is wrong, and what to give instead.
        """
        if (self.questions is None) == (self.benchmark is None):
            raise ConfigurationError("give either --questions FILE or --benchmark NAME")
        if self.benchmark is None and (self.data or self.split):
            raise ConfigurationError("--data and --split are for --benchmark")
        check_least(self, rounds=1, concurrency=1, limit=1, debate_rounds=1)
        if is_url(self.out):
            raise ConfigurationError(
                f"--out {self.out} is a URL. Results need a folder, which all workers share"
            )
        self.cluster.check()
        if not self.bars or not self.gaps:
            raise ConfigurationError("--bars and --gaps need a value each")

    @property
    def known_benchmark(self) -> Benchmark | None:
        """The benchmark, if there is one."""
        return None if self.benchmark is None else BENCHMARKS[self.benchmark]

    def with_benchmark(self) -> "EvaluateOptions":
        """Return the options with those of the team that the benchmark brings."""
        benchmark = self.known_benchmark
        if benchmark is None:
            return self
        team = replace(
            self.team,
            answer=benchmark.answer,
            prompts=self.team.prompts or benchmark.prompts,
            max_tokens=self.team.max_tokens or benchmark.max_tokens,
        )
        return replace(self, team=team)

    def open_bench(self, folder: Path, **further: Any) -> Bench:
        """Return the team with its samples in a folder. `further` are arguments of `Bench`."""
        return Bench(
            self.team,
            folder,
            critic=self.critic,
            consensus=self.consensus,
            rounds=self.rounds,
            seed=self.seed,
            **further,
        )

    def method_names(self) -> list[str]:
        """Return the names of the methods to run, without the fitted routers."""
        if self.methods:
            return list(self.methods)
        names = ["single"]
        names += [f"{way}-{k}" for k in VOTES for way in ("vote", "weighted-vote", "best-of")]
        if self.team.mixed:
            most = max(VOTES) // self.team.agents
            votes = [k for k in VOTES if k <= most]
            names += ["alone-1", *(f"alone-{k}" for k in votes)]
            names += [f"weighted-alone-{k}" for k in votes]
        names += ["adaptive", "greedy"]
        names += ["greedy-vote"] if self.team.agents > 1 else []
        names += [f"debate-{rounds}" for rounds in range(1, self.debate_rounds + 1)]
        names += ["php", "dylan", "random", "threshold"]
        return names + [f"oracle-{rounds}" for rounds in range(1, self.oracle_rounds + 1)]


def with_config(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the options of its ``--config`` file in front.

    Options of the file that the command line gives itself are left out.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else than options.
    """
    given = [a.partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]
    if "--config" not in given:
        return list(arguments)
    place = next(k for k, a in enumerate(arguments) if a.partition("=")[0] == "--config")
    named = arguments[place].partition("=")[2] or "".join(arguments[place + 1 : place + 2])
    try:
        options = tomllib.loads(Path(named).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"--config {named}: {describe_error(error)}") from error
    words: list[str] = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if option in given or f"--no-{option[2:]}" in given or option == "--config":
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
            if option in _REPEATED:
                words += [word for v in value for word in (option, str(v))]
            else:
                words += [option, *map(str, value)]
        elif isinstance(value, str | int | float):
            words += [option, str(value)]
        else:
            raise ConfigurationError(f"--config {named}: {name} is no option's value: {value!r}")
    return [*words, *arguments]
