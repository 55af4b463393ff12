"""The deployment guide says what is so: commands parse, files are read by what reads them, units are hardened, metrics and links exist."""

from __future__ import annotations

import configparser
import datetime
import pathlib
import re
import shlex
import tomllib

import click
import msgspec
import pandas as pd
import pytest
import typer

from federated import gateway, local, metrics, requests, worker
from federated.commands import add
from federated.deploy import authority, checks
from federated.deploy.config import CoordinatorConfig, NodeConfig
from federated.desk import Desk
from federated.http.routes import LONGEST_WAIT
from sandbox import cli
from sandbox.catalog import Budget, Catalog, Column, DataSet, Postgres
from sandbox.pending import ENDED

add(cli.app)
ROOT = pathlib.Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HARDENED = {
    "user": "sandbox",
    "umask": "0077",
    "nonewprivileges": "yes",
    "protectsystem": "strict",
    "readwritepaths": "/var/lib/joint-sandbox",
    "protecthome": "yes",
    "privatetmp": "yes",
    "restart": "always",
    "capabilityboundingset": "",
    "memorydenywriteexecute": "yes",
    "systemcallfilter": "@system-service",
}


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(GUIDE) if found == language]


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def named(command: click.Command, words: list[str], path: str) -> None:
    """That these words are a command of ours with its options; raises `click.UsageError` where not."""
    if isinstance(command, click.Group):
        assert words, f"{path} needs a command"
        assert words[0] in command.commands, f"{path} has no command {words[0]!r}"
        named(command.commands[words[0]], words[1:], f"{path} {words[0]}")
        return
    command.make_context(path, list(words)).close()


LINES = [line for text in blocks("console") for line in text.splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_each_command_is_one(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "sandbox"
    named(typer.main.get_command(cli.app), words, "sandbox")


def test_the_whole_way_is_shown() -> None:
    shown = {" ".join(shlex.split(line)[1:3]) for line in LINES}
    assert shown >= {
        "federation init",
        "federation certificate",
        "federation authority",
        "federation admit",
        "federation remove",
        "roster install",
        "node check",
        "coordinator status",
        "audit witness",
    }
    assert {line.split()[1] for line in LINES} >= {"invite", "join", "verify", "budget"}


def test_commands_and_options_in_the_text_exist() -> None:
    root = typer.main.get_command(cli.app)
    prose = BLOCK.sub("", GUIDE)
    for text in re.findall(r"`sandbox ([a-z ]+)`", prose):
        command: click.Command = root
        for word in text.split():
            assert isinstance(command, click.Group), text
            assert word in command.commands, text
            command = command.commands[word]
    known: set[str] = set()
    waiting: list[click.Command] = [root]
    while waiting:
        command = waiting.pop()
        known |= {option for parameter in command.params for option in parameter.opts}
        waiting += command.commands.values() if isinstance(command, click.Group) else []
    assert set(re.findall(r"`(--[\w-]+)`", prose)) <= known


def units() -> dict[str, configparser.ConfigParser]:
    found = {}
    for text in blocks("ini"):
        name = re.match(r"# /etc/systemd/system/([\w-]+)\.service\n", text)
        assert name
        found[name[1]] = configparser.ConfigParser(interpolation=None)
        found[name[1]].read_string(text)
    return found


@pytest.mark.parametrize("party", ["coordinator", "node"])
def test_units_are_hardened_and_start_what_there_is(party: str) -> None:
    unit = units()[f"joint-sandbox-{party}"]
    service = unit["Service"]
    assert {key: service[key] for key in HARDENED} == HARDENED
    assert int(service["limitnofile"]) >= 16384
    assert int(service["timeoutstopsec"]) >= 30
    program, *words = shlex.split(service["execstart"])
    assert pathlib.Path(program).name == "sandbox"
    assert words[:2] == [party, "start"]
    named(typer.main.get_command(cli.app), words, "sandbox")
    assert words[2].startswith(service["readwritepaths"])
    assert unit["Install"]["wantedby"] == "multi-user.target"


def test_configurations_are_read_by_what_reads_them(tmp_path: pathlib.Path) -> None:
    coordinator, node, catalog = blocks("toml")
    (tmp_path / "coordinator.toml").write_text(coordinator)
    (tmp_path / "node.toml").write_text(node)
    read = CoordinatorConfig.load(tmp_path / "coordinator.toml")
    mine = NodeConfig.load(tmp_path / "node.toml")
    assert read.url == mine.url
    for config in (read, mine):
        host = config.metrics.rpartition(":")[0]
        assert host in metrics.LOOPBACK
    source = msgspec.convert(tomllib.loads(catalog), Catalog, strict=False).datasets["people"].source
    assert isinstance(source, Postgres)
    assert source.path == ("survey", "people")


def test_metrics_are_those_that_are_served(tmp_path: pathlib.Path) -> None:
    dataset = DataSet("general-1", ("p",), {"a": Column("boolean")}, budget=Budget(1.0, 1e-6), max_rows=10)
    catalogs = {name: Catalog(name, {"t": dataset}) for name in ("ash", "birch", "cedar")}
    frames = {name: {"t": pd.DataFrame({"a": [True]})} for name in catalogs}
    federation = local.open_federation(catalogs, frames)
    idle = worker.Worker(
        lambda: pytest.fail("it connects"), lambda *_: pytest.fail("it answers"), 1, tmp_path / "id"
    )
    watched = (
        metrics.Coordinator(
            Desk(federation.broker, here=True), lambda: (), datetime.datetime.now(datetime.UTC)
        ),
        metrics.Node(federation.gates["ash"], idle),
    )
    served = {
        family.name + ("_total" if family.type == "counter" else "")
        for part in watched
        for family in part.metrics()
    }
    table = "".join(line for line in section("Monitoring").splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(sandbox_\w+)`", table)) == served
    state = re.search(r'`state="(\w+)"`', table)
    assert state
    assert state[1] in ENDED
    idle.stop()


def test_events_are_those_that_are_logged() -> None:
    table = section("Monitoring").split("| event |")[1]
    events = {name for line in table.splitlines() for name in re.findall(r"^\| (`.*?`) \|", line)}
    logged = (ROOT / "federated" / "worker.py").read_text()
    for name in {event for text in events for event in re.findall(r"`(\w+)`", text)}:
        assert f'("{name}"' in logged, name


def test_what_check_tests_is_named() -> None:
    for name in ("configuration", "roster", "keys", "authority", "catalogue", "policy", "state", "link key"):
        assert name in section("3. Each department's node").split("It tests ")[1].split(".")[0]
    assert checks.SKEW == 60


def test_times_are_those_of_the_code() -> None:
    assert f"keeps releases for {requests.KEPT_DAYS} days" in GUIDE
    assert f"held for {gateway.HELD:.0f} seconds" in GUIDE
    assert f"an analyst's for up to {LONGEST_WAIT:.0f}" in GUIDE
    assert f"after {worker.FIRST_PAUSE} to {worker.LONGEST_PAUSE:.0f} seconds" in GUIDE
    assert f"the coordinator's certificate {authority.SERVER_DAYS} days" in GUIDE
    assert authority.CA_DAYS == 3650, "ten years"


def test_links_and_anchors_resolve() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", GUIDE, re.M)
    }
    links = re.findall(r"\[[^\]]+\]\(([^)\s]+)\)", GUIDE)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        if file:
            assert (ROOT / "docs" / file).exists(), link
        else:
            assert anchor in anchors, link
