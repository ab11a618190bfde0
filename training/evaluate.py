r"""Compares routers with votes, debates and resampling: real runs, every token counted.

    python training/evaluate.py --questions test.jsonl --validation validation.jsonl \
        --router routers/seed-0 --router routers/seed-1 --router routers/seed-2 \
        --base-url http://localhost:8000/v1 --out runs/evaluation

All methods share one pool of samples (`samples-SEED.jsonl` in the output folder): whoever asks the
same thing for the n-th time gets the same n-th sample, so pairs are exact, calls are few, and a
stopped evaluation goes on where it was. Tokens are counted in full all the same. What has to be
tuned (the threshold router's two numbers, when adaptive resampling stops) is tuned on the
validation questions. The file of samples belongs to its models: another model of the same name
needs another output folder.

Routers given together are seeds of one method where their folders differ in their last number
alone (seed-0, seed-1). Each learned method comes with its *control*: the same decisions with
every REFINE replaced by a fresh proposal. `router.json` of each router gets its gate: `pass`
where the router beats the best baseline at no more tokens and its control loses, both with lower
95 % bounds above zero. Without validation questions the baselines are not at their best, and
nothing passes.

The oracle over actions sees the references: what no router can reach. It takes the best action
of every agent and round in turn, so that another order of moves may still do better.

Written to the output folder: `results.md` (the table), `results.json`, `rows.jsonl` (a line per
question and method), `tokens.png`.
"""

import asyncio
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mpdf_langgraph import ConfigurationError, Episode, MPDFError, ThresholdRouter, load_router
from mpdf_langgraph.consensus import make_rule
from mpdf_langgraph.router import Router, make_router
from training import peers
from training import pool as pools
from training.compare import Method, plot, results_table, verdict
from training.estimate import plain
from training.pool import Outcome
from training.questions import Question, check_contexts, read_questions
from training.runs import VOTES, Bench, Seeded
from training.source import Source, check_references


@dataclass(frozen=True)
class Options:
    """Options of an evaluation."""

    questions: Path
    """Test questions: JSON Lines or Parquet with `question`, `reference`, `contexts`."""
    validation: Path | None = None
    """Questions to tune the threshold router and adaptive resampling on; others than the test's."""
    router: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A fitted router's folder; give the option again for more."""
    source: tyro.conf.OmitArgPrefixes[Source] = Source()
    out: Path = Path("runs/evaluation")
    """Folder for samples and results."""
    limit: int | None = None
    """Use only so many questions of each file."""
    rounds: int = 2
    """Rounds of decisions at most."""
    debate_rounds: int = 3
    """Debates of 1 to so many rounds."""
    oracle_rounds: int = 2
    """Oracles over actions of 1 to so many rounds."""
    critic: Literal["logprob", "self+logprob", "self"] = "logprob"
    """Where confidence comes from; it must be what the routers were fitted with."""
    consensus: Literal["confidence", "majority"] = "confidence"
    """How deliberations count their votes."""
    sampled: bool = False
    """Let routers draw their actions instead of taking the most probable one."""
    bars: tuple[float, ...] = (0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99)
    """Values of the threshold router's bar to try on the validation questions."""
    gaps: tuple[float, ...] = (0.0, 0.01, 0.03)
    """Values of its gap to try."""
    concurrency: int = 64
    """Deliberations at a time."""
    seed: int = 0
    """Another seed draws another pool of samples."""

    def check(self) -> None:
        """Refuse options that cannot work.

        Raises:
            ConfigurationError: Says which one, and what to give instead.
        """
        for name in ("rounds", "concurrency", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"--{name} must be 1 or more, got {value}")
        if not self.bars or not self.gaps:
            raise ConfigurationError("--bars and --gaps need a value each")


Outcomes = list[Outcome | None]
"""What a method made of all questions; None where it raised."""


def outcomes_of(episodes: Sequence[Episode | None]) -> Outcomes:
    """Return what deliberations made of their questions."""
    return [None if e is None else pools.outcome_of(e) for e in episodes]


def on_pool(pool: Sequence[Episode | None], method: Callable[[Episode], Outcome]) -> Outcomes:
    """Apply a method of `pool` to every question."""
    return [None if e is None else method(e) for e in pool]


