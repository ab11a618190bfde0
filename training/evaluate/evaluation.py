r"""Compares routers with votes, debates and resampling: real runs, every token counted.

    python training/evaluate.py --questions test.jsonl --validation validation.jsonl \
        --router routers/seed-0 --router routers/seed-1 --router routers/seed-2 \
        --base-url http://localhost:8000/v1 --out runs/evaluation

All methods share one pool of samples (`samples-SEED.jsonl` in the output folder): whoever asks the
same thing for the n-th time gets the same n-th sample, so pairs are exact, calls are few, and a
stopped evaluation goes on where it was. Tokens are counted in full all the same. What has to be
tuned (the threshold router's two numbers, when adaptive resampling stops, who is the strongest of
a mixed team) is tuned on the validation questions, and there the confidences of votes, debates
and the threshold router are calibrated, as a fitted router brings a calibration of its own. The
file of samples belongs to its models: another model of the same name needs another output folder.

Routers given together are seeds of one method where their folders differ in their last number
alone (seed-0, seed-1) and they were fitted with the same options. Each learned method comes with
its *control*: the same decisions with every REFINE replaced by a fresh proposal. `router.json` of
each router gets its own gate: `pass` where the router beats the best baseline at no more tokens
and its control loses, both with lower 95 % bounds above zero. Without validation questions the
baselines are not at their best, and nothing passes.

The oracle over actions sees the references: what no router can reach. It takes the best action
of every agent and round in turn, so that another order of moves may still do better.

Written to the output folder: `results.md` (the table), `results.json` (with every learned method's
paired difference to every other method), `rows.jsonl` (a line per question and method),
`tokens.png`.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from mpdf_langgraph import ConfigurationError, MPDFError, ThresholdRouter
from training.collect.questions import Question, check_contexts, read_questions
from training.collect.team import Source, check_references
from training.evaluate import votes as pools
from training.evaluate.compare import (
    Method,
    difference,
    link_controls,
    plot,
    results_table,
    summarise,
    told_failures,
    verdict,
)
from training.evaluate.methods import (
    Outcomes,
    Play,
    Setting,
    families,
    on_pool,
    open_routers,
    outcomes_of,
    select,
)
from training.evaluate.runner import VOTES, Bench
from training.learn.off_policy import to_plain
from training.learn.report import table

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares at which adaptive resampling may stop, to try on the validation questions."""


@dataclass(frozen=True, kw_only=True)
class Options(Setting):
    """Options of an evaluation."""

    questions: Path
    """Test questions: JSON Lines or Parquet with `question`, `reference`, `contexts`."""
    validation: Path | None = None
    """Questions to calibrate and tune the baselines on; others than the test's."""
    router: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A fitted router's folder; give the option again for more."""
    source: tyro.conf.OmitArgPrefixes[Source] = Source()
    out: Path = Path("runs/evaluation")
    """Folder for samples and results."""
    limit: int | None = None
    """Use only so many questions of each file."""
    critic: Literal["logprob", "self+logprob", "self", "self-reasoning"] = "self+logprob"
    """Where confidence comes from, as in `collect.py` and in the graph; it must be what the routers
    were fitted with."""
    debate_rounds: int = 3
    """Debates of 1 to so many rounds."""
    oracle_rounds: int = 2
    """Oracles over actions of 1 to so many rounds."""
    bars: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    """Values of the threshold router's bar (a calibrated confidence) to try on the validation
    questions."""
    gaps: tuple[float, ...] = (0.0, 0.05, 0.2)
    """Values of its gap to try."""
    concurrency: int = 64
    """Deliberations at a time."""

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

    def methods(self) -> list[str]:
        """Return the names of all methods but the fitted routers."""
        names = ["single"]
        names += [f"{way}-{k}" for k in VOTES for way in ("vote", "weighted-vote", "best-of")]
        if self.source.mixed:
            most = max(VOTES) // self.source.agents
            votes = [k for k in VOTES if k <= most]
            names += ["alone-1", *(f"alone-{k}" for k in votes)]
            names += [f"weighted-alone-{k}" for k in votes]
        names += ["adaptive", "greedy"]
        names += ["greedy-vote"] if self.source.agents > 1 else []
        names += [f"debate-{rounds}" for rounds in range(1, self.debate_rounds + 1)]
        names += ["php", "dylan", "random", "threshold"]
        return names + [f"oracle-{rounds}" for rounds in range(1, self.oracle_rounds + 1)]


