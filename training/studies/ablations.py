"""The ablations: what matters in a fit, each with a table and a plot.

    python -m training.studies.ablations --traces traces/ --out runs/ablations
    python -m training.studies.ablations --traces traces/ --test other/ --only tau beta --seeds 5

Most ablations only need stored groups: reward scale, algorithm, τ, β, the parts of the reward, the
parts of the observation (and raw text in its place), labels. Each variant is fitted with several
seeds (other weights, batches and held-out questions). It is scored turn by turn on held-out
questions, always by the same yardstick: r_local + r_global, without cost. A fit chooses its best
epoch by its held-out questions, so scores on them are a little high, for all variants alike.
--test takes traces of questions that no fit has seen.

Other ablations need traces of their own, which any team can record:

    --transfer "5 agents=FOLDER" "hot=FOLDER" "mixed=FOLDER"

scores the router fitted on --traces on other groups, beside a router fitted there. Collect them
with the options of --traces, except for
    another team size:      collect.py ... --agents 5
    another temperature:    collect.py ... --temperature 0.5
    a mixed team:           collect.py ... --base-url U1 --base-url U2   (or --model-factory)
    another critic:         collect.py ... --critic self   (or module:function, which makes the
                            chat model of an external one)

    --runs "3 agents=FOLDER" "5 agents=FOLDER"

gives the accuracy of whole deliberations after every round. Record them with the router to be
judged:
    collect.py ... --agents 5 --rounds 5 --router routers/mine --explore 0 --alternatives 0

A stopped command goes on where it was: finished fits are not run again. Their folders are named by
a hash of options and traces, so remove OUT/fits after a change of the code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.errors import ConfigurationError
from training.collect.team import Answer, remembering_grader
from training.command import check_least, run_command
from training.learn.dataset import Groups, check_answer, load, split
from training.learn.display import table
from training.learn.fit_config import Config, read_labels
from training.learn.measures import mean_interval, quality
from training.learn.report import confidences
from training.studies.accuracy_by_round import measure_rounds, plot_rounds
from training.studies.fits import FinishedFit, Fit, run_fits
from training.studies.score import EXPLANATION, HEADINGS, YARDSTICK, Scores, plot, row, score
from training.studies.variants import ABLATIONS, Ablation, Name, Variant


@dataclass
class AblationOptions:
    """Options of the ablations."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments) to fit on."""
    out: Path = Path("runs/ablations")
    """Folder for tables, plots and fits."""
    test: tuple[Path, ...] = ()
    """Traces to score on, as far as their questions are not in --traces. Default: each fit's
    held-out questions."""
    transfer: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FOLDER ...")] = ()
    """Traces collected otherwise, for the router fitted on --traces to be scored on."""
    runs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FOLDER ...")] = ()
    """Traces of whole deliberations, for the accuracy after every round."""
    only: tuple[Name, ...] = ()
    """Some of the ablations. Default: all that there are traces for."""
    labels: Path | None = None
    """JSON Lines of `episode` (its id) and `reference`, for traces without references."""
    answer: Answer = "math"
    """How answers are compared with references."""
    seeds: int = 3
    """Fits of each variant."""
    epochs: int = 30
    """Most epochs of each stage of a fit."""
    jobs: int = 2
    """Fits side by side, each on one core."""

    def check(self) -> None:
        """Raise `ConfigurationError` for options that cannot work."""
        check_least(self, seeds=1, epochs=1, jobs=1)
        for name, option in (("transfer", "transfer"), ("rounds", "runs")):
            if name in self.only and not getattr(self, option):
                raise ConfigurationError(f"--only {name} needs --{option} NAME=FOLDER")

    def fit(self, seed: int, options: Mapping[str, Any], traces: tuple[Path, ...] = ()) -> Config:
        """Return a fit's options. `options` differ from the defaults."""
        return Config(
            traces=traces or self.traces,
            consensus="recorded",
            out=self.out / "fits",
            labels=self.labels,
            answer=self.answer,
            sft_epochs=self.epochs,
            epochs=self.epochs,
            seed=seed,
            threads=1,
            **options,
        )


# --- the ablations ----------------------------------------------------------------------------


