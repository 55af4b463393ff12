"""What parties refuse, and what they see: masks that are uniform and differ between runs."""

import numpy as np
import pytest
from scipy.stats import chi2

from mpc import errors
from mpc.engine import Computer, Dealer, Plan, SecretArray, Seeds, play
from mpc.engine.correlations import (
    AndTriple,
    Bit,
    BitProduct,
    Deck,
    InnerProduct,
    Mask,
    OneHot,
    Product,
    TruncationMask,
    deal,
)

SESSION, SEED_B, SEED_C = bytes(16), bytes([1]) * 32, bytes([2]) * 32
ALARM = 1e-6


def plan_of(n=100):
    plan = Plan()
    x = SecretArray(plan, plan.input("x", "int", (n,), "B"))
    y = SecretArray(plan, plan.input("y", "int", (n,), "C"))
    z = SecretArray(plan, plan.input("z", "bit", (n,), "A"))
    plan.output("product", (z * (x * y)).node)
    plan.output("less", (x < y).node)
    return plan


def parties(plan, n=100, session=SESSION, seeds=(SEED_B, SEED_C), x=None):
    x = np.arange(n) if x is None else x
    dealt = Dealer(plan, session, *seeds, Seeds()).deal({"z": np.arange(n) % 2 == 0})
    b = Computer("B", plan, session, seeds[0], Seeds(), inputs={"x": x})
    c = Computer("C", plan, session, seeds[1], Seeds(), inputs={"y": np.full(n, 50)}, dealt=dealt)
    return b, c


def test_it_works_and_only_c_learns():
    b, c = parties(plan_of())
    traffic = play(b, c)
    assert c.outputs["product"].tolist() == [i * 50 * (i % 2 == 0) for i in range(100)]
    assert c.outputs["less"].tolist() == [i < 50 for i in range(100)]
    assert b.outputs is None
    assert b.finished
    assert traffic["levels"] == 7
    assert traffic["calls"] == 4


def test_lockstep_gives_the_same_as_turns():
    b, c = parties(plan_of())
    to_c, to_b = b.start(), c.start()
    while not c.finished:
        to_b, to_c = c.receive(to_c), b.receive(to_b)
    assert c.outputs["less"].sum() == 50


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: b"", errors.Malformed),
        (lambda m: m[:40], errors.Malformed),
        (lambda m: m[:61], errors.Malformed),
        (lambda m: m[:-8], errors.WrongLength),
        (lambda m: m + b"x", errors.WrongLength),
        (lambda m: b"x" + m[1:], errors.Malformed),
        (lambda m: m[:8] + bytes([1]) * 16 + m[24:], errors.Replayed),
        (lambda m: m[:24] + bytes(32) + m[56:], errors.Replayed),
        (lambda m: m[:60] + (2**31).to_bytes(4, "little") + m[64:], errors.Malformed),
        (lambda m: m[:64] + (8).to_bytes(8, "little") + m[72:80], errors.WrongLength),
    ],
)
def test_damaged_levels_are_refused(change, error):
    b, c = parties(plan_of())
    with pytest.raises(error):
        b.receive(change(c.start()))


def test_levels_come_once_and_in_order():
    b, c = parties(plan_of())
    first = c.start()
    b.receive(first)
    with pytest.raises(errors.Replayed, match="level"):
        b.receive(first)


@pytest.mark.parametrize("cut", [0, 30, 60, -8])
def test_a_short_dealt_message_is_refused(cut):
    plan = plan_of()
    dealt = bytes(Dealer(plan, SESSION, SEED_B, SEED_C, Seeds()).deal({"z": np.zeros(100, bool)}))
    with pytest.raises(errors.PeerError):
        Computer("C", plan, SESSION, SEED_C, Seeds(), inputs={"y": np.zeros(100, int)}, dealt=dealt[:cut])


def test_a_seed_serves_once():
    plan, used = plan_of(), Seeds()
    Dealer(plan, SESSION, SEED_B, SEED_C, used)
    with pytest.raises(errors.Replayed, match="seed"):
        Dealer(plan, bytes([9]) * 16, SEED_B, bytes([3]) * 32, used)
    used = Seeds()
    Computer("B", plan, SESSION, SEED_B, used, inputs={"x": np.zeros(100, int)})
    with pytest.raises(errors.Replayed, match="seed"):
        Computer("B", plan, bytes([9]) * 16, SEED_B, used, inputs={"x": np.zeros(100, int)})
    with pytest.raises(errors.OutOfRange, match="differ"):
        Dealer(plan, SESSION, SEED_B, SEED_B, Seeds())
    with pytest.raises(errors.WrongLength, match="seed"):
        Computer("B", plan, SESSION, b"short", Seeds(), inputs={"x": np.zeros(100, int)})


def test_a_dealer_deals_once():
    dealer = Dealer(plan_of(), SESSION, SEED_B, SEED_C, Seeds())
    dealer.deal({"z": np.zeros(100, bool)})
    with pytest.raises(errors.OutOfOrder):
        dealer.deal({"z": np.zeros(100, bool)})


@pytest.mark.parametrize("values", [np.zeros(99, int), np.zeros(100), np.zeros(100, bool)])
def test_inputs_have_the_declared_shape_and_kind(values):
    dealer = Dealer(plan_of(), SESSION, SEED_B, SEED_C, Seeds())
    if values.dtype == bool:
        assert len(dealer.deal({"z": values})) > 100
    else:
        with pytest.raises(errors.OutOfRange, match="z"):
            dealer.deal({"z": values})


@pytest.mark.parametrize(
    "correlation",
    [
        Product((70,)), InnerProduct(2, 3, 70), AndTriple(2, 5), Bit(3), BitProduct(2, 70), Mask(2),
        TruncationMask(2, 9), OneHot(3, 70),
    ],
)  # fmt: skip
def test_dealt_shares_are_of_what_they_should_be(correlation):
    corrections = b"".join(c.tobytes() for c in deal([correlation], SEED_B, SEED_C))
    shares_b = Deck(SEED_B, [correlation]).take()
    shares_c = Deck(SEED_C, [correlation], memoryview(corrections)).take()
    parts = [*correlation.random, *correlation.derived]
    opened = [b ^ c if part.boolean else b + c for part, b, c in zip(parts, shares_b, shares_c, strict=True)]
    derived = correlation.derive(*opened[: len(correlation.random)])
    for value, share in zip(derived, opened[len(correlation.random) :], strict=True):
        assert (value == share).all()


def low_bytes(message):
    return np.frombuffer(message[80:], dtype=np.uint8)[::8]


def chi_square_alarm(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum() > chi2.isf(ALARM, counts.size - 1)


@pytest.mark.parametrize("masked", [True, False])
def test_what_b_opens_is_uniform_whatever_it_holds(masked, monkeypatch):
    """B's first opening of a constant input, 10,000 words: uniform bytes, unless the mask is left out."""
    if not masked:
        monkeypatch.setattr("mpc.engine.correlations.Deck.take", lambda deck: _zeros(deck))
    plan = Plan()
    x = SecretArray(plan, plan.input("x", "int", (10_000,), "B"))
    plan.output("square", (x * x).sum().node)
    b = Computer("B", plan, SESSION, SEED_B, Seeds(), inputs={"x": np.full(10_000, 7)})
    assert chi_square_alarm(np.bincount(low_bytes(b.start()), minlength=256)) is np.bool_(not masked)


def _zeros(deck):
    correlation = next(deck._remaining)
    return [np.zeros(p.shape, np.uint64) for p in (*correlation.random, *correlation.derived)]
