"""Formulas mean what statsmodels takes them for; what the algebra does not hold is refused, and nothing of a formula is evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.formula.api as smf
from pooling import Departments, data, declared, split

from federated.learn import estimators
from federated.learn.formula import parse
from sandbox import disclosure
from sandbox import fit as f
from sandbox import query as q
from sandbox.errors import QueryError


@pytest.fixture(scope="module")
def wages():
    """534 workers (AER::CPS1985)."""
    frame = data("AER", "CPS1985")[["wage", "education", "experience", "gender", "sector", "union"]]
    return Departments(declared(frame), split(frame, "thirds"))


@pytest.mark.parametrize(
    "text",
    [
        "wage ~ education + experience + I(experience**2) + gender",
        "wage ~ education * gender + sector",
        "wage ~ gender:education + union",
        "wage ~ C(union):gender + education",
        "wage ~ gender * union - 1",
        "wage ~ abs(experience - 20) + I(education / 2)",
        "wage ~ education + education:experience:gender",
    ],
)
def test_formulas_fit_as_in_statsmodels(wages, text):
    parsed = parse(text, wages.schema)
    oracle = smf.ols(text, wages.pooled).fit()
    fit = f.Fit("t", f.LinearRegression(parsed.intercept), parsed.features, parsed.target)
    model = wages.fit(fit)
    # Names and order differ: the same column space has the same residuals, and as many coefficients.
    assert model.residual_squares == pytest.approx(oracle.ssr, rel=1e-9)
    assert len(model.coefficients) == len(oracle.params)
    if "C(" not in text and "/" not in text and "-1" not in text:
        np.testing.assert_allclose(np.sort(model.coefficients), np.sort(oracle.params), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("wage ~ np.log(education)", "cannot be bounded"),
        ("wage ~ poly(education, 2)", "cannot be bounded"),
        ("wage ~ __import__('os').getcwd()", "formula"),
        ("wage ~ I(open('x'))", "cannot be bounded"),
        ("wage ~ I(education**9)", "powers may be 2 to 4"),
        ("wage ~ I(education / experience)", "contain 0"),
        ("wage ~ height", "unknown column 'height'"),
        ("wage + union ~ education", "one target"),
        ("wage ~ education +* gender", "formula"),
        ("wage ~ C(experience * 3)", "declared domain"),
    ],
)
def test_what_cannot_be_bounded_is_refused(wages, text, reason):
    with pytest.raises(QueryError, match=reason):
        parse(text, wages.schema)


def test_conditions_in_interactions_are_counted(wages):
    """A level that few have cannot hide in a product."""
    parsed = parse("wage ~ education + sector:education", wages.schema)
    learner = estimators.exact(
        f.Fit("t", f.LinearRegression(), parsed.features, parsed.target), wages.schema, 3
    )
    state = learner.start()
    layout = learner.layout(state)
    state = learner.update(state, layout.decode(wages.secure_sum(learner)(state, layout.words(3)), 3))
    assert learner.refusals(state, disclosure.RULES["general-2"]) == ()
    few = disclosure.Rules(min_cell=30)
    rare = wages.pooled["sector"].value_counts()
    assert rare.min() < 30
    assert any("fewer than 30 rows" in reason for reason in learner.refusals(state, few))


def test_a_condition_mixed_into_a_number_is_refused(wages):
    """Its rows could not be counted: 1000 for one worker would show as his leverage."""
    one = q.Compare("==", q.Column("experience"), q.Value(55))
    mixed = q.Arithmetic("+", q.Column("education"), q.Arithmetic("*", q.Value(1000), one))
    fit = f.Fit("t", f.LinearRegression(), (q.Derived("mixed", mixed),), q.Derived("wage", q.Column("wage")))
    with pytest.raises(QueryError, match="mixes a condition into a number"):
        wages.fit(fit)
