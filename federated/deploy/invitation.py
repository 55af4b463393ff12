"""One more department or analyst: an invitation goes out, keys are made where they stay, a card comes back, and a new roster is signed.

    coordinator   invite  ──  invitation.json   (federation, URL, authority, roster; signed by the coordinator)
    newcomer      join    ──  keys and files of its own, card.json   (public keys; signed by the new key itself)
    coordinator   admit   ──  roster.json       (the new roster, signed; what the others install)
    everybody     install ──  the new roster, if it comes from the coordinator, follows the one that is installed, and takes nobody away

    coordinator   remove  ──  a roster without somebody, which others install with `removals`

The newcomer cannot know whom to trust but by what it is told: it compares the roster's fingerprint, which `join` prints, by telephone.
Protects against: altered invitations, cards and rosters; a roster that quietly drops or exchanges a member. Rests on that comparison.
"""

from __future__ import annotations

import pathlib
import time
from typing import Literal

import msgspec

from mpc.secagg import Setting
from sandbox import keys
from sandbox import roster as rosters
from sandbox.errors import CatalogError, Malformed, ParameterError
from sandbox.keys import Role, Seconds, Signed, SigningKey
from sandbox.query import Name, canonical
from sandbox.roster import Member, Roster, member

from ..broker import NAME
from ..flower.link import public_key_bytes
from . import authority, federation
from .config import CoordinatorConfig, host_and_port

INVITATION, CARD, ROSTER = "invitation", "card", "roster"
DAY = 24 * 3600


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may join, as what, until when; and what a newcomer must know of the federation."""

    name: Name
    role: Literal["node", "analyst"]
    organisation: Name
    expires: Seconds
    url: str
    setting: Setting
    authority: str
    roster: str


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A newcomer's public keys. `owners`: name and key of each of a department's owners; `link`: its link key, for the coordinator."""

    invitation: bytes
    members: tuple[Member, ...]
    link: str = ""


