r"""Compare routers with votes, debates and resampling: real runs, every token counted.

    python training/evaluate.py --questions test.jsonl --validation validation.jsonl \
        --router routers/seed-0 --router routers/seed-1 --router routers/seed-2 \
        --base-url http://localhost:8000/v1 --out runs/evaluation
    python training/evaluate.py --benchmark gsm8k --data gsm8k/test.jsonl --out runs/gsm8k \
        --config examples/benchmarks/configs/qwen2.5-7b.toml --estimate

The second command takes a public benchmark, and options from a file. --estimate prints what the
methods will cost and asks nobody.

All methods share one pool of samples (`samples-SEED.jsonl` in the output folder): whoever asks the
same thing for the n-th time gets the same n-th sample. So differences are exactly paired, and calls
are few. Tokens are counted in full all the same. The file belongs to its models: another model of
the same name needs another output folder.

A question's row is written once all methods have answered it, and every sample as soon as it is
drawn. So a run may be stopped at any time: the same command goes on from there. With more methods,
more questions or a new router it asks only what is new. Questions in which something failed are
asked again by the next run. Until then what failed counts as wrong.

The validation questions tune the threshold router's bar and gap, the share at which adaptive
resampling stops, and who is the strongest of a mixed team. They also calibrate the confidences of
votes, debates and the threshold router. A fitted router brings a calibration of its own.

Routers are seeds of one method if their folders differ only in their last number (seed-0, seed-1)
and their fits only in the seed. Every router comes with its *control*: the same decisions with
every REFINE replaced by a fresh proposal, drawn with the sampling of refinements (temperature and
length). If all methods and controls are run, `router.json` of
each router gets its own gate. It is `pass` if the router beats its control and the best baseline
at no more tokens, both with lower 95 % bounds above zero. Without validation questions the
baselines are not at their best, and nothing passes.

The oracle over actions sees the references, so no router can reach it. It takes the best action
of every agent and round in turn. Another order of moves may still do better.

Files in the output folder: `results.md` (tables), `results.json` (with every learned method's
paired difference to every other method), `rows.jsonl` (a row per question), `tokens.png`,
`run.json` (the settings). The exit code is 1 if something failed, 2 if the command is wrong.
"""

import asyncio
import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import tyro

from mpdf_langgraph import CodeAnswer, ConfigurationError, MPDFError
from training.collect.asking import for_each
from training.collect.files import keep_settings, write_json
from training.collect.questions import (
    SEEN,
    Question,
    as_told,
    check_contexts,
    hash_told,
    leave_out_repeated,
    read_questions,
)
from training.collect.team import check_references
from training.evaluate import estimate
from training.evaluate.bench import Bench
from training.evaluate.benchmarks import leave_out_unusable, load, sample
from training.evaluate.compare import CONTROL, MethodResult, are_too_few, decide_gate
from training.evaluate.methods import Method, MethodOptions, select
from training.evaluate.options import EvaluateOptions, with_config
from training.evaluate.results import write_results
from training.evaluate.routers import group_routers, open_routers
from training.evaluate.rows import Rows, Runs, errors_of, measure, summarise_runs
from training.evaluate.tuning import tune
from training.evaluate.workers import Here, Stage, open_runner
from training.learn.gate_line import replace_gate


def _choose(questions: Sequence[Question], name: str, limit: int | None) -> list[Question]:
    """Return a sample of the questions of a file or benchmark, and tell which were left out."""
    different = leave_out_repeated(questions)
    if len(different) < len(questions):
        print(f"{name}: {len(questions) - len(different)} repeated questions are left out")
    return sample(different, limit)


def read_test_questions(path: Path, bench: Bench, limit: int | None) -> list[Question]:
    """Read questions that can be graded.

    Raises:
        MPDFError: The file has faults, a context belongs to nobody, or a reference is missing.
    """
    questions = _choose(read_questions(path), str(path), limit)
    check_contexts(questions, bench.agents)
    check_references(questions, bench.schema)
    if missing := [question.id for question in questions if question.reference is None]:
        raise ConfigurationError(
            f"{path}: an evaluation needs a reference for every question; {missing[0]!r} has none"
        )
    return questions


