r"""Public benchmarks: every method of an evaluation on the same questions, a row per question.

    python examples/benchmarks/run.py --config examples/benchmarks/configs/qwen2.5-7b.toml \
        --benchmark gsm8k --data gsm8k/test.jsonl --out runs/gsm8k
    python examples/benchmarks/run.py ... --estimate      # what it will cost; asks nobody

`--data` is a file as the benchmark's authors publish it, or a dataset on the Hugging Face Hub.
Methods: single, greedy, greedy-vote, vote-K, weighted-vote-K, best-of-K, adaptive-K, debate-R,
random, threshold, php, dylan, oracle-R (see `training.evaluate.methods`), and every folder given as
`--router`.
A file given as `--config` holds options by name; what stands on the command line counts more.

A question's row is written once all methods have answered it, every sample as soon as it is drawn,
so a run may be stopped at any time: the same command goes on from there, and with more methods,
more questions or a new router it asks only what is new. Questions in which something failed are
asked again by the next run; until then what failed counts as wrong.

In the output folder: `rows.jsonl`, `results.md`, `results.json`, `tokens.png`, `samples-*.jsonl`
(what the models said), `run.json` (how). The exit code is 1 where something failed, 2 where the
command is wrong.
"""

import asyncio
import json
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson
import tyro
from tqdm import tqdm

from examples.benchmarks import estimate as estimates
from examples.benchmarks.loaders import BENCHMARKS, Benchmark, Name, load, sample
from examples.benchmarks.team import Team
from mpdf_langgraph import ConfigurationError, MPDFError
from mpdf_langgraph.errors import describe_error
from training.collect.questions import Question
from training.collect.team import Source
from training.evaluate import compare
from training.evaluate.methods import Method, Play, Setting, open_routers, select
from training.evaluate.votes import Outcome
from training.learn.report import table

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options(Setting):
    """Options of a run."""

    benchmark: Name
    """Which one."""
    out: Path
    """Folder for samples, rows and results."""
    data: str | None = None
    """File, or dataset on the Hugging Face Hub (owner/name, or owner/name:configuration); the
    benchmark's usual place on the Hub otherwise."""
    split: str | None = None
    """Split of a dataset from the Hub; its test questions otherwise."""
    config: Path | None = None
    """TOML file with options by name."""
    methods: tuple[str, ...] = (
        "single", "greedy", "vote-3", "weighted-vote-3", "vote-9", "weighted-vote-9", "debate-2",
        "php", "dylan", "threshold",
    )  # fmt: skip
    """See above."""
    router: tuple[Path, ...] = ()
    """Folders of fitted routers."""
    base_url: tuple[str, ...] = ()
    """OpenAI-compatible servers, dealt out to the agents in turn."""
    model: tuple[str, ...] = ()
    """Served models' names, dealt out in turn."""
    api_key: str | None = None
    """Key for the servers, if they want one."""
    model_factory: tuple[str, ...] = ()
    """Instead of servers: module:function that returns a chat model."""
    prompts: str | None = None
    """module:NAME of a `Prompts`; the benchmark's own otherwise."""
    agents: int = 3
    """Agents in the team."""
    temperature: float = 0.7
    """Sampling temperature of proposals; refinements are sampled at 0.6 at most."""
    max_tokens: int | None = None
    """Longest answer in tokens; by benchmark otherwise."""
    timeout: float = 300.0
    """Seconds without a sign of life from a server before a call fails."""
    control: bool = False
    """Also every router's decisions with each REFINE replaced by a fresh proposal."""
    limit: int | None = None
    """Ask only so many questions, spread over the data, the same ones every time."""
    concurrency: int = 32
    """Questions at a time."""
    estimate: bool = False
    """Say how many calls and tokens the run will take, and stop."""
    usual_tokens: int | None = None
    """Length of an answer for --estimate; by benchmark otherwise."""

    def source(self, benchmark: Benchmark) -> Source:
        """Return whom to ask."""
        module = "examples.benchmarks.loaders"
        return Source(
            base_url=self.base_url,
            model=self.model,
            api_key=self.api_key,
            model_factory=self.model_factory,
            agents=self.agents,
            prompts=self.prompts or f"{module}:{benchmark.prompts}",
            temperature=self.temperature,
            max_tokens=self.max_tokens or benchmark.max_tokens,
            timeout=self.timeout,
        )


