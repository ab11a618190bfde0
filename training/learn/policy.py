"""The policy network: an agent's own features query its peers' by cross-attention.

About 15,000 parameters, so that the router costs nothing beside an LLM call. A team of any
size fits, as attention sums over the peers, and their order carries no meaning. It is saved
as ONNX: an app runs it with onnxruntime, without torch (`mpdf_langgraph.learned_router`).
"""

import copy
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from mpdf_langgraph.observation import FEATURES, INDEX
from mpdf_langgraph.state import ACTIONS

#: Log-probability of a forbidden action, about: exp() of it is 0, and it stays finite, so that
#: 0 * log 0 needs no care.
FORBIDDEN = -1e9
INPUTS = ("own", "peers", "peer_mask", "action_mask")
OUTPUT = "log_probabilities"
#: Attention heads.
HEADS = 4
# A standardised feature is cut here: what training hardly ever saw must not decide alone.
_WIDEST = 5.0
_NO_SPREAD = 1e-6
_LEAST_COMPETENCE_SPREAD = 0.1


class Standardise(nn.Module):
    """Centres and scales features by statistics of the training set, kept as buffers.

    Args:
        features: Number of features F.

    Attributes:
        mean: Shape ``[F]``, 0 until fitted.
        std: Shape ``[F]``, 1 until fitted, and for a feature without spread.
        varies: Shape ``[F]``, 0 for a feature without spread. Its weights are never trained, so
            that what they are must not matter when it differs later.
    """

    mean: Tensor
    std: Tensor
    varies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("varies", torch.ones(features))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values`, shape ``[..., F]``, in standard deviations from the mean, cut at 5."""
        scaled = (values - self.mean) / self.std * self.varies
        return scaled.clamp(-_WIDEST, _WIDEST)

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the statistics of `values`, shape ``[n, F]``. With n = 0 nothing is scaled."""
        if not torch.isfinite(values).all():
            raise ValueError("features to normalise by must be finite")
        if len(values) == 0:
            values = torch.tensor([[-1.0], [1.0]]).expand(2, len(self.mean))
        exact = values.double()
        std = exact.std(dim=0, correction=0)
        varies = std > _NO_SPREAD
        self.mean.copy_(exact.mean(dim=0))
        self.std.copy_(torch.where(varies, std, 1.0))
        self.varies.copy_(varies)


class Policy(nn.Module):
    """log π(PERSIST, REFINE, CONCEDE | o): a query over the peers, then a small MLP.

    A null peer is learned beside the real ones: an agent without peers attends to it alone,
    and one with peers attends to it where none of them matters.

    Args:
        features: Number of features F of an observation.
        width: Size of the hidden vectors, a multiple of `HEADS`.
    """

    def __init__(self, features: int = len(FEATURES), width: int = 48) -> None:
        super().__init__()
        if width % HEADS:
            raise ValueError(f"width {width} must be a multiple of heads {HEADS}")
        self.features = features
        self.own_scale = Standardise(features)
        self.peer_scale = Standardise(features)
        self.own = nn.Sequential(nn.Linear(features, width), nn.GELU())
        self.peer = nn.Sequential(nn.Linear(features, width), nn.GELU())
        self.null_peer = nn.Parameter(0.1 * torch.randn(width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # the softmax takes no notice of one
        self.value = nn.Linear(width, width)
        self.head = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, len(ACTIONS))
        )

    def forward(self, own: Tensor, peers: Tensor, peer_mask: Tensor, action_mask: Tensor) -> Tensor:
        """Return the log-probabilities of `ACTIONS`, shape ``[B, 3]``.

        Args:
            own: The agents' own features, shape ``[B, F]``.
            peers: Their peers' features, shape ``[B, P, F]``. P may be 0. What stands where
                `peer_mask` is False is not looked at.
            peer_mask: True where a peer is real, shape ``[B, P]``.
            action_mask: True where an action is allowed, shape ``[B, 3]``. A forbidden one gets
                about `FORBIDDEN`. If all are, all are equally likely.
        """
        # Padding is replaced, not multiplied by 0: it may be NaN.
        peers = torch.where(peer_mask.unsqueeze(-1), peers, 0.0)
        mine = self.own(self.own_scale(own))
        null = self.null_peer.expand(mine.shape[0], 1, -1)
        others = torch.cat([null, self.peer(self.peer_scale(peers))], dim=1)
        there = torch.cat([peer_mask.new_ones(mine.shape[0], 1), peer_mask], dim=1)
        logits = self.head(torch.cat([mine, self._attend(mine, others, there)], dim=-1))
        return torch.log_softmax(logits.masked_fill(~action_mask, FORBIDDEN), dim=-1)

    def _attend(self, mine: Tensor, others: Tensor, there: Tensor) -> Tensor:
        """Return what `mine`, shape ``[B, W]``, reads off `others`, shape ``[B, 1 + P, W]``."""
        query = self.query(mine).unflatten(-1, (HEADS, -1))
        key = self.key(others).unflatten(-1, (HEADS, -1))
        value = self.value(others).unflatten(-1, (HEADS, -1))
        # Sums of products rather than einsum: so few peers make tiny matrices, a third slower.
        scores = (query.unsqueeze(1) * key).sum(-1) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~there.unsqueeze(-1), float("-inf")).softmax(dim=1)
        read: Tensor = (weights.unsqueeze(-1) * value).sum(1).flatten(1)
        return read

    def fit_normalisation(self, own: Tensor, peers: Tensor, peer_mask: Tensor) -> None:
        """Set the normalisation from the training set (shapes as in `forward`), padding left out.

        Raises:
            ValueError: A feature that counts is not finite.
        """
        self.own_scale.fit(own)
        self.peer_scale.fit(peers[peer_mask])
        if self.features == len(FEATURES):
            # Agents that are equally good differ by noise: that must not be blown up.
            for scale in (self.own_scale, self.peer_scale):
                scale.std[INDEX["competence"]].clamp_(min=_LEAST_COMPETENCE_SPREAD)


def export(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Write `policy` as ONNX, for batches and teams of any size.

    Inputs ``own`` float32 ``[batch, F]``, ``peers`` float32 ``[batch, peers, F]``, ``peer_mask``
    bool ``[batch, peers]``, ``action_mask`` bool ``[batch, 3]``. Output ``log_probabilities``
    float32 ``[batch, 3]``. The same policy gives the same bytes.
    """
    # Sizes of 0 and 1 would be taken for constants.
    example = (
        torch.zeros(3, policy.features),
        torch.zeros(3, 2, policy.features),
        torch.ones(3, 2, dtype=torch.bool),
        torch.ones(3, len(ACTIONS), dtype=torch.bool),
    )
    batch, peers = Dim("batch"), Dim("peers")
    with _quiet_exporter():
        program = torch.onnx.export(
            copy.deepcopy(policy).cpu().eval(),
            example,
            dynamo=True,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch}, {0: batch, 1: peers}, {0: batch, 1: peers}, {0: batch}),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter's notes hold source lines and paths of this machine.
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back what torch says of its own code, of inputs that share a size, of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: (batch|peers) will", UserWarning)
            yield
    finally:
        logger.setLevel(level)
