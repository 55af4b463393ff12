"""The second network of the contract suite: Flower's link behind the gateway on a TLS port, and nodes in processes of their own."""

from __future__ import annotations

import atexit
import base64
import contextlib
import datetime
import functools
import ipaddress
import json
import os
import pathlib
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federated import local
from federated.broker import Broker
from federated.flower.link import Link, LinkGrid, public_key_bytes
from federated.gateway import Gateway, protocol
from federated.network import Network

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = pathlib.Path(__file__).parent / "node_process.py"
NODES = 5
ROUND = 60.0


def certificate(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem, private = directory / "tls.crt", directory / "tls.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, private


def new_link_key(path: pathlib.Path) -> bytes:
    """A node's link key in a 0600 file; its public line."""
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(text)
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def ask(node: subprocess.Popen, method: str, *arguments: str):
    """Have a node process do something beside its messages; raises what it says instead."""
    node.stdin.write(json.dumps([method, *arguments]) + "\n")
    node.stdin.flush()
    done, answer = pickle.loads(base64.b64decode(node.stdout.readline()))
    if not done:
        raise RuntimeError(answer)
    return answer


class Evidence:
    """What another process's gate has written down: in the places where a gate of this process has it."""

    def __init__(self, node: subprocess.Popen, group: str):
        self._node, self._group = node, group
        self.log = self.cohorts = self

    def verify(self) -> None:
        self.entries()

    def entries(self) -> list:
        return ask(self._node, "log", self._group)

    def __len__(self) -> int:
        return len(self.entries())

    def released(self, dataset: str) -> tuple:
        return ask(self._node, "released", self._group, dataset)


class Grouped:
    """A grid whose messages are of one federation: the processes play a department in each of many."""

    def __init__(self, grid: LinkGrid, group: str):
        self._grid, self._group = grid, group
        self.send_and_receive = grid.send_and_receive

    def create_message(self, content, message_type, dst_node_id, _group_id, ttl=None):
        return self._grid.create_message(content, message_type, dst_node_id, self._group, ttl)


class Processes:
    """Started once for all tests: the port, and `NODES` node processes."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="joint-sandbox-tls-"))
        pem, private = certificate(self.directory)
        public = {str(i): new_link_key(self.directory / f"link-{i}") for i in range(NODES)}
        self.link = Link({name: public_key_bytes(line) for name, line in public.items()})
        self.gateway = Gateway(self.link.app(), self.link.caller)
        self.grid = LinkGrid(self.link, self.gateway)
        self.gateway.heard = self.grid.heard
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self.gateway,
            http=protocol(self.gateway),
            ssl_certfile=str(pem),
            ssl_keyfile=str(private),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.nodes = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(PROGRAM),
                    self.url,
                    str(pem),
                    str(self.directory / f"link-{i}"),
                    str(self.directory / f"memory-{i}"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for i in range(NODES)
        ]
        self._count = 0
        atexit.register(self.stop)
        end = time.monotonic() + 60
        while not all(self.gateway.here(node_id) for node_id in self.link.node_ids.values()):
            assert time.monotonic() < end, "the nodes did not connect"
            time.sleep(0.02)

    def open(
        self,
        catalogs,
        frames,
        *,
        setting="honest-but-curious",
        analyst="analyst",
        everybody=None,
        models=None,
    ):
        """The same as `local.open_federation`, but for the gates: those are in other processes, and show their evidence alone."""
        everybody = everybody or local.parties(tuple(catalogs), analyst)
        self._count += 1
        group, place = str(self._count), self.directory / str(self._count)
        floors = {"parties": min(3, max(2, len(catalogs))), "setting": setting}
        players = dict(zip(catalogs, self.nodes, strict=False))
        for name, node in players.items():
            at = place / name
            at.mkdir(parents=True)
            everybody.nodes[name].save(at / "key")
            given = {
                "catalog": catalogs[name],
                "frames": frames.get(name, {}),
                "models": local.encoded((models or {}).get(name, {})),
                "roster": everybody.roster,
                "floors": floors,
            }
            (at / "given").write_bytes(pickle.dumps(given))
            ask(node, "open", group, str(at))
        ids = dict(zip(catalogs, self.link.node_ids.values(), strict=False))
        network = Network(Grouped(self.grid, group), ids, ROUND)
        broker = Broker(network, everybody.roster, everybody.coordinator, setting)
        gates = {
            name: SimpleNamespace(
                state=Evidence(node, group), restart=functools.partial(ask, node, "restart", group)
            )
            for name, node in players.items()
        }
        return local.Federation(broker, gates, everybody, place, analyst)

    def stop(self) -> None:
        for node in self.nodes:
            node.stdin.close()
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(5)
            node.kill()
        self.server.should_exit = True
        shutil.rmtree(self.directory, ignore_errors=True)


_processes: list[Processes] = []


def open_federation(catalogs, frames, **options):
    if not _processes:
        _processes.append(Processes())
    return _processes[0].open(catalogs, frames, **options)
