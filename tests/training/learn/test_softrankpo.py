"""SoftRankPO: the facts it promises, against brute force, scipy and the closed form of π*."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, variance

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch import Tensor

from mpdf_langgraph.errors import ConfigurationError
from training.learn.softrankpo import advantages, kl, loss, reward_scale, soft_ranks

NAN = math.nan

# Quarters tie often. Other floats hardly ever do.
quarters = st.integers(-8, 8).map(lambda n: n / 4)
reward_lists = st.lists(quarters, min_size=1, max_size=9) | st.lists(
    st.floats(-5, 5), min_size=1, max_size=9
)
taus = st.just(0.0) | st.floats(0.05, 5)
scales = st.floats(0.1, 10)
seeds = st.integers(0, 2**32 - 1)


def rows(*groups: Sequence[float]) -> Tensor:
    return torch.tensor(groups, dtype=torch.float64)


def padded(groups: Sequence[Sequence[float]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return groups in one tensor, rollouts at random places among NaN, and the mask."""
    width = max(map(len, groups)) + 2
    values = torch.full((len(groups), width), NAN, dtype=torch.float64)
    for g, group in enumerate(groups):
        places = torch.from_numpy(np.sort(rng.permutation(width)[: len(group)]))
        values[g, places] = torch.tensor(group, dtype=torch.float64)
    return values, ~values.isnan()


def brute_force(rewards: Sequence[float], tau: float, scale: float) -> list[float]:
    """Return the advantages of one group by the definition, one number at a time."""

    def wins(gap: float) -> float:
        if tau == 0:
            return 0.5 + 0.5 * np.sign(gap)
        return 0.5 + 0.5 * math.tanh(gap / (scale * tau) / 2)

    quantiles = [
        NormalDist().inv_cdf(math.fsum(wins(r - other) for other in rewards) / len(rewards))
        for r in rewards
    ]
    middle = math.fsum(quantiles) / len(quantiles)
    return [q - middle for q in quantiles]


# --- ranks and advantages ---------------------------------------------------------------------


@given(reward_lists, taus, scales)
def test_advantages_are_the_definition(rewards: list[float], tau: float, scale: float) -> None:
    given_ = advantages(rows(rewards), tau=tau, scale=scale)[0].tolist()
    assert given_ == pytest.approx(brute_force(rewards, tau, scale), abs=1e-9)


@given(reward_lists, taus, scales)
def test_percentiles_sum_to_half_the_group_and_keep_within_bounds(
    rewards: list[float], tau: float, scale: float
) -> None:
    k = len(rewards)
    u = soft_ranks(rows(rewards), tau=tau, scale=scale)[0]
    assert u.sum().item() == pytest.approx(k / 2, abs=1e-12)
    bound = special.ndtri(1 - 1 / (2 * k))
    quantiles = special.ndtri(u.numpy())
    assert np.abs(quantiles).max() <= bound + 1e-9
    # Centring shifts them: their range keeps twice the bound.
    a = advantages(rows(rewards), tau=tau, scale=scale)[0]
    assert (a.max() - a.min()).item() == pytest.approx(np.ptp(quantiles), abs=1e-9)
    assert (a.max() - a.min()).item() <= 2 * bound + 1e-9
    assert a.sum().item() == pytest.approx(0, abs=1e-12)


@given(st.floats(-1e6, 1e6), st.integers(1, 12), taus, scales)
def test_equal_rewards_give_exactly_zero(reward: float, k: int, tau: float, scale: float) -> None:
    assert advantages(rows([reward] * k), tau=tau, scale=scale).tolist() == [[0.0] * k]


@given(st.floats(-1e6, 1e6), taus)
def test_a_single_rollout_has_no_advantage(reward: float, tau: float) -> None:
    assert reward_scale(rows([reward])) == 1.0
    assert soft_ranks(rows([reward]), tau=tau, scale=1).tolist() == [[0.5]]
    assert advantages(rows([reward]), tau=tau, scale=1).tolist() == [[0.0]]


