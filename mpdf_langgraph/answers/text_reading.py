"""Free text as an answer: finding it in a response."""

import re

from mpdf_langgraph.answers.patterns import STYLED, Pattern
from mpdf_langgraph.answers.reading import (
    MARKER,
    TAKEN_BACK,
    answering_part,
    json_answer,
    last_box,
    last_match,
    tagged_answer,
    without_closing,
    without_confidence,
)

_YES_NO = Pattern(
    r"(?:(?:definitely|clearly|absolutely|certainly|probably),?\s)?(?:(?P<yes>yes|yeah|yep)"
    r"|(?P<no>no(?!\.\s?\d)|nope)|(?P<word>true|false|sí|ja|oui|non|nein|да|нет|não|sim|evet))"
    r"(?:$|\s?(?:[,.;:!(]|\s[-–—]|[–—])|\s(?:it|he|she|they|this|that|there|because|since|as)\b)",
    re.IGNORECASE,
)
_ABBREVIATED_TEXT = (
    "st dr mr mrs ms prof jr sr vs mt no ft gen col sgt lt capt rev hon inc ltd co corp dept"
    " pres approx ave blvd e.g i.e etc u.s u.k d.c a.m p.m"
)
_ABBREVIATED = frozenset(_ABBREVIATED_TEXT.split())
_FENCED = Pattern(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_LINK = Pattern(r"\[([^\[\]\n]{1,200})\]\(https?:[^()\s]*(?:\([^()\s]*\))?[^()\s]*\)")
_CITED = Pattern(r"(?<=\w)\s?(?:\[\d{1,3}\]|[¹²³⁴-⁹]+)(?=[\s.,]|$)")
_SENTENCE_END = Pattern(r"[.!?。](?:[\"”'’*)]{0,3})(?=\s+\S|$)")
_PRONOUN = Pattern(
    r"\s+(?:He|She|It|This|They|The|That|There|In|As|Because|Since|Its|These|We|However|Note)\b"
)
_AFTER_QUESTION = Pattern(r"Q(?:uestion)?:[^\n]{1,500}\n+A:")
# Where an answer ends and a remark on it begins.
_APPOSITION = Pattern(
    r",\s(?=[A-Z]\w+['’]s\s)|,\s(?=[a-zà-ÿ]+\s(?:de|du|des|del|di|da|do|von|of)\s)|,\s(?=(?:the|a"
    r"|an|which|who|whose|where|because|since|as|not|although|though|so|with|for|but|followed"
    r"|of\scourse|being|located|known|due|also|i\.e\.|capital|car|puisque|weil|denn|da|ya\sque"
    r"|porque|pois|perché|poiché|потому|так\sкак|omdat|want|ponieważ|çünkü|vì)\b)|\s(?=(?:because"
    r"|since|as\s(?:it|they)|rather\sthan|instead\sof)\b)|\s[-–—]\s(?=[a-z]+\s\w)|;\s(?!\w+[.;]?$)"
)
_CORRECTED = Pattern(
    r"not\b[^.\n]{1,80}?(?:\bbut\s(?:rather\s)?|[;,–—-]\s?(?:it(?:'s|\sis)|but)\s)", re.IGNORECASE
)
_ASKED_AND_ANSWERED = Pattern(
    r"(?:is|are|was|were|do|does|did|can|could|will|would|has|have"
    r"|should)\b[^?\n]{3,200}\?\s+(yes|no)\b",
    re.IGNORECASE,
)
# What comes before a statement and says nothing.
_OPENING = Pattern(
    r"(?:(?:sure|certainly|of course|absolutely|(?:great|good) question)(?: thing)?[!,.]\s+|(?:so"
    r"|thus|hence|therefore|overall|finally|ultimately|consequently|in (?:short|conclusion|summary)"
    r"|actually|also|donc|also|daher|por (?:lo )?tanto|quindi)\b[,:]?\s+|(?:according to|based on"
    r"|given|from) (?:the|this) [a-z]+(?: [a-z]+)?, |(?:i (?:think|believe|guess|suspect|would say)"
    r"|i'd say|i(?: am|'m) (?:fairly |pretty |quite |very )?(?:sure|confident"
    r"|certain))(?: that)?:?\s|(?:i(?:'d| would) (?:answer|go with|choose|pick)|i(?:'m"
    r"| am) going with|sorry, i meant?)\b:?\s|i agree(?: with [^:,.\n]{1,40}?)?(?: that\b|:)\s"
    r"|to (?:answer|sum|conclude|put)\b[^,:.\n]{0,30}[,:]\s|(?:if i (?:remember|recall)[^,\n]{0,30}"
    r"|without (?:a )?doubt|as far as i know),\s|none other than\s|(?:it )?(?:must|has to"
    r"|should) be\s|my (?:best |first |final )?(?:guess|bet)(?: is| would be)?:?\s"
    r"|(?:most |very )?(?:probably|likely|presumably|maybe|perhaps)\b,?\s)+",
    re.IGNORECASE,
)
# What comes before the main clause: "It restates the premise, so the label is entailment".
_CLAUSE_BEFORE = Pattern(
    r"^[^.!?\n]{2,200}[,;]\s(?:and\s)?(?:so|thus|hence|therefore|which means|but|however"
    r"|yet)\b,?\s(?:that\s)?(?=\w+\s\w)(?!(?:I|not)\b(?!\s(?:now|believe|think)\b))|^(?:although"
    r"|while|though|even though|contrary to|in|on|at|after|since|because|as"
    r"|when)\s[^,.\n]{2,80},\s(?=\S+\s\S)",
    re.IGNORECASE,
)
# "Sentiment: positive", as the whole response or as its first line.
_LABELLED = Pattern(
    r"\W{0,4}[^\W\d_]\w*(?:[ \t]\w+){0,2}\W{0,4}(?:(?<=[:：*])\s+|(?<=\w{3})=)([^\n]{1,200})"
)
_LABELLED_LINE = Pattern(
    r"\W{0,4}(?:Label|Category|Sentiment|Class|Classification|Topic|Prediction|Output|Result"
    r"|Verdict|Conclusion|Response|Intent|Language)\W{1,6}(?<=[:\s*])([^\n]{1,200})(?:\n|$)"
)
# --- what a sentence says -----------------------------------------------------------------------

_BE = (
    r"(?:is|are|was|were|will\sbe|would\sbe|must\sbe|should\sbe|became|remains|equals|es|fue|été"
    r"|был|была|было|son|était|est|sont|ist|war|sind|lautet|heißt|wurde|é|è|foi|era|jest|is|är|är"
    r"|là|adalah|является|هي|هو)"
)
_NAME_START = r"(?=[\"“«*_`'(]*[A-ZÀ-ÝА-Я0-9$€£]|l['’])"
_ARTICLE = (
    r"(?:(?:the|an?|la|el|le|los|las|les|der|die|das|ein|eine|o|il|un|una|de|den|det|het)\s)?"
)
_THE = (
    r"(?:(?:The|My|Our|Its|His|Her|Their|This|That|Today['’]s|La|El|Le|Les|Los|Las|Il|O|A|De|Den"
    r"|Det|Het|Die|Der|Das)\s|L['’]|[A-Z]\w+['’]s\s|[A-Z]\w+en\s(?=i\s))"
)
HAS_VERB = Pattern(
    rf"^(?:He|She|It|They|We|I|There)\s|\s{_BE}\s|['’]s\s|\s(?:has|have|had|won|wrote|became|made"
    rf"|built|led|took|gave|came|found|held|ran|drew|sang"
    r"|speaks?|[a-z]{2,}(?:ed|[^s\Wu]s))\s"
)
_REST = r"([^\n]{1,100})"
_VERB_ED = r"[^.!?\n]{2,120}(?:ed|wn|en|on|un|ade|uilt|ung|ld|ritten)"
_PROPER = (
    r"(?:[A-ZÀ-Ý][\w'’.-]*)(?:\s(?:(?:of|de|da|di|du|del|von|van|der|the|and"
    r"|la)\s)?[A-ZÀ-Ý0-9][\w'’.-]*){0,5}"
)
_PLACE = rf"(?:the\s)?{_PROPER}"
# What is called or described, and who did it. In one of the groups stands the answer.
_SAID_TO_BE = Pattern(
    rf"[^.!?\n]{{2,150}}\s(?:called|known\sas|named|termed|refers\sto|returns|prints|outputs|referred\sto\sas"
    rf"|stands\sfor|means|spelled|spelt|titled|(?:classif\w+|labell?ed|categori[sz]ed|identified)(?:\s[^.\n]{{1,60}})?\sas"
    rf"|classify\s[^.\n]{{1,60}}\sas)\s(?:an?\s|the\s)?{_REST}"
    rf"|{_THE}[^.!?:\n]{{2,120}}?\s{_BE}\s(?={_ARTICLE}{_NAME_START}){_REST}"
    rf"|(?:[Ii]t|That|This|He|She|They|Es|Ce|C|Esto|Questo|Это)(?:['’]s|['’]est|\s(?:is|was|(?:would|must|might|could|has\sto)\sbe"
    rf"|est|ist|es))\s(?=(?:the\s)?{_NAME_START})(?:the\s)?([^.\n]{{1,80}}?)(?:\s(?:who|that|which)\s[^\n]*)?"
    rf"|(?:Es|É|È)\s({_PROPER})"
    rf"|(?:It|This|That)(?:\s[a-z]+)?\s(?:is|was)\s(not\s(?:an?\s)?\w+)"
    rf"|(?:It|(?:That|This|The)(?:\s\w+)?)(?:['’]s|\sis)\s(?:an?\s)?(true|false|(?:in)?correct|wrong|(?:in)?valid|(?:un)?acceptable)\b[^\n]*"
    rf"|{_VERB_ED}\s[^.!?\n]{{0,40}}\bby\s((?:the\s)?[A-ZÀ-Ý][^,.\n]{{1,60}}?)(?:,?\s(?:in|around|on|during|about|circa)\s[^.\n]{{1,40}})?"
    rf"|[А-Я][А-Яа-яё\s]{{2,100}}\s(?:—|-|является)\s([^,.\n]{{1,60}})"
    rf"|[^.!?:\n]{{2,120}}\s(?:is|are|was|were|order|be):\s([^\n]{{1,200}})"
    rf"|({_PLACE})\s(?:is|was|are|were)\s(?:the|an?\s\w+\sof|considered|known|called|widely)\s[^.!?\n]+"
    rf"|(?:[^.!?\n]{{1,120}}\s)?[\"“«`]([^\"“”»`\n]{{1,80}})[\"”»`](?:\sin\s[A-Z][a-z]+)?"
    rf"|[^.!?\n]{{2,100}}\s(\S+?)['’](?:t|d)[iıuü]r|[^.!?।\n]{{2,100}}\s(\S+)\sहै।?"
)
_POLITE = Pattern(r"(?<=[\w」』])(?:です|である|입니다|이다|예요|이에요)[.。]?$")

_LONGEST_SAID = 400
_BOLD_PHRASE = Pattern(r"\*\*([^*\n]{1,80}?[^*\n:])[.,]?\*\*(?!\s?:)")
_BOLD = Pattern(r"(?:\*\*)?([^*\n]{1,200}?)[.:,]?\*\*(?!\w)")
_BULLETS = Pattern(r"(?:[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+[^\n]+(?:\n|$)){2,}")
_BULLET = Pattern(r"(?m)^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+")
_IN_BRACKETS = Pattern(r"(?<=\S)\s\([^()]*\)$")
_TAG = Pattern(r"^\s*(?:<[a-zA-Z_]{1,20}>|\[ANSWER\])|(?:</[a-zA-Z_]{1,20}>|\[/ANSWER\])\s*$")
_DECORATION = ' \t\n*_`"“”„«»「」『』>|=✅☑✔✓'
_QUOTED = Pattern(r"[\"“«*_]{0,2}([^\"”»*_\n]{1,100})[\"”»*_]{1,2}(?=\s(?:by|from|in|\())")
_WHEN = Pattern(r",?\s(?:in|around|on|during)\s(?:the\syear\s)?(?:\d{4}|[A-Z]\w+\s\d)\b[^\n]*$")


def find_text(text: str) -> str | None:
    """Return the answer of a response. Return None if nothing is left."""
    text = _LINK.sub(r"\1", without_confidence(answering_part(text))).lstrip("# \n")
    if inside := tagged_answer(text):
        return _shortened(inside) or None
    if field := json_answer(text):
        return None if field.value is None else _shortened(field.value) or None
    marker = last_match(MARKER, text) or _AFTER_QUESTION.match(text)
    if marker is not None:
        rest = text[marker.end() :]
        return _statement(last_box(rest) or rest) or None
    if boxed := last_box(text):
        return _tidy(boxed) or None
    return _shortened(text) or None


def _statement(rest: str) -> str:
    """The answer at the beginning of what follows "the answer is"."""
    if listed := _BULLETS.match(rest.lstrip("*: \n")):
        return ", ".join(_tidy(item) for item in _BULLET.split(listed.group())[1:])
    line = _undecorated(rest, ":").lstrip("#").split("\n", 1)[0]
    if taken_back := last_match(TAKEN_BACK, line[:2000]):
        return _shortened(line[taken_back.end() :])
    if quoted := _QUOTED.match(rest.lstrip(" \t\n:")):
        return _tidy(quoted[1])
    if corrected := _CORRECTED.match(line):
        line = line[corrected.end() :]
    if yes_or_no := _yes_or_no(line):
        return yes_or_no
    if bold := _BOLD.match(rest.lstrip(" \t\n:")):
        return _tidy(bold[1])
    line = line[: _end_of_sentence(line)]
    if label := re.match(r"(?:not )?[A-Za-z]+(?:ed|ED)(?= by )", line):
        return label.group()
    clause = _POLITE.sub("", _APPOSITION.split(line, maxsplit=1)[0])
    if clause[:1].isupper() and len(clause.split()) > 3 and not HAS_VERB.search(clause):
        clause = _WHEN.sub("", clause)
    return _tidy(_IN_BRACKETS.sub("", _tidy(_CITED.sub("", clause))))


def _listed(text: str) -> str:
    """A response that is a list, with or without bullets, else ""."""
    if _BULLETS.fullmatch(text):
        return ", ".join(_tidy(item) for item in _BULLET.split(text)[1:])
    lines = text.split("\n")
    bare = all(0 < len(line.split()) <= 3 and re.fullmatch(r"[\w' -]+", line) for line in lines)
    return ", ".join(map(_tidy, lines)) if bare and len(lines) > 1 else ""


def _yes_or_no(text: str) -> str:
    found = _YES_NO.match(text)
    if not found:
        return ""
    return found["word"].capitalize() if found["word"] else "Yes" if found["yes"] else "No"


def _shortened(text: str) -> str:
    """A whole response as the answer: as it stands, but for yes and no, and what it says is so."""
    said = _FENCED.sub(r"\1", without_closing(text.strip())).strip()
    text = _FENCED.sub(r"\1", text.strip())
    text = _CITED.sub("", _tidy(text))
    if yes_or_no := _yes_or_no(text):
        return yes_or_no
    if asked := _ASKED_AND_ANSWERED.match(said):
        return asked[1].capitalize()
    if len(said) <= _LONGEST_SAID:
        if opened := _OPENING.match(said):
            said = said[opened.end() :]
        if taken_back := last_match(TAKEN_BACK, said):
            return _shortened(said[taken_back.end() :])
        bold = _BOLD_PHRASE.findall(said)
        if len(bold) == 1:
            return _tidy(bold[0])
        if listed := _listed(said):
            return listed
        if found := _LABELLED.fullmatch(said) or _LABELLED_LINE.match(said):
            return _statement(found[1])
        head, _, rest = said.partition("\n")  # a label, and why
        if rest and len(head.split()) <= 4 and head[-1] not in ":?,":
            return _tidy(head)
        if answer := _said(said, bool(opened)):
            return answer
    return _IN_BRACKETS.sub("", text) if len(text.split()) <= 5 else text


def _said(text: str, opened: bool) -> str:
    """What the sentence that answers says, or ""."""
    sentences = _sentences(text)
    clauses = [_OPENING.sub("", _main_clause(sentence)) for sentence in sentences]
    first = clauses[0]
    if len(sentences) > 1 and len(first.split()) <= 4 and not HAS_VERB.search(first):
        return _statement(first)
    for clause in clauses:
        if found := _SAID_TO_BE.fullmatch(clause[:1].upper() + clause[1:]):
            return _statement(next(filter(None, found.groups())))
    if len(sentences) > 1:
        return ""
    name = _APPOSITION.split(first, maxsplit=1)[0]
    remark = _CORRECTED.match(first) or (
        name != first and len(name.split()) <= 4 and not HAS_VERB.search(name)
    )
    return _statement(first) if opened or first != sentences[0] or remark else ""


def _main_clause(sentence: str) -> str:
    main = _CLAUSE_BEFORE.sub("", sentence)
    return main if HAS_VERB.search(main) else sentence


def _sentences(text: str) -> list[str]:
    """The sentences of a short text without the signs at their end."""
    found: list[str] = []
    for line in text.split("\n"):
        rest = line.strip()
        while rest and len(found) < 20:
            end = _end_of_sentence(rest)
            found.append(rest[:end].strip().rstrip(".!"))
            rest = rest[end:].lstrip(".!?。\"”'’*) ")
    return [sentence for sentence in found if sentence] or [text]


def _end_of_sentence(line: str) -> int:
    for end in _SENTENCE_END.finditer(line[:2000]):
        if line[end.start()] != ".":
            return end.start()
        before = line[: end.start()].rsplit(None, 1)[-1:]
        word = before[0].lower().strip('(*"') if before else ""
        rest = line[end.end() :]
        abbreviated = word in _ABBREVIATED or len(word) == 1 or re.fullmatch(r"(?:\w\.)+\w", word)
        if not rest.strip() or not abbreviated or _PRONOUN.match(rest):
            return end.end() if abbreviated else end.start()
    return len(line)


def _undecorated(text: str, more: str = "") -> str:
    """The text without decoration around it. A ">" at its end may close a tag."""
    end = _DECORATION.replace(">", "") if "<" in text else _DECORATION
    return text.lstrip(_DECORATION + more).rstrip(end + more)


def _tidy(text: str) -> str:
    """The text without tags, LaTeX styles, quotation marks and Markdown around it."""
    for _ in range(4):
        before = text
        text = _TAG.sub("", text.strip().strip(_DECORATION.replace(">", "")))
        text = _undecorated(text)
        text = STYLED.sub(r"\1", text) if "\\" in text and len(text) <= 2000 else text
        if re.fullmatch(r"\$[^$]+\$", text) and not text[1:2].isdigit():
            text = text[1:-1]
        if re.fullmatch(r"\*\*.*|.*[^.\s]\.", text, re.DOTALL) and "." not in text[:-1]:
            text = text.removesuffix(".")
        if text == before:
            break
    return text
