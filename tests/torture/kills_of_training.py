"""Fits and evaluations, killed at random moments: what they give must be as if they never were."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.support import riddles
from tests.support.nursery import Nursery, nursery
from tests.support.scripted import Scripted
from tests.support.synthetic import synthetic_episodes
from tests.support.written import write_traces
from tests.torture.table import Row, timed
from training.evaluate import evaluation
from training.learn import fitting
from training.learn.fit_config import Config

Progress = Callable[[str], None]


def fit_again(folder: Path) -> None:
    """Fit, or go on with a fit. The export is left out, as it writes once and takes long."""
    setattr(fitting, "export_router", lambda *_, **__: {})  # noqa: B010
    config = Config(
        traces=(folder / "traces",), out=folder / "out", sft_epochs=4, epochs=4, batch_size=64,
        learning_rate=3e-3, threads=1, values="one-step", resume=(folder / "out").exists(),
    )  # fmt: skip
    fitting.fit(config)


def result_of_fit(folder: Path) -> Any:
    """What a fit has logged: the losses and scores of every epoch."""
    return [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]


def riddler() -> Scripted:
    """A model of riddles that takes its time."""
    return Scripted(reply=riddles.solve, logprob=-0.3, model_name="riddler", delay=0.004)


def evaluate_again(folder: Path) -> None:
    """Evaluate three methods on riddles, or go on with it."""
    words = [
        "--questions", folder / "test.jsonl", "--out", folder / "out", "--concurrency", 4,
        "--model-factory", f"{__name__}:riddler", "--rounds", 2, "--critic", "logprob",
        "--methods", "vote-3", "debate-1", "threshold",
    ]  # fmt: skip
    if evaluation.main([str(word) for word in words]) != 0:
        raise RuntimeError("the evaluation failed")


def result_of_evaluation(folder: Path) -> Any:
    """Which questions each method has answered rightly, and how many rows there are."""
    lines = (folder / "out" / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return sorted(
        (row["id"], method, [run["right"] for run in runs])
        for row in rows
        for method, runs in row["methods"].items()
    )


def compare(
    row: Row,
    work: Callable[[Path], None],
    result: Callable[[Path], Any],
    folder: Path,
    kills: int,
    progress: Progress,
) -> None:
    """Kill some work until it has been killed so often, as many times anew as it takes.

    Its result must always be that of work that was left alone.
    """
    draw = Random(time.time_ns())
    with nursery(work, folder) as place:
        began = time.monotonic()
        _finish(row, place)
        whole = time.monotonic() - began
        expected = None if row.foreign else result(folder)
        while row.attempts < kills and not row.foreign:
            shutil.rmtree(folder / "out")
            for _ in range(10):
                worker = place.start()
                time.sleep(draw.uniform(0.02, whole / 3))
                status = place.kill(worker)
                row.attempts += status == -signal.SIGKILL
                if status != -signal.SIGKILL:
                    row.foreign += status != 0
                    break
            _finish(row, place)
            row.disagreeing += bool(row.foreign) or result(folder) != expected
            progress(f"{row.attempts} of {kills} kills")


def _finish(row: Row, place: Nursery) -> None:
    if place.wait(place.start()) != 0:
        row.foreign += 1
        row.note((place.folder / "worker.log").read_text(errors="replace")[-400:])


def fits(scale: float, folder: Path, progress: Progress) -> Row:
    """Kill fits."""
    with timed(Row("kill: fit")) as row:
        write_traces(folder / "traces", synthetic_episodes(60))
        compare(row, fit_again, result_of_fit, folder, round(60 * scale), progress)
    return row


def evaluations(scale: float, folder: Path, progress: Progress) -> Row:
    """Kill evaluations."""
    with timed(Row("kill: evaluate")) as row:
        folder.mkdir(parents=True, exist_ok=True)
        riddles.questions(folder / "test.jsonl", "AB" * 8)
        kills = round(60 * scale)
        compare(row, evaluate_again, result_of_evaluation, folder, kills, progress)
    return row


KILLS_OF_TRAINING = {"fits": fits, "evaluations": evaluations}
