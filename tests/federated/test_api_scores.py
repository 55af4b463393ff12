"""Scores over the analysts' HTTPS port: the same call, sizes and media that are refused, and who may say what."""

from __future__ import annotations

import http.client
import ssl

import numpy as np
import pandas as pd
import pytest
from over_https import everybody, served

from federated import local
from federated.desk import Desk
from federated.http import api
from federated.http.client import RemoteDesk
from federated.http.routes import BINARY, PREFIX
from federated.scoring.messages import MOST_BYTES
from federated.session import City
from mpc.he.models import features_of, linear
from sandbox.catalog import Catalog
from sandbox.errors import BudgetExceeded, Denied, DepartmentFailed, ParameterError, QueryError, UnknownSigner
from sandbox.scoring.declared import Declared

BOUNDS = {"income": (0, 500), "age": (18, 70)}
MODEL = linear(features_of(BOUNDS), [0.01, -0.02], 0.5, "logistic")
TABLE = pd.DataFrame({"income": [10.0, 400.0], "age": [20, 60]})


class Served:
    """A bank whose model analyst and bo may ask, behind a port."""

    def __init__(self, port, roster, keys):
        self.port, self.roster, self.keys = port, roster, keys

    def remote(self, name) -> RemoteDesk:
        return RemoteDesk(self.port.url, self.port.authority, name, self.keys[name], self.roster)

    def city(self, name="analyst") -> City:
        return City(self.remote(name), self.keys[name], name)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    declared = Declared(("loans",), BOUNDS, rows=50, rows_per_analyst=30, analysts=("analyst", "bo"))
    catalogs = {"bank": Catalog("bank", {}, {"credit": declared})}
    everyone, keys = everybody(catalogs)
    federation = local.open_federation(catalogs, {}, everybody=everyone, models={"bank": {"credit": MODEL}})
    with served(api.app(Desk(federation.broker)), tmp_path_factory.mktemp("port")) as port:
        yield Served(port, everyone.roster, keys)


def score(city, table=TABLE, **changes):
    return city.score(**{"model": "credit@bank", "table": table, "purpose": "loans", **changes})


def test_the_same_call_gives_the_same_scores(bank):
    city = bank.city()
    found = score(city)
    assert np.abs(found.values - MODEL.predict(TABLE.to_numpy())).max() <= found.bound
    assert found.verify(bank.roster).ok
    assert city.models()["model"].tolist() == ["credit@bank"]


def test_refusals_are_those_of_the_department_with_every_reason(bank):
    with pytest.raises(Denied) as denied:
        score(bank.city("eve"), purpose="marketing")
    [told] = denied.value.reasons
    assert told.startswith(
        "bank: analyst 'eve' is not among those whom the owner of model 'credit' permits; purpose"
    )
    with pytest.raises(BudgetExceeded, match="for analyst 'bo': 0 of 30 rows are used, and 31 more"):
        score(bank.city("bo"), pd.concat([TABLE] * 16)[:31])
    with pytest.raises(ParameterError, match=r"age: each value must lie in \[18, 70\]"):
        score(bank.city(), TABLE.assign(age=1))
    with pytest.raises(QueryError, match="no models of 'town'"):
        score(bank.city(), model="credit@town")


def test_one_analyst_cannot_speak_for_another(bank):
    """What bo has signed, sent by eve; and eve's desk does not call itself bo."""
    bo, eve = bank.city("bo"), bank.remote("eve")
    sent = []
    desk = bo._desk
    original = desk.score
    desk.score = lambda analyst, department, body: sent.append(body) or original(analyst, department, body)
    score(bo)
    with pytest.raises(ParameterError, match="this desk is 'eve'"):
        eve.score("bo", "bank", sent[1])
    with pytest.raises(UnknownSigner, match="'eve' calls, and 'bo' signed"):
        eve.score("eve", "bank", sent[1])
    with pytest.raises(DepartmentFailed, match="its rows are spent"):
        original("bo", "bank", sent[0])


def test_other_media_sizes_and_parameters_are_refused(bank):
    desk = bank.remote("analyst")
    path = f"{PREFIX}/scores?department=bank"

    def status(path, content, media):
        return desk._client.send(desk._signed("POST", path, content, media)).status_code

    assert status(path, b"x", "application/json") == 415
    assert status(path, b"x", BINARY) == 422
    assert status(f"{PREFIX}/scores", b"x", BINARY) == 422
    assert status(f"{PREFIX}/scores?department={'x' * 129}", b"x", BINARY) == 422
    assert status(f"{PREFIX}/scores?department=town", b"x", BINARY) == 422
    calling = http.client.HTTPSConnection(
        "127.0.0.1", bank.port.number, context=ssl.create_default_context(cafile=bank.port.authority)
    )
    calling.putrequest("POST", path)
    calling.putheader("content-length", str(MOST_BYTES + 1))
    calling.endheaders()
    assert calling.getresponse().status == 413
    calling.close()
