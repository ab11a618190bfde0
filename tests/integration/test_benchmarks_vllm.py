"""Every public benchmark through a real vLLM server: killed, resumed, every row there and graded.

The bundled model knows nothing of any benchmark. What counts is that whatever it says, cuts short
or cannot be asked comes out as a graded row.
"""

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from mpdf_langgraph import Sandbox, SandboxError
from training.evaluate.evaluation import main

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
FILES = {
    "gsm8k": "gsm8k/test.jsonl",
    "math": "math/test.jsonl",
    "aime": "aime24/test.jsonl",
    "amc": "amc23/test.jsonl",
    "mmlu": "mmlu_stem/test.jsonl",
    "humaneval": "humaneval/HumanEval.jsonl.gz",
}
NAMES = {"single sample", "vote of 3", "threshold router", "debate, 1 round"}
QUESTIONS = 20
pytestmark = pytest.mark.vllm


class Gateway(ThreadingHTTPServer):
    """Stands before the server, and counts what it is asked and what it refuses."""

    daemon_threads = True
    request_queue_size = 128  # or connections are reset, and calls made twice

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server, self.lock = server.removesuffix("/v1"), Lock()
        self.answered = self.refused = self.under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:  # here, in the order of arrival: the request's own thread may begin late
            self.under_way += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.under_way -= 1

    def settle(self) -> None:
        """Wait until all that was asked before is answered, whoever asked it."""
        with urlopen(f"{self.url}/models") as reply:  # comes after all that still wait in line
            reply.read()
        while self.under_way:
            time.sleep(0.05)


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, body: bytes | None) -> None:
        kind = {"Content-Type": "application/json"}
        try:
            with urlopen(Request(self.server.server + self.path, body, kind)) as reply:
                status, said = reply.status, reply.read()
        except HTTPError as error:
            status, said = error.code, error.read()
        with self.server.lock:
            if body is not None and b'"Hi"' not in body:  # with which the endpoint is checked
                self.server.answered += status == 200
                self.server.refused += status != 200
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
        except OSError:
            pass  # whoever asked was killed

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def gateway(server: str) -> Iterator[Gateway]:
    with Gateway(server) as one:
        Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


def command(name: str, url: str, out: Path, *more: str) -> list[str]:
    path = DATA / FILES[name]
    if not path.exists():
        pytest.skip(f"public data is not here: {path}")
    words = ["--benchmark", name, "--data", str(path), "--base-url", url, "--out", str(out)]
    words += ["--methods", "single", "vote-3", "threshold", "debate-1", "--rounds", "1"]
    words += ["--limit", str(QUESTIONS), "--max-tokens", "60", "--temperature", "0.7"]
    words += ["--critic", "logprob", "--no-control", "--concurrency", "32"]
    return [sys.executable, "training/evaluate.py", *words, *more]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # empty, or torn by the kill
    return rows


def kill_after(words: list[str], rows: Path, count: int) -> None:
    """Run a command, and kill it with all that it has begun once there are so many rows."""
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while not (rows.exists() and len(read(rows)) >= count):
            assert process.poll() is None, f"it ended by itself with {process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def check(
    out: Path, done: subprocess.CompletedProcess[str], questions: int = QUESTIONS
) -> dict[str, int]:
    """See that every question has one graded row of every method. Count failures by method."""
    assert "Traceback" not in done.stderr
    rows = read(out / "rows.jsonl")
    assert len(rows) == len({row["id"] for row in rows}) == questions
    failed = dict.fromkeys(NAMES, 0)
    for row in rows:
        assert set(row["methods"]) == NAMES
        for name, [one] in row["methods"].items():
            assert one["right"] in (True, False)
            if "error" in one:
                failed[name] += 1
                assert (one["answer"], one["right"]) == (None, False)
                assert one["failures"][0] == one["error"]
            else:
                assert one["tokens"] > 0
            assert one["calls"] >= {"single sample": 1}.get(name, 3)
    figures = json.loads((out / "results.json").read_text())["methods"]
    summary = (out / "results.md").read_text()
    for name, count in failed.items():
        runs = [row["methods"][name][0] for row in rows]
        assert figures[name]["failed"] == count
        assert figures[name]["accuracy"] == sum(one["right"] for one in runs) / questions
        assert figures[name]["tokens"] == pytest.approx(sum(r["tokens"] for r in runs) / questions)
        assert not count or f"{name} {count}" in summary
    assert done.returncode == (1 if any(failed.values()) else 0)
    assert (out / "tokens.png").read_bytes().startswith(b"\x89PNG")
    return failed


