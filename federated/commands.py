"""`sandbox federation|invite|join|roster|coordinator|node|up`: what runs a federation over machines. Parses, calls, prints.

Modules that take time to load are imported by the commands that need them.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

Path = pathlib.Path
PLAIN: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}

HERE, ROSTER, SUCCESSOR, INVITATION = (
    Path("."),
    Path("roster.toml"),
    Path("roster.json"),
    Path("invitation.json"),
)

federation_app = typer.Typer(**PLAIN, help="Make a federation; take newcomers in.")
coordinator_app = typer.Typer(**PLAIN, help="Run the coordinator.")
node_app = typer.Typer(**PLAIN, help="Run a department's node.")
roster_app = typer.Typer(**PLAIN, help="Bring a roster up to date.")

Directory = Annotated[Path, typer.Argument(help="The party's directory.")]
Name = Annotated[str, typer.Option("--name", help="The federation's name.")]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="Ask for the passphrase of people's keys.")]


def add(app: typer.Typer) -> None:
    """Mount these commands, once."""
    if any(group.name == "federation" for group in app.registered_groups):
        return
    app.add_typer(federation_app, name="federation")
    app.add_typer(coordinator_app, name="coordinator")
    app.add_typer(node_app, name="node")
    app.add_typer(roster_app, name="roster")
    app.command("invite")(invite)
    app.command("join")(join)
    app.command("up")(up)


@federation_app.command("init")
def federation_init(
    directory: Annotated[Path, typer.Argument(help="A new directory for all bundles.")],
    name: Name,
    url: Annotated[str, typer.Option(help="How the coordinator is reached: https://host:port.")],
    department: Annotated[list[str], typer.Option(help="A department: NAME or NAME=ORGANISATION; repeat.")],
    analyst: Annotated[list[str], typer.Option(help="An analyst: NAME or NAME=ORGANISATION; repeat.")],
    witness: Annotated[
        list[str] | None, typer.Option(help="A witness: NAME or NAME=ORGANISATION; repeat.")
    ] = None,
    active: Annotated[
        bool, typer.Option("--active", help="Secure aggregation against an active coordinator.")
    ] = False,
    passphrase: Passphrase = False,
) -> None:
    """Make a roster, a private certificate authority, and a bundle of files for each party."""
    from .deploy import federation

    secret = _secret(passphrase)
    organisations: dict[str, str] = {}
    roster = federation.init(
        directory,
        name,
        _parties(department, organisations),
        _parties(analyst, organisations),
        url,
        witnesses=_parties(witness or [], organisations),
        organisations=organisations,
        setting="active" if active else "honest-but-curious",
        passphrase=secret,
    )
    print(f"{name}: {len(roster.members)} members in {directory}")
    print(f"roster fingerprint: {roster.fingerprint()} (every party compares it)")
    print("Hand each bundle to its party, remove it here, and keep authority/ off every server.")


@federation_app.command("certificate")
def federation_certificate(
    authority: Annotated[Path, typer.Argument(help="The directory with ca.crt and ca.key.")],
    coordinator: Annotated[Path, typer.Argument(help="The coordinator's directory.")],
    host: Annotated[list[str], typer.Option(help="A name or address of the coordinator; repeat.")],
) -> None:
    """Renew the coordinator's certificate; restart it afterwards."""
    from .deploy import authority as making

    making.new_certificate(authority, coordinator, tuple(host))
    print(f"valid until {making.expires(coordinator / 'tls.crt'):%Y-%m-%d}; restart the coordinator")


@federation_app.command("authority")
def federation_authority(
    directory: Annotated[Path, typer.Argument(help="A new directory for ca.crt and ca.key.")],
    name: Name,
) -> None:
    """Make the authority that follows one which ends, or whose key is lost; every party appends its ca.crt to the one that it has."""
    from .deploy import authority, federation

    with federation.whole(directory) as work:
        authority.new_authority(work, name)
    print(f"valid until {authority.expires(directory / 'ca.crt'):%Y-%m-%d}; every party appends")
    print(f"{directory / 'ca.crt'} to its own ca.crt, before the coordinator has a certificate of it")


