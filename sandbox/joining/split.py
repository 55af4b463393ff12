"""A plan on a joined table -> what each department computes of its own rows, and sums of products of those.

A department turns its columns into *marks*, a yes or no a row, and *words*, whole numbers a row: group codes, nulls, products and bins that
are of its columns alone. What its filter leaves out it passes as nobody. Each entry of the plan's vector is then one sum

    over the people whom every table knows    of the product of at most one mark or word of each department

so that only products over departments, and comparisons of whole numbers between two (`Less`), are left to the protocol. Sums are exact
integers below 2^63: numbers of one department have 62 bits less those of the rows, and products of two half of that each. A condition or an
aggregated expression that mixes departments in another way is refused in words.

`comparison` does the same for the counts that `sandbox.differencing` takes: people in each new cell, each earlier one, and both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from .. import bounds
from .. import query as q
from ..catalog import MAX_INTEGER
from ..dp import JOINED_GRID
from ..errors import QueryError
from ..members import Layer, layers
from ..plan import GRID_BITS, Component, Factor, Key, Leaves, Plan
from .conditions import Comparison, Conditions, apart_by, conditions_of, holder_of
from .wide import Wide

MOST_ROWS = 1 << 22  # of a table in a join
MOST_TERMS = 8192
PRIVATE_BITS = JOINED_GRID.bit_length() - 1  # with noise, a row contributes at most this to an entry
NOTHING = -1  # the place of a sum that is 0 whatever the rows are


class Mark(msgspec.Struct, frozen=True):
    """A yes or no a row: all conditions hold, all terms are present, each key has this place in its domain, a number lies in this bin."""

    conditions: tuple[q.Expression, ...] = ()
    present: tuple[q.Expression, ...] = ()
    keys: tuple[tuple[Key, int], ...] = ()
    bin: tuple[Leaves, int, int] | None = None  # of which level, from the leaves up

    def both(self, other: Mark) -> Mark | None:
        """Where both hold; None where that is nowhere."""
        places = dict(self.keys)
        if any(places.setdefault(key, place) != place for key, place in other.keys):
            return None
        return Mark(
            tuple(dict.fromkeys((*self.conditions, *other.conditions))),
            tuple(dict.fromkeys((*self.present, *other.present))),
            tuple(places.items()),
        )


class Word(msgspec.Struct, frozen=True):
    """A whole number a row: the value of a component where the mark holds, else 0. With a `grid`, moved to -grid ... grid."""

    component: Component
    mark: Mark = Mark()
    grid: int = 0

    @property
    def bound(self) -> int:
        return self.grid or self.component.bound


class Local(msgspec.Struct, frozen=True):
    """What one department computes of its rows; those that fail a condition of `where`, or lack a term of `present`, are nobody's."""

    where: tuple[q.Expression, ...] = ()
    present: tuple[q.Expression, ...] = ()
    marks: tuple[Mark, ...] = ()
    words: tuple[Word, ...] = ()


class Reference(msgspec.Struct, frozen=True):
    """One of a department's marks or words."""

    department: str
    kind: str
    number: int


class Less(msgspec.Struct, frozen=True):
    """Whether one department's word is less than another's."""

    left: Reference
    right: Reference


Term = tuple[Reference | Less, ...]


class Split(msgspec.Struct, frozen=True):
    """`terms` are summed; entry i of the vector is term `places[i]`, times `scales` of it. `plan` has the bounds that hold here."""

    plan: Plan
    locals: dict[str, Local]
    terms: tuple[Term, ...]
    scales: tuple[int, ...]
    places: tuple[int, ...]


def split(plan: Plan, wide: Wide) -> Split:
    """Of a plan that was compiled on `wide.schema`; raises `QueryError` for what cannot be computed apart."""
    limit = limit_of(wide)
    filtered = conditions_of(plan.where, wide)
    builder = Builder(wide, distinct=plan.exact)
    components = [bounded(component, wide, limit) for component in plan.components]
    compared = builder.compared(filtered)
    for component, (_, pieces) in zip(plan.components, components, strict=True):
        if component.kind != "rows":
            continue
        lacking = {name: Mark(present=terms) for name, terms in apart_by(component.requires, wide).items()}
        words = sum(bool(piece.factors) for piece in pieces.values())
        for cell in _cells(plan):
            marks = _merged(lacking, _codes(plan, cell, wide))
            builder.entry(marks, pieces, words, compared, plan.exact)
    for leaves in plan.leaves:
        holder = holder_of(leaves.term, wide, "quantile")
        local = msgspec.structs.replace(leaves, term=wide.local(leaves.term))
        for level, bins in enumerate(leaves.levels):
            for cell, place in itertools.product(_cells(plan), range(bins)):
                own = {holder: Mark(bin=(local, level, place))}
                builder.entry(_merged(own, _codes(plan, cell, wide)), {}, 0, compared, plan.exact)
    changed = msgspec.structs.replace(plan, components=tuple(component for component, _ in components))
    return builder.done(changed, filtered.local, filtered.needed)


