"""A federation of processes for the suites that need one: a coordinator and three nodes on loopback, as `sandbox up` starts them."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def processes(request: pytest.FixtureRequest) -> Iterator[Any]:
    from benchmarks.suites import network, trainings  # which the other suites should not wait for
    from federated import demo, up

    with tempfile.TemporaryDirectory(prefix="joint-sandbox-") as made:
        place = pathlib.Path(made) / "city"
        up.make(place)
        for seed, name in enumerate(demo.DEPARTMENTS):
            for suite in (network, trainings):
                suite.prepare(place / "nodes" / name, seed, request.config.getoption("--mode"))
        with up.Processes(place) as running:
            yield running
