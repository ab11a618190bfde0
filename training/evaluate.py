r"""Compares routers with votes, debates and resampling: real runs, every token counted.

    python training/evaluate.py --questions test.jsonl --validation validation.jsonl \
        --router routers/seed-0 --router routers/seed-1 --router routers/seed-2 \
        --base-url http://localhost:8000/v1 --out runs/evaluation

All methods share one pool of samples (`samples.jsonl` in the output folder): whoever asks the
same thing for the n-th time gets the same n-th sample, so pairs are exact, calls are few, and a
stopped evaluation goes on where it was. Tokens are counted in full all the same. What has to be
tuned (the threshold router's two numbers, when adaptive resampling stops) is tuned on the
validation questions.

Routers given together are seeds of one method where their folders differ in their last number
alone (seed-0, seed-1). Each learned method comes with its *control*: the same decisions with
every REFINE replaced by a fresh proposal. `router.json` of each router gets its gate: `pass`
where the router beats the best baseline at no more tokens and its control loses, both with lower
95 % bounds above zero.

Written to the output folder: `results.md` (the table), `results.json`, `rows.jsonl` (a line per
question and method), `tokens.png`.
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mpdf_langgraph import (
    Agent,
    ConfigurationError,
    Episode,
    MPDFError,
    ThresholdRouter,
    create_deliberation,
    load_router,
)
from mpdf_langgraph.consensus import make_rule
from mpdf_langgraph.errors import describe_error
from mpdf_langgraph.router import PERSIST, REFINE, Router
from training import pool as pools
from training.compare import Method, plot, results_table, verdict
from training.pool import Outcome
from training.questions import Question, check_contexts, read_questions
from training.replay import RememberingChatModel, Samples, one_question
from training.source import Source

POOL = 15
"""Proposals per question in the pool: enough for the largest vote."""


@dataclass(frozen=True)
class Options:
    """Options of an evaluation."""

    questions: Path
    """Test questions: JSON Lines or Parquet with `question`, `reference`, `contexts`."""
    validation: Path | None = None
    """Questions to tune the threshold router and adaptive resampling on."""
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


class Collector:
    """Keeps the episodes of a run by their ids."""

    def __init__(self) -> None:
        self.episodes: dict[str, Episode] = {}

    def write_state(self, state: Any) -> None:
        """Takes the place of a trace folder."""
        episode = Episode.from_state(state)
        self.episodes[episode.id] = episode


@dataclass
class Scripted:
    """Plays given rounds of actions, then always the same one; for one deliberation."""

    script: list[dict[str, str]]
    names: list[str]
    then: list[float]
    name: str = "scripted"
    version: str = "1"
    step: int = 0

    def decide(self, observations: Any, masks: Any) -> Sequence[Sequence[float]]:
        """See `Router.decide`."""
        if self.step >= len(self.script):
            return [self.then for _ in observations]
        actions = self.script[self.step]
        self.step += 1
        place = {"PERSIST": 0, "REFINE": 1, "CONCEDE": 2}
        return [[float(k == place[actions[name]]) for k in range(3)] for name in self.names]


class Bench:
    """The team, the questions and the samples of one evaluation."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.samples = Samples(options.out / f"samples-{options.seed}.jsonl")
        self.schema = options.source.answer_schema()
        agents = options.source.build_agents()
        self.agents = [self._remembering(agent) for agent in agents]
        self.crowd = [
            replace(self.agents[k % len(agents)], name=f"agent-{k + 1}") for k in range(POOL)
        ]
        self._verdicts: dict[tuple[str, str], bool] = {}

    def _remembering(self, agent: Agent) -> Agent:
        model = agent.chat_model
        if model is None or model is not agent.runnable:
            raise ConfigurationError("an evaluation needs plain chat models as agents")
        name = str(agent.describe()["model"])
        return replace(agent, runnable=RememberingChatModel(self.samples, inner=model, name=name))

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Grade; no answer is wrong."""
        if answer is None or question.reference is None:
            return False
        key = (answer, question.reference)
        if key not in self._verdicts:
            self._verdicts[key] = self.schema.equivalent(*key)
        return self._verdicts[key]

    async def run(
        self,
        label: str,
        questions: Sequence[Question],
        *,
        router: Router | str | Callable[[Question], Router],
        agents: Sequence[Agent] | None = None,
        **settings: Any,
    ) -> list[Episode | None]:
        """Deliberate on all questions; None where a deliberation failed.

        Args:
            label: Stands before the progress bar.
            questions: What to ask.
            router: One for all, or a function that makes one for a question.
            agents: Another team.
            settings: Further arguments of `create_deliberation`.
        """
        options, collector = self.options, Collector()
        gate = asyncio.Semaphore(options.concurrency)
        given = {
            "critic": options.critic,
            "consensus": options.consensus,
            "max_rounds": options.rounds,
            "answer": self.schema,
            "traces": collector,
            **settings,
        }
        team = list(agents or self.agents)
        own_router = callable(router) and not hasattr(router, "decide")
        if not own_router:
            graph = create_deliberation(team, router=router, **given).compile()

        async def ask(question: Question) -> Episode | None:
            async with gate:
                run = graph
                if own_router:
                    run = create_deliberation(team, router=router(question), **given).compile()  # type: ignore[operator]
                value = question.input()
                if len(team) > len(self.agents):  # the crowd shares out what the team knows
                    value["contexts"] = {
                        member.name: value["contexts"][self.agents[k % len(self.agents)].name]
                        for k, member in enumerate(team)
                        if self.agents[k % len(self.agents)].name in value["contexts"]
                    }
                try:
                    with one_question(options.seed):
                        result = await run.ainvoke(value)
                    return collector.episodes[result["deliberation"]["episode"]]
                except MPDFError as error:
                    tqdm.write(f"{label}: {question.id}: {describe_error(error)}", sys.stderr)
                    return None
                finally:
                    bar.update()

        if own_router:
            graph = None
        with tqdm(total=len(questions), desc=label, unit="question", mininterval=1) as bar:
            return await asyncio.gather(*(ask(question) for question in questions))

    async def pool(self, label: str, questions: Sequence[Question]) -> list[Episode | None]:
        """Draw the pool of proposals: one vote of 15, three (or so) by each agent."""
        return await self.run(
            f"{label}: pool", questions, router="always-persist", agents=self.crowd,
            consensus="majority",
        )  # fmt: skip

    async def oracle(
        self, label: str, questions: Sequence[Question], rounds: int
    ) -> list[list[Episode | None]]:
        """Play the best actions of every round, seen with the reference; one list per round.

        An agent persists where it is right, else concedes where that makes it right, else
        refines where that does, else persists. What refining would give is drawn by a trial run
        in which everyone refines; the shared samples make the real run repeat it.
        """
        names = [agent.name for agent in self.agents]
        scripts: dict[str, list[dict[str, str]]] = {q.id: [] for q in questions}
        results = []
        for round_ in range(1, rounds + 1):
            settings: dict[str, Any] = {"max_rounds": round_, "stop_when_settled": False}

            def scripted(question: Question, then: list[float] = REFINE) -> Router:
                return Scripted(scripts[question.id], names, then)

            trial = await self.run(
                f"{label}: oracle {round_}, trial", questions, router=scripted, **settings
            )
            for question, episode in zip(questions, trial, strict=True):
                if episode is not None:
                    scripts[question.id] = [
                        *scripts[question.id],
                        self._best_actions(question, episode, round_),
                    ]
            results.append(
                await self.run(
                    f"{label}: oracle {round_}",
                    questions,
                    router=lambda q: Scripted(scripts[q.id], names, PERSIST),
                    **settings,
                )
            )
        return results

    def _best_actions(self, question: Question, episode: Episode, round_: int) -> dict[str, str]:
        def right(response_id: str | None) -> bool:
            response = episode.responses.get(response_id or "")
            return response is not None and self.is_right(question, response["answer"])

        actions = {}
        for turn in (turn for turn in episode.turns if turn["round"] == round_):
            best = "PERSIST"
            if not right(turn["before"]):
                if right(turn["target"]):
                    best = "CONCEDE"
                elif right(turn["after"]):
                    best = "REFINE"
            actions[turn["agent"]] = best
        return actions

    def accuracy(
        self, questions: Sequence[Question], outcomes: Sequence[Outcome | None]
    ) -> tuple[float, float]:
        """Return accuracy and mean tokens."""
        right = [
            o is not None and self.is_right(q, o.answer)
            for q, o in zip(questions, outcomes, strict=True)
        ]
        spent = [o.tokens for o in outcomes if o is not None]
        return float(np.mean(right)), float(np.mean(spent)) if spent else 0.0


def outcomes_of(episodes: Sequence[Episode | None]) -> list[Outcome | None]:
    """Return what deliberations made of their questions."""
    return [None if e is None else pools.outcome_of(e) for e in episodes]


def on_pool(
    pool: Sequence[Episode | None], method: Callable[[Episode], Outcome]
) -> list[Outcome | None]:
    """Apply a method of `pool` to every question."""
    return [None if e is None else method(e) for e in pool]


@dataclass(frozen=True)
class Tuned:
    """What was tuned on validation questions."""

    share: float = 0.8
    bar: float = ThresholdRouter.bar
    gap: float = ThresholdRouter.gap


async def tune(bench: Bench, questions: Sequence[Question]) -> Tuned:
    """Choose what is most accurate on validation questions; the fewest tokens at a tie."""

    def score(outcomes: Sequence[Outcome | None]) -> tuple[float, float]:
        accuracy, tokens = bench.accuracy(questions, outcomes)
        return accuracy, -tokens

    pool = await bench.pool("validation", questions)
    shares = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    share = max(shares, key=lambda s: score(on_pool(pool, pools.adaptive(s))))
    scores = {}
    for bar in bench.options.bars:
        for gap in bench.options.gaps:
            episodes = await bench.run(
                f"validation: threshold {bar:g}, {gap:g}",
                questions,
                router=ThresholdRouter(bar=bar, gap=gap),
            )
            scores[bar, gap] = score(outcomes_of(episodes))
    best = max(scores, key=lambda pair: scores[pair])
    print(f"tuned on {len(questions)} validation questions: share {share:g}, bar, gap {best}")
    return Tuned(share, *best)


def family(folder: Path) -> str:
    """Return a router's name without the seed at its end."""
    return re.sub(r"[-_]?(seed)?[-_]?\d+$", "", folder.name) or folder.name


