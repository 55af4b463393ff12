"""The rounds of secure aggregation against the plain sum, with parties that vanish at every one of them."""

import hashlib
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from mpc import errors, shamir
from mpc.secagg import LEAKAGE, Client, Floors, messages
from mpc.secagg.messages import Answer, Survivors

SETTINGS = ["honest-but-curious", "active"]


def plain_sum(values, names):
    return np.sum([values[name] for name in names], axis=0, dtype=np.uint64)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("n", range(2, 11))
def test_the_sum_is_exact_in_every_slot_of_a_batch(federation, inputs, setting, n):
    parties = federation(n, setting, slots=3).set_up()
    for slot in (1, 0, 2):
        values = inputs(parties.names)
        parties.mask(values, slot, hashlib.sha256(bytes([slot])).digest())
        assert (parties.unmask(slot) == plain_sum(values, parties.names)).all()


def test_slots_may_be_under_way_at_once(federation, inputs):
    """With different survivors, too: slots share nothing but the set-up."""
    parties = federation(5).set_up()
    values = inputs(parties.names)
    parties.mask(values, 0, missing=["dept-00"])
    parties.mask(values, 1, bytes(32), missing=["dept-04"])
    assert (parties.unmask(1) == plain_sum(values, parties.names[:4])).all()
    assert (parties.unmask(0) == plain_sum(values, parties.names[1:])).all()


def test_every_slot_has_masks_of_its_own(federation, request_digest):
    """Also if a party and its coordinator agreed on one request for both: key pairs and seeds are a slot's own."""
    parties = federation(3)
    advertised = messages.verify(
        parties.clients["dept-00"].advertise(parties.aggregator.announce()),
        messages.Advertisement,
        "dept-00",
        parties.roster,
    )
    assert len({*advertised.mask_keys, *advertised.commitments}) == 2 * parties.aggregator.parameters.slots
    parties = federation(3).set_up()
    client, zeros = parties.clients["dept-00"], np.zeros(1000, dtype=np.uint64)
    words = []
    for slot in range(2):
        client._requests.clear()
        message = client.mask(slot, request_digest, zeros)
        words.append(np.frombuffer(message[messages.HEADER.size : -16], dtype="<u8"))
    assert not (words[0] == words[1]).any()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "step",
    ["no_advertisement", "no_shares", "no_delivery", "masked", "no_confirmation", "no_answer"],
)
@pytest.mark.parametrize("n", range(3, 11))
def test_as_many_as_the_threshold_allows_may_vanish_in_each_round(federation, inputs, setting, step, n):
    """Whose masked input arrived is in the sum, whatever happens to it later; nobody else is."""
    parties = federation(n, setting, floors=Floors(parties=2, setting=setting))
    gone = parties.names[: n - parties.threshold]
    parties.set_up(**({step: gone} if step in ("no_advertisement", "no_shares", "no_delivery") else {}))
    values = inputs(parties.names, 10)
    late = step in ("no_confirmation", "no_answer")
    parties.mask(values, missing=() if late else gone)
    no_confirmation = gone if step == "no_confirmation" else ()
    total = parties.unmask(no_confirmation=no_confirmation, no_answer=gone if step == "no_answer" else ())
    assert (total == plain_sum(values, parties.names if late else parties.present(gone))).all()


@pytest.mark.parametrize("setting", SETTINGS)
def test_some_may_vanish_in_every_round_of_one_request(federation, inputs, setting):
    parties = federation(20, setting)
    a, b, c, d, e = parties.names[0], parties.names[7], parties.names[9], parties.names[13], parties.names[19]
    parties.set_up(no_advertisement=[a], no_shares=[b], no_delivery=[c])
    values = inputs([name for name in parties.names if name not in (a, b)])
    parties.mask(values, missing=[c, d])
    survivors = [name for name in parties.names if name not in (a, b, c, d)]
    no_confirmation = [e] if setting == "active" else []
    total = parties.unmask(no_confirmation=no_confirmation, no_answer=[parties.names[1]])
    assert (total == plain_sum(values, survivors)).all()


def test_too_few_in_any_round_is_said_with_both_numbers(federation, inputs):
    gone = ["dept-00", "dept-01", "dept-02"]
    expected = "3 parties are needed, 2 are present"
    for rounds in ("no_advertisement", "no_shares"):
        with pytest.raises(errors.TooFewSurvivors, match=expected):
            federation(5).set_up(**{rounds: gone})
    parties = federation(5).set_up()
    parties.mask(inputs(parties.names), missing=gone)
    with pytest.raises(errors.TooFewSurvivors, match=expected) as refusal:
        parties.unmask()
    assert (refusal.value.needed, refusal.value.present) == (3, 2)
    parties = federation(5).set_up()
    parties.mask(inputs(parties.names))
    with pytest.raises(errors.TooFewSurvivors, match=f"answers: {expected}"):
        parties.unmask(no_answer=gone)


