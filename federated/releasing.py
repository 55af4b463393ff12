"""From joint sums to a release: statistics, disclosure rules, intervals, what it cost. The coordinator's last step before it records one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sandbox.assessment import Contribution, Evaluation
from sandbox.catalog import Schema
from sandbox.plan import Plan
from sandbox.release import Cost, PrivacyCost, Release, Series
from sandbox.request import Request
from sandbox.training import Training

from . import inference, statistics
from .broker import Modelled, Outcome
from .network import Traffic

if TYPE_CHECKING:
    from .results import Made


def release(request: Request, outcome: Outcome, schema: Schema, leakage: tuple[str, ...]) -> Release:
    """What the analyst gets, before it has a receipt: the strictest of the departments' rules are applied."""
    query, plan = request.query, outcome.joint.plan
    series = _series(outcome, schema.rows_per_unit)
    test = None
    if query.analysis in inference.NAMES:
        suppressed = any(any(s.reasons) for s in series if s.name in ("n", "count"))
        rounding = outcome.rules.rounding if outcome.rules else 0
        seed = int.from_bytes(request.digest()[:4], "big")
        test = inference.run(query, outcome.joint, rounding, suppressed, seed=seed)
    return Release(
        query=query,
        keys=_cells(plan),
        series=series,
        privacy=_privacy(request, outcome, schema),
        departments=outcome.present,
        missing=tuple(sorted(outcome.missing)),
        leakage=leakage,
        test=test,
    )


def model(request: Request, outcome: Modelled, schema: Schema, leakage: tuple[str, ...]) -> Made:
    """The same of a model."""
    from .results import Contributed, Evaluated, Fitted, Trained, plain

    privacy = PrivacyCost("exact", unit=schema.unit or "row")
    if request.privacy is not None:
        asked = request.privacy
        privacy = PrivacyCost(
            "dp", asked.epsilon, asked.delta, outcome.rho, schema.unit or "row", outcome.epsilon_left
        )
    told: dict[str, Any] = {
        "schema": schema,
        "privacy": privacy,
        "departments": outcome.present,
        "missing": tuple(sorted(outcome.missing)),
        "leakage": leakage,
    }
    if isinstance(request.model, Training):
        state = outcome.result
        return Trained(training=request.model, weights=state.result, history=state.history, **told)
    if isinstance(request.model, Evaluation):
        found = outcome.result
        return Evaluated(evaluation=request.model, figures=found.joint, each=found.each, **told)
    if isinstance(request.model, Contribution):
        return Contributed(contribution=request.model, found=outcome.result, **told)
    assert request.model is not None
    return Fitted(fit=request.model, model=plain(outcome.result), **told)


def shown(release: Release) -> tuple[int, ...]:
    """The cells of which any value is shown."""
    reasons = zip(*(series.reasons for series in release.series), strict=True)
    return tuple(i for i, cell in enumerate(reasons) if not all(cell))


def cost(traffic: Traffic, seconds: float) -> Cost:
    """From a department's side: what the broker sent is what it received."""
    return Cost(traffic.rounds, dict(traffic.received), dict(traffic.sent), seconds)


def _series(outcome: Outcome, rows_per_unit: int) -> tuple[Series, ...]:
    series = []
    for measure in outcome.joint.plan.measures:
        estimate = statistics.estimate(measure, outcome.joint, outcome.rules, rows_per_unit)
        values, low, high = (
            tuple(None if np.isnan(value) else value for value in array.tolist())
            for array in (estimate.values, estimate.low, estimate.high)
        )
        series.append(Series(measure.name, values, low, high, tuple(estimate.reasons)))
    return tuple(series)


def _cells(plan: Plan) -> dict[str, tuple[str | int | bool | None, ...]]:
    """Each key's value per cell, in the order of the vector: the last key changes fastest."""
    index = np.indices([len(key.domain) for key in plan.keys]).reshape(len(plan.keys), plan.cells)
    return {key.name: tuple(key.domain[i] for i in row) for key, row in zip(plan.keys, index, strict=True)}


def _privacy(request: Request, outcome: Outcome, schema: Schema) -> PrivacyCost:
    unit = schema.unit or "row"
    if request.privacy is None or outcome.noise is None:
        return PrivacyCost("exact", unit=unit)
    privacy = request.privacy
    return PrivacyCost("dp", privacy.epsilon, privacy.delta, outcome.noise.rho, unit, outcome.epsilon_left)
