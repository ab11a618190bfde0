"""Measures the skills of a trained model on questions it has never seen, and writes its card.

    python examples/tiny_lm/measure.py                       # the bundled model, test split
    python examples/tiny_lm/measure.py --split validation --count 200 --folder runs/tiny_lm/model

Every question goes to three agents, who propose at temperature 1.2 (three times each, for the
votes) and refine once at 0.6 in view of the peers' first proposals. Standard errors are over
questions: samples of one question are not independent.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.tiny_lm.generate import Request, next_token_probabilities, sample
from examples.tiny_lm.prompts import (
    PROPOSE_TEMPERATURE,
    REFINE_TEMPERATURE,
    Message,
    critique_messages,
    refine_messages,
    solve_messages,
)
from examples.tiny_lm.questions import AGENTS, Kind, Problem, problems
from examples.tiny_lm.scores import Rate, auroc, calibration_error, rate
from examples.tiny_lm.skills import answer_of, is_right, stated_facts
from examples.tiny_lm.text import prompt_tokens
from training.calibration import Platt, reliability

START, STOP = "<!-- figures: written by measure.py -->\n", "<!-- end of figures -->"


@dataclass
class Config:
    """Options of a measurement."""

    folder: Path = Path(__file__).parent / "model"
    """The model's folder; its README.md gets the figures."""
    split: Literal["validation", "test"] = "test"
    """Tune on validation; test is for reporting."""
    count: int = 600
    """Questions of each kind."""
    seed: int = 0
    """Seed of the questions and of the sampling."""
    threads: int = 1
    """CPU threads."""


@dataclass
class Response:
    """One response with everything that is measured of it."""

    text: str
    right: bool
    mean_logprob: float
    total_logprob: float
    tokens: int
    verdict: float = float("nan")
    check: float = float("nan")
    check_tokens: int = 0


@dataclass
class Case:
    """One question with its team's responses, by agent."""

    problem: Problem
    proposals: dict[str, list[Response]] = field(default_factory=dict)
    refined: dict[str, Response] = field(default_factory=dict)
    informed: Response | None = None


class Team:
    """Runs the model as the team's members."""

    def __init__(self, config: Config) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(config.folder)
        self.model = LlamaForCausalLM.from_pretrained(config.folder, dtype=torch.float32).eval()
        self.seed = config.seed
        self.yes_no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        # Of every agent three proposals, a refinement and two checks; and one that knows all.
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
            responses.append(Response(text, right, mean, total, len(result.tokens)))
        return responses

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
            responses = self.respond(asked, PROPOSE_TEMPERATURE, f"{kind}/propose/{k}")
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
        informed = self.respond(everything, PROPOSE_TEMPERATURE, f"{kind}/informed")
        for case, response in zip(cases, informed, strict=True):
            case.informed = response
        return cases


def vote(responses: Sequence[Response], reference: int, weighted: bool = False) -> bool:
    """Whether the (confidence-weighted) majority is right; ties go to the first answer."""
    votes: Counter[int] = Counter()
    for response in responses:
        answer = answer_of(response.text)
        if answer is not None:
            votes[answer] += np.exp(response.mean_logprob) if weighted else 1  # type: ignore[assignment]
    return bool(votes) and votes.most_common(1)[0][0] == reference


def knows(case: Case, agent: str) -> bool:
    """Whether notes and unguessed, true statements of the first proposals hold every fact."""
    problem = case.problem
    known = set(problem.notes(agent))
    for proposals in case.proposals.values():
        facts = stated_facts(problem, proposals[0].text)
        known |= {n for n, (v, guess) in facts.items() if not guess and v == problem.facts[n]}
    return known >= set(problem.owner)


def mended(groups: Sequence[Sequence[tuple[float, bool]]]) -> list[tuple[float, bool]]:
    """Scores after calibration that was fitted on the other half of the questions."""
    result = []
    for half in (0, 1):
        fit, use = (
            np.array([pair for group in groups[start::2] for pair in group], dtype=float)
            for start in (1 - half, half)
        )
        calibration = Platt.fit(fit[:, 0], fit[:, 1])
        result += zip(calibration.apply(use[:, 0]).tolist(), (use[:, 1] > 0).tolist(), strict=True)
    return result


def pairs_of(cases: list[Case], stage: str, source: str) -> list[list[tuple[float, bool]]]:
    """A confidence and whether the response was right, for every agent, by question."""
    score = SCORES[source]
    responses = [
        [c.proposals[a][0] if stage == "proposal" else c.refined[a] for a in AGENTS] for c in cases
    ]
    return [[(score(r), r.right) for r in group] for group in responses]


SCORES: dict[str, Callable[[Response], float]] = {
    "sequence": lambda r: float(np.exp(r.mean_logprob)),
    "sequence_raw": lambda r: float(np.exp(r.total_logprob)),
    "verdict": lambda r: r.verdict,
    "check": lambda r: 0.5 if math.isnan(r.check) else r.check,
}


