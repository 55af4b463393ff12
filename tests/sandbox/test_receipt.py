"""Receipts: what holds, and more than 10,000 that do not, each refused with a reason and nothing but our errors."""

from __future__ import annotations

import base64
import copy
import json
import random
import subprocess
import sys

import msgspec
import pytest

from sandbox import approvals, checkpoint, entries, keys, merkle, receipt, roster
from sandbox.audit import AuditLog
from sandbox.contract import Contract
from sandbox.errors import EvidenceError, ParameterError
from sandbox.keys import SigningKey
from sandbox.query import Column, Compare, Count, Named, Query, Value, canonical
from sandbox.request import REQUEST, Privacy, Request

NOW = 1_790_000_000
NODES = ("health", "labour", "water")
PEOPLE = {
    **{name: ("node", name.title()) for name in NODES},
    "centre": ("coordinator", "City"),
    "ana": ("analyst", "University"),
    "own1": ("owner", "Health"),
    "own2": ("owner", "Health"),
    "own3": ("owner", "Labour"),
    "regulator": ("witness", "Court"),
}
KEYS = {name: SigningKey.generate(insecure_seed=name.encode()) for name in PEOPLE}
KEYS["ana as owner"] = SigningKey.generate(insecure_seed=b"ana as owner")
ROSTER = roster.Roster(
    "city",
    (
        *(roster.member(name, role, place, KEYS[name].public) for name, (role, place) in PEOPLE.items()),
        roster.member("ana", "owner", "Health", KEYS["ana as owner"].public),
    ),
)
QUERY = Query("survey", (Named("n", Count()),), where=Compare("==", Column("region"), Value("north")))
CONTRACT = Contract(
    query=QUERY,
    purpose="planning",
    legal_basis="Statistics Act, art. 9",
    analyst="ana",
    expires=NOW + 1000,
    epsilon=(0.1, 1.0),
    budget=2.0,
    data_version="2024",
)
REQUESTS = [Request(QUERY, "planning", "ana", f"{n:032x}", NOW + 100, Privacy(0.5, 1e-6)) for n in range(2)]


def hexadecimal(number):
    return f"{number:064x}"


class Made:
    """A receipt of three departments, of which health asks for two approvers; any part can be made otherwise."""

    def __init__(
        self, directory, number=0, *, contract=CONTRACT, approvers=("own1", "own2"), required=2, **changes
    ):
        self.statement = receipt.Statement(
            **{
                "federation": "city",
                "request": REQUESTS[number].digest().hex(),
                "release": hexadecimal(1000 + number),
                "analyst": "ana",
                "purpose": "planning",
                "code": "joint-sandbox 0.1.0",
                "departments": NODES,
                "issued": NOW,
                "epsilon": 0.5,
                "delta": 1e-6,
                "rho": 0.01,
                **changes.pop("statement", {}),
            }
        )
        self.parts = []
        for name in NODES:
            asked = name == "health"
            signed = approvals.propose(KEYS["ana"], contract) if asked else None
            decisions = [
                approvals.sign_decision(
                    KEYS["ana as owner" if owner == "ana" else owner],
                    owner,
                    contract.digest(),
                    True,
                    now=NOW - 10,
                )
                for owner in (approvers if asked else ())
            ]
            entry = entries.Release(
                **{
                    "time": NOW,
                    "department": name,
                    "statement": self.statement.digest(),
                    "request": self.statement.request,
                    "release": self.statement.release,
                    "dataset": "survey",
                    "policy": hexadecimal(5),
                    "data_version": "2024",
                    "code": self.statement.code,
                    "epsilon": self.statement.epsilon,
                    "delta": self.statement.delta,
                    "rho": self.statement.rho,
                    "contract": contract.digest() if asked else None,
                    "approvers": required if asked else 0,
                    "approved_by": approvers if asked else (),
                    **changes.get(name, {}),
                }
            )
            with AuditLog(directory / name, f"city/{name}", key=KEYS[name]) as log:
                log.append(
                    entries.Charge(
                        time=NOW, request=self.statement.request, dataset="survey", analyst="ana", number=1
                    )
                )
                part = receipt.attest(log, entry, signed, decisions)
                log.append(entries.Stop(time=NOW))
            self.parts.append(part)

    def issue(self, key=KEYS["centre"], issuer="centre"):
        return receipt.issue(self.statement, self.parts, key, issuer)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return [Made(tmp_path_factory.mktemp("logs"), number) for number in range(2)]


@pytest.fixture(scope="module")
def files(made):
    return [one.issue() for one in made]


def verify(data, **options):
    return receipt.verify(data, ROSTER, **{"now": NOW + 1, **options})


