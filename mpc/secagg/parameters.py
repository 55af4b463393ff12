"""What a batch of secure sums is run with, and what each owner demands of it before taking part.

Protects: against a coordinator that chooses weak parameters (a low threshold, a small or padded roster, a
weaker setting): the parameters come from the coordinator, the roster and the floors from the owner's own
configuration. Does not protect: against a roster that the owner filled with colluding parties. Thresholds
follow Bonawitz et al., CCS 2017, section 6: t > n/2 (honest but curious), t >= floor(2n/3) + 1 (active).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from mpc.errors import FloorViolation, Malformed, OutOfRange
from mpc.prepared import prepared
from mpc.secagg.keys import PUBLIC_BYTES, framed

Setting = Literal["honest-but-curious", "active"]

MODULUS_BITS = 64
MAX_PARTIES = 1000
MAX_SLOTS = 1024
COORDINATOR = "coordinator"
_STRENGTH = {"honest-but-curious": 0, "active": 1}

LEAKAGE: dict[Setting, str] = {
    "honest-but-curious": (
        "The coordinator learns who took part, who vanished and when, and the sum over those who remained: nothing else, "
        "even if it pools what it sees with fewer than t of the n departments (t > n/2), as long as all follow the "
        "protocol. A coordinator that lies about who remained can learn sums over fewer than t departments. Each "
        "department learns who took part. Departments that pool their inputs with the sum learn the sum of the others."
    ),
    "active": (
        "The coordinator learns who took part, who vanished and when, and the sum over one set of at least t departments: "
        "nothing else, even if it deviates from the protocol together with fewer than n/3 departments (t > 2n/3). "
        "It can still drop departments, stop the sum or announce a wrong one. Each department learns who took part. "
        "Departments that pool their inputs with the sum learn the sum of the others."
    ),
}


class Parameters(msgspec.Struct, frozen=True, array_like=True):
    """One batch: `slots` requests over one set-up. Digested into every key, signature and tag."""

    session: bytes
    names: tuple[str, ...]
    threshold: int
    setting: Setting
    slots: int
    aggregator: bytes
    modulus_bits: int = MODULUS_BITS

    def __post_init__(self) -> None:
        if len(self.session) != 16:
            raise OutOfRange("session", "must be 16 bytes")
        if not 2 <= len(self.names) <= MAX_PARTIES:
            raise OutOfRange("names", f"must be 2 ... {MAX_PARTIES} parties")
        if list(self.names) != sorted(set(self.names)) or not all(1 <= len(n) <= 128 for n in self.names):
            raise OutOfRange("names", "must be sorted, distinct, of 1 ... 128 characters")
        if not least_threshold(self.setting, len(self.names)) <= self.threshold <= len(self.names):
            least = least_threshold(self.setting, len(self.names))
            raise FloorViolation("threshold", f"must be {least} ... {len(self.names)} ({self.setting})")
        if not 1 <= self.slots <= MAX_SLOTS:
            raise OutOfRange("slots", f"must be 1 ... {MAX_SLOTS}")
        if len(self.aggregator) != PUBLIC_BYTES:
            raise OutOfRange("aggregator", f"must be {PUBLIC_BYTES} bytes")
        if self.modulus_bits != MODULUS_BITS:
            raise FloorViolation("modulus_bits", f"must be {MODULUS_BITS}")

    def point(self, name: str) -> int:
        """The constant evaluation point of a party: its place in the roster, from 1."""
        return self.names.index(name) + 1

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(framed(b"parameters", msgspec.msgpack.encode(self))).digest()


class Floors(msgspec.Struct, frozen=True):
    """The least protection that an owner accepts. Below three contributors, one could subtract its own part
    from the sum; only federations whose sums carry noise may lower `parties` to 2.

    `parties`: the least roster, and the least number of survivors in a sum unless a request states its own.
    """

    parties: int = 3
    setting: Setting = "honest-but-curious"

    def __post_init__(self) -> None:
        if self.parties < 2:
            raise OutOfRange("parties", "must be >= 2")


def least_threshold(setting: Setting, parties: int) -> int:
    """The smallest threshold under which the setting's guarantee holds.

    >>> least_threshold("honest-but-curious", 5), least_threshold("active", 5), least_threshold("active", 2)
    (3, 4, 2)
    """
    return parties // 2 + 1 if setting == "honest-but-curious" else 2 * parties // 3 + 1


def read_parameters(message: bytes, roster: Mapping[str, bytes], floors: Floors) -> Parameters:
    """The coordinator's parameters, checked against one owner's roster and floors."""
    try:
        parameters = msgspec.msgpack.decode(message, type=prepared(Parameters))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed("parameters", "not parameters of this protocol", peer=COORDINATOR) from error
    if set(parameters.names) != set(roster):
        raise FloorViolation("names", "must be the roster that this owner installed", peer=COORDINATOR)
    if len(parameters.names) < floors.parties:
        raise FloorViolation("names", f"must be at least {floors.parties} parties", peer=COORDINATOR)
    if _STRENGTH[parameters.setting] < _STRENGTH[floors.setting]:
        raise FloorViolation("setting", f"must be {floors.setting} or stronger", peer=COORDINATOR)
    return parameters
