"""The architecture, an ordinary but small Llama, and how it is saved."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_lm.prompts import PROPOSE_TEMPERATURE

CONTEXT = 1024
SIZES = {  # hidden size, layers, heads, feed-forward size
    "1M": (160, 3, 5, 448),
    "3M": (256, 4, 4, 704),
    "8M": (320, 6, 5, 896),
}


def build_model(tokenizer: PreTrainedTokenizerFast, size: str, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights and tied embeddings."""
    torch.manual_seed(seed)
    hidden, layers, heads, feed_forward = SIZES[size]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        initializer_range=0.05,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # Keys start equal to queries: a token attends to its like, from where looking up is near.
    for layer in model.model.layers:
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight.data)
    return model


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes an ordinary Hugging Face folder with weights in bfloat16."""
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config.update(
        do_sample=True, temperature=PROPOSE_TEMPERATURE, eos_token_id=model.config.eos_token_id
    )
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
