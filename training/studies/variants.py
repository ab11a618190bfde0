"""The ablations that stored groups can answer: their questions and their variants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from training.learn.fit_config import Algorithm, Config
from training.studies.fits import Changes

Name = Literal[
    "reward-scale", "algorithm", "tau", "beta", "rewards", "observation", "labels",
    "transfer", "rounds",
]  # fmt: skip
PROFILE = ("steps", "operators", "length", "hedges", "claimed_confidence", "claim_given",
           "truncated")  # fmt: skip
CONFIDENCE = ("cluster_confidence", "confidence", "confidence_known", "logprob", "logprob_known",
              "logprob_raw", "lowest_window", "self_verdict", "self_known")  # fmt: skip
#: What an agent's own features tell of its peers.
SEEN_OF_PEERS = ("support", "plurality", "margin", "cluster_confidence", "distinct_answers")


@dataclass(frozen=True)
class Variant:
    """One line of an ablation.

    Attributes:
        label: Its name.
        options: Options of the fit that are not the defaults.
        changes: What it changes beside the options.
        against: Label of the variant that it is compared with. None: the ablation's first.
    """

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    against: str | None = None


@dataclass(frozen=True)
class Ablation:
    """Variants that answer one question from stored groups."""

    name: Name
    question: str
    variants: tuple[Variant, ...]


def _scale_variants(name: str, algorithm: str) -> list[Variant]:
    unscaled = f"{name}, rewards × 1"
    return [
        Variant(
            f"{name}, rewards × {scale:g}",
            {"algorithm": algorithm},
            Changes(reward_scale=scale),
            against=unscaled,
        )
        for scale in (1.0, 0.1, 10.0)
    ]


def _sweep_variants(option: str, symbol: str, *values: float) -> tuple[Variant, ...]:
    default = getattr(DEFAULT, option)
    return tuple(
        Variant(
            f"{symbol} = {value:g}",
            {"algorithm": "softrankpo", option: value},
            against=f"{symbol} = {default:g}",
        )
        for value in sorted({default, *values})
    )


DEFAULT = Config(traces=())
ALGORITHMS = {"softrankpo": "SoftRankPO", "grpo": "GRPO", "ppo": "PPO", "awr": "AWR"}
ABLATIONS = (
    Ablation(
        "reward-scale",
        "Does a fit depend on the unit of the rewards? SoftRankPO ranks them, GRPO divides them "
        "by their deviation (plus 1e-4), PPO takes them as they are. *Moved* is 0 where the unit "
        "does not matter.",
        (
            *_scale_variants("SoftRankPO", "softrankpo"),
            *_scale_variants("GRPO", "grpo"),
            *_scale_variants("PPO", "ppo"),
        ),
    ),
    Ablation(
        "algorithm",
        "What does the second stage give, and which one gives most?",
        (
            Variant("SFT", {"algorithm": "none"}),
            *(
                Variant(f"SFT + {ALGORITHMS.get(name, name)}", {"algorithm": name})
                for name in get_args(Algorithm)
                if name != "none"
            ),
        ),
    ),
    Ablation(
        "tau",
        "How smooth should SoftRankPO's ranks be? τ also sets the size of the advantages, std(A), "
        "so that a change may be one of step size as much as of smoothness.",
        _sweep_variants("tau", "τ", 0.0, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0),
    ),
    Ablation(
        "beta",
        "How far may SoftRankPO go from the SFT policy?",
        _sweep_variants("beta", "β", 0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
    ),
    Ablation(
        "rewards",
        "Are both parts of the reward needed? All variants are scored by their sum.",
        (
            Variant("both"),
            Variant("r_local only", {"global_": 0.0}),
            Variant("r_global only", {"local": 0.0}),
        ),
    ),
    Ablation(
        "observation",
        "What of the observation is needed? The allowed actions are always known, and with them "
        "whether a peer holds another answer. Raw text: hashed words and pairs of words of the "
        "responses, through the same network.",
        (
            Variant("everything"),
            Variant("without profile", changes=Changes(hidden=PROFILE)),
            Variant("without confidence", changes=Changes(hidden=CONFIDENCE)),
            Variant("without both", changes=Changes(hidden=PROFILE + CONFIDENCE)),
            Variant("without the peers' states", changes=Changes(blind=True)),
            Variant("without anything of peers", changes=Changes(blind=True, hidden=SEEN_OF_PEERS)),
            Variant("raw text", changes=Changes(raw_text=True)),
        ),
    ),
    Ablation(
        "labels",
        "How should SFT treat its labels, and both stages the groups that are all tied?",
        (
            Variant("soft labels, tied × 0.1"),
            Variant("hard labels", changes=Changes(hard_labels=True)),
            Variant("soft labels at 0.1", {"label_temperature": 0.1}),
            Variant("soft labels at 1", {"label_temperature": 1.0}),
            *(
                Variant(f"tied × {weight:g}", {"tied_weight": weight})
                for weight in (0.0, 0.3, 1.0)
            ),
            Variant("disagreement × 3", {"disagreement_weight": 3.0}),
        ),
    ),
)  # fmt: skip
