"""README and SECURITY say what is so: examples run and print what they claim, errors read as quoted, links and targets exist."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import pathlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import click
import msgspec
import pytest
import typer

import sandbox
from federated.commands import add
from federated.joining import demo as clinics
from federated.session import City
from sandbox import cli, policy
from sandbox.catalog import Catalog, Overrides
from sandbox.disclosure import RULES
from sandbox.joining.declared import Normaliser
from sandbox.table import JointQuery

add(cli.app)
ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "SECURITY.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README) if found == language]


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture(scope="module")
def ran() -> tuple[dict[str, Any], str]:
    """The names that README's Python blocks leave, and what they print, run in order as one session."""
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for text in blocks("python"):
            exec(compile(text, "README.md", "exec"), names)
    return names, printed.getvalue()


def test_the_first_example_has_five_lines_and_prints_what_is_shown(ran: tuple[dict[str, Any], str]) -> None:
    first, shown = blocks("python")[0], blocks("text")[0]
    assert sum(bool(line) for line in first.splitlines()) == 5
    printed = [line.rstrip() for line in ran[1].splitlines() if line.strip()]
    assert printed[: len(shown.splitlines())] == shown.rstrip().splitlines()


def test_the_other_examples_print_what_they_name(ran: tuple[dict[str, Any], str]) -> None:
    for part in (
        "illdays_mean_low",
        "epsilon=0.5",
        "Secure aggregation",
        "rounds=",
        "Plan for health_survey",
        "Mock data",
    ):
        assert part in ran[1]


def test_set_up_is_exactly_two_commands() -> None:
    assert [text.splitlines() for text in blocks("sh")] == [["make demo", "make test"]]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"(?<=`)make [\w-]+", README))))
def test_each_make_target_named_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    links = [
        link for link in LINK.findall((ROOT / document).read_text(encoding="utf-8")) if "://" not in link
    ]
    assert links
    missing = [link for link in links if not (ROOT / link.split("#")[0]).exists()]
    assert missing == []


def test_each_module_named_exists() -> None:
    """`mpc.secagg`, `sandbox.dp` and their like name modules that are there."""
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"`((?:mpc|sandbox|federated)\.\w+)`", text))
    assert named
    missing = [
        name
        for name in named
        if not (ROOT / f"{name.replace('.', '/')}.py").exists()
        and not (ROOT / name.replace(".", "/") / "__init__.py").exists()
    ]
    assert missing == []


@pytest.mark.parametrize(
    "row", rows("What you are told when it cannot be done"), ids=lambda row: row[0].strip("`")
)
def test_refusals_read_as_quoted(ran: tuple[dict[str, Any], str], row: list[str]) -> None:
    code, told = (cell.strip("`") for cell in row)
    names = ran[0] | {"people": ran[0]["city"].table("health_survey")}
    with pytest.raises(sandbox.SandboxError) as refused:
        eval(code, names)
    assert f"{type(refused.value).__name__}: {refused.value}".startswith(told)


def test_expressions_and_sql_of_the_table_of_statistics_run(ran: tuple[dict[str, Any], str]) -> None:
    """Each expression is a method or name that exists; each SQL function is accepted."""
    table = rows("What can be asked")
    assert len(table) == 9
    city = ran[0]["city"]
    people = city.table("health_survey")
    for _, expressions, sql, *_ in table:
        for name in re.findall(r"table\.(\w+)\(", expressions):
            assert callable(getattr(people, name))
        for name in re.findall(r"`(?:col\(\"x\"\))?\.(\w+)\(", expressions):
            assert callable(getattr(sandbox.col("age"), name))
        for name in re.findall(r"`(count|cov|corr)\(", expressions):
            assert name in sandbox.__all__
        for call in re.findall(r"`([^`]+)`", sql):
            arguments = {"COVAR_SAMP": "(age, visits)", "CORR": "(age, visits)"}.get(call, "(age)")
            text = call.replace("x", "age") if "(" in call else call + arguments
            city.sql(f"SELECT {text} FROM health_survey").explain(epsilon=1.0)


def test_the_catalogue_shown_is_one_and_the_demos() -> None:
    text = blocks("toml")[0]
    catalog = msgspec.convert(tomllib.loads(text), Catalog, strict=False)
    shown = catalog.datasets["health_survey"]
    demo = msgspec.toml.decode((ROOT / "federated" / "demo.toml").read_bytes(), type=Catalog).datasets[
        "health_survey"
    ]
    assert (shown.level, shown.purposes, shown.max_rows, shown.budget) == (
        demo.level,
        demo.purposes,
        demo.max_rows,
        demo.budget,
    )
    for name, column in shown.columns.items():
        assert (column.type, column.bounds, column.categories) == (
            demo.columns[name].type,
            demo.columns[name].bounds,
            demo.columns[name].categories,
        )


