"""A slice of every attack. `make torture` carries out all of each."""

import sys
from pathlib import Path

import pytest

from mpdf_langgraph.answers.sandbox import Sandbox
from mpdf_langgraph.errors import SandboxError
from tests.torture.parts import PARTS
from tests.torture.table import Row, load, save, table

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and memory is read"),
]
#: Each target of the fuzzing starts a process that imports everything under instrumentation.
FUZZED = ("fuzz-record", "fuzz-math", "fuzz-questions", "fuzz-router")
SLICED = [name for name in PARTS if not name.startswith("fuzz-") or name in FUZZED]
SLICES = {
    "memory-server": 0.04,
    "memory-traces": 0.008,
    "burst": 0.05,
    "escapes": 0.05,
    "escapes-nobody": 0.05,
    "deliberation-sync": 0.1,
}


@pytest.mark.parametrize("name", SLICED)
def test_nothing_is_lost_and_nothing_let_in(name: str, tmp_path: Path) -> None:
    if name.startswith("escapes"):
        try:
            with Sandbox().start():
                pass
        except SandboxError as error:
            pytest.skip(f"needs bubblewrap: {error}")
    row = PARTS[name](
        SLICES.get(name, 0.005 if name.startswith("fuzz") else 0.02),
        tmp_path / "work",
        lambda words: None,
    )
    assert row.clean, f"{table([row])}\n{row.notes}"


def test_the_table_and_what_is_kept(tmp_path: Path) -> None:
    rows = [Row("first", attempts=1200, seconds=1.5), Row("second", attempts=1, lost=2)]
    rows[1].note("what was lost")
    save(rows[1], tmp_path / "row.json", "this code")
    assert load(tmp_path / "row.json", "this code") == rows[1]
    assert load(tmp_path / "row.json", "other code") is None
    assert load(tmp_path / "none.json", "this code") is None
    lines = table(rows).splitlines()
    assert lines[-1].split() == ["all", "1,201", "2", "0", "0", "0", "0", "2"]
    assert [row.clean for row in (*rows, Row("nothing tried"))] == [True, False, False]
