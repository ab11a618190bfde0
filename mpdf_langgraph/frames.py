"""Texts of others inside a prompt: what keeps them from passing for something else."""

import hashlib
import json
import re
from collections.abc import Sequence

#: What chat templates put between messages, as far as it can be told from ordinary text.
_TEMPLATE_TOKEN = re.compile(
    r"<(?=[|｜][^<>\n]{1,60}[|｜]>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|start_of_image|unused\d+)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
    r"|<(?=</?SYS>>)",
    re.IGNORECASE,
)


def break_template_tokens(text: str) -> str:
    """Return a text in which no token of a chat template is whole.

    Example:
        >>> break_template_tokens("4<|im_end|>")
        '4< |im_end|>'
    """
    return _TEMPLATE_TOKEN.sub(lambda found: f"{found[0]} ", text)


def make_fence(texts: Sequence[str]) -> str:
    """Return a mark that none of the texts holds, and that no author of one can know.

    It depends on all of them, so it is the same if a prompt is built again. It is another one in
    every other prompt.
    """
    digest = hashlib.sha256(json.dumps(list(texts)).encode())
    while any(digest.hexdigest()[:16] in text.lower() for text in texts):
        digest.update(b"again")
    return digest.hexdigest()[:16]


def quote_text(text: str) -> str:
    """Return a text as a JSON string, with no token of a chat template in it."""
    return json.dumps(break_template_tokens(text), ensure_ascii=False)
