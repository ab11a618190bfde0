"""The reproduction: what it need not do again."""

import os
from pathlib import Path

from examples.reproduce import is_newer


def test_a_router_is_fitted_again_once_there_are_more_traces(tmp_path: Path) -> None:
    router, traces = tmp_path / "router.json", tmp_path / "traces"
    traces.mkdir()
    assert not is_newer(router, traces)
    for name, at in (("a.jsonl", 100), ("collect.json", 900), ("b.jsonl", 200)):
        (traces / name).write_text("")
        os.utime(traces / name, (at, at))
    router.write_text("{}")
    os.utime(router, (200, 200))
    assert is_newer(router, traces)
    os.utime(traces / "a.jsonl", (300, 300))
    assert not is_newer(router, traces)
