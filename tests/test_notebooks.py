"""Every notebook runs from top to bottom in a fresh kernel of this Python, calls the library, defines nothing, and is committed without outputs."""

from __future__ import annotations

import ast
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While)

# What key cells must show: the text that each contains, from the pooled rows or from the reason of a refusal.
SHOWN = {
    "01_joint_statistics": {
        "catalog": "winter-staffing",
        "mock": "Mock data",
        "explain-exact": "no ε",
        "explain-dp": "discrete Gaussian",
        "exact": "13573     2.608266",
        "dp": "Differentially private per row: ε = 1",
        "crosstab": "statistic 56.1599",
        "ttest": "statistic -5.85017",
        "sql": "511     0.78865",
        "suppressed": "fewer than 20 units",
        "refused-purpose": "Denied: harbour, hills, river: purpose 'marketing' is not permitted",
        "refused-join": "SQLError: joins are not supported",
        "refused-max": "SQLError: MIN and MAX are refused",
        "refused-budget": "BudgetExceeded: ",
        "leakage": "Secure aggregation, honest-but-curious coordinator",
        "refused-difference": "differ by fewer than 20 units",
        "cost": "rounds=4",
        "receipt": "The receipt holds.",
    },
    "02_the_owner_decides": {
        "loosened": "CatalogError: data set 'household_spending', policy: 'approvers' is 1; level important needs at least 2",
        "open": "<Owner harbour-owner-1 of harbour: 0 contracts to decide on>",
        "exact": "13573     2.608266",
        "difference": "differ by fewer than 20 units",
        "needs-approval": "ApprovalNeeded: harbour, hills, river: 'household_spending' needs the approval of 2",
        "propose": "harbour pending",
        "desk": "0 of 2",
        "text": "asks         a table of count: number of rows, spending_mean: mean of spending",
        "approve": "pending",
        "twice": "Denied: harbour-owner-1 has decided on this contract before",
        "colleagues": "approved",
        "status": "river approved          2       2",
        "release": "Differentially private per row: ε = 1",
        "budget": "household_spending",
        "statement": "inclusive-finance",
        "over-budget": "BudgetExceeded: harbour, hills, river: privacy budget of 'household_spending': epsilon 1.451 of 1.5 is spent",
        "wrong-purpose": "Denied: harbour, hills, river: purpose 'marketing' is not permitted",
        "log": "deny: purpose 'marketing' is not permitted",
        "verify-log": "entries of city/harbour lead to the signed head",
        "report": "owner.html",
        "hand-over": "ok     harbour: approvals: harbour-owner-1, harbour-owner-2",
        "forged": "FAILED issuer: the signature does not hold",
        "witness": "— city/regulator",
        "next-head": "— city/regulator",
        "unproven": "ProofInvalid: the consistency proof is empty",
    },
    "03_across_machines": {
        "bundles-made": "nodes/harbour",
        "processes": "['harbour', 'hills', 'river']",
        "node-check": "ok     data health_survey",
        "exact": "13573     2.608266",
        "elsewhere": "Differentially private per row: ε = 0.5",
        "requests": "released",
        "killed": "TooFewDepartments: 2 departments take part",
        "missing": "Without hills: vanished during the request.",
        "back-again": "The receipt holds.",
        "health": "connected: 3",
        "stop": '"event": "stopped"',
    },
    "04_joint_training": {
        "logistic": "education        0.2937      0.008",
        "logistic-pooled": "equal to 1e-9 relative: True",
        "linear": "array([ 0.069887",
        "trees": "40 trees in",
        "evaluate": "river",
        "frontier": "epsilon",
        "network": "Differentially private per row: ε = 2",
        "network-evaluate": "auc",
        "refused-layer": "QueryError: layer '1' (BatchNorm1d) is not allowed",
        "contribution": "all together explain 0.0818 of the deviance",
        "leave-one-out": "harbour",
        "leakage": "All of it is differentially private for each row",
        "receipt": "The receipt holds.",
        "budget": "epsilon_left",
    },
    "05_encrypted_scoring": {
        "train": "1 level, 4096 rows at a time, 6 columns a row",
        "refused-bound": "OutOfRange: Age: each value must lie in [18, 70]",
        "score": "1540 applicants scored",
        "scores": "within the bound: True",
        "accuracy": "encrypted  0.745",
        "refused-replay": "Replayed: rows: this block was answered before",
        "publish": "noise of 2e-03",
        "network-models": "credit@bank",
        "city-score": "within the bound: True",
        "city-evidence": "The receipt holds.",
        "refused-quota": "1540 of 2000 rows are used, and 1540 more are asked for",
        "network": "6 levels",
        "network-scores": "within the bound: True",
        "refused-plan": "OutOfRange: tolerance: is below the polynomials' own error",
        "tree": "within the bound: True",
        "frame": "MB, 2 levels left, each value to 7e-14 of half its range",
        "explain": "rotations by 1, 2, 4",
        "mean": "134.414935   134.414935",
        "weighted": "1 level left",
        "sums": "exact: True",
    },
    "06_columns_apart": {
        "catalog": "diagnoses",
        "columns": "laboratory",
        "pooled": "12,201 people are known to all three departments",
        "explain": "blinded and in a secret order",
        "mock": "Mock data",
        "exact": "4723  59.246314",
        "equal": "equal: True",
        "corr": "0.147160",
        "ttest": "on the pooled rows: statistic",
        "crosstab": "equal: True",
        "ols": "OLS Regression Results",
        "ols-pooled": "sex[male] ",
        "difference": "differ by fewer than 10 units",
        "two": "TooFewDepartments: 2 departments take part; an exact joint value needs at least 3",
        "mixed": "QueryError: filter: a condition on columns of registry and hospital",
        "dp": "Differentially private per person: ε = 1",
        "leakage": "registry 18,432",
        "receipt": "The receipt holds.",
        "engine": "16 {",
    },
}
DRAWN = {
    "01_joint_statistics": ("plot", "corr"),
    "04_joint_training": ("calibration", "frontier-plot", "history"),
}


def read(path: pathlib.Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell: nbformat.NotebookNode) -> str:
    """All that a cell shows as text."""
    return "".join(
        output["text"] if output.output_type == "stream" else output["data"].get("text/plain", "")
        for output in cell.outputs
    )


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest) -> tuple[str, nbformat.NotebookNode]:
    """Name and notebook after a run in which no cell raised: nbclient stops at the first error."""
    notebook = read(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("FLWR_TELEMETRY_ENABLED", "0")
        NotebookClient(notebook, kernel_name="python3").execute()
    return request.param.stem, notebook


def test_the_notebooks_are_those_known_here() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_clean_and_without_logic(path: pathlib.Path) -> None:
    cells = code_cells(read(path))
    assert cells
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        logic = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, LOGIC)]
        assert not logic, f"cell {cell.id} defines logic"


def test_runs_and_shows(executed: tuple[str, nbformat.NotebookNode]) -> None:
    name, notebook = executed
    cells = {cell.id: cell for cell in code_cells(notebook)}
    silent = [cell_id for cell_id, cell in cells.items() if not cell.outputs]
    assert not silent
    for cell_id, expected in SHOWN.get(name, {}).items():
        assert expected in text(cells[cell_id]), cell_id
    for cell_id in DRAWN.get(name, ()):
        assert any("image/png" in output.get("data", {}) for output in cells[cell_id].outputs), cell_id


def test_no_plot_or_table_warns(executed: tuple[str, nbformat.NotebookNode]) -> None:
    """Nothing on standard error: a warning is what a new user would stumble over."""
    _, notebook = executed
    errors = [
        output["text"]
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert errors == []
