"""A future `until` is refused for live data, because windows are read once."""

from datetime import timedelta

import pytest

from flows.parameters import present, wall_clock
from tasks.policy.records.errors import TimeAhead
from tests.support.monitored_model import HISTORY, model

DAY = timedelta(days=1)


@pytest.mark.parametrize("ahead", [timedelta(minutes=6), timedelta(hours=14), 365 * 1000 * DAY])
def test_time_ahead_is_refused_for_a_live_model(ahead):
    with pytest.raises(TimeAhead, match=r"^churn: until is .* UTC, expected no later than now, .* UTC; .*period\.end"):
        present(model(), wall_clock() + ahead)


def test_small_clock_differences_are_accepted():
    moment = wall_clock() + timedelta(minutes=4)
    assert present(model(), moment) == moment
    assert abs(present(model(), None) - wall_clock()) < timedelta(minutes=1)


@pytest.mark.parametrize("years", [-1, 10])
def test_recorded_data_may_end_in_the_future(years):
    end = wall_clock() + years * 365 * DAY
    recorded = model(period={"start": HISTORY.start, "history_until": HISTORY.end, "end": end})
    assert present(recorded, end - DAY) == end - DAY
    assert present(recorded, end + 365 * DAY) == end
