"""A future `until` is refused for live data, because windows are read once."""

from datetime import timedelta

import pytest

from flows.parameters import resolve_as_of, wall_clock
from tasks.policy.records.errors import TimeAhead
from tests.support.monitored_model import HISTORY, model

DAY = timedelta(days=1)


@pytest.mark.parametrize("ahead", [timedelta(minutes=6), timedelta(hours=14), 365 * 1000 * DAY])
def test_time_ahead_is_refused_for_a_live_model(ahead):
    with pytest.raises(TimeAhead, match=r"^churn: until is .* UTC, expected no later than now, .* UTC; .*period\.end"):
        resolve_as_of(model(), wall_clock() + ahead)


def test_small_clock_differences_are_accepted():
    moment = wall_clock() + timedelta(minutes=4)
    assert resolve_as_of(model(), moment) == moment
    assert abs(resolve_as_of(model(), None) - wall_clock()) < timedelta(minutes=1)


@pytest.mark.parametrize("years", [-1, 10])
def test_recorded_data_may_end_in_the_future(years):
    end = wall_clock() + years * 365 * DAY
    recorded = model(period={"start": HISTORY.start, "history_until": HISTORY.end, "end": end})
    assert resolve_as_of(recorded, end - DAY) == end - DAY
    assert resolve_as_of(recorded, end + 365 * DAY) == end
