"""Evaluations as a way around disclosure control: a model that tells one person from all others makes every figure of it that person's.

Three departments with 60 people each; one person alone is older than 100, and whether that person is ill is nobody's business. The coordinator is after
it, with a model that it shows instead of the one that was signed; then the analyst with the coordinator's help, who has a receipt for a model that was
never fitted.
"""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pandas as pd
import pytest

from federated import assessing, local, results
from federated.learn import figures, moments
from sandbox.catalog import Catalog, Column, DataSet
from sandbox.errors import Denied, QueryError, TooFewDepartments
from sandbox.fit import LogisticRegression
from sandbox.query import canonical

NAMES = ("ash", "birch", "cedar")
COLUMNS = {"age": Column("integer", (0, 120)), "ill": Column("boolean")}
PURPOSE = "research"


def town(ill: bool, level: str):
    """The victim is ill or not, and another person of birch's the other way round, so that the joint numbers are the same."""
    frames, random = {}, np.random.default_rng(5)
    for name in NAMES:
        age = random.integers(20, 90, 60)
        frames[name] = {"t": pd.DataFrame({"age": age, "ill": random.random(60) < age / 150})}
    frames["birch"]["t"].loc[0] = (110, ill)
    frames["birch"]["t"].loc[1] = (40, not ill)
    dataset = DataSet(level, (PURPOSE,), COLUMNS, max_rows=1000)
    city = local.open_federation({name: Catalog(name, {"t": dataset}) for name in NAMES}, frames).city()
    return city.table("t")


def fitted(table):
    return LogisticRegression().fit(table, features=["age"], target="ill", purpose=PURPOSE)


def forged(model):
    """Sure that whoever is 100 or older is ill, and nobody else."""
    return msgspec.structs.replace(model, coefficients=(-2000.0, 20.0))


@pytest.mark.parametrize("defended", [True, False])
def test_the_coordinator_shows_a_model_that_was_not_signed(monkeypatch, defended):
    seen = []
    for ill in (False, True):
        table = town(ill, "general-2")
        model = fitted(table)
        shown = canonical(msgspec.structs.replace(model, model=forged(model.model)).stated())
        with monkeypatch.context() as patch:
            asked, result = assessing.AskedEvaluation, assessing._Exact.result

            def read(self, joint, *rest, result=result):
                sums = self.learner.layout(self.learner.start()).decode(joint, self.learner.parties)
                seen.append(
                    sums[0][moments.size(self.learner.design) :][: 2 * figures.BINS]
                    .reshape(2, -1)[:, -1]
                    .tolist()
                )
                return result(self, joint, *rest)

            patch.setattr(assessing._Exact, "result", read)
            patch.setattr(
                asked, "shown", lambda _self, s=shown: msgspec.msgpack.encode(assessing.Round(0, s))
            )
            if not defended:
                patch.setattr(assessing, "signed", lambda *_: True)
            said = (
                pytest.raises(TooFewDepartments, match="not the one that the request names")
                if defended
                else contextlib.nullcontext()
            )
            with said:
                model.evaluate(table, purpose=PURPOSE)
    # How many of either class are in the last bin: the victim, in the clear.
    assert seen == ([] if defended else [[1, 0], [0, 1]])


@pytest.mark.parametrize("defended", [True, False])
def test_an_analyst_with_a_receipt_for_a_model_that_was_never_fitted(monkeypatch, defended):
    found, plain = [], results.plain
    for ill in (False, True):
        table = town(
            ill, "general-2" if defended else "general-1"
        )  # the same rows without disclosure control
        with monkeypatch.context() as patch:
            patch.setattr(results, "plain", lambda model: forged(plain(model)))
            model = fitted(table)
        assert model.model.coefficients == (-2000.0, 20.0)
        found.append(model.evaluate(table, purpose=PURPOSE).figures)
    first, second = found
    if defended:
        assert first == second  # whatever the victim has
        assert first.confusion is None
    else:
        assert (first.confusion[0][1], first.confusion[1][1]) == (1, 0)
        assert (second.confusion[0][1], second.confusion[1][1]) == (0, 1)
        assert first.log_loss != second.log_loss


def test_a_receipt_that_was_written_for_another_model(monkeypatch):
    table = town(True, "general-2")
    model = fitted(table)
    other = msgspec.structs.replace(model, model=forged(model.model))
    # The signed request names what was released, whatever its analyst holds.
    assert other.evaluate(table, purpose=PURPOSE).figures == model.evaluate(table, purpose=PURPOSE).figures
    torn = model.receipt.replace(model.digest().encode(), b"0" * 64)
    assert torn != model.receipt
    with pytest.raises(QueryError, match="not the one that the request names"):
        msgspec.structs.replace(model, receipt=torn).evaluate(table, purpose=PURPOSE)
    monkeypatch.setattr(assessing, "signed", lambda *_: True)  # departments look at the receipt before that
    with pytest.raises(Denied, match="receipt does not hold"):
        msgspec.structs.replace(model, receipt=torn).evaluate(table, purpose=PURPOSE)
