"""Programs in responses: fenced or not, in several pieces, or the body of a function alone.

Nothing here runs a program: Python is only parsed.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from itertools import islice

from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import answering_part, has_long_mark_run, json_answer

MAX_LENGTH = 100_000  # characters of a program
_MOST_BLOCKS = 50
_MOST_TRIALS = 50  # shorter and shorter pieces of prose that may be a program
DEFINITION = Pattern(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
_NAMED = Pattern(r"^(\w+)[ \t]*(?::[^=\n]+)?=[ \t]*lambda\b", re.MULTILINE)
#: What goes wrong in reading a text as Python. Deep nesting ends in the last two.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)

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
    """Return the program in a response, or None.

    Args:
        text: The response.
        name: The function that the question asks for, if it is known.
        body_alone: Whether the response may hold nothing but that function's body.
    """
    if len(text) > 20 * MAX_LENGTH:
        return None
    text = _tidy(answering_part(text))
    fenced = _fenced_blocks(text)
    blocks = [
        code
        for code, whole in fenced
        if code.strip() and len(code) <= MAX_LENGTH and (whole or _is_finished(code))
    ]
    may_be_body = body_alone and not fenced
    if not fenced:
        blocks = _unfenced_blocks(text)
    if not blocks and text.count("```") == 1:  # the fence that closes, without one that opens
        blocks, may_be_body = _unfenced_blocks(text[: text.index("```")]), body_alone
    if not blocks:
        body = _as_body(text) or _as_body(_before_definition(text))
        return body if may_be_body else None
    chosen = _choose(blocks, name)
    program = _completed(blocks[chosen], blocks[chosen + 1 :] + blocks[:chosen])
    if body_alone and not _defines(program, name):
        program = _as_body(_before_definition(text)) or _as_body(program) or program
    program = _without_blank_edges(program)
    return program if program.strip() and len(program) <= MAX_LENGTH else None


def _before_definition(text: str) -> str:
    """What stands before the first function, where a model goes on with another one."""
    following = re.search(r"^(?:async )?def ", text, re.MULTILINE)
    return text[: following.start()].rstrip() if following else text


def parse_python(code: str) -> ast.Module | None:
    """Parse a program. Return None if it cannot be read or would take too long.

    Python normalises identifiers. That takes quadratic time if many combining marks follow one
    another.
    """
    if len(code) > MAX_LENGTH or has_long_mark_run(code):
        return None
    try:
        return ast.parse(code)
    except UNREADABLE:
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
    return [code for code, whole in _fenced_blocks(_tidy(text)) if whole]


# --- blocks -----------------------------------------------------------------------------------


def _tidy(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.translate({0xA0: " ", 0x202F: " ", 0x2003: " ", 0x200B: None, 0xFEFF: None})
    return text


def _fenced_blocks(text: str) -> list[tuple[str, bool]]:
    """The fenced blocks that may be Python, and whether their closing fence is there."""
    blocks: list[tuple[str, bool]] = []
    inside: list[str] | None = None
    marks = language = ""

    def close(whole: bool) -> None:
        if inside and any(inside) and language in _LANGUAGES and len(blocks) < 10 * _MOST_BLOCKS:
            blocks.append((_dedented(inside), whole))

    for line in text.split("\n"):
        fence = None
        if len(line) <= 300 and ("```" in line or "~~~" in line):
            fence = _FENCE.match(line) or (_LATE_FENCE.match(line) if inside is None else None)
        if inside is None:
            if fence:
                inside, marks, language = [], fence["marks"], _language(fence["info"])
            continue
        if fence and not fence["marks"].startswith(marks):
            fence = None  # of another kind: it stands in the block
        if fence and not fence["info"].strip():
            close(True)
            inside = None
        elif fence and _language(fence["info"]) in _LANGUAGES:
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
    return blocks


def _language(info: str) -> str:
    words = re.findall(r"[\w+#-]+", info)
    return words[0].lower() if words else ""


def _dedented(lines: list[str]) -> str:
    if lines and all(line.lstrip().startswith(">") or not line.strip() for line in lines):
        lines = [re.sub(r"^\s*> ?", "", line) for line in lines]
    block = "\n".join(lines)
    # A block in a list is indented. The rest of a function stays as it is.
    return textwrap.dedent(block) if DEFINITION.search(block) else block


def _unfenced_blocks(text: str) -> list[str]:
    """The programs of a response without a fence that opens."""
    if field := json_answer(text):
        return [field.value] if field.value and parse_python(field.value) else []
    tagged = [
        found["a"] or found["b"] or "" for found in islice(_TAGS.finditer(text), _MOST_BLOCKS)
    ]
    if any(_is_program(block) for block in tagged):
        return [block for block in tagged if _is_program(block)]
    lines = [line for line in text.split("\n") if not re.match(r"\s*(?:```|~~~)", line)]
    if is_python("\n".join(lines)):
        return ["\n".join(lines)]
    for written in (lines, _without_markdown_indent(lines)):
        pieces = [
            code for code in islice(_program_pieces(written), _MOST_BLOCKS) if _is_program(code)
        ]
        if pieces:
            return pieces
    inline = [found[1] for found in islice(_INLINE.finditer(text), _MOST_BLOCKS)]
    return [code for code in inline if _is_program(code)]


def _without_markdown_indent(lines: list[str]) -> list[str]:
    """The lines of code blocks that Markdown marks by four spaces, below a line of prose."""
    first = next((line for line in lines if line.startswith("    ")), "")
    if (
        not lines
        or lines[0].startswith("    ")
        or not re.match(r"    (?:import|from|def|class|@)", first)
    ):
        return []
    return [line.removeprefix("    ") for line in lines]


def _program_pieces(lines: list[str]) -> Iterator[str]:
    """Stretches of lines that look like Python, each as long as it can be parsed."""
    end = 0
    for start in range(len(lines)):
        if start < end or not _STATEMENT.match(lines[start]):
            continue
        end = start + 1
        while end < len(lines) and _may_continue(lines[end]):
            end += 1
        pieces = ("\n".join(lines[start:k]) for k in range(end, max(start, end - _MOST_TRIALS), -1))
        yield next((code for code in pieces if parse_python(code) is not None), "")


def _may_continue(line: str) -> bool:
    return (
        not line.strip() or line[0] in " \t" or bool(_STATEMENT.match(line) or _CLOSING.match(line))
    )


def _is_program(code: str) -> bool:
    return bool(DEFINITION.search(code) or _NAMED.search(code)) and parse_python(code) is not None


def _is_finished(code: str) -> bool:
    """Tell whether a block without its closing fence is a whole program all the same."""
    last = code.rstrip().rsplit("\n", 1)[-1].strip()
    return last != "return" and parse_python(code) is not None


# --- choosing and completing ------------------------------------------------------------------


def _defines(code: str, name: str | None) -> bool:
    names = DEFINITION.findall(code) + _NAMED.findall(code)
    if name is None:
        return bool(names)
    return name in names or bool(re.search(rf"^{re.escape(name)}[ \t]*=", code, re.MULTILINE))


def _choose(blocks: list[str], name: str | None) -> int:
    """The last block that defines the asked function, else any function, else the last."""
    for wanted in dict.fromkeys((name, None)):
        defining = [
            k
            for k, code in enumerate(blocks)
            if _defines(code, wanted) and not (wanted is None and _is_only_a_test(code))
        ]
        if defining:
            parsed = [k for k in defining if parse_python(blocks[k]) is not None]
            return (parsed or defining)[-1]
    return len(blocks) - 1


def _is_only_a_test(code: str) -> bool:
    """Tell whether a block defines nothing but a main function or tests of other blocks."""
    names = DEFINITION.findall(code)
    return bool(names) and all(one in ("main", "check") or one.startswith("test") for one in names)


def _completed(code: str, others: list[str]) -> str:
    """The program, with the imports and definitions of other blocks that it does not have."""
    tree = parse_python(code)
    if tree is None:
        return code
    known = _defined(tree)
    needed = _used(tree) - known
    taken: list[str] = []
    for block in reversed(others[-_MOST_BLOCKS:]):
        other = parse_python(block)
        for statement in reversed(other.body if other else []):
            names = _defined(ast.Module([statement], []))
            if names & needed and not names & known and isinstance(statement, _DEFINING):
                decorators = getattr(statement, "decorator_list", [])
                first = min(node.lineno for node in (statement, *decorators))
                taken.append("\n".join(block.split("\n")[first - 1 : statement.end_lineno]))
                known |= names
                needed = (needed | _used(statement)) - known
    return "\n".join([*reversed(taken), code])


_DEFINING = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign,
    ast.AnnAssign,
)  # fmt: skip


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
    """The rest of a function whose signature the question gives, indented. None if it is none."""
    text = _without_blank_edges(code)
    if not text or len(code) > MAX_LENGTH:
        return None
    # The first line may have lost its indentation with the white space around a reply.
    for indented in (text, "    " + text, textwrap.indent(textwrap.dedent(text), "    ")):
        tree = parse_python(f"def _():\n{indented}\n")
        if (
            tree is not None
            and len(tree.body) == 1
            and any(isinstance(node, ast.Return | ast.Yield) for node in ast.walk(tree))
        ):
            return indented
    return None


def _without_blank_edges(text: str) -> str:
    """The text without blank lines at its beginning and white space at its end."""
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text.rstrip())