class Scorer:
    """Scores the finished fits on held-out groups. `failed`: why fits failed, by their keys."""

    def __init__(self, options: AblationOptions, failed: Mapping[str, str]) -> None:
        self.options, self.failed = options, failed
        self._groups: dict[tuple[tuple[Path, ...], str], Groups] = {}
        self._fitted: dict[str, FinishedFit] = {}

    def load_groups(
        self, traces: tuple[Path, ...], calibration: Calibration | None = None
    ) -> Groups:
        """Return all groups of traces, as recorded or with the confidences calibrated."""
        key = traces, "" if calibration is None else calibration.model_dump_json()
        if key not in self._groups:
            self._groups[key] = load(
                traces,
                calibration=calibration,
                grader=remembering_grader(self.options.answer),
                labels=read_labels(self.options.labels) if self.options.labels else None,
            )[0]
        return self._groups[key]

    def groups(
        self,
        traces: tuple[Path, ...] | None,
        seed: int,
        calibration: Calibration | None = None,
    ) -> Groups:
        """Return the groups that the fits of a seed are scored on.

        They are the held-out questions of `traces`, or what the command's options say.

        Raises:
            ConfigurationError: No question of --test is new.
        """
        if traces is not None or not self.options.test:
            found = self.load_groups(traces or self.options.traces, calibration)
            return split(found, seed=seed)[1]
        test = self.load_groups(self.options.test, calibration)
        seen = set(self.load_groups(self.options.traces).questions)
        new = np.array([question not in seen for question in test.questions], bool)
        if not new[test.question].any():
            raise ConfigurationError("--test has no decision on a question that is not in --traces")
        return test.select(new[test.question])

    def finished_fit(self, fit: Fit) -> FinishedFit:
        """Return a finished fit's router."""
        if fit.key not in self._fitted:
            self._fitted[fit.key] = FinishedFit(fit)
        return self._fitted[fit.key]

    def scores(self, fits: Sequence[Fit], traces: tuple[Path, ...] | None = None) -> Scores | str:
        """Score fits, one per seed, on `groups`. Return why if there is no score."""
        texts = traces or self.options.test or self.options.traces
        parts, spreads, problems = [], [], []
        for fit in fits:
            if not fit.done:
                problems.append(self.failed.get(fit.key, "not fitted"))
                continue
            fitted = self.finished_fit(fit)
            groups = self.groups(traces, fit.config.seed, fitted.calibration)
            parts.append((fit.config.seed, groups, fitted.probabilities(groups, texts)))
            spreads.append(fitted.manifest["training"]["advantage_std"])
        if not parts:
            return "; ".join(dict.fromkeys(problems))
        result = score(parts)
        result.problems = problems
        if fits[0].config.algorithm == "softrankpo":
            result.spread = float(np.mean(spreads))
        return result

    def score_references(self, beside: Sequence[Fit]) -> dict[str, Scores]:
        """Score what needs no fit: persisting, the traces' policy and the oracle.

        It is done on the groups of fits, because calibration changes votes.
        """
        found: dict[str, list[tuple[int, Groups, NDArray[Any]]]] = {}
        for fit in beside:
            if not fit.done:
                continue
            seed = fit.config.seed
            groups = self.groups(None, seed, self.finished_fit(fit).calibration)
            policies = {
                "(always PERSIST)": np.tile([1.0, 0.0, 0.0], (len(groups), 1)),
                "(the traces' policy)": groups.behaviour.astype(float),
                "(oracle)": np.eye(3)[groups.labels(YARDSTICK)],
            }
            for name, probabilities in policies.items():
                found.setdefault(name, []).append((seed, groups, probabilities))
        return {name: score(parts) for name, parts in found.items()}


def section(name: str, question: str, body: str, note: str = EXPLANATION) -> str:
    """Return an ablation's page."""
    return f"## {name}\n\n{question}\n\n{body}\n\n{note}\n\n![{name}]({name}.png)\n"


def fits_of(options: AblationOptions, variant: Variant) -> list[Fit]:
    """Return a variant's fits, one per seed."""
    seeds = range(options.seeds)
    return [Fit(options.fit(seed, variant.options), variant.changes) for seed in seeds]


def compare_variants(scorer: Scorer, ablation: Ablation) -> str:
    """Compare an ablation's variants on stored groups. Write its plot and return its page."""
    options = scorer.options
    lines: dict[str, Scores | str] = {
        variant.label: scorer.scores(fits_of(options, variant)) for variant in ablation.variants
    }
    first = ablation.variants[0].label
    base = {variant.label: lines[variant.against or first] for variant in ablation.variants}
    if ablation.name == "algorithm":
        lines |= scorer.score_references(fits_of(options, ablation.variants[0]))
    plot(options.out / f"{ablation.name}.png", lines, base)
    rows = [row(label, scores, base.get(label)) for label, scores in lines.items()]
    return section(ablation.name, ablation.question, table(HEADINGS, rows))


