"""The text of a reply to a multiple-choice question without decoration."""

import re
import unicodedata

from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import find_boxes, has_long_mark_run, without_truncated_box

_HEAD, _TAIL = 4_000, 16_000  # characters that are read of a long response
_CYRILLIC = str.maketrans("АВСЕавсе", "ABCEabce")
_LONE_CYRILLIC = Pattern(r"(?<!\w)[АВСЕавсе](?!\w)")
_EMOJI = {0x1F170 + k: chr(ord("A") + k) for k in range(26)}
_TYPOGRAPHY = _EMOJI | str.maketrans("’‘“”„«»「」【】", '\'\'"""""""[]')
_DRESS = r"(?:\*\*|__|[\"'`<>{}*]|\[\[?|\]\]?)"
_ONE = r"(?:option |choice |answer )?\(?[a-z]\)?"
_MOVED = (
    rf"(?i)\b(?:chang|switch|revis|updat)\w*\b(?:[^.\n]{{0,30}} from {_ONE}"
    rf"| (?:my|the) [a-z ]{{3,20}}) to (?={_ONE}\b)"
)
# The text of an option that names others: "The answer is D. Both B and C."
_OWN_TEXT = (
    r"(?<=\b[A-Z][.,]) \(?(?:(?:Both|Neither) [A-Z](?:,? (?:and|or|nor) [A-Z])+"
    r"|[A-Z] and [A-Z] only)\b(?: only)?\)?(?=\W*(?:$|\n))"
)
_DESCRIBED_IN = (
    r"(?m)\b(?:listed|stated|described|captured|shown|found|represented|expressed|reflected)"
    r" (?:in|under|as|by|at|with) (?=\(?[A-Z]\)?\W*$)"
)
_TAG_QUESTION = (
    r"(?i), (?:(?:is|are|was|would|wo|do|does|did|ca|should|has)n't (?:it|they|that)|right|no)\?$"
)
_CIRCLED = rf"(?mi)^[^\w\n]{{0,9}}(?:circle|tick|check|shade|fill in) (?={_ONE}\W*$)"
# "A... no, B", "A — scratch that — B"
_TAKEN_BACK_INSIDE = (
    r"(?i)\s?(?:\.{2,3}|…|—|–| - |,)\s?(?:no|nope|wait|scratch that|hold on|oops|sorry|actually"
    r"|correction)\b[^\w\n(]{0,4}(?=\(?[A-Z]\)?\W*$)"
)
_REPLACED = [
    (Pattern(r"\\(?:[a-zA-Z]*[rR]ightarrow|implies|to|therefore)(?![a-zA-Z])|[-=]>"), "→"),
    (Pattern(r"\\(?:text|math|bold|underline)\w*\s?\{([^{}]*)\}"), r"\1"),
    (Pattern(r"\\(?:bf|it|rm|sf|tt)(?![a-zA-Z])"), ""),
    (Pattern(r"\\(?:checkmark\b|[^\w\s]|\s|quad)|\ufe0f|\$"), " "),
    (Pattern(r"~~[^~\n]{1,200}~~"), ""),
    (Pattern(r"(?m)^([ \t*-]*)(?:\[[xX]\]|\([xX]\)(?= ?\(?[A-Z]\b)|[●◉☒■])"), r"\1✅"),
    (Pattern(r"(?m)^[ \t]*(?:\( ?\)|[○◯☐□])(?= ?\(?[A-Z]\b)"), ""),
    (Pattern(r"</?(?:b|i|u|p|strong|em|code|br|span|div|h[1-6])\s?/?>"), "**"),
    (Pattern(rf"(?<!\w){_DRESS}\(?([A-Za-z])\)?{_DRESS}(?!\w)"), r"(\1)"),
    (Pattern(r"[*`_\"<>#{}\\]|\[\s?\]"), " "),
    (Pattern(r"(?<=[\w):.!|]) ?([✅❌✗✘✓✔])"), r" – \1,"),
    (Pattern(r"\b([A-Z])(?:[ .,]+\1\b)+(?! [a-z])"), r"\1"),
    (Pattern(r"(?<=[.;!?] )(?=[A-Z][:)]\s)|(?<=; )(?=[A-Z]\.\s)|(?<=, )(?=[A-Z]:\s)"), "\n"),
    (Pattern(r"(?<=: )(?=\(?A\)[^\n]{1,200}\sB\))"), "\n"),
    (Pattern(r"[ \t]+"), " "),
    (Pattern(r"(?i)\b(answer|choice|option)\W{0,3}→"), r"\1:"),
    (Pattern(r"(?:\A|(?<=\?\n)|(?<=\? \n))\s?A: (?=\(?[A-Z]\)?\W*\Z)"), "Answer: "),
    (Pattern(r"(?m)^\s?A: (?=[Tt]he (?:correct |right )?answer\b)"), "Answer: "),
    (Pattern(r"(?i)\b(option|choice|answer|letter)\((?=[a-z]\))"), r"\1 ("),
    (Pattern(_MOVED), "change to "),
    (Pattern(_DESCRIBED_IN), "i.e. "),
    (Pattern(r"(?i)(?:(?<=n't)|(?<=\bnot)): "), ". "),
    (Pattern(_OWN_TEXT), ""),
    (Pattern(r"\bWhy \(?([A-Z])\)?\? "), r"\1 is right. "),
    (Pattern(r"\b([A-Z])\)?\? (?:Yes|Yep|Correct|Right)\b[,:! –—-]*"), r"\1 is right. "),
    (Pattern(r"\b([A-Z])\)?\? (?:No|Nope|Wrong)\b[,:!. –—-]*"), r"\1 is wrong. "),
    (Pattern(r"(?i)\b(first|initially)\b([^.\n]{0,60}), then (?=\(?[A-Z]\b)"), r"\1\2, first "),
    (Pattern(_TAKEN_BACK_INSIDE), ". Wait, no. "),
    (Pattern(r"(?m)^ ?\| ?(\d{1,3}) ?\| ?\(?([A-Z])\)? ?\| ?$"), r"\1. \2"),
    (Pattern(r"(?<=\bis)(?: ?\.{3,}| …) ?"), " "),
    (Pattern(r",? (?:and|while|whereas) (?=(?:all )?(?:the )?(?:others?|rest|remaining)\b)"), ". "),
    (Pattern(r"(?<=\w) (?=(?:while|whereas) \(?[A-Z]\b)"), ", "),
    (Pattern(_TAG_QUESTION), "."),
    (Pattern(_CIRCLED), "Answer: "),
]  # fmt: skip


# "(a) 3 (b) 4 (c) 5"
_LIST_IN_LINE = Pattern(r"(?mi)^ ?\(a\):? (?!and|or|,)[^\n]*\(b\)[^\n]*\(c\)[^\n]*$")


def plain_text(text: str) -> str:
    """Return the text without Markdown and LaTeX. Put a letter in bold into brackets."""
    text = text.replace(r"\begin{boxed}", r"\boxed{").replace(r"\end{boxed}", "}")
    text = without_truncated_box(text)
    for box in reversed(find_boxes(text, most=20)):
        text = f"{text[: box.start]} boxed: {box.contents} {text[box.end :]}"
    if len(text) > _HEAD + _TAIL:
        text = f"{text[:_HEAD]}\n{text[-_TAIL:]}"
    if not text.isascii():
        text = text.translate(_TYPOGRAPHY)
        text = text if has_long_mark_run(text) else unicodedata.normalize("NFKC", text)
        text = _LONE_CYRILLIC.sub(lambda one: one.group().translate(_CYRILLIC), text)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return _LIST_IN_LINE.sub(lambda line: re.sub(r" (?=\([a-zA-Z]\))", "\n", line.group()), text)
