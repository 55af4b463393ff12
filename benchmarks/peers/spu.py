"""SPU: the two-party arithmetic engine (SEMI2K, 64-bit ring), and its intersections by RR22 and KKRT.

Parties are threads of this process that talk in memory, as ours do. The engine's time holds its compilation, which is cached after the
warm-up, sharing and opening. Intersections read identifiers from CSV files and write the result to files, sorted or not as it comes.
"""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spu.utils.simulation as simulation
from spu import libspu, psi

from benchmarks import workloads
from benchmarks.harness import Measure, sweep

jax.config.update("jax_enable_x64", True)
SAID = "two parties and a trusted source of randomness inside; semi-honest; 64-bit ring"
OPERATIONS: dict[str, tuple[Callable[..., Any], bool]] = {
    "multiply": (lambda x, y: x * y, True),
    "less than": (lambda x, y: x < y, True),
    "equal": (lambda x, y: x == y, True),
    "Gram matrix of 20 columns": (lambda m: m @ m.T, False),
}


@pytest.mark.parametrize("name", OPERATIONS)
@sweep(elements=workloads.ELEMENTS)
def bench_operation(measure: Measure, name: str, elements: int) -> None:
    function, two = OPERATIONS[name]
    measure.task(f"engine: {name}", conditions=SAID, elements=elements)
    made = simulation.Simulator.simple(2, libspu.ProtocolKind.SEMI2K, libspu.FieldType.FM64)
    arguments = workloads.secrets(elements) if two else (workloads.matrix(2 * elements),)
    secret = simulation.sim_jax(made, function)
    found = np.asarray(measure(lambda: secret(*arguments), rounds=2))
    plain = np.asarray(function(*(jnp.asarray(a) for a in arguments)))
    if not np.array_equal(found, plain):
        raise AssertionError(f"{np.mean(found != plain):.1%} of the results are wrong")
    measure.note(work=elements, unit="elements", error=0.0, error_is="exact")


@pytest.mark.parametrize("protocol", ["RR22", "KKRT"])
@sweep(rows=workloads.ROWS)
def bench_intersection(measure: Measure, tmp_path: pathlib.Path, protocol: str, rows: int) -> None:
    said = "the receiver learns who matched; two parties; semi-honest"
    measure.task("intersection, identifiers from files", f"SPU, {protocol}", said, rows=rows)
    sides = workloads.identifiers(rows)
    for rank, keys in enumerate(sides):
        (tmp_path / f"{rank}.csv").write_text("id\n" + "\n".join(map(str, keys.tolist())) + "\n")
    kind = getattr(psi.PsiProtocol, f"PROTOCOL_{protocol}")
    ports = libspu.link.Desc()
    for rank in range(2):
        ports.add_party(f"id_{rank}", f"thread_{rank}")
    found: dict[int, int] = {}

    def party(rank: int) -> None:
        link = libspu.link.create_mem(ports, rank)
        config = psi.PsiExecuteConfig(
            psi.PsiProtocolConfig(kind, receiver_rank=1),
            psi.InputParams(path=str(tmp_path / f"{rank}.csv"), selected_keys=["id"], keys_unique=True),
            psi.OutputParams(path=str(tmp_path / f"{rank}.out"), disable_alignment=True),
        )
        found[rank] = psi.psi_execute(config, link).intersection_count

    def intersect() -> None:
        threads = [threading.Thread(target=party, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    measure(intersect, rounds=2, warm=False)
    if found.get(1) != len(np.intersect1d(*sides)):
        raise AssertionError("the intersection is wrong")
    measure.note(work=rows, unit="rows", error=0.0, error_is="exact")
