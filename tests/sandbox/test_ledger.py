"""The ledger: caps as a privacy filter, accounting against dp-accounting itself, races of real processes, and kill -9."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import msgspec
import numpy as np
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import accounting, dp, ledger
from sandbox.accounting import Event, Gaussian, Laplace, SampledGaussian, Zcdp
from sandbox.errors import BudgetExceeded, InternalError, LedgerError, ParameterError
from sandbox.ledger import Caps, Charge, Charged, Ledger

DELTA = 1e-6
CAPS = Caps(epsilon=1.0, delta=DELTA)
EVENTS = (Zcdp(0.01), Gaussian(4.0), Laplace(5.0), SampledGaussian(0.01, 1.1, 200))


def charge(
    label: object, event: Event | None = None, dataset="health", analyst="ana", purpose="care", epsilon=None
) -> Charge:
    request = hashlib.sha256(str(label).encode()).digest()
    return Charge(request, dataset, analyst, purpose, 1_700_000_000.0, event, epsilon)


def private(label: object, epsilon: float, **other: str) -> Charge:
    return charge(label, Zcdp(dp.rho_of(epsilon, DELTA)), epsilon=epsilon, **other)


@pytest.fixture
def book(tmp_path):
    book = Ledger(tmp_path / "ledger.db")
    yield book
    book.close()


# --- accounting ---


@given(st.floats(1e-3, 100), st.floats(-15, -3), st.floats(0, 12))
@settings(max_examples=200, deadline=None)
def test_a_release_that_stands_alone_costs_what_it_asked(epsilon, exponent, stricter):
    asked = 10**exponent
    budget = min(asked * 10**stricter, 1e-3)  # a budget's delta is never below a release's
    cost = accounting.cost(Zcdp(dp.rho_of(epsilon, asked)))
    assert accounting.epsilon(cost, budget) <= epsilon * (1 + 1e-9)
    assert accounting.epsilon(cost, asked) >= epsilon * (1 - 1e-6)


@given(st.floats(0.02, 100), st.floats(-15, -3))
@settings(max_examples=200, deadline=None)
def test_our_total_of_gaussians_is_at_most_three_per_mille_below_the_rdp_accountants(epsilon, exponent):
    delta = 10**exponent
    rho = dp.rho_of(epsilon, delta)
    accountant = rdp.RdpAccountant(accounting.ORDERS).compose(accounting.dp_event(Zcdp(rho)))
    ours = accounting.epsilon(accounting.cost(Zcdp(rho)), delta)
    assert ours <= accountant.get_epsilon(delta) * (1 + 1e-9)
    assert ours >= accountant.get_epsilon(delta) / 1.003


def test_mixed_events_cost_what_the_rdp_accountant_says_and_never_less_than_the_privacy_loss_distribution():
    total, accountant, exact = accounting.NOTHING, rdp.RdpAccountant(accounting.ORDERS), pld.PLDAccountant()
    for event in EVENTS:
        total = total + accounting.cost(event)
        accountant.compose(accounting.dp_event(event))
        if not isinstance(
            event, Zcdp
        ):  # which PLD does not know: it is no more than the Gaussian of the same rho
            exact.compose(accounting.dp_event(event))
    exact.compose(accounting.dp_event(Gaussian(1 / math.sqrt(2 * 0.01))))
    ours = accounting.epsilon(total, DELTA)
    assert ours == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-12)  # at an order up to 1024
    assert exact.get_epsilon(DELTA) <= ours <= 1.25 * exact.get_epsilon(DELTA)


@pytest.mark.parametrize("event", EVENTS[2:])
def test_no_order_of_an_event_is_below_the_rdp_accountants(event):
    theirs = rdp.RdpAccountant(accounting.ORDERS).compose(accounting.dp_event(event)).rdp
    ours = accounting.cost(event).curve
    small = np.array(accounting.ORDERS) <= 1024
    assert ours[small] == pytest.approx(theirs[small], rel=1e-12)
    assert (ours >= theirs * (1 - 1e-12)).all()


def test_a_gaussian_and_its_rho_are_the_same():
    assert accounting.cost(Gaussian(4.0)).rho == accounting.cost(Zcdp(1 / 32)).rho


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_read_back_as_written(event):
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


@pytest.mark.parametrize(
    "text",
    [
        '{"node":"zcdp","rho":-0.1}',
        '{"node":"zcdp","rho":0.1,"more":1}',
        '{"node":"gaussian","noise_multiplier":0}',
        '{"node":"sampled_gaussian","probability":1.5,"noise_multiplier":1,"steps":1}',
        '{"node":"sampled_gaussian","probability":0.5,"noise_multiplier":1,"steps":0}',
        '{"node":"os.system"}',
    ],
)
def test_events_outside_the_closed_set_are_refused(text):
    with pytest.raises((msgspec.ValidationError, ParameterError)):
        msgspec.json.decode(text, type=Event)
    with pytest.raises(ParameterError):
        Zcdp(math.nan)


# --- caps ---


def test_a_charge_says_what_is_spent_and_left(book):
    assert book.charge(private(1, 0.5), CAPS) == Charged(1, pytest.approx(0.5), pytest.approx(0.5))
    assert book.spent("health", DELTA).epsilon == pytest.approx(0.5)
    assert book.spent("other", DELTA) == ledger.Spent()


def test_the_whole_budget_can_be_asked_for_at_once(book):
    assert book.charge(private(1, 1.0), CAPS).left == pytest.approx(0, abs=1e-9)
    with pytest.raises(BudgetExceeded, match="epsilon 1 of 1 is spent, and this release would bring it to"):
        book.charge(private(2, 0.01), CAPS)


def test_epsilons_compose_as_rho_does(book):
    granted = 0
    try:
        for i in range(1000):
            book.charge(private(i, 0.1), CAPS)
            granted += 1
    except BudgetExceeded:
        pass
    rho = dp.rho_of(0.1, DELTA)
    assert dp.epsilon_of(granted * rho, DELTA) <= 1 < dp.epsilon_of((granted + 1) * rho, DELTA)
    assert granted > 50  # the sum of epsilons would have stopped at 10
    book.verify()


def test_every_cap_that_would_be_passed_is_named(book):
    caps = Caps(epsilon=1.0, delta=DELTA, analyst_epsilon=0.5, releases=1, analyst_releases=1)
    book.charge(private(1, 0.4), caps)
    with pytest.raises(BudgetExceeded) as refused:
        book.charge(private(2, 0.99), caps)
    assert [reason.split(":")[0] for reason in refused.value.reasons] == [
        "releases of 'health'",
        "releases of 'health' for analyst 'ana'",
        "privacy budget of 'health'",
        "privacy budget of 'health' for analyst 'ana'",
    ]
    assert len(book.history("health")) == 1


def test_caps_of_one_analyst_or_data_set_do_not_bind_another(book):
    caps = Caps(epsilon=1.0, delta=DELTA, analyst_epsilon=0.5, analyst_releases=1)
    book.charge(private(1, 0.5), caps)
    book.charge(private(2, 0.5, analyst="bo"), caps)
    book.charge(private(3, 0.5, dataset="tax"), caps)
    assert book.spent("health", DELTA, "bo") == ledger.Spent(pytest.approx(0.5), 0, 1)
    assert set(book.spent_by("ana", {"health": DELTA, "tax": DELTA, "unused": DELTA})) == {
        "health",
        "tax",
        "unused",
    }
    assert book.spent_by("ana", {"tax": DELTA})["tax"].releases == 1


def test_exact_releases_count_as_releases_and_spend_no_epsilon(book):
    caps = Caps(releases=2)
    assert book.charge(charge(1), caps) == Charged(1, 0.0, None)
    book.charge(charge(2), caps)
    with pytest.raises(BudgetExceeded, match="releases of 'health': 2 of 2 are used"):
        book.charge(charge(3), caps)
    assert book.spent("health", DELTA) == ledger.Spent(0.0, 2, 0)
    assert [entry.mode for entry in book.history("health")] == ["exact", "exact"]


def test_exact_releases_pass_beside_a_spent_budget(book):
    book.charge(private(1, 1.0), CAPS)
    assert book.charge(charge(2), CAPS).left == pytest.approx(0, abs=1e-9)


def test_without_a_budget_no_dp_release_is_granted(book):
    with pytest.raises(BudgetExceeded, match="no privacy budget"):
        book.charge(private(1, 0.1), Caps())


def test_a_repeat_gets_the_first_result_and_charges_nothing(book):
    first = book.charge(private(1, 0.5), CAPS)
    book.charge(private(2, 0.1), CAPS)
    again = book.charge(msgspec.structs.replace(private(1, 0.5), time=2e9), CAPS)
    assert again == msgspec.structs.replace(first, repeated=True)
    assert book.charge(private(1, 0.5), Caps(releases=0)).repeated  # paid is paid, whatever the caps are now
    assert len(book.history("health")) == 2
    assert not book.charge(private(1, 0.5, dataset="tax"), CAPS).repeated  # each data set is paid


@pytest.mark.parametrize("other", [{"analyst": "bo"}, {"purpose": "tax"}])
def test_a_digest_that_comes_back_for_something_else_is_an_error(book, other):
    book.charge(private(1, 0.5), CAPS)
    with pytest.raises(InternalError, match="digest"):
        book.charge(private(1, 0.5, **other), CAPS)
    with pytest.raises(InternalError, match="digest"):
        book.charge(charge(1), CAPS)


def test_a_preview_says_the_same_and_changes_nothing(book):
    preview = book.preview(private(1, 0.5), CAPS)
    assert book.history("health") == ()
    assert msgspec.structs.replace(preview, number=1) == book.charge(private(1, 0.5), CAPS)
    with pytest.raises(BudgetExceeded):
        book.preview(private(2, 0.99), CAPS)


def test_the_statement_shows_who_spent_what_for_what(book):
    book.charge(private(1, 0.3), CAPS)
    book.charge(private(2, 0.3), CAPS)
    book.charge(msgspec.structs.replace(charge(3, purpose="tax"), analysis="fit"), CAPS)
    book.charge(private(4, 0.2, analyst="bo"), CAPS)
    lines = book.statement({"health": DELTA})
    assert [
        (line.analyst, line.purpose, line.analysis, line.spent.exact, line.spent.private) for line in lines
    ] == [
        ("ana", "care", "table", 0, 2),
        ("ana", "tax", "fit", 1, 0),
        ("bo", "care", "table", 0, 1),
    ]
    assert 0.3 < lines[0].spent.epsilon < 0.6
    assert lines[2].spent.epsilon == pytest.approx(0.2)
    assert book.spent("health", DELTA).epsilon < sum(line.spent.epsilon for line in lines)


# --- storage ---


def test_totals_survive_reopening_and_are_the_sums_of_the_rows(book):
    caps = Caps(epsilon=50.0, delta=DELTA)
    for i, event in enumerate(EVENTS * 3):
        book.charge(charge(i, event, analyst=f"analyst {i % 2}"), caps)
    again = Ledger(book.path)
    again.verify()
    accountant = rdp.RdpAccountant(accounting.ORDERS)
    for event in EVENTS * 3:
        accountant.compose(accounting.dp_event(event))
    assert again.spent("health", DELTA).epsilon == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)
    assert [entry.charge.event for entry in again.history("health")] == list(EVENTS * 3)
    again.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM charges",
        "UPDATE charges SET event = NULL",
        "INSERT OR REPLACE INTO charges SELECT number, request, dataset, analyst, 'x', 'table', NULL, NULL, 0, 0, 0 FROM charges",
    ],
)
def test_charges_are_append_only(book, statement):
    book.charge(private(1, 0.5), CAPS)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        book._database.connection.execute(statement)
    book.verify()


def test_totals_that_were_tampered_with_do_not_verify(book):
    book.charge(private(1, 0.5), CAPS)
    with sqlite3.connect(book.path) as other:
        other.execute("UPDATE totals SET rho = rho / 2 WHERE analyst = ''")
    other.close()
    with pytest.raises(LedgerError, match="the total of 'health' is not the sum"):
        book.verify()


def test_a_charge_that_was_cut_out_does_not_verify(book):
    for i in range(3):
        book.charge(charge(i), Caps())
    with sqlite3.connect(book.path) as other:
        other.executescript("DROP TRIGGER no_delete; DELETE FROM charges WHERE number = 2")
    other.close()
    with pytest.raises(LedgerError, match="charge 2 is missing"):
        book.verify()


def test_what_is_no_ledger_or_of_another_format_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "text")
    with sqlite3.connect(tmp_path / "new") as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(LedgerError, match="its format is 99"):
        Ledger(tmp_path / "new")


def test_the_file_is_its_owners_alone(book):
    assert os.stat(book.path).st_mode & 0o077 == 0


# --- races ---


def _race(path: str, name: str, threads: int, each: int, gate) -> None:
    """Charge 0.1 again and again from several threads; the exit status says how many were granted."""
    book, granted = Ledger(path), []
    gate.wait()

    def run(thread: int) -> None:
        for i in range(each):
            try:
                book.charge(private(f"{name} {thread} {i}", 0.1), CAPS)
                granted.append(1)
            except BudgetExceeded:
                return

    workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    book.close()
    os._exit(len(granted))


def _fits(epsilon: float) -> int:
    rho, fits = dp.rho_of(epsilon, DELTA), 0
    while dp.epsilon_of((fits + 1) * rho, DELTA) <= 1 + 1e-9:
        fits += 1
    return fits


@pytest.mark.parametrize(("processes", "threads"), [(1, 16), (4, 4)])
def test_of_a_budget_raced_for_exactly_what_fits_is_granted(tmp_path, processes, threads):
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes)
    path = tmp_path / "ledger.db"  # made by whoever comes first
    runners = [
        context.Process(target=_race, args=(str(path), str(i), threads, 200, gate)) for i in range(processes)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    granted = [runner.exitcode for runner in runners]
    assert sum(granted) == _fits(0.1)
    book = Ledger(path)
    book.verify()
    assert book.spent("health", DELTA).private == sum(granted)
    book.close()


def test_one_request_raced_for_is_charged_once(book):
    results = []
    workers = [
        threading.Thread(target=lambda: results.append(book.charge(private(1, 0.5), CAPS))) for _ in range(16)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(result.repeated for result in results) == [False] + 15 * [True]
    assert book.spent("health", DELTA).private == 1


# --- crashes ---

_VICTIM = """
import hashlib, sys
from sandbox.accounting import Laplace, Zcdp
from sandbox.ledger import Caps, Charge, Ledger
book = Ledger(sys.argv[1])
for i in range(10**6):
    label = f"{sys.argv[2]} {i}"
    event = Zcdp(1e-6)
    charge = Charge(hashlib.sha256(label.encode()).digest(), "health", f"analyst {i % 3}", "care", 0.0, event)
    book.charge(charge, Caps(epsilon=100.0, delta=1e-6))
    print(label, flush=True)
