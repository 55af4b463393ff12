"""The two sides of a scoring protocol in one process, over bytes."""

from __future__ import annotations

import numpy as np

from mpc.he.scoring import ScoreClient, ScoreServer


def scored(model, table, **options):
    """Scores, server and client after a whole protocol run."""
    server = ScoreServer(model, **options)
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    answers = [client.scores(server.score(block)) for block in client.ask(table)]
    return np.concatenate(answers), server, client
