"""Is it enough to ask some of the team? Cross-validation on recorded answers.

    python -m training.studies.asking --traces traces/ --agents ann bo cy --out runs/asking

The traces must show what everybody proposed (`collect.py --import` makes such traces of a table of
answers). The questions are split into folds, several times. For each fold the order of the agents
and the values of asking on are measured on the other folds (`training.learn.asking`), at every
price of `--cost`, with the consensus rule of `--consensus`. Traces without confidences get those of
a profile critic, fitted on the other folds. Then all methods answer the held-out fold. The
baselines ask in the order of the agents' records on the other folds, the best first, and take the
majority.

A method pays for the verdicts of a critic that it reads. The best alone, a plain majority, adaptive
consistency and early stopping read none that took a call.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph import TraceReader
from mpdf_langgraph.consensus import majority, make_rule
from mpdf_langgraph.recruiting import AskingValues
from mpdf_langgraph.traces.records import Episode
from training.collect.team import remembering_grader
from training.command import StudyOptions, check_questions, run_command, write_results
from training.evaluate.votes import adaptive_consistency, early_stopping, vote
from training.learn.asking import (
    Asked,
    by_doubt,
    fit_asking,
    gather,
    learn_rule,
    play_asking,
    proposals_of,
)
from training.learn.dataset import check_answer
from training.learn.display import table
from training.learn.measures import mean_interval
from training.learn.profile_fit import fit_profile, gather_looks
from training.learn.rewards import Grader
from training.learn.rules import check_names

EVERYBODY = "everybody"
PLAIN = "everybody, plain majority"


@dataclass
class AskingOptions(StudyOptions):
    """Options of the cross-validation."""

    out: Path = Path("runs/asking")
    """Folder for `results.md`."""
    agents: tuple[str, ...] = ()
    """The team: only these agents of the traces. Default: the whole team."""
    prices: dict[str, float] = field(default_factory=dict)
    """Price of a token, by agent. Default: 1."""
    cost: tuple[float, ...] = (0.005, 0.01, 0.02, 0.03, 0.05)
    """Prices of 1,000 tokens, in accuracy. Of a call, where the traces report no tokens."""
    calls: float | None = None
    """Agents to ask at most, on average. The other folds choose the lowest price that does so, and
    then the most P(right) to wait for, where the consensus gives it."""
    wave: int = 1
    """Agents asked at a time."""
    consensus: Literal["majority", "confidence", "log-odds", "learned"] = "majority"
    """How votes are counted. `learned` is fitted on the other folds."""


Results = Mapping[str, Sequence[NDArray[Any]]]
"""By method, of each split and fold: right, agents asked, priced tokens, question, ``[4, n]``."""


def _has_confidence(episodes: Iterable[Episode]) -> bool:
    critiques = (r["critique"] for e in episodes for r in e.responses.values())
    return any(c is not None and c["confidence"] is not None for c in critiques)


def cross_validate(asked: Asked, options: AskingOptions, graded: Grader) -> Results:
    """Return what every method gives on held-out questions.

    Raises:
        ConfigurationError: There are too few questions.
    """
    question = asked.question
    questions = len(np.unique(question))
    check_questions(questions, options.folds)
    found: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
    price = {name: options.prices.get(name, 1.0) for name in asked.team}
    sure = _has_confidence(asked.episodes)
    for seed in range(options.seeds):
        drawn = np.random.default_rng(seed).permutation(questions) % options.folds
        places = drawn[question]
        for fold in tqdm(range(options.folds), desc=f"split {seed}", leave=False):
            held = np.flatnonzero(places == fold)
            rest, test = asked.select(np.flatnonzero(places != fold)), asked.select(held)
            if not sure:
                critic = fit_profile(gather_looks(rest.episodes, graded))
                rest, test = (part.judged_by(critic) for part in (rest, test))
            if options.consensus == "learned":
                rule = learn_rule(rest, graded)
                rest, test = (part.decided_by(rule) for part in (rest, test))
            record = {name: rest.of([name]).right.mean() for name in asked.team}
            best_first = sorted(asked.team, key=lambda name: -record[name])

            def add(
                name: str,
                right: NDArray[Any],
                calls: NDArray[Any],
                order: Sequence[str],
                *,
                judged: bool = True,
                held: NDArray[Any] = held,
            ) -> None:
                tokens = asked.tokens if judged else asked.plain_tokens
                spent = np.cumsum([0.0, *(price[n] * tokens[n] for n in order)])[calls]
                found[name].append(np.array([right, calls, spent, question[held]]))

            for count in range(1, len(best_first) + 1):
                name = EVERYBODY if count == len(best_first) else f"the best {count}"
                name = "the best alone" if count == 1 else name
                right = test.of(best_first[:count]).right
                add(name, right, np.full(len(held), count), best_first, judged=count > 1)
            if not sure:
                method = vote(len(best_first), majority)
                add(PLAIN, *_play(asked.select(held), best_first, method), best_first, judged=False)
            everyone = len(best_first)
            for name, method in {
                "adaptive consistency, .95": adaptive_consistency(0.95, everyone),
                "adaptive consistency, .8": adaptive_consistency(0.8, everyone),
                "early stopping, window of 2": early_stopping(2, everyone),
                "early stopping, window of 3": early_stopping(3, everyone),
            }.items():
                add(name, *_play(test, best_first, method), best_first, judged=False)
            kept: AskingValues | None = None
            for cost in sorted(options.cost):
                given: Any = {"prices": price, "wave": options.wave, "consensus": options.consensus}
                values = fit_asking(rest, cost=cost, **given)
                right, calls = play_asking(test, values)
                add(f"adaptive, cost {cost:g}", right, calls, values.order)
                # The dearest price is the last resort.
                if kept is None and options.calls is not None:
                    few = play_asking(rest, values)[1].mean() <= options.calls
                    kept = values if few or cost == max(options.cost) else None
            if kept is not None and options.calls is not None:
                for more in by_doubt(rest, kept) if kept.enough else ():
                    if play_asking(rest, more)[1].mean() <= options.calls:
                        kept = more
                add(f"adaptive, {options.calls:g} agents", *play_asking(test, kept), kept.order)
    return found


def _play(test: Asked, order: Sequence[str], method: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return whether a rule over sampled answers is right, and how many agents it asks."""
    right, calls = np.zeros(len(test), bool), np.zeros(len(test), int)
    for i, (episode, verdicts) in enumerate(zip(test.episodes, test.right, strict=True)):
        agents = [{"name": name} for name in order]
        result = method(episode.model_copy(update={"agents": agents}))
        graded = dict(zip(episode.representatives, verdicts, strict=True))
        right[i] = result.answer is not None and graded[result.answer]
        calls[i] = result.proposals
    return right, calls


