r"""Which critic tells right answers from wrong ones? Compared on stored responses.

    python -m training.studies.critics --traces traces/ --out runs/critics
    python -m training.studies.critics --traces traces/ --base-url http://localhost:8001/v1 \
        --out runs/critics

The first command makes no call. It compares the scores that the traces hold, the agreement of the
team, and a profile critic that is fitted on other questions. The second one also asks a judge: a
model that says yes or no to every stored response. It sees the question and the response, never a
private context.

The judge's verdicts stand as confidence in copies of the episodes, in `traces/` of the folder
`--out`. Every other command can learn from these, as if the judge had been there. An episode is
finished once its copy is written, so the same command goes on where it was stopped.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from numpy.typing import NDArray
from scipy.special import expit
from tqdm import tqdm

from mpdf_langgraph import (
    Agent,
    EndpointError,
    Episode,
    MPDFError,
    TraceReader,
    TraceWriter,
    check_endpoint,
    vllm_chat_model,
)
from mpdf_langgraph.calibration import STAGES, log_odds, raw_confidence, stage_of
from mpdf_langgraph.consensus import Vote, confidence_weighted
from mpdf_langgraph.critic import SelfCritic, Subject
from mpdf_langgraph.errors import ConfigurationError, describe_error
from mpdf_langgraph.history import with_question
from mpdf_langgraph.runtime.budget import is_alternative
from mpdf_langgraph.runtime.calls import arun, merge_steps
from mpdf_langgraph.state import Allowance, Response, tokens
from training.collect.asking import for_each
from training.collect.files import keep_settings
from training.collect.team import Answer, remembering_grader
from training.command import check_least, run_command, write_results
from training.learn.dataset import check_answer
from training.learn.display import table
from training.learn.measures import auroc, fit_logistic, mean_interval
from training.learn.profile_fit import fit_profile, gather_looks
from training.learn.recalibrate import rebuild, with_responses
from training.learn.rewards import Grader, rule_of

Array = NDArray[np.float64]

RECORDED, JUDGE, PROFILE, AGREEMENT = "recorded", "judge", "profile", "agreement"
"""Critics beside the further scores that the traces hold."""
LEAST = 4
"""Questions that a fold has at least."""
SPREAD = np.array([10.0, 10.0])
"""Standard deviations of the priors of a calibration's shift and slope."""


@dataclass
class CriticsOptions:
    """Options of the comparison."""

    traces: tuple[Path, ...]
    """Folders of traces (or single segments)."""
    base_url: str | None = None
    """The server of the judge. Default: no model is asked."""
    model: str | None = None
    """The judge's served name. It may be left out if the server serves only one model."""
    api_key: str | None = None
    """Key for the server, if it needs one."""
    reasoning_tokens: int = 0
    """Longest check that the judge writes before its verdict. 0: the verdict alone."""
    timeout: float = 300.0
    """A call fails after so many seconds without a byte from the server."""
    concurrency: int = 16
    """Episodes that are judged at a time, each with all its responses."""
    out: Path = Path("runs/critics")
    """Folder for `results.md`, and for `traces/` with the judge's verdicts."""
    answer: Answer = "math"
    """How answers are compared with references. Code runs in a sandbox."""
    folds: int = 5
    """Parts that the questions are split into. What is fitted for one comes from the others."""


# --- asking a judge -----------------------------------------------------------------------------


def open_judge(options: CriticsOptions) -> BaseChatModel:
    """Check the judge's server, and return the judge.

    Raises:
        EndpointError: The server cannot be used.
    """
    assert options.base_url is not None
    status = check_endpoint(options.base_url, options.model, api_key=options.api_key)
    if not status.ok:
        raise EndpointError(status.message)
    print(status.message)
    return vllm_chat_model(
        options.base_url,
        options.model or status.models[0],
        api_key=options.api_key,
        timeout=options.timeout,
    )


