"""The learned consensus: whom to believe, and how probably the group's answer is right.

An answer c that some agents give has the score

    s(c) = sum over its voices i of (w_i + v·x_i)  +  sum over pairs i < j of its voices of u_ij

and P(c) is the softmax of the scores of all answers given and of one more candidate, "none of them
is right". A pair's term corrects for errors that go together: two models that make the same
mistakes count for less together than apart. ``training/fit_router.py`` fits the weights on graded
traces (a conditional logit, see `training.learn.consensus_fit`). Running it needs no library.

A *voice* is a response that somebody holds, counted for the agent that wrote it. So an agent that
concedes adds no voice of its own: it withdraws the one that it had. Any part of the team may be
silent: who abstains, failed, or was not asked has no voice.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mpdf_langgraph.calibration import log_odds
from mpdf_langgraph.consensus import (
    AGREEMENT,
    ConsensusRule,
    LogOdds,
    Vote,
    make_rule,
    most_probable,
    share_out,
    voices,
)
from mpdf_langgraph.errors import ConfigurationError, RouterError
from mpdf_langgraph.fitted_file import Fitted, explain_invalid
from mpdf_langgraph.risk import RiskCurve

#: Scores beyond this are no weights that a fit gives, and their sums could overflow.
MOST = 1e6
Weight = Annotated[float, Field(ge=-MOST, le=MOST)]


class Shared(Fitted):
    """The weights that all agents share.

    Attributes:
        vote: Of a voice.
        pair: Of a pair of voices.
        known: Of a voice whose confidence is known.
        confidence: Of the log-odds of a calibrated confidence.
        refined: Of a voice that is a refined response.
        refined_pair: Of a pair with a refined response in it.
        none: Score of "none of the answers is right".
        none_per_voice: What every voice adds to that score.
    """

    vote: Weight
    pair: Weight
    known: Weight
    confidence: Weight
    refined: Weight
    refined_pair: Weight
    none: Weight
    none_per_voice: Weight


class LearnedConsensus(Fitted):
    """A fitted consensus, as it stands in a router's folder. `of` makes it a rule for a question.

    Attributes:
        format: Version of the file's format.
        shared: The weights that all agents share. An unknown agent has these alone.
        agents: The agents that it knows, N of them.
        votes: What each agent's voice weighs more than the shared weight, ``[N]``.
        pairs: What each pair weighs more than the shared weight, ``[N, N]``, symmetric.
        categories: What each agent's voice weighs more yet in a category of questions, ``[N]`` by
            category.
        agreement: P(two wrong answers agree) in the traces, for ``consensus="log-odds"``.
        risk: What was found on questions that nothing was fitted on.
    """

    format: Literal[1] = 1
    shared: Shared
    agents: Annotated[tuple[str, ...], Field(max_length=1000)]
    votes: tuple[Weight, ...]
    pairs: tuple[tuple[Weight, ...], ...]
    categories: dict[str, tuple[Weight, ...]] = Field(default_factory=dict)
    agreement: Annotated[float, Field(gt=0, le=1)] = AGREEMENT
    risk: RiskCurve = RiskCurve(())

    @model_validator(mode="after")
    def _check(self) -> "LearnedConsensus":
        size = len(self.agents)
        if len(set(self.agents)) < size:
            raise ValueError("agents must be named once")
        rows = [self.votes, *self.pairs, *self.categories.values()]
        if len(self.pairs) != size or any(len(row) != size for row in rows):
            raise ValueError(f"votes, pairs and categories must fit the {size} agents")
        for i in range(size):
            if self.pairs[i][i] or any(self.pairs[i][j] != self.pairs[j][i] for j in range(i)):
                raise ValueError("pairs must be symmetric, with zeros on the diagonal")
        return self

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "LearnedConsensus":
        """Read a file's content.

        Raises:
            RouterError: It is not a sound consensus. The message names `where` and what is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RouterError(f"{where}: {explain_invalid(error)}") from error

    def of(self, category: str | None = None) -> "QuestionConsensus":
        """Return the rule for a question of a category."""
        return QuestionConsensus(self, category)


