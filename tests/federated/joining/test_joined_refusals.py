"""What is no join, what an owner does not permit, and what a coordinator may not make of one: refused in words, and nothing is spent."""

from __future__ import annotations

import secrets
import time
import types

import clinic
import msgspec
import numpy as np
import pandas as pd
import pytest

from federated import local, messages
from federated.deploy import checks
from federated.joining.messages import Step
from federated.joining.sides import Kept
from mpc.errors import Replayed
from sandbox import col, count, keys
from sandbox import query as q
from sandbox.catalog import Catalog, Column, DataSet, Overrides
from sandbox.errors import (
    ApprovalNeeded,
    CatalogError,
    Denied,
    DepartmentFailed,
    LedgerError,
    QueryError,
    TooFewDepartments,
)
from sandbox.joining.declared import Join, Summary
from sandbox.joining.earlier import Earlier, Joins
from sandbox.joining.wide import person_schema
from sandbox.keys import SigningKey
from sandbox.query import canonical
from sandbox.request import REQUEST, Privacy, Request


@pytest.fixture(scope="module")
def town():
    return clinic.federation()


@pytest.fixture(scope="module")
def city(town):
    return town.city()


def charged(town) -> list[int]:
    return [len(list(gate.state.ledger.entries())) for gate in town.gates.values()]


@pytest.mark.parametrize(
    ("tables", "on", "reason"),
    [
        (("registry.people",), "person", "takes 2 to 8 tables, not 1"),
        (
            ("registry.people", "bank.loans"),
            "person",
            "unknown table 'bank.loans'; known are: hospital.events",
        ),
        (("registry.people", "lab"), "person", "unknown table 'lab'"),
        (("registry.people", "registry.people"), "person", "each table must be of another department"),
        (("registry.people", "lab.values"), "sex", "registry.people is matched on 'person', not on 'sex'"),
    ],
)
def test_what_is_no_join(city, tables, on, reason):
    with pytest.raises(QueryError, match=reason):
        city.join(*tables, on=on)


def test_two_departments_give_no_exact_values(town, city):
    query = city.join("registry.people", "lab.values", on="person").agg(count())
    with pytest.raises(
        TooFewDepartments, match="2 departments take part; an exact joint value needs at least 3"
    ):
        query.release(purpose=clinic.PURPOSE)
    assert charged(town) == [0, 0, 0]
    assert query.release(purpose=clinic.PURPOSE, epsilon=0.5).departments == ("lab", "registry")


def pair(tmp_path=None, **changed) -> local.Federation:
    """Three small tables; `changed`: fields of the data set of x."""
    catalogs, frames = {}, {}
    for name in ("x", "y", "z"):
        others = tuple(f"{other}.t" for other in ("x", "y", "z") if other != name)
        columns = {
            "k": Column("identifier", normaliser="text"),
            f"v{name}": Column("integer", bounds=(0, 99)),
        }
        given = {"columns": columns, "join": Join(others)} | (changed if name == "x" else {})
        dataset = DataSet("general-2", ("research",), **({"unit": "k", "max_rows": 200} | given))
        catalogs[name] = Catalog(name, {"t": dataset})
        frames[name] = {"t": pd.DataFrame({"k": [f"p{i}" for i in range(100)], f"v{name}": np.arange(100)})}
    return local.open_federation(catalogs, frames, directory=tmp_path)


def ask(federation, where=None):
    table = federation.city().join("x.t", "y.t", "z.t", on="k")
    return (table if where is None else table.filter(where)).agg(count()).release(purpose="research")


@pytest.mark.parametrize(
    ("changed", "error", "reason"),
    [
        ({"join": None}, QueryError, "x.t is open to no joins"),
        ({"join": Join(("y.t",))}, Denied, "x: 't' may not be joined with z.t; permitted are: y.t"),
        (
            {"columns": {"k": Column("identifier"), "vx": Column("integer", bounds=(0, 99))}},
            QueryError,
            "spell 'k' by different rules: x.t by 'exact', y.t by 'text'",
        ),
        ({"policy": Overrides(refuse_local_difference=True)}, Denied, "compares exact releases by itself"),
        ({"policy": Overrides(min_cell=101)}, None, "fewer than 101 units"),
    ],
)
def test_what_an_owner_does_not_permit(changed, error, reason):
    town = pair(**changed)
    if error is None:
        assert ask(town).frame["suppressed"].tolist() == [reason]
        return
    with pytest.raises(error, match=reason):
        ask(town)
    assert charged(town) == [0, 0, 0]


def test_keys_that_repeat_once_they_are_spelt_alike_are_refused_before_anything_is_spent():
    town = pair()
    rows = pd.DataFrame({"k": ["p1", "Ｐ1", "p2"], "vx": [1, 2, 3]})
    town = local.open_federation(
        {name: gate.catalog for name, gate in town.gates.items()},
        {
            name: {"t": rows if name == "x" else pd.DataFrame({"k": ["p1"], f"v{name}": [1]})}
            for name in town.gates
        },
    )
    with pytest.raises(DepartmentFailed, match="x: OutOfRange: keys: must be unique"):
        ask(town)
    assert charged(town) == [0, 0, 0]


