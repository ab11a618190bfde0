"""PPO, GRPO, AWR: their definitions, clipping, enumeration, and that each learns a bandit."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpdf_langgraph.errors import ConfigurationError
from training.learn.losses import awr, center_rewards, enumeration_weights, grpo, ppo, regression

NAN = math.nan
seeds = st.integers(0, 2**32 - 1)

Loss = Callable[..., tuple[Tensor, dict[str, float]]]


def ppo_of_rewards(
    logp: Tensor, old: Tensor, ref: Tensor, rewards: Tensor, **options: Tensor
) -> tuple[Tensor, dict[str, float]]:
    return ppo(logp, old, center_rewards(rewards, **options), **options)


def awr_of_rewards(
    logp: Tensor, old: Tensor, ref: Tensor, rewards: Tensor, **options: Tensor
) -> tuple[Tensor, dict[str, float]]:
    return awr(logp, rewards, temperature=0.5, **options)


#: All under one signature: (logp, old, ref, rewards, mask=, weights=).
LOSSES: dict[str, Loss] = {"ppo": ppo_of_rewards, "grpo": grpo, "awr": awr_of_rewards}
each_loss = pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


class Enumerated:
    """Random states, and groups that hold each of three actions one to four times."""

    def __init__(self, seed: int, groups: int = 3) -> None:
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 5, (groups, 3))
        width = counts.sum(1).max() + 1
        self.actions = torch.full((groups, width), 2, dtype=torch.int8)
        self.rewards = torch.full((groups, width), NAN, dtype=torch.float64)
        for g, count in enumerate(counts):
            places = rng.permutation(width)[: count.sum()]
            self.actions[g, places] = torch.from_numpy(np.repeat([0, 1, 2], count)).to(torch.int8)
            self.rewards[g, places] = torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], len(places)))
        self.mask = ~self.rewards.isnan()
        self.logits, self.old, self.ref = (
            torch.from_numpy(rng.normal(size=(groups, 3))).log_softmax(-1) for _ in range(3)
        )

    def pick(self, logp: Tensor) -> Tensor:
        """Return each rollout's log-probability, NaN in the padding."""
        picked = logp.gather(1, self.actions.long())
        return torch.where(self.mask, picked, NAN)

    @property
    def weights(self) -> Tensor:
        return enumeration_weights(self.pick(self.old), self.actions, self.mask)

    def arguments(self, logp: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logp = self.logits if logp is None else logp
        return self.pick(logp), self.pick(self.old), self.pick(self.ref), self.rewards

    def mean_rewards(self) -> Tensor:
        """Return R̄ per state and action."""
        result = torch.zeros(len(self.rewards), 3, dtype=torch.float64)
        for g in range(len(result)):
            for action in range(3):
                mine = self.mask[g] & (self.actions[g] == action)
                result[g, action] = self.rewards[g, mine].mean()
        return result


# --- definitions ------------------------------------------------------------------------------


def by_hand(problem: Enumerated, name: str, beta: float = 0.04) -> float:
    """Return a loss by its definition, one rollout at a time."""
    total = 0.0
    for g in range(len(problem.rewards)):
        own = [i for i in range(problem.mask.shape[1]) if problem.mask[g, i]]
        acts = {i: int(problem.actions[g, i]) for i in own}
        r = {i: problem.rewards[g, i].item() for i in own}
        w = {
            i: problem.old[g, acts[i]].exp().item() / list(acts.values()).count(acts[i])
            for i in own
        }
        assert sum(w.values()) == pytest.approx(1)
        mean = sum(w[i] * r[i] for i in own)
        std = math.sqrt(sum(w[i] * (r[i] - mean) ** 2 for i in own))
        for i in own:
            logp, old, ref = (
                p[g, acts[i]].item() for p in (problem.logits, problem.old, problem.ref)
            )
            ratio = math.exp(logp - old)
            held = min(max(ratio, 0.8), 1.2)
            if name == "awr":
                total -= w[i] * min(math.exp((r[i] - mean) / 0.5), 20) * logp
                continue
            a = r[i] - mean
            if name == "grpo":
                a /= std + 1e-4
                total += w[i] * beta * (math.exp(ref - logp) - (ref - logp) - 1)
            total -= w[i] * min(ratio * a, held * a)
    return total / len(problem.rewards)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds)
