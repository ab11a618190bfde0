"""Fits a router from traces: supervised on oracle actions (SFT), then SoftRankPO.

    python training/fit_router.py --traces traces/ --out routers/mine
    python training/fit_router.py --traces traces/ --out routers/mine --resume   # after a stop

Reads any number of trace folders, calibrates the critic's confidence on them, computes every
turn's rewards from the responses stored in them (no LLM call), splits by question, trains a
policy of about 15,000 parameters on a CPU in minutes, and writes a router folder: `policy.onnx`
and `router.json` for `load_router`, and `report.md` with its plots, which says honestly whether
the router is better than what made the traces. Checkpoints lie in `checkpoints/`. The
log is in `log.jsonl`, and in files for TensorBoard.
"""

import copy
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cache
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mpdf_langgraph.errors import ConfigurationError, MPDFError, describe_error
from training.collect.team import answer_schema, grader
from training.learn import losses, softrankpo
from training.learn.ballots import read_ballots
from training.learn.calibrate import fit_calibration, read_judged
from training.learn.checkpoints import Log, content_hash, prepare_folder, save_checkpoint
from training.learn.choices import compare
from training.learn.dataset import Groups, check_answer, critics_of, load, split
from training.learn.doubly_robust import WholeEpisodes, whole_episodes
from training.learn.fit_config import Config, read_labels
from training.learn.joint import load_joint
from training.learn.off_policy import to_plain
from training.learn.policy import Policy
from training.learn.router_folder import export_router
from training.learn.tensors import (
    Data,
    decisions_of,
    estimate_competence,
    expected_reward,
    log_probabilities,
    set_competence,
    to_data,
)
from training.learn.values import ToTheEnd

View = Callable[[Groups, Mapping[str, float]], Groups]
"""From groups and the agents' competence to the groups as the policy sees them."""


def settings_of(config: Config, scale: float, train: Data, held_out: Data) -> dict[str, Any]:
    """Return all that the weights depend on: the options that matter, and the groups."""
    apart = ("traces", "labels", "out", "resume", "threads", "device", "temperature")
    settings = {name: value for name, value in vars(config).items() if name not in apart}
    settings["reward scale"] = scale
    for name, part in (("training groups", train), ("held-out groups", held_out)):
        parts = (*part.observation, part.actions, part.mask, part.rewards, part.labels)
        settings[name] = content_hash(*parts)
    return settings


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over groups, 0 if all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def advantages_of(config: Config, data: Data, reward_scale: float = 1.0) -> tuple[Tensor, float]:
    """Return SoftRankPO's advantages on the training groups, ``[G, K]``, and their scale s."""
    rewards = data.rewards * reward_scale
    scale = softrankpo.reward_scale(rewards, data.mask)
    found = softrankpo.advantages(rewards, tau=config.tau, scale=scale, mask=data.mask)
    return found.float(), scale


LossFunction = Callable[[Policy, Data, Tensor, Tensor | None], tuple[Tensor, dict[str, float]]]
"""From the policy, the groups, a batch's indices and, for PPO and GRPO alone, the
log-probabilities ``[G, 3]`` that the policy had when the epoch began, to the loss and what to
log."""
CHOOSING = 0.125
"""Share of the questions that are not held out on which the epochs are chosen."""
MOST_STEPS = 400
"""Steps of an epoch, at most: beyond, batches get larger, as small ones cost twice the time."""


def sft_loss(
    policy: Policy, data: Data, index: Tensor, old: Tensor | None
) -> tuple[Tensor, dict[str, float]]:
    """Return the weighted cross-entropy with the oracle's actions.

    Actions without a rollout are masked, and the probabilities of the rest renormalised.
    """
    logp = policy(*(part[index] for part in data.observation))
    tries = torch.zeros_like(logp).scatter_add(1, data.actions[index], data.mask[index].to(logp))
    logp = logp.masked_fill(tries == 0, -1e9).log_softmax(1)
    labels, weights = data.labels[index], data.weights[index]
    losses = -(labels * torch.where(labels > 0, logp, 0.0)).sum(1)
    return weighted_mean(losses, weights), {}