def settings_of(options: EvaluateOptions, bench: Bench) -> dict[str, Any]:
    """Return what all rows of a folder have in common."""
    return {
        "version": 2,  # of the rows: those of version 1 do not say what failed on the way
        "benchmark": options.benchmark,
        "agents": [agent.describe() for agent in bench.agents],
        "model_factory": options.team.model_factory,
        "prompts": vars(bench.agents[0].prompts),
        "answer": bench.schema.name,
        **{part.name: getattr(options, part.name) for part in fields(MethodOptions)},
    }


async def prepare(
    runner: Here, validation: Sequence[Question], options: EvaluateOptions
) -> tuple[Stage, dict[str, Any], Counter[str]]:
    """Calibrate and tune on these questions.

    Returns:
        The stage to come, what it depends on, and how often each error ended a run.
    """
    runner.begin(Stage(options))
    debates = await for_each(
        validation,
        runner.debate,
        concurrency=runner.concurrency,
        label="calibration: debate",
        has_failed=lambda episode: episode is None,
    )
    calibration = runner.bench.fit_calibration(debates)
    runner.begin(Stage(options, calibration, tuning=True))
    tune_on = runner.bench, runner.run, validation, options, runner.concurrency
    options, failed = await tune(*tune_on)
    if lost := debates.count(None):
        failed["a debate for the calibration failed"] = lost
    tuned = {name: getattr(options, name) for name in ("share", "bar", "gap", "strongest")}
    return Stage(options, calibration), {**tuned, "calibration": calibration.model_dump()}, failed


async def evaluate(options: EvaluateOptions) -> tuple[dict[str, MethodResult], Counter[str]]:
    """Run every method on the test questions.

    Returns:
        The results by method, and how often each error ended a run, on validation questions too.

    Raises:
        MPDFError: An option, a file of questions or a router is wrong.
    """
    options.check()
    given, options = options, options.with_benchmark()
    names, agents = options.method_names(), options.team.agents
    routers = open_routers(options.router, options)
    select(names, routers, options, agents)  # errors now, not after an hour
    questions: list[Question] = []
    if benchmark := options.known_benchmark:
        found = load(benchmark, options.data, options.split)
        questions = _choose(found, benchmark.name, options.limit)
    bench = options.open_bench(options.out)
    with closing(bench), warnings.catch_warnings():
        # A greedy team is meant to propose the same.
        warnings.filterwarnings("ignore", "all .* agents proposed the very same", UserWarning)
        # `open_routers` has said so.
        warnings.filterwarnings("ignore", "router .* was fitted with the critic", UserWarning)
        if options.questions is not None:
            questions = read_test_questions(options.questions, bench, options.limit)
        elif isinstance(bench.schema, CodeAnswer):
            questions = leave_out_unusable(questions, bench.schema)
        keep_settings(options.out / "run.json", settings_of(options, bench), "Use another --out.")
        known = count_known(options.router, questions)
        for folder, count in known.items():
            print(
                f"warning: {folder} was fitted on {count} of these questions. Its accuracy here "
                "says nothing of others, and its gate will not say pass",
                file=sys.stderr,
            )
        async with open_runner(options, bench) as runner:
            stage = Stage(options)
            tuned: dict[str, Any] = {}
            failed: Counter[str] = Counter()
            if options.validation is not None:
                validation = read_test_questions(options.validation, bench, options.limit)
                check_apart(options.validation, validation, questions)
                stage, tuned, failed = await prepare(runner, validation, options)
                options = stage.options
            runner.begin(stage)
            methods = stage.methods(bench, routers)
            rows = Rows(options.out / "rows.jsonl", tuned)
            try:
                runs = await measure(
                    runner.run,
                    questions,
                    methods,
                    concurrency=runner.concurrency,
                    label=options.benchmark or "questions",
                    rows=rows,
                )
            finally:
                rows.close(questions)
        results = summarise_runs(runs, methods)
        write_results(options, bench, len(questions), results)
        if given.methods or not given.control:
            print("the routers' gates stay as they are: they take all methods and the controls")
        else:
            set_gates(options, runs, methods, results, untuned_because(options, failed), known)
    for where, errors in (("validation: ", failed), ("", errors_of(runs))):
        for error, count in errors.most_common(3):
            print(f"{where}failed: {count} x {error}", file=sys.stderr)
    counts = bench.samples.counts
    print(f"{counts['drawn']} samples drawn, {counts['reused']} reused; see {options.out}")
    return results, failed + errors_of(runs)


