"""Thinned rows are spread over all rows and meet every phase of a regular rhythm."""

import numpy as np
import pytest

from tasks.policy.statistics.resampling import thin


@pytest.mark.parametrize("step", [2, 3, 4, 6, 8, 12, 24])
def test_rows_of_regular_times_are_drawn_at_every_hour(step):
    hours = thin(24 * 200, step, seed=1) % 24
    assert len(hours) == 24 * 200 // step
    assert np.bincount(hours, minlength=24).min() > 0.4 * len(hours) / 24


@pytest.mark.parametrize(("count", "step"), [(0, 4), (1, 4), (10, 4), (12, 4), (7, 1)])
def test_one_row_is_drawn_of_each_group(count, step):
    places = thin(count, step, seed=3)
    assert (places // step).tolist() == list(range(-(-count // step)))
    assert all(0 <= place < count for place in places)