def compare_transfer(scorer: Scorer, folders: Mapping[str, Path]) -> str:
    """Score the router fitted on --traces on other traces, beside a router fitted on these.

    The other traces may be of another size of team, temperature, mix of models or critic.
    """
    options = scorer.options
    here, rows, critics = fits_of(options, Variant("")), [], []
    lines: dict[str, Scores | str] = {}
    base: dict[str, Scores | str] = {}
    for name, folder in folders.items():
        there = [Fit(options.fit(seed, {}, (folder,))) for seed in range(options.seeds)]
        own = scorer.scores(there, (folder,))
        moved = scorer.scores(here, (folder,))
        labels = f"{name}: fitted there", f"{name}: fitted on --traces"
        lines |= dict(zip(labels, (own, moved), strict=True))
        base |= dict.fromkeys(labels, own)
        rows += [row(labels[0], own, own), row(labels[1], moved, own)]
    sources = {"--traces": options.traces, **{name: (f,) for name, f in folders.items()}}
    for name, traces in sources.items():
        groups = scorer.groups(traces, 0)
        q = quality(*confidences(groups.own, groups.held_right))
        figures = [f"{q[key]:.3f}" for key in ("brier", "ece", "auroc")]
        critics.append([name, *figures, int(q["count"])])
    plot(options.out / "transfer.png", lines, base)
    critic = table(["critic's confidence in", "Brier", "ECE", "AUROC", "n"], critics)
    return section(
        "transfer",
        "Does a router fitted on one kind of team serve another? Compare with one fitted there.",
        f"{table(HEADINGS, rows)}\n\n{critic}",
    )


def compare_rounds(scorer: Scorer, folders: Mapping[str, Path]) -> str:
    """Return the accuracy of whole deliberations after each round, for teams of any size."""
    options = scorer.options
    right = remembering_grader(options.answer)
    labels = read_labels(options.labels) if options.labels else {}
    measured = {name: measure_rounds(folder, right, labels) for name, folder in folders.items()}
    rows = []
    for name, c in measured.items():
        team = "/".join(map(str, sorted(c.agents)))
        for round_ in range(c.right.shape[1]):
            gain = mean_interval(c.right[:, round_] - c.right[:, 0], c.question)
            spent = c.tokens[:, round_].mean()
            accuracy = f"{c.right[:, round_].mean():.4f}"
            rows.append([name, team, len(c.right), round_, accuracy, gain.short(), f"{spent:.0f}"])
    plot_rounds(options.out / "rounds.png", measured)
    headings = ["runs", "agents", "episodes", "rounds", "accuracy", "− proposals' vote", "tokens"]
    return section(
        "rounds",
        "What do more agents give, and more rounds?",
        table(headings, rows),
        "Recorded deliberations, cut after each round; an episode that settled earlier keeps its "
        "answer. A router that sees how many rounds are left might have decided otherwise, had it "
        "had fewer. Intervals are 95 %, from resampling questions.",
    )


# --- the command ------------------------------------------------------------------------------


def find_folders(option: str, given: Sequence[str]) -> dict[str, Path]:
    """Return NAME=FOLDER options as folders by name.

    Raises:
        ConfigurationError: An option has another form, or there is no such folder.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in found:
            raise ConfigurationError(f"--{option} takes NAME=FOLDER, each name once; got {text!r}")
        if not Path(folder).exists():
            raise ConfigurationError(f"--{option} {text}: no such file or folder")
        found[name] = Path(folder)
    return found


def ablate(options: AblationOptions) -> int:
    """Run the ablations that are asked for. Return 1 if a fit failed, else 0."""
    options.check()
    wanted = options.only or get_args(Name)
    elsewhere = find_folders("transfer", options.transfer) if "transfer" in wanted else {}
    runs = find_folders("runs", options.runs) if "rounds" in wanted else {}
    given = (*options.traces, *options.test, *elsewhere.values(), *runs.values())
    check_answer(given, options.answer)
    chosen = [ablation for ablation in ABLATIONS if ablation.name in wanted]
    fits = [fit for one in chosen for variant in one.variants for fit in fits_of(options, variant)]
    if elsewhere:
        fits += fits_of(options, Variant(""))
        seeds = range(options.seeds)
        fits += [Fit(options.fit(s, {}, (folder,))) for folder in elsewhere.values() for s in seeds]
    options.out.mkdir(parents=True, exist_ok=True)
    failed = run_fits(fits, options.jobs)
    scorer = Scorer(options, failed)
    pages = {}
    for ablation in tqdm(chosen, desc="tables", unit="table"):
        pages[ablation.name] = compare_variants(scorer, ablation)
    if elsewhere:
        pages["transfer"] = compare_transfer(scorer, elsewhere)
    if runs:
        pages["rounds"] = compare_rounds(scorer, runs)
    traces = ", ".join(map(str, options.traces))
    where = ", ".join(map(str, options.test)) or "each fit's held-out questions"
    setting = f"Fitted on {traces}; scored on {where}; seeds: {options.seeds}; "
    setting += f"epochs: {options.epochs} at most, of each stage."
    for name, page in pages.items():
        note = "" if name == "rounds" else f"\n{setting}\n"
        (options.out / f"{name}.md").write_text(page + note)
    # All there are, those of earlier commands too.
    known = [options.out / f"{name}.md" for name in get_args(Name)]
    text = "\n".join(page.read_text() for page in known if page.exists())
    (options.out / "ablations.md").write_text(f"# Ablations\n\n{text}")
    print(f"{len(pages)} ablations in {options.out / 'ablations.md'}; {len(failed)} fits failed")
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(ablate, AblationOptions, __doc__, "stopped; the same command goes on from here")
