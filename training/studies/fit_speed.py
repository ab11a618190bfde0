"""Measures how fast a router is fitted, and in how much memory, on the traces of guessing agents.

    python -m training.studies.fit_speed                           # 10k, 100k and 1M transitions
    python -m training.studies.fit_speed --sizes 10000 --out bench.md

A transition is one decision of an agent with all its rollouts. The stages, each in a process of
its own so that its peak memory is its own:

- read: the trace files into columns, which are then cached beside them. Of more transitions than
  `most_turns` a share is read, by question.
- fit: a whole run of `fitting.py`, which makes graded groups of the columns, trains (SFT, then
  SoftRankPO), estimates and writes the router's folder. The first fit of any traces takes as long
  as read and fit.
- train: what of it went by in the epochs of the two stages.

On a machine that others use, too, look at the processor time. A million transitions take 5 GB in
the temporary folder (`TMPDIR`) while they are measured.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from tqdm import tqdm

from mpdf_langgraph import Agent, Episode, MathAnswer, create_deliberation
from mpdf_langgraph.errors import ConfigurationError
from training.collect.pool import make_pool
from training.command import run_command

# Not here: anything that loads torch. A stage is to pay for what it needs, and for no more.

BASE_EPISODES = 100
EPISODES_PER_SEGMENT = 10_000


@dataclass(frozen=True)
class SpeedOptions:
    """Options of the measurement."""

    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Transitions to measure with."""
    epochs: int = 10
    """Epochs of SFT, and of SoftRankPO after it."""
    most_turns: int | None = None
    """Turns to read, about. Default: that of fitting.py."""
    threads: int = 1
    """CPU threads of the training. Traces are read by as many processes as there are cores."""
    out: Path | None = None
    """File for the table, which is printed anyway."""


@dataclass(frozen=True)
class Measured:
    """One stage at one size.

    Attributes:
        size: Transitions.
        stage: Its name.
        seconds: Wall-clock time. Importing packages does not count.
        processor: Processor time, that of processes that read included.
        peak: Peak memory of the process in bytes, packages included.
    """

    size: int
    stage: str
    seconds: float
    processor: float
    peak: int


def main(options: SpeedOptions) -> None:
    """Measure every size, and print the table."""
    if not options.sizes or min(options.sizes) < 1:
        raise ConfigurationError("--sizes must be 1 or more each")
    results: list[Measured] = []
    with tqdm(total=2 * len(options.sizes), desc="bench", unit="stage") as bar:
        for size in options.sizes:
            with tempfile.TemporaryDirectory(prefix="bench-") as made:
                folder = Path(made)
                bar.set_postfix_str(f"{size:,} transitions: write")
                written = write_traces(folder / "traces", size)
                for name, stage in STAGES.items():
                    bar.set_postfix_str(f"{size:,} transitions: {name}")
                    spent, peak = in_a_process(_measure, stage, folder, options)
                    for part, (wall, processor) in spent.items():
                        results.append(Measured(written, part, wall, processor, peak))
                    bar.update()
    text = format_report(results, options)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    print(text)


def write_traces(folder: Path, size: int) -> int:
    """Write at least `size` transitions, and return how many.

    `BASE_EPISODES` deliberations are run and repeated under other ids, which stand in the
    questions too, so that every copy is an episode of a question of its own.
    """
    base = [(e.id, e.to_json(), len(e.turns)) for e in deliberate(BASE_EPISODES)]
    folder.mkdir()
    written = episodes = 0
    while written < size:
        with (folder / f"{episodes // EPISODES_PER_SEGMENT:05}.jsonl").open("wb") as file:
            for _ in range(EPISODES_PER_SEGMENT):
                id_, line, turns = base[episodes % len(base)]
                file.write(line.replace(id_.encode(), f"{episodes:032x}".encode()) + b"\n")
                episodes += 1
                written += turns
                if written >= size:
                    break
    return written


