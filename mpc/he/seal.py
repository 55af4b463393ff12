"""Microsoft SEAL's objects through TenSEAL's low-level bindings (`tenseal.sealapi`): made, saved and loaded.

Why not TenSEAL's vectors: they put a vector into one call and choose layout, scale and levels themselves,
send both halves of a symmetric ciphertext where a seed stands for one, print to standard output, and reset
each other's scale. The bindings underneath are SEAL itself.

Threads: no binding of TenSEAL 0.3 releases Python's global lock, and nothing here starts threads, so that a
node computes on the one core it was given, whatever `n_threads` an application has set for its own contexts.

The bindings save to a path only. Here the path is an anonymous file in memory (`memfd`), or, where the system
has none, a file in a private temporary directory that is removed at once.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mpc.errors import Malformed
from mpc.he.parameters import Parameters

T = TypeVar("T")


def bindings() -> Any:
    """`tenseal.sealapi`, loaded at first use."""
    from tenseal import sealapi

    return sealapi


@functools.lru_cache(maxsize=32)
def context(parameters: Parameters) -> Any:
    """SEAL's tables for these parameters; SEAL checks 128-bit security once more."""
    seal = bindings()
    scheme = seal.SCHEME_TYPE.BFV if parameters.scheme == "bfv" else seal.SCHEME_TYPE.CKKS
    chosen = seal.EncryptionParameters(scheme)
    chosen.set_poly_modulus_degree(parameters.degree)
    chosen.set_coeff_modulus(seal.CoeffModulus.Create(parameters.degree, list(parameters.coefficient_bits)))
    if parameters.plain_bits:
        chosen.set_plain_modulus(seal.PlainModulus.Batching(parameters.degree, parameters.plain_bits))
    made = seal.SEALContext(chosen, True, seal.SEC_LEVEL_TYPE.TC128)
    if not made.parameters_set():
        raise AssertionError(made.parameters_error_message())
    return made


@functools.lru_cache(maxsize=32)
def chain(parameters: Parameters) -> tuple[tuple[tuple[int, ...], int], ...]:
    """For each level from 0, the last, upwards: the identifier of its moduli, and the modulus that leaving it drops."""
    levels, data = [], context(parameters).first_context_data()
    while data is not None:
        levels.append((tuple(data.parms_id()), data.parms().coeff_modulus()[-1].value()))
        data = data.next_context_data()
    return tuple(reversed(levels))


def dump(thing: Any) -> bytes:
    """The bytes of a SEAL object; of a seeded one, the seed instead of the half that it expands to."""
    with _path() as (path, read):
        thing.save(path)
        return read()


def load(kind: type[T], parameters: Parameters, data: bytes, field: str) -> T:
    """A SEAL object from bytes that somebody sent. SEAL checks sizes, ranges and moduli; what it refuses is malformed."""
    loaded = kind()
    with _path(data) as (path, _):
        try:
            loaded.load(context(parameters), path)  # type: ignore[attr-defined]
        except (RuntimeError, ValueError, IndexError, MemoryError, OverflowError) as error:
            raise Malformed(field, "not an object of these parameters") from error
    return loaded


@contextmanager
def _path(content: bytes = b"") -> Iterator[tuple[str, Any]]:
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("mpc.he")
        try:
            if content:
                os.write(descriptor, content)
            yield (
                f"/proc/self/fd/{descriptor}",
                lambda: os.pread(descriptor, os.fstat(descriptor).st_size, 0),
            )
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="mpc-he-") as folder:
        path = os.path.join(folder, "object")
        with open(path, "xb") as file:
            file.write(content)
        yield path, lambda: open(path, "rb").read()  # noqa: SIM115
