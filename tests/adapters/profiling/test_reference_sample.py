"""The sample of training rows for Evidently: bounded, without personal features, and drawn from the window's phase."""

import numpy as np

from tasks.adapters.profiling import reference_sample
from tasks.adapters.profiling.binned_rows import draw_rows
from tasks.adapters.profiling.reference_sample import ROWS, draw_sample, from_parquet, to_parquet
from tests.support.monitored_model import HISTORY, model, reference, rows

COUNT = 30_000


def drawn(config=None):
    config = config or model()
    frozen, table = reference(config, COUNT), rows(COUNT, 99, HISTORY)
    return draw_sample(config, frozen, table), draw_rows(config, frozen, table), frozen


def test_sample_is_bounded_and_round_trips():
    sample, _, _ = drawn()
    again = from_parquet(to_parquet(sample))
    assert sample.rows.num_rows == ROWS and again.rows.equals(sample.rows)
    assert (again.places == sample.places).all() and (again.hours == sample.hours).all()


def test_a_wide_table_keeps_fewer_rows(monkeypatch):
    monkeypatch.setattr(reference_sample, "CELLS", 4000)
    assert drawn()[0].rows.num_rows == 1000


def test_sample_rows_match_the_binned_rows():
    sample, coded, frozen = drawn()
    edges = next(one.edges for one in frozen.features if one.feature == "amount")
    bins = np.searchsorted(edges, sample.rows.column("amount").to_numpy())
    assert (bins == coded.codes["amount"][sample.places]).all()
    assert (coded.hours[sample.places] == sample.hours).all()


def test_personal_features_and_the_id_are_left_out():
    sample, _, _ = drawn(model(columns={"personal": ["country"]}))
    assert sample.rows.column_names == ["amount", "age", "member"]


def test_draw_is_bounded_and_seeded():
    sample, _, _ = drawn()
    first, again, other = sample.draw(500, 1), sample.draw(500, 1), sample.draw(500, 2)
    assert first.rows.num_rows == 500 and first.rows.equals(again.rows) and not first.rows.equals(other.rows)
    assert len(set(first.places)) == 500


def test_weights_choose_phase_and_effective_rows():
    sample, coded, _ = drawn()
    early = coded.hours < np.median(coded.hours)
    half = sample.draw(ROWS, 1, early.astype(float))
    assert abs(half.rows.num_rows - ROWS / 2) < 10 and early[half.places].all()
    heavier = sample.draw(ROWS, 1, np.where(early, 3.0, 1.0))
    assert abs(early[heavier.places].mean() - 0.75) < 0.02
    assert sample.draw(ROWS, 1, np.zeros(len(coded))).rows.num_rows == 0


def test_days_match_the_reference_names():
    sample, _, _ = drawn()
    assert sample.days[0] == "2024-01-01" and sample.days[-1] == "2024-01-31"
