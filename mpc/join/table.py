"""The oblivious join of one table with the probe's rows, as arrays: what A sends, what B sends, what C gathers.

    A   table     cuckoo bins of (token word, flags, words), blinded with the pad, in permuted order      -> C
    B   indices   the permuted numbers of each row's three candidate bins                                 -> C
    C   gathered  the blinded candidates in B's row order                      C's shares
    B   pads      the pad at the same places; B's own token where tokens are compared                     B's shares

After Mohassel, Rindal, Rosulek, "Fast Database Joins and PSI for Secret Shared Data" (CCS 2020, section 4), where
each side knows its own keys. Bins, permutation and pad come from the secret that A and B share and C lacks.

Protects: see `mpc.join` for what C sees. Does not protect: against A and C, or B and C, pooling.

A bin's comparison word is 64 bits of a function of the token independent of its bins: a row of B that has no
match agrees with one of its three candidates with probability 3 * 2^-64, some row of 2^22 with 2^-40.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpc import aes, bits, cuckoo
from mpc.errors import OutOfRange
from mpc.join.tokens import Rows
from mpc.prg import Keystream
from mpc.secagg.keys import derive

Words = NDArray[np.uint64]
MOST_ROWS = 1 << 22
MOST_ATTEMPTS = 16


class Layout(NamedTuple):
    """Words of one bin: the comparison word, packed flags (xored with the pad), words (added to it)."""

    flags: int
    words: int

    @property
    def boolean(self) -> int:
        return 1 + bits.words_for(self.flags)

    @property
    def width(self) -> int:
        return self.boolean + self.words


class Secret(NamedTuple):
    """What A and B derive from their shared secret for one session."""

    tokens: bytes
    pad: bytes
    permutation: bytes
    noise: bytes

    def attempt(self, number: int) -> tuple[bytes, bytes]:
        """The keys of bins and of comparison words in one attempt to fill the table."""
        return derive(self.tokens, b"join bins", number), derive(self.tokens, b"join comparison", number)


def secret_of(shared: bytes, session: bytes, table: str, probe: str) -> Secret:
    return Secret(
        *(
            derive(shared, label, session, table, probe)
            for label in (b"join tokens", b"join pad", b"join order", b"join noise")
        )
    )


def padded(rows: int) -> int:
    """How many rows a table of so many is made to have: a multiple of 1/16 of the next power of two (at most 1/8 more),
    2048 at least."""
    if not 0 <= rows <= MOST_ROWS:
        raise OutOfRange("rows", f"must be 0 ... {MOST_ROWS}")
    step = max(1 << max(rows - 1, 0).bit_length() >> 4, 64)
    return max(-(-rows // step) * step, cuckoo.LEAST_ITEMS)


def permutation(secret: Secret, bins: int) -> NDArray[np.int64]:
    """A permutation by sorting words of a keystream; equal words, if any, keep their order on every machine."""
    words = Keystream(secret.permutation).read(bins)
    order = np.argsort(words)
    ordered = words[order]
    return np.argsort(words, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


def blinded_table(rows: Rows, secret: Secret, capacity: int) -> tuple[int, Words]:
    """The attempt in which the bins could be filled, and the table for C: width x bins words."""
    bins, layout = cuckoo.bins_for(capacity), Layout(rows.flags.shape[1], rows.words.shape[1])
    attempt, placed = _placed(rows.tokens, secret, bins)
    _, comparison_key = secret.attempt(attempt)
    placed = placed[permutation(secret, bins)]
    table = np.empty((layout.width, bins), dtype=np.uint64)
    _lay(table[0], aes.encrypt(comparison_key, rows.tokens)[:, 0], placed)
    for column, flags in zip(table[1 : layout.boolean], _packed_rows(rows.flags).T, strict=True):
        _lay(column, flags, placed)
    for column, words in zip(table[layout.boolean :], rows.words.view(np.uint64).T, strict=True):
        _lay(column, words, placed)
    blind(table, pad_of(secret, bins, layout), layout)
    return attempt, table


def _placed(tokens: Words, secret: Secret, bins: int) -> tuple[int, NDArray[np.int64]]:
    for attempt in range(MOST_ATTEMPTS):
        hashes = aes.encrypt(secret.attempt(attempt)[0], tokens)
        try:
            return attempt, cuckoo.place(cuckoo.candidates(hashes, bins), bins)
        except cuckoo.NoAssignment:
            continue
    raise OutOfRange("attempts", f"to fill the table must be at most {MOST_ATTEMPTS}")


def _lay(column: Words, values: Words, placed: NDArray[np.int64]) -> None:
    """The values of the items in the bins; 0 in an empty bin, which adds nothing, whatever it is compared with."""
    np.take(np.append(values, np.uint64(0)), placed, out=column, mode="wrap")  # EMPTY is -1: the last


def blind(table: Words, pad: Words, layout: Layout) -> None:
    table[: layout.boolean] ^= pad[: layout.boolean]
    table[layout.boolean :] += pad[layout.boolean :]


def pad_of(secret: Secret, bins: int, layout: Layout) -> Words:
    return Keystream(secret.pad).read(bins * layout.width).reshape(layout.width, bins)


class Probe(NamedTuple):
    """B's half: indices for C, 3 x n; B's shares of the candidates."""

    indices: NDArray[np.int64]
    shares: dict[str, Words]


def probe(tokens: Words, secret: Secret, attempt: int, capacity: int, layout: Layout) -> Probe:
    """`tokens` has one row for each row of the padded probe side, all distinct."""
    bins = cuckoo.bins_for(capacity)
    bin_key, comparison_key = secret.attempt(attempt)
    place = np.empty(bins, dtype=np.int64)
    place[permutation(secret, bins)] = np.arange(bins)
    indices = place[cuckoo.candidates(aes.encrypt(bin_key, tokens), bins)]
    shares = split(gather(pad_of(secret, bins, layout), indices), layout)
    three = shares["tokens"].reshape(3, -1)
    three ^= aes.encrypt(comparison_key, tokens)[:, 0]
    np.negative(shares["words"], out=shares["words"])
    return Probe(indices, shares)


def gather(table: Words, indices: NDArray[np.int64]) -> Words:
    """Each column at the candidates: width x (3 n)."""
    return np.take(table, indices.reshape(-1), axis=1)


def split(gathered: Words, layout: Layout) -> dict[str, Words]:
    """The parts of gathered bins, as the inputs of the plan."""
    return {
        "tokens": gathered[0],
        "flags": gathered[1 : layout.boolean],
        "words": gathered[layout.boolean :],
    }


def _packed_rows(flags: NDArray[np.bool_]) -> Words:
    """Each row's flags as words."""
    rows, count = flags.shape
    width = bits.words_for(count)
    octets = np.zeros((rows, width * 8), dtype=np.uint8)
    packed = np.packbits(flags, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    return octets.view(np.uint64).reshape(rows, width)
