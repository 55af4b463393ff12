"""The command `sandbox`, run as users run it: what it prints, its exit status, and that what goes wrong is one line.

Commands run as processes where what is tested is the process (exit status, what it loads), else as the same `main` in this one.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from sandbox import checkpoint, cli, entries, keys, merkle, roster

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
HEAVY = {"numpy", "pandas", "duckdb", "scipy", "sqlglot", "flwr", "matplotlib", "pyroaring", "federated", "mpc"}  # fmt: skip


@pytest.fixture
def sandbox(capsys):
    """Runs a command in this process: its exit status, and what it prints to standard output and error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def process(*arguments: object, code: str = "from sandbox.cli import main; main()"):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def at(departments, *, catalog: bool = True) -> list[object]:
    """The options that name a department's files."""
    options = ["--state", departments.state, "--roster", departments.roster]
    return [*options, "--catalog", departments.catalog] if catalog else options


def signer(departments, i: int) -> list[object]:
    return ["--as", f"ash-owner-{i}", "--key", departments.directory / f"ash-owner-{i}.pem"]


@pytest.fixture
def receipt(busy, tmp_path) -> pathlib.Path:
    path = tmp_path / "receipt.json"
    path.write_bytes(busy.released[1].receipt)
    return path


# --- the command itself ---


def test_the_project_installs_this_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["sandbox"].partition(":")
    assert (module, getattr(cli, name)) == ("sandbox.cli", cli.main)


@pytest.mark.parametrize(
    "arguments", [[], ["keys"], ["approvals"], ["audit"], ["--help"], ["audit", "--help"]]
)
def test_help_names_every_command_with_a_sentence(sandbox, arguments):
    status, out, err = sandbox(*arguments)
    assert status == (0 if "--help" in arguments else 2)
    commands = re.findall(r"^  (\w+) +(\S.*)$", (out or err).partition("Commands:")[2], re.MULTILINE)
    group = {"keys": cli.keys_app, "approvals": cli.approvals_app, "audit": cli.audit_app}.get(
        (arguments or [""])[0], cli.app
    )
    expected = {c.name or c.callback.__name__ for c in group.registered_commands}
    expected |= {g.name for g in group.registered_groups}
    assert {name for name, _ in commands} == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'. (see 'sandbox --help')"),
        (["budget", "--nonsense"], "No such option '--nonsense'. (see 'sandbox budget --help')"),
        (["verify"], "Missing argument 'RECEIPT'. (see 'sandbox verify --help')"),
    ],
)
def test_what_is_no_command_of_ours_is_one_line_and_status_2(sandbox, arguments, said):
    assert sandbox(*arguments) == (2, "", f"{said}\n")


def test_an_unexpected_error_shows_no_values_of_variables():
    code = "import sandbox.cli as cli, sandbox.keys as keys\n"
    code += "def fails(path, passphrase=None):\n    secret = 'hunter2'\n    raise RuntimeError('a bug')\n"
    code += "keys.SigningKey.load = fails\ncli.main()"
    done = process("keys", "show", "some.pem", code=code)
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert done.stderr.count("hunter2") == 0


# --- keys ---


def test_a_new_key_is_private_and_its_entry_belongs_into_a_roster(sandbox, tmp_path):
    file = tmp_path / "anna.pem"
    status, out, err = sandbox(
        "keys", "new", file, "--name", "anna", "--role", "owner", "--organisation", "ash"
    )
    assert (status, err) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (anna,) = roster.loads(f'federation = "city"\n\n{out}').members
    assert (anna.name, anna.role, anna.organisation) == ("anna", "owner", "ash")
    assert anna.public == keys.SigningKey.load(file).public
    status, out, err = sandbox("keys", "show", file)
    assert (status, err) == (0, "")
    assert out == f"key = {anna.key}\nfingerprint = {keys.fingerprint(anna.public)}\n"


