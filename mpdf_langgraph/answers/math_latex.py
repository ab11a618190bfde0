"""Expressions in plain notation, Unicode or careless LaTeX, in the LaTeX that a grammar reads."""

import re

from mpdf_langgraph.answers.patterns import Pattern

_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ",
    "σ": r"\sigma ", "δ": r"\delta ", "Δ": r"\Delta ", "μ": r"\mu ", "µ": r"\mu ",
    "ε": r"\epsilon ", "ρ": r"\rho ", "τ": r"\tau ", "ψ": r"\psi ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"/",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "²": "^{2}", "³": "^{3}", "¹": "^{1}", "⁰": "^{0}", "√": r"\sqrt", "∛": r"\sqrt[3]",
    "∜": r"\sqrt[4]", "°": r"^\circ", "≈": "=", "∑": r"\sum ", "∫": r"\int ", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "′": "'",
}  # fmt: skip
_SYMBOL = Pattern("|".join(map(re.escape, _SYMBOLS)))
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = Pattern("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")
_LOWERED = Pattern("[₀-₉]+")
_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log"}
_PLAIN_FUNCTION = Pattern(
    r"(?<![A-Za-z\\])(arcsin|arccos|arctan|asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg"
    r"|exp|max|min|gcd|lcm)(?=[\s(^_{0-9\\]|[a-z](?![a-z]))"
)
_PLAIN_SYMBOL = Pattern(
    r"(?<![A-Za-z\\])(pi|theta|alpha|beta|gamma|lambda|phi|omega|infinity|infty|oo)(?![A-Za-z])|(?<=[0-9])(pi)(?![a-z])|(?<![A-Za-z\\])(pi)(?=[a-z]\b)"
)
_DROPPED = Pattern(
    r"\\(?:displaystyle|textstyle|limits|nolimits|left|right|bigl?|bigr|Bigl?|Bigr|quad|qquad|,|;|:|!|>)(?![a-zA-Z])|\\(?=\s)|~"
)
_STYLED = Pattern(
    r"\\(?:text|mathrm|mathbf|mathit|boldsymbol|operatorname|textbf|mathsf|bm)\s?\{([^{}]*)\}"
)
_DEGREES = Pattern(r"(\d+(?:\.\d+)?|\\theta|[a-z])\s?\^\s?\{?\s?\\circ\s?\}?")
_ARGUMENT = r"(\{|\[|\\[A-Za-z]+|[0-9A-Za-z])"


def to_latex(text: str) -> str:
    r"""Write an expression so that a grammar reads it: ``2**(n+1)`` as ``2^{n+1}``.

    Example:
        >>> to_latex("sqrt(3)/2"), to_latex(r"\frac12"), to_latex("x²")
        ('\\sqrt{3}/2', '\\frac{1}{2}', 'x^{2}')
    """
    text = _from_unicode(text)
    text = _DROPPED.sub(" ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(r"\\(?:lvert|rvert|vert|mid)(?![a-z])", "|", text)
    text = re.sub(r"\\(?:times|ast|bullet|centerdot)(?![a-z])", r"\\cdot ", text)
    text = re.sub(r"\\(?:leqslant|leq)(?![a-z])", r"\\le ", text)
    text = re.sub(r"\\(?:geqslant|geq)(?![a-z])", r"\\ge ", text)
    text = re.sub(r"\\(?:varphi)(?![a-z])", r"\\phi ", text)
    text = re.sub(r"\\(?:C|c)os(?![a-z])", r"\\cos", text)
    text = _STYLED.sub(lambda found: _named(found[1]), text)
    text = _from_plain(text)
    text = _with_braces(text)
    text = (
        _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
        if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)
        else _DEGREES.sub(r"\1", text)
    )
    text = re.sub(r"(?<![\w\\}])\+(?=\S)", "", text) if text.startswith("+") else text
    text = re.sub(r"!\s?(?=[0-9A-Za-z(])", r"!\\cdot ", text)
    return " ".join(text.split())


def _named(inside: str) -> str:
    inside = inside.strip()
    if re.fullmatch(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)|log|ln|exp|max|min|gcd|lcm", inside):
        return "\\operatorname{lcm}" if inside == "lcm" else f"\\{inside} "
    return f" {inside} "


def _from_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _RAISED.sub(lambda found: "^{" + found.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + found.group().translate(_SUBSCRIPTS) + "}", text)
    return _SYMBOL.sub(lambda found: _SYMBOLS[found.group()], text)


