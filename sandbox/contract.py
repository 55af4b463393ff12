"""A usage contract: what an analyst asks leave for, once, before any run. Immutable: its digest names it, owners sign that digest.

A request runs under a contract if it asks the same question: the same query up to the numbers in its filter that the contract gives a
range, the same purpose and data version, an epsilon within its range, before it expires.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from . import query as q
from . import wording
from .errors import ParameterError
from .model import Model

CONTRACT = "usage-contract"
MAX_RUNS = 10_000
MAX_EPSILON = 100.0
LAST = 253_402_300_799  # the end of the year 9999: what calendars can show


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be run. `ranges`: the closed range of each number in the filter, in order; empty keeps the numbers as they are.

    `epsilon` is the closed range per run, None for exact values; `budget` caps its sum over all `runs`. `expires` is in UTC seconds;
    `data_version` is empty where any will do. With a `model` that is what may be fitted, and `query` is its cohort.
    """

    query: q.Query
    purpose: str
    legal_basis: str
    analyst: str
    expires: int
    runs: int = 1
    epsilon: tuple[float, float] | None = None
    budget: float | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    data_version: str = ""
    model: Model | None = None

    def __post_init__(self) -> None:
        for field in ("purpose", "legal_basis", "analyst"):
            if not getattr(self, field).strip():
                raise ParameterError(f"contract: {field!r} must be a non-empty text")
        if not 0 <= self.expires <= LAST:
            raise ParameterError(
                f"contract: 'expires' is {self.expires}; allowed are seconds from 0 to {LAST}"
            )
        if not 1 <= self.runs <= MAX_RUNS:
            raise ParameterError(f"contract: 'runs' is {self.runs}; allowed are 1 to {MAX_RUNS}")
        if (self.epsilon is None) != (self.budget is None):
            raise ParameterError("contract: 'epsilon' and 'budget' belong together")
        if self.epsilon is not None and not 0 < self.epsilon[0] <= self.epsilon[1] <= MAX_EPSILON:
            raise ParameterError(f"contract: 'epsilon' must be a range above 0, to {MAX_EPSILON:g}")
        if self.budget is not None and not 0 < self.budget <= MAX_EPSILON * self.runs:
            raise ParameterError(f"contract: 'budget' is {self.budget}; allowed are numbers above 0")
        numbers = len(_numbers(self.query.where))
        if self.ranges and len(self.ranges) != numbers:
            raise ParameterError(
                f"contract: 'ranges' needs one range for each of the filter's {numbers} numbers"
            )
        if any(not low <= high for low, high in self.ranges):
            raise ParameterError("contract: 'ranges' must be pairs, the lower number first")

    @property
    def output(self) -> tuple[str, ...]:
        """The columns of the result."""
        return (*self.query.keys, *(named.name for named in self.query.aggregates))

    def digest(self) -> str:
        return q.digest(self).hex()

    def text(self) -> str:
        """What an owner should read before deciding."""
        lines = {
            "contract": self.digest(),
            "analyst": self.analyst,
            "purpose": self.purpose,
            "legal basis": self.legal_basis,
            "data set": self.query.title,
            **wording.question(self.query),
            "output": ", ".join(self.output),
            "runs": str(self.runs),
            "until": datetime.datetime.fromtimestamp(self.expires, datetime.UTC).isoformat(),
            "mode": "exact values, under disclosure control"
            if self.epsilon is None
            else f"differentially private, epsilon {self.epsilon[0]:g} to {self.epsilon[1]:g} a run, {self.budget:g} in all",
            "ranges": "; ".join(f"{low:g} to {high:g}" for low, high in self.ranges)
            + " for the filter's numbers, in order"
            if self.ranges
            else "the filter's numbers stand",
            "data version": self.data_version or "any",
            "query": q.canonical(self.query).decode(),
            "model": "none" if self.model is None else q.canonical(self.model).decode(),
        }
        return "\n".join(f"{name:<13}{wording.printable(value)}" for name, value in lines.items())

    def differs(
        self,
        query: q.Query,
        purpose: str,
        epsilon: float | None,
        data_version: str,
        now: float,
        model: Model | None = None,
    ) -> str:
        """Why it does not cover such a request of its analyst, or "" where it does."""
        if purpose != self.purpose:
            return "another purpose"
        if now >= self.expires:
            return "it has expired"
        if self.data_version and self.data_version != data_version:
            return "the data have another version"
        if (epsilon is None) != (self.epsilon is None):
            return "another mode, exact or DP"
        if (
            epsilon is not None
            and self.epsilon is not None
            and not self.epsilon[0] <= epsilon <= self.epsilon[1]
        ):
            return f"'epsilon' must lie in {self.epsilon[0]:g} to {self.epsilon[1]:g}"
        if model != self.model:
            return "another model"
        if not self.ranges:
            return "" if query == self.query else "another query"
        if _skeleton(query) != _skeleton(self.query):
            return "another query"
        for number, (low, high) in zip(_numbers(query.where), self.ranges, strict=True):
            if not low <= number <= high:
                return f"a number of the filter must lie in {low:g} to {high:g}"
        return ""


def _numbers(term: q.Expression | None) -> tuple[float, ...]:
    """The numbers in a filter, in order."""
    values = [] if term is None else [node.value for node in q.walk(term) if isinstance(node, q.Value)]
    return tuple(value for value in values if isinstance(value, int | float) and not isinstance(value, bool))


def _skeleton(query: q.Query) -> bytes:
    """The query with the numbers of its filter left open."""
    value = msgspec.to_builtins(query)
    return q.canonical({**value, "where": _opened(value["where"])})


def _opened(value: Any) -> Any:
    if isinstance(value, Mapping):
        if isinstance(value.get("value"), int | float) and not isinstance(value["value"], bool):
            return "a number"
        return {key: _opened(part) for key, part in value.items()}
    return [_opened(part) for part in value] if isinstance(value, list | tuple) else value
