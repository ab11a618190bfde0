"""What would other methods have answered in recorded debates of one round? Held-out folds.

    python training/collect.py ... --rounds 1 --router always-refine --explore 0 --alternatives 0
    python -m training.studies.one_round --traces traces/ --out runs/one-round

Such a debate costs two calls an agent, and it holds all that any policy of one round would have
seen and done: in one round, what an agent's REFINE gives depends on nobody else's action. So every
method answers from the same samples, without a call. This is for models so slow that a question is
dear. It lacks what an evaluation has beside it: larger votes, and the control with fresh samples.

The questions are split into folds. For each fold the calibration, the threshold's two numbers and
the routers come from the other folds.
"""

import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from mpdf_langgraph import Episode, MPDFError, ThresholdRouter, TraceReader, load_router
from mpdf_langgraph.consensus import ConsensusRule, concession, count_votes, make_rule
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.learned_router import LearnedRouter
from mpdf_langgraph.rounds import Held, after_move, has_answer
from mpdf_langgraph.router import Router
from mpdf_langgraph.state import ACTIONS, Action, Response
from training.collect.questions import content_key, is_sound
from training.collect.team import answer_schema, grader
from training.evaluate.options import EvaluateOptions
from training.learn.calibrate import fit_calibration, judge
from training.learn.fit_config import Algorithm, Config
from training.learn.measures import mean_interval
from training.learn.recalibrate import recalibrate
from training.learn.report import table
from training.learn.rewards import Grader
from training.studies.fits import Fit, run_fits

MAJORITY, CONFIDENCE = (make_rule(name)[1] for name in ("majority", "confidence"))
LEARNED, VOTE = "learned", "vote of 3"


@dataclass
class OneRoundOptions:
    """Options of the study."""

    traces: tuple[Path, ...]
    """Folders of traces of one-round debates."""
    out: Path = Path("runs/one_round")
    """Folder for `results.md`."""
    answer: Literal["math", "choice", "text"] = "math"
    """How answers are compared, with one another and with references."""
    algorithms: tuple[Algorithm, ...] = ("softrankpo", "none")
    """Second stages of the fits, each a method. `none` stops after SFT."""
    cost: float = 0.0
    """Reward taken off per 1,000 tokens."""
    folds: int = 5
    """Parts that the questions are split into."""
    seeds: int = 3
    """Fits for each fold."""
    jobs: int = 1
    """Fits side by side."""


@dataclass(frozen=True)
class Answered:
    """What a method did on a question."""

    right: float
    tokens: float


def _tokens(response: Response) -> int:
    usage = response["usage"]
    return usage["prompt_tokens"] + usage["completion_tokens"]


# --- one debate -------------------------------------------------------------------------------


