"""The chapter on columns that live apart: a registry, a laboratory and a hospital know different things of the same people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import stats

from federated.joining import demo
from sandbox import col, corr, count
from sandbox.errors import Refused, SandboxError
from sandbox.release import Release
from sandbox.table import JointQuery

from . import tables
from .blocks import Block, Chapter, Code, Items, Prose, Refusal, Verdict
from .compare import TOLERANCE, Compared, compare, compare_test

if TYPE_CHECKING:
    from .story import Stage

JOIN = 'wide = city.join("registry.people", "laboratory.tests", "hospital.diagnoses", on="person")'
BY_GROUP = (
    'wide.group_by("sex", "diabetes").agg(count(), col("hdl").mean(), col("age").mean(), col("bmi").std())'
)
ACROSS = 'wide.agg(corr("age", "hdl"), corr("bmi", "diagnoses"))'
TTEST = 'wide.filter(col("age") >= 50).ttest("hdl", by="diabetes")'
NEARLY_ALL = 'wide.filter(col("age") < 97).agg(count())'
MIXED = 'wide.filter((col("age") >= 60) | (col("diagnoses") > 3)).agg(count())'
EPSILON = 1.0


def apart(stage: Stage) -> Chapter:
    with stage.running("opening a registry, a laboratory and a hospital"):
        city = demo.city()
        rows = demo.pooled()
    wide = city.join(*demo.TABLES, on="person")
    names: dict[str, Any] = {"wide": wide, "col": col, "count": count, "corr": corr}

    def release(code: str, epsilon: float | None = None) -> Release:
        query = eval(code, names)
        assert isinstance(query, JointQuery)
        with stage.running(f"joined: {code.partition('.')[2][:40]}…") as told:
            city.progress = told
            return query.release(purpose=demo.PURPOSE, epsilon=epsilon)

    groups = rows.groupby(["sex", "diabetes"])
    frame = pd.DataFrame(
        {
            "count": groups.size(),
            "hdl_mean": groups["hdl"].mean(),
            "age_mean": groups["age"].mean(),
            "bmi_std": groups["bmi"].std(),
        }
    )
    truth = dict(zip(frame.index, frame.to_dict("records"), strict=True))
    by_group, noisy, across = release(BY_GROUP), release(BY_GROUP, EPSILON), release(ACROSS)
    compared = compare(by_group, truth)
    pairs = {"age_hdl_corr": ("age", "hdl"), "bmi_diagnoses_corr": ("bmi", "diagnoses")}
    compared += compare(across, {(): {name: rows[a].corr(rows[b]) for name, (a, b) in pairs.items()}})
    tested, older = release(TTEST), rows[rows["age"] >= 50]
    sick, well = (older["hdl"][older["diabetes"] == value].dropna() for value in (True, False))
    found = stats.ttest_ind(well, sick, equal_var=False)
    compared += compare_test(tested, (float(found.statistic), float(found.pvalue)))
    blocks: list[Block] = [
        Prose(
            "A registry knows age and sex, a laboratory the blood values, a hospital the diagnoses, of overlapping people, and none may learn whom the "
            f"others know. Of {len(demo.departments()['registry']):,} real residents, {len(rows):,} are known to all three. The question is the same as on "
            "one table; what is of one department's columns is computed by it, and the rest on shares."
        ),
        Code(JOIN),
        tables.frame("The joined table's columns", wide.columns.drop(columns="description")),
        Code(f"{BY_GROUP}\n{ACROSS}\n{TTEST}"),
        tables.exact_table("Joined statistics beside the pooled truth", compared),
        _verdict(compared),
        Code(f"release(purpose={demo.PURPOSE!r}, epsilon={EPSILON:g})"),
        tables.noisy_table("The same by group", EPSILON, compare(noisy, truth)),
        Items("Who learned what", by_group.leakage),
        _refused(NEARLY_ALL, "Everyone but the few who are 97 or older", names),
        _refused(MIXED, "A condition that no protocol here computes", names),
        Verdict(by_group.verify(city.roster).ok, "The receipt of the joined release holds"),
        Prose(
            f"The first took {by_group.cost.rounds} rounds, {sum(by_group.cost.sent.values()) + sum(by_group.cost.received.values()):,} bytes and "
            f"{by_group.cost.seconds:.2f} s; the next exact one, compared with it first, {across.cost.rounds} rounds and {across.cost.seconds:.2f} s."
        ),
    ]
    return Chapter("Columns apart", tuple(blocks))


def _verdict(compared: list[Compared]) -> Verdict:
    wrong = [f"{c.statistic} ({c.cell})" for c in compared if not c.agrees]
    if wrong or not compared:
        return Verdict(False, f"joined statistics differ from the pooled truth: {', '.join(wrong)}")
    return Verdict(
        True,
        f"All {len(compared)} joined statistics equal the pooled truth, within {TOLERANCE:g} or the interval that they state",
    )


def _refused(code: str, title: str, names: dict[str, Any]) -> Refusal:
    try:
        eval(code, names).release(purpose=demo.PURPOSE)
    except SandboxError as error:
        reasons = error.reasons if isinstance(error, Refused) else (str(error),)
        return Refusal(title, code, type(error).__name__, reasons)
    raise AssertionError(f"not refused: {title}")
