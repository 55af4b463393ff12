"""One more department or analyst: invitation, card, roster; and what is refused on the way."""

from __future__ import annotations

import stat
import time

import deployed
import msgspec
import pytest
from deployed import LATER, config

from federated.broker import NAME
from federated.deploy import invitation
from federated.deploy.invitation import Card, Invitation, Successor
from sandbox import SandboxError, keys, roster
from sandbox.errors import (
    CatalogError,
    Expired,
    Malformed,
    ParameterError,
    SignatureInvalid,
)
from sandbox.keys import Signed, SigningKey
from sandbox.query import canonical
from sandbox.roster import Roster, member


@pytest.fixture
def made(tmp_path):
    return deployed.make(tmp_path / "city")


@pytest.fixture
def invited(made):
    """An invitation of a department, and the card of who accepted it."""
    text = invitation.invite(config(made), LATER, "node", "Transport Authority", 14)
    invitation.join(text, made / "nodes" / LATER, (f"{LATER}-owner-1", f"{LATER}-owner-2"))
    return text, (made / "nodes" / LATER / "card.json").read_bytes()


def test_an_invited_department_is_admitted_and_everybody_installs_the_roster(made, invited):
    before = roster.load(made / "roster.toml")
    successor = invitation.admit(config(made), invited[1])
    for place in ("nodes/ash", "analysts/li", f"nodes/{LATER}", "coordinator"):
        following = invitation.install(successor, made / place / "roster.toml")
        assert following.members[: len(before.members)] == before.members
        new = following.members[len(before.members) :]
        assert [(entry.name, entry.role) for entry in new] == [
            (LATER, "node"),
            (f"{LATER}-owner-1", "owner"),
            (f"{LATER}-owner-2", "owner"),
        ]
        assert {entry.organisation for entry in new} == {"Transport Authority"}
    again = invitation.install(successor, made / "nodes" / "ash" / "roster.toml")
    assert again == following, "a second time changes nothing"
    key = SigningKey.load(made / "nodes" / LATER / "node.key")
    assert key.public == following.public(LATER, "node")
    assert stat.S_IMODE((made / "nodes" / LATER).stat().st_mode) == 0o700
    for name in ("node.key", "link.key", f"{LATER}-owner-1.key"):
        assert stat.S_IMODE((made / "nodes" / LATER / name).stat().st_mode) == 0o600


def test_an_invited_analyst_is_admitted(made):
    text = invitation.invite(config(made), "wu", "analyst", "city statistics", 1)
    shown, _ = invitation.join(text, made / "analysts" / "wu", passphrase="correct horse")
    assert shown == roster.load(made / "roster.toml").fingerprint()
    successor = invitation.admit(config(made), (made / "analysts" / "wu" / "card.json").read_bytes())
    following = invitation.install(successor, made / "analysts" / "wu" / "roster.toml")
    key = SigningKey.load(made / "analysts" / "wu" / "analyst.key", "correct horse")
    assert following.public("wu", "analyst") == key.public
    assert not (config(made).links / "wu.pub").exists()


def test_an_answer_that_was_lost_is_given_again(made, invited):
    first = invitation.admit(config(made), invited[1])
    assert invitation.admit(config(made), invited[1]) == first


def resealed(data: bytes, key: SigningKey, domain: str, kind: type, **changes: object) -> bytes:
    """The same statement with other values, signed anew."""
    signed = keys.decode(data, Signed)
    value = msgspec.structs.replace(keys.decode(signed.body, kind), **changes)
    return canonical(keys.seal(key, signed.signer, domain, value))


def altered(data: bytes, old: bytes, new: bytes) -> bytes:
    """The same statement with other bytes, under the signature that it has."""
    signed = keys.decode(data, Signed)
    assert old in signed.body
    return canonical(msgspec.structs.replace(signed, body=signed.body.replace(old, new)))


def test_an_altered_invitation_is_refused(made, invited, tmp_path):
    text, _ = invited
    for data in (
        altered(text, b"Transport Authority", b"Transport AuthoritY"),
        altered(text, b"8443", b"8444"),
        resealed(text, SigningKey.generate(), "invitation", Invitation, url="https://elsewhere"),
        resealed(text, SigningKey.load(config(made).key), "request", Invitation),
    ):
        with pytest.raises(SignatureInvalid):
            invitation.join(data, tmp_path / "new", ("o",))
    for data in (b"", b"{}", text[:-1], text + b" ", b"\xff" * 40, b"[" * 5000):
        with pytest.raises(SandboxError):
            invitation.join(data, tmp_path / "new", ("o",))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"url": 'https://x"\nkey = "/etc/passwd'},
        {"url": "https://x/\n"},
        {"name": 'date"\nparties = 2\n#'},
        {"name": "../../date"},
    ],
)
def test_a_coordinator_writes_nothing_but_names_into_a_newcomers_files(made, invited, tmp_path, changes):
    text = resealed(invited[0], SigningKey.load(config(made).key), "invitation", Invitation, **changes)
    with pytest.raises(ParameterError):
        invitation.join(text, tmp_path / "new", ("o",))
    assert not (tmp_path / "new").exists()


