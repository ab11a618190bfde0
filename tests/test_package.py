"""The package as a whole: light to import, documented, and layered."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mpdf_langgraph

PACKAGE = Path(mpdf_langgraph.__file__).parent
MODULES = sorted(PACKAGE.glob("*.py"))
HEAVY = ("torch", "transformers", "sympy", "math_verify", "numpy", "onnxruntime")
OURS = ("training", "examples")

#: From the ground up: a module may import what stands above it here, in an earlier line.
LAYERS = [
    "state errors equality mathematics sandboxed",
    "prompts sandbox programs calibration",
    "answers profile consensus calls budget traces clock remote",
    "observation agents endpoints events outcome recorded verdicts",
    "critic router code_answer",
    "settings learned",
    "agent_node ending question",
    "router_node consensus_node person_node",
    "graph tool",
    "__init__",
    "view",
]
#: Narrower than their layer.
ONLY = {
    "traces": {"state", "errors"},
    "answers": {"equality", "errors", "mathematics", "prompts"},
    "sandboxed": set(),
    "verdicts": {"errors", "profile"},
    "tool": {"errors", "remote"},
    "remote": {"errors"},
    "sandbox": {"errors"},
    "code_answer": {"errors", "programs", "sandbox"},
}


def run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_nothing_heavy() -> None:
    loaded = run("import sys, mpdf_langgraph; print(*{name.split('.')[0] for name in sys.modules})")
    assert "langgraph" in loaded.split()
    assert not {*HEAVY, *OURS} & set(loaded.split())


def test_importing_it_is_quick() -> None:
    """It adds less than half to what an app with LangGraph and ChatOpenAI loads anyway."""
    code = (
        "import time\n"
        "start = time.process_time()\n"
        "import langgraph.graph, langchain_openai\n"
        "loaded = time.process_time()\n"
        "import mpdf_langgraph\n"
        "print((time.process_time() - loaded) / (loaded - start))"
    )
    assert min(float(run(code)) for _ in range(3)) < 0.5


def test_the_public_names() -> None:
    names = mpdf_langgraph.__all__
    assert names == sorted(set(names))
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname or alias.name for node in imports for alias in node.names} == set(names)
    others = [node for node in tree.body if not isinstance(node, ast.ImportFrom)]
    assert len(others) == 2  # the docstring and __all__: the public names, and nothing else
    promised = {"create_deliberation", "Agent", "MathAnswer", "vllm_chat_model"}
    assert promised <= set(names)


@pytest.mark.parametrize("name", mpdf_langgraph.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(mpdf_langgraph, name)
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    # A dataclass without one gets its signature instead.
    assert doc
    assert not doc.startswith(f"{name}(")
    methods = [v for k, v in vars(value).items() if k[0] != "_" and inspect.isroutine(v)]
    for method in methods if inspect.isclass(value) else []:
        assert inspect.getdoc(method), f"{name}.{getattr(method, '__name__', method)}"


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").exists()


# --- layers ---------------------------------------------------------------------------------


def imported(path: Path) -> set[str]:
    """Return the dotted names that a module imports, anywhere in it, each with its parent."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def siblings(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    own = {path.stem for path in MODULES}
    return {p[1] for p in parts if p[0] == "mpdf_langgraph" and len(p) > 1 and p[1] in own}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_imports_what_it_must_not(path: Path) -> None:
    # Two exceptions, loaded late: math_verify by the worker that compares answers, and what a
    # learned router runs on.
    forbidden = {"torch", "transformers", "training", "examples", "tests"}
    if path.stem != "learned":
        forbidden |= {"numpy", "onnxruntime"}
    for name in imported(path):
        assert name.split(".")[0] not in forbidden
        assert "_internal" not in name.split(".")
        assert not any(part.startswith("_") and part != "__future__" for part in name.split("."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_arrows_run_one_way(path: Path) -> None:
    level = {name: depth for depth, line in enumerate(LAYERS) for name in line.split()}
    assert path.stem in level, "a new module: give it a layer"
    for other in siblings(path):
        assert level[other] < level[path.stem], f"{path.stem} imports {other}"
    assert siblings(path) <= ONLY.get(path.stem, siblings(path))


def test_every_layer_is_a_module() -> None:
    assert sorted(" ".join(LAYERS).split()) == [path.stem for path in MODULES]
