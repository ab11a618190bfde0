"""Deal the sentences of GSM8K's questions out to three agents.

    python examples/real_models/dealt_gsm8k.py --data gsm8k/test.jsonl --out dealt.jsonl

The last sentence, which asks, goes to everybody. The others become private notes, in order and as
evenly as can be. Questions with fewer than three other sentences are left out. The data are GSM8K's
own files (https://github.com/openai/grade-school-math, MIT), rows with `question` and `answer`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.real_models.lookups import AGENTS
from mpdf_langgraph import MPDFError
from training.collect.questions import TableError, read_table
from training.command import run_command
from training.evaluate.benchmarks import gsm8k

# A sentence ends with a mark, perhaps a quote after it, and a space and a capital or a number.
_SENTENCE_END = re.compile(
    r"""(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bMrs\.)(?<!\bSt\.)"""
    r"""(?:(?<=[.!?])|(?<=[.!?]["”']))\s+(?=["“'$A-Z0-9])"""
)


def deal(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row for `collect.py` and `evaluate.py`, None where there is too little to deal.

    Args:
        row: A row of GSM8K.

    Raises:
        MPDFError: It is none.

    Example:
        >>> deal({"question": "A is 1. B is 2. C is 3. What is A + B + C?", "answer": "#### 6"})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'question': 'What is A + B + C?', 'reference': '6',
         'contexts': {'agent-1': 'A is 1.', 'agent-2': 'B is 2.', 'agent-3': 'C is 3.'}}
    """
    question, reference = gsm8k(row)
    *told, asked = _SENTENCE_END.split(question)
    if len(told) < len(AGENTS):
        return None
    bounds = [len(told) * place // len(AGENTS) for place in range(len(AGENTS) + 1)]
    return {
        "question": asked,
        "reference": reference,
        "contexts": {
            agent: " ".join(told[bounds[place] : bounds[place + 1]])
            for place, agent in enumerate(AGENTS)
        },
    }


@dataclass(frozen=True)
class DealOptions:
    """Options of dealing."""

    data: Path
    """GSM8K's file: JSON Lines or Parquet."""
    out: Path = Path("dealt.jsonl")
    """The file to write."""


def main(options: DealOptions) -> None:
    """Deal a file out.

    Raises:
        TableError: The file is missing, or a row is none of GSM8K's.
    """
    rows = []
    total = 0
    for number, row in read_table(options.data):
        total += 1
        try:
            if isinstance(row, TableError):
                raise row
            dealt = deal(row)
        except MPDFError as error:
            raise TableError(f"{options.data}:{number}: {error}") from error
        if dealt:
            rows.append({"id": f"gsm8k-dealt-{number:05}", **dealt})
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} of {total} questions have enough sentences -> {options.out}")


if __name__ == "__main__":
    run_command(main, DealOptions, __doc__)
