"""The policy network: what it must not depend on, that it learns, and its export."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpdf_langgraph.observation import FEATURES, INDEX
from tests.support.paths import ROOT
from training.learn.policy import FORBIDDEN, INPUTS, Policy, Standardise, export

F = len(FEATURES)
seeds = st.integers(0, 2**31)
sizes = st.integers(0, 7)


def random_policy(seed: int = 0) -> Policy:
    """A policy whose every part matters: biases, fitted statistics, log-odds of a few units."""
    torch.manual_seed(seed)
    policy = Policy()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    own, peers, peer_mask, _ = batch(seed, 50, 4)
    policy.fit_normalisation(own * 0.5 + 0.2, peers * 0.7 - 0.1, peer_mask)
    return policy


def batch(seed: int, count: int, peers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random inputs: some peers padded, some actions forbidden, PERSIST never."""
    rng = torch.Generator().manual_seed(seed)
    allowed = torch.rand(count, 3, generator=rng) < 0.6
    allowed[:, 0] = True
    return (
        torch.rand(count, F, generator=rng) * 2 - 1,
        torch.rand(count, peers, F, generator=rng) * 2 - 1,
        torch.rand(count, peers, generator=rng) < 0.7,
        allowed,
    )


def assert_same(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    """Compare probabilities, given as logarithms."""
    torch.testing.assert_close(found.exp(), expected.exp(), atol=atol, rtol=0, check_dtype=False)


POLICY = random_policy().requires_grad_(False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- what it depends on ---------------------------------------------------------------------


def test_it_is_small() -> None:
    assert sum(p.numel() for p in Policy().parameters()) < 20_000


@given(seeds, sizes)
def test_probabilities(seed: int, peers: int) -> None:
    *observed, allowed = batch(seed, 6, peers)
    logs = POLICY(*observed, allowed)
    assert torch.isfinite(logs).all()
    assert_same(logs.logsumexp(-1), torch.zeros(6))
    assert (logs.exp()[~allowed] == 0.0).all()
    assert (logs[~allowed] <= FORBIDDEN / 2).all()
    assert (logs.exp()[allowed] > 0.0).all()
    # Forbidding an action leaves the ratios of the others.
    free = POLICY(*observed, torch.ones_like(allowed)).masked_fill(~allowed, -torch.inf)
    assert_same(logs, free.log_softmax(-1))


@given(seeds, st.integers(2, 7))
def test_the_order_of_peers_does_not_matter(seed: int, peers: int) -> None:
    own, others, there, allowed = batch(seed, 6, peers)
    order = torch.randperm(peers, generator=torch.Generator().manual_seed(seed))
    shuffled = POLICY(own, others[:, order], there[:, order], allowed)
    assert_same(shuffled, POLICY(own, others, there, allowed))


@given(seeds, sizes, st.integers(0, 3), st.sampled_from([0.0, 1e9, math.nan, math.inf]))
def test_padding_does_not_matter(seed: int, peers: int, padding: int, filler: float) -> None:
    own, others, there, allowed = batch(seed, 6, peers)
    filled = others.masked_fill(~there.unsqueeze(-1), filler)
    more = torch.cat([filled, torch.full((6, padding, F), filler)], dim=1)
    mask = torch.cat([there, torch.zeros(6, padding, dtype=torch.bool)], dim=1)
    padded = POLICY(own, more, mask, allowed)
    assert_same(padded, POLICY(own, others, there, allowed))
    # Each alone, with exactly the peers it has.
    for row in range(6):
        alone = others[row : row + 1, there[row]]
        mask = torch.ones(1, alone.shape[1], dtype=torch.bool)
        one = POLICY(own[row : row + 1], alone, mask, allowed[row : row + 1])
        assert_same(one[0], padded[row])


def test_every_feature_of_oneself_and_of_each_peer_matters() -> None:
    own, others, there, allowed = batch(1, 1, 3)
    there[:], allowed[:] = True, True
    own, others = own.requires_grad_(), others.requires_grad_()
    POLICY(own, others, there, allowed)[0, 1].backward()
    assert own.grad is not None
    assert others.grad is not None
    assert (own.grad != 0).float().mean() > 0.9  # some may stand at the cut
    assert (others.grad != 0).float().mean() > 0.9


@pytest.mark.parametrize("peers", [0, 2])
def test_without_peers_it_learns_all_the_same(peers: int) -> None:
    policy = random_policy()
    own, others, there, allowed = batch(2, 5, peers)
    there[:] = False
    policy(own, others, there, allowed).exp()[:, 0].sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert policy.null_peer.grad is not None
    assert policy.null_peer.grad.abs().sum() > 0


def test_all_forbidden_is_no_nan() -> None:
    own, others, there, allowed = batch(3, 2, 2)
    logs = POLICY(own, others, there, torch.zeros_like(allowed))
    assert_same(logs, torch.full((2, 3), 1 / 3).log())


def test_wrong_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Policy(width=10)


# --- normalisation --------------------------------------------------------------------------


def test_statistics_leave_padding_out() -> None:
    own, others, there, _ = batch(4, 40, 3)
    policy = Policy()
    policy.fit_normalisation(own, others.masked_fill(~there.unsqueeze(-1), math.nan), there)
    for scale, values in (
        (policy.own_scale, own.numpy()),
        (policy.peer_scale, others.numpy()[there.numpy()]),
    ):
        assert scale.mean.numpy() == pytest.approx(values.astype(float).mean(axis=0), abs=1e-6)
        assert scale.std.numpy() == pytest.approx(values.astype(float).std(axis=0), abs=1e-6)
        standard = scale(torch.tensor(values))
        assert standard.mean(0).numpy() == pytest.approx(np.zeros(F), abs=1e-5)
        assert standard.std(0, correction=0).numpy() == pytest.approx(np.ones(F), abs=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 3.0), (1000.0, -100.0), (1.0, 0.25)])
