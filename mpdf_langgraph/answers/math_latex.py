"""Expressions in plain notation, Unicode or careless LaTeX, in the LaTeX that a grammar reads."""

import re

from mpdf_langgraph.answers.patterns import FUNCTIONS, STYLED_TEXT, STYLES, Pattern

_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ",
    "σ": r"\sigma ", "δ": r"\delta ", "Δ": r"\Delta ", "μ": r"\mu ", "µ": r"\mu ",
    "ε": r"\epsilon ", "ρ": r"\rho ", "τ": r"\tau ", "ψ": r"\psi ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"/",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "°": r"^\circ", "≈": "=", "∑": r"\sum ",
    "∫": r"\int ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "′": "'",
}  # fmt: skip
_SYMBOL = Pattern("|".join(map(re.escape, _SYMBOLS)))
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = Pattern("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")
_LOWERED = Pattern("[₀-₉]+")
_SHORT_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log", "oo": "infty",
    "infinity": "infty",
}  # fmt: skip
_DEGREES = Pattern(r"(\d+(?:\.\d+)?|\\theta|[a-z])\s?\^\s?\{?\s?\\circ\s?\}?")
_OPEN_ARGUMENT = Pattern(r"(\\sqrt(?:\[[0-9]\])?|\^)\s?\(")

# What the grammar of math-verify does not read, or reads in another way. The order matters.
_SPELLING = (
    (r"\\(?:left|right|[bB]ig[lr]?|displaystyle|textstyle|(?:no)?limits)(?![a-zA-Z])", " "),
    (r"\\(?:quad|qquad|[,;:!>])(?![a-zA-Z])|\\(?=\s)|~", " "),
    (r"\\(?:times|ast|bullet|centerdot)(?![a-z])", r"\\cdot "),
    (r"\\varphi(?![a-z])", r"\\phi "),
    (rf"\\(?:{STYLES})\s?\{{\s*({FUNCTIONS})\s*\}}", r"\\\1 "),
    (STYLED_TEXT, r" \1 "),
    (r"\*\*", "^"),
    (r"(?<![\w.^}])([0-9]+)/([0-9]+) (?=\\pi|[a-z])", r"\\frac{\1}{\2} "),
    (r"(?<![A-Za-z\\])[aA]bs\s?\(([^()]*)\)", r"|\1|"),
    (r"(?<![A-Za-z\\])(floor|ceil)(?:ing)?\s?\(([^()]*)\)", r"\\l\1 \2 \\r\1 "),
    (r"(?<![A-Za-z])\\?log([0-9]+)\s?(?=\()", r"\\log_{\1}"),
    (r"(?<![A-Za-z\\])sqrt\s?(?=[({0-9a-z])|(?<=[0-9a-z])sqrt\s?(?=[({0-9])", r"\\sqrt"),
    (r"(?<![A-Za-z\\])cbrt\s?(?=[({0-9a-z])", r"\\sqrt[3]"),
    (r"(?<![A-Za-z\\])(?:C|binom|comb)\s?\(\s?(\w+)\s?,\s?(\w+)\s?\)", r"\\binom{\1}{\2}"),
)
_NAME = Pattern(
    rf"(?<![A-Za-z\\])(?:{FUNCTIONS}|asin|acos|atan|sinh|cosh|tanh|lg)(?=[\s(^_{{0-9\\]|[a-z](?![a-z]))"
    r"|(?<![A-Za-z\\])(?:pi|theta|alpha|beta|gamma|lambda|phi|omega|infinity|infty|oo)(?![A-Za-z])"
    r"|(?<=[0-9])pi(?![a-z])|(?<![A-Za-z\\])pi(?=[a-z]\b)"
)
# The braces that TeX can do without: ``\frac12``, ``\sqrt2``, ``2^10``.
_BRACES = (
    (r"\s?\*\s?", r" \\cdot "),
    (r"\{?\s?(\w+)\s?\\choose(?![a-z])\s?(\w+)\s?\}?", r"\\binom{\1}{\2}"),
    (r"\\frac\s?([0-9A-Za-z]|\\pi|\\[a-z]+(?![a-z]|\s?\{))(?=\s?[0-9A-Za-z{])", r"\\frac{\1}"),
    (r"(\\frac\s?\{(?:[^{}]|\{[^{}]*\})*\})\s?([0-9A-Za-z])", r"\1{\2}"),
    (r"(?:\{\s?\})?[_^]\s?\{?(\w+)\}?\s?C\s?_\s?\{?(\w+)\}?", r"\\binom{\1}{\2}"),
    (r"(?<![A-Za-z])([0-9]+)C([0-9]+)(?![0-9])", r"\\binom{\1}{\2}"),
    (r"\\binom\s?([0-9A-Za-z])\s?([0-9A-Za-z])", r"\\binom{\1}{\2}"),
    (r"\\sqrt\s?(\[[^\]]*\])?\s?([0-9]+|[A-Za-z]|\\pi(?![a-z]))(?!\])", r"\\sqrt\1{\2}"),
    (r"\^\s?(-?[0-9]+(?:\.[0-9]+)?|[A-Za-z]|\\(?!circ)[a-z]+(?![a-z{]))", r"^{\1}"),
    (r"_\s?([0-9A-Za-z])", r"_{\1}"),
)
_RULES = [[(Pattern(written), meant) for written, meant in table] for table in (_SPELLING, _BRACES)]


def to_latex(text: str) -> str:
    r"""Write an expression so that a grammar reads it: ``2**(n+1)`` as ``2^{n+1}``.

    Example:
        >>> to_latex("sqrt(3)/2"), to_latex(r"\frac12"), to_latex("x²")
        ('\\sqrt{3}/2', '\\frac{1}{2}', 'x^{2}')
    """
    text = _from_unicode(text)
    for pattern, meant in _RULES[0]:
        text = pattern.sub(meant, text)
    for _ in range(10):
        text = _with_bracketed_argument(text)
    text = _NAME.sub(lambda name: f"\\{_SHORT_NAMES.get(name[0], name[0])} ", text)
    for pattern, meant in _RULES[1]:
        text = pattern.sub(meant, text)
    in_angle = re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)
    text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})" if in_angle else r"\1", text)
    return " ".join(text.split())


def _from_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _RAISED.sub(lambda found: "^{" + found.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + found.group().translate(_SUBSCRIPTS) + "}", text)
    return _SYMBOL.sub(lambda found: _SYMBOLS[found.group()], text)


def _with_bracketed_argument(text: str) -> str:
    r"""Turn the first ``\sqrt(...)`` or ``^(...)`` into one with braces."""
    found = _OPEN_ARGUMENT.search(text)
    if not found:
        return text
    depth = 1
    for end in range(found.end(), len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            inside = text[found.end() : end]
            return f"{text[: found.start()]}{found[1]}{{{inside}}}{text[end + 1 :]}"
    return text
