"""Every kind of answer that models give, judged by hand."""

from collections import defaultdict
from typing import Any

import pytest

from mpdf_langgraph import Sandbox
from tests.plugin.answers.judged_cases import GIVEN, OWN, Reader, read_cases

GROUPS: dict[str, list[dict[str, Any]]] = defaultdict(list)
for _case in read_cases(OWN):
    GROUPS[f"{_case['kind']}: {_case['group']}"].append(_case)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(Sandbox(command=("env", "-i"), seconds=30))


@pytest.mark.parametrize("group", GROUPS)
def test_answers_are_read_as_judged(group: str, reader: Reader) -> None:
    assert [case for case in GROUPS[group] if not reader.agrees(case)] == []


def test_answers_of_another_judge(reader: Reader) -> None:
    if not GIVEN.exists():
        pytest.skip(f"needs {GIVEN}, a file that is not part of this repository")
    cases = read_cases(GIVEN)
    wrong = [case for case in cases if not reader.agrees(case)]
    assert len(wrong) <= 0.03 * len(cases), wrong
