"""Where in a response its answer stands: what every schema reads alike.

A response may hold thoughts, the tokens of a chat template, and further questions that the model
went on to ask itself. What is left states its answer in a box, in a tag, in JSON, or in words.
"""

import json
import re
import unicodedata
from collections import deque
from itertools import islice
from typing import Any, NamedTuple

from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.thoughts import split_thought

# --- the response without what is not part of it ----------------------------------------------

_LONGEST = 200_000  # characters of a response without its thoughts. Its answer stands at the end.
_TEMPLATE_END = Pattern(
    r"<\|(?:im_end|eot_id|end_of_text|endoftext|end|eom_id|return|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<end_of_turn>|<eos>|<｜end▁of▁sentence｜>|\[/INST\]|\[INST\]|<\|(?:user|im_start)\|>"
)
_TEMPLATE_START = Pattern(
    r"\s*(?:<\|im_start\|>|<\|start_header_id\|>|<\|assistant\|>|<start_of_turn>|<s>)"
    r"(?:\s*(?:assistant|model)\b)?(?:<\|end_header_id\|>)?\s*"
)
_NEXT_SPEAKER = Pattern(r"\n[ \t]{0,9}(?:\*\*|#{1,4} )?(?:Human|User)(?:\*\*)?:")
_NEXT_QUESTION = Pattern(
    r"(?:\n|\s\|\s)[ \t]{0,9}(?:\*\*|#{1,4} )?(?:Q|(?:New |Next |Another )?(?:Question|Problem"
    r"|Exercise|Instruction)|### (?:Input|Instruction))(?:\s?#?\d{1,3})?(?:\*\*)?(?:[:：]|\.\s)"
    r"|\n\s{0,9}\n[^\n]{5,400}\?[ \t]*\n\s{0,9}\(?A[.):]\s"
    r"|\n#{1,4} (?:\*\*)?(?:Question|Problem|Example|Exercise)\s?#?\d{1,3}(?:\*\*)?\s*\n",
    re.IGNORECASE,
)


def answering_part(text: str) -> str:
    """Return the response without its thoughts and without what the model ran on into."""
    _, text = split_thought(text)
    text = text[-_LONGEST:]
    if start := _TEMPLATE_START.match(text):
        text = text[start.end() :]
    for end in islice(_TEMPLATE_END.finditer(text), 10):
        if text[: end.start()].strip():
            text = text[: end.start()]
            break
    if "\\\\boxed" in text and not re.search(r"(?<!\\)\\boxed", text):
        text = text.replace("\\\\", "\\")  # as it stood in JSON
    return _without_next_question(text)


def _without_next_question(text: str) -> str:
    """Cut where the next question begins, once this one has been answered."""
    speaker = _NEXT_SPEAKER.search(text)
    if speaker and text[: speaker.start()].strip():
        text = text[: speaker.start()]
    stated = _first_statement(text)
    if stated is not None and (question := _NEXT_QUESTION.search(text, stated)):
        text = text[: question.start()]
    return text


_CLOSING = Pattern(
    r"(?:\n|(?<=[.!?*] ))[ *_]{0,4}(?:let me know|feel free|(?:i )?hope (?:this|that|it)"
    r"|is there anything|(?:if|would|do) you(?:'d| would| want| need| like| have)"
    r"|please (?:let|feel|ask)|i(?:'d be| am|'m) happy to)\b",
    re.IGNORECASE,
)


def without_closing(text: str) -> str:
    """Return the response without what a chatty model says behind its answer."""
    closing = _CLOSING.search(text)
    return text[: closing.start()].rstrip() if closing else text


_CONFIDENCE = Pattern(
    r"\(?\b(?:confidence|certainty)(?: level| score)?[\s*]*(?:[:=]|is\b)[\s*]*(?:about "
    r"|around )?(?:\d+(?:\.\d+)?(?:\s?\\?%|/\d+)?|(?:very )?(?:high|low|medium))\)?|,? (?:rounded "
    r"|correct )?to (?:\d+|one|two|three|four) (?:decimal places?|d\.p\.|significant figures?)\b"
    r"|\(?\b\d+(?:\.\d+)?\s?\\?% (?:sure|certain|confident)\b\)?",
    re.IGNORECASE,
)


