"""The results of a run as JSON lines: first the run (machine, commit, versions), then an entry for each thing measured, failed or skipped.

A file may hold several runs, one after the other. `SCHEMA` counts up when a reader of older files would misread newer ones; `read` refuses
what it does not know. Entries hold raw samples and raw amounts only: medians, ratios and shares of limits are derived by whoever reads.
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Iterable, Iterator
from typing import Literal, Union

import msgspec

SCHEMA = 1
OURS = "Joint Sandbox"
WHOLE = "the run"  # the task of a failure that is of no one task
Mode = Literal["quick", "default", "full"]
Value = Union[int, float, str]


class Machine(msgspec.Struct, frozen=True):
    """What a figure depends on beside the code."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str


class Run(msgspec.Struct, frozen=True, tag_field="kind", tag="run"):
    """One call of `python -m benchmarks run`."""

    started: str  # UTC, ISO 8601
    mode: Mode
    machine: Machine
    commit: str
    changed: bool  # files differed from the commit
    python: str
    versions: dict[str, str]  # of all that our environment holds
    environment: dict[str, str] = {}  # variables that set numbers of threads
    schema: int = SCHEMA


class Entry(msgspec.Struct, frozen=True, tag_field="kind", tag="entry"):
    """One task done by one system: `seconds` of each call, and what a call used, sent and got wrong."""

    suite: str
    task: str
    system: str
    outcome: Literal["measured", "failed", "skipped"]
    load: float  # the machine's load average of the last minute, when the entry was made
    reason: str = ""  # of a failure or a skip
    parameters: dict[str, Value] = {}
    seconds: tuple[float, ...] = ()  # wall clock of each call
    warm: bool = True  # a call that is not among `seconds` came before
    cpu_seconds: float | None = None  # of all threads, mean of the calls
    peak_bytes: int | None = (
        None  # resident memory at most until the last of these calls, above what was resident before the first
    )
    work: float = 1.0  # what one call does, in `unit`
    unit: str = "call"
    parts: dict[str, float] = {}  # seconds of one call by phase or party
    sent: dict[str, float] = {}  # bytes that each party sends in one call
    rounds: int | None = None  # message exchanges that follow one another
    error: float | None = None  # against the answer on the pooled plaintext
    error_is: str = ""  # in what sense
    figures: dict[str, float] = {}  # what else was observed, by name
    demands: dict[str, float] = {}  # of each limit, how much this task cannot do without
    profile: dict[str, float] = {}  # shares of time by function, of a further call
    conditions: str = ""  # what differs from the other systems: security, trust, accuracy, what is left out
    versions: dict[str, str] = {}  # of all that a peer's own environment holds

    @property
    def median(self) -> float:
        """Seconds of one call."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range, over the median; 0 of a single sample."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median

    @property
    def key(self) -> tuple[str, str, str, tuple[tuple[str, Value], ...]]:
        """What makes two entries of different runs comparable."""
        return self.suite, self.task, self.system, tuple(sorted(self.parameters.items()))


class Results(msgspec.Struct, frozen=True):
    """One run and its entries; of several runs in a file, the last one's head."""

    run: Run
    entries: tuple[Entry, ...]
    heads: int = 1  # runs in the file

    def measured(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.outcome == "measured" and entry.seconds)


_decoder = msgspec.json.Decoder(Union[Run, Entry])


def line(record: Run | Entry) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def read(path: str | pathlib.Path) -> Results:
    """The results in a file; of several runs in it, the entries of all under the last one's head. ValueError if it is none."""
    runs: list[tuple[Run, list[Entry]]] = []
    for number, text in enumerate(pathlib.Path(path).read_bytes().splitlines(), 1):
        try:
            record = _decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if isinstance(record, Entry):
            if not runs:
                raise ValueError(f"{path}, line {number}: an entry before the head of its run")
            runs[-1][1].append(record)
        elif record.schema != SCHEMA:
            raise ValueError(
                f"{path}, line {number}: schema {record.schema}; this version reads schema {SCHEMA}"
            )
        else:
            runs.append((record, []))
    if not runs:
        raise ValueError(f"{path}: no run in it")
    return Results(runs[-1][0], latest(entries for _, entries in runs), heads=len(runs))


def latest(runs: Iterable[Iterable[Entry]]) -> tuple[Entry, ...]:
    """Of entries about the same, the last; and none that says how a system failed in a suite as a whole, if a later run measured both again.

    Such a failure (of the run, of the installation, of a file, of what a task needs before it says its name) has no parameters.
    """
    found: dict[object, Entry] = {}
    for entries in map(list, runs):
        again = {(entry.suite, entry.system) for entry in entries}
        found = {
            key: entry
            for key, entry in found.items()
            if entry.outcome != "failed" or entry.parameters or (entry.suite, entry.system) not in again
        }
        found |= {entry.key: entry for entry in entries}
    return tuple(found.values())
