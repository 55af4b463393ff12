"""Attacks by subtraction on a whole city. Each succeeds where nobody compares cohorts, and is refused, logged and unpaid where all do.

The attackers are analysts who pool what they got. What they ask is shown to keep every rule for cells.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from town import HOME, NAMES, PURPOSE, VICTIM, Town, ask, people, total, two_analysts

from federated import broker as broker_module
from federated import local
from federated.broker import Broker
from federated.network import Failure
from sandbox import col, count, disclosure, entries
from sandbox.catalog import Budget, Catalog
from sandbox.disclosure import Rules
from sandbox.errors import (
    Denied,
)
from sandbox.judge import Case

# --- differencing ---


def complement(town: Town) -> Iterator[int]:
    """Everyone, and two groups that have nobody in common and leave out the victim alone."""
    everyone, young = total(ask(town.wu)), total(ask(town.li, col("age") < 40))
    yield 2
    yield everyone - young - total(ask(town.li, (col("age") >= 40) & (col("age") < 97)))


def complement_of_a_group(town: Town) -> Iterator[int]:
    """A group, and all outside it but the victim: together they are one short of the everyone of a third release."""
    group = total(ask(town.wu, col("age") < 40))
    yield 1
    rest = total(ask(town.li, (col("age") >= 40) & (col("weight") > 41)))
    yield total(ask(town.li)) - group - rest


def margins(town: Town) -> Iterator[int]:
    """By town, and then the whole without the victim: no cell of the first alone comes near the second."""
    by_town = town.wu.table("t").group_by("town").agg(count(), col("income").sum()).release(purpose=PURPOSE)
    yield 1
    yield int(by_town.frame["income_sum"].sum()) - total(ask(town.li, col("weight") > 41))


def bands(town: Town) -> Iterator[int]:
    """By bands of age, and then two of the four together without the victim: no cell, total or rest comes near."""
    by_band = (
        town.wu.table("t")
        .with_columns(band=col("age").cut([30, 60, 80]))
        .group_by("band")
        .agg(count(), col("income").sum())
        .release(purpose=PURPOSE)
    )
    yield 1
    two = int(by_band.frame["income_sum"].iloc[-2:].sum())
    yield two - total(ask(town.li, (col("age") >= 60) & (col("weight") > 41)))


DIFFERENCES = {
    attack.__name__: attack for attack in (two_analysts, complement, complement_of_a_group, margins, bands)
}


@pytest.mark.parametrize("off", ["open data", "no smallest cell"])
@pytest.mark.parametrize("attack", DIFFERENCES)
def test_subtraction_succeeds_where_nobody_compares(monkeypatch, attack, off):
    if off == "no smallest cell":  # dominance and the other rules for cells stand
        monkeypatch.setitem(disclosure.RULES, "general-2", Rules(min_cell=0))
    town = Town("general-1" if off == "open data" else "general-2").open()
    *_, income = DIFFERENCES[attack](town)
    assert income == VICTIM["income"]


@pytest.mark.parametrize("attack", DIFFERENCES)
def test_subtraction_is_refused_logged_by_every_node_and_unpaid(attack):
    town = Town().open()
    steps = DIFFERENCES[attack](town)
    released = next(steps)
    with pytest.raises(
        Denied, match="differ by fewer than 10 units, whose values could be had by subtraction"
    ):
        list(steps)
    assert town.charges() == [released] * 3
    for name in NAMES:
        [refusal] = town.logged(entries.Refusal, name)
        assert not refusal.charged
        assert "differ by fewer than 10 units" in refusal.reasons[0]
        known = {entry.request: entry for entry in town.logged(entries.Request, name)}
        assert known[refusal.request].analyst == "li"
        assert len(town.logged(entries.Release, name)) == released


def test_a_refused_question_may_be_asked_with_noise_or_more_coarsely():
    town = Town(budget=Budget(5.0, 1e-6)).open()
    ask(town.wu)
    table = town.li.table("t").filter(col("weight") > 41)
    assert table.agg(count()).release(purpose=PURPOSE, epsilon=1.0).privacy.epsilon == 1.0
    assert ask(town.li, col("weight") > 60).frame["count"][0] > 100


def test_a_restart_does_not_forget_what_was_released(tmp_path):
    town = Town(directory=tmp_path).open()
    ask(town.wu)
    town.stop()
    town.open()
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        ask(town.li, col("weight") > 41)


@pytest.mark.parametrize("open_department", ["ash", HOME])
@pytest.mark.parametrize("defended", [False, True])
def test_subtraction_through_a_department_whose_data_are_open(monkeypatch, open_department, defended):
    """Its owner asks for no comparison, but its people are in the joint values of those who do."""
    town = Town(levels={open_department: "general-1"})
    if not defended:  # every department compares by its own level alone
        monkeypatch.setattr(broker_module, "_least", lambda _poll: 0)
        monkeypatch.setattr(Case, "compared", property(lambda _case: False))
    town.open()
    if defended:
        with pytest.raises(Denied, match="differ by fewer than 10 units"):
            list(two_analysts(town))
    else:
        assert list(two_analysts(town))[-1] == VICTIM["income"]


@pytest.mark.parametrize("defended", [False, True])
def test_conditions_inside_an_exact_aggregate(defended):
    """One release, one cell of all people, two sums: their difference is the victim's income."""
    town = Town("general-2" if defended else "general-1").open()
    income = col("income")
    sums = (count(), income.sum(), (income * (col("weight") > 41)).sum().alias("others"))
    query = town.wu.table("t").agg(*sums)
    if defended:
        with pytest.raises(Denied, match="may not choose among a group's rows by a condition"):
            query.release(purpose=PURPOSE)
        assert town.charges() == [0, 0, 0]
    else:
        frame = query.release(purpose=PURPOSE).frame
        assert int(frame["income_sum"][0]) - int(frame["others"][0]) == VICTIM["income"]