def test_the_table_of_levels_is_that_of_the_rules() -> None:
    table = {cells[0].strip("`"): cells[1] for cells in rows("What an owner declares")}
    assert set(table) == set(RULES)
    for level, rules in RULES.items():
        said = table[level]
        assert (said == "never") is (rules is None)
        if rules is not None:
            assert (f"at least {rules.min_cell} units" in said) is (rules.min_cell > 0)
            assert ("rounded to base 5" in said) is (rules.rounding == 5)
            assert rules.rounding in (0, 5)


def test_the_table_of_levels_says_who_must_approve() -> None:
    table = {cells[0].strip("`"): cells[2] for cells in rows("What an owner declares")}
    for level, said in table.items():
        assert (said == "never") is (policy.KINDS.get(level, ("dp",)) == ())
        assert ("two owners have approved" in said) is (policy.APPROVERS.get(level, 0) == 2)


def test_the_policy_shown_tightens_the_demos_catalogue() -> None:
    demo, own = (ROOT / "federated" / "demo.toml").read_text("utf-8"), blocks("toml")[1]
    assert "[datasets.health_survey.policy]" in own
    demo = demo.split("[datasets.health_survey.policy]")[0]
    terms = policy.of(
        "health_survey", msgspec.toml.decode(demo + own, type=Catalog).datasets["health_survey"]
    )
    assert (terms.kinds, terms.approvers, terms.own.hidden) == (("dp",), 2, ("releases_per_analyst",))


def test_the_catalogue_of_a_join_shown_is_the_demos() -> None:
    """What is shown of it: the demo has more columns, and reads its identifiers as they are."""
    [text] = [text for text in blocks("toml") if "[datasets.tests.join]" in text]
    shown = msgspec.toml.decode(text.encode(), type=Catalog).datasets["tests"]
    own = msgspec.toml.decode(clinics.CATALOGS[1].encode(), type=Catalog).datasets["tests"]
    assert shown.join is not None
    assert own.join is not None
    assert own.join.view is not None
    assert (shown.unit, shown.rows_per_unit, shown.join.tables) == (
        own.unit,
        own.rows_per_unit,
        own.join.tables,
    )
    assert (shown.join.view or {}).items() <= own.join.view.items()
    assert shown.columns["value"] == own.columns["value"]
    for normaliser in get_args(Normaliser):
        assert f"`{normaliser}`" in section("Columns that live apart")


def tables(title: str) -> list[list[list[str]]]:
    """All tables of a section, each without its head."""
    found = re.findall(r"(?:^\|.*\n)+", section(title) + "\n", re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
        for table in found
    ]


def test_the_table_of_settings_names_each_once() -> None:
    settings, _ = tables("The owner decides")
    named = [name for cells in settings for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(named) == sorted(Overrides.__struct_fields__)


def commands(command: click.Command, path: str = "sandbox") -> Iterator[tuple[str, click.Command]]:
    """Every command of the command line, by its full name."""
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from commands(part, f"{path} {name}")
    else:
        yield path, command


def test_the_tables_of_commands_name_each_once() -> None:
    _, owners = tables("The owner decides")
    [processes] = tables("Across machines")
    cells = [cells[0] for cells in (*owners, *processes)]
    named = [name for cell in cells for name in re.findall(r"`(sandbox [\w ]+)`", cell)]
    assert sorted(named) == sorted(name for name, _ in commands(typer.main.get_command(cli.app)))


def test_the_example_over_machines_says_what_the_session_offers() -> None:
    [text] = blocks("py")
    calls = set(re.findall(r"city\.(\w+)\(", text))
    assert calls == {"table", "requests", "request"}
    assert all(callable(getattr(City, name)) for name in calls)
    assert inspect.signature(JointQuery.release).parameters["wait"].default is True
    ast.parse(text)


def test_commands_and_options_shown_exist() -> None:
    known = dict(commands(typer.main.get_command(cli.app)))
    shown = [line for text in blocks("console") for line in text.splitlines()]
    assert shown
    for line in shown:
        program, *words = shlex.split(line)
        assert program == ".venv/bin/sandbox"
        known[f"sandbox {words[0]}"].make_context("sandbox", words[1:])
    options = {option for command in known.values() for part in command.params for option in part.opts}
    assert set(re.findall(r"`(--[\w-]+)`", README)) <= options


@pytest.mark.parametrize("name", sandbox.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(sandbox, name)
    assert inspect.getdoc(value), name
    if inspect.isfunction(value):
        assert value.__doc__, name


def test_public_names_are_sorted_and_all_there() -> None:
    capitals_first = sorted(sandbox.__all__)
    assert sandbox.__all__ == capitals_first
    public = {name for name, value in vars(sandbox).items() if not name.startswith("_") and callable(value)}
    assert public == set(sandbox.__all__)