def without_confidence(text: str) -> str:
    """Return the response without how sure the model says it is, and how it rounded."""
    return _CONFIDENCE.sub("", text)


#: What takes back all that was said before.
TAKEN_BACK = Pattern(
    r"[.,;!?\s–—-]{1,4}\b(?:(?:oh|hmm|oops)?,?\s?(?:no,?\s)?(?:wait|hold on|scratch that"
    r"|on second thought|my mistake|correction|let me correct (?:that|myself))"
    r"|(?<=[-–—]\s)no,?(?=\s)|(?:(?<=\.\.\s)|(?<=[–—]\s))actually,?(?=\s)|(?:no"
    r"|actually),?(?=\sit(?:'s|\sis)\b)|i mean(?=\s))(?:[,.:!–—-]*\s(?:no|actually|that(?:'s"
    r"|\sis)\s(?:wrong|not right|incorrect)|i mean(?:t)?)\b)*"
    r"[,.:!–—-]*\s",
    re.IGNORECASE,
)


def _first_statement(text: str) -> int | None:
    """Where the first answer is stated: in one of the usual ways, or as a short first line."""
    line = text.lstrip().split("\n", 1)[0]
    before = len(text) - len(text.lstrip())
    ends = [before + len(line)] if 0 < len(line) <= _SHORT and not line.endswith(":") else []
    ends += [
        found.end()
        for pattern in (MARKER, _BOX, _HASHES, _TAG_OPEN)
        if (found := pattern.search(text))
    ]
    return min(ends) if ends else None


_SHORT = 20  # characters of a line that can only be an answer
_BOX = Pattern(r"\\(?:boxed|fbox|framebox)\b")
_HASHES = Pattern(r"####[ \t]*\S")
_TAG_OPEN = Pattern(r"<(?:final_?)?answer>", re.IGNORECASE)

_LONGEST_RUN = 30  # combining marks on one letter. No script needs more than a few.


def has_long_mark_run(text: str) -> bool:
    """Tell whether so many combining marks follow one another that normalising takes long.

    Its time grows with the square of their number: 160 KB took 19 seconds.
    """
    if text.isascii() or not any(map(unicodedata.combining, text)):
        return False
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _LONGEST_RUN:
            return True
    return False


# --- statements in words ----------------------------------------------------------------------

