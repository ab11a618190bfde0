"""Free text as an answer: finding it in a response, and one form for all ways of writing it."""

import re
import unicodedata
from functools import lru_cache

from mpdf_langgraph.answers.math_numbers import read_quantity
from mpdf_langgraph.answers.patterns import STYLED, Pattern
from mpdf_langgraph.answers.reading import (
    MARKER,
    TAKEN_BACK,
    answering_part,
    has_long_mark_run,
    json_answer,
    last_box,
    last_match,
    tagged_answer,
    without_closing,
    without_confidence,
)

_LONGEST_NORMALISED = 4_000
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
_HAS_VERB = Pattern(
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


_AFTER_QUESTION = Pattern(r"Q(?:uestion)?:[^\n]{1,500}\n+A:")


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
    line = rest.strip(_DECORATION + ":").lstrip("#").split("\n", 1)[0]
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
    if clause[:1].isupper() and len(clause.split()) > 3 and not _HAS_VERB.search(clause):
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
    if len(sentences) > 1 and len(first.split()) <= 4 and not _HAS_VERB.search(first):
        return _statement(first)
    for clause in clauses:
        if found := _SAID_TO_BE.fullmatch(clause[:1].upper() + clause[1:]):
            return _statement(next(filter(None, found.groups())))
    if len(sentences) > 1:
        return ""
    name = _APPOSITION.split(first, maxsplit=1)[0]
    remark = _CORRECTED.match(first) or (
        name != first and len(name.split()) <= 4 and not _HAS_VERB.search(name)
    )
    return _statement(first) if opened or first != sentences[0] or remark else ""


def _main_clause(sentence: str) -> str:
    main = _CLAUSE_BEFORE.sub("", sentence)
    return main if _HAS_VERB.search(main) else sentence


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


def _tidy(text: str) -> str:
    """The text without tags, LaTeX styles, quotation marks and Markdown around it."""
    for _ in range(4):
        before = text
        text = _TAG.sub("", text.strip().strip(_DECORATION.replace(">", "")))
        text = text.strip(_DECORATION).strip()
        text = STYLED.sub(r"\1", text) if "\\" in text and len(text) <= 2000 else text
        if re.fullmatch(r"\$[^$]+\$", text) and not text[1:2].isdigit():
            text = text[1:-1]
        if re.fullmatch(r"\*\*.*|.*[^.\s]\.", text, re.DOTALL) and "." not in text[:-1]:
            text = text.removesuffix(".")
        if text == before:
            break
    return text


# --- one form -----------------------------------------------------------------------------------

# An article of another language is written small before a name, else it belongs to the name:
# "la Lune" and "La lune", but "La Paz".
_ARTICLE_BEFORE = Pattern(
    r"(?:l['’](?=\w)|(?:la|le|les|el|il|lo|los|las|un|una|une|uno|o|os|as|um|uma|de|het|een|den"
    r"|det)\s(?=\S)|(?:La|Le|Les|El|Il|Lo|Los|Las|Un|Una|Une)\s(?=[a-zà-ÿ])|[Ll]['’](?=\w)"
    r"|(?:[Dd]er|[Dd]ie|[Dd]as|[Ee]in|[Ee]ine)\s(?=[A-ZÀ-Ý]))"
)
_NAMES_WITH_ARTICLE = Pattern(
    r"l(?:as vegas|os angeles|a paz|e mans|e havre|a plata|os alamos)|el (?:salvador|paso|niño"
    r"|alamein)"
)
_TITLE = Pattern(
    r"(?:pres|queen|king|pope|dr|mr|mrs|ms|sir|prof|professor|president"
    r"|dame)\.? (?=\S+ \S)",
    re.IGNORECASE,
)
_ABOUT = Pattern(
    r"(?:about|approximately|approx\.?|around|roughly|exactly|circa|ca\.|c\.) (?=[$€£]?\d)|(?:in"
    r"|on) (?=\d{4}$|\w+day\b|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d)",
    re.IGNORECASE,
)
_MONTHS = "january february march april may june july august september october november december"
_MONTH_NAME = rf"(?P<month>{'|'.join(f'{m[:3]}(?:{m[3:]})?' for m in _MONTHS.split())})\.?"
_MONTH_STARTS = [month[:3] for month in _MONTHS.split()]
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES = [
    Pattern(rf"(?i)\b{_DAY} (?:of )?{_MONTH_NAME},? (?P<year>\d{{4}})\b"),
    Pattern(rf"(?i)\b{_MONTH_NAME} {_DAY},? (?P<year>\d{{4}})\b"),
    Pattern(r"(?<![\d-])(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})(?![\d-])"),
    Pattern(rf"(?i)\b{_DAY} (?:of )?{_MONTH_NAME}\b(?P<year>)"),
    Pattern(rf"(?i)\b{_MONTH_NAME} {_DAY}\b(?P<year>)"),
]
_ROMAN_TEXT = "- i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx"
_ROMAN = _ROMAN_TEXT.split()
_ORDINALS_TEXT = (
    " first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
    " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
_ORDINALS = {word: str(k) for k, word in enumerate(_ORDINALS_TEXT.split(" ")) if word}
_LONG_ORDINAL = Pattern(
    r"\b(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[- ]"
    rf"({'|'.join(list(_ORDINALS)[:9])})\b"
)


@lru_cache(maxsize=4096)
def normalise(text: str, in_sentence: bool = False) -> str:
    """Write a text in one form for all that say the same.

    Case, white space, articles, punctuation, emoji and accents of Latin letters are gone. The
    signs that tell numbers, "C#" from "C", or "R&B" from "RB" apart stay. A number, a date, and a
    number with a known unit have one form.
    """
    if len(text) > _LONGEST_NORMALISED or has_long_mark_run(text):
        return " ".join(text.casefold().split())
    plain = " ".join(_without_accents(unicodedata.normalize("NFKC", text)).split())
    plain = re.sub(r"degrees? ([CF])(?:elsius|ahrenheit)?\b", r"°\1", plain)
    plain = _TITLE.sub("", _ABOUT.sub("", plain.rstrip(".!") or plain))
    if not _NAMES_WITH_ARTICLE.match(plain):
        plain = _ARTICLE_BEFORE.sub("", plain, count=1) if _ARTICLE_BEFORE.match(plain) else plain
    if not in_sentence and (number := _as_number(plain)):
        return number
    written = plain = plain.casefold()
    plain = re.sub(r"(?<=\d)\s?[–—−-]\s?(?=\d)|^[−–](?=\d)", "-", plain)
    plain = re.sub(r"(?<=\d)(?::00)?\s?(?=[ap]\.?m\b)", " ", plain)
    plain = re.sub(r"^(?:because(?: of)?|due to|the (?:city|town|country|state) of) ", "", plain)
    plain = _with_dates(plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"\b0(?=\d/\d{1,2}/\d{4})|(?<=\d/)0(?=\d/\d{4})", "", plain)
    plain = re.sub(r"\$?_\{?(\d+)\}?\$?", r"\1", plain)
    plain = _LONG_ORDINAL.sub(
        lambda found: f"{int(_as_number(found[1]) or 0) + int(_ORDINALS[found[2]])}th", plain
    )
    plain = plain.replace(",", " ")
    plain = re.sub(r"\s?([=/])\s?", r"\1", plain)
    plain = re.sub(r"\s?&\s?", " and ", plain)
    plain = re.sub(r"(?<=[^\W\d])[-/](?=[^\W\d])", " ", plain)
    kept = "".join(
        character
        for character, following in zip(plain, (plain + " ")[1:], strict=True)
        if not unicodedata.category(character).startswith("P")
        or character in "#%"
        or (character in "-.:/," and following.isdigit())
    )
    kept = "".join(c for c in kept if c == "°" or unicodedata.category(c) not in ("So", "Cf", "Mn"))
    kept = re.sub(r"(?<=\w\w) and (?=\w\w)", " ", " ".join(kept.split()))
    words = [word for word in kept.split() if word not in ("a", "an", "the")]
    alone = len(words) == 1
    return " ".join(_as_word(word, k or alone) for k, word in enumerate(words)) or written


def joined(text: str) -> str:
    """The normal form with words joined: "ice cream" is "ice-cream" and "icecream"."""
    return re.sub(r"(?<=[^\W\d]) (?=[^\W\d])", "", normalise(text))


def _as_word(word: str, place: int) -> str:
    if word in _ORDINALS:
        return _ORDINALS[word] + "th"
    if ordinal := re.fullmatch(r"(\d{1,3})(?:st|nd|rd|th)", word):
        return ordinal[1] + "th"
    if place and len(word) > 1 and word in _ROMAN:
        return str(_ROMAN.index(word))
    return _as_number(word) or word


def _with_dates(text: str) -> str:
    for date in _DATES:
        text = date.sub(_as_date, text)
    return text


def _as_date(found: re.Match[str]) -> str:
    month = found["month"].lower()
    number = int(month) if month.isdigit() else _MONTH_STARTS.index(month[:3]) + 1
    return f"{found['year']}-{number}-{int(found['day'])}"


def _as_number(text: str) -> str | None:
    """One form for a number, in digits or in words, and for one with a known unit."""
    text = text.rstrip(".!")
    if len(text) > 40 or not re.fullmatch(
        r"[-+]?(?:US)?[$€£]?\d[\d,]*(?:\.\d+)?.*|[-+]?\.\d+|[A-Za-z][A-Za-z -]+", text
    ):
        return None
    quantity = read_quantity(text)
    if quantity is None or re.search(r"\d/(?!\d+$)|\d(?:st|nd|rd|th)\b|:", text):
        return None
    value = quantity.value
    unit = "%" if quantity.percent else ""
    if quantity.units.words:
        return None
    if quantity.unit_text:
        if not text[0].isalnum() and text[0] not in "$€£+-U":
            return None
        value *= quantity.units.factor
        unit = " ".join(f"{name}^{power}" for name, power in quantity.units.dimensions)
    return (str(value) if value.denominator == 1 or "." not in text else str(float(value))) + unit


_STROKES = str.maketrans("łŁøØđĐı", "lLoOdDi")


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    text = text.translate(_STROKES)
    taken_apart = unicodedata.normalize("NFD", text)
    kept: list[str] = []
    latin = False
    for character in taken_apart:
        if unicodedata.combining(character):
            if latin:
                continue
        else:
            latin = character < "\u0250"
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


# --- answers in sentences -----------------------------------------------------------------------

# Words with which a sentence may mention what it does not answer.
_DOUBTED = Pattern(
    r"(?:n['’]t|\b(?:not|no|never|nor|neither|or|either|although|though|but|while|whereas|instead"
    r"|rather|except|unlike|mistakenly|often|many|some|most|might|could|may|wrong|incorrect|false"
    r"|than|if|unless|unsure|unknown"
    r"|nicht|kein\w*|ne|pas|não|ni|né|не|ни|или|oder|ou|aber|mais|pero))\b|不|没|非",
    re.IGNORECASE,
)
_LISTING = Pattern(
    r"[,;](?!\s(?:an?|the|who|which|where|in|at|on|of|located|also|from)\b)|\s(?:and|&)\s"
)
_LONGEST_SENTENCE = 300


def says(sentence: str, answer: str) -> bool:
    """Tell whether a sentence that is no more than a statement says a short answer.

    The answer is a member of no list in it, and the sentence has no "not", "or" or "some".
    """
    if len(answer) > 0.75 * len(sentence) or len(sentence) > _LONGEST_SENTENCE:
        return False
    if len(sentence.splitlines()) > 1 or len(answer.splitlines()) > 1:
        return False  # more than a sentence
    short = _in_pieces(answer)
    words = short.split()
    if not words or len(words) > 10 or short in ("yes", "no", "true", "false"):
        return False
    if (
        not sentence.isascii()
        and len(short) > 1
        and short in sentence
        and "\u3040" <= short < "\ud7ff"
    ):
        return not _DOUBTED.search(sentence)
    if len(sentence.split()) < 3 or not _HAS_VERB.search(sentence) or _DOUBTED.search(sentence):
        return False
    before, found, after = f" {_in_pieces(sentence)} ".partition(f" {short} ")
    listed = (before + after).count(",") > 1 and (after[:1] == "," or before[-1:] == ",")
    name = re.search(rf"\s([A-Z]\w+)\s{re.escape(answer)}", sentence)  # "New York" is not York
    if name and not _TITLE.match(f"{name[1]} x y"):
        return False
    if short.replace(".", "").isdigit() and re.search(r"\d", after):
        return False
    return bool(found) and not listed and (len(short) > 1 or short.isdigit())


def _in_pieces(text: str) -> str:
    pieces = [
        normalise(piece, in_sentence=True)
        for piece in _LISTING.split(_with_dates(text))
        if piece.strip()
    ]
    return " , ".join(piece for piece in pieces if piece)
