"""Convert a GGUF file into a Hugging Face folder, as vLLM loads it.

The weights are dequantised to bf16 block by block, so that memory holds one block at a time.
Configuration and tokenizer are read off the GGUF file by transformers.
"""

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

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

    Args:
        weight: Shape (heads * size of a head, width).
        heads: Heads of the query, or of the key.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def convert(gguf: Path, folder: Path) -> Path:
    """Convert a GGUF file, unless the folder is there. Return the folder.

    A stopped conversion goes on with the block that it was at.

    Args:
        gguf: A Qwen2 or Llama model.
        folder: The Hugging Face folder to make.

    Raises:
        ConversionError: It is a model of another kind.
    """
    if folder.exists():
        return folder
    from gguf import GGUFReader

    try:
        reader = GGUFReader(gguf)
    except ValueError as error:
        raise ConversionError(f"{gguf} is no GGUF file: {error}") from error
    kind = reader.fields["general.architecture"].contents()
    if kind not in _CLASSES:
        raise ConversionError(f"{gguf}: models of the kind {kind!r} cannot be converted")
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    _write_weights(reader, kind, unfinished)
    _write_rest(reader, gguf, unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def _write_weights(reader: Any, kind: str, folder: Path) -> None:
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
        index |= {hugging_face_name(tensor.name): file.name for tensor in tensors}
        total += sum(2 * int(tensor.n_elements) for tensor in tensors)
        if file.exists():
            continue
        weights = {}
        for tensor in tensors:
            weight = dequantize(tensor.data, tensor.tensor_type)
            part = tensor.name.split(".")[-2]
            if kind == "llama" and part in heads:
                weight = unpermuted(weight, reader.fields[f"{kind}.{heads[part]}"].contents())
            weights[hugging_face_name(tensor.name)] = torch.tensor(weight, dtype=torch.bfloat16)
        save_file(weights, torn := file.with_suffix(".torn"), metadata={"format": "pt"})
        torn.rename(file)
    listing = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listing, indent=1))


def _write_rest(reader: Any, gguf: Path, folder: Path) -> None:
    """Write the configuration, and the tokenizer with its chat template."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config.architectures = [_CLASSES[reader.fields["general.architecture"].contents()]]
    config.tie_word_embeddings = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = reader.fields["tokenizer.chat_template"].contents()
    tokenizer.save_pretrained(folder)
