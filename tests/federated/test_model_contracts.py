"""Models of important data: refused until two owners of each department have signed for this very model, and then as often as they signed."""

from __future__ import annotations

import pytest
import torch
from modelled import BUDGET, COLUMNS, PURPOSE, rows
from torch import nn

from federated import local
from sandbox import training as t
from sandbox.catalog import Catalog, DataSet
from sandbox.errors import ApprovalNeeded
from sandbox.fit import LogisticRegression

torch.set_num_threads(1)
NAMES = ("ash", "birch", "cedar")
FIT = {"features": ["height", "smokes"], "target": "ill", "purpose": PURPOSE, "epsilon": 1.0}
TRAIN = {
    "features": ["height"], "target": "ill", "loss": "cross_entropy", "rounds": 2, "sampling_rate": 0.2,
    "privacy": t.RecordLevel("joint", clip=1, noise_multiplier=1, lot=80), "purpose": PURPOSE, "epsilon": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    dataset = DataSet("important", (PURPOSE,), COLUMNS, budget=BUDGET, max_rows=1000)
    return local.open_federation(
        {name: Catalog(name, {"t": dataset}) for name in NAMES},
        {name: {"t": rows(i, 150)} for i, name in enumerate(NAMES)},
        directory=tmp_path_factory.mktemp("city"),
    )


def approve(federation, proposal) -> None:
    for name in NAMES:
        for i in (1, 2):
            federation.owner(name, f"{name}-owner-{i}").approve(proposal.digest)
    assert proposal.approved


def test_a_fit(federation):
    table = federation.city().table("t")
    with pytest.raises(ApprovalNeeded, match="propose one"):
        LogisticRegression().fit(table, **FIT)
    proposal = LogisticRegression().propose(table, legal_basis="statute 12", **FIT)
    assert (
        "logistic_regression"
        in federation.owner("ash", "ash-owner-1").contract(proposal.digest).contract.text()
    )
    approve(federation, proposal)
    with pytest.raises(ApprovalNeeded):  # another model than was signed
        LogisticRegression(C=0.5).fit(table, **FIT)
    fitted = LogisticRegression().fit(table, **FIT)
    report = fitted.verify(federation.city().roster)
    assert report.ok
    assert "ash-owner-1" in str(report)
    with pytest.raises(ApprovalNeeded, match="used up"):
        LogisticRegression().fit(table, **FIT)


def test_a_training(federation):
    table, module = federation.city().table("t"), nn.Sequential(nn.Linear(1, 2))
    with pytest.raises(ApprovalNeeded):
        table.train(module, **TRAIN)
    approve(federation, table.propose_training(module, legal_basis="statute 12", **TRAIN))
    assert table.train(module, **TRAIN).verify(federation.city().roster).ok