def with_config(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the options of its ``--config`` file in front.

    What the command line gives itself is left out of the file's.

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
            words += [option, *map(str, value)]
        elif isinstance(value, str | int | float):
            words += [option, str(value)]
        else:
            raise ConfigurationError(f"--config {named}: {name} is no option's value: {value!r}")
    return [*words, *arguments]


# --- rows -----------------------------------------------------------------------------------


@dataclass
class Rows:
    """The rows of a run: in memory, and in a file that a stop cannot harm.

    A row holds a question's `id`, a `key` of its content, and under `methods` a list of runs by
    name of the method: answer, right, tokens, calls, actions and, where calls failed, `failures`;
    `error` where that was the end of it. While a run goes
    on, the last row of a question counts; in the end there is one, in the order of the questions.

    Attributes:
        path: JSON Lines.
    """

    path: Path
    _rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    row = orjson.loads(line)
                    self._rows[row["id"]] = row
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    continue  # torn by a stop: its question is asked again
        self._file = self.path.open("ab", buffering=0)

    def get(self, question: Question) -> Row | None:
        """Return a question's row; None where it has none, or one of another question."""
        row = self._rows.get(question.id)
        return row if row is not None and row["key"] == question.key else None

    def missing(self, question: Question, methods: Sequence[Method]) -> list[Method]:
        """Return the methods that have not answered a question, or have failed to."""
        row = self.get(question)
        known = {} if row is None else row["methods"]
        return [
            m
            for m in methods
            if [run.get("router") for run in known.get(m.name, [])] != [v for v, _ in m.runs]
            or any("error" in run for run in known[m.name])
        ]

    def put(self, question: Question, results: dict[str, list[Row]]) -> None:
        """Add a question's results to its row, on disk before this returns."""
        known = self.get(question)
        methods = {**(known["methods"] if known else {}), **results}
        row = {"id": question.id, "key": question.key, "methods": methods}
        self._rows[question.id] = row
        # The newline first, so that a torn line swallows no other.
        self._file.write(b"\n" + orjson.dumps(row))

    def close(self, questions: Sequence[Question]) -> None:
        """Leave one row per question in the file: of these questions first, in their order."""
        self._file.close()
        order = {question.id: place for place, question in enumerate(questions)}
        ordered = sorted(self._rows.values(), key=lambda row: order.get(row["id"], len(order)))
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ordered))
        draft.replace(self.path)


