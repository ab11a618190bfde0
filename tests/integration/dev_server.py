"""`langgraph dev`, started for tests."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
START_SECONDS = 120

needs_dev_server = pytest.mark.skipif(
    importlib.util.find_spec("langgraph_cli") is None
    or importlib.util.find_spec("langgraph_api") is None,
    reason='`langgraph dev` is not installed: pip install "langgraph-cli[inmem]"',
)


@contextmanager
def dev_server(folder: Path) -> Iterator[str]:
    """Serve the graphs of a folder with a langgraph.json, and yield the address.

    The server keeps its threads in that folder: not one of the repository.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As it comes it carries out one run at a time, so that agents would wait for each other.
    options = ["--no-browser", "--no-reload", "--port", str(port), "--n-jobs-per-worker", "10"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LANGSMITH", "MPDF"))}
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", *options],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**kept, "LANGGRAPH_CLI_NO_ANALYTICS": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    try:
        yield _address(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        # It takes another port where its own was taken meanwhile, and says which.
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text(errors="replace"))
        try:
            if found and httpx.get(f"{found.group()}/ok", timeout=5).is_success:
                return found.group()
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"langgraph dev did not start:\n{log.read_text(errors='replace')[-3000:]}")