def second_stage_loss(
    config: Config, reference: Policy, data: Data, reward_scale: float = 1.0
) -> LossFunction:
    """Return the loss of `config.algorithm`. What is constant is computed once, here.

    PPO and GRPO take the policy at the beginning of each epoch as their old one.

    Args:
        config: The fit's options.
        reference: The SFT policy.
        data: The training groups.
        reward_scale: Multiplies all rewards.
    """
    reference_logp = log_probabilities(reference, data)
    advantages, _ = advantages_of(config, data, reward_scale)

    def softrank(policy: Policy, data: Data, index: Tensor, old: Tensor | None) -> Any:
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
        kl = weighted_mean(softrankpo.kl(reference_logp[index], every), weights)
        return value + config.kl_weight * kl, {**shown, "kl": kl.item()}

    def baseline(policy: Policy, data: Data, index: Tensor, old: Tensor | None) -> Any:
        every = policy(*(part[index] for part in data.observation))
        actions, mask = data.actions[index], data.mask[index]
        logp = every.gather(1, actions)
        ref_logp = reference_logp[index].gather(1, actions)
        rewards = (data.rewards[index] * reward_scale).float()
        share = data.weights[index][:, None]
        if config.algorithm == "awr":
            each = share * losses.enumeration_weights(ref_logp, actions, mask)
            return losses.awr(
                logp, rewards, temperature=config.awr_temperature, mask=mask, weights=each
            )
        if config.algorithm == "regression":
            return losses.regression(
                logp,
                rewards,
                temperature=config.regression_temperature,
                margin=config.margin,
                mask=mask,
                weights=data.weights[index],
            )
        assert old is not None
        old_logp = old[index].gather(1, actions)
        each = share * losses.enumeration_weights(old_logp, actions, mask)
        if config.algorithm == "grpo":
            return losses.grpo(
                logp,
                old_logp,
                ref_logp,
                rewards,
                clip=config.clip,
                beta=config.grpo_beta,
                mask=mask,
                weights=each,
            )
        gaps = losses.center_rewards(rewards, mask=mask, weights=each)
        return losses.ppo(logp, old_logp, gaps, clip=config.clip, mask=mask, weights=each)

    return softrank if config.algorithm == "softrankpo" else baseline


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
    """Train `policy` in place until validation stops improving, and leaves it at its best.

    An epoch depends on the seed, its number and the checkpoint before it alone, and every epoch
    ends with a checkpoint: a resumed run repeats the interrupted epoch and its losses.

    Raises:
        MPDFError: The loss is not finite.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
    checkpoint = config.out / "checkpoints" / f"{stage}.pt"
    if config.resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=config.device, weights_only=True)
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        for row in state["rows"]:
            log.write(row)
    else:
        state = {"epoch": 0, "since": 0, "rows": [], "best": score_of(policy)}
        state["best_policy"] = copy.deepcopy(policy.state_dict())
    batch = max(config.batch_size, -(-len(data) // MOST_STEPS))
    steps = -(-len(data) // batch)
    on_policy = config.algorithm in ("ppo", "grpo") and stage != "sft"
    bar = tqdm(desc=stage, initial=state["epoch"], total=epochs, unit="epoch")
    while state["epoch"] < epochs and state["since"] < config.patience:
        epoch = state["epoch"]
        shuffle = torch.Generator().manual_seed(epoch_seed(config.seed, stage, epoch))
        order = torch.randperm(len(data), generator=shuffle).to(config.device)
        old = log_probabilities(policy, data) if on_policy else None
        policy.train()
        totals: dict[str, float] = {}
        for step in range(steps):
            done = (epoch + step / steps) / epochs
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done)) / 2
            index = order[step * batch : (step + 1) * batch]
            loss, shown = loss_of(policy, data, index, old)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            for name, value in {"loss": loss.item(), **shown}.items():
                totals[name] = totals.get(name, 0.0) + value / steps
        if not math.isfinite(totals["loss"]):
            raise MPDFError(
                f"{stage}: the loss is {totals['loss']} in epoch {epoch + 1}; lower --learning-rate"
            )
        score = score_of(policy)
        probabilities = log_probabilities(policy, validation).exp()
        actions, untied = probabilities.mean(0), probabilities[~validation.tied].mean(0)
        row = {"stage": stage, "epoch": epoch + 1, **totals, "validation": score}
        row |= dict(zip(("persist", "refine", "concede"), actions.tolist(), strict=True))
        row |= {"persist_untied": untied[0].item(), "refine_untied": untied[1].item()}
        state["since"] += 1
        if score > state["best"] + 1e-6:
            state |= {"best": score, "since": 0}
            state["best_policy"] = copy.deepcopy(policy.state_dict())
        state["rows"].append(to_plain(row))
        state |= {"epoch": epoch + 1, "policy": policy.state_dict()}
        state["optimizer"] = optimizer.state_dict()
        save_checkpoint(state, checkpoint)
        log.write(to_plain(row))
        bar.set_postfix_str(f"loss {totals['loss']:.4f} validation {score:.4f}", refresh=False)
        bar.update()
    bar.close()
    policy.load_state_dict(state["best_policy"])


def stage_name(algorithm: str, cost: float, iteration: int = 1) -> str:
    """Return the name of a second stage and of its checkpoint. `iteration` counts from 1."""
    name = f"{algorithm}-cost-{cost:g}"
    return name if iteration == 1 else f"{name}-iteration-{iteration}"


def epoch_seed(seed: int, stage: str, epoch: int) -> int:
    """Return a seed of its own for every epoch of every stage."""
    return int(np.random.SeedSequence([seed, epoch, *stage.encode()]).generate_state(1)[0])


def fit(
    config: Config,
    *,
    reward_scale: float = 1.0,
    hard_labels: bool = False,
    view: View = set_competence,
) -> dict[str, Any]:
    """Run the whole fit and return the content of `router.json`.

    The other arguments serve ablations.

    Args:
        config: The options.
        reward_scale: Multiplies all rewards in the losses. It must not matter to SoftRankPO.
        hard_labels: SFT learns the best action alone.
        view: Makes the features that the policy sees.

    Raises:
        MPDFError: There is nothing to learn from, or an option is wrong.
    """
    started = time.perf_counter()
    config.check()
    try:
        torch.zeros(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"--device {config.device}: {describe_error(error)}") from error
    torch.set_num_threads(config.threads)

    check_answer(config.traces, config.answer)
    right = cache(grader(answer_schema(config.answer)))
    labels = read_labels(config.labels) if config.labels else None
    processes = min(8, os.cpu_count() or 1)
    judged, measured = read_judged(config.traces, right, labels, processes).split(
        config.validation, config.seed
    )
    calibration = fit_calibration(judged)
    # From here on every confidence is a calibrated one, as it will be where the router runs.
    ballots = read_ballots(config.traces, right, labels, calibration, processes)
    comparison = compare(*ballots.split(config.validation, config.seed), config.seed)
    consensus = comparison.consensus if config.consensus == "learned" else None
    groups, reading = load(
        config.traces,
        grader=right,
        labels=labels,
        calibration=calibration,
        consensus=consensus,
        processes=processes,
    )
    print(reading)
    for problem in reading.problems:
        print(f"warning: {problem}", file=sys.stderr)
    train, held_out = split(groups, config.validation, config.seed)
    # The epochs are chosen on questions that the report does not quote.
    train, choosing = split(train, CHOOSING, config.seed + 1)
    if not len(train) or not len(choosing) or not len(held_out):
        raise ConfigurationError(
            f"{len(groups)} turns of {len(groups.questions)} questions leave {len(train)} to train "
            f"on, {len(choosing)} to choose by and {len(held_out)} to report: collect more traces, "
            "in which agents disagree"
        )
    competence = estimate_competence(train)
    parts = [view(part, competence) for part in (train, choosing, held_out)]
    train, _, held_out = parts
    ends = None
    if config.values == "fitted":
        joint = load_joint(
            config.traces, grader=right, labels=labels, calibration=calibration, processes=processes
        )
        ends = ToTheEnd(joint, parts, competence, config.seed)
        parts = ends.revalue()[1]

    def tensors(parts: Sequence[Groups], cost: float) -> list[Data]:
        return [to_data(part, config, cost, hard_labels=hard_labels) for part in parts]

    data, validation, reported = tensors(parts, config.cost)
    settings = settings_of(config, reward_scale, data, validation)
    prepare_folder(config.out, settings, resume=config.resume)

    torch.manual_seed(config.seed)
    policy = Policy(train.own.shape[1], width=config.width).to(config.device)
    policy.fit_normalisation(*data.observation[:3])

    def sft_score(policy: Policy) -> float:
        policy.eval()
        with torch.no_grad():
            every = torch.arange(len(validation), device=config.device)
            return -sft_loss(policy, validation, every, None)[0].item()

    with closing(Log(config.out)) as log:
        epochs = config.sft_epochs
        run_stage("sft", policy, sft_loss, sft_score, data, validation, epochs, config, log)
        chosen, fitted = "SFT", {"SFT": policy}
        costs = () if config.algorithm == "none" else (config.cost, *config.sweep)
        for cost in dict.fromkeys(costs):
            before, worth = policy, parts
            for iteration in range(1, config.iterations + 1):
                stage = stage_name(config.algorithm, cost, iteration)
                if iteration > 1:
                    assert ends is not None
                    followed = probabilities_at(before, worth, config)
                    worth = ends.revalue(ends.policy(followed))[1]
                at_cost = tensors(worth, cost)
                fitted[stage] = copy.deepcopy(before)
                loss = second_stage_loss(config, before, at_cost[0], reward_scale)

                def score(
                    policy: Policy, held: Data = at_cost[1], part: Groups = worth[1]
                ) -> float:
                    return expected_reward(policy, held, part, drawn=config.drawn)

                run_stage(
                    stage,
                    fitted[stage],
                    loss,
                    score,
                    at_cost[0],
                    at_cost[1],
                    config.epochs,
                    config,
                    log,
                )
                before = fitted[stage]
            if cost == config.cost:
                chosen, (data, _, reported) = stage, at_cost
                parts = worth

    def estimate(probabilities: NDArray[np.float64]) -> WholeEpisodes:
        if ends is None:
            return WholeEpisodes(0.0, unknown="it takes fitted values (--values fitted)")
        others = probabilities_at(fitted[chosen], parts[:-1], config)
        at = ends.policy([*others, probabilities])
        states, policy, question = ends.held_out(len(parts) - 1, at)
        return whole_episodes(states, ends.values(at), policy, question)

    advantages, scale = advantages_of(config, data, reward_scale)
    seconds = time.perf_counter() - started
    tied = data.tied.double().mean().item()
    sizes = (
        f"{len(train)} turns to train on ({tied:.0%} tied), {len(choosing)} to choose epochs by, "
        f"{len(held_out)} of other questions for this report"
    )
    return export_router(
        config,
        fitted,
        chosen,
        held_out=held_out,
        worth=parts[-1],
        whole=estimate,
        validation=reported,
        rewards=data.rewards[data.untied].cpu().numpy(),
        advantages=advantages[data.untied].cpu().numpy(),
        scale=scale,
        competence=competence,
        calibration=calibration,
        measured=measured,
        comparison=comparison,
        rows=log.rows,
        critics=critics_of(config.traces),
        summary=[f"{reading}.", f"{sizes}; seed {config.seed}, {seconds:.0f} s."],
    )


def probabilities_at(
    policy: Policy, parts: Sequence[Groups], config: Config
) -> list[NDArray[np.float64]]:
    """Return what a policy decides by, at every part of the groups, ``[G, 3]`` each."""
    logs = (log_probabilities(policy, to_data(part, config, 0.0)) for part in parts)
    return [decisions_of(one, drawn=config.drawn, temperature=config.temperature) for one in logs]


def command() -> None:
    """Run the command."""
    try:
        fit(tyro.cli(Config, description=__doc__))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command with --resume goes on from the last epoch")
