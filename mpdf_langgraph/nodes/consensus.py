"""The `consensus` node: it carries out a round's moves, counts the votes, and ends or goes on."""

import math
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from mpdf_langgraph.answers.choice_answer import ChoiceAnswer
from mpdf_langgraph.answers.math_answer import MathAnswer
from mpdf_langgraph.answers.schema import AnswerSchema, assign_clusters, schema_for
from mpdf_langgraph.answers.text_answer import TextAnswer
from mpdf_langgraph.consensus import count_votes
from mpdf_langgraph.errors import ConfigurationError, DeliberationError, describe_error, plugged_in
from mpdf_langgraph.learned_consensus import rule_for
from mpdf_langgraph.nodes.outcome import describe_standing, finish
from mpdf_langgraph.nodes.question import repeat_question
from mpdf_langgraph.nodes.recruit import asking_limit, is_recruiting
from mpdf_langgraph.nodes.settings import Settings
from mpdf_langgraph.rounds import complete_turn, find_stop_reason
from mpdf_langgraph.runtime import events
from mpdf_langgraph.runtime.calls import Call, Steps, threaded_runnable
from mpdf_langgraph.runtime.clock import clock_update, read_clock, started_at
from mpdf_langgraph.state import (
    Consensus,
    Critique,
    DeliberationState,
    Failure,
    Response,
    Turn,
    add_usage,
    held_responses,
    no_usage,
)

NextOfConsensus = Literal["router", "person", "__end__"]
#: Identical proposals at least this likely under independent sampling get no warning.
LIKELY_COINCIDENCE = 0.01
#: Seconds that comparing answers may take even after the time limit.
COMPARISON_SECONDS = 1.0
#: Numbers that are compared at once.
_NUMERAL = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_SHORT = 100  # characters of two texts that are compared within a millisecond


def consensus_steps(
    settings: Settings, state: DeliberationState
) -> Steps[Command[NextOfConsensus]]:
    """Carry out the round's moves, count the votes, and end, go on, or ask a person.

    If the run is resumed after every proposal had failed, the question is asked again. It is not
    while there are agents that were not asked yet.
    """
    recruiting = is_recruiting(settings, state)
    if not state["responses"] and not state.get("running") and not recruiting:
        return Command(update=repeat_question(state), goto="router")
    state = cast(DeliberationState, {**state, "clock": read_clock(state)})
    labels = RunnableConfig(
        run_name="compare answers",
        tags=["mpdf:judge", f"mpdf:round:{state['round']}", "nostream"],
        metadata={"mpdf_episode": state["header"]["id"], "mpdf_round": state["round"]},
    )
    schema = schema_for(settings.answer, state["header"]["question"])
    timeout = settings.budget.timeout
    limit = None if timeout is None else started_at(state) + timeout
    deadline = None if limit is None else max(limit, time.time() + COMPARISON_SECONDS)

    def same(a: str, b: str) -> bool:
        # A thread cannot be cancelled. This ends it before it asks a judge again.
        if deadline is not None and time.time() >= deadline:
            raise TimeoutError("the time limit has passed")
        return schema.equivalent(a, b)

    survived: list[Failure] = []
    judged = no_usage()
    try:  # a thread is of use only where comparing may take long
        responses, representatives = _cluster_answers(partial(_same_at_once, schema), state)
    except _NeedsThread:
        compare = threaded_runnable(lambda _: _cluster_answers(same, state))
        call = Call(compare, None, lambda v: v, labels, is_model=False, deadline=deadline)
        [outcome] = yield [call]
        judged = outcome.usage
        if outcome.cause is None:
            responses, representatives = outcome.value
        else:
            responses, representatives = _cluster_answers(_is_same_text, state)
            message = f"only answers that are written alike count as the same: {outcome.error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            survived = [_failure("consensus", state["round"], "compare", message)]
    state = cast(
        DeliberationState,
        {
            **state,
            "responses": {**state["responses"], **responses},
            "representatives": representatives,
            "judge_usage": add_usage(state["judge_usage"], judged),
        },
    )
    state["held"], turns, kept = _carry_out_moves(state)
    kept = [*survived, *kept]
    state["turns"] = [*state["turns"][: len(state["turns"]) - len(turns)], *turns]
    state["failures"] = [*state["failures"], *kept]
    responses |= {i: settings.calibrate(r) for i, r in _measure_agreement(state).items()}
    state["responses"] = {**state["responses"], **responses}
    tally = _tally(settings, state)
    state["tallies"] = [*state["tallies"][: state["round"]], tally]
    if state["round"] == 0 and not recruiting:
        _warn_of_identical_proposals(state)

    stop_reason = None if recruiting else _stop_reason(settings, state, tally)
    events.emit_vote(state["header"]["id"], state["round"], tally, stop_reason)
    update: dict[str, Any] = {
        key: state[key] for key in ("representatives", "judge_usage", "held", "turns", "tallies")
    }
    update |= {"responses": responses, "failures": kept}
    if stop_reason is None:
        phase = "recruit" if recruiting else "decide"
        update |= {"phase": phase, **clock_update(state["clock"])}
        return Command(update=update, goto="router")
    if stop_reason != "failed" and _should_ask_person(settings, state, stop_reason):
        events.emit_handover(state["header"]["id"], state["round"], tally)
        update |= {"stopped": stop_reason, **clock_update(state["clock"])}
        return Command(update=update, goto="person")
    update |= yield from finish(settings, state, stop_reason)
    if stop_reason == "failed":
        reasons = "; ".join(f"{f['agent']}: {f['error']}" for f in state["failures"])
        raise DeliberationError(f"every agent's proposal failed. {reasons}")
    return Command(update=update, goto="__end__")


