"""Encrypted vectors that can be added up: BFV at degree 4,096, several values a slot, exact.

    sums = PackedSum.reals(-1, 1, addends=8)          # 16 bits a value, two values a slot
    a, b = sums.encrypt(x, key), sums.encrypt(y, key)
    sums.decrypt(a + b, key)                          # x + y to within sums.error

Protects: whoever adds sees ciphertexts alone, and learns neither values nor sum (128 bits, see
`mpc.he.parameters`). BFV decrypts exactly, so decrypted sums may be published: the attack on approximate
decryption (Li and Micciancio, Eurocrypt 2021) does not apply. Does not protect: against whoever adds wrongly,
repeats or leaves out a vector, nor the values from anybody who holds the secret key.

Decryption is right as long as the noise stays below q / (2 t) = 8,192, and refused from 4,096 on. A symmetric
ciphertext brings at most 21 (SEAL's centred binomial errors) and 1/2 from scaling: 128 of them stay below 2,752,
always. One under a public key brings the rounding of a sum of 4,097 terms of at most 1/2: by Hoeffding, 128
independent ones reach 3,900 with probability below 2^-80 a coefficient; one that is added to itself a hundred
times is refused at decryption, not decrypted wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import Malformed, OutOfRange, Overflow, Tampered, WrongLength
from mpc.he import envelope, seal
from mpc.he.keys import PublicKey, SecretKey
from mpc.he.packing import Packing
from mpc.he.parameters import SUM

MOST_ADDENDS = 128
MOST_VALUES = 2**31
_SLOT_BITS = SUM.plain_bits - 1  # below the plaintext prime
_BLOCK = 64  # ciphertexts packed at a time: a few megabytes, whatever the vector's length
_KIND = "encrypted vector"


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    packing: Packing
    length: int
    addends: int


class EncryptedVector:
    """The sum of `addends` encrypted vectors of one packing under one key. Immutable; `+` makes a new one.

    A part is SEAL's ciphertext, or its bytes as long as nothing is computed with it.
    """

    def __init__(
        self, packing: Packing, fingerprint: bytes, length: int, addends: int, parts: Sequence[Any]
    ) -> None:
        self.packing = packing
        self.fingerprint = fingerprint
        self.length = length
        self.addends = addends
        self._parts = tuple(parts)

    def __add__(self, other: EncryptedVector) -> EncryptedVector:
        if not isinstance(other, EncryptedVector):
            return NotImplemented
        if self.fingerprint != other.fingerprint:
            raise Tampered("key", "vectors under different keys cannot be added")
        if self.packing != other.packing:
            raise OutOfRange("packing", "vectors of different packings cannot be added")
        if self.length != other.length:
            raise WrongLength("length", f"must be equal: {self.length} and {other.length} values")
        if self.addends + other.addends > self.packing.addends:
            raise Overflow("addends", f"at most {self.packing.addends} vectors fit into one sum")
        evaluator = seal.bindings().Evaluator(seal.context(SUM))
        total = []
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            result = seal.bindings().Ciphertext()
            try:
                evaluator.add(_ciphertext(mine), _ciphertext(theirs), result)
            except RuntimeError as error:  # SEAL, on ciphertexts made to cancel out
                raise Malformed(_KIND, "cannot be added: not an independent ciphertext") from error
            total.append(result)
        return EncryptedVector(
            self.packing, self.fingerprint, self.length, self.addends + other.addends, total
        )

    def __repr__(self) -> str:
        return f"<EncryptedVector of {self.length} values, {self.addends} of {self.packing.addends} addends, key {self.fingerprint.hex()[:8]}>"

    def to_bytes(self) -> bytes:
        header = _Header(self.packing, self.length, self.addends)
        parts = [part if isinstance(part, bytes) else seal.dump(part) for part in self._parts]
        return envelope.pack(_KIND, SUM, self.fingerprint, header, parts)

    def ciphertexts(self) -> Iterator[Any]:
        """SEAL's ciphertexts, one at a time."""
        return map(_ciphertext, self._parts)