@given(
    st.lists(st.lists(quarters, min_size=4, max_size=4), min_size=1, max_size=5),
    taus,
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
)
def test_affine_maps_change_nothing_once_the_scale_is_refitted(
    groups: list[list[float]], tau: float, a: float, b: float
) -> None:
    r = rows(*groups)
    mapped = a * r + b
    before = advantages(r, tau=tau, scale=reward_scale(r))
    after = advantages(mapped, tau=tau, scale=reward_scale(mapped))
    assert torch.allclose(before, after, atol=1e-6, rtol=0)


def test_the_scale_matters_where_it_is_not_refitted() -> None:
    r = rows([0.0, 0.5, 2.0])
    near, far = (advantages(c * r, tau=0.8, scale=1.0) for c in (0.1, 10.0))
    assert (far - near).abs().max() > 0.3


@given(reward_lists, taus, scales)
def test_reversed_rewards_reverse_advantages(
    rewards: list[float], tau: float, scale: float
) -> None:
    up = advantages(rows(rewards), tau=tau, scale=scale)
    down = advantages(-rows(rewards), tau=tau, scale=scale)
    assert torch.allclose(up, -down, atol=1e-9, rtol=0)


@given(st.data(), reward_lists, taus, scales)
def test_permuted_rewards_permute_advantages(
    data: st.DataObject, rewards: list[float], tau: float, scale: float
) -> None:
    order = data.draw(st.permutations(range(len(rewards))))
    r = rows(rewards)
    straight = advantages(r, tau=tau, scale=scale)
    assert torch.allclose(
        advantages(r[:, order], tau=tau, scale=scale), straight[:, order], atol=1e-9, rtol=0
    )


@given(reward_lists, st.floats(0.05, 5), scales)
def test_better_rewards_never_have_lower_advantages(
    rewards: list[float], tau: float, scale: float
) -> None:
    a = advantages(rows(rewards), tau=tau, scale=scale)[0]
    ordered = a[torch.tensor(rewards).argsort()]
    assert (ordered.diff() >= -1e-9).all()


@given(reward_lists)
def test_hard_ranks_are_average_ranks(rewards: list[float]) -> None:
    u = soft_ranks(rows(rewards), tau=0, scale=1)[0].numpy()
    expected = (stats.rankdata(rewards, method="average") - 0.5) / len(rewards)
    assert u == pytest.approx(expected, abs=1e-12)
    a = advantages(rows(rewards), tau=0, scale=1)[0].numpy()
    quantiles = special.ndtri(expected)
    assert a == pytest.approx(quantiles - quantiles.mean(), abs=1e-9)


@given(st.data(), reward_lists)
def test_hard_ranks_survive_any_increasing_map(data: st.DataObject, rewards: list[float]) -> None:
    levels = sorted(set(rewards))
    steps = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=len(levels), max_size=len(levels)))
    increasing = dict(zip(levels, np.cumsum(steps).tolist(), strict=True))
    mapped = [increasing[r] for r in rewards]
    # Exactly: neither the gaps nor the scale enter.
    assert torch.equal(
        advantages(rows(rewards), tau=0, scale=1), advantages(rows(mapped), tau=0, scale=7)
    )


def test_vanishing_softness_is_hard_ranks() -> None:
    r = rows([1.0, 0.0, 1.0, -2.0, 0.25])
    hard = soft_ranks(r, tau=0, scale=1)
    for tau in (1e-3, 1e-200, 5e-324):  # the last two would underflow in s·τ
        assert torch.allclose(soft_ranks(r, tau=tau, scale=1e-3), hard, atol=1e-12, rtol=0)