def failed(data, **options):
    return [check.name for check in verify(data, **options).failed]


def resigned(body):
    """A receipt with any content, signed by the real coordinator: what a coordinator alone can do."""
    try:
        body = msgspec.json.encode(msgspec.json.decode(json.dumps(body).encode(), type=receipt.Body))
    except msgspec.MsgspecError:
        body = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    signature = base64.b64encode(KEYS["centre"].sign(receipt.DOMAIN, body))
    return b'{"receipt":' + body + b',"signature":"' + signature + b'"}'


def test_a_receipt_holds_and_tells_what_was_checked(files, made):
    report = verify(files[0], request=made[0].statement.request, release=made[0].statement.release)
    assert report.ok
    assert [check.name for check in report.checks] == [
        "format",
        "issuer",
        "statement",
        "request",
        "release",
        "departments",
        *(f"{name}: {what}" for name in NODES for what in ("head", "log", "entry", "approvals", "witnesses")),
    ]
    text = str(report)
    for part in ("The receipt holds.", "epsilon 0.5", "own1, own2", "'2024'", "entry 1 of 2", "'planning'"):
        assert part in text


def test_it_is_readable_json(files):
    plain = json.loads(files[0])
    assert plain["receipt"]["statement"]["departments"] == list(NODES)
    assert plain["receipt"]["nodes"][0]["entry"]["entry"] == "release"
    assert plain["receipt"]["nodes"][0]["checkpoint"].startswith("city/health\n2\n")


def test_exact_releases_have_receipts_too(tmp_path):
    costs = {"epsilon": None, "delta": None, "rho": None}
    one = Made(
        tmp_path,
        statement=costs,
        contract=msgspec.structs.replace(CONTRACT, epsilon=None, budget=None),
    )
    report = verify(one.issue())
    assert report.ok, str(report)
    assert "exact" in str(report)


def test_a_receipt_is_about_its_release(files, made):
    other = made[1].statement
    assert failed(files[0], release=other.release) == ["release"]
    assert failed(files[0], request=other.request) == ["request"]


def test_witnesses_count_where_they_are_asked_for(made):
    assert failed(made[0].issue(), witnesses=1) == [f"{name}: witnesses" for name in NODES]
    seen = copy.copy(made[0])
    seen.parts = [
        msgspec.structs.replace(
            part, checkpoint=checkpoint.cosign(part.checkpoint, KEYS["regulator"], "city/regulator", NOW)
        )
        for part in made[0].parts
    ]
    report = verify(seen.issue(), witnesses=1)
    assert report.ok
    assert f"regulator at {NOW}" in str(report)
    forged = checkpoint.cosign(made[0].parts[0].checkpoint, KEYS["own1"], "city/regulator", NOW)
    right = checkpoint.key_id("city/regulator", b"\x04", KEYS["regulator"].public)
    line = checkpoint.parse(forged).lines[1]
    bad = made[0].parts[0].checkpoint + checkpoint.Line(line.name, right, line.payload).text()
    seen.parts = [msgspec.structs.replace(made[0].parts[0], checkpoint=bad), *made[0].parts[1:]]
    assert failed(seen.issue()) == ["health: witnesses"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"approvers": ("own1",)}, "1 approved; the policy asks for 2"),
        ({"approvers": ()}, "0 approved"),
        ({"approvers": ("own1", "own1")}, "sorted and each once"),
        ({"approvers": ("own2", "own1")}, "sorted and each once"),
        ({"approvers": ("own1", "own3")}, "'own3' is of 'Labour'"),
        ({"approvers": ("ana", "own1")}, "approved their own request"),
        ({"contract": msgspec.structs.replace(CONTRACT, expires=NOW)}, "the contract expired"),
        ({"contract": msgspec.structs.replace(CONTRACT, purpose="other")}, "another purpose"),
        (
            {"contract": msgspec.structs.replace(CONTRACT, data_version="2023")},
            "the data have another version",
        ),
        ({"contract": msgspec.structs.replace(CONTRACT, epsilon=(0.6, 1.0))}, "'epsilon' must lie in"),
        ({"contract": msgspec.structs.replace(CONTRACT, epsilon=None, budget=None)}, "another mode"),
        ({"health": {"contract": hexadecimal(9)}}, "the log names another contract"),
        ({"health": {"contract": None}}, "without a contract"),
        ({"health": {"time": NOW - 11}}, "after the release"),
        ({"labour": {"approvers": 1}}, "without a contract"),
    ],
)
def test_approvals_are_checked(tmp_path, changes, expected):
    report = verify(Made(tmp_path, **changes).issue())
    assert [check.name.split(": ")[1] for check in report.failed] == ["approvals"]
    assert expected in report.failed[0].detail


