"""From `city.toml` to the analyst's session: key, roster and authority are the analyst's own files, and what the coordinator shows must fit them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandbox import roster as rosters
from sandbox.errors import CatalogError, KeyUnusable, Unreachable
from sandbox.keys import SigningKey, fingerprint

from .deploy.config import CityConfig
from .http.client import RemoteDesk
from .session import City

if TYPE_CHECKING:
    from mpc.secagg import Setting
    from sandbox import query as q


def connect(path: str | os.PathLike[str], passphrase: str | None = None) -> City:
    """The session that `city.toml` describes. `passphrase` opens the analyst's key where it is encrypted.

    Raises `CatalogError` for a file that is not valid, `KeyUnusable` for a key that is not the analyst's in the roster, and `Unreachable` for
    a coordinator that does not answer, is another, or runs another federation than these files say.
    """
    config = CityConfig.load(path)
    roster = rosters.load(config.roster)
    if roster.federation != config.federation:
        raise CatalogError(
            f"{os.fspath(path)!r} is of {config.federation!r}, its roster of {roster.federation!r}"
        )
    key = SigningKey.load(config.key, passphrase)
    expected = roster.public(config.analyst, "analyst")
    if key.public != expected:
        raise KeyUnusable(
            f"{str(config.key)!r} is key {fingerprint(key.public)}; the roster has {fingerprint(expected)} for "
            f"analyst {config.analyst!r}"
        )
    desk = RemoteDesk(config.url, config.authority, config.analyst, key, roster)
    _same(config.url, config.setting, desk.setting)
    return City(desk, key, config.analyst, mock=_mock_city)


def _same(url: str, expected: Setting, shown: Setting) -> None:
    if shown != expected:
        raise Unreachable(
            f"the coordinator at {url} runs the setting {shown!r}, not {expected!r} as your file says"
        )


def _mock_city(city: City, query: q.Query) -> City:
    from . import local  # DuckDB and the gates, which only mock data need here

    return local.mock_city(city, query)
