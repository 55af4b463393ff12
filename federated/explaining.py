"""What a request will do, in words: its steps, who learns what, and how wrong its results may be."""

from __future__ import annotations

import time

import numpy as np

from mpc.secagg import LEAKAGE, Setting
from sandbox import disclosure, dp, keys
from sandbox import query as q
from sandbox.catalog import Schema
from sandbox.plan import Plan
from sandbox.plan import compile as compile_plan
from sandbox.release import Explanation
from sandbox.request import Request

from . import encoding, inference, statistics
from .broker import Broker, Poll
from .joining import driving, offered, telling

TYPICAL_ROWS = 1000
ROUNDS = {"honest-but-curious": 4, "active": 5}  # decide, masked, [confirm,] unmask, record
SETUP_ROUNDS = 3


def explain(
    broker: Broker,
    signed: keys.Signed,
    request: Request,
    schema: Schema,
    departments: tuple[str, ...],
    leakage: tuple[str, ...],
) -> Explanation:
    """Asks every department what it would decide, which is logged nowhere, and puts the answers into words."""
    joined = request.query.joined is not None
    plan = compile_plan(request.query, schema, exact=request.privacy is None)
    noise = broker.noise(request, plan, schema, len(departments))
    started = time.perf_counter()
    poll = broker.explain(signed, departments, schema)
    latency = time.perf_counter() - started
    if joined:
        wide = offered.wide_of(request)
        told, rounds, size = telling.expected(request, plan, wide, driving.merged(poll.allowed))
    else:
        told = steps(plan, request, departments, broker.setting)
        rounds, size = _expected(broker, plan, schema, departments, poll)
    decisions = {name: d.reasons for name, d in (poll.denied | poll.waiting).items()}
    decisions |= dict.fromkeys(poll.allowed, ())
    return Explanation(
        query=request.query,
        steps=told,
        leakage=leakage,
        decisions=decisions | {name: (reason,) for name, reason in poll.missing.items()},
        epsilon=request.privacy.epsilon if request.privacy else None,
        epsilon_left={n: a.epsilon_left for n, a in poll.allowed.items() if a.epsilon_left is not None},
        errors=expected_errors(plan, schema, noise, len(departments), poll),
        cells=plan.cells,
        rounds=rounds,
        bytes=size + rounds * 1000 * len(departments),
        seconds=rounds * latency + size / 1e8,
    )


def _expected(
    broker: Broker, plan: Plan, schema: Schema, departments: tuple[str, ...], poll: Poll
) -> tuple[int, int]:
    """Rounds, and bytes of all vectors."""
    compared = broker.compared(plan, poll)
    rounds = ROUNDS[broker.setting] + SETUP_ROUNDS
    if compared:
        rounds += ROUNDS[broker.setting] - 2  # all but decide and record once more
    words = encoding.words(plan, schema.max_rows, len(departments)) + compared
    return rounds, 8 * words * len(departments)


def steps(plan: Plan, request: Request, departments: tuple[str, ...], setting: str) -> tuple[str, ...]:
    """What happens, in order."""
    names = ", ".join(departments)
    noise = "" if request.privacy is None else " adds its share of discrete Gaussian noise,"
    compared = (
        " They compare its cells with earlier exact releases, as a secure sum of counts; a joint difference of too few units ends it."
        if request.privacy is None
        else ""
    )
    steps = [
        f"{names} each decide; one no ends it, and nothing is spent.{compared}",
        "Once for a batch of requests, they exchange fresh keys and shares of them, sealed to each other.",
        f"Each charges its privacy ledger and writes the charge into its audit log, both on its disk. It computes {plan.entries} sums over its own rows as SQL in its own database,{noise} masks them, and sends them.",
    ]
    if setting == "active":
        steps.append("Those who remain sign who remained.")
    steps.append(
        "The coordinator adds the masked vectors; those who remain help to take the masks off the sum alone."
    )
    steps.append(
        "Every department's disclosure rules are applied to the joint values, and the statistics are derived."
        if request.privacy is None
        else "The statistics and their intervals are derived from the noisy joint sums."
    )
    steps.append("Each logs the release, and signs its part of the receipt.")
    return tuple(steps)


def leakage(
    plan: Plan, request: Request, departments: tuple[str, ...], setting: Setting, honest: int, here: bool
) -> tuple[str, ...]:
    """Who learns what. `honest` departments add noise enough for all; `here`: the coordinator runs in the analyst's own process."""
    sums = f"{len(plan.components)} sums in each of {plan.cells} cells"
    if plan.leaves:
        sums += f" and {sum(leaf.bins for leaf in plan.leaves)} counts for quantiles in each"
    lines = [
        f"Each department ({', '.join(departments)}) learns the request, who takes part, and nothing of the others' rows.",
        f"Secure aggregation, {setting} coordinator: {LEAKAGE[setting]}",
    ]
    if request.privacy is None:
        lines += [
            f"What the coordinator sees unmasked is joint: {sums}, also of cells that are then suppressed, and "
            "the joint numbers of rows that its cells share with those of earlier releases.",
            "The analyst sees the values that pass every department's disclosure rules. A refusal tells that some difference is small and "
            "not nothing, and what three and more exact releases give together is not looked at: exact values give no differential privacy.",
        ]
    else:
        lines += [
            f"What the coordinator sees unmasked is noisy and joint: {sums}.",
            f"Whatever anyone computes from it is ({request.privacy.epsilon:g}, {request.privacy.delta:g})-differentially private per "
            f"unit, as long as {honest} departments add their noise and keep it.",
        ]
    if request.query.analysis in inference.NAMES:
        lines.append("The test is computed from the same sums, and shows nothing more of any department.")
    if here:
        lines.append(
            "Here the coordinator runs in the analyst's own process, and so the analyst could look at what it sees."
        )
    else:
        lines.append(
            "The coordinator keeps the request and its release for its analyst, for a month; no other analyst can read them."
        )
    return tuple(lines)


def expected_errors(
    plan: Plan, schema: Schema, noise: dp.Noise | None, parties: int, poll: Poll
) -> dict[str, str]:
    """Per statistic the expected half-width of its 95 % interval, with the condition under which it holds."""
    if noise is None:
        rules = disclosure.strictest([a.rules for a in poll.allowed.values() if a.rules] or [disclosure.NONE])
        return {measure.name: _exact_error(rules) for measure in plan.measures}
    joint = statistics.typical(plan, noise, parties, TYPICAL_ROWS)
    errors = {}
    for measure in plan.measures:
        estimate = statistics.estimate(measure, joint, None, schema.rows_per_unit)
        half = float((estimate.high - estimate.low)[0] / 2)
        condition = (
            ""
            if isinstance(measure.aggregate, q.Count | q.Sum)
            else f" in a cell of {TYPICAL_ROWS:,} rows spread over the bounds"
        )
        errors[measure.name] = (
            f"± {half:.3g}{condition}" if np.isfinite(half) else f"no use{condition}: use a larger epsilon"
        )
    return errors


def _exact_error(rules: disclosure.Rules) -> str:
    rounding = f"sums rounded to multiples of {rules.rounding} row bounds" if rules.rounding else "none"
    return f"{rounding}; suppressed below {rules.min_cell} units" if rules.min_cell else rounding
