"""What an analyst gets of a model: the fitted model with its privacy, leakage and receipt, as a `Release` is for a query.

`Fitted` holds a plain model (`federated.learn`), `Trained` a network's weights; both are values that travel and are kept like releases. scikit-learn, XGBoost
and torch load only inside the methods that need them.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import query as q
from sandbox.catalog import DataSet, Schema
from sandbox.fit import Fit
from sandbox.release import Cost, PrivacyCost, Release
from sandbox.training import Training

from .learn.estimators import Models
from .neural.history import History

if TYPE_CHECKING:
    import pandas as pd

    from sandbox.receipt import Report
    from sandbox.roster import Roster

NO_COST = Cost(0, {}, {}, 0.0)


class _Result(msgspec.Struct, frozen=True, kw_only=True, tag_field="result"):
    """What all models carry. `missing` names departments that vanished; `unattested` gave no evidence for the receipt, and why."""

    schema: Schema
    privacy: PrivacyCost
    departments: tuple[str, ...]
    missing: tuple[str, ...]
    leakage: tuple[str, ...]
    cost: Cost = NO_COST
    receipt: bytes = b""
    unattested: dict[str, str] = {}

    def digest(self) -> str:
        """SHA-256, hexadecimal, of what was released: what its receipt is about. Cost and receipt are not part of it."""
        return q.digest(msgspec.structs.replace(self, cost=NO_COST, receipt=b"", unattested={})).hex()

    def verify(self, roster: Roster) -> Report:
        """Check that the receipt is of this model and holds; `roster`: `city.roster`, or one read from a file."""
        from sandbox import receipt

        return receipt.verify(self.receipt, roster, release=self.digest())

    def _notes(self) -> list[str]:
        privacy = self.privacy
        notes = [
            f"Departments: {', '.join(self.departments)}"
            + (f"; missing: {', '.join(self.missing)}" if self.missing else "")
        ]
        if privacy.mode == "dp":
            left = ", ".join(f"{name} {value:.3g}" for name, value in sorted(privacy.epsilon_left.items()))
            notes.append(
                f"Differentially private per {privacy.unit}: ε = {privacy.epsilon:g}, δ = {privacy.delta:g}. ε left: {left}."
            )
        notes.append(
            f"{self.cost.rounds} rounds, {sum(self.cost.sent.values()):,} bytes sent, {self.cost.seconds:.2f} s."
        )
        return notes

    def _repr_html_(self) -> str:
        learned = "".join(f"<li>{html.escape(line)}</li>" for line in self.leakage)
        return f"<pre>{html.escape(repr(self))}</pre><details><summary>Who learned what</summary><ul>{learned}</ul></details>"


class Fitted(_Result, frozen=True, kw_only=True, tag="fit"):
    """A fitted model: `model` is a plain value, `to_sklearn()` a fitted scikit-learn estimator, `to_xgboost()` a Booster."""

    fit: Fit
    model: Models

    def matrix(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Rows of one's own as the columns that the model was fitted on; raises `CatalogError` where they do not keep the schema."""
        from sandbox.design_matrix import design, read
        from sandbox.engine import Engine

        dataset = DataSet("general-1", (), self.schema.columns, max_rows=max(len(frame), 1))
        _, rows = read(Engine(self.fit.table, dataset, frame), design(self.fit, self.schema), bounded=False)
        return rows.matrix

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """The prediction for each row that takes part (`matrix`): of classifiers the probability of the second class."""
        return self.model.predict(self.matrix(frame))

    def to_sklearn(self) -> Any:
        """A fitted scikit-learn estimator over the columns of `matrix`."""
        return self.model.to_sklearn()

    def to_xgboost(self) -> Any:
        """A Booster of the package `xgboost`; of boosted trees."""
        return self.model.to_xgboost()  # type: ignore[union-attr]

    def summary(self) -> str:
        """The table of coefficients, as statsmodels prints it; of linear models."""
        return str(self.model.summary())  # type: ignore[union-attr]

    def __repr__(self) -> str:
        kind = type(self.fit.estimator).__name__
        body = self.summary() if hasattr(self.model, "summary") else repr(self.model)[:2000]
        return "\n".join([f"{kind} on {self.fit.table}", "", body, "", *self._notes()])


class Trained(_Result, frozen=True, kw_only=True, tag="training"):
    """A trained network: `weights` in safetensors, `history` what each round showed."""

    training: Training
    weights: bytes
    history: History

    def module(self) -> Any:
        """A torch module with the weights."""
        from .neural import spec

        return spec.module(self.training.layers, self.weights)

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """The outputs for each of one's own rows that takes part; raises `CatalogError` where they do not keep the schema."""
        import torch

        from sandbox import features
        from sandbox.design_matrix import read
        from sandbox.engine import Engine

        from .neural import features as inputs

        dataset = DataSet("general-1", (), self.schema.columns, max_rows=max(len(frame), 1))
        design = features.design(self.training, self.schema)
        _, rows = read(Engine(self.training.table, dataset, frame), design, bounded=False)
        with torch.no_grad():
            return np.asarray(self.module()(inputs.data(rows, design).x), np.float64)

    def __repr__(self) -> str:
        lines = [
            f"Training on {self.training.table}: {len(self.history.points)} rounds, {self.history.stopped}"
        ]
        measured = [point for point in self.history.points if point.loss is not None]
        if measured:
            best = min(measured, key=lambda point: point.loss or 0.0)
            accuracy = f", accuracy {best.accuracy:.3f}" if best.accuracy is not None else ""
            lines.append(f"best validation: loss {best.loss:.4f}{accuracy} (round {best.round})")
        return "\n".join([*lines, "", *self._notes()])


Result = Union[Release, Fitted, Trained]


def plain(model: Any) -> Any:
    """A model whose numbers are Python's own, as they are after a journey."""
    return msgspec.convert(msgspec.to_builtins(model, enc_hook=lambda number: number.item()), Models)


def decode(data: bytes) -> Result:
    """What was kept of a request; raises `msgspec.MsgspecError`."""
    return msgspec.msgpack.decode(data, type=Result)
