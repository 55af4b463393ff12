"""The heads of a log that witnesses co-signed: its department keeps the last of each witness, and completes receipts with them.

A receipt's own head is signed when its release is logged, so no witness has seen it then; and a witness that has seen a later one signs
no earlier (c2sp.org/tlog-witness). So a receipt is completed afterwards: with any head that covers it, co-signed at the witness's next
visit, and the proof that this head continues the receipt's own. A visit, as files that are handed over:

    department   sandbox audit head; sandbox audit prove --since N        N: the entries that the witness saw last
    witness      sandbox audit witness HEAD --proof PROOF
    department   sandbox audit keep COSIGNED                              from now on, for every receipt before it:
                 sandbox audit complete RECEIPT

Or, while it has seen no later head, the witness signs the heads in a receipt itself: `sandbox cosign RECEIPT` (`witness.Witness`).

What is kept lies beside the log, and is checked anew whenever it is used: who changes it spoils it, no more.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import checkpoint as notes
from . import keys, receipt
from .audit import AuditLog
from .errors import Expired, LogError, ParameterError, SignatureInvalid
from .query import canonical

FILE = "cosigned"


def keep(log: AuditLog, note: str, witnesses: Mapping[str, bytes]) -> dict[str, int]:
    """Keep a co-signed head of this log; who co-signed it, and when. `witnesses`: key names (`checkpoint.origin`) with their keys.

    Raises `SignatureInvalid` where no witness signed it, or somebody else did; `ProofInvalid` where it is not a head of
    this log; `Expired` where a later one of the same witness is kept.
    """
    head = notes.verify(note, log.public, log.origin)
    log.covers(head)
    found = notes.known(note, log.public, witnesses)
    if not found:
        raise SignatureInvalid(f"no witness of the roster has co-signed this head of {log.origin!r}")
    state = kept(log)
    for name in found:
        if name in state and notes.parse(state[name]).checkpoint.size > head.size:
            raise Expired(f"a later head is kept that {name!r} co-signed")
    try:
        keys.write_atomically(log.directory / FILE, canonical(state | dict.fromkeys(found, note)))
    except OSError as error:
        raise LogError(f"{log.origin!r}: a co-signed head could not be kept: {error.strerror}") from None
    return found


def kept(log: AuditLog) -> dict[str, str]:
    """Per witness, the last head that it co-signed, as a note."""
    try:
        data = (log.directory / FILE).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LogError(f"{log.origin!r}: co-signed heads cannot be read: {error.strerror}") from None
    state: dict[str, str] = keys.decode(data, dict[str, str])
    return state


def complete(data: bytes, log: AuditLog) -> bytes:
    """The receipt with what witnesses co-signed of this log since.

    Raises `ParameterError` where the receipt holds no head of this log, or none is kept that covers it.
    """
    mine = [part for part in receipt.read(data).receipt.nodes if _origin(part.checkpoint) == log.origin]
    if not mine:
        raise ParameterError(f"the receipt holds no head of {log.origin!r}")
    size = notes.parse(mine[0].checkpoint).checkpoint.size
    later = dict.fromkeys(note for note in kept(log).values() if _size(note) >= size)
    if not later:
        raise ParameterError(
            f"no witness has co-signed a head of {log.origin!r} with {size} entries or more: keep one first"
        )
    for note in later:
        log.covers(notes.verify(note, log.public, log.origin))
        data = receipt.add(data, mine[0].department, note, log.consistency(size, _size(note)))
    return data


def _origin(note: str) -> str:
    return notes.parse(note).checkpoint.origin


def _size(note: str) -> int:
    return notes.parse(note).checkpoint.size