def test_rejections_and_decisions_in_anothers_name_do_not_count(made):
    def with_decision(signed):
        changed = copy.copy(made[0])
        first = made[0].parts[0]
        decisions = (signed, *first.decisions[1:])
        changed.parts = [msgspec.structs.replace(first, decisions=decisions), *made[0].parts[1:]]
        return verify(changed.issue()).failed

    digest = CONTRACT.digest()
    rejected = approvals.sign_decision(KEYS["own1"], "own1", digest, False, now=NOW - 1)
    forged = approvals.sign_decision(KEYS["own2"], "own1", digest, True, now=NOW - 1)
    unknown = approvals.sign_decision(KEYS["own1"], "nobody", digest, True, now=NOW - 1)
    other = approvals.sign_decision(KEYS["own1"], "own1", hexadecimal(3), True, now=NOW - 1)
    for signed, why in (
        (rejected, "rejected"),
        (forged, "signature"),
        (unknown, "no owner"),
        (approvals.sign_decision(KEYS["own2"], "own2", digest, True, now=NOW - 1), "not those in the log"),
        (other, "another contract"),
    ):
        [check] = with_decision(signed)
        assert check.name == "health: approvals"
        assert why in check.detail


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ({"federation": "town"}, "of federation 'town'"),
        ({"analyst": "nobody"}, "no analyst 'nobody'"),
        ({"analyst": "own1"}, "no analyst 'own1'"),
        ({"issued": NOW + 1000}, "issued at"),
        ({"epsilon": None}, "states epsilon and delta"),
        ({"epsilon": -1.0}, "positive"),
        ({"rho": 0.0}, "positive"),
        ({"delta": 1.0}, "below 1"),
    ],
)
def test_statements_are_checked(tmp_path, statement, expected):
    report = verify(Made(tmp_path, statement=statement).issue())
    [check] = [check for check in report.failed if check.name == "statement"]
    assert expected in check.detail


@pytest.mark.parametrize(
    "field",
    ["statement", "request", "release", "epsilon", "delta", "rho"],
)
def test_a_log_that_says_otherwise_is_named(tmp_path, field):
    value = {"epsilon": 0.4, "delta": 1e-7, "rho": 0.02}.get(field, hexadecimal(77))
    [check] = verify(Made(tmp_path, water={field: value}).issue()).failed
    assert check.name == "water: entry"
    assert check.detail.endswith(f"of: {field}")


def test_the_issuer_is_a_coordinator(made):
    for key, name in ((KEYS["own1"], "centre"), (KEYS["health"], "health"), (KEYS["centre"], "nobody")):
        assert failed(made[0].issue(key, name)) == ["issuer"]


def test_a_receipt_holds_one_part_of_each_department(made):
    one = made[0]
    for parts in (one.parts[:-1], [*one.parts, one.parts[0]], []):
        with pytest.raises(ParameterError):
            receipt.issue(one.statement, parts, KEYS["centre"], "centre")


def test_unordered_doubled_or_unknown_departments_are_refused(tmp_path):
    for number, names in enumerate((("labour", "health", "water"), ("health", "health", "labour", "water"))):
        one = Made(tmp_path / str(number), statement={"departments": names})
        body = receipt.Body(statement=one.statement, nodes=tuple(one.parts), issuer="centre")
        data = canonical(receipt.Receipt(body, KEYS["centre"].sign(receipt.DOMAIN, canonical(body))))
        assert "departments" in failed(data)
    empty = receipt.Body(
        statement=msgspec.structs.replace(one.statement, departments=()), nodes=(), issuer="centre"
    )
    data = canonical(receipt.Receipt(empty, KEYS["centre"].sign(receipt.DOMAIN, canonical(empty))))
    assert failed(data) == ["departments"]