# An answer that is taken back: "the original answer was 12, but ...".
_TAKEN_BACK = (
    r"(?<!original )(?<!long )(?<!first )(?<!initial )(?<!previous )(?<!wrong )(?<!incorrect )"
)
_ENGLISH = (
    rf"(?<!\w){_TAKEN_BACK}(?:answers?|ans)\b[\s*_\"]{{0,9}}(?:(?:option|choice)\s)?"
    r"(?:(?:to|of)\s(?:this|the)\s(?:question|problem)\s)?(?:(?:therefore|thus|then|clearly"
    r"|obviously|hence|indeed|probably)\s)?(?:(?:is|are|was|would\sbe|must\sbe|should\sbe|will\sbe"
    r"|seems\sto\sbe|has\sto\sbe|comes\sto|equals)(?!\w|n't)|[:：=]|[-–—](?=\s))"
)
_OTHERS = "|".join(
    (
        r"答案(?:应该|應該|应|就)?(?:是|为|為|選|选|[:：=])",
        r"(?:答え|解答|正解|回答)[はがも]?[:：]?|答[:：]",
        r"(?:정답|답)(?:은|는|이)?\s?[:：]?(?=[\s:：A-Za-z\d$\\(\-])",
        r"(?<!\w)(?:ответ|відповідь)\s?(?:[:：=]|[-–—](?=\s)|(?:является|равен)\b)",
        (
            r"(?<!\w)(?:r[ée]ponse|antwort|respuesta|resposta|risposta|antwoord|svar(?:et)?|odpowied[źz]"
            r"|cevap|yan[ıi]t|odpov[ěe][ďd]|vastaus|v[áa]lasz|r[ăa]spuns(?:ul)?|jawaban(?:nya)?"
            r"|απ[άα]ντηση|đáp\sán|câu\strả\slời)(?:\s(?:finale?|correcte?|correcta|final|correta"
            r"|corretta|definitiva|endgültige|đúng|yang\sbenar|akhir))?\s{0,3}(?:(?:est|ist|lautet|es|é|è|is|är|er|jest|to|este"
            r"|adalah|είναι|là)(?=[\s:])|[:：=]|[-–—](?=\s))"
        ),
        r"उत्तर\s?(?:[:：]|है)?|(?:الجواب|الإجابة|الاجابة)(?:\s(?:ال)?(?:صحيحة?|نهائية?))?\s?(?:[:：]|هو|هي)?|תשובה\s?[:：]|คำตอบ(?:คือ|[:：])",
    )
)
# A line that says nothing but that the answer follows: "## Final answer".
_HEADING = (
    r"(?m:^)[#*_ \t]{0,9}(?:(?:the|my|our)[ \t])?(?:(?:final|correct)[ \t])?answer[*_: \t]{0,9}"
    r"(?m:$)(?=\n)"
)
# What these begin with. Looking at one character first takes a tenth of the time.
_BEGINS = "(?=[aorscyvjовαđ答解正回정답उاתค])"
#: Where an answer is said to follow: "the answer is", "Answer:", and in other languages.
MARKER = Pattern(
    rf"(?:{_BEGINS}(?:{_ENGLISH}|{_OTHERS})|{_HEADING})[\s*_:：]{{0,9}}", re.IGNORECASE
)


