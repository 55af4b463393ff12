"""The analysts' port of a federation in this process: uvicorn with TLS on loopback, in a thread, and several analysts."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading

import uvicorn
from over_tls import certificate

from federated import local
from federated.desk import Desk
from federated.http.client import RemoteDesk
from federated.session import City
from sandbox.keys import SigningKey
from sandbox.roster import Roster, member

ANALYSTS = ("analyst", "bo", "cem", "dee", "eve")


def everybody(departments, analysts=ANALYSTS):
    """Parties of a federation with several analysts, and the analysts' keys by name."""
    parties = local.parties(tuple(departments), analysts[0])
    keys = {analysts[0]: parties.analyst} | {name: SigningKey.generate() for name in analysts[1:]}
    more = tuple(member(name, "analyst", "city statistics", keys[name].public) for name in analysts[1:])
    roster = Roster(parties.roster.federation, (*parties.roster.members, *more))
    return local.Parties(
        roster, parties.nodes, parties.owners, parties.analyst, parties.coordinator, parties.witness
    ), keys


class Gated:
    """A network on which messages of one kind wait until they are let through. `sent` counts messages by kind."""

    def __init__(self, network, kind):
        self.network, self._kind, self._open = network, kind, threading.Event()
        self.reached = threading.Event()
        self.sent = collections.Counter()

    @property
    def nodes(self):
        return self.network.nodes

    def measured(self):
        return self.network.measured()

    def let(self):
        self._open.set()

    def call(self, kind, bodies):
        self.sent[kind] += 1
        if kind == self._kind:
            self.reached.set()
            assert self._open.wait(60), "the test did not let it through"
        return self.network.call(kind, bodies)


class Opened:
    """A federation with its desk and, once served, its port: `city(name)` is an analyst's session through it."""

    def __init__(self, catalogs, frames, analysts=ANALYSTS):
        everyone, self.keys = everybody(catalogs, analysts)
        self.federation = local.open_federation(catalogs, frames, everybody=everyone)
        self.roster, self.broker = everyone.roster, self.federation.broker
        self.network = self.broker.network
        self.desk = Desk(self.broker)

    def gate(self, kind):
        """From now on messages of this kind wait, until `let`."""
        gated = Gated(self.network, kind)
        self.broker.attach(gated)
        return gated

    def remote(self, port, name="analyst", **options) -> RemoteDesk:
        roster = options.pop("roster", self.roster)
        return RemoteDesk(port.url, port.authority, name, self.keys[name], roster, **options)

    def city(self, port, name="analyst", **options) -> City:
        """An analyst's session through a port."""
        return City(self.remote(port, name, **options), self.keys[name], name, mock=local.mock_city)

    def here(self, name="analyst") -> City:
        """The same, in this process."""
        return City(self.desk, self.keys[name], name, mock=local.mock_city)


class Port:
    """A served app: its URL, and the file of its certificate authority."""

    def __init__(self, app, directory, port=0, fresh=True):
        self.authority, private = (
            certificate(directory) if fresh else (directory / "tls.crt", directory / "tls.key")
        )
        listener = socket.create_server(("127.0.0.1", port))
        self.number = listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.number}"
        config = uvicorn.Config(
            app,
            ssl_certfile=str(self.authority),
            ssl_keyfile=str(private),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def stop(self):
        self._server.should_exit = True
        self._thread.join(10)


@contextlib.contextmanager
def served(app, directory):
    port = Port(app, directory)
    try:
        yield port
    finally:
        port.stop()
