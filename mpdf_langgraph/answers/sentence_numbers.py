"""Which of the numbers of a sentence is its answer."""

import re
from itertools import islice

from mpdf_langgraph.answers.math_notation import canonical
from mpdf_langgraph.answers.math_numbers import DECIMAL, MAX_LENGTH, NUMBER_WORD, read_quantity
from mpdf_langgraph.answers.patterns import FUNCTIONS, Pattern
from mpdf_langgraph.answers.reading import last_match

FRACTION = r"\\[dt]?frac\s?(?:\{-?[0-9]+\}|[0-9])\s?(?:\{[0-9]+\}|[0-9])"
_CURRENCY = r"(?:\\?[$€£₹¥]\s?)"
_MULTIPLIER = r"(?:\s(?:hundred|thousand|million|billion|trillion|dozen)\b)"
MIXED = (
    rf"[0-9]+\s?{FRACTION}|[0-9]+\s[0-9]+/[0-9]+(?![0-9])|[0-9]*\s?[¼½¾⅐-⅞]"
    r"|π[²³]?(?:\s?/\s?[0-9]+)?"
)
_TIME = r"[0-9]{1,2}:[0-9]{2}(?![0-9:])(?:\s?[ap]\.?m\b)?"
_FACTOR = (
    r"(?:\s?(?:π|\\pi(?![a-z])|√[0-9]+|\\sqrt\s?\{[0-9]+\})"
    r"|\s?(?:×|\\times|\\cdot|\*)\s?10(?:\s?\^\s?(?:\{-?[0-9]+\}|-?[0-9]+)|[⁻⁰¹²³⁴-⁹]+))"
)
FIND_NUMBER = Pattern(
    rf"(?<![\^_])(?<!\^\{{)(?:(?<![\w)}}\]])[-\u2212]\s?{_CURRENCY}?"
    rf"|(?<![\w])[-\u2212](?={_CURRENCY}?[0-9]))?{_CURRENCY}?(?:{MIXED}|(?i:{_TIME})|{FRACTION}"
    rf"|{DECIMAL}(?:\s?/\s?[0-9]+)?){_FACTOR}?{_MULTIPLIER}{{0,2}}(?:\s?\\?%)?"
)
FIND_WORD = Pattern(
    rf"(?i:\b(?:(?:minus"
    rf"|negative) )?(?:{NUMBER_WORD})\b(?:[- ](?:and[- ](?:a )?)?(?:{NUMBER_WORD})\b){{0,8}})"
)
SENTENCE_END = Pattern(
    r"\n|(?<![ap]\.m)(?<!i\.e)(?<!e\.g)(?<!\bsq)(?<!\bcu)(?<!\bapprox)(?<!\bDr)(?<!\bM[rs])(?<!\bRs)"
    r"(?:[.?]|!(?![ \t](?:[=+*/×÷·]|[-−–]\s?\d)))(?=\s|$)|。"
)
_COMMAND_WITH_WORDS = Pattern(
    r"\\(?:begin|end|text|mbox|mathrm|mathbf|textbf|operatorname)\s?\{[^{}]*\}"
)
_WORD = Pattern(
    rf"(?<![\\A-Za-z])(?!(?:{FUNCTIONS}|sqrt|pi)\b)(?:[A-Za-z]{{3,}}|(?i:it|is|so|we|hm|no|il|en"
    rf"|el|la|le|un|of|he|an)(?![A-Za-z]))"
)
# Letters of other scripts, but for Greek ones.
_FOREIGN_WORD = Pattern("[^\\W\\d_A-Za-zΑ-ωªº²³¹⁰-₟ℂℕℝℤℚµ\u2070-\u209f]")
_RESULT = Pattern(
    r"(?:\bwhich (?:is|equals|makes|gives|means)|\bi\.e\.,?|\bthat is,?|\bso\b|\bbut\b"
    r"|\brather\b|\bit(?:'s| is)|\bequals|\bmakes|=|≈)\s*(?=\D{0,30}[0-9])",
    re.IGNORECASE,
)
# "The distance from $f(x) = 2x$ to the origin is 5 units": the equation is no result.
_SAID_LATER = Pattern(
    r"\$[^$]*\b(?:is|are|equals)\s(?:equal to\s|exactly\s|only\s)?"
    r"\\?\$?-?[0-9][^$=\s]*\$?(?:\s[a-z]+){0,3}[.\s]*$"
)
_SUBORDINATE = Pattern(
    r"\s*(?:After|Since|If|When|Because|As|In|On|At|By|With|For|From|Given|Once|Before|Of"
    r"|Out of|While|Although|During"
    r"|Every|Per)\b[^,]{0,200},\s",
    re.IGNORECASE,
)
_VERB_TEXT = (
    r"(?<!to )\b(?:is|are|was|were|has|have|had|gets?|got|needs?|takes?|took|costs?|pays?|paid"
    r"|spends?|spent|saves?|saved|earns?|earned|makes?|made|sells?|sold|eats?|ate|buys?|bought"
    r"|equals?|totals?|left|comes? to|receives?|gives?|can|will|walks?|walked|runs?|ran|reads?"
    r"|drives?|drove|travels?|weighs?|uses?|used|remains?|owes?|owed|contains?|be|becomes?"
    r"|collects?|collected|finds?|found|scores?|scored|covers?|covered|finish(?:es|ed)?|works?"
    r"|worked|raises?|raised|drinks?|plants?|planted|bakes?|baked|requires?|produces?|holds?|loses?"
    r"|lost|keeps?|kept|gains?|gained|should|must|would|there are)\b"
)
_VERB = Pattern(_VERB_TEXT, re.IGNORECASE)
_UNIT_TAIL = Pattern(r"(?:\s(?!(?:and|or|times|plus|minus|more|less|is|are)\b)[A-Za-z]{2,}){1,4}")
# "3 more buses are needed", but not "3 more than 5" and "3 more buses than before".
_MORE_OF_THEM = Pattern(
    r"\s(?:more|fewer|additional|extra)\s(?!than\b)[a-z]+(?!\sthan\b)", re.IGNORECASE
)
# "He can choose 2 of 5 in 10 ways."
_IN_WAYS = Pattern(
    rf"\bin\s\$?(?:exactly\s|only\s)?({DECIMAL})\$?\s(?:different\s|distinct\s|possible\s)?"
    r"ways[.\s]*$"
)
_THERE_ARE = Pattern(
    r"\s*(?:(?:so|thus|therefore|hence),?\s)?(?:that\s)?there\s"
    r"(?:are|is|will be|would be|must be)\s(?:only\s|exactly\s|a total of\s)?(?:\$(?=[0-9,]+\$))?",
    re.IGNORECASE,
)
# What was counted, and nothing that would be another result.
_NOUN = Pattern(
    r"\$?\s(?!(?:and|or|to|times|plus|minus|out|of|more|less|fewer|x)\b)"
    r"(?!.*\b(?:so|but(?!\snot)|which|giving|making|leaving)\b)[A-Za-z0-9][^:=]*$"
)
_OPERATION = Pattern(
    r"\s?(?:times|plus|minus|divided|multiplied|(?:more|less|fewer)(?:\s\w+)?\sthan|out|of|and|or|to|x\b|[-+*/×÷=^<>])",
    re.IGNORECASE,
)
_TERM_TEXT = r"(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])"
TERM = Pattern(_TERM_TEXT)
# What comes before a number that is no answer beside another one: "than 5", "out of the 20". The
# second kind only says under which circumstances: "in 5 years".
_ASIDE = Pattern(
    r"(?:\b(?:after|before|when|if|because|since|while)\b[^,]*|\b(?:than|not|instead of"
    r"|rather than)\s(?:[a-z]+\s){0,2}"
    r"|\b(?:the|his|her|their|its|these|those|all|original)\s(?:[a-z]+\s)?"
    r"|\b(?:day|week|page|step|chapter|problem|question|year|round|level|number|room|part|grade)\s"
    r"|\bthe\s[a-z]+\sof\s|^\s(?:[a-z]+\s)?(?:out\s)?of\s(?:[a-z]+\s){0,2})$",
    re.IGNORECASE,
)
_ASIDE_AFTER = Pattern(
    r"-[a-z]{2}|\s(?:more|less|fewer|times)\b[^,.]*\bthan\b|\s(?:left over|to spare)\b|[^()]*\)"
)
_VERB_BEFORE = Pattern(rf"{_VERB_TEXT}|\b[a-z]+ed\b", re.IGNORECASE)
_NEEDED = Pattern(r"(?:(?:will|would|must)\s)?(?:is|are|were|be)\s(?:needed|required|necessary)\b")
_CIRCUMSTANCE = Pattern(
    r"(?:^|(?<!,)\s)(?:for|in|at|from|every|per|each"
    r"|(?<!needs )(?<!need )(?<!has )(?<!have )(?<!had )to [a-z]+)\s(?:[a-z]+\s){0,2}?$",
    re.IGNORECASE,
)
_WAYS = Pattern(r"\s(?:[a-z]+\s)?ways\b|\s(?:altogether|in total|in all)\b")


