"""What a node must not forget: restarts keep it, crashes leave it whole, and copies put back are found out."""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import msgspec
import pytest
from door import HONEST, KEYS, NOW, ROSTER, Door, ask, clearance, dataset, digest, request

from sandbox import code, dp, entries
from sandbox.approvals import Approvals, sign_decision
from sandbox.audit import AuditLog
from sandbox.engine import Engine
from sandbox.errors import (
    ApprovalNeeded,
    BudgetExceeded,
    KeyUnusable,
    LedgerError,
    LogCorrupt,
    LogError,
    ProofInvalid,
)
from sandbox.gate import Deny
from sandbox.keys import SigningKey
from sandbox.query import digest as digest_of
from sandbox.witness import Witness

STORES = ("ledger.db", "cohorts.db", "approvals.db")


def save(door: Door, name: str, to: pathlib.Path) -> None:
    """A copy of one database as it stands, and nothing else."""
    with sqlite3.connect(door.path / name) as here, sqlite3.connect(to) as there:
        here.backup(there)
    here.close()
    there.close()


def put_back(door: Door, name: str, copy: pathlib.Path) -> None:
    """The copy in the place of the database of a node that has stopped."""
    door.crash()
    for left in door.path.glob(f"{name}*"):
        left.unlink()
    shutil.copy(copy, door.path / name)


def reopen_in_place(door: Door) -> None:
    door.open(door.catalog.datasets["t"], door.frame)


# --- restarts ---


def test_a_restart_keeps_the_budget(door):
    door.run(ask(epsilon=0.9))
    for _ in range(3):
        door.reopen()
        assert door.spent() == pytest.approx(0.9)
        assert isinstance(door.gate.decide(ask(epsilon=0.9), HONEST), Deny)
        with pytest.raises(BudgetExceeded):
            door.run(ask(epsilon=0.9))


def test_a_restart_keeps_the_cohorts_and_the_contracts(open_door):
    door = open_door()
    first = ask(keys=("sex",))
    door.run(first)
    door.record(first, shown=(0,))
    door.reopen()
    [released] = door.gate.decide(ask(), HONEST).released
    assert (released.request, released.shown) == (digest(first), (0,))
    guarded = open_door("important")
    contract = guarded.propose(request(epsilon=0.5))
    guarded.decide(contract, "olga")
    guarded.reopen()
    assert guarded.state.approvals.status(contract).approved_by == ("olga",)


def test_start_and_stop_catalogue_and_policies_are_logged(door):
    kinds = [type(entry) for entry in door.logged()]
    assert kinds == [entries.Start, entries.Catalogue, entries.Policy]
    [start], [policy] = door.logged(entries.Start), door.logged(entries.Policy)
    assert (start.department, start.code, start.ledger) == ("ash", code.version(), 0)
    assert start.roster == ROSTER.digest()
    assert (policy.dataset, policy.policy) == ("t", door.state.policy_digest("t"))
    door.run(ask(epsilon=0.1))
    door.state.close("for the night")
    reopen_in_place(door)
    assert [stop.reason for stop in door.logged(entries.Stop)] == ["for the night"]
    assert [start.ledger for start in door.logged(entries.Start)] == [0, 1]
    assert len(door.logged(entries.Catalogue)) == len(door.logged(entries.Policy)) == 1, "nothing changed"


def test_a_changed_catalogue_and_policy_are_logged_when_they_come_into_force(door):
    changed = dataset(epsilon_per_release=0.1)
    door.reopen(changed)
    catalogues, policies = door.logged(entries.Catalogue), door.logged(entries.Policy)
    assert catalogues[-1].catalogue == digest_of(door.catalog).hex() != catalogues[0].catalogue
    assert policies[-1].policy == door.state.policy_digest("t") != policies[0].policy
    described = dataset(epsilon_per_release=0.1)
    door.reopen(described)
    assert len(door.logged(entries.Catalogue)) == 2


def test_its_files_are_for_the_node_alone(door):
    door.run(ask())
    assert door.path.stat().st_mode & 0o777 == 0o700
    for path in (door.path / "ledger.db", door.path / "cohorts.db", door.path / "audit" / "entries.log"):
        assert path.stat().st_mode & 0o077 == 0


