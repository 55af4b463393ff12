"""What `sandbox federation init` and `sandbox join` hand to each party: organisations, a catalogue to learn from, and nothing by halves."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys

import deployed
import duckdb
import pandas as pd
import pytest
from cryptography import x509
from deployed import DEPARTMENTS, LATER, URL, config

from federated.coordinator import Coordinator
from federated.deploy import authority, checks, federation, invitation
from federated.deploy.config import CoordinatorConfig, NodeConfig
from sandbox import catalog, roster
from sandbox.errors import CatalogError, Malformed, ParameterError
from sandbox.policy import of

GIVEN = {"ash": "Health Commission", "li": "Statistics Bureau", "regulator": "Audit Office"}


@pytest.fixture
def made(tmp_path):
    return deployed.make(tmp_path / "city")


# --- organisations ---


def test_organisations_are_those_given_and_owners_belong_to_their_departments(tmp_path, capsys):
    words = ["--name", "city", "--url", URL, "--witness", "regulator=Audit Office"]
    words += ["--analyst", "li=Statistics Bureau", "--department", "ash=Health Commission"]
    words += ["--department", "birch", "--department", "cedar"]
    status, _, told = deployed.Commands(capsys)("federation", "init", tmp_path / "city", *words)
    assert (status, told) == (0, "")
    members = roster.load(tmp_path / "city" / "roster.toml").members
    belongs = {member.name: member.organisation for member in members}
    assert belongs.items() >= (GIVEN | {"birch": "birch", "cedar": "cedar"}).items()
    assert {belongs[f"ash-owner-{i}"] for i in (1, 2)} == {"Health Commission"}
    told = {check.name: check for check in checks.run(tmp_path / "city" / "nodes" / "ash")}
    assert "3 departments, 2 owners here" in told["roster"].detail


@pytest.mark.parametrize(
    ("organisations", "kind", "told"),
    [
        ({"ash": "Health", "birch": "Health"}, ParameterError, "Health: an organisation has one node"),
        ({"ash": "birch"}, ParameterError, "birch: an organisation has one node"),
        ({"elm": "Elm"}, ParameterError, "'organisations' names elm; allowed are ash, birch, cedar, li"),
        ({"ash": " "}, Malformed, "'ash' needs an organisation"),
        ({"li": "a\nb"}, Malformed, "'li' needs an organisation"),
    ],
)
def test_organisations_that_cannot_be(tmp_path, organisations, kind, told):
    with pytest.raises(kind) as refused:
        federation.init(tmp_path / "city", "city", DEPARTMENTS, ("li",), URL, organisations=organisations)
    assert told in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# --- the sample catalogue ---


def test_the_sample_catalogue_is_accepted_once_its_source_exists(made):
    node = made / "nodes" / "ash"
    rows = pd.DataFrame(
        {
            "person": ["a", "b", "c"],
            "sex": ["female", "male", "female"],
            "age": [0, 57, 120],
            "income": [12.5, 1e9, None],
            "insured": [True, False, True],
        }
    )
    duckdb.from_df(rows).write_parquet(os.fspath(node / "survey.parquet"))
    told = {check.name: check for check in checks.run(node)}
    wrong = {name for name, check in told.items() if not check.ok}
    assert wrong == {"coordinator", "link"}, "what does not run yet, and nothing else"
    assert told["data survey"].detail == "reachable, and within what is declared"
    assert told["policy"].detail == "survey: general-3, 0 approvers"


def test_what_the_sample_catalogue_has_as_comments_can_be_used(made):
    file = made / "nodes" / "ash" / "catalog.toml"
    lines = file.read_text().splitlines()
    switched = [
        line.removeprefix("# ")
        for line in lines
        if not line.startswith("source = ")  # for the one in a comment
    ]
    kept = [line for line in switched if " = " in line or line.startswith("[")]
    assert len(kept) == len([line for line in lines if " = " in line or line.startswith(("[", "# ["))]) - 1
    file.write_text("\n".join(kept))
    survey = catalog.load(file).datasets["survey"]
    assert survey.source == catalog.Postgres("survey.people", service="health")
    terms = of("survey", survey)
    assert (terms.kinds, terms.approvers, terms.own.releases_per_analyst) == (("dp",), 2, 50)


# --- nothing by halves ---

KILLED = """
import os, pathlib, sys
from federated.deploy import federation, invitation
def stop(*_a, **_k): os._exit(9)
setattr(federation, sys.argv[2], stop)
invitation.join(pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path("new"), ("chen",))
"""


@pytest.mark.parametrize("at", ["write_node", "sync_directory"])
def test_who_is_killed_while_joining_has_all_of_it_or_nothing(made, tmp_path, at):
    (tmp_path / "invitation.json").write_bytes(invitation.invite(config(made), LATER, "node", "Transport", 1))
    place = tmp_path / "there"
    place.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", KILLED, os.fspath(tmp_path / "invitation.json"), at],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.returncode == 9
    if at == "write_node":
        assert not (place / "new").exists()
        invitation.join((tmp_path / "invitation.json").read_bytes(), place / "new", ("chen",))
    assert NodeConfig.load(place / "new" / "node.toml").department == LATER
    invitation.admit(config(made), (place / "new" / "card.json").read_bytes())


def test_who_cannot_finish_joining_leaves_nothing(made, tmp_path, monkeypatch):
    text = invitation.invite(config(made), LATER, "node", "Transport", 1)
    place = tmp_path / "there"
    place.mkdir()
    monkeypatch.setattr(
        federation, "write_node", lambda *_a: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(OSError, match="No space left"):
        invitation.join(text, place / "new", ("chen",))
    assert list(place.iterdir()) == []


# --- certificates and addresses ---


def test_certificates_pass_the_strictest_check_that_there_is(made):
    """RFC 5280 to the letter (OpenSSL's X509_STRICT, which later versions of Python ask for)."""
    trust = ssl.create_default_context(cafile=os.fspath(made / "coordinator" / "ca.crt"))
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "coordinator" / "tls.crt", made / "coordinator" / "tls.key")
    shaken(trust, server, "127.0.0.1")
    shaken(trust, server, "localhost")


