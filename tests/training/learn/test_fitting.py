"""Fitting a router: it learns, repeats itself, goes on after a stop, and says what is wrong."""

import itertools
import json
import operator
import random
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpdf_langgraph import Calibration, TraceReader, load_router
from mpdf_langgraph.errors import ConfigurationError, MPDFError, TraceError
from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.router import known_calibration, known_competence
from mpdf_langgraph.state import Observation, Response
from tests.support.running import run_python
from tests.support.synthetic import Deliberation, synthetic_episodes
from tests.support.toy_groups import Toy, toy_groups
from tests.support.written import write_traces
from training.collect.questions import SEEN, hash_told
from training.learn import checkpoints, fitting, softrankpo, stages
from training.learn.calibrate import fit_calibration, judged_of
from training.learn.checkpoints import prepare_folder
from training.learn.dataset import Groups, check_answer, load, split
from training.learn.fit_config import Config, read_labels
from training.learn.fitting import fit
from training.learn.lessons import CHOOSING
from training.learn.off_policy import expect
from training.learn.policy import Policy
from training.learn.recorded import read_recorded
from training.learn.rewards import Weights
from training.learn.stages import second_stage_loss, sft_loss
from training.learn.tensors import (
    estimate_competence,
    expected_reward,
    log_probabilities,
    set_competence,
    to_data,
)
from training.studies.environment_episodes import episodes
from training.studies.environments import ENVIRONMENTS
from training.studies.fits import Changes, Fit
from training.studies.known_values import Known


