"""The letter of a multiple-choice question as an answer."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from mpdf_langgraph.answers.choice_cues import Mention, read_signs
from mpdf_langgraph.answers.choice_text import plain_text
from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import (
    answering_part,
    json_answer,
    tagged_answer,
)
from mpdf_langgraph.errors import ConfigurationError

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ChoiceAnswer:
    r"""One letter of a multiple-choice question.

    `parse` reads the stance of a response towards every letter that it mentions. The letter that is
    stated last counts: in ``\boxed{B}``, by "the answer is (B)", "so I choose B", or alone in its
    sentence. Else it is the one letter that is called right ("option B is correct", "B ✅"), the
    one that is left where all others are called wrong, or the one in brackets in the last
    sentence that has any. "Wait, no" takes back what was said before. What is said under a
    condition, of other people, or of a first impression does not count. Two letters, or a letter
    beyond the choices, are no answer, nor are the answers to several questions. Letters of names
    and articles are none either ("vitamin C", "A force").

    Args:
        n: The number of choices, 2 to 26, lettered from A.

    Example:
        >>> ChoiceAnswer(4).parse("A and C are out, so the answer is (b).")
        'B'
        >>> ChoiceAnswer(4).parse("Option B is correct; A and D confuse cause and effect.")
        'B'
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= 26:
            raise ConfigurationError(f"ChoiceAnswer takes the number of choices, 2 to 26: {n!r}")
        self.name = f"choice({n})"
        self._letters = _ALPHABET[:n]
        self.instructions = (
            f"Put the letter of the right choice, A to {self._letters[-1]}, in \\boxed{{}}."
        )

    def parse(self, text: str) -> str | None:
        """Return the letter that a response chooses, or None if it chooses none."""
        text = answering_part(text)
        given = tagged_answer(text)
        if given is None and (field := json_answer(text)):
            given = field.value or ""
        plain = plain_text(text if given is None else given)
        if _SEVERAL_QUESTIONS.search(plain):
            return None
        if alone := _ALONE_IN_TEXT.fullmatch(plain):
            plain = f"Answer: {alone[1]}"
        stances = _stances(plain)
        if not stances and (lettered := _in_letters(plain, self._letters)) != plain:
            stances = _stances(lettered)
        letter = _decide(stances, self._letters) or _most_likely(plain)
        return letter if letter in list(self._letters) else None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers are the same letter. A reference may be written "(B)"."""
        return self._letter_of(a) == self._letter_of(b)

    def _letter_of(self, text: str) -> str:
        return self.parse(text) or text.strip().upper()


# "1. B 2. C"
_SEVERAL_QUESTIONS = Pattern(
    r"(?:(?<!\w)\d{1,2}[.):]\s?\(?[A-Z]\)?[\s,;.]{1,9}){1,40}\d{1,2}[.):]\s?\(?[A-Z]\)?\W*\Z"
)
# "Graph D", "B, 3.2 m"
_ALONE_IN_TEXT = Pattern(
    r"\W*(?:(?i:graph|figure|diagram|picture|image|structure|curve) )?\(?([A-Z])\)?(?:[^\w+#]*"
    r"|, [^A-Z\n]{1,40})"
)
_COUNTED = ("first", "second", "third", "fourth", "fifth")
_COUNTED_OPTION = Pattern(rf"(?i)\bthe ({'|'.join(_COUNTED)}|last) (?:option|choice|alternative)\b")
_TICKED = Pattern(r"(?<!\w)([A-Z])\)? ?[:=?(] ?(?i:(T|1|Y|yes|true)|F|0|N|no|false)\b(?![.%])")
_SHARE = Pattern(r"(?<![\w])([A-Z])\)?[ :=(–-]{1,4}(\d+(?:\.\d+)?) ?%")


def _most_likely(text: str) -> str:
    """The letter that is given the most percent: "B (70%), C (30%)"."""
    ticked = list(_TICKED.finditer(text))
    if len(ticked) > 1 and len(right := [one[1] for one in ticked if one[2]]) == 1:
        return right[0]
    alone = set(re.findall(r"[A-Za-z]+", text))
    if not text.isascii() and len(alone) == 1 and len(text) < 100:  # of a script of its own
        letter = alone.pop()
        return letter if not re.search("[!FRIM@]{2}|[!FRIM]", read_signs(text)[0]) else ""
    shares = {letter: float(share) for letter, share in _SHARE.findall(text)}
    best = [letter for letter, share in shares.items() if share == max(shares.values())]
    return best[0] if len(best) == 1 and len(shares) > 1 else ""


def _in_letters(text: str, letters: str) -> str:
    """The text with letters for "the third option"."""

    def letter(found: re.Match[str]) -> str:
        place = _COUNTED.index(found[1].lower()) if found[1].lower() in _COUNTED else -1
        return f"option ({letters[place]})" if place < len(letters) else found.group()

    return _COUNTED_OPTION.sub(letter, text)


# --- stances ------------------------------------------------------------------------------------


class _Stance(NamedTuple):
    """What a reply says of letters.

    Attributes:
        kind: "stated" as the answer, "held" to be right, "denied", "named", "asked" for ("B?"), or
            only "mentioned". Two kinds have no letters: "taken back" (what was said before) and
            "refused" (to choose).
        letters: The letters.
    """

    kind: str
    letters: str = ""


# The signs (see `choice_cues`) before letters, from the beginning of their clause, and after them.
_DENIED_BEFORE = Pattern(
    r"(?:FA_*B_*"  # the wrong answer is B
    r"|R[_O,]*"  # ruling out B
    r"|![_OBTA]*"  # not option B
    r"|^_*F_*B_*"  # incorrect: B
    r"|![^@|&S,]{0,4}C[_O]*"  # I would not choose B
    r"|[ATOV][^@|&S!]*!_*[^@|&S!w]*)$"  # the answer cannot be B
)
_STATED_BEFORE = Pattern(
    r"(?:A[^@!&]*B"  # the answer to this question is B
    r"|[TFV][^@|!S&]*B"  # the one that fits is B
    r"|(?:^|[,S|&])[_TF]*O(?:[_T]*|[_wTV]{1,9})B"  # option: B
    r"|C)[_OATBMZS,]*$|V[_OATBMZS]*$"  # I choose B
)
_LABELLED_BEFORE = Pattern(r"(?:^|[,S&B])[_S]*(?:T+_*[AO]|AT?)[_OATB,]*$")  # correct answer B
_STATED_FAR = Pattern(r"(?:A[^@|!F&]*B|C)[^@|!F&]*$")  # the answer is Paris, option B
_ALONE_BEFORE = Pattern(r"(?:^|[&S])B?[_SCAOTZ!0,]*$|^_*P[^&,]*@[^&,]*,_*$")  # so clearly B
_ALONE_AFTER = Pattern(
    r"[_TC]*(?:,A{1,2}$)?(?:,[wBT_!]{1,8},)?(?:,?[_C]*(?:[!R]_*@)?)?(?:$|[|&])"
)  # B, I think, not A
_ASIDE = r"(?:,[wB_]{1,8},|w?B?w{1,3}(?=B))?"  # B (Paris) is
_DENIED_AFTER = Pattern(rf"{_ASIDE}[wBTS_,]{{0,3}}?(?:F|![_B]*(?:$|[,|&])|![_Bw]{{0,3}}[TVAC])")
_STATED_AFTER = Pattern(rf"{_ASIDE}[BO_S]*(?:A|[BT_]*T_*[AO])")  # B is the best choice
_HELD_AFTER = Pattern(rf"{_ASIDE}_*(?:[wBOS]_*){{0,4}}?(?:T|V)")  # B is right
_SUBJECT_BEFORE = Pattern(r"(?:^|[S&]|@B|,_)[_S]*O?_*$")  # D meets all conditions
_DOES_AFTER = Pattern(r"_*w[_wTV]")
_SUPPOSED = Pattern(r"P[^,@|&]*$")  # many students choose B
# A sentence on the choice at the beginning of its line: "This is not correct".
_VERDICT = Pattern(
    r"(?:^|[,|B&])_*(?:[BC]_*)*(?P<not>!_*(?:B_*)?)?(?P<sign>[TF0V])(?:(?<=V)|[AO]?_*(?=$|[,|B&]))"
)

_ITEM = Pattern(
    r"[\s•·+|-]*(?:\d{1,2}[.)]\s*)?(?P<mark>[✅❌✓✔✗✘☑🚫]?)\s*(?i:(?:options?|choice|answer|statement"
    r"|opción|opção|вариант|选项)\s?)?(?:\((?P<a>[A-Za-z])\)"
    r"|(?P<b>[A-Za-z])(?![A-Za-z]))(?:\s?(?:[):|→]+|\.(?!\w))[.):|→]*|\s?[-–—](?=\s)(?!\s[✅❌✗✘✓✔])"
    r"|(?=\s*$)|(?<=\))(?!\s*(?:(?:is|are|was|and|or|holds|fits|cannot)\b|[,&]|–\s[✅❌✗✘✓✔])))"
)
# "Option B (osmosis) is the process that ..."
_DEFINED = Pattern(
    r"\W*(?:Option|Choice|Answer) \(?([A-Z])\)?(?: \([^()]*\)|, [^,]*,)? is the (?!opposite"
    r"|reverse)[a-z]+ (?:[a-z]+ )?(?:that|which|who|by|where|in which)\b"
)
_LABEL = Pattern(r"\s?\(?([A-Z])\)?\.")
_SENTENCE = Pattern(r"(?<=[.!?;])(?=[\s)])|(?<=[。！？；।])")
_REFUSED = Pattern(
    r"(?i)\b(?:can(?:no|')t|unable to|impossible to|not possible to|couldn't)"
    r" (?:pick|choose|decide|determine|select|settle|tell which|say which|answer)\b"
)
_LEAD_IN = Pattern(r"[_ST]*[AO]+_*B?_*|[^@!|]*[AT][^@!|]*BB")


def _stances(text: str) -> list[_Stance]:
    """What a reply says of letters, in order."""
    found: list[_Stance] = []
    lines = [line.strip() for line in text.split("\n") if line.strip(" \t|=-•.")]
    items = [_ITEM.match(line) for line in lines]
    letters = [(item["a"] or item["b"]).upper() if item else "" for item in items]
    listed = _in_lists(letters)
    topic = lead_in = ""
    for number, line in enumerate(lines):
        last = number == len(lines) - 1
        item = None if lead_in else items[number]
        rest = line[item.end() :] if item else f"{lead_in}{line}"
        if not (item or lead_in or last or listed[number + 1]) and _leads_in(line):
            lead_in = f"{line} : "  # "The correct answer is:", and the letter in the next line
            continue
        lead_in = ""
        if item:
            topic = letters[number]
            if item["mark"]:
                right = read_signs(item["mark"])[0] == "T"
                found.append(_Stance("held" if right else "denied", topic))
            elif listed[number] and rest.strip(" .") in ("Y", "T", "N", "F"):
                found.append(_Stance("held" if rest.strip(" .") in "YT" else "denied", topic))
            elif not listed[number] and (
                number == 0
                or not rest.strip(" .")
                or (last and not lines[number - 1].endswith(":") and not _is_stated(found))
            ):
                found.append(_Stance("stated", topic))
                topic = ""
        option = letters[number] if item else ""
        *sentences, ending = _SENTENCE.split(rest)
        for sentence in sentences:
            if label := _LABEL.fullmatch(sentence):  # "Paris; A. Lyon"
                found.append(_Stance("held", label[1]))
            else:
                found += _stances_of_sentence(sentence, topic, option)
            option = ""
        new = list(_stances_of_sentence(ending, topic, option))
        if _ALSO.search(ending) and _is_stated(found) and _is_stated(new):
            found.append(_Stance("stated", found[-1].letters + new[0].letters))
        else:
            found += new
    return found


_ALSO = Pattern(r"\balso \(?[A-Z]\b")


def _is_stated(stances: list[_Stance]) -> bool:
    return any(one.kind == "stated" for one in stances)


def _in_lists(letters: list[str]) -> list[bool]:
    """Tell which lines belong to a list of choices: a neighbour has the next letter."""
    numbers = [number for number, letter in enumerate(letters) if letter]
    listed = [False] * len(letters)
    for one, other in pairwise(numbers):
        if ord(letters[other]) == ord(letters[one]) + 1:
            listed[one] = listed[other] = True
    return listed


def _leads_in(line: str) -> bool:
    sentence = _SENTENCE.split(line)[-1][:200]
    return bool(_LEAD_IN.fullmatch(read_signs(sentence)[0].replace(":", "B")))


def _stances_of_sentence(sentence: str, topic: str, option: str = "") -> Iterator[_Stance]:
    written, mentions = read_signs(sentence)
    signs = written.replace(":", "B")
    if option and "Z" not in signs:  # the text of an option: "(D) Both A and B"
        mentions = [mention for mention in mentions if mention.letters == option]
    question = sentence.rstrip().endswith("?")
    doubtful = question or "I" in signs
    if _REFUSED.search(sentence):
        yield _Stance("refused")
    named = ""
    end = 0
    for mention in mentions:
        if "Z" in signs[end : mention.place]:
            yield _Stance("taken back")
        end = mention.place + 1
        before = signs[max(0, mention.place - 60) : mention.place]
        after = re.split("(?<=[@|&])", signs[end : end + 40], maxsplit=1)[0]
        clause = before[before.rfind("|") + 1 :]
        if "I" in signs[: mention.place]:
            continue
        after = "" if mention.titled and clause else after
        kind = _kind(clause, after, mention, clause != before and not re.search("[S&]", clause))
        if not kind and end == len(signs) and written[: mention.place].endswith(":"):
            kind = "" if re.search("P_*B$", before) else "held"
        if (kind == "named" and (not question or re.search(",_*$", before))) or (
            doubtful and kind == "stated"
        ):
            named += mention.letters
        elif not doubtful:
            yield _Stance(kind or "mentioned", mention.letters)
    if "Z" in signs[end:]:
        yield _Stance("taken back")
    if question and named:
        yield _Stance("asked", named)
    elif named and not re.search(r"\bwould\b", sentence):
        yield _Stance("named", "".join(dict.fromkeys(named)))
    if not question and (defined := _DEFINED.match(sentence)):
        yield _Stance("asked", defined[1])
    if topic and not mentions and (verdict := _VERDICT.search(signs)):
        right = (verdict["sign"] in "TV") is not bool(verdict["not"])
        yield _Stance("held" if right else "denied", topic)


def _kind(before: str, after: str, mention: Mention, dependent: bool) -> str:
    """Return the kind of stance that the signs around letters make. Return "" if they make none."""
    supposed = _SUPPOSED.search(before) or "P" in after.split(",")[0]
    labelled = mention.in_brackets or re.search("O_*$", before)
    if _DENIED_BEFORE.search(before):
        return "" if supposed else "denied"
    if _STATED_BEFORE.search(before) or (
        labelled and _STATED_FAR.search(before) and not after.startswith("C")
    ):
        return "" if supposed else "stated"
    if (supposed and not re.search("PA_*$", before)) or (
        before.endswith("w") and not mention.in_brackets
    ):
        return ""
    if _DENIED_AFTER.match(after):
        return "denied"
    if _STATED_AFTER.match(after) or _LABELLED_BEFORE.search(before):
        return "stated"
    if not dependent and _ALONE_BEFORE.search(before) and _ALONE_AFTER.match(after):
        return "stated"
    if _HELD_AFTER.match(after) or re.search("M[_OAT]*$", before):
        return "held"
    if _SUBJECT_BEFORE.search(before) and _DOES_AFTER.match(after):
        return "asked"
    if mention.in_brackets or re.search("w[^@]*[,BS]O_*$", before):
        return "named" if re.match("_*(?:$|[,|&])", after) else ""
    if not re.fullmatch("_*,?", after):
        return ""
    return "named" if re.search("^[^@]*O_*$|w,_*$", before) else ""


# --- the decision -------------------------------------------------------------------------------

_SEVERAL = "several"
_WEAK = ("named", "asked")


def _decide(stances: list[_Stance], choices: str) -> str:
    """Return the letter that the stances come to, or "". It may be beyond the choices."""
    mentioned = [set(one.letters) for one in stances if one.kind == "mentioned"]
    stances = [one for one in stances if one.kind != "mentioned"]
    refused = max((n for n, one in enumerate(stances) if one.kind == "refused"), default=0)
    stances = stances[refused:]
    taken_back = max((n for n, one in enumerate(stances) if one.kind == "taken back"), default=0)
    for considered in (stances[taken_back:], stances):
        if letter := _asserted(considered, choices):
            return letter
    last = {letter: one.kind for one in stances for letter in one.letters}
    denied = {letter for letter in choices if last.get(letter) == "denied"}
    left = set(choices) - denied
    if len(left) == 1 and len(denied) > 1:
        return left.pop()
    named = [one.letters for one in stances if one.kind == "named"]
    if named:
        return named[-1] if last[named[-1][0]] == "named" else ""
    asked = {one.letters for one in stances if one.kind == "asked"}
    return asked.pop() if len(asked) == 1 and all(asked & one for one in mentioned) else ""


def _asserted(stances: list[_Stance], choices: str) -> str:
    """The letter stated last, else the only one held to be right."""
    last = {letter: one.kind for one in stances for letter in one.letters if one.kind not in _WEAK}
    held = {letter for letter, kind in last.items() if kind == "held" and letter in choices}
    # All choices in a row are an order, no answer.
    stated = [one.letters for one in stances if one.kind == "stated"]
    stated = [letters for letters in stated if not set(letters) >= set(choices)]
    if stated and len(stated[-1]) == 1:
        return stated[-1]
    left = held & set(stated[-1]) if stated else held
    return left.pop() if len(left) == 1 else _SEVERAL if stated or left else ""
