"""Trains the small model from scratch: tokenizer, curriculum, three skills, one folder.

    python examples/tiny_lm/train.py --out runs/tiny_lm            # about 45 minutes on one core
    python examples/tiny_lm/train.py --out runs/tiny_lm --resume   # goes on after a stop

Training is counted in rounds of a fixed number of examples. Round `r` depends on the seed, `r`
and the weights alone, and checkpoints are written between rounds, so a resumed run repeats the
interrupted one. The phases:

1. *look_up*: lists of facts, and what some people have.
2. *sums*: bare sums, some of them checked. Without these two, whole problems leave both
   skills at chance: the loss goes on falling through everything else that is to be learnt.
3. *solve*: whole problems, hidden and plain.
4. *simulated*: solve, refine and critique with simulated teammates. Sampling costs nothing here.
5. *on_policy*: refine and critique the model's own samples, at the frequencies at which they
   occur, with as much solving beside it. The learning rate ends at zero.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_lm.generate import respond
from examples.tiny_lm.llama import CONTEXT, build_model, save_model
from examples.tiny_lm.prompts import REFINE_TEMPERATURE, refine_messages, solve_messages
from examples.tiny_lm.questions import AGENTS, Kind, Problem, problems
from examples.tiny_lm.skills import (
    Example,
    check,
    checks_example,
    critique_example,
    look_up_example,
    refine,
    refine_example,
    simulated_example,
    solve_example,
    sums_example,
)
from examples.tiny_lm.text import IGNORE, Encoder, build_tokenizer
from examples.tiny_lm.validation import validate
from training.collect.files import atomic_write, keep_settings
from training.command import run_command
from training.learn.display import start_figure

OWN_TEMPERATURE = 1.0
"""Temperature of the samples it learns to refine and to judge. In use it is higher."""
DRILL: dict[str, tuple[float, float, float, tuple[int, ...]]] = {
    # Shares of bare look-ups, sums and checks among the examples of a phase, and how large the
    # sums are.
    "look_up": (1.0, 0.0, 0.0, ()),
    "sums": (0.2, 0.7, 0.1, (20, 50, 99)),
    "solve": (0.05, 0.2, 0.1, (99, 200, 299)),
    "simulated": (0.02, 0.05, 0.1, (99, 200, 299)),
    "on_policy": (0.0, 0.05, 0.1, (99, 200, 299)),
}


@dataclass
class Config:
    """Options of a training run."""

    out: Path = Path("runs/tiny_lm")
    """Folder of the checkpoint, the log and the plot. The model itself goes to `out/model`."""
    seed: int = 0
    """Seed of weights, data and sampling."""
    size: Literal["1M", "3M", "8M"] = "1M"
    """About how many parameters."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads. A second one gains little at this size."""
    resume: bool = False
    """Go on from the last checkpoint in `out`."""
    rounds: dict[str, int] = field(
        default_factory=lambda: {
            "look_up": 12,
            "sums": 20,
            "solve": 30,
            "simulated": 28,
            "on_policy": 18,
        }
    )
    """Rounds per phase."""
    examples_per_round: int = 1024
    """Examples in a round."""
    tokens_per_batch: int = 2688
    """Tokens in a batch, padding included."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    on_policy_learning_rate: float = 6e-4
    """Learning rate at the start of the on-policy phase. Higher ones damage solving."""
    warmup: int = 150
    """Steps of linear warm-up."""
    weight_decay: float = 0.1
    """Weight decay of the matrices."""
    probe_weight: float = 0.2
    """Weight of the auxiliary loss: is the solution right up to this sentence?"""
    validate_every: int = 13
    """Rounds between validations."""
    validation_questions: int = 100
    """Questions of each kind in a validation."""

    def phase(self, index: int) -> str:
        """The phase of a round."""
        for phase, rounds in self.rounds.items():
            if index < rounds:
                return phase
            index -= rounds
        raise IndexError(index)

    def rate(self, progress: float, step: int) -> float:
        """The learning rate: warm-up, then a plateau, a slope, and a slope to zero at the end.

        `progress` counts rounds, with the fraction of the present one.
        """
        slope, final = self.rounds["simulated"], self.rounds["on_policy"]
        plateau = sum(self.rounds.values()) - slope - final
        high, low = self.learning_rate, self.on_policy_learning_rate
        if progress < plateau:
            return high * min(1.0, (step + 1) / self.warmup)
        if progress < plateau + slope:
            return high + (low - high) * (progress - plateau) / slope
        return low * max(0.0, 1.0 - (progress - plateau - slope) / final)


def on_policy_examples(
    stream: Iterator[Problem],
    count: int,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
) -> Iterator[Example]:
    """Examples of which 40 % refine, 25 % critique and 35 % solve, from the model's own samples.

    A third of the solutions to refine or judge are themselves refined, as in a second round.
    """
    team = list(islice(stream, round(count * 0.13)))
    seats = [(index, agent) for index in range(len(team)) for agent in AGENTS]
    conversations = {
        (index, agent): solve_messages(team[index].question, team[index].contexts.get(agent, ""))
        for index, agent in seats
    }

    def respond_at(where: list[tuple[int, str]], temperature: float) -> dict[tuple[int, str], str]:
        asked = [conversations[seat] for seat in where]
        texts = respond(model, tokenizer, asked, temperature, rng.getrandbits(62))
        return dict(zip(where, texts, strict=True))

    def peers_of(index: int, agent: str) -> list[str]:
        peers = [responses[index, other] for other in AGENTS if other != agent]
        if rng.random() < 0.15:
            peers = peers[:1]
        elif rng.random() < 0.2:
            peers += [responses[index, rng.choice(AGENTS)] for _ in range(rng.choice([1, 2]))]
        rng.shuffle(peers)
        return peers

    responses = respond_at(seats, OWN_TEMPERATURE)
    redo = [seat for seat in seats if rng.random() < 1 / 3]
    workings = {  # what a check of each response should write
        (index, agent): check(team[index], team[index].notes(agent), own, rng)
        for (index, agent), own in responses.items()
    }
    for index, agent in redo:
        problem, own = team[index], responses[index, agent]
        context = problem.contexts.get(agent, "")
        peers = peers_of(index, agent)
        conversations[index, agent] = refine_messages(problem.question, context, own, peers)
        workings[index, agent] = refine(problem, problem.notes(agent), own, peers, rng)
    responses |= respond_at(redo, REFINE_TEMPERATURE)

    for (index, agent), own in responses.items():
        problem, conversation = team[index], conversations[index, agent]
        peers = peers_of(index, agent)
        yield refine_example(problem, agent, own, peers, rng, learn_own=False)
        if rng.random() < 0.65:
            learn = [False] * (2 if (index, agent) in redo else 1)
            working = workings[index, agent] if rng.random() < 0.5 else None
            yield critique_example(problem, conversation, own, learn, working)
    for problem in islice(stream, round(count * 0.35)):
        yield solve_example(problem, rng)


def round_examples(
    config: Config, index: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> list[Example]:
    """The examples of one round. They depend on the seed, the round and the weights alone."""
    phase = config.phase(index)
    seed = f"{config.seed}/{index}"
    rng = random.Random(seed)
    count = config.examples_per_round
    looking_up, sums, checks, limits = DRILL[phase]
    examples = [look_up_example(rng) for _ in range(round(count * looking_up))]
    examples += [sums_example(rng, limits) for _ in range(round(count * sums))]
    examples += [checks_example(rng, limits) for _ in range(round(count * checks))]
    shares: dict[Kind, float] = {"hidden": 0.65, "plain": 0.35}
    for kind, share in shares.items():
        problems_needed = round(count * share * (1 - looking_up - sums - checks))
        stream = problems(kind, "train", seed)
        if phase == "on_policy":
            examples += on_policy_examples(stream, problems_needed, model, tokenizer, rng)
            continue
        for problem in islice(stream, problems_needed):
            if phase == "simulated":
                examples.append(simulated_example(problem, rng))
            else:
                examples.append(solve_example(problem, rng))
    return examples


@cache
def _has_bfloat16(device: torch.device) -> bool:
    """Is bfloat16 fast here? A device without instructions for it takes ten times as long."""
    if device.type == "cpu":
        known = torch.backends.mkldnn.is_available()
        return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def loss_on(
    model: LlamaForCausalLM,
    probe: torch.nn.Linear,
    batch: dict[str, torch.Tensor],
    probe_weight: float,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted next-token loss on the targets, plus the probe's loss on sentence ends."""
    device = model.device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(device)):
        states = model.model(input_ids=batch["tokens"]).last_hidden_state
        targets = batch["labels"][:, 1:]
        chosen = targets != IGNORE  # the vocabulary's logits are needed at the targets alone
        logits = model.lm_head(states[:, :-1][chosen])
        ends = batch["right"] != IGNORE
        guesses = probe(states[ends])[:, 0]
    losses = functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
    weights = batch["weights"][:, 1:][chosen]
    loss = (losses * weights).sum() / weights.sum().clamp(min=1)
    right = batch["right"][ends].float()
    probe_loss = functional.binary_cross_entropy_with_logits(
        guesses.float(), right, reduction="sum"
    )
    probe_loss = probe_loss / max(1, right.numel())
    parts = {"loss": loss.item(), "probe": probe_loss.item()}
    return loss + probe_weight * probe_loss, parts


