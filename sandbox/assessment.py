"""What may be asked of a model that was released: how good it is on joint rows, and whose rows made it so. Frozen values, as `sandbox.fit`'s.

An `Evaluation` holds the receipt of the model's own release. So the analyst's signature covers which model is scored, and each department checks
that it is one which came through the departments' doors: not one that was made up, by an analyst or the coordinator, to tell one row from the others.
Neither is a `Fit`: their answers are not models, and owners permit them by names of their own. Where single departments' values are shown, an owner
must have named the analysis in `analyses` (`policy.NAMED`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from . import query as q
from .errors import EvidenceError, ParameterError, QueryError
from .fit import Fit, LinearRegression, LogisticRegression, PoissonRegressor
from .query import Node
from .training import Training

if TYPE_CHECKING:
    from .receipt import Statement
    from .roster import Roster

Method = Literal["shapley", "leave_one_out"]
SUMS = (LinearRegression, LogisticRegression, PoissonRegressor)
LARGEST_RECEIPT = 1 << 18


class Evaluation(Node, frozen=True, tag="evaluation"):
    """Score a released model on the rows of `of`: what was asked for when it was made, with the table and filter of the rows to score.

    `receipt`: of the model's release. `by_department`: each department's own figures too.
    """

    of: Fit | Training
    receipt: Annotated[bytes, msgspec.Meta(max_length=LARGEST_RECEIPT)]
    by_department: bool = False

    @property
    def table(self) -> str:
        return self.of.table

    def statement(self) -> Statement:
        """What the receipt says of the model, unverified; raises `QueryError`."""
        from . import receipt

        try:
            return receipt.read(self.receipt).receipt.statement
        except EvidenceError as error:
            raise QueryError(f"the model's receipt cannot be read: {error}") from None

    def check(self, roster: Roster) -> None:
        """Raise `QueryError` unless the receipt holds: the model was released, by departments of this roster."""
        from . import receipt

        failed = receipt.verify(self.receipt, roster).failed
        if failed:
            raise QueryError(f"the model's receipt does not hold: {failed[0]}")


class Contribution(Node, frozen=True, tag="contribution"):
    """How much each department's rows help `fit`, which is made of sums: models of coalitions of departments, scored on all rows."""

    fit: Fit
    method: Method = "shapley"

    @property
    def table(self) -> str:
        return self.fit.table

    def check(self) -> None:
        """Raise `ParameterError` for a fit that is not made of sums."""
        if not isinstance(self.fit.estimator, SUMS):
            names = ", ".join(kind.__name__ for kind in SUMS)
            raise ParameterError(f"contributions are for estimators made of sums: {names}")


def on(of: Fit | Training, table: q.Name, where: q.Expression | None) -> Fit | Training:
    """The same with other rows."""
    changed: Fit | Training = msgspec.structs.replace(of, table=table, where=where)
    return msgspec.structs.replace(changed, rounds=None) if isinstance(changed, Fit) else changed
