"""Many fits side by side, none of them twice: each has a folder by a hash of all it depends on."""

import hashlib
import json
import re
import signal
import traceback
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import MPDFError, describe_error
from mpdf_langgraph.observation import FEATURE_VERSION
from mpdf_langgraph.traces.reader import find_segments
from training.learn import fitting
from training.learn.dataset import Groups
from training.learn.fit_config import Config
from training.learn.report import FORMAT
from training.learn.tensors import prepare
from training.studies import raw_text

#: Options of a fit that change nothing in what comes out.
_APART = ("traces", "labels", "out", "resume", "threads", "device")
_CHUNK = 65_536


@dataclass(frozen=True)
class Fit:
    """One fit that is wanted.

    Attributes:
        config: Its options; `out` is the folder that all fits lie in.
        raw_text: The policy sees texts instead of the structured state.
    """

    config: Config
    raw_text: bool = False

    @property
    def folder(self) -> Path:
        """The router's folder: what differs from the defaults, then the hash."""
        default = Config(traces=())
        changed = [
            f"{name}-{value}"
            for name, value in vars(self.config).items()
            if name not in _APART and value != getattr(default, name)
        ]
        told = "_".join([*changed, *["raw_text"] * self.raw_text])
        told = re.sub(r"[^\w.-]+", "-", told)[:60]
        return self.config.out / f"{told}_{self.key}".lstrip("_")

    @property
    def key(self) -> str:
        """A hash of what the router depends on: options, and the traces by name and size."""
        options = {k: v for k, v in vars(self.config).items() if k not in _APART}
        labels = self.config.labels
        content = {
            "options": options,
            "traces": [[p.name, p.stat().st_size] for p in find_segments(self.config.traces)],
            "labels": hashlib.sha256(labels.read_bytes()).hexdigest() if labels else None,
            "raw text": self.raw_text,
            "features": [FORMAT, FEATURE_VERSION],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def done(self) -> bool:
        """It is there already."""
        return (self.folder / "router.json").exists()

    def run(self) -> str | None:
        """Fit, going on from an interrupted run's checkpoints; what it prints goes to fit.log.

        Returns:
            None, or why there is no router.
        """
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        config = replace(self.config, out=folder, resume=True)
        with (folder / "fit.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                with _seen_as(raw_text.view if self.raw_text else prepare):
                    fitting.fit(config)
            except MPDFError as error:
                print(f"error: {error}")
                return str(error)
            except OSError as error:
                traceback.print_exc()
                return describe_error(error)
        return None


@contextmanager
def _seen_as(view: Any) -> Any:
    """Let `fitting.fit` see groups through another function than `prepare`."""
    usual = fitting.prepare
    fitting.prepare = view
    try:
        yield
    finally:
        fitting.prepare = usual


def run_all(fits: Iterable[Fit], jobs: int) -> dict[str, str]:
    """Run the fits that are not there yet, with a progress bar.

    Args:
        fits: Those that are wanted; the same one may be wanted often.
        jobs: Processes side by side; with 1 they run in this one.

    Returns:
        Why there is no router, by the key of each fit that failed.

    Raises:
        MPDFError: The process of a fit was killed.
    """
    wanted = {fit.key: fit for fit in fits}
    todo = {key: fit for key, fit in wanted.items() if not fit.done}
    failed: dict[str, str] = {}
    with tqdm(total=len(wanted), initial=len(wanted) - len(todo), desc="fits", unit="fit") as bar:

        def note(key: str, problem: str | None) -> None:
            if problem is not None:
                failed[key] = problem
                bar.write(f"{todo[key].folder.name}: {problem}")
            bar.update()

        if jobs == 1 or len(todo) < 2:
            for key, fit in todo.items():
                bar.set_postfix_str(fit.folder.name)
                note(key, fit.run())
            return failed
        # A stop (Ctrl-C reaches all of them) ends the processes at once and in silence: their
        # checkpoints are good for the epochs done.
        stop = (signal.SIGINT, signal.SIG_DFL)
        with ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=signal.signal, initargs=stop
        ) as pool:
            try:
                running = {pool.submit(fit.run): key for key, fit in todo.items()}
                for future in as_completed(running):
                    note(running[future], future.result())
            except BrokenProcessPool as error:
                raise MPDFError(
                    "the process of a fit was killed, as happens where memory runs out: try a "
                    "smaller --jobs; the same command goes on from here"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return failed


class Fitted:
    """A finished fit.

    Attributes:
        fit: Which.
        manifest: What its ``router.json`` says.
        calibration: Of the confidences that it was fitted on.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.manifest: Mapping[str, Any] = json.loads((fit.folder / "router.json").read_text())
        self.calibration = Calibration.model_validate(self.manifest["calibration"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            (fit.folder / "policy.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, groups: Groups, traces: Iterable[Path]) -> NDArray[np.float64]:
        """Return what it would do.

        Args:
            groups: As `dataset.load` gives them with the fit's calibration.
            traces: Where they come from, for the texts.

        Returns:
            Probabilities of the three actions, ``[G, 3]``.
        """
        if self.fit.raw_text:
            seen = raw_text.featurise(groups, traces)
        else:
            seen = prepare(groups, self.fit.config, dict(self.manifest["competence"]))
        arrays = {
            "own": seen.own,
            "peers": seen.peers,
            "peer_mask": seen.peer_mask,
            "action_mask": seen.action_mask,
        }
        parts = [np.zeros((0, 3))]
        for start in range(0, len(groups), _CHUNK):
            given = {name: array[start : start + _CHUNK] for name, array in arrays.items()}
            parts.append(self._session.run(None, given)[0].astype(np.float64))
        logs = np.concatenate(parts) / self.manifest["temperature"]
        powers = np.exp(logs - logs.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