@federation_app.command("admit")
def federation_admit(
    coordinator: Annotated[Path, typer.Argument(help="The coordinator's directory.")],
    card: Annotated[Path, typer.Argument(help="The newcomer's card.json.")],
    output: Annotated[Path, typer.Option(help="Where the signed new roster goes.")] = SUCCESSOR,
) -> None:
    """Take a newcomer in; restart the coordinator, and have every party install the new roster."""
    from sandbox.roster import load

    from .deploy import invitation
    from .deploy.config import CoordinatorConfig

    config = CoordinatorConfig.load(coordinator / "coordinator.toml")
    _write_new(output, lambda: invitation.admit(config, card.read_bytes()))
    print(f"roster fingerprint: {load(config.roster).fingerprint()}")
    print(f"Restart the coordinator. Every party installs {output}: sandbox roster install {output}")


@federation_app.command("remove")
def federation_remove(
    coordinator: Annotated[Path, typer.Argument(help="The coordinator's directory.")],
    name: Annotated[str, typer.Argument(help="Who leaves; a department with its owners.")],
    output: Annotated[Path, typer.Option(help="Where the signed new roster goes.")] = SUCCESSOR,
) -> None:
    """Take a member out, whose key may be lost or stolen; restart the coordinator, and have every party install the new roster."""
    from sandbox.roster import load

    from .deploy import invitation
    from .deploy.config import CoordinatorConfig

    config = CoordinatorConfig.load(coordinator / "coordinator.toml")
    _write_new(output, lambda: invitation.remove(config, name))
    print(f"roster fingerprint: {load(config.roster).fingerprint()}")
    print(
        f"Restart the coordinator. Every party installs {output}: sandbox roster install --removals {output}"
    )


def invite(
    coordinator: Annotated[Path, typer.Argument(help="The coordinator's directory.")],
    name: Annotated[str, typer.Option(help="The newcomer's name.")],
    organisation: Annotated[str, typer.Option(help="The newcomer's organisation.")],
    analyst: Annotated[bool, typer.Option("--analyst", help="An analyst, not a department.")] = False,
    days: Annotated[float, typer.Option(help="How long it holds.")] = 14,
    output: Annotated[Path, typer.Option(help="Where it goes.")] = INVITATION,
) -> None:
    """Invite one more department or analyst: the file goes to the newcomer, who runs `sandbox join`."""
    from .deploy import invitation
    from .deploy.config import CoordinatorConfig

    config = CoordinatorConfig.load(coordinator / "coordinator.toml")
    text = invitation.invite(config, name, "analyst" if analyst else "node", organisation, days)
    _write_new(output, lambda: text)
    _, roster = invitation.opened(text)
    print(
        f"{output}: send it to {name}, and tell the roster's fingerprint another way: {roster.fingerprint()}"
    )


def join(
    invitation: Annotated[Path, typer.Argument(help="The file from the coordinator.")],
    directory: Annotated[Path, typer.Argument(help="A new directory for keys and files.")],
    owner: Annotated[list[str] | None, typer.Option(help="A department's owner; repeat.")] = None,
    passphrase: Passphrase = False,
) -> None:
    """Accept an invitation: keys are made here and stay here; card.json goes back to the coordinator."""
    from .deploy import invitation as invitations

    secret = _secret(passphrase)
    roster, key = invitations.join(invitation.read_bytes(), directory, tuple(owner or ()), secret)
    print(f"roster fingerprint: {roster} (compare it with what the coordinator told you)")
    print(f"your key: {key} (tell it to the coordinator)")
    print(f"Send {directory / 'card.json'} back.")


@roster_app.command("install")
def roster_install(
    successor: Annotated[Path, typer.Argument(help="The signed new roster.")],
    file: Annotated[Path, typer.Option(help="The roster that is replaced.")] = ROSTER,
    removals: Annotated[
        bool, typer.Option("--removals", help="Members may be missing or have other keys.")
    ] = False,
) -> None:
    """Replace a roster by one that the coordinator signed and that follows it; restart the node afterwards."""
    from .deploy import invitation

    roster = invitation.install(successor.read_bytes(), file, removals=removals)
    print(f"{file}: {len(roster.members)} members, fingerprint {roster.fingerprint()}")


