r"""Reads the answers of 14 real models to GSM8K's test questions, as ZeroEval recorded them.

    zcat answers.jsonl.gz > answers.jsonl
    python training/collect.py --import answers.jsonl --convert examples.gsm8k_models:to_rows \
        --out traces/gsm8k_models

The models were asked for JSON with `reasoning` and `answer`. Some wrapped it in other text, or
broke its form, so the answer is found by its key.
"""

import re
from collections.abc import Iterator
from typing import Any

_ANSWER = re.compile(r'"answer"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\n]+)')


def to_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Convert a question with the answers of all models into a row for each model."""
    for agent, text in row["answers"].items():
        found = _ANSWER.findall(text)
        said = found[-1].strip().strip('"') if found else text
        yield {
            "question": row["question"],
            "reference": row["reference"],
            "agent": agent,
            "response": said or "no answer",
        }
