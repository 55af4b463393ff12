"""Attacks on a privacy budget. Each succeeds where nobody keeps a durable account, and fails at the ledger.

The attacker is an analyst who wants the true count behind a DP release, or several who work together.
"""

from __future__ import annotations

import hashlib
import math
import threading

import numpy as np
import pytest

from sandbox import dp
from sandbox.accounting import Zcdp
from sandbox.errors import BudgetExceeded
from sandbox.ledger import Caps, Charge, Ledger

SECRET = 1234
EPSILON = 0.5
CAPS = Caps(epsilon=2.0, delta=1e-6)
RHO = dp.rho_of(EPSILON, 1e-6)
SIGMA = 1 / math.sqrt(2 * RHO)
ASKED = 20_000


def charge(label: object, analyst="ana") -> Charge:
    return Charge(
        hashlib.sha256(str(label).encode()).digest(), "health", analyst, "care", 0.0, Zcdp(RHO), EPSILON
    )


def fits() -> int:
    """How many such releases the budget covers."""
    return max(n for n in range(50) if dp.epsilon_of(n * RHO, 1e-6) <= 2.0 * (1 + 1e-9))


@pytest.fixture
def book(tmp_path):
    book = Ledger(tmp_path / "ledger.db")
    yield book
    book.close()


def answers(grant) -> np.ndarray:
    """What the analyst gets who asks again and again, until told no."""
    noise = np.random.default_rng(11)
    got = []
    for i in range(ASKED):
        try:
            grant(i)
        except BudgetExceeded:
            break
        got.append(SECRET + noise.normal(0, SIGMA))
    return np.array(got)


def test_averaging_repeated_releases_gives_the_count_unless_each_is_charged(book):
    free = answers(lambda i: None)
    assert round(free.mean()) == SECRET
    paid = answers(lambda i: book.charge(charge(i), CAPS))
    assert len(paid) == fits()
    # What is left of the noise: the mean of all that was granted has the deviation of one release at the whole budget.
    whole = 1 / math.sqrt(2 * dp.rho_of(2.0, 1e-6))
    assert SIGMA / math.sqrt(len(paid)) >= whole
    assert SIGMA / math.sqrt(len(free)) < whole / 10


def test_the_budget_does_not_come_back_with_a_restart(tmp_path):
    forgetful = 0
    for _ in range(3):  # the defence off: an account in memory, as long as the process lives
        spent = 0.0
        while dp.epsilon_of(spent + RHO, 1e-6) <= 2.0:
            spent += RHO
            forgetful += 1
    assert forgetful == 3 * fits()
    granted = 0
    for life in range(3):
        book = Ledger(tmp_path / "ledger.db")
        try:
            while True:
                book.charge(charge((life, granted)), CAPS)
                granted += 1
        except BudgetExceeded:
            book.close()
    assert granted == fits()


def test_many_analysts_do_not_have_many_budgets(book):
    caps = Caps(epsilon=2.0, delta=1e-6, analyst_epsilon=EPSILON)
    names = [f"analyst {i}" for i in range(40)]
    alone = Caps(
        epsilon=1e9, delta=1e-6, analyst_epsilon=EPSILON
    )  # the defence off: no cap on all of them together

    def granted(limits: Caps, run: str) -> int:
        count = 0
        for name in names:
            try:
                book.charge(
                    Charge(f"{run} {name}".encode(), run, name, "care", 0.0, Zcdp(RHO), EPSILON), limits
                )
                count += 1
            except BudgetExceeded:
                pass
        return count

    assert granted(alone, "off") == len(names)
    assert granted(caps, "on") == fits() < len(names)


def test_a_race_for_the_last_of_a_budget_grants_what_fits(book):
    """Deciding first and charging later lets everyone pass who asked before the first paid."""
    for i in range(fits() - 1):
        book.charge(charge(i), CAPS)
    barrier = threading.Barrier(16)
    promised, granted = [], []

    def ask(number: int) -> None:
        book.preview(charge(("race", number)), CAPS)
        promised.append(number)
        barrier.wait()
        try:
            book.charge(charge(("race", number)), CAPS)
        except BudgetExceeded:
            return
        granted.append(number)

    workers = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(promised) == 16
    assert len(granted) == 1


def test_a_request_sent_again_is_told_from_a_new_one(book):
    """Whoever sends one paid request many times would get fresh noise for nothing, were it not known again."""
    assert not book.charge(charge("once"), CAPS).repeated
    assert all(book.charge(charge("once"), CAPS).repeated for _ in range(5))
    assert book.spent("health", 1e-6).private == 1
