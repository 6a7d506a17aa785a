"""The demo's flights: single flights by hand, and features known before departure only."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from deployments.config.loading import load_model_config
from tasks.adapters.sources.nycflights import SCHEMA, _recorded_year, read_flights
from tasks.adapters.sources.read import read_labels, read_window
from tasks.policy.records.base import Window, WindowGrid

YEAR = (datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC))


def flight(flight_id: str) -> dict[str, Any]:
    table = read_flights(*YEAR)
    (row,) = table.filter(pc.equal(table["flight_id"], flight_id)).to_pylist()
    return dict(row)


def test_first_flight_of_the_year_by_hand() -> None:
    """UA 1545, EWR 5:15 to Houston 8:19 local (9:19 in New York): 4 h 4 min. 10:15 UTC, and 11 minutes late."""
    row = flight("2013-01-01T0515-UA1545-EWR-IAH")
    assert row["scheduled_departure"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert (row["scheduled_minutes"], row["departure_hour"], row["day_of_year"]) == (244.0, 5.25, 1)
    assert (row["weekday"], row["carrier"], row["origin"], row["destination"]) == ("Tuesday", "UA", "EWR", "IAH")
    assert (row["distance"], row["air_time"], row["arrives_late"]) == (1400.0, 227.0, 0)


def test_weather_is_of_origin_at_scheduled_departure() -> None:
    """weather.csv, EWR, 2013-01-01T10:00:00Z: 39.02 °F, dew point 28.04, 64.43 %, wind 260° at 12.65858 mph."""
    row = flight("2013-01-01T0515-UA1545-EWR-IAH")
    assert (row["temperature"], row["dew_point"], row["humidity"]) == (39.02, 28.04, 64.43)
    assert (row["wind_direction"], row["wind_speed"]) == (260.0, 12.65858)


def test_scheduled_minutes_go_over_midnight_and_time_zones() -> None:
    """Block times lie between a flight to Boston and one to Honolulu; the median one exceeds the air time by 36 min."""
    table = read_flights(*YEAR)
    assert pc.min_max(table["scheduled_minutes"]).as_py() == {"min": 50.0, "max": 700.0}
    padding = pc.subtract(table["scheduled_minutes"], table["air_time"])
    assert pc.approximate_median(padding).as_py() == pytest.approx(36, abs=1)
    for destination in ("SJU", "HNL", "PHX", "LAX"):
        there = pc.equal(table["destination"], destination)
        assert pc.approximate_median(padding.filter(there)).as_py() == pytest.approx(36, abs=15), destination


def test_evening_flight_belongs_to_next_utc_day() -> None:
    evening = read_flights(datetime(2013, 7, 2, 0, tzinfo=UTC), datetime(2013, 7, 2, 3, tzinfo=UTC))
    assert evening.num_rows > 0
    assert all(name.startswith("2013-07-01T2") for name in evening["flight_id"].to_pylist())


def test_year_is_complete_without_overlaps_or_gaps() -> None:
    year = read_flights(*YEAR)
    assert year.num_rows == 336_776
    assert pc.count_distinct(year["flight_id"]).as_py() == 336_776
    assert sum(read_flights(w.start, w.end).num_rows for w in WindowGrid(YEAR[0], 1).between(*YEAR)) == 336_776
    assert year.schema == SCHEMA


def test_late_means_more_than_15_minutes_and_cancelled_flights_have_no_label() -> None:
    """flights.csv has arr_delay null for 9,430 flights and > 15 for 77,630."""
    table = read_flights(*YEAR)
    assert (table["arrives_late"].null_count, table["air_time"].null_count) == (9430, 9430)
    assert pc.sum(table["arrives_late"]).as_py() == 77_630


@pytest.mark.parametrize("name", ["flight_delay", "air_time"])
def test_both_models_read_their_columns_and_late_labels(name: str) -> None:
    config = load_model_config(name)
    window = Window(datetime(2013, 5, 1, tzinfo=UTC), datetime(2013, 5, 6, tzinfo=UTC))
    rows, labels = read_window(config, window), read_labels(config, window)
    assert rows.num_rows == 4562
    assert not {"arrives_late", "air_time"} & set(rows.column_names)
    assert 4000 < labels.num_rows < 4562
    assert pc.all(pc.equal(labels["label_at"], pc.add(labels[1], timedelta(days=1)))).as_py()


def test_second_process_uses_the_cache(workspace: Path) -> None:
    _recorded_year.cache_clear()
    begun = time.process_time()
    read_flights(*YEAR)
    parsing_s = time.process_time() - begun
    (cached,) = (workspace / "cache").glob("*.parquet")
    program = (
        "import time, sys; from datetime import datetime, UTC; from tasks.adapters.sources.nycflights import read_flights\n"
        "start = time.process_time()\n"
        "n = read_flights(datetime(2013, 5, 1, tzinfo=UTC), datetime(2013, 5, 6, tzinfo=UTC)).num_rows\n"
        "print(n, time.process_time() - start, 'pandas' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    rows, cpu_s, parsed = done.stdout.split()
    assert (rows, parsed) == ("4562", "False")
    assert float(cpu_s) < parsing_s / 4  # about a fortieth of the time
    assert cached.stat().st_size < 20_000_000


def test_cached_window_is_read_in_milliseconds(workspace: Path) -> None:
    _recorded_year.cache_clear()
    start = time.process_time()
    read_flights(*YEAR)
    parsing_s = time.process_time() - start
    start = time.process_time()
    for window in WindowGrid(YEAR[0], 5).between(*YEAR):
        read_flights(window.start, window.end)
    assert time.process_time() - start < parsing_s / 4  # all 73 of them
