"""A real vLLM server for the tests marked ``vllm``."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.serve_vllm import ensure_venv, server_command, serving

START_SECONDS = 300
# The first of these tests waits for the server, and perhaps for its installation.
TEST_SECONDS = 1200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests on a real server more time than others get."""
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the base URL of a vLLM server that serves the tiny model.

    MPDF_VLLM_URL names one that already runs; otherwise one is started, and ended with the
    session. Where that is impossible the tests fail: whoever asks for them wants to know.
    """
    if running := os.environ.get("MPDF_VLLM_URL"):
        yield running
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log_path = tmp_path_factory.mktemp("vllm") / "server.log"
    command = server_command(ensure_venv(), port=port)
    with log_path.open("wb") as log, serving(command, log) as server:
        _wait_until_ready(server, f"http://127.0.0.1:{port}/health", log_path)
        yield f"http://127.0.0.1:{port}/v1"


def _wait_until_ready(server: subprocess.Popen[bytes], health: str, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(health, timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    what = "did not get ready" if server.poll() is None else f"ended with {server.returncode}"
    tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-30:])
    pytest.fail(f"the vLLM server {what}; its log ends with:\n{tail}", pytrace=False)
