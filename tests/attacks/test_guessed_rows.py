"""An attack on data versions: who holds a receipt and knows all rows of a department but one value tries every value of that one.

A version that is a mere digest of the rows confirms the right guess. Under a secret of the node's it confirms none.
"""

from __future__ import annotations

import pytest
from town import HOME, NAMES, VICTIM, Town, ask

from sandbox import receipt
from sandbox.engine import Engine

GUESSES = (*range(VICTIM["income"] - 3, VICTIM["income"]), VICTIM["income"], VICTIM["income"] + 1)


@pytest.mark.parametrize("defended", [False, True])
def test_a_receipt_and_all_rows_but_one_value(monkeypatch, tmp_path, defended):
    if not defended:
        monkeypatch.setattr(Engine, "keyed", lambda engine, _secret: engine)
    town = Town(directory=tmp_path / "town").open()
    found = receipt.read(ask(town.wu).receipt)
    [told] = {node.entry.data_version for node in found.receipt.nodes if node.department == HOME}
    confirmed = [guess for guess in GUESSES if told in versions(town, guess)]
    assert confirmed == ([] if defended else [VICTIM["income"]])
    assert len({(tmp_path / "town" / name / "version.key").read_text() for name in NAMES}) == len(NAMES)


def versions(town: Town, guess: int) -> set[str]:
    """What the version could be if the last row's income were this: by the rows alone, and under whatever the public keys give."""
    known = town.frames[HOME]
    rows = known.assign(income=[*known["income"][:-1], guess])
    engine = Engine("t", town.catalogs[HOME].datasets["t"], rows)
    public = [member.public for member in town.parties.roster.members]
    return {engine.version(), *(engine.keyed(key).version() for key in public)}
