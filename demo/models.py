"""The chapter on models: a regression of all departments' rows, exactly and differentially private, beside those that scikit-learn fits on the pooled rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from federated.learn.models import LogisticModel
from federated.results import Evaluated, Fitted
from sandbox.fit import HistGradientBoostingClassifier, LogisticRegression

from . import tables
from .blocks import Block, Chapter, Code, Items, Prose, Table, Verdict, number
from .compare import Compared

if TYPE_CHECKING:
    from .story import Stage

FEATURES = ["age", "sex", "married", "education", "illness", "spending"]
EPSILON = 1.0
CLOSE = 1e-6  # relative: what two solvers of one problem agree to
EXACT = """LogisticRegression(C=None).fit(
    people, features=features, target="insurance", purpose="public-health"
)"""
PRIVATE = EXACT.replace('health"\n', f'health", epsilon={EPSILON:g}\n')
TREES = """HistGradientBoostingClassifier(max_iter=20, max_depth=3, learning_rate=0.3).fit(
    people, features=features, target="insurance", purpose="public-health"
)"""
SCORE = 'model.evaluate(people, purpose="public-health")'


def trained(stage: Stage) -> Chapter:
    left = stage.city.catalog()["epsilon_left"].min()
    exact = _fit(stage, "A logistic regression of who is insured", EXACT)
    private = _fit(stage, f"The same with ε = {EPSILON:g}", PRIVATE)
    trees = _fit(stage, "Boosted trees", TREES)
    joint_model, private_model = cast(LogisticModel, exact.model), cast(LogisticModel, private.model)
    matrix, insured = _pooled(stage.rows)
    coefficients, errors = _reference(matrix, insured)
    pairs = [
        Compared(what, name, float(joint), float(joint), float(joint), float(truth))
        for what, ours, theirs in (
            ("coefficient", joint_model.coefficients, coefficients),
            ("std error", joint_model.standard_errors, errors),
        )
        for name, joint, truth in zip(joint_model.names, ours, theirs, strict=True)
    ]
    worst = max(abs(pair.difference / pair.truth) for pair in pairs)
    noisy = [
        Compared("coefficient", name, float(value), float(low), float(high), float(truth))
        for name, value, (low, high), truth in zip(
            private_model.names,
            private_model.coefficients,
            private_model.interval(),
            coefficients,
            strict=True,
        )
    ]
    models = {"exact": exact, f"ε = {EPSILON:g}": private, "boosted trees": trees}
    scores = {name: _score(stage, model) for name, model in models.items()}
    charged = stage.city.catalog()[["department", "epsilon", "epsilon_left"]]
    blocks: list[Block] = [
        Prose(
            "Models that are made of sums over rows are fitted by secure sums alone, and are then those of the pooled rows. Who has health "
            "insurance? Each step of Newton's method is one secure sum of gradient and curvature."
        ),
        Code(f"features = {FEATURES}\nmodel = {EXACT}"),
        Table(
            "Beside scikit-learn's on the pooled rows",
            ("", "column", "joint", "pooled", "relative difference"),
            tuple(
                (
                    p.statistic,
                    p.cell,
                    number(p.released),
                    number(p.truth),
                    f"{abs(p.difference / p.truth):.1e}",
                )
                for p in pairs
            ),
        ),
        Verdict(
            worst <= CLOSE,
            f"All {len(pairs)} coefficients and standard errors equal the pooled ones within {CLOSE:g} (largest relative difference {worst:.1e})",
        ),
        Items("model.leakage", exact.leakage[-1:]),
        Prose(
            "With an ε the gradients carry noise before they are masked. The intervals below are for sampling and noise, and hold the pooled "
            "coefficients at least 19 times out of 20."
        ),
        Code(f"private = {PRIVATE}"),
        tables.noisy_table("Coefficients of the private model", EPSILON, noisy),
        Code(f"trees = {TREES}\n{SCORE}"),
        Table(
            "How good each is on everybody, by one secure sum of its scores; intervals at 95 %",
            ("model", "rounds", "AUC", "log-loss", "accuracy"),
            tuple((name, str(models[name].cost.rounds), *_figures(score)) for name, score in scores.items()),
        ),
        Verdict(
            all(model.verify(stage.city.roster).ok for model in (*models.values(), *scores.values())),
            f"The receipts of {len(models)} models and {len(scores)} evaluations hold",
        ),
        tables.frame("Privacy budget", charged),
        Verdict(
            0 < left - charged["epsilon_left"].min() < EPSILON,
            f"Beside the queries' the private model has cost {left - charged['epsilon_left'].min():.3g} of one budget, less than its ε alone; exact "
            "models cost no ε, and promise no differential privacy",
        ),
    ]
    return Chapter("Train together", tuple(blocks))


def _fit(stage: Stage, title: str, code: str) -> Fitted:
    names: dict[str, Any] = {
        "people": stage.people,
        "features": FEATURES,
        "LogisticRegression": LogisticRegression,
        "HistGradientBoostingClassifier": HistGradientBoostingClassifier,
    }
    with stage.running(title) as told:
        stage.city.progress = _once(told)
        model = eval(code, names)
    assert isinstance(model, Fitted)
    return model


def _score(stage: Stage, model: Fitted) -> Evaluated:
    with stage.running("How good is it?") as told:
        stage.city.progress = _once(told)
        found = eval(SCORE, {"model": model, "people": stage.people})
    assert isinstance(found, Evaluated)
    return found


def _once(told: Callable[[str], None]) -> Callable[[str], None]:
    """Rounds repeat their stages: each is told once."""
    seen: set[str] = set()

    def tell(stage: str) -> None:
        if not stage.startswith("round ") and stage not in seen:
            seen.add(stage)
            told(stage)

    return tell


def _figures(score: Evaluated) -> tuple[str, str, str]:
    frame = score.frame["all"]
    return tuple(frame[name] for name in ("auc", "log_loss", "accuracy"))


def _pooled(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The features of the pooled rows as numbers, and who is insured."""
    numbers = rows[FEATURES].assign(sex=rows["sex"] == "male")
    return numbers.to_numpy(float), rows["insurance"].to_numpy()


def _reference(matrix: np.ndarray, insured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients by scikit-learn, the intercept first, and their standard errors from the curvature there."""
    from sklearn import linear_model

    found = linear_model.LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(
        matrix, insured
    )
    chance = found.predict_proba(matrix)[:, 1]
    full = np.column_stack([np.ones(len(matrix)), matrix])
    curvature = (full * (chance * (1 - chance))[:, None]).T @ full
    coefficients = np.append(found.intercept_, found.coef_.ravel())
    return coefficients, np.sqrt(np.diag(np.linalg.inv(curvature)))
