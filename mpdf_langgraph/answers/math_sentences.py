"""The answer that a sentence gives, behind a mark such as "the answer is" or in plain prose."""

import re
from itertools import islice

from mpdf_langgraph.answers.math_notation import canonical
from mpdf_langgraph.answers.math_numbers import DECIMAL, MAX_LENGTH, NUMBER_WORD, read_quantity
from mpdf_langgraph.answers.math_parts import DAY_OF_YEAR, has_form
from mpdf_langgraph.answers.patterns import FUNCTIONS, MATH_SEGMENT, Pattern
from mpdf_langgraph.answers.reading import last_match, without_closing

_FRACTION = r"\\[dt]?frac\s?(?:\{-?[0-9]+\}|[0-9])\s?(?:\{[0-9]+\}|[0-9])"
_CURRENCY = r"(?:\\?[$€£₹¥]\s?)"
_MULTIPLIER = r"(?:\s(?:hundred|thousand|million|billion|trillion|dozen)\b)"
_MIXED = (
    rf"[0-9]+\s?{_FRACTION}|[0-9]+\s[0-9]+/[0-9]+(?![0-9])|[0-9]*\s?[¼½¾⅐-⅞]"
    r"|π[²³]?(?:\s?/\s?[0-9]+)?"
)
_TIME = r"[0-9]{1,2}:[0-9]{2}(?![0-9:])(?:\s?[ap]\.?m\b)?"
_FACTOR = (
    r"(?:\s?(?:π|\\pi(?![a-z])|√[0-9]+|\\sqrt\s?\{[0-9]+\})"
    r"|\s?(?:×|\\times|\\cdot|\*)\s?10(?:\s?\^\s?(?:\{-?[0-9]+\}|-?[0-9]+)|[⁻⁰¹²³⁴-⁹]+))"
)
_FIND_NUMBER = Pattern(
    rf"(?<![\^_])(?<!\^\{{)(?:(?<![\w)}}\]])[-\u2212]\s?{_CURRENCY}?"
    rf"|(?<![\w])[-\u2212](?={_CURRENCY}?[0-9]))?{_CURRENCY}?(?:{_MIXED}|(?i:{_TIME})|{_FRACTION}"
    rf"|{DECIMAL}(?:\s?/\s?[0-9]+)?){_FACTOR}?{_MULTIPLIER}{{0,2}}(?:\s?\\?%)?"
)
_FIND_WORD = Pattern(
    rf"(?i:\b(?:(?:minus"
    rf"|negative) )?(?:{NUMBER_WORD})\b(?:[- ](?:and[- ](?:a )?)?(?:{NUMBER_WORD})\b){{0,8}})"
)
_DOLLARS_AND_CENTS = Pattern(
    r"[0-9]+ (?:(?:dollars?|euros?|pounds?)(?: and)? [0-9]{1,2} (?:cents?|pence)"
    r"|hours?(?: and)? [0-9]{1,2} minutes?|minutes?(?: and)? [0-9]{1,2} seconds?"
    r"|f(?:ee|oo)t(?: and)? [0-9]{1,2} inch(?:es)?)\b"
)
_SENTENCE_END = Pattern(
    r"\n|(?<![ap]\.m)(?<!i\.e)(?<!e\.g)(?<!\bsq)(?<!\bcu)(?<!\bapprox)(?<!\bDr)(?<!\bM[rs])(?<!\bRs)[.!?](?=\s|$)|。|(?<=[^0-9])!(?=\s|$)"
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

_HEDGE = Pattern(
    r"(?:\*\*|`|\"|approx\.|:|≈|=|~|\s|\\approx|that\b|there\s(?:are|is)\b|(?:exactly|about"
    r"|approximately|approx|roughly|only|just"
    r"|it's|it is|simply|therefore|thus|hence|clearly|then|still|now|equal\sto|given\sby|always"
    r"|indeed|a\stotal\sof)\b)*",
    re.IGNORECASE,
)
_CLAUSE_END = Pattern(
    r",\s(?![0-9]{3}\b)|\s\(|;|\s[-–—]+\s(?=[A-Za-z])|:\s"
    r"|\s(?:because|since|as|so|which|when|if|not|but|for|after|in|at|on|per|where|while|with|i\.e\.)\s",
)
_RESULT = Pattern(
    r"(?:\bwhich (?:is|equals|makes|gives|means)|\bi\.e\.,?|\bthat is,?|\bso\b|\bbut\b"
    r"|\brather\b|\bit(?:'s| is)|\bequals|\bmakes|=|≈)\s*(?=\D{0,30}[0-9])",
    re.IGNORECASE,
)
_NEGATED = Pattern(r"(?:not|n't|never)\b", re.IGNORECASE)
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
_CONCLUSION = Pattern(
    r"\s*(?:\*\*)?(?:So|Thus|Therefore|Hence|In total|Finally|Altogether|In conclusion"
    r"|Consequently)\b",
    re.IGNORECASE,
)


def read_after_marker(rest: str) -> str | None:
    """The answer at the beginning of what follows "the answer is"."""
    rest = rest.strip()
    if _NEGATED.match(rest):
        sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
        corrected = re.search(r"\b(?:but|rather|it is|it's|instead)\b", sentence)
        return read_after_marker(sentence[corrected.end() :]) if corrected else None
    segment = MATH_SEGMENT.match(rest)
    # "$12, so she has $5 left" is not mathematics between dollar signs.
    if segment and not has_prose(segment.group()) and not re.match(r"[0-9]", rest[segment.end() :]):
        return canonical(_joined_segments(rest, segment))
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
    return read_sentence(sentence)


def _joined_segments(rest: str, first: re.Match[str]) -> str:
    """The formula, and those that "or" and "and" join to it."""
    parts, end = [first.group()], first.end()
    while joint := re.match(r"\s?(?:,|or|and)\s(?=[$\\])", rest[end:]):
        following = MATH_SEGMENT.match(rest, end + joint.end())
        if not following or has_prose(following.group()) or len(parts) > 20:
            break
        parts.append(following.group())
        end = following.end()
    if len(parts) == 1:
        return parts[0]
    return ", ".join(part.strip("$ ").removeprefix("\\(").removesuffix("\\)") for part in parts)


def read_sentence(sentence: str) -> str | None:
    """Read the answer that a sentence gives: "After 3 days, Tom has 15 marbles." is 15."""
    sentence = sentence.strip()
    hedge = _HEDGE.match(sentence)
    lead = sentence[hedge.end() if hedge else 0 :].strip()
    if not lead:
        return None
    lead = re.sub(r"(?<=\w)\*\*", "", lead)
    if _NUMBERS_LISTED.fullmatch(lead):
        return canonical(lead)
    if listed := read_listed(lead):
        return listed
    if has_form(canonical(lead)):
        return canonical(lead)
    if formula := _final_formula(lead):
        return formula
    if not has_prose(lead):
        return canonical(result_of(_without_remark(lead)))
    whole = canonical(lead)
    if read_quantity(whole) is not None and len(lead) < 60:
        return whole
    compound = _DOLLARS_AND_CENTS.search(lead)
    if compound and not (
        _FIND_NUMBER.search(lead, compound.end()) or _FIND_NUMBER.search(lead[: compound.start()])
    ):
        return compound.group()
    clause = _CLAUSE_END.split(lead, maxsplit=1)[0].strip(" .,*")
    answer = canonical(clause)
    if read_quantity(answer) is not None or (
        not has_prose(clause) and re.search(r"[0-9\\]|^[a-z]$", clause)
    ):
        return canonical(result_of(clause))
    return (
        _result_in(lead)
        or _leading_number(lead)
        or _number_said(lead)
        or _number_after_verb(lead)
        or answer
        or None
    )


_LIST_JOINT = Pattern(r"\s*(?:,?\s(?:and|or)\s|,\s|[;&]|\s(?:y|und|et|e|o|ou|oder)\s)\s*")
_LIST_ITEM = Pattern(
    rf"(?:[A-Za-zα-ω]['₀-₉]{{0,2}}(?:_\{{?\w\}}?)?\s?=\s?)?[-+−]?\s?"
    rf"(?:{_FRACTION}|{_MIXED}|{DECIMAL})(?:\s?/\s?[0-9]+)?(?:\s?[πi%°]|\s?√[0-9]+)?"
)


def read_listed(text: str) -> str | None:
    """Read several numbers, perhaps with names: "either 2 or 3", "x₁ = 2; x₂ = 3"."""
    items = _LIST_JOINT.split(re.sub(r"^(?:either|both)\s", "", text.strip(" .$")))
    if len(items) < 2 or not all(map(_LIST_ITEM.fullmatch, items)):
        return None
    return canonical(", ".join(items))


def _final_formula(sentence: str) -> str | None:
    r"""The formula that ends a sentence: "so the area is $27\pi$"."""
    found = _ENDING_FORMULA.search(sentence)
    if not found or not found.start() or has_prose(found.group()):
        return None
    inside = next(filter(None, found.groups()), "")
    if not re.search(r"[0-9\\]", inside) or re.search(r"[<>]", inside):
        return None
    return canonical(inside.rpartition("=")[2])


_ENDING_FORMULA = Pattern(r"(?:(?<![\\$])\$([^$]{1,300})\$|\\\((.{1,300}?)\\\))\s*[.!*]*\s*$")
_NUMBERS_LISTED = Pattern(
    rf"-?{DECIMAL}(?:\s?/\s?[0-9]+)?(?:(?:,|,?\sand|,?\sor)\s-?{DECIMAL}(?:\s?/\s?[0-9]+)?)+[.\s]*"
)


def _without_remark(text: str) -> str:
    return re.sub(r"\s\([^()]*[a-z=×*+][^()]*\)\s*$", "", text)


def result_of(text: str) -> str:
    """What a chain of equal numbers comes to: "3 + 4 = 7" is 7. An equation stays one."""
    left, equals, right = text.rpartition("=")
    if equals and _is_sum_of_unknowns(left) and is_number(right):
        return right.strip()
    if (
        equals
        and re.search(r"[0-9]", right)
        and re.fullmatch(r"[\d\s+*/x×÷·().,$%=\\a-z{}-]*", left)
        and re.search(r"[0-9)]\s*$", left)
        and not re.search(r"[<>]", text)
        and not re.search(r"[a-wyz]", re.sub(r"\\[a-z]+", "", left))
    ):
        return right.strip()
    return text


def _is_sum_of_unknowns(text: str) -> bool:
    return bool(re.search(r"[a-z]\s?[-+*/]\s?[a-z]", text)) and not re.search(r"[<>=]", text)


def _result_in(sentence: str) -> str | None:
    """The number behind the last "which is", "i.e." or equals sign."""
    result = last_match(_RESULT, sentence)
    if result is None:
        return None
    number = _FIND_NUMBER.search(sentence, result.end())
    return _number_at(sentence, number) if number else None


def _leading_number(sentence: str) -> str | None:
    """The number that a sentence begins with, unless something is done to it."""
    number = _FIND_NUMBER.match(sentence)
    if not number or _OPERATION.match(sentence, number.end()):
        return None
    if _MORE_OF_THEM.match(sentence, number.end()):
        return _number_at(sentence, number)
    verb = _VERB.search(sentence, number.end())
    if verb and _FIND_NUMBER.search(sentence, verb.end()):
        return None
    return _number_at(sentence, number)


# "3 more buses are needed", but not "3 more than 5" and "3 more buses than before".
_MORE_OF_THEM = Pattern(
    r"\s(?:more|fewer|additional|extra)\s(?!than\b)[a-z]+(?!\sthan\b)", re.IGNORECASE
)
_OPERATION = Pattern(
    r"\s?(?:times|plus|minus|divided|multiplied|(?:more|less|fewer)(?:\s\w+)?\sthan|out|of|and|or|to|x\b|[-+*/×÷=^<>])",
    re.IGNORECASE,
)


def _number_after_verb(sentence: str) -> str | None:
    """The first number after the last verb that has one, outside of subordinate clauses."""
    while subordinate := _SUBORDINATE.match(sentence):
        if not _FIND_NUMBER.search(sentence, subordinate.end()):
            break
        sentence = sentence[subordinate.end() :]
    found = None
    for verb in _VERB.finditer(sentence[:MAX_LENGTH]):
        number = _FIND_NUMBER.search(sentence, verb.end())
        if number and (found is None or number.start() != found.start()):
            found = number
    found = found or last_match(_FIND_NUMBER, sentence[: 2 * MAX_LENGTH])
    if found:
        return _number_at(sentence, found)
    word = last_match(_FIND_WORD, sentence[:MAX_LENGTH])
    return canonical(word.group()) if word else None


def _number_at(text: str, number: re.Match[str]) -> str:
    """The number with the unit that follows it, or the formula that it is part of."""
    if formula := _formula_around(text, number):
        return formula
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


_TERM_TEXT = r"(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])"
_TERM = Pattern(_TERM_TEXT)


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


# "24 square feet, or about 2.2 square meters": the same once more, rounded.
_RESTATED = Pattern(
    r",? (?:or|which is|i\.e\.,?) (?:about|approximately|roughly|around) [^\n]{1,80}$",
    re.IGNORECASE,
)


_BOLD_AT_END = Pattern(r"\*\*([^*\n]{1,60}?)[.:]?\*\*(\s[a-z°²³/]{1,4})?[.!\s]*$")
_EXPRESSION_AT_END = Pattern(
    r"(?<!and )(?<!or )(?<!, )(\([^()]*[0-9][^()]*,[^()]*\))[.*\s]*$"
    r"|.*(?:\b(?:is|are|was|equals|as|to|get|gives?|yields|obtain|beträgt|ist|es|est"
    r"|such that)\s(?:de\s)?|=|(?<=[a-z]):\s)\s*([^=\n]{1,80}?)[.*\s]*$"
)
_SOLUTIONS = Pattern(
    r"(?:^|(?<=^So )|(?<=^Thus )|(?<=^Hence )|(?<=\sare )|(?<=: )|(?<=solutions )|(?<=\sis )"
    r"|(?<=\sget ))[a-zα-ω]\s?=[^=]{1,60}(?:(?:\sor|\sand|,)\s+[a-zα-ω]\s?=[^=]{1,60})+$"
)
_RATIO_AT_END = Pattern(
    rf"\b(?:odds|ratio|chance|probability|scale|likelihood)\b.*?(?<![\d.])"
    rf"({DECIMAL}\s(?:to|in|out\sof)\s{DECIMAL})\W*$|(?<![\d.])({DECIMAL}\s(?:in"
    rf"|out\sof)\s{DECIMAL})\s(?:chance|probability)\W*$"
)
_YES_OR_NO = Pattern(r"\W{0,3}(yes|no)\*{0,2}(?:[,.;!][^0-9]*)?$", re.IGNORECASE)
_DAY_AT_END = Pattern(
    rf"\b({DAY_OF_YEAR}|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|infinity|undefined"
    rf"|does not exist|odd|even"
    r"|[Nn]o (?:\w+ )?solutions?(?= exists?\W*$|\W*$)"
    r"|infinitely many(?: solutions)?)(?: exists?)?\W*$"
)


def _expression_at_end(sentence: str) -> str | None:
    """The expression, and no mere number, that a sentence ends with: "it is 5√2 ≈ 7.07"."""
    sentence = " ".join(re.sub(r"\$|\\[\[\]()]", " ", sentence).split())
    if ratio := _RATIO_AT_END.search(sentence):
        return canonical(ratio[1] or ratio[2])
    solutions = _SOLUTIONS.search(sentence)
    if solutions and not has_prose(_JOINING.sub(" ", solutions.group())):
        return canonical(solutions.group())
    if day := _DAY_AT_END.search(sentence):
        return day[1]
    if bold := _BOLD_AT_END.search(sentence):
        return canonical(bold[1] + (bold[2] or ""))
    found = _EXPRESSION_AT_END.search(sentence)
    if not found:
        return None
    expression = re.split(r"≈|\\approx", found[1] or found[2])[0].strip(" $")
    if listed := read_listed(expression):
        return listed
    if has_form(canonical(expression)):
        return canonical(expression)
    if _JOINING.search(expression) and not has_prose(_JOINING.sub(",", expression)):
        return canonical(re.sub(r",?\s(?:and|or)\s", ", ", expression))
    if (
        "<<" in expression
        or has_prose(expression)
        or not re.search(r"[0-9π√²³ⁿ]|[a-z]\s?[-+*/^(]", expression)
    ):
        return None
    return canonical(expression)


_JOINED_FORMULAS = Pattern(r"\$,? (?:and|or) \$[^$]+\$\W*$")
_JOINING = Pattern(r"\b(?:or|and)\b")


def read_prose(text: str) -> str | None:
    """The last number of a response, or what its conclusion says."""
    if _FIND_NUMBER.search(without_closing(text)):
        text = without_closing(text)
    text = _without_reason(text)
    sentences = [s for s in _SENTENCE_END.split(text[-2 * MAX_LENGTH :]) if s.strip()]
    if yes_or_no := _YES_OR_NO.match(text):
        return yes_or_no[1].capitalize()
    last = text.strip().rsplit("\n", 1)[-1][-MAX_LENGTH:]
    if not _JOINED_FORMULAS.search(last) and (formula := _final_formula(last)):
        return formula
    if sentences and (ending := _expression_at_end(sentences[-1][-MAX_LENGTH:])):
        return ending
    if sentences and _CONCLUSION.match(sentences[-1]) and _FIND_NUMBER.search(sentences[-1]):
        conclusion = _CONCLUSION.sub("", sentences[-1], count=1).lstrip(" ,:")
        if (answer := read_sentence(conclusion)) and re.search(r"[0-9]", answer):
            return answer
    if text and (compound := last_match(_DOLLARS_AND_CENTS, text[-MAX_LENGTH:])):
        after = text[-MAX_LENGTH:][compound.end() :]
        if not _FIND_NUMBER.search(after):
            return compound.group()
    text = _RESTATED.sub("", text) if _FIND_NUMBER.search(_RESTATED.sub("", text)) else text
    if number := last_match(_FIND_NUMBER, text):
        line = max(0, text.rfind("\n", 0, number.start()) + 1, number.start() - MAX_LENGTH)
        if said := _number_said(text[line : number.end() + MAX_LENGTH].split("\n", 1)[0]):
            return said
        return _number_at(text, number)
    if word := last_match(_FIND_WORD, text[-MAX_LENGTH:]):
        return canonical(word.group())
    return _without_number(text[-MAX_LENGTH:])


def _without_number(text: str) -> str | None:
    """An answer that has no number: "there are n! of them", "it is increasing"."""
    for word in reversed(text.strip(" .!").split()):
        term = word.strip("*`.,:;?$")
        if _TERM.search(term) and re.search(r"\w!|\w[-+*/^]\w", term) and not has_prose(term):
            return canonical(term)
    said = _SAID.search(text)
    return said[1] if said else None


_SAID = Pattern(
    r"\b(?:is|are)\s(?:an?\s)?([a-z]{3,}(?:-[a-z]+)?)(?:\s(?:number|function|triangle|matrix"
    r"|graph|set))?[.!\s]*$"
)


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
    r"\s(?:more|less|fewer|times)\b[^,.]*\bthan\b|\s(?:left over|to spare)\b|[^()]*\)"
)
_VERB_BEFORE = Pattern(rf"{_VERB_TEXT}|\b[a-z]+ed\b", re.IGNORECASE)
_CIRCUMSTANCE = Pattern(
    r"(?:^|(?<!,)\s)(?:for|in|at|from|every|per|each"
    r"|(?<!needs )(?<!need )(?<!has )(?<!have )(?<!had )to [a-z]+)\s(?:[a-z]+\s){0,2}?$",
    re.IGNORECASE,
)
_WAYS = Pattern(r"\s(?:[a-z]+\s)?ways\b|\s(?:altogether|in total|in all)\b")