def test_versions_are_named_under_a_secret_of_the_node(door):
    """The same rows have the same version after a restart; at another node, or once the secret is lost, another one."""

    def version():
        return door.gate._engines["t"].version()

    first, path = version(), door.path / "version.key"
    assert path.stat().st_mode & 0o777 == 0o600
    door.reopen()
    assert version() == first
    door.reopen(frame=door.frame.assign(x=3))
    assert version() != first
    door.reopen(frame=door.frame.assign(x=[i % 10 for i in range(40)]))
    assert version() == first
    path.unlink()
    door.reopen()
    assert version() != first
    assert first != Engine("t", door.catalog.datasets["t"], door.frame).version()


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [("f" * 64, 0o640, "others can read it"), ("f" * 63, 0o600, "damaged"), ("", 0o600, "damaged")],
)
def test_a_secret_that_others_could_read_or_that_is_damaged_is_not_used(door, content, mode, reason):
    path = door.path / "version.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=reason) as caught:
        door.reopen()
    assert "fff" not in str(caught.value)
    path.unlink()
    reopen_in_place(door)  # the first try let go of the log


# --- crashes ---


@pytest.mark.parametrize("at", ["charged", "counted"])
def test_a_charge_that_a_crash_kept_from_the_log_is_logged_at_the_next_open(open_door, at):
    class Crash(BaseException):
        pass

    def step(name):
        if name == at:
            raise Crash

    door = open_door("important")
    contract = door.propose(request(epsilon=0.5))
    for owner in ("olga", "oskar"):
        door.decide(contract, owner)
    asked = ask(epsilon=0.5)
    with pytest.raises(Crash):
        door.run(asked, step)
    assert not door.logged(entries.Charge)
    for _ in range(2):
        door.reopen()
        [charge] = door.logged(entries.Charge)
        assert (charge.request, charge.number, charge.analyst) == (digest(asked), 1, "wu")
        assert (charge.epsilon, charge.rho) == (0.5, pytest.approx(dp.rho_of(0.5, 1e-6)))
        assert door.spent() == pytest.approx(0.5), "charged it stays"


def test_a_torn_log_is_mended_and_the_charge_in_it_logged_again(door):
    """What a power cut leaves: the ledger has the charge, and of the log's frame only a part came to the disk."""
    asked = ask(epsilon=0.5)
    path, head = (door.path / "audit" / name for name in ("entries.log", "head"))
    sizes: list[int] = []
    heads: list[bytes] = []

    def step(_name):
        sizes.append(path.stat().st_size)
        heads.append(head.read_bytes())

    door.run(asked, step)
    before, after = sizes[0], sizes[-1]
    for kept in {before, before + 1, before + 40, after - 1}:
        door.crash()
        os.truncate(path, kept)
        head.write_bytes(heads[0])  # which is signed once the frame is on the disk
        reopen_in_place(door)
        [charge] = door.logged(entries.Charge)
        assert charge.request == digest(asked)
    assert door.spent() == pytest.approx(0.5)


# --- what was refused ---


def refused(door: Door) -> entries.Decision:
    """A denial is the last that this node logged."""
    door.gate.decide(ask(purpose="marketing"), HONEST)
    last = door.logged()[-1]
    assert isinstance(last, entries.Decision)
    assert last.verdict == "deny"
    return last


def test_a_refusal_stands_under_a_signed_head_at_once(door):
    refused(door)
    assert door.state.log.signed.size == len(door.state.log)
    door.gate.refused(clearance(ask(), reasons=("too close",)))
    assert door.state.log.signed.size == len(door.state.log)


@pytest.mark.parametrize("headed", [True, False])
def test_a_refusal_that_is_cut_off_is_found_out(door, headed, monkeypatch):
    """By somebody who has the files, not the key. Without a head over it, the node would open as if nobody had asked."""
    path = door.path / "audit" / "entries.log"
    size = path.stat().st_size
    if not headed:  # the defence left out
        monkeypatch.setattr(door.state, "append", lambda *new: door.state.log.append_many(new))
    refused(door)
    door.crash()
    os.truncate(path, size)
    if headed:
        with pytest.raises(LogCorrupt, match="rolled back"):
            reopen_in_place(door)
    else:
        reopen_in_place(door)
        assert not door.logged(entries.Decision)


def rewritten(door: Door, lie: entries.Decision) -> None:
    """The whole log anew, signed by the node's own key, with another last entry."""
    history = [*door.logged()[:-1], lie]
    door.crash()
    shutil.rmtree(door.path / "audit")
    with AuditLog(door.path / "audit", "city/ash", key=KEYS["ash", "node"]) as log:
        log.append_many(history)
        log.head()
    reopen_in_place(door)