@pytest.mark.parametrize("view", [None, {"n": Summary("count")}])
def test_an_owner_is_told_of_a_person_with_two_spellings(tmp_path, view):
    columns = {"k": Column("identifier", normaliser="text"), "vx": Column("integer", bounds=(0, 99))}
    dataset = DataSet(
        "general-2", ("research",), columns, source="t.csv", unit="k", max_rows=200,
        rows_per_unit=1 if view is None else 5, join=Join(("y.t",), view),
    )  # fmt: skip
    config = types.SimpleNamespace(catalog=tmp_path / "catalog.toml")

    def told(*keys):
        rows = pd.DataFrame({"k": keys, "vx": range(len(keys))})
        rows.to_csv(tmp_path / "t.csv", index=False)
        return checks._dataset("t", dataset, config)

    assert "reachable" in told("P1", "p2", "p3")
    with pytest.raises(
        CatalogError, match="column 'k' has 1 identifiers that are others' once spelt by 'text'"
    ) as failed:
        told("P1", "p1", "p2")
    assert "p1" not in str(failed.value)
    dataset = msgspec.structs.replace(dataset, join=None)
    assert "reachable" in told("P1", "p1", "p2")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"unit": None}, "the data set needs 'unit': rows are matched on it"),
        ({"rows_per_unit": 2}, "a unit may have 2 rows: declare 'view', which gives it one"),
        ({"join": Join(("y",))}, "'tables' has 'y'; allowed are names of the form 'department.table'"),
        ({"join": Join(("y.t",), {"n": Summary("sum")})}, "view.n: 'column' must name a number with bounds"),
        ({"join": Join(("y.t",), {"n": Summary("count", "vx")})}, "view.n: 'count' takes no column"),
        (
            {"join": Join(("y.t",), {"n": Summary("any", where={"vx": "a"})})},
            "view.n: 'where' must give declared values",
        ),
        (
            {"columns": {"k": Column("identifier"), "v": Column("boolean", normaliser="text")}},
            "belongs to identifier",
        ),
    ],
)
def test_what_a_catalogue_may_not_declare(changed, reason):
    with pytest.raises(CatalogError, match=reason):
        pair(**changed)


# --- a coordinator, or an analyst, that does not keep to the protocol ---


def request(town, query: q.Query, epsilon=None, schemas=None, purpose=clinic.PURPOSE) -> keys.Signed:
    own = {name: town.gates[name].catalog.datasets[query.table_at(name)] for name in query.joined.departments}
    known = tuple(person_schema(dataset.schema(), dataset.join) for dataset in own.values())
    made = Request(
        query,
        purpose,
        "analyst",
        secrets.token_hex(16),
        int(time.time()) + 600,
        None if epsilon is None else Privacy(epsilon, 1e-9),
        schemas=known if schemas is None else schemas,
    )
    return keys.seal(town.parties.analyst, "analyst", REQUEST, made)


def join_query(*tables: str) -> q.Query:
    return q.Query(tables[0], (q.Named("n", q.Count()),), join=q.Joined(tables, "person"))


def step(town, name: str, *given) -> messages.Done | messages.Refusal:
    body = messages.encode(Step(*given))
    return messages.decode_reply(town.broker.network.call("join", {name: body})[name])


def test_a_department_answers_no_question_but_the_signed_one(town):
    signed = request(town, join_query(*clinic.TABLES), epsilon=0.5)
    other = request(town, join_query(*clinic.TABLES), epsilon=0.5)
    from federated.joining import question as asking
    from federated.joining.offered import wide_of
    from mpc.engine import Seeds
    from mpc.join import Coordinator
    from sandbox.joining.split import split

    asked: Request = keys.decode(signed.body, Request)
    wide = wide_of(asked)
    found = asking.question(split(asking.plan_of(asked, wide), wide), wide, noise=True)
    roster = {name: key.public for name, key in town.parties.nodes.items()}
    before = charged(town)
    without = msgspec.structs.replace(found, noise=False, scales=())
    for question, digest, told in (
        (found, asked.digest(), signed),
        (without, asked.digest(), signed),
        (found, asked.digest(), other),
    ):
        announced = Coordinator(roster, question, digest, used=Seeds()).announce()
        reply = step(town, "lab", "hello", canonical(told), (announced,))
        if question is found and told is signed:
            assert isinstance(reply, messages.Done)
        else:
            assert reply.error == "FloorViolation"
    reply = step(town, "lab", "probe", canonical(signed), (b"", b""))
    assert reply == messages.Refusal("ScheduleError", "this department has the other part in the join")
    assert step(town, "lab", "turn", canonical(signed), (b"",)).error == "ScheduleError"
    assert step(town, "hospital", "table", canonical(signed), (b"",)).text == "no such join has begun here"
    assert charged(town) == before


