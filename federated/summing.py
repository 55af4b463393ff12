"""Secure sums over a network: set-up once for a batch of slots, then one slot a sum. What the coordinator's side of it does.

    [advertise, share, receive ── set-up, once for a batch]
    masked, or overlaps ── each department masks a vector for this slot
    [confirm ── active setting: one survivor set]
    unmask ── survivors help to take the masks off the sum

A department that fails or vanishes is left out, visibly, as long as enough remain. A message of its that does not verify counts as none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from mpc.errors import ProtocolError
from mpc.secagg import Aggregator, Setting, least_threshold
from sandbox import errors
from sandbox.errors import DepartmentFailed, Refused, TooFewDepartments

from . import encoding, messages
from .network import Failure, Network

SLOTS = 16
Progress = Callable[[str], None]
ANSWERED = frozenset(
    {"decide", "explain", "overlaps", "score", "join"}
)  # where a department's refusal ends the request


class Sum(msgspec.Struct, frozen=True):
    """What is to be summed: the kind of message that asks for it, its digest, its length, and the body for a session and slot."""

    kind: str
    digest: bytes
    words: int
    body: Callable[[bytes, int], bytes]
    needed: int
    stage: str


class _Batch:
    def __init__(self, aggregator: Aggregator):
        self.aggregator = aggregator
        self.next_slot = 0

    @property
    def session(self) -> bytes:
        return self.aggregator.parameters.session


class Summation:
    """Secure sums among departments of `roster` (name -> public key). Not safe to use from several threads."""

    def __init__(self, network: Network, roster: Mapping[str, bytes], setting: Setting):
        self.network, self.setting = network, setting
        self._roster = dict(roster)
        self._batches: dict[tuple[str, ...], _Batch] = {}
        self._instances: dict[str, bytes] = {}

    def met(self, instances: Mapping[str, bytes]) -> None:
        """Departments that say which process they are: where one was started anew, batches with it are set up anew."""
        anew = {name for name, value in instances.items() if self._instances.get(name, value) != value}
        self._instances.update(instances)
        for departments in [names for names in self._batches if anew & set(names)]:
            del self._batches[departments]

    def threshold(self, departments: int) -> int:
        """How many departments must remain; as many add noise enough for all."""
        return least_threshold(self.setting, departments)

    def run(
        self, wanted: Sum, departments: tuple[str, ...], missing: dict[str, str], progress: Progress
    ) -> encoding.Words:
        """The joint vector of one slot. Adds to `missing` whoever is not in it, and why."""
        batch = self._batch(departments, wanted.needed, missing, progress)
        for name in set(departments) - set(batch.aggregator.members):
            missing.setdefault(name, "was absent at set-up")
        try:
            return self._sum(batch, wanted, missing, progress)
        finally:
            if set(missing) & set(batch.aggregator.members):
                self._batches.pop(departments, None)

    def _sum(self, batch: _Batch, wanted: Sum, missing: dict[str, str], progress: Progress) -> encoding.Words:
        aggregator, slot = batch.aggregator, batch.next_slot
        batch.next_slot += 1
        aggregator.open(slot, wanted.digest, wanted.words)
        progress(wanted.stage)
        body = wanted.body(batch.session, slot)
        members = [name for name in aggregator.members if name not in missing]
        lost = self._collect(wanted.kind, dict.fromkeys(members, body), aggregator.accept_masked)
        missing.update(lost)
        remaining = [name for name in members if name not in lost]
        _enough("computing", remaining, missing, wanted.needed)
        survivors = aggregator.survivors(slot)
        confirmations = b""
        if self.setting == "active":
            progress("confirming who remained")
            body = messages.encode(messages.Unmask(batch.session, slot, survivors))
            lost = self._collect("confirm", dict.fromkeys(remaining, body), aggregator.accept_confirmation)
            _enough("confirming", _without(remaining, lost), lost, aggregator.parameters.threshold)
            confirmations = aggregator.confirmations(slot)
        progress("unmasking the sum")
        body = messages.encode(messages.Unmask(batch.session, slot, survivors, confirmations))
        lost = self._collect("unmask", dict.fromkeys(remaining, body), aggregator.accept_answer)
        _enough("unmasking", _without(remaining, lost), lost, aggregator.parameters.threshold)
        if lost:
            self._batches.clear()  # those who vanished late are in this sum, but not in the next batch as it stands
        try:
            return aggregator.result(slot)
        except ProtocolError as error:  # too many departments lied about their shares
            raise DepartmentFailed(str(error)) from None

    def _batch(
        self, departments: tuple[str, ...], needed: int, missing: dict[str, str], progress: Progress
    ) -> _Batch:
        """A batch with a free slot, set up anew where there is none, or where it lacks one who is asked (again).

        Adds to `missing` whoever failed in the set-up.
        """
        batch = self._batches.get(departments)
        asked = set(departments) - set(missing)
        if batch is not None and batch.next_slot < SLOTS and asked <= set(batch.aggregator.members):
            return batch
        progress("exchanging keys")
        roster = {name: self._roster[name] for name in departments}
        aggregator = Aggregator(
            roster, threshold=self.threshold(len(roster)), setting=self.setting, slots=SLOTS
        )
        session = aggregator.parameters.session

        def collect(
            kind: str, body: bytes | Mapping[str, bytes], accept: Callable[[str, bytes], object]
        ) -> None:
            present = [name for name in departments if name not in missing]
            part = (lambda _name: body) if isinstance(body, bytes) else body.__getitem__
            bodies = {name: messages.encode(messages.Setup(session, part(name))) for name in present}
            missing.update(self._collect(kind, bodies, accept))
            _enough("setting up", _without(departments, missing), missing, needed)

        collect("advertise", aggregator.announce(), aggregator.accept_advertisement)
        collect("share", aggregator.advertisements(), aggregator.accept_shares)
        collect("receive", aggregator.deliveries(), lambda _name, _reply: None)
        batch = self._batches[departments] = _Batch(aggregator)
        return batch

    def _collect(
        self, kind: str, bodies: Mapping[str, bytes], accept: Callable[[str, bytes], object]
    ) -> dict[str, str]:
        """One round whose replies `accept` verifies; who failed, and why."""
        failed = {}
        for name, reply in ask(self.network, kind, bodies).items():
            if isinstance(reply, Failure):
                failed[name] = reply.reason
                continue
            try:
                accept(name, reply)
            except ProtocolError as error:
                failed[name] = f"{type(error).__name__}: {error}"
        return failed


def ask(network: Network, kind: str, bodies: Mapping[str, bytes]) -> dict[str, bytes | Failure]:
    """One round. A department's own refusal of a decision is an error; in later rounds it counts as vanished."""
    replies: dict[str, bytes | Failure] = {}
    for name, data in network.call(kind, bodies).items():
        reply = data if isinstance(data, Failure) else messages.decode_reply(data)
        if isinstance(reply, messages.Refusal):
            text = f"{reply.error}: {reply.text}" if reply.text else reply.error
            if kind in ANSWERED:
                raise _raised(name, reply, text)
            reply = Failure(text)
        replies[name] = reply if isinstance(reply, Failure) else reply.body
    return replies


def _raised(name: str, refusal: messages.Refusal, text: str) -> Refused | DepartmentFailed:
    """A department's refusal as an error of its own class where a rule said no, else as its failure."""
    kind = getattr(errors, refusal.error, None)
    if isinstance(kind, type) and issubclass(kind, Refused):
        return kind([f"{name}: {refusal.text}"])
    return DepartmentFailed(f"{name}: {text}")


def _without(names: list[str] | tuple[str, ...], lost: Mapping[str, str]) -> list[str]:
    return [name for name in names if name not in lost]


def _enough(stage: str, left: list[str], missing: Mapping[str, str], needed: int) -> None:
    if len(left) < needed:
        raise TooFewDepartments(
            [f"{named(missing)} vanished while {stage}: {needed} are needed, {len(left)} are left"]
        )


def named(missing: Mapping[str, str]) -> str:
    """Who is missing, and why."""
    return ", ".join(f"{name} ({reason})" for name, reason in sorted(missing.items()))