@pytest.mark.parametrize("visited", [True, False])
def test_a_refusal_that_the_owner_rewrites_is_found_out_by_who_saw_a_head_over_it(door, visited, tmp_path):
    """Key in hand; nothing was released since. Without a head over it (none was signed), a witness saw nothing of it."""
    key = KEYS["ash", "node"]
    watched = Witness(tmp_path / "seen", SigningKey.generate(), "city/regulator", {"city/ash": key.public})
    if not visited:
        watched.cosign(door.state.log.last(), (), NOW)
    honest = refused(door)
    if visited:
        watched.cosign(door.state.log.last(), (), NOW)
    rewritten(door, msgspec.structs.replace(honest, verdict="allow", reasons=()))
    seen, log = watched.last("city/ash"), door.state.log
    if visited:
        with pytest.raises(ProofInvalid):
            watched.cosign(log.last(), log.consistency(seen), NOW)
    else:
        watched.cosign(log.last(), log.consistency(seen), NOW)


# --- copies put back ---


def spend(door: Door) -> None:
    asked = ask(epsilon=0.4)
    door.run(asked)


def release(door: Door) -> None:
    first = ask()
    door.run(first)
    door.record(first)


def run_under_contract(door: Door) -> None:
    door.run(ask(epsilon=0.1))


@pytest.mark.parametrize(
    ("level", "store", "act"),
    [
        ("general-2", "ledger.db", spend),
        ("general-2", "ledger.db", release),
        ("general-2", "cohorts.db", release),
        ("important", "approvals.db", run_under_contract),
        ("important", "ledger.db", run_under_contract),
    ],
)
def test_a_store_that_is_copied_back_is_found_out_at_the_next_open(open_door, tmp_path, level, store, act):
    door = open_door(level)
    if level == "important":
        contract = door.propose(request(epsilon=0.1), runs=3, budget=0.3)
        for owner in ("olga", "oskar"):
            door.decide(contract, owner)
    act(door)
    copy, now = tmp_path / "copy", tmp_path / "now"
    save(door, store, copy)
    act(door)
    save(door, store, now)
    put_back(door, store, copy)
    size = (door.path / "audit" / "entries.log").stat().st_size
    for _ in range(2):
        with pytest.raises(LedgerError, match="put back from a copy"):
            reopen_in_place(door)
    assert (door.path / "audit" / "entries.log").stat().st_size == size, "nothing is written beside it"
    for left in door.path.glob(f"{store}*"):
        left.unlink()
    with pytest.raises(LedgerError, match="put back from a copy"):
        reopen_in_place(door)
    for left in door.path.glob(f"{store}*"):
        left.unlink()
    shutil.copy(now, door.path / store)
    reopen_in_place(door)


def test_a_ledger_with_other_charges_is_found_out(open_door):
    door, other = open_door(), open_door()
    door.run(ask(epsilon=0.4))
    other.run(ask(epsilon=0.1))
    save(other, "ledger.db", other.path / "copy")
    put_back(door, "ledger.db", other.path / "copy")
    with pytest.raises(LedgerError, match="charge 1 is another one than in the audit log"):
        reopen_in_place(door)


def test_an_owners_no_that_is_taken_away_is_found_out(open_door, tmp_path):
    door = open_door("important")
    contract = door.propose(request(epsilon=0.5))
    door.decide(contract, "olga")
    save(door, "approvals.db", tmp_path / "copy")
    door.decide(contract, "oskar", approved=False)
    with pytest.raises(ApprovalNeeded):
        door.run(ask(epsilon=0.5))  # the no is logged
    put_back(door, "approvals.db", tmp_path / "copy")
    with pytest.raises(LedgerError, match=r"approvals of 'ash'.* put back from a copy"):
        reopen_in_place(door)


def test_a_log_that_is_copied_back_alone_is_found_out(door, tmp_path):
    """Its signed head is beside it; where both are put back, the ledger has charges too many, and logs them again."""
    shutil.copytree(door.path / "audit", tmp_path / "copy")
    asked = ask(epsilon=0.4)
    door.run(asked)
    door.state.close()
    shutil.copy(tmp_path / "copy" / "entries.log", door.path / "audit" / "entries.log")
    with pytest.raises(LogCorrupt, match="rolled back"):
        reopen_in_place(door)
    shutil.rmtree(door.path / "audit")
    shutil.copytree(tmp_path / "copy", door.path / "audit")
    reopen_in_place(door)
    [charge] = door.logged(entries.Charge)
    assert charge.request == digest(asked)
    assert door.spent() == pytest.approx(0.4)


