"""Health and Prometheus metrics of a process, on a loopback address of their own: `/health` and `/metrics`.

What they say is what the process publishes anyway, and how it fares: connections, requests, budgets, memory. No query, no row, no analyst.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
from collections.abc import Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sandbox.errors import ParameterError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Watched(Protocol):
    """A part whose state is collected when asked."""

    def healthy(self) -> dict[str, object]: ...
    def metrics(self) -> Iterable[Any]: ...


class Coordinator:
    """How the coordinator fares. `expires`: when its certificate does."""

    def __init__(self, desk: Any, connected: Any, expires: datetime.datetime):
        self._desk, self._connected, self._expires = desk, connected, expires

    def healthy(self) -> dict[str, object]:
        return {"status": "ok", "waiting": self._desk.waiting(), "connected": len(self._connected())}

    def metrics(self) -> Iterable[Any]:
        yield GaugeMetricFamily(
            "sandbox_requests_waiting", "Requests queued or running", value=self._desk.waiting()
        )
        ended = CounterMetricFamily(
            "sandbox_requests_ended", "Requests by how they ended, since the start", labels=["state"]
        )
        for state, number in self._desk.ended().items():
            ended.add_metric([state], number)
        yield ended
        here = GaugeMetricFamily("sandbox_department_connected", "1 where connected", labels=["department"])
        connected = self._connected()
        for name in self._desk.broker.network.nodes:
            here.add_metric([name], float(name in connected))
        yield here
        traffic = self._desk.broker.network.traffic
        yield CounterMetricFamily(
            "sandbox_rounds", "Rounds of messages since the start", value=traffic.rounds
        )
        for name, sums in (("sent", traffic.sent), ("received", traffic.received)):
            family = CounterMetricFamily(
                f"sandbox_{name}_bytes", f"Bytes {name}, by department", labels=["department"]
            )
            for department, number in dict(sums).items():
                family.add_metric([department], number)
            yield family
        yield GaugeMetricFamily(
            "sandbox_certificate_expires_seconds",
            "When the certificate ends, seconds since 1970",
            value=self._expires.timestamp(),
        )


class Node:
    """How a node fares."""

    def __init__(self, gate: Any, worker: Any):
        self._gate, self._worker = gate, worker

    def healthy(self) -> dict[str, object]:
        return {
            "status": "ok" if self._worker.connected else "disconnected",
            "answered": self._worker.answered,
        }

    def metrics(self) -> Iterable[Any]:
        yield GaugeMetricFamily(
            "sandbox_connected", "1 while connected to the coordinator", value=float(self._worker.connected)
        )
        yield CounterMetricFamily(
            "sandbox_answers", "Messages answered since the start", value=self._worker.answered
        )
        budget = GaugeMetricFamily("sandbox_epsilon_budget", "Epsilon in all", labels=["dataset"])
        spent = GaugeMetricFamily("sandbox_epsilon_spent", "Epsilon spent", labels=["dataset"])
        for name, entry in self._gate.describe().items():
            if entry.budget is not None:
                budget.add_metric([name], entry.budget.epsilon)
                spent.add_metric([name], entry.epsilon_spent)
        yield budget
        yield spent
        yield GaugeMetricFamily(
            "sandbox_log_entries", "Entries of the audit log", value=len(self._gate.state.log)
        )


class _Collected(Collector):
    def __init__(self, watched: Watched):
        self._watched = watched

    def collect(self) -> Iterable[Any]:
        return self._watched.metrics()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def served(address: str | None, watched: Watched) -> Iterator[None]:
    """Serve while the block runs; nothing without an address. Raises `ParameterError` for one that is not of this machine alone."""
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in LOOPBACK or not port.isdecimal():
        raise ParameterError(f"'metrics' is {address!r}; allowed is a loopback address: 127.0.0.1:port")
    registry = CollectorRegistry()
    registry.register(_Collected(watched))
    ProcessCollector(registry=registry)
    figures = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return figures(environ, start)
        if environ["PATH_INFO"] != "/health":
            start("404 Not Found", [])
            return [b""]
        health = watched.healthy()
        start(
            "200 OK" if health["status"] == "ok" else "503 Service Unavailable",
            [("content-type", "application/json")],
        )
        return [json.dumps(health).encode()]

    server = make_server(host.strip("[]"), int(port), app, server_class=_Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