def test_scale_and_shift_of_features_do_not_matter(scale: float, shift: float) -> None:
    own, others, there, allowed = batch(5, 20, 3)
    policy = random_policy()
    policy.fit_normalisation(own, others, there)
    before = policy(own, others, there, allowed)
    # But for competence, of which differences that are small stay small.
    factor = torch.full((F,), scale, dtype=torch.float64)
    factor[INDEX["competence"]] = max(1.0, scale)
    own, others = own.double() * factor + shift, others.double() * factor + shift
    policy = policy.double()
    policy.fit_normalisation(own, others, there)
    assert_same(policy(own, others, there, allowed), before, atol=1e-4)


def test_a_feature_without_spread_is_ignored_for_good() -> None:
    """Its weights are never trained: they must not count when it differs later."""
    own, others, there, allowed = batch(6, 20, 3)
    own[:, 3], others[..., 5] = 1 / 3, 0.7
    policy = random_policy()
    policy.fit_normalisation(own, others, there)
    assert policy.own_scale.std[3] == policy.peer_scale.std[5] == 1.0
    before = policy(own, others, there, allowed)
    own[:, 3], others[..., 5] = 0.9, -1.0
    assert torch.equal(policy(own, others, there, allowed), before)
    own[:, 4] += 0.5
    assert not torch.equal(policy(own, others, there, allowed), before)


def test_outliers_are_cut() -> None:
    scale = Standardise(1)
    scale.fit(torch.tensor([[0.0], [2.0]]))
    assert scale(torch.tensor([[-1e30], [0.0], [1e30]])).flatten().tolist() == [-5.0, -1.0, 5.0]


