"""The chapter on what remains: the receipt of a release, who can check it, and the owner's own page. Writes the three files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from sandbox import receipt

from . import tables
from .blocks import Chapter, Items, Link, Mark, Prose, Table, Verdict

if TYPE_CHECKING:
    from sandbox.receipt import Check, Report

    from .story import Stage

RECEIPT, ROSTER, OWNER = "receipt.json", "roster.toml", "owner.html"
MEANING = {
    "format": "the file is the one canonical encoding of its content",
    "issuer": "the coordinator signed all of it",
    "statement": "who asked, for what, in which mode",
    "release": "it is about the numbers released, to the last digit",
    "departments": "one part of each department in the sums",
    "head": "the department signed the head of its audit log",
    "log": "that log holds this release: a Merkle proof",
    "entry": "policy, data and code as logged, and the same costs",
    "approvals": "as many owners approved as the policy asks for",
    "witnesses": "who else saw that head",
}


def evidence(stage: Stage) -> Chapter:
    title, release = stage.releases[0]
    roster = stage.city.roster
    owner = stage.federation.owner("harbour", "harbour-owner-1")
    (stage.directory / RECEIPT).write_bytes(release.receipt)
    (stage.directory / ROSTER).write_text(roster.dumps(), encoding="utf-8")
    owner.report(stage.directory / OWNER)
    data = (stage.directory / RECEIPT).read_bytes()
    found = receipt.verify(data, roster, release=release.digest())
    changed = data.replace(b'"purpose":"public-health"', b'"purpose":"public-wealth"')
    altered = receipt.verify(changed, roster)
    rejected = sum(
        not receipt.verify(data[:i] + bytes([byte ^ 1]) + data[i + 1 :], roster).ok
        for i, byte in enumerate(data)
    )
    head = owner.verify()
    return Chapter(
        "What can be proven afterwards",
        (
            Prose(
                f"Every release carries a receipt. Whoever has it and the federation's roster, the names and public keys, checks "
                f"offline that the rules were kept; it holds no data. The receipt of “{title}”, checked just now:"
            ),
            _held(found),
            Prose("With one letter of the purpose changed, from health to wealth:"),
            _failed(altered),
            Verdict(
                found.ok and not altered.ok and rejected == len(data),
                f"The receipt holds; with any one of its {len(data):,} bytes changed it is rejected ({rejected:,} tried)",
            ),
            Items(
                "Check it yourself",
                (f".venv/bin/sandbox verify {stage.directory / RECEIPT} --keys {stage.directory / ROSTER}",),
            ),
            Link("The receipt", RECEIPT),
            Link("The roster", ROSTER),
            Prose(
                "The owner of harbour has books of their own: who asked, for what, what it cost, and an audit log, refusals included. "
                f"{head.size:,} entries lead to the head that the node signed with its last release; its next covers those since."
            ),
            tables.frame("Harbour's ledger: by whom and for what", owner.statement().drop(columns="last")),
            tables.frame("The end of harbour's audit log", _shortened(owner.log(6))),
            Link("Harbour's page for its owner or an auditor", OWNER),
        ),
    )


def _held(report: Report) -> Table:
    """Each kind of check once, with what was found at all departments."""
    kinds: dict[str, list[Check]] = {}
    for check in report.checks:
        kinds.setdefault(check.name.rpartition(": ")[2], []).append(check)
    rows = []
    for kind, checks in kinds.items():
        texts = dict.fromkeys(c.detail if kind == "witnesses" or not c.ok else "holds" for c in checks)
        where = f", at {len(checks)} departments" if len(checks) > 1 else ""
        rows.append((kind, MEANING[kind], Mark(all(c.ok for c in checks), "; ".join(texts) + where)))
    return Table("What the receipt proves", ("checked", "meaning", "found"), tuple(rows))


def _failed(report: Report) -> Table:
    rows = tuple((check.name, Mark(check.ok, check.detail)) for check in report.failed)
    return Table("What is found then", ("checked", "found"), rows)


def _shortened(log: pd.DataFrame) -> pd.DataFrame:
    return log.assign(detail=[text if len(text) <= 110 else f"{text[:109]}…" for text in log["detail"]])
