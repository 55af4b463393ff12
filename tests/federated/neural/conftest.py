from __future__ import annotations

import pytest
from trainees import City


@pytest.fixture
def city(tmp_path):
    """Departments in a training; see `trainees.City`."""
    made = []

    def make(spec, parts, **options):
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(City(spec, parts, directory, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