class PackedSum:
    """One kind of sum: bounds, grid and number of addends, which all parties must agree on.

    >>> sums = PackedSum.integers(0, 1000, addends=3)
    >>> key = SecretKey.generate(SUM)
    >>> total = sums.encrypt(np.array([1, 1000]), key) + sums.encrypt(np.array([2, 1000]), key)
    >>> sums.decrypt(total, key).tolist()
    [3.0, 2000.0]
    """

    def __init__(self, packing: Packing) -> None:
        if packing.slot_bits != _SLOT_BITS:
            raise OutOfRange("slot_bits", f"must be {_SLOT_BITS}")
        if packing.addends > MOST_ADDENDS:
            raise OutOfRange("addends", f"must be 1 ... {MOST_ADDENDS}")
        self.packing = packing

    @classmethod
    def reals(cls, lower: float, upper: float, *, addends: int, bits: int = 16) -> PackedSum:
        """Values in [lower, upper] on a grid of 2^bits points."""
        if not 1 <= bits <= _SLOT_BITS:
            raise OutOfRange("bits", f"must be 1 ... {_SLOT_BITS}")
        step = (upper - lower) / (2.0**bits - 1) or 1.0
        return cls(Packing(float(lower), float(upper), addends, step, _SLOT_BITS))

    @classmethod
    def integers(cls, lower: int, upper: int, *, addends: int) -> PackedSum:
        """Integers in [lower, upper], without any error."""
        return cls(Packing(float(lower), float(upper), addends, 1.0, _SLOT_BITS))

    @property
    def error(self) -> float:
        """How far a sum over all addends can be from the sum of the exact values."""
        return self.packing.error

    def encrypt(self, values: NDArray[Any], key: SecretKey | PublicKey) -> EncryptedVector:
        """One vector. Under the secret key a ciphertext is half as long as under the public one."""
        if key.parameters != SUM:
            raise OutOfRange("key", "must be of the parameters for sums")
        array = np.asarray(values)
        if not 1 <= array.size <= MOST_VALUES:
            raise OutOfRange("values", f"must be 1 ... {MOST_VALUES}")
        encryptor: Any = None
        if isinstance(key, PublicKey):
            encryptor = seal.bindings().Encryptor(seal.context(SUM), key.handle)
        encoder, plaintext = seal.bindings().BatchEncoder(seal.context(SUM)), seal.bindings().Plaintext()
        parts, block = [], _BLOCK * SUM.slots * self.packing.values_per_slot
        for begin in range(0, array.size, block):
            for row in self.packing.pack(array[begin : begin + block], SUM.slots):
                encoder.encode(row.tolist(), plaintext)
                if encryptor is None and isinstance(key, SecretKey):
                    parts.append(key.encrypt_bytes(plaintext))
                else:
                    ciphertext = seal.bindings().Ciphertext()
                    encryptor.encrypt(plaintext, ciphertext)
                    parts.append(ciphertext)
        return EncryptedVector(self.packing, key.fingerprint, array.size, 1, parts)

    def stream(
        self, values: NDArray[Any], key: SecretKey | PublicKey, *, length: int = 10**6
    ) -> Iterator[EncryptedVector]:
        """Vectors of `length` values one after the other, for values (a memory map, say) too many to hold encrypted."""
        if length < 1:
            raise OutOfRange("length", "must be >= 1")
        return (self.encrypt(values[i : i + length], key) for i in range(0, len(values), length))

    def decrypt(self, vector: EncryptedVector, key: SecretKey) -> NDArray[np.float64]:
        """The sums, exact on the grid."""
        if vector.fingerprint != key.fingerprint:
            raise Tampered("key", "the vector is under another key")
        if vector.packing != self.packing:
            raise OutOfRange("packing", "the vector has another packing")
        encoder = seal.bindings().BatchEncoder(seal.context(SUM))
        fields = self.packing.values_per_slot * SUM.slots
        result = np.empty(vector.length)
        for i, ciphertext in enumerate(vector.ciphertexts()):
            if key.noise_bits_left(ciphertext) < 1:
                raise Overflow(
                    "noise", "is too large to be sure of the sum: more was added than independent vectors"
                )
            packed = np.array(encoder.decode_uint64(key.decrypt(ciphertext)), dtype=np.uint64)
            begin = i * fields
            count = min(fields, vector.length - begin)
            result[begin : begin + count] = self.packing.unpack(
                packed.astype(np.int64)[None], count, vector.addends
            )
        return result

    def read(self, message: bytes, fingerprint: bytes) -> EncryptedVector:
        """A vector that somebody sent, under the key of this fingerprint and with this packing; else refused."""
        found, header, parts = envelope.unpack(
            message, _KIND, SUM, fingerprint, _Header, most_part_bytes=SUM.most_ciphertext_bytes
        )
        if header.packing != self.packing:
            raise Malformed(_KIND, "has another packing than was agreed on")
        if not (1 <= header.length <= MOST_VALUES and 1 <= header.addends <= self.packing.addends):
            raise Malformed(_KIND, "has a length or a number of addends out of range")
        if len(parts) != -(-header.length // (SUM.slots * self.packing.values_per_slot)):
            raise WrongLength(_KIND, "must hold as many ciphertexts as its length needs")
        return EncryptedVector(
            self.packing, found, header.length, header.addends, [_ciphertext(p) for p in parts]
        )


def _ciphertext(part: Any) -> Any:
    """A part as SEAL's object; one that is not two polynomials over the first modulus is refused."""
    if not isinstance(part, bytes):
        return part
    loaded = seal.load(seal.bindings().Ciphertext, SUM, part, _KIND)
    expected = list(seal.chain(SUM)[-1][0])
    if loaded.size() != 2 or list(loaded.parms_id()) != expected or loaded.is_ntt_form():
        raise Malformed(_KIND, "not a fresh or added ciphertext of these parameters")
    return loaded
