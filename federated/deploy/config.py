"""What each process reads at its start: coordinator.toml, node.toml, city.toml. Paths are relative to the file that names them.

Strict: an unknown, missing or mistyped field is refused by name.
"""

from __future__ import annotations

import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable
from typing import Annotated, Self

import msgspec

from mpc.secagg import Setting
from sandbox.errors import CatalogError, ParameterError

Path = pathlib.Path
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_URL = re.compile(r"https://[A-Za-z0-9.:_\[\]-]+/?\Z")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read with `load`."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file; raises `CatalogError` naming the field."""
        file = Path(path)
        try:
            made = msgspec.toml.decode(file.read_bytes(), type=cls, dec_hook=_path)
        except OSError as error:
            raise CatalogError(f"{str(file)!r} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise CatalogError(f"{str(file)!r}: {error}") from None
        try:
            for field, check in _CHECKS.items():
                if hasattr(made, field):
                    check(getattr(made, field))
        except ParameterError as error:
            raise CatalogError(f"{str(file)!r}: {error}") from None
        here = file.absolute().parent
        absolute = {
            name: here / value
            for name in made.__struct_fields__
            if isinstance(value := getattr(made, name), pathlib.Path)
        }
        return msgspec.structs.replace(made, **absolute)


class CoordinatorConfig(Config, frozen=True):
    """`address`: host:port to listen on; `url`: how others reach it; `links`: a directory of the departments' link keys, `<name>.pub`."""

    federation: str
    address: str
    url: str
    roster: Path = Path("roster.toml")
    key: Path = Path("coordinator.key")
    certificate: Path = Path("tls.crt")
    certificate_key: Path = Path("tls.key")
    authority: Path = Path("ca.crt")
    links: Path = Path("links")
    state: Path = Path("state")
    setting: Setting = "honest-but-curious"
    metrics: str = ""


class NodeConfig(Config, frozen=True):
    """`parties` and `setting` are the least that the owner accepts; `workers`: threads for statistics."""

    department: str
    url: str
    roster: Path = Path("roster.toml")
    key: Path = Path("node.key")
    link_key: Path = Path("link.key")
    authority: Path = Path("ca.crt")
    catalog: Path = Path("catalog.toml")
    state: Path = Path("state")
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    parties: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 3
    setting: Setting = "honest-but-curious"
    metrics: str = ""


class CityConfig(Config, frozen=True):
    """What an analyst connects with."""

    federation: str
    url: str
    analyst: str
    roster: Path = Path("roster.toml")
    key: Path = Path("analyst.key")
    authority: Path = Path("ca.crt")
    setting: Setting = "honest-but-curious"


def host_and_port(url: str) -> tuple[str, int]:
    """Of a coordinator's URL; raises `ParameterError`."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, 443 if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not _URL.match(url) or not host or not port:
        raise ParameterError(f"'url' is {url!r}; allowed is https://host or https://host:port")
    return host, port


def address(text: str, field: str = "address") -> tuple[str, int]:
    """Host and port of "host:port", which a process listens on; raises `ParameterError`."""
    host, _, port = text.rpartition(":")
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ParameterError(f"{field!r} is {text!r}; allowed is host:port with a port from 1 to 65535")
    return host.strip("[]"), int(port)


def _metrics(text: str) -> None:
    if text and address(text, "metrics")[0] not in LOOPBACK:
        raise ParameterError(f"'metrics' is {text!r}; allowed is a loopback address: 127.0.0.1:port")


_CHECKS: dict[str, Callable[[str], object]] = {
    "url": host_and_port,
    "address": address,
    "metrics": _metrics,
}


def _path(kind: type, value: object) -> object:
    if kind is pathlib.Path and isinstance(value, str):
        return pathlib.Path(value)
    raise TypeError(f"a {kind.__name__} is needed")