def _from_plain(text: str) -> str:
    text = text.replace("**", "^").replace(":=", "=")
    text = re.sub(r"<=|=<", r"\\le ", text)
    text = re.sub(r">=|=>", r"\\ge ", text)
    text = text.replace("!=", "\\ne ") if re.search(r"!=", text) else text
    text = re.sub(r"(?<![A-Za-z\\])(?:abs|Abs)\s?\(([^()]*)\)", r"|\1|", text)
    text = re.sub(r"(?<![A-Za-z\\])floor\s?\(([^()]*)\)", r"\\lfloor \1 \\rfloor ", text)
    text = re.sub(r"(?<![A-Za-z\\])ceil(?:ing)?\s?\(([^()]*)\)", r"\\lceil \1 \\rceil ", text)
    text = re.sub(r"(?<![A-Za-z])\\?log([0-9]+)\s?(?=\()", r"\\log_{\1}", text)
    text = re.sub(r"(?<![A-Za-z\\])sqrt\s?(?=[({0-9a-z])", r"\\sqrt", text)
    text = re.sub(r"(?<=[0-9a-z])sqrt\s?(?=[({0-9])", r"\\sqrt", text)
    text = re.sub(r"(?<![A-Za-z\\])cbrt\s?(?=[({0-9a-z])", r"\\sqrt[3]", text)
    text = re.sub(
        r"(?<![A-Za-z\\])(?:C|binom|comb)\s?\(\s?([0-9a-z]+)\s?,\s?([0-9a-z]+)\s?\)",
        r"\\binom{\1}{\2}",
        text,
    )
    for _ in range(10):
        changed = _bracketed_argument(text)
        if changed == text:
            break
        text = changed
    text = _PLAIN_FUNCTION.sub(lambda found: "\\" + _FUNCTIONS.get(found[1], found[1]) + " ", text)
    text = text.replace("\\lcm ", "\\operatorname{lcm}")
    text = _PLAIN_SYMBOL.sub(
        lambda found: (
            "\\" + {"oo": "infty", "infinity": "infty"}.get(found.group(), found.group()) + " "
        ),
        text,
    )
    text = re.sub(r"(?<=[0-9.])[eE]([+-]?[0-9]+)", r"\\cdot 10^{\1}", text)
    return re.sub(r"\s?\*\s?", r" \\cdot ", text)


def _bracketed_argument(text: str) -> str:
    r"""Turn the first ``\sqrt(...)`` or ``^(...)`` into one with braces."""
    found = re.search(r"(\\sqrt(?:\[[0-9]\])?|\^)\s?\(", text)
    if not found:
        return text
    depth, start = 1, found.end()
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return (
                f"{text[: found.start()]}{found[1]}{{{text[start:position]}}}{text[position + 1 :]}"
            )
    return text


def _with_braces(text: str) -> str:
    r"""Put the braces in that TeX can do without: ``\frac12``, ``\sqrt2``, ``2^10``."""
    text = re.sub(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    text = re.sub(
        r"\{?\s?([0-9A-Za-z]+)\s?\\choose(?![a-z])\s?([0-9A-Za-z]+)\s?\}?", r"\\binom{\1}{\2}", text
    )
    text = re.sub(r"\\frac\s?([0-9A-Za-z])\s?([0-9A-Za-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s?([0-9A-Za-z]|\\pi)\s?\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s?\{(?:[^{}]|\{[^{}]*\})*\})\s?([0-9A-Za-z])", r"\1{\2}", text)
    text = re.sub(r"\\frac\s?(\\[a-z]+)\s?([0-9A-Za-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(
        r"(?:\{\s?\})?[_^]\s?\{?([0-9a-z]+)\}?\s?C\s?_\s?\{?([0-9a-z]+)\}?|(?<![A-Za-z])([0-9]+)C([0-9]+)(?![0-9])",
        lambda found: f"\\binom{{{found[1] or found[3]}}}{{{found[2] or found[4]}}}",
        text,
    )
    text = re.sub(r"\\binom\s?([0-9A-Za-z])\s?([0-9A-Za-z])", r"\\binom{\1}{\2}", text)
    text = re.sub(
        r"\\sqrt\s?(\[[^\]]*\])?\s?([0-9]+|[A-Za-z]|\\pi(?![a-z]))(?!\])", r"\\sqrt\1{\2}", text
    )
    text = re.sub(r"\^\s?(-?[0-9]+(?:\.[0-9]+)?|[A-Za-z]|\\[a-z]+(?![a-z{]))", _raised, text)
    text = re.sub(r"_\s?([0-9A-Za-z])", r"_{\1}", text)
    return re.sub(r"\\(log|ln)\s?_\{([^{}]*)\}\s?([0-9A-Za-z]+)", r"\\\1_{\2}{\3}", text)


def _raised(found: re.Match[str]) -> str:
    return found.group() if found[1] == "\\circ" else "^{" + found[1] + "}"