async def judge(episode: Episode, model: BaseChatModel, critic: SelfCritic) -> Episode:
    """Return the episode as its graph would have recorded it with this judge for a critic.

    What was done stays done, as in `recalibrate`.

    Raises:
        MPDFError: A response got no verdict.
    """
    agent = Agent("judge", model)
    parts = [
        critic.critique(
            Subject(
                question=episode.question,
                response=response,
                agent=agent,
                conversation=with_question([], episode.question),
                allowance=Allowance(calls=None, tokens=None, deadline=None),
                config=RunnableConfig(),
            )
        )
        for response in episode.responses.values()
    ]
    found = await arun(merge_steps(parts), RunnableConfig())
    for one in found:
        if one.critique["confidence"] is None:
            raise MPDFError(next(iter(one.errors), "the judge gives no verdicts"))
    verdicts = dict(zip(episode.responses, found, strict=True))
    options = {key: value for key, value in episode.options.items() if key != "calibration"}
    judged = with_responses(
        episode.model_copy(update={"options": {**options, "critic": critic.name}}),
        lambda response: Response({**response, "critique": verdicts[response["id"]].critique}),
    )
    return rebuild(judged, rule_of(episode))


def judge_all(options: CriticsOptions, episodes: Sequence[Episode]) -> dict[str, Episode]:
    """Return the judged copies of the episodes by id, and write those that are missing.

    Raises:
        ConfigurationError: The copies would lie among the episodes, or are those of another judge.
        EndpointError: The judge's server cannot be used.
    """
    for path in options.traces:
        if (options.out / "traces").resolve().is_relative_to(path.resolve()):
            raise ConfigurationError(
                f"--out {options.out} is inside {path}, where the copies would take the place of "
                "the episodes: give another --out"
            )
    model = open_judge(options)
    critic = SelfCritic("model", judge=model, reasoning_tokens=options.reasoning_tokens)
    folder = options.out / "traces"
    with closing(TraceWriter(folder)) as writer:
        settings = {"judge": options.model or getattr(model, "model_name", None)}
        settings["reasoning_tokens"] = options.reasoning_tokens
        keep_settings(options.out / "critics.json", settings, "Use another --out.")
        wanted = {episode.id for episode in episodes}
        judged = {one.id: one for one in TraceReader(folder) if one.id in wanted}
        todo = [episode for episode in episodes if episode.id not in judged]
        print(f"{len(episodes)} episodes, {len(judged)} of them judged already")

        async def work(episode: Episode) -> str | None:
            try:
                judged[episode.id] = await judge(episode, model, critic)
                writer.write(judged[episode.id])
            except MPDFError as error:
                judged.pop(episode.id, None)
                return describe_error(error)
            return None

        done = for_each(todo, work, concurrency=options.concurrency, label="judge", has_failed=bool)
        errors = [error for error in asyncio.run(done) if error is not None]
    if errors:
        print(f"{len(errors)} episodes could not be judged: the same command asks for them again")
        print(f"  the first: {errors[0]}")
    return judged


# --- comparing ----------------------------------------------------------------------------------


