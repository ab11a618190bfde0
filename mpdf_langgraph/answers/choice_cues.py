"""The words by which a reply to a multiple-choice question takes a stance, in many languages.

`read_signs` writes a text as signs, one for each word, so that the rules on stances can do without
words: "The answer is not B" becomes ``_AB!`` and the letter.
"""

import re
from functools import cache
from typing import NamedTuple

from mpdf_langgraph.answers.memory import cache_short

# Sign: its words. A star stands for any ending. The longest entry that fits a place is taken.
_CUES = {
    # What was said before is taken back.
    "Z": "wait; no wait; no, wait; hold on; scratch that; correction; oops; sorry; "
    "on second thought; on reflection; let me re*; i mis*; i made a mistake; actually; "
    "my mistake; in fact; espera; en realidad; en fait; на самом деле; na verdade; anzi; "
    "eigentlich; 等等; 不对; 更正; いや; 待って; 아니",
    # The letter that follows is chosen.
    "C": "should answer; would answer; i answer; could it be; is closest to; is nearest to; "
    "goes to; side with; cast my vote for; i find; agree* with agent * and *; shows; "
    "demonstrates; reveals; confirms; che sia; penso che sia; agree* with agent *; "
    "side with agent *; siding with agent *; maintain my *; keep my *; agree* with the majority; "
    "all agents agree on; we all agree on; everyone agrees on; all agree on; keeping; kept; "
    "retaining; stay with; staying with; less likely than; weaker than; changing it to; "
    "change it to; changed it to; changing to; changed to; updating to; confident in; "
    "confidence in; every option other than; any option other than; all options except; "
    "keeping my *; stick* with my *; stand by my *; confirm my *; retain my *; stays; entspricht; "
    "reste; vastus on; answer's; выбрал*; выбрать; answered; key is; should do; "
    "correspond* most closely to; correspond* exactly to; correspond* best to; gives; gives us; "
    "giving; points us to; choisir; credo sia la; credo che sia la; vastaus on; bet on; gotta be; "
    "got to be; es la opción; es la letra; é a alternativa; é a letra; é a opção; s'agit de; "
    "except; except for; all but; every option but; everything but; أختار; which matches; "
    "that matches; this matches; matching; if i have to pick*; if i had to pick*; "
    "if i have to choose*; if i had to choose*; if i had to guess; if i have to guess; "
    "if i must *; if forced to *; if pressed*; forced to *; choose; choosing; chose; chosen; "
    "pick; picking; picked; select; selecting; selected; selects; go with; going with; went with; "
    "go for; going for; opt for; settle on; prefer; say; lean; leaning; lean to*; leaning to*; "
    "inclined to; think; believe; guess; guessing; suspect; vote for; concur; it's; its; it is; "
    "it must be; it should be; it has to be; it would be; it was; must be; have to be; should be; "
    "has to be; this is; that's; that is; that would be; that'd be; it'd be; leaves; leaving; "
    "left with; looks like; point* to; correspond* to; correspond* with; agree* with; arrive at; "
    "conclude; support; supports; favor*; favour*; suggest; suggests; indicate*; we get; i get; "
    "we obtain; stick with; sticking with; stand by; keep; maintain; change to; "
    "change my answer to; changing my answer to; change my vote to; switch to; switching to; "
    "meant; mean; i.e.; i.e; namely; which is; mark; elijo; escojo; selecciono; me quedo con; "
    "que es; que é; es decir; sería; marco; escolho; assinal*; choisis; je dirais; c'est; "
    "opte pour; wähle; nehme; tippe auf; es ist; bleibt; bleibt nur; scelgo; direi; è la; "
    "opto per; described as; classified as; characterized as; known as; referred to as; выбира*; "
    "это; думаю; остаётся; chọn; odpowiedź to; odpověď je; kies; väljer; wybieram; memilih; 选; "
    "選; 选择; 選擇; 应选; 故选; 选出; 選ぶ; ตอบ; seçiyorum",
    # What follows, or what is said, holds under a condition only.
    "I": "if; unless; assuming; suppos*; had it; had the; had we; were to; provided that; "
    "only when; only if; si; falls; wenn; если; nếu; 如果; 若; もし; 만약; यदि; अगर",
    # What others say, first impressions, concessions.
    "P": "was going to say; were going to say; almost said; nearly said; considered; students; "
    "consider; considering; look at; looking at; examine; evaluate; analyze; start with; compare; "
    "comparing; clarify; agent *; agent; agents; model *; peer*; people; many; some; someone; "
    "majority; others; other agents; other responses; other answers; might think; may think; "
    "could think; might say; may say; might choose; might assume; would think; at first; "
    "at first,; at first glance; at first glance,; initially,; first; initial*; originally; "
    "original; previous*; earlier; tempting; tempted; common; naive*; mistake; misconception; "
    "trap; distractor; although; though; while; even though; their; his; her; seemed; looked; "
    "aunque; embora; bien que; obwohl; хотя; 虽然; 尽管; 起初; 一开始",
    # The letter that follows is rejected.
    "R": "anything but; anything except; rule out; rules out; ruled out; ruling out; eliminate; "
    "eliminates; eliminating; exclude; excludes; excluding; discard; discards; reject; rejects; "
    "dismiss; dismisses; cross out; instead of; rather than; unlike; than; over; versus; against; "
    "without; from; disagree with; neither; nor; descarto; elimino; statt; anstatt; plutôt que; "
    "au lieu de; en lugar de; en vez de; em vez de; исключ*; loại*; 排除; 除外",
    # Says of a letter that it is wrong.
    "F": "second-best; second best; incorrect*; wrong*; false; untrue; invalid; inaccurate; "
    "is out; are out; out; eliminated; excluded; discarded; rejected; dismissed; crossed out; "
    "fail*; violat*; contradict*; ignor*; overlook*; confuse*; misses; neglect*; unlikely; "
    "irrelevant; implausible; impossible; inconsistent; unsupported; too *; makes no sense; "
    "less *; partly *; partially *; incorrecta*; falso*; falsa*; falsch*; errad*; incorret*; "
    "sbagliat*; errat*; faux; fausse*; equivocad*; неверн*; неправильн*; невірн*; onjuist; fout; "
    "fel; błędn*; yanlış; salah; ❌; ✗; ✘; ✖; 🚫; 错误; 错; 錯誤; 誤り; 間違*; 틀*; 오답; गलत; "
    "خاطئ*; خطأ; غلط; ผิด; 不正解; 不适合; 不正确; 不正確; 不适当; 不適切",
    # The letter that follows may be right.
    "M": "might as well be; could as well be; could just as well be; could be; might be; may be; "
    "could possibly be; peut-être; vielleicht; quizás; talvez; может быть; 可能是; 也许",
    # No.
    "0": "no; nope; nein; nej; нет; いいえ; 아니요; nee",
    # Not.
    "!": "not; ਨਹੀਂ; none; cannot; never; isn't; isnt; doesn't; doesnt; don't; can't; won't; "
    "wouldn't; couldn't; aren't; wasn't; didn't; shouldn't; no es; no son; não; nicht; kein*; "
    "pas; non; не; niet; inte; nie; değil; bukan; tidak; không; không phải; 不是; 不; 非; 아닙; "
    "않; नहीं; ليس*; ではな; でな; לא",
    # The answer.
    "A": "ਜਵਾਬ; my choice; my pick; my selection; consensus; soluzione; solución; solução; match; "
    "odgovor; отговор*; atsakymas; atbilde; odpoveď; jawapan; jibu; sagot; válasz; vastaus; জবাব; "
    "is the odd *; is the outlier; だと思*; だと考*; でしょう; winner; exception; "
    "is the statement; is the option; is the choice; is the one; is the exception; is the only *; "
    "を選*; を選択; にします; にする; wählen; nehmen; 를 선택; 을 선택; 를 고르; 을 고르; "
    "by elimination; by process of elimination; by the process of elimination; answer; answers; "
    "ans; solution; verdict; conclusion; result; response; final; gabarito; réponse; reponse; "
    "respuesta; resposta; risposta; antwort; lösung; ответ*; відповідь; antwoord; svar; svaret; "
    "odpowiedź; odpowiedz; odpověď; cevap; cevabı; yanıt; răspuns*; jawaban*; απάντηση; đáp án; "
    "câu trả lời; vote; guess is; selection; decision; boxed; 答案; 答え; 解答; 正解; 回答; 答; "
    "정답; 답; उत्तर; जवाब; উত্তর; الإجابة; الاجابة; الجواب; جواب; پاسخ; תשובה; התשובה; คำตอบ",
    # Says of a letter that it is right.
    "T": "ਸਹੀ; remaining; helyes; corectă; rigtige; sahihi; tamang; točan; tačan; teisingas; "
    "pareizā; betul; oikea; largest; smallest; greatest; highest; lowest; longest; shortest; "
    "heaviest; lightest; fastest; slowest; nearest; only possib*; only viable; only valid; "
    "correct; correctly; right; true; best; valid; accurate*; appropriate; suitable; proper; "
    "preferable; the one; the only one; yes; likely; most *; strongest; closest; stronger; "
    "better; superior; defensible; precise; consistent; correcto*; correcta*; correcte*; "
    "correta*; correto*; corretto; corretta; verdader*; verdadeir*; cierta; certa; vera; vero; "
    "exact; exacte; juste; bonne; vraie; vrai; richtig*; korrekt*; wahr; zutreffend*; trifft zu; "
    "stimmt; giusta; giusto; esatta; верн*; правильн*; вірн*; juist*; rätt; riktig*; prawidłow*; "
    "poprawn*; správn*; doğru*; benar; tepat; đúng; chính xác; σωστή; ✅; ✓; ✔; ☑; ⭕; 👍; 🟢; "
    "正确; 正確; 对; 對; 正しい; 適切; 맞; 옳; 올바른; सही; الصحيحة; الصحيح; صحيحة; صحيح; صحیح; "
    "درست; ถูกต้อง; ถูก; הנכונה; נכונה; সঠিক",
    # Does what only the right one does.
    "V": "gets my vote; agrees with the; remains; remain; captures; matches; best *es; best *ts; "
    "best *ns; best *rs; correctly *es; correctly *s; accurately *s; better *s; most closely *s; "
    "supported; fits; fit; holds; works; work; satisf*; follows; checks out; makes sense; "
    "makes the most sense; makes more sense; aligns; survives; wins; stands; stands out; is left; "
    "成立; 符合",
    # An option.
    "O": "opt; option; options; choice; choices; letter; alternative; statement; candidate; "
    "opción; opciones; opcion; inciso; literal; alternativa; letra; opção; lettre; proposition; "
    "choix; buchstabe; aussage; opzione; l'opzione; l'option; lettera; вариант*; буква; optie; "
    "opcja; şık*; seçenek; opsi; pilihan; phương án; lựa chọn; 选项; 選項; 選択肢; 선택지; 보기; "
    "번; विकल्प; الخيار; الاختيار; گزینه; ข้อ; ตัวเลือก; אפשרות",
    # A conclusion follows.
    "S": "making; so; therefore; thus; hence; consequently; finally; then; ergo; in conclusion; "
    "instead; rather; por lo tanto; por tanto; así que; entonces; luego; portanto; logo; então; "
    "assim; donc; ainsi; also; daher; deshalb; somit; folglich; quindi; dunque; perciò; pertanto; "
    "значит; следовательно; поэтому; итак; vậy; do đó; vì vậy; dus; alltså; zatem; jadi; ∴; ⇒; →; "
    "➡; 👉; 因此; 所以; 故; 综上; 综上所述; したがって; よって; ゆえに; 따라서; 그러므로; अतः; "
    "इसलिए; لذلك; إذن; لذا",
    # A main clause begins.
    "&": "but; however; yet; pero; sin embargo; mas; mais; aber; jedoch; ma; но; однако; maar; "
    "nhưng; 但; 但是; しかし; 하지만; 그러나",
    # A subordinate clause begins.
    "|": "for option; for choice; as for; because; since; as; due to; given that; which; where; "
    "who; porque; ya que; pues; pois; car; parce que; puisque; weil; denn; perché; poiché; "
    "потому что; так как; поскольку; vì; karena; çünkü; omdat; 因为; 由于; 而; ので; 왜냐하면; "
    "क्योंकि; لأن",
    # Says what something is.
    "B": "ਹੈ; er; je; yra; és; ialah; ni; ay; হল; হলো; ہے; is; are; was; were; be; been; "
    "would be; seems; seems to be; seem; looks; appears; appears to be; es; son; é; è; est; sont; "
    "ist; sind; lautet; wäre; är; jest; este; adalah; là; είναι; является; являются; está; است; "
    "yang; =; 是; 为; 為; は; が; 이; 가; 은; 는; है; هي; هو; 应; 应为; 应该是; הוא; היא; คือ",
    # Says what something is.
    ":": ":; ：",
    # Says nothing.
    "_": "why; ones; würde; second; third; fourth; last; det; ang; бы; मेरे विचार से; "
    "मेरे अनुसार; hands down; me; что; makes; here's; here is; το; ο; τη; την; az; "
    "agree with * that; agree with agent * that; agree with the * that; the; a; an; my; our; "
    "your; for; all the way; 100%; this; that; it; only; just; clearly; obviously; probably; "
    "prob; definitely; certainly; most; more; indeed; simply; here; now; still; perhaps; maybe; "
    "possibly; tentatively; i; we; i'd; i'll; i'm; am; would; will; shall; both; all; either; "
    "one; and; or; with; of; in; by; elimination; again; ok; okay; may; might; could; can; very; "
    "among; between; la; el; los; las; le; les; il; lo; o; os; der; die; das; que; que la; ce; "
    "alla; η; updated; us; sure; fairly; quite; hmm; does; do; de; se; et; to me; say that; 的; "
    "を; に; も; です; の; 应该; 應該; 我; 我认为; 最终; これ; それ; 其中; 都; 均; dir; un; una",
}  # fmt: skip


