"""The bar says how far a training is, and leaves one line a request."""

from __future__ import annotations

import io

from sandbox.progress import WIDTH, Bar


def test_rounds_are_drawn_and_stages_told():
    out = io.StringIO()
    bar = Bar(out)
    for stage in (
        "deciding",
        "computing and masking",
        "round 2 of 4",
        "unmasking the sum",
        "logging and signing",
    ):
        bar(stage)
    shown = out.getvalue().split("\r")
    assert shown[1] == "deciding"
    assert shown[3].startswith("[" + "#" * (WIDTH // 2) + "." * (WIDTH // 2) + "] round 2 of 4")
    assert shown[4].startswith("[" + "#" * (WIDTH // 2))
    assert out.getvalue().endswith("\n")
    lengths = [len(text.rstrip("\n")) for text in shown[1:]]
    assert lengths == sorted(lengths)  # what was longer is written over
    bar("deciding")
    assert out.getvalue().endswith("\n\rdeciding")