@dataclass
class Stage:
    """The responses of one kind that have an answer.

    Attributes:
        episode: Number of the episode, ``[R]``.
        question: Number of the question, ``[R]``.
        right: In {0, 1}, ``[R]``.
        clusters: Number of the answer, ``[R]``.
        scores: By critic, ``[R]``. NaN where it is unknown.
        tokens: By critic, what its verdict took, ``[R]``.
        asked: Number of the question of every episode, those without an answer too, ``[E]``.
    """

    episode: NDArray[np.int64]
    question: NDArray[np.int64]
    right: Array
    clusters: list[int]
    scores: dict[str, Array]
    tokens: dict[str, Array]
    asked: NDArray[np.int64]

    def pairs(self, critic: str) -> tuple[Array, NDArray[np.int64]]:
        """Compare each right response with each wrong one to the same question.

        Return whether the right one scores higher (a tie is 1/2), and the question, ``[pairs]``.
        """
        rows = defaultdict[int, list[int]](list)
        for row, number in enumerate(self.question.tolist()):
            rows[number].append(row)
        above, of = [np.zeros(0)], [np.zeros(0, int)]
        for number, here in rows.items():
            score, right = self.known(critic)[here], self.right[here] > 0
            gap = (score[right][:, None] - score[~right]).ravel()
            above.append((np.sign(gap) + 1) / 2)
            of.append(np.full(len(gap), number))
        return np.concatenate(above), np.concatenate(of)

    def known(self, critic: str) -> Array:
        """Return a critic's scores ``[R]``. An unknown one counts as 0, as in the graph."""
        return np.nan_to_num(self.scores[critic])

    def calibrated(self, critic: str, fold: NDArray[np.int64]) -> Array:
        """Return P(right) by a curve of the scores that other folds have fitted, ``[R]``."""
        x = np.array([[1.0, log_odds(score)] for score in self.known(critic).tolist()])
        place, found = fold[self.question], np.zeros(len(x))
        for k in np.unique(place):
            here, rest = place == k, place != k
            found[here] = expit(x[here] @ fit_logistic(x[rest], self.right[rest], SPREAD))
        return found

    def vote(self, confidence: Array) -> Array:
        """Let each team vote by confidence. Return whether it is right, ``[E]``.

        A team without an answer is wrong. Each agent must have one response at most.
        """
        teams = defaultdict[int, list[int]](list)
        for row, number in enumerate(self.episode.tolist()):
            teams[number].append(row)
        right = np.zeros(len(self.asked))
        for number, rows in teams.items():
            votes = [Vote(str(i), self.clusters[i], float(confidence[i])) for i in rows]
            winner = confidence_weighted(votes)
            right[number] = max(self.right[i] for i in rows if self.clusters[i] == winner)
        return right


def scores_of(response: Response, among: Sequence[Response]) -> dict[str, float]:
    """Return what is known of a stored response, by critic: the recorded confidence first.

    `among` are the answers of its round, one for each agent, for the agreement.
    """
    found = {}
    if (critique := response["critique"]) is not None:
        if (confidence := raw_confidence(critique)) is not None:
            found[RECORDED] = confidence
        others = critique["scores"].items()
        found |= {name: score for name, score in others if name != critique["source"]}
    same = [one["cluster"] == response["cluster"] for one in among]
    return {**found, AGREEMENT: sum(same) / max(1, len(same))}


def gather(
    episodes: Sequence[Episode], judged: Mapping[str, Episode], grader: Grader, folds: int
) -> tuple[dict[str, Stage], NDArray[np.int64]]:
    """Return the responses by stage, and the fold of each question."""
    numbers = {q: i for i, q in enumerate(dict.fromkeys(e.question for e in episodes))}
    fold = np.random.default_rng(0).permutation(len(numbers)) % folds
    profiles = [
        fit_profile(gather_looks([e for e in episodes if fold[numbers[e.question]] != k], grader))
        for k in range(folds)
    ]
    rows = defaultdict[str, list[tuple[Any, ...]]](list)
    for place, episode in enumerate(episodes):
        question = numbers[episode.question]
        profile, copy = profiles[fold[question]], judged.get(episode.id)
        answered = [r for r in episode.responses.values() if r["cluster"] is not None]
        for response in answered:
            followed = [r for r in answered if not is_alternative(r)]
            among = [r for r in followed if r["round"] == response["round"]]
            scores = scores_of(response, among)
            critique = response["critique"]
            spent = {RECORDED: tokens(critique["usage"])} if critique else {}
            if (look := profile(episode.question, response)) is not None:
                scores[PROFILE] = look
            if copy is not None and (told := copy.responses[response["id"]]["critique"]):
                scores[JUDGE] = float(told["confidence"] or 0)
                spent[JUDGE] = tokens(told["usage"])
            right = float(grader(str(response["answer"]), str(episode.reference)))
            rows[stage_of(response)].append(
                (place, question, right, response["cluster"], scores, spent)
            )
    asked = np.array([numbers[episode.question] for episode in episodes])
    return {stage: _stage(rows[stage], asked) for stage in STAGES if rows[stage]}, fold


