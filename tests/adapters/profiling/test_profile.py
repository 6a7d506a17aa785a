"""Profiles in one pass over Arrow batches, for every column type."""

import decimal
import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tasks.adapters.profiling import profile as profile_module
from tasks.adapters.profiling.columns import constant_share, count_categories, hash_ids, read_numbers, time_bounds
from tasks.adapters.profiling.leakage import find_leaks
from tasks.adapters.profiling.profile import _draw_per_day, freeze_reference, profile_batches, profile_columns
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.profile import MISSING, FeatureCounts, ReferenceProfile, WindowProfile
from tests.support.monitored_model import HISTORY, WINDOW, model, profile, reference, rows


def counts_of(profiled: WindowProfile, feature: str) -> FeatureCounts:
    return next(counts for counts in profiled.features if counts.feature == feature)


def test_profile_does_not_depend_on_batch_size():
    config, table = model(), rows(5000)
    frozen = reference(config)
    complete = profile_batches(table.to_batches(), frozen, config, WINDOW)
    for size in (37, 999, 4999):
        parts = profile_batches(table.slice(7, 1500).to_batches(max_chunksize=size), frozen, config, WINDOW)
        short = profile_batches(table.slice(7, 1500).to_batches(), frozen, config, WINDOW)
        assert [one.counts for one in parts.features] == [one.counts for one in short.features]
        assert parts.rows == short.rows == 1500
    assert counts_of(complete, "amount").mean == pytest.approx(np.mean(table["amount"].to_numpy()))


def test_recounted_reference_is_unchanged():
    config = model()
    table = rows(3000, 99, HISTORY)
    frozen = freeze_reference(table.to_batches(), config, HISTORY, "hash")
    again = profile(config, frozen, table)
    assert [one.counts for one in again.features] == [one.counts.counts for one in frozen.features]
    assert [one.outside for one in again.features] == [0, 0, 0, 0]


def test_days_of_many_rows_are_judged_by_a_part_of_them():
    """Ten days of 3,000 rows and one of 100: 500 of each long day are drawn, all of the short one, in order."""
    days = np.repeat(np.arange("2024-01-01", "2024-01-12", dtype="datetime64[D]"), [3000] * 10 + [100])
    drawn = _draw_per_day(days)
    assert np.unique(days[drawn], return_counts=True)[1].tolist() == [500] * 10 + [100]
    assert (np.diff(drawn) > 0).all() and drawn[0] < 60, "not the first or every other row"
    assert _draw_per_day(days[:500]) is None


def test_edges_of_many_rows_are_chosen_from_a_part_and_the_rows_counted_exactly():
    """A code for missing in 0.1 % of the rows is found; the extremes are edges; each bin holds about as many rows."""
    count, random = 600_000, np.random.default_rng(4)
    amount = random.permutation(np.where(np.arange(count) < 600, -9999.0, random.normal(50, 10, count)))
    frozen = freeze_reference(rows(count, 5, HISTORY, amount=amount).to_batches(), model(), HISTORY, "hash")
    found = next(one for one in frozen.features if one.feature == "amount")
    usual = amount[amount > 0]
    assert (found.sentinel, found.counts.nulls, found.counts.rows) == (-9999.0, 600, count)
    assert (found.counts.minimum, found.counts.maximum) == (usual.min(), usual.max())
    assert found.edges[0] == pytest.approx(usual.min(), rel=2e-6) and found.edges[-1] == pytest.approx(
        usual.max(), rel=2e-6
    )
    assert found.edges[127] == pytest.approx(np.median(usual), abs=0.1) and found.scale == pytest.approx(
        usual.std(), rel=0.01
    )
    inner = np.array(found.counts.counts[1:-2])
    assert inner.sum() > 0.99 * len(usual) and inner.max() < 1.3 * inner.mean()


def test_broken_days_of_one_feature_are_left_out_of_its_reference_alone():
    config, table = model(), rows(3000, 99, HISTORY)
    days = pc.strftime(table[config.columns.time], "%Y-%m-%d").to_numpy(zero_copy_only=False)
    broken = np.unique(days)[5:9]
    wrong = np.where(np.isin(days, broken), 1e6, table["amount"].to_numpy())
    table = table.set_column(table.column_names.index("amount"), "amount", pa.array(wrong))
    frozen = {one.feature: one for one in freeze_reference(table.to_batches(), config, HISTORY, "hash").features}
    assert {name: one.left_out for name, one in frozen.items() if one.left_out} == {"amount": tuple(broken)}
    assert frozen["amount"].counts.rows == (~np.isin(days, broken)).sum()