def test_a_key_with_a_passphrase_needs_it(tmp_path):
    file, runner = tmp_path / "bo.pem", CliRunner()
    new = [
        "keys",
        "new",
        str(file),
        "--name",
        "bo",
        "--role",
        "witness",
        "--organisation",
        "court",
        "--passphrase",
    ]
    done = runner.invoke(cli.app, new, input="correct horse\ncorrect horse\n")
    assert done.exit_code == 0
    assert "correct horse" not in done.output
    public = keys.SigningKey.load(file, "correct horse").public
    shown = runner.invoke(cli.app, ["keys", "show", str(file), "--passphrase"], input="correct horse\n")
    assert keys.fingerprint(public) in shown.output
    wrong = runner.invoke(cli.app, ["keys", "show", str(file), "--passphrase"], input="battery\n")
    assert "the passphrase is another" in str(wrong.exception)


def test_without_anybody_to_ask_for_a_passphrase_it_ends(tmp_path):
    file = tmp_path / "bo.pem"
    keys.SigningKey.generate().save(file, "correct horse")
    command = [sys.executable, "-m", "sandbox.cli", "keys", "show", str(file)]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"KeyUnusable: '{file}' is encrypted: its passphrase is needed\n",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "a b", "--role", "owner", "--organisation", "x"], "Malformed: name 'a b': allowed are"),
        (["--name", "a", "--role", "boss", "--organisation", "x"], "ParameterError: '--role' is 'boss'; allowed are: owner,"),
        (["--name", "a", "--role", "owner", "--organisation", " "], "Malformed: 'a' needs an organisation"),
    ],
)  # fmt: skip
def test_a_key_for_nobody_is_not_made(sandbox, tmp_path, options, said):
    status, out, err = sandbox("keys", "new", tmp_path / "a.pem", *options)
    assert (status, out) == (1, "")
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- approvals ---


def test_an_owner_lists_reads_and_approves_and_the_analyst_may_release(departments, sandbox):
    digest = departments.propose()
    departments.approve_elsewhere(digest)
    line = f"{digest[:12]}  pending   0 of 2 approvals  analyst asks 'incomes' for purpose 'research'\n"
    assert sandbox("approvals", "list", *at(departments)) == (0, line, "")
    status, out, _ = sandbox("approvals", "show", digest[:8], *at(departments))
    assert status == 0
    assert out.startswith(departments.owner().contract(digest).contract.text())
    assert "approved by nobody, of 2 needed; rejected by nobody" in out
    for i, state in ((1, "pending: 1 of 2"), (2, "approved: 2 of 2")):
        said = sandbox("approvals", "approve", digest[:12], *signer(departments, i), *at(departments))
        assert said == (0, f"{digest[:12]} is {state} approvals\n", "")
    assert departments.incomes.release(purpose="research", epsilon=0.5).receipt
    status, out, _ = sandbox("approvals", "show", digest, *at(departments))
    assert "approved, after 1 of 2 runs" in out
    assert "approved by ash-owner-1, ash-owner-2, of 2 needed" in out


def test_an_owner_rejects_with_a_reason(departments, sandbox):
    digest = departments.propose()
    options = [*signer(departments, 1), *at(departments)]
    status, _, err = sandbox("approvals", "reject", digest, *options)
    assert (status, err) == (2, "Missing option '--reason'. (see 'sandbox approvals reject --help')\n")
    said = sandbox("approvals", "reject", digest, "--reason", "too early", *options)
    assert said == (0, f"{digest[:12]} is rejected\n", "")
    status, out, err = sandbox("approvals", "approve", digest, *options)
    assert (status, out) == (1, "")
    assert err == "Denied: ash-owner-1 has decided on this contract before\n"