def comparison(plan: Plan, earlier: Sequence[tuple[Plan, int, tuple[int, ...]]], wide: Wide) -> Split:
    """`differencing.layout` of every layer of `plan`, against the shown cells of one layer each of earlier plans."""
    builder = Builder(wide, distinct=True)
    old = [
        _cohort(other, layers(other)[layer], _cell(other, cell), wide)
        for other, layer, shown in earlier
        for cell in shown
    ]
    for layer in layers(plan):
        new = [_cohort(plan, layer, cell, wide) for cell in _cells(plan)]
        builder.cohort(_Cohort({}, ()))
        for cohort in (*new, *old):
            builder.cohort(cohort)
        for one, other in itertools.product(new, old):
            builder.cohort(one.both(other))
    return builder.done(plan, {}, {})


class _Cohort(msgspec.Struct, frozen=True):
    marks: dict[str, Mark]
    compared: tuple[Comparison, ...]

    def both(self, other: _Cohort) -> _Cohort | None:
        marks = dict(self.marks)
        for name, mark in other.marks.items():
            found = marks.get(name, Mark()).both(mark)
            if found is None:
                return None
            marks[name] = found
        return _Cohort(marks, tuple(dict.fromkeys((*self.compared, *other.compared))))


class Builder:
    """Collects marks, words and terms, each once; with `distinct` equal sums are one."""

    def __init__(self, wide: Wide, *, distinct: bool):
        self._wide, self._distinct = wide, distinct
        self._marks: dict[str, dict[Mark, int]] = {name: {} for name in wide.departments}
        self._words: dict[str, dict[Word, int]] = {name: {} for name in wide.departments}
        self._terms: list[tuple[Term, int]] = []
        self._known: dict[Term, int] = {}
        self._places: list[int] = []

    def entry(
        self,
        marks: Mapping[str, Mark],
        pieces: Mapping[str, Component],
        words: int,
        compared: tuple[Less, ...],
        exact: bool,
    ) -> None:
        """The sum of a product: of each department its word, where it has one, else its mark."""
        factors: list[Reference | Less] = []
        grid = 0 if exact else 1 << PRIVATE_BITS // max(words, 1)
        for name in self._wide.departments:
            mark, piece = marks.get(name, Mark()), pieces.get(name)
            if piece is not None and piece.factors:
                factors.append(self._word(name, Word(piece, mark, grid)))
            elif mark != Mark():
                factors.append(self._mark(name, mark))
        self._add((*factors, *compared), 1 if exact or words else 1 << PRIVATE_BITS)

    def cohort(self, cohort: _Cohort | None) -> None:
        if cohort is None:
            self.nothing()
            return
        compared = self._less(cohort.compared)
        self.entry(cohort.marks, {}, 0, compared, True)

    def nothing(self) -> None:
        """A sum that is 0 whatever the rows are."""
        self._places.append(NOTHING)

    def compared(self, conditions: Conditions) -> tuple[Less, ...]:
        return self._less(conditions.compared)

    def done(
        self,
        plan: Plan,
        where: Mapping[str, tuple[q.Expression, ...]],
        present: Mapping[str, tuple[q.Expression, ...]],
    ) -> Split:
        locals_ = {
            name: Local(
                where.get(name, ()), present.get(name, ()), tuple(self._marks[name]), tuple(self._words[name])
            )
            for name in self._wide.departments
        }
        for name, local in locals_.items():
            if max(len(local.marks), len(local.words)) > MOST_TERMS:
                _too_many(f"{max(len(local.marks), len(local.words))} columns of {name}")
        terms = tuple(term for term, _ in self._terms)
        return Split(plan, locals_, terms, tuple(scale for _, scale in self._terms), tuple(self._places))

    def _less(self, compared: Sequence[Comparison]) -> tuple[Less, ...]:
        return tuple(Less(self._operand(left, a), self._operand(right, b)) for left, a, right, b in compared)

    def _operand(self, name: str, term: q.Expression) -> Reference:
        number = bounds.numeric(term, self._wide.parts[name], "filter")
        size = max(abs(number.low), abs(number.high))
        factor = Factor(term, 0.0, size, True)
        return self._word(name, Word(Component(factors=(factor,), bound=max(int(size), 1))))

    def _mark(self, name: str, mark: Mark) -> Reference:
        return Reference(name, "flag", self._marks[name].setdefault(mark, len(self._marks[name])))

    def _word(self, name: str, word: Word) -> Reference:
        return Reference(name, "word", self._words[name].setdefault(word, len(self._words[name])))

    def _add(self, term: Term, scale: int) -> None:
        place = self._known.get(term) if self._distinct else None
        if place is None:
            place = self._known[term] = len(self._terms)
            self._terms.append((term, scale))
            if place >= MOST_TERMS:
                _too_many(f"more than {MOST_TERMS} sums")
        self._places.append(place)


