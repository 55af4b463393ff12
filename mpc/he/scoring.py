"""Two departments, one score: the owner of the data learns scores, the owner of the model learns nothing.

    server: offer    parameters, the features' names and bounds, output scale, error bounds    -> client
    client: keys     a public key and, for deeper models, an evaluation key                    -> server
    client: ask      for each block of rows, one ciphertext a column                           -> server
    server: answer   one ciphertext an output: evaluated, rerandomised, flooded                -> client
    client: scores   decrypted

Protects: the data from the owner of the model, who sees ciphertexts, the number of rows, and which columns
there are; the model from the owner of the data beyond its scores and what the offer says (`mpc.he.flooding`), if
that owner follows the protocol. Nothing decrypted travels back, so the attack of Li and Micciancio (2021) finds
nothing; whoever publishes scores uses `publishable_scores`.

Does not protect: a linear model of d features is found from d + 1 scores, any model from enough of them, so
`most_rows` must be set by the caller's quota; a client that encrypts values beyond the declared bounds, or
malformed keys, learns what the model computes there; nothing proves to the client that the server used any
particular model. Neither side does input or output: methods take and return bytes, and a network relays them,
authenticated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import Malformed, OutOfOrder, OutOfRange, Replayed, Tampered, WrongLength
from mpc.he import columns, envelope, flooding, seal
from mpc.he.arithmetic import Arithmetic
from mpc.he.circuit import columns_of, run
from mpc.he.keys import EvaluationKey, PublicKey, SecretKey
from mpc.he.models import Feature, Forest, Link, Model
from mpc.he.parameters import Parameters
from mpc.he.plan import TOLERANCE, Errors, Plan, plan
from mpc.he.poly import function_of
from mpc.prepared import prepared

MOST_ROWS = 2**31


class Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that the owner of the data is told about a model."""

    parameters: Parameters
    features: tuple[Feature, ...]
    trees: bool
    outputs: int
    scale: float
    link: Link
    errors: Errors
    multiplies: bool

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(b"mpc.he offer 1" + msgspec.msgpack.encode(self)).digest()


def read_offer(data: bytes) -> Offer:
    """An offer that somebody sent; raises `Malformed`."""
    try:
        offer = msgspec.msgpack.decode(data, type=prepared(Offer))
    except (*envelope.UNREADABLE, OutOfRange) as error:
        raise Malformed("offer", "not an offer of this protocol") from error
    numbers = (offer.scale, *msgspec.structs.astuple(offer.errors))
    if offer.parameters.scheme != "ckks" or not all(np.isfinite(n) and n >= 0 for n in numbers):
        raise Malformed("offer", "must be of CKKS parameters, with finite scale and errors")
    if not 1 <= offer.outputs <= 1024 or offer.scale == 0:
        raise Malformed("offer", "must have 1 ... 1024 outputs, of a positive scale")
    return offer


