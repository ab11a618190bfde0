"""Batched sampling with a key-value cache, for training, measuring and the chat model alike."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicLayer

from examples.tiny_lm.prompts import Message
from examples.tiny_lm.text import prompt_tokens


@dataclass(frozen=True)
class Request:
    """What to sample.

    Attributes:
        prompt: The tokens to continue.
        temperature: 0 takes the most probable token.
        max_tokens: Largest number of tokens to sample.
        seed: The row's own source of randomness: a sample does not depend on what else is in
            the batch, up to rounding.
        choices: If given, the output is one of these token sequences.
        top_logprobs: How many of the most probable tokens to report at every step.
        stop: Says of the tokens so far whether to stop.
    """

    prompt: Sequence[int]
    temperature: float = 1.0
    max_tokens: int = 256
    seed: int | str = 0
    choices: tuple[tuple[int, ...], ...] = ()
    top_logprobs: int = 0
    stop: Callable[[list[int]], bool] | None = None

    def next_tokens(self, so_far: list[int], end: int) -> set[int]:
        """The tokens with which one of the choices can go on."""
        n = len(so_far)
        heads = [choice for choice in self.choices if list(choice[:n]) == so_far]
        return {choice[n] if len(choice) > n else end for choice in heads}


@dataclass
class Sample:
    """A sampled continuation.

    Attributes:
        tokens: The sampled tokens, the end token included if it was sampled.
        logprobs: One per token, from the raw distribution: before temperature and constraints,
            as vLLM reports them by default.
        top: The most probable tokens with their logprobs at every step, if asked for.
        ended: Whether the end token was sampled.
        stopped: Whether the request's own stop condition was met.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    ended: bool = False
    stopped: bool = False

    @property
    def content(self) -> list[int]:
        """The tokens without the end token."""
        return self.tokens[:-1] if self.ended else self.tokens


