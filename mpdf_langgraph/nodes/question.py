"""The question: how it is found in a graph's input, recorded and repeated."""

import uuid
from itertools import zip_longest
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage

from mpdf_langgraph.errors import ConfigurationError
from mpdf_langgraph.history import attachments_of, plain_text, writable
from mpdf_langgraph.state import DeliberationState

#: How the id of a message begins that was made from a `question`.
_QUESTION = "question-"
#: How the id of a deliberation's answer begins. The episode's id follows.
ANSWER = "deliberation-"


class Question(NamedTuple):
    """What is asked.

    Attributes:
        text: The question.
        history: The conversation before it, as it is.
        added: Messages to add for the record.
        attachments: Images and the like that the human message holds beside its text.
    """

    text: str
    history: list[BaseMessage]
    added: list[BaseMessage]
    attachments: list[dict[str, Any]]


def find_question(state: DeliberationState) -> Question:
    """Return what is asked.

    `question` is used only if the last message is not from a human. A parent graph may have kept
    an older `question`, so an unanswered human message is newer. One exception: the message is the
    record of an earlier `question` that nobody answered. Such a record is not in the history: its
    run failed, and the agents would take it for a part of the question.

    Raises:
        ConfigurationError: Nothing is, or nothing since this graph answered.
    """
    messages: list[BaseMessage] = list(state.get("messages") or [])
    unanswered = bool(messages) and isinstance(messages[-1], HumanMessage)
    unanswered = unanswered and not str(messages[-1].id).startswith(_QUESTION)
    asked = state.get("question") or ""
    if not isinstance(asked, str):
        raise ConfigurationError(f"question must be text, got {asked!r:.80}")
    given = writable(asked).strip()
    if given and not unanswered:
        record = HumanMessage(given, id=f"{_QUESTION}{uuid.uuid4().hex}")
        return Question(given, _answered(messages), [record], [])
    header = state.get("header")
    if header and messages and messages[-1].id == f"{ANSWER}{header['id']}":
        messages = []
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], HumanMessage):
            if question := plain_text(messages[index]):
                attachments = attachments_of(messages[index])
                return Question(question, _answered(messages[:index]), [], attachments)
            break
    raise ConfigurationError(
        "nothing was asked: give a `question`, or `messages` with a human message that has text"
    )


def _answered(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Return the messages without the record of any `question` that nobody answered."""
    return [
        message
        for message, after in zip_longest(messages, messages[1:])
        if not (str(message.id).startswith(_QUESTION) and isinstance(after, HumanMessage | None))
    ]


def repeat_question(state: DeliberationState) -> dict[str, Any]:
    """Return the update after which the router starts the standing question anew."""
    header, messages = state["header"], list(state.get("messages") or [])
    recorded = [m for m in messages[-1:] if str(m.id).startswith(_QUESTION)]
    return {
        "messages": [RemoveMessage(id=str(message.id)) for message in recorded],
        "question": header["question"],
        "reference": header["reference"],
        "category": header.get("category"),
        "contexts": {name: notes for name, notes in state["notes"].items() if notes},
    }
