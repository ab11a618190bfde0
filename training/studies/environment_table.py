"""Fits routers in known environments, and prints what they give beside the best possible policy.

    python -m training.studies.environment_table --out runs/environments
    python -m training.studies.environment_table --environments relay --algorithms softrankpo

Every seed draws its own episodes (every allowed action equally likely, 4 alternatives a turn), fits
a router on them as `training/fit_router.py` does, and plays it exactly (`known_values`). The
figures have no error but that of the fit. Where several seeds are fitted, the table gives
their mean and its 95 % interval, by Student's t: that is the variance between fits. A fit that is
there already is not repeated.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from scipy import stats

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import MPDFError
from mpdf_langgraph.expected_gain import ExpectedGainRouter
from mpdf_langgraph.learned_router import load_router
from mpdf_langgraph.router import ThresholdRouter, make_router
from training.collect.team import answer_schema, grader
from training.learn.calibrate import fit_calibration, read_judged
from training.learn.dataset import load
from training.learn.fit_config import Algorithm, Config
from training.learn.fitting import fit
from training.learn.gains import fit_gains
from training.learn.report import table
from training.studies.environment_episodes import episodes
from training.studies.environments import ENVIRONMENTS, Environment
from training.studies.known_values import Known, Value, known_to

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
    values: tuple[str, ...] = ("one-step", "fitted")
    """What a move is worth to the group, see `fit_router.py`."""
    episodes: int = 2000
    """Episodes of each fit."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of episodes and fits."""
    policy_iterations: int = 2
    """Policy iterations of the fits with fitted values."""
    batch_size: int = 128
    """Groups in a batch of the fits. It is small, as these traces are few."""
    reward_scale: float = 1.0
    """Multiplies all rewards of the fits."""


def main(options: Options) -> str:
    """Return the tables of all environments.

    Raises:
        MPDFError: A fit failed, or an environment is not known.
    """
    if unknown := set(options.environments) - set(ENVIRONMENTS):
        raise MPDFError(
            f"--environments: {', '.join(sorted(unknown))}: use {', '.join(ENVIRONMENTS)}"
        )
    parts = []
    for name in options.environments:
        environment = ENVIRONMENTS[name]
        rows = [[title, *_format_value(value)] for title, value in baselines(environment).items()]
        calibration: Calibration | None = None
        for values in options.values:
            for algorithm in options.algorithms:
                both = [
                    _measure_fit(environment, options, algorithm, values, s) for s in options.seeds
                ]
                calibration = both[0].calibration
                title = f"{'SFT' if algorithm == 'none' else algorithm}, {values}"
                for mode in ("greedy", "drawn"):
                    told = _over_seeds([getattr(one, mode) for one in both])
                    rows.append([f"{title}, {mode}", *told])
        rows.append(["optimum", *_format_value(Known(environment).optimum())])
        ruled = [_measure_gain_rule(environment, options, seed) for seed in options.seeds]
        if calibration is None:
            calibration = _fit_calibration(environment, options, options.seeds[0])
        mended = baselines(environment, calibration)  # what calibrating alone gives
        rows += [[f"{title}, calibrated", *_format_value(value)] for title, value in mended.items()]
        rows.append(["expected gain, calibrated", *_over_seeds(ruled)])
        best = Known(environment, calibration).optimum()
        rows.append(["optimum, calibrated", *_format_value(best)])
        text = table([f"{name}, price {environment.price:g}", "accuracy", "tokens", "U"], rows)
        print(text, flush=True)
        parts.append(text)
    return "\n\n".join(parts)


def baselines(environment: Environment, calibration: Calibration | None = None) -> dict[str, Value]:
    """Return what the vote, the debate and the threshold rule tuned on U give."""
    known = Known(environment, calibration)
    rules = {(bar, gap): known.value(ThresholdRouter(bar, gap)) for bar in BARS for gap in GAPS}
    best = max(rules, key=lambda pair: rules[pair].utility)
    return {
        "vote": known.value(make_router("always-persist")),
        "debate": known.value(make_router("always-refine"), stop_when_settled=False),
        f"threshold rule, tuned on U {best}": rules[best],
    }


def _measure_gain_rule(environment: Environment, options: Options, seed: int) -> Value:
    """Return what the expected-gain rule gives, measured on the traces of the fits."""
    traces = _draw_traces(environment, options, seed)
    calibration = _fit_calibration(environment, options, seed)
    graded = grader(answer_schema("choice"))
    groups, _ = load(traces, grader=graded, calibration=calibration, progress=False)
    gains = fit_gains(groups, calibration, environment.price)
    router = ExpectedGainRouter(gains).for_team(environment.agents)
    return Known(environment, calibration).value(router)


def _fit_calibration(environment: Environment, options: Options, seed: int) -> Calibration:
    traces = _draw_traces(environment, options, seed)
    return fit_calibration(read_judged(traces, grader(answer_schema("choice"))))


class _FitValues(NamedTuple):
    greedy: Value
    drawn: Value
    calibration: Calibration


def _measure_fit(
    environment: Environment, options: Options, algorithm: Any, values: Any, seed: int
) -> "_FitValues":
    """Return what a fitted router gives."""
    traces = _draw_traces(environment, options, seed).parent
    changed = f"{options.policy_iterations}-{options.batch_size}-{options.reward_scale:g}"
    out = traces / f"{algorithm}-{values}-{changed}"
    if not (out / "router.json").exists():
        out.mkdir(exist_ok=True)
        with (out / "fit.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            fit(
                Config(
                    traces=(traces / "traces.jsonl",),
                    out=out,
                    answer="choice",
                    algorithm=algorithm,
                    values=values,
                    policy_iterations=options.policy_iterations if values == "fitted" else 1,
                    cost=environment.price,
                    batch_size=options.batch_size,
                    seed=seed,
                ),
                reward_scale=options.reward_scale,
            )
    with warnings.catch_warnings(action="ignore"):  # measuring is what is done here
        routers = [load_router(out, greedy=greedy) for greedy in (True, False)]
    greedy, drawn = (known_to(environment, router).value(router) for router in routers)
    found = {"greedy": greedy._asdict(), "drawn": drawn._asdict()}
    (out / "known.json").write_text(json.dumps(found, indent=1) + "\n")
    return _FitValues(greedy, drawn, routers[0].calibration)


def _draw_traces(environment: Environment, options: Options, seed: int) -> Path:
    """Return the traces to learn from. They are drawn if they are not there yet."""
    folder = options.out / f"{environment.name}-{options.episodes}-{seed}"
    if not (folder / "traces.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "traces.tmp"
        lines = (e.to_json() for e in episodes(environment, options.episodes, seed=seed))
        draft.write_bytes(b"".join(b"\n" + line for line in lines))
        draft.replace(folder / "traces.jsonl")
    return folder / "traces.jsonl"


def _format_value(value: Value) -> list[str]:
    return [f"{value.accuracy:.3f}", f"{value.tokens:.0f}", f"{value.utility:.3f}"]


def _over_seeds(values: Sequence[Value]) -> list[str]:
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
    try:
        main(tyro.cli(Options, description=__doc__))
    except (MPDFError, OSError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the fits that are there")