def test_names_from_a_file_do_not_reach_a_terminal_raw(made):
    body = json.loads(made[0].issue())["receipt"]
    body["nodes"][0]["department"] = "\x1b[2Jhealth"
    report = verify(resigned(body))
    assert not report.ok
    assert "\x1b" not in str(report)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[", b"[" * 10**6, b"\xff" * 100, b" " * (2**20 + 1), b'{"receipt":{}}']
)
def test_what_is_no_receipt(data):
    assert failed(data) == ["format"]


# --- ten thousand that do not hold ---


def test_5000_flipped_bits_and_changed_bytes(files):
    generator, data = random.Random(1), files[0]
    for position in range(len(data)):  # one bit of every byte
        changed = bytearray(data)
        changed[position] ^= 1 << generator.randrange(8)
        assert not verify(bytes(changed)).ok, position
    for _ in range(5000 - len(data)):
        position, byte = generator.randrange(len(data)), generator.randrange(256)
        if data[position] != byte:
            changed = bytearray(data)
            changed[position] = byte
            assert not verify(bytes(changed)).ok, position


def test_1500_truncations_insertions_deletions_and_repetitions(files):
    generator, data = random.Random(2), files[0]
    for _ in range(375):
        a, b = sorted(generator.sample(range(len(data)), 2))
        inserted = generator.randbytes(generator.randrange(1, 5))
        for changed in (data[:a], data[:a] + inserted + data[a:], data[:a] + data[b:], data[:b] + data[a:]):
            assert not verify(changed).ok
    for changed in (data + b"\n", b" " + data, data.replace(b",", b", ", 1), data + data):
        assert failed(changed) == ["format"]


def leaves(value, path=()):
    """Paths to everything in a JSON value, inner nodes too."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from leaves(value[index], (*path, index))


def get(value, path):
    for key in path:
        value = value[key]
    return value


def put(value, path, new):
    changed = copy.deepcopy(value)
    get(changed, path[:-1])[path[-1]] = new
    return changed


def variants(value, generator):
    """Other values in a field's place: near, far, and of other types."""
    yield from (None, True, -1, 2**70, 1.5, "", "x", [], {}, [value, value])
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 2, -value, str(value), float(value) + 0.5)
    elif isinstance(value, str):
        yield from (value + "x", value[:-1], value[::-1], value.upper(), value + "\n", " " + value)
        if value:
            at = generator.randrange(len(value))
            yield value[:at] + ("1" if value[at] != "1" else "2") + value[at + 1 :]
        if len(value) >= 86 and value[-1] == "=":
            data = bytearray(base64.b64decode(value))
            data[generator.randrange(len(data))] ^= 1
            yield base64.b64encode(data).decode()
    elif isinstance(value, list) and value:
        yield from (value[:-1], value[1:], value[::-1], [value[0], *value])


def test_no_field_can_be_changed_by_the_coordinator_alone(files):
    """Every field, many values, each time signed anew with the coordinator's own key: the departments' logs say otherwise."""
    generator, count, signed = random.Random(3), 0, 0
    for data in files:
        body = json.loads(data)["receipt"]
        assert verify(resigned(body)).ok
        for path in leaves(body):
            old = get(body, path)
            for new in variants(old, generator):
                changed = put(body, path, new)
                if canonical(changed) == canonical(body):
                    continue
                report = verify(resigned(changed))
                assert not report.ok, (path, new)
                count += 1
                signed += [check.ok for check in report.checks[:2]] == [True, True]
    assert count >= 3000
    assert signed >= 800  # well formed and signed by the coordinator: refused by what the departments signed


def test_no_part_of_another_receipt_fits(files):
    """Replay: every part of one receipt in the place of the same part of another, and of every other part of its type."""
    first, second = (json.loads(data)["receipt"] for data in files)
    count = 0
    for path in leaves(first):
        if get(first, path) != get(second, path):
            assert not verify(resigned(put(first, path, get(second, path)))).ok, path
            count += 1
    strings = [path for path in leaves(first) if isinstance(get(first, path), str)]
    generator = random.Random(4)
    while count < 1200:
        a, b = generator.sample(strings, 2)
        if get(first, a) != get(first, b):
            swapped = put(put(first, a, get(first, b)), b, get(first, a))
            assert not verify(resigned(swapped)).ok, (a, b)
            count += 1


def test_no_signature_of_another_key_or_use_fits(made):
    """Every signature in a receipt made again with each other key, and with the right key for another use."""
    one, count = made[0], 0
    for name, key in KEYS.items():
        if name != "centre":
            assert "issuer" in failed(one.issue(key))
            count += 1
        for place, part in enumerate(one.parts):
            if name == part.department:
                continue
            head = checkpoint.parse(part.checkpoint).checkpoint
            for changed in (
                checkpoint.sign(head, key),
                head.text()
                + "\n"
                + checkpoint.Line(
                    head.origin,
                    checkpoint.key_id(head.origin, b"\x01", KEYS[part.department].public),
                    key.sign_text(head.text().encode()),
                ).text(),
            ):
                parts = list(one.parts)
                parts[place] = msgspec.structs.replace(part, checkpoint=changed)
                forged = receipt.issue(one.statement, parts, KEYS["centre"], "centre")
                assert failed(forged) == [f"{part.department}: head"]
                count += 1
    body = json.loads(one.issue())["receipt"]
    encoded = canonical(receipt.read(one.issue()).receipt)
    for domain in ("request", "usage-decision", "usage-contract", "receipts", "audit-frame", "note"):
        signature = base64.b64encode(KEYS["centre"].sign(domain, encoded)).decode()
        data = json.dumps(
            {"receipt": body, "signature": signature}, separators=(",", ":"), ensure_ascii=False
        )
        assert not verify(data.encode()).ok
        count += 1
    assert count > 60