class Debate:
    """A recorded debate of one round, and what came of other actions in it.

    Args:
        episode: With calibrated confidences.
        is_right: Grades an answer.
    """

    def __init__(self, episode: Episode, is_right: Grader) -> None:
        self.episode = episode
        self.names = [agent["name"] for agent in episode.agents]
        self.proposed: Held = {name: episode.responses.get(f"{name}@0") for name in self.names}
        self.turns = {turn["agent"]: turn for turn in episode.turns}
        self._is_right = is_right

    def right(self, answer: str | None) -> float:
        """Grade an answer. No answer is wrong."""
        reference = str(self.episode.reference)
        return float(answer is not None and self._is_right(answer, reference))

    def play(self, actions: Mapping[str, Action], rule: ConsensusRule) -> Answered:
        """Return what comes of these actions. An agent that is not named persists."""
        held = {}
        drawn_too = [response for response in self.proposed.values() if response is not None]
        for name in self.names:
            drawn = self.episode.responses.get(f"{name}@1")
            action = actions.get(name, "PERSIST")
            if action == "REFINE" and drawn is not None:
                drawn_too.append(drawn)
            target = self.episode.responses.get(concession(self.proposed, name) or "")
            held[name] = after_move(action, self.proposed[name], drawn=drawn, target=target)
        tally = count_votes(held, rule, self.episode.representatives)
        return Answered(self.right(tally["answer"]), sum(map(_tokens, drawn_too)))

    def single(self) -> Answered:
        """Return what the agents give alone, on average."""
        responses = [self.proposed[name] for name in self.names]
        rights = [self.right(r["answer"]) if has_answer(r) and r else 0.0 for r in responses]
        tokens = [_tokens(r) if r else 0 for r in responses]
        return Answered(float(np.mean(rights)), float(np.mean(tokens)))

    def routed(self, router: Router) -> Answered:
        """Return what comes of a router's likeliest actions."""
        turns = list(self.turns.values())
        if not turns:  # they agreed at once
            return self.play({}, CONFIDENCE)
        seen, masks = [t["observation"] for t in turns], [t["mask"] for t in turns]
        rows = np.asarray(router.decide(seen, masks))
        best = (rows * np.asarray(masks)).argmax(-1)
        chosen = {t["agent"]: ACTIONS[k] for t, k in zip(turns, best, strict=True)}
        return self.play(chosen, CONFIDENCE)

    def refining(self, *, only_without_answer: bool) -> dict[str, Action]:
        """Return the actions of a debate, or those where only agents without an answer refine."""
        return {
            name: "REFINE"
            for name in self.turns
            if not only_without_answer or not has_answer(self.proposed[name])
        }

    def oracle(self) -> Answered:
        """Return the best that actions could have made of it, at the fewest tokens."""
        actions: dict[str, Action] = {}
        for name, turn in self.turns.items():
            ways: list[Action] = ["PERSIST", "CONCEDE", "REFINE"]
            for action in ways:
                if turn["mask"][ACTIONS.index(action)] and self._would_be_right(name, action):
                    actions[name] = action
                    break
        return self.play(actions, CONFIDENCE)

    def _would_be_right(self, name: str, action: Action) -> bool:
        drawn = self.episode.responses.get(f"{name}@1")
        target = self.episode.responses.get(concession(self.proposed, name) or "")
        after = after_move(action, self.proposed[name], drawn=drawn, target=target)
        return after is not None and has_answer(after) and self.right(after["answer"]) == 1


# --- folds ------------------------------------------------------------------------------------


def read_debates(traces: Sequence[Path]) -> list[Episode]:
    """Return the sound episodes, one for each question with its contexts.

    Raises:
        ConfigurationError: One is no debate of one round, or has no reference.
    """
    found: dict[str, Episode] = {}
    for folder in traces:
        for episode in TraceReader(folder):
            if not is_sound(episode):
                continue
            if episode.reference is None:
                raise ConfigurationError(f"episode {episode.id} has no reference")
            if any(t["round"] != 1 or t["action"] != "REFINE" for t in episode.turns):
                raise ConfigurationError(
                    f"episode {episode.id} is no debate of one round: collect with --rounds 1 "
                    "--router always-refine --explore 0 --alternatives 0"
                )
            key = content_key(episode.question, episode.reference, episode.contexts)
            found[key] = episode
    return list(found.values())


