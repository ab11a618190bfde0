"""Answers judged by hand, and what the schemas make of them.

`python -m tests.plugin.answers.judged_cases FILE ...` prints a table by kind, the cases read
otherwise than judged, and the time that verdicts on mathematical answers take.
"""

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mpdf_langgraph import ChoiceAnswer, CodeAnswer, CodeTests, MathAnswer, Sandbox, TextAnswer
from tests.support.paths import ROOT

OWN = Path(__file__).with_name("cases.jsonl")
GIVEN = ROOT.parent / "shared" / "cases" / "answers.jsonl"
TESTS = CodeTests(
    "total",
    "assert total([1, 2]) == 5\nassert total([]) == 0\nassert total([-3]) == 9",
    "from typing import List\n\n"
    'def total(xs: List[int]) -> int:\n    """Sum of the squares.\n\n'
    '    >>> total([1, 2])\n    5\n    """\n',
)


class Reader:
    """Judges cases with one schema a kind."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._math = MathAnswer(timeout=10)
        self._text = TextAnswer()
        self._code = CodeAnswer(sandbox=sandbox).for_question(TESTS.setup)

    def agrees(self, case: dict[str, Any]) -> bool:
        """Tell whether a case is read as it was judged, in either order where there are two."""
        text = case["text"]
        if case["kind"] == "choice":
            return ChoiceAnswer(case["n"]).parse(text) == case["want"]
        if case["kind"] == "code":
            program = self._code.parse(text)
            passed = program is not None and self._code.passes(program, TESTS).passed
            return passed is case["passes"]
        schema = self._math if case["kind"] == "math" else self._text
        answer, reference = schema.parse(text), case["reference"]
        if case["kind"] == "math":
            reference = schema.parse(f"\\boxed{{{reference}}}")
        same = answer is not None and schema.equivalent(answer, reference)
        assert answer is None or schema.equivalent(reference, answer) is same
        return same is case["same"]


def read_cases(path: Path) -> list[dict[str, Any]]:
    """Read a file of cases."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(paths: list[str]) -> None:
    """Print the table."""
    reader = Reader(Sandbox(command=("env", "-i"), seconds=10))
    # Start the worker.
    reader.agrees({"kind": "math", "text": "x+y", "reference": "y+x", "same": True})
    for path in map(Path, paths):
        right, all_ = Counter[str](), Counter[str]()
        seconds: list[tuple[float, str]] = []
        for case in read_cases(path):
            start = time.perf_counter()
            agrees = reader.agrees(case)
            if case["kind"] == "math":
                seconds.append((time.perf_counter() - start, case["text"]))
            all_[case["kind"]] += 1
            right[case["kind"]] += agrees
            if not agrees:
                sys.stdout.write(json.dumps(case, ensure_ascii=False) + "\n")
        for kind, count in all_.items():
            print(f"{kind:8} {right[kind]} of {count}")  # noqa: T201
        print(f"all      {right.total()} of {all_.total()} ({right.total() / all_.total():.1%})")  # noqa: T201
        if seconds:
            median = statistics.median(time_ for time_, _ in seconds)
            print(f"seconds a verdict: median {median:.4f}, worst {max(seconds)}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:] or [str(OWN)])
