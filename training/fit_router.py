"""Fits a router from traces: supervised on oracle actions (SFT), then SoftRankPO.

    python training/fit_router.py --traces traces/ --out routers/mine
    python training/fit_router.py --traces traces/ --out routers/mine --resume   # after a stop

Reads any number of trace folders, computes every turn's rewards from the responses stored in
them (no LLM call), splits by question, trains a policy of about 14,000 parameters on a CPU in
minutes, and writes a router folder: `policy.onnx` and `router.json` for `load_router`, and
`report.md` with its plots, which says honestly whether the router is better than what made the
traces. Checkpoints lie in `checkpoints/`; logs in `log.jsonl` and for TensorBoard.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mpdf_langgraph.errors import ConfigurationError, MPDFError
from mpdf_langgraph.observation import INDEX
from training import baselines, softrankpo
from training.calibration import Calibration
from training.dataset import load, split
from training.options import Config, read_labels
from training.policy import Policy
from training.router_folder import export_router
from training.source import answer_schema
from training.tensors import (
    Data,
    competences,
    expected_reward,
    log_probabilities,
    prepare,
    to_data,
)


def advantages_of(config: Config, data: Data) -> Tensor:
    """SoftRankPO's advantages on the training groups, ``[G, K]``."""
    scale = softrankpo.reward_scale(data.rewards, data.mask)
    found = softrankpo.advantages(data.rewards, tau=config.tau, scale=scale, mask=data.mask)
    return found.float()


LossFunction = Callable[[Policy, Data, Tensor, Tensor], tuple[Tensor, dict[str, float]]]
"""From the policy, the groups, a batch's indices and the log-probabilities ``[G, 3]`` that the
policy had when the epoch began, to the loss and what to log."""