def test_days_of_the_reference_are_computed_once_for_all_features(monkeypatch):
    """Once per feature, they took a sixth of the time of a replay."""
    computed, days = [], profile_module._days
    monkeypatch.setattr(profile_module, "_days", lambda *columns: computed.append(columns) or days(*columns))
    reference(model())
    assert len(computed) == 1


def test_profiles_round_trip_through_json():
    config = model()
    frozen = reference(config)
    profiled = profile(config, frozen, rows(1000))
    assert from_json(ReferenceProfile, to_json(frozen)) == frozen
    assert from_json(WindowProfile, to_json(profiled)) == profiled


NUMBERS = [1, 0, 1, None, 1]
TYPES = {
    "int64": pa.array(NUMBERS, pa.int64()),
    "uint8": pa.array(NUMBERS, pa.uint8()),
    "double": pa.array(NUMBERS, pa.float64()),
    "float": pa.array(NUMBERS, pa.float32()),
    "bool": pa.array([None if value is None else bool(value) for value in NUMBERS]),
    "decimal": pa.array([None if value is None else decimal.Decimal(value) for value in NUMBERS], pa.decimal128(9, 2)),
    "dictionary": pa.array(NUMBERS, pa.float64()).dictionary_encode(),
    "pandas Int64": pa.array(pd.Series(NUMBERS, dtype="Int64")),
    "pandas Float64": pa.array(pd.Series(NUMBERS, dtype="Float64")),
    "pandas boolean": pa.array(pd.Series(NUMBERS, dtype="boolean")),
    "NaN for null": pa.array([1.0, 0.0, 1.0, float("nan"), 1.0]),
}


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_are_counted_in_every_type(kind: str):
    found = read_numbers(TYPES[kind])
    assert found.values.tolist() == [1, 0, 1, 1]
    assert (found.nulls, found.non_finite, found.unreadable) == (1, 0, 0)


@pytest.mark.parametrize("kind", TYPES)
def test_a_boolean_feature_is_the_same_in_every_type(kind: str):
    assert count_categories(TYPES[kind], boolean=True) == ({"true": 3, "false": 1}, 1, 0)


def test_infinities_and_nan_are_counted_separately():
    found = read_numbers(pa.array([float("inf"), 2.0, float("nan"), float("-inf"), None, 1.0]))
    assert found.values.tolist() == [2, 1]
    assert (found.nulls, found.non_finite) == (2, 2)
    only = read_numbers(pa.array([float("inf"), float("inf")]))
    assert (len(only.values), only.non_finite) == (0, 2)


def test_text_in_numeric_feature_is_unreadable():
    for column in (
        pa.array(["1", None, "x"]),
        pa.array([[1], None, [2]]),
        pa.array(["a", None, "b"]).dictionary_encode(),
    ):
        found = read_numbers(column)
        assert (len(found.values), found.nulls, found.unreadable) == (0, 1, 2)


def test_all_null_columns_hold_only_nulls():
    for kind in (pa.null(), pa.float64(), pa.string(), pa.string_view(), pa.bool_()):
        column = pa.array([None, None], kind)
        assert count_categories(column) == ({}, 2, 0)
        assert read_numbers(column).nulls == 2


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_categories_are_counted_in_every_kind_of_text(kind: pa.DataType):
    column = pa.array(["a", "b", None, "a", ""]).cast(pa.string())
    column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
    assert count_categories(column) == ({"a": 2, "b": 1, "": 1}, 1, 0)


def test_integer_and_float_name_the_same_category():
    assert (
        count_categories(pa.array([1, 2, 2]))[0] == count_categories(pa.array([1.0, 2.0, 2.0]))[0] == {"1": 1, "2": 2}
    )


def test_sliced_arrays_are_read_from_their_offset():
    assert hash_ids(pa.array(["x", "a", "b"])[1:]).tolist() == hash_ids(pa.array(["a", "b"])).tolist()
    assert read_numbers(pa.array([9.0, 1.0, 2.0])[1:]).values.tolist() == [1, 2]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_id_hash_depends_on_text_only(kind: pa.DataType):
    names = [f"AA-{number}" for number in range(20_000)] + ["", "a", "aa", "ab", "ba"]
    hashes = hash_ids(pa.array(names).cast(kind))
    assert hashes.tolist() == hash_ids(pa.array(names)).tolist()
    assert len(set(hashes.tolist())) == len(names)


