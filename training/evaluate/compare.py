"""Methods side by side: accuracy, tokens, and paired differences with their intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluate.votes import Result
from training.learn.display import start_figure, table
from training.learn.measures import Interval, mean_interval, quality, widen_by_fits, wilson
from training.learn.off_policy import LEAST_QUESTIONS

#: Ends the name of a router's control.
CONTROL = ": control"


@dataclass
class MethodResult:
    """The results of a method on all questions.

    Attributes:
        name: Name in the table.
        right: Share of its runs that were right, per question, ``[Q]``. A failure is wrong.
        tokens: Mean tokens per question, ``[Q]``.
        calls: Mean calls per question, ``[Q]``.
        kind: ``"baseline"``, ``"learned"``, ``"control"`` or ``"oracle"``. Nobody could deploy a
            control or an oracle.
        runs: Number of seeds.
        failed: Questions that failed, over all runs.
        survived: Calls that failed, or gave no answer, in questions that were answered all the
            same, over all runs.
        spread: Standard deviation of the accuracy over seeds. NaN with one seed.
        actions: Share of each action. Empty for a method without actions.
        confidence: How good the confidence in its answers is (`measures.quality`). Empty for a
            method without confidences.
        by_run: Whether each run was right, ``[runs, Q]``. None: there is one run.
        lost: Whether each run failed, or one of its proposals or refinements, ``[runs, Q]``. None:
            none did.
        unreported: Calls that gave a reply without its tokens, over all runs.
    """

    name: str
    right: NDArray[np.float64]
    tokens: NDArray[np.float64]
    calls: NDArray[np.float64]
    kind: str = "baseline"
    runs: int = 1
    failed: int = 0
    survived: int = 0
    spread: float = float("nan")
    actions: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    by_run: NDArray[np.float64] | None = None
    lost: NDArray[np.bool_] | None = None
    unreported: int = 0

    @property
    def table(self) -> NDArray[np.float64]:
        """What every run gave, ``[runs, Q]``."""
        return self.right[None] if self.by_run is None else self.by_run

    @property
    def accuracy(self) -> float:
        """Share of the questions that were answered right."""
        return float(self.right.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy over questions. NaN with one question."""
        count = len(self.right)
        return float(self.right.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


def summarise(name: str, kind: str, runs: Sequence[Sequence[Result | None]]) -> MethodResult:
    """Return a method's results over all questions.

    A run that left nothing behind counts as wrong. Its tokens and calls are not known, so they
    count as the mean of the other runs.

    Args:
        name: The method's name.
        kind: See `MethodResult`.
        runs: Graded results by seed and question, in one order of the questions.
    """
    right = np.array([[r is not None and r.right for r in run] for run in runs], dtype=float)
    done = [r for run in runs for r in run if r is not None]

    def spent(of: Callable[[Result], int]) -> Any:
        usual = float(np.mean([of(r) for r in done])) if done else 0.0
        return np.mean([[usual if r is None else of(r) for r in run] for run in runs], axis=0)

    counts = {
        action: sum(r.actions.get(action, 0) for r in done)
        for action in ("PERSIST", "REFINE", "CONCEDE")
    }
    total = sum(counts.values())
    pairs = [(r.confidence, float(r.right)) for r in done if r.confidence is not None]
    return MethodResult(
        name=name,
        right=right.mean(0),
        tokens=spent(lambda r: r.tokens),
        calls=spent(lambda r: r.calls),
        kind=kind,
        runs=len(runs),
        failed=sum(r is None or r.failed for run in runs for r in run),
        survived=sum(len(r.failures) for r in done if not r.failed),
        spread=float(right.mean(1).std(ddof=1)) if len(runs) > 1 else float("nan"),
        actions={a: n / total for a, n in counts.items()} if total else {},
        confidence=quality(*np.array(pairs, float).T) if pairs else {},
        by_run=right,
        lost=np.array([[r is None or r.failed or r.gaps > 0 for r in run] for run in runs], bool),
        unreported=sum(r.unreported for r in done),
    )


def difference(a: MethodResult, b: MethodResult) -> Interval:
    """Return the paired difference in accuracy, a minus b.

    Its interval is over questions and fits. The runs of two methods are paired by their seeds.
    """
    found = mean_interval(a.right - b.right, np.arange(len(a.right)), samples=4000)
    runs = len(a.table), len(b.table)
    tables = (a.table - b.table,) if 1 in runs or runs[0] == runs[1] else (a.table, b.table)
    return widen_by_fits(found, *tables)


def accuracy_interval(method: MethodResult) -> Interval:
    """Return the accuracy with Wilson's interval over questions, widened by what fits differ."""
    low, high = wilson(method.accuracy, len(method.right))
    found = widen_by_fits(Interval(method.accuracy, low, high, len(method.right)), method.table)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def credited(method: MethodResult) -> MethodResult:
    """Return the results as if every run in which something failed had been right, and free."""
    if method.lost is None or not method.lost.any():
        return method
    table = np.maximum(method.table, method.lost)
    tokens = np.where(method.lost.any(0), 0.0, method.tokens)
    return replace(method, right=table.mean(0), by_run=table, tokens=tokens)


def best_baseline(method: MethodResult, methods: Sequence[MethodResult]) -> MethodResult | None:
    """Return the most accurate baseline that takes no more tokens than `method`."""
    limit = method.tokens.mean()
    rivals = [m for m in methods if m.kind == "baseline" and m.tokens.mean() <= limit]
    return max(rivals, key=lambda m: (m.accuracy, -m.tokens.mean()), default=None)


def _undecided(against: Mapping[str, MethodResult | None], gains: Mapping[str, Interval]) -> str:
    """Return why a router neither passes nor fails: whom it does not surely beat."""
    for key, other in against.items():
        if other is None:
            return "no baseline takes as few tokens" if key == "baseline" else "it has no control"
        if gains[key].low <= 0:
            return f"it is not surely better than {other.name}: {gains[key].short()}"
    return ""


def _beaten(against: Mapping[str, MethodResult | None], gains: Mapping[str, Interval]) -> str:
    """Return why a router fails: than whom it is surely worse."""
    worse = [
        f"{other.name}: {gains[key].short()}"
        for key, other in against.items()
        if other is not None and gains[key].high < 0
    ]
    return f"it is surely worse than {' and '.join(worse)}"


def are_too_few(questions: int) -> bool:
    """Tell whether a gate cannot be judged on so many questions."""
    return questions < LEAST_QUESTIONS


def decide_gate(
    method: MethodResult, methods: Mapping[str, MethodResult]
) -> tuple[str, dict[str, Any]]:
    """Return the gate of a learned router and its evidence.

    It passes if it beats its control and the best baseline at no more tokens, both with lower
    bounds above zero. On fewer than `LEAST_QUESTIONS` questions the gate is unknown. So it is where
    the router would not beat them for sure if the runs in which something failed had been right,
    and where its own tokens are not all known.
    """
    rival = best_baseline(method, list(methods.values()))
    against = {"baseline": rival, "control": methods.get(method.name + CONTROL)}
    gains = {k: difference(method, other) for k, other in against.items() if other is not None}
    evidence: dict[str, Any] = {
        "questions": len(method.right),
        "accuracy": method.accuracy,
        "tokens": float(method.tokens.mean()),
    }
    for key, other in against.items():
        if other is not None:
            gain = gains[key]
            evidence[key] = {"name": other.name, "difference": [gain.mean, gain.low, gain.high]}
    if are_too_few(len(method.right)):
        return "unknown", {**evidence, "why": f"fewer than {LEAST_QUESTIONS} questions"}
    if any(d.high < 0 for d in gains.values()):
        return "fail", {**evidence, "why": _beaten(against, gains)}
    if len(gains) < 2 or any(d.low <= 0 for d in gains.values()):
        return "unknown", {**evidence, "why": _undecided(against, gains)}
    if method.unreported:  # with them, dearer baselines might be rivals
        why = f"the endpoint does not tell all tokens of {method.name}: use one that reports usage"
        return "unknown", {**evidence, "why": why}
    rivals = [best_baseline(method, [*map(credited, methods.values())]), against["control"]]
    for other in rivals:
        if other is not None and difference(method, credited(other)).low <= 0:
            why = f"{other.name} failed on questions that would decide: run again"
            return "unknown", {**evidence, "why": why}
    assert rival is not None  # else there were no two gains
    return "pass", {**evidence, "why": f"it beats its control and {rival.name}"}


def results_table(methods: Sequence[MethodResult]) -> str:
    """Return all methods as a Markdown table, in order of tokens."""
    rows = []
    everything = {m.name: m for m in methods}
    for m in sorted(methods, key=lambda m: m.tokens.mean()):
        rival = best_baseline(m, methods) if m.kind != "baseline" else None
        control = everything.get(m.name + CONTROL)
        rows.append(
            [
                f"**{m.name}**" if m.kind == "learned" else m.name,
                f"{m.accuracy:.3f} ± {m.standard_error:.3f}",
                "" if np.isnan(m.spread) else f"{m.spread:.3f}",
                f"{m.tokens.mean():.0f}",
                f"{m.calls.mean():.1f}",
                ", ".join(f"{a} {s:.0%}" for a, s in m.actions.items()),
                "" if rival is None else f"{difference(m, rival).short(digits=3)} ({rival.name})",
                "" if control is None else difference(m, control).short(digits=3),
                f"{m.confidence['ece']:.3f}" if m.confidence else "",
                m.failed or "",
            ]
        )
    headings = [
        "method", "accuracy ± s.e.", "sd over seeds", "tokens", "calls", "actions",
        "against the best baseline at no more tokens", "against its control",
        "calibration error", "failed",
    ]  # fmt: skip
    filled = [k for k in range(len(headings)) if any(row[k] != "" for row in rows)]
    return table([headings[k] for k in filled], [[row[k] for k in filled] for row in rows])


def describe_failures(methods: Sequence[MethodResult]) -> str:
    """Describe the questions that failed and the calls that were survived. Empty: none."""
    sentences = []
    if failed := [f"{m.name} {m.failed}" for m in methods if m.failed]:
        sentences.append(f"**Questions that failed, and count as wrong: {', '.join(failed)}.**")
    if survived := [f"{m.name} {m.survived}" for m in methods if m.survived]:
        sentences.append(
            "Calls that failed or gave no answer, so that the agent kept its response: "
            f"{', '.join(survived)}."
        )
    return " ".join(sentences)


def intervals_table(methods: Sequence[MethodResult], gains: Mapping[str, Interval]) -> str:
    """Return a Markdown table of accuracies and differences to the first method, with intervals.

    Args:
        methods: All methods.
        gains: The differences, by method.
    """
    first = methods[0]
    rows = []
    for m in methods:
        gain = "" if m is first else gains[m.name].short(digits=3)
        rows.append([m.name, accuracy_interval(m).short("", 3), gain])
    return table(["method", "accuracy [95 %]", f"against {first.name} [95 %]"], rows)


def plot(path: Path, methods: Sequence[MethodResult]) -> None:
    """Draw accuracy against tokens, with standard errors. Marks that lie together share a label."""
    (axis,), done = start_figure(path, 1, width=8.5, height=5.5)
    marks = {"baseline": ("o", "#888888"), "learned": ("*", "#cc3311"), "control": ("x", "#cc3311")}
    for m in methods:
        mark, color = marks.get(m.kind, ("^", "#117733"))
        x = max(1.0, m.tokens.mean())
        axis.errorbar(
            x, m.accuracy, m.standard_error, fmt=mark, color=color, ms=9 if mark == "*" else 5
        )
    axis.set(xscale="log", xlabel="tokens per question (prompt + completion)", ylabel="accuracy")
    axis.margins(x=0.2)  # room for the names
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -0.03), min(max(high, 0.1), 1.03))
    taken: list[Any] = []
    for together in _neighbours(methods):
        names = [m.name for m in together]
        label = axis.annotate(
            "\n".join(", ".join(names[k : k + 3]) for k in range(0, len(names), 3)),
            (max(1.0, together[0].tokens.mean()), together[0].accuracy),
            fontsize=7,
            xytext=(5, 3),
            textcoords="offset points",
        )
        for height in (3, -9, 13, -19, 23, -29):  # the first place where it covers no other name
            label.set_position((5, height))
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(label.get_window_extent())
    done()


def _neighbours(methods: Sequence[MethodResult]) -> list[list[MethodResult]]:
    """Group methods of a kind whose marks cover each other, in order of tokens."""
    groups: list[list[MethodResult]] = []
    for m in sorted(methods, key=lambda m: m.tokens.mean()):
        for group in groups:
            first = group[0]
            near = m.tokens.mean() <= 1.05 * first.tokens.mean()
            if near and m.kind == first.kind and abs(m.accuracy - first.accuracy) <= 0.02:
                group.append(m)
                break
        else:
            groups.append([m])
    return groups
