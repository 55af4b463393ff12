"""Departments in one process: every message passes through bytes, as on a network."""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc.engine import Seeds
from mpc.join import Columns, Coordinator, ProbeSide, Question, TableSide, normalise

NAMES = ("hospital", "lab", "registry")
IDENTITIES = {name: hashlib.sha256(name.encode()).digest() for name in NAMES}
ROSTER = {
    name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    for name, key in IDENTITIES.items()
}
REQUEST = hashlib.sha256(b"a request").digest()
PROBE = "hospital"


class Join:
    """`data`: department -> (identifiers, flags, words); the hospital probes."""

    def __init__(
        self, data, terms, *, bounds=None, unique=None, noise=None, normaliser="text", used=None, scales=()
    ):
        tables = tuple(name for name in data if name != PROBE)
        columns = {}
        for name, (_, flags, words) in data.items():
            width = np.asarray(words).shape[1] if np.ndim(words) == 2 else 0
            flag_count = np.asarray(flags).shape[1] if np.ndim(flags) == 2 else 0
            limits = tuple((bounds or {}).get(name, [1000] * width))
            columns[name] = Columns(flag_count, limits, (unique or {}).get(name, True))
        self.question = Question(PROBE, tables, columns, tuple(terms), noise is not None, scales)
        self.coordinator = Coordinator(ROSTER, self.question, REQUEST, used=used or Seeds())
        self.departments = {
            name: (ProbeSide if name == PROBE else TableSide)(
                name,
                IDENTITIES[name],
                ROSTER,
                normalise(identifiers, normaliser),
                flags,
                words,
                question=self.question,
                request=REQUEST,
                used=Seeds(),
                noise=noise and noise[name],
            )
            for name, (identifiers, flags, words) in data.items()
        }
        self.seen = {}  # what the coordinator received
        self.turns = 0

    def hellos(self):
        for name, department in self.departments.items():
            message = department.hello(self.coordinator.announce())
            self.coordinator.accept_hello(name, message)
        return self.coordinator.hellos()

    def tables(self):
        hellos = self.hellos()
        for name in self.question.tables:
            self.seen[name] = self.departments[name].table(hellos)
            self.coordinator.accept_table(name, self.seen[name])
        return hellos

    def probe(self):
        hellos = self.tables()
        self.seen[PROBE] = self.departments[PROBE].probe(hellos, self.coordinator.notes())
        return self.coordinator.accept_probe(PROBE, self.seen[PROBE])

    def run(self):
        turn = self.probe()
        while not self.coordinator.finished:
            reply = self.departments[PROBE].receive(turn)
            self.seen[f"turn {self.turns}"] = reply
            turn = self.coordinator.accept_levels(PROBE, reply)
            self.turns += 1
        return self.coordinator.result().tolist()
