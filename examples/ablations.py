"""Every ablation on the bundled model, by one command: after `examples/reproduce.py`.

    python examples/ablations.py                                        # starts vLLM by itself
    python examples/ablations.py --base-url http://localhost:8000/v1    # a server that runs already
    python examples/ablations.py --print                                # only say what it would run

It starts from the traces and a router of the reproduction. It collects what needs traces of its
own: teams of two to six with up to five rounds, a team of five, another temperature, the agents'
own verdicts, an external judge, and with --other-model that model by itself and a mixed team. Then
it runs `training.studies.ablations`. It goes on where it was stopped. The results are in
`runs/ablations/ablations.md`.
"""

import json
import os
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from examples.reproduce import router_folder, servers, step
from examples.serve_vllm import MODEL_DIR
from examples.tiny_lm.prompts import PROPOSE_TEMPERATURE
from mpdf_langgraph import ConfigurationError, vllm_chat_model
from training.command import run_command

ROOT = Path(__file__).resolve().parents[1]
TEAMS = (2, 3, 4, 5, 6)
PROMPTS = "examples.tiny_lm.prompts:PROMPTS"
_JUDGE = "MPDF_JUDGE_URL"


@dataclass(frozen=True)
class ModelAblationOptions:
    """Options of the ablations."""

    reproduction: Path = Path("runs/reproduce/hidden")
    """What `examples/reproduce.py` has left: questions, traces and routers."""
    out: Path = Path("runs/ablations")
    """Folder for everything."""
    other_model: Path | None = None
    """Folder of another model, for a team of it and a mixed one. Default: without these teams."""
    base_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Servers that run already, instead of those started here: the bundled model's, and the other
    model's if there is one."""
    transfer: int = 400
    """Questions of each set of traces for the transfer."""
    runs: int = 300
    """Test questions of each team whose rounds are told."""
    seeds: int = 3
    """Fits of each variant."""
    jobs: int = 2
    """Fits side by side."""
    concurrency: int = 64
    """Deliberations at a time."""
    only_print: Annotated[bool, tyro.conf.arg(name="print")] = False
    """Print the commands, with URL for the server, and run nothing."""


def judge() -> Any:
    """Return the external critic: a chat model that sees the question and an answer alone."""
    return vllm_chat_model(os.environ[_JUDGE], max_tokens=200)


def deal_notes(question: dict[str, Any], agents: int) -> dict[str, Any]:
    """Return a question with its private notes dealt out to a team of another size.

    The agents get the sentences in turn. So a smaller team knows as much, and each agent of a
    larger team knows less. The notes of a team of three stay as they are.
    """
    if agents == 3:
        return question
    notes = [
        f"{sentence.rstrip('.')}."
        for text in question["contexts"].values()
        for sentence in text.split(". ")
    ]
    first = sum(map(ord, question["question"])) % agents  # not always the same agents
    contexts: dict[str, str] = {}
    for place, sentence in enumerate(notes):
        name = f"agent-{(first + place) % agents + 1}"
        contexts[name] = f"{contexts[name]} {sentence}" if name in contexts else sentence
    return {**question, "contexts": contexts}


def write_questions(source: Path, count: int, agents: int, out: Path) -> Path:
    """Write the first questions of a file for a team of that size. Return the new file."""
    lines = source.read_text().splitlines()[:count]
    written = [json.dumps(deal_notes(json.loads(line), agents)) + "\n" for line in lines]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(written))
    return out


def plan(
    options: ModelAblationOptions, url: str, other_url: str | None = None
) -> list[list[object]]:
    """Return the commands in their order, and write the files of questions they need."""
    out, made = options.out, options.reproduction
    common: list[object] = ["--prompts", PROMPTS, "--max-tokens", 200]
    common += ["--concurrency", options.concurrency]
    cold: list[object] = ["--base-url", url, *common, "--temperature", 0.5]
    common += ["--temperature", PROPOSE_TEMPERATURE]
    one: list[object] = ["--base-url", url, *common]
    asked = {
        n: write_questions(made / "train.jsonl", options.transfer, n, out / f"transfer-{n}.jsonl")
        for n in (3, 5)
    }
    others: dict[str, tuple[int, list[object]]] = {
        "five-agents": (5, [*one, "--agents", 5, "--critic", "logprob"]),
        "temperature-0.5": (3, [*cold, "--critic", "logprob"]),
        "self-critic": (3, [*one, "--critic", "self"]),
        "external-critic": (3, [*one, "--critic", "examples.ablations:judge"]),
    }
    if other_url is not None:
        other = ["--base-url", other_url, *common, "--critic", "logprob"]
        others["other-model"] = (3, other)
        others["mixed-team"] = (3, ["--base-url", url, *other])
    commands: list[list[object]] = []
    for name, (agents, team) in others.items():
        commands.append(
            ["training/collect.py", "--questions", asked[agents], *team, "--rounds", 2,
             "--out", out / "traces" / name]
        )  # fmt: skip
    for n in TEAMS:
        file = write_questions(made / "test.jsonl", options.runs, n, out / f"test-{n}.jsonl")
        commands.append(
            ["training/collect.py", "--questions", file, *one, "--agents", n, "--rounds", 5,
             "--router", made / router_folder("softrankpo", 0), "--explore", 0, "--alternatives", 0,
             "--critic", "logprob", "--out", out / "runs" / str(n)]
        )  # fmt: skip
    commands.append(
        ["-m", "training.studies.ablations", "--traces", made / "traces", "--out", out,
         "--transfer", *(f"{name}={out / 'traces' / name}" for name in others),
         "--runs", *(f"{n} agents={out / 'runs' / str(n)}" for n in TEAMS),
         "--seeds", options.seeds, "--jobs", options.jobs]
    )  # fmt: skip
    return commands


def main(options: ModelAblationOptions) -> None:
    """Run all steps."""
    if len(options.base_url) > 2:
        raise ConfigurationError("--base-url: one server, and the other model's if there is one")
    options.out.mkdir(parents=True, exist_ok=True)
    models = [MODEL_DIR, *([options.other_model] if options.other_model else [])]
    if options.only_print:
        show(plan(options, *(options.base_url or ("URL", "OTHER_URL")[: len(models)])))
        return
    started = nullcontext(options.base_url) if options.base_url else servers(models, options.out)
    with started as urls:
        os.environ[_JUDGE] = urls[0]
        *collecting, ablating = plan(options, *urls)
        for command in collecting:
            step(*command)
    step(*ablating)


def show(commands: Sequence[Sequence[object]]) -> None:
    """Print commands."""
    for command in commands:
        print("python", shlex.join(str(word) for word in command))


if __name__ == "__main__":
    run_command(main, ModelAblationOptions, __doc__)