def answer_fold(
    options: OneRoundOptions,
    rest: Sequence[Episode],
    held_out: Sequence[Episode],
    fits: Mapping[Algorithm, Sequence[Fit]],
    is_right: Grader,
) -> Iterator[dict[str, Answered]]:
    """Yield what every method gives on each held-out question."""
    calibration = fit_calibration(judge(rest, is_right))
    known = [Debate(recalibrate(e, calibration), is_right) for e in rest]
    threshold = tune_threshold(known)
    routers: dict[str, list[LearnedRouter]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # none has passed its gate yet
        for algorithm, those in fits.items():
            name = f"{LEARNED}, {'SFT alone' if algorithm == 'none' else algorithm}"
            routers[name] = [load_router(fit.folder) for fit in those]
    for episode in held_out:
        debate = Debate(recalibrate(episode, calibration), is_right)
        everybody = debate.refining(only_without_answer=False)
        found = {
            "single": debate.single(),
            VOTE: debate.play({}, MAJORITY),
            "vote of 3 by confidence": debate.play({}, CONFIDENCE),
            "debate, 1 round": debate.play(everybody, MAJORITY),
            "debate, 1 round, vote by confidence": debate.play(everybody, CONFIDENCE),
            "refine where no answer": debate.play(
                debate.refining(only_without_answer=True), CONFIDENCE
            ),
            "threshold, calibrated and tuned": debate.routed(threshold),
        }
        for name, seeds in routers.items():
            own = [
                Debate(recalibrate(episode, router.calibration or calibration), is_right)
                for router in seeds
            ]
            runs = [one.routed(router) for one, router in zip(own, seeds, strict=True)]
            found[name] = Answered(
                float(np.mean([run.right for run in runs])),
                float(np.mean([run.tokens for run in runs])),
            )
        found["oracle of actions (a bound)"] = debate.oracle()
        yield found


def tune_threshold(debates: Sequence[Debate]) -> ThresholdRouter:
    """Return the most accurate threshold router, at a tie that with the fewest tokens."""
    routers = [
        ThresholdRouter(bar=bar, gap=gap)
        for bar in EvaluateOptions.bars
        for gap in EvaluateOptions.gaps
    ]

    def worth(router: ThresholdRouter) -> tuple[float, float]:
        found = [debate.routed(router) for debate in debates]
        return sum(f.right for f in found), -sum(f.tokens for f in found)

    return max(routers, key=worth)


def study(options: OneRoundOptions) -> str:
    """Return the table of results, and write it.

    Raises:
        MPDFError: An option is wrong, traces cannot be read, or a fit failed.
    """
    is_right = grader(answer_schema(options.answer))
    episodes = read_debates(options.traces)
    if len(episodes) < 10 * options.folds or options.folds < 2:
        raise ConfigurationError(f"{len(episodes)} debates are too few for {options.folds} folds")
    place = np.random.default_rng(0).permutation(len(episodes)) % options.folds
    results: dict[str, list[Answered]] = defaultdict(list)
    order: list[int] = []
    with tempfile.TemporaryDirectory(prefix="one-round-") as folder:
        parts = []
        for k in range(options.folds):
            rest = [e for e, p in zip(episodes, place, strict=True) if p != k]
            path = Path(folder) / f"rest-{k}.jsonl"
            path.write_bytes(b"".join(e.to_json().rstrip() + b"\n" for e in rest))
            fits: dict[Algorithm, list[Fit]] = {
                algorithm: [
                    Fit(
                        Config(
                            traces=(path,),
                            consensus="recorded",
                            out=Path(folder) / "fits",
                            answer=options.answer,
                            algorithm=algorithm,
                            values="one-step",  # there is one round
                            cost=options.cost,
                            seed=seed,
                            threads=1,
                        )
                    )
                    for seed in range(options.seeds)
                ]
                for algorithm in options.algorithms
            }
            parts.append((rest, fits))
        failed = run_fits(
            [f for _, fits in parts for those in fits.values() for f in those], options.jobs
        )
        if failed:
            raise MPDFError(f"a fit failed: {next(iter(failed.values()))}")
        for k, (rest, fits) in enumerate(parts):
            order += [i for i, p in enumerate(place) if p == k]
            held_out = [episodes[i] for i in order[-int((place == k).sum()) :]]
            for found in answer_fold(options, rest, held_out, fits, is_right):
                for name, answered in found.items():
                    results[name].append(answered)
    text = format_results(options, results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text(text)
    return text


def format_results(options: OneRoundOptions, results: Mapping[str, Sequence[Answered]]) -> str:
    """Return accuracies, tokens, and what the methods gain over a vote and over one another."""
    right = {name: np.array([a.right for a in those]) for name, those in results.items()}
    number: NDArray[np.int64] = np.arange(len(right[VOTE]))
    learned = next((name for name in right if name.startswith(LEARNED)), None)
    headings = ["method", "accuracy", "tokens", f"it − {VOTE}"]
    headings += [f"{learned} − it"] if learned else []

    def difference(one: str, other: str) -> str:
        return "" if one == other else mean_interval(right[one] - right[other], number).short()

    rows = []
    for name, values in right.items():
        tokens = f"{np.mean([a.tokens for a in results[name]]):,.0f}"
        row = [name, mean_interval(values, number).short("", 3), tokens, difference(name, VOTE)]
        rows.append([*row, difference(learned, name)] if learned else row)
    return (
        table(headings, rows)
        + f"\n\n{len(number)} questions of {', '.join(map(str, options.traces))}, each answered by "
        f"what was learned from the other {options.folds - 1} of {options.folds} folds. Routers: "
        f"mean of {options.seeds} seeds, greedy, cost {options.cost:g} per 1,000 tokens. Intervals "
        "are 95 %, paired, from resampling questions.\n"
    )


if __name__ == "__main__":
    try:
        print(study(tyro.cli(OneRoundOptions, description=__doc__)))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
