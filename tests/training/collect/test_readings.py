"""Recorded answers of real models that were read by hand, and what `MathAnswer` makes of them.

`readings.jsonl` holds no text of the data. A line names a response by its source and key (question,
agent or model, number of the message), and says what was read, or whether the answer is right.
What was read is written as in a box. Null says that the response gives no one answer.

`pytest -s tests/training/collect/test_readings.py` prints the shares with Wilson's 95 % intervals,
and every response that is read otherwise.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mpdf_langgraph import MathAnswer
from tests.support.paths import DATA
from training.learn.measures import wilson

READINGS = Path(__file__).with_name("readings.jsonl")
FILES = {
    "math_debates": "math_debates/debates.jsonl.gz",
    "gsm8k_models": "gsm8k_models/answers.jsonl.gz",
    "gsm8k_solutions": "gsm8k/model_solutions.jsonl",
    "qwen_samples": "math/sampled_solutions_100x8.jsonl",
}
#: The seed of each sample. The second sample leaves out the first.
SEEDS = {1: 20261130, 2: 20261201}
#: How many responses were read by hand, and how many are read alike at least.
ALIKE = {
    (1, "math_debates"): (150, 146),
    (1, "gsm8k_models"): (100, 100),
    (1, "gsm8k_solutions"): (100, 100),
    (1, "qwen_samples"): (100, 100),
    (2, "math_debates"): (150, 144),
    (2, "gsm8k_models"): (100, 100),
}
#: The same for verdicts: answers that once counted as wrong, and answers that count as right.
JUDGED_ALIKE = {"judged wrong": (100, 97), "judged right": (50, 50)}


class Response(NamedTuple):
    """A recorded response, and the reference of its question."""

    text: str
    reference: str


def responses(source: str) -> Iterator[tuple[str, Response]]:
    """Read the responses of a source with their keys."""
    path = DATA / FILES[source]
    written = path.read_bytes()
    lines = (gzip.decompress(written) if path.suffix == ".gz" else written).decode().split("\n")
    for number, row in enumerate(map(json.loads, filter(None, lines))):
        if source == "math_debates":
            for agent, messages in row["agents"].items():
                for turn, text in enumerate(messages):
                    yield f"{row['id']}/{agent}/{turn}", Response(text, row["reference"])
        elif source == "gsm8k_models":
            for model, text in row["answers"].items():
                yield f"{row['id']}/{model}", Response(text, row["reference"])
        elif source == "gsm8k_solutions":
            reference = row["ground_truth"].rpartition("A:")[2].strip()
            for model, one in row.items():
                if isinstance(one, dict):
                    yield f"{number}/{model}", Response(one["solution"], reference)
        else:
            for turn, text in enumerate(row["code"]):
                yield f"{row['idx']}/{turn}", Response(text, row["gt"])


@pytest.fixture(scope="module")
def by_hand() -> list[dict[str, Any]]:
    return [json.loads(line) for line in READINGS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Response]]:
    for name in FILES.values():
        if not (DATA / name).exists():
            pytest.skip(f"needs {DATA / name}, a public data file that is not in this repository")
    return {source: dict(responses(source)) for source in FILES}


def test_the_samples_are_what_the_seeds_draw(
    by_hand: list[dict[str, Any]], recorded: dict[str, dict[str, Response]]
) -> None:
    drawn: dict[str, set[str]] = {source: set() for source in FILES}
    for (sample, source), (size, _) in ALIKE.items():
        population = sorted(recorded[source].keys() - drawn[source])
        keys = random.Random(f"{SEEDS[sample]} {source}").sample(population, size)
        assert keys == [
            line["key"] for line in by_hand if (line["sample"], line["source"]) == (sample, source)
        ]
        drawn[source].update(keys)


def test_answers_are_read_as_by_hand(
    by_hand: list[dict[str, Any]], recorded: dict[str, dict[str, Response]]
) -> None:
    schema = MathAnswer(timeout=10)
    read, alike = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    for line in by_hand:
        if "read" not in line:
            continue
        answer = schema.parse(recorded[line["source"]][line["key"]].text)
        wanted = None if line["read"] is None else schema.parse(f"\\boxed{{{line['read']}}}")
        assert (wanted is None) is (line["read"] is None)
        if answer is None or wanted is None:
            same = answer is wanted
        else:
            same = schema.equivalent(answer, wanted)
        if not same:
            print(f"{line['key']}: {answer!r}, by hand {wanted!r}")  # noqa: T201
        read[line["sample"], line["source"]] += 1
        alike[line["sample"], line["source"]] += same
    for part, (size, least) in ALIKE.items():
        low, high = wilson(alike[part] / size, size)
        print(f"sample {part[0]}, {part[1]}: {alike[part]} of {size} [{low:.3f}, {high:.3f}]")  # noqa: T201
        assert read[part] == size
        assert alike[part] >= least


def test_verdicts_are_those_by_hand(
    by_hand: list[dict[str, Any]], recorded: dict[str, dict[str, Response]]
) -> None:
    schema = MathAnswer(timeout=10)
    alike = Counter[str]()
    for line in by_hand:
        if "right" in line:
            response = recorded[line["source"]][line["key"]]
            answer = schema.parse(response.text)
            reference = schema.parse(f"\\boxed{{{response.reference}}}")
            assert reference is not None
            same = answer is not None and schema.equivalent(answer, reference)
            if same is not line["right"]:
                print(f"{line['key']}: {answer!r} for {reference!r}")  # noqa: T201
            alike[line["sample"]] += same is line["right"]
    for part, (size, least) in JUDGED_ALIKE.items():
        low, high = wilson(alike[part] / size, size)
        print(f"{part}: {alike[part]} of {size} [{low:.3f}, {high:.3f}]")  # noqa: T201
        assert alike[part] >= least
