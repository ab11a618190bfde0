"""Fits in a known environment that share what can be shared, each played exactly.

All fits of one seed have the same episodes, the same calibration and the same SFT policy. So they
are prepared once, and every algorithm costs its second stage alone. What a fit gave is kept in a
file, and a stopped command goes on from there.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpdf_langgraph.learned_router import pad
from mpdf_langgraph.state import Observation
from training.collect.files import atomic_write
from training.learn.checkpoints import Log
from training.learn.fit_config import Algorithm, Config
from training.learn.fitting import fit_second_stage, fit_sft
from training.learn.lessons import Lessons, prepare
from training.learn.policy import Policy
from training.learn.tensors import decisions_of, to_data
from training.studies.environment_episodes import episodes
from training.studies.environments import Environment
from training.studies.known_values import Known, Value

Settings = Mapping[str, float]
"""Options of the second stage by name, as in `Config`."""


def remember(path: Path, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, plain data, or what it returned before: it is kept in a file."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft:
            draft.write_text(json.dumps(found, default=float) + "\n")
    return json.loads(path.read_text())


class Fits:
    """The fits of one environment and seed. `options` are more options of `Config`.

    Traces and results are kept in `folder`.
    """

    def __init__(
        self,
        environment: Environment,
        seed: int,
        folder: Path,
        *,
        episodes: int = 2000,
        **options: Any,
    ) -> None:
        self.environment, self.count = environment, episodes
        self.folder = folder / f"{environment.name}-{episodes}-{seed}"
        self.config = Config(
            traces=(self.folder / "traces.jsonl",),
            consensus="recorded",
            out=self.folder / "fit",
            answer="choice",
            values="fitted",
            cost=environment.price,
            seed=seed,
            **options,
        )

    def play(self, algorithm: Algorithm, settings: Settings | None = None) -> list[Value]:
        """Return what a fit gives with the likeliest actions, and with drawn ones."""
        config = self._config(algorithm, settings or {})

        def make() -> list[Value]:
            policy, _ = self._fit(config)
            return [self.known.value(Player(policy, drawn)) for drawn in (False, True)]

        return [Value(*one) for one in remember(self._path("played", config, settings), make)]

    def validation(self, algorithm: Algorithm, settings: Settings | None = None) -> float:
        """Return a fit's best score on the questions that choose its epoch."""
        config = self._config(algorithm, settings or {})
        path = self._path("validation", config, settings)
        return float(remember(path, lambda: self._fit(config)[1]))

    def fit_policy(self, algorithm: Algorithm) -> Policy:
        """Return the policy of a fit."""
        return self._fit(self._config(algorithm, {}))[0]

    def _config(self, algorithm: Algorithm, settings: Settings) -> Config:
        return replace(self.config, algorithm=algorithm, **settings)  # type: ignore[arg-type]

    def _path(self, kind: str, config: Config, settings: Settings | None) -> Path:
        told = [f"{name}={value:g}" for name, value in sorted((settings or {}).items())]
        parts = (config.algorithm, config.values, config.iterations, config.batch_size, *told)
        return self.folder / kind / f"{'-'.join(map(str, parts))}.json"

    def _fit(self, config: Config) -> tuple[Policy, float]:
        sft, score = self._sft
        if config.algorithm == "none":
            return sft, score
        with closing(Log(config.out)) as log, _silence():
            fitted, _ = fit_second_stage(config, sft, self.lessons, config.cost, log)
        stage, policy = list(fitted.items())[-1]
        return policy, _best(log, stage)

    @property
    def traces(self) -> Path:
        """The traces to learn from. They are drawn if they are not there yet."""
        [traces] = self.config.traces
        if not traces.exists():
            traces.parent.mkdir(parents=True, exist_ok=True)
            made = episodes(self.environment, self.count, seed=self.config.seed)
            with atomic_write(traces) as draft:
                draft.write_bytes(b"".join(b"\n" + episode.to_json() for episode in made))
        return traces

    @cached_property
    def lessons(self) -> Lessons:
        """What the fits learn from."""
        with _silence():
            return prepare(replace(self.config, traces=(self.traces,)))

    @cached_property
    def _sft(self) -> tuple[Policy, float]:
        (self.config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(self.config.threads)
        train, choosing = (
            to_data(part, self.config, self.config.cost) for part in self.lessons.parts[:2]
        )
        with closing(Log(self.config.out)) as log, _silence():
            policy = fit_sft(self.config, train, choosing, log)
        return policy, _best(log, "sft")

    @cached_property
    def known(self) -> Known:
        """The environment as these routers see it."""
        lessons = self.lessons
        return Known(self.environment, lessons.calibration, lessons.competence)


@contextmanager
def _silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        yield


def _best(log: Log, stage: str) -> float:
    return max((row["validation"] for row in log.rows if row["stage"] == stage), default=0.0)


class Player:
    """A policy as a router, without the way through a folder."""

    name, version = "policy", "1"

    def __init__(self, policy: Policy, drawn: bool = False) -> None:
        self.policy, self.drawn = policy.eval(), drawn

    @torch.no_grad()
    def decide(
        self, observations: Sequence[Observation], masks: Sequence[Sequence[bool]]
    ) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        seen = [torch.from_numpy(array) for array in pad(observations, masks)]
        rows: list[list[float]] = self.choose(self.policy(*seen)).tolist()
        return rows

    def choose(self, logs: Tensor) -> NDArray[np.float64]:
        """Return the probabilities to act by, from the policy's logarithms, ``[n, 3]`` both."""
        return decisions_of(logs, drawn=self.drawn)
