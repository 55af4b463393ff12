"""A pandas frame under encryption, to try out in a notebook what an evaluator could compute without seeing it.

    frame, key = EncryptedFrame.encrypt(applicants, bounds={"age": (18, 75), "income": (0, 200_000)})
    frame.mean().decrypt(key)
    frame.score({"age": 0.02, "income": 1e-5}, intercept=-1).decrypt(key)

Protects: the frame, its means and its scores can be handed to an evaluator, as they hold no secret key; the values
stay with whoever holds `key`. The evaluator learns the names and bounds of columns and the number of rows.
Bounds are declared, never taken from the data, which they would tell about. Does not protect: nothing proves that
an evaluator computed what was asked. Decrypted results must not go back to the evaluator as they are
(Li and Micciancio, Eurocrypt 2021): `publishable` adds the noise that makes it safe.

For scores between two departments that do not trust each other, with the model hidden too: `mpc.he.scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpc.errors import OutOfRange, Tampered
from mpc.he import arithmetic, circuit, columns, flooding, models, poly, seal
from mpc.he.keys import EvaluationKey, SecretKey
from mpc.he.parameters import Parameters, score_parameters

if TYPE_CHECKING:
    import pandas as pd

LEVELS = 2
DEGREE, MOST_LEVELS = 16384, 5  # that many levels of 58 bits have room there


class EncryptedFrame:
    """Numeric columns, one ciphertext for each block of rows; made by `encrypt`. Operations leave it as it is."""

    def __init__(
        self,
        features: tuple[models.Feature, ...],
        rows: int,
        key: EvaluationKey,
        blocks: Sequence[Sequence[arithmetic.Number]],
    ) -> None:
        self._features = features
        self._rows = rows
        self._key = key
        self._blocks = blocks
        self._arithmetic = arithmetic.Arithmetic(key.parameters, key)

    @classmethod
    def encrypt(
        cls, frame: pd.DataFrame, *, bounds: Mapping[str, tuple[float, float]], levels: int = LEVELS
    ) -> tuple[EncryptedFrame, SecretKey]:
        """The columns that `bounds` names, and the key to them. Values outside of their bounds are refused."""
        features = models.features_of(bounds)
        values = columns.checked(features, {name: frame[name].to_numpy() for name in bounds if name in frame})
        if not features or not len(frame):
            raise OutOfRange("frame", "must have one column and one row or more")
        parameters = score_parameters(levels, DEGREE if levels <= MOST_LEVELS else None)
        secret = SecretKey.generate(parameters)
        key = secret.evaluation_key(multiply=levels > 1, rotations=arithmetic.rotations_of_total(parameters))
        plan, slots = arithmetic.Arithmetic(parameters, key), parameters.slots
        blocks = [
            [
                plan.fresh(secret.encrypt(columns.encode(parameters, column[begin : begin + slots])))
                for column in columns.scaled(features, values, trees=False)
            ]
            for begin in range(0, len(frame), slots)
        ]
        return cls(features, len(frame), key, blocks), secret

    @property
    def columns(self) -> list[str]:
        return [feature.name for feature in self._features]

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<EncryptedFrame of {self._rows} rows: {', '.join(self.columns)}>\n{self._summary()}"

    def mean(self) -> EncryptedResult:
        """The mean of each column; one level."""
        means = []
        for j in range(len(self._features)):
            added = self._arithmetic.add([block[j] for block in self._blocks])
            total = self._arithmetic.total(added)  # first: dividing afterwards divides its noise, too
            means.append([self._arithmetic.combine([total], [1 / self._rows], magnitude=1.0)])
        return EncryptedResult("mean", self.columns, means, self._units(1.0), None, self._key.parameters)

    def sum(self) -> EncryptedResult:
        """The sum of each column: its mean, times the number of rows once decrypted; one level."""
        found = self.mean()
        units = self._units(float(self._rows))
        return EncryptedResult("sum", self.columns, found.numbers, units, None, self._key.parameters)

    def score(self, model: models.Model | Mapping[str, float], *, intercept: float = 0.0) -> EncryptedResult:
        """One score a row: weights by column, or any model of `mpc.he.models` that the levels suffice for."""
        if isinstance(model, Mapping):
            unknown = set(model) - set(self.columns)
            if unknown:
                raise OutOfRange("weights", f"name columns that are not there: {', '.join(sorted(unknown))}")
            weights = [float(model.get(name, 0.0)) for name in self.columns]
            model = models.linear(self._features, weights, intercept)
        if model.features != self._features or isinstance(model.body, models.Forest):
            raise OutOfRange("model", "must be linear or a network, of this frame's columns and bounds")
        compiled = circuit.compile_model(model)
        outputs = [circuit.run(compiled, self._arithmetic, block) for block in self._blocks]
        names = ["score"] if model.outputs == 1 else [f"score {i}" for i in range(model.outputs)]
        numbers = [[output[i] for output in outputs] for i in range(model.outputs)]
        units = [(compiled.scale, 0.0)] * len(names)
        return EncryptedResult(
            "score",
            names,
            numbers,
            units,
            self._rows,
            self._key.parameters,
            deviation=compiled.deviation,
            link=model.link,
        )

    def explain(self) -> str:
        """What the evaluator sees, what it can still compute, and how exact that is."""
        first = self._blocks[0][0]
        columns_text = "\n".join(
            f"  {feature.name}: in [{feature.lower:g}, {feature.upper:g}], each value to "
            f"{first.noise.sup * (feature.upper - feature.lower) / 2:.2g}"
            for feature in self._features
        )
        rotations = ", ".join(map(str, self._key.rotations))
        return (
            f"{self._summary()}\n"
            f"The evaluator sees {self._rows} rows, these columns and bounds, and no value:\n{columns_text}\n"
            f"It holds a key for {'multiplications and ' if self._key.relinearise else ''}rotations by {rotations}; "
            f"means, sums and linear scores take one of {_levels(first.level)}."
        )

    def _units(self, factor: float) -> list[tuple[float, float]]:
        return [(factor * (f.upper - f.lower) / 2, factor * (f.upper + f.lower) / 2) for f in self._features]

    def _summary(self) -> str:
        first = self._blocks[0][0]
        size = sum(len(seal.dump(number.ciphertext)) for block in self._blocks[:1] for number in block[:1])
        size *= len(self._blocks) * len(self._features)
        return (
            f"{self._key.parameters}; {size / 1e6:.1f} MB, {_levels(first.level)} left, "
            f"each value to {first.noise.sup:.1g} of half its range"
        )


class EncryptedResult:
    """Named results under encryption: one value each, or one value a row (`rows`)."""

    def __init__(
        self,
        kind: str,
        names: list[str],
        numbers: list[list[arithmetic.Number]],
        units: list[tuple[float, float]],
        rows: int | None,
        parameters: Parameters,
        *,
        deviation: float = 0.0,
        link: models.Link = "identity",
    ) -> None:
        self.kind = kind
        self.names = names
        self.numbers = numbers
        self._units = units
        self._rows = rows
        self._parameters = parameters
        self._deviation = deviation
        self._link = link

    @property
    def error(self) -> dict[str, float]:
        """How far each result may be from the plaintext one, before the link."""
        return {
            name: self._deviation
            + abs(unit) * max(number.noise.sup for number in numbers)
            + 1e-13 * abs(offset)
            for name, numbers, (unit, offset) in zip(self.names, self.numbers, self._units, strict=True)
        }

    def __repr__(self) -> str:
        bounds = ", ".join(f"{name} to {error:.2g}" for name, error in self.error.items())
        left = min(number.level for numbers in self.numbers for number in numbers)
        return f"<Encrypted {self.kind}: {bounds}; {_levels(left)} left>"

    def decrypt(self, key: SecretKey) -> pd.Series | pd.DataFrame:
        """The results, for the owner of the key alone: a Series of values, or a frame with one row a row."""
        linear = self._linear(key)
        return linear if self._link == "identity" else poly.function_of(self._link)(linear)

    def publishable(self, key: SecretKey, *, queries: int = 1) -> pd.Series | pd.DataFrame:
        """The results with noise added, which may be shown to the evaluator; `queries` results in all, ever."""
        exact = self._linear(key)
        errors = [self.error[name] for name in self.names]
        noisy, _ = flooding.publishable(exact.to_numpy() / errors, 1.0, queries=queries)
        shown = exact.copy()
        shown[:] = noisy * errors
        return shown if self._link == "identity" else poly.function_of(self._link)(shown)

    def _linear(self, key: SecretKey) -> pd.Series | pd.DataFrame:
        import numpy as np
        import pandas as pd

        found: dict[str, Any] = {}
        for name, numbers, (unit, offset) in zip(self.names, self.numbers, self._units, strict=True):
            if any(number.fingerprint != key.fingerprint for number in numbers):
                raise Tampered("key", "the result is under another key")
            slots = np.concatenate([columns.decrypt(key, number.ciphertext) for number in numbers])
            found[name] = slots[: self._rows or 1] * unit + offset
        if self._rows is None:
            return pd.Series({name: float(values[0]) for name, values in found.items()}, name=self.kind)
        return pd.DataFrame(found)


def _levels(count: int) -> str:
    return f"{count} level{'s' * (count != 1)}"