@given(st.lists(reward_lists, min_size=1, max_size=5), taus, scales, seeds)
def test_ragged_groups_equal_separate_ones(
    groups: list[list[float]], tau: float, scale: float, seed: int
) -> None:
    r, mask = padded(groups, np.random.default_rng(seed))
    u = soft_ranks(r, tau=tau, scale=scale, mask=mask)
    a = advantages(r, tau=tau, scale=scale, mask=mask)
    assert (a[~mask] == 0).all()
    assert (u[~mask] == 0).all()
    for g, group in enumerate(groups):
        alone = rows(group)
        assert a[g, mask[g]].tolist() == pytest.approx(
            advantages(alone, tau=tau, scale=scale)[0].tolist(), abs=1e-12
        )
        assert u[g, mask[g]].tolist() == pytest.approx(
            soft_ranks(alone, tau=tau, scale=scale)[0].tolist(), abs=1e-12
        )


def test_dtype_is_kept_and_the_work_done_in_float64() -> None:
    r = rows([0.1, 0.2, 0.7, 0.7])
    single = advantages(r.float(), tau=0.8, scale=0.3)
    assert single.dtype == torch.float32
    assert torch.equal(single, advantages(r.float().double(), tau=0.8, scale=0.3).float())
    assert soft_ranks(r.float(), tau=0.8, scale=0.3).dtype == torch.float64


def test_advantages_are_constants() -> None:
    r = rows([0.0, 1.0, 0.5]).requires_grad_()
    assert not advantages(r, tau=0.8, scale=1).requires_grad


# --- scale ------------------------------------------------------------------------------------


@given(st.lists(reward_lists, min_size=1, max_size=6), seeds)
def test_scale_is_the_pooled_deviation_of_untied_groups(
    groups: list[list[float]], seed: int
) -> None:
    untied = [group for group in groups if len(set(group)) > 1]
    expected = 1.0
    if untied:
        squares = math.fsum(variance(group) * (len(group) - 1) for group in untied)
        expected = math.sqrt(squares / sum(len(group) - 1 for group in untied))
    r, mask = padded(groups, np.random.default_rng(seed))
    if expected > 1e-150:  # below, the squares of this very test underflow
        assert reward_scale(r, mask) == pytest.approx(expected, rel=1e-9)


def test_scale_ignores_tied_groups_and_what_groups_differ_by() -> None:
    assert reward_scale(rows([0.0, 2.0])) == pytest.approx(math.sqrt(2))
    assert reward_scale(rows([0.0, 2.0], [100.0, 102.0], [7.0, 7.0])) == pytest.approx(math.sqrt(2))
    assert reward_scale(rows([3.0, 3.0], [-1.0, -1.0])) == 1.0


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_scale_of_extreme_rewards_neither_vanishes_nor_overflows(factor: float) -> None:
    r = rows([0.0, 1.0, 3.0])
    assert reward_scale(factor * r) == pytest.approx(factor * reward_scale(r))


# --- loss -------------------------------------------------------------------------------------


def brute_force_loss(
    logp: Sequence[float], ref: Sequence[float], a: Sequence[float], beta: float
) -> float:
    h = [x - y for x, y in zip(logp, ref, strict=True)]
    middle = sum(h) / len(h)
    return sum((beta * (x - middle) - y) ** 2 for x, y in zip(h, a, strict=True)) / len(h)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.floats(0.05, 3), seeds)