def sft_loss(
    policy: Policy, data: Data, index: Tensor, old: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Weighted cross-entropy with the oracle's actions."""
    logp = policy(*(part[index] for part in data.observation))
    labels, weights = data.labels[index], data.weights[index]
    losses = -(labels * torch.where(labels > 0, logp, 0.0)).sum(1)
    return (losses * weights).sum() / weights.sum(), {}


def second_stage_loss(config: Config, reference: Policy, data: Data) -> LossFunction:
    """The loss of `config.algorithm`; what is constant is computed once, here.

    PPO and GRPO take the policy at the beginning of each epoch as their old one.
    """
    reference_logp = log_probabilities(reference, data)
    advantages = advantages_of(config, data)

    def softrank(policy: Policy, data: Data, index: Tensor, old: Tensor) -> Any:
        every = policy(*(part[index] for part in data.observation))
        actions, weights = data.actions[index], data.weights[index]
        value, shown = softrankpo.loss(
            every.gather(1, actions),
            reference_logp[index].gather(1, actions),
            advantages[index],
            beta=config.beta,
            mask=data.mask[index],
            weights=weights,
        )
        kl = (softrankpo.kl(reference_logp[index], every) * weights).sum() / weights.sum()
        return value + config.kl_weight * kl, {**shown, "kl": kl.item()}

    def baseline(policy: Policy, data: Data, index: Tensor, old: Tensor) -> Any:
        every = policy(*(part[index] for part in data.observation))
        actions, mask = data.actions[index], data.mask[index]
        logp, old_logp = every.gather(1, actions), old[index].gather(1, actions)
        ref_logp = reference_logp[index].gather(1, actions)
        rewards = data.rewards[index].float()
        share = data.weights[index][:, None]
        if config.algorithm == "awr":
            each = share * baselines.enumeration_weights(ref_logp, actions, mask)
            return baselines.awr(
                logp, rewards, temperature=config.awr_temperature, mask=mask, weights=each
            )
        each = share * baselines.enumeration_weights(old_logp, actions, mask)
        if config.algorithm == "grpo":
            return baselines.grpo(
                logp, old_logp, ref_logp, rewards, clip=config.clip, mask=mask, weights=each
            )
        centred = baselines.centred(rewards, mask=mask, weights=each)
        return baselines.ppo(logp, old_logp, centred, clip=config.clip, mask=mask, weights=each)

    return softrank if config.algorithm == "softrankpo" else baseline


@dataclass
class Log:
    """JSONL and TensorBoard, and the rows kept for the report's plots."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = (self.folder / "log.jsonl").open("a")
        self._board = SummaryWriter(str(self.folder / "tensorboard"))

    def write(self, row: dict[str, Any]) -> None:
        """Appends one epoch."""
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{row['stage']}/{name}", value, row["epoch"])

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        self._board.close()


def run_stage(
    stage: str,
    policy: Policy,
    loss_of: LossFunction,
    score_of: Callable[[Policy], float],
    data: Data,
    validation: Data,
    epochs: int,
    config: Config,
    log: Log,
) -> None:
    """Trains `policy` in place until validation stops improving, and leaves it at its best.

    An epoch depends on the seed, its number and the weights alone, and every epoch ends with a
    checkpoint: a resumed run repeats the interrupted epoch and its losses.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    checkpoint = config.out / "checkpoints" / f"{stage}.pt"
    state: dict[str, Any] = {"epoch": 0, "best": -np.inf, "since": 0, "rows": []}
    if config.resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=config.device, weights_only=True)
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        for row in state["rows"]:
            log.rows.append(row)
    else:
        state["best_policy"] = {k: v.clone() for k, v in policy.state_dict().items()}
        state["best"] = score_of(policy)
    steps = -(-len(data) // config.batch_size)
    bar = tqdm(range(state["epoch"], epochs), desc=stage, initial=state["epoch"], total=epochs)
    for epoch in bar:
        if state["since"] >= config.patience:
            break
        order = torch.randperm(
            len(data), generator=torch.Generator().manual_seed(hash_seed(config.seed, stage, epoch))
        ).to(config.device)
        old = log_probabilities(policy, data)
        policy.train()
        totals: dict[str, float] = {}
        for step in range(steps):
            rate = (
                0.5 * config.learning_rate * (1 + np.cos(np.pi * (epoch + step / steps) / epochs))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss, shown = loss_of(policy, data, index, old)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            for name, value in {"loss": loss.item(), **shown}.items():
                totals[name] = totals.get(name, 0.0) + value / steps
        if not np.isfinite(totals["loss"]):
            raise MPDFError(f"{stage}: the loss is {totals['loss']} in epoch {epoch + 1}")
        score = score_of(policy)
        probabilities = log_probabilities(policy, validation).exp()
        actions = probabilities.mean(0).tolist()
        untied = probabilities[~validation.tied].mean(0).tolist()
        row = {"stage": stage, "epoch": epoch + 1, **totals, "validation": score}
        row |= dict(zip(("persist", "refine", "concede"), actions, strict=True))
        row |= {"persist_untied": untied[0], "refine_untied": untied[1]}
        state["since"] += 1
        if score > state["best"] + 1e-6:
            state |= {"best": score, "since": 0}
            state["best_policy"] = {k: v.clone() for k, v in policy.state_dict().items()}
        state["rows"].append(row)
        state |= {"epoch": epoch + 1, "policy": policy.state_dict()}
        state["optimizer"] = optimizer.state_dict()
        save(state, checkpoint)
        log.write(row)
        bar.set_postfix_str(f"loss {totals['loss']:.4f} validation {score:.4f}")
    policy.load_state_dict(state["best_policy"])


def hash_seed(seed: int, stage: str, epoch: int) -> int:
    """A seed of its own for every epoch of every stage."""
    return int(np.random.SeedSequence([seed, epoch, *stage.encode()]).generate_state(1)[0])


def save(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint so that a stop in between leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def fit(config: Config) -> dict[str, Any]:
    """Runs the whole fit and returns what `router.json` says.

    Raises:
        MPDFError: There is nothing to learn from, or an option does not fit the traces.
    """
    began = time.perf_counter()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    if not config.resume:
        (config.out / "log.jsonl").unlink(missing_ok=True)

    groups, reading = load(
        config.traces,
        grader=answer_schema(config.answer).equivalent,
        labels=read_labels(config.labels) if config.labels else None,
    )
    print(reading)
    train, held_out = split(groups, config.validation, config.seed)
    if not len(train) or not len(held_out):
        raise ConfigurationError(
            f"{len(groups)} turns of {len(groups.questions)} questions leave nothing to train "
            "or to validate on: collect more traces"
        )
    competence = competences(train)
    train, held_out = (prepare(part, config, competence) for part in (train, held_out))
    known = train.own[:, INDEX["confidence_known"]] > 0
    calibration = Calibration.fit(
        train.own[known, INDEX["confidence"]].astype(float), train.held_right[known].astype(float)
    )

    log = Log(config.out)
    data, validation = (to_data(part, config, config.cost) for part in (train, held_out))
    policy = Policy(train.own.shape[1], width=config.width).to(config.device)
    policy.fit_normalisation(*data.observation[:3])

    def sft_score(policy: Policy) -> float:
        policy.eval()
        with torch.no_grad():
            every = torch.arange(len(validation), device=config.device)
            return -sft_loss(policy, validation, every, every)[0].item()

    run_stage("sft", policy, sft_loss, sft_score, data, validation, config.sft_epochs, config, log)
    sft = copy.deepcopy(policy)
    fitted: dict[float, Policy] = {}
    for cost in dict.fromkeys((config.cost, *config.sweep)):
        policy = copy.deepcopy(sft)
        if config.algorithm != "none":
            at_cost = [to_data(part, config, cost) for part in (train, held_out)]
            stage = config.algorithm if cost == config.cost else f"{config.algorithm}-cost-{cost}"
            run_stage(
                stage,
                policy,
                second_stage_loss(config, sft, at_cost[0]),
                lambda p, held=at_cost[1]: expected_reward(p, held, held_out),
                *at_cost,
                config.epochs,
                config,
                log,
            )
        fitted[cost] = policy
    log.close()
    seconds = time.perf_counter() - began
    sizes = f"{len(train)} turns to train on, {len(held_out)} held out"
    return export_router(
        config,
        {"SFT": sft, **{f"cost {cost:g}": policy for cost, policy in fitted.items()}},
        f"cost {config.cost:g}",
        held_out,
        validation,
        data,
        advantages_of(config, data),
        competence,
        calibration,
        log.rows,
        [str(reading), f"{sizes}, {seconds:.0f} s, seed {config.seed}"],
    )


if __name__ == "__main__":
    try:
        fit(tyro.cli(Config, description=__doc__))
    except MPDFError as error:
        sys.exit(f"error: {error}")