def plot(log: Path) -> None:
    """Draws loss and validation accuracy from the log."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    (left, right), done = start_figure(log.with_suffix(".png"), 2, 5.5, 4)
    for name in ("loss", "probe"):
        left.plot([r["round"] for r in rows], [r[name] for r in rows], label=name)
    left.set(xlabel="round", ylabel="loss", yscale="log")
    checks = [row for row in rows if "hidden" in row]
    for name in ("informed", "hidden", "hidden_refined", "plain", "plain_refined"):
        points = [(row["round"], row[name]) for row in checks if name in row]
        right.plot(*zip(*points, strict=True), label=name) if points else None
    right.set(xlabel="round", ylabel="accuracy on validation questions", ylim=(0, 1))
    for axis in (left, right):
        axis.legend()
    done()


def keep_options(config: Config) -> None:
    """Keep the options that make the model, or refuse to go on with others."""
    free = ("out", "resume", "device", "threads", "validate_every", "validation_questions")
    kept = {name: value for name, value in asdict(config).items() if name not in free}
    advice = "Give the same options, or start anew without --resume"
    keep_settings(config.out / "config.json", kept, advice)


def train(config: Config) -> dict[str, Any]:
    """Runs all phases and returns the last row of the log."""
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = config.out / "checkpoint.pt", config.out / "log.jsonl"
    tokenizer = build_tokenizer(CONTEXT)
    encoder = Encoder(tokenizer)
    model = build_model(tokenizer, config.size, config.seed).to(config.device)
    probe = torch.nn.Linear(model.config.hidden_size, 1).to(config.device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [*(p for p in model.parameters() if p.ndim == 1), *probe.parameters()]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    start, step, row = 0, 0, {}
    if config.resume and checkpoint.exists():
        keep_options(config)
        state = torch.load(checkpoint, map_location=config.device, weights_only=True)
        model.load_state_dict(state["model"])
        probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
        start, step = state["round"], state["step"]
        kept = log.read_text().splitlines()[:start]
        log.write_text("".join(line + "\n" for line in kept))
    else:
        log.write_text("")
        (config.out / "config.json").unlink(missing_ok=True)
        keep_options(config)
    total = sum(config.rounds.values())
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f}M parameters, vocabulary {len(tokenizer)}, {total} rounds")
    bar = tqdm(range(start, total), initial=start, total=total, unit="round", smoothing=0.1)
    for index in bar:
        began = time.perf_counter()
        model.eval()
        examples = round_examples(config, index, model, tokenizer)
        sampled = time.perf_counter()
        rng = random.Random(f"batches/{config.seed}/{index}")
        # Smaller batches learn faster while there is much to learn.
        early = config.phase(index) in ("look_up", "sums", "solve")
        tokens = config.tokens_per_batch // (2 if early else 1)
        batches = encoder.batches(examples, tokens, rng)
        model.train()
        sums = {"loss": 0.0, "probe": 0.0}
        for i, batch in enumerate(batches):
            rate = config.rate(index + i / len(batches), step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, parts = loss_on(model, probe, batch, config.probe_weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            for name, value in parts.items():
                sums[name] += value / len(batches)
            bar.set_postfix_str(f"{config.phase(index)} loss {parts['loss']:.3f}")
        if not math.isfinite(sums["loss"]):
            raise FloatingPointError(f"the loss is {sums['loss']} in round {index}")
        trained = time.perf_counter()
        tokens = sum(batch["tokens"].numel() for batch in batches)
        row = {"round": index + 1, "phase": config.phase(index), "step": step, **sums}
        used = sum(
            int((batch["tokens"][:, 0] != tokenizer.pad_token_id).sum()) for batch in batches
        )
        row |= {"learning_rate": rate, "tokens": tokens, "too_long": len(examples) - used}
        due = (index + 1) % config.validate_every == 0 and config.phase(index) != "look_up"
        if due or index + 1 == total:
            model.eval()
            refining = config.phase(index) in ("simulated", "on_policy")
            row |= validate(model, tokenizer, config.validation_questions, refining)
        row |= {
            "sampling_s": sampled - began,
            "training_s": trained - sampled,
            "validation_s": time.perf_counter() - trained,
        }
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        tqdm.write(
            json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        )
        state = {"model": model.state_dict(), "probe": probe.state_dict()}
        state |= {"optimizer": optimizer.state_dict(), "round": index + 1, "step": step}
        with atomic_write(checkpoint) as draft:
            torch.save(state, draft)
        if "hidden" in row:
            save_model(model, tokenizer, config.out / "model")
            plot(log)
    return row


if __name__ == "__main__":
    run_command(train, Config, __doc__)