def test_loss_is_the_weighted_mean_of_separate_groups(
    sizes: list[int], beta: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = [rng.normal(size=(3, k)) for k in sizes]
    weights = rng.uniform(0.1, 2, len(sizes))
    alone = [brute_force_loss(*group, beta) for group in groups]
    width = max(sizes) + 2
    logp, ref, a = (torch.full((len(sizes), width), NAN, dtype=torch.float64) for _ in range(3))
    for g, group in enumerate(groups):
        places = torch.from_numpy(rng.permutation(width)[: sizes[g]])
        for tensor, values in zip((logp, ref, a), group, strict=True):
            tensor[g, places] = torch.from_numpy(values)
    mask = ~logp.isnan()
    logp.requires_grad_()
    value, diagnostics = loss(logp, ref, a, beta=beta, mask=mask)
    assert value.item() == pytest.approx(np.mean(alone))
    assert diagnostics["loss"] == value.item()
    value.backward()
    assert logp.grad is not None
    assert logp.grad.isfinite().all()  # the padding is NaN
    assert (logp.grad[~mask] == 0).all()

    weighted, _ = loss(logp, ref, a, beta=beta, mask=mask, weights=torch.from_numpy(weights))
    assert weighted.item() == pytest.approx(np.average(alone, weights=weights))


def test_empty_groups_do_not_count_and_weightless_batches_give_nothing() -> None:
    logp, ref, a = rows([0.1, -1.0], [2.0, 3.0]), rows([0.0, 0.0], [0, 0]), rows([-1, 1], [5, 5])
    mask = torch.tensor([[True, True], [False, False]])
    both, _ = loss(logp, ref, a, beta=0.3, mask=mask)
    assert both.item() == pytest.approx(brute_force_loss([0.1, -1.0], [0, 0], [-1, 1], 0.3))
    leaf = logp.clone().requires_grad_()
    nothing, _ = loss(leaf, ref, a, beta=0.3, weights=torch.zeros(2))
    nothing.backward()
    assert nothing.item() == 0
    assert leaf.grad is not None
    assert (leaf.grad == 0).all()


def test_no_gradient_into_reference_or_advantages() -> None:
    logp, ref, a = (torch.randn(3, 5, dtype=torch.float64).requires_grad_() for _ in range(3))
    value, _ = loss(logp, ref, a, beta=0.3)
    value.backward()
    assert ref.grad is None
    assert a.grad is None
    assert logp.grad is not None
    assert logp.grad.abs().max() > 0


def test_diagnostics_say_what_they_say() -> None:
    logp, ref = rows([0.5, -0.5, 9.0], [1.0, 1.0, 1.0]), torch.zeros(2, 3, dtype=torch.float64)
    a = rows([2.0, -2.0, 9.0], [0.0, 0.0, 0.0])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    _, diagnostics = loss(logp, ref, a, beta=1.0, mask=mask)
    assert diagnostics == pytest.approx(
        {
            "loss": (1.5**2 + 0) / 2,
            "advantage_std": math.sqrt(8 / 5),
            "tied": 0.5,
            "drift_std": math.sqrt(0.5 / 5),
        }
    )


class Tabular:
    """States with a policy each, and groups in which every allowed action appears."""

    def __init__(self, seed: int, states: int = 6) -> None:
        rng = np.random.default_rng(seed)
        allowed = np.ones((states, 3), bool)
        allowed[:, 2] = rng.random(states) < 0.6  # CONCEDE is not always there
        actions, rewards = [], []
        for row in allowed:
            counts = np.where(row, rng.integers(1, 5, 3), 0)
            actions.append(np.repeat(np.arange(3), counts))
            rewards.append(rng.choice([-1.0, 0.0, 1.0, 2.0], counts.sum()))
        width = max(map(len, actions))
        self.allowed = torch.from_numpy(allowed)
        self.actions = torch.zeros(states, width, dtype=torch.int64)
        self.rewards = torch.full((states, width), NAN, dtype=torch.float64)
        for g, (some, given_) in enumerate(zip(actions, rewards, strict=True)):
            self.actions[g, : len(some)] = torch.from_numpy(some)
            self.rewards[g, : len(some)] = torch.from_numpy(given_)
        self.mask = ~self.rewards.isnan()
        self.reference = self.policy(torch.from_numpy(rng.normal(size=(states, 3))))
        self.start = torch.from_numpy(rng.normal(size=(states, 3)))

    def policy(self, logits: Tensor) -> Tensor:
        return torch.where(self.allowed, logits, -1e9).log_softmax(-1)

    def fit(self, a: Tensor, beta: float) -> Tensor:
        """Return the log-probabilities that minimise the loss, from a start of their own."""
        logits = self.start.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [logits], max_iter=200, line_search_fn="strong_wolfe",
            tolerance_grad=1e-12, tolerance_change=1e-16,
        )  # fmt: skip
        ref = self.reference.gather(1, self.actions)

        def closure() -> Tensor:
            optimiser.zero_grad()
            logp = self.policy(logits).gather(1, self.actions)
            value, _ = loss(logp, ref, a, beta=beta, mask=self.mask)
            value.backward()
            return value

        optimiser.step(closure)
        return self.policy(logits.detach())

    def closed_form(self, a: Tensor, beta: float) -> np.ndarray:
        """Return π*(a) ∝ π_ref(a)·exp(Ā(a)/β), state by state."""
        result = np.zeros((len(a), 3))
        for g in range(len(a)):
            for action in range(3):
                if self.allowed[g, action]:
                    mine = a[g][self.mask[g] & (self.actions[g] == action)]
                    prior = self.reference[g, action].exp().item()
                    result[g, action] = prior * math.exp(mine.mean().item() / beta)
            result[g] /= result[g].sum()
        return result