class GrowingLayer(DynamicLayer):
    """A cache layer with spare room: appending a token copies that token, not the whole cache."""

    spare = 64

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends keys and values, and returns all of them."""
        old = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = torch.empty(0)
        length = old + key_states.shape[-2]
        if self._room.ndim == 1 or length > self._room.shape[-2]:
            rows, heads, _, size = key_states.shape
            room = key_states.new_empty(2, rows, heads, length + self.spare, size)
            if old:
                room[..., :old, :] = self._room[..., :old, :]
            self._room = room
        self._room[0, :, :, old:length] = key_states
        self._room[1, :, :, old:length] = value_states
        self.keys, self.values = self._room[..., :length, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps only some rows of the batch."""
        length = self.get_seq_length()
        self._room = self._room[:, indices]
        self.keys, self.values = self._room[..., :length, :]


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads prompts on the left to one length. Returns the tokens and the attention mask."""
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return tokens, mask


@torch.inference_mode()
def decode(model: LlamaForCausalLM, requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
    """Samples a batch of requests and yields each sample, with its index, as soon as it is done.

    Rows that are done leave the batch when they have become half of it.
    """
    pad, end = model.config.pad_token_id, model.config.eos_token_id
    device = model.device
    padded = pad_left([request.prompt for request in requests], pad)
    tokens, mask = (tensor.to(device) for tensor in padded)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = Cache(layers=[GrowingLayer() for _ in range(model.config.num_hidden_layers)])
    rngs = [random.Random(request.seed) for request in requests]
    samples = [Sample() for _ in requests]
    rows = list(range(len(requests)))
    alive = set(rows)
    while True:
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        # Drawn on the CPU in double precision, so that a seed means the same on every device.
        raw = logits.float().log_softmax(-1).cpu().double()
        chosen = _choose(raw, rows, requests, samples, rngs, end)
        most = max(requests[row].top_logprobs for row in alive)
        best = raw.topk(most) if most else None
        chosen_logprobs = raw.gather(1, chosen[:, None])[:, 0].tolist()
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if row not in alive:
                continue
            request, result = requests[row], samples[row]
            result.tokens.append(token)
            result.logprobs.append(chosen_logprobs[i])
            if best is not None and request.top_logprobs:
                top = zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
                result.top.append(list(top)[: request.top_logprobs])
            result.ended = token == end
            result.stopped = request.stop is not None and request.stop(result.content)
            if result.ended or result.stopped or len(result.tokens) >= request.max_tokens:
                alive.discard(row)
                yield row, result
        if not alive:
            return
        tokens, positions = chosen[:, None].to(device), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        if len(alive) <= len(rows) // 2:
            keep = torch.tensor([i for i, row in enumerate(rows) if row in alive], device=device)
            cache.batch_select_indices(keep)
            tokens, positions, mask = tokens[keep], positions[keep], mask[keep]
            rows = [row for row in rows if row in alive]


def _choose(
    raw: torch.Tensor,
    rows: list[int],
    requests: Sequence[Request],
    samples: list[Sample],
    rngs: list[random.Random],
    end: int,
) -> torch.Tensor:
    """Draws the next token of every row by inverting its cumulative distribution."""
    temperatures = torch.tensor([requests[row].temperature for row in rows], dtype=raw.dtype)
    scores = raw / temperatures.clamp(min=1e-3)[:, None]
    for i, row in enumerate(rows):
        if requests[row].choices:
            allowed = sorted(requests[row].next_tokens(samples[row].content, end) or {end})
            kept = scores[i, allowed]
            scores[i] = -torch.inf
            scores[i, allowed] = kept
    cumulative = scores.softmax(-1).cumsum(-1)
    drawn = torch.tensor([rngs[row].random() for row in rows], dtype=raw.dtype)
    sampled = torch.searchsorted(cumulative, (drawn * cumulative[:, -1])[:, None], right=True)[:, 0]
    sampled = sampled.clamp(max=raw.shape[1] - 1)
    return torch.where(temperatures > 0, sampled, scores.argmax(-1))


def sample(
    model: LlamaForCausalLM,
    requests: Sequence[Request],
    batch_size: int = 128,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Sample]:
    """Samples any number of requests, in batches of like length, and returns them in order.

    `progress` is called with the number of requests after every batch.
    """
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
    results: dict[int, Sample] = {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        for row, result in decode(model, [requests[i] for i in indices]):
            results[indices[row]] = result
        progress(len(indices))
    return [results[i] for i in range(len(requests))]


def respond(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[list[Message]],
    temperature: float,
    seed: int | str,
) -> list[str]:
    """The assistant's next message in every conversation, as text."""
    requests = [
        Request(prompt_tokens(tokenizer, messages), temperature, seed=f"{seed}/{i}")
        for i, messages in enumerate(conversations)
    ]
    return [
        tokenizer.decode(result.content, skip_special_tokens=True)
        for result in sample(model, requests)
    ]


@torch.inference_mode()
def next_token_probabilities(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[int],
    batch_size: int = 128,
) -> torch.Tensor:
    """The raw probabilities of a few tokens after every prompt, one row per prompt."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    result = torch.empty(len(prompts), len(choices))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        tokens, mask = pad_left([prompts[i] for i in indices], model.config.pad_token_id)
        logits = model(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
            logits_to_keep=1,
        ).logits[:, -1]
        result[indices] = logits.float().softmax(-1)[:, list(choices)].cpu()
    return result


@torch.inference_mode()
def sequence_logprobs(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    batch_size: int = 64,
) -> list[float]:
    """The log-probability of a given continuation of every prompt, summed over its tokens."""
    rows = [[*prompt, *added] for prompt, added in zip(prompts, continuations, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    result = [0.0] * len(rows)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        tokens, mask = pad_left([rows[i] for i in indices], model.config.pad_token_id)
        longest = max(len(continuations[i]) for i in indices)
        logits = model(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
            logits_to_keep=longest + 1,
        ).logits[:, :-1]
        written = tokens[:, tokens.shape[1] - longest :, None].to(model.device)
        logprobs = logits.float().log_softmax(-1).gather(2, written)[..., 0].cpu()
        for row, i in enumerate(indices):
            result[i] = float(logprobs[row, longest - len(continuations[i]) :].sum())
    return result