def test_whose_key_it_is_decides_who_signs(departments, sandbox):
    digest = departments.propose()
    mine = ["--key", departments.directory / "ash-owner-1.pem"]
    for name, said in (
        ("ash-owner-2", "ParameterError: the key is not that of owner 'ash-owner-2' in the roster\n"),
        ("nobody", "UnknownSigner: the roster of 'city' has no owner 'nobody'\n"),
    ):
        assert sandbox("approvals", "approve", digest, "--as", name, *mine, *at(departments)) == (1, "", said)
    assert departments.owner().contract(digest).approved_by == ()


# --- budget, report, log ---


def test_the_budget_is_printed_with_who_and_what_for(busy, sandbox):
    status, out, err = sandbox("budget", *at(busy))
    assert (status, err) == (0, "")
    assert re.search(r"^ *incomes +2 +0\.5 +1\.5 +0 +1$", out, re.MULTILINE)
    assert re.search(r"^ *survey +- +0 +- +1 +0$", out, re.MULTILINE)
    assert re.search(r"^ *incomes +analyst +research +table +0\.5 +0 +1 +\d{4}-", out, re.MULTILINE)


def test_the_report_is_written_where_asked(busy, sandbox, tmp_path):
    page = tmp_path / "page.html"
    assert sandbox("report", "--out", page, *at(busy)) == (0, f"{page}\n", "")
    assert "ash: what was asked, and what left" in page.read_text(encoding="utf-8")


def test_the_log_is_printed_in_words(busy, sandbox):
    status, out, err = sandbox("audit", "log", "--last", 1000, *at(busy, catalog=False))
    assert (status, err) == (0, "")
    expected = busy.owner().log(1000)
    assert [int(line.split()[0]) for line in out.splitlines()] == expected["entry"].tolist()
    assert all(words in out for words in expected["detail"])


def test_head_and_verify_agree_with_the_node(busy, sandbox):
    status, head, _ = sandbox("audit", "head", *at(busy, catalog=False))
    assert (status, head) == (0, busy.owner().head())
    size, total = checkpoint.parse(head).checkpoint.size, len(busy.owner().log(1000))
    said = f"city/ash: {size} entries lead to the signed head; {total - size} came after it\n"
    assert sandbox("audit", "verify", *at(busy, catalog=False)) == (0, said, "")


def test_a_proof_of_an_entry_is_whole_in_itself(busy, sandbox):
    """A C2SP tlog-proof: checked here with nothing but the file and the node's public key."""
    status, out, _ = sandbox("audit", "prove", "--index", 4, *at(busy, catalog=False))
    assert status == 0
    proof, _, note = out.partition("\n\n")
    first, extra, index, *hashes = proof.split("\n")
    assert (first, index) == ("c2sp.org/tlog-proof@v1", "index 4")
    entry = base64.b64decode(extra.removeprefix("extra "), validate=True)
    assert isinstance(keys.decode(entry, entries.KIND), entries.Decision | entries.Request)
    head = checkpoint.verify(note, busy.city.roster.public("ash", "node"), "city/ash")
    proof = [base64.b64decode(line, validate=True) for line in hashes]
    merkle.verify_inclusion(merkle.leaf_hash(entry), 4, head.size, proof, head.root)


def test_a_witness_co_signs_what_continues_and_nothing_else(departments, sandbox, tmp_path):
    head, proof, seen = tmp_path / "head", tmp_path / "proof", tmp_path / "seen.json"
    witness = [
        "audit",
        "witness",
        head,
        "--as",
        "regulator",
        "--key",
        departments.directory / "regulator.pem",
    ]
    witness += ["--seen", seen, "--roster", departments.roster]
    options = at(departments, catalog=False)
    departments.survey.release(purpose="research")
    head.write_text(sandbox("audit", "head", *options)[1])
    size = checkpoint.parse(head.read_text()).checkpoint.size
    status, note, err = sandbox(*witness)
    assert (status, err) == (0, "")
    public = departments.city.roster.public("regulator", "witness")
    assert checkpoint.cosigned(note, public, "city/regulator") is not None

    departments.survey.release(purpose="research")
    head.write_text(sandbox("audit", "head", *options)[1])
    status, out, err = sandbox(*witness)
    assert (status, out, err) == (1, "", "ProofInvalid: the consistency proof is empty\n")
    proof.write_text(sandbox("audit", "prove", "--since", size, *options)[1])
    status, note, err = sandbox(*witness, "--proof", proof)
    assert (status, err) == (0, "")
    assert checkpoint.cosigned(note, public, "city/regulator") is not None
    head.write_text(head.read_text().replace("city/ash\n", "city/oak\n"))
    assert sandbox(*witness)[::2] == (1, "UnknownSigner: 'city/regulator' does not witness 'city/oak'\n")
    proof.write_text("not base64 !\n")
    assert sandbox(*witness, "--proof", proof)[::2] == (1, "Malformed: a proof is one base64 hash a line\n")
    head.write_bytes(b"\xff\xfe")
    assert sandbox(*witness)[::2] == (1, f"Malformed: '{head}' is no text in UTF-8\n")