def result_in(sentence: str) -> str | None:
    """The number behind the last "which is", "i.e." or equals sign."""
    result = last_match(_RESULT, sentence)
    if result is None or (result.group()[0] == "=" and _SAID_LATER.search(sentence, result.end())):
        return None
    number = FIND_NUMBER.search(sentence, result.end())
    return number_at(sentence, number) if number else None


def leading_number(sentence: str) -> str | None:
    """The number that a sentence begins with, unless something is done to it."""
    number = FIND_NUMBER.match(sentence)
    if not number or _OPERATION.match(sentence, number.end()):
        return None
    if _MORE_OF_THEM.match(sentence, number.end()):
        return number_at(sentence, number)
    verb = _VERB.search(sentence, number.end())
    if verb and FIND_NUMBER.search(sentence, verb.end()):
        return None
    return number_at(sentence, number)


def number_counted(sentence: str) -> str | None:
    """The number of what there is: "so there are 10 ways to choose 2 of 5" is 10."""
    if ways := _IN_WAYS.search(sentence):
        return canonical(ways[1])
    there = _THERE_ARE.match(sentence)
    if not there:
        return None
    number = FIND_NUMBER.match(sentence, there.end()) or FIND_WORD.match(sentence, there.end())
    if not number or not _NOUN.match(sentence, number.end()):
        return None
    return number_at(sentence, number)


