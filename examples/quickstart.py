"""Three agents, each knowing something the others don't, deliberate over real questions.

    python examples/quickstart.py                                       # the bundled model
    python examples/quickstart.py --base-url http://localhost:8000/v1   # an OpenAI-like server

First it asks a handful of questions as a person would like to read them. Then it asks many
questions under four routers side by side. The questions are from the test split. The threshold's
two numbers were chosen on validation questions, and the learned router was fitted on training
questions (`reproduce.py`). Both are for the bundled model: under another they are a guess.
"""

import asyncio
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from tqdm import tqdm

from examples.tiny_lm.prompts import PROMPTS, PROPOSE_TEMPERATURE
from examples.tiny_lm.questions import make_questions
from mpdf_langgraph import (
    Agent,
    Episode,
    MathAnswer,
    MPDFError,
    Prompts,
    ThresholdRouter,
    check_endpoint,
    create_deliberation,
    load_router,
    vllm_chat_model,
)
from training.collect.asking import for_each
from training.command import run_command

ROOT = Path(__file__).resolve().parents[1]
MATH = MathAnswer()
ROUTER = ROOT / "examples" / "tiny_lm" / "router"
KEYS = ("question", "reference", "contexts")
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "always-persist": {"router": "always-persist", "critic": None, "consensus": "majority"},
    "always-refine": {
        "router": "always-refine", "critic": None, "consensus": "majority",
        "stop_when_settled": False,
    },
    # By the calibration that lies with the fitted router, confidences are probabilities: an answer
    # is trusted that is more probably right than not.
    "threshold": {
        "router": ThresholdRouter(bar=0.5, gap=0.0), "calibration": ROUTER, "critic": "logprob",
        "consensus": "confidence",
    },
    "learned": {"router": ROUTER, "critic": "logprob", "consensus": "confidence"},
}  # fmt: skip
MEANING = {
    "always-persist": "plain vote of three",
    "always-refine": "classical debate",
    "threshold": "deliberation by a rule",
    "learned": "deliberation, SoftRankPO",
}


@dataclass
class QuickstartOptions:
    """Options of the quickstart."""

    base_url: str | None = None
    """An OpenAI-compatible server. Without one the bundled model runs in process."""
    model: str | None = None
    """The served model's name. It is not needed where the server serves only one."""
    api_key: str | None = None
    """Key for the server, if it wants one."""
    prompts: str = "auto"
    """`tiny` (the bundled model's compact prompts), `default`, or `auto`: tiny where the model
    runs in process or is served as "tiny"."""
    show: int = 4
    """Questions to show in full, with 0, 1, 2 and 3 owners of missing facts in turn."""
    questions: int = 100
    """Questions in the comparison."""
    rounds: int = 2
    """Rounds of decisions at most."""
    concurrency: int = 32
    """Deliberations at a time."""
    traces: Path = Path("runs/quickstart")
    """Folder for the traces, one subfolder per router."""


def team(llm: BaseChatModel, prompts: Prompts) -> list[Agent]:
    """Three agents of one model. What sets them apart is what each of them knows."""
    temperature = PROPOSE_TEMPERATURE if prompts is PROMPTS else 1.0
    return [
        Agent(
            f"agent-{number}",
            llm,
            prompts=prompts,
            sampling={"temperature": temperature, "max_tokens": 200},
        )
        for number in (1, 2, 3)
    ]


def configuration(name: str) -> dict[str, Any]:
    """The options of `create_deliberation` by name in the table, with what lies in a folder."""
    options = dict(CONFIGURATIONS[name])
    if options["router"] == ROUTER:
        options["router"] = load_router(ROUTER)
    if "calibration" in options:
        options["calibration"] = load_router(ROUTER).calibration
    return options


def is_right(answer: str | None, reference: str) -> bool:
    """The one grader of this script. No answer is a wrong answer."""
    return answer is not None and MATH.equivalent(answer, reference)


def show(console: Console, episode: Episode) -> None:
    """Print one deliberation: who held what in every round, and who moved how."""
    table = Table(show_lines=True)
    table.add_column("agent", min_width=28)
    for heading in ["proposes", *(f"round {r}" for r in range(1, len(episode.tallies)))]:
        table.add_column(heading, min_width=14)
    held: dict[str, str | None] = {}
    for agent in (described["name"] for described in episode.agents):
        held[agent] = f"{agent}@0" if f"{agent}@0" in episode.responses else None
        cells = [cell(episode, held[agent])]
        for turn in (turn for turn in episode.turns if turn["agent"] == agent):
            held[agent] = turn["after"]
            action = turn["action"]
            if action == "CONCEDE" and turn["target"]:
                action += f" to {turn['target'].split('@')[0]}"
            cells.append(f"{cell(episode, held[agent])}\n[dim]{action}[/dim]")
        knows = episode.contexts.get(agent, "nothing of its own")
        table.add_row(f"[bold]{agent}[/bold]\n[dim]knows: {knows}[/dim]", *cells)
    outcome, usage = episode.outcome, episode.outcome["usage"]["total"]
    right = is_right(outcome["answer"], str(episode.reference))
    verdict = "[green]right[/green]" if right else f"[red]wrong, it is {episode.reference}[/red]"
    console.print(Panel(episode.question, title="question", title_align="left"))
    console.print(table)
    console.print(
        f"consensus: [bold]{outcome['answer']}[/bold], {verdict}; "
        f"stopped: {outcome['stop_reason']}; {usage['calls']} calls, {usage['tokens']} tokens\n"
    )


