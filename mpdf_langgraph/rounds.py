"""The rules of a round: what a move results in, who holds what, who agrees, and when to stop.

Pure functions of the records. The nodes apply them while a deliberation runs. The rewards, the
control and the calibration apply them to recorded deliberations, and the page shows the result.
Whom CONCEDE adopts is a question of votes: see `consensus.concession`.
"""

from collections.abc import Mapping, Sequence

from mpdf_langgraph.state import DECIDED, Action, Response, Turn

#: The response that each agent holds, in the order of the team. None: it holds no response.
Held = Mapping[str, Response | None]


def has_answer(response: Response | None) -> bool:
    """Tell whether a response has a valid answer, so that it votes."""
    return response is not None and response["cluster"] is not None


def answer_of(response: Response | None) -> str | None:
    """Return the answer that a response votes for, None if it has no valid answer."""
    return response["answer"] if response is not None and has_answer(response) else None


def confidence_of(response: Response) -> float | None:
    """Return the critic's confidence in a response, None if it is not known."""
    return response["critique"]["confidence"] if response["critique"] else None


def after_move(
    action: Action,
    before: Response | None,
    *,
    drawn: Response | None = None,
    target: Response | None = None,
) -> Response | None:
    """Return the response that an agent holds after its move.

    PERSIST keeps the response. CONCEDE adopts the target. REFINE takes the drawn response, except
    that a response without a valid answer never replaces one that has a valid answer. An agent
    without a target or a drawn response (the call failed) keeps what it holds.
    """
    if action == "CONCEDE" and target is not None:
        return target
    if action == "REFINE" and drawn is not None and (has_answer(drawn) or not has_answer(before)):
        return drawn
    return before


def complete_turn(turn: Turn, responses: Mapping[str, Response]) -> Turn:
    """Return a turn with its `after`, once all responses of its round are there, by id."""
    before, target = turn["before"], turn["target"]
    after = after_move(
        turn["action"],
        responses[before] if before else None,
        drawn=responses.get(f"{turn['agent']}@{turn['round']}"),
        target=responses[target] if target else None,
    )
    return Turn({**turn, "after": after["id"] if after else None})


def held_by_round(
    agents: Sequence[str],
    responses: Mapping[str, Response],
    turns: Sequence[Turn],
    rounds: int | None = None,
) -> list[dict[str, Response | None]]:
    """Return the responses held after every round of a recorded deliberation, by agent.

    The first of the ``1 + rounds`` dicts has the proposals. By default the last round is the last
    one that has a turn.

    Raises:
        KeyError: A turn names a response that is not there.
    """
    if rounds is None:
        rounds = max((turn["round"] for turn in turns), default=0)
    result: list[dict[str, Response | None]] = [{a: responses.get(f"{a}@0") for a in agents}]
    for round_ in range(1, rounds + 1):
        held = dict(result[-1])
        for turn in turns:
            if turn["round"] == round_:
                held[turn["agent"]] = responses[turn["after"]] if turn["after"] else None
        result.append(held)
    return result


def is_settled(
    held: Held, winner: int | None, bar: float | None = None, probability: float | None = None
) -> bool:
    """Tell whether the team agrees.

    It does if every valid answer is in the winning cluster and more than half of the agents have a
    valid answer: the others may still refine or concede, so a minority does not settle for them.
    With a bar, each of these answers needs that confidence (an unknown one is below any bar). Where
    the rule gives the probability of the group's answer, that must reach the bar instead.
    """
    live = [r for r in held.values() if r is not None and r["cluster"] is not None]
    if 2 * len(live) <= len(held) or any(response["cluster"] != winner for response in live):
        return False
    if probability is not None:
        return bar is None or probability >= bar
    confidences = [confidence_of(response) for response in live]
    return bar is None or all(c is not None and c >= bar for c in confidences)


def find_limit(turns: Sequence[Turn]) -> str | None:
    """Return what ends a deliberation after these turns of a round, whatever was decided in them.

    That is ``"decided"``, or the budget that forbids every agent to refine. None: nothing does.
    """
    if any(turn["blocked"] == DECIDED for turn in turns):
        return DECIDED
    return turns[0]["blocked"] if turns and all(turn["blocked"] for turn in turns) else None


def find_stop_reason(
    held: Held,
    turns: Sequence[Turn],
    winner: int | None,
    *,
    last_round: bool,
    out_of_time: bool = False,
    stop_when_settled: bool = True,
    settle_confidence: float | None = None,
    probability: float | None = None,
    asking_limit: str | None = None,
) -> str | None:
    """Return why a deliberation stops after a round, None if it goes on.

    The first reason that holds counts: ``"failed"`` (nobody holds a response), ``"agreement"``,
    ``"decided"`` (no REFINE could change the answer), the name of the budget that forbids every
    agent to refine, ``"all_persisted"``, ``"timeout"``, ``"max_rounds"``. The turns are those of
    the round, none after the proposals. For `settle_confidence` and `probability` see `is_settled`.
    `asking_limit` is the budget that ended the asking for proposals. It counts in place of
    ``"max_rounds"`` if no round follows them.
    """
    if not any(held.values()):
        return "failed"
    if stop_when_settled and is_settled(held, winner, settle_confidence, probability):
        return "agreement"
    if limit := find_limit(turns):
        return limit
    if stop_when_settled and turns and all(turn["action"] == "PERSIST" for turn in turns):
        return "all_persisted"
    if out_of_time:
        return "timeout"
    if not last_round:
        return None
    return asking_limit if asking_limit and not turns else "max_rounds"
