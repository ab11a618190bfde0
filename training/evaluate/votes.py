"""The methods that only need proposals, computed from one pool of samples per question.

A vote of k is the graph with k agents that always persist. It makes no decision, so it follows
exactly from the first k proposals of a larger vote (a test compares the two). A plain vote is that
graph without a critic, if the critic has to be asked.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from mpdf_langgraph import Episode
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import (
    ConsensusRule,
    Vote,
    concession,
    confidence_weighted,
    confidence_weights,
    majority,
)
from mpdf_langgraph.recruiting import Stand, overturn_probability
from mpdf_langgraph.rounds import after_move
from mpdf_langgraph.state import (
    Critique,
    Failure,
    Response,
    Usage,
    add_usage,
    no_usage,
    tokens,
)


@dataclass(frozen=True)
class Result:
    """The result of a method on one question.

    Attributes:
        answer: The group's answer. None: it has none.
        tokens: Prompt and completion tokens, the critic's included where the method reads it.
        calls: LLM calls.
        actions: How often each action was taken. Empty for a method without actions.
        failed: No call gave a response.
        confidence: The highest confidence of those who give the answer. None: unknown.
        failures: A line for everything that went wrong, survived or not.
        unreported: Calls that gave a reply without its tokens. They are not in `tokens`.
        gaps: Proposals and refinements that failed.
        proposals: Proposals that were asked for, each once however often it was retried. None: they
            were not counted.
        right: Whether the answer is right, once it is graded.
    """

    answer: str | None
    tokens: int
    calls: int
    actions: dict[str, int]
    failed: bool = False
    confidence: float | None = field(default=None, compare=False)
    failures: tuple[str, ...] = field(default=(), compare=False)
    unreported: int = field(default=0, compare=False)
    gaps: int = field(default=0, compare=False)
    proposals: int | None = field(default=None, compare=False)
    right: bool = field(default=False, compare=False)


def usage_of(episode: Episode, agents: Collection[str], *, judged: bool = True) -> Usage:
    """Return the usage of some agents of an episode, failures and critiques included.

    Without `judged`, critiques are not, as nobody reads them.
    """
    parts = [f["usage"] for f in failures_of(episode, agents, judged=judged)]
    for response in episode.responses.values():
        if response["agent"] in agents:
            parts.append(response["usage"])
            if judged and response["critique"] and not _is_extra(response["critique"]):
                parts.append(response["critique"]["usage"])
    return add_usage(no_usage(), *parts)


def failures_of(episode: Episode, agents: Collection[str], *, judged: bool = True) -> list[Failure]:
    """Return the failures of some agents. Without `judged`, those of critiques are none."""
    those = [f for f in episode.failures if f["agent"] in agents]
    return those if judged else [f for f in those if f["stage"] != "critique"]


def _is_extra(critique: Critique) -> bool:
    """Tell whether a verdict was asked for beside the confidence, the sequence probability.

    Only a learned router uses that verdict, as part of its observations.
    """
    return critique["source"] == "logprob"


def ballot(
    responses: Sequence[Response | None],
    names: Sequence[str] | None = None,
    *,
    judged: bool = True,
) -> list[Vote]:
    """Return the votes of some responses, one per agent.

    Where the confidence is the agreement within the whole pool it counts as unknown, because a
    smaller vote has not drawn the other samples.

    Args:
        responses: In the order of the agents.
        names: Of the agents. None: they are numbered, and each holds its own response.
        judged: Confidences that took calls are known.
    """
    votes = []
    for number, response in enumerate(responses):
        critique = response["critique"] if response else None
        known = critique is not None and critique["source"] != "agreement"
        if critique is not None and critique["usage"]["calls"] and not _is_extra(critique):
            known = known and judged
        author = response["agent"] if response and names else None
        votes.append(
            Vote(
                names[number] if names else str(number),
                response["cluster"] if response else None,
                critique["confidence"] if critique and known else None,
                None if author is None or author == names[number] else author,  # type: ignore[index]
            )
        )
    return votes


def _names(pool: Episode) -> list[str]:
    return [agent["name"] for agent in pool.agents]


def _proposals(pool: Episode, agents: Sequence[str]) -> list[Response | None]:
    return [pool.responses.get(f"{name}@0") for name in agents]


def _result(
    pool: Episode,
    held: Sequence[Response | None],
    rule: ConsensusRule,
    used: Collection[str],
    names: Sequence[str] | None = None,
    *,
    judged: bool = True,
) -> Result:
    votes = ballot(held, names, judged=judged)
    cluster = rule(votes)
    backing = [v.confidence for v in votes if v.cluster == cluster and v.confidence is not None]
    usage = usage_of(pool, used, judged=judged)
    failures = failures_of(pool, used, judged=judged)
    return Result(
        answer=None if cluster is None else pool.representatives[cluster],
        tokens=tokens(usage),
        calls=usage["calls"],
        actions={},
        failed=not any(held),
        confidence=max(backing, default=None) if cluster is not None else None,
        failures=tuple(f["error"] for f in failures),
        unreported=usage["unreported"],
        gaps=count_gaps(failures),
        proposals=len(used),
    )


def vote(k: int, rule: ConsensusRule = majority) -> Callable[[Episode], Result]:
    """Return the vote of the first k proposals (self-consistency, Wang et al. 2022).

    A plain majority asks no critic. It reads confidences, for ties, where they cost no call.
    """

    def method(pool: Episode) -> Result:
        agents = _names(pool)[:k]
        return _result(pool, _proposals(pool, agents), rule, agents, judged=rule is not majority)

    return method


def weighted_vote(k: int) -> Callable[[Episode], Result]:
    """Return the confidence-weighted vote of the first k proposals."""
    return vote(k, confidence_weighted)


def best_of(k: int) -> Callable[[Episode], Result]:
    """Return the most confident of the first k proposals, the first of them at a tie.

    Their plain vote where no proposal has a confidence.
    """

    def most_confident(votes: Sequence[Vote]) -> int | None:
        known = [v for v in votes if v.cluster is not None and v.confidence is not None]
        return max(known, key=lambda v: v.confidence or 0.0).cluster if known else majority(votes)

    return vote(k, most_confident)


def member(
    place: int, team: int, method: Callable[[Episode], Result]
) -> Callable[[Episode], Result]:
    """Return a method on the proposals of one member of the team alone.

    Args:
        place: The member's, from 0.
        team: Size of the team, whose members proposed in turn.
        method: What to do with them.
    """
    return lambda pool: method(pool.model_copy(update={"agents": pool.agents[place::team]}))


def adaptive(share: float, least: int = 3, most: int = 15) -> Callable[[Episode], Result]:
    """Return adaptive resampling: draw until the confidence-weighted vote is settled.

    Adaptive consistency (Aggarwal et al. 2023) with confidences as weights.

    Args:
        share: The vote is settled once the leading answer has this share of the summed
            confidence.
        least: Proposals drawn at first.
        most: Proposals drawn at most.
    """

    def is_settled(votes: Sequence[Vote]) -> bool:
        leader = confidence_weighted(votes)
        if leader is None:
            return False
        weights = confidence_weights(votes)
        backing = sum(weights[v.agent] for v in votes if v.cluster == leader)
        return backing >= share * sum(weights.values())

    return _draw_until(is_settled, least, most, confidence_weighted)


def adaptive_consistency(certainty: float = 0.95, most: int = 15) -> Callable[[Episode], Result]:
    """Return adaptive consistency (Aggarwal et al., "Let's Sample Step by Step", 2023).

    It draws until the leading answer is the more frequent one of the first two with this
    certainty, that is until 1 - I_1/2(v1 + 1, v2 + 1) is above it. I is the regularised incomplete
    beta function, v1 and v2 are the votes of the two.

    Args:
        certainty: The paper has .95.
        most: Proposals drawn at most.
    """

    def is_certain(votes: Sequence[Vote]) -> bool:
        counts = Counter(v.cluster for v in votes if v.cluster is not None).most_common(2)
        first, second, *_ = [*(n for _, n in counts), 0, 0]
        return 1 - overturn_probability(Stand(first, second)) > certainty

    return _draw_until(is_certain, 1, most, majority)


def early_stopping(window: int, most: int = 15) -> Callable[[Episode], Result]:
    """Return early-stopping self-consistency (Li et al., "Escape Sky-high Cost", 2024).

    It draws windows of proposals, until all of one window agree.

    Args:
        window: Proposals in a window.
        most: Proposals drawn at most.
    """

    def agrees(votes: Sequence[Vote]) -> bool:
        last = {vote.cluster for vote in votes[-window:]}
        return len(votes) % window == 0 and len(last) == 1 and None not in last

    return _draw_until(agrees, window, most, majority)


def _draw_until(
    is_enough: Callable[[Sequence[Vote]], bool], least: int, most: int, rule: ConsensusRule
) -> Callable[[Episode], Result]:
    """Return the vote of as many proposals as it takes: `least` at first, then one by one."""

    def method(pool: Episode) -> Result:
        agents = _names(pool)[:most]
        ballots = ((k, ballot(_proposals(pool, agents[:k]))) for k in range(least, len(agents)))
        enough = next((k for k, votes in ballots if is_enough(votes)), len(agents))
        return vote(enough, rule)(pool)

    return method


def replay_with_fresh_samples(episode: Episode, pool: Episode, rule: ConsensusRule) -> Result:
    """Replay an episode's decisions with every REFINE replaced by a fresh proposal.

    This is the control: where it does as well, refining was worth no more than another sample that
    is drawn as coolly as a refinement. At first the agents hold their proposals from the pool.
    CONCEDE adopts the strongest of the responses that are held in the replay.

    Args:
        episode: The deliberation whose decisions are replayed.
        pool: From `Bench.draw_fresh`: a vote of more agents on the same question, at least one for
            every agent and round.
            Agents at the same place in the team's turn (1, 4, 7, ... for the first of three) have
            the same information. Its confidences are calibrated as the episode's were.
        rule: How votes are counted.
    """
    team, crowd = _names(episode), _names(pool)
    waiting = {name: crowd[place :: len(team)] for place, name in enumerate(team)}
    used: set[str] = set()
    calibration = Calibration.model_validate(episode.options.get("calibration", {}))

    def fresh(name: str) -> Response | None:
        drawn = waiting[name].pop(0)
        used.add(drawn)
        response = pool.responses.get(f"{drawn}@0")
        # It is the agent's own now: the calibration and the consensus may know that one.
        return response and calibration.apply(Response({**response, "agent": name}))

    held = {name: fresh(name) for name in team}
    for round_ in range(1, episode.outcome["rounds"] + 1):
        before = dict(held)
        by_id = {r["id"]: r for r in before.values() if r is not None}
        for turn in (turn for turn in episode.turns if turn["round"] == round_):
            name, action = turn["agent"], turn["action"]
            target = concession(before, name)
            held[name] = after_move(
                action,
                before[name],
                drawn=fresh(name) if action == "REFINE" else None,
                target=by_id[target] if target else None,
            )
    outcome = _result(pool, list(held.values()), rule, used, team)
    return replace(outcome, actions=_count_actions(episode))


def count_gaps(failures: Sequence[Failure]) -> int:
    """Return how many proposals and refinements failed."""
    return sum(f["stage"] in ("propose", "refine") for f in failures)


def result_of(episode: Episode, *, observes: bool = False, judged: bool = True) -> Result:
    """Return the result of a deliberation.

    Args:
        episode: The deliberation.
        observes: Its router uses all of the observations, as a learned one does. It then also pays
            for verdicts that were asked for beside the confidence.
        judged: It reads confidences. Else it pays for no verdict.
    """
    usage = episode.outcome["usage"]["total"]
    critiques = [response["critique"] for response in episode.responses.values()]
    parts = [c["usage"] for c in critiques if c and (not judged or _is_extra(c)) and not observes]
    unasked = [] if judged else [f for f in episode.failures if f["stage"] == "critique"]
    failures = [f for f in episode.failures if f not in unasked]
    parts += [f["usage"] for f in unasked]
    unread = add_usage(no_usage(), *parts)
    return Result(
        answer=episode.outcome["answer"],
        tokens=usage["tokens"] - tokens(unread),
        calls=usage["calls"] - unread["calls"],
        actions=_count_actions(episode),
        failed=episode.outcome["stop_reason"] == "failed",
        confidence=episode.outcome["confidence"],
        failures=tuple(failure["error"] for failure in failures),
        unreported=usage["unreported"] - unread["unreported"],
        gaps=count_gaps(failures),
    )


def _count_actions(episode: Episode) -> dict[str, int]:
    return dict(Counter[str](turn["action"] for turn in episode.turns))
