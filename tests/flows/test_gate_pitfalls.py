"""Known pitfalls of Evidently and Great Expectations on values and types; our gate avoids them."""

from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.support.monitored_model import COUNT, amounts, broken, drift_of, judge, model, reference, rows, with_share


@pytest.fixture
def judged(tmp_path):
    return partial(judge, tmp_path)


def test_an_ordinary_window_passes_and_is_stable(judged):
    quality, drift = judged(recent_rows=(1900, 2100))
    assert (quality.verdict, broken(quality), quality.failing_rows) == ("pass", set(), 0)
    assert (drift.verdict, drift.drifted_share) == ("stable", 0)


def test_nulls_from_0_to_60_percent_fail_and_drift(judged):
    """Evidently drops nulls before it tests."""
    quality, drift = judged(amount=with_share(amounts(), 0.6, None))
    assert broken(quality) == {("null share", "amount")} and quality.verdict == "fail"
    assert quality.failing_rows == 1200
    assert quality.reasons == (
        "amount values must not be null, at least 90 % of the time; found otherwise in 1,200 of 2,000 rows (60 %) "
        "(null share)",
    )
    assert (drift_of(drift, "amount").verdict, drift_of(drift, "amount").method) == ("drifted", "null share psi")


def test_nulls_within_their_limit_pass(judged):
    assert judged(amount=with_share(amounts(), 0.0995, None)).quality.verdict == "pass"
    own = model(quality={"columns": {"amount": {"max_null_share": 0.05}}})
    assert broken(judged(own, amount=with_share(amounts(), 0.0995, None)).quality) == {("null share", "amount")}


def test_infinite_values_fail_and_many_of_them_drift(judged):
    """Evidently drops them; a half-open between of Great Expectations passes them."""
    one = amounts()
    one[5] = float("inf")
    quality, drift = judged(amount=one)
    assert broken(quality) == {("finite values", "amount")} and quality.failing_rows == 1
    assert drift_of(drift, "amount").verdict == "stable"
    half_bounded = model(quality={"columns": {"amount": {"range": {"min": 0}}}})
    quality, drift = judged(half_bounded, amount=with_share(amounts(), 0.3, float("inf")))
    assert ("finite values", "amount") in broken(quality)
    assert drift_of(drift, "amount").method == "infinite share psi"


@pytest.mark.parametrize("method", ["psi", "ks", "kl", "wasserstein"])
def test_single_extreme_value_neither_hides_nor_causes_drift(judged, method):
    """With equal-width bins, one such value turns a PSI of 3.9 into 0.0001."""
    config = model(drift={"method": method, "threshold": 0.15})
    moved = [value + 300 for value in amounts()]
    moved[0] = 1e6
    assert drift_of(judged(config, amount=moved).drift, "amount").verdict == "drifted"
    still = amounts()
    still[0] = 1e6
    assert drift_of(judged(config, amount=still).drift, "amount").verdict == "stable"


