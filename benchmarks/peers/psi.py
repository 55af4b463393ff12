"""OpenMined's PSI (elliptic-curve Diffie-Hellman, Golomb-compressed sets): the client learns who matched; messages as protocol buffers."""

from __future__ import annotations

import pathlib
from typing import Any

import private_set_intersection.python as psi

from benchmarks import workloads
from benchmarks.harness import Measure, Sizes, sweep


# half a millisecond a row: larger sets take half an hour
@sweep(rows=Sizes(quick=(1 << 12,), default=(1 << 16,), full=(1 << 12, 1 << 14, 1 << 16)))
def bench_intersection(measure: Measure, tmp_path: pathlib.Path, rows: int) -> None:
    said = "the receiver learns who matched, wrongly with probability 10^-9 a set; two parties; semi-honest"
    measure.task("intersection, identifiers from files", conditions=said, rows=rows)
    sides = workloads.identifiers(rows)
    paths = [tmp_path / name for name in ("server", "client")]
    for path, keys in zip(paths, sides, strict=True):
        path.write_text("\n".join(map(str, keys.tolist())))
    sent: dict[str, float] = {}

    def intersect() -> Any:
        theirs, ours = (path.read_text().split("\n") for path in paths)
        server, client = psi.server.CreateWithNewKey(True), psi.client.CreateWithNewKey(True)
        setup = server.CreateSetupMessage(1e-9, len(ours), theirs, psi.DataStructure.GCS).SerializeToString()
        request = client.CreateRequest(ours).SerializeToString()
        message = psi.Request()
        message.ParseFromString(request)
        response = server.ProcessRequest(message).SerializeToString()
        sent.update(server=len(setup) + len(response), client=len(request))
        held, answer = psi.ServerSetup(), psi.Response()
        held.ParseFromString(setup)
        answer.ParseFromString(response)
        return client.GetIntersection(held, answer)

    found = measure(intersect, rounds=1, warm=False)
    expected = len(set(sides[0].tolist()) & set(sides[1].tolist()))
    if len(found) != expected:
        raise AssertionError(f"{len(found)} matched; {expected} do")
    measure.note(
        work=rows, unit="rows", sent=sent, rounds=2, figures={"bytes a row": sum(sent.values()) / rows}
    )
    measure.note(error=0.0, error_is="exact")