def shaken(trust: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """A handshake in memory; raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = trust.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {ours, theirs}


def test_no_certificate_outlives_the_authority_that_signs_it(made, monkeypatch):
    monkeypatch.setattr(authority, "CA_DAYS", 30)
    place = made / "short"
    place.mkdir()
    authority.new_authority(place, "city")
    authority.new_certificate(place, place, ("127.0.0.1",))
    assert authority.expires(place / "tls.crt") == authority.expires(place / "ca.crt")


def test_a_coordinator_with_an_address_of_ipv6(tmp_path):
    federation.init(tmp_path / "city", "city", DEPARTMENTS, ("li",), "https://[::1]:8443")
    place = tmp_path / "city" / "coordinator"
    assert CoordinatorConfig.load(place / "coordinator.toml").address == "[::]:8443"
    names = authority.read_certificate(place / "tls.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name) for name in names.value.get_values_for_type(x509.IPAddress)] == ["::1"]


ADDRESSES = (
    ("address", "8443", "'address' is '8443'; allowed is host:port with a port from 1 to 65535"),
    ("address", "0.0.0.0:0", "'address' is '0.0.0.0:0'"),
    ("address", ":8443", "'address' is ':8443'"),
    ("address", "", "'address' is ''"),
    ("metrics", "0.0.0.0:9464", "'metrics' is '0.0.0.0:9464'; allowed is a loopback address"),
    ("metrics", "10.0.0.7:9464", "allowed is a loopback address"),
    ("metrics", "127.0.0.1", "'metrics' is '127.0.0.1'; allowed is host:port"),
    ("metrics", "127.0.0.1:99999", "'metrics' is '127.0.0.1:99999'"),
    ("url", "", "'url' is ''"),
)


@pytest.mark.parametrize(("field", "value", "told"), ADDRESSES)
def test_addresses_are_checked_when_they_are_read(made, field, value, told):
    path = made / "coordinator" / "coordinator.toml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{field} ")]
    path.write_text("\n".join([*kept, f'{field} = "{value}"', ""]))
    with pytest.raises(CatalogError) as refused:
        CoordinatorConfig.load(path)
    assert told in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("value", ["", "127.0.0.1:9464", "[::1]:9464", "localhost:9464"])
def test_metrics_of_this_machine_alone(made, value):
    path = made / "nodes" / "ash" / "node.toml"
    path.write_text(f'{path.read_text()}metrics = "{value}"\n')
    assert NodeConfig.load(path).metrics == value


def test_a_coordinator_of_another_federation_than_its_roster_does_not_start(made):
    path = made / "coordinator" / "coordinator.toml"
    path.write_text(path.read_text().replace('federation = "city"', 'federation = "town"'))
    with pytest.raises(
        ParameterError, match="'federation' is 'town' in the configuration and 'city' in the roster"
    ):
        Coordinator(CoordinatorConfig.load(path))
    assert not (made / "coordinator" / "state").exists()
