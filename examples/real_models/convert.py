"""Convert a GGUF file into a Hugging Face folder, as vLLM loads it.

The weights are dequantised to bf16 block by block, so that memory holds one block at a time.
Configuration and tokenizer are read off the GGUF file by transformers.

With `int8` the matrices of the blocks are 8-bit integers with a scale for every row, in the format
of compressed-tensors (W8A8: vLLM rounds activations token by token as well). CPUs with AVX-512 VNNI
multiply these faster.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from mpdf_langgraph import MPDFError

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CLASSES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}


#: How the names of the matrices end that may be 8-bit integers.
_ROUNDED = "proj.weight"
#: What tells vLLM of the 8-bit weights, in config.json.
_INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": {
                "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token",
                "dynamic": True,
            },
        }
    },
}  # fmt: skip


class ConversionError(MPDFError, ValueError):
    """A GGUF file cannot be converted. The message says why."""


def hugging_face_name(name: str) -> str:
    """Return what transformers calls the tensor that a GGUF file calls `name`.

    Raises:
        ConversionError: There is no such tensor in the models that can be converted.

    Example:
        >>> hugging_face_name("blk.7.attn_q.bias")
        'model.layers.7.self_attn.q_proj.bias'
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if found is None or found[2] not in _INSIDE:
        raise ConversionError(f"the tensor {name!r} is of no model that can be converted")
    return f"model.layers.{found[1]}.{_INSIDE[found[2]]}.{found[3]}"


def unpermuted(weight: Any, heads: int) -> Any:
    """Return a query or key matrix in transformers' order of rows.

    GGUF files of Llama-like models pair the two halves of a head's rows, as the rotation of
    llama.cpp wants them.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def rounded_to_int8(weight: Any) -> tuple[Any, Any]:
    """Return a matrix as 8-bit integers and the scale of every row: ``weight ≈ integers * scale``.

    Args:
        weight: Float tensor, shape (rows, width).

    Returns:
        int8 of the same shape, and float32 of shape (rows, 1).
    """
    import torch

    scale = (weight.float().abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)
    return (weight.float() / scale).round().to(torch.int8), scale


def convert(gguf: Path, folder: Path, *, int8: bool = False) -> Path:
    """Convert a GGUF file, unless the folder is there. Return the folder.

    A stopped conversion goes on with the block that it was at.

    Args:
        gguf: A Qwen2 or Llama model.
        folder: The Hugging Face folder to make.
        int8: Write 8-bit weights instead of bf16.

    Raises:
        ConversionError: It is a model of another kind.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another process may be at it: then its folder is taken
        return folder if folder.exists() else _convert(gguf, folder, int8)


def _convert(gguf: Path, folder: Path, int8: bool) -> Path:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(gguf)
    except ValueError as error:
        raise ConversionError(f"{gguf} is no GGUF file: {error}") from error
    kind = reader.fields["general.architecture"].contents()
    if kind not in _CLASSES:
        raise ConversionError(f"{gguf}: models of the kind {kind!r} cannot be converted")
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(exist_ok=True)
    _write_weights(reader, kind, unfinished, int8)
    _write_rest(reader, gguf, unfinished, int8)
    unfinished.rename(folder)
    return folder


def _write_weights(reader: Any, kind: str, folder: Path, int8: bool = False) -> None:
    """Write a file of weights for every block, one for the rest, and their index."""
    import torch
    from gguf import dequantize
    from safetensors.torch import save_file

    blocks: dict[str, list[Any]] = defaultdict(list)
    for tensor in reader.tensors:
        found = re.match(r"blk\.(\d+)\.", tensor.name)
        blocks[f"block-{int(found[1]):03}" if found else "outside"].append(tensor)
    heads = {
        "attn_q": "attention.head_count",
        "attn_k": "attention.head_count_kv",
    }
    index: dict[str, str] = {}
    total = 0
    for block, tensors in tqdm(sorted(blocks.items()), desc="convert", unit="block"):
        file = folder / f"model-{block}.safetensors"
        for tensor in tensors:
            name = hugging_face_name(tensor.name)
            index[name] = file.name
            if int8 and name.endswith(_ROUNDED):
                index[f"{name}_scale"] = file.name
                total += int(tensor.n_elements) + 4 * int(tensor.shape[-1])
            else:
                total += 2 * int(tensor.n_elements)
        if file.exists():
            continue
        weights = {}
        for tensor in tensors:
            weight = dequantize(tensor.data, tensor.tensor_type)
            part = tensor.name.split(".")[-2]
            if kind == "llama" and part in heads:
                weight = unpermuted(weight, reader.fields[f"{kind}.{heads[part]}"].contents())
            name, value = hugging_face_name(tensor.name), torch.tensor(weight)
            if int8 and name.endswith(_ROUNDED):
                weights[name], weights[f"{name}_scale"] = rounded_to_int8(value)
            else:
                weights[name] = value.to(torch.bfloat16)
        save_file(weights, torn := file.with_suffix(".torn"), metadata={"format": "pt"})
        torn.rename(file)
    listing = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listing, indent=1))


def _write_rest(reader: Any, gguf: Path, folder: Path, int8: bool) -> None:
    """Write the configuration, and the tokenizer with its chat template."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config.architectures = [_CLASSES[reader.fields["general.architecture"].contents()]]
    config.tie_word_embeddings = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config.dtype = "bfloat16"
    if int8:
        config.quantization_config = _INT8
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = reader.fields["tokenizer.chat_template"].contents()
    tokenizer.save_pretrained(folder)