def cell(episode: Episode, response_id: str | None) -> str:
    """One response in a table cell: its answer, its confidence, and whether it is guessed."""
    if response_id is None:
        return "[red]failed[/red]"
    response = episode.responses[response_id]
    confidence = response["critique"]["confidence"] if response["critique"] else None
    color = "green" if is_right(response["answer"], str(episode.reference)) else "red"
    said = f"[{color}]{response['answer'] or 'no answer'}[/{color}]"
    guessed = ", guessed" if response["profile"]["hedges"] else ""
    return said if confidence is None else f"{said} ({confidence:.2f}{guessed})"


async def ask_all(graph: Any, questions: list[dict[str, Any]], concurrency: int, label: str) -> Any:
    """Run all questions, a few at a time. Return every outcome, None where one failed."""

    async def ask(question: dict[str, Any]) -> dict[str, Any] | None:
        try:
            state = await graph.ainvoke({key: question[key] for key in KEYS})
        except MPDFError as error:
            tqdm.write(f"{question['id']}: {error}", file=sys.stderr)
            return None
        return state["deliberation"]

    return await for_each(
        questions,
        ask,
        concurrency=concurrency,
        label=f"{label:15}",
        has_failed=lambda outcome: outcome is None,
    )


def summary_row(name: str, questions: list[dict[str, Any]], outcomes: Any) -> list[str]:
    """One line of the comparison: accuracy with its standard error, and what it cost."""
    count = len(questions)
    pairs = list(zip(questions, outcomes, strict=True))
    right = sum(o is not None and is_right(o["answer"], q["reference"]) for q, o in pairs)
    accuracy = right / count
    error = math.sqrt(accuracy * (1 - accuracy) / count)
    done = [o for o in outcomes if o is not None]
    tokens = sum(o["usage"]["total"]["tokens"] for o in done) / max(1, len(done))
    calls = sum(o["usage"]["total"]["calls"] for o in done) / max(1, len(done))
    rounds = sum(o["rounds"] for o in done) / max(1, len(done))
    survived = sum(len(o["failures"]) for o in done)
    return [
        f"{name} ({MEANING[name]})",
        f"{accuracy:.3f} ± {error:.3f}",
        f"{tokens:.0f}",
        f"{calls:.1f}",
        f"{rounds:.2f}",
        f"{count - len(done)} + {survived}",
    ]


def compare(graphs: dict[str, Any], questions: list[dict[str, Any]], concurrency: int) -> Table:
    """Ask every graph all questions. Return the comparison, a line each."""
    table = Table("router", "accuracy ± s.e.", "tokens", "calls", "rounds", "failed + survived")
    for name, graph in graphs.items():
        outcomes = asyncio.run(ask_all(graph, questions, concurrency, name))
        table.add_row(*summary_row(name, questions, outcomes))
    return table


def load_model(options: QuickstartOptions, console: Console) -> tuple[BaseChatModel, Prompts]:
    """The model that was asked for, and the prompts that suit it."""
    if options.base_url is None:
        from examples.tiny_lm.chat_model import make  # needs torch, which a server's user may lack

        llm: BaseChatModel = make()
        console.print("model: the bundled one, in process")
        return llm, Prompts() if options.prompts == "default" else PROMPTS
    status = check_endpoint(options.base_url, options.model, api_key=options.api_key)
    console.print(status.message)
    if not status.ok:
        sys.exit(1)
    chat = vllm_chat_model(options.base_url, options.model, api_key=options.api_key)
    tiny = options.prompts == "tiny" or (options.prompts == "auto" and chat.model_name == "tiny")
    return chat, PROMPTS if tiny else Prompts()


def main(options: QuickstartOptions) -> None:
    """Show a few deliberations, then compare four routers."""
    console = Console()
    llm, prompts = load_model(options, console)
    agents = team(llm, prompts)
    questions = make_questions("hidden", "test", max(options.questions, 50))

    def build(name: str) -> Any:
        return create_deliberation(
            agents,
            answer=MATH,
            max_rounds=options.rounds,
            traces=options.traces / name,
            **configuration(name),
        ).compile()

    console.rule("A few deliberations, learned router")
    graph = build("learned")
    for number in range(options.show):
        fitting = [q for q in questions if q["owners"] == number % 4]
        question = fitting[number // 4]
        given = {key: question[key] for key in KEYS}
        *_, state = graph.stream(given, stream_mode="values")
        show(console, Episode.from_state(state))

    console.rule(f"{options.questions} questions, four routers")
    graphs = {router: build(router) for router in CONFIGURATIONS}
    console.print(compare(graphs, questions[: options.questions], options.concurrency))
    console.print(
        "tokens, calls and rounds are means per question; tokens are prompt + completion, the "
        "critic's included;\nfailed questions count as wrong, survived are errors within "
        f"deliberations that went on.\ntraces: {options.traces}/"
    )


if __name__ == "__main__":
    run_command(main, QuickstartOptions, __doc__)
