"""Coded training rows: counts equal to the profile, round trip, and no personal features."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.profiling import binned_rows as coded_rows
from tasks.adapters.profiling.profile import profile_batches
from tasks.policy.records.binned_rows import counts_of
from tests.support.monitored_model import HISTORY, WINDOW, model, reference, rows

CONFIG = model()


def test_codes_match_the_profile():
    frozen = reference(CONFIG)
    window = rows(3000, 5, country=["DE", "XX", None] * 1000, amount=[1.0, np.inf, None] * 1000)
    profiled = profile_batches(window.to_batches(), frozen, CONFIG, WINDOW)
    coded = coded_rows.code_rows(CONFIG, frozen, window)
    for one, counted in zip(frozen.features, profiled.features, strict=True):
        found = counts_of(one, coded.codes[one.feature], np.ones(len(coded)))
        assert found.tolist() == [*counted.counts, counted.nulls, counted.non_finite]


@pytest.mark.parametrize("kind", [pa.int32(), pa.float32(), pa.decimal128(12, 4)])
def test_number_has_the_same_code_in_every_type(kind):
    frozen = next(one for one in reference(CONFIG).features if one.feature == "age")
    ages = pa.array(np.arange(18.0, 90.0))
    plain = coded_rows.code_feature(ages, frozen)
    assert coded_rows.code_feature(ages.cast(kind), frozen).tolist() == plain.tolist()
    assert coded_rows.code_feature(ages.dictionary_encode(), frozen).tolist() == plain.tolist()


def test_invalid_values_are_missing():
    frozen = {one.feature: one for one in reference(CONFIG).features}
    for name, column in (("age", pa.array(["x", "y"])), ("country", pa.array([["DE"], ["FR"]])), ("age", pa.nulls(2))):
        missing = len(frozen[name].counts.counts)
        assert coded_rows.code_feature(column, frozen[name]).tolist() == [missing, missing]
    assert coded_rows.code_feature(pa.array([], pa.string()), frozen["country"]).tolist() == []
    assert coded_rows.code_feature(pa.array([None], pa.string()), frozen["country"]).tolist() == [4]


def test_coded_rows_round_trip():
    frozen = reference(CONFIG)
    drawn = coded_rows.draw_rows(CONFIG, frozen, rows(3000, 1, HISTORY))
    back = coded_rows.from_parquet(coded_rows.to_parquet(drawn))
    assert back.hours.tolist() == drawn.hours.tolist()
    assert {name: codes.tolist() for name, codes in back.codes.items()} == {
        name: codes.tolist() for name, codes in drawn.codes.items()
    }
    assert back.hours[0] == int(HISTORY.start.timestamp()) // 3600


def test_rows_are_bounded_without_personal_features(monkeypatch):
    monkeypatch.setattr(coded_rows, "CELLS", 400)
    private = model(columns={"personal": ["age"]})
    drawn = coded_rows.draw_rows(private, reference(private), rows(3000, 1, HISTORY))
    assert len(drawn) == 100
    assert set(drawn.codes) == {"amount", "country", "member"}
