"""How right the small model is while it is trained."""

import random
from itertools import islice

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_lm.generate import respond
from examples.tiny_lm.prompts import (
    PROPOSE_TEMPERATURE,
    REFINE_TEMPERATURE,
    refine_messages,
    solve_messages,
)
from examples.tiny_lm.questions import AGENTS, Kind, problems
from examples.tiny_lm.skills import is_right, refine


def validate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, refining: bool
) -> dict[str, float]:
    """Accuracy at the proposing temperature: alone, with all facts, and refining in a team."""
    rng = random.Random("validate")
    result = {}

    kinds: tuple[Kind, ...] = ("hidden", "plain")
    for kind in kinds:
        team = list(islice(problems(kind, "validation", "training"), count))
        seats = [(problem, agent) for problem in team for agent in AGENTS]
        asked = [solve_messages(p.question, p.contexts.get(a, "")) for p, a in seats]
        first = respond(model, tokenizer, asked, PROPOSE_TEMPERATURE, "propose")
        before = [is_right(p, text) for (p, _), text in zip(seats, first, strict=True)]
        result[kind] = sum(before) / len(before)
        if kind == "hidden":
            informed = [solve_messages(p.question, " ".join(p.contexts.values())) for p in team]
            texts = respond(model, tokenizer, informed, PROPOSE_TEMPERATURE, "informed")
            result["informed"] = sum(map(is_right, team, texts)) / count
        if not refining:
            continue
        peers = [
            [first[j] for j in range(i - i % 3, i - i % 3 + 3) if j != i] for i in range(len(seats))
        ]
        conversations = [
            refine_messages(p.question, p.contexts.get(a, ""), first[i], peers[i])
            for i, (p, a) in enumerate(seats)
        ]
        second = respond(model, tokenizer, conversations, REFINE_TEMPERATURE, "refine")
        after = [is_right(p, text) for (p, _), text in zip(seats, second, strict=True)]
        able = [  # what the perfect refiner would get right from the same conversation
            is_right(p, refine(p, p.notes(a), first[i], peers[i], rng))
            for i, (p, a) in enumerate(seats)
        ]
        result[f"{kind}_refined"] = sum(after) / len(after)
        result[f"{kind}_able"] = sum(able) / len(able)
        rights = [a for b, a in zip(before, after, strict=True) if b]
        wrongs = [a for b, a in zip(before, after, strict=True) if not b]
        result[f"{kind}_broken"] = 1 - sum(rights) / max(1, len(rights))
        result[f"{kind}_fixed"] = sum(wrongs) / max(1, len(wrongs))
    return result