def test_losses_are_their_definitions(name: str, seed: int) -> None:
    problem = Enumerated(seed)
    value, diagnostics = LOSSES[name](
        *problem.arguments(), mask=problem.mask, weights=problem.weights
    )
    assert value.item() == pytest.approx(by_hand(problem, name), abs=1e-9)
    assert diagnostics["loss"] == value.item()
    if name == "grpo":
        options = {"mask": problem.mask, "weights": problem.weights, "beta": 0.5}
        assert grpo(*problem.arguments(), **options)[0].item() == pytest.approx(
            by_hand(problem, name, 0.5), abs=1e-9
        )


def test_the_weak_normalisation_of_grpo() -> None:
    # 1e-4 beside a deviation of 1e-4: half the advantage that larger rewards would get.
    logp = row(math.log(0.5), math.log(0.5)).requires_grad_()
    slopes = []
    for size in (1e-4, 1e4):
        value, _ = grpo(logp, logp, logp, size * row(1.0, -1.0), beta=0.0)
        (gradient,) = torch.autograd.grad(value, logp)
        slopes.append(gradient)
    assert slopes[1].tolist()[0] == pytest.approx([-0.5, 0.5], rel=1e-6)
    assert slopes[0].tolist()[0] == pytest.approx([-0.25, 0.25], rel=1e-6)


# --- enumeration ------------------------------------------------------------------------------


def test_enumeration_weights_share_an_actions_probability() -> None:
    old = row(0.5, 0.3, 0.3, 0.2, 0.9).log()
    actions = torch.tensor([[0, 1, 1, 2, 1]])
    mask = torch.tensor([[True, True, True, True, False]])
    assert enumeration_weights(old, actions, mask).tolist()[0] == pytest.approx(
        [0.5, 0.15, 0.15, 0.2, 0.0]
    )
    assert not enumeration_weights(old.requires_grad_(), actions).requires_grad


@each_loss
@given(seed=seeds)
def test_copies_of_an_action_change_nothing(function: Loss, seed: int) -> None:
    problem = Enumerated(seed)
    once, _ = function(*problem.arguments(), mask=problem.mask, weights=problem.weights)
    twice = problem.mask & (problem.actions == seed % 3)
    for name in ("actions", "rewards"):
        values = getattr(problem, name)
        setattr(problem, name, torch.cat([values, values], 1))
    problem.mask = torch.cat([problem.mask, twice], 1)
    again, _ = function(*problem.arguments(), mask=problem.mask, weights=problem.weights)
    assert again.item() == pytest.approx(once.item(), abs=1e-9)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
@given(seed=seeds)
def test_the_first_gradient_is_the_policy_gradient(name: str, seed: int) -> None:
    problem = Enumerated(seed, groups=1)
    logits = problem.old.clone().requires_grad_()
    expected = (logits.softmax(-1) * problem.mean_rewards()).sum()
    (towards,) = torch.autograd.grad(expected, logits)
    if name == "grpo":
        weights, r = problem.weights[problem.mask], problem.rewards[problem.mask]
        mean = (weights * r).sum()
        towards = towards / ((weights * (r - mean) ** 2).sum().sqrt() + 1e-4)
    problem.ref = problem.old  # no pull of the KL term
    value, _ = LOSSES[name](
        *problem.arguments(logits.log_softmax(-1)), mask=problem.mask, weights=problem.weights
    )
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.allclose(gradient, -towards, atol=1e-9)


def test_without_weights_four_refines_count_four_times() -> None:
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    actions = torch.tensor([[0, 1, 1, 1, 1, 2]])
    old = logits.detach().log_softmax(-1).gather(1, actions)
    a = row(0.5, 0.25, 0.25, 0.25, 0.25, -0.5)
    pushes = []
    for weights in (enumeration_weights(old, actions), None):
        value, _ = ppo(logits.log_softmax(-1).gather(1, actions), old, a, weights=weights)
        pushes.append(-torch.autograd.grad(value, logits)[0])
    assert pushes[0].tolist()[0] == pytest.approx([5 / 36, 2 / 36, -7 / 36])
    assert pushes[1].tolist()[0] == pytest.approx([1 / 36, 4 / 36, -5 / 36])  # REFINE in front


@given(seed=seeds)
def test_enumerated_kl_diagnostics_are_exact(seed: int) -> None:
    problem = Enumerated(seed)
    new, old, ref = problem.logits, problem.old, problem.ref
    options = {"mask": problem.mask, "weights": problem.weights}
    _, moved = grpo(*problem.arguments(), **options)
    old_new = (old.exp() * (old - new)).sum(-1).mean().item()
    assert moved["kl_old"] == pytest.approx(old_new, abs=1e-9)
    _, unmoved = grpo(*problem.arguments(old), **options)
    old_ref = (old.exp() * (old - ref)).sum(-1).mean().item()
    assert unmoved["kl_ref"] == pytest.approx(old_ref, abs=1e-9)
    assert unmoved["kl_old"] == 0
    assert unmoved["clip_fraction"] == 0


