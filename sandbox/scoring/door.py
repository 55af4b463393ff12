"""The door of a department's models: decide, log, charge, record. What is computed on the rows that come in is the caller's matter.

    admit    who asks, by which offer, for what, how many rows: logged with every reason, or refused
    charge   the rows, before anything is answered; a request begins once, whatever becomes of it
    record   what came of it: the release is logged, and the department's evidence goes into the receipt

Requests are signed by analysts and records by the coordinator; each is verified here. Protects the model against analysts whom the owner
does not permit, purposes it does not, more rows than its quotas, and a coordinator that makes up or alters requests. Does not protect
against what the permitted scores tell together (`declared`), nor against analysts who pool theirs: `rows` bounds all of them together.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Iterator, Mapping

from .. import code, entries, keys
from ..errors import BudgetExceeded, Denied, QueryError, ScheduleError
from ..judge import SKEW
from ..receipt import Evidence, attest
from ..request import LONGEST, RECORD, Record
from ..state import State
from .books import Books
from .declared import Declared
from .request import OFFERS, REQUEST, Offers, Published, Request


class ModelDoor:
    """`offers`: per declared model its version, and what clients must know to encrypt for it."""

    def __init__(
        self, declared: Mapping[str, Declared], offers: Mapping[str, tuple[str, bytes]], state: State
    ):
        self._declared, self._state = declared, state
        self._books = Books(declared, {name: version for name, (version, _) in offers.items()}, state)
        self._published = {
            name: Published(
                model.description,
                model.purposes,
                model.rows,
                model.rows_per_analyst,
                model.rows_per_request,
                *offers[name],
            )
            for name, model in declared.items()
        }
        self._lock = threading.RLock()

    def offers(self, key: keys.SigningKey) -> keys.Signed:
        """What others may know of the models, signed by the node."""
        department = self._state.department
        return keys.seal(key, department, OFFERS, Offers(department, self._published))

    def admit(self, signed: keys.Signed) -> Request:
        """The request, if it may run; logged either way. Raises `Denied`, or `BudgetExceeded` where nothing but a quota stands against it."""
        with self._lock:
            request = self._open(signed)
            declared = self._declared.get(request.model)
            if declared is None:
                known = ", ".join(sorted(self._declared)) or "none"
                raise Denied([f"no model {request.model!r} here; there are: {known}"])
            against = tuple(self._against(request, declared))
            quotas = self._books.against(request)
            self._log(request, (*against, *quotas))
            if against:
                raise Denied((*against, *quotas))
            if quotas:
                raise BudgetExceeded(quotas)
            return request

    def charge(self, request: Request) -> None:
        """Charge a request that was admitted. Raises `BudgetExceeded`, or `ScheduleError` where it began before: its rows are spent."""
        with self._lock:
            if self._books.charge(request).repeated:
                raise ScheduleError(
                    "this request began before, and its rows are spent: ask again with a new one"
                )

    def record(self, signed: keys.Signed, release: str) -> Evidence:
        """Log what left, and prove it. `signed`: the coordinator's `Record`; `release`: the digest of what this department answered."""
        public = self._state.roster.public(signed.signer, "coordinator")
        record = keys.open_(signed, RECORD, Record, public)
        statement, department = record.statement, self._state.department
        with self._lock:
            paid = self._books.paid(statement.request)
            if paid is None:
                raise ScheduleError("no such request was answered here")
            answered = {
                "federation": self._state.roster.federation,
                "analyst": paid.analyst,
                "purpose": paid.purpose,
                "release": release,
                "departments": (department,),
                "epsilon": None,
                "delta": None,
                "rho": None,
            }
            for field, value in answered.items():
                if getattr(statement, field) != value:
                    raise ScheduleError(f"the record's {field!r} is not what was answered here")
            entry = entries.Release(
                time=self._state.now(),
                department=department,
                statement=statement.digest(),
                request=statement.request,
                release=release,
                dataset=paid.model,
                policy=self._books.policy(paid.model),
                data_version=paid.version,
                code=code.version(),
            )
            return attest(self._state.log, entry)

    # --- judging ---

    def _open(self, signed: keys.Signed) -> Request:
        public = self._state.roster.public(signed.signer, "analyst")
        request = keys.open_(signed, REQUEST, Request, public)
        if request.analyst != signed.signer:
            raise Denied(["a request is signed by the analyst that it names"])
        if request.department != self._state.department:
            raise Denied([f"the request is to {request.department!r}"])
        now = self._state.now()
        keys.unexpired("the request", request.expires, now)
        if request.expires > now + LONGEST + SKEW:
            raise Denied([f"'expires' lies more than {LONGEST} seconds ahead"])
        return request

    def _against(self, request: Request, declared: Declared) -> Iterator[str]:
        """Every reason but quotas."""
        what, analyst = f"model {request.model!r}", request.analyst
        organisation = self._state.roster.entry(analyst, "analyst").organisation
        if declared.analysts is not None and analyst not in declared.analysts:
            yield f"analyst {analyst!r} is not among those whom the owner of {what} permits"
        if declared.organisations is not None and organisation not in declared.organisations:
            yield f"organisation {organisation!r} is not among those that the owner of {what} permits"
        today = datetime.datetime.fromtimestamp(self._state.clock(), datetime.UTC).date()
        if declared.valid_from is not None and today < declared.valid_from:
            yield f"{what} may be asked from {declared.valid_from.isoformat()} (UTC) on"
        if declared.valid_until is not None and today > declared.valid_until:
            yield f"{what} could be asked until {declared.valid_until.isoformat()} (UTC)"
        if request.purpose not in declared.purposes:
            permitted = ", ".join(map(repr, declared.purposes))
            yield f"purpose {request.purpose!r} is not permitted for {what}; permitted are: {permitted}"
        if declared.rows_per_request is not None and request.rows > declared.rows_per_request:
            yield f"{request.rows} rows; {what} allows at most {declared.rows_per_request} a request"
        if request.offer != offer_digest(self._published[request.model].offer):
            yield f"the rows are encrypted for another offer than that of {what} now: fetch it again"

    def _log(self, request: Request, reasons: tuple[str, ...]) -> None:
        now, digest = self._state.now(), request.digest().hex()
        allowed = f"scores of {request.model!r} are permitted to {request.analyst!r}"
        texts = tuple(reason[: entries.LONGEST] for reason in reasons or (allowed,))
        self._state.append(
            entries.Request(
                time=now,
                request=digest,
                dataset=request.model,
                analyst=request.analyst,
                purpose=request.purpose,
            ),
            entries.Decision(
                time=now,
                request=digest,
                policy=self._books.policy(request.model),
                verdict="deny" if reasons else "allow",
                reasons=texts,
            ),
        )


def offer_digest(offer: bytes) -> str:
    """What names an offer in a request."""
    return hashlib.sha256(offer).hexdigest()


def find(offers: Offers, model: str) -> Published:
    """A model of a department; raises `QueryError`."""
    published = offers.models.get(model)
    if published is None:
        known = ", ".join(sorted(offers.models)) or "none"
        raise QueryError(f"{offers.department!r} has no model {model!r}; it has: {known}")
    return published