class Telling(Deliberation):
    """A deliberation in which confidence tells everything.

    Agents know the answer or do not, and are confident only if they do. Refining helps only where
    nobody knows, and spoils a right answer: so the best decision is to persist if confident, to
    concede if only somebody else is, and to refine if nobody is.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"{number:032x}", random.Random(number), 3, "confidence")
        self.knows = {name: float(self.rng.random() < 0.4) for name in self.knows}

    def respond(self, id_: str, name: str, round_: int, chance: float) -> Response:
        if round_ > 0:
            chance = float(not any(self.knows.values()))
        response = super().respond(id_, name, round_, chance)
        critique = response["critique"]
        assert critique is not None
        critique["confidence"] = 0.9 if response["answer"] == str(self.truth) else 0.1
        return response


def write(folder: Path, numbers: range, kind: type[Telling] = Telling) -> Path:
    return write_traces(folder, (kind(number).run(1, 4) for number in numbers))


def read(folder: Path, calibration: Calibration | None = None) -> Groups:
    right = operator.eq
    return load([folder], grader=right, calibration=calibration, progress=False)[0]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("traces"), range(300))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Groups:
    """Groups of other episodes."""
    return read(write(tmp_path_factory.mktemp("fresh"), range(1000, 1100)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config(traces: Path, out: Path, **changes: Any) -> Config:
    options = {"sft_epochs": 3, "epochs": 3, "batch_size": 64, "learning_rate": 3e-3, "threads": 1}
    options["values"] = "one-step"  # rewards that are known beforehand
    return Config(traces=(traces,), out=out, **{**options, **changes})


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` returns the chosen policy instead of writing its folder."""
    monkeypatch.setattr(
        fitting, "export_router", lambda config, policies, chosen, *_, **__: policies[chosen]
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def observations(groups: Groups) -> list[Observation]:
    return [
        Observation(own=own.tolist(), peers=peers[there].tolist())
        for own, peers, there in zip(groups.own, groups.peers, groups.peer_mask, strict=True)
    ]


# --- learning -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "softrankpo", "grpo", "ppo", "awr", "regression"])
def test_every_algorithm_finds_the_best_decisions(
    traces: Path, fresh: Groups, tmp_path: Path, without_export: None, algorithm: Any
) -> None:
    sft_alone = algorithm == "none"
    options = config(
        traces,
        tmp_path,
        algorithm=algorithm,
        sft_epochs=15 if sft_alone else 2,
        epochs=30,
        # Before a second stage SFT sees evenly spread labels: all is left to that stage.
        label_temperature=0.3 if sft_alone else 1000.0,
    )
    policy: Any = fit(options)
    groups = set_competence(fresh, estimate_competence(read(traces)))
    data = to_data(groups, options, 0.0)
    probabilities = log_probabilities(policy, data).exp().numpy()
    best = groups.labels(Weights())
    untied = ~groups.tied(Weights())
    assert np.bincount(best[untied]).min() > 20  # all three are best somewhere
    assert (probabilities.argmax(1) == best)[untied].mean() > 0.95
    oracle = expect(groups.action_means(data.rewards.numpy()), np.eye(3)[best]).mean()
    assert expected_reward(policy, data, groups, drawn=True) > 0.85 * oracle
    if not sft_alone:
        first = next(row for row in rows(tmp_path) if row["stage"] == "sft")
        assert max(first["persist"], first["refine"], first["concede"]) < 0.5


def test_softrankpo_is_unmoved_by_the_scale_of_rewards(
    traces: Path, tmp_path: Path, without_export: None
) -> None:
    def weights(algorithm: Any, scale: float) -> torch.Tensor:
        out = tmp_path / f"{algorithm}{scale}"
        made: Any = fit(config(traces, out, algorithm=algorithm), reward_scale=scale)
        return torch.cat([part.flatten() for part in made.parameters()])

    expected = weights("softrankpo", 1.0)
    for scale in (0.1, 10.0):
        assert torch.allclose(weights("softrankpo", scale), expected, atol=1e-5)
    # Others are moved by it, so that equality above is no accident.
    assert not torch.allclose(weights("awr", 0.1), weights("awr", 10.0), atol=1e-3)


@pytest.mark.parametrize("algorithm", ["softrankpo", "grpo", "ppo", "awr", "regression"])
def test_a_batch_without_weight_is_worth_nothing(algorithm: Any) -> None:
    groups = toy_groups([[Toy(0), Toy(1), Toy(2)]] * 4)
    options = Config(traces=(), algorithm=algorithm, tied_weight=0.0)
    data = to_data(groups, options, 0.0)
    assert data.tied.all()
    assert data.weights.sum() == 0
    torch.manual_seed(0)
    policy, reference = Policy(), Policy()
    index = torch.arange(4)
    old = log_probabilities(policy, data)
    for loss_of in (sft_loss, second_stage_loss(options, reference, data)):
        loss, shown = loss_of(policy, data, index, old)
        loss.backward()
        assert loss.item() == 0
        assert all(np.isfinite(value) for value in shown.values())
    for part in policy.parameters():
        assert part.grad is None or torch.equal(part.grad, torch.zeros_like(part))


def test_what_was_not_tried_is_not_taken_for_wrong() -> None:
    groups = toy_groups([[Toy(0), Toy(2, -1.0)]] * 4 + [[Toy(0), Toy(1, -1.0), Toy(2, -1.0)]] * 4)
    data = to_data(groups, Config(traces=()), 0.0)
    torch.manual_seed(0)
    policy = Policy()
    logp = log_probabilities(policy, data)

    def pushed(index: torch.Tensor) -> list[float]:
        """What a step down the loss would do to the log-probability of every action."""
        moved = logp[index].detach().requires_grad_()
        stand_in: Any = lambda *_: moved.log_softmax(1)  # noqa: E731
        sft_loss(stand_in, data, index, None)[0].backward()  # type: ignore[no-untyped-call]
        assert moved.grad is not None
        return [-value for value in moved.grad.sum(0).tolist()]

    untried, tried = pushed(torch.arange(4)), pushed(torch.arange(4, 8))
    assert untried[1] == pytest.approx(0.0, abs=1e-6)
    assert tried[1] < -1e-3
    assert untried[0] > 0 > untried[2]


def test_labels_and_weights() -> None:
    groups = toy_groups(
        [[Toy(0), Toy(1, 1.0), Toy(1, 0.0), Toy(2, -1.0)], [Toy(0), Toy(1)]],
        disagreement=np.array([True, False]),
    )
    options = Config(traces=(), tied_weight=0.1, disagreement_weight=3.0, label_temperature=0.5)
    data = to_data(groups, options, 0.0)
    powers = np.exp(np.array([0.0, 0.5, -1.0]) / 0.5)
    assert data.labels[0].numpy() == pytest.approx(powers / powers.sum())
    assert data.labels[1].tolist() == [1, 0, 0]  # all tied: PERSIST, not a third each
    assert data.weights.tolist() == pytest.approx([3.0, 0.1])
    assert data.untied.tolist() == [[True] * 4, [False] * 4]
    # A price for tokens makes no turn worth more where there is no accuracy to buy.
    dear = to_data(toy_groups([[Toy(0), Toy(1, tokens=500.0), Toy(2)]]), options, 1.0)
    assert dear.labels.tolist() == [[1, 0, 0]]
    assert dear.weights.tolist() == pytest.approx([0.1])
    hard = to_data(groups, Config(traces=()), 0.0, hard_labels=True)
    assert hard.labels.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_an_ablated_router_stays_blind_to_what_was_hidden(
    traces: Path, fresh: Groups, tmp_path: Path, without_export: None
) -> None:
    options = config(traces, tmp_path, sft_epochs=1, epochs=1)
    ablated = Fit(options, Changes(hidden=("confidence",), blind=True))
    policy: Any = fit(options, view=lambda *seen: ablated.view(*seen, ()))

    def decisions(groups: Groups) -> torch.Tensor:
        return log_probabilities(policy, to_data(groups, Config(traces=()), 0.0))

    other = fresh.select(np.arange(len(fresh)))
    other.own, other.peers = other.own.copy(), np.random.default_rng(0).random(fresh.peers.shape)
    other.own[:, INDEX["confidence"]] = 0.3
    assert torch.equal(decisions(fresh), decisions(other))
    other.own[:, INDEX["support"]] += 0.5
    assert not torch.equal(decisions(fresh), decisions(other))


def test_competence_is_the_smoothed_share_of_right_proposals(fresh: Groups) -> None:
    found = estimate_competence(fresh)
    right = [fresh.held_right[fresh.agent == i] for i in range(3)]
    assert list(found) == fresh.agents == ["agent-1", "agent-2", "agent-3"]
    assert list(found.values()) == pytest.approx([(r.sum() + 1) / (len(r) + 2) for r in right])
    prepared = set_competence(fresh, found)
    place = INDEX["competence"]
    assert prepared.own[0, place] == pytest.approx(found["agent-1"])
    assert prepared.peers[0, :, place] == pytest.approx([found["agent-2"], found["agent-3"]])


# --- repeating itself, and going on after a stop --------------------------------------------


@pytest.fixture(scope="module")
def fitted(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted fit with a sweep."""
    folder = tmp_path_factory.mktemp("fit") / "mine"
    threads = torch.get_num_threads()
    fit(config(traces, folder, sweep=(0.5,)))
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_a_resumed_fit_equals_an_uninterrupted_one(
    traces: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Stopped in the middle of SFT, of the second stage, and of the sweep."""
    save, saved = torch.save, itertools.count(1)

    def save_and_stop(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        if next(saved) == stop:
            raise KeyboardInterrupt

    folder = tmp_path / "mine"
    options = {"sweep": (0.5,)}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.torch, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(config(traces, folder, **options))
    assert len(rows(folder)) == stop - 1  # the last was not yet moved into place
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"stage": "sft", "ep')
    if stop != 5:  # one export is enough
        monkeypatch.setattr(fitting, "export_router", lambda *_, **__: {})
    fit(config(traces, folder, resume=True, **options))
    assert rows(folder) == rows(fitted)
    if stop == 5:
        assert (folder / "policy.onnx").read_bytes() == (fitted / "policy.onnx").read_bytes()
        manifests = [json.loads((f / "router.json").read_text()) for f in (folder, fitted)]
        assert manifests[0]["version"] == manifests[1]["version"]
        assert manifests[0]["evidence"] == manifests[1]["evidence"]
    # Once more: nothing is left to do, and nothing stands twice.
    monkeypatch.setattr(fitting, "export_router", lambda *_, **__: {})
    fit(config(traces, folder, resume=True, **options))
    assert rows(folder) == rows(fitted)


def test_a_router_knows_the_questions_that_it_was_fitted_on(traces: Path, fitted: Path) -> None:
    told = {hash_told(episode) for episode in TraceReader(traces)}
    assert set((fitted / SEEN).read_text().split()) == told
    assert len(told) == 300


def test_the_same_seed_gives_the_same_router(traces: Path, fitted: Path, tmp_path: Path) -> None:
    fit(config(traces, tmp_path / "again", sweep=(0.5,)))
    assert rows(tmp_path / "again") == rows(fitted)
    again = (tmp_path / "again" / "policy.onnx").read_bytes()
    assert again == (fitted / "policy.onnx").read_bytes()


def test_another_seed_gives_another(
    traces: Path, fitted: Path, tmp_path: Path, without_export: None
) -> None:
    fit(config(traces, tmp_path, sweep=(0.5,), seed=1))
    assert rows(tmp_path)[0]["loss"] != rows(fitted)[0]["loss"]


def test_resume_is_refused_with_other_settings_and_other_traces(
    traces: Path, tmp_path: Path, without_export: None
) -> None:
    folder = tmp_path / "mine"
    short = {"sft_epochs": 1, "epochs": 1}
    fit(config(traces, folder, **short))
    with pytest.raises(ConfigurationError, match=r"tau was 0\.8 and is 0\.4\. .*without --resume"):
        fit(config(traces, folder, tau=0.4, resume=True, **short))
    fewer = write(tmp_path / "fewer", range(100))
    with pytest.raises(ConfigurationError, match=r"training groups was .* held-out groups was"):
        fit(config(fewer, folder, resume=True, **short))
    # Without --resume all begins anew: nothing of the old fit is taken up by a later --resume.
    fit(config(fewer, folder, algorithm="none", **short))
    assert [file.name for file in (folder / "checkpoints").glob("*.pt")] == ["sft.pt"]


# --- values to the end ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A router for the relay, in which the first move only prepares the second."""
    folder = tmp_path_factory.mktemp("relay")
    write_traces(folder / "traces", episodes(ENVIRONMENTS["relay"], 2000))
    made = fit(
        Config(
            traces=(folder / "traces",),
            out=folder / "router",
            answer="choice",
            cost=ENVIRONMENTS["relay"].price,
            batch_size=128,
        )
    )
    return folder, made


@pytest.mark.timeout(3600)  # a minute of computing, and far more on a busy machine
def test_a_move_that_only_prepares_another_is_learned(
    relayed: tuple[Path, dict[str, Any]],
) -> None:
    """One-step rewards see nothing in it: they end at the vote's .27, a debate has .62."""
    folder, made = relayed
    with warnings.catch_warnings(action="error"):  # its gate is "pass" before any run, rightly
        router = load_router(folder / "router")
    environment = ENVIRONMENTS["relay"]
    known = Known(environment, known_calibration(router), known_competence(router))
    assert known.value(router).utility > 0.7
    names = list(dict.fromkeys(row["stage"] for row in rows(folder / "router")))
    assert names == ["sft", "softrankpo-cost-0.05", "softrankpo-cost-0.05-iteration-2"]
    assert made["training"]["values"] == "fitted"
    whole = made["evidence"]["whole_episodes"]
    assert made["gate"] == "pass"
    assert whole["against_vote"]["low"] > 0


def test_iterations_need_fitted_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--policy-iterations must be 1 or more"):
        fit(config(tmp_path / "nowhere", tmp_path, policy_iterations=0))


# --- the folder -----------------------------------------------------------------------------


def test_the_folder_says_what_was_done(traces: Path, fitted: Path) -> None:
    manifest = json.loads((fitted / "router.json").read_text())
    training, evidence = manifest["training"], manifest["evidence"]
    calibration = Calibration.model_validate(manifest["calibration"])
    train, held_out = split(read(traces, calibration), 0.2, 0)
    train, choosing = split(train, CHOOSING, 1)
    judged = judged_of(read_recorded(traces, operator.eq)).split(0.2, 0)
    assert calibration == fit_calibration(judged[0])
    rewards = torch.tensor(train.rewards(Weights()), dtype=torch.float64)
    mask = torch.tensor(train.rollout_mask)
    scale = softrankpo.reward_scale(rewards, mask)
    found = softrankpo.advantages(rewards, tau=0.8, scale=scale, mask=mask)
    spread = found[mask & ~torch.tensor(train.tied(Weights()))[:, None]].std(correction=0).item()
    assert training["scale"] == pytest.approx(scale)
    assert training["advantage_std"] == pytest.approx(spread, rel=1e-4)
    assert (training["tau"], training["beta"], training["seed"]) == (0.8, 0.3, 0)
    assert manifest["name"] == "mine"
    assert manifest["gate"] in ("pass", "fail", "unknown")
    assert manifest["competence"] == estimate_competence(train)
    assert evidence["one_turn"]["reward"]["questions"] == len(set(held_out.question.tolist()))
    assert evidence["one_turn"]["against_vote"]["mean"] > 0.05

    report = (fitted / "report.md").read_text()
    assert f"tau 0.8, reward scale s {scale:.4f}, standard deviation {spread:.4f}" in report
    assert f"**Gate: {manifest['gate']}**" in report
    assert f"{len(train)} turns to train on" in report
    assert f"{len(choosing)} to choose epochs by, {len(held_out)} of other questions" in report
    asked = [{part.questions[i] for i in part.question} for part in (train, choosing, held_out)]
    assert len(set.union(*asked)) == sum(map(len, asked))
    for name in ("always PERSIST", "the traces' policy", "SFT, greedy", "SFT, drawn", "oracle"):
        assert f"| {name} |" in report
    assert "| **softrankpo-cost-0, greedy** |" in report
    assert "| softrankpo-cost-0, drawn |" in report
    assert manifest["mode"] == "greedy"
    for plot in ("training", "rewards", "calibration", "front"):
        assert f"![{plot}.png]" in report
        assert (fitted / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    assert list((fitted / "tensorboard").glob("events.out.tfevents.*"))
    assert len(rows(fitted)) == 9
    assert {row["stage"] for row in rows(fitted)} == {
        "sft",
        "softrankpo-cost-0",
        "softrankpo-cost-0.5",
    }


def test_few_held_out_questions_and_a_mixture_lead_the_signs_of_trouble(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "traces" / "a", range(60))
    others = (Telling(number).run(1, 4) for number in range(60, 120))
    write_traces(
        tmp_path / "traces" / "b",
        (e.model_copy(update={"options": {**e.options, "critic": "other"}}) for e in others),
    )
    out = tmp_path / "out"
    made = fit(config(tmp_path / "traces", out, algorithm="none", sft_epochs=1))
    report, told = (out / "report.md").read_text(), capsys.readouterr().err
    [first, second, *_] = report.partition("## Signs of trouble\n\n")[2].splitlines()
    assert "held-out questions have a decision, fewer than 50" in first
    assert "several critics" in second
    assert len(made["training"]["critic"]) == 2
    for sign in (first, second):
        assert f"warning: {sign.removeprefix('- ')}\n" in told
    assert made["advice"].startswith("The held-out questions are too few to advise: ")
    assert report.startswith(f"# Router `out`. {made['advice']}\n")
    assert "over the traces' rule (confidence)" in report


def test_the_folder_loads_and_decides_as_the_policy_does(
    traces: Path, fitted: Path, fresh: Groups
) -> None:
    with pytest.warns(UserWarning, match="has not been shown"):
        router = load_router(fitted, greedy=False)
    options = config(traces, fitted)
    groups = set_competence(fresh, router.competence)
    checkpoint = torch.load(fitted / "checkpoints" / "softrankpo-cost-0.pt", weights_only=True)
    policy = Policy()
    policy.load_state_dict(checkpoint["best_policy"])
    expected = log_probabilities(policy, to_data(groups, options, 0.0)).exp().numpy()
    found = router.decide(observations(groups), groups.action_mask.tolist())
    assert np.asarray(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("drawn", [False, True])
def test_estimates_are_of_the_router_that_is_deployed(
    traces: Path, tmp_path: Path, drawn: bool
) -> None:
    """In its mode. A policy that does not see the confidence can be fitted."""
    ablated = Fit(Config(traces=()), Changes(hidden=("confidence", "confidence_known")))
    made = fit(
        config(traces, tmp_path, algorithm="none", drawn=drawn),
        view=lambda *seen: ablated.view(*seen, ()),
    )
    assert made["mode"] == ("drawn" if drawn else "greedy")
    with pytest.warns(UserWarning, match="has not been shown"):
        router = load_router(tmp_path, greedy=not drawn)
    _, held_out = split(read(traces, router.calibration), 0.2, 0)
    groups = set_competence(held_out, made["competence"])
    decided = np.asarray(router.decide(observations(groups), groups.action_mask.tolist()))
    assert made["evidence"]["one_turn"]["actions"] == pytest.approx(
        decided.mean(0).tolist(), abs=1e-3
    )
    assert np.isin(decided, (0, 1)).all() != drawn
    curves = made["calibration"]["logprob"]
    assert curves["proposed"]["slope"] != 1.0  # of the confidence as it is, not as hidden


class Hopeless(Telling):
    """Nobody knows the answer, nor ever finds it."""

    def respond(self, id_: str, name: str, round_: int, chance: float) -> Response:
        return super().respond(id_, name, 0, 0.0) | {"round": round_}


def test_traces_in_which_nothing_can_be_decided(tmp_path: Path) -> None:
    """All tied and without weight: no number is missing, and the report says so."""
    traces = write(tmp_path / "traces", range(60), Hopeless)
    fit(config(traces, tmp_path / "out", tied_weight=0.0, sft_epochs=1, epochs=1))
    assert "NaN" not in (tmp_path / "out" / "log.jsonl").read_text()
    assert [row["persist_untied"] for row in rows(tmp_path / "out")] == [None, None]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "(100% tied)" in report
    assert "gains only 0.000 over persisting" in report
    assert "nan" not in report
    with pytest.warns(UserWarning, match="has not been shown"):
        load_router(tmp_path / "out")


# --- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": -0.1}, "--tau must be 0 or more, got -0.1"),
        ({"tau": float("nan")}, "--tau must be"),
        ({"beta": 0.0}, "--beta must be above 0"),
        ({"global_": float("inf")}, "--global must be finite"),
        ({"clip": 1.0}, "--clip must be between 0 and 1"),
        ({"validation": 1.0}, "--validation must be between 0 and 1"),
        ({"label_temperature": 0.0}, "--label-temperature must be above 0"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"tied_weight": -1.0}, "--tied-weight must be 0 or more"),
        ({"batch_size": 0}, "--batch-size must be 1 or more"),
        ({"threads": 0}, "--threads must be 1 or more"),
        ({"width": 30}, "--width must be a multiple of 4"),
        ({"sweep": (0.1, -1.0)}, "--sweep must be 0 or more"),
        ({"sweep": (0.1,), "algorithm": "none"}, "--sweep must be empty"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"device": "tpu9"}, "--device tpu9: "),
    ],
)
def test_wrong_options_are_refused_before_anything_is_done(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        fit(config(tmp_path / "nowhere", tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_no_traces_and_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no traces at"):
        fit(config(tmp_path / "nowhere", tmp_path / "out"))
    one = write(tmp_path / "one", range(1))
    with pytest.raises(ConfigurationError, match=r"3 turns of 1 questions leave .* collect more"):
        fit(config(one, tmp_path / "out"))
    agreed = tmp_path / "agreed"
    write_agreed(agreed)
    with pytest.raises(ConfigurationError, match=r"0 turns of 2 questions leave .* collect more"):
        fit(config(agreed, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def write_agreed(folder: Path) -> None:
    """Write a segment of episodes that were agreed on at once: they hold no decision."""
    write_traces(
        folder,
        (
            e.model_copy(update={"options": {**e.options, "max_rounds": 3}})
            for e in synthetic_episodes(2, 3, rounds=0)
        ),
    )


def test_traces_that_cannot_be_learned_from_say_why(tmp_path: Path) -> None:
    write_traces(tmp_path / "none", synthetic_episodes(20, 3, rounds=0))
    with pytest.raises(ConfigurationError, match=r"no rounds of decisions: collect with --round"):
        fit(config(tmp_path / "none", tmp_path / "out"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "x.jsonl").write_text('{"id": "tor\n')
    with pytest.raises(ConfigurationError, match=r"1 records were read. Dropped: 1 unreadable\."):
        fit(config(tmp_path / "torn", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_segment_without_a_decision_is_no_trouble(tmp_path: Path, without_export: None) -> None:
    """As after a collection whose last question, after a stop, was agreed on at once."""
    traces = write(tmp_path / "traces", range(60))
    write_agreed(traces)
    write_agreed(traces / "further")  # sub-folders are read
    short = {"algorithm": "none", "sft_epochs": 1}
    fit(config(traces, tmp_path / "first", **short))
    fit(config(traces, tmp_path / "cached", **short))
    assert rows(tmp_path / "first") == rows(tmp_path / "cached")
    assert len(read(traces).episodes) == 62


def test_an_endless_loss_says_what_to_do(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(policy: Policy, *_: Any) -> Any:
        return sum(part.sum() for part in policy.parameters()) * float("inf"), {}

    monkeypatch.setattr(fitting, "sft_loss", endless)
    with pytest.raises(MPDFError, match=r"sft: the loss is .* in epoch 1; lower --learning"):
        fit(config(traces, tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"3",
        b'{"episode": "a"}',
        b'{"episode": "a", "reference": null}',
        b'{"episode": "a", "reference": ["x"]}',
        b'"\xff"',
        b'{"episode": "a", "reference": true}',
        b"[" * 100_000,
        b'{"episode": "a", "reference": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_a_malformed_line_of_labels_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(b'{"episode": "e", "reference": 1}\n\n' + line + b"\n")
    with pytest.raises(ConfigurationError, match=r"labels\.jsonl:3: expected an object with"):
        read_labels(path)


def test_labels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    same = '{"episode": "a", "reference": "4"}\n'
    path.write_text("\ufeff" + same * 2, encoding="utf-8")
    assert read_labels(path) == {"a": "4"}
    path.write_text(same * 2 + '{"episode": "a", "reference": "5"}\n')
    with pytest.raises(
        ConfigurationError, match=r"labels\.jsonl:3: .*'a' is '5' here and '4' in line 1"
    ):
        read_labels(path)


def test_labels_are_read_and_used(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"episode": "a", "reference": "x\u2028y"}\n\n{"episode": "b", "reference": 3}\n'
    )
    assert read_labels(path) == {"a": "x\u2028y", "b": "3"}
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_labels(tmp_path / "none.jsonl")


def test_the_command_line_fails_without_a_traceback(tmp_path: Path) -> None:
    done = run_python("training/fit_router.py", "--traces", tmp_path, "--tau", "-1")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: --tau must be 0 or more, got -1.0"
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "labels.jsonl"], "error: labels.jsonl:1: expected an object with"),
        (["--out", "labels.jsonl"], "error: --out labels.jsonl: labels.jsonl is no folder"),
        (["--out", "labels.jsonl/a/b", "--traces", "nowhere"], "error: --out labels.jsonl/a/b: "),
        (["--device", "tpu9"], "error: --device tpu9: RuntimeError"),
    ],
)
def test_the_command_says_what_is_wrong(
    traces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.jsonl").write_text("oops\n")
    monkeypatch.setattr(sys, "argv", ["fit_router.py", "--traces", str(traces), *arguments])
    with pytest.raises(SystemExit) as stopped:
        fitting.command()
    assert str(stopped.value).startswith(message)


def test_a_stop_by_hand_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", stop)
    monkeypatch.setattr(sys, "argv", ["fit_router.py", "--traces", str(tmp_path)])
    with pytest.raises(SystemExit, match="--resume goes on"):
        fitting.command()


def test_many_groups_make_larger_batches_not_more_steps(
    traces: Path, tmp_path: Path, without_export: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    usual = fitting.sft_loss

    def noted(policy: Any, data: Any, index: Any, old: Any) -> Any:
        sizes.append(len(index))
        return usual(policy, data, index, old)

    monkeypatch.setattr(fitting, "sft_loss", noted)
    fit(config(traces, tmp_path / "usual", algorithm="none", sft_epochs=1))
    usual_sizes = [size for size in sizes if size <= 64]
    assert len(usual_sizes) > 3
    sizes.clear()
    monkeypatch.setattr(stages, "MOST_STEPS", 3)
    fit(config(traces, tmp_path / "few", algorithm="none", sft_epochs=1))
    # The validation part is scored whole before and after the epoch.
    batches = sizes[1:-1]
    assert len(batches) == 3
    assert sum(batches) == sum(usual_sizes)


@pytest.mark.parametrize(("made", "given"), [("text", "math"), ("choice(5)", "code")])
def test_answers_are_graded_as_they_were_compared(tmp_path: Path, made: str, given: str) -> None:
    episodes = synthetic_episodes(3, 1)
    options = {**next(synthetic_episodes(1, 1)).options, "answer": made}
    write_traces(tmp_path, (one.model_copy(update={"options": options}) for one in episodes))
    stem = made.partition("(")[0]
    with pytest.raises(
        ConfigurationError, match=f"--answer {stem}, not {given}: give --answer {stem}"
    ):
        fit(Config(traces=(tmp_path,), out=tmp_path / "router", answer=given))  # type: ignore[arg-type]
    check_answer(tmp_path, stem)
    check_answer(tmp_path / next(tmp_path.glob("*.jsonl")), stem)


def test_two_fits_do_not_share_a_folder(tmp_path: Path) -> None:
    held = prepare_folder(tmp_path, {"seed": 0}, resume=False)
    with closing(held), pytest.raises(ConfigurationError, match="Another fit has this folder"):
        prepare_folder(tmp_path, {"seed": 0}, resume=False)
    prepare_folder(tmp_path, {"seed": 0}, resume=True).close()