def _stage(rows: Sequence[tuple[Any, ...]], asked: NDArray[np.int64]) -> Stage:
    place, question, right, clusters, scores, spent = zip(*rows, strict=True)
    names = sorted({name for one in scores for name in one}, key=lambda n: (n != RECORDED, n))
    return Stage(
        np.array(place),
        np.array(question),
        np.array(right),
        list(clusters),
        {name: np.array([one.get(name, np.nan) for one in scores]) for name in names},
        {name: np.array([one.get(name, 0) for one in spent], float) for name in names},
        asked,
    )


def compare(options: CriticsOptions) -> str:
    """Compare the critics, write the tables, and return them."""
    check_least(options, folds=2, concurrency=1, reasoning_tokens=0)
    if options.base_url is None and (options.model or options.reasoning_tokens):
        raise ConfigurationError("--model and --reasoning-tokens are the judge's: give --base-url")
    check_answer(options.traces, options.answer)
    grader = remembering_grader(options.answer)
    reader = TraceReader(options.traces)
    found = list(tqdm(reader, desc="read traces", unit="episode", leave=False, delay=1))
    episodes = [episode for episode in found if episode.reference is not None]
    read = (
        f"{len(episodes)} episodes. Left out: {len(found) - len(episodes)} without a reference, "
        f"{reader.counts['skipped']} that cannot be read"
    )
    questions = len({episode.question for episode in episodes})
    if questions < LEAST * options.folds:
        raise ConfigurationError(
            f"{questions} questions are too few for {options.folds} folds. Read: {read}"
        )
    judged = {} if options.base_url is None else judge_all(options, episodes)
    if options.base_url is not None:
        read += f", {len(episodes) - len(judged)} that the judge gave no verdict on"
        episodes = [episode for episode in episodes if episode.id in judged]
    if not episodes:
        raise MPDFError("the judge gave no verdict on any episode: see above")
    stages, fold = gather(episodes, judged, grader, options.folds)
    text = f"{len(fold)} questions, {options.folds} folds. {read}.\n"
    for name, stage in stages.items():
        share = f"{len(stage.right)} responses with an answer, {stage.right.mean():.3f} right"
        rows = format_stage(stage, name, fold)
        text += f"\n## Responses that were {name}\n\n{share}.\n\n{rows}\n"
    write_results(options.out, text)
    return text


def format_stage(stage: Stage, name: str, fold: NDArray[np.int64]) -> str:
    """Return the table of one stage. Proposals vote. Of refined responses an agent has several."""
    first = next(iter(stage.scores))
    base, _ = stage.pairs(first)
    rows = []
    for critic, scores in stage.scores.items():
        pairs, of = stage.pairs(critic)
        row = [critic, f"{auroc(stage.known(critic), stage.right):.3f}"]
        row += _compared(pairs, None if critic == first else base, of)
        if name == STAGES[0]:
            voted, against = (stage.vote(stage.calibrated(c, fold)) for c in (critic, first))
            row += _compared(voted, None if critic == first else against, stage.asked)
        known = ~np.isnan(scores)
        rows.append([*row, f"{stage.tokens[critic].mean():.0f}", f"{known.mean():.0%}"])
    heading = ["critic", "AUROC", "within a question", f"− {first}"]
    heading += ["vote by it", f"− {first}"] if name == STAGES[0] else []
    return table([*heading, "tokens a verdict", "known"], rows)


def _compared(values: Array, base: Array | None, question: NDArray[Any]) -> list[str]:
    """Return a mean, and its difference to another one, with intervals over questions."""
    gap = "=" if base is None else mean_interval(values - base, question).short(digits=3)
    return [mean_interval(values, question).short("", 3), gap]


if __name__ == "__main__":
    run_command(compare, CriticsOptions, __doc__)
