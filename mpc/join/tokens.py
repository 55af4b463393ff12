"""Identifiers as tokens, one row each: what a department does with its own table before any of it moves.

    token = AES-256-CMAC(key shared by two departments, identifier)         16 bytes

Protects: tokens leave a department only as bin numbers and blinded words; both are functions of the token under
further AES keys. Rows of one identifier become one, since equal tokens would show C equal bins: their columns
are added, which for sums of products of one column from each department is exactly the many-to-many inner join:

    sum over pairs of rows with equal keys of x y  =  sum over keys of (sum of x) (sum of y)

Does not protect: against collisions of tokens within 2^22 rows, of probability 2^-85. Nulls leave the table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpc import aes
from mpc.errors import OutOfRange, Overflow
from mpc.join.normalise import Messages

Words = NDArray[np.uint64]


class Rows(NamedTuple):
    """A department's table by token: n x 2 words; flags n x f of booleans; words n x k of int64."""

    tokens: Words
    flags: NDArray[np.bool_]
    words: NDArray[np.int64]


def tokenise(key: bytes, messages: Messages) -> Words:
    """The token of each identifier."""
    return aes.cmac(key, messages.octets, messages.lengths)


def check_unique(tokens: Words) -> None:
    """Refuses a repeated token; nearly always the sorted first words tell."""
    first = np.sort(tokens[:, 0])
    if not (first[1:] == first[:-1]).any():
        return
    ordered = tokens[_order(tokens)]
    if (ordered[1:] == ordered[:-1]).all(axis=1).any():
        raise OutOfRange("keys", "must be unique, as this table's declaration says")


def added_rows(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """One row a token, columns added, and which row was the first of each. There must be no flags."""
    order = _order(rows.tokens)
    ordered = rows.tokens[order]
    starts = np.flatnonzero(np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(ordered)])
    words = rows.words[order]
    if 0 < len(starts) < len(ordered) and words.size:
        _check_sums(words, len(ordered) - len(starts) + 1)
        words = np.add.reduceat(words, starts, axis=0)
    return Rows(ordered[starts], rows.flags[: len(starts)], words), order[starts]


def checked(flags: Any, words: Any, count: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Columns as arrays of `count` rows, or a refusal; () is no columns."""
    flag_array = np.asarray(flags) if np.ndim(flags) != 1 or len(flags) else np.zeros((count, 0), dtype=bool)
    word_array = (
        np.asarray(words) if np.ndim(words) != 1 or len(words) else np.zeros((count, 0), dtype=np.int64)
    )
    if flag_array.dtype != bool or flag_array.ndim != 2 or len(flag_array) != count:
        raise OutOfRange("flags", "must be a matrix of booleans with one row an identifier")
    if word_array.dtype.kind not in "iu" or word_array.ndim != 2 or len(word_array) != count:
        raise OutOfRange("words", "must be a matrix of integers with one row an identifier")
    if word_array.dtype == np.uint64 and (word_array >= 2**63).any():
        raise Overflow("words", "must be below 2^63")
    return flag_array, word_array.astype(np.int64)


def _order(tokens: Words) -> NDArray[np.int64]:
    """Rows by token. Sorted by the first word, which is all but always enough."""
    order = np.argsort(tokens[:, 0])
    first = tokens[order, 0]
    if (first[1:] == first[:-1]).any():
        return np.lexsort((tokens[:, 1], tokens[:, 0]))
    return order


def _check_sums(words: NDArray[np.int64], most: int) -> None:
    """Refuses sums of `most` rows that could leave int64; the declared bounds are checked afterwards."""
    largest = max(abs(int(words.min())), abs(int(words.max())))
    if largest * most >= 2**63:
        raise Overflow("words", "added over rows of one identifier must stay below 2^63")
