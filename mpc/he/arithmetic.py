"""CKKS on vectors of reals whose size, error and level are known before anything is encrypted.

A `Number` is one vector of slots: a ciphertext, or no ciphertext at all when a computation is only planned.
`Arithmetic` runs the same code for both, so what is planned is what happens: each operation bounds the result's
magnitude and error and refuses when the levels are used up or the scale would not fit into the moduli.
Scales are tracked exactly; operands of different scale meet by choosing the scale of the constants they are
multiplied with, never by pretending that two scales are equal.

Follows Cheon, Kim, Kim and Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", Asiacrypt 2017, in
the residue form that SEAL implements. Protects nothing by itself: see `mpc.he.scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpc.errors import OutOfRange, Overflow, Tampered
from mpc.he import bounds, seal
from mpc.he.bounds import Noise
from mpc.he.keys import EvaluationKey
from mpc.he.parameters import Parameters


class Number:
    """A vector of reals under encryption. Immutable; operations make new ones.

    `magnitude` bounds the true values, `noise` (in the values' own unit) what a decoded value is off by, at a
    `level` with that many multiplications left.
    """

    __slots__ = ("ciphertext", "fingerprint", "level", "magnitude", "noise", "scale")

    def __init__(
        self,
        magnitude: float,
        noise: Noise,
        level: int,
        scale: float,
        ciphertext: Any = None,
        fingerprint: bytes = b"",
    ) -> None:
        self.magnitude = magnitude
        self.noise = noise
        self.level = level
        self.scale = scale
        self.ciphertext = ciphertext
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"<Number |x| <= {self.magnitude:.3g} to {self.noise.sup:.2g}, {self.level} levels left>"


class Arithmetic:
    """Operations under one set of parameters: planned without a key, computed with one."""

    def __init__(self, parameters: Parameters, key: EvaluationKey | None = None) -> None:
        if parameters.scheme != "ckks" or (key is not None and key.parameters != parameters):
            raise OutOfRange("parameters", "must be CKKS parameters, the key's own")
        self.parameters = parameters
        self._key = key
        self._chain = seal.chain(parameters) if key is not None else ()
        if key is not None:
            context = seal.context(parameters)
            self._encoder, self._evaluator = (
                seal.bindings().CKKSEncoder(context),
                seal.bindings().Evaluator(context),
            )

    def fresh(self, ciphertext: Any = None, magnitude: float = 1.0) -> Number:
        """A vector as it was encrypted."""
        scale = self.parameters.scale
        noise = bounds.fresh(self.parameters) * (1 / scale)
        noise = noise.plus(Noise(bounds.doubles(magnitude), bounds.doubles(magnitude)))
        fingerprint = self._key.fingerprint if self._key else b""
        return Number(magnitude, noise, self.parameters.levels, scale, ciphertext, fingerprint)

    def combine(
        self,
        numbers: Sequence[Number],
        weights: Sequence[float],
        constant: float = 0.0,
        *,
        magnitude: float | None = None,
        rows: int | None = None,
    ) -> Number:
        """sum of w_i x_i + constant, for one level; `magnitude` if the result is known to be smaller than it might be.

        Weights become integers at a scale that gives all terms one; each is off by half a unit at most. With `rows`,
        all slots from there on become zero, at no further level.
        """
        if not numbers or len(numbers) != len(weights):
            raise OutOfRange("weights", "must be one for each of one or more numbers")
        level = self._multipliable(numbers)
        modulus = self._modulus(level)
        target = self.parameters.scale
        scales = [target * modulus / number.scale for number in numbers]
        least = float(
            self.parameters.slots
        )  # an integer this large encodes to more than nothing, masked or not
        exact = [float(w) if abs(w) * s >= least else 0.0 for w, s in zip(weights, scales, strict=True)]
        if not any(exact):
            exact[0] = 2 * least / scales[0]  # SEAL has no ciphertext of nothing
        if magnitude is None:
            magnitude = abs(constant) + sum(
                abs(w) * n.magnitude for w, n in zip(weights, numbers, strict=True)
            )
        unit = 2 * bounds.encoded(self.parameters, constant) / target
        noise = self._rescaled(target).plus(Noise(bounds.doubles(abs(constant)) + unit, 0.0))
        for number, weight, used, scale in zip(numbers, weights, exact, scales, strict=True):
            wrong = abs(weight - used) + bounds.doubles(abs(used))
            wrong += bounds.encoded(self.parameters, used) / scale
            noise = noise.plus(number.noise * (abs(weight) + wrong), Noise(number.magnitude * wrong, 0.0))
        self._check_room(magnitude, target, level - 1, "scale")
        self._check_room(magnitude, target * modulus, level, "scale")
        result = Number(magnitude, noise, level - 1, target, None, self._common(numbers))
        if self._key is None:
            return result
        total = seal.bindings().Ciphertext()
        self._sum_of_products(numbers, exact, scales, level, total, rows)
        self._evaluator.rescale_to_next_inplace(total)
        total.scale = target
        if constant:
            self._add_constant(total, constant, level - 1, target, rows)
        result.ciphertext = total
        return result

    def product(
        self,
        a: Number,
        b: Number,
        *,
        twice: bool = False,
        minus: Number | None = None,
        magnitude: float | None = None,
    ) -> Number:
        """a b for one level; with `twice` and `minus`, 2 a b - c (or 2 a b - 1 if c is absent), as Chebyshev polynomials need.

        `magnitude` as in `combine`: |T_k| <= 1, an indicator is 0 or 1.
        """
        level = self._multipliable([a, b, *([minus] if minus else [])])
        modulus, factor = self._modulus(level), 2 if twice else 1
        before = a.scale * b.scale
        target = before / modulus
        if magnitude is None:
            magnitude = factor * a.magnitude * b.magnitude + (minus.magnitude if minus else twice)
        noise = Noise(
            factor * (a.magnitude * b.noise.sup + b.magnitude * a.noise.sup + a.noise.sup * b.noise.sup),
            factor * (a.magnitude * b.noise.rms + b.magnitude * a.noise.rms + a.noise.sup * b.noise.rms),
        )
        noise = noise.plus(
            self._rescaled(target), bounds.key_switch(self.parameters, level + 1) * (factor / before)
        )
        if minus is not None:
            wrong = minus.scale / before
            noise = noise.plus(minus.noise * (1 + wrong), Noise(minus.magnitude * wrong, 0.0))
        self._check_room(magnitude, before, level, "scale")
        result = Number(magnitude, noise, level - 1, target, None, self._common([a, b]))
        if self._key is None:
            return result
        if self._key.relinearise is None:
            raise OutOfRange("evaluation key", "does not allow multiplications")
        total, x = seal.bindings().Ciphertext(), self._at(a, level)
        if a is b:
            self._evaluator.square(x, total)
        else:
            self._evaluator.multiply(x, self._at(b, level), total)
        self._evaluator.relinearize_inplace(total, self._key.relinearise)
        if twice:
            self._evaluator.add_inplace(total, total)
        if minus is not None:
            subtracted = seal.bindings().Ciphertext()
            self._sum_of_products([minus], [1.0], [before / minus.scale], level, subtracted)
            total.scale = subtracted.scale = before
            self._evaluator.sub_inplace(total, subtracted)
        elif twice:
            total.scale = before
            self._add_constant(total, -1.0, level, before)
        self._evaluator.rescale_to_next_inplace(total)
        total.scale = target
        result.ciphertext = total
        return result

    def complement(self, number: Number) -> Number:
        """1 - x, for a number in [0, 1]; no level."""
        noise = number.noise.plus(Noise(bounds.doubles(1.0) + 1 / number.scale, 1 / number.scale))
        result = Number(1.0, noise, number.level, number.scale, None, number.fingerprint)
        if self._key is not None:
            total = seal.bindings().Ciphertext()
            self._evaluator.negate(number.ciphertext, total)
            self._add_constant(total, 1.0, number.level, number.scale)
            result.ciphertext = total
        return result

    def add(self, numbers: Sequence[Number]) -> Number:
        """The sum of numbers of one level and scale; no level."""
        first = numbers[0]
        if any((n.level, n.scale) != (first.level, first.scale) for n in numbers):
            raise OutOfRange("numbers", "must be of one level and scale to be added")
        magnitude = sum(n.magnitude for n in numbers)
        noise = bounds.NOTHING.plus(*(n.noise for n in numbers))
        self._check_room(magnitude, first.scale, first.level, "sum")
        result = Number(magnitude, noise, first.level, first.scale, None, self._common(numbers))
        if self._key is not None:
            total = seal.bindings().Ciphertext()
            self._evaluator.add_many([n.ciphertext for n in numbers], total)
            result.ciphertext = total
        return result

    def total(self, number: Number) -> Number:
        """The sum of all slots, in every slot, by rotations of 1, 2, 4, ...; no level."""
        slots, step = self.parameters.slots, 1
        noise, switch = (
            number.noise,
            bounds.key_switch(self.parameters, number.level + 1) * (1 / number.scale),
        )
        while step < slots:
            noise, step = (noise * 2).plus(switch), 2 * step
        magnitude = number.magnitude * slots
        self._check_room(magnitude, number.scale, number.level, "sum")
        result = Number(magnitude, noise, number.level, number.scale, None, number.fingerprint)
        if self._key is not None:
            if not set(rotations_of_total(self.parameters)) <= set(self._key.rotations):
                raise OutOfRange("evaluation key", "does not allow the rotations of a sum")
            current = number.ciphertext
            for step in rotations_of_total(self.parameters):
                rotated, total = seal.bindings().Ciphertext(), seal.bindings().Ciphertext()
                self._evaluator.rotate_vector(current, step, self._key.rotate, rotated)
                self._evaluator.add(current, rotated, total)
                current = total
            result.ciphertext = current
        return result

    # what the operations need

    def _multipliable(self, numbers: Sequence[Number]) -> int:
        """The level at which they meet, which must not be the last."""
        self._common(numbers)
        level = min(number.level for number in numbers)
        if level < 1:
            raise Overflow("levels", f"all {self.parameters.levels} multiplications in a row are used up")
        return level

    def _common(self, numbers: Sequence[Number]) -> bytes:
        if len({number.fingerprint for number in numbers}) > 1:
            raise Tampered("key", "numbers under different keys cannot meet")
        return numbers[0].fingerprint

    def _modulus(self, level: int) -> float:
        """What leaving a level divides by: the prime itself, or its size when nothing is computed."""
        return float(self._chain[level][1]) if self._chain else 2.0 ** self.parameters.coefficient_bits[level]

    def _rescaled(self, scale: float) -> Noise:
        return bounds.rounding(self.parameters) * (1 / scale)

    def _check_room(self, magnitude: float, scale: float, level: int, field: str) -> None:
        """2 |x| scale, with half a bit to spare, must stay below the moduli that are left."""
        bits = sum(self.parameters.coefficient_bits[: level + 1])
        if not magnitude * scale < 2.0 ** (bits - 1.5):
            raise Overflow(field, f"values up to {magnitude:.3g} do not fit into {bits} bits of moduli")

    def _at(self, number: Number, level: int) -> Any:
        """The ciphertext at a lower level, without touching the one given."""
        if number.level == level:
            return number.ciphertext
        lowered = seal.bindings().Ciphertext()
        self._evaluator.mod_switch_to(number.ciphertext, list(self._chain[level][0]), lowered)
        return lowered

    def _add_constant(
        self, total: Any, constant: float, level: int, scale: float, rows: int | None = None
    ) -> None:
        """In two halves: SEAL's encoder wants a bit more room than a ciphertext needs."""
        half = self._encoded(constant / 2, level, scale, rows)
        self._evaluator.add_plain_inplace(total, half)
        self._evaluator.add_plain_inplace(total, half)

    def _encoded(self, value: float, level: int, scale: float, rows: int | None = None) -> Any:
        plaintext = seal.bindings().Plaintext()
        slots = float(value) if rows is None else [float(value)] * rows
        self._encoder.encode(slots, list(self._chain[level][0]), scale, plaintext)
        return plaintext

    def _sum_of_products(
        self,
        numbers: Sequence[Number],
        weights: Sequence[float],
        scales: Sequence[float],
        level: int,
        total: Any,
        rows: int | None = None,
    ) -> None:
        """sum of w_i x_i, each weight at its own scale; terms too small to encode are left out (and in the bound)."""
        term, started = seal.bindings().Ciphertext(), False
        common = numbers[0].scale * scales[0]
        for number, weight, scale in zip(numbers, weights, scales, strict=True):
            if not weight:
                continue
            into = term if started else total
            self._evaluator.multiply_plain(
                self._at(number, level), self._encoded(weight, level, scale, rows), into
            )
            into.scale = common  # equal but for the last bit of a double
            if started:
                self._evaluator.add_inplace(total, term)
            started = True


def rotations_of_total(parameters: Parameters) -> tuple[int, ...]:
    """The steps that the sum over all slots rotates by."""
    return tuple(1 << i for i in range((parameters.slots - 1).bit_length()))
