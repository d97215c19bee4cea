"""The repository itself: what is packaged, what the sources may not contain, whether links lead somewhere."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gpusq

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gpusq"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"host", "gpu", "tensorrt", "rtx", "modelopt", "timm", "torch-tensorrt", "dev"}
DATA_SUFFIXES = {".toml", ".j2", ".json", ".js", ".css", ".html", ".typed"}
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "sklearn", "modelopt", "tensorrt_rtx")
LIGHT_ROOMS = (
    "errors",
    "workload",
    "artifacts",
    "targets",
    "latency",
    "reports",
    "finishing",
    "gates",
    "data",
    "engines",
    "recipe",
    "cli.main",
)
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
RUNS_USER_CODE = {("gpusq/models/user_file.py", "exec()")}  # file.py:function is the user's own code, named by the user
LONGEST_FUNCTION, LONGEST_FILE = 60, 400


# ---- what the sources may not contain ----


def unsafe_code(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for everything that can run code out of data: pickle and its family, torch.load, eval, exec."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            names += [f"torch.{alias.name}" for alias in node.names if node.module == "torch" and alias.name == "load"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            names = [f"torch.{node.attr}"]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = [f"{node.func.id}()"]
        elif isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "trust_remote_code"}:
            names = [] if isinstance(node.value, ast.Constant) and node.value.value is False else [f"{node.arg}="]
        else:
            continue
        banned = {"torch.load", "eval()", "exec()", "allow_pickle=", "trust_remote_code="}
        yield from ((node.lineno, name) for name in names if name in banned or name.split(".")[0] in UNSAFE_MODULES)


def asserts_and_prints(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for each assert statement and each call of print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "print"


def swallowed_errors(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for handlers of everything that do nothing."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler) or not all(isinstance(line, ast.Pass) for line in node.body):
            continue
        if node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}):
            yield node.lineno, "except: pass"


def long_functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name and length) for each function longer than LONGEST_FUNCTION lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield node.lineno, f"{node.name} has {length} lines"


CHECKS = {check.__name__: check for check in (unsafe_code, asserts_and_prints, swallowed_errors, long_functions)}


@pytest.mark.parametrize("check", CHECKS)
def test_no_source_file_breaks(check: str) -> None:
    found = []
    for source in SOURCES:
        name = source.relative_to(ROOT).as_posix()
        if check == "asserts_and_prints" and name.startswith("gpusq/cli/"):
            continue
        breaks = CHECKS[check](ast.parse(source.read_text()))
        found += [f"{name}:{line}: {what}" for line, what in breaks if (name, what) not in RUNS_USER_CODE]
    assert found == []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        ("unsafe_code", "import pickle"),
        ("unsafe_code", "from pickle import loads"),
        ("unsafe_code", "import torch\ntorch.load('x')"),
        ("unsafe_code", "from torch import load"),
        ("unsafe_code", "eval('1')"),
        ("unsafe_code", "np.load(f, allow_pickle=True)"),
        ("asserts_and_prints", "assert x"),
        ("asserts_and_prints", "print(x)"),
        ("swallowed_errors", "try:\n    f()\nexcept Exception:\n    pass"),
        ("swallowed_errors", "try:\n    f()\nexcept:\n    pass"),
        ("long_functions", "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION),
    ],
)
def test_each_source_check_catches_what_it_is_for(check: str, source: str) -> None:
    assert len(list(CHECKS[check](ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("check", "source"),
    [
        ("unsafe_code", "model.eval()\nnp.load(f, allow_pickle=False)\njson.load(f)"),
        ("swallowed_errors", "try:\n    f()\nexcept KeyError:\n    pass"),
        ("long_functions", "def f():\n" + "    x = 1\n" * (LONGEST_FUNCTION - 1)),
    ],
)
def test_source_checks_let_the_harmless_pass(check: str, source: str) -> None:
    assert list(CHECKS[check](ast.parse(source))) == []


def test_no_source_file_is_too_long() -> None:
    lengths = {str(source.relative_to(ROOT)): len(source.read_text().splitlines()) for source in SOURCES}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


# ---- what the package offers ----


def test_every_public_name_is_there() -> None:
    public = list(getattr(gpusq, "__all__", []))
    assert len(public) == len(set(public))
    assert [name for name in public if not hasattr(gpusq, name)] == []


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert importlib.metadata.version("gpusq") == gpusq.__version__


def test_the_light_rooms_start_without_heavy_libraries() -> None:
    code = (
        "import importlib, sys\n"
        f"for room in {LIGHT_ROOMS!r}:\n"
        "    importlib.import_module('gpusq.' + room)\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    if heavy: sys.exit(f'gpusq.{room} imports {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_names_every_fresh_model() -> None:
    from gpusq.models.presets import preset_names

    (line,) = (line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `new:NAME` |"))
    assert sorted(re.findall(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)+", line)) == preset_names()


# ---- requirements ----


def test_extras_are_the_documented_ones() -> None:
    assert set(PROJECT["optional-dependencies"]) == EXTRAS
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"\.\[(\w+)\]", readme)) <= EXTRAS


def test_the_base_install_is_free_of_heavy_libraries() -> None:
    base = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert base.isdisjoint(HEAVY)


def test_errors_about_missing_libraries_name_an_extra_that_exists() -> None:
    named = [
        argument.value
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        if (node.func.id if isinstance(node.func, ast.Name) else node.func.attr) == "MissingExtraError"
        for argument in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "extra")]
        if isinstance(argument, ast.Constant)
    ]
    assert set(named) <= EXTRAS


def pins() -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_has_one_pin_that_satisfies_it(python: str) -> None:
    environment = {"python_version": python}
    pinned: dict[str, str] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(environment):
            name = re.sub(r"[-_.]+", "-", pin.name).lower()
            assert name not in pinned
            pinned[name] = next(iter(pin.specifier)).version
    lines = list(PROJECT["dependencies"])
    lines += [line for extra in ("host", "rtx", "modelopt", "dev") for line in PROJECT["optional-dependencies"][extra]]
    needs = [need for need in map(Requirement, lines) if need.marker is None or need.marker.evaluate(environment)]
    unmet = [str(need) for need in needs if not need.specifier.contains(pinned.get(need.name.replace("_", "-"), "0"))]
    assert unmet == []


# ---- what is packaged ----


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and, built from that sdist, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def files_under(folder: Path) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_the_wheel_holds_the_package_and_nothing_else(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    assert {name for name in names if ".dist-info/" not in name} == files_under(PACKAGE)
    assert {"gpusq/py.typed", "gpusq/targets/a100.toml"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_carries_no_weights_engines_or_images() -> None:
    kinds = {Path(name).suffix for name in files_under(PACKAGE)} - {".py"}
    assert kinds <= DATA_SUFFIXES | {""}
    sizes = {name: (ROOT / name).stat().st_size for name in files_under(PACKAGE)}
    assert max(sizes.values()) < 2**16  # every file is text that a person wrote, or a schema
    assert sum(sizes.values()) < 3 * 2**20


def test_the_sdist_keeps_the_inputs_that_are_not_imports(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"README.md", "LICENSE", "pyproject.toml", "constraints.txt", "export/README.md"} <= names
    assert files_under(ROOT / "export") | files_under(ROOT / "calibration") <= names
    assert not any(name.startswith((".venv/", "build/", ".git/")) for name in names)


# ---- documents and scripts ----


def documents() -> list[Path]:
    folders = ("docs", "docker", "export", "calibration", "benchmarks")
    return sorted(ROOT.glob("*.md")) + [page for name in folders for page in sorted((ROOT / name).rglob("*.md"))]


@pytest.mark.parametrize("document", documents(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("script", [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci/run"], ids=lambda s: s.name)
def test_shell_scripts_parse_and_may_be_run(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


def test_setup_installs_the_extras_that_the_constraints_cover() -> None:
    setup = (ROOT / "scripts" / "setup.sh").read_text()
    assert "extras=host,rtx,modelopt,dev" in setup
    assert "torch==" in (ROOT / "constraints.txt").read_text()