class Successor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The roster that follows the one with digest `previous`."""

    previous: keys.Digest
    roster: str


def invite(
    config: CoordinatorConfig,
    name: str,
    role: Literal["node", "analyst"],
    organisation: str,
    days: float,
    now: float | None = None,
) -> bytes:
    """The text of an invitation, to be sent to the newcomer."""
    roster = rosters.load(config.roster)
    (federation.check_department if role == "node" else federation.check_person)(name)
    if any(entry.name == name for entry in roster.members):
        raise ParameterError(f"{name!r} is in the roster already")
    newcomer = member(name, role, organisation, SigningKey.generate().public)
    _check_alone(Roster(roster.federation, (*roster.members, newcomer)))
    if not 0 < days <= 90:
        raise ParameterError(f"'days' is {days}; allowed are numbers above 0, to 90")
    expires = int((time.time() if now is None else now) + days * DAY)
    invitation = Invitation(
        name,
        role,
        organisation,
        expires,
        config.url,
        config.setting,
        config.authority.read_text(),
        roster.dumps(),
    )
    return canonical(keys.seal(SigningKey.load(config.key), NAME, INVITATION, invitation))


def opened(data: bytes) -> tuple[Invitation, Roster]:
    """An invitation and the roster in it, whose coordinator has signed it; raises where not."""
    signed: Signed = keys.decode(data, Signed)
    roster = rosters.loads(keys.decode(signed.body, Invitation).roster)
    invitation: Invitation = keys.open_(signed, INVITATION, Invitation, roster.public(NAME, "coordinator"))
    check = federation.check_department if invitation.role == "node" else federation.check_person
    check(invitation.name)  # it will stand in files, as will the URL
    host_and_port(invitation.url)
    return invitation, roster


def join(
    data: bytes, directory: pathlib.Path, owners: tuple[str, ...] = (), passphrase: str | None = None
) -> tuple[str, str]:
    """Make keys and files in a new directory, and card.json in it. The fingerprints of the roster and of the new key, to be compared.

    `passphrase` encrypts people's keys; a node's must open by itself.
    """
    invitation, roster = opened(data)
    keys.unexpired("the invitation", invitation.expires, int(time.time()))
    _check_owners(invitation, roster, owners)
    with federation.whole(directory) as work:
        key = SigningKey.generate()
        members = [member(invitation.name, invitation.role, invitation.organisation, key.public)]
        link = ""
        if invitation.role == "node":
            key.save(work / "node.key")
            link = authority.new_link_key(work / "link.key").decode().strip()
            parties = min(3, len(roster.of("node")) + 1)
            federation.write_node(work, invitation.name, invitation.url, invitation.setting, parties)
            for owner in owners:
                own = SigningKey.generate()
                own.save(work / f"{owner}.key", passphrase)
                members.append(member(owner, "owner", invitation.organisation, own.public))
        else:
            key.save(work / "analyst.key", passphrase)
            federation.write_analyst(
                work, roster.federation, invitation.name, invitation.url, invitation.setting
            )
        (work / "ca.crt").write_text(invitation.authority)
        (work / "roster.toml").write_text(roster.dumps())
        card = Card(data, tuple(members), link)
        (work / "card.json").write_bytes(canonical(keys.seal(key, invitation.name, CARD, card)))
    return roster.fingerprint(), keys.fingerprint(key.public)


def admit(config: CoordinatorConfig, data: bytes) -> bytes:
    """Take a card in: the coordinator's roster and link keys are brought up to date. The signed new roster, for everybody to install.

    The same card again, with nobody admitted since, gives the same roster.
    """
    signed: Signed = keys.decode(data, Signed)
    card: Card = keys.decode(signed.body, Card)
    key = SigningKey.load(config.key)
    invitation: Invitation = keys.open_(
        keys.decode(card.invitation, Signed), INVITATION, Invitation, key.public
    )
    keys.unexpired("the invitation", invitation.expires, int(time.time()))
    _check_members(card, invitation)
    keys.open_(signed, CARD, Card, card.members[0].public)
    roster = rosters.load(config.roster)
    if roster.members[-len(card.members) :] == card.members:  # admitted before, and the answer was lost
        roster = Roster(roster.federation, roster.members[: -len(card.members)])
    following = Roster(roster.federation, (*roster.members, *card.members))
    _check_alone(following)
    if invitation.role == "node":
        try:
            public_key_bytes(card.link.encode())
        except ValueError as error:
            raise Malformed(f"the card's link key: {error}") from None
        keys.write_atomically(config.links / f"{invitation.name}.pub", card.link.encode() + b"\n")
    keys.write_atomically(config.roster, following.dumps().encode())
    successor = Successor(roster.digest(), following.dumps())
    return canonical(keys.seal(key, NAME, ROSTER, successor))


def remove(config: CoordinatorConfig, name: str) -> bytes:
    """Take a member out, a department with its owners. The signed new roster, which others install with `removals`."""
    roster, key = rosters.load(config.roster), SigningKey.load(config.key)
    leaving = {entry for entry in roster.members if entry.name == name}
    if not leaving or any(entry.role == "coordinator" for entry in leaving):
        raise ParameterError(f"{name!r} is no member that can leave")
    departments = {entry.organisation for entry in leaving if entry.role == "node"}
    leaving |= {e for e in roster.of("owner") if e.organisation in departments}
    following = Roster(roster.federation, tuple(e for e in roster.members if e not in leaving))
    if len(following.of("node")) < 2:
        raise ParameterError(f"without {name!r} fewer than 2 departments are left")
    keys.write_atomically(config.roster, following.dumps().encode())
    if departments:
        (config.links / f"{name}.pub").unlink(missing_ok=True)
    return canonical(keys.seal(key, NAME, ROSTER, Successor(roster.digest(), following.dumps())))


def _check_owners(invitation: Invitation, roster: Roster, owners: tuple[str, ...]) -> None:
    if invitation.role == "analyst":
        if owners:
            raise ParameterError("'owner': an analyst has none")
        return
    if not owners:
        raise ParameterError("'owner': name at least one owner; two, where data need two approvers")
    taken = {entry.name for entry in roster.members} | {invitation.name, "node", "link"}
    for owner in owners:
        federation.check_person(owner)
        if owner in taken:
            raise ParameterError(f"'owner' {owner!r}: the name is taken")
        taken.add(owner)


def _check_members(card: Card, invitation: Invitation) -> None:
    """That a card brings who was invited, and owners of that organisation alone; raises `Malformed`."""
    if not card.members or (card.members[0].name, card.members[0].role) != (invitation.name, invitation.role):
        raise Malformed("the card is of another than was invited")
    for number, entry in enumerate(card.members):
        expected: Role = "owner" if number else invitation.role
        if entry.role != expected or entry.organisation != invitation.organisation:
            raise Malformed(f"the card names {entry.name!r}, whom the invitation does not allow")
    if invitation.role == "analyst" and (len(card.members) > 1 or card.link):
        raise Malformed("the card names more than an analyst")


def _check_alone(roster: Roster) -> None:
    """That no organisation has two nodes: owners decide for the node of their organisation; raises `ParameterError`."""
    found: set[str] = set()
    for entry in roster.of("node"):
        if entry.organisation in found:
            raise ParameterError(
                f"'organisation' {entry.organisation!r} has a node already; its owners decide there"
            )
        found.add(entry.organisation)


def install(data: bytes, file: pathlib.Path, *, removals: bool = False) -> Roster:
    """Put a signed new roster in the place of the one in `file`; raises, and changes nothing, where it does not follow from that.

    `removals`: whether members may be missing or have other keys.
    """
    current = rosters.load(file)
    signed: Signed = keys.decode(data, Signed)
    successor: Successor = keys.open_(signed, ROSTER, Successor, current.public(NAME, "coordinator"))
    following = rosters.loads(successor.roster)
    if following.digest() == current.digest():
        return current
    if successor.previous != current.digest() and not removals:
        raise CatalogError(
            "the new roster follows another than the one installed: install those between them first"
        )
    if following.federation != current.federation:
        raise CatalogError(f"the new roster is of {following.federation!r}, not {current.federation!r}")
    gone = sorted({m.name for m in set(current.members) - set(following.members)})
    if gone and not removals:
        raise CatalogError(
            f"the new roster drops or changes {', '.join(gone)}: allow that explicitly, if you know why"
        )
    keys.write_atomically(file, following.dumps().encode())
    return following