async def evaluate(options: Options) -> dict[str, Method]:
    """Run every method on the test questions, and return what each gave by name."""
    questions = read_questions(options.questions)[: options.limit]
    bench = Bench(options)
    check_contexts(questions, bench.agents)
    if any(question.reference is None for question in questions):
        raise ConfigurationError("an evaluation needs a reference for every question")
    routers: dict[str, list[Path]] = {}
    for folder in options.router:
        load_router(folder, greedy=not options.sampled)  # errors now, not after an hour
        routers.setdefault(family(folder), []).append(folder)
    tuned = Tuned()
    if options.validation is not None:
        tuned = await tune(bench, read_questions(options.validation)[: options.limit])

    results: dict[str, list[list[Outcome | None]]] = {}
    kinds: dict[str, str] = {}

    def add(name: str, outcomes: list[Outcome | None], kind: str = "baseline") -> None:
        results.setdefault(name, []).append(outcomes)
        kinds[name] = kind

    pool = await bench.pool("test", questions)
    add("single sample", on_pool(pool, pools.vote(1)))
    for k in (3, 5, 9, 15):
        add(f"vote of {k}", on_pool(pool, pools.vote(k)))
        add(f"weighted vote of {k}", on_pool(pool, pools.weighted_vote(k)))
        add(f"best of {k}", on_pool(pool, pools.best_of(k)))
    add("adaptive resampling", on_pool(pool, pools.adaptive(tuned.share)))
    cold = [replace(a, sampling={**a.sampling, "temperature": 0.0}) for a in bench.agents]
    greedy = await bench.run(
        "greedy", questions, router="always-persist", agents=cold, consensus="majority"
    )
    add("greedy, one agent", on_pool(greedy, pools.vote(1)))
    add("greedy, team vote", on_pool(greedy, pools.vote(len(cold))))
    for rounds in range(1, options.debate_rounds + 1):
        debate = await bench.run(
            f"debate, {rounds} rounds",
            questions,
            router="always-refine",
            max_rounds=rounds,
            stop_when_settled=False,
            consensus="majority",
        )
        add(f"debate, {rounds} round{'s' * (rounds > 1)}", outcomes_of(debate))
    rule = make_rule(options.consensus)[1]

    async def deliberate(name: str, router: Router | str, kind: str) -> None:
        episodes = await bench.run(name, questions, router=router)
        add(name, outcomes_of(episodes), kind)
        add(
            f"{name}: control",
            [
                None if e is None or p is None else pools.replaced(e, p, rule)
                for e, p in zip(episodes, pool, strict=True)
            ],
            "control",
        )

    await deliberate("random router", "random", "baseline")
    await deliberate("threshold router", ThresholdRouter(tuned.bar, tuned.gap), "baseline")
    for name, folders in routers.items():
        for folder in folders:
            await deliberate(name, load_router(folder, greedy=not options.sampled), "learned")
    oracles = await bench.oracle("test", questions, options.oracle_rounds)
    for rounds, episodes in enumerate(oracles, 1):
        add(f"oracle, {rounds} round{'s' * (rounds > 1)}", outcomes_of(episodes), "oracle")
    bench.samples.close()

    methods = {
        name: summarise(bench, questions, name, runs, kinds[name]) for name, runs in results.items()
    }
    for name in methods:
        if f"{name}: control" in methods:
            methods[name].control = f"{name}: control"
    write(options, questions, methods, results, bench, tuned)
    for name, folders in routers.items():
        gate, evidence = verdict(methods[name], methods)
        for folder in folders:
            set_gate(folder, gate, evidence)
    return methods


