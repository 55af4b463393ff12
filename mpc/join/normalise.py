"""Identifiers in one spelling at every department: declared normalisers, on whole columns.

    exact          the text as it is
    text           NFKC (full-width to half-width), case folded, white space collapsed
    resident id    GB 11643: 18 characters with date and check character; 15 digits are lengthened
    phone          mainland mobile numbers: 11 digits, without country code, spaces and dashes
    credit code    GB 32100 unified social credit code: 18 characters with check character

A value that the rule refuses (and None, NaN and the empty text) becomes null, the empty message; nulls match
nothing. Integers are read as their decimal digits. A trailing U+0000 is not part of a text.

Protects: against spellings that hide a match. Does not protect: secrecy (the PRF does), nor against two people
under one identifier. Each rule is defined by a function of one text; rows of plain digits and letters take a
path of array operations that must give the same (tests compare the two).
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange

Octets = NDArray[np.uint8]

_RESIDENT_WEIGHTS = np.array([7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2])
_RESIDENT_CHECKS = "10X98765432"
_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_WEIGHTS = np.array([pow(3, i, 31) for i in range(17)])
_CREDIT_VALUES = np.full(256, -1)
_CREDIT_VALUES[np.frombuffer(_CREDIT_ALPHABET.encode(), dtype=np.uint8)] = np.arange(31)
_PLAIN = np.zeros(256, dtype=bool)
_PLAIN[[*range(48, 58), *range(65, 91), *range(97, 123)]] = True
_LOWER = np.frombuffer(bytes(range(256)).lower(), dtype=np.uint8)
_UPPER = np.frombuffer(bytes(range(256)).upper(), dtype=np.uint8)
_SEPARATORS = re.compile(r"[\s\-‐-―()（）]")


class Messages(NamedTuple):
    """Byte strings of one column: the first `lengths[i]` bytes of row i, zero beyond. A null has length 0."""

    octets: Octets
    lengths: NDArray[np.int64]


def exact(text: str) -> str:
    return text


def folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def resident_id(text: str) -> str:
    code = _compact(text)
    if re.fullmatch(r"[0-9]{15}", code):
        code = code[:6] + "19" + code[6:]
        code += _resident_check(code)
    if not re.fullmatch(r"[0-9]{17}[0-9X]", code) or code[17] != _resident_check(code):
        return ""
    try:
        datetime.date(int(code[6:10]), int(code[10:12]), int(code[12:14]))
    except ValueError:
        return ""
    return code


def phone(text: str) -> str:
    digits = _compact(text)
    match = re.fullmatch(r"(?:\+86|0086|86)?(1[3-9][0-9]{9})", digits)
    return match[1] if match else ""


def credit_code(text: str) -> str:
    code = _compact(text)
    if len(code) != 18 or any(letter not in _CREDIT_ALPHABET for letter in code):
        return ""
    values = np.array([_CREDIT_ALPHABET.index(letter) for letter in code])
    return code if (31 - int(values[:17] @ _CREDIT_WEIGHTS) % 31) % 31 == values[17] else ""


def _compact(text: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", text)).upper()


def _resident_check(code: str) -> str:
    return _RESIDENT_CHECKS[
        int(
            np.frombuffer(code[:17].encode(), dtype=np.uint8) @ _RESIDENT_WEIGHTS
            - 48 * _RESIDENT_WEIGHTS.sum()
        )
        % 11
    ]


# the same on rows of ASCII digits and letters: which of them the array path decides, and to what (nothing: null)


def _fast_exact(octets: Octets, lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Octets]:
    return np.ones(len(octets), dtype=bool), octets


def _fast_folded(octets: Octets, lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Octets]:
    return np.ones(len(octets), dtype=bool), _LOWER[octets]


def _fast_resident(octets: Octets, lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Octets]:
    decided = lengths == 18
    if octets.shape[1] < 18:
        return decided, octets
    codes = _upper(octets)
    digits = codes[:, :17].astype(np.int64) - 48
    checks = np.frombuffer(_RESIDENT_CHECKS.encode(), dtype=np.uint8)[(digits @ _RESIDENT_WEIGHTS) % 11]
    year = digits[:, 6:10] @ np.array([1000, 100, 10, 1])
    month, day = digits[:, 10] * 10 + digits[:, 11], digits[:, 12] * 10 + digits[:, 13]
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    longest = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[
        np.where((month >= 1) & (month <= 12), month, 0)
    ]
    longest += leap & (month == 2)
    valid = ((digits >= 0) & (digits <= 9)).all(axis=1) & (codes[:, 17] == checks)
    valid &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= longest)
    return decided, np.where(valid[:, None], codes, 0)


def _fast_phone(octets: Octets, lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Octets]:
    if octets.shape[1] < 11:
        return np.zeros(len(octets), dtype=bool), octets
    number = octets[:, :11]
    digits = ((number >= 48) & (number <= 57)).all(axis=1)
    return (lengths == 11) & digits & (number[:, 0] == 49) & (number[:, 1] >= 51), octets


def _fast_credit(octets: Octets, lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Octets]:
    decided = lengths == 18
    if octets.shape[1] < 18:
        return decided, octets
    codes = _upper(octets)
    values = _CREDIT_VALUES[codes[:, :18]]
    valid = (values >= 0).all(axis=1) & ((31 - values[:, :17] @ _CREDIT_WEIGHTS % 31) % 31 == values[:, 17])
    return decided, np.where(valid[:, None], codes, 0)


def _upper(octets: Octets) -> Octets:
    return _UPPER[octets]


Fast = Callable[[Octets, NDArray[np.int64]], tuple[NDArray[np.bool_], Octets]]
NORMALISERS: dict[str, tuple[Callable[[str], str], Fast]] = {
    "exact": (exact, _fast_exact),
    "text": (folded, _fast_folded),
    "resident id": (resident_id, _fast_resident),
    "phone": (phone, _fast_phone),
    "credit code": (credit_code, _fast_credit),
}


def normalise(values: Sequence[Any] | NDArray[Any], normaliser: str) -> Messages:
    """A column of texts, integers and nulls in the spelling of a declared normaliser.

    >>> normalise(["Ａｂ  c", None, 7], "text").lengths.tolist()
    [4, 0, 1]
    """
    if normaliser not in NORMALISERS:
        raise OutOfRange("normaliser", f"must be one of {sorted(NORMALISERS)}")
    scalar, fast = NORMALISERS[normaliser]
    texts = _texts(values)
    lengths = np.strings.str_len(texts).astype(np.int64)
    points: NDArray[Any] = np.ascontiguousarray(texts).view(
        np.uint8 if texts.dtype.kind == "S" else np.uint32
    )
    width = texts.dtype.itemsize // points.dtype.itemsize
    points = points.reshape(len(texts), width)
    octets = points.astype(np.uint8, copy=False)
    decided, spelt = fast(octets, lengths)
    if texts.dtype.kind != "S":  # the decimal digits of integers are plain
        plain = _PLAIN[octets] & (points < 128)
        decided &= np.count_nonzero(plain, axis=1) == lengths
    rest = np.flatnonzero(~decided)
    refused = decided & ~spelt.any(axis=1)
    octets, lengths = np.array(spelt), np.where(refused, 0, lengths)
    others = [
        scalar(str(text)).encode("utf-8", "surrogatepass") for text in texts[rest].astype(np.str_).tolist()
    ]
    longest = max(map(len, others), default=0)
    if longest > octets.shape[1]:
        octets = np.pad(octets, ((0, 0), (0, longest - octets.shape[1])))
    octets[rest] = 0
    for row, message in zip(rest.tolist(), others, strict=True):
        octets[row, : len(message)] = np.frombuffer(message, dtype=np.uint8)
        lengths[row] = len(message)
    return Messages(octets, lengths)


def _texts(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Any column as a numpy array of text, nulls as the empty text; integers as bytes of decimal digits."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return values.astype(np.bytes_)
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    texts = [v if isinstance(v, str) else _text(v) for v in listed]
    return np.array(texts, dtype=np.str_) if texts else np.zeros(0, dtype="<U1")


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise OutOfRange("identifier", "must be a text, an integer or null")
