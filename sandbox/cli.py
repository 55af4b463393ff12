"""`sandbox …`: keys, an owner's decisions, budgets, the audit log, and receipts. Parses, calls, prints.

Exit status 0 where it is done, 1 where it is not, or does not hold, 2 where the command is not one of these; the reason is one line
on standard error. An error of ours, never an expected one, is a traceback without values of variables: they may be secret.

Modules that take time to load are imported by the commands that need them: `sandbox verify` loads no data frame.
"""

from __future__ import annotations

import base64
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import click
import typer

from .errors import LogError, Malformed, ParameterError, SandboxError

if TYPE_CHECKING:
    from .audit import AuditLog
    from .keys import Role, SigningKey
    from .owner import Owner
    from .witness import Witness

PLAIN: dict = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}
app = typer.Typer(
    **PLAIN, pretty_exceptions_enable=False, help="Joint statistics over data that stay where they are."
)
keys_app = typer.Typer(**PLAIN, help="Make and show identities.")
approvals_app = typer.Typer(**PLAIN, help="Read and decide on usage contracts.")
audit_app = typer.Typer(**PLAIN, help="Heads, proofs and checks of a node's audit log.")
app.add_typer(keys_app, name="keys")
app.add_typer(approvals_app, name="approvals")
app.add_typer(audit_app, name="audit")

Path = pathlib.Path
RosterFile = Annotated[Path, typer.Option("--roster", "--keys", help="The federation's roster.")]
StateDir = Annotated[Path, typer.Option("--state", help="The node's state directory.")]
CatalogFile = Annotated[Path, typer.Option("--catalog", help="The department's catalogue.")]
KeyFile = Annotated[Path, typer.Option("--key", help="The signer's key file.")]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="Ask for the key file's passphrase.")]
ROSTER, STATE, CATALOG = Path("roster.toml"), Path("state"), Path("catalog.toml")
FEDERATED = frozenset({"coordinator", "federation", "invite", "join", "node", "roster", "up"})
SEEN, PAGE = Path("witness.json"), Path("report.html")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command, from `sys.argv` unless given; ends the process with its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in FEDERATED or words[0].startswith("-"):
        from federated.commands import add

        add(app)
    try:
        status = app(arguments, prog_name="sandbox", standalone_mode=False)
    except SandboxError as error:
        _fail(f"{type(error).__name__}: {error}")
    except click.exceptions.NoArgsIsHelpError as error:
        _fail(error.format_message(), 2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "sandbox"
        _fail(f"{error.format_message()} (see '{command} --help')", 2)
    except click.Abort:
        _fail("aborted")
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror}")
    sys.exit(status or 0)


def _fail(text: str, status: int = 1) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(status)


# --- keys ---


@keys_app.command("new")
def keys_new(
    file: Path,
    name: Annotated[str, typer.Option(help="The holder's name in the roster.")],
    role: Annotated[str, typer.Option(help="owner, analyst, node, coordinator or witness.")],
    organisation: Annotated[str, typer.Option(help="The holder's organisation.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the file with a passphrase.")
    ] = False,
) -> None:
    """Make a key, write it to FILE (mode 0600, never over another), and print its entry for the roster."""
    from . import keys, roster

    if role not in (roles := ("owner", "analyst", "node", "coordinator", "witness")):
        raise ParameterError(f"'--role' is {role!r}; allowed are: {', '.join(roles)}")
    secret = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True) if passphrase else None
    key = keys.SigningKey.generate()
    chosen: Role = role  # type: ignore[assignment]
    entry = roster.Roster("federation", (roster.member(name, chosen, organisation, key.public),))
    key.save(file, secret)
    print(entry.dumps().partition("\n\n")[2], end="")


@keys_app.command("show")
def keys_show(file: Path, passphrase: Passphrase = False) -> None:
    """Print the public key in FILE and its fingerprint."""
    from . import keys

    key = _key(file, passphrase)
    print(f"key = {base64.b64encode(key.public).decode()}\nfingerprint = {keys.fingerprint(key.public)}")


# --- an owner's decisions ---


@approvals_app.command("list")
def approvals_list(
    state: StateDir = STATE, catalog: CatalogFile = CATALOG, roster: RosterFile = ROSTER
) -> None:
    """Every usage contract, and how it stands."""
    for status in _owner(state, catalog, roster).statuses():
        contract = status.contract
        given = f"{len(status.approved_by)} of {status.needed} approvals"
        what = f"{contract.analyst} asks {contract.query.title!r} for purpose {contract.purpose!r}"
        print(f"{status.digest[:12]}  {status.state:<8}  {given}  {what}")


@approvals_app.command("show")
def approvals_show(
    digest: str, state: StateDir = STATE, catalog: CatalogFile = CATALOG, roster: RosterFile = ROSTER
) -> None:
    """What a contract asks for, in full: read it before you decide."""
    status = _owner(state, catalog, roster).contract(digest)
    approved, rejected = (", ".join(names) or "nobody" for names in (status.approved_by, status.rejected_by))
    print(status.contract.text())
    print(f"{'state':<13}{status.state}, after {status.runs} of {status.contract.runs} runs")
    print(f"{'decisions':<13}approved by {approved}, of {status.needed} needed; rejected by {rejected}")


