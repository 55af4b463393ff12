"""Who calls: each call of an analyst carries an HTTP message signature (RFC 9421, algorithm ed25519) under the analyst's roster key.

    sandbox-coordinator: :base64 of the coordinator's public key:
    content-digest: sha-256=:base64:                                     RFC 9530, of empty bodies too
    signature-input: sandbox=("@method" "@path" "@query" "content-digest" "sandbox-coordinator");
                     created=…;expires=…;nonce="…";keyid="analyst";alg="ed25519";tag="joint-sandbox"
    signature: sandbox=:base64:

Covered are method, path, query and body, which a reverse proxy passes on, and not scheme and host name, which it may change; instead the
coordinator is named by its key, so that a call to one coordinator proves nothing to another. `keyid` is the analyst's name, percent-encoded.

Protects against: calls forged, altered, sent again or sent elsewhere by whoever stands between (a proxy that ends TLS, a thief of logs).
A call holds from `SKEW` seconds before it was created until it expires, at most `LIFETIME` later. Its nonce is accepted once; nonces are
forgotten at a restart, so a call may then be repeated within that time: every call of the API does the same when repeated.
Does not protect against: reading along where TLS ends; a stolen key.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from sandbox.errors import Expired, Malformed, Refused, SandboxError, SignatureInvalid
from sandbox.keys import SIGNATURE_BYTES, SigningKey, verify_text
from sandbox.roster import Roster

NAME = "coordinator"  # as `federated.broker.NAME`, which would load Flower on the analyst's machine
TAG = "joint-sandbox"
LABEL = "sandbox"
DIGEST = "content-digest"
COORDINATOR = "sandbox-coordinator"
INPUT = "signature-input"
SIGNATURE = "signature"
COVERED = ("@method", "@path", "@query", DIGEST, COORDINATOR)
FIELDS = (DIGEST, COORDINATOR, INPUT, SIGNATURE)
LIFETIME = 60  # seconds from creation to expiry
SKEW = 60  # seconds that a caller's clock may be ahead
NONCES = 20_000  # calls that one analyst may make within the window
MAX_FIELD = 1024

_NAME = re.compile(r"[A-Za-z0-9._~%-]{1,400}\Z")
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):\Z")
_INPUT = re.compile(
    r'(?P<label>[a-z*][a-z0-9_.*-]{0,63})=(?P<parameters>\((?P<covered>"[a-z@-]+"(?: "[a-z@-]+")*)\)'
    r'(?P<rest>(?:;[a-z]+=(?:[0-9]{1,12}|"[\x20\x21\x23-\x5b\x5d-\x7e]*"))*))\Z'
)
_PARAMETER = re.compile(r';([a-z]+)=(?:([0-9]+)|"([^"]*)")')
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


class Call(msgspec.Struct, frozen=True):
    """What of a call is signed. `path` and `query` as on the wire, percent-encoded, the query without "?"."""

    method: str
    path: str
    query: str
    fields: Mapping[str, str]

    def values(self) -> dict[str, str]:
        """The covered components (RFC 9421, section 2)."""
        values = {"@method": self.method, "@path": self.path or "/", "@query": f"?{self.query}"}
        return values | {name: self.fields[name] for name in (DIGEST, COORDINATOR)}


def base(covered: Sequence[str], parameters: str, values: Mapping[str, str]) -> bytes:
    """The signature base (RFC 9421, section 2.5): a line for each covered component, then the parameters as they stand."""
    lines = [f'"{name}": {values[name]}' for name in covered]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode()


def content_digest(body: bytes) -> str:
    """The value of Content-Digest (RFC 9530)."""
    return f"sha-256={_bytes(hashlib.sha256(body).digest())}"


def coordinator(roster: Roster) -> str:
    """What names a roster's coordinator in a call."""
    return _bytes(roster.public(NAME, "coordinator"))


def sign(
    key: SigningKey, analyst: str, to: str, method: str, path: str, query: str, body: bytes, now: int
) -> dict[str, str]:
    """The fields that a call needs. `to`: the `coordinator` of the roster; `now`: UTC seconds."""
    fields = {DIGEST: content_digest(body), COORDINATOR: to}
    covered = " ".join(f'"{name}"' for name in COVERED)
    parameters = (
        f'({covered});created={now};expires={now + LIFETIME};nonce="{secrets.token_hex(16)}"'
        f';keyid="{urllib.parse.quote(analyst, safe="")}";alg="ed25519";tag="{TAG}"'
    )
    text = base(COVERED, parameters, Call(method, path, query, fields).values())
    return fields | {INPUT: f"{LABEL}={parameters}", SIGNATURE: f"{LABEL}={_bytes(key.sign_text(text))}"}


