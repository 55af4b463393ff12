"""A request on a joined table -> the question that the protocol answers. Every party makes it for itself, and answers no other.

The first of the joined tables is the probe. An exact request that follows other exact ones has a question before its own: how many people its
cells share with theirs, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpc.join import Column, Columns, Question
from mpc.join import Less as Compared
from sandbox import differencing, dp
from sandbox.differencing import Released
from sandbox.errors import QueryError
from sandbox.joining.earlier import Earlier
from sandbox.joining.split import NOTHING, Less, Reference, Split, comparison
from sandbox.joining.wide import Wide
from sandbox.members import layers
from sandbox.plan import Component, Plan
from sandbox.plan import compile as compile_plan
from sandbox.query import canonical
from sandbox.request import Request

from ..encoding import JointSums

Counts = NDArray[np.int64]


def plan_of(request: Request, wide: Wide) -> Plan:
    return compile_plan(request.query, wide.schema, exact=request.privacy is None)


def question(split: Split, wide: Wide, *, noise: bool) -> Question:
    columns = {
        name: Columns(len(local.marks), tuple(word.bound for word in local.words))
        for name, local in split.locals.items()
    }
    probe, *tables = wide.departments
    terms = tuple(tuple(map(_factor, term)) for term in split.terms)
    return Question(probe, tuple(tables), columns, terms, noise, split.scales if noise else ())


def _factor(factor: Reference | Less) -> Column | Compared:
    if isinstance(factor, Less):
        return Compared(_column(factor.left), _column(factor.right))
    return _column(factor)


def _column(reference: Reference) -> Column:
    return Column(reference.department, "flag" if reference.kind == "flag" else "word", reference.number)


def compared(plan: Plan, earlier: Sequence[Earlier], wide: Wide) -> tuple[Split, tuple[Released, ...]]:
    """The counts that the earlier releases are compared by, and those releases, a layer each, as `sandbox.differencing` names them.

    Raises `QueryError` where they are too many to be compared.
    """
    listed: list[tuple[Plan, int, tuple[int, ...]]] = []
    released: list[Released] = []
    for release in earlier:
        other = compile_plan(release.query, wide.schema, exact=True)
        shape = tuple(len(key.domain) for key in other.keys)
        for layer in range(len(layers(other))):
            name = release.request if layer == 0 else f"{release.request}/{layer}"
            listed.append((other, layer, release.shown))
            released.append(Released(name, shape, release.shown))
    try:
        return comparison(plan, listed, wide), tuple(released)
    except QueryError as error:
        raise QueryError(
            f"to be compared with {len(earlier)} earlier exact releases, {error}, or give an epsilon"
        ) from None


def counts(split: Split, sums: Counts, plan: Plan, released: Sequence[Released]) -> Counts:
    """`differencing.layout` of each layer: int64 [layers, entries]."""
    assert len(split.places) == len(layers(plan)) * differencing.layout(plan.cells, released)
    return vector(split, sums).reshape(len(layers(plan)), -1)


def vector(split: Split, sums: Counts) -> Counts:
    """Each entry's sum."""
    padded = np.append(sums, 0)
    assert NOTHING == -1  # the last
    return padded[np.array(split.places, np.int64)]


def digest(request: Request, earlier: Sequence[Earlier] | None = None) -> bytes:
    """What names the join of a request; with `earlier`, the comparison before it."""
    if earlier is None:
        return request.digest()
    return hashlib.sha256(b"compared" + request.digest() + canonical(tuple(earlier))).digest()


def joint(split: Split, sums: Counts, noise: dp.Noise | None, departments: int) -> JointSums:
    """The sums as those of a plan on one table are: exact integers, or floats in the units of the data."""
    plan, cells, entries = split.plan, split.plan.cells, vector(split, sums)
    real = [component.kind == "rows" for component in plan.components]
    stacked = entries[: cells * sum(real)].reshape(-1, cells)
    leaves, start = [], stacked.size
    for spec in plan.leaves:
        levels = []
        for bins in spec.levels:
            levels.append(entries[start : start + cells * bins].reshape(cells, bins))
            start += cells * bins
        leaves.append(levels)
    if noise is None:
        rows = stacked[plan.components.index(Component())]
        own = iter(stacked)
        everybody = np.where(rows > 0, departments, 0)  # each row is of every department
        components = [next(own) if summed else everybody for summed in real]
        return JointSums(plan, departments, components, leaves, [0.0] * len(components))
    deviation = noise.variance(departments) ** 0.5
    units = [float(np.ldexp(float(c.bound), -c.exponent)) for c in plan.components]
    return JointSums(
        plan,
        departments,
        [row / noise.grid * unit for row, unit in zip(stacked, units, strict=True)],
        [[level / noise.grid for level in levels] for levels in leaves],
        [deviation * unit for unit in units],
        deviation,
    )