def opened(data):
    """What a node does with a request from the wire."""
    signed = keys.decode(data, keys.Signed)
    return keys.open_(signed, REQUEST, Request, ROSTER.public(signed.signer, "analyst"))


def test_1000_mutated_requests_do_not_open():
    generator = random.Random(5)
    signed = keys.seal(KEYS["ana"], "ana", REQUEST, REQUESTS[0])
    data = canonical(signed)
    assert opened(data) == REQUESTS[0]
    refused = 0
    for _ in range(700):
        changed = bytearray(data)
        kind = generator.randrange(4)
        at = generator.randrange(len(changed))
        if kind == 0:
            changed[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            del changed[at]
        else:
            changed[at:at] = generator.randbytes(1)
        if bytes(changed) == data:
            continue
        with pytest.raises(EvidenceError):
            opened(bytes(changed))
        refused += 1
    fields = json.loads(canonical(REQUESTS[0]))
    for path in leaves(fields):  # the body changed, the signature kept
        for new in variants(get(fields, path), generator):
            body = json.dumps(put(fields, path, new), separators=(",", ":"), ensure_ascii=False).encode()
            if body != signed.body:
                with pytest.raises(EvidenceError):
                    keys.open_(
                        msgspec.structs.replace(signed, body=body), REQUEST, Request, KEYS["ana"].public
                    )
                refused += 1
    for key in KEYS.values():
        for domain in ("usage-contract", "usage-decision", "clearance", "record", receipt.DOMAIN):
            with pytest.raises(EvidenceError):
                keys.open_(keys.seal(key, "ana", domain, REQUESTS[0]), REQUEST, Request, KEYS["ana"].public)
            refused += 1
    assert refused >= 1000


def test_500_mutated_proofs_do_not_hold(made):
    generator, count = random.Random(6), 0
    tree = merkle.Tree(merkle.leaf_hash(b"%d" % i) for i in range(37))
    root = tree.root()
    while count < 500:
        index, old = generator.randrange(37), generator.randrange(1, 37)
        proof, steps = list(tree.inclusion(index)), list(tree.consistency(old))
        for path in (proof, steps):
            at = generator.randrange(len(path))
            match generator.randrange(4):
                case 0:
                    path[at] = bytes([path[at][0] ^ 1 << generator.randrange(8)]) + path[at][1:]
                case 1:
                    del path[at]
                case 2:
                    path.insert(at, generator.randbytes(32))
                case _:
                    path[at] = path[at][: generator.randrange(32)]
        with pytest.raises(EvidenceError):
            merkle.verify_inclusion(tree.leaf(index), index, 37, proof, root)
        with pytest.raises(EvidenceError):
            merkle.verify_consistency(old, 37, tree.root(old), root, steps)
        count += 2


def test_verification_loads_nothing_heavy(tmp_path, files):
    """In a process of its own: only the standard library, cryptography and msgspec."""
    (tmp_path / "receipt.json").write_bytes(files[0])
    (tmp_path / "roster.toml").write_text(ROSTER.dumps(), encoding="utf-8")
    code = (
        "import sys, pathlib\nfrom sandbox import receipt, roster\n"
        f"report = receipt.verify(pathlib.Path('receipt.json').read_bytes(), roster.load('roster.toml'), now={NOW})\n"
        "assert report.ok, str(report)\n"
        "known = sys.stdlib_module_names | {'sandbox', 'cryptography', 'msgspec', '_cffi_backend'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - known))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(path or "." for path in sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    loaded = set(msgspec.json.decode(said.stdout.replace("'", '"')))
    assert not loaded & {"numpy", "pandas", "duckdb", "sqlglot", "flwr", "torch", "scipy", "federated", "mpc"}


def test_a_node_attests_with_the_decisions_that_it_logged(tmp_path, made):
    part = made[0].parts[0]
    with AuditLog(tmp_path, "city/health", key=KEYS["health"]) as log:
        for decisions in ((), part.decisions[:1], part.decisions[::-1]):
            with pytest.raises(ParameterError, match="approved_by"):
                receipt.attest(log, part.entry, part.contract, decisions)
        assert len(log) == 0
