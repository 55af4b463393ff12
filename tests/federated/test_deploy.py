"""A federation's files: made whole or not at all, read strictly, handed on by invitation; and what `sandbox node check` finds wrong."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import shutil
import socket
import ssl
import stat
import threading

import deployed
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from deployed import DEPARTMENTS, LATER, URL

from federated.broker import NAME
from federated.deploy import authority, federation
from federated.deploy.config import CityConfig, CoordinatorConfig, NodeConfig
from sandbox import roster
from sandbox.errors import (
    CallerError,
    CatalogError,
    KeyUnusable,
    Malformed,
)
from sandbox.keys import SigningKey


@pytest.fixture
def sandbox_cli(capsys):
    return deployed.Commands(capsys)


@pytest.fixture
def made(tmp_path):
    return deployed.make(tmp_path / "city")


# --- federation init ---


def test_init_makes_a_bundle_for_each_party(made):
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    common = {"roster.toml", "ca.crt"}
    expected = {"roster.toml", "ca.crt", "authority/ca.crt", "authority/ca.key"}
    bundles = {
        "coordinator": {"coordinator.toml", "coordinator.key", "tls.crt", "tls.key"}
        | {f"links/{name}.pub" for name in DEPARTMENTS},
        "analysts/li": {"city.toml", "analyst.key"},
        "witnesses/regulator": {"witness.key"},
    }
    for name in DEPARTMENTS:
        bundles[f"nodes/{name}"] = {"node.toml", "catalog.toml", "node.key", "link.key"}
        bundles[f"owners/{name}"] = {f"{name}-owner-1.key", f"{name}-owner-2.key"}
    for place, own in bundles.items():
        expected |= {f"{place}/{name}" for name in own | common}
    assert files == expected
    assert len({(made / f).read_bytes() for f in files if f.endswith("roster.toml")}) == 1


def test_private_keys_can_be_read_by_nobody_else(made):
    for path in made.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.suffix == ".key":
            assert mode == 0o600, path
        if path.is_dir() and path.parent.name in ("nodes", "owners", "analysts", "witnesses"):
            assert mode == 0o700, path
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_every_key_is_the_one_that_the_roster_names(made):
    who = roster.load(made / "roster.toml")
    places = {("node", name): made / "nodes" / name / "node.key" for name in DEPARTMENTS}
    places["coordinator", NAME] = made / "coordinator" / "coordinator.key"
    places["analyst", "li"] = made / "analysts" / "li" / "analyst.key"
    places["witness", "regulator"] = made / "witnesses" / "regulator" / "witness.key"
    for name in DEPARTMENTS:
        for i in (1, 2):
            owner = f"{name}-owner-{i}"
            places["owner", owner] = made / "owners" / name / f"{owner}.key"
            assert who.entry(owner, "owner").organisation == who.entry(name, "node").organisation
    assert {(entry.role, entry.name) for entry in who.members} == set(places)
    for (role, name), path in places.items():
        assert SigningKey.load(path).public == who.public(name, role)
    assert CoordinatorConfig.load(made / "coordinator" / "coordinator.toml").url == URL
    assert NodeConfig.load(made / "nodes" / "ash" / "node.toml").parties == 3
    assert CityConfig.load(made / "analysts" / "li" / "city.toml").analyst == "li"


def test_people_have_a_passphrase_where_one_is_given_and_processes_none(tmp_path):
    place = tmp_path / "city"
    federation.init(place, "city", DEPARTMENTS, ("li",), URL, passphrase="correct horse")
    for path in (place / "analysts" / "li" / "analyst.key", place / "owners" / "ash" / "ash-owner-1.key"):
        with pytest.raises(KeyUnusable, match="passphrase is needed"):
            SigningKey.load(path)
        SigningKey.load(path, "correct horse")
    for path in (place / "nodes" / "ash" / "node.key", place / "coordinator" / "coordinator.key"):
        SigningKey.load(path)


@pytest.mark.parametrize("at", ["new_certificate", "new_link_key", "write_analyst"])
def test_init_writes_all_or_nothing(tmp_path, monkeypatch, at):
    """Whatever fails in between, neither the directory nor its beginnings stay."""
    where = federation if at == "write_analyst" else authority
    monkeypatch.setattr(where, at, lambda *_a, **_k: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        federation.init(tmp_path / "city", "city", DEPARTMENTS, ("li",), URL)
    assert list(tmp_path.iterdir()) == []


def test_init_overwrites_nothing(made):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(CatalogError, match="exists; a new directory is needed"):
        federation.init(made, "city", DEPARTMENTS, ("li",), URL)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


BAD = (
    ({"name": "my city"}, "federation 'my city'"),
    ({"name": 'ci"ty'}, "name 'ci\"ty'"),
    ({"name": "../city"}, "'../city'"),
    ({"departments": ("ash", "9th", "cedar")}, "department '9th'"),
    ({"departments": ("ash", "../x", "cedar")}, "department '../x'"),
    ({"departments": ("ash", "a-b", "cedar")}, "department 'a-b'"),
    ({"departments": ("ash", "a" * 64, "cedar")}, "allowed are 1 to 63"),
    ({"departments": ("ash",)}, "1 departments; allowed are 2 or more"),
    ({"departments": ("ash", "ash", "cedar")}, "ash: each party needs a name of its own"),
    ({"departments": ("ash", NAME, "cedar")}, f"{NAME}: each party needs a name of its own"),
    ({"analysts": ()}, "'analyst': at least one is needed"),
    ({"analysts": ("../li",)}, "name '../li'"),
    ({"analysts": ("-li",)}, "name '-li'"),
    ({"analysts": ("ash-owner-1",)}, "ash-owner-1: each party needs a name of its own"),
    ({"witnesses": ("li",)}, "li: each party needs a name of its own"),
    ({"url": "http://127.0.0.1:8443"}, "'url' is 'http://127.0.0.1:8443'"),
    ({"url": "https://127.0.0.1:99999"}, "allowed is https://host or https://host:port"),
    ({"url": "https://127.0.0.1:0"}, "allowed is https://host"),
    ({"url": "https://127.0.0.1:x"}, "allowed is https://host"),
    ({"url": "https://host/path"}, "allowed is https://host"),
    ({"url": "https://host?x=1"}, "allowed is https://host"),
    ({"url": "https://me@host"}, "allowed is https://host"),
    ({"url": 'https://ho"st'}, "allowed is https://host"),
    ({"url": "https://münchen:8443"}, "allowed is https://host"),
    ({"url": "https://[::1"}, "allowed is https://host"),
    ({"metrics": (9000,)}, "'metrics' has 1 ports; needed are 4"),
)


@pytest.mark.parametrize(("changes", "told"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_init_names_what_is_not_allowed_and_writes_nothing(tmp_path, changes, told):
    given = {"name": "city", "departments": DEPARTMENTS, "analysts": ("li",), "url": URL} | changes
    name, departments, analysts, url = (given.pop(n) for n in ("name", "departments", "analysts", "url"))
    with pytest.raises((CallerError, Malformed)) as refused:
        federation.init(tmp_path / "city", name, departments, analysts, url, **given)
    assert told in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# --- certificates ---


def certificates(made):
    ca = x509.load_pem_x509_certificate((made / "coordinator" / "ca.crt").read_bytes())
    return ca, x509.load_pem_x509_certificate((made / "coordinator" / "tls.crt").read_bytes())


def test_certificates_form_a_chain_and_may_do_no_more_than_they_must(made):
    ca, server = certificates(made)
    server.verify_directly_issued_by(ca)
    ca.verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(
        ca=True, path_length=0
    )
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    allowed = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(allowed) == [ExtendedKeyUsageOID.SERVER_AUTH]
    left = server.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=390) < left < datetime.timedelta(days=398)
    assert authority.expires(made / "coordinator" / "tls.crt") == server.not_valid_after_utc
    own = load_pem_private_key((made / "coordinator" / "tls.key").read_bytes(), None)
    assert own.public_key() == server.public_key()


def greet(made: pathlib.Path, trusted: pathlib.Path, host: str) -> None:
    """A TLS handshake with a server that has the coordinator's certificate; raises `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "coordinator" / "tls.crt", made / "coordinator" / "tls.key")
    trust = ssl.create_default_context(cafile=str(trusted))
    here, there = socket.socketpair()

    def serve() -> None:
        with there, contextlib.suppress(ssl.SSLError, OSError):
            context.wrap_socket(there, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with here:
            trust.wrap_socket(here, server_hostname=host).close()
    finally:
        thread.join()


def test_tls_holds_for_the_named_host_and_this_authority_alone(made, tmp_path):
    greet(made, made / "analysts" / "li" / "ca.crt", "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        greet(made, made / "analysts" / "li" / "ca.crt", "127.0.0.2")
    federation.init(tmp_path / "other", "city", DEPARTMENTS, ("li",), URL)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        greet(made, tmp_path / "other" / "coordinator" / "ca.crt", "127.0.0.1")


def test_the_certificate_is_renewed_under_the_same_authority(made, sandbox_cli):
    old = (made / "coordinator" / "tls.crt").read_bytes()
    status, told, _ = sandbox_cli(
        "federation", "certificate", made / "authority", made / "coordinator", "--host", "data.example.org",
        "--host", "10.0.0.7",
    )  # fmt: skip
    assert status == 0
    assert "restart the coordinator" in told
    assert (made / "coordinator" / "tls.crt").read_bytes() != old
    assert stat.S_IMODE((made / "coordinator" / "tls.key").stat().st_mode) == 0o600
    for host in ("data.example.org", "10.0.0.7"):
        greet(made, made / "coordinator" / "ca.crt", host)
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(made, made / "coordinator" / "ca.crt", "127.0.0.1")


@pytest.mark.parametrize("host", ["", "a b", "münchen", "x" * 64, "a..b", "https://host"])
def test_hosts_that_no_certificate_can_name(made, sandbox_cli, host):
    before = (made / "coordinator" / "tls.crt").read_bytes()
    status, _, told = sandbox_cli(
        "federation", "certificate", made / "authority", made / "coordinator", "--host", host
    )
    assert (status, (made / "coordinator" / "tls.crt").read_bytes()) == (1, before)
    assert told.startswith("ParameterError: host ")


def test_another_authoritys_key_signs_nothing(made, tmp_path):
    federation.init(tmp_path / "other", "city", DEPARTMENTS, ("li",), URL)
    shutil.copy(tmp_path / "other" / "authority" / "ca.key", made / "authority" / "ca.key")
    before = (made / "coordinator" / "tls.crt").read_bytes()
    with pytest.raises(KeyUnusable, match="is not the key of the certificate beside it"):
        authority.new_certificate(made / "authority", made / "coordinator", ("127.0.0.1",))
    assert (made / "coordinator" / "tls.crt").read_bytes() == before


# --- configurations ---

KINDS = {
    CoordinatorConfig: ("coordinator/coordinator.toml", ("federation", "address", "url")),
    NodeConfig: ("nodes/ash/node.toml", ("department", "url")),
    CityConfig: ("analysts/li/city.toml", ("federation", "url", "analyst")),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_field_that_is_unknown_missing_or_mistyped_is_named(made, kind):
    name, needed = KINDS[kind]
    path = made / name
    text = path.read_text()
    kind.load(path)
    lines = dict(line.split(" = ", 1) for line in text.splitlines())
    for field in needed:
        path.write_text("".join(f"{n} = {v}\n" for n, v in lines.items() if n != field))
        with pytest.raises(CatalogError, match=f"missing required field `{field}`"):
            kind.load(path)
    for field in kind.__struct_fields__:
        path.write_text("".join(f"{n} = {v}\n" for n, v in (lines | {field: "[1.5]"}).items()))
        with pytest.raises(CatalogError, match=rf"\$\.{field}`"):
            kind.load(path)
    path.write_text(text + "fields = 1\n")
    with pytest.raises(CatalogError, match="unknown field `fields`"):
        kind.load(path)
    path.write_text(text + "= 3\n")
    with pytest.raises(CatalogError, match=path.name):
        kind.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match=path.name):
        kind.load(path)
    path.unlink()
    with pytest.raises(CatalogError, match="cannot be read: No such file"):
        kind.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("workers", "0"), ("workers", "65"), ("parties", "1"), ("setting", '"lenient"'), ("url", '"http://x"')],
)
def test_values_outside_their_range_are_named(made, field, value):
    path = made / "nodes" / "ash" / "node.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{field} ")]
    path.write_text("\n".join([*lines, f"{field} = {value}", ""]))
    with pytest.raises(CatalogError, match=f"{field}"):
        NodeConfig.load(path)


