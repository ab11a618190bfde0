"""Programs in responses: fenced or not, in several pieces, or the body of a function alone.

Nothing here runs a program: Python is only parsed.
"""

import ast
import re
import textwrap
from collections.abc import Iterable
from itertools import islice

from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import answering_part, has_long_mark_run, json_answer

MAX_LENGTH = 100_000  # characters of a program
_MOST_BLOCKS = 50
_MOST_TRIALS = 50  # shorter and shorter pieces of prose that may be a program
DEFINITION = Pattern(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
_NAMED = Pattern(r"^(\w+)[ \t]*(?::[^=\n]+)?=[ \t]*lambda\b", re.MULTILINE)
# What goes wrong in reading a text as Python: deep nesting ends in the last two.
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)

_FENCE = Pattern(r"(?P<indent>[ \t>]*)(?P<marks>`{3,}|~{3,})(?P<info>[^`]*)$")
_LATE_FENCE = Pattern(r"(?P<before>[^`]*\S[ \t]*)(?P<marks>`{3,})(?P<info>\w+)[ \t]*$")
_LANGUAGES = ("", "python", "python3", "py", "py3", "ipython", "ipython3", "sage")
_TAGS = Pattern(
    r"\[(?P<square>PYTHON|CODE|BEGIN|ANSWER)\](?P<a>.*?)(?:\[/(?P=square)\]|\[DONE\]|\[END\])"
    r"|<(?P<angle>code|python|answer|solution|program)>(?P<b>.*?)</(?P=angle)>",
    re.DOTALL | re.IGNORECASE,
)
_INLINE = Pattern(r"(?<!`)`([^`\n]*(?:lambda|def )[^`\n]*)`(?!`)")
_STATEMENT = Pattern(
    r"(?:import|from|def|class|async def|@|if __name__|for |while |try:|with |assert "
    r"|print\()|[A-Za-z_]\w*(?:\[[^\]]*\])?[ \t]*(?::[^=]+)?=[^=]"
)
_CLOSING = Pattern(r"(?:elif\b|else\b|except\b|finally\b|[)\]}]|\"\"\"|'''|#)")


def find_program(text: str, name: str | None, *, body_alone: bool = False) -> str | None:
    """Return the program in a response, None where there is none.

    Args:
        text: The response.
        name: The function that the question asks for, None where it is not known.
        body_alone: Whether the response may hold nothing but that function's body.
    """
    if len(text) > 20 * MAX_LENGTH:
        return None
    text = _tidy(answering_part(text))
    blocks, complete = _fenced_blocks(text)
    if not blocks:
        blocks = _unfenced_blocks(text)
        complete = [True] * len(blocks)
    usable = _usable(blocks, complete)
    if not usable and text.count("```") == 1:  # the fence that closes, without one that opens
        blocks = _unfenced_blocks(text[: text.index("```")])
        usable = _usable(blocks, [True] * len(blocks))
    if not usable:
        return _as_body(text) if body_alone and not blocks else None
    chosen = _choose(usable, name)
    others = usable[chosen + 1 :] + usable[:chosen]
    program = _completed(usable[chosen], others)
    if body_alone and not _defines(program, name):
        program = _as_body(program) or program
    program = "\n".join(_without_blank_edges(program.rstrip().split("\n")))
    return program if program.strip() and len(program) <= MAX_LENGTH else None


def _usable(blocks: list[str], complete: list[bool]) -> list[str]:
    """The blocks that are not cut off, too long, or empty."""
    return [
        block
        for block, whole in zip(blocks, complete, strict=True)
        if block.strip() and len(block) <= MAX_LENGTH and (whole or _is_finished(block))
    ]


def parse_python(code: str) -> ast.Module | None:
    """Parse a program, None where it cannot be read or would take too long.

    Python normalises identifiers, which takes quadratic time where many combining marks follow
    one another.
    """
    if len(code) > MAX_LENGTH or has_long_mark_run(code):
        return None
    try:
        return ast.parse(code)
    except _UNREADABLE:
        return None


def is_python(text: str) -> bool:
    """Tell whether a text is Python that can be parsed and defines a function."""
    return (
        len(text) <= MAX_LENGTH and bool(DEFINITION.search(text)) and parse_python(text) is not None
    )


