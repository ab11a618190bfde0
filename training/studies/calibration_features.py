"""Does the surest first proposal of the same answer belong into the calibration? Cross-validation.

    python -m training.studies.calibration_features --traces traces/ --out runs/calibration

The calibration of `fit_router.py` reads the critic's confidence in a response alone. A second
feature is that in the surest first proposal of the same answer. Both are logistic curves here, one
for proposals and one for refined responses, fitted on the other folds. They are compared on single
responses, and on what the teams held in the end: the answer with the most summed confidence, and
the greatest confidence in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mpdf_langgraph import Episode, TraceReader
from mpdf_langgraph.calibration import STAGES, log_odds, raw_confidence, stage_of
from mpdf_langgraph.consensus import Vote, confidence_weighted
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import Response
from training.collect.team import remembering_grader
from training.command import run_command, write_results
from training.learn.display import table
from training.learn.measures import fit_logistic, mean_interval, quality
from training.learn.recalibrate import holdings
from training.learn.rewards import Grader

Array = NDArray[np.float64]

FEATURES = {"own confidence": [0, 1], "and the surest first proposal's": [0, 1, 2, 3]}
"""Columns of each calibration."""
SPREAD = 10.0
"""Standard deviation of the prior of every weight."""


@dataclass
class FeatureOptions:
    """Options of the comparison."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments)."""
    out: Path = Path("runs/calibration")
    """Folder for `results.md`."""
    answer: Literal["math", "choice", "text"] = "math"
    """How answers are compared with references."""
    folds: int = 5
    """Parts that the questions are split into."""


def _confidence(response: Response) -> float | None:
    known = response["critique"] and raw_confidence(response["critique"])
    return None if known is None or response["cluster"] is None else known


class Judged:
    """The responses to a question that have a confidence.

    Attributes:
        ends: What every agent held in the end.
        rows: By id: 1, the log-odds of its own confidence, those of the surest first proposal of
            its answer, and whether there is none, ``[4]``.
        right: By id, whether it is right.
        stage: By id.
    """

    def __init__(self, episode: Episode, right: Grader) -> None:
        self.ends = holdings(episode)[-1]
        sure = {i: c for i, r in episode.responses.items() if (c := _confidence(r)) is not None}
        responses = {i: episode.responses[i] for i in sure}
        first: dict[int | None, float] = {}
        for i, response in responses.items():
            if response["round"] == 0:
                cluster = response["cluster"]
                first[cluster] = max(sure[i], first.get(cluster, 0.0))
        self.rows: dict[str, list[float]] = {}
        for i, response in responses.items():
            known = first.get(response["cluster"])
            surest = 0.0 if known is None else log_odds(known)
            self.rows[i] = [1.0, log_odds(sure[i]), surest, float(known is None)]
        truth = str(episode.reference)
        self.right = {i: right(str(r["answer"]), truth) for i, r in responses.items()}
        self.stage = {i: stage_of(r) for i, r in responses.items()}

    def decide(self, confidence: dict[str, float]) -> tuple[float, bool] | None:
        """Return the team's confidence in its answer, and whether that is right."""
        held = {n: r for n, r in self.ends.items() if r is not None and r["id"] in confidence}
        votes = [Vote(n, r["cluster"], confidence[r["id"]]) for n, r in held.items()]
        winner = confidence_weighted(votes)
        mine = [r["id"] for r in held.values() if r["cluster"] == winner]
        if not mine:
            return None
        return max(confidence[i] for i in mine), self.right[mine[0]]


def calibrate(
    judged: Sequence[Judged], fold: NDArray[np.int64], columns: list[int]
) -> list[dict[str, float]]:
    """Return the calibrated confidence of all responses, by question and id."""
    found: list[dict[str, float]] = [{} for _ in judged]
    for stage in STAGES:
        keys = [(q, i) for q, one in enumerate(judged) for i in one.rows if one.stage[i] == stage]
        if not keys:
            continue
        x = np.array([judged[q].rows[i] for q, i in keys])[:, columns]
        y = np.array([judged[q].right[i] for q, i in keys], float)
        place = fold[[q for q, _ in keys]]
        for k in np.unique(place):
            weights = fit_logistic(x[place != k], y[place != k], np.full(len(columns), SPREAD))
            for row in np.flatnonzero(place == k).tolist():
                question, response = keys[row]
                found[question][response] = float(expit(x[row] @ weights))
    return found


def compare(options: FeatureOptions) -> str:
    """Compare the calibrations, write the table, and return it."""
    right = remembering_grader(options.answer)
    episodes = [e for path in options.traces for e in TraceReader(path) if e.reference is not None]
    number = {q: i for i, q in enumerate(dict.fromkeys(e.question for e in episodes))}
    if options.folds < 2 or len(number) < 10 * options.folds:
        raise ConfigurationError(f"{len(number)} questions are too few for {options.folds} folds")
    judged = [Judged(episode, right) for episode in episodes]
    places = np.random.default_rng(0).permutation(len(number)) % options.folds
    question = np.array([number[e.question] for e in episodes])
    rows, losses = [], dict[str, Array]()
    for name, columns in FEATURES.items():
        confidence = calibrate(judged, places[question], columns)
        parts: dict[str, list[tuple[float, bool, int]]] = {stage: [] for stage in STAGES}
        parts["the team in the end"] = []
        for one, told, q in zip(judged, confidence, question.tolist(), strict=True):
            for i, p in told.items():
                parts[one.stage[i]].append((p, one.right[i], q))
            if (end := one.decide(told)) is not None:
                parts["the team in the end"].append((*end, q))
        for part, found in parts.items():
            if not found:
                continue
            p, y, of = np.array(found, float).T
            loss = -np.log(np.clip(np.where(y > 0, p, 1 - p), 1e-4, 1))
            against = mean_interval(loss - losses.setdefault(part, loss), of)
            q = quality(p, y)
            figures = [f"{q[key]:.3f}" for key in ("auroc", "ece", "log_loss")]
            gap = "=" if losses[part] is loss else against.short(digits=3)
            rows.append([part, name, f"{y.mean():.3f}", *figures, gap, len(y)])
    heading = ["of", "calibration", "right", "AUROC", "ECE", "log-loss", "against own", "n"]
    rows.sort(key=lambda row: [*STAGES, "the team in the end"].index(str(row[0])))
    text = f"{len(number)} questions, {options.folds} folds.\n\n{table(heading, rows)}\n"
    write_results(options.out, text)
    return text


if __name__ == "__main__":
    run_command(compare, FeatureOptions, __doc__)
