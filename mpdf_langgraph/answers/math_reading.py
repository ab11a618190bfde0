"""Where in a response a mathematical answer stands: boxes, tags, marks, sentences."""

import re

from mpdf_langgraph.answers.math_notation import canonical, with_decimal_points
from mpdf_langgraph.answers.math_numbers import MAX_LENGTH
from mpdf_langgraph.answers.math_parts import has_form
from mpdf_langgraph.answers.math_sentences import (
    read_after_marker,
    read_listed,
    read_prose,
    read_sentence,
    result_of,
)
from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import (
    MARKER,
    TAKEN_BACK,
    TRUNCATED_BOX,
    Box,
    answering_part,
    find_boxes,
    json_answer,
    last_match,
    tagged_answer,
    without_confidence,
    without_truncated_box,
)
from mpdf_langgraph.answers.sentence_numbers import has_prose, has_verb, is_number

_HASHES = Pattern(r"####[ \t]*([^\n]+)")
_HEADING = Pattern(r"\**(?:[A-Za-z]{2}|[0-9]+[.):]\s+\S)")
_NO_EXPRESSION = Pattern(r"\n|[A-Za-z]:|\\(?:boxed|fbox|framebox)")
_ASSIGNED = Pattern(r"[A-Za-z]\s?=")
# Alone, these words say that there is no answer.
_NO_ANSWER = Pattern(
    r"(?:none|nothing|null|unknown|unsure|unclear|uncertain|undecided|pass|skip|dunno|idk|sorry"
    r"|maybe|perhaps|ok(?:ay)?|hello|thanks)[.!]?",
    re.IGNORECASE,
)


def find_answer(text: str) -> str | None:
    """Return the answer in a response, by the order that `MathAnswer` documents."""
    text = answering_part(text)
    if (boxes := find_boxes(text)) and (answer := _read_boxes(text, boxes)):
        return answer
    if inside := tagged_answer(text):
        return _read_alone(inside) if _stands_alone(inside) else find_answer_in_words(inside)
    if field := json_answer(text):
        if field.value is None:
            return None
        return _read_alone(field.value) if _stands_alone(field.value) else find_answer(field.value)
    return find_answer_in_words(text)


def find_answer_in_words(text: str) -> str | None:
    """Return the answer of a response without a box."""
    text = with_decimal_points(without_confidence(text))
    boxes = find_boxes(text, most=1)
    cut_off = TRUNCATED_BOX.search(text, boxes[-1].end if boxes else 0)
    shortened = without_truncated_box(text) if cut_off else text
    # A Markdown heading of level 4 ("#### Step 2", "#### 1. Add") is not an answer.
    lines = [
        line for line in _HASHES.findall(shortened) if not _HEADING.match(line) or is_number(line)
    ]
    if lines and (marked := canonical(result_of(lines[-1]))):
        return marked
    marker = last_match(MARKER, shortened)
    if marker:
        rest = shortened[marker.end() :][: 2 * MAX_LENGTH]
        taken_back = last_match(TAKEN_BACK, rest)
        if taken_back and re.match(r"[^\n]*[0-9]", rest[taken_back.end() :]):
            rest = rest[taken_back.end() :]
        if stated := read_after_marker(rest):
            return stated
    whole = shortened.strip()
    if len(whole) <= 100:
        if listed := read_listed(whole):
            return listed
        if has_form(canonical(whole)) or (len(whole.split()) <= 4 and is_number(whole)):
            return canonical(whole)
        if re.fullmatch(r"(?:[A-Z][A-Za-z]+|[a-z]{4,})[.!]?", whole):
            return None if _NO_ANSWER.fullmatch(whole) else canonical(whole)
    if len(whole) <= MAX_LENGTH and not has_prose(whole) and not _NO_EXPRESSION.search(whole):
        answer = canonical(whole)
        if "=" not in _ASSIGNED.sub("", answer, count=1) and re.search(r"\w|∞|∅", answer):
            return answer
    if (said := read_prose(shortened)) is not None:
        return said
    if cut_off:  # nothing else is there: a reply that began with its box
        return canonical(re.sub(r"^[^{]*\{", "", cut_off.group())) or None
    return None