def ends_in_signature(code: str) -> bool:
    """Tell whether the last function of a question's code has a docstring for its only body."""
    tree = parse_python(code)
    if tree is None or not tree.body or not isinstance(tree.body[-1], ast.FunctionDef):
        return False
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in tree.body[-1].body
    )


def code_blocks(text: str) -> list[str]:
    """Return the complete fenced blocks that are, or may be, Python."""
    blocks, complete = _fenced_blocks(_tidy(text))
    return [block for block, whole in zip(blocks, complete, strict=True) if whole]


# --- blocks -----------------------------------------------------------------------------------


def _tidy(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.translate({0xA0: " ", 0x202F: " ", 0x2003: " ", 0x200B: None, 0xFEFF: None})
    return text


def _fenced_blocks(text: str) -> tuple[list[str], list[bool]]:
    """The fenced blocks that may be Python, and whether their closing fence is there."""
    blocks: list[str] = []
    complete: list[bool] = []
    inside: list[str] | None = None
    marks = language = ""

    def close(whole: bool) -> None:
        if (
            inside is not None
            and any(inside)
            and language in _LANGUAGES
            and len(blocks) < 10 * _MOST_BLOCKS
        ):
            blocks.append(_dedented(inside))
            complete.append(whole)

    for line in text.split("\n"):
        fence = None
        if len(line) <= 300 and ("```" in line or "~~~" in line):
            fence = _FENCE.match(line) or (_LATE_FENCE.match(line) if inside is None else None)
        if inside is None:
            if fence:
                inside, marks, language = [], fence["marks"], _language(fence["info"])
            continue
        ends = (
            fence is not None
            and fence["marks"][0] == marks[0]
            and len(fence["marks"]) >= len(marks)
        )
        if fence is not None and ends and not fence["info"].strip():
            close(True)
            inside = None
        elif fence is not None and ends and _language(fence["info"]) in _LANGUAGES:
            close(False)  # the next block begins though this one was not ended
            inside, marks, language = [], fence["marks"], _language(fence["info"])
        elif (
            len(line) <= 300
            and line.rstrip().endswith(marks)
            and not line.strip().startswith(marks)
        ):
            inside.append(line.rstrip()[: -len(marks)])
            close(True)
            inside = None
        else:
            inside.append(line)
    close(False)
    return blocks, complete


def _language(info: str) -> str:
    words = re.findall(r"[\w+#-]+", info)
    return words[0].lower() if words else ""


def _dedented(lines: list[str]) -> str:
    if lines and all(line.lstrip().startswith(">") or not line.strip() for line in lines):
        lines = [re.sub(r"^\s*> ?", "", line) for line in lines]
    block = "\n".join(lines)
    # Indented with a list around it; the rest of a function stays as it is.
    return textwrap.dedent(block) if DEFINITION.search(block) else block


def _unfenced_blocks(text: str) -> list[str]:
    """The programs of a response without a fence that opens."""
    if field := json_answer(text):
        return [field.value] if field.value and parse_python(field.value) else []
    tagged = [found["a"] or found["b"] for found in islice(_TAGS.finditer(text), _MOST_BLOCKS)]
    if any(_is_program(block) for block in tagged):
        return [block for block in tagged if _is_program(block)]
    lines = [line for line in text.split("\n") if not re.match(r"\s*(?:```|~~~)", line)]
    if is_python("\n".join(lines)):
        return ["\n".join(lines)]
    pieces = [piece for piece in _program_pieces(lines) if _is_program(piece)]
    if pieces:
        return pieces
    inline = [found[1] for found in islice(_INLINE.finditer(text), _MOST_BLOCKS)]
    return [code for code in inline if _is_program(code)]


def _program_pieces(lines: list[str]) -> Iterable[str]:
    """Stretches of lines that look like Python, each as long as it can be parsed."""
    start = 0
    count = 0
    while start < len(lines) and count < _MOST_BLOCKS:
        if not _STATEMENT.match(lines[start]):
            start += 1
            continue
        end = start + 1
        while end < len(lines) and _may_continue(lines[end]):
            end += 1
        count += 1
        piece = _longest_parsed(lines[start:end])
        if piece is not None:
            yield piece
        start = end


def _may_continue(line: str) -> bool:
    return (
        not line.strip() or line[0] in " \t" or bool(_STATEMENT.match(line) or _CLOSING.match(line))
    )


def _longest_parsed(lines: list[str]) -> str | None:
    for dropped in range(min(len(lines), _MOST_TRIALS)):
        code = "\n".join(lines[: len(lines) - dropped])
        if parse_python(code) is not None:
            return code
    return None


def _is_program(code: str) -> bool:
    return bool(DEFINITION.search(code) or _NAMED.search(code)) and parse_python(code) is not None


def _is_finished(code: str) -> bool:
    """Tell whether a block without its closing fence is a whole program all the same."""
    last = code.rstrip().rsplit("\n", 1)[-1].strip()
    return last != "return" and parse_python(code) is not None


# --- choosing and completing ------------------------------------------------------------------


def _defines(code: str, name: str | None) -> bool:
    names = DEFINITION.findall(code) + _NAMED.findall(code)
    if name is not None and re.search(rf"^{re.escape(name)}[ \t]*=", code, re.MULTILINE):
        return True
    return name in names if name is not None else bool(names)


def _choose(blocks: list[str], name: str | None) -> int:
    """The last block that defines the asked function, else any function, else the last."""
    places = range(len(blocks))
    for wanted in (name, None) if name is not None else (None,):
        defining = [
            k
            for k in places
            if _defines(blocks[k], wanted) and not _is_only_a_test(blocks[k], wanted)
        ]
        parsed = [k for k in defining if parse_python(blocks[k]) is not None]
        if parsed or defining:
            return (parsed or defining)[-1]
    return len(blocks) - 1


def _is_only_a_test(code: str, name: str | None) -> bool:
    """Tell whether a block defines nothing but a main function or tests of other blocks."""
    if name is not None:
        return False
    names = DEFINITION.findall(code)
    return bool(names) and all(one in ("main", "check") or one.startswith("test") for one in names)


def _completed(code: str, others: list[str]) -> str:
    """The program, with the imports and definitions of other blocks that it does not have."""
    tree = parse_python(code)
    if tree is None or not others:
        return code
    known = _defined(tree)
    needed = _used(tree) - known
    taken: list[str] = []
    for block in reversed(others[-_MOST_BLOCKS:]):
        other = parse_python(block)
        if other is None:
            continue
        for statement in reversed(other.body):
            names = _defined(ast.Module([statement], []))
            if names & needed and not names & known and isinstance(statement, _DEFINING):
                taken.append(ast.get_source_segment(block, statement, padded=True) or "")
                if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    taken[-1] = _with_decorators(block, statement)
                known |= names
                needed = (needed | _used(ast.Module([statement], []))) - known
    return "\n".join([*reversed(taken), code]) if taken else code


_DEFINING = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign,
    ast.AnnAssign,
)  # fmt: skip


