"""One prepared phantom for all tests of the data."""

import pytest

from synth3d.cohort import find_cases
from synth3d.data.prepared import prepare


@pytest.fixture(scope="module")
def prepared(phantom_cohort):
    return prepare(find_cases(phantom_cohort)[0], ("t1n", "t1c", "t2w"), ("t2f",))