@approvals_app.command("approve")
def approvals_approve(
    digest: str,
    name: Annotated[str, typer.Option("--as", help="Your name in the roster.")],
    key: KeyFile,
    reason: str = "",
    passphrase: Passphrase = False,
    state: StateDir = STATE,
    catalog: CatalogFile = CATALOG,
    roster: RosterFile = ROSTER,
) -> None:
    """Sign a yes."""
    status = _owner(state, catalog, roster, name, _key(key, passphrase)).approve(digest, reason)
    print(f"{status.digest[:12]} is {status.state}: {len(status.approved_by)} of {status.needed} approvals")


@approvals_app.command("reject")
def approvals_reject(
    digest: str,
    name: Annotated[str, typer.Option("--as", help="Your name in the roster.")],
    key: KeyFile,
    reason: Annotated[str, typer.Option(help="The analyst reads it.")],
    passphrase: Passphrase = False,
    state: StateDir = STATE,
    catalog: CatalogFile = CATALOG,
    roster: RosterFile = ROSTER,
) -> None:
    """Sign a no, with its reason."""
    status = _owner(state, catalog, roster, name, _key(key, passphrase)).reject(digest, reason)
    print(f"{status.digest[:12]} is {status.state}")


# --- budget and report ---


@app.command()
def budget(state: StateDir = STATE, catalog: CatalogFile = CATALOG, roster: RosterFile = ROSTER) -> None:
    """What is spent and left of each data set's budget and each model's quotas, by whom, and for what."""
    owner = _owner(state, catalog, roster)
    tables = [owner.budget(), owner.statement(), owner.quotas()]
    shown = [
        t.to_string(index=False, na_rep="-", float_format="{:.4g}".format) for t in tables if not t.empty
    ]
    print("\n\n".join(shown))


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = PAGE,
    state: StateDir = STATE,
    catalog: CatalogFile = CATALOG,
    roster: RosterFile = ROSTER,
) -> None:
    """One page for an auditor: budgets over time, releases, refusals, contracts."""
    print(_owner(state, catalog, roster).report(out))


# --- the audit log ---


@audit_app.command("log")
def audit_log(
    last: Annotated[int, typer.Option(help="So many of the latest entries.")] = 50,
    state: StateDir = STATE,
    roster: RosterFile = ROSTER,
) -> None:
    """The latest entries, in words."""
    from .owner import lines

    with _audit(state, roster) as log:
        for index, time, what, detail in lines(log, last):
            print(f"{index:>6}  {time}  {what:<9}  {detail}")


@audit_app.command("head")
def audit_head(state: StateDir = STATE, roster: RosterFile = ROSTER) -> None:
    """The last signed head, as a C2SP checkpoint: what a witness co-signs."""
    with _audit(state, roster) as log:
        print(log.last(), end="")


@audit_app.command("verify")
def audit_verify(state: StateDir = STATE, roster: RosterFile = ROSTER) -> None:
    """Read and hash the whole log anew, and compare with its signed head."""
    with _audit(state, roster) as log:
        size = log.verify().size
        print(f"{log.origin}: {size} entries lead to the signed head; {len(log) - size} came after it")


@audit_app.command("prove")
def audit_prove(
    index: Annotated[int | None, typer.Option(help="Prove that the head holds this entry.")] = None,
    since: Annotated[
        int | None,
        typer.Option(help="Prove that the head continues one of so many entries."),
    ] = None,
    until: Annotated[
        int | None, typer.Option(help="With --since: of a head of so many entries, not the last.")
    ] = None,
    state: StateDir = STATE,
    roster: RosterFile = ROSTER,
) -> None:
    """A proof for the last signed head.

    With --index a C2SP tlog-proof: the entry (base64), its place, the hashes, the head. With --since a consistency proof, one base64 hash a
    line, as `sandbox audit witness --proof` and `sandbox cosign --proof` read it.
    """
    from .query import canonical

    if (index is None) == (since is None):
        raise ParameterError("give either '--index' or '--since'")
    with _audit(state, roster) as log:
        if index is not None:
            hashes = log.prove(index, log.signed.size)
            (entry,) = log.entries(index, index + 1)
            print(f"c2sp.org/tlog-proof@v1\nextra {_base64(canonical(entry))}\nindex {index}")
            print(*map(_base64, hashes), "", log.last(), sep="\n", end="")
        else:
            for node in log.consistency(since or 0, log.signed.size if until is None else until):
                print(_base64(node))


@audit_app.command("witness")
def audit_witness(
    head: Annotated[Path, typer.Argument(help="A file with the head to co-sign.")],
    name: Annotated[str, typer.Option("--as", help="The witness's name in the roster.")],
    key: KeyFile,
    seen: Annotated[Path, typer.Option(help="What this witness saw last; made where there is none.")] = SEEN,
    proof: Annotated[
        Path | None,
        typer.Option(help="A file with the consistency proof from the head seen last."),
    ] = None,
    passphrase: Passphrase = False,
    roster: RosterFile = ROSTER,
) -> None:
    """Co-sign a head, once it is proven that it continues the one that was seen before."""
    import time

    hashes = _proof(proof) if proof else []
    print(
        _witness(roster, name, key, passphrase, seen).cosign(_text(head), hashes, int(time.time())),
        end="",
    )