def questions_of(path: Path, bench: Bench, limit: int | None) -> list[Question]:
    """Read questions that can be graded.

    Raises:
        MPDFError: The file has faults, a context is nobody's, or a reference is missing.
    """
    questions = read_questions(path)[:limit]
    check_contexts(questions, bench.agents)
    check_references(questions, bench.schema)
    if missing := [question.id for question in questions if question.reference is None]:
        raise ConfigurationError(
            f"{path}: an evaluation needs a reference for every question; {missing[0]!r} has none"
        )
    return questions


# --- routers ----------------------------------------------------------------------------------


def families(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Group routers that differ in the last number of their folders alone, by a name for each."""
    groups: dict[Path, list[Path]] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        stem = re.sub(r"[-_]?(seed)?[-_]?\d+$", "", folder.name)
        groups.setdefault(folder.parent / stem, []).append(folder)  # without a stem: the parent
    names = Counter(group.name for group in groups)
    return {g.name if names[g.name] == 1 else str(g): folders for g, folders in groups.items()}


def open_router(folder: Path, options: Options) -> Router:
    """Load a router; a line on standard error where it was fitted with another critic."""
    with warnings.catch_warnings():  # that it has not been measured yet: it is about to be
        warnings.filterwarnings("ignore", "router .* has not been shown", UserWarning)
        router = load_router(folder, greedy=not options.sampled)
    training = json.loads((folder / "router.json").read_text()).get("training", {})
    fitted = training.get("critic") if isinstance(training, dict) else None
    critics = [fitted] if isinstance(fitted, str) else fitted or []
    if critics and critics != [options.critic]:
        print(
            f"warning: {folder} was fitted with the critic {', '.join(map(str, critics))}, and "
            f"is evaluated with {options.critic}: its features mean something else now",
            file=sys.stderr,
        )
    return router


def set_gate(folder: Path, gate: str, evidence: dict[str, Any]) -> None:
    """Write a router's gate and its evidence into `router.json`."""
    path = folder / "router.json"
    content = json.loads(path.read_text())
    content |= {"gate": gate, "evidence": {**content.get("evidence", {}), "evaluation": evidence}}
    path.with_suffix(".tmp").write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)
    print(f"{folder}: gate {gate}")


# --- methods ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """What was tuned on validation questions."""

    share: float = 0.8
    bar: float = ThresholdRouter.bar
    gap: float = ThresholdRouter.gap


async def tune(bench: Bench, questions: Sequence[Question], options: Options) -> Tuned:
    """Choose what is most accurate on validation questions; the fewest tokens at a tie."""

    def score(outcomes: Outcomes) -> tuple[float, float]:
        method = summarise(bench, questions, "", [outcomes], "baseline")
        return method.accuracy, -method.tokens.mean()

    pool = await bench.pool("validation: pool", questions)
    shares = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    share = max(shares, key=lambda s: score(on_pool(pool, pools.adaptive(s))))
    scores = {}
    for bar in options.bars:
        for gap in options.gaps:
            router = ThresholdRouter(bar=bar, gap=gap)
            label = f"validation: threshold {bar:g}, {gap:g}"
            scores[bar, gap] = score(outcomes_of(await bench.run(label, questions, router=router)))
    best = max(scores, key=lambda pair: scores[pair])
    print(f"tuned on {len(questions)} validation questions: share {share:g}, bar, gap {best}")
    return Tuned(share, *best)


async def evaluate(options: Options) -> dict[str, Method]:
    """Run every method on the test questions, and return what each gave by name.

    Raises:
        MPDFError: An option, a file of questions or a router is wrong.
    """
    options.check()
    groups = families(options.router)
    routers = {
        name: [open_router(folder, options) for folder in folders]
        for name, folders in groups.items()
    }  # errors now, not after an hour
    bench = Bench(
        options.source,
        options.out,
        critic=options.critic,
        consensus=options.consensus,
        rounds=options.rounds,
        concurrency=options.concurrency,
        seed=options.seed,
    )
    with closing(bench):
        questions = questions_of(options.questions, bench, options.limit)
        tuned = Tuned()
        if options.validation is not None:
            validation = questions_of(options.validation, bench, options.limit)
            tuned = await tune(bench, validation, options)
        results = Results()
        await play(bench, questions, options, tuned, routers, results)
        methods = {
            name: summarise(bench, questions, name, runs, results.kinds[name])
            for name, runs in results.runs.items()
        }
        for name in methods:
            if f"{name}: control" in methods:
                methods[name].control = f"{name}: control"
        write(options, questions, methods, results, bench, tuned)
    for name, folders in groups.items():
        gate, evidence = verdict(methods[name], methods)
        if gate == "pass" and options.validation is None:
            gate, evidence["why"] = "unknown", "the baselines were not tuned: give --validation"
        for folder in folders:
            set_gate(folder, gate, evidence)
    return methods


