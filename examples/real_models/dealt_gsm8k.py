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
from mpdf_langgraph import MPDFError, Prompts
from training.collect.questions import TableError, read_table
from training.command import run_command
from training.evaluate.benchmarks import gsm8k

# A sentence ends with a mark, perhaps a quote after it, and a space and a capital or a number.
_SENTENCE_END = re.compile(
    r"""(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bMrs\.)(?<!\bSt\.)"""
    r"""(?:(?<=[.!?])|(?<=[.!?]["”']))\s+(?=["“'$A-Z0-9])"""
)

#: How the agents are asked. Small models copy a form literally: the examples show it. They come
#: first, so that a server's prefix cache holds them for all questions. An agent that must say what
#: is missing guesses less.
PROMPTS = Prompts(
    context="""\
You and two others hold different parts of one story. The question follows the story. Copy your \
part word for word, so that the others learn it. Then say what is missing. If anything is missing, \
the answer is null. Never make up a number.

Example
Your part: Tom buys 3 boxes of pens.
Question: How many pens does Tom have left?
Answer: My part: Tom buys 3 boxes of pens. Missing: how many pens are in a box, and how many he \
gives away. {{"answer": null}}

Example
Your part: The next day Mia runs twice as far.
Question: If a mile burns 100 calories, how many calories does Mia burn in all?
Answer: My part: The next day Mia runs twice as far. Missing: how far she runs on the first day. \
{{"answer": null}}

Example
Your part: Each box holds 12 pens. Tom buys 3 boxes. He gives 5 pens to each of his 2 sisters.
Question: How many pens does Tom have left?
Answer: My part: Each box holds 12 pens. Tom buys 3 boxes. He gives 5 pens to each of his 2 \
sisters. Missing: nothing. Steps: Tom buys 3 * 12 = 36 pens. He gives away 5 * 2 = 10 pens. He has \
36 - 10 = 26 pens left. {{"answer": 26}}

Example
Your part: A ticket costs $8. Children pay half.
Question: How much do they pay?
Answer: My part: A ticket costs $8. Children pay half. Missing: how many adults and children go. \
{{"answer": null}}

Example
Your part: Sue and Kim are friends.
Question: How old is Kim if Sue is 20?
Answer: My part: Sue and Kim are friends. Missing: how much older or younger Kim is. \
{{"answer": null}}

Your part: {context}""",
    propose=(
        'Question: {question}\nBegin with "My part:" and copy your part word for word. Then say '
        "what is missing. Then give the answer, or null."
    ),
    refine="""\
The others hold the other parts of the story. They said:

{peers}

You said:
{own}

All parts together are the whole story. What is missing in one part is told in another, so nothing \
is missing now. Question: {question}
Solve it. Begin with "Steps:" and calculate step by step, with the numbers of all three parts. End \
with the answer as {{"answer": number}}.""",
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
