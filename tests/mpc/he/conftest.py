"""Keys that tests share, made once."""

from __future__ import annotations

import pytest
from hypothesis import settings

from mpc.he.keys import SecretKey
from mpc.he.parameters import SUM, score_parameters

settings.register_profile("he", deadline=None, derandomize=True)
settings.load_profile("he")


@pytest.fixture(scope="session")
def sum_key():
    return SecretKey.generate(SUM)


@pytest.fixture(scope="session")
def score_key():
    return SecretKey.generate(score_parameters(2, 8192))