def questions_of(path: Path, bench: Bench, limit: int | None) -> list[Question]:
    """Read questions that can be graded.

    Raises:
        MPDFError: The file has faults, a context is nobody's, or a reference is missing.
    """
    questions = read_questions(path)
    # A question asked again gets the same samples: it would count twice and say nothing new.
    different = list({question.key: question for question in reversed(questions)}.values())[::-1]
    if len(different) < len(questions):
        print(f"{path}: {len(questions) - len(different)} repeated questions are left out")
    questions = different[:limit]
    check_contexts(questions, bench.agents)
    check_references(questions, bench.schema)
    if missing := [question.id for question in questions if question.reference is None]:
        raise ConfigurationError(
            f"{path}: an evaluation needs a reference for every question; {missing[0]!r} has none"
        )
    return questions


async def tune(bench: Bench, questions: Sequence[Question], options: Options) -> Options:
    """Return the options with `share`, `bar`, `gap` and `strongest` as validation questions say.

    The most accurate counts; with the fewest tokens at a tie.
    """

    def measured(outcomes: Outcomes) -> Method:
        return summarise(bench, questions, "", [outcomes], "baseline")

    def best(tried: Mapping[Any, Method]) -> Any:
        return max(tried, key=lambda value: (tried[value].accuracy, -tried[value].tokens.mean()))

    pool = await bench.pool("validation: pool", questions)
    shares = {share: measured(on_pool(pool, pools.adaptive(share))) for share in SHARES}
    team = len(bench.agents)
    members = {
        k + 1: measured(on_pool(pool, pools.member(k, team, pools.vote(1)))) for k in range(team)
    }
    pairs = {}
    for bar in options.bars:
        for gap in options.gaps:
            router = ThresholdRouter(bar=bar, gap=gap)
            label = f"validation: threshold {bar:g}, {gap:g}"
            pairs[bar, gap] = measured(
                outcomes_of(await bench.run(label, questions, router=router))
            )
    lines = [
        [
            f"{bar:g}, {gap:g}",
            f"{m.accuracy:.3f} ± {m.standard_error:.3f}",
            f"{m.tokens.mean():.0f}",
        ]
        for (bar, gap), m in pairs.items()
    ]
    share, (bar, gap) = best(shares), best(pairs)
    print(table(["threshold's bar, gap", "accuracy ± s.e.", "tokens"], lines))
    print(f"tuned on {len(questions)} validation questions: share {share:g}, bar, gap {(bar, gap)}")
    alone = ", ".join(f"{bench.agents[k - 1].name} {m.accuracy:.3f}" for k, m in members.items())
    print(f"first proposals alone: {alone}")
    return replace(options, share=share, bar=bar, gap=gap, strongest=best(members))


async def evaluate(options: Options) -> dict[str, Method]:
    """Run every method on the test questions, and return what each gave by name.

    Raises:
        MPDFError: An option, a file of questions or a router is wrong.
    """
    options.check()
    agents = options.source.agents
    routers = open_routers(options.router, options)
    select(options.methods(), routers, options, agents)  # errors now, not after an hour
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
        if options.validation is not None:
            validation = questions_of(options.validation, bench, options.limit)
            await bench.calibrate(validation)
            options = await tune(bench, validation, options)
        selected = select(options.methods(), routers, options, agents, control=True)
        play = Play(bench, questions, selected)
        outcomes = {m.name: [await ask(play) for _, ask in m.runs] for m in selected}
        methods = {
            m.name: summarise(bench, questions, m.name, outcomes[m.name], m.kind) for m in selected
        }
        link_controls(methods)
        write(options, questions, methods, outcomes, bench)
        for name, folders in families(options.router).items():
            for seed, folder in enumerate(folders):
                own = {  # a seed's gate is its own, not that of the mean
                    m.name: summarise(bench, questions, m.name, [outcomes[m.name][seed]], m.kind)
                    for m in (methods[name], methods[f"{name}: control"])
                }
                link_controls(own)
                gate, evidence = verdict(own[name], methods | own)
                evidence |= {"critic": options.critic, "rounds": options.rounds}
                evidence["drawn"] = options.sampled
                if gate == "pass" and options.validation is None:
                    gate = "unknown"
                    evidence["why"] = "the baselines were not tuned: give --validation"
                set_gate(folder, gate, evidence)
    return methods


