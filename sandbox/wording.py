"""What a query asks, in words for the people who decide on it. Every node of the tree has words, and nested terms stand in brackets.

Protects against a text that reads as something else than it is: names and values that others chose are quoted, and characters that do not
print (line ends, terminal codes, marks of direction) are shown as escapes.
"""

from __future__ import annotations

import json

from . import query as q

ANALYSES: dict[q.Analysis, str] = {
    "table": "a table",
    "crosstab": "a cross-tabulation with its chi-squared test",
    "welch": "Welch's t-test",
    "anova": "an analysis of variance",
    "covariance": "a covariance matrix",
    "correlation": "a correlation matrix",
}


def question(query: q.Query) -> dict[str, str]:
    """The parts of a query by what they say: `asks` for what, `of` which rows, `by` which groups, `with` which computed columns."""
    asked = ", ".join(f"{named.name}: {aggregate(named.aggregate)}" for named in query.aggregates)
    parts = {
        "asks": f"{ANALYSES[query.analysis]} of {asked}",
        "of": "all rows" if query.where is None else f"rows where {expression(query.where)}",
        "by": ", ".join(query.keys) or "no groups",
    }
    if query.derived:
        parts["with"] = "; ".join(f"{made.name} = {expression(made.term)}" for made in query.derived)
    return {name: printable(text) for name, text in parts.items()}


def aggregate(term: q.Aggregate) -> str:
    match term:
        case q.Count():
            return "number of rows" if term.term is None else f"number of rows with {expression(term.term)}"
        case q.Sum():
            return f"sum of {expression(term.term)}"
        case q.Mean():
            return f"mean of {expression(term.term)}"
        case q.Variance():
            return f"variance of {expression(term.term)}"
        case q.StandardDeviation():
            return f"standard deviation of {expression(term.term)}"
        case q.Quantile():
            return f"{term.q:g}-quantile of {expression(term.term)}"
        case q.Covariance():
            return f"covariance of {expression(term.left)} and {expression(term.right)}"
        case q.Correlation():
            return f"correlation of {expression(term.left)} and {expression(term.right)}"


def expression(term: q.Expression) -> str:
    match term:
        case q.Column():
            return term.name
        case q.Value():
            return _value(term.value)
        case q.Compare() | q.Arithmetic():
            return f"{_nested(term.left)} {term.op} {_nested(term.right)}"
        case q.Logic():
            return f" {term.op} ".join(map(_nested, term.terms))
        case q.Not():
            return f"not {_nested(term.term)}"
        case q.IsIn():
            return f"{_nested(term.term)} is one of {', '.join(map(_value, term.values))}"
        case q.IsNull():
            return f"{_nested(term.term)} is null"
        case q.Absolute():
            return f"absolute value of {_nested(term.term)}"
        case q.Cut():
            breaks = ", ".join(f"{number:g}" for number in term.breaks)
            labels = ", ".join(map(_value, term.labels))
            return f"{_nested(term.term)} cut at {breaks} into {labels}"
        case q.Case():
            branches = ", ".join(f"{_value(label)} where {_nested(test)}" for test, label in term.branches)
            return f"{branches}, else {_value(term.otherwise)}"


def printable(text: str) -> str:
    """The text on one line, with characters that do not print as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _nested(term: q.Expression) -> str:
    words = expression(term)
    return words if isinstance(term, q.Column | q.Value) else f"({words})"


def _value(value: q.Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)
