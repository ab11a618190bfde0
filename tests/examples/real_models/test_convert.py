import json
from pathlib import Path
from threading import Thread

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from examples.real_models.convert import ConversionError, _write_weights, convert, hugging_face_name

HEADS, KEY_HEADS, WIDTH = 4, 2, 32
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "vocab_size": 64,
    "tie_word_embeddings": False,
}
TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's own converter does it (convert_hf_to_gguf.py, `LlamaModel.permute`)."""
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return halves.swapaxes(1, 2).reshape(rows, width)


def write_gguf(kind: str, path: Path) -> dict[str, torch.Tensor]:
    """Write a small model with random weights, and return these."""
    torch.manual_seed(0)
    if kind == "llama":
        model: torch.nn.Module = LlamaForCausalLM(LlamaConfig(**SIZES))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, kind)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    for name, weight in weights.items():
        short = name
        for long, new in TO_GGUF.items():
            short = short.replace(long, new)
        array = weight.numpy().copy()
        if kind == "llama" and "attn_q" in short:
            array = permute(array, HEADS)
        if kind == "llama" and "attn_k" in short:
            array = permute(array, KEY_HEADS)
        writer.add_tensor(short, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_weights_come_back_as_they_were(kind: str, tmp_path: Path) -> None:
    weights = write_gguf(kind, tmp_path / "model.gguf")
    _write_weights(gguf.GGUFReader(tmp_path / "model.gguf"), kind, tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"]["total_size"] == sum(2 * w.numel() for w in weights.values())
    assert len(set(index["weight_map"].values())) == 3  # two blocks and the rest
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], weights[name].bfloat16()), name


def test_8_bit_weights_are_near_the_others(tmp_path: Path) -> None:
    weights = write_gguf("qwen2", tmp_path / "model.gguf")
    _write_weights(gguf.GGUFReader(tmp_path / "model.gguf"), "qwen2", tmp_path, int8=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    assert index["metadata"]["total_size"] == size
    for name, weight in weights.items():
        if name.endswith("proj.weight"):
            scale = found[f"{name}_scale"]
            assert found[name].dtype == torch.int8
            assert ((found[name] * scale - weight).abs() <= scale / 2 + 1e-6).all()
        else:
            assert torch.equal(found[name], weight.bfloat16()), name


def test_a_tensor_of_another_kind_of_model() -> None:
    with pytest.raises(ConversionError, match="ssm_a"):
        hugging_face_name("blk.0.ssm_a.weight")


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no such thing" * 10)
    with pytest.raises(ConversionError, match="no GGUF file"):
        convert(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConversionError, match="'mamba' cannot be converted"):
        convert(tmp_path / "model.gguf", tmp_path / "out")


def test_two_conversions_at_a_time_make_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf("qwen2", tmp_path / "model.gguf")
    folder, begun = tmp_path / "out", []
    second = Thread(target=convert, args=(tmp_path / "model.gguf", folder))

    def write(*args: object) -> None:
        begun.append(1)
        if len(begun) == 1:
            second.start()
            second.join(0.2)  # it waits for this one, or would write too
        _write_weights(*args)

    monkeypatch.setattr("examples.real_models.convert._write_weights", write)
    monkeypatch.setattr("examples.real_models.convert._write_rest", lambda *args: None)
    convert(tmp_path / "model.gguf", folder)
    second.join()
    assert len(begun) == 1
    assert len(list(folder.glob("*.safetensors"))) == 3