@pytest.mark.parametrize("name", ["math", "aime", "amc", "humaneval"])
def test_every_question_gets_a_graded_row_of_every_method(
    vllm_server: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "humaneval":
        try:
            with Sandbox().start():
                pass
        except SandboxError as error:
            pytest.skip(str(error))
    with gateway(vllm_server) as asked:
        words = command(name, asked.url, tmp_path)
        assert main([*words[2:], "--estimate"]) == 0
        told = capsys.readouterr().out.splitlines()
        [line] = [line for line in told if line.startswith("calls:")]
        least, most = (int(number.replace(",", "")) for number in line.split()[1::2])
        # Three proposals and the three refinements of the debate. The router shares or adds some.
        assert least == 6 * QUESTIONS <= most
        assert asked.answered == asked.refused == 0
        assert list(tmp_path.iterdir()) == []
        done = run(words)
        failed = check(tmp_path, done)
        drawn = [row for row in read(tmp_path / "samples-0.jsonl") if "key" in row]
        assert len(drawn) == asked.answered
        assert asked.answered <= most
        # All methods share their proposals: where one has none, nobody has.
        assert len(set(failed.values())) == 1
        # What was refused is not remembered, so each method asks by itself. The pool is one.
        refused = [
            error
            for row in read(tmp_path / "rows.jsonl")
            for method, [one] in row["methods"].items()
            for error in one.get("failures", ())
            if method != "single sample" and "context length" in error
        ]
        assert len(refused) == asked.refused


@pytest.mark.parametrize("name", ["gsm8k", "mmlu"])
def test_killed_in_the_middle_nothing_is_lost_and_nobody_asked_again(
    vllm_server: str, tmp_path: Path, name: str
) -> None:
    with gateway(vllm_server) as asked:
        words = command(name, asked.url, tmp_path, "--concurrency", "4")
        for count in (4, 11):  # killed twice
            kill_after(words, tmp_path / "rows.jsonl", count)
        known = {row["id"]: row for row in read(tmp_path / "rows.jsonl")}
        samples = (tmp_path / "samples-0.jsonl").read_bytes()
        assert 11 <= len(known) < QUESTIONS
        asked.settle()  # the server is still at what the killed run had asked
        before = asked.answered
        done = run(words)
        check(tmp_path, done)
        finished = {
            i: row
            for i, row in known.items()
            if not any("error" in one for [one] in row["methods"].values())
        }
        assert f"{QUESTIONS} questions, {len(finished)} of them finished already" in done.stdout
        after = {row["id"]: row for row in read(tmp_path / "rows.jsonl")}
        assert finished.items() <= after.items()
        # Every reply that the last run got is a new sample, so that none was known already.
        kept = (tmp_path / "samples-0.jsonl").read_bytes()
        assert kept.startswith(samples.rpartition(b"\n")[0])
        keys = [row["key"] for row in read(tmp_path / "samples-0.jsonl")]
        assert len(keys) == len(set(keys))
        first = samples.count(b"\n") - (0 if _is_whole(samples) else 1)
        assert len(keys) - first == asked.answered - before
        # Once more: what is finished asks nobody.
        before = asked.answered
        again = run(words)
        check(tmp_path, again)
        assert asked.answered == before
        assert {row["id"]: row for row in read(tmp_path / "rows.jsonl")} == after


def _is_whole(samples: bytes) -> bool:
    try:
        json.loads(samples.rpartition(b"\n")[2])
    except ValueError:
        return False
    return True


def test_answers_longer_than_the_models_context_are_refused_at_once(
    vllm_server: str, tmp_path: Path
) -> None:
    done = run([*command("math", vllm_server, tmp_path / "out"), "--max-tokens", "1536"])
    assert done.returncode == 2
    assert "error: --max-tokens 1536 is more than the 1024 tokens" in done.stderr
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_prompts_longer_than_the_context_are_counted_as_wrong(
    vllm_server: str, tmp_path: Path
) -> None:
    words = command("humaneval", vllm_server, tmp_path / "out")
    with gzip.open(DATA / FILES["humaneval"]) as lines:
        tasks = sorted(lines, key=lambda line: len(json.loads(line)["prompt"]))
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"".join([*tasks[:2], *tasks[-2:]]))  # the last two exceed 1,024 tokens
    words[words.index("--data") + 1] = str(path)
    done = run(words)
    assert check(tmp_path / "out", done, 4) == dict.fromkeys(NAMES, 2)
    summary = (tmp_path / "out" / "results.md").read_text()
    assert "Questions that failed, and count as wrong: single sample 2, vote of 3 2" in summary
    assert "failed: 8 x" in done.stderr
    assert "context length" in done.stderr