def _too_many(what: str) -> None:
    raise QueryError(f"a joined table would need {what}: use fewer or coarser keys")


def limit_of(wide: Wide) -> int:
    """What a product of bounds may reach: times the rows that a padded table has, it stays below 2^62."""
    rows = min(max(wide.schema.max_rows * 9 // 8 + 64, 2048), MOST_ROWS)
    return (1 << 62) // rows


def bounded(component: Component, wide: Wide, limit: int) -> tuple[Component, dict[str, Component]]:
    """A component with the bounds that it has here, and each department's piece of it."""
    by_holder: dict[str, list[Factor]] = {}
    for factor in component.factors:
        holder = holder_of(factor.term, wide, "aggregate")
        by_holder.setdefault(holder, []).append(msgspec.structs.replace(factor, term=wide.local(factor.term)))
    if not by_holder:
        return component, {}
    each = limit if len(by_holder) == 1 else math.isqrt(limit)
    lacking = apart_by(component.requires, wide)
    pieces = {name: _piece(tuple(f), lacking.get(name, ()), each) for name, f in by_holder.items()}
    bound, exponent, error = 1, 0, 0
    for piece in pieces.values():
        off = 0 if piece.whole else piece.error
        error = error * (piece.bound + off) + off * bound
        bound, exponent = bound * piece.bound, exponent + piece.exponent
    whole = all(piece.whole for piece in pieces.values())
    changed = msgspec.structs.replace(
        component, bound=bound, exponent=exponent, whole=whole, error=error or component.error
    )
    return changed, pieces


def _piece(factors: tuple[Factor, ...], requires: tuple[q.Expression, ...], limit: int) -> Component:
    """One department's part of a product, on the grid that its share of the bits allows."""
    size = math.prod(factor.half_width for factor in factors)
    exponent = sum(factor.doubled for factor in factors)
    whole = all(factor.whole for factor in factors) and size * 2**exponent < min(MAX_INTEGER, limit)
    if whole:
        bound = int(size * 2**exponent)
    else:
        exponent = min(GRID_BITS, limit.bit_length() - 2) - math.frexp(size)[1]
        bound = math.ceil(math.ldexp(size, exponent)) + 1
    return Component("rows", factors, requires, max(bound, 1), exponent, whole)


def _codes(plan: Plan, cell: tuple[int, ...], wide: Wide) -> dict[str, Mark]:
    found: dict[str, list[tuple[Key, int]]] = {}
    for key, place in zip(plan.keys, cell, strict=True):
        holder = holder_of(key.term, wide, "group_by")
        found.setdefault(holder, []).append((msgspec.structs.replace(key, term=wide.local(key.term)), place))
    return {name: Mark(keys=tuple(keys)) for name, keys in found.items()}


def _merged(one: Mapping[str, Mark], other: Mapping[str, Mark]) -> dict[str, Mark]:
    """Marks that do not contradict each other, department by department."""
    found = dict(one)
    for name, mark in other.items():
        mine = found.get(name, Mark())
        found[name] = msgspec.structs.replace(mine, keys=(*mine.keys, *mark.keys))
    return found


def _cohort(plan: Plan, layer: Layer, cell: tuple[int, ...], wide: Wide) -> _Cohort:
    """The people of one cell of one layer, as marks: the filter is one of them."""
    conditions, present = conditions_of(plan.where, wide), apart_by(layer, wide)
    codes, marks = _codes(plan, cell, wide), {}
    for name in wide.departments:
        mark = Mark(
            conditions.local.get(name, ()),
            (*conditions.needed.get(name, ()), *present.get(name, ())),
            codes.get(name, Mark()).keys,
        )
        if mark != Mark():
            marks[name] = mark
    return _Cohort(marks, conditions.compared)


def _cells(plan: Plan) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(key.domain)) for key in plan.keys))


def _cell(plan: Plan, number: int) -> tuple[int, ...]:
    places: list[int] = []
    for key in reversed(plan.keys):
        number, place = divmod(number, len(key.domain))
        places.append(place)
    return tuple(reversed(places))
