"""Types that are new to a process are decoded in many threads at once: what a node does with its first messages. In a process of its own, since
the failure is a crash."""

from __future__ import annotations

import ast
import importlib
import pathlib
import pkgutil
import subprocess
import sys
import typing

import msgspec
import pytest

import federated
import sandbox

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import importlib, sys, threading
import msgspec
prepared = importlib.import_module(sys.argv[1]).prepared
sys.setswitchinterval(1e-6)
for i in range(300):
    inner = msgspec.defstruct(f"Inner{i}", [("a", int), ("b", str)])
    kind = msgspec.defstruct(f"Outer{i}", [("x", inner), ("y", dict[str, inner])])
    data = msgspec.msgpack.encode({"x": {"a": 1, "b": "b"}, "y": {}})
    start = threading.Barrier(4)
    def decode():
        start.wait()
        msgspec.msgpack.decode(data, type=prepared(kind))
    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


@pytest.mark.parametrize("module", ["mpc.prepared", "sandbox.prepared"])
def test_prepared_types_are_decoded_by_many_threads_at_once(module):
    done = subprocess.run([sys.executable, "-c", PROGRAM, module], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_nothing_is_decoded_that_is_not_prepared():
    """Messages and stored values alike; files of configuration are read before there are threads."""
    for package in ("mpc", "sandbox", "federated"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text())):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                    continue
                kinds = [keyword.value for keyword in call.keywords if keyword.arg == "type"]
                if call.func.attr == "convert" and ast.unparse(call.func.value) == "msgspec":
                    kinds = [call.args[1]]
                elif call.func.attr != "decode" or ast.unparse(call.func.value).endswith("toml"):
                    continue
                for kind in kinds:
                    assert ast.unparse(kind).startswith("prepared("), f"{path}:{call.lineno}"


def test_types_of_two_packages_do_not_nest():
    """Each package's lock is its own: no type of `sandbox` or `federated` holds one of `mpc`'s."""
    for package in (sandbox, federated):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    ours, kinds = ("sandbox.", "federated."), list(msgspec.Struct.__subclasses__())
    seen = 0
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith(ours):
            seen += 1
            assert "mpc." not in str(typing.get_type_hints(kind)), kind
    assert seen > 100
