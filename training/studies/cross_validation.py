"""Does a learned deliberation beat votes on answers that are there already? Five held-out folds.

    python training/studies/cross_validation.py --traces traces/ --out runs/folds

For recordings, which cannot be refined (see `collect.py --import`): the first proposals of every
episode are taken, and agents PERSIST or CONCEDE, once. Questions are dealt into folds; for each,
everything is learned from the others: each agent's record, by which the team is ordered (ties go
to the first), and routers of several seeds. The held-out fold is then answered by all methods.
The figures are exact: what a router would do is weighted by its probabilities, nothing is drawn.

A linear choice (a conditional logit of who backs an answer and of what the backers' responses
look like) tells what those features are good for without any deliberation.
"""

import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mpdf_langgraph import Episode, TraceReader
from mpdf_langgraph.answers.schema import AnswerSchema
from mpdf_langgraph.consensus import Vote, count_votes, make_rule
from mpdf_langgraph.errors import ConfigurationError, MPDFError
from mpdf_langgraph.observation import INDEX
from mpdf_langgraph.state import ACTIONS, Response
from training.collect.importing import Replay
from training.collect.team import answer_schema, grader
from training.learn.dataset import check_answer, load
from training.learn.fit_config import Algorithm, Config
from training.learn.measures import mean_interval
from training.learn.recalibrate import holdings, recalibrate
from training.learn.report import table
from training.studies.fits import FinishedFit, Fit, run_fits

PERSIST, _, CONCEDE = range(len(ACTIONS))
LEARNED, GREEDY = "learned deliberation", "learned deliberation, greedy"
CALIBRATED = "vote before deliberation, calibrated"
#: Of the linear choice, on standardised features.
_PENALTY = 1e-3