# --- centred rewards --------------------------------------------------------------------------


@given(seed=seeds)
def test_centred_rewards_are_measured_from_the_value(seed: int) -> None:
    problem = Enumerated(seed)
    value = (problem.old.exp() * problem.mean_rewards()).sum(-1, keepdim=True)
    a = center_rewards(problem.rewards, mask=problem.mask, weights=problem.weights)
    assert torch.allclose(a[problem.mask], (problem.rewards - value)[problem.mask], atol=1e-12)
    assert (a[~problem.mask] == 0).all()
    plain = center_rewards(problem.rewards, mask=problem.mask)
    means = problem.rewards.nanmean(-1, keepdim=True)
    assert torch.allclose(plain[problem.mask], (problem.rewards - means)[problem.mask], atol=1e-12)


@given(st.floats(-1e6, 1e6), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_equal_rewards_are_exactly_zero_when_centred(reward: float, weights: list[float]) -> None:
    a = center_rewards(row(*[reward] * len(weights)), weights=row(*weights))
    assert a.tolist() == [[0.0] * len(weights)]


def test_centred_rewards_are_constants_of_the_same_dtype() -> None:
    a = center_rewards(row(0.0, 1.0).float().requires_grad_())
    assert a.dtype == torch.float32
    assert not a.requires_grad


# --- clipping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.5, 1.0, False),  # gained enough already
        (0.5, -1.0, False),
        (1.5, -1.0, True),  # went the wrong way: always corrected
        (0.5, 1.0, True),
        (1.1, 1.0, True),  # within the bounds
        (0.9, -1.0, True),
    ],
)
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_clipping_stops_what_would_gain_by_leaving(
    name: str, ratio: float, advantage: float, moves: bool
) -> None:
    old = row(math.log(0.4), math.log(0.6))
    logp = (old + row(math.log(ratio), 0.0)).requires_grad_()
    if name == "ppo":
        value, diagnostics = ppo(logp, old, row(advantage, 0.0), clip=0.2)
        assert value.item() == pytest.approx(
            -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage) / 2
        )
    else:
        value, diagnostics = grpo(logp, old, old, row(advantage, -advantage), clip=0.2, beta=0)
    (gradient,) = torch.autograd.grad(value, logp)
    if moves:
        assert gradient[0, 0].item() * advantage < 0
    else:
        assert gradient[0, 0].item() == 0
    assert diagnostics["clip_fraction"] == (0.5 if abs(ratio - 1) > 0.2 else 0)


def test_a_wider_clip_lets_more_through() -> None:
    old = row(math.log(0.5), math.log(0.5))
    logp = (old + row(math.log(1.5), 0.0)).requires_grad_()
    value, _ = ppo(logp, old, row(1.0, 0.0), clip=0.6)
    assert torch.autograd.grad(value, logp)[0][0, 0].item() == pytest.approx(-0.75)


def test_awr_holds_weights_at_twenty() -> None:
    logp = row(math.log(0.5), math.log(0.5)).requires_grad_()
    value, diagnostics = awr(logp, row(100.0, 0.0), temperature=1.0)
    (gradient,) = torch.autograd.grad(value, logp)
    assert gradient.tolist()[0] == pytest.approx([-10.0, -0.5 * math.exp(-50)])
    assert diagnostics["clip_fraction"] == 0.5
    _, diagnostics = awr(logp, row(4.0, 0.0), temperature=1.0)
    assert diagnostics["clip_fraction"] == 0


# --- masks, weights, constants ----------------------------------------------------------------


@each_loss
@given(seed=seeds)
def test_ragged_groups_equal_separate_ones(function: Loss, seed: int) -> None:
    problem = Enumerated(seed)
    logits = problem.logits.clone().requires_grad_()
    weights = problem.weights
    value, _ = function(
        *problem.arguments(logits.log_softmax(-1)), mask=problem.mask, weights=weights
    )
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()  # the padding is NaN
    group_weights = torch.tensor([[1.0], [0.0], [3.0]], dtype=torch.float64)
    weighted, _ = function(*problem.arguments(), mask=problem.mask, weights=weights * group_weights)
    alone = []
    for g, real in enumerate(problem.mask):
        group = [x[g : g + 1, real] for x in problem.arguments()]
        alone.append(function(*group, weights=weights[g : g + 1, real])[0].item())
    assert value.item() == pytest.approx(np.mean(alone), abs=1e-9)
    assert weighted.item() == pytest.approx((alone[0] + 3 * alone[2]) / 4, abs=1e-9)


