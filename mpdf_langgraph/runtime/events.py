"""Progress events: what `stream_mode="custom"` shows while a deliberation runs.

Every event is a dict with `event`, `episode`, `round`, `text` (one line for people), and more keys.
Each function's docstring names its event and these keys.
"""

from typing import Any

from langgraph.config import get_stream_writer

from mpdf_langgraph.state import DECIDED, Consensus, Failure, Intervention, Recruit, Response, Turn


def _short(answer: str | None) -> str:
    if answer is None:
        return "no answer"
    line = " ".join(answer.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def _emit(event: str, episode: str, round_: int, text: str, **keys: Any) -> None:
    get_stream_writer()({"event": event, "episode": episode, "round": round_, "text": text, **keys})


def emit_response(episode: str, response: Response) -> None:
    """Emit `proposed` or `refined`, with `agent` and `answer`."""
    event, verb = ("proposed", "proposes") if response["round"] == 0 else ("refined", "now says")
    text = f"{response['agent']} {verb} {_short(response['answer'])}"
    keys = {"agent": response["agent"], "answer": response["answer"]}
    _emit(event, episode, response["round"], text, **keys)


def emit_critique(episode: str, response: Response) -> None:
    """Emit `criticised`, with `agent`, `answer` and `confidence`."""
    critique = response["critique"]
    confidence = critique["confidence"] if critique else None
    said = "unknown" if confidence is None else f"{confidence:.2f}"
    text = f"{response['agent']}: confidence in {_short(response['answer'])} is {said}"
    keys = {"agent": response["agent"], "answer": response["answer"], "confidence": confidence}
    _emit("criticised", episode, response["round"], text, **keys)


def emit_recruit(episode: str, recruit: Recruit) -> None:
    """Emit `recruited`, with `asked`, `next`, `waiting`, `gain`, `price` and `why`."""
    said = ", ".join(recruit["next"])
    text = f"{said} is asked, too" if said else f"nobody else is asked ({recruit['why']})"
    keys: dict[str, Any] = {
        key: recruit[key] for key in ("asked", "next", "waiting", "gain", "price", "why")
    }
    _emit("recruited", episode, 0, text, **keys)


def emit_decision(episode: str, turn: Turn, held: dict[str, Response | None]) -> None:
    """Emit `decided`, with `agent`, `action`, `probabilities` and, on CONCEDE, `adopts`."""
    agent, action = turn["agent"], turn["action"]
    own = held[agent]
    ids = {name: response["id"] for name, response in held.items() if response}
    # The agent that holds the target. Another one may have written it, even this agent itself.
    adopts = next((n for n, i in ids.items() if n != agent and i == turn["target"]), None)
    text = (
        f"{agent} "
        + {
            "PERSIST": f"persists with {_short(own['answer'] if own else None)}",
            "REFINE": "refines its answer",
            "CONCEDE": f"concedes to {adopts}",
        }[action]
    )
    if turn["blocked"] == DECIDED:
        text += ", as no new answer could change the result"
    keys: dict[str, Any] = {"agent": agent, "action": action}
    keys["probabilities"] = turn["probabilities"]
    if action == "CONCEDE":
        keys["adopts"] = adopts
    _emit("decided", episode, turn["round"], text, **keys)


def emit_failure(episode: str, failure: Failure) -> None:
    """Emit `failed`, with `agent`, `stage` and `error`."""
    text = f"{failure['agent']}: {failure['stage']} failed ({failure['error']})"
    keys = {"agent": failure["agent"], "stage": failure["stage"], "error": failure["error"]}
    _emit("failed", episode, failure["round"], text, **keys)


def emit_vote(episode: str, round_: int, tally: Consensus, stop_reason: str | None) -> None:
    """Emit `consensus`, with `answer`, `support` and `stop_reason` (None: a round follows)."""
    cast = sum(vote is not None for vote in tally["votes"].values())
    backers = sum(v == tally["cluster"] for v in tally["votes"].values() if v is not None)
    text = f"the vote stands at {backers} of {cast} for {_short(tally['answer'])}"
    if stop_reason:
        text += f"; stopped: {stop_reason}"
    keys = {"answer": tally["answer"], "support": tally["support"], "stop_reason": stop_reason}
    _emit("consensus", episode, round_, text, **keys)


def emit_handover(episode: str, round_: int, tally: Consensus) -> None:
    """Emit `handed_over`, with `answer` and `support`. A person is asked next."""
    text = f"a person is asked about {_short(tally['answer'])}"
    keys = {"answer": tally["answer"], "support": tally["support"]}
    _emit("handed_over", episode, round_, text, **keys)


def emit_intervention(episode: str, intervention: Intervention) -> None:
    """Emit `person`, with `action` ("settle", "hint", "answer") and `said` (hint or answer)."""
    action, said = intervention["action"], intervention["text"]
    text = {
        "settle": "a person lets the answers stand",
        "hint": f"a person hints: {_short(said)}",
    }.get(action, f"a person answers {_short(said)}")
    _emit("person", episode, intervention["round"], text, action=action, said=said)
