from pathlib import Path

import pytest

from examples import serve_vllm
from examples.real_models import serve


@pytest.mark.parametrize(
    ("known", "dtype"),
    [
        ("processor: 0\nflags\t\t: fma avx avx2\nflags\t\t: fma avx avx2\n", "float32"),
        ("processor: 0\nflags\t\t: avx2 avx512f avx512_bf16\n", "bfloat16"),
        ("processor: 0\nFeatures\t: asimd bf16\n", "bfloat16"),  # ARM
        (None, "bfloat16"),
    ],
)
def test_a_model_is_served_in_the_dtype_that_the_cpu_is_fast_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str | None, dtype: str
) -> None:
    monkeypatch.setattr(serve_vllm, "CPU_INFO", tmp_path / "cpuinfo")
    if known is not None:
        (tmp_path / "cpuinfo").write_text(known)
    command = serve_vllm.server_command(Path("python"))
    assert command[command.index("--dtype") + 1] == dtype
    # A real model is served in the same one.
    monkeypatch.setattr(serve, "model_folder", lambda *_: tmp_path)
    monkeypatch.setattr(serve, "ensure_venv", lambda: Path("python"))
    command = serve.command_for("0.5B")
    assert command[command.index("--dtype") + 1] == dtype
