"""`python -m benchmarks list | run | compare | report`: every performance claim, on this machine, beside peers."""

from __future__ import annotations

import pathlib
import signal
import sys
import time
from typing import Annotated

import typer

from benchmarks import comparing, environments, readme, records, report, running, tables
from benchmarks.records import Entry, Mode

RESULTS = pathlib.Path(__file__).parent / "results"
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command("list")
def list_() -> None:
    """The suites and the peers."""
    for name, suite in running.SUITES.items():
        typer.echo(f"{name:<12}{suite.about}")
    typer.echo("\npeers, with --peers")
    for peer in environments.peers():
        typer.echo(f"{peer.name:<12}{peer.system}, Python {peer.python}: {', '.join(peer.suites)}")


@app.command()
def run(
    suites: Annotated[
        list[str] | None, typer.Argument(help="default: all; limits always comes first")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small sizes, under two minutes")] = False,
    full: Annotated[bool, typer.Option("--full", help="sweeps over sizes, parties, latency")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="other systems beside ours, installed on demand")
    ] = False,
    output: Annotated[
        pathlib.Path | None, typer.Option(help="the file of results, made or continued")
    ] = None,
) -> None:
    """Measure, and write results as JSON lines. The exit status is 1 if a suite of ours failed."""
    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    if unknown := set(suites or ()) - set(running.SUITES):
        raise typer.BadParameter(f"unknown suites {sorted(unknown)}; there are {', '.join(running.SUITES)}")
    mode: Mode = "quick" if quick else "full" if full else "default"
    path = output or RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}.jsonl"
    well = running.run(suites or running.SUITES, path, mode, with_peers=peers, show=_show)
    typer.echo(f"\nwritten to {path}")
    raise typer.Exit(0 if well else 1)


@app.command()
def compare(
    before: Annotated[pathlib.Path, typer.Argument(help="results of an earlier run")],
    after: Annotated[pathlib.Path, typer.Argument(help="results of a later run")],
    threshold: Annotated[
        float, typer.Option(min=1.0, help="a ratio surely above this is a regression")
    ] = 1.1,
) -> None:
    """The ratios of two runs, with 95 % intervals. The exit status is 1 if something regressed."""
    try:
        found = comparing.compare(_read(before), _read(after), threshold)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(comparing.text(found))
    raise typer.Exit(1 if found.regressions else 0)


@app.command("report")
def report_(
    results: Annotated[pathlib.Path | None, typer.Argument(help="default: the latest results")] = None,
    output: Annotated[pathlib.Path, typer.Option(help="a folder")] = pathlib.Path("benchmark-report"),
    update_readme: Annotated[
        bool, typer.Option("--readme", help="renew the tables in README.md and benchmarks/README.md")
    ] = False,
) -> None:
    """One HTML page and the same in Markdown, with plots, from results alone."""
    found = _read(results or max(RESULTS.glob("*.jsonl"), default=RESULTS / "none.jsonl"))
    typer.echo(f"written to {report.write(found, output)}")
    if update_readme:
        readme.update(found)


def _read(path: pathlib.Path) -> records.Results:
    try:
        return records.read(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def _show(entry: Entry) -> None:
    typer.echo(tables.line(entry))


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))  # what was started is ended first
    app()