def _with_decorators(
    block: str, statement: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
) -> str:
    first = min([statement.lineno, *(one.lineno for one in statement.decorator_list)])
    return "\n".join(block.split("\n")[first - 1 : statement.end_lineno])


def _defined(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names |= {(one.asname or one.name).split(".")[0] for one in statement.names}
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(statement.name)
        else:
            names |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return names


def _used(tree: ast.AST) -> set[str]:
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _as_body(code: str) -> str | None:
    """The rest of a function whose signature the question gives, indented; None: it is none."""
    lines = _without_blank_edges(code.rstrip().split("\n"))
    if not lines or len(code) > MAX_LENGTH:
        return None
    text = "\n".join(lines)
    for indented in (
        text if text[0] in " \t" else None,
        "    " + text,  # the first line lost its indentation with the white space around a reply
        textwrap.indent(textwrap.dedent(text), "    "),
    ):
        if indented is None:
            continue
        tree = parse_python(f"def _():\n{indented}\n")
        if (
            tree is not None
            and len(tree.body) == 1
            and any(isinstance(node, ast.Return | ast.Yield) for node in ast.walk(tree))
        ):
            return indented
    return None


def _without_blank_edges(lines: list[str]) -> list[str]:
    while lines and not lines[0].strip():
        del lines[0]
    return lines
