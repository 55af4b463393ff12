"""A witness's visit as commands and files that are handed over, and receipts that carry its cosignatures."""

from __future__ import annotations

import json
import pathlib

import pytest

from sandbox import checkpoint, cli


@pytest.fixture
def sandbox(capsys):
    """Runs a command in this process: its exit status, and what it prints to standard output and error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_receipt_is_co_signed_and_completed(departments, sandbox, tmp_path):
    """As files that are handed over: a witness signs the first receipt's heads, and after its next visit the second is completed."""
    files = [tmp_path / f"{i}.json" for i in range(2)]
    head, note, proof = (tmp_path / name for name in ("head", "note", "proof"))
    signs = [
        "--as",
        "regulator",
        "--key",
        departments.directory / "regulator.pem",
        "--seen",
        tmp_path / "seen",
    ]
    signs += ["--roster", departments.roster]
    verify = ["--keys", departments.roster, "--witnesses", 1]
    files[0].write_bytes(departments.survey.release(purpose="research").receipt)
    assert sandbox("verify", files[0], *verify)[0] == 1
    assert sandbox("cosign", files[0], *signs) == (0, "", "")
    status, out, _ = sandbox("verify", files[0], *verify)
    assert (status, out.count("ok     ")) == (0, len(out.splitlines()) - 1)

    files[1].write_bytes(departments.survey.release(purpose="research").receipt)
    assert sandbox("cosign", files[1], *signs)[::2] == (
        1,
        "ProofInvalid: ash: the consistency proof is empty\n",
    )
    assert sandbox("cosign", files[1], *signs, "--proof", "ash")[::2] == (
        1,
        "ParameterError: '--proof' is 'ash'; allowed is DEPARTMENT=FILE\n",
    )
    for name in ("ash", "birch", "cedar"):
        options = ["--state", departments.directory / name, "--roster", departments.roster]
        assert sandbox("audit", "complete", files[1], *options)[0] == 1, "nothing is kept yet"
        head.write_text(sandbox("audit", "head", *options)[1])
        first, last = (
            checkpoint.parse(text).checkpoint.size for text in (_head(files[0], name), head.read_text())
        )
        proof.write_text(sandbox("audit", "prove", "--since", first, "--until", last, *options)[1])
        note.write_text(sandbox("audit", "witness", head, *signs, "--proof", proof)[1])
        kept = f"city/{name}: kept, co-signed by city/regulator\n"
        assert sandbox("audit", "keep", note, *options) == (0, kept, "")
        assert sandbox("audit", "complete", files[1], *options) == (0, "", "")
    assert sandbox("verify", files[1], *verify)[0] == 0


def _head(file: pathlib.Path, department: str) -> str:
    nodes = json.loads(file.read_bytes())["receipt"]["nodes"]
    return next(part["checkpoint"] for part in nodes if part["department"] == department)