def keep_to_one_setting(options: Options, team: Team) -> None:
    """Note in the folder how its rows are made, and refuse to mix them with others.

    Raises:
        ConfigurationError: The folder's were made differently; the message says in what.
    """
    now: Row = {
        "benchmark": options.benchmark,
        "agents": [agent.describe() for agent in team.agents],
        "prompts": vars(team.agents[0].prompts),
        **{part.name: getattr(options, part.name) for part in fields(Setting)},
    }
    now = json.loads(json.dumps(now))
    path = options.out / "run.json"
    if path.exists():
        try:
            known = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigurationError(f"{path} is damaged ({error}): use another --out") from error
        changed = [name for name in now if known.get(name) != now[name]]
        if changed:
            told = "; ".join(f"{name} {known.get(name)!r}, now {now[name]!r}" for name in changed)
            raise ConfigurationError(f"{options.out} was made with {told}. Use another --out")
        return
    path.with_suffix(".tmp").write_text(json.dumps(now, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)


# --- running --------------------------------------------------------------------------------


async def answer(team: Team, question: Question, methods: Sequence[Method]) -> dict[str, list[Row]]:
    """Run methods on one question, one after the other; an error is a result too."""
    play = Play(team, [question], methods)
    results: dict[str, list[Row]] = {}
    for method in methods:
        for version, ask in method.runs:
            run: Row = {} if version is None else {"router": version}
            try:
                [outcome] = await ask(play)
                assert outcome is not None  # `Team.every` raises
                right = await asyncio.to_thread(team.is_right, question, outcome.answer)
                run |= {"answer": outcome.answer, "right": right, "tokens": outcome.tokens}
                run |= {"calls": outcome.calls, "actions": outcome.actions}
                if outcome.failures:
                    run["failures"] = outcome.failures
                if outcome.failed:
                    run["error"] = next(iter(outcome.failures), "no call gave a response")
            except Exception as error:  # of any kind: the other questions must be answered
                run["error"] = describe_error(error)
            results.setdefault(method.name, []).append(run)
    return results


async def ask_all(
    options: Options, team: Team, questions: Sequence[Question], rows: Rows, methods: list[Method]
) -> None:
    """Ask all questions that are not finished, a few at a time."""
    gate = asyncio.Semaphore(options.concurrency)
    failed = 0

    async def ask(question: Question, missing: list[Method]) -> None:
        nonlocal failed
        async with gate:
            results = await answer(team, question, missing)
        rows.put(question, results)
        failed += any("error" in run for runs in results.values() for run in runs)
        bar.set_postfix(failed=failed, refresh=False)
        bar.update()

    todo = [(q, missing) for q in questions if (missing := rows.missing(q, methods))]
    print(f"{len(questions)} questions, {len(questions) - len(todo)} of them finished already")
    with tqdm(total=len(todo), desc=options.benchmark, unit="question", mininterval=1) as bar:
        await asyncio.gather(*(ask(*one) for one in todo))


def summarise(
    team: Team, questions: Sequence[Question], rows: Rows, methods: Sequence[Method]
) -> list[compare.Method]:
    """Return every method's results over the questions; what failed is wrong."""

    def outcome(question: Question, run: Row) -> Outcome | None:
        if "answer" not in run:
            return None
        team.remember(question, run["answer"], run["right"])
        return Outcome(
            run["answer"],
            run["tokens"],
            run["calls"],
            run["actions"],
            failed="error" in run,
            failures=tuple(run.get("failures", ())),
        )

    summary = {}
    for method in methods:
        runs: list[list[Outcome | None]] = [[] for _ in method.runs]
        for question in questions:
            row = rows.get(question)
            assert row is not None  # all were asked
            for run, found in zip(runs, row["methods"][method.name], strict=True):
                run.append(outcome(question, found))
        summary[method.name] = compare.summarise(team, questions, method.name, runs, method.kind)
    compare.link_controls(summary)
    return list(summary.values())


def write(
    options: Options, team: Team, questions: Sequence[Question], methods: list[compare.Method]
) -> None:
    """Write the tables, the figures and the plot."""
    first = methods[0]
    lines, figures = [], {}
    for m in methods:
        low, high = compare.wilson(m.accuracy, len(questions))
        gain = compare.difference(m, first)
        lines.append(
            [
                m.name,
                f"{m.accuracy:.3f} [{low:.3f}, {high:.3f}]",
                "" if m is first else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            ]
        )
        figures[m.name] = {
            "accuracy": m.accuracy,
            "interval": [low, high],
            f"against {first.name}": [gain.mean, gain.low, gain.high],
            "tokens": float(m.tokens.mean()),
            "calls": float(m.calls.mean()),
            "kind": m.kind,
            "runs": m.runs,
            "failed": m.failed,
            "survived": m.survived,
            "actions": m.actions,
        }
    models = dict.fromkeys(str(agent.describe()["model"]) for agent in team.agents)
    caption = (
        f"{options.benchmark}, {len(questions)} questions, zero-shot, {options.agents} agents "
        f"({', '.join(models)}), up to {options.rounds} rounds, temperature "
        f"{options.temperature:g}, critic {options.critic}, consensus {options.consensus}, seed "
        f"{options.seed}. Intervals are 95 %, over questions: Wilson's for accuracies, paired "
        "bootstrap for differences. Tokens are prompt + completion per question, the critic's "
        f"included. {compare.told_failures(methods) or 'Nothing failed.'}"
    )
    intervals = table(["method", "accuracy [95 %]", f"against {first.name} [95 %]"], lines)
    text = f"{compare.results_table(methods)}\n\n{intervals}\n\n{caption}\n"
    (options.out / "results.md").write_text(text)
    content = {"questions": len(questions), "caption": caption, "methods": figures}
    (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    compare.plot(options.out / "tokens.png", methods)
    print(text)


def main(options: Options) -> int:
    """Estimate or run; return the exit code."""
    benchmark = BENCHMARKS[options.benchmark]
    if options.concurrency < 1 or options.rounds < 1:
        raise ConfigurationError("--concurrency and --rounds must be 1 or more")
    source, routers = options.source(benchmark), open_routers(options.router, options)
    methods = select(options.methods, routers, options, options.agents, control=options.control)
    questions = sample(load(benchmark, options.data, options.split), options.limit)
    if options.estimate:
        tokens = options.usual_tokens or benchmark.usual_tokens
        costs = estimates.estimate(benchmark, source, options, methods, questions, tokens=tokens)
        print(estimates.told(*costs, len(questions), tokens))
        return 0
    schema = benchmark.schema()
    options.out.mkdir(parents=True, exist_ok=True)
    with closing(Team(benchmark, schema, source, options, options.out)) as team:
        keep_to_one_setting(options, team)
        rows = Rows(options.out / "rows.jsonl")
        try:
            asyncio.run(ask_all(options, team, questions, rows, methods))
        finally:
            rows.close(questions)
        summary = summarise(team, questions, rows, methods)
    if len(questions) > 1:
        write(options, team, questions, summary)
    failures = Counter(
        run["error"]
        for question in questions
        for runs in (rows.get(question) or {"methods": {}})["methods"].values()
        for run in runs
        if "error" in run
    )
    for error, count in failures.most_common(3):
        print(f"failed: {count} x {error}", file=sys.stderr)
    print(f"{team.samples.drawn} samples drawn, {team.samples.reused} reused; see {options.out}")
    return 1 if failures else 0


def command(arguments: Sequence[str]) -> int:
    """Run a command line; return the exit code."""
    try:
        return main(tyro.cli(Options, args=with_config(arguments), description=__doc__))
    except MPDFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