def check_apart(path: Path, validation: Sequence[Question], test: Sequence[Question]) -> None:
    """Check that nothing is tuned on the questions that it is judged on.

    Raises:
        ConfigurationError: A validation question is a test question.
    """
    if both := {*map(as_told, validation)} & {*map(as_told, test)}:
        raise ConfigurationError(f"{path}: {len(both)} of these questions are test questions too")


def untuned_because(options: EvaluateOptions, failed: Counter[str]) -> str:
    """Return why the baselines may be worse than they could be. Empty: they were tuned."""
    if options.validation is None:
        return "the baselines were not tuned: give --validation"
    if failed:
        return (
            f"{failed.total()} runs on validation questions failed, so the baselines may be tuned "
            "badly: run again"
        )
    return ""


def set_gates(
    options: EvaluateOptions,
    runs: Sequence[Runs],
    methods: Sequence[Method],
    results: Mapping[str, MethodResult],
    untuned: str,
    known: Mapping[Path, int],
) -> None:
    """Write the gate of every router into its `router.json`: each seed has its own.

    None says `pass` if the baselines are `untuned`, for that reason, or if the router was fitted on
    some of the questions (see `count_known`).
    """
    for name, folders in group_routers(options.router).items():
        pair = [method for method in methods if method.name in (name, name + CONTROL)]
        for seed, folder in enumerate(folders):
            one = [
                {method.name: [by_method[method.name][seed]] for method in pair}
                for by_method in runs
            ]
            alone = [replace(method, runs=method.runs[seed : seed + 1]) for method in pair]
            own = summarise_runs(one, alone)
            gate, evidence = decide_gate(own[name], {**results, **own})
            evidence |= {"critic": options.critic_name, "rounds": options.rounds}
            seen = known.get(folder.resolve(), 0)
            doubt = f"it was fitted on {seen} of these questions" if seen else untuned
            if gate == "pass" and doubt:
                gate = "unknown"
                evidence["why"] = doubt
            set_gate(folder, gate, evidence, drawn=options.sampled)


def count_known(routers: Sequence[Path], questions: Sequence[Question]) -> dict[Path, int]:
    """Return how many of the questions each router was fitted on, by its resolved folder.

    A question is known by what the models are told, private contexts included. A router that was
    fitted by an earlier release has no list of its questions.
    """
    asked = {hash_told(one) for one in questions}
    found = {}
    for folder in {folder.resolve() for folder in routers}:
        with suppress(OSError):
            if known := asked.intersection((folder / SEEN).read_text().split()):
                found[folder] = len(known)
    return found


def set_gate(folder: Path, gate: str, evidence: dict[str, Any], *, drawn: bool) -> None:
    """Write a router's gate, its evidence, and the mode of its measurement into `router.json`.

    The report's line of the gate says the same then. A run on too few questions takes no verdict
    back that more questions gave.
    """
    path = folder / "router.json"
    content = json.loads(path.read_text())
    if are_too_few(evidence["questions"]) and content.get("gate") in ("pass", "fail"):
        print(f"{folder}: gate stays {content['gate']}, as there are {evidence['why']}")
        return
    content |= {"gate": gate, "mode": "drawn" if drawn else "greedy"}
    content |= {"evidence": {**content.get("evidence", {}), "evaluation": evidence}}
    write_json(path, content)
    why = evidence["why"]
    replace_gate(folder, gate, f"{why}. Real runs on {evidence['questions']} questions")
    print(f"{folder}: gate {gate}, as {why}")


def main(arguments: Sequence[str]) -> int:
    """Run a command line, and return the exit code."""
    try:
        options = tyro.cli(EvaluateOptions, args=with_config(arguments), description=__doc__)
        if options.estimate:
            options.check()
            print(estimate.estimate(options))
            return 0
        results, failed = asyncio.run(evaluate(options))
        return 1 if failed or any(method.failed for method in results.values()) else 0
    except (MPDFError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def command() -> None:
    """Run the command."""
    sys.exit(main(sys.argv[1:]))
