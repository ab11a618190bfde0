"""Fits routers in known environments, and prints what they give beside the best possible policy.

    python -m training.studies.environment_table --out runs/environments
    python -m training.studies.environment_table --environments relay --algorithms softrankpo

Every seed draws its own episodes (every allowed action equally likely, 4 alternatives a turn), fits
policies on them as `training/fit_router.py` does, and plays them exactly (`known_values`). The
figures have no error but that of the fit. Where several seeds are fitted, the table gives
their mean and its 95 % interval, by Student's t: that is the variance between fits. What
`environment_sweep` chose is in `SETTINGS`. A stopped command goes on from the fits that are there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import MPDFError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.router import Router, ThresholdRouter, make_router
from training.collect.team import remembering_grader
from training.command import run_command
from training.learn.calibrate import fit_calibration, judged_of
from training.learn.dataset import load
from training.learn.display import table
from training.learn.fit_config import Algorithm
from training.learn.gains import fit_gains
from training.learn.recorded import read_recorded
from training.studies.environment_fits import Fits, Settings, remember
from training.studies.environments import ENVIRONMENTS, Environment
from training.studies.known_values import Known, Value

SETTINGS: Mapping[Algorithm, Settings] = {
    "ppo": {"clip": 0.4},
    "grpo": {"learning_rate": 3e-3},
    "awr": {"awr_temperature": 0.1},
}
"""By second stage, the settings that scored best in `environment_sweep`. Others: the defaults."""
BARS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
GAPS = (0.0, 0.05, 0.2)


@dataclass(frozen=True)
class Options:
    """Options of the table."""

    out: Path = Path("runs/environments")
    """Folder for traces and routers."""
    environments: tuple[str, ...] = tuple(ENVIRONMENTS)
    """Names of the environments."""
    algorithms: tuple[Algorithm, ...] = ("none", "softrankpo", "ppo", "grpo", "awr", "regression")
    """Second stages. `none` is SFT alone. Without any, the rules alone are measured."""
    episodes: int = 2000
    """Episodes of each fit."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of episodes and fits."""
    policy_iterations: int = 2
    """Policy iterations of the fits with fitted values."""
    batch_size: int = 128
    """Groups in a batch of the fits. It is small, as these traces are few."""


def main(options: Options) -> str:
    """Return the tables of all environments."""
    if unknown := set(options.environments) - set(ENVIRONMENTS):
        raise MPDFError(
            f"--environments: {', '.join(sorted(unknown))}: use {', '.join(ENVIRONMENTS)}"
        )
    parts = []
    for name in options.environments:
        environment = ENVIRONMENTS[name]

        def keep(title: str, play: Callable[[], Value], name: str = name) -> Value:
            return Value(*remember(options.out / name / f"{title}.json", play))

        rows = [
            [title, *_format_value(value)] for title, value in baselines(environment, keep).items()
        ]
        ruled: list[Value] = []
        found: dict[Algorithm, list[list[Value]]] = {a: [] for a in options.algorithms}
        for seed in options.seeds:  # one after another, as each is prepared once
            fits = Fits(
                environment,
                seed,
                options.out,
                episodes=options.episodes,
                policy_iterations=options.policy_iterations,
                batch_size=options.batch_size,
            )
            made = f"{options.episodes}-{seed}"
            ruled.append(keep(f"gains-{made}", partial(measure_gain_rule, fits)))
            if seed == options.seeds[0]:
                calibration = calibration_of(fits)
                prefix = f"calibrated-{made}-"
            for algorithm in options.algorithms:
                found[algorithm].append(fits.play(algorithm, SETTINGS.get(algorithm)))
        for algorithm, results in found.items():
            title = "SFT" if algorithm == "none" else algorithm
            for mode, played in zip(("greedy", "drawn"), zip(*results, strict=True), strict=True):
                rows.append([f"{title}, {mode}", *mean_over_seeds(played)])
        rows.append(["optimum", *_format_value(keep("optimum", Known(environment).optimum))])
        mended = baselines(environment, keep, calibration, prefix)  # what calibrating alone gives
        rows += [[f"{title}, calibrated", *_format_value(value)] for title, value in mended.items()]
        rows.append(["expected gain, calibrated", *mean_over_seeds(ruled)])
        best = keep(f"{prefix}optimum", Known(environment, calibration).optimum)
        rows.append(["optimum, calibrated", *_format_value(best)])
        text = table([f"{name}, price {environment.price:g}", "accuracy", "tokens", "U"], rows)
        print(text + "\n", flush=True)
        parts.append(text)
    return "\n\n".join(parts)


def baselines(
    environment: Environment,
    keep: Callable[[str, Callable[[], Value]], Value],
    calibration: Calibration | None = None,
    prefix: str = "",
) -> dict[str, Value]:
    """Return what the vote, the debate and the threshold rule tuned on U give.

    `keep` plays what has a name, or knows it. `prefix` stands before the names. Without a
    calibration, confidences are as they were recorded.
    """
    known = Known(environment, calibration)

    def play(name: str, router: Router, *, stop_when_settled: bool = True) -> Value:
        played = partial(known.value, router, stop_when_settled=stop_when_settled)
        return keep(prefix + name, played)

    rules = {
        (bar, gap): play(f"threshold-{bar}-{gap}", ThresholdRouter(bar, gap))
        for bar in BARS
        for gap in GAPS
    }
    best = max(rules, key=lambda pair: rules[pair].utility)
    return {
        "vote": play("vote", make_router("always-persist")),
        "debate": play("debate", make_router("always-refine"), stop_when_settled=False),
        f"threshold rule, tuned on U {best}": rules[best],
    }


def measure_gain_rule(fits: Fits) -> Value:
    """Return what the expected-gain rule gives, measured on the traces of the fits."""
    calibration = calibration_of(fits)
    graded = remembering_grader("choice")
    groups, _ = load(fits.traces, grader=graded, calibration=calibration, progress=False)
    gains = fit_gains(groups, calibration, fits.environment.price)
    router = ExpectedGainRouter(gains).for_team(fits.environment.agents)
    return Known(fits.environment, calibration).value(router)


def calibration_of(fits: Fits) -> Calibration:
    """Return the calibration that all traces of the fits give."""
    return fit_calibration(judged_of(read_recorded(fits.traces, remembering_grader("choice"))))


def _format_value(value: Value) -> list[str]:
    return [f"{value.accuracy:.3f}", f"{value.tokens:.0f}", f"{value.utility:.3f}"]


def mean_over_seeds(values: Sequence[Value]) -> list[str]:
    """Return means with the half width of their 95 % interval."""
    told = []
    for numbers, form in zip(zip(*values, strict=True), (".3f", ".0f", ".3f"), strict=True):
        mean, count = np.mean(numbers), len(numbers)
        if count == 1:
            told.append(f"{mean:{form}}")
            continue
        half = stats.t.ppf(0.975, count - 1) * np.std(numbers, ddof=1) / count**0.5
        told.append(f"{mean:{form}} ± {half:{form}}")
    return told


if __name__ == "__main__":
    run_command(
        main, Options, __doc__, "stopped; the same command goes on from the fits that are there"
    )