def test_a_witness_signs_with_its_own_key(departments, sandbox, tmp_path):
    file = tmp_path / "head"
    file.write_text(departments.owner().head())
    key = departments.directory / "ash-owner-1.pem"
    said = sandbox(
        "audit", "witness", file, "--as", "regulator", "--key", key, "--roster", departments.roster
    )
    assert said == (
        1,
        "",
        f"ParameterError: the key in '{key}' is not that of witness 'regulator' in the roster\n",
    )


# --- receipts ---


def test_verify_loads_no_data_frame_database_or_network(busy, receipt):
    """What makes it take a tenth of a second."""
    code = "import sys\nfrom sandbox.cli import main\ntry:\n    main()\nfinally:\n    print('|'.join(sys.modules))"
    done = process("verify", receipt, "--keys", busy.roster, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    *report, modules = done.stdout.splitlines()
    assert report[-1] == "The receipt holds."
    loaded = {name.split(".")[0] for name in modules.split("|")}
    assert "msgspec" in loaded
    assert not loaded & HEAVY


def test_verify_tells_what_was_checked_and_by_whom_it_was_approved(busy, receipt, sandbox):
    release = busy.released[1]
    status, out, err = sandbox("verify", receipt, "--keys", busy.roster, "--release", release.digest())
    assert (status, err) == (0, "")
    for part in (
        "ok     statement: differentially private, epsilon 0.5, delta 1e-06; asked by 'analyst' for 'research'",
        f"ok     release: about release {release.digest()[:16]}",
        "ok     ash: approvals: ash-owner-1, ash-owner-2",
        "ok     cedar: log: entry ",
    ):
        assert part in out
    assert out.endswith("The receipt holds.\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "FAILED format: "),
        (lambda data: b"", "FAILED format: "),
        (lambda data: b" " + data, "FAILED format: not the canonical encoding"),
        (lambda data: data.replace(b"research", b"marketing"), "FAILED issuer: the signature does not hold"),
        (
            lambda data: data.replace(b'"epsilon":0.5', b'"epsilon":0.1'),
            "FAILED ash: entry: the log says otherwise",
        ),
    ],
    ids=["truncated", "empty", "space", "purpose", "epsilon"],
)
def test_verify_rejects_with_the_reason_and_status_1(busy, receipt, change, reason):
    receipt.write_bytes(change(receipt.read_bytes()))
    done = process("verify", receipt, "--keys", busy.roster)
    assert (done.returncode, done.stderr) == (1, "")
    assert reason in done.stdout
    assert done.stdout.endswith("THE RECEIPT DOES NOT HOLD.\n")


def test_verify_holds_a_receipt_to_the_release_and_to_witnesses(busy, receipt, sandbox):
    other = busy.released[0].digest()
    status, out, _ = sandbox("verify", receipt, "--keys", busy.roster, "--release", other)
    assert status == 1
    assert f"FAILED release: about release {busy.released[1].digest()[:16]}…, not {other[:16]}…" in out
    status, out, _ = sandbox("verify", receipt, "--keys", busy.roster, "--witnesses", 1)
    assert status == 1
    assert "FAILED ash: witnesses: 0 witnesses co-signed this head; asked for are 1" in out


