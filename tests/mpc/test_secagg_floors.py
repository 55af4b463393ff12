"""What an owner's client demands of the coordinator's parameters: its roster, its floors, and bounds that no owner can lower."""

import pytest

from mpc import errors
from mpc.secagg import Aggregator, Floors, least_threshold, messages


@pytest.fixture
def forged(federation):
    """A client of five, and parameters as a coordinator that runs other code would send them: no check of ours on the way."""
    parties = federation(5, slots=1)
    honest = parties.aggregator.parameters

    def parameters(**changes):
        return messages.encode([changes.get(f, getattr(honest, f)) for f in honest.__struct_fields__])

    return parties, parameters


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"threshold": 0}, r"threshold: must be 3 \.\.\. 5"),
        ({"threshold": 2}, r"threshold: must be 3 \.\.\. 5"),
        ({"threshold": 6}, r"threshold: must be 3 \.\.\. 5"),
        ({"threshold": 3, "setting": "active"}, r"threshold: must be 4 \.\.\. 5"),
        ({"modulus_bits": 32}, "modulus_bits: must be 64"),
        ({"names": ("dept-00", "dept-01", "dept-02")}, "names: must be the roster"),
        ({"names": ("dept-00", "dept-01", "dept-02", "dept-03", "padding")}, "names: must be the roster"),
    ],
)
def test_weak_parameters_are_refused(forged, changes, refusal):
    parties, parameters = forged
    client = parties.new_client("dept-00")
    with pytest.raises(errors.FloorViolation, match=refusal):
        client.advertise(parameters(**changes))
    client.advertise(parameters())  # and a refusal changed nothing


@pytest.mark.parametrize(
    ("floors", "refusal"),
    [
        (Floors(setting="active"), "setting: must be active or stronger"),
        (Floors(parties=6), "names: must be at least 6 parties"),
    ],
)
def test_an_owner_may_demand_the_active_setting_and_a_larger_roster(forged, floors, refusal):
    parties, parameters = forged
    parties.floors = floors
    with pytest.raises(errors.FloorViolation, match=f"coordinator: {refusal}"):
        parties.new_client("dept-00").advertise(parameters())


def test_a_stronger_setting_than_demanded_is_accepted(federation):
    federation(5, "active", floors=Floors(setting="honest-but-curious")).set_up()


@pytest.mark.parametrize(
    "changes",
    [
        {"session": bytes(15)},
        {"slots": 0},
        {"slots": 1025},
        {"aggregator": bytes(31)},
        {"names": ("dept-01", "dept-00", "dept-02", "dept-03", "dept-04")},
        {"names": ("dept-00", "dept-00", "dept-01", "dept-02", "dept-03")},
        {"names": ("dept-00",)},
    ],
)
def test_parameters_out_of_range_are_named(forged, changes):
    parties, parameters = forged
    with pytest.raises(errors.OutOfRange, match=next(iter(changes))):
        parties.clients["dept-00"].advertise(parameters(**changes))


def test_what_is_no_parameters(forged):
    parties, parameters = forged
    client = parties.clients["dept-00"]
    for message in (b"", b"\xff", messages.encode([1]), parameters(setting="trust me")):
        with pytest.raises(errors.Malformed, match="coordinator: parameters"):
            client.advertise(message)
    with pytest.raises(errors.Tampered, match="coordinator: public key"):
        client.advertise(parameters(aggregator=bytes(32)))


def test_two_parties_need_an_owner_who_lowered_the_floor(federation):
    parties = federation(2, floors=Floors(parties=3))
    with pytest.raises(errors.FloorViolation, match="names: must be at least 3 parties"):
        parties.advertise()
    with pytest.raises(errors.OutOfRange, match="parties: must be >= 2"):
        Floors(parties=1)


def test_least_thresholds_of_both_settings():
    assert [least_threshold("honest-but-curious", n) for n in (2, 3, 4, 5, 100)] == [2, 2, 3, 3, 51]
    assert [least_threshold("active", n) for n in (2, 3, 4, 6, 100)] == [2, 3, 3, 5, 67]


def test_an_aggregator_is_held_to_the_same_parameters(federation):
    roster = federation(5).roster
    for options, error in (
        ({"threshold": 2}, errors.FloorViolation),
        ({"threshold": 6}, errors.FloorViolation),
        ({"threshold": 3, "setting": "active"}, errors.FloorViolation),
        ({"slots": 0}, errors.OutOfRange),
        ({"slots": 1025}, errors.OutOfRange),
    ):
        with pytest.raises(error):
            Aggregator(roster, **({"threshold": 3, "setting": "honest-but-curious", "slots": 1} | options))


def test_an_owners_floor_counts_in_every_round(federation, inputs):
    """The threshold of five is three; this owner wants four advertisers, four members and four survivors."""
    gone = ["dept-03", "dept-04"]
    for rounds, field in (("no_advertisement", "advertisements"), ("no_shares", "bundles")):
        with pytest.raises(errors.TooFewSurvivors, match=f"{field}: 4 parties are needed, 3 are present"):
            federation(5, floors=Floors(parties=4)).set_up(**{rounds: gone})
    parties = federation(5, floors=Floors(parties=4)).set_up()
    parties.mask(inputs(parties.names), missing=gone)
    with pytest.raises(errors.FloorViolation, match="survivors: must be at least 4"):
        parties.unmask()
