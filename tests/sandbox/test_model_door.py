"""The door of a department's models, over bytes that stand for offers and scores: policy, quotas, crashes, copies, evidence."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import secrets
import shutil
import threading

import msgspec
import pytest
from door import KEYS, NOW, ROSTER

from sandbox import code, entries, keys, receipt
from sandbox.catalog import Catalog
from sandbox.errors import (
    BudgetExceeded,
    CatalogError,
    Denied,
    Expired,
    InternalError,
    LedgerError,
    ScheduleError,
    SignatureInvalid,
    UnknownSigner,
)
from sandbox.owner import Owner, lines
from sandbox.query import canonical
from sandbox.request import RECORD, Record
from sandbox.scoring import quota
from sandbox.scoring.declared import Declared
from sandbox.scoring.door import ModelDoor, find, offer_digest
from sandbox.scoring.request import OFFERS, REQUEST, Offers, Request, released
from sandbox.state import State

OFFER, VERSION, NODE = b"an offer", "5" * 64, KEYS["ash", "node"]
PLAIN = Declared(("loans",), {"income": (0, 100)}, rows=100, rows_per_analyst=60)


class Bank:
    """The department `ash` with a model `credit`; `open` again is a restart."""

    def __init__(self, path, declared=PLAIN):
        self.path, self.now = path, float(NOW)
        self.open(declared)

    def open(self, declared=PLAIN):
        self.catalog = Catalog("ash", {}, {"credit": declared})
        self.state = State(self.path, self.catalog, {}, ROSTER, NODE, lambda: self.now)
        self.door = ModelDoor(self.catalog.models, {"credit": (VERSION, OFFER)}, self.state)
        self.books = self.door._books

    def crash(self):
        state = self.state
        for part in (state.ledger, state.cohorts, self.books.quotas, state.approvals, state.log):
            part.close()

    def begin(self, signed):
        request = self.door.admit(signed)
        self.door.charge(request)
        return request

    def logged(self, kind):
        self.state.log.verify()
        return [entry for entry in self.state.log.entries() if isinstance(entry, kind)]


@pytest.fixture
def bank(tmp_path):
    return Bank(tmp_path)


def request(**changes) -> Request:
    fields = {
        "model": "credit",
        "department": "ash",
        "offer": offer_digest(OFFER),
        "keys": "0" * 64,
        "rows": 10,
        "purpose": "loans",
        "analyst": "wu",
        "nonce": secrets.token_hex(16),
        "expires": NOW + 600,
    }
    return Request(**{**fields, **changes})


def ask(by=None, **changes) -> keys.Signed:
    made = request(**changes)
    name = by or made.analyst
    return keys.seal(KEYS[name, "analyst"], name, REQUEST, made)


def record(asked: Request, answered: str, **changes) -> keys.Signed:
    fields = {
        "federation": ROSTER.federation,
        "request": asked.digest().hex(),
        "release": answered,
        "analyst": asked.analyst,
        "purpose": asked.purpose,
        "code": code.version(),
        "departments": ("ash",),
        "issued": NOW,
    }
    statement = receipt.Statement(**{**fields, **changes})
    return keys.seal(
        KEYS["coordinator", "coordinator"],
        "coordinator",
        RECORD,
        Record(statement, statement.departments, (0,)),
    )


# --- what is declared ---


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bounds": {}}, "'bounds' names 0 features; allowed are 1 to 4096"),
        ({"bounds": {"a": (1, 0)}}, "'bounds' of 'a' must be two finite numbers"),
        ({"bounds": {"a": (0, float("inf"))}}, "'bounds' of 'a' must be two finite numbers"),
        ({"rows_per_analyst": 101}, "'rows_per_analyst' is 101; allowed are 1 to 'rows', 100"),
        ({"rows_per_request": 61}, "'rows_per_request' is 61; allowed are 1 to 'rows_per_analyst', 60"),
        (
            {"valid_from": datetime.date(2025, 2, 1), "valid_until": datetime.date(2025, 1, 1)},
            "'valid_until' is 2025-01-01, before 'valid_from'",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(changes, reason):
    with pytest.raises(CatalogError, match=rf"model 'credit': {reason}"):
        Catalog("ash", {}, {"credit": msgspec.structs.replace(PLAIN, **changes)})


def test_a_declaration_reads_from_toml_and_needs_quotas():
    text = 'department = "ash"\n[models.credit]\npurposes = ["loans"]\nbounds = { income = [0, 100] }\n'
    quotas = "rows = 100\nrows_per_analyst = 60\n"
    assert msgspec.toml.decode(text + quotas, type=Catalog).models == {"credit": PLAIN}
    for missing in ("rows = 100\n", "rows_per_analyst = 60\n", ""):
        with pytest.raises(msgspec.ValidationError, match="missing required field"):
            msgspec.toml.decode(text + missing, type=Catalog)
    with pytest.raises(msgspec.ValidationError, match="flooding"):
        msgspec.toml.decode(text + quotas + "flooding = 0\n", type=Catalog)


# --- policy ---

POLICY = msgspec.structs.replace(
    PLAIN,
    analysts=("li",),
    organisations=("nobody",),
    rows_per_request=5,
    valid_until=datetime.date(2001, 1, 1),
)


def test_every_reason_is_told_and_logged_and_nothing_is_spent(tmp_path):
    bank = Bank(tmp_path, POLICY)
    with pytest.raises(Denied) as denied:
        bank.begin(ask(purpose="marketing", rows=1000, offer="1" * 64))
    told = "; ".join(denied.value.reasons)
    for part in (
        "analyst 'wu' is not among those",
        "is not among those that the owner of model 'credit' permits",
        "could be asked until 2001-01-01",
        "purpose 'marketing' is not permitted for model 'credit'; permitted are: 'loans'",
        "1000 rows; model 'credit' allows at most 5 a request",
        "encrypted for another offer",
        "scores of 'credit': 0 of 100 rows are used, and 1000 more are asked for",
        "scores of 'credit' for analyst 'wu': 0 of 60 rows are used",
    ):
        assert part in told
    [decision] = bank.logged(entries.Decision)
    assert (decision.verdict, decision.reasons) == ("deny", denied.value.reasons)
    assert decision.policy == bank.books.policy("credit")
    assert bank.books.quotas.entries() == ()
    assert bank.logged(entries.Quota) == []


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (lambda: ask(by="li"), Denied),
        (lambda: ask(department="birch"), Denied),
        (lambda: ask(model="other"), Denied),
        (lambda: ask(expires=NOW), Expired),
        (lambda: ask(expires=NOW + 2 * 24 * 3600), Denied),
        (lambda: msgspec.structs.replace(ask(), signer="nobody"), UnknownSigner),
        (lambda: msgspec.structs.replace(ask(), signer="li"), SignatureInvalid),
        (lambda: msgspec.structs.replace(ask(), body=ask().body), SignatureInvalid),
        (lambda: keys.seal(KEYS["wu", "analyst"], "wu", "request", request()), SignatureInvalid),
    ],
)
def test_who_signed_what_and_when_is_verified(bank, signed, error):
    with pytest.raises(error):
        bank.begin(signed())
    assert bank.books.quotas.entries() == ()


# --- quotas ---


def test_rows_are_charged_once_and_never_refunded(bank):
    first = ask(rows=60)
    bank.begin(first)
    with pytest.raises(ScheduleError, match="its rows are spent"):
        bank.begin(first)
    with pytest.raises(BudgetExceeded, match="for analyst 'wu': 60 of 60 rows are used, and 1 more"):
        bank.begin(ask(rows=1))
    with pytest.raises(BudgetExceeded, match="scores of 'credit': 60 of 100 rows are used, and 41 more"):
        bank.begin(ask(analyst="li", rows=41))
    bank.begin(ask(analyst="li", rows=40))
    assert (bank.books.quotas.used("credit"), bank.books.quotas.used("credit", "wu")) == (100, 60)
    assert [entry.number for entry in bank.logged(entries.Quota)] == [1, 2]
    assert any("number 1, 60 rows of 'credit'" in line[3] for line in lines(bank.state.log, 50))


def test_a_restart_forgets_nothing(bank):
    asked = ask(rows=60)
    bank.begin(asked)
    bank.crash()
    bank.open()
    with pytest.raises(ScheduleError):
        bank.begin(asked)
    with pytest.raises(BudgetExceeded):
        bank.begin(ask(rows=1))


def test_threads_that_race_for_the_last_rows_get_what_fits(bank):
    granted, refused = [], []

    def begin(signed):
        try:
            granted.append(bank.begin(signed))
        except BudgetExceeded:
            refused.append(signed)

    asked = [ask(analyst=("wu", "li")[i % 2], rows=7) for i in range(24)]
    threads = [threading.Thread(target=begin, args=(signed,)) for signed in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), len(refused)) == (14, 10)
    assert bank.books.quotas.used("credit") == 98


def test_an_owner_sees_who_has_used_how_much_of_a_quota(bank):
    with Owner(bank.path, bank.catalog, ROSTER) as owner:
        assert owner.quotas().values.tolist() == [["credit", 100, 100, "", 0, 60]]
        bank.begin(ask(rows=10))
        bank.begin(ask(rows=45))
        bank.begin(ask(analyst="li", rows=40))
        assert owner.quotas().values.tolist() == [
            ["credit", 100, 5, "li", 40, 5],
            ["credit", 100, 5, "wu", 55, 5],
        ]


def _race(path, start, done):
    table = quota.Quotas(path)
    start.wait()
    won = 0
    for _ in range(10):
        made = quota.Charge(secrets.token_bytes(32), "credit", "wu", "loans", 3, 0.0)
        with contextlib.suppress(BudgetExceeded):
            won += not table.charge(made, 50, 50).repeated
    done.put(won)


def test_processes_that_race_get_what_fits(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, done = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path / "scores.db", start, done)) for _ in range(3)]
    for racer in racers:
        racer.start()
    start.set()
    assert sum(done.get(timeout=60) for _ in racers) == 16
    for racer in racers:
        racer.join()
    assert quota.Quotas(tmp_path / "scores.db").used("credit") == 48


def test_the_table_is_append_only_and_a_digest_binds_its_request(tmp_path):
    table = quota.Quotas(tmp_path / "scores.db")
    made = quota.Charge(b"r" * 32, "credit", "wu", "loans", 3, 0.0)
    assert table.charge(made, 9, 9) == quota.Charged(1)
    assert table.charge(msgspec.structs.replace(made, time=5.0), 3, 3) == quota.Charged(1, True)
    for change in ({"rows": 1}, {"analyst": "li"}, {"model": "other"}, {"purpose": "x"}):
        with pytest.raises(InternalError):
            table.charge(msgspec.structs.replace(made, **change), 9, 9)
    for statement in ("DELETE FROM charges", "UPDATE charges SET rows = 1"):
        with pytest.raises(LedgerError), table._database.transaction(write=True):
            table._database.execute(statement)
    assert table.entries() == ((1, made),)
    assert (tmp_path / "scores.db").stat().st_mode & 0o077 == 0


def test_a_charge_that_a_crash_kept_from_the_log_is_logged_at_the_next_open(bank):
    made = request(rows=60)
    bank.books.quotas.charge(bank.books._charge(made), 100, 60)
    bank.crash()
    for _ in range(2):
        bank.open()
        [logged] = bank.logged(entries.Quota)
        assert (logged.request, logged.rows, logged.analyst) == (made.digest().hex(), 60, "wu")
        bank.crash()
    bank.open()
    with pytest.raises(BudgetExceeded):
        bank.begin(ask(rows=1))


def test_a_table_that_is_copied_back_is_found_out_at_the_next_open(bank, tmp_path_factory):
    bank.begin(ask(rows=10))
    bank.crash()
    copy = tmp_path_factory.mktemp("copy")
    for path in bank.path.glob("scores.db*"):
        shutil.copy(path, copy)
    bank.open()
    bank.begin(ask(rows=10))
    bank.crash()
    for path in bank.path.glob("scores.db*"):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy(path, bank.path)
    with pytest.raises(LedgerError, match=r"quotas of 'ash': they lack charge 2, which the audit log holds"):
        bank.open()


# --- evidence ---


def test_a_record_is_logged_and_its_receipt_verifies(bank):
    asked = bank.begin(ask(rows=10))
    release = released(asked.digest().hex(), ("a" * 64,))
    signed = record(asked, release)
    evidence = bank.door.record(signed, release)
    statement = keys.decode(signed.body, Record).statement
    data = receipt.issue(statement, [evidence], KEYS["coordinator", "coordinator"], "coordinator")
    report = receipt.verify(data, ROSTER, request=asked.digest().hex(), release=release, now=NOW)
    assert report.ok, report
    assert (evidence.entry.dataset, evidence.entry.data_version) == ("credit", VERSION)
    changed = data.replace(b"loans", b"homes")
    assert not receipt.verify(changed, ROSTER, now=NOW).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"release": "1" * 64},
        {"purpose": "other"},
        {"analyst": "li"},
        {"departments": ("ash", "birch")},
        {"epsilon": 1.0, "delta": 1e-6},
        {"federation": "village"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_record_of_anything_else_is_refused(bank, changes):
    asked = bank.begin(ask(rows=10))
    release = released(asked.digest().hex(), ())
    with pytest.raises(ScheduleError, match=f"'{next(iter(changes))}' is not what was answered"):
        bank.door.record(record(asked, release, **changes), release)
    stranger = request()
    with pytest.raises(ScheduleError, match="no such request"):
        bank.door.record(record(stranger, release), release)
    forged = keys.seal(KEYS["wu", "analyst"], "wu", RECORD, keys.decode(record(asked, release).body, Record))
    with pytest.raises(UnknownSigner):
        bank.door.record(forged, release)
    assert bank.logged(entries.Release) == []


def test_offers_are_signed_and_name_what_may_be_asked(bank):
    signed = keys.decode(canonical(bank.door.offers(NODE)), keys.Signed)
    offers = keys.open_(signed, OFFERS, Offers, NODE.public)
    published = find(offers, "credit")
    assert (published.offer, published.version, published.rows) == (OFFER, VERSION, 100)
    with pytest.raises(SignatureInvalid):
        keys.open_(signed, OFFERS, Offers, KEYS["wu", "analyst"].public)
