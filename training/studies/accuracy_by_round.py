"""The accuracy of recorded deliberations after every round."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph import TraceReader
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import tokens
from training.collect.questions import find_superseded
from training.learn.display import start_figure
from training.learn.measures import mean_interval
from training.learn.rewards import Grader, tokens_of


@dataclass
class AccuracyByRound:
    """Results of deliberations as if they had been stopped after each round.

    Attributes:
        question: Number of each episode's question, ``[n]``.
        right: The consensus after each round is right, ``[n, 1 + rounds]``. The first one is that
            of the proposals. An episode that ended earlier keeps its last one.
        tokens: Prompt and completion tokens until then, ``[n, 1 + rounds]``. Critiques and failed
            calls are included. A judge of answers counts with the last round.
        agents: Sizes of the teams.
    """

    question: NDArray[Any]
    right: NDArray[Any]
    tokens: NDArray[Any]
    agents: set[int]


def measure_rounds(folder: Path, grader: Grader, labels: Mapping[str, str]) -> AccuracyByRound:
    """Read the results of deliberations after every round.

    If a proposal failed and the question was asked again, the first attempt does not count.
    """
    numbers: dict[str, int] = {}
    question, right, spent, agents = [], [], [], set()
    retried = find_superseded(TraceReader(folder))
    for episode in tqdm(TraceReader(folder), desc=folder.name, unit="episode", mininterval=1):
        truth = labels.get(episode.id, episode.reference)
        if truth is None or episode.id in retried:
            continue
        question.append(numbers.setdefault(episode.question, len(numbers)))
        agents.add(len(episode.agents))
        answers = [tally["answer"] for tally in episode.tallies]
        right.append([answer is not None and grader(answer, truth) for answer in answers])
        extra = {id_ for turn in episode.turns for id_ in turn["alternatives"]}
        by_round = [0] * len(answers)
        for id_, response in episode.responses.items():
            if id_ not in extra:
                by_round[min(response["round"], len(answers) - 1)] += tokens_of(response)
        for failure in episode.failures:
            if failure["stage"] not in ("alternative", "compare"):
                by_round[min(failure["round"], len(answers) - 1)] += tokens(failure["usage"])
        if judge := episode.outcome.get("usage", {}).get("judge"):
            by_round[-1] += tokens(judge)
        spent.append([*np.cumsum(by_round)])
    if not right:
        raise ConfigurationError(f"--runs: no episode in {folder} has a reference")
    most = max(map(len, right))
    kept = [[*row, *[row[-1]] * (most - len(row))] for row in right]
    paid = [[*row, *[row[-1]] * (most - len(row))] for row in spent]
    return AccuracyByRound(np.array(question), np.array(kept, float), np.array(paid, float), agents)


def plot_rounds(path: Path, measured: Mapping[str, AccuracyByRound]) -> None:
    """Draw accuracy by rounds and by tokens, with intervals over questions."""
    (by_round, by_tokens), done = start_figure(path, 2, width=4.5, height=3.6, sharey=True)
    for name, c in measured.items():
        found = [mean_interval(column, c.question) for column in c.right.T]
        mean = [interval.mean for interval in found]
        by_round.plot(range(len(mean)), mean, "o-", label=name)
        by_round.fill_between(
            range(len(mean)), [i.low for i in found], [i.high for i in found], alpha=0.15
        )
        by_tokens.plot(c.tokens.mean(0), mean, "o-", label=name)
    by_round.set(xlabel="rounds", ylabel="accuracy")
    by_tokens.set(xlabel="tokens of an episode")
    by_round.xaxis.get_major_locator().set_params(integer=True)
    by_round.legend(fontsize=7)
    done()