def _stands_alone(text: str) -> bool:
    return (
        len(text) <= MAX_LENGTH
        and (not has_prose(text) or is_number(text) or len(text.split()) <= 4)
        and "boxed" not in text
    )


def _read_alone(text: str) -> str | None:
    """The answer that a tag or a field holds, perhaps in a short sentence or behind a sum."""
    if has_verb(text) and re.search(r"[0-9]", text) and not is_number(text):
        return read_sentence(text)
    return canonical(result_of(text))


# --- boxes ------------------------------------------------------------------------------------

_UNKNOWN = Pattern(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_GLUE = Pattern(
    r"(?:(?:[a-zA-Z](?:_\{?[0-9a-z]\}?)?|\\[a-z]+)\s?=|\s|\$|\\\(|\\\)|\\quad"
    r"|\\text\s?\{\s?(?:and|or|,)\s?\}|,|;|\band\b|\bor\b|\bund\b|\bet\b|\by\b)*"
)
_JOINS = Pattern(r",|;|\band\b|\bor\b|\bund\b|\bet\b|\by\b")
_SIGN_BEFORE = Pattern(r"(?:=|\bis|\\approx)\s?\$?\s?(-)\s?$|^\s?\$*\s?(-)\s?$")
_NAME_BEFORE = Pattern(r"([A-Za-z])\s?=\s?-?\s?\$?$")
_REST_AFTER = Pattern(
    r"^\s?(?:\\text\s?\{\s*(?:hundred|thousand|million|billion|trillion|dozen|percent)\b[^{}]*\}"
    r"|(?:hundred|thousand|million|billion|trillion|dozen|percent)\b"
    r"|\\?%|\\[dt]?frac\s?(?:\{[0-9]+\}|[0-9])\s?(?:\{[0-9]+\}|[0-9])|\\sqrt\s?(?:\[[0-9]\])?\{?[0-9a-z]+\}?"
    r"|_\{?[0-9]{1,2}\}?(?![0-9])|\\pi(?![a-z])|\^\{[^{}]*\}|\^[0-9])"
)
_WHERE = Pattern(
    r"\s?\$?[,.]?\s?(?:where|with|and|so|for)?\s?\$?\s?(?:=\s?(?P<direct>[^$,.\n]{1,60})|(?P<name>[A-Za-z])\s?=\s?(?P<value>[^$,\n]{1,60}?)(?:\$|\.?\s*$|,))"
)


def _read_boxes(text: str, boxes: list[Box]) -> str | None:
    """The answer of the last box, with a sign, a rest, or further boxes outside of it."""
    if "{boxed}" in text:
        return canonical(boxes[-1].contents)
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end : group[0].start]
        if not _joined(between) or len(group) >= 50:
            break
        group.insert(0, box)
    contents = [_with_surroundings(text, box) for box in group]
    if len(group) > 1:
        names = {m[1] for box in group if (m := _NAME_BEFORE.search(text[: box.start][-20:]))}
        if len(names) == len(group):
            contents = [
                f"{_NAME_BEFORE.search(text[: box.start][-20:])[1]} = {inside}"  # type: ignore[index]
                for box, inside in zip(group, contents, strict=True)
            ]
        unique = list(dict.fromkeys(canonical(inside) for inside in contents))
        return ", ".join(unique)
    return canonical(contents[0])


def _joined(between: str) -> bool:
    if len(between) > 60:
        return False
    stripped = _GLUE.sub("", between).replace("-", "").strip()
    return not stripped and bool(_JOINS.search(between))


def _with_surroundings(text: str, box: Box) -> str:
    contents = box.contents
    if not _UNKNOWN.search(contents):
        contents = result_of(contents)
    before, after = text[max(0, box.start - 20) : box.start], text[box.end : box.end + 120]
    if re.fullmatch(r"[A-Za-z]", contents) and (where := _WHERE.match(after)):
        if where["direct"]:
            return where["direct"].strip(" $.")
        if where["name"] == contents:
            return where["value"].strip(" $.")
    sign = _SIGN_BEFORE.search(before if box.start > 20 else text[: box.start])
    if sign and not contents.lstrip().startswith("-"):
        contents = f"-{contents}"
    if (rest := _REST_AFTER.match(after)) and re.search(r"[0-9}]$", box.contents):
        contents += rest.group()
    return contents
