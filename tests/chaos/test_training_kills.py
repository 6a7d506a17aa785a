"""A training that is killed 20 times ends in the same model as one that is not."""

import pytest

from tests.chaos.training_kills import TRAININGS, run_kills


@pytest.mark.slow("kills 20 trainings at random rounds, for each place of the checkpoints")
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_killed_20_times_ends_in_the_same_model(name):
    assert run_kills(name).problems == ()