# --- files ------------------------------------------------------------------------------------


def set_gate(folder: Path, gate: str, evidence: dict[str, Any]) -> None:
    """Write a router's gate and its evidence into `router.json`."""
    path = folder / "router.json"
    content = json.loads(path.read_text())
    content |= {"gate": gate, "evidence": {**content.get("evidence", {}), "evaluation": evidence}}
    path.with_suffix(".tmp").write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)
    print(f"{folder}: gate {gate}")


def write(
    options: Options,
    questions: Sequence[Question],
    methods: Mapping[str, Method],
    outcomes: Mapping[str, Sequence[Outcomes]],
    bench: Bench,
) -> None:
    """Write the table, the figures, a line per question and method, and the plot."""
    out = options.out
    how = "as it comes" if options.validation is None else "tuned on validation questions"
    caption = (
        f"{len(questions)} questions ({options.questions.name}), up to {options.rounds} rounds, "
        f"critic {options.critic}, consensus {options.consensus}, seed {options.seed}; "
        "intervals are 95 %, paired, over questions; tokens are prompt + completion, the critic's "
        "included; failed questions count as wrong; calibration error is that of the confidence in "
        "the answer. The control of a router takes its decisions, "
        "with a fresh proposal for every REFINE. DyLAN keeps the two agents that did best, as its "
        "authors mean it (their code keeps others); the critic's confidence ranks them. Threshold "
        f"router, {how}: bar {options.bar:g}, gap {options.gap:g}; adaptive resampling, {how}: "
        f"stops at a share of {options.share:g}."
    )
    if options.source.mixed:
        caption += f" Strongest agent, {how}: {bench.agents[options.strongest - 1].name}."
    if bench.samples.unreported:
        caption += (
            f" **{bench.samples.unreported} replies came without token counts, so that tokens are "
            "too low.**"
        )
    caption += f" {told_failures(list(methods.values()))}"
    text = f"{results_table(list(methods.values()))}\n\n{caption.strip()}\n"
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
            "confidence": m.confidence,
        }
        for name, m in methods.items()
    }
    for name, m in methods.items():
        if m.kind == "learned":
            others = ((other, difference(m, methods[other])) for other in methods if other != name)
            summary[name]["minus"] = {other: [d.mean, d.low, d.high] for other, d in others}
    source = {**vars(options.source), "api_key": None}
    content = {
        "options": {**vars(options), "source": source},
        "tuned": {name: getattr(options, name) for name in ("share", "bar", "gap", "strongest")},
        "methods": to_plain(summary),
    }
    (out / "results.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    with (out / "rows.jsonl").open("w") as file:
        for name, runs in outcomes.items():
            for run, one in enumerate(runs):
                for question, o in zip(questions, one, strict=True):
                    row: dict[str, Any] = {"method": name, "run": run, "question": question.id}
                    if o is not None:
                        row |= {"answer": o.answer, "tokens": o.tokens, "calls": o.calls}
                    row["right"] = o is not None and bench.is_right(question, o.answer)
                    row["failed"] = o is None or o.failed
                    file.write(json.dumps(row) + "\n")
    plot(out / "tokens.png", list(methods.values()))
    print(text)
    print(f"{bench.samples.drawn} samples drawn, {bench.samples.reused} reused; see {out}")


def command() -> None:
    """Run the command."""
    try:
        asyncio.run(evaluate(tyro.cli(Options, description=__doc__)))
    except (MPDFError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
