"""The files of an evaluation: tables, figures and a plot."""

from collections.abc import Mapping
from typing import Any

from training.collect.files import write_json
from training.evaluate.bench import Bench
from training.evaluate.compare import (
    MethodResult,
    accuracy_interval,
    describe_failures,
    difference,
    intervals_table,
    plot,
    results_table,
)
from training.evaluate.options import EvaluateOptions
from training.learn.measures import Interval
from training.learn.off_policy import to_plain


def write_results(
    options: EvaluateOptions, bench: Bench, questions: int, results: Mapping[str, MethodResult]
) -> None:
    """Write `results.md`, `results.json` and `tokens.png`, and print the tables."""
    methods = list(results.values())
    caption = _caption(options, bench, questions, methods)
    gains = {method.name: difference(method, methods[0]) for method in methods}
    text = f"{results_table(methods)}\n\n{intervals_table(methods, gains)}\n\n{caption}\n"
    (options.out / "results.md").write_text(text)
    team = {**vars(options.team), "api_key": None}
    content = {
        "questions": questions,
        "caption": caption,
        "options": {**vars(options), "team": team},
        "tuned": {name: getattr(options, name) for name in ("share", "bar", "gap", "strongest")},
        "methods": to_plain({name: _figures(m, results, gains) for name, m in results.items()}),
    }
    write_json(options.out / "results.json", content)
    plot(options.out / "tokens.png", methods)
    print(text)


def _figures(
    method: MethodResult, results: Mapping[str, MethodResult], gains: Mapping[str, Interval]
) -> dict[str, Any]:
    def plain_interval(interval: Interval) -> list[float]:
        return [interval.mean, interval.low, interval.high]

    first = next(iter(results))
    figures = {
        "accuracy": method.accuracy,
        "standard_error": method.standard_error,
        "interval": plain_interval(accuracy_interval(method))[1:],
        f"against {first}": plain_interval(gains[method.name]),
        "tokens": float(method.tokens.mean()),
        "calls": float(method.calls.mean()),
        "kind": method.kind,
        "runs": method.runs,
        "failed": method.failed,
        "survived": method.survived,
        "spread": method.spread,
        "actions": method.actions,
        "confidence": method.confidence,
    }
    if method.kind == "learned":
        figures["minus"] = {
            name: plain_interval(difference(method, other))
            for name, other in results.items()
            if name != method.name
        }
    return figures


def _caption(
    options: EvaluateOptions, bench: Bench, questions: int, methods: list[MethodResult]
) -> str:
    source = options.benchmark or (options.questions.name if options.questions else "")
    models = dict.fromkeys(str(agent.describe()["model"]) for agent in bench.agents)
    how = "as it comes" if options.validation is None else "tuned on validation questions"
    text = (
        f"{questions} questions ({source}), {options.team.agents} agents ({', '.join(models)}), up "
        f"to {options.rounds} rounds, temperature {options.team.temperature:g}, critic "
        f"{options.critic}, consensus {options.consensus}, seed {options.seed}. Intervals are "
        "95 %: Wilson's over questions for accuracies, paired bootstrap over questions for "
        "differences, both widened by what the fits of a method differ beyond that. Tokens "
        "are prompt + completion per question, the critic's included where a method reads "
        "confidences for more than ties. Failed questions count as "
        "wrong. Calibration error is that of the confidence in the answer. Threshold router, "
        f"{how}: bar {options.bar:g}, gap {options.gap:g}. Adaptive resampling, {how}: stops at a "
        f"share of {options.share:g}."
    )
    kinds = {method.kind for method in methods}
    if "control" in kinds:
        text += (
            " The control of a router takes its decisions, with a fresh proposal for every REFINE, "
            "at the refinements' sampling."
        )
    if any(method.name == "DyLAN" for method in methods):
        text += (
            " DyLAN keeps the two agents that did best, as its paper means it (the authors' code "
            "keeps others). The critic's confidence ranks them."
        )
    if options.team.mixed:
        text += f" Strongest agent, {how}: {bench.agents[options.strongest - 1].name}."
    if untold := [f"{m.name} {m.unreported}" for m in methods if m.unreported]:
        text += f" **Calls without token counts, so the tokens are too low: {', '.join(untold)}.**"
    return f"{text} {describe_failures(methods) or 'Nothing failed.'}"
