"""What both sides compute alike from what was said so far, so that any difference in view fails to verify.

Protects: a coordinator that shows different advertisements or members to different parties gets bundles
that do not open and masked inputs and answers of another context. Does not protect secrets; everything here
is public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from mpc.errors import OutOfRange, TooFewSurvivors, UnknownPeer, WrongLength
from mpc.secagg.keys import DIGEST_BYTES, PUBLIC_BYTES, framed
from mpc.secagg.messages import Advertisement, Signed
from mpc.secagg.parameters import Parameters


def check_advertisement(advertisement: Advertisement, parameters: Parameters) -> None:
    """One public key and commitment for each slot, each of the right length."""
    sender, slots = advertisement.sender, parameters.slots
    if len(advertisement.sealing_key) != PUBLIC_BYTES:
        raise WrongLength("sealing_key", f"must be {PUBLIC_BYTES} bytes", peer=sender)
    if len(advertisement.mask_keys) != slots or any(len(k) != PUBLIC_BYTES for k in advertisement.mask_keys):
        raise WrongLength("mask_keys", f"must be {slots} keys of {PUBLIC_BYTES} bytes", peer=sender)
    if len(advertisement.commitments) != slots or any(
        len(c) != DIGEST_BYTES for c in advertisement.commitments
    ):
        raise WrongLength("commitments", f"must be {slots} digests of {DIGEST_BYTES} bytes", peer=sender)


def advertised_context(parameters: Parameters, advertisements: Mapping[str, Signed]) -> bytes:
    """Digest of the parameters and of every advertisement of this batch, in name order."""
    parts = [part for name in sorted(advertisements) for part in (name, advertisements[name].body)]
    return hashlib.sha256(framed(b"advertised", parameters.digest, *parts)).digest()


def members_context(advertised: bytes, members: Iterable[str]) -> bytes:
    """Digest of the above and of the members: those whose bundles were delivered."""
    return hashlib.sha256(framed(b"members", advertised, *sorted(members))).digest()


def check_slot(slot: int, parameters: Parameters) -> None:
    if not 0 <= slot < parameters.slots:
        raise OutOfRange("slot", f"must be 0 ... {parameters.slots - 1}")


def check_request(request: bytes) -> None:
    if len(request) != DIGEST_BYTES:
        raise OutOfRange("request", f"must be a digest of {DIGEST_BYTES} bytes")


def check_enough(field: str, present: int, needed: int) -> None:
    if present < needed:
        raise TooFewSurvivors(field, needed=needed, present=present)


def check_among(field: str, names: Iterable[str], allowed: Iterable[str], *, peer: str) -> None:
    if not set(names) <= set(allowed):
        raise UnknownPeer(field, "names a party that is not a member", peer=peer)
