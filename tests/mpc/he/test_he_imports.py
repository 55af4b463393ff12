"""Importing is cheap, examples in docstrings run, and no file names what it must not."""

from __future__ import annotations

import doctest
import importlib
import pathlib
import subprocess
import sys

import pytest

import mpc.he

ROOT = pathlib.Path(__file__).parents[3]
MODULES = sorted(path.stem for path in pathlib.Path(mpc.he.__file__).parent.glob("[a-z]*.py"))


def test_importing_everything_loads_neither_tenseal_nor_a_library_of_models():
    names = ", ".join(f"mpc.he.{name}" for name in MODULES)
    code = f"import sys, {names}, federated.encrypted_frame; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert {"mpc", "federated", "numpy"} <= loaded
    assert not loaded & {"tenseal", "pandas", "sklearn", "torch", "xgboost", "flwr", "duckdb", "scipy"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"mpc.he.{name}")).failed == 0


def test_the_package_tells_of_each_module():
    assert all(f"    {name} " in mpc.he.__doc__ or f" {name} " in mpc.he.__doc__ for name in MODULES)
