"""The coordinator's desk: takes analysts' signed requests, queues them, has the broker run them, and keeps what came of each.

One request runs at a time, in the order of a round over the analysts, so that nobody's queue delays another's first request. A request
can be cancelled until the departments begin to compute; then it runs to its end, since it is charged.

The desk verifies signatures so as not to waste the departments' time; the departments verify them again, and trust only themselves.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from mpc.secagg import Setting
from sandbox import errors, keys
from sandbox.contract import CONTRACT, Contract
from sandbox.errors import (
    Cancelled,
    InternalError,
    QueryError,
    Refused,
    SandboxError,
    UnknownSigner,
)
from sandbox.gate import Entry
from sandbox.joining.declared import table_name
from sandbox.joining.products import apart
from sandbox.pending import ENDED, State, Ticket
from sandbox.plan import compile as compile_plan
from sandbox.query import canonical
from sandbox.release import Explanation, Release
from sandbox.request import REQUEST, Request
from sandbox.roster import Roster

from . import explaining, fitting, messages, releasing
from .broker import Broker, Modelled, Outcome
from .joining import offered, telling
from .messages import ContractState
from .network import Failure
from .offers import Offers
from .requests import Requests
from .scoring.messages import Models
from .scoring.relay import Relay

if TYPE_CHECKING:
    from .results import Result

RETRY = 2.0  # seconds after which departments that did not answer are asked again
FRESH = 30.0  # seconds for which the departments' offers are believed before they are asked again
QUEUED = 100  # requests of one analyst that may wait
LAST_WORD = "computing and masking"  # the stage at which the departments charge their budgets


class Desk:
    """Runs over a broker. `store` keeps requests over restarts; `here`: whether the analyst's own process is the coordinator's."""

    def __init__(
        self,
        broker: Broker,
        store: Requests | None = None,
        *,
        here: bool = False,
        ready: Callable[[], bool] = lambda: True,
    ):
        self.broker, self._store, self._here, self._ready = broker, store or Requests(), here, ready
        self._entries: dict[str, dict[str, Entry]] = self._store.offers()
        self._unreachable: dict[str, str] = {}
        self._asked = 0.0
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._queues: OrderedDict[str, deque[tuple[str, keys.Signed, Request]]] = OrderedDict()
        self._live: dict[str, Ticket] = {}
        self._errors: dict[str, Exception] = {}
        self._cancelled: set[str] = set()
        self._ended: Counter[str] = Counter()
        self._stopping = False
        self._worker: threading.Thread | None = None
        self._told: list[Callable[[str], None]] = []
        self._relay = Relay(broker)
        with self._changed:
            self._resume()

    # --- what exists ---

    @property
    def federation(self) -> str:
        return self.roster.federation

    @property
    def roster(self) -> Roster:
        """Who is who: names, roles and public keys. What a receipt is checked against."""
        return self.broker.roster

    @property
    def setting(self) -> Setting:
        """The adversary that secure aggregation is set against."""
        return self.broker.setting

    def offers(self, *, fresh: bool = True) -> Offers:
        """What every department offers; `fresh` asks them again. One that does not answer keeps its tables, and is `unreachable`."""
        asked = time.monotonic()
        with self._asking:  # whoever waited for another's question has its answer
            age = asked - self._asked
            if (fresh and age > 0) or age > (RETRY if self._unreachable else FRESH) or not self._asked:
                self._ask()
        return Offers(dict(self._entries), dict(self._unreachable))

    def explain(self, signed: keys.Signed) -> Explanation:
        """What a request would do; spends and logs nothing."""
        request = self._open(signed)
        offers = self.offers(fresh=False)
        schema, departments = offered.shape(offers, request.query)
        leakage = self._leakage(request, departments, departments)
        return explaining.explain(self.broker, signed, request, schema, departments, leakage)

    # --- requests ---

    def submit(self, signed: keys.Signed) -> Ticket:
        """Queue a request. The same request again is the same ticket. Raises what can be known at once, and then nothing is queued."""
        request = self._open(signed)
        schema, _ = offered.shape(self.offers(fresh=False), request.query)
        plan = compile_plan(request.query, schema, exact=request.privacy is None)
        if request.query.joined is not None:
            apart(request, plan, offered.wide_of(request))
        digest = request.digest().hex()
        with self._changed:
            if self._stopping:
                raise Cancelled("the coordinator is stopping: ask again when it is back")
            known = self._live.get(digest) or self._store.get(digest)
            if known is None:
                queue = self._queues.setdefault(request.analyst, deque())
                if len(queue) >= QUEUED:
                    raise Refused([f"{QUEUED} requests of yours are queued: wait until one has begun"])
                self._live[digest] = self._store.add(signed, request)
                queue.append((digest, signed, request))
                self._start()
        return self.ticket(request.analyst, digest)

    def ticket(self, analyst: str, digest: str) -> Ticket:
        """How one of an analyst's requests stands; raises `QueryError` where it is nobody's, or another's."""
        with self._changed:
            ticket = self._live.get(digest) or self._store.get(digest)
            if ticket is None or ticket.analyst != analyst:
                raise QueryError(f"no request {digest[:16]!r} of {analyst!r} is known here")
            if ticket.state == "queued":
                return msgspec.structs.replace(ticket, ahead=self._ahead(digest))
            return ticket

    def watch(self, analyst: str, digest: str, seen: Ticket | None, timeout: float) -> Ticket:
        """The same, once it differs from what was `seen`, or after `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                ticket = self.ticket(analyst, digest)
                left = end - time.monotonic()
                if ticket != seen or left <= 0:
                    return ticket
                self._changed.wait(left)

    def listen(self, told: Callable[[str], None]) -> None:
        """From now on `told` is called with the digest of each request that has changed. It must not block, nor call the desk."""
        self._told.append(told)

    def tickets(self, analyst: str) -> tuple[Ticket, ...]:
        """All of an analyst's requests that are kept, the latest first."""
        return tuple(self.ticket(analyst, ticket.digest) for ticket in self._store.of(analyst))

    def release(self, analyst: str, digest: str) -> Result:
        """What a request has released; raises what ended it otherwise, `QueryError` while it runs."""
        ticket = self.ticket(analyst, digest)
        if ticket.state == "released":
            release = self._store.release(digest)
            if release is None:
                raise InternalError("a release is lost from the store of requests")
            return release
        if ticket.state not in ENDED:
            raise QueryError(f"request {digest[:16]!r} is {ticket.state}: it has no release yet")
        error = self._errors.get(digest)
        raise rebuilt(ticket) if error is None else error.with_traceback(None)

    def cancel(self, analyst: str, digest: str) -> Ticket:
        """Stop a request before anything is spent; one that is past that runs to its end."""
        self.ticket(analyst, digest)
        with self._changed:
            ticket = self._live.get(digest)
            if ticket is None:
                return self.ticket(analyst, digest)
            if ticket.state == "queued":
                queue = self._queues[analyst]
                self._queues[analyst] = deque(item for item in queue if item[0] != digest)
                self._end(digest, Cancelled("cancelled by its analyst before it began"))
            else:
                self._cancelled.add(digest)
        return self.ticket(analyst, digest)

    # --- usage contracts ---

    def propose(self, signed: keys.Signed) -> dict[str, str]:
        """Hand a usage contract to every department that holds its table; who failed to take it, and why."""
        public = self.roster.public(signed.signer, "analyst")
        contract: Contract = keys.open_(signed, CONTRACT, Contract, public)
        _, holders = offered.shape(self.offers(fresh=False), contract.query)
        return self.broker.propose(signed, holders)

    def contract(self, digest: str, table: str) -> dict[str, ContractState]:
        """How a contract stands at each department that answers."""
        offers = self.offers(fresh=False)
        if table_name(table):  # of a joined table: whoever knows the contract answers
            return self.broker.contract(digest, tuple(offers.entries))
        offers.schema(table)
        return self.broker.contract(digest, offers.departments(table))

    # --- scores of departments' models ---

    def models(self) -> Models:
        """Which models the departments publish, as each has signed it."""
        return self._relay.models()

    def score(self, analyst: str, department: str, body: bytes) -> bytes:
        """Pass one message about scores on to a department; its reply."""
        return self._relay.pass_on(analyst, department, body)

    # --- the process ---

    def stop(self, timeout: float = 30.0) -> None:
        """Take no more requests; the one that runs may end. What is queued waits for the next start."""
        with self._changed:
            self._stopping = True
            worker = self._worker
        if worker is not None:
            worker.join(timeout)

    def waiting(self) -> int:
        """How many requests are queued or running."""
        with self._changed:
            return len(self._live)

    def ended(self) -> dict[str, int]:
        """How many requests have ended since the start, by state."""
        with self._changed:
            return dict(self._ended)

    def _resume(self) -> None:
        """After a restart: what was queued goes on, and a training; what else ran is over, since departments answer a request once."""
        for ticket, body in self._store.unfinished():
            signed: keys.Signed = keys.decode(body, keys.Signed)
            request: Request = keys.decode(signed.body, Request)
            self._live[ticket.digest] = ticket
            begun, expired = (
                ticket.state == "running" and LAST_WORD in ticket.stages,
                request.expires <= time.time(),
            )
            if begun and not self._store.checkpoint(ticket.digest):
                error = Cancelled(
                    "the coordinator stopped while the departments computed: what they charged is spent, and nothing was released. Ask again"
                )
                self._end(ticket.digest, error, state="interrupted")
            elif expired and not begun:  # one that is charged goes on, however late
                self._end(ticket.digest, Cancelled("it expired while the coordinator was stopped: ask again"))
            else:
                if not begun:
                    self._store.keep(ticket.digest, b"")
                self._live[ticket.digest] = msgspec.structs.replace(ticket, state="queued", stages=())
                queue = self._queues.setdefault(request.analyst, deque())
                queue.append((ticket.digest, signed, request))
        if self._live:
            self._start()

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="desk", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._stopping or not any(self._queues.values()):
                    self._worker = None  # the next request starts another, so that an idle desk holds nothing
                    return
                if not self._ready():
                    self._changed.wait(0.1)
                    continue
                digest, signed, request = self._next()
                self._move(digest, state="running")
            try:
                release = self._run(digest, signed, request)
            except Exception as error:
                with self._changed:
                    self._end(digest, error)
            else:
                with self._changed:
                    ticket = msgspec.structs.replace(
                        self._live.pop(digest), state="released", ended=time.time()
                    )
                    self._store.save(ticket, release)
                    self._ended["released"] += 1
                    self._cancelled.discard(digest)
                    self._tell(digest)

    def _next(self) -> tuple[str, keys.Signed, Request]:
        """The first request of the analyst whose turn it is."""
        for analyst, queue in list(self._queues.items()):
            self._queues.move_to_end(analyst)
            if queue:
                return queue.popleft()
        raise InternalError("no request is queued")

    def _run(self, digest: str, signed: keys.Signed, request: Request) -> Result:
        offers = self.offers(fresh=False)
        schema, departments = offered.shape(offers, request.query)
        started = time.perf_counter()

        def progress(stage: str) -> None:
            self._progress(digest, stage)

        outcome: Outcome | Modelled
        release: Result
        with self.broker.network.measured() as traffic:
            if request.query.joined is not None:
                outcome = self.broker.join(signed, offered.wide_of(request), progress)
                told = self._leakage(request, departments, outcome.present, outcome.sizes)
            elif request.model is None:
                outcome = self.broker.run(signed, departments, schema, progress)
                told = self._leakage(request, departments, outcome.present)
            else:
                honest = self.broker.threshold(len(departments))
                asked = fitting.asked(
                    request,
                    schema,
                    departments,
                    honest,
                    functools.partial(self._model, request.analyst),
                    self._store.checkpoint(digest),
                )
                keep = functools.partial(self._store.keep, digest)
                outcome = self.broker.model(signed, asked, departments, schema, progress, keep)
                told = (*self._leakage(request, departments, outcome.present), *asked.leakage())
            if isinstance(outcome, Outcome):
                release = releasing.release(request, outcome, schema, told)
                shown = releasing.shown(release)
            else:
                release, shown = releasing.model(request, outcome, schema, told), (0,)
            self._progress(digest, "logging and signing the release")
            receipt, unattested = self.broker.record(request, release.digest(), outcome, shown)
        cost = releasing.cost(traffic, time.perf_counter() - started)
        return msgspec.structs.replace(release, receipt=receipt, unattested=unattested, cost=cost)

    def _model(self, analyst: str, digest: str) -> bytes:
        """A model that an analyst's own request has released, as its receipt is about."""
        self.ticket(analyst, digest)
        release = self._store.release(digest)
        if release is None or isinstance(release, Release):
            raise QueryError("the coordinator holds no model of that request, or no more: fit it again")
        return canonical(release.stated())

    def _progress(self, digest: str, stage: str) -> None:
        with self._changed:
            past = LAST_WORD in self._live[digest].stages
            if digest in self._cancelled and not past:
                raise Cancelled("cancelled by its analyst before anything was spent")
            self._move(digest, stages=(*self._live[digest].stages, stage))

    def _move(self, digest: str, **changes: object) -> None:
        ticket = self._live[digest] = msgspec.structs.replace(self._live[digest], **changes)
        if "state" in changes or LAST_WORD in ticket.stages[-1:]:
            self._store.save(ticket)  # on the disk before anything is charged
        self._tell(digest)

    def _end(self, digest: str, error: Exception, state: State | None = None) -> None:
        if state is None:
            state = "cancelled" if isinstance(error, Cancelled) else "failed"
            state = "refused" if isinstance(error, Refused) else state
        reasons = error.reasons if isinstance(error, Refused) else (str(error),)
        if not isinstance(error, SandboxError):
            reasons = ()  # its text may hold anything
        ticket = msgspec.structs.replace(
            self._live.pop(digest),
            state=state,
            error=type(error).__name__,
            reasons=reasons,
            ended=time.time(),
        )
        self._ended[state] += 1
        self._errors[digest] = error
        while len(self._errors) > 1000:
            self._errors.pop(next(iter(self._errors)))
        self._cancelled.discard(digest)
        self._store.save(ticket)
        self._tell(digest)

    def _tell(self, digest: str) -> None:
        self._changed.notify_all()
        for told in self._told:
            told(digest)

    def _ahead(self, digest: str) -> int:
        """How many requests come before this one, at most: the rounds of the other analysts and the running one."""
        running = sum(ticket.state == "running" for ticket in self._live.values())
        for queue in self._queues.values():
            for place, (other, _, _) in enumerate(queue):
                if other == digest:
                    others = sum(min(len(q), place + 1) for q in self._queues.values() if q is not queue)
                    return running + place + others
        return running

    # --- helpers ---

    def _open(self, signed: keys.Signed) -> Request:
        request: Request = keys.open_(signed, REQUEST, Request, self.roster.public(signed.signer, "analyst"))
        if request.analyst != signed.signer:
            raise UnknownSigner(f"the request names {request.analyst!r}, and {signed.signer!r} signed it")
        keys.unexpired("the request", request.expires, int(time.time()))
        return request

    def _leakage(
        self,
        request: Request,
        departments: tuple[str, ...],
        present: tuple[str, ...],
        sizes: Mapping[str, int] = MappingProxyType({}),
    ) -> tuple[str, ...]:
        if request.query.joined is not None:
            return telling.leakage(request, offered.wide_of(request), self._here, sizes)
        schema = Offers(self._entries).schema(request.query.table)
        plan = compile_plan(request.query, schema, exact=request.privacy is None)
        honest = self.broker.threshold(len(departments))
        return explaining.leakage(plan, request, present, self.setting, honest, self._here)

    def _ask(self) -> None:
        replies = self.broker.network.call("catalog", dict.fromkeys(self.broker.network.nodes, b""))
        unreachable: dict[str, str] = {}
        for name, data in replies.items():
            reply = data if isinstance(data, Failure) else messages.decode_reply(data)
            if isinstance(reply, messages.Done):
                try:
                    entries = messages.decode_json(reply.body, dict[str, Entry])
                except QueryError as error:
                    unreachable[name] = str(error)
                    continue
                if self._entries.get(name) != entries:
                    self._entries[name] = entries
                    self._store.offer(name, entries)
            else:
                unreachable[name] = reply.reason if isinstance(reply, Failure) else reply.error
        self._unreachable = unreachable
        self._asked = time.monotonic()


def rebuilt(ticket: Ticket) -> SandboxError:
    """The error that ended a request, of its own class where that is one of ours."""
    kind = getattr(errors, ticket.error, None)
    if isinstance(kind, type) and issubclass(kind, Refused):
        return kind(ticket.reasons)
    if isinstance(kind, type) and issubclass(kind, SandboxError):
        return kind("; ".join(ticket.reasons))
    return InternalError(f"the coordinator failed with {ticket.error}")
