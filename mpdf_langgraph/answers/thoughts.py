"""What part of a reply is thought, and what is answer.

Models that think before they answer (Qwen3, DeepSeek-R1, gpt-oss and others) send their thoughts
in the reply itself if no reasoning parser is switched on. A thought holds drafts of answers, so
nothing may be read out of it.
"""

import re
from itertools import islice

_NAMES = "think|thinking|thought|thoughts|seed:think"
_OPEN = rf"<(?:{_NAMES})>|◁think▷|\[THINK\]|<\|(?:begin_of_thought|START_THINKING|thinking)\|>"
_CLOSE = rf"</(?:{_NAMES})>|◁/think▷|\[/THINK\]|<\|(?:end_of_thought|END_THINKING|/thinking)\|>"
# A tag in backticks is spoken of.
_TAG = re.compile(rf"(?=[<◁\[])(?<!`)(?:(?P<open>{_OPEN})|(?P<close>{_CLOSE}))(?!`)", re.IGNORECASE)
_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<\n]{0,40})?<\|channel\|>(?P<channel>[^<\n]{0,200})"
    r"(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# Harmony's words, if the server has dropped its special tokens.
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z0-9*\"'(\\])")
_BARE_FINAL = re.compile(r"assistantfinal(?![a-z])")
_WRAPPERS = re.compile(
    r"<\|(?:begin_of_solution|end_of_solution|START_RESPONSE|END_RESPONSE|START_TEXT|END_TEXT)\|>"
)


def split_thought(text: str) -> tuple[str | None, str]:
    r"""Split a reply into its thought and its answer.

    Everything up to the last closing tag is thought. The opening tag may be missing, as chat
    templates write it. A thought that is never closed goes to the end of the reply. Of harmony's
    channels only `final` is answer.

    Args:
        text: The reply, as the server sent it.

    Returns:
        The thought, or None, and the answer, perhaps empty. The tags belong to neither.

    Example:
        >>> split_thought("<think>Six? No.</think>\n\nThe answer is 7.")
        ('Six? No.', 'The answer is 7.')
        >>> split_thought("Six? No.</think>7")
        ('Six? No.', '7')
        >>> split_thought("<think>Is it 41?")
        ('Is it 41?', '')
        >>> split_thought("The answer is 7.")
        (None, 'The answer is 7.')
    """
    if "<|channel|>" in text:
        return _split_channels(text)
    if bare := _BARE_ANALYSIS.match(text):
        return _split_bare_words(text, bare.end())
    return _split_tags(text)


def _split_tags(text: str) -> tuple[str | None, str]:
    closed, opened = 0, None
    for tag in _TAG.finditer(text):
        if tag["close"]:
            closed, opened = tag.end(), None
        elif opened is None:
            opened = tag
    if not closed and opened is None:
        return None, text
    before, rest = text[:closed], text[closed:]
    thoughts = [_TAG.sub("\n", before)]
    if opened is not None:
        thoughts.append(_TAG.sub("\n", text[opened.end() :]))
        rest = text[closed : opened.start()]
    return _joined(thoughts), _WRAPPERS.sub("", rest).strip()


def _split_channels(text: str) -> tuple[str | None, str]:
    thoughts: list[str] = []
    answers: list[str] = []
    starts = list(islice(_CHANNEL.finditer(text), 10_000))
    if not starts:  # cut off in the middle of its first header
        return None, text[: text.index("<|channel|>")].strip()
    ends = [start.start() for start in starts[1:]] + [len(text)]
    before = _MESSAGE_END.sub("", text[: starts[0].start()])
    thoughts.append(before)
    for start, end in zip(starts, ends, strict=True):
        message = _MESSAGE_END.split(text[start.end() : end], maxsplit=1)[0]
        final = start["channel"].strip().lower().startswith("final")
        (answers if final else thoughts).append(message)
    return _joined(thoughts), "\n".join(answers[-1:]).strip()


def _split_bare_words(text: str, start: int) -> tuple[str | None, str]:
    finals = list(_BARE_FINAL.finditer(text, start))
    if not finals:
        return _joined([text[start:]]), ""
    return _joined([text[start : finals[-1].start()]]), text[finals[-1].end() :].strip()


def _joined(thoughts: list[str]) -> str | None:
    return "\n".join(part for thought in thoughts if (part := thought.strip())) or None
