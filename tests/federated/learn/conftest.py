"""Real data of three kinds at several departments (`pooling`)."""

from __future__ import annotations

import numpy as np
import pytest
from pooling import Departments, data, declared, split

SPLITS = ("thirds", "wild", "sorted")


@pytest.fixture(scope="session", params=SPLITS)
def how(request):
    return request.param


@pytest.fixture(scope="session")
def credit(how):
    """10,000 credit card holders (ISLR::Default): who defaults."""
    frame = data("ISLR", "Default")
    frame["default"] = frame["default"] == "Yes"
    return Departments(declared(frame), split(frame, how, "default"))


@pytest.fixture(scope="session")
def care(how):
    """4,406 elderly people (AER::NMES1988): visits to a physician, chronic conditions, income."""
    frame = data("AER", "NMES1988")[
        ["visits", "hospital", "chronic", "age", "gender", "school", "income", "insurance"]
    ]
    frame["insurance"] = frame["insurance"] == "yes"
    return Departments(declared(frame), split(frame, how, "visits"))


@pytest.fixture(scope="session")
def diamonds(how):
    """Diamonds (ggplot2::diamonds, every fifth): price by weight, cut and clarity."""
    frame = data("ggplot2", "diamonds").iloc[::5].reset_index(drop=True)
    frame["price"] = np.log(frame["price"])
    return Departments(declared(frame), split(frame, how, "price"))


@pytest.fixture(scope="session")
def ship():
    """1,309 passengers of the Titanic (carData::TitanicSurvival), of whom 263 have no age."""
    frame = data("carData", "TitanicSurvival")
    frame["survived"] = frame["survived"] == "yes"
    return Departments(declared(frame), split(frame, "thirds"))