@each_loss
def test_without_weights_groups_of_any_size_count_alike(function: Loss) -> None:
    problem = Enumerated(seed=1)
    value, _ = function(*problem.arguments(), mask=problem.mask)
    alone = [
        function(*(x[g : g + 1, real] for x in problem.arguments()))[0].item()
        for g, real in enumerate(problem.mask)
    ]
    assert value.item() == pytest.approx(np.mean(alone))


@each_loss
def test_an_empty_group_does_not_count(function: Loss) -> None:
    problem = Enumerated(seed=2)
    for weights in (None, problem.weights):
        before, _ = function(*problem.arguments(), mask=problem.mask, weights=weights)
        mask = torch.cat([problem.mask, torch.zeros_like(problem.mask[:1])])
        longer = [torch.cat([x, torch.full_like(x[:1], NAN)]) for x in problem.arguments()]
        if weights is not None:
            weights = torch.cat([weights, torch.full_like(weights[:1], NAN)])  # noqa: PLW2901
        after, _ = function(*longer, mask=mask, weights=weights)
        assert after.item() == pytest.approx(before.item())


@each_loss
def test_only_the_policy_gets_a_gradient(function: Loss) -> None:
    problem = Enumerated(seed=3)
    logp, old, ref, rewards = (
        x.nan_to_num(0.0).clone().requires_grad_() for x in problem.arguments()
    )
    weights = problem.weights.clone().requires_grad_()
    value, _ = function(logp, old, ref, rewards, mask=problem.mask, weights=weights)
    value.backward()
    assert old.grad is ref.grad is rewards.grad is weights.grad is None
    assert logp.grad is not None
    assert logp.grad[problem.mask].abs().max() > 0
    assert (logp.grad[~problem.mask] == 0).all()


def test_ppo_takes_advantages_as_constants() -> None:
    logp, a = row(-1.0, -2.0).requires_grad_(), row(1.0, -1.0).requires_grad_()
    ppo(logp, logp, a)[0].backward()
    assert logp.grad is not None
    assert a.grad is None


@each_loss
def test_equal_rewards_teach_policy_gradients_nothing(function: Loss) -> None:
    # AWR imitates the old policy there, which is nothing once it is the old policy.
    problem = Enumerated(seed=4)
    problem.rewards = torch.where(problem.mask, 0.1, NAN).double()
    problem.ref = problem.old
    logits = problem.old.clone().requires_grad_()
    value, _ = function(
        *problem.arguments(logits.log_softmax(-1)), mask=problem.mask, weights=problem.weights
    )
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.abs().max() < 1e-12


@each_loss
def test_single_precision_stays_single(function: Loss) -> None:
    problem = Enumerated(seed=5)
    value, _ = function(
        *(x.float() for x in problem.arguments()),
        mask=problem.mask,
        weights=problem.weights.float(),
    )
    double, _ = function(*problem.arguments(), mask=problem.mask, weights=problem.weights)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(double.item(), rel=1e-4)


# --- learning ---------------------------------------------------------------------------------

#: Rewards of the rollouts (PERSIST, four REFINEs, CONCEDE), a row per state.
BANDIT = torch.tensor(
    [
        [1.0, 1.0, 0.0, 0.0, 1.0, 0.0],  # PERSIST
        [0.0, 1.0, 1.0, 0.0, 1.0, 0.0],  # REFINE: .75
        [0.0, 1.0, 0.0, 0.0, 0.0, 1.0],  # CONCEDE
        [-1.0, 0.0, 0.0, -1.0, 0.0, NAN],  # REFINE, and CONCEDE is not allowed
    ],
    dtype=torch.float64,
)
BEST = torch.tensor([0, 1, 2, 1])
ACTIONS = torch.tensor([[0, 1, 1, 1, 1, 2]]).expand(4, -1)