class Verifier:
    """The coordinator's side. Safe to use from several threads."""

    def __init__(self, roster: Callable[[], Roster], clock: Callable[[], float] = time.time):
        self._roster, self._clock = roster, clock
        self._lock = threading.Lock()
        self._nonces: dict[str, OrderedDict[str, int]] = {}

    def analyst(self, call: Call) -> str:
        """Who signed; raises `Malformed`, `SignatureInvalid`, `Expired`, or `Refused` for too many calls. The body is not looked at."""
        roster = self._roster()
        missing = [name for name in FIELDS if name not in call.fields]
        if missing:
            raise SignatureInvalid(f"the call is not signed: it has no {', '.join(missing)}")
        covered, parameters, given = _parse(call.fields[INPUT])
        signature = _labelled(
            call.fields[SIGNATURE], parameters.partition("=")[0], "signature", SIGNATURE_BYTES
        )
        text = parameters.partition("=")[2]
        if call.fields[COORDINATOR] != coordinator(roster):
            raise SignatureInvalid(f"the call is to another coordinator than that of {roster.federation!r}")
        name = urllib.parse.unquote(str(given["keyid"]), errors="replace")
        try:
            verify_text(roster.public(name, "analyst"), base(covered, text, call.values()), signature)
        except SandboxError:  # a stranger does not learn who is in the roster
            raise SignatureInvalid(
                f"the call is not signed by an analyst of {roster.federation!r}, or was changed on its way"
            ) from None
        self._timely(name, str(given["nonce"]), int(given["created"]), int(given["expires"]))
        return name

    def _timely(self, name: str, nonce: str, created: int, expires: int) -> None:
        now = int(self._clock())
        if not 0 < expires - created <= LIFETIME:
            raise Expired(f"a call holds for 1 to {LIFETIME} s, not {expires - created}")
        if created > now + SKEW:
            raise Expired(
                f"the call was created at {created}, in the future: it is {now} here. Set the clock"
            )
        if now >= expires:
            raise Expired(f"the call expired at {expires}; it is {now} here. Is a clock wrong?")
        with self._lock:
            seen = self._nonces.setdefault(name, OrderedDict())
            while seen and next(iter(seen.values())) <= now:
                seen.popitem(last=False)
            if nonce in seen:
                raise Expired("the call was made before: each is accepted once")
            if len(seen) >= NONCES:
                raise Refused([f"{NONCES} calls within {LIFETIME + SKEW} s: ask again later"])
            seen[nonce] = expires


def check_body(call: Call, body: bytes) -> None:
    """Raise `SignatureInvalid` unless the signed digest is the body's."""
    if not secrets.compare_digest(call.fields[DIGEST].encode(), content_digest(body).encode()):
        raise SignatureInvalid("the body is not the signed one: it was changed on its way")


def _parse(text: str) -> tuple[tuple[str, ...], str, dict[str, str | int]]:
    """The covered components, the field's text, and the parameters; strictly in the form that section 2.5 gives them."""
    found = _INPUT.match(text) if len(text) <= MAX_FIELD else None
    if found is None:
        raise Malformed(f"{INPUT} is not one signature's input in its canonical form")
    covered = tuple(part.strip('"') for part in found["covered"].split(" "))
    if sorted(covered) != sorted(COVERED):
        raise Malformed(f"{INPUT} must cover {', '.join(COVERED)}, each once")
    given: dict[str, str | int] = {}
    for name, number, word in _PARAMETER.findall(found["rest"]):
        if name in given:
            raise Malformed(f"{INPUT} has {name!r} twice")
        given[name] = int(number) if number else word
    if set(given) != {"created", "expires", "nonce", "keyid", "alg", "tag"}:
        raise Malformed(f"{INPUT} needs created, expires, nonce, keyid, alg and tag, each once, and no more")
    if {name for name, value in given.items() if isinstance(value, int)} != {"created", "expires"}:
        raise Malformed(f"{INPUT}: 'created' and 'expires' must be numbers, and no other parameter")
    if given["alg"] != "ed25519" or given["tag"] != TAG:
        raise Malformed(f"{INPUT}: 'alg' must be \"ed25519\" and 'tag' {TAG!r}")
    if not _NONCE.match(str(given["nonce"])):
        raise Malformed(f"{INPUT}: 'nonce' must be 32 hexadecimal digits")
    keyid = str(given["keyid"])
    if not _NAME.match(keyid) or urllib.parse.quote(urllib.parse.unquote(keyid), safe="") != keyid:
        raise Malformed(f"{INPUT}: 'keyid' must be a name, percent-encoded")
    return covered, text, given


def _labelled(text: str, label: str, what: str, size: int) -> bytes:
    """The bytes of "label=:base64:"."""
    name, _, value = text.partition("=")
    found = _BYTES.match(value)
    if name != label or found is None:
        raise Malformed(f"{what} must be {label}=:base64:")
    try:
        data = base64.b64decode(found[1], validate=True)
    except ValueError:
        raise Malformed(f"{what} is not base64") from None
    if len(data) != size or _bytes(data) != value:
        raise Malformed(f"{what} must be {size} bytes in canonical base64")
    return data


def _bytes(data: bytes) -> str:
    """A byte sequence of RFC 8941."""
    return f":{base64.b64encode(data).decode()}:"
