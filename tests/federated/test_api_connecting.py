"""`sandbox.connect("city.toml")`: the analyst's files must fit one another and what the coordinator shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from over_https import Opened, served

import sandbox
from federated import broker
from federated.http import api, signatures
from sandbox import count, errors, keys
from sandbox.errors import CatalogError, KeyUnusable, UnknownSigner, Unreachable
from sandbox.roster import Roster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def opened(people):
    everyone = people(departments=3)
    return Opened(everyone.catalogs, everyone.frames)


@pytest.fixture(scope="module")
def port(opened, tmp_path_factory):
    with served(api.app(opened.desk), tmp_path_factory.mktemp("port")) as port:
        yield port


class Files:
    """An analyst's directory, as a federation would hand it out."""

    def __init__(self, directory, opened, port):
        self.path = directory / "city.toml"
        self.directory, self.opened, self.port = directory, opened, port
        self.write()
        self.key(opened.keys["analyst"])
        self.roster(opened.roster)
        (directory / "ca.crt").write_bytes(port.authority.read_bytes())

    def write(self, **fields):
        fields = {"federation": "city", "url": self.port.url, "analyst": "analyst"} | fields
        self.path.write_text("".join(f'{name} = "{value}"\n' for name, value in fields.items()))

    def key(self, key, passphrase=None):
        (self.directory / "analyst.key").unlink(missing_ok=True)
        key.save(self.directory / "analyst.key", passphrase)

    def roster(self, roster):
        (self.directory / "roster.toml").write_text(roster.dumps())


@pytest.fixture
def files(tmp_path, opened, port):
    return Files(tmp_path, opened, port)


def test_the_calls_of_the_demo(files):
    city = sandbox.connect(files.path)
    query = city.table("t").agg(count())
    release = query.release(purpose="research")
    assert release.frame["count"].tolist() == [120]
    assert release.verify(city.roster).ok
    assert query.mock().mock


def test_an_encrypted_key(files):
    files.key(files.opened.keys["analyst"], "a long phrase")
    assert repr(sandbox.connect(files.path, passphrase="a long phrase")) == "<City ash, birch, cedar: t>"
    with pytest.raises(KeyUnusable, match="passphrase"):
        sandbox.connect(files.path)


def test_each_file_must_fit_the_others(files):
    other = keys.SigningKey.generate()
    files.key(other)
    with pytest.raises(KeyUnusable, match="the roster has") as caught:
        sandbox.connect(files.path)
    assert keys.fingerprint(other.public) in str(caught.value)
    files.write(analyst="nobody")
    with pytest.raises(UnknownSigner, match="no analyst 'nobody'"):
        sandbox.connect(files.path)
    files.write(federation="village")
    with pytest.raises(CatalogError, match="'village'"):
        sandbox.connect(files.path)
    files.write(url="http://127.0.0.1:1")
    with pytest.raises(CatalogError, match="'url'"):
        sandbox.connect(files.path)
    (files.directory / "ca.crt").write_text("no certificate")
    files.write()
    files.key(files.opened.keys["analyst"])
    with pytest.raises(errors.ParameterError, match="the authority"):
        sandbox.connect(files.path)


def test_the_coordinator_must_fit_the_files(files):
    files.roster(Roster("city", files.opened.roster.members[:-1]))
    with pytest.raises(Unreachable, match="another roster"):
        sandbox.connect(files.path)
    files.roster(files.opened.roster)
    files.write(setting="active")
    with pytest.raises(Unreachable, match="'honest-but-curious', not 'active'"):
        sandbox.connect(files.path)


def test_connecting_loads_no_frames_no_flower_and_no_server(files):
    """An analyst's machine needs neither the nodes' network nor the coordinator's; pandas comes with the first frame."""
    code = (
        "import sys, sandbox; city = sandbox.connect(sys.argv[1]); from sandbox import count; "
        "city.table('t').agg(count()).release(purpose='research'); "
        "print(*({name.split('.')[0] for name in sys.modules} & {'flwr', 'grpc', 'pandas', 'scipy', 'torch', 'starlette', 'uvicorn'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(files.path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
    assert signatures.NAME == broker.NAME