def number_after_verb(sentence: str) -> str | None:
    """The first number after the last verb that has one, outside of subordinate clauses."""
    while subordinate := _SUBORDINATE.match(sentence):
        if not FIND_NUMBER.search(sentence, subordinate.end()):
            break
        sentence = sentence[subordinate.end() :]
    found = None
    for verb in _VERB.finditer(sentence[:MAX_LENGTH]):
        number = FIND_NUMBER.search(sentence, verb.end())
        if number and (found is None or number.start() != found.start()):
            found = number
    found = found or last_match(FIND_NUMBER, sentence[: 2 * MAX_LENGTH])
    if found:
        return number_at(sentence, found)
    word = last_match(FIND_WORD, sentence[:MAX_LENGTH])
    return canonical(word.group()) if word else None


def number_at(text: str, number: re.Match[str]) -> str:
    """The number with the unit that follows it, or the formula that it is part of."""
    if formula := _formula_around(text, number):
        return formula
    if number.group()[0] == "$" == text[number.end() : number.end() + 1]:
        return canonical(number.group()[1:])  # no currency: what stands in it is a formula
    tail = _UNIT_TAIL.match(text, number.end())
    if tail:
        words = tail.group().split()
        if words[0] == "in" and (len(words) > 1 or re.match(r"\s\w", text[tail.end() :])):
            return canonical(number.group())  # "12 in May"
        # Only what surely is a unit: any word may follow a number.
        answer = canonical(f"{number.group()} {words[0]}")
        quantity = read_quantity(answer)
        if quantity is not None and quantity.units.dimensions:
            return answer
    return canonical(number.group())


def _formula_around(text: str, number: re.Match[str]) -> str | None:
    """The formula of which a number is a part: "there are 2k+2 of them", "$n + 1$ points"."""
    start = text.rfind(" ", 0, number.start()) + 1
    inside = number.end() - 1
    word = text[max(start, number.start() - 60) : number.end() + 60].split(" ", 1)[0]
    before = text[max(0, inside - 200) : inside]
    if before.count("$") % 2 and "$" in text[number.end() : number.end() + 200]:
        word = before.rpartition("$")[2] + text[inside:].split("$", 1)[0]
    word = word.strip("*`.,:;!?$")
    if (
        not re.search(rf"{_TERM_TEXT}|\\(?!frac|times|cdot|div)[a-z]", word)
        or not re.search(r"[-+*/^()\\]", word)
        or re.search("[<>]", word)
        or has_prose(word)
        or read_quantity(canonical(word)) is not None
    ):
        return None
    return canonical(word.rpartition("=")[2])


def number_said(line: str) -> str | None:
    """Of the numbers of the last sentence, the last one that the others are said beside."""
    sentence = next((s for s in reversed(SENTENCE_END.split(line)) if FIND_NUMBER.search(s)), "")
    numbers = list(islice(FIND_NUMBER.finditer(sentence), 12))
    between = [
        sentence[before : number.start()]
        for before, number in zip([0, *(n.end() for n in numbers)], numbers, strict=False)
    ]
    asides = [
        bool(_ASIDE.search(words) or _ASIDE_AFTER.match(sentence, number.end()))
        for words, number in zip(between, numbers, strict=True)
    ]
    for k in range(len(numbers) - 2, -1, -1):
        number = numbers[k]
        verb = _VERB.search(sentence[: numbers[k + 1].start()], number.end())
        subject = (verb and verb.group() != "left") or not _VERB_BEFORE.search(
            sentence[: number.start()]
        )
        if verb and _NEEDED.match(sentence, verb.start()):
            subject = False
        if not all(
            asides[n]
            or (
                (not subject and _CIRCUMSTANCE.search(between[n]))
                and not _WAYS.match(sentence, numbers[n].end())
            )
            for n in range(k + 1, len(numbers))
        ):
            return None
        if not asides[k] and not _CIRCUMSTANCE.search(between[k]):
            return number_at(sentence, number)
    return None


def has_prose(text: str) -> bool:
    """Tell whether a text holds words, so that it is more than an expression."""
    if _FOREIGN_WORD.search(text):
        return True
    return bool(_WORD.search(_COMMAND_WITH_WORDS.sub(" ", text)))


def has_verb(sentence: str) -> bool:
    """Tell whether a sentence has one of the verbs that answers are said with."""
    return bool(_VERB.search(sentence))


def is_number(line: str) -> bool:
    """Tell whether a text is one number, perhaps with a unit."""
    return read_quantity(canonical(line[:MAX_LENGTH])) is not None
