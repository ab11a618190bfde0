"""Plan a large collection from a small one: calls, tokens, disk, GPU-hours and cost.

    python examples/scale/plan.py --traces sample/ --episodes 10000000
    python examples/scale/plan.py --traces sample/ --gpu-seconds 900 --gpus 16 --price 2.5

Collect a few hundred episodes with the models, questions and options of the large run. Note how
many seconds that took, and on how many GPUs: their product is --gpu-seconds. The sample must keep
the servers as busy as the large run will.

Everything is the mean of the sample times the number of episodes. ± is its standard error.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from mpdf_langgraph import TraceReader
from mpdf_langgraph.errors import ConfigurationError
from training.command import run_command


@dataclass(frozen=True)
class PlanOptions:
    """What to plan."""

    traces: Path
    """Folder of the sample."""
    episodes: int = 10_000_000
    """Episodes of the large run."""
    gpu_seconds: float | None = None
    """Seconds that the sample took, times the GPUs that served it."""
    gpus: int = 1
    """GPUs of the large run."""
    price: float | None = None
    """Price of an hour of one GPU."""


def measure(folder: Path) -> tuple[dict[str, list[float]], float]:
    """Return what each episode of the sample took, and the mean size of a record in bytes.

    Raises:
        ConfigurationError: There are fewer than two episodes.
    """
    episodes = list(TraceReader(folder))
    if len(episodes) < 2:
        raise ConfigurationError(f"{folder} holds {len(episodes)} episodes. Collect a few hundred")
    spent = [
        [episode.outcome["usage"][part] for part in ("total", "alternatives")]
        for episode in episodes
    ]
    found = {
        name: [float(sum(part[name] for part in parts)) for parts in spent]
        for name in ("calls", "prompt_tokens", "completion_tokens")
    }
    found["decisions"] = [float(len(episode.turns)) for episode in episodes]
    size = sum(path.stat().st_size for path in folder.rglob("*.jsonl"))
    return found, size / len(episodes)


def plan(options: PlanOptions) -> str:
    """Return the plan as a table."""
    found, size = measure(options.traces)
    count = len(found["calls"])
    lines = [f"Measured on {count} episodes, planned for {options.episodes:,}:", ""]
    lines += ["| | an episode | all |", "| --- | --- | --- |"]
    for name, values in found.items():
        error = stdev(values) / count**0.5
        total = round_to_three(mean(values) * options.episodes)
        lines.append(f"| {name.replace('_', ' ')} | {mean(values):,.1f} ± {error:,.1f} | {total} |")
    disk = round_to_three(size * options.episodes / 1e9)
    lines.append(f"| disk | {size / 1000:,.1f} kB | {disk} GB |")
    if options.gpu_seconds is None:
        return "\n".join([*lines, "", "For GPU-hours give --gpu-seconds."])
    seconds = options.gpu_seconds / count
    hours = seconds * options.episodes / 3600
    lines.append(f"| GPU time | {seconds:,.2f} s | {round_to_three(hours)} hours |")
    days = round_to_three(hours / options.gpus / 24)
    lines.append(f"| days on {options.gpus} GPUs | | {days} |")
    if options.price is not None:
        lines.append(f"| price of the GPUs | | {round_to_three(hours * options.price)} |")
    return "\n".join(lines)


def round_to_three(number: float) -> str:
    """Return a number with three digits that count.

    Example:
        >>> round_to_three(1234567.0), round_to_three(0.98765)
        ('1,230,000', '0.988')
    """
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def main(options: PlanOptions) -> None:
    """Print the plan."""
    print(plan(options))


if __name__ == "__main__":
    run_command(main, PlanOptions, __doc__)
