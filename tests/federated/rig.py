"""A coordinator that the test plays itself, message by message, over TLS to real node processes of `sandbox node start`."""

from __future__ import annotations

import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable

import msgspec
import uvicorn
import village

from federated import messages, up
from federated.broker import Broker
from federated.coordinator import _link_keys
from federated.deploy.config import CoordinatorConfig
from federated.desk import Desk
from federated.flower.fleet import Fleet
from federated.flower.link import Link, LinkGrid
from federated.gateway import Gateway, protocol
from federated.network import Network
from federated.session import City
from federated.worker import link_key
from sandbox import count, keys
from sandbox.audit import AuditLog
from sandbox.entries import Charge
from sandbox.keys import Signed, SigningKey
from sandbox.request import REQUEST, Privacy, Request
from sandbox.roster import load as load_roster

ANALYST = "analyst"
Mangle = Callable[[str, bytes], bytes]


class Tap:
    """A network whose rounds go through `call(network, kind, bodies)`; all else is the network's own."""

    def __init__(self, network: Network, call: Callable[..., dict]):
        self._network, self._call = network, call

    def call(self, kind: str, bodies: dict[str, bytes]) -> dict:
        return self._call(self._network, kind, bodies)

    def __getattr__(self, name: str) -> object:
        return getattr(self._network, name)


class Rig:
    """Departments `names` as processes; `network` to them, `broker` and `city` for what an honest coordinator does."""

    def __init__(
        self, directory: pathlib.Path, level: str = "general-1", names: tuple[str, ...] = village.NAMES
    ):
        self.directory, self.names = directory, names
        self.frames = village.build(directory, level, names)
        config = CoordinatorConfig.load(directory / "coordinator" / "coordinator.toml")
        self.url, self.authority = config.url, config.authority
        self.roster, self.key = load_roster(config.roster), SigningKey.load(config.key)
        self.analyst = SigningKey.load(directory / "analysts" / ANALYST / "analyst.key")
        self.link = Link(_link_keys(config, self.roster))
        self.gateway = Gateway(self.link.app(), self.link.caller)
        self.grid = LinkGrid(self.link, self.gateway)
        self.gateway.heard = self.grid.heard
        self.paths: list[str] = []  # that were called
        self.mangle: Mangle | None = None
        self.network = Network(self.grid, self.link.node_ids, 20.0)
        self.broker = Broker(self.network, self.roster, self.key)
        self.server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                interface="asgi3",
                http=protocol(self.gateway),
                ssl_certfile=str(config.certificate),
                ssl_keyfile=str(config.certificate_key),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )
        port = int(config.address.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()
        self.processes = up.Processes(directory)
        try:
            for name in names:
                self.processes.start(name)
            self.wait()
        except BaseException:
            self.stop()
            raise
        self.query = self.city().table("t").agg(count()).query

    async def _app(self, scope, receive, send) -> None:
        """The gateway, whose answers the test may change."""
        path = scope.get("path", "")
        self.paths.append(path)
        sent: list[dict] = []

        async def keep(message) -> None:
            sent.append(message)

        mangle = self.mangle
        await self.gateway(scope, receive, send if mangle is None else keep)
        if sent:
            body = b"".join(message.get("body", b"") for message in sent)
            changed = mangle(path, body) if sent[0]["status"] == 200 else body
            headers = [(n, v) for n, v in sent[0]["headers"] if n.lower() != b"content-length"]
            headers.append((b"content-length", str(len(changed)).encode()))
            await send({**sent[0], "headers": headers})
            await send({"type": "http.response.body", "body": changed})

    def wait(self, *names: str) -> None:
        """Until these departments (default: all) wait for messages."""
        end = time.monotonic() + 60
        for name in names or self.names:
            while self.link.node_ids[name] not in self.gateway._waiting:
                assert time.monotonic() < end, f"{name} did not connect"
                assert self.processes.process(name).poll() is None, f"{name} ended"
                time.sleep(0.01)

    def away(self, *names: str, kill: bool = False) -> None:
        """End these departments' processes, and wait until they are missed."""
        for name in names:
            (self.processes.kill if kill else self.processes.end)(name)
        for name in names:
            while self.gateway.here(self.link.node_ids[name]):
                time.sleep(0.02)

    def back(self, *names: str) -> None:
        for name in names:
            self.processes.start(name)
        self.wait(*names)

    def stop(self) -> None:
        self.gateway.stop()
        self.processes.stop()
        self.grid.close()
        self.server.should_exit = True
        self._thread.join()
        self._listener.close()

    def city(self) -> City:
        """An analyst's session with a desk that keeps to the protocol."""
        return City(Desk(self.broker, here=True), self.analyst)

    def fleet(self, name: str) -> Fleet:
        """A connection with a department's own link key, beside that of its process."""
        key = link_key(self.directory / "nodes" / name / "link.key")
        fleet = Fleet(self.url, self.authority.read_bytes(), key)
        fleet.node_id = self.link.node_ids[name]
        return fleet

    def ask(self, kind: str, name: str, body: object) -> messages.Done | messages.Refusal:
        """One message to one department; its answer."""
        data = body if isinstance(body, bytes) else messages.encode(body)
        reply = self.network.call(kind, {name: data})[name]
        assert isinstance(reply, bytes), reply
        return messages.decode_reply(reply)

    def charges(self, name: str) -> list[str]:
        """The requests that a department has charged, from its audit log, which verifies."""
        place = self.directory / "nodes" / name / "state" / "audit"
        log = AuditLog(place, f"city/{name}", public=self.roster.public(name, "node"))
        try:
            log.verify()
            return [entry.request for entry in log.entries() if isinstance(entry, Charge)]
        finally:
            log.close()

    def request(
        self, *, epsilon: float | None = None, key: SigningKey | None = None, **changes: object
    ) -> Signed:
        """A signed request for the number of rows."""
        privacy = None if epsilon is None else Privacy(epsilon, 1e-9)
        made = Request(
            self.query, village.PURPOSE, ANALYST, secrets.token_hex(16), int(time.time()) + 600, privacy
        )
        made = msgspec.structs.replace(made, **changes)
        return keys.seal(key or self.analyst, made.analyst, REQUEST, made)


def digest(signed: Signed) -> str:
    return keys.decode(signed.body, Request).digest().hex()
