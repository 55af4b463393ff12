"""The analyst of `make demo-network`: a process of its own that knows a `city.toml`, and asks the demo's questions over TLS.

It says on its standard output, one JSON object a line, what it has reached and found; `demo.network` shows that, and kills a node when it
reads that a certain release is being computed.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import sandbox
from federated import demo
from federated.session import City
from sandbox import col, corr, count
from sandbox.errors import SandboxError
from sandbox.release import Release

from . import questions
from .compare import compare, compare_test

PURPOSE = "public-health"
EPSILON = 0.5


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def wait() -> None:
    """Until the other process has done its part."""
    sys.stdin.readline()


def released(release: Release, started: float, **fields: object) -> None:
    say(
        "released",
        seconds=time.perf_counter() - started,
        rounds=release.cost.rounds,
        missing=release.missing,
        departments=release.departments,
        text=repr(release),
        **fields,
    )


def ask(city: City) -> bool:
    """Every exact question of the demo, compared with the pooled rows that only the demo has; whether all agree."""
    names = {"city": city, "people": city.table(demo.TABLE), "col": col, "count": count, "corr": corr}
    rows, agree = demo.pooled(), True
    for question in questions.EXACT:
        say("asking", title=question.title)
        started = time.perf_counter()
        release = eval(question.code, names).release(purpose=PURPOSE)
        found = compare(release, question.truth(rows))
        if question.test is not None:
            found += compare_test(release, question.test(rows))
        same = bool(found) and all(one.agrees for one in found)
        agree = agree and same
        released(release, started, values=len(found), agree=same)
    return agree


def main(directory: pathlib.Path) -> int:
    city = sandbox.connect(directory / "city.toml")
    say("connected", text=city.catalog()[["table", "department", "level", "purposes"]].to_string(index=False))
    agree = ask(city)
    people = city.table(demo.TABLE).group_by("sex").agg(count(), col("illdays").mean())
    say("asking", title="A department's process is killed while it computes")
    started = time.perf_counter()
    city.progress = lambda stage: say("stage", name=stage)
    release = people.release(purpose=PURPOSE, epsilon=EPSILON)
    released(release, started, agree=release.verify(city.roster).ok)
    city.progress = lambda _stage: None
    say("asking", title="The same exactly, while it is away")
    try:
        people.release(purpose=PURPOSE)
        say("refused", text="it was not refused")
        return 1
    except SandboxError as error:
        say("refused", text=f"{type(error).__name__}: {error}")
    say("back?")
    wait()
    say("asking", title="And when it is back")
    started = time.perf_counter()
    release = people.release(purpose=PURPOSE)
    (directory / "receipt.json").write_bytes(release.receipt)
    truth = len(demo.pooled())
    agree = agree and release.missing == () and int(release.frame["count"].sum()) == truth
    released(release, started, agree=agree)
    say("end")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
