"""Joins at the gate: whether an owner permits one, and what it is to this department. Pure but for the store of earlier releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..catalog import DataSet
from ..errors import QueryError
from ..policy import Policy, Reason
from .earlier import scope_of
from .products import check
from .wide import Wide, person_schema, wide

if TYPE_CHECKING:
    from ..request import Request
    from ..state import State


def wide_at(request: Request, department: str, dataset: DataSet) -> Wide:
    """The joined table of a request, once this department's part of it is as its owner declares. The others see to theirs."""
    joined = request.query.joined
    assert joined is not None
    if joined.tables[0] != request.query.table:
        raise QueryError("join: the query's table is the first of those joined")
    found = wide(joined, request.schemas)
    if found.parts[department] != person_schema(dataset.schema(), dataset.join):
        raise QueryError(
            "join: the request has another declaration of this table than its owner: ask the catalogue again"
        )
    return found


def against(
    request: Request, table: str, dataset: DataSet, terms: Policy, state: State, version: str
) -> list[Reason]:
    """What the owner's declaration and earlier exact releases have against a request."""
    joined = request.query.joined
    exact = request.privacy is None and terms.rules is not None and terms.rules.min_cell > 1
    if joined is None:
        if exact and state.joins.released(table):
            return [Reason("differences", _apart(table, "a joined table"))]
        return []
    reasons = []
    if request.model is not None:
        try:
            check(request.model, exact=request.privacy is None)
        except QueryError as error:
            reasons.append(Reason("join", str(error)))
    others = set(joined.tables) - {f"{state.department}.{table}"}
    permitted = set() if dataset.join is None else set(dataset.join.tables)
    if dataset.join is None:
        reasons.append(Reason("join", f"{table!r} is open to no joins"))
    elif not others <= permitted:
        listed = ", ".join(sorted(permitted))
        reasons.append(
            Reason(
                "join",
                f"{table!r} may not be joined with {', '.join(sorted(others - permitted))}; permitted are: {listed}",
            )
        )
    if exact:
        if terms.own.refuse_local_difference:
            text = f"the owner of {table!r} compares exact releases by itself, which a joined table does not allow: give an epsilon"
            reasons.append(Reason("refuse_local_difference", text))
        if why := state.joins.against(table, scope_of(request), version):
            reasons.append(Reason("differences", why))
        if state.cohorts.released(table):
            reasons.append(Reason("differences", _apart(table, "its rows alone")))
    return reasons


def _apart(table: str, what: str) -> str:
    return f"{table!r} has exact releases of {what}, from which this one could be subtracted: give an epsilon"