"""


def test_killed_at_any_moment_the_ledger_opens_and_holds_every_acknowledged_charge(tmp_path):
    chance, path = random.Random(7), tmp_path / "ledger.db"
    acknowledged: list[str] = []
    for round_ in range(6):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(path), str(round_)], stdout=subprocess.PIPE, text=True
        )
        assert victim.stdout is not None
        acknowledged.append(victim.stdout.readline().strip())
        time.sleep(chance.uniform(0, 0.1))
        victim.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in victim.stdout if line.endswith("\n")]
        victim.wait()
        victim.stdout.close()
        book = Ledger(path)
        book.verify()
        held = {entry.charge.request for entry in book.history("health")}
        assert {hashlib.sha256(label.encode()).digest() for label in acknowledged} <= held
        assert len(held) - len(acknowledged) <= round_ + 1  # at most one a kill was charged and not yet told
        assert book.spent("health", DELTA).private == len(held)
        book.close()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT"])
def test_killed_inside_a_transaction_nothing_of_it_remains(tmp_path, statement):
    """The process dies before it begins, or after its rows were written and before they are committed."""
    path = tmp_path / "ledger.db"
    book = Ledger(path)
    book.charge(private(1, 0.5), CAPS)
    code = """
import os, signal, sys
from sandbox.accounting import Zcdp
from sandbox.ledger import Caps, Charge, Ledger
book = Ledger(sys.argv[1])
def trace(statement):
    if statement == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
book._database.connection.set_trace_callback(trace)
book.charge(Charge(b"second", "health", "ana", "care", 0.0, Zcdp(1e-3)), Caps(epsilon=1.0, delta=1e-6))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path), statement], check=False)
    assert done.returncode == -signal.SIGKILL
    book.verify()
    assert len(book.history("health")) == 1
    second = Charge(b"second", "health", "ana", "care", 0.0, Zcdp(1e-3))
    assert not book.charge(second, CAPS).repeated
    book.verify()
    book.close()


def test_orders_are_part_of_the_format():
    """A ledger written by an older version must not be read at other orders."""
    digest = hashlib.sha256(np.array(accounting.ORDERS, "<f8").tobytes()).hexdigest()
    assert (ledger.FORMAT, digest[:16]) == (2, "8bdc53f880b01c2b")
