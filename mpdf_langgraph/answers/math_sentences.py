"""The answer that a sentence gives, behind a mark such as "the answer is" or in plain prose."""

import re

from mpdf_langgraph.answers.math_notation import canonical
from mpdf_langgraph.answers.math_numbers import DECIMAL, MAX_LENGTH, NUMBER_WORD, read_quantity
from mpdf_langgraph.answers.math_parts import DAY_OF_YEAR, has_form
from mpdf_langgraph.answers.patterns import MATH_SEGMENT, Pattern
from mpdf_langgraph.answers.reading import last_match, without_closing
from mpdf_langgraph.answers.sentence_numbers import (
    FIND_NUMBER,
    FIND_WORD,
    FRACTION,
    MIXED,
    SENTENCE_END,
    TERM,
    has_prose,
    is_number,
    leading_number,
    number_after_verb,
    number_at,
    number_counted,
    number_said,
    result_in,
)

_DOLLARS_AND_CENTS = Pattern(
    r"[0-9]+ (?:(?:dollars?|euros?|pounds?)(?: and)? [0-9]{1,2} (?:cents?|pence)"
    r"|hours?(?: and)? [0-9]{1,2} minutes?|minutes?(?: and)? [0-9]{1,2} seconds?"
    r"|f(?:ee|oo)t(?: and)? [0-9]{1,2} inch(?:es)?)\b"
)
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
# "Answer: We first add the two. [...] Therefore, it is 5.": a whole solution follows the mark.
_BEGINS_SOLUTION = Pattern(
    r"(?:To|We|First|Let|The|Since|If|In order|There|It|Using|Given|By|From)\b"
)
_ENDS_SOLUTION = Pattern(r"(?:\n|[.:]\s)\s{0,9}(?:So|Thus|Therefore|Hence)\b")
# "f(f(4)) = f(9) = 70", but neither "x = y = 2" nor "x = 1 and y = 2"
_CHAIN = Pattern(
    r"(?!\W*[a-z]\s?=\s?[a-z]\s?=)(?!.*(?:\b(?:and|or)\b|\\(?:text|q?quad|\\)))"
    r"[^=<>,;]+(?:=[^=<>,;]+){2,}",
    re.DOTALL,
)
# "5 (cups) x 2 (spoons) = 10"
_REMARKS = Pattern(r"\s?\((?=[^()]*[A-Za-z]{2})[^()]*\)")
# "the answer is: $4^2 + 1$ is equal to $17$"
_IS_SAID = Pattern(
    r"\s(?:when\s[^.$\n]{1,40}\s)?(?:is|equals|is equal to|evaluates to|simplifies to)"
    r"\s\$([^$\n]+)\$\s*\.?\s*(?:\n|$)"
)
_ARTICLE = Pattern(r"^an?\s(?=\$|\\\()")
_QUOTED = Pattern(r"\\?\"([^\"\n]{1,200}?)\\?\"(?![\w\":])")
_NEGATED = Pattern(r"(?:not|n't|never)\b", re.IGNORECASE)
_CONCLUSION = Pattern(
    r"\s*(?:\*\*)?(?:So|Thus|Therefore|Hence|In total|Finally|Altogether|In conclusion"
    r"|Consequently)\b",
    re.IGNORECASE,
)
_LIST_JOINT = Pattern(r"\s*(?:,?\s(?:and|or)\s|,\s|[;&]|\s(?:y|und|et|e|o|ou|oder)\s)\s*")
_LIST_ITEM = Pattern(
    rf"(?:[A-Za-zα-ω]['₀-₉]{{0,2}}(?:_\{{?\w\}}?)?\s?=\s?)?[-+−]?\s?"
    rf"(?:{FRACTION}|{MIXED}|{DECIMAL})(?:\s?/\s?[0-9]+)?(?:\s?[πi%°]|\s?√[0-9]+)?"
)
_ENDING_FORMULA = Pattern(r"(?:(?<![\\$])\$([^$]{1,300})\$|\\\((.{1,300}?)\\\))\s*[.!*]*\s*$")
# "$3125$ when $a = 5$", "$[2, 5)$, expressed in interval notation", "$338$ in base $10$"
_CONDITION = Pattern(
    r",?\s(?:(?:when|if|where|for)\s\$[a-z]\s?=[^$]*\$"
    r"|(?:expressed|written|given)\s(?:in|as)(?:\s[a-z]+){1,5}|in\sbase\s\$10\$)[.\s]*$"
)
_NUMBERS_LISTED = Pattern(
    rf"-?{DECIMAL}(?:\s?/\s?[0-9]+)?(?:(?:,|,?\sand|,?\sor)\s-?{DECIMAL}(?:\s?/\s?[0-9]+)?)+[.\s]*"
)
# "24 square feet, or about 2.2 square meters": the same once more, rounded.
_RESTATED = Pattern(
    r",? (?:or|which is|i\.e\.,?) (?:about|approximately|roughly|around) [^\n]{1,80}$",
    re.IGNORECASE,
)
_BOLD_AT_END = Pattern(r"\*\*([^*\n]{1,60}?)[.:]?\*\*(\s[a-z°²³/]{1,4})?[.!\s]*$")
# The end of bold text. In "2**10" the stars are a power.
_BOLD_CLOSED = Pattern(r"(?<=\w)\*\*(?![\d(]|-\d|n\b)")
_EXPRESSION_AT_END = Pattern(
    r"(?<!and )(?<!or )(?<!, )(\([^()]*[0-9][^()]*,[^()]*\))[.*\s]*$"
    r"|(?m:^).*(?:\b(?:is|are|was|equals|as|to|get|gives?|yields|obtain|beträgt|ist|es|est"
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
_JOINED_FORMULAS = Pattern(r"\$,? (?:and|or) \$[^$]+\$\W*$")
_JOINING = Pattern(r"\b(?:or|and)\b")
_SAID = Pattern(
    r"\b(?:is|are)\s(?:an?\s)?([a-z]{3,}(?:-[a-z]+)?)(?:\s(?:number|function|triangle|matrix"
    r"|graph|set))?[.!\s]*$"
)
# "Therefore, $x = 43$ is the solution of $2x = 86$."
_NAMED_SOLUTION = Pattern(
    r"\s*(?:(?:So|Thus|Therefore|Hence),?\s)?\$?[a-z]\s?=\s?([^=$\n]{1,60}?)\$?\s{1,2}"
    r"is\s(?:the|a|our)\b(?=[^\n]*=)"
)
# "9(z + 1)", "x^2 - 3x", but not "3 + 4 = 7"
_FORMULA_LINE = Pattern(r"(?=.*[a-z)])(?=.*[-+*/^])[^=$\\<>,:]+")
# "Therefore, the family has one member."
_WORD_CONCLUDED = Pattern(
    r"\s*(?:So|Thus|Therefore|Hence)\b[^0-9]*\b(?:is|are|has|have|takes?|needs?)\s"
    rf"(?:only\s|exactly\s)?((?:{NUMBER_WORD})(?:[- ](?:{NUMBER_WORD}))?)(?:\s[a-z]+){{0,3}}[.\s]*",
)
_REASON = Pattern(
    r"[0-9π][^.\n]{0,30}?(?P<reason>,?\s(?:since|because|when|attained at|(?:at|for"
    r"|where) [a-z]\s?=)\s[^\n]*)\s*\Z"
)
# "The value of 2x + 1 when x = 3 is 7": a condition, and then the answer.
_VALUE_AT_END = Pattern(
    r"^,?\s(?:when|at|for|where)\b.*(?:\$|ed\b[^,$]*)\s(?:is|are|equals|is equal to)\s"
    r"[^\s,]+[.\s]*$"
)
_NEXT_CONCLUSION = Pattern(r"\b(?:So|Thus|Therefore|Hence|Then)\b")
_CONCLUDED = Pattern(r"\b(?:so|thus|therefore|hence|then)\b")


def read_after_marker(rest: str) -> str | None:
    """The answer at the beginning of what follows "the answer is"."""
    rest = rest.strip()
    solved = _ENDS_SOLUTION.search(rest) if _BEGINS_SOLUTION.match(rest) else None
    if solved and FIND_NUMBER.search(rest, solved.end()):
        return read_prose(rest)
    if _NEGATED.match(rest):
        sentence = SENTENCE_END.split(rest, maxsplit=1)[0]
        corrected = re.search(r"\b(?:but|rather|it is|it's|instead)\b", sentence)
        return read_after_marker(sentence[corrected.end() :]) if corrected else None
    if quoted := _QUOTED.match(rest):
        return canonical(quoted[1]) if not has_prose(quoted[1]) else read_sentence(quoted[1])
    rest = _ARTICLE.sub("", rest)
    segment = MATH_SEGMENT.match(rest)
    # "$12, so she has $5 left" is not mathematics between dollar signs.
    if segment and not has_prose(segment.group()) and not re.match(r"[0-9]", rest[segment.end() :]):
        if said := _IS_SAID.match(rest, segment.end()):
            return canonical(result_of(said[1]))
        return canonical(result_of(canonical(_joined_segments(rest, segment))))
    sentence = SENTENCE_END.split(rest, maxsplit=1)[0]
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
    if counted := number_counted(sentence):
        return counted
    hedge = _HEDGE.match(sentence)
    lead = sentence[hedge.end() if hedge else 0 :].strip()
    if not lead:
        return None
    lead = _BOLD_CLOSED.sub("", lead)
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
    plain = _REMARKS.sub("", lead)
    if "=" in plain and not has_prose(plain):
        return canonical(result_of(plain))
    whole = canonical(lead)
    if read_quantity(whole) is not None and len(lead) < 60:
        return whole
    compound = _DOLLARS_AND_CENTS.search(lead)
    if compound and not (
        FIND_NUMBER.search(lead, compound.end()) or FIND_NUMBER.search(lead[: compound.start()])
    ):
        return compound.group()
    clause = _CLAUSE_END.split(lead, maxsplit=1)[0].strip(" .,*")
    answer = canonical(clause)
    if read_quantity(answer) is not None or (
        not has_prose(clause) and re.search(r"[0-9\\]|^[a-z]$", clause)
    ):
        return canonical(result_of(clause))
    return (
        result_in(lead)
        or leading_number(lead)
        or number_said(lead)
        or number_after_verb(lead)
        or answer
        or None
    )


def read_listed(text: str) -> str | None:
    """Read several numbers, perhaps with names: "either 2 or 3", "x₁ = 2 and x₂ = 3"."""
    items = _LIST_JOINT.split(re.sub(r"^(?:either|both)\s", "", text.strip(" .$")))
    if len(items) < 2 or not all(map(_LIST_ITEM.fullmatch, items)):
        return None
    return canonical(", ".join(items))


def _final_formula(sentence: str) -> str | None:
    r"""The formula that ends a sentence: "so the area is $27\pi$"."""
    condition = _CONDITION.search(sentence)
    if condition and (formula := _final_formula(sentence[: condition.start()])):
        return formula
    found = _ENDING_FORMULA.search(sentence)
    if not found or not found.start() or has_prose(found.group()):
        return None
    inside = next(filter(None, found.groups()), "")
    if not re.search(r"[0-9]|\\[a-z]", inside) or re.search(r"[<>]", inside):
        return None
    return canonical(inside.rpartition("=")[2])


def _without_remark(text: str) -> str:
    return re.sub(r"\s\([^()]*[a-z=×*+][^()]*\)\s*$", "", text)


# Commands that name no unknown, and an x that stands for "times".
_NO_UNKNOWN = Pattern(
    r"\\(?!alpha|beta|gamma|delta|theta|lambda|phi|omega|angle)[a-z]+|(?<=[\d)])\s?x(?=\s?[$(\d])"
)


def result_of(text: str) -> str:
    """What a chain of equal numbers comes to: "3 + 4 = 7" is 7. An equation stays one."""
    left, equals, right = text.rpartition("=")
    if _CHAIN.fullmatch(text):
        return right.strip("$ ")
    if equals and _is_sum_of_unknowns(left) and is_number(right):
        return right.strip()
    if (
        equals
        and re.search(r"[0-9]", right)
        and re.fullmatch(r"[\d\s+*/x×÷·().,$%=\\a-z{}^!√⁰¹²³⁴-⁹−–-]*", left)
        and re.search(r"[0-9)}!⁰¹²³⁴-⁹]\s*$", left)
        and not re.search(r"[<>]", text)
        and not re.search(r"[a-z]", _NO_UNKNOWN.sub("", left))
    ):
        return right.strip()
    return text


def _is_sum_of_unknowns(text: str) -> bool:
    return bool(re.search(r"[a-z]\s?[-+*/]\s?[a-z]", text)) and not re.search(r"[<>=]", text)


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


def read_prose(text: str) -> str | None:
    """The last number of a response, or what its conclusion says."""
    if FIND_NUMBER.search(without_closing(text)):
        text = without_closing(text)
    text = _without_reason(text)
    sentences = [s for s in SENTENCE_END.split(text[-2 * MAX_LENGTH :]) if s.strip()]
    if yes_or_no := _YES_OR_NO.match(text):
        return yes_or_no[1].capitalize()
    if sentences and (named := _NAMED_SOLUTION.match(sentences[-1][:MAX_LENGTH])):
        return canonical(named[1])
    last = text.strip().rsplit("\n", 1)[-1][-MAX_LENGTH:]
    if not _JOINED_FORMULAS.search(last) and (formula := _final_formula(last)):
        return formula
    if _FORMULA_LINE.fullmatch(last) and not has_prose(last):
        return canonical(last)
    if sentences and (word := _WORD_CONCLUDED.fullmatch(sentences[-1][-MAX_LENGTH:])):
        return canonical(word[1])
    if sentences and (counted := number_counted(sentences[-1][:MAX_LENGTH])):
        return counted
    if sentences and (ending := _expression_at_end(sentences[-1][-MAX_LENGTH:])):
        return ending
    if sentences and _CONCLUSION.match(sentences[-1]) and FIND_NUMBER.search(sentences[-1]):
        conclusion = _CONCLUSION.sub("", sentences[-1], count=1).lstrip(" ,:")
        if (answer := read_sentence(conclusion)) and re.search(r"[0-9]", answer):
            return answer
    if text and (compound := last_match(_DOLLARS_AND_CENTS, text[-MAX_LENGTH:])):
        after = text[-MAX_LENGTH:][compound.end() :]
        if not FIND_NUMBER.search(after):
            return compound.group()
    text = _RESTATED.sub("", text) if FIND_NUMBER.search(_RESTATED.sub("", text)) else text
    if number := last_match(FIND_NUMBER, text):
        line = max(0, text.rfind("\n", 0, number.start()) + 1, number.start() - MAX_LENGTH)
        if said := number_said(text[line : number.end() + MAX_LENGTH].split("\n", 1)[0]):
            return said
        return number_at(text, number)
    if word := last_match(FIND_WORD, text[-MAX_LENGTH:]):
        return canonical(word.group())
    return _without_number(text[-MAX_LENGTH:])


def _without_number(text: str) -> str | None:
    """An answer that has no number: "there are n! of them", "it is increasing"."""
    for word in reversed(text.strip(" .!").split()):
        term = word.strip("*`.,:;?$")
        if TERM.search(term) and re.search(r"\w!|\w[-+*/^]\w", term) and not has_prose(term):
            return canonical(term)
    said = _SAID.search(text)
    return said[1] if said else None


def _without_reason(text: str) -> str:
    """The text without the reason that its last line gives: "27, since 2 + 7 = 9"."""
    reason = _REASON.search(text, max(0, len(text) - MAX_LENGTH))
    if not reason or _CONCLUDED.search(reason["reason"]) or _VALUE_AT_END.search(reason["reason"]):
        return text
    before = text[: reason.start("reason")]
    # "a = 5, since 2 + 3 = 5. Then the product is 20.": what follows is no longer the reason.
    _, *further = SENTENCE_END.split(reason["reason"])
    goes_on = any(map(FIND_NUMBER.search, further)) or _NEXT_CONCLUSION.search(reason["reason"])
    concluded = _CONCLUSION.match(SENTENCE_END.split(before)[-1])
    return text if goes_on and not concluded else before
