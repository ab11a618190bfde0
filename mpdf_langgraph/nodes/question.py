"""What is asked: found in a graph's input, recorded among the messages, or asked once more."""

import uuid
import warnings
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage

from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.state import DeliberationState

#: How the id of a message begins that was made from a `question`.
_QUESTION = "question-"


def asked(state: DeliberationState) -> tuple[str, list[BaseMessage], list[BaseMessage]]:
    """Return the question, the conversation before it, and messages to add for the record.

    A human message that nobody has answered yet is newer than any `question`, which a parent
    graph may have kept from an earlier turn; unless it is itself the record of a `question` that
    was given up for this one.

    Raises:
        ConfigurationError: There is neither.
    """
    messages: list[BaseMessage] = list(state.get("messages") or [])
    unanswered = bool(messages) and isinstance(messages[-1], HumanMessage)
    unanswered = unanswered and not str(messages[-1].id).startswith(_QUESTION)
    given = (state.get("question") or "").strip()
    if given and not unanswered:
        return given, messages, [HumanMessage(given, id=f"{_QUESTION}{uuid.uuid4().hex}")]
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], HumanMessage):
            content = messages[index].content
            if isinstance(content, list) and any(_is_no_text(block) for block in content):
                warnings.warn("only the text of the question reaches the agents", stacklevel=2)
            if question := str(messages[index].text).strip():
                return question, messages[:index], []
            break
    raise ConfigurationError(
        "nothing was asked: give a `question`, or `messages` with a human message that has text"
    )


def repeat_question(state: DeliberationState) -> dict[str, Any]:
    """Return the update after which the router starts the standing question anew."""
    header, messages = state["header"], list(state.get("messages") or [])
    recorded = [m for m in messages[-1:] if str(m.id).startswith(_QUESTION)]
    return {
        "messages": [RemoveMessage(id=str(message.id)) for message in recorded],
        "question": header["question"],
        "reference": header["reference"],
        "contexts": {name: notes for name, notes in state["notes"].items() if notes},
    }


def _is_no_text(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") != "text"
