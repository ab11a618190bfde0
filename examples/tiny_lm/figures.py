"""What is computed of a team's responses: rates, votes, and how well confidences tell."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from examples.tiny_lm.questions import AGENTS, Problem
from examples.tiny_lm.scores import Rate, auroc, rate
from examples.tiny_lm.skills import answer_of, stated_facts
from mpdf_langgraph.verdicts import discount_verdict
from training.learn.calibrate import apply_curve, fit_curve
from training.learn.measures import quality


@dataclass
class Response:
    """One response with everything that is measured of it.

    Log-probabilities are those of the conversation that produced it. `first_logprob` is the total
    under the agent's first prompt, before it saw its peers. `backing` is the highest sequence
    probability among the team's first proposals of the same answer, 0 where there is none.
    """

    text: str
    right: bool
    tokens: Sequence[int]
    mean_logprob: float
    total_logprob: float
    first_logprob: float
    backing: float = 0.0
    verdict: float = float("nan")
    check: float = float("nan")
    check_mean_logprob: float = float("nan")
    check_tokens: int = 0


@dataclass
class Case:
    """One question with its team's responses, by agent."""

    problem: Problem
    proposals: dict[str, list[Response]] = field(default_factory=dict)
    refined: dict[str, Response] = field(default_factory=dict)
    informed: Response | None = None


def vote(responses: Sequence[Response], reference: int, weighted: bool = False) -> bool:
    """Whether the (confidence-weighted) majority is right. Ties go to the first answer."""
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


def recalibrate_halves(groups: Sequence[Sequence[tuple[float, bool]]]) -> list[tuple[float, bool]]:
    """Scores after calibration that was fitted on the other half of the questions."""
    result = []
    for half in (0, 1):
        fit, use = (
            np.array([pair for group in groups[start::2] for pair in group], dtype=float)
            for start in (1 - half, half)
        )
        scores = apply_curve(fit_curve(fit[:, 0], fit[:, 1]), use[:, 0])
        result += zip(scores.tolist(), (use[:, 1] > 0).tolist(), strict=True)
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
    "sequence_first": lambda r: float(np.exp(r.first_logprob)),
    "sequence_backed": lambda r: backed_probability(float(np.exp(r.total_logprob)), r.backing),
    "verdict": lambda r: r.verdict,
    "check": lambda r: 0.5 if math.isnan(r.check) else r.check,
    "check_sure": lambda r: (
        0.5 if math.isnan(r.check) else discount_verdict(r.check, r.check_mean_logprob)
    ),
}


def sources(stage: str) -> list[str]:
    """The names of a stage's scores: a proposal has no other prompt, and none before it."""
    later = ("sequence_first", "sequence_backed")
    return [name for name in SCORES if stage == "refined" or name not in later]


def backed_probability(probability: float, backing: float) -> float:
    """A refined answer's sequence probability, trusted more where a sure proposal said the same.

    It combines two sources that show different mistakes. If the context that produced an answer led
    it astray, nobody who did not see that context is sure of it. If a proposal could not know the
    answer, the context is sure. The constants were chosen on validation questions.
    """
    return probability * (0.5 + backing) / 1.5


def note_backing(case: Case) -> None:
    """Fill in the backing of a case's refined responses."""
    sure: dict[int, float] = {}
    for proposals in case.proposals.values():
        answer = answer_of(proposals[0].text)
        if answer is not None:
            sure[answer] = max(sure.get(answer, 0.0), float(np.exp(proposals[0].total_logprob)))
    for response in case.refined.values():
        answer = answer_of(response.text)
        response.backing = 0.0 if answer is None else sure.get(answer, 0.0)


def figures(cases: list[Case], hidden: bool) -> dict[str, Rate]:
    """All figures of one kind of question."""

    def over(select: Callable[[Case, str], float | None]) -> Rate:
        """The rate of a property of (question, agent). None leaves a pair out."""
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
        for source in sources(stage):
            groups = pairs_of(cases, stage, source)
            result[f"{stage}_{source}_auroc"] = auroc(groups, within=False)
            result[f"{stage}_{source}_auroc_within"] = auroc(groups, within=True)
            for when, pairs in (
                ("", [p for g in groups for p in g]),
                ("_mended", recalibrate_halves(groups)),
            ):
                error = quality(*np.array(pairs, float).reshape(-1, 2).T)["ece"]
                curve = error, float("nan"), len(pairs)
                result[f"{stage}_{source}_ece{when}"] = dict(
                    zip(("value", "error", "n"), curve, strict=True)
                )
    result["proposal_tokens"] = over(lambda c, a: float(len(first(c, a).tokens)))
    result["check_tokens"] = over(lambda c, a: float(first(c, a).check_tokens))
    result["check_without_verdict"] = over(lambda c, a: float(math.isnan(c.refined[a].check)))
    return result
