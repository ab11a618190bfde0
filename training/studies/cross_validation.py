"""Does a learned deliberation beat votes on recorded answers? Five held-out folds.

    python -m training.studies.cross_validation --traces traces/ --out runs/folds

Recordings cannot be refined (see `collect.py --import`). The first proposals of every episode are
taken, and every agent decides once: PERSIST or CONCEDE. The questions are split into folds. For
each fold everything is learned from the other folds: how often each agent is right, by which the
team is ordered (ties go to the first), and routers of several seeds. Then all methods answer the
held-out fold. The figures are exact: every decision is weighted by its probability, nothing is
drawn.
"""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph import Episode
from mpdf_langgraph.answers.schema import AnswerSchema
from mpdf_langgraph.consensus import count_votes, make_rule
from training.collect.importing import Replay
from training.collect.team import answer_schema, remembering_grader
from training.command import StudyOptions, check_least, run_command, write_results
from training.learn.dataset import check_answer, load
from training.learn.display import table
from training.learn.fit_config import Algorithm, Config
from training.learn.measures import Interval, mean_interval, widen_by_fits
from training.learn.recalibrate import holdings, recalibrate
from training.learn.rewards import CONCEDE
from training.studies.fits import FinishedFit, Fit, must_fit, write_episodes
from training.studies.recordings import (
    Recording,
    assign_folds,
    leave_out_rare_agents,
    measure_records,
    plain_majority,
    read_recordings,
)

LEARNED, GREEDY = "learned deliberation", "learned deliberation, greedy"
CALIBRATED = "vote before deliberation, calibrated"


@dataclass
class FoldOptions(StudyOptions):
    """Options of the cross-validation. A seed is one of the fits for each fold."""

    out: Path = Path("runs/cross_validation")
    """Folder for `results.md`."""
    consensus: Literal["confidence", "majority"] = "confidence"
    """How votes are counted."""
    seeds: int = 3
    """Fits for each fold. There is one split."""
    algorithm: Algorithm = "softrankpo"
    """Second stage of the fits. `none` stops after SFT."""
    jobs: int = 1
    """Fits side by side."""

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work."""
        super().check()
        check_least(self, jobs=1)


# --- a fold -----------------------------------------------------------------------------------


class Fold:
    """One held-out part of the recordings, and everything that is learned from the rest.

    `folder` is for traces and fits. `played` holds the episodes of recordings by order of the team.
    Folds with the same order share them.
    """

    def __init__(
        self,
        options: FoldOptions,
        schema: AnswerSchema,
        rest: Sequence[Recording],
        held_out: Sequence[Recording],
        folder: Path,
        played: dict[tuple[int, tuple[str, ...]], Episode],
    ) -> None:
        self.record = measure_records(rest)
        self.held_out, self.folder = held_out, folder
        self.options, self.schema = options, schema
        self.rule = make_rule(options.consensus)[1]
        self._replay = Replay(schema, options.consensus, max_rounds=1)
        self._played = played
        self._write("rest", rest)
        self.asked = self._write("held_out", held_out)
        self.fits = [
            Fit(
                Config(
                    traces=(folder / "rest.jsonl",),
                    consensus="recorded",
                    out=folder / "fits",
                    answer=options.answer,
                    algorithm=options.algorithm,
                    values="one-step",  # recorded answers have no later round
                    seed=seed,
                    threads=1,
                )
            )
            for seed in range(options.seeds)
        ]

    def _write(self, name: str, recordings: Sequence[Recording]) -> list[Episode]:
        """Write recordings as episodes of the team, the best agent first."""
        episodes = [self._play(recording) for recording in recordings]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_episodes(self.folder / f"{name}.jsonl", episodes)
        return episodes

    def _play(self, recording: Recording) -> Episode:
        order = tuple(name for name in self.record if name in recording.proposals)
        key = id(recording), order
        if key not in self._played:
            proposals = [recording.proposals[name] for name in order]
            question, reference = recording.question, recording.reference
            self._played[key] = self._replay.play(question, reference, proposals)
        return self._played[key]

    def answers(self) -> dict[str, NDArray[Any]]:
        """Return the probability of a right answer to each held-out question, by method.

        One row for each fit, or a single one where nothing is fitted: ``[fits, questions]``.
        """
        best = next(iter(self.record))
        found = {
            f"single: {name}": [float(r.right.get(name, False)) for r in self.held_out]
            for name in sorted(self.record)
        }
        found["best single on the other folds"] = found[f"single: {best}"]
        found["majority, ties drawn"] = [
            self._draw_ties(e, r) for e, r in zip(self.asked, self.held_out, strict=True)
        ]
        for name, rule in (("majority, ties to the better record", plain_majority),
                           (f"vote by {self.options.consensus}", self.rule),
                           ("vote weighted by record", self._vote_by_record)):  # fmt: skip
            found[name] = [
                self._vote(e, r, rule) for e, r in zip(self.asked, self.held_out, strict=True)
            ]
        found |= self._answer_by_routers()
        found["any of them right (a bound)"] = [float(any(r.right.values())) for r in self.held_out]
        return {name: np.atleast_2d(np.array(values, float)) for name, values in found.items()}

    def _vote(self, episode: Episode, recording: Recording, rule: Any, moved: Any = None) -> float:
        """Tell whether the consensus is right once agents have moved to others' responses."""
        held = {**holdings(episode)[0], **(moved or {})}
        tally = count_votes(held, rule, episode.representatives)
        if tally["response"] is None:
            return 0.0
        return float(recording.right[episode.responses[tally["response"]]["agent"]])

    def _vote_by_record(self, votes: Any) -> int | None:
        """Weight every vote by how often its agent was right on the other folds."""
        sums: dict[int, float] = {}
        for vote in votes:
            if vote.cluster is not None:
                sums[vote.cluster] = sums.get(vote.cluster, 0.0) + self.record[vote.agent]
        return max(sums, key=sums.__getitem__, default=None)

    def _draw_ties(self, episode: Episode, recording: Recording) -> float:
        """Return how often a plain majority is right if its ties are drawn."""
        right: dict[int, bool] = {}
        count: dict[int, int] = {}
        for name in recording.proposals:
            cluster = episode.responses[f"{name}@0"]["cluster"]
            if cluster is not None:
                count[cluster] = count.get(cluster, 0) + 1
                right[cluster] = recording.right[name]
        most = max(count.values(), default=0)
        return float(np.mean([right[c] for c, n in count.items() if n == most] or [False]))

    def _answer_by_routers(self) -> dict[str, Any]:
        """Let the fitted routers decide, drawn and greedy, ``[fits, questions]``."""
        drawn, greedy, still = (np.zeros((len(self.fits), len(self.asked))) for _ in range(3))
        for seed, fit in enumerate(self.fits):
            fitted = FinishedFit(fit)
            groups, _ = load(
                self.folder / "held_out.jsonl",
                grader=remembering_grader(self.options.answer),
                calibration=fitted.calibration,
                progress=False,
            )
            rows = {
                (groups.episodes[groups.episode[i]], groups.agents[groups.agent[i]]): i
                for i in range(len(groups))
            }
            chosen = fitted.probabilities(groups, ())
            for k, (recorded, recording) in enumerate(zip(self.asked, self.held_out, strict=True)):
                episode = recalibrate(recorded, fitted.calibration)
                turns = {turn["agent"]: turn for turn in episode.turns}
                concede = {n: chosen[rows[episode.id, n], CONCEDE] for n in turns}
                sharp = {n: float(p > 0.5) for n, p in concede.items()}
                nobody = dict.fromkeys(concede, 0.0)
                for chances, total in ((nobody, still), (concede, drawn), (sharp, greedy)):
                    total[seed, k] = self._deliberate(episode, recording, chances)
        # The calibrated vote is reported too, to separate its gain from deliberation's.
        return {CALIBRATED: still, LEARNED: drawn, GREEDY: greedy}

    def _deliberate(
        self, episode: Episode, recording: Recording, concede: Mapping[str, float]
    ) -> float:
        """Return how often the group is right if each agent concedes with its probability."""
        targets = {
            turn["agent"]: turn["target"]
            for turn in episode.turns
            if turn["target"] is not None and concede[turn["agent"]] > 0
        }
        total = 0.0
        for moves in itertools.product((False, True), repeat=len(targets)):
            chance, moved = 1.0, {}
            for (name, target), move in zip(targets.items(), moves, strict=True):
                chance *= concede[name] if move else 1 - concede[name]
                if move:
                    moved[name] = episode.responses[target]
            if chance > 0:
                total += chance * self._vote(episode, recording, self.rule, moved)
        return total


