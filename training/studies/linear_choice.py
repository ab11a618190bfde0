"""A linear choice among recorded answers: what their features tell without any deliberation."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Weight of the L2 penalty, on standardised features.
_PENALTY = 1e-3


def linear_choice(
    features: NDArray[Any],
    there: NDArray[Any],
    right: NDArray[Any],
    asked: NDArray[Any],
    asked_there: NDArray[Any],
    asked_right: NDArray[Any],
) -> list[float]:
    """Fit a conditional logit of the right answer, and return where its choice is right.

    What is asked has the shapes of what is learned from, for Q questions in place of E.

    Args:
        features: Of the answers to learn from, ``[E, C, D]``.
        there: Which answers exist, ``[E, C]`` bool.
        right: Which of them are right, ``[E, C]`` bool.
        asked: Features of the answers to choose among.
        asked_there: Which of these exist.
        asked_right: Which of these are right.
    """
    mean, std = features[there].mean(0), features[there].std(0)
    std = np.where(std > 1e-6, std, np.inf)
    solvable = right.any(1)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.as_tensor((values - mean) / std)

    known, held = tensor(features[solvable]), tensor(asked)
    absent, truth = torch.as_tensor(~there[solvable]), torch.as_tensor(right[solvable])
    weights = torch.zeros(features.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logs = (known @ weights).masked_fill(absent, -1e9).log_softmax(-1)
        loss: Tensor = -logs.masked_fill(~truth, -1e9).logsumexp(-1).mean()
        loss = loss + _PENALTY * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    scores = (held @ weights).masked_fill(torch.as_tensor(~asked_there), -1e9)
    chosen = scores.argmax(-1).numpy()
    return [float(x) for x in asked_right[np.arange(len(chosen)), chosen]]
