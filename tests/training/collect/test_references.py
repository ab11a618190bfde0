"""Question files and references: what is refused before the first question is asked."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mpdf_langgraph import (
    ChoiceAnswer,
    ConfigurationError,
    MathAnswer,
    StructuredAnswer,
    TextAnswer,
)
from training.collect.questions import Question, read_questions
from training.collect.team import check_references


class Point(BaseModel):
    x: int


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (MathAnswer(), ["5", "\\frac12", "x>2", "no solution", "(A)"], ["", "\\text{ }"]),
        (ChoiceAnswer(4), ["B", "(B)", "b", "B. Paris"], ["E", "Paris", "A or B", "12"]),
        (TextAnswer(), ["Paris"], ["**"]),
        (StructuredAnswer(Point), ['{"x": 1}'], ["{}", "x = 1"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_references_must_be_readable(schema: Any, good: list[str], bad: list[str]) -> None:
    check_references([Question("q", "?", text, {}) for text in good], schema)
    check_references([Question("q", "?", None, {})], schema)
    for text in bad:
        with pytest.raises(ConfigurationError, match=r"question 'q': .*cannot be read"):
            check_references([Question("q", "?", text, {})], schema)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [json.dumps({"question": f"{k} + 1?", "reference": str(k + 1)}) for k in range(2)]
    path.write_bytes(codecs.BOM_UTF8 + "\r\n".join(rows).encode())
    assert [q.reference for q in read_questions(path)] == ["1", "2"]