# --- the command ------------------------------------------------------------------------------


def cross_validate(options: FoldOptions) -> dict[str, NDArray[Any]]:
    """Answer every question with what was learned from the other folds.

    Return the probability of a right answer by method, ``[fits, questions]``, in one order of the
    questions.
    """
    options.check()
    check_answer(options.traces, options.answer)
    schema = answer_schema(options.answer)
    recordings = read_recordings(options.traces, remembering_grader(options.answer))
    recordings, places = leave_out_rare_agents(recordings, assign_folds(recordings, options.folds))
    held_out: list[Recording] = []
    played: dict[tuple[int, tuple[str, ...]], Episode] = {}
    with tempfile.TemporaryDirectory(prefix="folds-") as folder:
        folds = []
        for k in range(options.folds):
            here = [r for r, place in zip(recordings, places, strict=True) if place == k]
            rest = [r for r, place in zip(recordings, places, strict=True) if place != k]
            place = Path(folder) / f"fold-{k}"
            folds.append(Fold(options, schema, rest, here, place, played))
            held_out += here
        must_fit([fit for fold in folds for fit in fold.fits], options.jobs)
        parts = [fold.answers() for fold in tqdm(folds, desc="held-out folds", unit="fold")]
    right = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}
    write_results(options.out, format_results(options, right, [r.question for r in held_out]))
    return right


def format_results(
    options: FoldOptions, right: Mapping[str, NDArray[Any]], questions: Sequence[str]
) -> str:
    """Return the table: accuracies, and what the learned deliberations gain, by question."""
    number = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    question = np.array([number[q] for q in questions])

    def interval(table: NDArray[Any]) -> Interval:
        return widen_by_fits(mean_interval(table.mean(0), question), table)

    rows = []
    for name, table_ in right.items():
        gains = [
            "=" if name == one else interval(right[one] - table_).short()
            for one in (LEARNED, GREEDY)
        ]
        rows.append([name, interval(table_).short(""), *gains])
    return (
        "# Learned deliberation on recorded answers\n\n"
        + table(["method", "accuracy", f"{LEARNED} − it", f"{GREEDY} − it"], rows)
        + f"\n\n{len(number)} questions of {', '.join(map(str, options.traces))}, each answered by "
        f"what was learned from the other {options.folds - 1} of {options.folds} folds; "
        f"{options.algorithm}, mean of {options.seeds} seeds; one round of PERSIST and CONCEDE. "
        "Intervals are 95 %, paired, from resampling questions, and widened by what the seeds "
        "differ beyond that.\n"
    )


if __name__ == "__main__":
    run_command(cross_validate, FoldOptions, __doc__)