@each_loss
def test_learns_the_best_action_of_every_state(function: Loss) -> None:
    mask = ~BANDIT.isnan()
    allowed = torch.tensor([[True] * 3] * 3 + [[True, True, False]])
    # Starts out persisting, as a policy fitted to oracle labels does.
    logits = torch.tensor([[2.0, 0.0, 0.0]] * 4, dtype=torch.float64).requires_grad_()

    def policy() -> Tensor:
        return torch.where(allowed, logits, -1e9).log_softmax(-1)

    ref = policy().detach()
    assert (ref.exp()[range(4), BEST] < 0.2).sum() == 3
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(60):
        old = policy().detach().gather(1, ACTIONS)
        weights = enumeration_weights(old, ACTIONS, mask)
        for _ in range(5):
            value, _ = function(
                policy().gather(1, ACTIONS),
                old,
                ref.gather(1, ACTIONS),
                BANDIT,
                mask=mask,
                weights=weights,
            )
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    assert (policy().exp()[range(4), BEST] > 0.9).all(), policy().exp()


@settings(max_examples=10)
@given(seed=seeds, temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_awr_has_its_closed_form(seed: int, temperature: float) -> None:
    problem = Enumerated(seed)
    options = {"mask": problem.mask, "weights": problem.weights}
    logits = problem.logits.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=300, line_search_fn="strong_wolfe",
        tolerance_grad=1e-10, tolerance_change=1e-14,
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        logp = problem.pick(logits.log_softmax(-1))
        value, _ = awr(logp, problem.rewards, temperature=temperature, **options)
        value.backward()
        return value

    optimiser.step(closure)
    value = (problem.old.exp() * problem.mean_rewards()).sum(-1)
    for g in range(len(value)):
        expected = []
        for action in range(3):
            mine = problem.rewards[g, problem.mask[g] & (problem.actions[g] == action)]
            factor = ((mine - value[g]) / temperature).exp().clamp(max=20).mean()
            expected.append((problem.old[g, action].exp() * factor).item())
        found = logits.detach()[g].softmax(-1).numpy()
        assert found == pytest.approx(np.array(expected) / sum(expected), abs=1e-4)


# --- mistakes ---------------------------------------------------------------------------------

R = row(0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ppo(R, R, R, clip=0), "clip=0"),
        (lambda: ppo(R, R, R[0]), "one shape"),
        (lambda: ppo(R, R, R, weights=torch.ones(1)), "one shape"),  # per group, not per rollout
        (lambda: ppo(R, R, R, weights=-R), "non-negative"),
        (lambda: ppo(R, R, R, mask=torch.ones(1, 2)), "mask: expected bool"),
        (lambda: grpo(R, R, R, R, beta=-1), "beta=-1"),
        (lambda: grpo(R, R, R, R, clip=1.5), "clip=1.5"),
        (lambda: grpo(R, R, R[:, :1], R), "one shape"),
        (lambda: grpo(R, R, R, R * NAN), "finite"),
        (lambda: awr(R, R, temperature=0), "temperature=0"),
        (lambda: awr(R, R * math.inf, temperature=1), "finite"),
        (lambda: awr(R, R.expand(2, 2), temperature=1), "one shape"),
        (lambda: enumeration_weights(R, torch.zeros(1, 3)), "one shape"),
    ],
)
def test_mistakes_are_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        call()


# --- regression -------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    gains=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    noise=st.floats(0, 1),
    margin=st.sampled_from([0.0, 0.1]),
)
def test_regression_has_its_closed_form(
    gains: tuple[float, float], noise: float, margin: float
) -> None:
    refine, concede = gains
    rewards = torch.tensor(
        [[0.2, 0.2 + refine - noise, 0.2 + refine + noise, 0.2 + concede, float("nan")]],
        dtype=torch.float64,
    )
    actions = torch.tensor([[0, 1, 1, 2, 0]])
    mask = torch.tensor([[True, True, True, True, False]])
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logp = logits.log_softmax(-1).gather(1, actions)
        value, _ = regression(logp, rewards, temperature=0.5, margin=margin, mask=mask)
        value.backward()
        return value

    optimiser.step(closure)
    logp = logits.detach().log_softmax(-1)[0]
    odds = (0.5 * (logp[1:] - logp[0])).tolist()
    assert odds == pytest.approx([refine - margin, concede - margin], abs=1e-3)


def test_regression_weights_groups_and_refuses_a_wrong_temperature() -> None:
    logp, rewards = torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    value, _ = regression(logp, rewards, temperature=1.0, weights=torch.tensor([1.0, 3.0]))
    assert value.item() == pytest.approx(0.25)
    nothing, _ = regression(logp, rewards, temperature=1.0, weights=torch.zeros(2))
    assert nothing.item() == 0.0
    with pytest.raises(ConfigurationError):
        regression(logp, rewards, temperature=0.0)
