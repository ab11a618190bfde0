"""Many fits side by side, none of them twice: each has a folder by a hash of all it depends on."""

import hashlib
import json
import re
import traceback
from collections.abc import Iterable, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import MPDFError, describe_error
from mpdf_langgraph.observation import FEATURE_VERSION, INDEX
from mpdf_langgraph.traces.reader import find_segments
from mpdf_langgraph.traces.records import Episode
from training.collect.pool import make_pool
from training.learn import fitting, stages
from training.learn.dataset import Groups
from training.learn.fit_config import Algorithm, Config
from training.learn.policy import Policy
from training.learn.report import FORMAT
from training.learn.tensors import log_probabilities, set_competence, to_data
from training.studies import raw_text

#: Begins the name of a fitted method.
LEARNED = "learned"
#: Options of a fit that change nothing in what comes out.
_APART = ("traces", "labels", "out", "resume", "threads", "device")


@dataclass(frozen=True)
class Changes:
    """What an ablation changes in a fit beside its options.

    Attributes:
        reward_scale: Multiplies all rewards.
        hard_labels: SFT learns the best action alone.
        hidden: Features that the policy does not see, of an agent's own and of its peers.
        blind: The policy does not see the peers' features.
        raw_text: The policy sees texts instead of the structured state.
    """

    reward_scale: float = 1.0
    hard_labels: bool = False
    hidden: tuple[str, ...] = ()
    blind: bool = False
    raw_text: bool = False


def _digest(path: Path) -> str:
    """Return a hash of a file. An unchanged file is read once."""
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Fit:
    """One fit that is wanted.

    Attributes:
        config: Its options. `out` is the folder that all fits lie in.
        changes: What it changes beside them.
    """

    config: Config
    changes: Changes = field(default_factory=Changes)

    @property
    def folder(self) -> Path:
        """The router's folder: what differs from the defaults, then the hash."""
        default = vars(Config(traces=())) | asdict(Changes())
        changed = [
            f"{name}-{value}" for name, value in self._options().items() if value != default[name]
        ]
        name = re.sub(r"[^\w.-]+", "-", "_".join(changed))[:60]
        return self.config.out / f"{name}_{self.key}".lstrip("_")

    def _options(self) -> dict[str, Any]:
        options = {k: v for k, v in vars(self.config).items() if k not in _APART}
        return options | asdict(self.changes)

    @property
    def key(self) -> str:
        """A hash of what the router depends on: options, and the traces by name and content."""
        labels = self.config.labels
        content = {
            "options": self._options(),
            "traces": [[p.name, _digest(p)] for p in find_segments(self.config.traces)],
            "labels": hashlib.sha256(labels.read_bytes()).hexdigest() if labels else None,
            "features": [FORMAT, FEATURE_VERSION],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def done(self) -> bool:
        """It is there already."""
        return (self.folder / "router.json").exists()

    def view(
        self, groups: Groups, competence: Mapping[str, float], traces: Iterable[Path]
    ) -> Groups:
        """Return groups, as loaded with the fit's calibration, as the policy sees them.

        A feature that is always 0 has no spread, and the policy ignores it for good: the router of
        an ablation stays blind to it when it runs. `traces` have the texts.
        """
        if self.changes.raw_text:
            return raw_text.featurise(groups, traces)
        seen = set_competence(groups, competence)
        for name in self.changes.hidden:
            seen.own[:, INDEX[name]] = seen.peers[:, :, INDEX[name]] = 0.0
        return replace(seen, peers=np.zeros_like(seen.peers)) if self.changes.blind else seen

    def run(self) -> str | None:
        """Fit, from an interrupted run's checkpoints if there are any. It prints to fit.log.

        Return None, or why there is no router.
        """
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        config = replace(self.config, out=folder, resume=True)
        with (folder / "fit.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                fitting.fit(
                    config,
                    reward_scale=self.changes.reward_scale,
                    hard_labels=self.changes.hard_labels,
                    view=lambda groups, known: self.view(groups, known, config.traces),
                )
            except MPDFError as error:
                print(f"error: {error}")
                return str(error)
            except OSError as error:
                traceback.print_exc()
                return describe_error(error)
        return None


def run_fits(fits: Iterable[Fit], jobs: int) -> dict[str, str]:
    """Run the fits that are not there yet, each once, with a progress bar.

    With one job they run in this process. Return why there is no router, by the key of each fit
    that failed.

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
        # After a stop, the checkpoints are good for the epochs done.
        with make_pool(jobs) as pool:
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


def must_fit(fits: Iterable[Fit], jobs: int) -> None:
    """Run the fits, as `run_fits` does.

    Raises:
        MPDFError: A fit failed.
    """
    if failed := run_fits(fits, jobs):
        raise MPDFError(f"a fit failed: {next(iter(failed.values()))}")


def learned_name(algorithm: Algorithm) -> str:
    """Return the name of a fitted method in a table."""
    return f"{LEARNED}, {'SFT alone' if algorithm == 'none' else algorithm}"


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Write episodes into one file, which fits can read."""
    path.write_bytes(b"".join(episode.to_json() + b"\n" for episode in episodes))


class FinishedFit:
    """A finished fit.

    Attributes:
        fit: Which.
        manifest: The content of its ``router.json``.
        calibration: Calibration of the confidences that it was fitted on.
        policy: The network that its ``policy.onnx`` was made from.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.manifest: Mapping[str, Any] = json.loads((fit.folder / "router.json").read_text())
        self.calibration = Calibration.model_validate(self.manifest["calibration"])
        config = fit.config
        second = stages.stage_name(config.algorithm, config.cost, config.iterations)
        stage = "sft" if config.algorithm == "none" else second
        weights = torch.load(fit.folder / "checkpoints" / f"{stage}.pt", weights_only=True)
        features = raw_text.BUCKETS if fit.changes.raw_text else len(INDEX)
        self.policy = Policy(features, width=config.width)
        self.policy.load_state_dict(weights["best_policy"])

    def probabilities(self, groups: Groups, traces: Iterable[Path]) -> NDArray[np.float64]:
        """Return what it would do, as the router draws: probabilities ``[G, 3]`` of the actions."""
        seen = self.fit.view(groups, self.manifest["competence"], traces)
        logs = log_probabilities(self.policy, to_data(seen, self.fit.config, 0.0)).double()
        return np.asarray((logs / self.manifest["temperature"]).softmax(-1).numpy())
