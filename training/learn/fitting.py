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
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpdf_langgraph.errors import ConfigurationError, describe_error
from training.collect.files import check_folder
from training.command import run_command
from training.learn import stages
from training.learn.checkpoints import Log, content_hash, prepare_folder
from training.learn.dataset import Groups
from training.learn.doubly_robust import WholeEpisodes, whole_episodes
from training.learn.fit_config import Config
from training.learn.lessons import Lessons, View, prepare
from training.learn.policy import Policy
from training.learn.router_folder import export_router
from training.learn.stages import advantages_of, second_stage_loss, sft_loss, stage_name
from training.learn.tensors import (
    Data,
    decisions_of,
    expected_reward,
    log_probabilities,
    set_competence,
    to_data,
)
from training.learn.values import Values


def settings_of(config: Config, scale: float, train: Data, held_out: Data) -> dict[str, Any]:
    """Return all that the weights depend on: the options that matter, and the groups."""
    apart = ("traces", "labels", "out", "resume", "threads", "device", "temperature")
    settings = {name: value for name, value in vars(config).items() if name not in apart}
    settings["reward scale"] = scale
    for name, part in (("training groups", train), ("held-out groups", held_out)):
        parts = (*part.observation, part.actions, part.mask, part.rewards, part.labels)
        settings[name] = content_hash(*parts)
    return settings


def fit_sft(config: Config, data: Data, validation: Data, log: Log) -> Policy:
    """Return a policy that imitates the labels of the training turns."""
    torch.manual_seed(config.seed)
    policy = Policy(data.observation[0].shape[1], width=config.width).to(config.device)
    policy.fit_normalisation(*data.observation[:3])

    def score(policy: Policy) -> float:
        policy.eval()
        with torch.no_grad():
            every = torch.arange(len(validation), device=config.device)
            return -sft_loss(policy, validation, every, None)[0].item()

    stages.run_stage(
        "sft", policy, sft_loss, score, data, validation, config.sft_epochs, config, log
    )
    return policy


def fit_second_stage(
    config: Config, sft: Policy, lessons: Lessons, cost: float, log: Log, reward_scale: float = 1.0
) -> tuple[dict[str, Policy], list[Groups]]:
    """Run the second stage at one cost, as often as there are policy iterations.

    With fitted values, epochs are chosen by what the team is worth if all follow the policy. In the
    known environments the reward of a single turn chose worse ones.

    Return the policy of every iteration, by name. And the turns with the rewards that the last of
    them was fitted to.
    """
    fitted: dict[str, Policy] = {}
    before, worth, values = sft, lessons.parts, lessons.values
    for iteration in range(1, config.iterations + 1):
        if iteration > 1:
            assert lessons.ends is not None
            followed = probabilities_at(before, worth, config)
            values, worth = lessons.ends.revalue(lessons.ends.policy(followed))
        data, validation = (to_data(part, config, cost) for part in worth[:2])

        def score(
            policy: Policy,
            held: Data = validation,
            part: Groups = worth[1],
            values: Values | None = values,
        ) -> float:
            if lessons.ends is None or values is None:
                return expected_reward(policy, held, part, drawn=config.drawn)
            decided = decisions_of(log_probabilities(policy, held), drawn=config.drawn)
            return lessons.ends.team_worth(1, values, decided, cost)

        stage = stage_name(config.algorithm, cost, iteration)
        fitted[stage] = copy.deepcopy(before)
        loss = second_stage_loss(config, before, data, reward_scale)
        epochs = config.epochs
        stages.run_stage(stage, fitted[stage], loss, score, data, validation, epochs, config, log)
        before = fitted[stage]
    return fitted, worth


def fit(
    config: Config,
    *,
    reward_scale: float = 1.0,
    hard_labels: bool = False,
    view: View = set_competence,
) -> dict[str, Any]:
    """Run the whole fit and return the content of `router.json`.

    The other arguments serve ablations: `reward_scale` multiplies all rewards in the losses, with
    `hard_labels` SFT learns the best action alone, and `view` makes the features that the policy
    sees.

    Raises:
        MPDFError: There is nothing to learn from, or an option is wrong.
    """
    started = time.perf_counter()
    config.check()
    check_folder("--out", config.out)
    try:
        torch.zeros(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"--device {config.device}: {describe_error(error)}") from error
    torch.set_num_threads(config.threads)

    lessons = prepare(config, view)
    parts, ends = lessons.parts, lessons.ends
    data, validation, reported = (
        to_data(part, config, config.cost, hard_labels=hard_labels) for part in parts
    )
    settings = settings_of(config, reward_scale, data, validation)
    held = prepare_folder(config.out, settings, resume=config.resume)
    with closing(held), closing(Log(config.out)) as log:
        policy = fit_sft(config, data, validation, log)
        chosen, fitted = "SFT", {"SFT": policy}
        costs = () if config.algorithm == "none" else (config.cost, *config.sweep)
        for cost in dict.fromkeys(costs):
            found, worth = fit_second_stage(config, policy, lessons, cost, log, reward_scale)
            fitted |= found
            if cost == config.cost:
                chosen, parts = list(found)[-1], worth
                data, reported = (to_data(worth[part], config, cost) for part in (0, -1))

    def estimate(probabilities: NDArray[np.float64]) -> WholeEpisodes:
        if ends is None:
            return WholeEpisodes(0.0, unknown="it takes fitted values (--values fitted)")
        others = probabilities_at(fitted[chosen], parts[:-1], config)
        at = ends.policy([*others, probabilities])
        states, policy, question = ends.held_out(len(parts) - 1, at)
        choice = lessons.comparison.advised_right()
        return whole_episodes(states, ends.values(at), policy, question, choice=choice)

    advantages, scale = advantages_of(config, data, reward_scale)
    seconds = time.perf_counter() - started
    tied = data.tied.double().mean().item()
    train, choosing, held_out = lessons.one_step
    sizes = (
        f"{len(train)} turns to train on ({tied:.0%} tied), {len(choosing)} to choose epochs by, "
        f"{len(held_out)} of other questions for this report"
    )
    return export_router(
        config,
        fitted,
        chosen,
        lessons,
        worth=parts[-1],
        whole=estimate,
        validation=reported,
        rewards=data.rewards[data.untied].cpu().numpy(),
        advantages=advantages[data.untied].cpu().numpy(),
        scale=scale,
        rows=log.rows,
        summary=[f"{lessons.reading}.", f"{sizes}. Seed {config.seed}, {seconds:.0f} s."],
    )


def probabilities_at(
    policy: Policy, parts: Sequence[Groups], config: Config
) -> list[NDArray[np.float64]]:
    """Return what a policy decides by, at every part of the groups, ``[G, 3]`` each."""
    logs = (log_probabilities(policy, to_data(part, config, 0.0)) for part in parts)
    return [decisions_of(one, drawn=config.drawn, temperature=config.temperature) for one in logs]


def command() -> None:
    """Run the command."""
    run_command(
        fit,
        Config,
        __doc__,
        "stopped. The same command with --resume goes on from the last epoch",
    )