def test_paths_are_relative_to_the_file_that_names_them(made, monkeypatch):
    monkeypatch.chdir(made)
    loaded = NodeConfig.load(pathlib.Path("nodes/ash/node.toml"))
    monkeypatch.chdir("/")
    assert loaded.key.read_bytes()
    assert loaded.key == made / "nodes" / "ash" / "node.key"


# --- the command line ---


def test_the_commands_from_a_new_federation_to_a_new_roster(tmp_path, sandbox_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--name", "city", "--url", URL, "--analyst", "li"]
    for name in DEPARTMENTS:
        words += ["--department", name]
    status, told, _ = sandbox_cli("federation", "init", "city", *words)
    assert status == 0
    shown = roster.load("city/roster.toml").fingerprint()
    assert f"roster fingerprint: {shown}" in told
    status, _, told = sandbox_cli("federation", "init", "city", *words)
    assert (status, told) == (1, "CatalogError: 'city' exists; a new directory is needed\n")

    invite = ("invite", "city/coordinator", "--name", LATER, "--organisation", "Transport")
    status, told, _ = sandbox_cli(*invite)
    assert (status, shown in told) == (0, True)
    status, _, told = sandbox_cli(*invite)
    assert (status, told) == (1, "invitation.json: File exists\n")
    status, told, _ = sandbox_cli("join", "invitation.json", "date", "--owner", "chen")
    assert (status, f"roster fingerprint: {shown}" in told) == (0, True)
    status, told, _ = sandbox_cli("federation", "admit", "city/coordinator", "date/card.json")
    new = roster.load("city/coordinator/roster.toml").fingerprint()
    assert (status, new in told, new != shown) == (0, True, True)
    status, told, _ = sandbox_cli("roster", "install", "roster.json", "--file", "date/roster.toml")
    assert (status, told) == (
        0,
        f"date/roster.toml: {_size()} members, fingerprint {new}\n",
    )
    status, _, told = sandbox_cli(
        "federation", "admit", "city/coordinator", "nothing.json", "--output", "date/none.json"
    )
    assert (status, told) == (1, "nothing.json: No such file or directory\n")
    assert not pathlib.Path("date/none.json").exists(), "nothing is begun that cannot be made"
    status, _, told = sandbox_cli("federation", "remove", "city/coordinator", "li")
    assert (status, told) == (1, "roster.json: File exists\n")
    assert roster.load("city/coordinator/roster.toml").fingerprint() == new
    status, told, _ = sandbox_cli("federation", "remove", "city/coordinator", "li", "--output", "second.json")
    assert (status, "sandbox roster install --removals second.json" in told) == (0, True)
    status, _, told = sandbox_cli("federation", "init", "other", "--name", "x")
    assert (status, "Missing option" in told) == (2, True)
    status, _, told = sandbox_cli("node", "start", "nowhere")
    assert (status, told) == (
        1,
        "CatalogError: 'nowhere/node.toml' cannot be read: No such file or directory\n",
    )
    pathlib.Path("date/ca.crt").write_text("none")
    status, _, told = sandbox_cli("node", "start", "date")
    assert (status, told.endswith("date/ca.crt' is no certificate\n")) == (1, True)
    status, _, told = sandbox_cli("node", "status", "date")
    assert (status, told.startswith("ParameterError: 'metrics' is not set")) == (1, True)
    status, _, told = sandbox_cli("coordinator", "status", "city/coordinator")
    assert (status, told.startswith("Unreachable: the coordinator at 0.0.0.0:8443")) == (1, True)


def _size() -> int:
    return len(roster.load("date/roster.toml").members)
