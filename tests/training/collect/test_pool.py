"""Workers end with their command, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COMMAND = """
import sys
from pathlib import Path
from training.collect.pool import make_pool

if __name__ == "__main__":
    from tests.training.collect.test_pool import work
    with make_pool(2) as pool:
        for name in "ab":
            pool.submit(work, Path(sys.argv[1], name))
"""


def work(file: Path) -> None:
    """Tell the process, and work for ten minutes."""
    file.with_suffix(".part").write_text(str(os.getpid()))
    file.with_suffix(".part").rename(file)
    time.sleep(600)


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "kill"])
def test_no_worker_outlives_its_command(tmp_path: Path, ending: signal.Signals) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    command = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    files = [tmp_path / "a", tmp_path / "b"]
    end = time.monotonic() + 120
    while not all(file.exists() for file in files):
        assert time.monotonic() < end
        assert command.poll() is None
        time.sleep(0.05)
    workers = [int(file.read_text()) for file in files]
    try:
        assert all(map(is_running, workers))
        command.send_signal(ending)
        command.wait()
        while any(map(is_running, workers)):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        for worker in workers:
            if is_running(worker):
                os.kill(worker, signal.SIGKILL)
