import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.tiny_lm import measure
from examples.tiny_lm.card import ROWS, SOURCES, START, STOP
from examples.tiny_lm.figures import SCORES, Case, Response, note_backing
from examples.tiny_lm.generate import Request, Sample, sample, sequence_logprobs
from examples.tiny_lm.measure import Config, Team
from examples.tiny_lm.prompts import solve_messages
from examples.tiny_lm.questions import problems
from examples.tiny_lm.scores import auroc, rate


def test_every_figure_is_there_and_the_card_keeps_its_words(folder):
    (folder / "README.md").write_text(f"before\n{START}old\n{STOP}after\n")
    report = measure.measure(Config(folder=folder, split="validation", count=2))
    assert json.loads((folder / "figures.json").read_text())["count"] == 2
    card = (folder / "README.md").read_text()
    assert card.startswith("before\n")
    assert card.endswith("after\n")
    assert "old" not in card
    assert all(words in card for words in (*ROWS.values(), *SOURCES.values()))
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")
    for kind in ("hidden", "plain"):
        assert report[kind]["single"]["value"] == 0.0  # noise
        assert report[kind]["check_without_verdict"]["value"] == 1.0
    assert set(report["hidden"]) >= set(ROWS)
    assert {f"refined_{source}_auroc" for source in SCORES} <= set(report["plain"])


@pytest.mark.parametrize(("last", "ended"), [("yes", True), ("no", True), ("yes", False)])
def test_the_verdict_of_a_check_is_read_at_its_last_word(folder, monkeypatch, last, ended):
    team = Team(Config(folder=folder, count=1))
    yes, no = team.yes_no
    tokens = [no, 7, yes if last == "yes" else no]
    top = [[(no, math.log(0.9))], [(7, 0.0)], [(yes, math.log(0.6)), (no, math.log(0.2))]]
    written = Sample([*tokens, *([1] if ended else [])], [-0.1] * 4, [*top, [(1, 0.0)]], ended)
    monkeypatch.setattr(measure, "sample", lambda *_, **__: [written])
    problem = next(problems("plain", "validation"))
    response = Response("#### 3", False, [5], -0.1, -1.0, -1.0)
    team.judge([(problem, solve_messages(problem.question, ""), response)], "check")
    assert response.check == pytest.approx(0.6 / 0.8)
    assert response.check_tokens == len(written.tokens)
    assert SCORES["check"](response) == response.check
    mean = sum(written.logprobs) / len(written.logprobs)
    assert SCORES["check_sure"](response) == pytest.approx(0.5 + 0.25 * math.exp(mean))


def test_a_check_without_a_verdict_says_nothing_either_way(folder, monkeypatch):
    team = Team(Config(folder=folder, count=1))
    cut = Sample([team.yes_no[0], 7], [-0.1] * 2, [[(7, 0.0)]] * 2, False)
    monkeypatch.setattr(measure, "sample", lambda *_, **__: [cut])
    problem = next(problems("plain", "validation"))
    response = Response("#### 3", False, [5], -0.1, -1.0, -1.0)
    team.judge([(problem, solve_messages(problem.question, ""), response)], "check")
    assert math.isnan(response.check)
    assert SCORES["check"](response) == SCORES["check_sure"](response) == 0.5


def test_a_given_continuation_has_the_log_probability_it_was_sampled_with(folder):
    team = Team(Config(folder=folder, count=1))
    prompts = [[1, *range(5, 5 + n)] for n in (3, 9, 6)]
    asked = [Request(p, 1.0, n, seed=n) for p, n in zip(prompts, (4, 11, 2), strict=True)]
    samples = sample(team.model, asked)
    given = sequence_logprobs(team.model, prompts, [s.tokens for s in samples], batch_size=2)
    assert given == pytest.approx([sum(s.logprobs) for s in samples], abs=1e-4)


def test_a_refined_answer_is_scored_under_its_first_prompt_too(folder):
    [case] = Team(Config(folder=folder, count=1)).run("hidden", "validation", 1)
    for agent, refined in case.refined.items():
        proposal = case.proposals[agent][0]
        assert proposal.first_logprob == proposal.total_logprob
        assert refined.first_logprob != refined.total_logprob
        assert 0.0 <= SCORES["sequence_first"](refined) <= 1.0


def test_a_sure_proposal_of_the_same_answer_backs_a_refined_one():
    def said(answer, probability):
        total = math.log(probability)
        return Response(f"#### {answer}", False, [5], total, total, total)

    case = Case(next(problems("plain", "validation")))
    case.proposals = {
        "agent-1": [said(7, 0.2), said(8, 0.9)],
        "agent-2": [said(7, 0.6)],
        "agent-3": [said("none", 0.8)],
    }
    case.refined = {"agent-1": said(7, 0.5), "agent-2": said(8, 0.5), "agent-3": said("?", 0.5)}
    note_backing(case)
    backing = [response.backing for response in case.refined.values()]
    assert backing == pytest.approx([0.6, 0.0, 0.0])  # second proposals are for votes alone
    scores = [SCORES["sequence_backed"](response) for response in case.refined.values()]
    assert scores == pytest.approx([0.5 * 1.1 / 1.5, 0.5 / 3, 0.5 / 3])


# --- scores -----------------------------------------------------------------------------------

groups_of_pairs = st.lists(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=4),
    min_size=1,
    max_size=8,
)


@given(groups_of_pairs, st.booleans())
def test_auroc_counts_the_pairs_that_are_in_order(groups, within):
    everyone = [groups] if within else [[[pair for group in groups for pair in group]]]
    good = total = 0.0
    for group in everyone[0]:
        for score, right in group:
            for other, other_right in group:
                if right and not other_right:
                    total += 1
                    good += 1.0 if score > other else 0.5 if score == other else 0.0
    value = auroc(groups, within)["value"]
    assert math.isnan(value) if total == 0 else value == pytest.approx(good / total)


def test_a_rates_error_is_over_questions():
    rng = random.Random(0)
    values = [float(rng.random() < 0.5) for _ in range(400)]
    alone = rate([[v] for v in values])
    repeated = rate([[v] * 5 for v in values])  # five copies say no more than one
    assert repeated["error"] == pytest.approx(alone["error"])
    assert alone["error"] == pytest.approx(np.std(values) / 20, rel=0.01)
    assert math.isnan(rate([[], []])["value"])
