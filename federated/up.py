"""A whole federation of real processes on this machine, for trying it out: what `sandbox up`, the demo and the tests run.

`Processes` starts what a directory of `sandbox federation init` holds: a coordinator and a node each department, as they would run on
machines of their own, with TLS and keys. Their logs are beside their configurations.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from sandbox.errors import DepartmentFailed, Unreachable

from .connecting import connect
from .deploy.config import CoordinatorConfig
from .session import City

STARTING = 60.0  # seconds in which a process must be ready
COORDINATOR = "coordinator"
_RUN = "import sys; from sandbox.cli import main; main(sys.argv[1:])"


class Processes:
    """The processes of one directory; `with` starts them all, and stops them all."""

    def __init__(self, directory: str | pathlib.Path):
        self.directory = pathlib.Path(directory)
        self.departments = tuple(sorted(path.name for path in (self.directory / "nodes").iterdir()))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logged: dict[str, int] = {}  # bytes of each log before its process began

    def __enter__(self) -> Processes:
        return self.begin()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def begin(self) -> Processes:
        """Start all, and wait until they are connected."""
        try:
            self.start(COORDINATOR)
            for name in self.departments:
                self.start(name)
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def start(self, name: str) -> int:
        """Start the coordinator or a department's node; its process id."""
        place = self.place(name)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with open(place / "log.jsonl", "ab") as log:
            self._logged[name] = log.seek(0, os.SEEK_END)
            self._running[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _RUN,
                    "coordinator" if name == COORDINATOR else "node",
                    "start",
                    str(place),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        return self._running[name].pid

    def place(self, name: str) -> pathlib.Path:
        """Where a party's files are."""
        return self.directory / COORDINATOR if name == COORDINATOR else self.directory / "nodes" / name

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._running[name]

    def wait(self, *names: str) -> None:
        """Until the coordinator answers and these departments (default: all that run) are connected to it."""
        wanted = set(names or self._running) - {COORDINATOR}
        end = time.monotonic() + STARTING
        while True:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise DepartmentFailed(
                        f"{name} ended with status {process.returncode}: {self._last(name)}"
                    )
            # A coordinator may take a node that has just been killed for one that is busy: each must have come itself.
            here = {name for name in self.connected() if self._has_come(name)}
            if wanted <= here:
                return
            if time.monotonic() > end:
                raise Unreachable(f"{', '.join(sorted(wanted - here))} did not connect in time")
            time.sleep(0.05)

    def connected(self) -> set[str]:
        """The departments that the coordinator sees: from its metrics, which are this machine's alone."""
        config = CoordinatorConfig.load(self.place(COORDINATOR) / "coordinator.toml")
        with contextlib.suppress(httpx.HTTPError, OSError):
            text = httpx.get(f"http://{config.metrics}/metrics", trust_env=False, timeout=5).text
            return {
                sample.labels["department"]
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "sandbox_department_connected" and sample.value == 1
            }
        return set()

    def city(self, analyst: str = "analyst") -> City:
        """An analyst's session."""
        return connect(self.directory / "analysts" / analyst / "city.toml")

    def kill(self, name: str) -> None:
        """As the power going out: SIGKILL."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def end(self, name: str) -> int:
        """As systemd does: SIGTERM; the exit status."""
        process = self._running.pop(name)
        process.terminate()
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def freeze(self, name: str) -> None:
        """The process is there, and does nothing: SIGSTOP."""
        self._running[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop all, nodes first."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        for name in set(self._running) - {COORDINATOR}:
            self._running[name].terminate()
        for name in sorted(self._running, key=lambda name: name == COORDINATOR):
            self.end(name)

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process (Linux)."""
        pages = os.sysconf("SC_PAGE_SIZE")
        return {
            name: int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * pages
            for name, process in self._running.items()
        }

    def _has_come(self, name: str) -> bool:
        """Whether a node's process, as it runs now, has been connected."""
        if name not in self._running:
            return False
        with open(self.place(name) / "log.jsonl", "rb") as log:
            log.seek(self._logged[name])
            return b'"event": "connected"' in log.read()

    def _last(self, name: str) -> str:
        lines = (self.place(name) / "log.jsonl").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def make(directory: str | pathlib.Path, analysts: tuple[str, ...] = ("analyst",)) -> None:
    """The demo's three departments as files: a new federation, each department's people in a Parquet file beside its catalogue."""
    import duckdb

    from . import demo
    from .deploy import federation

    place, port = pathlib.Path(directory), free_port()
    ports = tuple(free_port() for _ in range(len(demo.DEPARTMENTS) + 1))
    url = f"https://127.0.0.1:{port}"
    federation.init(
        place,
        "city",
        demo.DEPARTMENTS,
        analysts,
        url,
        witnesses=("regulator",),
        address=f"127.0.0.1:{port}",
        metrics=ports,
    )
    for name, people in demo.departments().items():
        node = place / "nodes" / name
        duckdb.from_df(people).write_parquet(str(node / f"{demo.TABLE}.parquet"))
        (node / "catalog.toml").write_text(demo.catalog_text(name, f'"{demo.TABLE}.parquet"'))


def up(directory: pathlib.Path) -> None:
    """Start what the directory holds, or the demo's departments in a new one; until Ctrl-C or SIGTERM."""
    if not directory.exists():
        make(directory)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    with Processes(directory) as processes:
        analyst = sorted(path.name for path in (directory / "analysts").iterdir())[0]
        print(f"{', '.join(processes.departments)} are connected. In a notebook:")
        print(f'    city = sandbox.connect("{directory / "analysts" / analyst / "city.toml"}")')
        print("Ctrl-C ends everything.", flush=True)
        ended.wait()
