"""A department's node as a process that runs for months: it connects out to the coordinator, and answers what its gate allows.

It needs no inbound port, runs only code that is installed here, and keeps ledger, audit log and keys in its own state directory. When the
coordinator is away it tries again for as long as it takes; when it was itself killed, it says goodbye for its former self and begins anew.
Statistics have threads of their own, long training and scoring another, so that statistics wait for neither.
"""

from __future__ import annotations

import contextlib
import pathlib
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Message

from mpc.secagg import Floors
from sandbox.catalog import load as load_catalog
from sandbox.engine import Engine
from sandbox.errors import KeyUnusable, ParameterError, Unreachable
from sandbox.gate import Gate
from sandbox.judge import policies
from sandbox.keys import SigningKey
from sandbox.roster import load as load_roster
from sandbox.scoring.declared import read as read_models
from sandbox.state import State

from . import logs, metrics
from .deploy.authority import read_certificate
from .flower.fleet import HEARTBEAT, BadMessage, Fleet, LinkDown, LinkRefused
from .flower.local import context
from .joining import spelling
from .messages import KINDS
from .node import Node

if TYPE_CHECKING:
    from .deploy.config import NodeConfig

OUTSTANDING = 64  # messages in work at most; more wait at the coordinator
LONG = frozenset({"query.train", "query.score"})
FIRST_PAUSE, LONGEST_PAUSE, BAD_PAUSE = 0.2, 5.0, 0.02
App = Callable[[Message, Context], Message]
log = logs.logger("node")


class Worker:
    """One node over one connection after the other."""

    def __init__(self, connect: Callable[[], Fleet], app: App, workers: int, memory: pathlib.Path):
        self._connect, self._app, self._memory = connect, app, memory
        self._short = ThreadPoolExecutor(workers, thread_name_prefix="statistics")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="training")
        self._room = threading.Semaphore(OUTSTANDING)
        self._fleet: Fleet | None = None
        self.stopping = threading.Event()
        self.connected = False
        self.answered = 0

    def run(self) -> None:
        """Until `stopping` is set."""
        pause = FIRST_PAUSE
        while not self.stopping.is_set():
            fleet = None
            try:
                fleet = self._fleet = self._connect()
                self._begin(fleet)
                pause = FIRST_PAUSE
                self._listen(fleet)
            except (LinkDown, LinkRefused) as error:
                if not self.stopping.is_set():
                    log.warning("disconnected", reason=str(error), again_in=round(pause, 1))
            except Exception as error:  # a node that has fallen silent is worse than one that tries again
                log.error("failed", error=type(error).__name__, again_in=round(pause, 1))
            finally:
                self.connected = False
                if fleet is not None:
                    fleet.goodbye()
                    fleet.close()
            self.stopping.wait(pause * random.uniform(0.7, 1.3))
            pause = min(LONGEST_PAUSE, 2 * pause)

    def stop(self) -> None:
        """End: say goodbye, and let what is being answered be answered. A pull that is held is not waited for."""
        self.stopping.set()
        self._short.shutdown()
        self._long.shutdown(cancel_futures=True)
        fleet = self._fleet
        if fleet is not None:
            fleet.goodbye()

    def _begin(self, fleet: Fleet) -> None:
        node_id = fleet.activate(self._previous())
        self._memory.write_text(str(node_id))
        self.connected = True
        log.info("connected")

    def _listen(self, fleet: Fleet) -> None:
        alive = threading.Event()
        alive.set()
        beats = threading.Thread(target=self._beat, args=(fleet, alive), name="heartbeat", daemon=True)
        beats.start()
        try:
            while alive.is_set() and not self.stopping.is_set():
                try:
                    message = fleet.receive()
                except BadMessage as error:
                    log.warning("dropped", error=str(error))
                    self.stopping.wait(BAD_PAUSE)
                    continue
                if message is not None:
                    self._room.acquire()
                    pool = self._long if message.metadata.message_type in LONG else self._short
                    with contextlib.suppress(RuntimeError):  # the pools are closed: the process ends
                        pool.submit(self._answer, fleet, message)
        finally:
            alive.clear()

    def _answer(self, fleet: Fleet, message: Message) -> None:
        started = time.perf_counter()
        kind = message.metadata.message_type.removeprefix("query.")
        kind = kind if kind in KINDS else "unknown"
        try:
            reply = self._app(message, context(message.metadata.run_id, fleet.node_id or 0))
            fleet.reply(reply)
            self.answered += 1
            log.info("answered", kind=kind, seconds=round(time.perf_counter() - started, 4))
        except Exception as error:  # a message that is none, or a link that went away: its class says which
            log.warning("unanswered", kind=kind, error=type(error).__name__)
        finally:
            self._room.release()

    def _beat(self, fleet: Fleet, alive: threading.Event) -> None:
        while alive.is_set() and not self.stopping.wait(HEARTBEAT / 2):
            try:
                if not fleet.heartbeat():
                    alive.clear()
            except LinkDown:
                continue
            except LinkRefused:
                alive.clear()

    def _previous(self) -> int | None:
        try:
            return int(self._memory.read_text())
        except (OSError, ValueError):
            return None


