"""A federation in one process: every message passes through bytes, as on a network."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc.secagg import Aggregator, Client, Floors, least_threshold

REQUEST = hashlib.sha256(b"a request").digest()


class Federation:
    def __init__(self, n, setting="honest-but-curious", *, threshold=None, slots=2, floors=None):
        self.names = [f"dept-{i:02d}" for i in range(n)]
        self.identities = {name: Ed25519PrivateKey.generate().private_bytes_raw() for name in self.names}
        self.roster = {
            name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
            for name, key in self.identities.items()
        }
        self.floors = floors or Floors(parties=min(n, 3), setting=setting)
        self.threshold = threshold or least_threshold(setting, n)
        self.active = setting == "active"
        self.aggregator = self.new_aggregator(setting=setting, slots=slots)
        self.clients = {name: self.new_client(name) for name in self.names}

    def new_aggregator(self, *, setting="honest-but-curious", slots=2):
        return Aggregator(self.roster, threshold=self.threshold, setting=setting, slots=slots)

    def new_client(self, name, **options):
        return Client(name, self.identities[name], self.roster, self.floors, **options)

    def advertise(self, missing=()):
        for name in self.present(missing):
            message = self.clients[name].advertise(self.aggregator.announce())
            self.aggregator.accept_advertisement(name, message)
        return self.aggregator.advertisements()

    def share(self, advertisements, missing=()):
        for name in self.present(missing):
            self.aggregator.accept_shares(name, self.clients[name].share(advertisements))
        return self.aggregator.deliveries()

    def set_up(self, no_advertisement=(), no_shares=(), no_delivery=()):
        advertisements = self.advertise(no_advertisement)
        deliveries = self.share(advertisements, {*no_advertisement, *no_shares})
        for name, delivery in deliveries.items():
            if name not in no_delivery:
                self.clients[name].receive(delivery)
        return self

    def mask(self, values, slot=0, request=REQUEST, missing=()):
        self.aggregator.open(slot, request, len(next(iter(values.values()))))
        for name, vector in values.items():
            if name not in missing:
                self.aggregator.accept_masked(name, self.clients[name].mask(slot, request, vector))

    def confirmations(self, slot=0, missing=()):
        if not self.active:
            return b""
        survivors = self.aggregator.survivors(slot)
        for name in self.aggregator.survivor_names(slot):
            if name not in missing:
                self.aggregator.accept_confirmation(name, self.clients[name].confirm(slot, survivors))
        return self.aggregator.confirmations(slot)

    def unmask(self, slot=0, no_confirmation=(), no_answer=()):
        survivors = self.aggregator.survivors(slot)
        confirmations = self.confirmations(slot, no_confirmation)
        for name in self.aggregator.survivor_names(slot):
            if name not in {*no_confirmation, *no_answer}:
                answer = self.clients[name].unmask(slot, survivors, confirmations)
                self.aggregator.accept_answer(name, answer)
        return self.aggregator.result(slot)

    def present(self, missing):
        return [name for name in self.names if name not in missing]


@pytest.fixture
def federation():
    return Federation


@pytest.fixture
def request_digest():
    return REQUEST


@pytest.fixture
def inputs():
    def draw(names, size=1000):
        generator = np.random.default_rng(7)
        return {name: generator.integers(0, 2**64, size, dtype=np.uint64) for name in names}

    return draw
