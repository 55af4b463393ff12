"""Who is who: names, roles, organisations and public keys of one federation, in one TOML file that every party pins.

    federation = "city"

    [[member]]
    name = "health"
    role = "node"
    organisation = "Health Commission"
    key = "base64 of 32 bytes"

A name may hold several roles, each with a key of its own. No key stands twice: two approvers must be two people.
Protects against: a signer who passes for another. Does not protect against: an altered roster, so compare `fingerprint()` out of band.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import unicodedata

import msgspec

from . import keys
from .errors import Malformed, UnknownSigner

MAX_MEMBERS = 10_000


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One identity: a person, a department's node, the coordinator or a witness."""

    name: str
    role: keys.Role
    organisation: str
    key: str

    @property
    def public(self) -> bytes:
        return base64.b64decode(self.key, validate=True)


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"members": "member"}):
    """All identities of a federation; raises `Malformed` where they contradict each other."""

    federation: str
    members: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        check_name("federation", self.federation)
        if len(self.members) > MAX_MEMBERS:
            raise Malformed(f"a roster has at most {MAX_MEMBERS} members, not {len(self.members)}")
        entries: set[tuple[str, str]] = set()
        holders: dict[bytes, str] = {}
        for member in self.members:
            check_name("name", member.name)
            if not member.organisation.isprintable() or not member.organisation.strip():
                raise Malformed(f"{member.name!r} needs an organisation, in printable characters")
            if (member.name, member.role) in entries:
                raise Malformed(f"{member.name!r} stands twice as {member.role}")
            entries.add((member.name, member.role))
            public = _public(member)
            if public in holders:
                raise Malformed(f"{holders[public]!r} and {member.name!r} have the same key")
            holders[public] = member.name

    def entry(self, name: str, role: keys.Role) -> Member:
        """The member of that name and role; raises `UnknownSigner`."""
        for member in self.members:
            if member.name == name and member.role == role:
                return member
        raise UnknownSigner(f"the roster of {self.federation!r} has no {role} {name!r}")

    def public(self, name: str, role: keys.Role) -> bytes:
        """The public key of that name and role, 32 bytes; raises `UnknownSigner`."""
        return self.entry(name, role).public

    def of(self, role: keys.Role) -> tuple[Member, ...]:
        """All members of a role, in the roster's order."""
        return tuple(member for member in self.members if member.role == role)

    def fingerprint(self) -> str:
        """A short text for people to compare."""
        return keys.fingerprint(self.dumps().encode())

    def digest(self) -> str:
        """SHA-256 of the TOML form, hexadecimal."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()

    def dumps(self) -> str:
        """The TOML form."""
        lines = [f"federation = {_quoted(self.federation)}"]
        for member in self.members:
            lines += ["", "[[member]]"]
            lines += [f"{field} = {_quoted(getattr(member, field))}" for field in member.__struct_fields__]
        return "\n".join(lines) + "\n"


def member(name: str, role: keys.Role, organisation: str, public: bytes) -> Member:
    """A roster entry for a public key."""
    return Member(name, role, organisation, base64.b64encode(public).decode())


def loads(text: str | bytes) -> Roster:
    """Read the TOML form strictly; raises `Malformed`."""
    try:
        return msgspec.toml.decode(text, type=Roster, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(f"malformed roster: {error}") from None


def load(path: str | os.PathLike[str]) -> Roster:
    """Read `roster.toml`; raises `Malformed`."""
    try:
        return loads(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise Malformed(f"roster {str(path)!r} cannot be read: {error.strerror}") from None


def check_name(what: str, name: str) -> None:
    """Names stand in signed notes: no white space, no '+', no control characters, one Unicode form (NFC)."""
    if not 0 < len(name) <= 128 or not name.isprintable() or any(c.isspace() or c in "+/" for c in name):
        raise Malformed(
            f"{what} {name!r}: allowed are 1 … 128 printable characters without space, '+' and '/'"
        )
    if unicodedata.normalize("NFC", name) != name:
        raise Malformed(f"{what} {name!r} is not in Unicode form NFC")


def _public(member: Member) -> bytes:
    try:
        public = member.public
    except ValueError:
        raise Malformed(f"the key of {member.name!r} is not base64") from None
    if base64.b64encode(public).decode() != member.key:
        raise Malformed(f"the key of {member.name!r} is not canonical base64")
    try:
        keys.public_key(public)
    except Malformed as error:
        raise Malformed(f"{member.name!r}: {error}") from None
    return public


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)
