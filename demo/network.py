"""`make demo-network`: a coordinator, three nodes and an analyst as processes of their own, over TLS; one node is killed on the way.

One department's people are in a real PostgreSQL. At the end every process has stopped; exit status 1 if anything that is shown does not
hold.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from rich.console import Console

from federated import demo, up

from .postgres import Database

VICTIM = "hills"
IN_POSTGRES = "river"
console = Console(highlight=False, width=120)


class Analyst:
    """The analyst's process."""

    def __init__(self, directory: pathlib.Path):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo.analyst", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def events(self) -> Iterator[dict]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        try:
            return self._process.wait(20)
        finally:
            self._process.kill()


def main() -> int:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="joint-sandbox-") as made:
        place = pathlib.Path(made) / "city"
        up.make(place)
        with Database() as database:
            database.take(place / "nodes" / IN_POSTGRES, demo.departments()[IN_POSTGRES])
            console.print(
                f"{IN_POSTGRES}'s people are in PostgreSQL {database.version()}; the others' in Parquet files."
            )
            with up.Processes(place) as processes:
                console.print(
                    f"Processes: coordinator {processes.process(up.COORDINATOR).pid}, "
                    + ", ".join(f"{n} {processes.process(n).pid}" for n in processes.departments)
                    + f"; ready after {time.perf_counter() - started:.1f} s"
                )
                status = follow(processes, place / "analysts" / "analyst")
            console.print("Every process has stopped.")
    console.print(f"{time.perf_counter() - started:.1f} s in all")
    return status


def follow(processes: up.Processes, analyst_at: pathlib.Path) -> int:
    """Show what the analyst finds; kill and restart a node at its word; check its receipt with the command."""
    analyst = Analyst(analyst_at)
    holds = True
    for event in analyst.events():
        match event["event"]:
            case "connected":
                console.print(f"\n[bold]The analyst is connected[/bold]\n{event['text']}")
            case "asking":
                console.print(f"\n[bold]{event['title']}[/bold]")
            case "stage" if event["name"] == "computing and masking":
                console.print(f"kill -9 {processes.process(VICTIM).pid} ({VICTIM})", style="red")
                processes.kill(VICTIM)
            case "released":
                holds = holds and event["agree"]
                console.print(event["text"])
                verdict = "✓ equal to the pooled rows" if "values" in event else "✓ the receipt verifies"
                console.print(
                    f"{verdict if event['agree'] else '✗ DOES NOT HOLD'}; {event['rounds']} rounds, {event['seconds']:.2f} s",
                    style="green" if event["agree"] else "red",
                )
                if event["missing"]:
                    console.print(f"missing, and the release says so: {', '.join(event['missing'])}")
            case "refused":
                console.print(event["text"])
            case "back?":
                processes.start(VICTIM)
                processes.wait(VICTIM)
                console.print(f"{VICTIM} is started again, and connected")
                analyst.go_on()
            case _:
                pass
    status = analyst.end()
    command = ["verify", str(analyst_at / "receipt.json"), "--keys", str(analyst_at / "roster.toml")]
    verified = subprocess.run([sys.executable, "-m", "sandbox.cli", *command], capture_output=True, text=True)
    console.print(f"\n[bold]$ sandbox {' '.join(command)}[/bold]\n{verified.stdout.splitlines()[-1]}")
    return 0 if holds and status == 0 and verified.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
