"""A department's node: each message goes through the gate, and only masked words or published facts come back.

The node runs code that its owner installed; a message carries data only. It keeps one secure-aggregation client a batch, for the latest
batches. What an error says to others is its text where that is safe by construction (`SandboxError`, `ProtocolError`), else its class name.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from mpc.errors import ProtocolError
from mpc.fixedpoint import Encoding
from mpc.secagg import Client, Floors, Parameters, least_threshold
from sandbox import dp, keys
from sandbox.differencing import Released
from sandbox.errors import ParameterError, QueryError, SandboxError, ScheduleError
from sandbox.gate import Allow, Decision, Gate
from sandbox.plan import compile as compile_plan
from sandbox.query import canonical
from sandbox.request import Request

from . import encoding, fitting, messages
from .joining import offered
from .joining.sides import Sides
from .network import pack, unpack

if TYPE_CHECKING:
    from .neural.participant import Answered
    from .scoring.server import Scoring

BATCHES = 8
MODELS = 16  # that are kept between their rounds
EXACT_CONTRIBUTORS = 3
NOISY_CONTRIBUTORS = 2
log = logging.getLogger("federated.node")


class _Batch:
    """One batch at this node: its client, its parameters, and the slots that have been used."""

    def __init__(self, client: Client, parameters: Parameters):
        self.client, self.parameters = client, parameters
        self._used: set[int] = set()
        self.lock = threading.Lock()

    def take(self, slot: int) -> None:
        """Use a slot; raises `ScheduleError` the second time."""
        if slot in self._used or not 0 <= slot < self.parameters.slots:
            raise ScheduleError("this slot has served a request, or does not exist")
        self._used.add(slot)


class Node:
    """One department. `key` is its own; the roster that its owner installed, in `gate.state`, says who the others are.

    `floors` is the least protection that the owner accepts.
    """

    def __init__(
        self,
        gate: Gate,
        key: keys.SigningKey,
        floors: Floors | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ):
        self.name = gate.catalog.department
        self._gate, self._identity = gate, key.private_bytes()
        self._roster = {member.name: member.public for member in gate.state.roster.of("node")}
        self._floors, self._random = floors or Floors(), random_bytes
        self._batches: OrderedDict[bytes, _Batch] = OrderedDict()
        self._lock = threading.Lock()
        self._instance = random_bytes(16)
        self._models: OrderedDict[bytes, fitting.Answering] = OrderedDict()
        self._answered: Answered | None = None
        self._scoring: Scoring | None = None
        if gate.catalog.models:
            from .scoring.server import Scoring

            self._scoring = Scoring(gate.catalog, gate.state, key, gate.models)
        self._handlers: dict[str, Callable[[bytes], bytes]] = {
            "catalog": self._catalog,
            "explain": lambda body: self._judged(body, self._gate.explain),
            "propose": self._propose,
            "contract": self._contract,
            "decide": lambda body: self._judged(body, self._gate.decide),
            "advertise": self._advertise,
            "share": self._share,
            "receive": self._receive,
            "overlaps": self._overlaps,
            "refused": self._refused,
            "masked": self._masked,
            "fit": self._model,
            "train": self._model,
            "confirm": self._confirm,
            "unmask": self._unmask,
            "record": self._record,
            "models": lambda _body: self._scores().offers(),
            "score": lambda body: self._scores().handle(body),
            "join": Sides(gate, self._identity, self._roster, random_bytes).handle,
        }

    def handle(self, kind: str, body: bytes) -> bytes:
        """The reply to one message; never raises."""
        try:
            return messages.encode(messages.Done(self._handlers[kind](body)))
        except (SandboxError, ProtocolError) as error:
            return messages.encode(messages.Refusal(type(error).__name__, str(error)))
        except Exception as error:
            log.error("%s: %s failed with %s", self.name, kind, type(error).__name__)
            return messages.encode(messages.Refusal(type(error).__name__))

    def app(self) -> ClientApp:
        """This node as a Flower ClientApp: one query handler a kind of message."""
        app = ClientApp()
        for kind in messages.KINDS:
            app.query(kind)(self._flower_handler(kind))
        return app

    def _flower_handler(self, kind: str) -> Callable[[Message, Context], Message]:
        def handler(message: Message, _context: Context) -> Message:
            return Message(pack(self.handle(kind, unpack(message))), reply_to=message)

        return handler

    def _catalog(self, _body: bytes) -> bytes:
        return msgspec.json.encode(self._gate.describe())

    def _advertise(self, body: bytes) -> bytes:
        setup = messages.decode(body, messages.Setup)
        parameters = messages.decode(setup.body, Parameters)
        if parameters.session != setup.session:
            raise ScheduleError("the parameters are of another session")
        # A table may live at some departments only: the batch runs among them, each known to this owner, and no fewer than its floor.
        roster = {name: key for name, key in self._roster.items() if name in parameters.names}
        client = Client(self.name, self._identity, roster, self._floors, self._random)
        reply = client.advertise(setup.body)
        with self._lock:
            if setup.session in self._batches:
                raise ScheduleError("this session has begun before")
            self._batches[setup.session] = _Batch(client, parameters)
            while len(self._batches) > BATCHES:
                self._batches.popitem(last=False)
        return reply

    def _share(self, body: bytes) -> bytes:
        setup = messages.decode(body, messages.Setup)
        batch = self._batch(setup.session)
        with batch.lock:
            return batch.client.share(setup.body)

    def _receive(self, body: bytes) -> bytes:
        setup = messages.decode(body, messages.Setup)
        batch = self._batch(setup.session)
        with batch.lock:
            batch.client.receive(setup.body)
        return b""

    def _propose(self, body: bytes) -> bytes:
        signed: keys.Signed = keys.decode(body, keys.Signed)
        return self._gate.state.approvals.propose(signed).encode()

    def _contract(self, body: bytes) -> bytes:
        """How a contract stands, for whoever knows its digest."""
        approvals = self._gate.state.approvals
        status = approvals.status(body.decode(errors="replace"))
        decisions = approvals.decisions(status.digest)
        reasons = tuple(decisions[name].reason for name in status.rejected_by)
        state = messages.ContractState(status.state, len(status.approved_by), status.needed, reasons)
        return msgspec.json.encode(state)

    def _judged(self, body: bytes, judge: Callable[[keys.Signed, int], Decision]) -> bytes:
        """A decision, and what only this package can check: that the noise is fine enough."""
        ask = messages.decode(body, messages.Ask)
        signed, request = _request(ask.request)
        decision = judge(signed, self._checked(ask.honest))
        if isinstance(decision, Allow):
            self._check_noise(request, ask.honest)
        dataset = self._gate.catalog.datasets[request.query.table_at(self.name)]
        # Of a joined table each department has judged its own part.
        schema = dataset.schema() if request.query.joined is None else offered.wide_of(request).schema
        return msgspec.json.encode(messages.Decided(decision, schema.digest(), self._instance))

    def _overlaps(self, body: bytes) -> bytes:
        message = messages.decode(body, messages.Overlaps)
        signed, request = _request(message.request)
        released: tuple[Released, ...] = keys.decode(message.released, tuple[Released, ...])
        batch = self._batch(message.session)
        with batch.lock:
            batch.take(message.slot)
            counts = self._gate.overlaps(signed, batch.parameters.threshold, released)
            parties = len(batch.parameters.names)
            most = self._gate.catalog.datasets[request.query.table].max_rows * parties
            words = Encoding(most, parties).encode(counts.reshape(-1))
            digest = messages.overlaps_digest(request)
            return batch.client.mask(message.slot, digest, words, contributors=EXACT_CONTRIBUTORS)

    def _refused(self, body: bytes) -> bytes:
        signed: keys.Signed = keys.decode(body, keys.Signed)
        self._gate.refused(signed)
        return b""

    def _masked(self, body: bytes) -> bytes:
        message = messages.decode(body, messages.Masked)
        signed, request = _request(message.request)
        clearance: keys.Signed | None = None
        if message.clearance:
            clearance = keys.decode(message.clearance, keys.Signed)
        batch = self._batch(message.session)
        with batch.lock:
            batch.take(message.slot)
            # However high the coordinator sets the threshold, a department counts on no more than the least to add their noise.
            honest = least_threshold(batch.parameters.setting, len(batch.parameters.names))
            self._check_noise(request, honest)
            answer = self._gate.run(signed, honest, clearance)
            words = encoding.encode(
                answer.plan,
                answer.sums,
                answer.noise,
                max_rows=self._gate.catalog.datasets[request.query.table].max_rows,
                parties=len(batch.parameters.names),
                random_bytes=self._random,
            )
            least = EXACT_CONTRIBUTORS if answer.noise is None else NOISY_CONTRIBUTORS
            return batch.client.mask(message.slot, request.digest(), words, contributors=least)

    def _model(self, body: bytes) -> bytes:
        """One round of a model; the first charges for all of them."""
        message = messages.decode(body, messages.Step)
        signed, request = _request(message.request)
        clearance: keys.Signed | None = None
        if message.clearance:
            clearance = keys.decode(message.clearance, keys.Signed)
        batch = self._batch(message.session)
        with batch.lock:
            batch.take(message.slot)
            model = self._answering(signed, request, fitting.number(message.state), batch, clearance)
            words = model.words(message.state)
            least = EXACT_CONTRIBUTORS if request.privacy is None else NOISY_CONTRIBUTORS
            return batch.client.mask(
                message.slot, fitting.digest(request, message.state), words, contributors=least
            )

    def _answering(
        self,
        signed: keys.Signed,
        request: Request,
        number: int,
        batch: _Batch,
        clearance: keys.Signed | None,
    ) -> fitting.Answering:
        digest = request.digest()
        with self._lock:
            model = self._models.get(digest)
        if model is not None:
            if number == 0:
                raise ScheduleError("this model has begun before")
            return model
        honest = least_threshold(batch.parameters.setting, len(batch.parameters.names))
        if number == 0:
            self._check_noise(request, honest)
            begun = self._gate.begin(signed, honest, clearance)
        else:
            begun = self._gate.resume(signed)
        model = fitting.answering(
            request,
            begun.schema,
            batch.parameters.names,
            self.name,
            honest,
            begun.rows,
            begun.rules,
            self._trainings,
        )
        with self._lock:
            self._models[digest] = model
            while len(self._models) > MODELS:
                self._models.popitem(last=False)
        return model

    def _trainings(self) -> Answered:
        """Which rounds of trainings were answered here, by whatever process."""
        from .neural.participant import Answered

        if self._answered is None:
            self._answered = Answered(self._gate.state.directory / "trainings.db")
        return self._answered

    def _confirm(self, body: bytes) -> bytes:
        message = messages.decode(body, messages.Unmask)
        batch = self._batch(message.session)
        with batch.lock:
            return batch.client.confirm(message.slot, message.survivors)

    def _unmask(self, body: bytes) -> bytes:
        message = messages.decode(body, messages.Unmask)
        batch = self._batch(message.session)
        with batch.lock:
            return batch.client.unmask(message.slot, message.survivors, message.confirmations)

    def _record(self, body: bytes) -> bytes:
        signed: keys.Signed = keys.decode(body, keys.Signed)
        evidence = self._gate.record(signed)
        return b"" if evidence is None else canonical(evidence)

    def _scores(self) -> Scoring:
        if self._scoring is None:
            raise QueryError(f"{self.name!r} publishes no models")
        return self._scoring

    def _check_noise(self, request: Request, honest: int) -> None:
        """That the sampler's precision does for delta, before anything is charged."""
        dataset = self._gate.catalog.datasets.get(request.query.table)
        if request.privacy is not None and dataset is not None and request.model is None:
            plan = compile_plan(request.query, dataset.schema(), exact=False)
            rho = dp.rho_of(request.privacy.epsilon, request.privacy.delta)
            encoding.check_noise(plan, dataset.rows_per_unit, rho, honest, request.privacy.delta)

    def _checked(self, honest: int) -> int:
        if not 1 <= honest <= len(self._roster):
            raise ParameterError(f"'honest' is {honest}; allowed are 1 to {len(self._roster)}")
        return honest

    def _batch(self, session: bytes) -> _Batch:
        with self._lock:
            batch = self._batches.get(session)
        if batch is None:
            raise ScheduleError("no such session at this node")
        return batch


def _request(data: bytes) -> tuple[keys.Signed, Request]:
    """A signed request as relayed; the gate checks the signature before it acts on it."""
    signed: keys.Signed = keys.decode(data, keys.Signed)
    return signed, keys.decode(signed.body, Request)