class _Keys(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    offer: bytes
    public: bytes
    evaluation: bytes


class _Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    offer: bytes
    number: int
    rows: int


class ScoreClient:
    """The owner of the data, for one offer, under a secret key made for it.

    >>> from mpc.he.models import features_of, linear
    >>> server = ScoreServer(linear(features_of({"income": (0, 100)}), [2.0], 1.0))
    >>> client = ScoreClient(server.offer())
    >>> server.accept_keys(client.keys())
    >>> [answer] = [server.score(block) for block in client.ask({"income": [10, 40]})]
    >>> client.scores(answer).round(1).tolist()
    [[21.0], [81.0]]
    """

    def __init__(self, offer: bytes) -> None:
        self.offer = read_offer(offer)
        self._key = SecretKey.generate(self.offer.parameters)
        self._asked: dict[int, int] = {}
        self._next = 0

    def __repr__(self) -> str:
        return f"<ScoreClient of {len(self.offer.features)} features, key {self._key.fingerprint.hex()[:8]}>"

    @property
    def error(self) -> float:
        """How far any score may be from the model's own, after the link where that is Lipschitz (identity, logistic)."""
        slope = {"identity": 1.0, "logistic": 0.25}.get(self.offer.link)
        if slope is None:
            raise OutOfRange("link", "of an exponential has a relative error: see `relative_error`")
        return self.offer.errors.total * slope

    @property
    def relative_error(self) -> float:
        """For an exponential link: how far any score may be from the model's own, as a share of it."""
        if self.offer.link != "exp":
            raise OutOfRange("link", "has an absolute error: see `error`")
        return float(np.expm1(self.offer.errors.total))

    def keys(self) -> bytes:
        """What the server needs before it can answer."""
        evaluation = self._key.evaluation_key(multiply=True).to_bytes() if self.offer.multiplies else b""
        return msgspec.msgpack.encode(_Keys(self.offer.digest, self._key.public_key().to_bytes(), evaluation))

    def ask(self, table: Mapping[str, Any]) -> Iterator[bytes]:
        """A message for each block of rows, made one at a time. Every value is checked before the first is encrypted."""
        values = columns.checked(self.offer.features, table)
        rows = values[0].size
        if not 1 <= rows <= MOST_ROWS:
            raise OutOfRange("table", f"must have 1 ... {MOST_ROWS} rows")
        return self._blocks(values, rows)

    def _blocks(self, values: list[NDArray[np.float64]], rows: int) -> Iterator[bytes]:
        slots = self.offer.parameters.slots
        for begin in range(0, rows, slots):
            block = columns.scaled(
                self.offer.features, [v[begin : begin + slots] for v in values], self.offer.trees
            )
            header = _Block(self.offer.digest, self._next, min(slots, rows - begin))
            self._asked[self._next] = header.rows
            self._next += 1
            parts = [columns.encrypt(self._key, column) for column in block]
            yield envelope.pack("rows", self.offer.parameters, self._key.fingerprint, header, parts)

    def scores(self, answer: bytes) -> NDArray[np.float64]:
        """The scores of one block: rows by outputs. Each answer is taken once."""
        linear = self._decrypted(answer)
        return linear if self.offer.link == "identity" else function_of(self.offer.link)(linear)

    def publishable_scores(self, answer: bytes, *, queries: int = 1) -> tuple[NDArray[np.float64], float]:
        """Scores that may be shown to the owner of the model, too, and the noise's standard deviation before the link."""
        linear = self._decrypted(answer)
        noisy, spread = flooding.publishable(linear, self.offer.errors.evaluation, queries=queries)
        return (noisy if self.offer.link == "identity" else function_of(self.offer.link)(noisy)), spread

    def _decrypted(self, answer: bytes) -> NDArray[np.float64]:
        parameters = self.offer.parameters
        _, header, parts = envelope.unpack(
            answer,
            "scores",
            parameters,
            self._key.fingerprint,
            _Block,
            most_part_bytes=parameters.most_ciphertext_bytes,
        )
        if header.offer != self.offer.digest:
            raise Tampered("scores", "answer another offer")
        if header.number not in self._asked:
            raise Replayed("scores", "answer a block that was not asked, or was answered before")
        if header.rows != self._asked[header.number] or len(parts) != self.offer.outputs:
            raise WrongLength("scores", "must be as many as were asked")
        slots = []
        for part in parts:
            read = columns.read(parameters, part, 0, parameters.scale, "scores")
            slots.append(columns.decrypt(self._key, read)[: header.rows])
        values = np.stack(slots, axis=1)
        if not (np.abs(values) <= 1 + self.offer.errors.total / self.offer.scale + 1e-9).all():
            raise Malformed("scores", "lie outside the offer's range: not an honest evaluation")
        del self._asked[header.number]
        return values * self.offer.scale


class ScoreServer:
    """The owner of the model, for one client, which gets at most `most_rows` scores."""

    def __init__(
        self,
        model: Model | Plan,
        *,
        tolerance: float = TOLERANCE,
        flooding_bits: int = flooding.BITS,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self.plan = (
            model
            if isinstance(model, Plan)
            else plan(model, tolerance=tolerance, flooding_bits=flooding_bits)
        )
        circuit = self.plan.circuit
        self._offer = Offer(
            self.plan.parameters,
            circuit.model.features,
            isinstance(circuit.model.body, Forest),
            circuit.model.outputs,
            circuit.scale,
            circuit.model.link,
            self.plan.errors,
            self.plan.multiplies,
        )
        self._public: PublicKey | None = None
        self._arithmetic: Arithmetic | None = None
        self._answered: set[int] = set()
        self._most_rows = most_rows
        self.rows_answered = 0

    def offer(self) -> bytes:
        return msgspec.msgpack.encode(self._offer)

    def accept_keys(self, message: bytes) -> None:
        """The client's keys, once."""
        if self._public is not None:
            raise Replayed("keys", "were accepted before")
        parameters = self.plan.parameters
        try:
            keys = msgspec.msgpack.decode(message, type=prepared(_Keys))
        except envelope.UNREADABLE as error:
            raise Malformed("keys", "not keys of this protocol") from error
        if keys.offer != self._offer.digest:
            raise Tampered("keys", "are for another offer")
        public = PublicKey.from_bytes(keys.public, parameters)
        if self.plan.multiplies:
            evaluation = EvaluationKey.from_bytes(keys.evaluation, parameters)
        else:
            evaluation = EvaluationKey(parameters, public.fingerprint, None, None, ())
        if evaluation.fingerprint != public.fingerprint:
            raise Tampered("keys", "belong to different secret keys")
        self._public, self._arithmetic = public, Arithmetic(parameters, evaluation)

    def score(self, message: bytes) -> bytes:
        """The answer to one block of rows. The same block is not answered twice: repeated noise could be averaged out."""
        if self._public is None or self._arithmetic is None:
            raise OutOfOrder("rows", "accept_keys() comes first")
        parameters, circuit = self.plan.parameters, self.plan.circuit
        _, header, parts = envelope.unpack(
            message,
            "rows",
            parameters,
            self._public.fingerprint,
            _Block,
            most_part_bytes=parameters.most_ciphertext_bytes,
        )
        if header.offer != self._offer.digest:
            raise Tampered("rows", "are for another offer")
        if header.number in self._answered:
            raise Replayed("rows", "this block was answered before")
        if not 1 <= header.rows <= parameters.slots:
            raise Malformed("rows", f"must be 1 ... {parameters.slots}")
        if self.rows_answered + header.rows > self._most_rows:
            raise OutOfRange("rows", f"are more than the {self._most_rows} that this client gets")
        if len(parts) != len(columns_of(circuit.model.features, self._offer.trees)):
            raise WrongLength("rows", "must hold one ciphertext for each column of the offer")
        inputs = [
            self._arithmetic.fresh(
                columns.read(parameters, part, parameters.levels, parameters.scale, "rows")
            )
            for part in parts
        ]
        masked = header.rows if header.rows < parameters.slots else None
        try:
            outputs = run(circuit, self._arithmetic, inputs, masked)
        except (RuntimeError, ValueError) as error:  # SEAL, on ciphertexts made to cancel out
            raise Malformed("rows", "cannot be evaluated: not independent ciphertexts") from error
        self._answered.add(header.number)
        self.rows_answered += header.rows
        answers = [
            seal.dump(
                flooding.flood_ciphertext(
                    output.ciphertext,
                    output.scale,
                    self.plan.noise,
                    self.plan.flooding_bits,
                    self._public,
                )
            )
            for output in outputs
        ]
        return envelope.pack("scores", parameters, self._public.fingerprint, header, answers)