def format_results(found: Results, asked: Asked) -> str:
    """Return the table: accuracy, differences to asking everybody, agents asked, and price."""
    references = {name: np.hstack(found[name])[0] for name in (EVERYBODY, PLAIN) if name in found}
    rows = []
    for name, parts in found.items():
        right, calls, spent, question = np.hstack(parts)
        gains = [
            "=" if name == other else mean_interval(right - theirs, question).short()
            for other, theirs in references.items()
        ]
        means = f"{calls.mean():.2f}", f"{spent.mean():.0f}"
        rows.append([name, f"{right.mean():.4f}", *gains, *means])
    against = [f"against {name}" for name in references]
    heading = ["method", "right", *against, "agents asked", "priced tokens"]
    return (
        f"{len(np.unique(asked.question))} questions, {len(asked.team)} agents: "
        f"{', '.join(asked.team)}. {asked.left_out} episodes left out. Intervals are 95 %, over "
        "questions.\n\n"
        f"{table(heading, rows)}\n"
    )


def main(options: AskingOptions) -> str:
    """Run the cross-validation, and return its table."""
    options.check()
    check_answer(options.traces, options.answer)
    episodes = list(TraceReader(options.traces))
    known = sorted({name for episode in episodes for name in episode.team})
    if options.agents:  # the others are as if nobody had asked them, for the profile critic too
        episodes = [proposals_of(episode, options.agents) for episode in episodes]
    graded = remembering_grader(options.answer)
    name = "majority" if options.consensus == "learned" else options.consensus
    asked = gather(episodes, graded, make_rule(name)[1], options.agents)
    check_names("--prices", options.prices, known)
    text = format_results(cross_validate(asked, options, graded), asked)
    write_results(options.out, text)
    return text


if __name__ == "__main__":
    run_command(main, AskingOptions, __doc__)