def plot_calibration(path: Path, measured: dict[str, list[Case]]) -> None:
    """Draws reliability curves of every confidence, raw and after correction."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SCORES), figsize=(13, 7), sharex=True, sharey=True)
    for row, stage in zip(axes, ("proposal", "refined"), strict=True):
        for axis, source in zip(row, SCORES, strict=True):
            axis.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
            for kind, color in (("hidden", "#cc3311"), ("plain", "#4477aa")):
                groups = pairs_of(measured[kind], stage, source)
                raw = [pair for group in groups for pair in group]
                for pairs, style, label in ((raw, "o--", "raw"), (mended(groups), "o-", "mended")):
                    scores, right = np.array(pairs, dtype=float).T
                    curve = reliability(scores, right)
                    x, y = [c[0] for c in curve], [c[1] for c in curve]
                    axis.plot(x, y, style, color=color, ms=3, label=f"{kind}, {label}")
            axis.set_title(f"{stage}: {SOURCES[source]}", fontsize=8)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("confidence")
    figure.supylabel("share right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def figures(cases: list[Case], hidden: bool) -> dict[str, Rate]:
    """All figures of one kind of question."""

    def over(select: Callable[[Case, str], float | None]) -> Rate:
        """The rate of a property of (question, agent); None leaves a pair out."""
        groups = [[select(case, agent) for agent in AGENTS] for case in cases]
        return rate([[v for v in group if v is not None] for group in groups])

    def first(case: Case, agent: str) -> Response:
        return case.proposals[agent][0]

    def change(
        before: bool, condition: Callable[[Case, str], bool] = lambda c, a: True
    ) -> Callable[[Case, str], float | None]:
        """1 where refining changed a right (wrong) response into a wrong (right) one."""

        def select(case: Case, agent: str) -> float | None:
            if first(case, agent).right != before or not condition(case, agent):
                return None
            return float(case.refined[agent].right != before)

        return select

    def peers_right(case: Case, agent: str) -> bool:
        return all(first(case, other).right for other in AGENTS if other != agent)

    def every(case: Case, k: int) -> list[Response]:
        return [proposal for j in range(k) for proposal in (case.proposals[a][j] for a in AGENTS)]

    single = [[float(r.right) for r in every(case, 3)] for case in cases]
    result = {"single": rate(single)}
    informed = [[float(case.informed.right)] for case in cases if case.informed]
    if hidden:
        result["informed"] = rate(informed)
        for owners in range(4):
            chosen = [
                values
                for values, case in zip(single, cases, strict=True)
                if len(set(case.problem.owner.values())) == owners
            ]
            result[f"single_owners_{owners}"] = rate(chosen)

        def guess_marked(case: Case, agent: str) -> float | None:
            problem = case.problem
            missing = set(problem.owner) - set(problem.notes(agent))
            facts = stated_facts(problem, first(case, agent).text)
            return float(all(facts.get(n, (0, False))[1] for n in missing)) if missing else None

        def fact_stated(case: Case, agent: str) -> float | None:
            notes = case.problem.notes(agent)
            facts = stated_facts(case.problem, first(case, agent).text)
            return (
                float(all(facts.get(n) == (v, False) for n, v in notes.items())) if notes else None
            )

        result["guess_marked"] = over(guess_marked)
        result["own_fact_stated"] = over(fact_stated)
    for k, name in ((1, "3"), (3, "9")):
        for weighted in (False, True):
            label = f"{'weighted_' if weighted else ''}vote_{name}"
            right = [vote(every(c, k), c.problem.answer, weighted) for c in cases]
            result[label] = rate([[float(r)] for r in right])
    refined_votes = [vote([c.refined[a] for a in AGENTS], c.problem.answer) for c in cases]
    fresh_votes = [vote([c.proposals[a][1] for a in AGENTS], c.problem.answer) for c in cases]
    result["refined_single"] = over(lambda c, a: float(c.refined[a].right))
    result["refined_vote_3"] = rate([[float(r)] for r in refined_votes])
    result["refine_minus_fresh_single"] = over(
        lambda c, a: float(c.refined[a].right) - float(c.proposals[a][1].right)
    )
    result["refine_minus_fresh_vote_3"] = rate(
        [[float(r) - float(f)] for r, f in zip(refined_votes, fresh_votes, strict=True)]
    )
    result["right_to_wrong"] = over(change(True))
    result["right_to_wrong_peers_agree"] = over(change(True, peers_right))
    result["wrong_to_right"] = over(change(False))
    result["fresh_wrong_to_right"] = over(
        lambda c, a: None if first(c, a).right else float(c.proposals[a][1].right)
    )
    if hidden:
        result["wrong_to_right_facts_at_hand"] = over(change(False, knows))
        two = lambda c, a: knows(c, a) and len(set(c.problem.owner.values())) == 2  # noqa: E731
        result["wrong_to_right_two_owners"] = over(change(False, two))
    for stage in ("proposal", "refined"):
        for source in SCORES:
            groups = pairs_of(cases, stage, source)
            result[f"{stage}_{source}_auroc"] = auroc(groups, within=False)
            result[f"{stage}_{source}_auroc_within"] = auroc(groups, within=True)
            for when, pairs in (("", [p for g in groups for p in g]), ("_mended", mended(groups))):
                curve = calibration_error(pairs), float("nan"), len(pairs)
                result[f"{stage}_{source}_ece{when}"] = dict(
                    zip(("value", "error", "n"), curve, strict=True)
                )
    result["proposal_tokens"] = over(lambda c, a: float(first(c, a).tokens))
    result["check_tokens"] = over(lambda c, a: float(first(c, a).check_tokens))
    result["check_without_verdict"] = over(lambda c, a: float(math.isnan(c.refined[a].check)))
    return result


ROWS = {
    "single": f"one agent, T={PROPOSE_TEMPERATURE}",
    "single_owners_0": "… nothing missing",
    "single_owners_1": "… missing facts with one agent",
    "single_owners_2": "… with two agents",
    "single_owners_3": "… with three agents",
    "informed": f"one agent with all facts, T={PROPOSE_TEMPERATURE}",
    "guess_marked": "every guess marked where facts are missing",
    "own_fact_stated": "own facts stated rightly and unmarked",
    "vote_3": "vote of 3 (one per agent)",
    "vote_9": "vote of 9 (three per agent)",
    "weighted_vote_3": "confidence-weighted vote of 3",
    "weighted_vote_9": "confidence-weighted vote of 9",
    "refined_single": f"one agent after REFINE, T={REFINE_TEMPERATURE}",
    "refined_vote_3": "vote of 3 after everyone's REFINE",
    "right_to_wrong": "REFINE right -> wrong",
    "right_to_wrong_peers_agree": "… both peers right too",
    "wrong_to_right": "REFINE wrong -> right",
    "wrong_to_right_facts_at_hand": "… missing facts stand in the responses",
    "wrong_to_right_two_owners": "… and lie with two owners",
    "fresh_wrong_to_right": "fresh proposal instead: wrong -> right",
    "refine_minus_fresh_single": "REFINE minus fresh proposal, one agent",
    "refine_minus_fresh_vote_3": "REFINE minus fresh proposal, vote of 3",
    "proposal_tokens": "tokens of a proposal",
    "check_tokens": "tokens of its check in writing",
    "check_without_verdict": "checks of refined answers without a verdict",
}
SOURCES = {
    "sequence": "sequence probability, per token",
    "sequence_raw": "sequence probability",
    "verdict": "P(yes) of the critique, at once",
    "check": "P(yes) of the critique, after a check in writing",
}


def tables(report: dict[str, Any]) -> str:
    """The figures as Markdown."""

    def cell(values: dict[str, Rate], name: str) -> str:
        if name not in values or np.isnan(values[name]["value"]):
            return "–"
        value, error = values[name]["value"], values[name]["error"]
        digits = 1 if name.endswith("_tokens") else 3
        shown = f"{value:.{digits}f}"
        return shown if np.isnan(error) else f"{shown} ± {error:.{digits}f}"

    kinds = ("hidden", "plain")
    caption = (
        f"{report['count']} {report['split']} questions of each kind (seed {report['seed']}), "
        "mean ± standard error over questions:"
    )
    lines = [caption, "", "| | hidden profile | plain |", "| --- | --- | --- |"]
    lines += [
        f"| {words} | {' | '.join(cell(report[kind], name) for kind in kinds)} |"
        for name, words in ROWS.items()
    ]
    lines += [
        "",
        "Confidence (AUROC overall / among the responses to one question / ECE raw / ECE mended",
    ]
    lines[-1] += " by a calibration fitted on the other half of the questions):"
    lines += [""]
    lines += ["| | hidden profile | plain |", "| --- | --- | --- |"]
    for stage in ("proposal", "refined"):
        for source, words in SOURCES.items():
            cells = [
                " / ".join(
                    cell(report[kind], f"{stage}_{source}_{what}")
                    for what in ("auroc", "auroc_within", "ece", "ece_mended")
                )
                for kind in kinds
            ]
            lines.append(f"| {stage}: {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure(config: Config) -> dict[str, Any]:
    """Measures both kinds of questions and writes `figures.json` and the card's tables."""
    torch.set_num_threads(config.threads)
    team = Team(config)
    report: dict[str, Any] = {"split": config.split, "count": config.count, "seed": config.seed}
    kinds: tuple[Kind, ...] = ("hidden", "plain")
    measured: dict[str, list[Case]] = {}
    for kind in kinds:
        measured[kind] = team.run(kind, config.split, config.count)
        report[kind] = figures(measured[kind], kind == "hidden")
    team.bar.close()
    text = tables(report)
    print(text)
    plot_calibration(config.folder / "calibration.png", measured)
    (config.folder / "figures.json").write_text(json.dumps(report, indent=1) + "\n")
    card = config.folder / "README.md"
    if card.exists() and START in (old := card.read_text()):
        before, rest = old.split(START)
        card.write_text(before + START + "\n" + text + "\n" + STOP + rest.split(STOP)[1])
    return report


if __name__ == "__main__":
    measure(tyro.cli(Config))