def test_verify_with_another_federations_roster_fails(busy, receipt, sandbox, tmp_path):
    file = tmp_path / "other.toml"
    swapped = base64.b64encode(keys.SigningKey.generate().public).decode()
    mine = busy.city.roster.entry("birch", "node").key
    file.write_text(busy.roster.read_text().replace(mine, swapped))
    status, out, _ = sandbox("verify", receipt, "--keys", file)
    assert status == 1
    assert "FAILED birch: head: 'city/birch' has not signed this head with key" in out


# --- what goes wrong is one line ---


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ({"roster": "no.toml"}, ["budget"], "Malformed: roster 'no.toml' cannot be read: No such file or directory"),
        ({"catalog": "no.toml"}, ["budget"], "CatalogError: catalogue no.toml cannot be read"),
        ({"state": "nowhere"}, ["budget"], "LogError: 'nowhere' is no node's state: it holds no ledger.db"),
        ({"state": "nowhere"}, ["approvals", "list"], "LogError: 'nowhere' is no node's state: it holds no ledger.db"),
        ({"state": "nowhere"}, ["audit", "log"], "LogError: 'nowhere' is no node's state: it holds no audit log"),
        ({}, ["approvals", "show", "abc"], "ParameterError: 'digest' 'abc' names 0 contracts here; give 8 digits or more of one"),
        ({}, ["report", "--out", "/"], "ParameterError: '/' cannot be written: Is a directory"),
        ({}, ["audit", "prove"], "ParameterError: give either '--index' or '--since'"),
        ({}, ["audit", "prove", "--index", "1", "--since", "1"], "ParameterError: give either '--index' or '--since'"),
        ({}, ["audit", "prove", "--index", "9999"], "ParameterError: 'index' is 9999; "),
        ({}, ["audit", "prove", "--since", "9999"], "ParameterError: 'old' is 9999; "),
        ({}, ["audit", "log", "--last", "0"], "ParameterError: 'last' is 0; allowed are numbers from 1"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_status_1(busy, sandbox, change, arguments, said):
    files = {"state": busy.state, "roster": busy.roster, "catalog": busy.catalog} | change
    if arguments[0] == "audit":
        del files["catalog"]
    status, out, err = sandbox(*arguments, *(part for name in files for part in (f"--{name}", files[name])))
    assert (status, out) == (1, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("missing", ["receipt", "roster", "key"])
def test_a_missing_file_is_named(busy, receipt, sandbox, missing, tmp_path):
    nothing = tmp_path / "nothing"
    status, out, err = {
        "receipt": lambda: sandbox("verify", nothing, "--keys", busy.roster),
        "roster": lambda: sandbox("verify", receipt, "--keys", nothing),
        "key": lambda: sandbox("keys", "show", nothing),
    }[missing]()
    assert (status, out) == (1, "")
    assert str(nothing) in err
    assert "No such file or directory" in err
    assert err.count("\n") == 1


def test_a_rewritten_log_is_found_by_every_command_that_reads_it(departments, sandbox):
    departments.survey.release(purpose="research")
    log = departments.state / "audit" / "entries.log"
    before = log.read_bytes()
    log.write_bytes(before.replace(b'"purpose":"research"', b'"purpose":"resale!!"'))
    assert log.read_bytes() != before
    for command in ("log", "verify", "head"):
        status, out, err = sandbox("audit", command, *at(departments, catalog=False))
        assert (status, out) == (1, "")
        assert err.startswith("LogCorrupt: ")
        assert err.count("\n") == 1


def test_receipts_are_files_of_one_line_of_json(receipt):
    data = receipt.read_bytes()
    assert data.count(b"\n") == 0
    assert json.loads(data)["receipt"]["format"] == "joint-sandbox/receipt/v1"