# A letter by itself that is no article: not in "A-level", "A's", "A = 5", "25 °C".
_NO_ARTICLE = (
    r"(?!\s+(?!(?:is|are|isn't|was|and|or|nor|but|not|unless|if|because|since|as|so|which|fits|holds|works"
    r"|satisf\w+|matches|seems|looks|best \w+s|cannot|can't|doesn't|fails|only|it is"
    r"|\w+s (?:the|a|an|that|it|both|all|this)|es|est|ist|é|è|está"
    r"|und|oder|et|ou|nicht|верн\w+)\b)[a-zà-ÿ])"
)
# "A Tale of Two Cities"
_NO_TITLE = (
    r"(?!\s(?!(?:The|This|These|It|There|Both|Only|Because|Since|All|No)\b)[A-Z][a-z]+"
    r"\s(?:of|in|for|to|on|with|from|[A-Z][a-z]))"
)
_LETTER = (
    r"(?:(?<![A-Za-z0-9_])\([A-Za-z]\)|(?<![A-Za-z0-9À-ɏЀ-ӿ_.'°-])"
    rf"(?:[B-HJ-Z]|[AI]{_NO_ARTICLE}{_NO_TITLE}|[b-df-hj-np-xz]"
    r"|[aeiouy](?=\s*(?:[,;:)!]|\.(?!\w)|$)|\s(?:because|since|is|as|(?:and|or) [a-z]\b)))"
    r"(?![A-Za-z0-9À-ɏ_+#^°]|'(?!d[iıuü]r)|-[A-Za-z]{2}|\s(?:cells?|lymphocytes?|major|minor|flat|sharp|deficiency|virus)\b|\s?[=<>≤≥≠×·∈⊂∪∩](?!>))\)?)"
)
_SUBJECT = rf"(?={_LETTER}\s(?:is|was|isn't|does|doesn't|has|would|ist|est|es|è|é)\b)"
_BESIDE = r"(?:also |both |possibly |maybe |perhaps |option |choice |boxed: )?"
_LETTERS = (
    rf"{_LETTER}(?:(?:[-–]|\s?[/+、至到和或及跟與与とか와과]\s?|\s?[,&]\s?(?!{_SUBJECT})){_BESIDE}{_LETTER})*"
    rf"(?:(?:,?\s(?:through|or|oder|ou|или)\s"
    rf"|,?\s(?:and|as well as|und|et|y|e|och|i|и|và|dan|ve)\s(?!{_SUBJECT})){_BESIDE}{_LETTER})*"
)