@dataclass(frozen=True, eq=False)
class QuestionConsensus:
    """A learned consensus for one question (`ProbabilisticRule`).

    Attributes:
        fitted: The weights.
        category: Of the question. None, or one that is not known: no category's record counts.
    """

    fitted: LearnedConsensus
    category: str | None = None

    def __call__(self, votes: Sequence[Vote]) -> int | None:
        """Return the most probable cluster, as `most_probable` does."""
        return most_probable(votes, self.probabilities(votes))

    def probabilities(self, votes: Sequence[Vote]) -> dict[int, float]:
        """Return P(c) by cluster. What they lack to 1 is P(none of them is right).

        Warns:
            UserWarning: Agents are not known. Each is told once.
        """
        heard = voices(votes)
        _tell_unknown([voice.agent for voice in heard], self.fitted.agents)
        by_cluster: dict[int, list[Vote]] = {}
        for voice in heard:
            by_cluster.setdefault(voice.cluster, []).append(voice)  # type: ignore[arg-type]
        if not by_cluster:
            return {}
        shared = self.fitted.shared
        none = shared.none + shared.none_per_voice * len(heard)
        return share_out({c: self.score(members) for c, members in by_cluster.items()}, none)

    def score(self, members: Sequence[Vote]) -> float:
        """Return s(c) of an answer that these voices give.

        Every response counts once, see `consensus.voices`.
        """
        fitted, shared = self.fitted, self.fitted.shared
        place = _places(fitted.agents)
        record = fitted.categories.get(self.category) if self.category is not None else None
        terms = []
        for k, voice in enumerate(members):
            terms += [shared.vote, shared.refined if voice.refined else 0.0]
            if voice.confidence is not None:
                terms += [shared.known, shared.confidence * log_odds(voice.confidence)]
            if (i := place.get(voice.agent)) is not None:
                terms += [fitted.votes[i], record[i] if record else 0.0]
            for other in members[:k]:
                if other.agent != voice.agent:
                    refined = voice.refined or other.refined
                    terms += [*self.pair(i, place.get(other.agent))]
                    terms.append(shared.refined_pair if refined else 0.0)
        return math.fsum(terms)  # rounded once, so that the order of the team does not matter

    def pair(self, i: int | None, j: int | None) -> tuple[float, float]:
        """Return what a pair of agents weighs: the part of all pairs, and its own.

        An agent is given by its place in the weights, None if it is not known.
        """
        own = 0.0 if i is None or j is None else self.fitted.pairs[i][j]
        return self.fitted.shared.pair, own


@cache
def _places(agents: tuple[str, ...]) -> Mapping[str, int]:
    return {name: i for i, name in enumerate(agents)}


@cache
def _told(known: tuple[str, ...]) -> set[str]:
    """Return the names that were told as unknown beside the known ones."""
    return set()


def _tell_unknown(names: Sequence[str], known: tuple[str, ...]) -> None:
    told = _told(known)
    unknown = [name for name in dict.fromkeys(names) if name not in _places(known)]
    if new := [name for name in unknown if name not in told]:
        told.update(new)
        which = f"agent{'s' if new[1:] else ''} {', '.join(map(repr, new))}"
        warnings.warn(
            f"the learned consensus does not know the {which}: a vote of theirs has the weight "
            f"that all agents share. It was fitted on {', '.join(known) or 'nobody'}. Give the "
            "agents the names that they had in the traces, or fit again",
            stacklevel=2,
        )


# --- the rule of a question, while it runs and from its record ---------------------------------

AnyRule = ConsensusRule | LearnedConsensus


def rule_for(rule: AnyRule, category: str | None) -> ConsensusRule:
    """Return the consensus rule for a question of a category."""
    return rule.of(category) if isinstance(rule, LearnedConsensus) else rule


def describe_rule(name: str, rule: AnyRule) -> dict[str, Any]:
    """Return the options of a trace from which `recorded_rule` makes the rule again."""
    if isinstance(rule, LearnedConsensus):
        return {"consensus": name, "consensus_weights": rule.model_dump(mode="json")}
    if isinstance(rule, LogOdds):
        return {"consensus": name, "agreement": rule.agreement}
    return {"consensus": name}


def recorded_rule(options: Mapping[str, Any], category: str | None) -> ConsensusRule:
    """Return the rule that decided a recorded deliberation, by the options of its trace.

    Raises:
        ConfigurationError: It is a callable, which no record holds.
    """
    name = options.get("consensus")
    try:
        if name == "learned":
            text = json.dumps(options.get("consensus_weights"))
            return LearnedConsensus.from_json(text, "consensus_weights").of(category)
        if name == "log-odds":
            return LogOdds(options.get("agreement", AGREEMENT))
    except RouterError as error:
        raise ConfigurationError(str(error)) from error
    return make_rule(name)[1]
