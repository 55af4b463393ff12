"""What an analyst gets of a model: the fitted model with its privacy, leakage and receipt, as a `Release` is for a query.

`Fitted` holds a plain model (`federated.learn`), `Trained` a network's weights; both are values that travel and are kept like releases. scikit-learn, XGBoost
and torch load only inside the methods that need them.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import query as q
from sandbox.assessment import Contribution, Evaluation, Method
from sandbox.catalog import Schema
from sandbox.errors import QueryError
from sandbox.fit import Fit
from sandbox.prepared import prepared
from sandbox.release import Cost, PrivacyCost, Release
from sandbox.training import Training

from .learn.contribution import Contributions
from .learn.estimators import Models
from .learn.figures import Classified, Figures
from .neural.history import History

if TYPE_CHECKING:
    import pandas as pd

    from sandbox.receipt import Report
    from sandbox.roster import Roster
    from sandbox.table import JointTable

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

    def stated(self) -> Self:
        """What was released: all but cost and receipt."""
        return msgspec.structs.replace(self, cost=NO_COST, receipt=b"", unattested={})

    def digest(self) -> str:
        """SHA-256, hexadecimal, of what was released: what its receipt is about."""
        return q.digest(self.stated()).hex()

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


class _Model(_Result, frozen=True, kw_only=True):
    """What was fitted or trained."""

    @property
    def asked(self) -> Fit | Training:
        """What was asked for."""
        raise NotImplementedError

    def evaluate(
        self,
        table: JointTable,
        *,
        purpose: str,
        epsilon: float | None = None,
        delta: float | None = None,
        by_department: bool = False,
    ) -> Evaluated:
        """How good the model is on the joint rows of `table`, which may have a filter; in one secure sum.

        Of two classes AUC, KS, log-loss, Brier score, calibration, and accuracy and confusion matrix at probability 1/2; of a number R^2, root
        mean squared error and bias; intervals at 95 %. Exactly, under disclosure control, or with `epsilon` differentially private.
        `by_department`: each department's as well, where every owner's `analyses` name "evaluation_by_department". Raises `QueryError` for a model
        without a receipt, or whose columns the table does not have; `Denied`, `BudgetExceeded`, … as a release does.
        """
        if not self.receipt:
            raise QueryError("the model has no receipt: departments evaluate what they have released")
        found: Evaluated = table._evaluate(
            self.asked, self.receipt, by_department, purpose=purpose, epsilon=epsilon, delta=delta
        )
        return found


class Fitted(_Model, frozen=True, kw_only=True, tag="fit"):
    """A fitted model: `model` is a plain value, `to_sklearn()` a fitted scikit-learn estimator, `to_xgboost()` a Booster."""

    fit: Fit
    model: Models

    @property
    def asked(self) -> Fit:
        return self.fit

    def contribution(self, table: JointTable, *, purpose: str, method: Method = "shapley") -> Contributed:
        """How much each department's rows of `table` help this fit, exactly: models of coalitions of departments, each scored on all rows.

        For `LinearRegression`, `LogisticRegression` and `PoissonRegressor` of at most 10 departments, where every owner's `analyses` name
        "contribution": the coordinator sees single departments' sums. `method`: "shapley" or "leave_one_out". Raises as a release does.
        """
        found: Contributed = table._contribution(self.fit, method, purpose=purpose)
        return found

    def matrix(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Rows of one's own [rows, columns], in the columns that the model was fitted on. See `predict` for what is read of `frame`."""
        return self._own(frame)[0]

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """One prediction a row of `frame`, in its order; NaN where a feature is null (unless the fit took nulls: `missing`).

        Classifiers: the probability of the second class; of more than two, a column for each of `model.classes`. Regressions: the mean, in
        the units of the target. `KMeans`: the index of the nearest centre. `PCA`, `StandardScaler`: the row's transformed columns.

        Only the columns that the features are made of are read, neither the target nor those of a filter: every row is scored, also those
        that the fit left out. Raises `CatalogError` where a column lacks, or does not keep its declared type, bounds or categories.
        """
        return scored(self.model.predict, *self._own(frame))

    def _own(self, frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        from sandbox import design_matrix

        return design_matrix.own(frame, design_matrix.design(self.fit, self.schema), self.schema)

    def to_sklearn(self) -> Any:
        """A fitted scikit-learn estimator over the columns of `matrix`."""
        return self.model.to_sklearn()

    def to_xgboost(self) -> Any:
        """A Booster of the package `xgboost`; of boosted trees."""
        return self._only("to_xgboost")()

    def summary(self) -> str:
        """The table of coefficients, as statsmodels prints it; of linear models."""
        return str(self._only("summary")())

    def _only(self, name: str) -> Any:
        """What some models have; raises `QueryError` for another, with what it has."""
        if not hasattr(self.model, name):
            others = [each for each in ("summary", "to_sklearn", "to_xgboost") if hasattr(self.model, each)]
            kind = type(self.fit.estimator).__name__
            raise QueryError(
                f"{kind} has no {name}(); it has model, predict() and {', '.join(f'{each}()' for each in others)}"
            )
        return getattr(self.model, name)

    def __repr__(self) -> str:
        kind = type(self.fit.estimator).__name__
        body = self.summary() if hasattr(self.model, "summary") else repr(self.model)[:2000]
        return "\n".join([f"{kind} on {self.fit.table}", "", body, "", *self._notes()])


class Trained(_Model, frozen=True, kw_only=True, tag="training"):
    """A trained network: `weights` in safetensors, `history` what each round showed."""

    training: Training
    weights: bytes
    history: History

    @property
    def asked(self) -> Training:
        return self.training

    def module(self) -> Any:
        """A torch module with the weights."""
        from .neural import spec

        return spec.module(self.training.layers, self.weights)

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """One prediction a row of `frame`, in its order; NaN where a feature is null (unless the training took nulls: `missing`).

        With squared error the mean, in the units of the target; else the probability of the second class, or of more than two a column for
        each. `module()` gives the network itself, whose outputs are logits, and scaled. What is read of `frame`: see `Fitted.predict`.
        """
        from sandbox import design_matrix, features

        from .neural.scorer import Scorer

        design = features.design(self.training, self.schema)
        scorer = Scorer(self.training, self.weights, design)
        return scored(scorer.predict, *design_matrix.own(frame, design, self.schema))

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


class Evaluated(_Result, frozen=True, kw_only=True, tag="evaluation"):
    """`figures` on the joint rows. `each`: a department's own figures by its name, or why they are not shown."""

    evaluation: Evaluation
    figures: Figures
    each: dict[str, Figures | str] = {}

    @property
    def frame(self) -> pd.DataFrame:
        """The figures, a column for all rows and one for each department."""
        import pandas as pd

        shown = {"all": self.figures} | {
            name: each for name, each in self.each.items() if not isinstance(each, str)
        }
        return pd.DataFrame({name: _told(figures) for name, figures in shown.items()})

    @property
    def calibration(self) -> pd.DataFrame:
        """Mean prediction and share of the second class by range of the probability; raises `QueryError` of a regression."""
        import pandas as pd

        if not isinstance(self.figures, Classified):
            raise QueryError("a regression has no calibration curve")
        return pd.DataFrame([msgspec.structs.asdict(part) for part in self.figures.calibration])

    def __repr__(self) -> str:
        hidden = [f"{name}: {each}" for name, each in sorted(self.each.items()) if isinstance(each, str)]
        title = f"Evaluation on {self.evaluation.table}"
        return "\n".join([title, "", self.frame.to_string(na_rep=""), "", *hidden, *self._notes()])


class Contributed(_Result, frozen=True, kw_only=True, tag="contribution"):
    """`found`: the values of departments, which of Shapley's add up to the total, and every coalition's score."""

    contribution: Contribution
    found: Contributions

    @property
    def frame(self) -> pd.DataFrame:
        """A row a department: its value, and its share of their sum."""
        import pandas as pd

        values = np.array(self.found.values)
        total = values.sum()
        share = values / total if total else np.full(len(values), np.nan)
        return pd.DataFrame({"value": values, "share": share}, index=list(self.found.departments))

    def __repr__(self) -> str:
        title = f"Contributions ({self.found.method}) on {self.contribution.table}: all together explain {self.found.total:.4f} of the deviance"
        return "\n".join([title, "", self.frame.to_string(), "", *self._notes()])


Made = Union[Fitted, Trained, Evaluated, Contributed]
Result = Union[Release, Made]


def _told(figures: Figures) -> dict[str, Any]:
    """Figures as texts, with their intervals."""
    told: dict[str, Any] = {"rows": f"{figures.rows:,}"}
    for name in figures.__struct_fields__:
        value = getattr(figures, name)
        if isinstance(value, float):
            low, high = getattr(figures, f"{name}_interval", None) or (None, None)
            told[name] = f"{value:.4g}" + (f" ({low:.4g} to {high:.4g})" if low is not None else "")
    if isinstance(figures, Classified) and figures.confusion is not None:
        (a, b), (c, d) = figures.confusion
        told |= {"said 1st | is 1st": f"{a:,}", "said 2nd | is 1st": f"{b:,}"}
        told |= {"said 1st | is 2nd": f"{c:,}", "said 2nd | is 2nd": f"{d:,}"}
    return told


def scored(
    predict: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    matrix: NDArray[np.float64],
    complete: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Predictions of the complete rows, among NaN for the others."""
    some = predict(matrix[complete])
    found = np.full((len(matrix), *some.shape[1:]), np.nan)
    found[complete] = some
    return found


def plain(model: Any) -> Any:
    """A model whose numbers are Python's own, as they are after a journey."""
    return msgspec.convert(
        msgspec.to_builtins(model, enc_hook=lambda number: number.item()), prepared(Models)
    )


def decode(data: bytes) -> Result:
    """What was kept of a request; raises `msgspec.MsgspecError`."""
    return msgspec.msgpack.decode(data, type=prepared(Result))