def test_clients_count_for_themselves(federation, request_digest):
    parties = federation(5)
    advertisements = parties.advertise()
    few = messages.encode(messages.decode(advertisements, list[messages.Signed])[:2])
    with pytest.raises(errors.TooFewSurvivors, match="advertisements"):
        parties.clients["dept-00"].share(few)
    deliveries = parties.share(advertisements)
    bundles = messages.decode(deliveries["dept-00"], dict[str, bytes])
    with pytest.raises(errors.TooFewSurvivors, match="bundles"):
        parties.clients["dept-00"].receive(messages.encode({"dept-01": bundles["dept-01"]}))
    client = parties.clients["dept-00"]
    client.receive(deliveries["dept-00"])  # a refusal changed nothing
    client.mask(0, request_digest, np.zeros(1, dtype=np.uint64))
    with pytest.raises(errors.TooFewSurvivors, match="survivors"):
        client.unmask(0, messages.encode(Survivors(0, ("dept-00", "dept-01"))))


def test_a_request_may_demand_more_survivors_than_the_threshold(federation, request_digest):
    parties = federation(5).set_up()
    client = parties.clients["dept-00"]
    client.mask(0, request_digest, np.zeros(1, dtype=np.uint64), contributors=5)
    with pytest.raises(errors.FloorViolation, match="survivors: must be at least 5"):
        client.unmask(0, messages.encode(Survivors(0, tuple(parties.names[:4]))))
    client.unmask(0, messages.encode(Survivors(0, tuple(parties.names))))
    for contributors in (1, 6):
        with pytest.raises(errors.OutOfRange, match=r"contributors: must be 2 \.\.\. 5"):
            client.mask(1, bytes(32), np.zeros(1, dtype=np.uint64), contributors=contributors)


def test_a_lying_share_does_not_change_the_sum(federation, inputs):
    parties = federation(5).set_up()
    values = inputs(parties.names)
    parties.mask(values, missing=["dept-04"])
    survivors = parties.aggregator.survivors(0)
    for name in parties.names[:4]:
        answer = parties.clients[name].unmask(0, survivors)
        if name == "dept-00":
            content = messages.verify(answer, Answer, name, parties.roster)
            lies = {
                "seed_shares": dict.fromkeys(content.seed_shares, bytes(33)),
                "key_shares": dict.fromkeys(content.key_shares, (shamir.PRIME - 1).to_bytes(33, "little")),
            }
            content = msgspec.structs.replace(content, **lies)
            answer = messages.sign(content, parties.clients[name]._identity)
        parties.aggregator.accept_answer(name, answer)
    assert (parties.aggregator.result(0) == plain_sum(values, parties.names[:4])).all()


def test_inconsistent_shares_are_said_with_their_owner(federation, inputs, monkeypatch):
    """A party that dealt shares of another seed than it committed to: no sum rather than a wrong one."""
    parties = federation(3)
    advertisements = parties.advertise()
    parties.clients["dept-01"]._slots[0].seed = bytes(32)
    for name, delivery in parties.share(advertisements).items():
        parties.clients[name].receive(delivery)
    parties.mask(inputs(parties.names))
    with pytest.raises(errors.InconsistentShares, match="dept-01: self seed"):
        parties.unmask()


def test_clients_that_were_shown_other_members_are_found_out(federation, inputs, request_digest):
    """Bundles of four for one client, of five for the others: its masks would not cancel, so its input is refused."""
    parties = federation(5)
    deliveries = parties.share(parties.advertise())
    bundles = messages.decode(deliveries["dept-00"], dict[str, bytes])
    del bundles["dept-03"]
    deliveries["dept-00"] = messages.encode(bundles)
    for name, delivery in deliveries.items():
        parties.clients[name].receive(delivery)
    with pytest.raises(errors.Replayed, match="dept-00: masked input"):
        parties.mask(inputs(parties.names))


def test_clients_that_were_shown_other_keys_cannot_open_each_others_bundles(federation):
    parties = federation(5)
    everyone = parties.advertise()
    four = messages.encode(messages.decode(everyone, list[messages.Signed])[:4])
    shares = {name: parties.clients[name].share(four) for name in ("dept-00", "dept-01", "dept-02")}
    parties.clients["dept-03"].share(everyone)
    delivery = {
        name: messages.verify(message, messages.Shares, name, parties.roster).bundles["dept-03"]
        for name, message in shares.items()
    }
    with pytest.raises(errors.Tampered, match="dept-00: bundle"):
        parties.clients["dept-03"].receive(messages.encode(delivery))
    with pytest.raises(
        errors.Replayed, match="dept-00: shares: belong to another batch or another set of keys"
    ):
        parties.aggregator.accept_shares("dept-00", shares["dept-00"])


def test_a_slot_is_opened_once(federation, inputs, request_digest):
    parties = federation(3).set_up()
    parties.mask(inputs(parties.names))
    with pytest.raises(errors.Replayed, match="slot"):
        parties.aggregator.open(0, bytes(32), 1)
    parties.unmask()
    with pytest.raises(errors.Replayed, match="slot"):
        parties.aggregator.open(0, bytes(32), 1)


