"""Keys of homomorphic encryption, each of its own type, so that none is mistaken for another.

    SecretKey      decrypts, encrypts symmetrically; leaves the process only by `save` into a file of mode 0600
    PublicKey      encrypts; anybody may have it
    EvaluationKey  lets an evaluator multiply and rotate, only as far as a job needs; anybody may have it

Protects: a secret key cannot be pickled, copied, printed or put into a message by accident; every message
names its key by a fingerprint, so keys are not mixed. Does not protect: memory of the process (secrets live
in SEAL's memory and are forgotten, not overwritten by us), nor a file that somebody with the owner's rights
reads. Keys follow SEAL: uniform ternary secrets, errors of standard deviation 3.2.

The fingerprint is HKDF-SHA256 (RFC 5869) of the secret key: it tells nothing about a secret of that entropy.
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc.errors import Malformed, OutOfRange
from mpc.he import envelope, seal
from mpc.he.envelope import NoHeader
from mpc.he.parameters import FINGERPRINT_BYTES, Parameters


class _Rotations(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    multiply: bool
    rotations: tuple[int, ...]


class _Key:
    """What all keys have: parameters, and the fingerprint of the secret that they belong to."""

    kind = "key"

    def __init__(self, parameters: Parameters, fingerprint: bytes) -> None:
        self.parameters = parameters
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.fingerprint.hex()[:8]}, {self.parameters}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise OutOfRange(self.kind, "is never pickled or copied; keys travel by their own methods")


class PublicKey(_Key):
    """Encrypts, for whoever holds the secret key."""

    kind = "public key"

    def __init__(self, parameters: Parameters, fingerprint: bytes, handle: Any) -> None:
        super().__init__(parameters, fingerprint)
        self.handle = handle

    def to_bytes(self) -> bytes:
        parts = [seal.dump(self.handle)]
        return envelope.pack(self.kind, self.parameters, self.fingerprint, NoHeader(), parts)

    @classmethod
    def from_bytes(cls, message: bytes, parameters: Parameters) -> PublicKey:
        most = 2 * parameters.most_ciphertext_bytes
        fingerprint, _, parts = envelope.unpack(
            message, cls.kind, parameters, None, NoHeader, most_part_bytes=most
        )
        if len(parts) != 1:
            raise Malformed(cls.kind, "must be one object")
        return cls(
            parameters, fingerprint, seal.load(seal.bindings().PublicKey, parameters, parts[0], cls.kind)
        )


class EvaluationKey(_Key):
    """What an evaluator needs to multiply (`relinearise`) and to rotate by the listed steps (`rotate`)."""

    kind = "evaluation key"

    def __init__(
        self,
        parameters: Parameters,
        fingerprint: bytes,
        relinearise: Any,
        rotate: Any,
        rotations: tuple[int, ...],
    ) -> None:
        super().__init__(parameters, fingerprint)
        self.relinearise = relinearise
        self.rotate = rotate
        self.rotations = rotations

    def to_bytes(self) -> bytes:
        """A message with whatever this key holds."""
        parts = [seal.dump(handle) for handle in (self.relinearise, self.rotate) if handle is not None]
        header = _Rotations(self.relinearise is not None, self.rotations)
        return envelope.pack(self.kind, self.parameters, self.fingerprint, header, parts)

    @classmethod
    def from_bytes(cls, message: bytes, parameters: Parameters) -> EvaluationKey:
        primes = len(parameters.coefficient_bits)
        most = 2 * 32 * (primes**2) * parameters.degree * 8
        fingerprint, header, parts = envelope.unpack(
            message, cls.kind, parameters, None, _Rotations, most_part_bytes=most
        )
        kinds = [seal.bindings().RelinKeys] * header.multiply
        kinds += [seal.bindings().GaloisKeys] * bool(header.rotations)
        if len(parts) != len(kinds):
            raise Malformed(cls.kind, "does not hold what its header says")
        handles = [
            seal.load(kind, parameters, part, cls.kind) for kind, part in zip(kinds, parts, strict=True)
        ]
        relinearise = handles.pop(0) if header.multiply else None
        rotate: Any = handles[0] if handles else None
        elements = [_automorphism(parameters, step) for step in header.rotations]
        if not all(rotate.has_key(element) for element in elements) or (
            relinearise is not None and not relinearise.has_key(2)
        ):
            raise Malformed(cls.kind, "does not hold what its header says")
        return cls(parameters, fingerprint, relinearise, rotate, header.rotations)


class SecretKey(_Key):
    """Decrypts. `generate` makes one; the other keys are made from it.

    >>> from mpc.he.parameters import SUM
    >>> key = SecretKey.generate(SUM)
    >>> key.public_key().fingerprint == key.fingerprint
    True
    """

    kind = "secret key"

    def __init__(self, parameters: Parameters, fingerprint: bytes, handle: Any) -> None:
        super().__init__(parameters, fingerprint)
        self._handle = handle
        self._decryptor = seal.bindings().Decryptor(seal.context(parameters), handle)
        self._encryptor = seal.bindings().Encryptor(seal.context(parameters), handle)

    @classmethod
    def generate(cls, parameters: Parameters) -> SecretKey:
        generator = seal.bindings().KeyGenerator(seal.context(parameters))
        handle = generator.secret_key()
        derive = HKDF(SHA256(), FINGERPRINT_BYTES, parameters.digest, b"mpc.he fingerprint").derive
        return cls(parameters, derive(seal.dump(handle)), handle)

    def public_key(self) -> PublicKey:
        handle = seal.bindings().PublicKey()
        self._generator().create_public_key(handle)
        return PublicKey(self.parameters, self.fingerprint, handle)

    def evaluation_key(self, *, multiply: bool = False, rotations: Iterable[int] = ()) -> EvaluationKey:
        """Only what is asked for: a key that rotates by any step would be tens of times larger."""
        bindings, generator, steps = seal.bindings(), self._generator(), tuple(sorted(set(rotations)))
        elements = [_automorphism(self.parameters, step) for step in steps]
        relinearise = rotate = None
        if multiply:
            relinearise = bindings.RelinKeys()
            generator.create_relin_keys(relinearise)
        if steps:
            rotate = bindings.GaloisKeys()
            generator.create_galois_keys(elements, rotate)
        return EvaluationKey(self.parameters, self.fingerprint, relinearise, rotate, steps)

    def encrypt(self, plaintext: Any) -> Any:
        """A ciphertext to compute with."""
        ciphertext = seal.bindings().Ciphertext()
        self._encryptor.encrypt_symmetric(plaintext, ciphertext)
        return ciphertext

    def encrypt_bytes(self, plaintext: Any) -> bytes:
        """A ciphertext to send: half the length, a seed in place of its uniform half."""
        return seal.dump(self._encryptor.encrypt_symmetric(plaintext))

    def decrypt(self, ciphertext: Any) -> Any:
        plaintext = seal.bindings().Plaintext()
        self._decryptor.decrypt(ciphertext, plaintext)
        return plaintext

    def noise_bits_left(self, ciphertext: Any) -> int:
        """Bits between the noise of a BFV ciphertext and the first wrong value."""
        return int(self._decryptor.invariant_noise_budget(ciphertext))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a new file that only its owner can read."""
        message = self.expose()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(message)
            file.flush()
            os.fsync(descriptor)

    @classmethod
    def load(cls, path: str | os.PathLike[str], parameters: Parameters) -> SecretKey:
        """From a file that `save` wrote; refused if others than its owner may read it."""
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise OutOfRange("secret key file", "must be readable by its owner only (mode 0600)")
        return cls.from_exposed(pathlib.Path(path).read_bytes(), parameters)

    def expose(self) -> bytes:
        """The secret itself, for a file or an encrypted channel of the caller's; the one way to get at it."""
        return envelope.pack(
            self.kind, self.parameters, self.fingerprint, NoHeader(), [seal.dump(self._handle)]
        )

    @classmethod
    def from_exposed(cls, message: bytes, parameters: Parameters) -> SecretKey:
        most = parameters.most_ciphertext_bytes * 2
        fingerprint, _, parts = envelope.unpack(
            message, cls.kind, parameters, None, NoHeader, most_part_bytes=most
        )
        if len(parts) != 1:
            raise Malformed(cls.kind, "must be one object")
        return cls(
            parameters, fingerprint, seal.load(seal.bindings().SecretKey, parameters, parts[0], cls.kind)
        )

    def _generator(self) -> Any:
        return seal.bindings().KeyGenerator(seal.context(self.parameters), self._handle)


def _automorphism(parameters: Parameters, step: int) -> int:
    """Rotating the slots by a step is the automorphism X -> X^(3^step)."""
    if not 0 < step < parameters.degree // 2:
        raise OutOfRange("rotations", f"must be 1 ... {parameters.degree // 2 - 1}")
    return pow(3, step, 2 * parameters.degree)
