import sys
from pathlib import Path

import httpx2
import pytest

from examples.real_models.fetch import FetchError
from examples.real_models.serve import command_for, free_port, served

# Answers /health as the servers do, once it is up.
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.integration
def test_the_block_begins_once_the_server_answers_and_ends_it(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    command = [sys.executable, "-c", SERVER, str(port)]
    with (tmp_path / "log").open("wb") as log, served(command, url, log):
        assert httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/health")


@pytest.mark.integration
def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    url = f"http://127.0.0.1:{free_port()}/v1"
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(FetchError, match="did not start"),
        served(command, url, log),
    ):
        pass
    assert b"no room" in (tmp_path / "log").read_bytes()


def test_llama_cpp_serves_the_catalogue_alone(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="vLLM serves owner/name"):
        command_for("owner/name", "llamacpp", cache=tmp_path)