def _expression(words: str) -> str:
    """Return a regular expression for words. A star stands for any ending."""
    return re.escape(words).replace(r"\*", r"\w*").replace(r"\ ", r"\s+")


def _is_spaced(words: str) -> bool:
    """Tell whether words are written with spaces between them."""
    return words < "\u0700" and re.match(r"[^\W\d_]", words) is not None


def _tree(several: list[str]) -> str:
    """Return a regular expression for the first that fits. What begins alike is read once.

    The longest come first, so that none is the beginning of a later one.
    """
    if len(several) == 1 or any(words[:1] == "*" for words in several):
        return f"(?:{'|'.join(map(_expression, several))})"
    branches: dict[str, list[str]] = {}
    for words in several:
        branches.setdefault(words[:1].upper().lower(), []).append(words)
    return f"(?:{'|'.join(map(_branch, branches.values()))})"


def _branch(several: list[str]) -> str:
    begin = _expression(several[0][:1])
    return begin and begin + _tree([words[1:] for words in several])


def _cue(several: list[str]) -> str:
    """Return a regular expression for cues. In a script with spaces they must be whole words."""
    longest_first = sorted(several, key=len)[::-1]
    spaced = [words for words in longest_first if _is_spaced(words)]
    others = [words for words in longest_first if not _is_spaced(words)]
    whole = [rf"(?<!\w){_tree(spaced)}(?!\w)"] if spaced else []
    return "|".join([*whole, *([_tree(others)] if others else [])])


