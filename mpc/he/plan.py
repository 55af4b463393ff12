"""Levels, scales and errors of scoring a model, settled before anything is encrypted.

A plan runs the model's circuit on bounds alone, for the parameters with the fewest levels and the least degree
that keep the error within the tolerance, and refuses when there are none. Its error has three parts, each a bound:

    approximation   polynomials instead of functions            (zero for linear models and trees)
    evaluation      noise of encryption and of every operation  (all slots at once with probability > 1 - 2^-40)
    flooding        noise that the evaluator adds to hide how it computed (`mpc.he.flooding`)
"""

from __future__ import annotations

import msgspec

from mpc.errors import OutOfRange, Overflow
from mpc.he import bounds, flooding
from mpc.he.arithmetic import Arithmetic, Number
from mpc.he.circuit import Circuit, columns_of, compile_model, run
from mpc.he.models import Forest, Model
from mpc.he.parameters import MOST_LEVELS, Parameters, score_parameters

TOLERANCE = 1e-3


class Errors(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bounds of a score's error before the link, in the score's own unit."""

    approximation: float
    evaluation: float
    flooding: float

    @property
    def total(self) -> float:
        return self.approximation + self.evaluation + self.flooding


class Plan(msgspec.Struct, frozen=True):
    circuit: Circuit
    parameters: Parameters
    errors: Errors
    noise: float  # root mean square of what flooding hides, divided by the output scale
    flooding_bits: int
    multiplies: bool

    def explain(self) -> str:
        """What will be computed, at which cost and error, in words."""
        columns = len(columns_of(self.circuit.model.features, isinstance(self.circuit.model.body, Forest)))
        errors, levels = self.errors, self.parameters.levels
        return "\n".join(
            [
                str(self.parameters),
                f"{levels} level{'s' * (levels != 1)}, {self.parameters.slots} rows at a time, {columns} columns a row",
                f"scores in [-{self.circuit.scale:g}, {self.circuit.scale:g}] to {errors.total:.2g}: "
                f"approximation {errors.approximation:.2g}, evaluation {errors.evaluation:.2g}, "
                f"flooding {errors.flooding:.2g}",
            ]
        )


def plan(model: Model, *, tolerance: float = TOLERANCE, flooding_bits: int = flooding.BITS) -> Plan:
    """The cheapest parameters whose total error stays below `tolerance` times the bound of the outputs."""
    if not 0 < tolerance <= 1:
        raise OutOfRange("tolerance", "must lie in (0, 1]")
    circuit = compile_model(model)
    if circuit.deviation > tolerance * circuit.scale:
        reached = circuit.deviation / circuit.scale
        raise OutOfRange(
            "tolerance",
            f"is below the polynomials' own error, {reached:.2g} of the outputs' bound: raise degrees or narrow bounds",
        )
    levels = _levels(circuit)
    multiplies = levels > 1
    for degree in (8192, 16384, 32768):
        try:
            parameters = score_parameters(levels, degree)
            outputs = dry_run(circuit, parameters)
        except (OutOfRange, Overflow):
            continue
        noise = max(output.noise.rms for output in outputs)
        zero = bounds.public_zero(parameters) * (1 / outputs[0].scale)
        evaluation = max(output.noise.sup for output in outputs) + zero.sup + bounds.doubles(1.0)
        flood = flooding.sup(parameters, noise, flooding_bits)
        errors = Errors(circuit.deviation, evaluation * circuit.scale, flood * circuit.scale)
        if errors.total <= tolerance * circuit.scale:
            return Plan(circuit, parameters, errors, noise, flooding_bits, multiplies)
    raise OutOfRange("tolerance", f"cannot be kept over {levels} levels at 128-bit security")


def dry_run(circuit: Circuit, parameters: Parameters) -> list[Number]:
    arithmetic = Arithmetic(parameters)
    trees = isinstance(circuit.model.body, Forest)
    inputs = [arithmetic.fresh() for _ in columns_of(circuit.model.features, trees)]
    return run(circuit, arithmetic, inputs)


def _levels(circuit: Circuit) -> int:
    """Levels that the circuit uses, found by a run with more than enough."""
    ample = Parameters("ckks", 32768, (60, *[45] * MOST_LEVELS, 60))
    try:
        return ample.levels - min(output.level for output in dry_run(circuit, ample))
    except Overflow as error:
        raise OutOfRange(
            "model", f"needs more than {MOST_LEVELS} levels, or wider ones than there are"
        ) from error