def test_an_expired_invitation_lets_nobody_in(made, invited, tmp_path):
    old = invitation.invite(config(made), "elm", "node", "Elm", 1, now=time.time() - 2 * 24 * 3600)
    with pytest.raises(Expired, match="the invitation expired"):
        invitation.join(old, tmp_path / "new", ("o",))
    own = SigningKey.load(made / "nodes" / LATER / "node.key")
    stale = resealed(invited[0], SigningKey.load(config(made).key), "invitation", Invitation, expires=10)
    with pytest.raises(Expired):
        invitation.admit(config(made), resealed(invited[1], own, "card", Card, invitation=stale))


def test_an_invitation_is_used_once(made, invited, tmp_path):
    invitation.join(invited[0], tmp_path / "second", ("somebody",))
    invitation.admit(config(made), invited[1])
    before = config(made).roster.read_bytes()
    with pytest.raises(Malformed, match=f"'{LATER}' stands twice as node"):
        invitation.admit(config(made), (tmp_path / "second" / "card.json").read_bytes())
    assert config(made).roster.read_bytes() == before
    with pytest.raises(ParameterError, match="is in the roster already"):
        invitation.invite(config(made), LATER, "node", "Transport Authority", 14)


def test_cards_that_are_not_what_was_invited(made, invited):
    """By another key, of others, with owners of another department, with another's rights: nothing changes."""
    own = SigningKey.load(made / "nodes" / LATER / "node.key")
    card = keys.decode(keys.decode(invited[1], Signed).body, Card)
    thief, (node, first, second) = SigningKey.generate(), card.members
    analyst = invitation.invite(config(made), "wu", "analyst", "ash", 14)
    wu = member("wu", "analyst", "ash", own.public)
    wrong = {
        "another key": resealed(invited[1], thief, "card", Card),
        "altered": altered(invited[1], card.link[-20:].encode(), card.link[-40:-20].encode()),
        "nobody": resealed(invited[1], own, "card", Card, members=()),
        "another name": resealed(
            invited[1], own, "card", Card, members=(member("elm", "node", "Transport Authority", own.public),)
        ),
        "another role": resealed(
            invited[1], own, "card", Card, members=(member(LATER, "coordinator", node.organisation, own.public),)
        ),
        "an owner of another department": resealed(
            invited[1], own, "card", Card, members=(node, msgspec.structs.replace(first, organisation="ash"))
        ),
        "a node of another organisation": resealed(
            invited[1], own, "card", Card, members=(msgspec.structs.replace(node, organisation="ash"), first)
        ),
        "a second node": resealed(
            invited[1], own, "card", Card, members=(node, msgspec.structs.replace(first, role="node"), second)
        ),
        "no link key": resealed(invited[1], own, "card", Card, link=""),
        "a link key of another kind": resealed(invited[1], own, "card", Card, link="ssh-ed25519 AAAA"),
        "an analyst with owners": resealed(
            invited[1], own, "card", Card, invitation=analyst,
            members=(wu, member("wu-owner", "owner", "ash", thief.public)),
        ),
        "an analyst with a link": resealed(
            invited[1], own, "card", Card, invitation=analyst, members=(wu,), link=card.link
        ),
        "an invitation by the newcomer": resealed(
            invited[1], own, "card", Card,
            invitation=resealed(invited[0], own, "invitation", Invitation, organisation="ash"),
        ),
        "an existing member's key": resealed(
            invited[1], own, "card", Card,
            members=(node, member("x", "owner", node.organisation, roster.load(made / "roster.toml").public("ash", "node"))),
        ),
    }  # fmt: skip
    before = {path: path.read_bytes() for path in (made / "coordinator").rglob("*") if path.is_file()}
    for what, data in wrong.items():
        with pytest.raises(SandboxError):
            pytest.fail(f"admitted: {what}: {invitation.admit(config(made), data)!r}")
    assert {p: p.read_bytes() for p in (made / "coordinator").rglob("*") if p.is_file()} == before


