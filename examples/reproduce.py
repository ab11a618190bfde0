"""Every figure of the bundled model in docs/results.md, from questions to tables.

    python examples/reproduce.py                                        # starts vLLM by itself
    python examples/reproduce.py --base-url http://localhost:8000/v1    # a server that runs already
    python examples/reproduce.py --out runs/mixed --model-dir A --model-dir B   # a mixed team
    python examples/reproduce.py --in-process --train 400 --validation 150 --test 400   # no server

Makes the question files, collects traces, fits three seeds of every algorithm, and evaluates on
test questions, on the hidden profile and on the plain set. Every step goes on where it was
stopped. Results lie in `runs/reproduce/<kind>/evaluation/results.md`. Each command is printed, so
that it can be run by itself.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

from examples.real_models.serve import free_port, served
from examples.serve_vllm import MODEL_DIR, ensure_venv, server_command
from examples.tiny_lm.prompts import PROPOSE_TEMPERATURE
from examples.tiny_lm.questions import main as write_questions
from training.command import run_command

ROOT = Path(__file__).resolve().parents[1]
Kind = Literal["hidden", "plain"]
Learned = Literal["sft", "ppo", "grpo", "regression", "awr", "softrankpo"]
ALGORITHMS: dict[Learned, str] = {
    "sft": "none",
    "ppo": "ppo",
    "grpo": "grpo",
    "regression": "regression",
    "awr": "awr",
    "softrankpo": "softrankpo",
}
"""Names of the learned methods, and the second stage of each."""


@dataclass(frozen=True)
class ReproduceOptions:
    """Options of the reproduction."""

    out: Path = Path("runs/reproduce")
    """Folder for everything."""
    model_dir: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Folders of other models than the bundled one: give the option again for a mixed team, whose
    agents get them in turn."""
    base_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Servers that run already, instead of those started here. Agents get them in turn, too."""
    in_process: bool = False
    """The bundled model runs in the process of each step, without a server. One core is enough."""
    kinds: tuple[Kind, ...] = ("hidden", "plain")
    """Sets of questions."""
    train: int = 2000
    """Questions to collect traces on."""
    validation: int = 300
    """Questions to tune the baselines on."""
    test: int = 1000
    """Questions to evaluate on."""
    learned: tuple[Learned, ...] = get_args(Learned)
    """Learned methods."""
    seeds: int = 3
    """Seeds of every learned method."""
    cost: float = 1
    """Reward taken off per 1,000 tokens. For the bundled model, 1 saves a third of the tokens of 0
    on held-out turns, at an accuracy lower by .003. A team that must refine more wants less."""
    rounds: int = 2
    """Rounds of decisions at most."""
    alternatives: int = 4
    """Extra REFINE samples per decision while collecting."""
    concurrency: int = 64
    """Deliberations at a time."""


def step(*command: object) -> None:
    """Print a command of this project and run it. A failure ends the reproduction."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"the step failed with {done.returncode}; the same command goes on from here")


@contextmanager
def servers(model_dirs: Sequence[Path], logs: Path) -> Iterator[list[str]]:
    """The URLs of a server for each model, all stopped at the end.

    They start one after the other: each measures for itself how much memory is free.
    """
    for folder in model_dirs:
        if not (folder / "config.json").exists():
            sys.exit(f"error: no model in {folder}: a config.json is missing")
    python = ensure_venv()
    with ExitStack() as running:
        urls = []
        for place, folder in enumerate(model_dirs):
            port = free_port()
            # Other names for other models: what was measured of one is not used for another.
            name = "tiny" if folder.resolve() == MODEL_DIR else f"tiny-{place + 1}"
            command = server_command(python, folder, served_model_name=name, port=port)
            path = logs / f"vllm-{place + 1}.log"
            print(f"waiting for vLLM with {folder} (log: {path})", flush=True)
            url = f"http://127.0.0.1:{port}/v1"
            log = running.enter_context(path.open("wb"))
            running.enter_context(served(command, url, log))
            urls.append(url)
        yield urls


def main(options: ReproduceOptions) -> None:
    """Run all steps."""
    options.out.mkdir(parents=True, exist_ok=True)
    if options.in_process and (options.base_url or options.model_dir):
        sys.exit("error: --in-process takes the bundled model, and no --base-url or --model-dir")
    started = (
        nullcontext(options.base_url)
        if options.base_url or options.in_process
        else servers(options.model_dir or (MODEL_DIR,), options.out)
    )
    with started as urls:
        team: list[object] = [word for url in urls for word in ("--base-url", url)]
        if options.in_process:
            team = ["--model-factory", "examples.tiny_lm.chat_model:make"]
        team += ["--prompts", "examples.tiny_lm.prompts:PROMPTS"]
        team += ["--temperature", PROPOSE_TEMPERATURE]
        team += ["--max-tokens", 200, "--concurrency", options.concurrency]
        for kind in options.kinds:
            reproduce(options, kind, team)


def router_folder(name: Learned, seed: int, cost: float = ReproduceOptions.cost) -> Path:
    """Return where a router lies in the folder of its questions."""
    return Path(f"routers-cost-{cost:g}", f"{name}-{seed}")


def is_newer(router: Path, traces: Path) -> bool:
    """Tell whether a router was fitted after the last trace was written."""
    written = (path.stat().st_mtime for path in traces.rglob("*.jsonl"))
    return router.exists() and router.stat().st_mtime >= max(written, default=0.0)


def reproduce(options: ReproduceOptions, kind: Kind, team: list[object]) -> None:
    """The steps of one set of questions."""
    out = options.out / kind
    out.mkdir(exist_ok=True)
    sizes = {"train": options.train, "validation": options.validation, "test": options.test}
    files = {}
    for split, count in sizes.items():
        files[split] = out / f"{split}.jsonl"
        write_questions(kind, split, count, 0, files[split])  # type: ignore[arg-type]
    step(
        "training/collect.py", "--questions", files["train"], *team, "--rounds", options.rounds,
        "--alternatives", options.alternatives, "--critic", "logprob", "--out", out / "traces",
    )  # fmt: skip
    routers: list[object] = []
    for name in options.learned:
        for seed in range(options.seeds):
            folder = out / router_folder(name, seed, options.cost)
            routers += ["--router", folder]
            if not is_newer(folder / "router.json", out / "traces"):
                step(
                    "training/fit_router.py", "--traces", out / "traces", "--out", folder,
                    "--algorithm", ALGORITHMS[name], "--seed", seed, "--cost", options.cost,
                )  # fmt: skip
    step(
        "training/evaluate.py", "--questions", files["test"], "--validation", files["validation"],
        *team, *routers, "--rounds", options.rounds, "--oracle-rounds", 3,
        "--critic", "logprob", "--out", out / "evaluation",
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main, ReproduceOptions, __doc__)