@dataclass
class FoldOptions:
    """FoldOptions of the cross-validation."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments)."""
    out: Path = Path("runs/cross_validation")
    """Folder for `results.md`."""
    answer: Literal["math", "choice", "text", "code"] = "math"
    """How answers are compared, with one another and with references."""
    consensus: Literal["confidence", "majority"] = "confidence"
    """How votes are counted; the same where there is no confidence."""
    algorithm: Algorithm = "softrankpo"
    """Second stage of the fits; `none` stops after SFT."""
    folds: int = 5
    """Parts that the questions are dealt into."""
    seeds: int = 3
    """Fits for each fold."""
    jobs: int = 1
    """Fits side by side."""

    def check(self) -> None:
        """Refuse options that cannot work.

        Raises:
            ConfigurationError: Says which one, and what to give instead.
        """
        for name, least in (("folds", 2), ("seeds", 1), ("jobs", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"--{name} must be {least} or more, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Recording:
    """What a team answered to a question, and which of it is right.

    Attributes:
        question: Its text.
        reference: The right answer.
        proposals: By agent.
        right: By agent.
    """

    question: str
    reference: str
    proposals: Mapping[str, Response]
    right: Mapping[str, bool]


def read(paths: Sequence[Path], is_right: Callable[[str, str], bool]) -> list[Recording]:
    """Read the first proposals of every episode that has a reference and two of them.

    Raises:
        TraceError: There is no such path.
        ConfigurationError: None is left.
    """
    found, left_out = [], 0
    for path in paths:
        reader = TraceReader(path)
        for episode in tqdm(reader, desc=path.name, unit="episode", mininterval=1):
            truth, ids = episode.reference, {a["name"]: f"{a['name']}@0" for a in episode.agents}
            said = {n: episode.responses[i] for n, i in ids.items() if i in episode.responses}
            if truth is None or len(said) < 2:
                left_out += 1
                continue
            right = {
                name: r["answer"] is not None and is_right(r["answer"], truth)
                for name, r in said.items()
            }
            found.append(Recording(episode.question, truth, said, right))
        if unread := reader.counts["skipped"]:
            print(f"{path}: {unread} records could not be read", file=sys.stderr)
    if left_out:
        print(
            f"{left_out} episodes without a reference or a second proposal are left out",
            file=sys.stderr,
        )
    if not found:
        raise ConfigurationError("no episode has a reference and the proposals of two agents")
    return found


def first_majority(votes: list[Vote]) -> int | None:
    """Return the cluster with the most votes; ties go to the one that was voted for first."""
    counted = Counter(vote.cluster for vote in votes if vote.cluster is not None)
    return max(counted, key=counted.__getitem__, default=None)


def assign_folds(recordings: Sequence[Recording], folds: int) -> NDArray[np.int64]:
    """Return each recording's fold; those of one question share it.

    Raises:
        ConfigurationError: There are too few questions.
    """
    questions = list(dict.fromkeys(r.question for r in recordings))
    if len(questions) < 10 * folds:
        raise ConfigurationError(
            f"{len(questions)} questions are too few for {folds} folds: {10 * folds} are needed"
        )
    places = np.random.default_rng(0).permutation(len(questions)) % folds
    of = dict(zip(questions, places.tolist(), strict=True))
    return np.array([of[r.question] for r in recordings])


def known_in_every_fold(
    recordings: Sequence[Recording], places: NDArray[np.int64]
) -> tuple[list[Recording], NDArray[np.int64]]:
    """Leave out agents who answered in one fold alone: nothing can be learned of them there.

    Returns:
        The recordings of two or more of the others, with their folds.
    """
    folds: dict[str, set[int]] = {}
    for recording, place in zip(recordings, places.tolist(), strict=True):
        for name in recording.proposals:
            folds.setdefault(name, set()).add(place)
    rare = {name for name, those in folds.items() if len(those) < 2}
    if not rare:
        return list(recordings), places
    kept = [
        replace(
            r,
            proposals={n: p for n, p in r.proposals.items() if n not in rare},
            right={n: right for n, right in r.right.items() if n not in rare},
        )
        for r in recordings
    ]
    enough = np.array([len(r.proposals) > 1 for r in kept])
    print(
        f"left out, as they answered questions of one fold alone: {', '.join(sorted(rare))}; "
        f"with them {int((~enough).sum())} episodes of fewer than two others",
        file=sys.stderr,
    )
    return [r for r, there in zip(kept, enough, strict=True) if there], places[enough]


def record_of(recordings: Sequence[Recording]) -> dict[str, float]:
    """Return each agent's share of right proposals, the best first."""
    verdicts: dict[str, list[bool]] = {}
    for recording in recordings:
        for name, right in recording.right.items():
            verdicts.setdefault(name, []).append(right)
    shares = {name: float(np.mean(right)) for name, right in verdicts.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


# --- a fold -----------------------------------------------------------------------------------


class Fold:
    """One part held out, and what the others tell.

    Args:
        options: The command's.
        schema: Compares answers.
        rest: What may be learned from.
        held_out: What is answered.
        folder: For traces and fits.
    """

    def __init__(
        self,
        options: FoldOptions,
        schema: AnswerSchema,
        rest: Sequence[Recording],
        held_out: Sequence[Recording],
        folder: Path,
    ) -> None:
        self.record = record_of(rest)
        self.rest, self.held_out, self.folder = rest, held_out, folder
        self.options, self.schema = options, schema
        self.rule = make_rule(options.consensus)[1]
        self.replay = Replay(schema, options.consensus, max_rounds=1)
        self.learnable = self._write("rest", rest)
        self.asked = self._write("held_out", held_out)
        self.fits = [
            Fit(
                Config(
                    traces=(folder / "rest.jsonl",),
                    out=folder / "fits",
                    answer=options.answer,
                    algorithm=options.algorithm,
                    seed=seed,
                    threads=1,
                )
            )
            for seed in range(options.seeds)
        ]

    def _write(self, name: str, recordings: Sequence[Recording]) -> list[Episode]:
        """Write recordings as episodes of the team, the best agent first."""
        episodes = [
            self.replay.play(
                recording.question,
                recording.reference,
                [recording.proposals[a] for a in self.record if a in recording.proposals],
            )
            for recording in recordings
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [episode.to_json().rstrip() + b"\n" for episode in episodes]
        (self.folder / f"{name}.jsonl").write_bytes(b"".join(lines))
        return episodes

    def answers(self) -> dict[str, NDArray[Any]]:
        """Return the probability of a right answer to each held-out question, by method."""
        best = next(iter(self.record))
        weighted = self._by_record
        found = {
            f"single: {name}": [float(r.right.get(name, False)) for r in self.held_out]
            for name in sorted(self.record)
        }
        found["best single on the other folds"] = found[f"single: {best}"]
        found["majority, ties drawn"] = [
            self._tied(e, r) for e, r in zip(self.asked, self.held_out, strict=True)
        ]
        for name, rule in (("majority, ties to the better record", first_majority),
                           (f"vote by {self.options.consensus}", self.rule),
                           ("vote weighted by record", weighted)):  # fmt: skip
            found[name] = [
                self._vote(e, r, rule) for e, r in zip(self.asked, self.held_out, strict=True)
            ]
        found["linear choice, same features"] = linear_choice(
            *self._candidates(self.learnable, self.rest),
            *self._candidates(self.asked, self.held_out),
        )
        found |= self._learned()
        found["any of them right (a bound)"] = [float(any(r.right.values())) for r in self.held_out]
        return {name: np.array(values, float) for name, values in found.items()}

    def _vote(self, episode: Episode, recording: Recording, rule: Any, moved: Any = None) -> float:
        """Tell whether the consensus is right once agents have moved to others' responses."""
        held = {**holdings(episode)[0], **(moved or {})}
        tally = count_votes(held, rule, episode.representatives)
        if tally["response"] is None:
            return 0.0
        return float(recording.right[episode.responses[tally["response"]]["agent"]])

    def _by_record(self, votes: Any) -> int | None:
        """Count every vote as much as its agent was right on the other folds."""
        sums: dict[int, float] = {}
        for vote in votes:
            if vote.cluster is not None:
                sums[vote.cluster] = sums.get(vote.cluster, 0.0) + self.record[vote.agent]
        return max(sums, key=sums.__getitem__, default=None)

    def _tied(self, episode: Episode, recording: Recording) -> float:
        """Return how often a plain majority is right whose ties are drawn."""
        right: dict[int, bool] = {}
        count: dict[int, int] = {}
        for name in recording.proposals:
            cluster = episode.responses[f"{name}@0"]["cluster"]
            if cluster is not None:
                count[cluster] = count.get(cluster, 0) + 1
                right[cluster] = recording.right[name]
        most = max(count.values(), default=0)
        return float(np.mean([right[c] for c, n in count.items() if n == most] or [False]))

    def _learned(self) -> dict[str, list[float]]:
        """Let the fitted routers decide: the mean over seeds, drawn and greedy."""
        drawn, greedy, still = (np.zeros(len(self.asked)) for _ in range(3))
        for fit in self.fits:
            fitted = FinishedFit(fit)
            groups, _ = load(
                self.folder / "held_out.jsonl",
                grader=grader(self.schema),
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
                    total[k] += self._deliberated(episode, recording, chances) / len(self.fits)
        # The calibrated vote is reported too, to separate its gain from deliberation's.
        return {CALIBRATED: [*still], LEARNED: [*drawn], GREEDY: [*greedy]}

    def _deliberated(
        self, episode: Episode, recording: Recording, concede: Mapping[str, float]
    ) -> float:
        """Return how often the group is right where each agent concedes with its probability."""
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

    def _candidates(
        self, episodes: Sequence[Episode], recordings: Sequence[Recording]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return what tells answers apart: features ``[E, C, D]``, which there are, which is right.

        Of an answer: who backs it, how many do, and the mean of what an observation says of them.
        """
        place = {name: i for i, name in enumerate(self.record)}
        size = len(place)
        features = np.zeros((len(episodes), size, 2 * size + len(INDEX)))
        there = np.zeros((len(episodes), size), bool)
        right = np.zeros((len(episodes), size), bool)
        for k, (episode, recording) in enumerate(zip(episodes, recordings, strict=True)):
            seen = {turn["agent"]: turn["observation"]["own"] for turn in episode.turns}
            backers: dict[int, list[str]] = {}
            for name in recording.proposals:
                cluster = episode.responses[f"{name}@0"]["cluster"]
                if cluster is not None:
                    backers.setdefault(cluster, []).append(name)
            for c, names in enumerate(backers.values()):
                there[k, c], right[k, c] = True, recording.right[names[0]]
                features[k, c, [place[n] for n in names]] = 1.0
                features[k, c, size : size + len(names)] = 1.0
                features[k, c, 2 * size :] = np.mean([seen[n] for n in names], axis=0)
        return features, there, right


def linear_choice(
    features: NDArray[Any],
    there: NDArray[Any],
    right: NDArray[Any],
    asked: NDArray[Any],
    asked_there: NDArray[Any],
    asked_right: NDArray[Any],
) -> list[float]:
    """Fit a conditional logit of the right answer, and tell where its choice is right.

    Args:
        features: Of the answers to learn from, ``[E, C, D]``.
        there: Which answers there are, ``[E, C]``.
        right: Which of them are right, ``[E, C]``.
        asked: Features of the answers to choose among.
        asked_there: Which there are.
        asked_right: Which are right.
    """
    mean, std = features[there].mean(0), features[there].std(0)
    std = np.where(std > 1e-6, std, np.inf)
    solvable = right.any(1)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.as_tensor((values - mean) / std)

    known, held = tensor(features[solvable]), tensor(asked)
    absent, truth = torch.as_tensor(~there[solvable]), torch.as_tensor(right[solvable])
    weights = torch.zeros(features.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logs = (known @ weights).masked_fill(absent, -1e9).log_softmax(-1)
        loss: Tensor = -logs.masked_fill(~truth, -1e9).logsumexp(-1).mean()
        loss = loss + _PENALTY * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    scores = (held @ weights).masked_fill(torch.as_tensor(~asked_there), -1e9)
    chosen = scores.argmax(-1).numpy()
    return [float(x) for x in asked_right[np.arange(len(chosen)), chosen]]


# --- the command ------------------------------------------------------------------------------


def cross_validate(options: FoldOptions) -> dict[str, NDArray[Any]]:
    """Answer every question with what was learned from the other folds.

    Returns:
        The probability of a right answer by method, in one order of the questions.

    Raises:
        MPDFError: An option is wrong, traces cannot be read, or a fit failed.
    """
    options.check()
    check_answer(options.traces, options.answer)
    schema = answer_schema(options.answer)
    recordings = read(options.traces, grader(schema))
    recordings, places = known_in_every_fold(recordings, assign_folds(recordings, options.folds))
    held_out: list[Recording] = []
    with tempfile.TemporaryDirectory(prefix="folds-") as folder:
        folds = []
        for k in range(options.folds):
            here = [r for r, place in zip(recordings, places, strict=True) if place == k]
            rest = [r for r, place in zip(recordings, places, strict=True) if place != k]
            folds.append(Fold(options, schema, rest, here, Path(folder) / f"fold-{k}"))
            held_out += here
        failed = run_fits([fit for fold in folds for fit in fold.fits], options.jobs)
        if failed:
            raise MPDFError(f"a fit failed: {next(iter(failed.values()))}")
        parts = [fold.answers() for fold in tqdm(folds, desc="held-out folds", unit="fold")]
    right = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    options.out.mkdir(parents=True, exist_ok=True)
    text = format_results(options, right, [r.question for r in held_out])
    (options.out / "results.md").write_text(text)
    print(text)
    return right


def format_results(
    options: FoldOptions, right: Mapping[str, NDArray[Any]], questions: Sequence[str]
) -> str:
    """Return the table: accuracies, and what the learned deliberations gain, by question."""
    number = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    question = np.array([number[q] for q in questions])

    rows = []
    for name, values in right.items():
        gains = [
            "=" if name == one else mean_interval(right[one] - values, question).short()
            for one in (LEARNED, GREEDY)
        ]
        rows.append([name, mean_interval(values, question).short(""), *gains])
    return (
        "# Learned deliberation on recorded answers\n\n"
        + table(["method", "accuracy", f"{LEARNED} − it", f"{GREEDY} − it"], rows)
        + f"\n\n{len(number)} questions of {', '.join(map(str, options.traces))}, each answered by "
        f"what was learned from the other {options.folds - 1} of {options.folds} folds; "
        f"{options.algorithm}, mean of {options.seeds} seeds; one round of PERSIST and CONCEDE. "
        "Intervals are 95 %, paired, from resampling questions.\n"
    )


if __name__ == "__main__":
    try:
        cross_validate(tyro.cli(FoldOptions, description=__doc__))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