def deliberate(count: int) -> list[Episode]:
    """Run the graph with agents that guess, and whose critic knows a little of the truth."""
    rng = random.Random(0)
    team = [
        Agent(
            name,
            RunnableLambda(lambda _: f"{rng.random()}? The answer is {rng.randrange(4)}"),
        )
        for name in ("ann", "bob", "cyd")
    ]
    graph = create_deliberation(
        team,
        router="random",
        critic=lambda _, said: rng.betavariate(4 if said["answer"] == "0" else 2, 3),
        answer=MathAnswer(),
        max_rounds=3,
        alternatives=4,
        stop_when_settled=False,
    ).compile(checkpointer=InMemorySaver())
    episodes = []
    for number in range(count):
        config: RunnableConfig = {"configurable": {"thread_id": str(number)}}
        graph.invoke({"question": "How many?", "reference": "0"}, config)
        episode = Episode.from_state(graph.get_state(config).values)
        episodes.append(episode.model_copy(update={"question": f"How many in {episode.id}?"}))
    return episodes


# --- stages -----------------------------------------------------------------------------------

Times = tuple[float, float]
"""Wall-clock and processor seconds."""
Stage = Callable[[Path, SpeedOptions], dict[str, Times]]
"""From the folder of one size to what its parts took, by name."""


def now() -> Times:
    """Return the time, and the processor time of this process and those that it has ended."""
    return time.perf_counter(), sum(os.times()[:4])


def since(start: Times) -> Times:
    """Return what has gone by."""
    wall, processor = now()
    return wall - start[0], processor - start[1]


def in_a_process(function: Callable[..., Any], *given: Any) -> Any:
    """Return what a function returns in a fresh process."""
    with make_pool(1) as pool:
        return pool.submit(function, *given).result()


def _measure(stage: Stage, folder: Path, options: SpeedOptions) -> tuple[dict[str, Times], int]:
    with Path(os.devnull).open("w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
        spent = stage(folder, options)
    return spent, peak_memory()


def peak_memory() -> int:
    """Return this process's peak resident memory in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's, which Linux hands down
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_read(folder: Path, options: SpeedOptions) -> dict[str, Times]:
    """Read the trace files, of which nothing is cached yet, for all that a fit takes from them."""
    from training.collect.team import remembering_grader
    from training.learn.recorded import read_recorded
    from training.learn.trace_rows import share_of

    config = _config(folder, options)
    assert not list((folder / "traces").glob(".*.npz"))
    began = now()
    right = remembering_grader(config.answer)
    share = share_of(config.traces, config.most_turns)
    assert len(read_recorded(config.traces, right, share=share, processes=os.cpu_count() or 1))
    return {"read": since(began)}


def measure_fit(folder: Path, options: SpeedOptions) -> dict[str, Times]:
    """Fit a router, and keep apart what its epochs take."""
    import torch.utils.tensorboard  # noqa: F401  # some seconds of importing, which do not count

    from training.learn import fitting, stages

    run_stage, spent = stages.run_stage, (0.0, 0.0)

    def time_stage(*args: Any, **named: Any) -> None:
        nonlocal spent
        began = now()
        run_stage(*args, **named)
        wall, processor = since(began)
        spent = spent[0] + wall, spent[1] + processor

    stages.run_stage = time_stage
    try:
        began = now()
        fitting.fit(_config(folder, options))
        return {"fit": since(began), "train": spent}
    finally:
        stages.run_stage = run_stage


STAGES: dict[str, Stage] = {"read": measure_read, "fit": measure_fit}


def _config(folder: Path, options: SpeedOptions) -> Any:
    from training.learn.fit_config import Config

    config = Config(
        traces=(folder / "traces",),
        consensus="recorded",
        out=folder / "router",
        sft_epochs=options.epochs,
        epochs=options.epochs,
        patience=options.epochs,  # none stops early, so that sizes compare
        threads=options.threads,
    )
    config.most_turns = options.most_turns or config.most_turns
    return config


# --- the table --------------------------------------------------------------------------------


def format_report(results: Sequence[Measured], options: SpeedOptions) -> str:
    """Return the table."""
    note = (
        f"fit: {options.epochs} epochs of SFT and {options.epochs} of SoftRankPO, "
        f"--threads {options.threads}. train is the part of it in these epochs. The columns are "
        "cached by then: a first fit takes read besides. Where the cost grows linearly, the "
        "processor time of a transition stays the same."
    )
    lines = [
        "| transitions | stage | seconds | processor seconds | µs per transition | peak memory |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {m.size:,} | {m.stage} | {m.seconds:.3f} | {m.processor:.3f} "
            f"| {1e6 * m.processor / m.size:.0f} | {m.peak / 1e9:.2f} GB |"
            for m in results
        ),
        "",
        note,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main, SpeedOptions, __doc__)
