"""Builders of records and the hypothesis strategies that the tests share."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from mpdf_langgraph.state import (
    Critique,
    DeliberationState,
    Failure,
    LogprobSummary,
    Profile,
    Response,
    Usage,
    no_usage,
)


def usage(
    calls: int = 1, prompt: int = 0, completion: int = 0, unreported: int = 0, estimated: int = 0
) -> Usage:
    return Usage(
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        unreported=unreported,
        estimated=estimated,
    )


def critique(
    confidence: float | None,
    scores: Mapping[str, float] | None = None,
    cost: Usage | None = None,
) -> Critique:
    return Critique(
        confidence=confidence, source="test", scores=dict(scores or {}), usage=cost or no_usage()
    )


def profile(**fields: Any) -> Profile:
    plain = Profile(
        steps=1, operators=0, length=10, hedges=0, claimed_confidence=None, truncated=False
    )
    return Profile(**{**plain, **fields})


def response(
    agent: str,
    cluster: int | None = None,
    confidence: float | None = None,
    *,
    round_: int = 0,
    **fields: Any,
) -> Response:
    """Return a response of `agent`. `fields` replace any of its parts."""
    text = "no answer" if cluster is None else f"#### {cluster}"
    plain = Response(
        id=f"{agent}@{round_}",
        agent=agent,
        round=round_,
        text=text,
        answer=None if cluster is None else str(cluster),
        cluster=cluster,
        profile=profile(),
        logprobs=None,
        critique=None if confidence is None else critique(confidence),
        finish_reason="stop",
        model="m",
        usage=usage(),
        seconds=0.0,
    )
    return Response(**{**plain, **fields})


def team(*members: tuple[int | None, float | None] | None) -> dict[str, Response | None]:
    """Return what agents a, b, c, ... hold, each given as (cluster, confidence) or None."""
    names = "abcdefgh"[: len(members)]
    return {
        name: None if member is None else response(name, *member)
        for name, member in zip(names, members, strict=True)
    }


def failure(agent: str, stage: Any, cost: Usage, round_: int = 0) -> Failure:
    return Failure(agent=agent, round=round_, stage=stage, error="e", usage=cost, seconds=0.0)


def state(**channels: Any) -> DeliberationState:
    """Return a state of agents a and b in round 1 that holds `channels`."""
    header = {
        "id": "e1",
        "started": 0.0,
        "question": "?",
        "reference": None,
        "history": [],
        "graph": "deliberation",
        "agents": [{"name": "a", "competence": 0.5}, {"name": "b", "competence": 0.5}],
        "options": {"max_calls": None, "max_tokens": None, "max_rounds": 1},
    }
    plain: dict[str, Any] = {
        "header": header,
        "notes": {},
        "round": 1,
        "responses": {},
        "failures": [],
        "held": {"a": None, "b": None},
        "turns": [],
        "representatives": [],
        "tallies": [],
        "judge_usage": no_usage(),
        "interventions": [],
        "recruits": [],
        "clock": {"paused": 0.0, "at": 0.0},
    }
    return DeliberationState(**{**plain, **channels})


# --- strategies -----------------------------------------------------------------------------

unit = st.floats(0.0, 1.0)
counts = st.integers(0, 10**6)
usages = st.builds(
    Usage,
    calls=st.integers(0, 9),
    prompt_tokens=counts,
    completion_tokens=counts,
    unreported=st.integers(0, 9),
    estimated=st.integers(0, 9_000),
)
profiles = st.builds(
    Profile,
    steps=counts,
    operators=counts,
    length=counts,
    hedges=counts,
    claimed_confidence=st.none() | unit,
    truncated=st.booleans(),
)
summaries = st.builds(
    LogprobSummary,
    mean=st.floats(-1e6, 0.0),
    total=st.floats(-1e9, 0.0),
    lowest_window=st.floats(-1e6, 0.0),
    tokens=st.integers(1, 10**5),
)
critiques = st.builds(
    Critique,
    confidence=st.none() | unit,
    source=st.just("test"),
    scores=st.dictionaries(
        st.sampled_from(["self", "self_reasoning", "self_json", "logprob"]), unit
    ),
    usage=usages,
)


@st.composite
def responses(draw: st.DrawFn, agent: str, *, peers: str = "") -> Response:
    """Draw what `agent` may hold: its own response or one that it adopted from `peers`."""
    author = draw(st.sampled_from([agent, *peers]))
    return response(
        author,
        draw(st.none() | st.integers(0, 4)),
        round_=draw(st.integers(0, 3)),
        profile=draw(profiles),
        logprobs=draw(st.none() | summaries),
        critique=draw(st.none() | critiques),
        usage=draw(usages),
    )


@st.composite
def teams(draw: st.DrawFn, *, whole: bool = True) -> dict[str, Response | None]:
    """Draw what the agents of a team hold: all of it if `whole`, else clusters and critiques."""
    names = "abcdefgh"[: draw(st.integers(1, 8))]
    if whole:
        return {n: draw(st.none() | responses(n, peers=names)) for n in names}
    member = st.none() | st.tuples(st.none() | st.integers(0, 3), st.none() | unit)
    return team(*(draw(member) for _ in names))