@coordinator_app.command("init")
def coordinator_init(
    directory: Annotated[Path, typer.Argument(help="A new directory.")],
    name: Name,
    url: Annotated[str, typer.Option(help="How it is reached: https://host:port.")],
    analyst: Annotated[list[str], typer.Option(help="An analyst: NAME or NAME=ORGANISATION; repeat.")],
    department: Annotated[list[str], typer.Option(help="A department: NAME or NAME=ORGANISATION; repeat.")],
) -> None:
    """The same as `federation init`: a coordinator exists with its federation."""
    federation_init(directory, name, url, department, analyst)


@coordinator_app.command("start")
def coordinator_start(directory: Directory = HERE) -> None:
    """Run until SIGTERM."""
    from . import coordinator, memory
    from .deploy.config import CoordinatorConfig

    memory.keep_freed()
    coordinator.serve(CoordinatorConfig.load(directory / "coordinator.toml"))
    _end()


@coordinator_app.command("status")
def coordinator_status(directory: Directory = HERE) -> None:
    """What the running coordinator says of itself."""
    from . import coordinator
    from .deploy.config import CoordinatorConfig

    _table(coordinator.status(CoordinatorConfig.load(directory / "coordinator.toml")))


@node_app.command("init")
def node_init(
    invitation: Annotated[Path, typer.Argument(help="The file from the coordinator.")],
    directory: Annotated[Path, typer.Argument(help="A new directory.")],
    owner: Annotated[list[str] | None, typer.Option(help="An owner's name; repeat.")] = None,
    passphrase: Passphrase = False,
) -> None:
    """The same as `join`: a node begins with an invitation."""
    join(invitation, directory, owner, passphrase)


@node_app.command("start")
def node_start(directory: Directory = HERE) -> None:
    """Run until SIGTERM."""
    from . import memory, worker
    from .deploy.config import NodeConfig

    memory.keep_freed()
    worker.serve(NodeConfig.load(directory / "node.toml"))
    _end()


@node_app.command("check")
def node_check(directory: Directory = HERE) -> None:
    """Test database, keys, clock, reachability, policy and state, and say what to mend. Exit status 1 where anything is wrong."""
    from .deploy import checks

    found = checks.run(directory)
    width = max(len(check.name) for check in found)
    for check in found:
        print(f"{'ok    ' if check.ok else 'FAILED'} {check.name:<{width}}  {check.detail}")
    if not all(check.ok for check in found):
        raise typer.Exit(1)


@node_app.command("status")
def node_status(directory: Directory = HERE) -> None:
    """What the running node says of itself; its configuration needs `metrics`."""
    from . import worker
    from .deploy.config import NodeConfig

    _table(worker.status(NodeConfig.load(directory / "node.toml")))


def up(
    directory: Annotated[
        Path, typer.Argument(help="A directory: made anew with the demo's data, or one that stands.")
    ],
) -> None:
    """A whole federation of real processes on this machine, for trying it out; ends with Ctrl-C."""
    from . import up as starting

    starting.up(directory)


def _parties(texts: list[str], organisations: dict[str, str]) -> tuple[str, ...]:
    """The names in NAME or NAME=ORGANISATION; the organisations are added to those given."""
    parts = [text.partition("=") for text in texts]
    organisations |= {name: organisation for name, equals, organisation in parts if equals}
    return tuple(name for name, _, _ in parts)


def _secret(asked: bool) -> str | None:
    return typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True) if asked else None


def _write_new(path: pathlib.Path, made: Callable[[], bytes]) -> None:
    """Never over another, and nothing is made where it cannot be written: who has not installed the roster before this one needs both."""
    with open(path, "xb") as file:
        try:
            file.write(made())
        except BaseException:
            path.unlink()
            raise


def _end() -> None:
    """All is written and closed: threads that still hold a call need not end first."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _table(values: dict[str, str]) -> None:
    for name, value in values.items():
        print(f"{name}: {value}")