DTYPES = {
    "nullable Float64": lambda values: pa.array(pd.Series(values, dtype="Float64")),
    "nullable Int64": lambda values: pa.array(pd.Series(values).round().astype("Int64")),
    "uint8": lambda values: pa.array(np.clip(values, 0, 255).astype(np.uint8)),
    "Arrow double": lambda values: pa.array(values, pa.float64()),
    "float32": lambda values: pa.array(np.array(values, dtype=np.float32)),
    "dictionary": lambda values: pa.array(values).dictionary_encode(),
    "decimal": lambda values: pa.array(values).cast(pa.decimal128(18, 6), safe=False),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_numeric_type_is_monitored(judged, dtype):
    """Evidently treats nullable, uint8 and Arrow types as unknown and skips them."""
    quality, drift = judged(amount=DTYPES[dtype](amounts()))
    assert quality.verdict == "pass" and drift_of(drift, "amount").verdict == "stable"
    moved = drift_of(judged(amount=DTYPES[dtype]([value * 0.3 for value in amounts()])).drift, "amount")
    assert moved.verdict == "drifted" and moved.mean_shift_sigma < -0.5


def test_nullable_booleans_are_monitored(judged):
    plain = rows()["member"].to_pylist()
    assert judged(member=pa.array(pd.Series(plain, dtype="boolean"))).quality.verdict == "pass"
    drift = judged(member=pa.array(pd.Series([True] * COUNT, dtype="boolean"))).drift
    assert drift_of(drift, "member").verdict == "drifted"


@pytest.mark.parametrize("nothing", [pa.nulls(COUNT), pa.nulls(COUNT, pa.float64()), pa.nulls(COUNT, pa.string())])
@pytest.mark.parametrize("feature", ["amount", "country", "member"])
def test_all_null_column_fails_and_drifts(judged, feature, nothing):
    """It passes between, in-set and unique in Great Expectations, and makes Evidently raise."""
    quality, drift = judged(**{feature: nothing})
    assert quality.verdict == "fail" and ("null share", feature) in broken(quality)
    assert drift_of(drift, feature).verdict == "drifted"


def test_low_cardinality_number_stays_numeric(judged):
    """Evidently treats an integer with at most 10 distinct values in current as a category."""
    drift = drift_of(judged(age=[18 + number % 3 for number in range(COUNT)]).drift, "age")
    assert drift.kind == "numeric" and drift.method == "wasserstein" and drift.verdict == "drifted"


@pytest.mark.parametrize("count", [900, 1100])
def test_score_is_consistent_around_1000_reference_rows(judged, count):
    """Without a method, Evidently's score is a p-value up to 1000 rows and a distance above."""
    config = model()
    frozen = reference(config, count)
    moved = drift_of(judged(config, frozen, amount=[value * 3 for value in amounts()]).drift, "amount")
    still = drift_of(judged(config, frozen).drift, "amount")
    assert (moved.method, still.method) == ("wasserstein", "wasserstein")
    assert moved.effect_size > 1 > 0.1 > still.effect_size


def test_unseen_category_drifts_by_its_share(judged):
    """χ² on the plain table gives p = 0 for one row."""
    names = rows()["country"].to_pylist()
    quality, drift = judged(country=["XX", *names[1:]])
    assert quality.verdict == "pass"
    assert drift_of(drift, "country").p_value > 0.01 and drift_of(drift, "country").verdict == "stable"
    quality, drift = judged(country=with_share(names, 0.11, "XX"))
    assert broken(quality) == {("known categories", "country")}
    assert drift_of(drift, "country").verdict == "drifted" and drift_of(drift, "country").unseen_share == 0.11


def test_a_number_that_turns_into_text_fails_and_drifts(judged):
    quality, drift = judged(amount=[str(value) for value in amounts()])
    assert {("type", "amount"), ("readable values", "amount")} <= broken(quality)
    assert drift_of(drift, "amount").method == "unreadable share psi"


def test_a_category_that_turns_into_a_number_fails(judged):
    assert ("type", "country") in broken(judged(country=np.zeros(COUNT)).quality)


def test_stuck_sensor_fails_and_frequent_value_warns(judged):
    config = model()
    quality = judged(config, amount=[100.0] * COUNT).quality
    assert broken(quality) == {("varying values", "amount")} and quality.verdict == "fail"
    rain = reference(config, amount=np.where(np.arange(10_000) % 10, 0.0, 5.0))
    assert judged(config, rain, amount=np.zeros(COUNT)).quality.verdict == "warn"
    constant = reference(config, amount=np.zeros(10_000))
    assert judged(config, constant, amount=np.zeros(COUNT)).quality.verdict == "pass"


@pytest.mark.parametrize(("days", "verdict"), [(10, "pass"), (6, "warn"), (1, "fail")])
def test_a_season_may_fill_a_window_and_a_sensor_may_not(judged, days, verdict):
    """A value that lasts 10 days fills half of the reference's windows of 5 days, one of 6 days a third, one day none."""
    config = model()
    frozen = reference(config, amount=np.arange(10_000) * 31 // 10_000 // days * 1.0)
    assert judged(config, frozen, amount=np.ones(COUNT)).quality.verdict == verdict


def test_values_out_of_range_fail_by_share(judged):
    assert judged(age=with_share([40.0] * 1000 + [50.0] * 1000, 0.0095, 500.0)).quality.verdict == "pass"
    assert broken(judged(age=with_share([40.0] * 1000 + [50.0] * 1000, 0.0105, 500.0)).quality) == {
        ("accepted range", "age")
    }


def test_a_column_may_be_set_to_warn_only(judged):
    config = model(quality={"columns": {"amount": {"on_failure": "warn"}}})
    quality = judged(config, amount=with_share(amounts(), 0.6, None)).quality
    assert quality.verdict == "warn" and broken(quality) == {("null share", "amount")}