def test_integer_ids_hash_without_collisions():
    assert len(set(hash_ids(pa.array(range(50_000))).tolist())) == 50_000


def test_times_are_converted_to_utc():
    moment = datetime(2024, 2, 1, 12, tzinfo=UTC)
    zoned = pa.array([moment, moment + timedelta(hours=1)], pa.timestamp("us", "America/New_York"))
    naive = pa.array([moment.replace(tzinfo=None), None], pa.timestamp("ns"))
    assert list(time_bounds(zoned)) == [moment, moment + timedelta(hours=1)]
    assert list(time_bounds(naive)) == [moment, moment]
    assert list(time_bounds(pa.array(["2024-02-01"]))) == []


def test_ids_times_and_columns_of_a_window_are_profiled():
    config = model()
    table = rows(1000)
    again = table.slice(0, 3)
    nulls = rows(2, 5, id=[None, None])
    profiled = profile(config, reference(config), pa.concat_tables([table, again, nulls.cast(table.schema)]))
    assert (profiled.rows, profiled.duplicate_ids, profiled.null_ids) == (1005, 3, 2)
    assert (profiled.oldest, profiled.newest) == (WINDOW.start, table["at"][-1].as_py().replace(tzinfo=UTC))
    assert ("amount", "double") in profiled.columns


def test_a_missing_column_is_profiled_as_missing():
    config = model()
    profiled = profile(config, reference(config), rows(500, amount=None))
    amount = counts_of(profiled, "amount")
    assert (amount.arrow_type, amount.rows, amount.nulls, amount.values) == (MISSING, 500, 500, 0)


def test_empty_batches_profile_no_rows():
    config = model()
    frozen = reference(config)
    for batches in ([], rows(0, at=pa.array([], pa.timestamp("us", "UTC"))).to_batches()):
        profiled = profile_batches(batches, frozen, config, WINDOW)
        assert (profiled.rows, profiled.oldest) == (0, None)


def test_a_reference_without_a_feature_is_refused():
    with pytest.raises(ValueError, match=r"column age is missing, found id, at, .* expected every feature"):
        freeze_reference(rows(10, age=None).to_batches(), model(), HISTORY, "hash")


def test_configured_bounds_and_categories_are_counted():
    config = model(quality={"columns": {"age": {"range": {"max": 50}}, "country": {"categories": ["DE", "FR"]}}})
    table = rows(1000, country=["IT"] * 10 + ["DE"] * 990, age=[51.0] * 7 + [20.0] * 993)
    profiled = profile(config, reference(config), table)
    assert counts_of(profiled, "country").outside == 10
    assert counts_of(profiled, "age").outside == 7


def test_sample_is_bounded_reproducible_and_uniform(tmp_path):
    config = model(drift={"sample_rows": 500}, columns={"personal": ["age"]})
    frozen = reference(config)
    table = rows(10_000, amount=np.arange(10_000.0))
    seen = []
    for name in ("a", "b"):
        profiled = profile(config, frozen, table, sample_path=tmp_path / name)
        seen.append(pq.read_table(profiled.sample_uri))
    assert seen[0].equals(seen[1])
    assert seen[0].num_rows == 500
    assert seen[0].column_names == ["amount", "country", "member"]  # neither id, time nor personal columns
    amounts = seen[0]["amount"].to_numpy()
    assert len(set(amounts)) == 500
    assert amounts.mean() == pytest.approx(5000, abs=4 * 2887 / 500**0.5)


def test_memory_does_not_grow_with_rows(tmp_path):
    """Ten times the batches, the same peak (except ids, which take 8 B per row here and at most 16 MB)."""
    config = model()
    frozen = reference(config)
    batch = rows(5_000).to_batches()[0]
    peaks = []
    for repeats in (4, 40):
        tracemalloc.start()
        profile_batches((batch for _ in range(repeats)), frozen, config, WINDOW, tmp_path / "sample")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 36 * 5_000 * 8 * 3 + 500_000


def labelled(**replaced) -> pa.Table:
    return rows(2000, churned=np.random.default_rng(3).integers(0, 2, 2000), **replaced)


