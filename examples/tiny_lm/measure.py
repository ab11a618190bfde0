"""Measures the skills of a trained model on questions it has never seen, and writes its card.

    python examples/tiny_lm/measure.py                       # the bundled model, test split
    python examples/tiny_lm/measure.py --split validation --count 200 --folder runs/tiny_lm/model

Every question goes to three agents, who propose three times each, for the votes, and refine once,
at temperature 0.6, in view of the peers' first proposals. Standard errors are over questions:
samples of one question are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_lm.card import tables, write_card
from examples.tiny_lm.figures import Case, Response, figures, note_backing
from examples.tiny_lm.generate import Request, next_token_probabilities, sample, sequence_logprobs
from examples.tiny_lm.prompts import (
    PROPOSE_TEMPERATURE,
    REFINE_TEMPERATURE,
    Message,
    critique_messages,
    refine_messages,
    solve_messages,
)
from examples.tiny_lm.questions import AGENTS, Kind, Problem, problems
from examples.tiny_lm.skills import is_right
from examples.tiny_lm.text import prompt_tokens


@dataclass
class Config:
    """Options of a measurement."""

    folder: Path = Path(__file__).parent / "model"
    """The model's folder; its README.md gets the figures."""
    split: Literal["validation", "test"] = "test"
    """Tune on validation. Report on test."""
    count: int = 600
    """Questions of each kind."""
    temperature: float = PROPOSE_TEMPERATURE
    """Temperature of the proposals."""
    seed: int = 0
    """Seed of the questions and of the sampling."""
    threads: int = 1
    """CPU threads."""


class Team:
    """Runs the model as the team's members."""

    def __init__(self, config: Config) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(config.folder)
        self.model = LlamaForCausalLM.from_pretrained(config.folder, dtype=torch.float32).eval()
        self.seed, self.temperature = config.seed, config.temperature
        self.yes_no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        # Every agent gives three proposals, a refinement and two checks. One more knows all.
        samples = 2 * config.count * (6 * len(AGENTS) + 1)
        self.bar = tqdm(total=samples, unit=" solutions", smoothing=0.05)

    def respond(
        self, asked: Sequence[tuple[Problem, list[Message]]], temperature: float, label: str
    ) -> list[Response]:
        """One response to every conversation."""
        requests = [
            Request(
                prompt_tokens(self.tokenizer, messages),
                temperature,
                seed=f"{self.seed}/{label}/{i}",
            )
            for i, (_, messages) in enumerate(asked)
        ]
        self.bar.set_description(label)
        responses = []
        samples = sample(self.model, requests, progress=self.bar.update)
        for (problem, _), result in zip(asked, samples, strict=True):
            text = self.tokenizer.decode(result.content, skip_special_tokens=True)
            total = sum(result.logprobs)
            mean = total / len(result.logprobs)
            right = is_right(problem, text)
            responses.append(Response(text, right, result.tokens, mean, total, total))
        return responses

    def score_under(self, scored: Sequence[tuple[list[Message], Response]], label: str) -> None:
        """Fills in the log-probability of responses under another prompt than their own."""
        self.bar.set_description(label)
        prompts = [prompt_tokens(self.tokenizer, messages) for messages, _ in scored]
        written = [response.tokens for _, response in scored]
        logprobs = sequence_logprobs(self.model, prompts, written)
        for (_, response), logprob in zip(scored, logprobs, strict=True):
            response.first_logprob = logprob

    def judge(self, judged: Sequence[tuple[Problem, list[Message], Response]], label: str) -> None:
        """Fills in P(yes) of responses, each in the conversation that produced it."""
        prompts = [
            prompt_tokens(
                self.tokenizer, critique_messages(conversation, problem.question, response.text)
            )
            for problem, conversation, response in judged
        ]
        table = next_token_probabilities(self.model, prompts, self.yes_no)
        for (_, _, response), (yes, no) in zip(judged, table.tolist(), strict=True):
            response.verdict = yes / (yes + no)
        requests = [
            Request(
                prompt_tokens(
                    self.tokenizer,
                    critique_messages(
                        conversation, problem.question, response.text, reasoning=True
                    ),
                ),
                temperature=0.0,
                top_logprobs=20,
            )
            for problem, conversation, response in judged
        ]
        self.bar.set_description(label)
        checks = sample(self.model, requests, progress=self.bar.update)
        for (_, _, response), result in zip(judged, checks, strict=True):
            response.check_tokens = len(result.tokens)
            if result.content and result.content[-1] in self.yes_no:
                top = dict(result.top[len(result.content) - 1])
                yes, no = (math.exp(top.get(token, -math.inf)) for token in self.yes_no)
                response.check = yes / (yes + no)
                response.check_mean_logprob = sum(result.logprobs) / len(result.logprobs)

    def run(self, kind: Kind, split: Literal["validation", "test"], count: int) -> list[Case]:
        """Proposals, refinements and verdicts of a team on every question of one kind."""
        cases = [Case(problem) for problem in islice(problems(kind, split, self.seed), count)]
        first = {
            (i, agent): solve_messages(case.problem.question, case.problem.contexts.get(agent, ""))
            for i, case in enumerate(cases)
            for agent in AGENTS
        }
        for k in range(3):
            asked = [(cases[i].problem, messages) for (i, _), messages in first.items()]
            responses = self.respond(asked, self.temperature, f"{kind}/propose/{k}")
            for (i, agent), response in zip(first, responses, strict=True):
                cases[i].proposals.setdefault(agent, []).append(response)
        again = {}
        for (i, agent), messages in first.items():
            proposals = cases[i].proposals
            peers = [proposals[other][0].text for other in AGENTS if other != agent]
            context = cases[i].problem.contexts.get(agent, "")
            question = cases[i].problem.question
            again[i, agent] = refine_messages(question, context, proposals[agent][0].text, peers)
            assert again[i, agent][: len(messages)] == messages
        asked = [(cases[i].problem, messages) for (i, _), messages in again.items()]
        responses = self.respond(asked, REFINE_TEMPERATURE, f"{kind}/refine")
        for (i, agent), response in zip(again, responses, strict=True):
            cases[i].refined[agent] = response
        for case in cases:
            note_backing(case)
        self.score_under(
            [(first[i, agent], cases[i].refined[agent]) for i, agent in again], f"{kind}/score"
        )
        judged = [
            (cases[i].problem, m, cases[i].proposals[a][0]) for (i, a), m in first.items()
        ] + [(cases[i].problem, m, cases[i].refined[a]) for (i, a), m in again.items()]
        self.judge(judged, f"{kind}/check")
        everything = [
            (
                case.problem,
                solve_messages(case.problem.question, " ".join(case.problem.contexts.values())),
            )
            for case in cases
        ]
        informed = self.respond(everything, self.temperature, f"{kind}/informed")
        for case, response in zip(cases, informed, strict=True):
            case.informed = response
        return cases


def measure(config: Config) -> dict[str, Any]:
    """Measures both kinds of questions and writes `figures.json` and the card's tables."""
    torch.set_num_threads(config.threads)
    team = Team(config)
    names = ("split", "count", "temperature", "seed")
    report: dict[str, Any] = {name: getattr(config, name) for name in names}
    kinds: tuple[Kind, ...] = ("hidden", "plain")
    measured: dict[str, list[Case]] = {}
    for kind in kinds:
        measured[kind] = team.run(kind, config.split, config.count)
        report[kind] = figures(measured[kind], kind == "hidden")
    team.bar.close()
    print(tables(report))
    write_card(config.folder, report, measured)
    return report


if __name__ == "__main__":
    measure(tyro.cli(Config))
