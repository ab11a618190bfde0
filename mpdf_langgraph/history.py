"""The conversation before a question, reduced to what any model can read.

A conversation may hold what the servers of chat models refuse: images, calls of tools that the
agent does not have, calls without a result, results without a call, two messages of one role in a
row, several system messages, an assistant that speaks first, names with spaces. What remains is
text, in a form that every chat template takes.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableBinding

from mpdf_langgraph.answers.thoughts import split_thought
from mpdf_langgraph.errors import ConfigurationError

#: Stands before an assistant's message that would be the first.
NOT_SHOWN = "(Earlier messages are not shown.)"
#: What a content block holds, by its type: in LangChain's words, OpenAI's, Anthropic's.
_KINDS = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    "video": "video",
    "video_url": "video",
    "file": "pdf",
    "input_file": "pdf",
    "document": "pdf",
}
_Role = type[SystemMessage] | type[HumanMessage] | type[AIMessage]
_ROLES: dict[str, _Role] = {
    "system": SystemMessage,
    "developer": SystemMessage,
    "user": HumanMessage,
    "human": HumanMessage,
}


def plain_text(message: BaseMessage) -> str:
    """Return a message's text as it can be sent and stored."""
    return writable(str(message.text)).strip()


def attachments_of(message: BaseMessage) -> list[dict[str, Any]]:
    """Return the content blocks of a message that are no text, such as images.

    Of a model's own message, which holds its thoughts and tool calls too, only images and files.

    Raises:
        ConfigurationError: The type of a block is no text.
    """
    blocks = [b for b in message.content if isinstance(b, dict)]
    for block in blocks:
        if not isinstance(block.get("type", "text"), str):
            raise ConfigurationError(
                f"a content block of a message has the type {block['type']!r:.80}: it must be a "
                'text such as "text" or "image"'
            )
    if isinstance(message, AIMessage):
        return [b for b in blocks if b.get("type") in _KINDS]
    return [b for b in blocks if b.get("type", "text") != "text"]


def kinds_of(attachments: Iterable[dict[str, Any]]) -> list[str]:
    """Return what each attachment is, such as ``"image"``, ``"audio"``, ``"video"``, ``"pdf"``."""
    return [_KINDS.get(block["type"], str(block["type"])) for block in attachments]


def unreadable_kinds(model: Any, attachments: Iterable[dict[str, Any]]) -> list[str]:
    """Return the kinds of attachments that a chat model's profile says it does not take.

    Nothing is known of a model without a profile, as those behind most endpoints are: its
    endpoint is left to refuse what it cannot read.
    """
    while isinstance(model, RunnableBinding):
        model = model.bound
    profile = getattr(model, "profile", None) or {}
    kinds = dict.fromkeys(kinds_of(attachments))
    return [kind for kind in kinds if profile.get(f"{kind}_inputs") is False]


def readable_history(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return a conversation as plain text in the one form that every chat template takes.

    The result has one system message at most, which comes first. After it human and assistant
    messages alternate, and the first is human. Neighbours of one role are merged. Tool calls and
    their results become text of the assistant. An image or file becomes a word in brackets.
    Thoughts of the assistant, names of speakers and empty messages are left out.

    Applied to its own result it changes nothing.

    Example:
        >>> call = {"name": "look_up", "args": {"city": "Rome"}, "id": "1"}
        >>> history = [HumanMessage("How big?"), AIMessage("", tool_calls=[call])]
        >>> readable_history(history)[1].text
        '(I called the tool look_up with {"city": "Rome"}.)'
    """
    system: list[str] = []
    turns: list[tuple[_Role, list[str]]] = []
    callers: dict[str, str] = {}  # tool names by id of the call
    for message in messages:
        role, text = _role(message), _render(message, callers)
        if not text:
            continue
        if role is SystemMessage:
            system.append(text)
        elif turns and turns[-1][0] is role:
            turns[-1][1].append(text)
        else:
            turns.append((role, [text]))
    if turns and turns[0][0] is AIMessage:
        turns.insert(0, (HumanMessage, [NOT_SHOWN]))
    if system:
        turns.insert(0, (SystemMessage, system))
    return [role("\n\n".join(parts)) for role, parts in turns]


def with_question(
    history: Sequence[BaseMessage], text: str, attachments: Sequence[dict[str, Any]] = ()
) -> list[BaseMessage]:
    """Return a readable history that ends with a human message of `text`.

    A human message at the history's end, which nobody has answered, becomes part of it. Attachments
    stand before the text.
    """
    before = list(history)
    if before and isinstance(before[-1], HumanMessage):
        text = f"{before.pop().text}\n\n{text}"
    if not attachments:
        return [*before, HumanMessage(text)]
    return [*before, HumanMessage([*attachments, {"type": "text", "text": text}])]


def _role(message: BaseMessage) -> _Role:
    if isinstance(message, ChatMessage):
        return _ROLES.get(message.role.lower(), AIMessage)
    if isinstance(message, SystemMessage):
        return SystemMessage
    return HumanMessage if isinstance(message, HumanMessage) else AIMessage


def _render(message: BaseMessage, callers: dict[str, str]) -> str:
    """Return a message as text. Add the tools that it calls to `callers`."""
    text = plain_text(message)
    if isinstance(message, AIMessage):
        text = split_thought(text)[1].strip()
    shown = [f"[{kind}]" for kind in kinds_of(attachments_of(message))]
    parts = [*shown, text] if text else shown
    if isinstance(message, ToolMessage | FunctionMessage):
        name = message.name or callers.get(getattr(message, "tool_call_id", ""))
        verb = "failed" if getattr(message, "status", "") == "error" else "returned"
        tool = f"The tool {name}" if name else "A tool"
        return f"({tool} {verb}: {' '.join(parts) or 'nothing'})"
    if isinstance(message, AIMessage):
        for call in [*message.tool_calls, *message.invalid_tool_calls]:
            name = callers[str(call["id"])] = call["name"] or "?"
            parts.append(
                writable(f"(I called the tool {name} with {_format_arguments(call['args'])}.)")
            )
    return "\n".join(parts)


def _format_arguments(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False, default=str)


def writable(text: str) -> str:
    """Return a text with every lone surrogate, which no request can hold, made a "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")
