"""A node in a process of its own for the contract suite: its connection stays, while tests give it one department after the other."""

from __future__ import annotations

import base64
import json
import pathlib
import pickle
import signal
import sys
import threading

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated.flower.fleet import Fleet
from federated.node import Node
from federated.worker import Worker, link_key
from mpc.secagg import Floors
from sandbox.engine import Engine
from sandbox.gate import Gate
from sandbox.judge import policies
from sandbox.keys import SigningKey
from sandbox.state import State


class Departments:
    """The departments that are played here, one of each federation that a test has opened; a message's group says which is meant."""

    def __init__(self):
        self.apps: dict[str, ClientApp] = {}
        self.gates: dict[str, Gate] = {}
        self._identities: dict[str, tuple[SigningKey, Floors]] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        return self.apps[message.metadata.group_id](message, context)

    def open(self, group: str, directory: str) -> None:
        place = pathlib.Path(directory)
        given = pickle.loads((place / "given").read_bytes())
        catalog, key = given["catalog"], SigningKey.load(place / "key")
        state = State(place / "state", catalog, policies(catalog), given["roster"], key)
        engines = {n: Engine(n, dataset, given["frames"][n]) for n, dataset in catalog.datasets.items()}
        self.gates[group] = Gate(catalog, engines, state, models=given["models"])
        self._identities[group] = key, Floors(**given["floors"])
        self.restart(group)

    def restart(self, group: str) -> None:
        """The department's node is started anew: what it held in memory is gone, its gate has what is on the disk."""
        self.apps[group] = Node(self.gates[group], *self._identities[group]).app()

    def log(self, group: str) -> list:
        """What the audit log holds, once it is verified."""
        log = self.gates[group].state.log
        log.verify()
        return list(log.entries())

    def released(self, group: str, dataset: str) -> tuple:
        return self.gates[group].state.cohorts.released(dataset)


def main(url: str, authority: str, key: str, memory: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    departments = Departments()
    certificate, transport = pathlib.Path(authority).read_bytes(), link_key(pathlib.Path(key))
    worker = Worker(
        lambda: Fleet(url, certificate, transport),
        departments,
        2,
        pathlib.Path(memory),
    )
    threading.Thread(target=worker.run, daemon=True).start()
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            answer = (True, getattr(departments, method)(*arguments))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}")
        print(base64.b64encode(pickle.dumps(answer)).decode(), flush=True)
    worker.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
