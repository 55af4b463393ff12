"""The coordinator's process: Flower's link, the broker's desk and the analysts' API behind one TLS port.

It needs no outbound connection. Its state directory holds the desk's requests and releases, and a lock: one process at a time.
Killed at any point, it starts again where it was: nodes come back by themselves, queued requests go on, and one whose departments had
begun to compute is ended with an error that says so.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import signal
import ssl
import time
from types import FrameType

import httpx
import uvicorn

from sandbox.errors import CatalogError, ParameterError, Unreachable
from sandbox.keys import SigningKey
from sandbox.roster import Roster
from sandbox.roster import load as load_roster

from . import logs, metrics
from .broker import NAME, Broker
from .deploy.authority import expires
from .deploy.config import CoordinatorConfig, address
from .desk import Desk
from .flower.link import Link, LinkGrid, public_key_bytes
from .gateway import Gateway, protocol
from .http import api
from .network import Network
from .requests import Requests

ROUND = 60.0  # seconds after which a department that has not answered counts as missing
GATHERING = 15.0  # seconds after a start in which departments that are not there yet are waited for
HEALTH = "/health"
log = logs.logger("coordinator")


class Coordinator:
    """All parts, put together but not yet listening. `app` is what the port serves."""

    def __init__(
        self, config: CoordinatorConfig, passphrase: str | None = None, round_seconds: float = ROUND
    ):
        self.config = config
        self.roster = load_roster(config.roster)
        if config.federation != self.roster.federation:
            raise ParameterError(
                f"'federation' is {config.federation!r} in the configuration and {self.roster.federation!r} in the roster"
            )
        key = SigningKey.load(config.key, passphrase)
        if key.public != self.roster.public(NAME, "coordinator"):
            raise ParameterError(f"the key {str(config.key)!r} is not the coordinator's in the roster")
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(config.state)
        self.link = Link(_link_keys(config, self.roster))
        self._store = Requests(config.state / "requests.db")
        self.gateway = Gateway(self.link.app(), self.link.caller)
        self.grid = LinkGrid(self.link, self.gateway)
        self.gateway.heard = self.grid.heard
        self.network = Network(self.grid, self.link.node_ids, round_seconds)
        broker = Broker(self.network, self.roster, key, config.setting)
        self._started = time.monotonic()
        self.desk = Desk(broker, self._store, ready=self._settled)
        self.gateway.analysts = api.app(self.desk, connected=self.connected)

    def connected(self) -> tuple[str, ...]:
        """The departments that are here now."""
        return tuple(sorted(n for n, node_id in self.link.node_ids.items() if self.gateway.here(node_id)))

    def _settled(self) -> bool:
        """Whether each department has come back since this process began, or has had the time to."""
        late = time.monotonic() - self._started > GATHERING
        return late or all(map(self.gateway.has_come, self.link.node_ids.values()))

    def close(self) -> None:
        self.desk.stop()
        self.grid.close()
        self._store.close()
        os.close(self._lock)


def serve(config: CoordinatorConfig, passphrase: str | None = None, round_seconds: float = ROUND) -> None:
    """Run until SIGTERM or SIGINT."""
    logs.configure()
    coordinator = Coordinator(config, passphrase, round_seconds)
    server = _server(coordinator)
    # uvicorn raises a signal that ended it once more: by then it has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    watched = metrics.Coordinator(coordinator.desk, coordinator.connected, expires(config.certificate))
    with metrics.served(config.metrics, watched):
        log.info("listening", address=config.address, departments=sorted(coordinator.link.node_ids))
        try:
            server.run()
        finally:
            coordinator.close()
            log.info("stopped")


def status(config: CoordinatorConfig) -> dict[str, str]:
    """What the running coordinator says of itself; raises `Unreachable`."""
    host, port = address(config.address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    trust = ssl.create_default_context(cafile=str(config.authority))
    trust.check_hostname = False  # this machine's own port, whatever name others know it by
    try:
        answer = httpx.get(f"https://{host}:{port}{HEALTH}", verify=trust, timeout=10)
        answer.raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        raise Unreachable(
            f"the coordinator at {config.address} does not answer: {type(error).__name__}"
        ) from None
    return {name: str(value) for name, value in answer.json().items()}


class _Server(uvicorn.Server):
    """Lets the nodes go before it waits for calls to end."""

    gateway: Gateway

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.gateway.stop()
        super().handle_exit(sig, frame)


def _server(coordinator: Coordinator) -> _Server:
    config, (host, port) = coordinator.config, address(coordinator.config.address)
    server = _Server(
        uvicorn.Config(
            coordinator.gateway,
            host=host,
            port=port,
            http=protocol(coordinator.gateway),
            ssl_certfile=str(config.certificate),
            ssl_keyfile=str(config.certificate_key),
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,  # an analyst's idle connection does not end by itself
            backlog=1024,
        )
    )
    server.gateway = coordinator.gateway
    return server


def _link_keys(config: CoordinatorConfig, roster: Roster) -> dict[str, bytes]:
    """Each department's link key; raises `CatalogError` for a department without one."""
    keys = {}
    for member in roster.of("node"):
        path = config.links / f"{member.name}.pub"
        try:
            keys[member.name] = public_key_bytes(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CatalogError(
                f"the link key of {member.name!r}, {str(path)!r}, cannot be used: {type(error).__name__}"
            ) from None
    return keys


def _lock(state: pathlib.Path) -> int:
    """One process for one state directory: a descriptor that holds it."""
    descriptor = os.open(state / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise CatalogError(f"another process runs on {str(state)!r}") from None
    return descriptor
