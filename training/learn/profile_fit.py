"""Fits the profile critic: a logistic curve of how a response looks, on graded traces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpdf_langgraph.consensus import ConsensusName
from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.profile_critic import (
    PROFILE_FEATURES,
    ProfileCritic,
    ProfileCurve,
    profile_features,
)
from mpdf_langgraph.state import Critique, Response, no_usage
from mpdf_langgraph.traces.records import Episode
from training.learn.measures import auroc, fit_logistic
from training.learn.recalibrate import rebuild, with_responses
from training.learn.rewards import Grader, first_hint, rule_of

Array = NDArray[np.float64]

AGENT_SPREAD = 0.5
"""Standard deviation, in log-odds, of the prior of an agent's shift."""
FOLDS = 5
"""Parts of the questions for the AUROC."""


@dataclass(frozen=True)
class Looks:
    """Graded responses: how they look, and whether they are right.

    Attributes:
        features: In the order of `PROFILE_FEATURES`, and last 1 for a refined one, ``[R, F + 1]``.
        agents: ``[R]``.
        question: Number of the question, ``[R]``.
        right: ``[R]`` in {0, 1}.
    """

    features: Array
    agents: list[str]
    question: NDArray[np.int64]
    right: Array


def gather_looks(episodes: Sequence[Episode], grader: Grader) -> Looks:
    """Return the responses with an answer of all episodes that have a reference."""
    rows, agents, questions, right = [], [], [], []
    numbers: dict[str, int] = {}
    for episode in episodes:
        if episode.reference is None:
            continue
        verdicts = [grader(answer, episode.reference) for answer in episode.representatives]
        for response in episode.responses.values():
            cluster = response["cluster"]
            if cluster is None or response["round"] >= first_hint(episode):
                continue
            found = profile_features(episode.question, response)
            looks = [found[name] for name in PROFILE_FEATURES]
            rows.append([*looks, float(response["round"] > 0)])
            agents.append(response["agent"])
            questions.append(numbers.setdefault(episode.question, len(numbers)))
            right.append(float(verdicts[cluster]))
    if len(set(right)) < 2:
        raise ConfigurationError("the traces have no right or no wrong response with a reference")
    return Looks(np.array(rows), agents, np.array(questions), np.array(right))


def fit_profile(looks: Looks) -> ProfileCritic:
    """Fit the curve, and measure its AUROC on held-out questions."""
    places = np.random.default_rng(0).permutation(int(looks.question.max()) + 1) % FOLDS
    fold = places[looks.question]
    scores = np.full(len(looks.right), np.nan)
    for k in range(FOLDS):
        rest, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if len(held) and len(set(looks.right[rest])) == 2:
            scores[held] = _scores(_fit(looks, rest), looks, held)
    curve = _fit(looks, np.arange(len(looks.right)))
    judged = ~np.isnan(scores)
    told = auroc(scores[judged], looks.right[judged].astype(bool))
    found = {"auroc": None if np.isnan(told) else float(told), "responses": len(looks.right)}
    return ProfileCritic(curve.model_copy(update=found))


def _fit(looks: Looks, rows: NDArray[Any]) -> ProfileCurve:
    """Fit by maximum likelihood on standardised features, with an L2 penalty."""
    names = sorted({looks.agents[i] for i in rows.tolist()})
    place = {name: i for i, name in enumerate(names)}
    values = looks.features[rows]
    mean, spread = values.mean(0), values.std(0)
    spread = np.where(spread > 1e-9, spread, np.inf)
    size = values.shape[1]
    x = np.zeros((len(rows), 1 + size + len(names)))
    x[:, 0], x[:, 1 : 1 + size] = 1.0, (values - mean) / spread
    x[np.arange(len(rows)), [1 + size + place[looks.agents[i]] for i in rows.tolist()]] = 1.0
    y = looks.right[rows]
    prior = np.array([10.0, *[2.0] * size, *[AGENT_SPREAD] * len(names)])
    found = fit_logistic(x, y, prior)
    slopes = found[1 : 1 + size] / spread
    return ProfileCurve(
        intercept=float(found[0] - (slopes * mean).sum()),
        weights=dict(zip(PROFILE_FEATURES, slopes[:-1].tolist(), strict=True)),
        refined=float(slopes[-1]),
        agents=dict(zip(names, found[1 + size :].tolist(), strict=True)),
    )


def _scores(curve: ProfileCurve, looks: Looks, rows: NDArray[Any]) -> Array:
    slopes = np.array([*(curve.weights[name] for name in PROFILE_FEATURES), curve.refined])
    own = [curve.agents.get(looks.agents[i], 0.0) for i in rows.tolist()]
    return np.asarray(curve.intercept + looks.features[rows] @ slopes + own)


def with_confidence(episode: Episode, critic: ProfileCritic) -> Episode:
    """Return the episode with this critic's confidence in every response, and nothing else new."""

    def judged(response: Response) -> Response:
        confidence = critic(episode.question, response)
        known = {} if confidence is None else {"profile": confidence}
        verdict = Critique(confidence=confidence, source="profile", scores=known, usage=no_usage())
        return Response({**response, "critique": verdict})

    return with_responses(episode, judged)


def criticise(
    episode: Episode, critic: ProfileCritic, consensus: ConsensusName | None = None
) -> Episode:
    """Return the episode as its graph would have recorded it with this critic.

    What was done stays done, as in `recalibrate`. `consensus` decides in place of the episode's own
    rule. A callable of the user's own is in no record, so its tallies stay.
    """
    options = {**episode.options, "critic": "profile"}
    if consensus is not None:
        options["consensus"] = consensus
    changed = with_confidence(episode, critic).model_copy(update={"options": options})
    try:
        return rebuild(changed, rule_of(changed))
    except ConfigurationError:
        return changed
