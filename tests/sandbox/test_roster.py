"""Rosters: strict, and nobody stands in them twice."""

from __future__ import annotations

import base64
import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import roster
from sandbox.errors import Malformed, UnknownSigner
from sandbox.keys import SigningKey
from sandbox.roster import Roster

KEYS = {name: SigningKey.generate(insecure_seed=name.encode()).public for name in "abcd"}


def build(*members, federation="city"):
    return Roster(federation, tuple(roster.member(*parts) for parts in members))


@pytest.fixture
def small():
    return build(
        ("health", "node", "卫生健康委", KEYS["a"]),
        ("health", "owner", "卫生健康委", KEYS["b"]),
        ("李雷", "analyst", 'The "Institute" \\ of X', KEYS["c"]),
    )


def test_it_survives_its_file(tmp_path, small):
    path = tmp_path / "roster.toml"
    path.write_text(small.dumps(), encoding="utf-8")
    again = roster.load(path)
    assert again == small
    assert again.fingerprint() == small.fingerprint()
    plain = tomllib.loads(small.dumps())
    assert plain["federation"] == "city"
    assert plain["member"][2]["organisation"] == 'The "Institute" \\ of X'


def test_who_is_looked_up_by_name_and_role(small):
    assert small.public("health", "node") == KEYS["a"]
    assert small.public("health", "owner") == KEYS["b"]
    assert [member.name for member in small.of("analyst")] == ["李雷"]
    for name, role in (("health", "analyst"), ("Health", "node"), ("", "node")):
        with pytest.raises(UnknownSigner):
            small.entry(name, role)


def test_a_key_has_one_holder():
    with pytest.raises(Malformed, match="same key"):
        build(("ann", "owner", "H", KEYS["a"]), ("bob", "owner", "H", KEYS["a"]))
    with pytest.raises(Malformed, match="same key"):
        build(("ann", "owner", "H", KEYS["a"]), ("ann", "node", "H", KEYS["a"]))
    with pytest.raises(Malformed, match="twice"):
        build(("ann", "owner", "H", KEYS["a"]), ("ann", "owner", "H", KEYS["b"]))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a+b",
        "a/b",
        "a\tb",
        "a\nb",
        "a\x00",
        "a\u00a0b",
        "a\u2028",
        "a\u202eb",
        "e\u0301",
        "a" * 129,
        "\ud800",
    ],
)
def test_names_fit_into_notes(name):
    with pytest.raises(Malformed):
        build((name, "node", "H", KEYS["a"]))
    with pytest.raises(Malformed):
        build(federation=name)


@pytest.mark.parametrize("organisation", ["", "  ", "a\nb", "a\x1b[2J"])
def test_organisations_are_printable(organisation):
    with pytest.raises(Malformed, match="organisation"):
        build(("a", "node", organisation, KEYS["a"]))


def test_keys_are_usable_and_canonical(small):
    text = small.dumps()
    key = base64.b64encode(KEYS["a"]).decode()
    small_order = base64.b64encode((1).to_bytes(32, "little")).decode()
    loose = key[:-2] + chr(ord(key[-2]) + 1) + "="  # the same bytes, spelled with bits that base64 ignores
    assert base64.b64decode(loose) == KEYS["a"]
    for bad in ("", "AAAA", key[:-1], key + "\\n", " " + key, "!" + key[1:], small_order, loose):
        with pytest.raises(Malformed):
            roster.loads(text.replace(key, bad))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "federation = 1",
        "federation = 'city'\nextra = 1",
        "federation = 'city'\n[[member]]\nname = 'a'",
        "federation = 'city'\nmember = 3",
        "federation = 'city'\nfederation = 'city'",
        "[[[",
        b"\xff\xfe",
    ],
)
def test_files_are_read_strictly(text):
    with pytest.raises(Malformed):
        roster.loads(text)


@pytest.mark.parametrize(
    "change",
    [('role = "node"', 'role = "admin"'), ("name = ", "nickname = "), ("[[member]]", "[[members]]")],
)
def test_fields_are_known(small, change):
    with pytest.raises(Malformed):
        roster.loads(small.dumps().replace(*change, 1))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(Malformed, match="cannot be read"):
        roster.load(tmp_path / "roster.toml")


@given(
    organisation=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30),
    name=st.text(string.ascii_letters + "统计局-._", min_size=1, max_size=20),
)
def test_every_roster_survives_its_text(organisation, name):
    original = build((name, "witness", organisation, KEYS["d"]))
    assert roster.loads(original.dumps()) == original
