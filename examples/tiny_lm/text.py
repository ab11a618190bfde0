"""From conversations to tokens: the tokenizer, its chat template, and training batches."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from examples.tiny_lm.prompts import Message, critique_messages, refine_messages
from examples.tiny_lm.questions import AGENTS, GIVERS, ITEMS, TAKERS, problems
from examples.tiny_lm.skills import Example, solve

PAD, END = "<|pad|>", "<|end|>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
# The space gives a name that begins a prompt the same token as elsewhere.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + ('' if message['role'] == 'assistant' else ' ') }}"
    "{{ message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VERDICT_WEIGHT = 6.0
"""A verdict is one token among the fifty of a solution: without weight it is hardly learnt."""
LENGTHS = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Sequence lengths of the batches: few, because every new shape costs a new kernel."""
IGNORE = -100


def build_tokenizer(context: int, vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on the project's own text. Every digit is a token of its own."""
    rng = random.Random("tokenizer")
    texts = [" ".join(["yes no", *rng.sample(GIVERS + TAKERS, 10), *ITEMS]) for _ in range(200)]
    for kind in ("hidden", "plain"):
        for problem in itertools.islice(problems(kind, "train", "tokenizer"), 1000):
            solution = solve(problem, problem.notes(AGENTS[0]), rng)
            conversation = refine_messages(
                problem.question, " ".join(problem.contexts.values()), solution, [solution]
            )
            for reasoning in (False, True):
                judged = critique_messages(conversation, "", solution, reasoning)
                texts += [m["content"] for m in judged]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def prompt_tokens(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> list[int]:
    """The tokens of a conversation up to where the assistant is to write."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


@dataclass(frozen=True)
class Encoded:
    """One example as tokens. The three lists beside `tokens` are aligned with it.

    Attributes:
        tokens: The whole conversation.
        labels: The token itself where it is a target, else `IGNORE`.
        weights: Loss weight of the token as a target.
        right: 0 or 1 at the end of a sentence of a solution, whether it is right up to there.
    """

    tokens: list[int]
    labels: list[int]
    weights: list[float]
    right: list[int]


class Encoder:
    """Turns examples into tokens with targets, and tokens into batches of fixed shapes."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.assistant, self.end = tokenizer.convert_tokens_to_ids([ROLES["assistant"], END])
        texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        self.verdicts = set(tokenizer.convert_tokens_to_ids(["yes", "no"]))
        self.sentence_ends = {token for token, text in enumerate(texts) if text.endswith(".")}

    def encode(self, example: Example) -> Encoded:
        """Renders an example through the chat template and marks the assistant's tokens."""
        text = self.tokenizer.apply_chat_template(example.messages, tokenize=False)
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        labels = [IGNORE] * len(tokens)
        weights = [0.0] * len(tokens)
        right = [IGNORE] * len(tokens)
        turn, inside = -1, False
        for position, token in enumerate(tokens):
            if token == self.assistant:
                turn, inside = turn + 1, True
                right_so_far = iter(example.right[turn])
                continue
            if not inside:
                continue
            if example.learn[turn]:
                labels[position] = token
                weights[position] = VERDICT_WEIGHT if token in self.verdicts else 1.0
            if token in self.sentence_ends or token == self.end:
                right[position] = int(next(right_so_far, IGNORE))
            inside = token != self.end
        return Encoded(tokens, labels, weights, right)

    def batches(
        self, examples: Sequence[Example], tokens_per_batch: int, rng: random.Random
    ) -> list[dict[str, torch.Tensor]]:
        """Sorts examples into batches of few fixed shapes, in random order.

        Examples beyond the model's context are left out: long questions with many peers.
        """
        encoded = [e for e in map(self.encode, examples) if len(e.tokens) <= LENGTHS[-1]]
        encoded.sort(key=lambda e: len(e.tokens))
        result = []
        while encoded:
            # The longest of the rest decides the length. The others of a batch are nearly as long.
            length = next(n for n in LENGTHS if n >= len(encoded[-1].tokens))
            rows = max(1, tokens_per_batch // length)
            result.append(self._batch(encoded[-rows:], rows, length))
            del encoded[-rows:]
        rng.shuffle(result)
        return result

    def _batch(self, rows: list[Encoded], n_rows: int, length: int) -> dict[str, torch.Tensor]:
        batch = {
            "tokens": torch.full((n_rows, length), self.tokenizer.pad_token_id),
            "labels": torch.full((n_rows, length), IGNORE),
            "weights": torch.zeros(n_rows, length),
            "right": torch.full((n_rows, length), IGNORE),
        }
        for i, row in enumerate(rows):
            for name, tensor in batch.items():
                tensor[i, : len(row.tokens)] = torch.tensor(getattr(row, name))
        return batch
