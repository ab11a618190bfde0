"""Tunes the baselines on validation questions, so that they are at their best."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mpdf_langgraph import ThresholdRouter
from training.collect.questions import Question
from training.evaluate.bench import VOTES, Bench
from training.evaluate.methods import Method, on_pool, router_methods
from training.evaluate.options import EvaluateOptions
from training.evaluate.rows import RunMethods, errors_of, measure, summarise_runs
from training.evaluate.votes import adaptive, member, vote
from training.learn.display import table

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares at which adaptive resampling may stop, to try on the validation questions."""


def tried_methods(bench: Bench, options: EvaluateOptions) -> dict[str, dict[Any, Method]]:
    """Return the methods to try, by option and value."""
    team = len(bench.agents)
    tried: dict[str, dict[Any, Method]] = {"share": {}, "strongest": {}, "bar, gap": {}}
    for share in SHARES:
        tried["share"][share] = on_pool(f"share {share:g}", adaptive(share), max(VOTES))
    for k in range(team):
        name = f"{bench.agents[k].name} alone"
        tried["strongest"][k + 1] = on_pool(name, member(k, team, vote(1)), team)
    for bar in options.bars:
        for gap in options.gaps:
            name = f"threshold {bar:g}, {gap:g}"
            router = {name: ThresholdRouter(bar=bar, gap=gap)}
            [method] = router_methods(name, router, "baseline", options, control=False)
            tried["bar, gap"][bar, gap] = method
    return tried


async def tune(
    bench: Bench,
    run: RunMethods,
    questions: Sequence[Question],
    options: EvaluateOptions,
    concurrency: int,
) -> tuple[EvaluateOptions, Counter[str]]:
    """Tune `share`, `bar`, `gap` and `strongest` on these questions.

    The most accurate value counts, and the one with the fewest tokens at a tie.

    Returns:
        The options, and how often each error ended a run. These runs count as wrong.
    """
    tried = tried_methods(bench, options)
    methods = [method for those in tried.values() for method in those.values()]
    runs = await measure(run, questions, methods, concurrency=concurrency, label="validation")
    found = summarise_runs(runs, methods)
    results = {
        option: {value: found[method.name] for value, method in those.items()}
        for option, those in tried.items()
    }

    def best(option: str) -> Any:
        those = results[option]
        return max(those, key=lambda value: (those[value].accuracy, -those[value].tokens.mean()))

    lines = [
        [
            f"{bar:g}, {gap:g}",
            f"{m.accuracy:.3f} ± {m.standard_error:.3f}",
            f"{m.tokens.mean():.0f}",
        ]
        for (bar, gap), m in results["bar, gap"].items()
    ]
    share, (bar, gap) = best("share"), best("bar, gap")
    print(table(["threshold's bar, gap", "accuracy ± s.e.", "tokens"], lines))
    print(f"tuned on {len(questions)} validation questions: share {share:g}, bar, gap {(bar, gap)}")
    alone = (
        f"{m.name.removesuffix(' alone')} {m.accuracy:.3f}" for m in results["strongest"].values()
    )
    print(f"first proposals alone: {', '.join(alone)}")
    tuned = replace(options, share=share, bar=bar, gap=gap, strongest=best("strongest"))
    return tuned, errors_of(runs)
