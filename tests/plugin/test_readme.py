import re

import pytest

from tests.support.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run[^\n]*-->\n)?```python\n(.*?)```", re.DOTALL)


def blocks(page=README):
    return [(bool(skip), code) for skip, code in BLOCK.findall(page.read_text())]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    run = [code for skip, code in blocks(page) if not skip]
    assert run or page != README
    for code in run:
        exec(compile(code, str(page), "exec"), namespace)


def test_blocks_that_need_a_server_at_least_compile_and_name_the_public_face():
    skipped = [code for skip, code in blocks() if skip]
    assert skipped
    for code in skipped:
        compile(code, str(README), "exec")
        imports = "\n".join(line for line in code.splitlines() if line.startswith("from mpdf"))
        exec(imports, {})
        assert "create_deliberation" in code


def test_commands_named_in_the_readme_exist():
    makefile = (README.parent / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README.read_text(), re.MULTILINE))
    assert named
    assert named <= targets