@pytest.mark.parametrize("defended", [False, True])
def test_a_difference_that_is_large_together_and_small_at_one_department(defended):
    """Twelve people leave, four at each department: what the others know of their own four leaves four of the third."""
    town = Town(**{HOME: {"refuse_local_difference": defended}})
    for frame in town.frames.values():
        frame["age"] = frame["age"].clip(upper=96)
        frame.loc[frame.index[:4], "age"] = 111
    town.open()
    everyone = ask(town.wu)
    if defended:
        with pytest.raises(Denied, match=rf"^{HOME}: of this department's own rows: .* fewer than 10 units"):
            ask(town.li, col("age") < 111)
        assert town.charges() == [1, 1, 1]
        assert len(town.logged(entries.Refusal, HOME)) == 1
    else:
        difference = total(everyone) - total(ask(town.li, col("age") < 111))
        known = sum(town.frames[name]["income"][:4].sum() for name in NAMES if name != HOME)
        assert difference - known == town.frames[HOME]["income"][:4].sum()


@pytest.mark.parametrize("defended", [False, True])
def test_a_department_whose_answer_was_lost(monkeypatch, defended):
    """Its people are not in the first release, though it computed them. The second takes in three of them, and all who were in the first."""
    if not defended:
        monkeypatch.setattr(Broker, "_tell", lambda *_arguments: None)
    town = Town(level="general-2")
    for name, frame in town.frames.items():
        frame["town"] = "east"
        if name == HOME:
            frame.loc[frame.index[3:], "town"] = "west"
    extra = people(9).assign(town="east")
    town.frames["date"], town.catalogs["date"] = extra, Catalog("date", town.catalogs["ash"].datasets)
    town.parties = local.parties((*NAMES, "date"), analyst="wu")
    town.second = town.parties.analyst
    frames = {name: {"t": frame} for name, frame in town.frames.items()}
    federation = local.open_federation(town.catalogs, frames, analyst="wu", everybody=town.parties)
    city, network = federation.city(), federation.broker.network
    call = network.call

    def losing(kind, bodies):
        replies = call(kind, bodies)
        return {
            n: Failure("lost") if (kind, n) == ("masked", HOME) else reply for n, reply in replies.items()
        }

    network.call = losing
    first = ask(city)
    assert first.missing == (HOME,)
    network.call = call
    if defended:
        with pytest.raises(Denied, match="differ by fewer than 10 units"):
            ask(city, col("town") == "east")
    else:
        second = ask(city, col("town") == "east")
        assert second.frame["count"][0] - first.frame["count"][0] == 3
        assert total(second) - total(first) == town.frames[HOME]["income"][:3].sum()


def test_a_refusal_tells_one_bit_and_every_department_logs_who_asked():
    """What the defence does not hide: whether anybody is as described. No charge, but a refusal in every log, under a name."""
    town = Town().open()
    everyone = ask(town.wu)
    light = col("weight") == VICTIM["weight"]  # which is the victim's alone
    assert total(ask(town.li, ~(light & (col("town") == "east")))) == total(everyone), "so not in the east"
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        ask(town.li, ~(light & (col("town") == "west")))
    assert town.charges() == [2, 2, 2]
    for name in NAMES:
        [refusal] = town.logged(entries.Refusal, name)
        asked = {entry.request: entry.analyst for entry in town.logged(entries.Request, name)}
        assert asked[refusal.request] == "li"
