"""Programs that try to get out of the sandbox, as the user of the tests and as another one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpdf_langgraph.answers.sandbox import Sandbox
from mpdf_langgraph.errors import SandboxError
from tests.plugin.answers.escapes.running import NAMES, NOBODY, adopt_orphans, children, run


@pytest.fixture(autouse=True, scope="module")
def working_sandbox() -> Iterator[None]:
    try:
        with Sandbox().start():
            pass
    except SandboxError as error:
        pytest.skip(f"needs bubblewrap: {error}")
    adopt_orphans()
    before = children()  # other tests may have left the worker that compares mathematics
    yield
    assert children() <= before


def test_there_are_enough() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_no_program_escapes(name: str) -> None:
    assert run(name) == ""


@pytest.mark.skipif(os.getuid() != 0, reason="the tests above ran as another user than root")
def test_no_program_escapes_from_another_user() -> None:
    """The file is run as a command, since rights that were given up do not come back."""
    command = [sys.executable, "-m", "tests.plugin.answers.escapes.running", str(NOBODY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd(), check=True)
    results = json.loads(done.stdout)
    assert results == dict.fromkeys(NAMES, "")
