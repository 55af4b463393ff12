"""Every way in which a protocol refuses. A message names the peer and the field, never a value of anyone's
data.

ProtocolError                 the base: `field`, and `peer` when somebody else is at fault
├── OutOfRange                an argument outside the allowed range, which the message states
│   └── Overflow              a number that the arithmetic cannot carry exactly
├── OutOfOrder                a call that does not fit the state: our own caller's bug
├── FloorViolation            the coordinator asks for less protection than the owner demands
├── TooFewSurvivors           fewer parties remain than the threshold: `needed`, `present`
└── PeerError                 a peer's message cannot be accepted; treat this peer as vanished
    ├── UnknownPeer           not in the roster, or not a member of this round
    ├── Malformed             not a message of this protocol
    ├── WrongLength           a field has another length than the parameters say
    ├── BadSignature          not signed by the identity that the roster lists
    ├── Tampered              an authentication tag, commitment or key does not match
    ├── Replayed              a slot, a request or a message for the second time, or one of another batch
    └── InconsistentShares    no set of shares opens what this peer committed to
"""

from __future__ import annotations


class ProtocolError(Exception):
    def __init__(self, field: str, reason: str, *, peer: str | None = None) -> None:
        super().__init__(f"{field}: {reason}" if peer is None else f"{peer}: {field}: {reason}")
        self.field = field
        self.reason = reason
        self.peer = peer


class OutOfRange(ProtocolError):
    """The caller's argument is outside the allowed range."""


class Overflow(OutOfRange):
    """A number that the arithmetic cannot carry exactly."""


class OutOfOrder(ProtocolError):
    """The call does not fit the state of the object."""


class FloorViolation(ProtocolError):
    """The coordinator asks for less protection than the owner demands."""


class TooFewSurvivors(ProtocolError):
    """Fewer parties remain than the protocol needs."""

    def __init__(self, field: str, *, needed: int, present: int) -> None:
        super().__init__(field, f"{needed} parties are needed, {present} are present")
        self.needed = needed
        self.present = present


class PeerError(ProtocolError):
    """A peer's message cannot be accepted."""


class UnknownPeer(PeerError):
    """Not in the roster, or not a member of this round."""


class Malformed(PeerError):
    """Not a message of this protocol."""


class WrongLength(PeerError):
    """A field has another length than the parameters say."""


class BadSignature(PeerError):
    """Not signed by the identity that the roster lists."""


class Tampered(PeerError):
    """An authentication tag, a commitment or a key does not match."""


class Replayed(PeerError):
    """A slot, a request or a message for the second time, or one of another batch."""


class InconsistentShares(PeerError):
    """No set of the shares that came back opens what this peer committed to."""