def test_statistics_without_any_peer() -> None:
    policy = Policy()
    policy.fit_normalisation(*batch(7, 9, 0)[:3])
    assert policy.peer_scale.mean.tolist() == [0.0] * F
    assert policy.peer_scale.std.tolist() == [1.0] * F
    assert policy.peer_scale.varies.tolist() == [1.0] * F


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_statistics_of_what_is_not_finite(wrong: float) -> None:
    own, others, there, _ = batch(8, 9, 2)
    there[:] = True
    others[3, 1, 2] = wrong
    with pytest.raises(ValueError, match="finite"):
        Policy().fit_normalisation(own, others, there)


def test_statistics_are_saved_with_the_weights() -> None:
    restored = Policy()
    restored.load_state_dict(POLICY.state_dict())
    inputs = batch(9, 5, 2)
    assert torch.equal(restored(*inputs), POLICY(*inputs))


# --- learning -------------------------------------------------------------------------------


def by_count(own: Tensor, peers: Tensor, there: Tensor) -> Tensor:
    """PERSIST if most peers are below oneself in feature 2, else CONCEDE. Alone: REFINE."""
    above = ((peers[..., 2] > own[:, None, 2]) & there).sum(1)
    return torch.where(there.sum(1) == 0, 1, torch.where(2 * above <= there.sum(1), 0, 2))


def by_best(own: Tensor, peers: Tensor, there: Tensor) -> Tensor:
    """The sign of feature 0 of the peer that is highest in feature 1. Alone: REFINE."""
    best = peers[..., 1].masked_fill(~there, -9.0).argmax(1)
    sign = peers[torch.arange(len(own)), best, 0] > 0
    return torch.where(there.sum(1) == 0, 1, torch.where(sign, 0, 2))


@pytest.mark.parametrize("rule", [by_count, by_best])
def test_it_learns_what_takes_looking_at_the_peers(rule: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    own, others, there, _ = batch(10, 6000, 3)
    allowed = torch.ones(6000, 3, dtype=torch.bool)
    labels = rule(own, others, there)
    policy = Policy()
    policy.fit_normalisation(own, others, there)
    optimiser = torch.optim.Adam(policy.parameters(), lr=5e-3)
    for step in range(300):
        rows = torch.arange(step * 250, (step + 1) * 250) % 5000
        logs = policy(own[rows], others[rows], there[rows], allowed[rows])
        loss = torch.nn.functional.nll_loss(logs, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        chosen = policy(own, others, there, allowed).argmax(-1)[5000:]
    most = labels[5000:].bincount().max() / 1000
    assert most < 0.6
    assert (chosen == labels[5000:]).float().mean() > 0.85


# --- export ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    export(POLICY, path)
    return path


@pytest.fixture(scope="module")
def session(exported: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime
    return onnxruntime.InferenceSession(exported)


@pytest.mark.parametrize("team", range(1, 9))
@pytest.mark.parametrize("count", [1, 2, 33])
def test_onnx_equals_torch(session: Any, team: int, count: int) -> None:
    for seed in range(5):
        inputs = batch(seed, count, team - 1)
        with torch.no_grad():
            expected = POLICY(*inputs).numpy()
        given_ = {n: value.numpy() for n, value in zip(INPUTS, inputs, strict=True)}
        (found,) = session.run(None, given_)
        assert np.exp(expected).max(axis=1).min() < 0.99  # not all is clear-cut
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_export_leaves_the_policy_as_it_was_and_repeats_itself(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = Policy().train()
    policy.load_state_dict(POLICY.state_dict())
    export(policy, tmp_path / "again.onnx")
    assert policy.training
    assert all(p.grad is None and p.requires_grad for p in policy.parameters())
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()
    assert capfd.readouterr().err == ""


def test_what_is_exported_says_nothing_of_where(exported: Path) -> None:
    raw = exported.read_bytes()
    assert b"site-packages" not in raw
    assert str(ROOT).encode() not in raw
    assert b".py" not in raw
    model = onnx.load(exported)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [i.name for i in model.graph.input] == [*INPUTS]