def test_a_log_that_is_lost_beside_a_ledger_is_not_begun_anew(door):
    door.run(ask(epsilon=0.4))
    door.state.close()
    shutil.rmtree(door.path / "audit")
    with pytest.raises(LedgerError, match="it holds 1 charges, and there is no audit log: put the log back"):
        reopen_in_place(door)


# --- other processes ---

_OTHER = """
    import sys
    sys.path.insert(0, {tests!r})
    from door import KEYS, NOW, ROSTER, Door
    import pathlib
"""


def other_process(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script that has `door` at hand, in a process of its own."""
    start = textwrap.dedent(_OTHER.format(tests=str(pathlib.Path(__file__).parent)))
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(script), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_second_process_cannot_open_the_same_state(door):
    script = """
        from sandbox.errors import LogError
        try:
            Door(pathlib.Path(sys.argv[1]))
        except LogError as error:
            print("refused:", error)
    """
    before = len(door.logged())
    done = other_process(script, door.path)
    assert done.stdout.startswith("refused: audit log 'city/ash' is in use by another process"), done.stderr
    assert len(door.logged()) == before
    door.run(ask(epsilon=0.1))
    door.crash()
    assert other_process(script, door.path).stdout == ""  # now it can
    reopen_in_place(door)
    assert [start.ledger for start in door.logged(entries.Start)] == [0, 1, 1]


def test_nor_can_this_one_twice(door):
    with pytest.raises(LogError, match="in use"):
        Door(door.path)


def test_what_owners_decide_in_another_process_is_taken_up_and_logged(open_door):
    door = open_door("important")
    contract = door.propose(request(epsilon=0.5))
    script = """
        from sandbox.approvals import Approvals, sign_decision
        desk = Approvals(pathlib.Path(sys.argv[1]) / "approvals.db", "ash", ROSTER, lambda _name: 2, lambda: NOW)
        owner, contract, word = sys.argv[2:5]
        signed = sign_decision(KEYS[owner, "owner"], owner, contract, word == "yes", "in my own office", NOW)
        print(desk.decide(signed).state)
    """
    said = [other_process(script, door.path, name, contract, "yes").stdout for name in ("olga", "oskar")]
    assert said == ["pending\n", "approved\n"]
    assert not door.logged(entries.Approval)
    door.run(ask(epsilon=0.5))
    told = [(e.approver, e.verdict, e.reason) for e in door.logged(entries.Approval)]
    assert told == [("olga", "approve", "in my own office"), ("oskar", "approve", "in my own office")]
    log = door.logged()
    charged = next(i for i, entry in enumerate(log) if isinstance(entry, entries.Charge))
    last = max(i for i, entry in enumerate(log) if isinstance(entry, entries.Approval))
    assert last < charged, "leave is in the log before what it was given for"
    door.reopen()
    assert len(door.logged(entries.Approval)) == 2


def test_what_owners_decided_while_the_node_was_down_is_logged_when_it_opens(open_door):
    door = open_door("important")
    contract = door.propose(request(epsilon=0.5))
    door.crash()
    desk = Approvals(door.path / "approvals.db", "ash", ROSTER, lambda _name: 2, lambda: NOW)
    desk.decide(sign_decision(KEYS["olga", "owner"], "olga", contract, False, "not now", NOW))
    desk.close()
    reopen_in_place(door)
    [told] = door.logged(entries.Approval)
    assert (told.contract, told.approver, told.verdict, told.reason) == (
        contract,
        "olga",
        "reject",
        "not now",
    )


def test_four_processes_and_their_ledger_grant_what_fits(door):
    """The ledger alone is shared by processes; each asks for a quarter of the releases that are left, and one more."""
    script = """
        from sandbox.errors import BudgetExceeded
        from sandbox.ledger import Caps, Charge, Ledger
        book = Ledger(pathlib.Path(sys.argv[1]) / "ledger.db")
        for i in range(6):
            try:
                book.charge(Charge(f"{sys.argv[2]} {i}".encode().ljust(32, b"-"), "t", "wu", "research", NOW), Caps(releases=20))
                print("granted")
            except BudgetExceeded:
                print("refused")
    """
    start = textwrap.dedent(_OTHER.format(tests=str(pathlib.Path(__file__).parent)))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", start + textwrap.dedent(script), str(door.path), str(i)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    words = [word for worker in workers for word in worker.communicate()[0].split()]
    assert (words.count("granted"), words.count("refused")) == (20, 4)
    door.reopen()
    assert len(door.logged(entries.Charge)) == 20, "the node's log tells of charges that it did not make"
