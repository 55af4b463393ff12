"""Trainings among departments in one process, over real secure aggregation: every vector is masked, every sum unmasked by survivors."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federated.neural import training as coordinator
from federated.neural.encoding import Sizes
from federated.neural.network import Data
from federated.neural.participant import Answered, Participant
from mpc.secagg import Aggregator, Client, Floors, least_threshold
from sandbox import architecture as a
from sandbox import query as q
from sandbox import training as t

torch.set_num_threads(1)
SETTING = "honest-but-curious"
LAYERS = (a.Linear(4, 8), a.Tanh(), a.Linear(8, 2))

PRIVACIES = {
    "exact": {"local_steps": 5},
    "prox": {"local_steps": 5, "strategy": t.FedProx(0.1)},
    "adam": {"local_steps": 5, "strategy": t.FedAdam(0.1), "optimiser": t.Adam(0.01)},
    "joint": {"privacy": t.RecordLevel("joint", 1, 0.5, 90), "optimiser": t.Sgd(2.0), "rounds": 40},
    "local": {"privacy": t.RecordLevel("local", 1, 0.5, 30), "optimiser": t.Sgd(2.0), "local_steps": 8},
    "department": {"privacy": t.DepartmentLevel(0.5, 0.1), "local_steps": 5},
}  # fmt: skip


class Seeded:
    """Random bytes that a test can repeat."""

    def __init__(self, *seed):
        self._state = hashlib.sha256(repr(seed).encode()).digest()

    def __call__(self, size):
        self._state = hashlib.sha256(self._state).digest()
        return hashlib.shake_256(self._state).digest(size)


def named(name) -> q.Derived:
    """A column as a feature or target."""
    return q.Derived(name, q.Column(name))


def training(**changes) -> t.Training:
    """A small classification of four numbers."""
    fields = {
        "table": "t",
        "features": tuple(named(name) for name in "abcd"),
        "target": named("y"),
        "layers": LAYERS,
        "loss": "cross_entropy",
        "rounds": 5,
        "sampling_rate": 0.1,
        **changes,
    }
    return t.Training(**fields)


def rows(size, seed=0, inputs=4) -> Data:
    """Records of which the class is the sign of a sum."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (size, inputs)).astype(np.float32)
    y = (x.sum(1) + random.normal(0, 0.3, size) > 0).astype(np.int64)
    return Data(torch.from_numpy(x), torch.from_numpy(y))


class City:
    """Departments with these rows; `missing(round)` names those that vanish in a round, before they answer."""

    def __init__(self, spec, parts, directory, missing=lambda _round: (), max_rows=10_000, seed=0):
        self.spec, self.missing = spec, missing
        self.names = [f"dept-{i}" for i in range(len(parts))]
        self.sizes = Sizes(len(parts), least_threshold(SETTING, len(parts)), max_rows)
        self.stores = {name: Answered(directory / f"{name}.db") for name in self.names}
        self.participants = {
            name: Participant(spec, spec.digest(), part, self.sizes, self.stores[name], Seeded(seed, name))
            for name, part in zip(self.names, parts, strict=True)
        }
        self.keys = {name: Ed25519PrivateKey.generate() for name in self.names}
        self.masked: list[dict[str, bytes]] = []

    def ask(self, round, weights):
        """One secure sum of those who answer."""
        roster = {name: key.public_key().public_bytes_raw() for name, key in self.keys.items()}
        floors = Floors(parties=min(3, len(self.names)), setting=SETTING)
        clients = {
            name: Client(name, key.private_bytes_raw(), roster, floors) for name, key in self.keys.items()
        }
        aggregator = Aggregator(roster, threshold=self.sizes.honest, setting=SETTING, slots=1)
        for name, client in clients.items():
            aggregator.accept_advertisement(name, client.advertise(aggregator.announce()))
        advertisements = aggregator.advertisements()
        for name, client in clients.items():
            aggregator.accept_shares(name, client.share(advertisements))
        for name, delivery in aggregator.deliveries().items():
            clients[name].receive(delivery)
        present = [name for name in self.names if name not in self.missing(round)]
        vectors = {name: self.participants[name].answer(round, weights) for name in present}
        request = hashlib.sha256(self.spec.digest() + bytes([round % 256])).digest()
        aggregator.open(0, request, len(vectors[present[0]]))
        self.masked.append({name: clients[name].mask(0, request, vectors[name]) for name in present})
        for name, message in self.masked[-1].items():
            aggregator.accept_masked(name, message)
        survivors = aggregator.survivors(0)
        for name in present:
            aggregator.accept_answer(name, clients[name].unmask(0, survivors, b""))
        return aggregator.result(0), len(present)

    def plain(self, round, weights):
        """The same sum without masks, for tests of what is summed."""
        present = [name for name in self.names if name not in self.missing(round)]
        return sum(self.participants[name].answer(round, weights) for name in present), len(present)

    def run(self, state=None, ask=None, **options):
        state = state or coordinator.start(self.spec)
        return coordinator.run(self.spec, self.sizes, state, ask or self.plain, **options)

    def close(self):
        for store in self.stores.values():
            store.close()
