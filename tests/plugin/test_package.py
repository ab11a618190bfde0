"""The package as a whole: light to import, documented, and layered."""

import ast
import inspect
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mpdf_langgraph
from tests.support.running import run_python

PACKAGE = Path(mpdf_langgraph.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "sympy", "math_verify", "numpy", "onnxruntime")
OURS = ("training", "examples")

#: From the ground up. A module imports from earlier lines and from its own package.
#: The longest name that fits a module counts.
LAYERS = [
    "secrets",
    "errors state",
    "options frames fitted_file arithmetic runtime.retries runtime.caller",
    "prompts calibration risk response_profile models rounds runtime fork",
    "consensus",
    "learned_consensus",
    "answers observation recruiting profile_critic",
    "history expected_gain",
    "replies verdicts",
    "agents router tool traces",
    "critic learned_router",
    "nodes",
    "graph",
    "__init__ traces.view",
    "view",
]
#: The training's layers, and then who may use them.
TRAINING_LAYERS = ["collect", "learn", "evaluate", "studies"]


def run(code: str) -> str:
    done = run_python("-W", "error", "-c", code)
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


def module_name(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def imports_within(path: Path, package: Path) -> set[str]:
    """Return the modules of `package` that a module imports."""
    known = {module_name(p, package) for p in package.rglob("*.py")}
    names = {name.partition(".")[2] for name in imported(path) if f"{package.name}." in name}
    return (names & known) - {module_name(path, package)}


def layer_of(name: str) -> tuple[int, str]:
    """Return the line of `LAYERS` that a module stands in, and the entry that fits it."""
    fits = [
        (len(entry), line, entry)
        for line, entries in enumerate(LAYERS)
        for entry in entries.split()
        if f"{name}.".startswith(f"{entry}.")
    ]
    assert fits, f"{name} is new: give it a layer"
    _, line, entry = max(fits)
    return line, entry


@pytest.mark.parametrize("path", MODULES, ids=lambda path: module_name(path, PACKAGE))
def test_no_module_imports_what_it_must_not(path: Path) -> None:
    # Two exceptions, loaded late: math_verify by the worker that compares answers, and what a
    # learned router runs on.
    forbidden = {"torch", "transformers", "training", "examples", "tests"}
    if path.stem != "learned_router":
        forbidden |= {"numpy", "onnxruntime"}
    for name in imported(path):
        assert name.split(".")[0] not in forbidden
        assert "_internal" not in name.split(".")
        private = [part for part in name.split(".") if part.startswith("_")]
        assert set(private) <= {"__future__", "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: module_name(path, PACKAGE))
def test_arrows_run_one_way(path: Path) -> None:
    line, entry = layer_of(module_name(path, PACKAGE))
    for other in imports_within(path, PACKAGE):
        above, theirs = layer_of(other)
        assert above < line or theirs == entry, f"{path.stem} imports {other}"


def find_circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return the modules of a circle of imports, or nothing."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_found() -> None:
    assert set(find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == set("abc")


@pytest.mark.parametrize("package", [PACKAGE, PACKAGE.parent / "training"], ids=lambda p: p.name)
def test_no_circle_of_imports(package: Path) -> None:
    paths = package.glob("**/*.py") if package == PACKAGE else package.glob("*/*.py")
    arrows = {module_name(path, package): imports_within(path, package) for path in paths}
    assert find_circle(arrows) == []


def test_the_arrows_of_training_run_one_way() -> None:
    package = PACKAGE.parent / "training"
    for room, path in ((r, p) for r in TRAINING_LAYERS for p in (package / r).rglob("*.py")):
        assert not {"examples", "tests"} & {name.split(".")[0] for name in imported(path)}
        for other in imports_within(path, package):
            allowed = ["command", *TRAINING_LAYERS[: TRAINING_LAYERS.index(room) + 1]]
            assert other.split(".")[0] in allowed, f"{path} imports {other}"