def last_match(pattern: Pattern, text: str) -> re.Match[str] | None:
    """Return the last match. A list would not do: a broken response can have millions."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


# --- boxes --------------------------------------------------------------------------------------

_BOX_NAMES = r"\\(?:boxed|fbox|framebox)"
_BOX_TOKEN = Pattern(rf"{_BOX_NAMES}\s{{0,9}}\{{|\\.|[{{}}]", re.DOTALL)
_BARE_BOX = Pattern(rf"{_BOX_NAMES}\s{{1,9}}(-?[A-Za-z0-9.]+)")
_ENVIRONMENT = Pattern(r"\\begin\{boxed\}(.{0,4000}?)\\end\{boxed\}", re.DOTALL)
#: A box that the token limit cut off.
TRUNCATED_BOX = Pattern(rf"{_BOX_NAMES}\s{{0,9}}\{{(?!\s*\}})[^\n]*")


class Box(NamedTuple):
    """A box in a text: its contents, and where it begins and ends."""

    contents: str
    start: int
    end: int


def find_boxes(text: str, most: int = 100) -> list[Box]:
    """Return the last complete, non-empty boxes in their order, of nested ones the innermost."""
    if not any(name in text for name in ("\\boxed", "\\fbox", "\\framebox", "{boxed}")):
        return []
    if "{boxed}" in text:
        text = _ENVIRONMENT.sub(r"\\boxed{\1}", text)
    boxes: deque[Box] = deque(maxlen=most)
    open_braces: list[tuple[int, int]] = []  # start of the box and of its contents, or -1
    for token in _BOX_TOKEN.finditer(text):
        kind = token.group()
        if kind == "}":
            start, inside = open_braces.pop() if open_braces else (-1, -1)
            inner = text[inside : token.start()].strip() if start >= 0 else ""
            if inner and not (boxes and boxes[-1].start > start):
                boxes.append(Box(inner, start, token.end()))
        elif kind == "{":
            open_braces.append((-1, -1))
        elif kind.endswith("{") and len(kind) > 2:
            open_braces.append((token.start(), token.end()))
    if not boxes and (bare := last_match(_BARE_BOX, text)):
        boxes.append(Box(bare[1], bare.start(), bare.end()))
    return list(boxes)


def without_truncated_box(text: str) -> str:
    """Return the text without a box that the token limit cut off, and what stands in it."""
    boxes = find_boxes(text, most=1)
    end = boxes[-1].end if boxes else 0
    return text[:end] + TRUNCATED_BOX.sub("", text[end:])


def last_box(text: str) -> str | None:
    """Return the contents of the last complete, non-empty box, of nested ones the innermost."""
    boxes = find_boxes(text, most=1)
    return boxes[-1].contents if boxes else None


# --- tags and JSON ------------------------------------------------------------------------------

_TAGGED = Pattern(
    r"<(?P<tag>(?:final[_ ]?)?answer|solution|ans|choice|option|output|result)>\s*"
    r"(?P<inside>[^<>]*(?:<(?!/?(?P=tag)>)[^<>]*)*)"
    r"</(?P=tag)>",
    re.IGNORECASE,
)
_NAME = r"(?:final[_ ]?answer|answer|final[_ ]?result|correct[_ ]?(?:answer|option|choice)"
_KEY = Pattern(
    rf"[\"']{_NAME}|result|solution|choice|option|label|sentiment|category|code|program|response"
    rf"|output|prediction|verdict|intent|class)[\"']\s{{0,9}}:\s{{0,9}}",
    re.IGNORECASE,
)
_LONE_STRING = Pattern(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_LITERAL = Pattern(r"[^,}\]\n]{1,200}")
_LATEX_IN_JSON = Pattern(r"(?<!\\)\\[A-Za-z]{2,}")
_DECODER = json.JSONDecoder()


def tagged_answer(text: str) -> str | None:
    """Return what stands between the last ``<answer>`` tags."""
    if "</" not in text:
        return None
    tagged = last_match(_TAGGED, text)
    return tagged["inside"].strip() if tagged else None


class Field(NamedTuple):
    """The value of a JSON object's answer field, as text. None stands for null."""

    value: str | None


def json_answer(text: str) -> Field | None:
    """Return the answer field of a JSON object, or of what was meant as one, in the text."""
    if "{" not in text:
        return None
    keys = list(islice(_KEY.finditer(text), 200))
    if not keys or "{" not in text[: keys[0].start()]:
        return _only_field(text)
    preferred = [key for key in keys if "answer" in key.group().lower()] or keys
    return _value_at(text, preferred[-1].end())


_FENCE = Pattern(r"^```\w*\s*|\s*```$")


def _only_field(text: str) -> Field | None:
    """The value of an object that has one key and is the whole text."""
    text = _FENCE.sub("", text[:200_000].strip())
    if not text.startswith('{"'):
        return None
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return Field(_as_text(value)) if isinstance(value, dict) and len(value) == 1 else None


def _value_at(text: str, start: int) -> Field | None:
    rest = text[start : start + 200_000]
    if quoted := _LONE_STRING.match(rest):
        return Field(_unescape(quoted[0]))
    try:
        value, _ = _DECODER.raw_decode(rest)
    except (ValueError, RecursionError):
        literal = _LITERAL.match(rest)
        return Field(literal.group().strip()) if literal else None
    return Field(_as_text(value))


def _unescape(quoted: str) -> str:
    """A JSON string, or one as Python writes it, also with LaTeX in single backslashes."""
    inside = quoted[1:-1]
    if quoted[0] == '"' and not _LATEX_IN_JSON.search(inside):
        try:
            return str(json.loads(quoted, strict=False))
        except ValueError:
            pass
    return re.sub(r"\\([\\\"'])", r"\1", inside)


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict) and len(value) == 1:
        return _as_text(next(iter(value.values())))
    if isinstance(value, list):
        return ", ".join(_as_text(item) or "" for item in value)
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return json.dumps(value) if isinstance(value, dict | float | int) else str(value)