def _should_ask_person(settings: Settings, state: DeliberationState, stop_reason: str) -> bool:
    if settings.interrupt_when is None:
        return False
    try:
        return bool(settings.interrupt_when(describe_standing(settings, state, stop_reason)))
    except Exception as error:
        raise ConfigurationError(f"interrupt_when failed: {describe_error(error)}") from error


def _tally(settings: Settings, state: DeliberationState) -> Consensus:
    rule = rule_for(settings.consensus, state["header"].get("category"))
    with plugged_in(f"the consensus rule {settings.consensus_name!r}"):
        return count_votes(held_responses(state), rule, state["representatives"])


def _failure(agent: str, round_: int, stage: Literal["refine", "compare"], error: str) -> Failure:
    return Failure(
        agent=agent, round=round_, stage=stage, error=error, usage=no_usage(), seconds=0.0
    )


class _NeedsThread(Exception):  # noqa: N818 - it is no error
    """Two answers that are not written alike have to be compared, and it may take long."""


def _same_at_once(schema: AnswerSchema, a: str, b: str) -> bool:
    """Compare two numerals, choices or short texts. All else may take long, or ask a judge."""
    numerals = type(schema) is MathAnswer and _NUMERAL.fullmatch(a) and _NUMERAL.fullmatch(b)
    texts = type(schema) is TextAnswer and not schema.is_judged and len(a) + len(b) <= _SHORT
    if numerals or texts or type(schema) is ChoiceAnswer:
        return schema.equivalent(a, b)
    raise _NeedsThread


def _is_same_text(a: str, b: str) -> bool:
    return a.split() == b.split()


def _cluster_answers(
    same: Callable[[str, str], bool], state: DeliberationState
) -> tuple[dict[str, Response], list[str]]:
    """Give every new answer its cluster. Return the changed responses and the representatives."""
    new = [
        response
        for response in state["responses"].values()
        if response["cluster"] is None and response["answer"] is not None
    ]
    labels, representatives = assign_clusters(
        [response["answer"] for response in new], state["representatives"], same
    )
    changed = {
        response["id"]: Response({**response, "cluster": label})
        for response, label in zip(new, labels, strict=True)
    }
    return changed, representatives


def _carry_out_moves(
    state: DeliberationState,
) -> tuple[dict[str, str | None], list[Turn], list[Failure]]:
    """Return what each agent holds after the round, the completed turns, and failed REFINEs."""
    responses, round_ = state["responses"], state["round"]
    if round_ == 0:
        drawn = {name: f"{name}@0" for name in state["held"]}
        return {n: i if i in responses else None for n, i in drawn.items()}, [], []
    turns = [complete_turn(t, responses) for t in state["turns"] if t["round"] == round_]
    held = {**state["held"], **{turn["agent"]: turn["after"] for turn in turns}}
    error = "no answer could be parsed, so the agent keeps its response"
    failures = [
        _failure(turn["agent"], round_, "refine", error)
        for turn in turns
        if turn["action"] == "REFINE"
        and (new := f"{turn['agent']}@{round_}") in responses
        and turn["after"] != new
    ]
    return held, turns, failures


def _measure_agreement(state: DeliberationState) -> dict[str, Response]:
    """Return this round's responses that have no other confidence, with agreement as confidence.

    Agreement is the share of samples with the same answer, among the response itself and those
    that the agent's peers hold. It is unknown if there is no other sample.
    """
    held = held_responses(state)
    changed = {}
    for response in state["responses"].values():
        critique = response["critique"]
        if critique is None or critique["source"] != "agreement":
            continue
        if response["round"] != state["round"] or response["cluster"] is None:
            continue
        peers = [r["cluster"] for name, r in held.items() if r and name != response["agent"]]
        if not peers:
            continue  # a single sample always agrees with itself
        same = 1 + sum(cluster == response["cluster"] for cluster in peers)
        share = same / (1 + len(peers))
        filled = Critique(
            confidence=share,
            source="agreement",
            scores={"agreement": share},
            usage=critique["usage"],
        )
        changed[response["id"]] = Response({**response, "critique": filled})
    return changed


def _warn_of_identical_proposals(state: DeliberationState) -> None:
    """Warn if all agents wrote the same text, although independent samples rarely do."""
    proposals = [response for response in held_responses(state).values() if response]
    if len(proposals) < 2 or len({response["text"] for response in proposals}) > 1:
        return
    if proposals[0].get("refused"):  # refusals are alike at any temperature
        return
    # Short, sure answers may coincide: the chance is p(text) for each agent but the first.
    logprobs = proposals[0]["logprobs"]
    if logprobs and math.exp(logprobs["total"] * (len(proposals) - 1)) > LIKELY_COINCIDENCE:
        return
    warnings.warn(
        f"all {len(proposals)} agents proposed the very same text, so there is nothing to "
        "deliberate. Raise the sampling temperature, check for a cache in front of the "
        "model, or give the agents different information",
        stacklevel=2,
    )


def _stop_reason(settings: Settings, state: DeliberationState, tally: Consensus) -> str | None:
    timeout = settings.budget.timeout
    return find_stop_reason(
        held_responses(state),
        [turn for turn in state["turns"] if turn["round"] == state["round"]],
        tally["cluster"],
        last_round=state["round"] >= settings.max_rounds,
        out_of_time=timeout is not None and time.time() >= started_at(state) + timeout,
        stop_when_settled=settings.stop_when_settled,
        settle_confidence=settings.settle_confidence,
        probability=tally.get("probability"),
        asking_limit=asking_limit(state),
    )
