r"""Reads eight sampled solutions to each of 100 MATH problems, with a reward model's scores.

    python training/collect.py --import sampled_solutions_100x8.jsonl \
        --convert examples.math_samples:to_rows --out traces/math_samples

The file comes with Qwen2.5-Math. Every sample becomes an agent. The logistic function of its score
is its confidence, which a calibration makes a probability.
"""

import math
from collections.abc import Iterator
from typing import Any


def to_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Convert a problem with its samples into a row for each sample."""
    for number, (text, [score]) in enumerate(zip(row["code"], row["pred_score"], strict=True), 1):
        yield {
            "question": row["question"],
            "reference": str(row["answer"]),
            "agent": f"sample-{number}",
            "response": text,
            "confidence": 1 / (1 + math.exp(-score)),
        }
