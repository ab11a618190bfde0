"""The worker's side of mathematical equality: two expressions, the same or not.

`math_equality` starts this file in a process of its own. It imports nothing of the package.
Math-verify's LaTeX grammar reads the expressions. Two of them are the same if they have the same
value: numbers to hundreds of digits, expressions with unknowns at several fixed points.
"""

import contextlib
import faulthandler
import json
import os
import signal
import sys
from functools import partial
from typing import Any

_MEMORY_LIMIT = 2 << 30  # bytes
PATIENCE = 10  # times the limit that a comparison may take by the clock on the wall
_ORPHAN_GRACE = 2.0  # seconds past the limit, after which a worker without a parent ends itself
_FORMS = (
    r"7 \cdot \sin (\pi \cdot x/5)+1", r"(x-1)^{2}(x+1)", r"\frac{-b+\sqrt{b^{2}-4ac}}{2a}",
    "3x+2y=6", r"\frac{1}{2^{99}}", r"\log_{2}{8}", r"e^{2x}", "3+4i", r"\sqrt[3]{8}", "10!",
    r"|-3|", "x<5",
)  # fmt: skip
_DIGITS = 30
_MOST_DIGITS = 1500  # of numbers that agree so far
_TOLERANCE = 1e-6  # of what is written as a decimal with so many places


