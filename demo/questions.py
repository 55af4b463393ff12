"""What is asked of the departments, in the analyst's words and code, and the same computed by pandas and SciPy on the pooled rows.

The text in `code` is what runs, with `city`, `people`, `col`, `count` and `corr` at hand. The truths share no code with the library.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pandas as pd
from scipy import stats

from .compare import Truth

BANDS = (20, 40, 60)
DECADES = (10, 20, 30, 40, 50, 60, 70)


class Question(msgspec.Struct, frozen=True):
    """`truth` gives the pooled values per cell, `test` the pooled test's statistic and p-value."""

    title: str
    code: str
    truth: Callable[[pd.DataFrame], Truth]
    test: Callable[[pd.DataFrame], tuple[float, float]] | None = None


def _cells(frame: pd.DataFrame) -> Truth:
    """A frame indexed by cell as a mapping."""
    keys = [key if isinstance(key, tuple) else (key,) for key in frame.index]
    return dict(zip(keys, frame.to_dict("records"), strict=True))


def _by_sex(rows: pd.DataFrame) -> Truth:
    groups = rows.groupby("sex")
    correlation = groups.apply(lambda part: part["age"].corr(part["spending"]))
    return _cells(
        pd.DataFrame(
            {
                "count": groups.size(),
                "illdays_mean": groups["illdays"].mean(),
                "spending_std": groups["spending"].std(),
                "age_spending_corr": correlation,
                "age_median": groups["age"].median(),
            }
        )
    )


def _insured_elderly(rows: pd.DataFrame) -> Truth:
    groups = rows[rows["age"] >= 60].groupby("insurance")["visits"]
    return _cells(
        pd.DataFrame(
            {
                "count": groups.size(),
                "visits_sum": groups.sum(),
                "visits_mean": groups.mean(),
                "visits_std": groups.std(),
            }
        )
    )


def _crosstab(rows: pd.DataFrame) -> Truth:
    return _cells(rows.groupby(["sex", "insurance"]).size().to_frame("count"))


def _chi_squared(rows: pd.DataFrame) -> tuple[float, float]:
    found = stats.chi2_contingency(pd.crosstab(rows["sex"], rows["insurance"]), correction=False)
    return found.statistic, found.pvalue


def _welch(rows: pd.DataFrame) -> tuple[float, float]:
    women, men = (rows.loc[rows["sex"] == sex, "illdays"] for sex in ("female", "male"))
    found = stats.ttest_ind(women, men, equal_var=False)
    return found.statistic, found.pvalue


def _bands(rows: pd.DataFrame, breaks: Sequence[int]) -> pd.Series:
    """Each person's band of age, labelled as `cut` does."""
    inner = [f"{low} to < {high}" for low, high in itertools.pairwise(breaks)]
    labels = [f"< {breaks[0]}", *inner, f">= {breaks[-1]}"]
    return pd.cut(rows["age"], [-np.inf, *breaks, np.inf], right=False, labels=labels).astype(str)


def _anova(rows: pd.DataFrame) -> tuple[float, float]:
    found = stats.f_oneway(*(part for _, part in rows["illdays"].groupby(_bands(rows, BANDS))))
    return found.statistic, found.pvalue


def moments(rows: pd.DataFrame, value: str, by: str | pd.Series) -> Truth:
    """n, mean and variance of a column per group."""
    groups = rows.groupby(by)[value]
    return _cells(pd.DataFrame({"n": groups.size(), "mean": groups.mean(), "var": groups.var()}))


def _correlations(rows: pd.DataFrame) -> Truth:
    names = ["age", "illness", "illdays", "visits", "spending"]
    matrix = rows[names].corr()
    return {(): {f"{a}|{b}": matrix.loc[a, b] for a, b in itertools.combinations(names, 2)}}


def _by_decade(rows: pd.DataFrame) -> Truth:
    groups = rows["illdays"].groupby(_bands(rows, DECADES))
    return _cells(pd.DataFrame({"count": groups.size(), "illdays_mean": groups.mean()}))


BY_SEX = Question(
    "Count, mean, deviation, correlation and median, by sex",
    """people.group_by("sex").agg(
    count(),
    col("illdays").mean(),
    col("spending").std(),
    corr("age", "spending"),
    col("age").median(),
)""",
    _by_sex,
)
EXACT = (
    BY_SEX,
    Question(
        "The same in SQL: visits to a pharmacy from the age of 60, by insurance",
        '''city.sql("""
    SELECT insurance, COUNT(*), SUM(visits), AVG(visits), STDDEV(visits)
    FROM health_survey WHERE age >= 60 GROUP BY insurance
""")''',
        _insured_elderly,
    ),
    Question(
        "Are women and men insured alike? Cross-tabulation and chi-squared test",
        'people.crosstab("sex", "insurance")',
        _crosstab,
        _chi_squared,
    ),
    Question(
        "Are men ill for longer? Welch's t-test",
        'people.ttest("illdays", by="sex")',
        lambda rows: moments(rows, "illdays", "sex"),
        _welch,
    ),
    Question(
        "Does illness grow with age? Analysis of variance over bands",
        'people.with_columns(band=col("age").cut([20, 40, 60])).anova("illdays", by="band")',
        lambda rows: moments(rows, "illdays", _bands(rows, BANDS)),
        _anova,
    ),
    Question(
        "What goes with what? Correlation matrix",
        'people.corr(["age", "illness", "illdays", "visits", "spending"])',
        _correlations,
    ),
)
AGES = Question(
    "People and days of illness by decade of age",
    """people.with_columns(
    decade=col("age").cut([10, 20, 30, 40, 50, 60, 70])
).group_by("decade").agg(count(), col("illdays").mean())""",
    _by_decade,
)
SMALL_CELLS = 'people.anova("illdays", by="education")'
DIFFERENCE = 'people.filter(col("age") < 95).group_by("sex").agg(count())'
JOIN = "SELECT sex, COUNT(*) FROM health_survey JOIN tax_records USING (person) GROUP BY sex"
MAXIMUM = "SELECT sex, MAX(spending)\nFROM health_survey GROUP BY sex"