class Results:
    """What every method made of the questions: by name, a run for each seed.

    Attributes:
        runs: Outcomes in the order of the questions.
        kinds: See `Method.kind`.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[Outcomes]] = {}
        self.kinds: dict[str, str] = {}

    def add(self, name: str, outcomes: Outcomes, kind: str = "baseline") -> None:
        """Add a run.

        Raises:
            ConfigurationError: A router bears the name of another method.
        """
        if self.kinds.setdefault(name, kind) != kind:
            raise ConfigurationError(f"{name!r} is another method's name: rename that router")
        self.runs.setdefault(name, []).append(outcomes)


async def play(
    bench: Bench,
    questions: Sequence[Question],
    options: Options,
    tuned: Tuned,
    routers: Mapping[str, Sequence[Router]],
    results: Results,
) -> None:
    """Run every method on the questions."""
    add = results.add
    pool = await bench.pool("pool", questions)
    add("single sample", on_pool(pool, pools.vote(1)))
    for k in VOTES:
        add(f"vote of {k}", on_pool(pool, pools.vote(k)))
        add(f"weighted vote of {k}", on_pool(pool, pools.weighted_vote(k)))
        add(f"best of {k}", on_pool(pool, pools.best_of(k)))
    add("adaptive resampling", on_pool(pool, pools.adaptive(tuned.share)))
    cold = [replace(a, sampling={**a.sampling, "temperature": 0.0}) for a in bench.agents]
    with warnings.catch_warnings():  # equal answers are what is wanted here
        warnings.filterwarnings("ignore", "all .* agents proposed the very same", UserWarning)
        greedy = await bench.run(
            "greedy", questions, agents=cold, router="always-persist", consensus="majority"
        )
    add("greedy, one agent", on_pool(greedy, pools.vote(1)))
    add("greedy, team vote", on_pool(greedy, pools.vote(len(cold))))
    for rounds in range(1, options.debate_rounds + 1):
        name = f"debate, {rounds} round{'s' * (rounds > 1)}"
        debate = await bench.run(
            name,
            questions,
            router="always-refine",
            max_rounds=rounds,
            stop_when_settled=False,
            consensus="majority",
        )
        add(name, outcomes_of(debate))
    add("PHP", await peers.php(bench, questions))
    add("DyLAN", outcomes_of(await peers.dylan(bench, questions)))
    rule = make_rule(options.consensus)[1]

    async def deliberate(name: str, router: Router, kind: str, label: str) -> None:
        seed = f"{options.seed}/{label}"
        episodes = await bench.run(
            label, questions, each=lambda q: {"router": Seeded(router, f"{seed}/{q.id}")}
        )
        add(name, outcomes_of(episodes), kind)
        pairs = zip(episodes, pool, strict=True)
        control = [None if e is None or p is None else pools.replaced(e, p, rule) for e, p in pairs]
        add(f"{name}: control", control, "control")

    await deliberate("random router", make_router("random"), "baseline", "random router")
    threshold = ThresholdRouter(tuned.bar, tuned.gap)
    await deliberate("threshold router", threshold, "baseline", "threshold router")
    for name, seeds in routers.items():
        for number, router in enumerate(seeds):
            await deliberate(name, router, "learned", f"{name} {number}")
    oracles = await bench.oracle("oracle", questions, options.oracle_rounds)
    for rounds, episodes in enumerate(oracles, 1):
        add(f"oracle, {rounds} round{'s' * (rounds > 1)}", outcomes_of(episodes), "oracle")


def summarise(
    bench: Bench, questions: Sequence[Question], name: str, runs: Sequence[Outcomes], kind: str
) -> Method:
    """Gather a method's runs (one per seed) into its results per question.

    What a run took that left nothing behind is not known: it counts as the mean of the others.
    """
    right = np.array(
        [
            [
                o is not None and bench.is_right(q, o.answer)
                for q, o in zip(questions, run, strict=True)
            ]
            for run in runs
        ],
        dtype=float,
    )
    done = [o for run in runs for o in run if o is not None]

    def spent(of: Callable[[Outcome], int]) -> Any:
        usual = float(np.mean([of(o) for o in done])) if done else 0.0
        return np.mean([[usual if o is None else of(o) for o in run] for run in runs], axis=0)

    counts = {
        action: sum(o.actions.get(action, 0) for o in done)
        for action in ("PERSIST", "REFINE", "CONCEDE")
    }
    total = sum(counts.values())
    return Method(
        name=name,
        right=right.mean(0),
        tokens=spent(lambda o: o.tokens),
        calls=spent(lambda o: o.calls),
        kind=kind,
        runs=len(runs),
        failed=sum(o is None or o.failed for run in runs for o in run),
        spread=float(right.mean(1).std(ddof=1)) if len(runs) > 1 else float("nan"),
        actions={a: n / total for a, n in counts.items()} if total else {},
    )


# --- files ------------------------------------------------------------------------------------


def write(
    options: Options,
    questions: Sequence[Question],
    methods: Mapping[str, Method],
    results: Results,
    bench: Bench,
    tuned: Tuned,
) -> None:
    """Write the table, the figures, a line per question and method, and the plot."""
    out = options.out
    how = "as it comes" if options.validation is None else "tuned on validation questions"
    caption = (
        f"{len(questions)} questions ({options.questions.name}), up to {options.rounds} rounds, "
        f"critic {options.critic}, consensus {options.consensus}, seed {options.seed}; "
        "intervals are 95 %, paired, over questions; tokens are prompt + completion, the critic's "
        "included; failed questions count as wrong. The control of a router takes its decisions, "
        "with a fresh proposal for every REFINE. DyLAN keeps the two agents that did best, as its "
        "authors mean it (their code keeps others); the critic's confidence ranks them. Threshold "
        f"router, {how}: bar {tuned.bar:g}, gap {tuned.gap:g}; adaptive resampling, {how}: stops "
        f"at a share of {tuned.share:g}."
    )
    if bench.samples.unreported:
        caption += (
            f" **{bench.samples.unreported} replies came without token counts, so that tokens are "
            "too low.**"
        )
    text = f"{results_table(list(methods.values()))}\n\n{caption}\n"
    (out / "results.md").write_text(text)
    summary = {
        name: {
            "accuracy": m.accuracy,
            "standard_error": m.standard_error,
            "tokens": float(m.tokens.mean()),
            "calls": float(m.calls.mean()),
            "kind": m.kind,
            "runs": m.runs,
            "failed": m.failed,
            "spread": m.spread,
            "actions": m.actions,
        }
        for name, m in methods.items()
    }
    source = {**vars(options.source), "api_key": None}
    content = {
        "options": {**vars(options), "source": source},
        "tuned": vars(tuned),
        "methods": plain(summary),
    }
    (out / "results.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    with (out / "rows.jsonl").open("w") as file:
        for name, runs in results.runs.items():
            for run, outcomes in enumerate(runs):
                for question, o in zip(questions, outcomes, strict=True):
                    row: dict[str, Any] = {"method": name, "run": run, "question": question.id}
                    if o is not None:
                        row |= {"answer": o.answer, "tokens": o.tokens, "calls": o.calls}
                    row["right"] = o is not None and bench.is_right(question, o.answer)
                    row["failed"] = o is None or o.failed
                    file.write(json.dumps(row) + "\n")
    plot(out / "tokens.png", list(methods.values()))
    print(text)
    print(f"{bench.samples.drawn} samples drawn, {bench.samples.reused} reused; see {out}")


def main() -> None:
    """Run the command."""
    try:
        asyncio.run(evaluate(tyro.cli(Options, description=__doc__)))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