def serve() -> None:
    """Import the libraries, then answer until the pipe closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be read as a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent

    def reply(value: object) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    sys.path[:] = json.loads(sys.stdin.readline())
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    try:
        equal = Judge().equal
        # Without the grammar's runtime everything would be different. The grammar is slow where
        # it meets a form for the first time.
        works = equal(r"\frac{x}{2}", r"\frac{1}{2}x")
        for form in _FORMS:
            equal(form, "x+1")
    except ImportError as error:
        reply(repr(error))
        return
    except Exception:
        works = False
    reply(None if works else "math-verify cannot read LaTeX")
    for line in sys.stdin:
        a, b, limit = json.loads(line)
        _limit_computing(limit)
        # Should the parent be killed in the meantime, nobody else would end a hanging worker.
        faulthandler.dump_traceback_later(PATIENCE * limit + _ORPHAN_GRACE, exit=True)
        try:
            verdict = equal(a, b)
        except Exception:  # including MemoryError and RecursionError
            verdict = False
        faulthandler.cancel_dump_traceback_later()
        _limit_computing(0)
        reply(verdict)


def _limit_computing(seconds: float) -> None:
    """Let the system end this process after so much time on a processor, or not with 0.

    It is time on a processor, as a loaded machine must not change a verdict.
    """
    if hasattr(signal, "setitimer"):  # without it the parent's clock counts
        signal.setitimer(signal.ITIMER_PROF, seconds)


class Judge:
    """Tells whether two expressions are the same. Making one imports the libraries."""

    def __init__(self) -> None:
        import sympy  # type: ignore[import-untyped]
        from latex2sympy2_extended import latex2sympy  # type: ignore[import-untyped]
        from latex2sympy2_extended.latex2sympy2 import ConversionConfig  # type: ignore[import-untyped]
        from math_verify import verify  # type: ignore[import-untyped]

        self._sympy: Any = sympy
        self._verify: Any = verify
        config = ConversionConfig(lowercase_symbols=False)
        self._parse: Any = partial(latex2sympy, normalization_config=None, conversion_config=config)
        self._constants = {sympy.Symbol("i"): sympy.I, sympy.Symbol("e"): sympy.E}
        primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
        # Points off every symmetry, with both signs: sqrt(x^2) is not x.
        self._points = [
            [
                sympy.Rational(sign * p * 7 + shift, 10 * q + shift)
                for p, q in zip(primes, primes[5:] + primes[:5], strict=True)
            ]
            for sign, shift in ((1, 3), (-1, 1), (1, 9), (-1, 7), (1, 1), (1, 17))
        ]

    def equal(self, a: str, b: str) -> bool:
        """Tell whether two expressions, in LaTeX, are the same."""
        return self._same(self._read(a), self._read(b), rounded="." in a or "." in b)

    def _read(self, text: str) -> Any:
        read = self._parse(text)
        unevaluated = self._sympy.UnevaluatedExpr
        with contextlib.suppress(Exception):
            read = read.xreplace(self._constants)
        with contextlib.suppress(Exception):
            read = read.replace(
                lambda part: isinstance(part, unevaluated), lambda part: part.args[0]
            )
        with contextlib.suppress(Exception):
            read = read.doit()
        return read

    def _same(self, x: Any, y: Any, rounded: bool) -> bool:
        sympy = self._sympy
        if x == y:
            return True
        for kind, same in (
            (sympy.core.relational.Relational, self._same_relation),
            (sympy.MatrixBase, self._same_matrix),
            (sympy.Expr, self._same_value),
        ):
            if isinstance(x, kind) and isinstance(y, kind):
                return same(x, y, rounded)
        # Sets and the like. `verify` depends on the order.
        return any(self._verify(*pair, timeout_seconds=None) for pair in (([x], [y]), ([y], [x])))

    def _same_matrix(self, x: Any, y: Any, rounded: bool) -> bool:
        cells = zip(list(x), list(y), strict=False)
        return x.shape == y.shape and all(self._same(p, q, rounded) for p, q in cells)

    def _same_relation(self, x: Any, y: Any, rounded: bool) -> bool:
        """Equations, and inequalities of one direction, are the same up to a factor."""
        sympy = self._sympy
        x, y = (part.reversed if isinstance(part, sympy.Gt | sympy.Ge) else part for part in (x, y))
        if type(x) is not type(y):
            return False
        left, right = x.lhs - x.rhs, y.lhs - y.rhs
        if self._same_value(left, right, rounded):
            return True
        if left.free_symbols != right.free_symbols or not left.free_symbols:
            return False
        ratios = [p / q for p, q in self._values(left, right) if abs(q) > 1e-9]
        if len(ratios) < 3 or any(abs(r - ratios[0]) > 1e-12 * abs(ratios[0]) for r in ratios):
            return False
        positive = complex(ratios[0]).imag == 0 and complex(ratios[0]).real > 0
        return ratios[0] != 0 and (positive or isinstance(x, sympy.Eq | sympy.Ne))

    def _same_value(self, x: Any, y: Any, rounded: bool) -> bool:
        sympy = self._sympy
        if x.is_Rational and y.is_Rational:
            return bool(x == y)
        if {x, y} & {sympy.oo, -sympy.oo, sympy.zoo, sympy.nan}:
            return False
        if x.free_symbols == y.free_symbols:
            if not x.free_symbols:
                return self._same_number(x, y, rounded)
            values = self._values(x, y)
            if len(values) >= 2:
                limit = _TOLERANCE if rounded else 10.0 ** (8 - _DIGITS)
                return all(abs(p - q) <= limit * max(abs(p), abs(q)) for p, q in values)
        return bool(sympy.simplify(x - y) == 0)

    def _values(self, x: Any, y: Any) -> list[tuple[Any, Any]]:
        """Both values at every point where both are finite and as real as each other."""
        symbols = sorted(x.free_symbols | y.free_symbols, key=str)
        pairs = []
        for point in self._points:
            places = {s: point[k % len(point)] + k // len(point) for k, s in enumerate(symbols)}
            with contextlib.suppress(Exception):
                p, q = (part.subs(places).evalf(_DIGITS) for part in (x, y))
                if p.is_number and q.is_number and p.is_finite and q.is_finite:
                    real = bool(p.is_real) and bool(q.is_real)
                    positive = all(value > 0 for value in places.values())
                    if real or positive:
                        pairs.append((p, q))
        return pairs

    def _same_number(self, x: Any, y: Any, rounded: bool) -> bool:
        sympy = self._sympy
        p, q = x.evalf(_DIGITS), y.evalf(_DIGITS)
        if not (p.is_number and q.is_number and p.is_finite and q.is_finite):
            return bool(sympy.simplify(x - y) == 0)
        size = max(abs(p), abs(q))
        if rounded:
            return bool(abs(p - q) <= _TOLERANCE * min(1, size))
        if abs(p - q) > size * 10.0 ** (5 - _DIGITS):
            return False
        difference = abs((x - y).evalf(5, maxn=_MOST_DIGITS))
        return bool(difference == 0 or difference <= size * sympy.Float(10) ** (50 - _MOST_DIGITS))


if __name__ == "__main__":
    serve()
