"""Sums -> words -> joint sums: exact integers stay exact, and one unit moves a noisy vector by no more than the stated sensitivity."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from federated import encoding
from mpc.errors import Overflow
from sandbox import col, corr, count, cov, dp
from sandbox import query as q
from sandbox.catalog import Column, DataSet
from sandbox.engine import Engine, LocalSums
from sandbox.errors import ParameterError
from sandbox.plan import compile as compile_plan

COLUMNS = {
    "who": Column("identifier"),
    "region": Column("category", categories=("n", "s"), nullable=True),
    "age": Column("integer", (0, 99), nullable=True),
    "debt": Column("integer", (-(2.0**50), 2.0**50)),
    "income": Column("real", (-7.0, 1000.0), nullable=True),
}
AGGREGATES = (
    count(),
    col("age").sum(),
    col("age").mean(),
    col("income").var(),
    col("debt").std(),
    corr("age", "income"),
    cov("debt", "income"),
    col("age").median(),
    col("income").quantile(0.9),
)
FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate])


def dataset(rows_per_unit=1, unit="who"):
    return DataSet("general-1", ("p",), COLUMNS, unit=unit, rows_per_unit=rows_per_unit, max_rows=1000)


def plan_of(*aggregates, keys=("region",), exact=True, declared=None):
    named = tuple(q.Named(a.name, a.aggregate) for a in aggregates)
    return compile_plan(q.Query("t", named, keys), (declared or dataset()).schema(), exact=exact)


def key(seed):
    """Randomness for `encode` that is the same each time."""
    return lambda size: np.random.default_rng(seed).bytes(size)


def extremes(plan, generator, rows=1000):
    """Sums as large as the declared bounds and `max_rows` allow, with random signs."""
    components = []
    for spec in plan.components:
        top = spec.bound * rows
        chosen = [(-top, top, 0, 1)[i] for i in generator.integers(0, 4, plan.cells)]
        components.append(np.array(chosen, object))
    leaves = [generator.integers(0, rows + 1, (plan.cells, spec.bins)) for spec in plan.leaves]
    return LocalSums(components, leaves)


@pytest.mark.parametrize("keys", [(), ("region",)])
@pytest.mark.parametrize("departments", [1, 3, 100])
def test_exact_sums_arrive_unchanged_up_to_the_largest_that_are_declared(keys, departments):
    plan = plan_of(*AGGREGATES, keys=keys)
    generator = np.random.default_rng(departments)
    layout = {"max_rows": 1000, "parties": departments}
    several = [extremes(plan, generator) for _ in range(departments)]
    vectors = [encoding.encode(plan, sums, None, **layout, random_bytes=key(0)) for sums in several]
    assert {len(vector) for vector in vectors} == {encoding.words(plan, **layout)}
    joint = encoding.decode(plan, sum(vectors[1:], vectors[0]), None, **layout, present=departments)
    for i in range(len(plan.components)):
        expected = sum(sums.components[i] for sums in several)
        assert [int(value) for value in joint.components[i]] == expected.tolist()
    for i in range(len(plan.leaves)):
        assert (joint.leaves[i][0] == sum(sums.leaves[i] for sums in several)).all()
    assert joint.deviations == [0.0] * len(plan.components)


def test_a_sum_beyond_what_is_declared_is_refused_before_it_is_sent():
    plan = plan_of(count())
    for i, spec in enumerate(plan.components):
        sums = LocalSums([np.zeros(plan.cells, object) for _ in plan.components], [])
        sums.components[i][0] = spec.bound * 3 * 1000 + 1
        with pytest.raises(Overflow):
            encoding.encode(plan, sums, None, max_rows=1000, parties=3, random_bytes=key(0))


@pytest.mark.parametrize("departments", [2, 5])
def test_noisy_sums_are_off_by_noise_and_half_a_grid_step_alone(departments):
    plan = plan_of(*AGGREGATES, exact=False)
    noise = dp.noise_for(plan, 1, 0.5, departments)
    layout = {"max_rows": 1000, "parties": departments}
    generator = np.random.default_rng(1)
    several = [extremes(plan, generator) for _ in range(departments)]
    nothing = LocalSums(
        [np.zeros(plan.cells, object) for _ in plan.components],
        [np.zeros((plan.cells, spec.bins), np.int64) for spec in plan.leaves],
    )

    def joint(parts):
        vectors = [
            encoding.encode(plan, part, noise, **layout, random_bytes=key(i)) for i, part in enumerate(parts)
        ]
        assert {len(vector) for vector in vectors} == {plan.entries} == {encoding.words(plan, **layout)}
        return encoding.decode(plan, sum(vectors[1:], vectors[0]), noise, **layout, present=departments)

    full, empty = joint(several), joint([nothing] * departments)  # the same noise, and nothing but noise
    for i, spec in enumerate(plan.components):
        unit = spec.bound * 2.0**-spec.exponent
        expected = np.array([float(v) for v in sum(s.components[i] for s in several)]) * 2.0**-spec.exponent
        difference = full.components[i] - empty.components[i]
        assert np.abs(difference - expected).max() <= departments * unit / noise.grid / 2 * (1 + 1e-9)
        assert full.deviations[i] == pytest.approx(noise.variance(departments) ** 0.5 * unit)
    for i, spec in enumerate(plan.leaves):
        counts = sum(sums.leaves[i] for sums in several)
        for level, (bins, noisy, base) in enumerate(
            zip(spec.levels, full.leaves[i], empty.leaves[i], strict=True)
        ):
            width = 16**level
            expected = [
                [cell[start : start + width].sum() for start in range(0, spec.bins, width)] for cell in counts
            ]
            assert noisy.shape == (plan.cells, bins)
            assert np.array_equal(noisy - base, np.array(expected, float))


values = st.tuples(
    st.sampled_from(["n", "s", None]),
    st.one_of(st.none(), st.integers(0, 99), st.sampled_from([0, 99])),
    st.sampled_from([-(2**50), 0, 12345, 2**50]),
    st.one_of(st.none(), st.floats(-7.0, 1000.0), st.sampled_from([-7.0, 1000.0])),
)


def frame(rows):
    made = pd.DataFrame(rows, columns=["who", *list(COLUMNS)[1:]])
    made["who"] = made["who"].astype("int64")
    made["region"] = made["region"].astype("str")
    made["age"] = pd.array(made["age"], dtype="Int64")
    made["debt"] = made["debt"].astype("int64")
    made["income"] = made["income"].astype(float)
    return made


@FEW
@given(
    others=st.lists(values, max_size=8),
    unit=st.lists(values, min_size=1, max_size=3),
    chosen=st.sets(st.sampled_from(range(len(AGGREGATES))), min_size=1),
)
def test_one_unit_moves_the_vector_by_no_more_than_its_sensitivity(others, unit, chosen):
    """Neighbouring tables, the same noise: the distance of the two vectors, over rows of one unit that are as far out as allowed."""
    declared = dataset(rows_per_unit=3)
    plan = plan_of(*(AGGREGATES[i] for i in sorted(chosen)), exact=False, declared=declared)
    noise = dp.noise_for(plan, declared.rows_per_unit, 0.1, 3)
    without = [(i, *row) for i, row in enumerate(others)]
    tables = (without, [*without, *((99, *row) for row in unit)])
    vectors = [
        encoding.encode(
            plan,
            Engine("t", declared, frame(rows)).sums(plan, bounded=True),
            noise,
            max_rows=1000,
            parties=3,
            random_bytes=key(0),
        )
        for rows in tables
    ]
    moved = (vectors[1] - vectors[0]).view(np.int64).astype(float)
    assert np.linalg.norm(moved) <= noise.sensitivity


def test_the_sensitivity_is_reached_but_for_the_rounding():
    """The bound is not slack: rows at the bounds, all of one unit in one cell, come within 1 % of it."""
    declared = dataset(rows_per_unit=3)
    plan = plan_of(count(), col("debt").mean(), exact=False, declared=declared)
    noise = dp.noise_for(plan, 3, 0.1, 3)
    row = (99, "n", 99, 2**50, 1000.0)
    vectors = [
        encoding.encode(
            plan,
            Engine("t", declared, frame(rows)).sums(plan, bounded=True),
            noise,
            max_rows=1000,
            parties=3,
            random_bytes=key(0),
        )
        for rows in ([], [row] * 3)
    ]
    moved = (vectors[1] - vectors[0]).view(np.int64).astype(float)
    assert 0.99 * noise.sensitivity <= np.linalg.norm(moved) <= noise.sensitivity


def test_noise_that_the_sampler_cannot_vouch_for_is_refused():
    plan = plan_of(*AGGREGATES, exact=False)
    rho = dp.rho_of(1.0, 1e-9)
    assert encoding.check_noise(plan, 1, rho, 3, 1e-9) == dp.noise_for(plan, 1, rho, 3)
    with pytest.raises(ParameterError, match="'delta' is 1e-36"):
        encoding.check_noise(plan, 1, rho, 3, 1e-36)
