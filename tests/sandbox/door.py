"""One department's door as its node opens it, with everybody's keys and a clock of the test's own."""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Callable
from typing import Any

import pandas as pd

from sandbox import code, count, entries, keys
from sandbox import query as q
from sandbox.approvals import propose, sign_decision
from sandbox.catalog import Budget, Catalog, Column, DataSet, Overrides
from sandbox.contract import Contract
from sandbox.engine import Engine
from sandbox.gate import Gate
from sandbox.judge import policies
from sandbox.keys import Signed, SigningKey
from sandbox.receipt import Statement
from sandbox.request import CLEARANCE, RECORD, REQUEST, Clearance, Privacy, Record, Request
from sandbox.roster import Roster, member
from sandbox.state import State

NOW = 1_790_000_000
DELTA = 1e-6
HONEST = 2
BUDGET = Budget(1.0, DELTA)
COLUMNS = {"x": Column("integer", (0, 9)), "sex": Column("category", categories=("f", "m"))}
FRAME = pd.DataFrame({"x": [i % 10 for i in range(40)], "sex": ["f", "m"] * 20})
PEOPLE = {
    ("ash", "node"): "clinic",
    ("coordinator", "coordinator"): "data centre",
    ("wu", "analyst"): "university",
    ("li", "analyst"): "university",
    ("olga", "owner"): "clinic",
    ("oskar", "owner"): "clinic",
    ("omar", "owner"): "labour office",
    ("olga", "analyst"): "clinic",  # who is an owner too
}
KEYS = {who: SigningKey.generate(insecure_seed="/".join(who).encode()) for who in PEOPLE}
ROSTER = Roster("city", tuple(member(*who, at, KEYS[who].public) for who, at in PEOPLE.items()))


def dataset(level: Any = "general-2", budget: Budget | None = BUDGET, **settings: Any) -> DataSet:
    own = Overrides(**settings) if settings else None
    return DataSet(
        level, ("research", "care"), COLUMNS, budget=budget, max_rows=100, description="40 rows", policy=own
    )


def request(
    *aggregates: Any,
    epsilon: float | None = None,
    delta: float = DELTA,
    where: q.Expression | None = None,
    keys: tuple[str, ...] = (),
    **changes: Any,
) -> Request:
    named = tuple(q.Named(a.name, a.aggregate) for a in aggregates or (count(),))
    query = q.Query(changes.pop("table", "t"), named, keys, where, analysis=changes.pop("analysis", "table"))
    fields = {"purpose": "research", "analyst": "wu", "nonce": secrets.token_hex(16), "expires": NOW + 600}
    privacy = None if epsilon is None else Privacy(epsilon, delta)
    return Request(query, privacy=privacy, **{**fields, **changes})


def signed(asked: Request, by: str | None = None, key: SigningKey | None = None) -> Signed:
    """A request under its analyst's signature, or somebody else's."""
    name = by or asked.analyst
    return keys.seal(key or KEYS[name, "analyst"], name, REQUEST, asked)


def ask(*aggregates: Any, **changes: Any) -> Signed:
    return signed(request(*aggregates, **changes))


def digest(asked: Signed) -> str:
    found: Request = keys.decode(asked.body, Request)
    return found.digest().hex()