def test_the_calls_have_an_order(federation, request_digest):
    parties = federation(3, "active")
    client, values = parties.clients["dept-00"], np.zeros(1, dtype=np.uint64)
    everyone = messages.encode(Survivors(0, tuple(parties.names)))
    for early in (
        lambda: client.share(b""),
        lambda: client.receive(b""),
        lambda: client.mask(0, request_digest, values),
        lambda: parties.aggregator.open(0, request_digest, 1),
        lambda: parties.aggregator.accept_shares("dept-00", b""),
    ):
        with pytest.raises(errors.OutOfOrder):
            early()
    parties.set_up()
    for early in (
        lambda: client.unmask(0, everyone),
        lambda: client.confirm(0, everyone),
        lambda: parties.aggregator.survivors(0),
        lambda: parties.aggregator.result(0),
        lambda: parties.aggregator.accept_advertisement("dept-00", b""),
        lambda: parties.aggregator.accept_shares("dept-00", b""),
    ):
        with pytest.raises(errors.OutOfOrder):
            early()
    with pytest.raises(errors.OutOfOrder, match="only the active setting"):
        federation(3).set_up().clients["dept-00"].confirm(0, everyone)


def test_late_inputs_are_refused_once_the_survivors_are_fixed(federation, inputs, request_digest):
    parties = federation(5).set_up()
    values = inputs(parties.names)
    parties.mask(values, missing=["dept-04"])
    late = parties.clients["dept-04"].mask(0, request_digest, values["dept-04"])
    parties.aggregator.survivors(0)
    with pytest.raises(errors.OutOfOrder, match="already fixed"):
        parties.aggregator.accept_masked("dept-04", late)


def test_a_client_answers_only_for_sets_it_is_in(federation, inputs, request_digest):
    parties = federation(5).set_up()
    parties.mask(inputs(parties.names))
    client = parties.clients["dept-04"]
    for names, error in (
        (parties.names[:4], errors.UnknownPeer),
        ([*parties.names, "stranger"], errors.UnknownPeer),
        ([*parties.names, "dept-04"], errors.Malformed),
    ):
        with pytest.raises(error, match="survivors"):
            client.unmask(0, messages.encode(Survivors(0, tuple(names))))
    with pytest.raises(errors.Malformed, match="for this slot"):
        client.unmask(0, messages.encode(Survivors(1, tuple(parties.names))))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"slot": 2}, "slot"),
        ({"slot": -1}, "slot"),
        ({"request": bytes(31)}, "request"),
        ({"values": np.zeros(2, dtype=np.int64)}, "values"),
        ({"values": np.zeros((2, 2), dtype=np.uint64)}, "values"),
        ({"values": np.zeros(0, dtype=np.uint64)}, "values"),
    ],
)
def test_arguments_out_of_range_are_named(federation, request_digest, change, field):
    parties = federation(3).set_up()
    arguments = {"slot": 0, "request": request_digest, "values": np.zeros(2, dtype=np.uint64)} | change
    with pytest.raises(errors.OutOfRange, match=field):
        parties.clients["dept-00"].mask(**arguments)


def test_the_values_of_the_caller_stay_as_they_were(federation, inputs, request_digest):
    parties = federation(3).set_up()
    values = inputs(parties.names)["dept-00"]
    before = values.copy()
    parties.clients["dept-00"].mask(0, request_digest, values)
    assert (values == before).all()


def test_secrets_of_a_slot_are_forgotten(federation, inputs):
    parties = federation(3).set_up()
    parties.mask(inputs(parties.names))
    client = parties.clients["dept-00"]
    assert not client._slots[0].seed
    assert not client._slots[0].pairs
    assert not client._slots[1].mask_key  # split among the peers; only the pairwise secrets are kept
    parties.unmask()
    assert list(client._slots) == [1]


def test_wire_cost_is_eight_bytes_a_value(federation, request_digest):
    parties = federation(3).set_up()
    message = parties.clients["dept-00"].mask(0, request_digest, np.zeros(10**5, dtype=np.uint64))
    assert len(message) == 8 * 10**5 + messages.HEADER.size + 16 <= 1.05 * 8 * 10**5


def test_an_identity_that_is_not_in_the_roster(federation):
    parties = federation(3)
    with pytest.raises(errors.OutOfRange, match="roster"):
        Client("dept-00", parties.identities["dept-01"], parties.roster)
    with pytest.raises(errors.OutOfRange, match="identity"):
        Client("dept-00", b"short", parties.roster)


def test_leakage_is_stated_for_both_settings():
    assert set(LEAKAGE) == set(SETTINGS)


def test_importing_the_protocol_loads_nothing_heavy():
    check = "import mpc.secagg, sys; sys.exit(any(m in sys.modules for m in ('scipy', 'pandas', 'opendp')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