@audit_app.command("keep")
def audit_keep(
    head: Annotated[Path, typer.Argument(help="A file with the head that a witness co-signed.")],
    state: StateDir = STATE,
    roster: RosterFile = ROSTER,
) -> None:
    """Keep a co-signed head of this log, to complete receipts with."""
    from . import cosigned
    from .checkpoint import origin
    from .roster import load

    who = load(roster)
    witnesses = {origin(who.federation, member.name): member.public for member in who.of("witness")}
    with _audit(state, roster) as log:
        found = cosigned.keep(log, _text(head), witnesses)
        print(f"{log.origin}: kept, co-signed by {', '.join(found)}")


@audit_app.command("complete")
def audit_complete(
    receipt: Path,
    out: Annotated[Path | None, typer.Option(help="Where to write it; over the receipt by default.")] = None,
    state: StateDir = STATE,
    roster: RosterFile = ROSTER,
) -> None:
    """Add to a receipt the co-signed heads of this log that cover it."""
    from . import cosigned

    with _audit(state, roster) as log:
        (out or receipt).write_bytes(cosigned.complete(receipt.read_bytes(), log))


# --- receipts ---


@app.command()
def verify(
    receipt: Path,
    roster: Annotated[Path, typer.Option("--keys", "--roster", help="The federation's roster.")] = ROSTER,
    request: Annotated[str | None, typer.Option(help="The request's digest that it must be about.")] = None,
    release: Annotated[str | None, typer.Option(help="The release's digest that it must be about.")] = None,
    witnesses: Annotated[int, typer.Option(help="How many witnesses must have co-signed each head.")] = 0,
) -> None:
    """Check a receipt offline. Exit status 1 where it does not hold."""
    from . import receipt as receipts
    from .roster import load

    data = receipt.read_bytes()
    found = receipts.verify(data, load(roster), request=request, release=release, witnesses=witnesses)
    print(found)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def cosign(
    receipt: Path,
    name: Annotated[str, typer.Option("--as", help="The witness's name in the roster.")],
    key: KeyFile,
    seen: Annotated[Path, typer.Option(help="What this witness saw last; made where there is none.")] = SEEN,
    proof: Annotated[
        list[str] | None,
        typer.Option(help="DEPARTMENT=FILE: the consistency proof from the head of it seen last; repeat."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it; over the receipt by default.")] = None,
    passphrase: Passphrase = False,
    roster: RosterFile = ROSTER,
) -> None:
    """Co-sign, as a witness, each department's head in a receipt."""
    import time

    given = {}
    for text in proof or ():
        department, equals, file = text.partition("=")
        if not equals:
            raise ParameterError(f"'--proof' is {text!r}; allowed is DEPARTMENT=FILE")
        given[department] = _proof(Path(file))
    witness = _witness(roster, name, key, passphrase, seen)
    (out or receipt).write_bytes(witness.cosign_receipt(receipt.read_bytes(), given, int(time.time())))


def _witness(roster: Path, name: str, key: Path, passphrase: bool, seen: Path) -> Witness:
    from .checkpoint import origin
    from .roster import load
    from .witness import Witness

    who, signer = load(roster), _key(key, passphrase)
    if who.public(name, "witness") != signer.public:
        raise ParameterError(f"the key in {str(key)!r} is not that of witness {name!r} in the roster")
    logs = {origin(who.federation, member.name): member.public for member in who.of("node")}
    return Witness(seen, signer, origin(who.federation, name), logs)


def _proof(file: Path) -> list[bytes]:
    return [_hash(line) for line in _text(file).split()]


def _key(file: Path, passphrase: bool) -> SigningKey:
    from .keys import SigningKey

    return SigningKey.load(file, typer.prompt("Passphrase", hide_input=True) if passphrase else None)


def _owner(state: Path, catalog: Path, roster: Path, name: str = "", key: SigningKey | None = None) -> Owner:
    from .catalog import load as load_catalog
    from .owner import Owner
    from .roster import load

    return Owner(state, load_catalog(catalog), load(roster), name, key)


def _audit(state: Path, roster: Path) -> AuditLog:
    """The log of the department that its head names, whose signature the roster's key must verify."""
    from .audit import AuditLog
    from .checkpoint import origin, parse
    from .roster import load

    if not (state / "audit" / "head").is_file():
        raise LogError(f"{str(state)!r} is no node's state: it holds no audit log")
    who = load(roster)
    department = parse(_text(state / "audit" / "head")).checkpoint.origin.rpartition("/")[2]
    public = who.public(department, "node")
    return AuditLog(state / "audit", origin(who.federation, department), public=public)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"{str(file)!r} is no text in UTF-8") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _hash(line: str) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except ValueError:
        raise Malformed("a proof is one base64 hash a line") from None


if __name__ == "__main__":
    main()