@cache
def _patterns() -> tuple[re.Pattern[str], dict[str, re.Pattern[str]]]:
    cues = {sign: re.split(r";\s*", words) for sign, words in _CUES.items()}
    cue = _cue([words for several in cues.values() for words in several])
    token = re.compile(
        rf"(?P<letters>{_LETTERS})|(?P<cue>(?i:{cue}))"
        r"|(?P<B>(?<=\s)[-–—]+(?=\s)|—)|(?P<comma>[,()\[\]…?])|(?P<w>[^\W_\u0900-\u0dff\u0e00-\u0eff\u1100-\u11ff\u2e80-\ud7ff]+|\w)"
    )
    each = {sign: re.compile(_cue(several), re.IGNORECASE) for sign, several in cues.items()}
    return token, each


@cache_short(4096)
def _sign(cue: str) -> str:
    _, each = _patterns()
    return next(sign for sign, words in each.items() if words.fullmatch(cue))


class Mention(NamedTuple):
    """Letters that are mentioned together.

    Attributes:
        letters: The letters, in capitals. Of a range there are its two ends.
        place: Where among the signs.
        in_brackets: Whether it is written "(B)".
        titled: Whether the text of the choice follows: "(B) Both are false".
    """

    letters: str
    place: int
    in_brackets: bool
    titled: bool = False


