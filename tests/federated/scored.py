"""A bank with three models, and applicants: what the tests of scores share."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mpc.he.models import Activation, Affine, Forest, Leaf, Model, Network, Split, features_of, linear
from sandbox import entries
from sandbox.catalog import Catalog
from sandbox.scoring.declared import Declared

BOUNDS = {"income": (0, 500), "age": (18, 70)}
STEPS = {"children": range(5)}
FEATURES = features_of(BOUNDS)
NETWORK = Network(
    (
        Affine(((0.002, 0.01), (-0.004, 0.02)), (0.1, -0.3)),
        Activation("tanh", 7),
        Affine(((1.0, -2.0),), (0.25,)),
    )
)
MODELS = {
    "credit": linear(FEATURES, [0.01, -0.02], 0.5, "logistic"),
    "deep": Model(FEATURES, NETWORK, "logistic"),
    "steps": Model(
        features_of(None, STEPS), Forest((Split(0, 1.5, False, Leaf(-1.0), Leaf(2.0)),), 0.5), "identity"
    ),
}


def declared(model, **changes):
    bounds = {feature.name: (feature.lower, feature.upper) for feature in model.features}
    fields = {"rows": 20_000, "rows_per_analyst": 10_000, "tolerance": 0.05}
    return Declared(("loans",), bounds, **{**fields, **changes})


def catalog(name="bank", models=MODELS, **changes):
    return Catalog(name, {}, {model: declared(held, **changes) for model, held in models.items()})


def opened(open_federation, models=MODELS, **changes):
    return open_federation({"bank": catalog(models=models, **changes)}, {}, models={"bank": models})


def rows(count, seed=1):
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"income": generator.uniform(0, 500, count), "age": generator.integers(18, 71, count)}
    )
    return frame.assign(name="not asked for", children=generator.integers(0, 5, count))


def truth(name, table):
    model = MODELS[name]
    return model.predict(table[[feature.name for feature in model.features]].to_numpy(float))


def quotas(federation, name="bank"):
    return [entry for entry in federation.gates[name].state.log.entries() if isinstance(entry, entries.Quota)]


def ask(bank, count=5, **changes):
    return bank.city.score(**{"model": "credit@bank", "table": rows(count), "purpose": "loans", **changes})