def open_gate(config: NodeConfig, passphrase: str | None = None) -> tuple[Gate, SigningKey]:
    """The department's gate over its data and its state; raises what is wrong with any of them."""
    catalog = load_catalog(config.catalog)
    if catalog.department != config.department:
        raise ParameterError(
            f"the catalogue is of {catalog.department!r}, and 'department' is {config.department!r}"
        )
    roster, models = load_roster(config.roster), read_models(catalog.models, config.catalog.parent)
    key = SigningKey.load(config.key, passphrase)
    if key.public != roster.public(config.department, "node"):
        raise ParameterError(
            f"the key {str(config.key)!r} is not that of node {config.department!r} in the roster"
        )
    state = State(config.state, catalog, policies(catalog), roster, key)
    try:
        engines = {
            name: Engine(name, dataset, directory=config.catalog.parent)
            for name, dataset in catalog.datasets.items()
        }
        for engine in engines.values():
            spelling.check(engine)
    except BaseException:
        state.close()
        raise
    return Gate(catalog, engines, state, models=models), key


def link_key(path: pathlib.Path) -> ec.EllipticCurvePrivateKey:
    """The key that this node's calls are signed with; raises `KeyUnusable`."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyUnusable(f"{str(path)!r} can be read by others; keep it at 0600")
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyUnusable(f"{str(path)!r} cannot be used: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyUnusable(f"{str(path)!r} is not an ECDSA key")
    return key


def serve(config: NodeConfig, passphrase: str | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    read_certificate(config.authority)
    logs.configure()
    gate, key = open_gate(config, passphrase)
    node = Node(gate, key, Floors(parties=config.parties, setting=config.setting))
    authority, transport = config.authority.read_bytes(), link_key(config.link_key)
    worker = Worker(
        lambda: Fleet(config.url, authority, transport), node.app(), config.workers, config.state / "link-id"
    )

    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with metrics.served(config.metrics, metrics.Node(gate, worker)):
        log.info("started", department=config.department, datasets=len(gate.catalog.datasets))
        threading.Thread(target=worker.run, name="worker", daemon=True).start()
        stopping.wait()
        worker.stop()
        gate.state.close()
        log.info("stopped")


def status(config: NodeConfig) -> dict[str, str]:
    """What the node's metrics say, where it has them; raises `Unreachable`."""
    if not config.metrics:
        raise ParameterError("'metrics' is not set in this node's configuration: there is nothing to ask")
    try:
        answer = httpx.get(f"http://{config.metrics}/health", timeout=10)
    except (httpx.HTTPError, OSError) as error:
        raise Unreachable(f"the node at {config.metrics} does not answer: {type(error).__name__}") from None
    return {name: str(value) for name, value in answer.json().items()}