def summarise(
    bench: Bench,
    questions: Sequence[Question],
    name: str,
    runs: Sequence[Sequence[Outcome | None]],
    kind: str,
) -> Method:
    """Gather a method's runs (one per seed) into its results per question."""
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
    counts = {
        action: sum(o.actions.get(action, 0) for o in done)
        for action in ("PERSIST", "REFINE", "CONCEDE")
    }
    total = sum(counts.values())
    return Method(
        name=name,
        right=right.mean(0),
        tokens=np.mean([[o.tokens if o else 0 for o in run] for run in runs], axis=0),
        calls=np.mean([[o.calls if o else 0 for o in run] for run in runs], axis=0),
        kind=kind,
        runs=len(runs),
        failed=sum(o is None for run in runs for o in run),
        spread=float(right.mean(1).std(ddof=1)) if len(runs) > 1 else float("nan"),
        actions={a: n / total for a, n in counts.items()} if total else {},
    )


def write(
    options: Options,
    questions: Sequence[Question],
    methods: Mapping[str, Method],
    results: Mapping[str, list[list[Outcome | None]]],
    bench: Bench,
    tuned: Tuned,
) -> None:
    """Write the table, the figures, a line per question and method, and the plot."""
    out = options.out
    caption = (
        f"{len(questions)} questions ({options.questions.name}), up to {options.rounds} rounds, "
        f"critic {options.critic}, consensus {options.consensus}, seed {options.seed}; "
        "intervals are 95 %, paired, over questions; tokens are prompt + completion, the critic's "
        "included; failed questions count as wrong. Tuned on validation questions: threshold "
        f"bar {tuned.bar:g}, gap {tuned.gap:g}; adaptive resampling stops at a share of "
        f"{tuned.share:g}."
    )
    text = f"{results_table(list(methods.values()))}\n\n{caption}\n"
    (out / "results.md").write_text(text)
    summary = {
        name: {
            "accuracy": m.accuracy,
            "standard_error": float(m.right.std(ddof=1) / np.sqrt(len(m.right))),
            "tokens": float(m.tokens.mean()),
            "calls": float(m.calls.mean()),
            "kind": m.kind,
            "runs": m.runs,
            "failed": m.failed,
            "actions": m.actions,
        }
        for name, m in methods.items()
    }
    content = {"options": vars(options) | {"source": vars(options.source)}, "methods": summary}
    (out / "results.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    with (out / "rows.jsonl").open("w") as file:
        for name, runs in results.items():
            for run, outcomes in enumerate(runs):
                for question, o in zip(questions, outcomes, strict=True):
                    row = {"method": name, "run": run, "question": question.id}
                    if o is not None:
                        row |= {"answer": o.answer, "tokens": o.tokens, "calls": o.calls}
                        row |= {"right": bench.is_right(question, o.answer)}
                    file.write(json.dumps(row) + "\n")
    plot(out / "tokens.png", list(methods.values()))
    print(text)
    print(f"{bench.samples.drawn} samples drawn, {bench.samples.reused} reused; see {out}")


def set_gate(folder: Path, gate: str, evidence: dict[str, Any]) -> None:
    """Write a router's gate and its evidence into `router.json`."""
    path = folder / "router.json"
    content = json.loads(path.read_text())
    content |= {"gate": gate, "evidence": {**content.get("evidence", {}), "evaluation": evidence}}
    path.with_suffix(".tmp").write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)
    print(f"{folder}: gate {gate}")


if __name__ == "__main__":
    try:
        asyncio.run(evaluate(tyro.cli(Options, description=__doc__)))
    except MPDFError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
