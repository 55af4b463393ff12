"""MPyC (Shamir sharing, an honest majority of semi-honest parties), each party a process, over TCP on loopback.

The parties repeat the same program until this process, party 0, has measured enough and ends them: both its own time and its waiting for
the others. Two cores serve all parties. The sum is in a prime field of 65 bits, so that 64-bit words are added exactly.

    python -m benchmarks.peers.mpyc -M 5 -I 1 -B 20000 sum 100000        # what another party runs
"""

from __future__ import annotations

import functools
import operator
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.harness import Measure, suite, sweep

MULTIPLIERS = 3


def _program(name: str, size: int, party: int) -> Callable[[], Any]:
    """A coroutine function of one repetition."""
    from mpyc.runtime import mpc

    field = mpc.SecFld(min_order=2**64)
    if name == "sum":
        own = field.array(field.field.array(workloads.vector(size, party).astype(object)))

        async def add() -> Any:
            return await mpc.output(functools.reduce(operator.add, mpc.input(own)))

        return add
    x, y = (field.array(field.field.array(values.astype(object))) for values in workloads.secrets(size))
    shared = mpc.input(x, senders=0), mpc.input(y, senders=1)

    async def multiply() -> Any:
        return await mpc.output(mpc.np_multiply(*shared))

    return multiply


class Parties:
    """Party 0 here, the others as processes."""

    def __init__(self, count: int, name: str, size: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        network = ["-M", str(count), "-B", str(port), "--no-log"]
        command = [sys.executable, "-m", "benchmarks.peers.mpyc", *network]
        self._others = [
            subprocess.Popen([*command, "-I", str(i), name, str(size)], stderr=subprocess.DEVNULL)
            for i in range(1, count)
        ]
        sys.argv = ["mpyc"]
        from mpyc import runtime  # reads sys.argv

        sys.argv = ["mpyc", *network, "-I", "0"]
        self._mpc = runtime.mpc = runtime.setup()
        self._mpc.run(self._mpc.start())
        self._program = _program(name, size, 0)

    def __call__(self) -> Any:
        return self._mpc.run(self._program())

    def stop(self) -> None:
        for process in self._others:
            process.kill()
            process.wait()


@pytest.fixture
def parties() -> Iterator[Callable[..., Parties]]:
    started: list[Parties] = []

    def start(*arguments: Any) -> Parties:
        started.append(Parties(*arguments))
        return started[-1]

    yield start
    for found in started:
        found.stop()


@sweep(cells=workloads.CELLS)
@suite("secagg")
def bench_sum(measure: Measure, parties: Any, cells: int) -> None:
    count = workloads.PARTIES
    said = (
        "each party learns the sum; below half of the parties may pool; no dropouts; processes over loopback"
    )
    measure.task("sum", conditions=said, cells=cells, parties=count)
    if cells > 1_000_000:
        pytest.skip("more than a million cells take minutes")
    found = measure(parties(count, "sum", cells), rounds=2, warm=False)
    expected = sum(workloads.vector(cells, party).astype(object) for party in range(count))
    if [int(value) for value in found[:1000]] != expected[:1000].tolist():
        raise AssertionError("MPyC's sum is wrong")
    measure.note(work=cells, unit="values", error=0.0, error_is="exact", peak_bytes=None, cpu_seconds=None)


@sweep(elements=workloads.ELEMENTS)
@suite("linkage")
def bench_multiply(measure: Measure, parties: Any, elements: int) -> None:
    said = "three parties hold shares; one of them may be corrupted; no dealer; processes over loopback"
    measure.task("engine: multiply", conditions=said, elements=elements)
    found = measure(parties(MULTIPLIERS, "multiply", elements), rounds=2, warm=False)
    x, y = workloads.secrets(elements)
    modulus = type(found[0]).modulus
    if [int(value) for value in found[:1000]] != (x.astype(object) * y % modulus)[:1000].tolist():
        raise AssertionError("MPyC's product is wrong")
    measure.note(work=elements, unit="elements", error=0.0, error_is="exact")
    measure.note(peak_bytes=None, cpu_seconds=None)


def main() -> None:
    from mpyc.runtime import mpc

    name, size = sys.argv[1:]

    async def repeat() -> None:
        await mpc.start()
        program = _program(name, int(size), mpc.pid)
        while True:
            await program()

    mpc.run(repeat())


if __name__ == "__main__":
    main()