def test_leaking_feature_is_found_by_value():
    config, label = model(), np.random.default_rng(3).integers(0, 2, 2000)
    assert find_leaks(labelled(), config) == ()
    assert "amount determines the label churned" in find_leaks(labelled(amount=label * 10.0 + 1), config)[0]
    assert "country determines" in find_leaks(labelled(country=np.where(label, "left", "stayed")), config)[0]
    assert "member determines" in find_leaks(labelled(member=label == 0), config)[0]
    nearly = label.copy()
    nearly[0] = 1 - nearly[0]
    assert find_leaks(labelled(amount=nearly * 10.0), config) == ()


def test_leaking_feature_is_found_by_name():
    config = model({"numeric": ["amount", "CHURNED_"], "categorical": [], "boolean": []})
    assert "CHURNED_ has the name of the label churned" in find_leaks(rows(10), config)[0]


def test_linear_leak_is_found_in_regression():
    config = model(task="regression", performance={"metric": "mae"}, columns={"label": "price"})
    amount = rows(2000)["amount"].to_numpy()
    noisy = amount + np.random.default_rng(0).normal(0, 5, 2000)
    assert "amount determines" in find_leaks(rows(2000, price=3 * amount - 2), config)[0]
    assert find_leaks(rows(2000, price=noisy), config) == ()


def test_freezing_finds_leaks():
    label = np.random.default_rng(3).integers(0, 2, 2000)
    frozen = freeze_reference(labelled(amount=label * 2.0).to_batches(), model(), HISTORY, "hash")
    assert len(frozen.leaking) == 1


def test_column_groups_give_the_same_profile_and_sample(tmp_path):
    wide = {"numeric": [f"n{number}" for number in range(40)], "categorical": ["country"], "boolean": ["member"]}
    config, random = model(wide, drift={"sample_rows": 200}), np.random.default_rng(0)
    frozen = reference(config, **{name: random.normal(0, 1, 10_000) for name in wide["numeric"]})
    table = rows(3000, **{name: np.arange(3000.0) + number for number, name in enumerate(wide["numeric"])})
    asked = []

    def read(columns):
        asked.append(columns)
        return table.select(columns).to_batches(max_chunksize=700)

    grouped = profile_columns(read, frozen, config, WINDOW, tmp_path / "grouped")
    at_once = profile(config, frozen, table, sample_path=tmp_path / "at_once")
    assert len(asked) == 3 and sorted(name for names in asked for name in names) == sorted(
        {*table.column_names} - {"amount", "age"}
    )
    assert grouped.features == at_once.features
    assert (grouped.rows, grouped.duplicate_ids, grouped.newest) == (at_once.rows, 0, at_once.newest)
    assert sorted(grouped.columns) == sorted(set(at_once.columns) - {("amount", "double"), ("age", "int64")})
    sampled = pq.read_table(grouped.sample_uri)
    assert sampled.equals(pq.read_table(at_once.sample_uri).select(sampled.column_names))
    assert (sampled["n39"].to_numpy() - sampled["n0"].to_numpy() == 39).all()  # rows stay together across groups


def test_profile_without_unsampleable_columns(tmp_path):
    config = model(drift={"sample_rows": 100})
    table = rows(500).append_column("amount", pa.array(np.zeros(500)))
    profiled = profile(config, reference(config), table, sample_path=tmp_path / "sample")
    assert pq.read_schema(profiled.sample_uri).names == ["age", "country", "member"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, 1.0, 2.0, 2.0, 3.0, 4.0]),
        pa.array(["a", "a", "b", "b", "c", "d"]),
        pa.array(["a", "a", "b", "b", "c", "d"], pa.string_view()),
        pa.array(["a", "a", "b", "b", "c", "d"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
        pa.array([True, True, False, False, True, False]),
        pa.array([1, 1, 2, 2, 3, 4], pa.decimal128(5, 2)),
        pa.array([None, 1.0, 2.0, 2.0, 3.0, 4.0]),
    ],
    ids=lambda column: str(column.type),
)
def test_windows_with_one_value_are_counted_for_every_type(column):
    """Of three windows of two rows; a window with one value only says nothing."""
    places = np.array([0, 0, 1, 1, 2, 2], np.int32)
    chunks = pa.chunked_array([column.slice(0, 3), column.slice(3)])
    expected = 2 / 3 if column.null_count == 0 else 1 / 2
    assert constant_share(chunks, places) == pytest.approx(expected)
    assert constant_share(chunks, np.full(6, -1, np.int32)) == 0
    assert constant_share(pa.chunked_array([pa.array([[1], [1]])]), np.zeros(2, np.int32)) == 0
