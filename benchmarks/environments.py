"""An environment of its own for each peer, made on demand from its pinned file: `peers/NAME.txt`, wheels only.

The file's first lines say whose it is and which Python it needs:

    # system: OpenFHE
    # python: 3.10
    # suites: he

An environment is kept under `.benchmarks/` until its pins change. Nothing is built, and nothing of ours is installed into it.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

PEERS = pathlib.Path(__file__).parent / "peers"
HARNESS = PEERS / "harness.txt"
PLACE = pathlib.Path(__file__).parents[1] / ".benchmarks" / "peers"
INSTALLING = 900.0  # seconds


class CannotInstall(Exception):
    """A peer's environment could not be made; the text says why."""


class Peer(NamedTuple):
    """A system to be measured beside ours."""

    name: str  # of its files
    system: str
    python: str
    suites: tuple[str, ...]

    @property
    def pins(self) -> pathlib.Path:
        return PEERS / f"{self.name}.txt"

    @property
    def job(self) -> pathlib.Path:
        return PEERS / f"{self.name}.py"


def peers() -> tuple[Peer, ...]:
    """All that have a pinned file, by name."""
    return tuple(_read(path) for path in sorted(PEERS.glob("*.txt")) if path != HARNESS)


def _read(path: pathlib.Path) -> Peer:
    text = path.read_text()
    said = dict(re.findall(r"^# (system|python|suites): (.+)$", text, re.MULTILINE))
    return Peer(path.stem, said["system"], said["python"], tuple(said["suites"].split(", ")))


def python_of(peer: Peer) -> pathlib.Path:
    """The interpreter of the peer's environment, which is made first where there is none. Raises `CannotInstall`."""
    interpreter = _interpreter(peer.python)
    pins = HARNESS.read_bytes() + peer.pins.read_bytes()
    place = PLACE / f"{peer.name}-{hashlib.sha256(pins).hexdigest()[:12]}"
    python, ready = place / "bin" / "python", place / "ready"
    if ready.exists():
        return python
    for old in PLACE.glob(f"{peer.name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    _call(interpreter, "-m", "venv", str(place))
    options = ("--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
    _call(str(python), "-m", "pip", "install", *options, "-r", str(HARNESS), "-r", str(peer.pins))
    ready.touch()
    return python


def _interpreter(version: str) -> str:
    """An interpreter of this version: the one that runs this, or one on the path that starts."""
    for found in (sys.executable, *_on_path(f"python{version}")):
        asked = [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == version:
            return found
    raise CannotInstall(f"needs Python {version}, which is not on this machine's path")


def _on_path(name: str) -> Iterator[str]:
    if found := shutil.which(name):
        yield found
    yield from map(str, sorted(pathlib.Path.home().glob(f".pyenv/versions/*/bin/{name}")))


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALLING)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"not installed within {INSTALLING:.0f} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr.strip()]
        raise CannotInstall(" ".join(errors)[:500])