def test_requests_are_held_to_each_owners_declaration(town):
    query = join_query(*clinic.TABLES)
    good: Request = keys.decode(request(town, query).body, Request)
    changed = msgspec.structs.replace(good.schemas[1], max_rows=5)
    ask = messages.Ask(
        canonical(request(town, query, schemas=(good.schemas[0], changed, good.schemas[2]))), 2
    )
    replies = town.broker.network.call("decide", dict.fromkeys(town.gates, messages.encode(ask)))
    told = {name: messages.decode_reply(reply) for name, reply in replies.items()}
    assert b"another declaration of this table than its owner" in told["lab"].body
    elsewhere = messages.Ask(canonical(request(town, join_query("registry.people", "lab.values"))), 2)
    reply = messages.decode_reply(
        town.broker.network.call("decide", {"hospital": messages.encode(elsewhere)})["hospital"]
    )
    assert reply.error == "Denied"


def test_a_comparison_leaves_out_no_release_and_is_of_signed_requests_only(tmp_path):
    """Else a coordinator could have any cell counted, uncharged, as one of an earlier release."""
    town = pair(tmp_path)
    ask(town)
    [release] = town.gates["x"].state.joins.released("t")
    query = q.Query("x.t", (q.Named("n", q.Count()),), join=q.Joined(("x.t", "y.t", "z.t"), "k"))
    signed = request(town, query, purpose="research")
    narrow = msgspec.structs.replace(query, where=(col("vx") < 1).node)
    made_up: Request = keys.decode(request(town, narrow, purpose="research").body, Request)
    forged = keys.seal(SigningKey.generate(), "analyst", REQUEST, made_up)
    other = request(
        town, msgspec.structs.replace(query, join=q.Joined(("x.t", "y.t"), "k")), purpose="research"
    )
    for listed, told in (
        ((), "only with earlier releases"),
        ((Earlier(forged, (0,)),), "leaves out one"),
        ((release, Earlier(forged, (0,))), "the signature does not hold"),
        ((release, Earlier(other, (0,))), "an earlier release is of another joined table"),
        ((msgspec.structs.replace(release, shown=()),), "has one with other cells than its record"),
        ((release, release), "names one twice"),
    ):
        reply = step(town, "x", "hello", canonical(signed), (b"",), canonical(listed))
        assert told in reply.text, reply


def test_owners_whose_policy_asks_for_it_approve_a_join_first(tmp_path):
    town = pair(tmp_path, policy=Overrides(approvers=1))
    city = town.city()
    query = city.join("x.t", "y.t", "z.t", on="k").filter(col("vy") >= 20).agg(count())
    with pytest.raises(ApprovalNeeded, match="x: 't' needs the approval of 1 of its approvers"):
        query.release(purpose="research")
    proposal = query.propose(purpose="research", legal_basis="statistics act")
    assert not proposal.approved
    assert "x.t + y.t + z.t on k" in proposal.contract.text()
    name = next(iter(town.parties.owners["x"]))
    town.owner("x", name).approve(proposal.digest)
    assert proposal.approved
    other = city.join("x.t", "z.t", "y.t", on="k").filter(col("vy") >= 20).agg(count())
    with pytest.raises(ApprovalNeeded):
        other.release(purpose="research")
    release = query.release(purpose="research")
    assert release.frame["count"].tolist() == [80]
    assert release.verify(city.roster).ok


def test_a_store_of_releases_that_was_put_back_is_refused(tmp_path):
    town = pair(tmp_path)
    ask(town)
    for gate in town.gates.values():
        gate.state.close()
    (tmp_path / "y" / "joins.db").unlink()
    with pytest.raises(LedgerError, match="cohorts of 'y': a release that the audit log holds is missing"):
        local.open_federation(
            {name: gate.catalog for name, gate in town.gates.items()},
            {name: {"t": pd.DataFrame({"k": ["a"], f"v{name}": [1]})} for name in town.gates},
            directory=tmp_path,
            everybody=town.parties,
        )


def test_a_seed_serves_once_whatever_process_it_was_used_in(tmp_path):
    seed = secrets.token_bytes(32)
    first = Joins(tmp_path / "joins.db")
    Kept(first).claim(seed)
    first.close()
    again = Joins(tmp_path / "joins.db")
    with pytest.raises(Replayed, match="has served another session"):
        Kept(again).claim(seed)
    Kept(again).claim(secrets.token_bytes(32))


def test_one_way_of_release_excludes_the_other():
    """A row-wise exact release and a joined one could be subtracted: no rule compares them, so the second is refused."""
    town = pair()
    ask(town)
    x = town.gates["x"]
    rows = q.Query("t", (q.Named("n", q.Count()),))
    made = Request(rows, "research", "analyst", secrets.token_hex(16), int(time.time()) + 600)
    decided = x.decide(keys.seal(town.parties.analyst, "analyst", REQUEST, made), 3)
    assert (
        "'t' has exact releases of a joined table, from which this one could be subtracted"
        in decided.reasons[0]
    )


def test_a_filter_is_part_of_a_join_and_says_nothing_of_its_yield():
    """The padded sizes that all learn are those of whole tables."""
    town = pair()
    release = ask(town, (col("vx") < 50) & (col("vy") >= 20))
    assert release.frame["count"].tolist() == [30]
    assert any("x 2,048, y 2,048, z 2,048" in line for line in release.leakage)
