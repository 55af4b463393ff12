"""What the owner of the rows gets: scores, how far each may be from the model's own, who learned what, and the receipt."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import receipt as receipts
from sandbox.scoring.request import Request

if TYPE_CHECKING:
    import pandas as pd

    from sandbox.roster import Roster

SLOPES = {"identity": 1.0, "logistic": 0.25}  # of links: how much an error before the link can be after it


class Scored(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """`values`: rows by outputs. `error`: bound of each, before the link. `spread`: of noise that was added to publish, before the link.

    `release`: the digest of the encrypted scores, which the receipt is about.
    """

    model: str
    values: NDArray[np.float64]
    error: float
    link: str
    spread: float | None
    index: Any
    leakage: tuple[str, ...]
    receipt: bytes
    release: str
    sent: int
    received: int
    seconds: float

    @property
    def bound(self) -> float:
        """How far any score may be from the model's own: absolute, or, for an exponential link, as a share of it. Not counting `spread`."""
        return float(np.expm1(self.error)) if self.link == "exp" else self.error * SLOPES[self.link]

    @property
    def frame(self) -> pd.DataFrame:
        """The scores beside the rows' own index."""
        import pandas as pd

        names = (
            ["score"] if self.values.shape[1] == 1 else [f"score {i}" for i in range(self.values.shape[1])]
        )
        return pd.DataFrame(self.values, self.index, names)

    def verify(self, roster: Roster) -> receipts.Report:
        """Check that the receipt is of these scores and holds."""
        return receipts.verify(self.receipt, roster, release=self.release)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        unit = " of itself" if self.link == "exp" else ""
        noise = "" if self.spread is None else f", with noise of {self.spread:.2g} before the link"
        return (
            f"Scores of {len(self):,} rows by {self.model}, each to {self.bound:.2g}{unit}{noise}; "
            f"{self.sent:,} bytes sent, {self.received:,} received, {self.seconds:.2f} s"
        )

    def _repr_html_(self) -> str:
        learned = "".join(f"<li>{html.escape(line)}</li>" for line in self.leakage)
        return (
            f"<p>{html.escape(repr(self))}</p>{self.frame.head()._repr_html_()}"
            f"<details><summary>Who learned what</summary><ul>{learned}</ul></details>"
        )


def leakage(request: Request, features: int) -> tuple[str, ...]:
    """Who learned what of a request."""
    analyst, department = request.analyst, request.department
    return (
        f"{department} learns that {analyst} asked for {request.rows:,} scores, for {request.purpose!r}. It sees ciphertexts of the rows: "
        f"no value, and no score.",
        f"The coordinator learns the same, and sizes; what it passes on is encrypted, and signed by {analyst} and {department}.",
        f"{analyst} learns the scores, and of the model its features, their bounds and the scale of its output. Scores tell about the model: "
        f"were it linear, {features + 1} would give it away, and {department}'s quotas are to say how many are too many.",
        f"Whoever shows {department} scores as they were decrypted shows it the secret key: `publishable=True` adds the noise that "
        "makes them safe to show.",
    )
