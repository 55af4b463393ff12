"""Whether each person has one spelling: checked at the owner, since a join refuses a person who is there twice, and its analyst cannot mend that.

The database counts and groups rows by identifiers as they are stored; a join matches them as `mpc.join.normalise` spells them. Two
stored identifiers of one spelling would make two rows of one person.
"""

from __future__ import annotations

import numpy as np
from sqlglot import exp

from mpc.join import normalise
from sandbox import syntax
from sandbox.backend import TABLE
from sandbox.engine import Engine
from sandbox.errors import CatalogError


def check(engine: Engine) -> None:
    """Raise `CatalogError` where a data set that is open to joins has a person under several spellings; no identifier is told."""
    dataset = engine.dataset
    if dataset.join is None or dataset.unit is None:
        return
    normaliser = dataset.columns[dataset.unit].normaliser
    query = exp.select(syntax.column(dataset.unit)).from_(syntax.table(TABLE)).distinct()
    _, columns = engine.read(query)
    stored = columns[dataset.unit]
    spelt = normalise(np.ma.getdata(stored)[~np.ma.getmaskarray(stored)], normaliser)
    known = np.flatnonzero(spelt.lengths)
    spellings = {spelt.octets[i, : spelt.lengths[i]].tobytes() for i in known.tolist()}
    if twice := len(known) - len(spellings):
        raise CatalogError(
            f"data set {engine.name!r}: column {dataset.unit!r} has {twice} identifiers that are others' once spelt by {normaliser!r}, "
            "as joins spell them: store one spelling of each, or joins refuse the table"
        )
