"""Gradient inversion: a row read out of the update that a department made from it.

For a first layer z = W x + b, the gradients of one row are dL/dW = d x^T and dL/db = d, so that any unit's row of dL/dW over its entry of dL/db
is x itself (Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 2018, section 3). With several
rows the quotient is a mean of them, weighted by the d, and a unit that only one row switched on still gives that row (Boenisch et al.,
"When the Curious Abandon Honesty", EuroS&P 2023).

The attacker is a coordinator that reads what reaches it. It succeeds on a department's own vector; it fails on the masked vector, and on the joint
sum under record-level privacy, where the row was trained on alone at its department.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federated.neural import encoding, local, spec
from federated.neural.encoding import Sizes
from federated.neural.network import Data
from mpc.secagg import Aggregator, Client
from sandbox import architecture as a
from sandbox import query as q
from sandbox import training as t

INPUTS, UNITS = 12, 64
LAYERS = (a.Linear(INPUTS, UNITS), a.ReLU(), a.Linear(UNITS, 2))
NAMES = ("ash", "birch", "cedar")
SIZES = Sizes(parties=3, honest=2, max_rows=1000)


def rows(size, seed) -> Data:
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (size, INPUTS)).astype(np.float32)
    return Data(torch.from_numpy(x), torch.from_numpy(random.integers(0, 2, size)))


VICTIM = rows(1, 0)
HOME = {"ash": VICTIM, "birch": rows(300, 1), "cedar": rows(300, 2)}
NOBODY = rows(0, 0)


def training(privacy=None):
    return t.Training(
        table="t",
        features=tuple(q.Derived(f"f{i}", q.Column(f"f{i}")) for i in range(INPUTS)),
        target=q.Derived("y", q.Column("y")),
        layers=LAYERS,
        loss="cross_entropy",
        rounds=1,
        sampling_rate=1,
        optimiser=t.Sgd(0.5),
        privacy=privacy,
    )


def vectors(made, data):
    """What each department is about to send."""
    weights = spec.unpack(LAYERS, spec.initial(LAYERS, 1))
    sent = {}
    for name, part in data.items():
        update = local.update(made, weights, part, SIZES.honest, _secret(name))
        sent[name] = encoding.encode(made, SIZES, update, None, _secret(name, "more"))
    return sent


def invert(made, words, present) -> np.ndarray:
    """The quotients of a joint vector: one guess of a row for each unit."""
    change = encoding.decode(made, SIZES, 0, words, present).change
    weight = change[: UNITS * INPUTS].reshape(UNITS, INPUTS)
    bias = change[UNITS * INPUTS : UNITS * (INPUTS + 1)]
    switched_on = np.abs(bias) > 1e-9
    return weight[switched_on] / bias[switched_on, None]


def closest(guesses) -> float:
    """How near the best of the guesses comes to the victim's row: the largest error of any of its numbers."""
    return float(np.abs(guesses - VICTIM.x.numpy()).max(axis=1).min())


def masked(sent):
    """The messages that reach the coordinator, and the sum that it unmasks."""
    keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
    roster = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
    clients = {name: Client(name, key.private_bytes_raw(), roster) for name, key in keys.items()}
    aggregator = Aggregator(roster, threshold=2, setting="honest-but-curious", slots=1)
    for name, client in clients.items():
        aggregator.accept_advertisement(name, client.advertise(aggregator.announce()))
    advertisements = aggregator.advertisements()
    for name, client in clients.items():
        aggregator.accept_shares(name, client.share(advertisements))
    for name, delivery in aggregator.deliveries().items():
        clients[name].receive(delivery)
    request = hashlib.sha256(b"training").digest()
    aggregator.open(0, request, len(sent["ash"]))
    messages = {name: clients[name].mask(0, request, vector) for name, vector in sent.items()}
    for name, message in messages.items():
        aggregator.accept_masked(name, message)
    survivors = aggregator.survivors(0)
    for name in NAMES:
        aggregator.accept_answer(name, clients[name].unmask(0, survivors, b""))
    return messages, aggregator.result(0)


def _secret(*name):
    state = hashlib.shake_256(repr(name).encode())
    return lambda size: state.digest(size)


def test_an_unprotected_update_is_the_row():
    sent = vectors(training(), HOME)
    assert closest(invert(training(), sent["ash"], 1)) < 1e-3


def test_a_masked_update_is_nothing():
    """The last words of the message are the masked vector; read as an update they are as far from the row as noise of 2^63 is."""
    sent = vectors(training(), HOME)
    messages, _ = masked(sent)
    words = np.frombuffer(messages["ash"][-8 * sent["ash"].size :], "<u8")
    assert (words != sent["ash"]).mean() > 0.99
    bits = np.unpackbits((words ^ sent["ash"]).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / bits.size**0.5
    assert np.abs(words.view(np.int64)).max() > 2**62  # beyond what any update encodes to
    change = words.view(np.int64)[:-1].astype(float)
    weight, bias = (
        change[: UNITS * INPUTS].reshape(UNITS, INPUTS),
        change[UNITS * INPUTS : UNITS * (INPUTS + 1)],
    )
    assert closest(weight / bias[:, None]) > 0.5


def test_a_joint_update_of_the_row_and_hundreds_of_others_is_not_the_row():
    sent = vectors(training(), HOME)
    _, joint = masked(sent)
    assert np.array_equal(joint, sum(sent.values()))
    assert closest(invert(training(), joint, 3)) > 0.3


def test_secure_aggregation_alone_does_not_help_a_row_that_is_alone_in_the_sum():
    """Why noise is added: nobody else has rows."""
    _, joint = masked(vectors(training(), {**dict.fromkeys(NAMES, NOBODY), "ash": VICTIM}))
    assert closest(invert(training(), joint, 3)) < 1e-3


@pytest.mark.parametrize(
    "privacy",
    [
        t.RecordLevel("joint", clip=1.0, noise_multiplier=1.0, lot=300),
        t.RecordLevel("local", clip=1.0, noise_multiplier=1.0, lot=300),
        t.DepartmentLevel(clip=1.0, noise_multiplier=1.0),
    ],
    ids=lambda privacy: getattr(privacy, "noise", "department"),
)
def test_under_differential_privacy_not_even_a_row_that_is_alone_is_found(privacy):
    """The same attack on the same row, without noise and with it."""
    made = training(privacy)
    alone = {**dict.fromkeys(NAMES, NOBODY), "ash": VICTIM}
    _, joint = masked(vectors(made, alone))
    assert closest(invert(made, joint, 3)) > 0.3
    _, joint = masked(vectors(made, HOME))
    assert closest(invert(made, joint, 3)) > 0.3


def test_the_noise_is_what_hides_it(monkeypatch):
    """The same joint sum without noise gives the row away, clipped and on the grid as it is."""
    from federated.neural import dpsgd

    monkeypatch.setattr(dpsgd.Grid, "noise", lambda _self, size, _bytes: np.zeros(size, np.int64))
    made = training(t.RecordLevel("joint", clip=1.0, noise_multiplier=1.0, lot=300))
    _, joint = masked(vectors(made, {**dict.fromkeys(NAMES, NOBODY), "ash": VICTIM}))
    assert closest(invert(made, joint, 3)) < 1e-3