class Door:
    """The department `ash` with one data set `t` of 40 rows; its state is in `path`. `reopen` is a restart."""

    def __init__(
        self,
        path: pathlib.Path,
        level: Any = "general-2",
        budget: Budget | None = BUDGET,
        frame: pd.DataFrame = FRAME,
        **settings: Any,
    ):
        self.path, self.now = path, float(NOW)
        self.open(dataset(level, budget, **settings), frame)

    def open(self, declared: DataSet, frame: pd.DataFrame) -> None:
        self.catalog, self.frame = Catalog("ash", {"t": declared}), frame
        self.state = State(
            self.path, self.catalog, policies(self.catalog), ROSTER, KEYS["ash", "node"], lambda: self.now
        )
        self.gate = Gate(self.catalog, {"t": Engine("t", declared, frame)}, self.state)

    def close(self) -> None:
        self.state.close()

    def crash(self) -> None:
        """Let go of the files as the end of a process would: nothing more is logged."""
        for part in (self.state.ledger, self.state.cohorts, self.state.approvals, self.state.log):
            part.close()

    def reopen(self, declared: DataSet | None = None, frame: pd.DataFrame | None = None) -> None:
        """After a crash: the same directory in another state of mind."""
        self.crash()
        self.open(declared or self.catalog.datasets["t"], self.frame if frame is None else frame)

    # --- what it holds ---

    def spent(self) -> float:
        return self.gate.describe()["t"].epsilon_spent

    def logged(self, kind: type[Any] = object) -> list[Any]:
        """The entries of a kind, after the whole log was verified."""
        self.state.log.verify()
        return [entry for entry in self.state.log.entries() if isinstance(entry, kind)]

    def wanted(self) -> tuple[str, ...]:
        """The releases that a clearance must name."""
        return tuple(release.request for release in self.state.cohorts.released("t"))

    # --- what the coordinator says ---

    def run(self, asked: Signed, step: Callable[[str], None] | None = None) -> Any:
        """Run a request, cleared where it needs that."""
        if step is not None:
            self.gate._step = step
        return self.gate.run(asked, HONEST, clearance(asked, self.wanted()))

    def record(self, asked: Signed, **changes: Any) -> Any:
        return self.gate.record(recorded(asked, **changes))

    # --- owners ---

    def propose(self, asked: Request, **changes: Any) -> str:
        """A contract for a request, proposed by its analyst."""
        epsilon = asked.privacy.epsilon if asked.privacy else None
        terms: dict[str, Any] = {
            "query": asked.query,
            "purpose": asked.purpose,
            "legal_basis": "Statistics Act, article 12",
            "analyst": asked.analyst,
            "expires": NOW + 3600,
            "epsilon": None if epsilon is None else (epsilon, epsilon),
            "budget": epsilon,
        }
        wanted = Contract(**{**terms, **changes})
        return self.state.approvals.propose(propose(KEYS[asked.analyst, "analyst"], wanted))

    def decide(self, contract: str, owner: str, approved: bool = True) -> Any:
        """An owner's word, as it comes from a desk of their own."""
        return self.state.approvals.decide(
            sign_decision(KEYS[owner, "owner"], owner, contract, approved, now=self.now)
        )


def clearance(
    asked: Signed,
    released: tuple[str, ...] = (),
    least: int = 100,
    reasons: tuple[str, ...] = (),
    key: SigningKey = KEYS["coordinator", "coordinator"],
    by: str = "coordinator",
) -> Signed:
    return keys.seal(key, by, CLEARANCE, Clearance(digest(asked), released, least, reasons))


def statement(asked: Signed, rho: float | None = None, **changes: Any) -> Statement:
    question: Request = keys.decode(asked.body, Request)
    fields: dict[str, Any] = {
        "federation": "city",
        "request": digest(asked),
        "release": "ab" * 32,
        "analyst": question.analyst,
        "purpose": question.purpose,
        "code": code.version(),
        "departments": ("ash",),
        "issued": NOW,
        "epsilon": question.privacy.epsilon if question.privacy else None,
        "delta": question.privacy.delta if question.privacy else None,
        "rho": rho,
    }
    return Statement(**{**fields, **changes})


def recorded(
    asked: Signed,
    rho: float | None = None,
    shown: tuple[int, ...] = (0,),
    departments: tuple[str, ...] = ("ash",),
    key: SigningKey = KEYS["coordinator", "coordinator"],
    by: str = "coordinator",
    **changes: Any,
) -> Signed:
    """The coordinator's record of a release that came of a request."""
    return keys.seal(key, by, RECORD, Record(statement(asked, rho, **changes), departments, shown))


def reasons(entry: entries.Entry) -> str:
    return "\n".join(getattr(entry, "reasons", ()))