def test_whom_one_may_invite(made):
    for changes, told in (
        ({"name": "ash"}, "in the roster already"),
        ({"name": "9th"}, "department '9th'"),
        ({"organisation": "ash"}, "'organisation' 'ash' has a node already"),
        ({"organisation": " "}, "needs an organisation"),
        ({"days": 0}, "'days' is 0; allowed are numbers above 0, to 90"),
        ({"days": 91}, "'days' is 91"),
        ({"days": float("nan")}, "'days' is nan"),
        ({"name": "../wu", "role": "analyst"}, "name '../wu'"),
    ):
        given = {"name": "elm", "role": "node", "organisation": "Elm", "days": 14} | changes
        with pytest.raises((ParameterError, Malformed)) as refused:
            invitation.invite(config(made), **given)
        assert told in str(refused.value)


def test_owners_of_a_newcomer(made, invited, tmp_path):
    for owners, told in (
        ((), "name at least one owner"),
        (("a", "a"), "'a': the name is taken"),
        (("../a",), "name '../a'"),
        (("node",), "'node': the name is taken"),
        (("ash-owner-1",), "'ash-owner-1': the name is taken"),
    ):
        with pytest.raises(ParameterError) as refused:
            invitation.join(invited[0], tmp_path / "new", owners)
        assert told in str(refused.value)
        assert not (tmp_path / "new").exists()
    with pytest.raises(CatalogError, match="exists; a new directory is needed"):
        invitation.join(invited[0], made / "nodes" / LATER, ("a",))


# --- rosters that follow each other ---


def successor(
    made, following: Roster, previous: Roster | None = None, key: SigningKey | None = None
) -> bytes:
    current = roster.load(made / "roster.toml")
    value = Successor((previous or current).digest(), following.dumps())
    return canonical(keys.seal(key or SigningKey.load(config(made).key), NAME, "roster", value))


def test_a_roster_that_takes_somebody_away_is_refused_unless_that_is_wanted(made):
    file = made / "nodes" / "ash" / "roster.toml"
    current = roster.load(file)
    gone = Roster("city", tuple(m for m in current.members if m.name != "birch-owner-2"))
    changed = Roster(
        "city",
        tuple(
            member(m.name, m.role, m.organisation, SigningKey.generate().public) if m.name == "li" else m
            for m in current.members
        ),
    )
    for following, name in ((gone, "birch-owner-2"), (changed, "li")):
        with pytest.raises(CatalogError, match=f"drops or changes {name}: allow that explicitly"):
            invitation.install(successor(made, following), file)
        assert roster.load(file) == current
    assert invitation.install(successor(made, gone), file, removals=True) == gone


def test_who_leaves_is_known_to_nobody_any_more(made):
    for name in ("li", "birch"):
        data = invitation.remove(config(made), name)
        for place in ("nodes/ash", "nodes/cedar"):
            with pytest.raises(CatalogError, match="allow that explicitly"):
                invitation.install(data, made / place / "roster.toml")
            invitation.install(data, made / place / "roster.toml", removals=True)
    left = roster.load(made / "nodes" / "ash" / "roster.toml")
    assert left == roster.load(config(made).roster)
    assert {entry.organisation for entry in left.of("owner")} == {"ash", "cedar"}
    assert left.of("analyst") == ()
    assert sorted(path.name for path in config(made).links.iterdir()) == ["ash.pub", "cedar.pub"]
    for name, told in (
        ("li", "'li' is no member that can leave"),
        (NAME, "is no member that can leave"),
        ("ash", "without 'ash' fewer than 2 departments are left"),
    ):
        with pytest.raises(ParameterError, match=told):
            invitation.remove(config(made), name)
    assert roster.load(config(made).roster) == left


def test_rosters_by_others_out_of_order_or_of_another_federation_are_refused(made):
    file = made / "nodes" / "ash" / "roster.toml"
    current = roster.load(file)
    one = Roster("city", (*current.members, member("a", "analyst", "x", SigningKey.generate().public)))
    two = Roster("city", (*one.members, member("b", "analyst", "x", SigningKey.generate().public)))
    with pytest.raises(CatalogError, match="install those between them first"):
        invitation.install(successor(made, two, previous=one), file)
    with pytest.raises(SignatureInvalid):
        invitation.install(successor(made, one, key=SigningKey.generate()), file)
    with pytest.raises(CatalogError, match="is of 'town', not 'city'"):
        invitation.install(successor(made, Roster("town", one.members)), file)
    with pytest.raises(Malformed):
        invitation.install(b"{}", file)
    assert roster.load(file) == current
    invitation.install(successor(made, one), file)
    invitation.install(successor(made, two, previous=one), file)
    with pytest.raises(CatalogError, match="install those between them first"):
        invitation.install(successor(made, one), file)
    assert roster.load(file) == two
