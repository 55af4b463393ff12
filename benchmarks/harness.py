"""The pytest plugin that every suite and every peer runs under, so that ours and theirs are measured alike.

pytest-benchmark times the calls (`pedantic`: one warm-up unless told otherwise, then so many rounds). Around it, of the same calls: CPU time of all threads,
and resident memory at most (Linux's high-water mark, reset before). A benchmark is a function `bench_*` that asks for `measure`:

    @sweep(cells=Sizes(quick=(10**5,), default=(10**6,)))
    def bench_sum(measure, cells):
        measure.task("sum", cells=cells)
        total = measure(lambda: add(values))
        measure.note(error=abs(total - expected), error_is="absolute")

What it measures, and every failure and skip, is appended to the file of records. Runs in the peers' environments too: Python 3.10,
pytest, pytest-benchmark and msgspec are all it needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pathlib
import pstats
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from benchmarks import records
from benchmarks.machine import versions

PROFILED = 6  # functions
_entries = pytest.StashKey[dict[str, Any]]()


class Sizes(NamedTuple):
    """Values of a parameter in each mode; what is not given is as in the mode below."""

    quick: tuple[Any, ...]
    default: tuple[Any, ...] = ()
    full: tuple[Any, ...] = ()

    def of(self, mode: str) -> tuple[Any, ...]:
        default = self.default or self.quick
        return {"quick": self.quick, "default": default, "full": self.full or default}[mode]


def sweep(**sizes: Sizes) -> Callable[[Any], Any]:
    """Run a benchmark for each value, by mode; several parameters are swept together, not crossed."""

    def mark(function: Any) -> Any:
        function.sizes = sizes
        return function

    return mark


def suite(name: str) -> Callable[[Any], Any]:
    """Of a peer that is measured in several suites: run this benchmark in that one alone."""

    def mark(function: Any) -> Any:
        function.suite = name
        return function

    return mark


class Measure:
    """What one benchmark says of its task, and its measurement."""

    def __init__(self, benchmark: Any, mode: str, profile: bool):
        self.mode = mode
        self.entry: dict[str, Any] = {}
        self._benchmark, self._profile = benchmark, profile
        self._cpu: list[float] = []
        self._peak: int | None = None

    @property
    def quick(self) -> bool:
        return self.mode == "quick"

    def task(self, task: str, system: str = "", conditions: str = "", **parameters: Any) -> None:
        """Name the task, before it is measured, and the system, unless it is the file's. `conditions` says what differs between systems."""
        self.entry |= {"task": task, "conditions": conditions, "parameters": parameters}
        if system:
            self.entry["system"] = system

    def __call__(
        self,
        function: Callable[..., Any],
        *,
        setup: Callable[[], tuple[Any, ...] | None] | None = None,
        rounds: int = 5,
        warm: bool = True,
    ) -> Any:
        """The result of the last of `rounds` calls. `setup` runs before each, outside the clock; it may return positional arguments."""

        def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = (setup() if setup else None) or ()
            self._cpu.append(-_cpu_seconds())
            return arguments, {}

        calls = int(warm) + rounds

        def finish(*_arguments: Any) -> None:
            self._cpu[-1] += _cpu_seconds()
            if len(self._cpu) == calls:  # the profiled call comes after it
                self._peak = _peak()

        benchmark = self._benchmark
        benchmark.cprofile, benchmark.cprofile_loops = self._profile, 1
        _give_back_freed()
        before = _reset_peak()
        result = benchmark.pedantic(
            function, setup=prepare, teardown=finish, rounds=rounds, warmup_rounds=int(warm)
        )
        peak, cpu = self._peak, self._cpu[int(warm) : calls]
        self.entry |= {
            "seconds": tuple(benchmark.stats.stats.data),
            "warm": warm,
            "cpu_seconds": sum(cpu) / len(cpu),
            "peak_bytes": None if peak is None or before is None else max(peak - before, 0),
        }
        if self._profile:
            self.entry["profile"] = _shares(benchmark.stats.cprofile_stats)
        return result

    def note(self, **fields: Any) -> None:
        """Further fields of the entry, see `records.Entry`."""
        self.entry |= fields


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _give_back_freed() -> None:
    """To the system, so that no call's memory hides in what an earlier task has left to this process (see `running`)."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _reset_peak() -> int | None:
    """Reset the high-water mark of resident memory; what is resident now. None where the system has no such thing."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        return _peak()
    return None


def _peak() -> int | None:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return None


def _shares(profile: pstats.Stats) -> dict[str, float]:
    """The functions in which a call spends most of its time, and their shares of it, callees apart."""
    stats: dict[tuple[str, int, str], tuple[Any, ...]] = profile.stats  # type: ignore[attr-defined]
    own = {key: values[2] for key, values in stats.items()}
    total = sum(own.values()) or 1.0
    shares: dict[str, float] = {}
    for (path, _, function), seconds in sorted(own.items(), key=lambda item: -item[1])[:PROFILED]:
        module = ".".join(pathlib.Path(path).with_suffix("").parts[-2:]) if path != "~" else ""
        name = f"{module}.{function}" if module else function
        shares[name] = round(shares.get(name, 0.0) + seconds / total, 4)
    return shares


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of Joint Sandbox")
    group.addoption("--records", help="the file to append entries to")
    group.addoption("--suite", default="", help="the suite that entries belong to")
    group.addoption("--system", default=records.OURS, help="whose entries these are")
    group.addoption("--mode", default="quick", choices=("quick", "default", "full"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    name = config.getoption("--suite")
    items[:] = [item for item in items if getattr(item.function, "suite", name) == name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    sizes: dict[str, Sizes] = getattr(metafunc.function, "sizes", {})
    if sizes:
        mode = metafunc.config.getoption("--mode")
        metafunc.parametrize(tuple(sizes), [*zip(*(s.of(mode) for s in sizes.values()), strict=True)])


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any) -> Measure:
    option = request.config.getoption
    profile = option("--mode") != "quick" and option("--system") == records.OURS
    made = Measure(benchmark, option("--mode"), profile)
    request.node.stash[_entries] = made.entry
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    report: Any = yield
    if report.when == "call" or report.outcome != "passed":
        told = item.stash.get(_entries, {})
        _append(item.config, item.name, report.outcome, call.excinfo, told)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: Any = yield
    if report.outcome != "passed":
        _append(collector.config, collector.name, report.outcome, report.call.excinfo, {})
    return report


def _append(config: pytest.Config, name: str, outcome: str, error: Any, told: dict[str, Any]) -> None:
    option = config.getoption
    fields = {"suite": option("--suite"), "system": option("--system"), **told}
    fields |= {"task": fields.get("task") or name, "load": os.getloadavg()[0]}
    if option("--system") != records.OURS:  # ours stand in the head of the run
        fields["versions"] = versions()
    if outcome == "passed":
        fields["outcome"] = "measured" if told.get("seconds") else "failed"
        fields["reason"] = "" if told.get("seconds") else "the benchmark measured nothing"
    else:
        fields["outcome"] = outcome
        fields["reason"] = reason(error.value)
        fields["seconds"] = ()
    entry = msgspec.convert(fields, records.Entry, strict=False)
    with pathlib.Path(config.getoption("--records")).open("ab") as file:
        file.write(records.line(entry))


def reason(error: BaseException) -> str:
    """The class of an error and what it says, at most 500 characters; of a file that cannot be loaded, the last line."""
    if isinstance(error, pytest.Collector.CollectError):
        return str(error).strip().splitlines()[-1].removeprefix("E").strip()[:500]
    return f"{type(error).__name__}: {error}"[:500]
