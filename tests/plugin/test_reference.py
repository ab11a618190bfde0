"""docs/reference.md lists every option, with its default."""

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from mpdf_langgraph import Agent, create_deliberation, vllm_chat_model
from tests.support.paths import ROOT

SECTIONS = dict(
    re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", (ROOT / "docs/reference.md").read_text())
)


def plain(cell: str) -> Any:
    """The value that a cell shows. None where it tells the default in words."""
    try:
        return ast.literal_eval(cell.strip("`"))
    except (SyntaxError, ValueError):
        return None


@pytest.mark.parametrize(
    ("section", "of", "positional"),
    [
        ("Options", create_deliberation, 1),
        ("Agents", Agent, 2),
        ("Endpoints", vllm_chat_model, 1),
    ],
)
def test_every_option_is_listed_with_its_default(
    section: str, of: Callable[..., Any], positional: int
) -> None:
    rows = re.findall(r"(?m)^\| (`[^|]+`) \| ([^|]+) \|", SECTIONS[section])
    told = {name: plain(cell) for names, cell in rows for name in re.findall(r"`(\w+)`", names)}
    parameters = [*inspect.signature(of).parameters.values()][positional:]
    defaults = {p.name: p.default for p in parameters if p.kind != p.VAR_KEYWORD}
    simple = str | int | float | bool
    assert told == {n: d if isinstance(d, simple) else None for n, d in defaults.items()}