@settings(max_examples=25)
@given(seeds, st.sampled_from([0.3, 1.0]), st.sampled_from([0.0, 0.8, 2.0]))
def test_the_minimum_is_the_closed_form(seed: int, beta: float, tau: float) -> None:
    problem = Tabular(seed)
    scale = reward_scale(problem.rewards, problem.mask)
    a = advantages(problem.rewards, tau=tau, scale=scale, mask=problem.mask)
    found = problem.fit(a, beta).exp().numpy()
    assert found == pytest.approx(problem.closed_form(a, beta), abs=1e-5)


# --- KL ---------------------------------------------------------------------------------------


@given(seeds)
def test_kl_is_the_relative_entropy(seed: int) -> None:
    p, q = np.random.default_rng(seed).dirichlet([1.0] * 3, (2, 5))
    given_ = kl(torch.from_numpy(p).log(), torch.from_numpy(q).log()).numpy()
    assert given_ == pytest.approx(stats.entropy(p, q, axis=1), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("low", [-math.inf, -1e9])
def test_kl_leaves_out_masked_actions(low: float) -> None:
    ref = torch.tensor([[math.log(0.5), math.log(0.5), low]], requires_grad=True)
    logp = torch.tensor([[math.log(0.2), math.log(0.8), low]], requires_grad=True)
    value = kl(ref, logp)
    assert value.shape == (1,)
    assert value.item() == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8))
    value.sum().backward()
    assert ref.grad is None
    assert logp.grad is not None
    assert logp.grad.tolist() == [[-0.5, -0.5, 0.0]]


def test_kl_is_infinite_where_the_policy_forbids_what_the_reference_does() -> None:
    half = math.log(0.5)
    assert kl(torch.tensor([[half, half]]), torch.tensor([[0.0, -math.inf]])).item() == math.inf


# --- mistakes ---------------------------------------------------------------------------------

R = rows([0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: advantages(R, tau=-0.1, scale=1), "tau >= 0"),
        (lambda: advantages(R, tau=NAN, scale=1), "tau >= 0"),
        (lambda: advantages(R, tau=0.8, scale=0), "scale > 0"),
        (lambda: advantages(R.long(), tau=0.8, scale=1), "floating tensor"),
        (lambda: advantages(R[0], tau=0.8, scale=1), "floating tensor"),
        (lambda: advantages(rows([0.0, NAN]), tau=0.8, scale=1), "finite"),
        (lambda: reward_scale(rows([0.0, math.inf])), "finite"),
        (lambda: advantages(R, tau=0.8, scale=1, mask=torch.ones(1, 2)), "mask: expected bool"),
        (lambda: reward_scale(R, torch.ones(2, 2, dtype=torch.bool)), "mask: expected bool"),
        (lambda: loss(R, R, R, beta=0), "beta=0"),
        (lambda: loss(R, R[:, :1], R, beta=0.3), "one shape"),
        (lambda: loss(R, R, R[0], beta=0.3), "one shape"),
        (lambda: loss(R, R, R, beta=0.3, weights=torch.ones(1, 2)), "one shape"),
        (lambda: loss(R, R, R, beta=0.3, weights=-torch.ones(1)), "non-negative"),
        (lambda: kl(R, R[:, :1]), "one shape"),
    ],
)
def test_mistakes_are_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        call()
