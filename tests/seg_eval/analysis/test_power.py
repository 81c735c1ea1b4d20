import numpy as np
import pytest

from seg_eval.analysis.power import MOST, Components
from synth3d.scoring import Crossed


def test_components_by_hand():
    # means of patients 0.5 and 3.5, of trainings 1 and 3, rests of +-0.5: mean squares 9, 4, 1
    found = Components.of(np.array([[0.0, 1], [2, 5]]))
    assert (found.patients, found.trainings, found.rest) == ((9 - 1) / 2, (4 - 1) / 2, 1)
    one = Components.of(np.array([[1.0], [2], [4]]))
    assert (one.patients, one.trainings, one.rest) == (pytest.approx(7 / 3), 0, 0)
    alike = Components.of(np.ones((4, 3)))
    assert alike.needed(3, 0.01) == 2


def test_the_width_expected_is_that_of_an_interval_of_as_many():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(60, 1)) + 0.3 * generator.normal(size=(1, 5))
    values = values + 0.5 * generator.normal(size=(60, 5))
    expected = Components.of(values).half_width(60, 5)
    found = Crossed([f"{i:02d}" for i in range(60)], 5).mean(values)
    assert expected == pytest.approx((found.high - found.low) / 2, rel=0.1)


@pytest.mark.parametrize("trainings", [1, 3, 5])
def test_so_many_patients_are_enough_and_one_fewer_is_not(trainings):
    parts = Components(0.04, 0.0001, 0.01)
    count = parts.needed(trainings, 0.06)
    assert count is not None
    assert parts.half_width(count, trainings) <= 0.06 < parts.half_width(count - 1, trainings)
    assert count <= (parts.needed(trainings, 0.05) or MOST)


def test_where_trainings_differ_no_number_of_patients_helps_and_trainings_do():
    parts = Components(0.01, 0.002, 0.001)
    assert parts.needed(3, 0.05) is None
    assert parts.needed(10, 0.05) is not None
    assert parts.needed(1, 0.05) is not None  # for these trainings


def test_more_patients_may_widen_what_trainings_decide_and_the_fewest_are_found_all_the_same():
    parts = Components(1e-3, 1e-4, 1e-4)
    count = parts.needed(3, 0.022)
    assert count is not None
    assert parts.half_width(MOST, 3) > 0.022 >= parts.half_width(count, 3)