_TITLE = re.compile(r"\s[A-Z][a-z]")


def read_signs(sentence: str) -> tuple[str, list[Mention]]:
    """Return the signs of a sentence, with "@" for letters, and the letters."""
    token, _ = _patterns()
    signs: list[str] = []
    mentions: list[Mention] = []
    previous, named = "", False
    for found in token.finditer(sentence):
        kind, text = str(found.lastgroup), found.group()
        if text in ("A", "I") and "".join(signs[-1:]) in ("A", "O"):
            kind = "letters"  # "answer A describes": no article
        elif kind == "letters" and text[0] != "(" and named:
            kind = "w"  # of a name: "vitamin C", "5 N"
        if kind == "letters":
            letters = "".join(dict.fromkeys(re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", text)))
            titled = text[-1] == ")" and _TITLE.match(sentence, found.end())
            mentions.append(Mention(letters.upper(), len(signs), text[0] == "(", bool(titled)))
            if previous == "only":
                signs[-1] = "M"
            signs.append("@")
        else:
            signs.append(_sign(text) if kind == "cue" else "," if kind == "comma" else kind)
        if kind == "w" and text.endswith("ly"):
            signs[-1] = kind = "_"  # an adverb
        previous, named = text.lower(), kind == "w" and text < "\u0900"
    return "".join(signs), mentions