def _number_said(line: str) -> str | None:
    """Of the numbers of the last sentence, the last one that the others are said beside."""
    sentence = next((s for s in reversed(_SENTENCE_END.split(line)) if _FIND_NUMBER.search(s)), "")
    numbers = list(islice(_FIND_NUMBER.finditer(sentence), 12))
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
            return _number_at(sentence, number)
    return None


_REASON = Pattern(
    r"[0-9π][^.\n]{0,30}?(?P<reason>,?\s(?:since|because|when|attained at|(?:at|for"
    r"|where) [a-z]\s?=)\s[^\n]*)\s*\Z"
)


def _without_reason(text: str) -> str:
    """The text without the reason that its last line gives: "27, since 2 + 7 = 9"."""
    reason = _REASON.search(text, max(0, len(text) - MAX_LENGTH))
    if not reason or re.search(r"\b(?:so|thus|therefore|hence|then)\b", reason["reason"]):
        return text
    return text[: reason.start("reason")]


def has_prose(text: str) -> bool:
    """Tell whether a text holds words, so that it is more than an expression."""
    if _FOREIGN_WORD.search(text):
        return True
    return bool(_WORD.search(_COMMAND_WITH_WORDS.sub(" ", text)))


def is_number(line: str) -> bool:
    """Tell whether a text is one number, perhaps with a unit."""
    return read_quantity(canonical(line[:MAX_LENGTH])) is not None
