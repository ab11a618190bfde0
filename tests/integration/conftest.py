"""Real servers: vLLM for the tests marked ``vllm``, and PostgreSQL where it is installed."""

import os
import shutil
import socket
import subprocess
import tempfile
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

    MPDF_VLLM_URL names one that already runs. Otherwise one is started, and ended with the
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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the connection string of a PostgreSQL server, started for the session.

    MPDF_POSTGRES_URL names one that already runs. It listens on no port, only on a socket in a
    folder of its own.
    """
    if running := os.environ.get("MPDF_POSTGRES_URL"):
        yield running
        return
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(installed[-1]) if installed else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    folder = Path(tempfile.mkdtemp(prefix="mpdf-postgres-"))  # socket paths must be short
    # The server refuses to run as root. "nobody" is on every system.
    user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, **user)

    def run(tool: str, *arguments: str) -> None:
        command = [str(Path(initdb).with_name(tool)), "-D", str(folder / "data"), *arguments]
        subprocess.run(
            command, cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL, **user
        )

    try:
        run("initdb", "-A", "trust", "-U", "mpdf", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"host={folder} user=mpdf dbname=postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
