"""Evidence of a rollout from the prediction log: roles stay apart, and immature labels do not count."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.evaluation.prediction_log import read_logged
from tasks.adapters.evaluation.rollout_evidence import assigned_units, measure_answers, measure_labelled, read_arms
from tasks.adapters.evaluation.rollout_labels import LabelledSpan, labelled_arms, labelled_pairs
from tasks.adapters.lake.schemas import conform_labels
from tasks.policy.comparison.guardrails import Guardrails, judge_guardrails
from tasks.policy.evidence.validation import PredictionHistogram, ValidationReport
from tasks.policy.records.base import Window
from tasks.policy.records.reports import LatencyComparison
from tasks.policy.rollout.state import Rollout, RolloutState, RolloutStep
from tasks.policy.rollout.validation import ValidationPolicy
from tests.support.monitored_model import WINDOW, model, rows
from tests.support.trained_models import prepare_registry

CONFIG = model(task="regression", performance={"metric": "mae"}, columns={"label_delay_hours": 24})
SECOND = WINDOW.next()
SPAN = Window(WINDOW.start, SECOND.end)
ROLLOUT = Rollout("d2", "2", "1", (RolloutStep("shadow", 0.0), RolloutStep("canary", 0.1)), None, "salt", WINDOW.start)
CANARY = ROLLOUT.steps[1].name
COUNT = 400
VALIDATION = ValidationReport(
    "2",
    "1",
    "pass",
    (),
    (),
    1000,
    challenger_predictions=PredictionHistogram("2", (40.0, 60.0), (0.3, 0.3, 0.4), 1000),
    champion_predictions=PredictionHistogram("1", (50.0,), (0.5, 0.5), 1000),
)


def land(config: ModelConfig, window: Window, labelled_until: Any = None, seed: int = 0) -> pa.Table:
    """Land rows whose label is their age; labels of rows until `labelled_until` are known a day later."""
    table = rows(COUNT, seed, window)
    lake.land_rows(config, window, table)
    labels = table.select(["id", "at"]).append_column("churned", table["age"])
    if labelled_until is not None:
        labels = labels.filter(pa.compute.less(labels["at"], pa.scalar(labelled_until, labels["at"].type)))
    lake.land_labels(config, conform_labels(config, labels, "test"), window.end + timedelta(days=1))
    return table


def log(window: Window, version: str, table: pa.Table, off_by: float | np.ndarray, **columns: Any) -> None:
    """Log predictions that miss the label by `off_by`; a column is one value for all rows, or a list."""
    further = {
        name: values if isinstance(values, list | pa.Array) else [values] * len(table)
        for name, values in columns.items()
    }
    predicted = table["age"].to_numpy() + off_by
    answers = {"id": table["id"], "time": table["at"], "prediction": pa.array(predicted, pa.float64())}
    lake.land_predictions(CONFIG, window, version, pa.table(answers | further))


def shadowed(window: Window, table: pa.Table) -> None:
    log(window, "1", table, 2.0, role="champion", step="shadow")
    log(window, "2", table, 1.0, role="shadow", step="shadow")


def canary(window: Window, table: pa.Table, served: int = 100) -> None:
    """The challenger serves the first rows, the champion the others."""
    log(window, "2", table.slice(0, served), 1.0, role="challenger", step=CANARY)
    log(window, "1", table.slice(served), 2.0, role="champion", step=CANARY)


def test_shadow_rows_are_never_the_champions_performance():
    table = land(CONFIG, WINDOW)
    log(WINDOW, "2", table, 1.0, role="shadow", step="shadow")
    log(WINDOW, "1", table.slice(0, 150), 2.0, role="champion", step="shadow")
    logged = read_logged(CONFIG, WINDOW, WINDOW.end + timedelta(days=2))
    assert (logged.version, len(logged.y_pred)) == ("1", 150)
    y_true, y_pred = logged.labelled
    np.testing.assert_allclose(y_pred - y_true, 2.0)


def test_most_rows_of_a_canary_are_not_the_champions():
    """With more than half of the traffic, the challenger used to be measured as the champion."""
    canary(WINDOW, land(CONFIG, WINDOW), served=300)
    logged = read_logged(CONFIG, WINDOW, WINDOW.end + timedelta(days=2))
    assert (logged.version, len(logged.y_pred)) == ("1", 100)


def test_a_window_that_only_the_challenger_predicted_has_no_champion():
    log(WINDOW, "2", land(CONFIG, WINDOW), 1.0, role="shadow", step="shadow")
    assert read_logged(CONFIG, WINDOW, WINDOW.end).version == "none"


def test_rows_without_a_role_are_the_champions():
    table = land(CONFIG, WINDOW)
    log(WINDOW, "1", table, 2.0)
    log(WINDOW, "2", table, 1.0, role="shadow")
    arms = read_arms(CONFIG, WINDOW, "1", "2")
    assert list(map(len, arms)) == [COUNT, COUNT]
    assert read_logged(CONFIG, WINDOW, WINDOW.end).version == "1"


def test_refused_rows_have_no_performance():
    table = land(CONFIG, WINDOW)
    errors = pa.array(["ValueError"] * 100 + [None] * 300, pa.string())
    log(WINDOW, "1", table, 2.0, role="champion", error=errors)
    assert len(read_logged(CONFIG, WINDOW, WINDOW.end).y_pred) == 300
    assert len(read_arms(CONFIG, WINDOW, "1", "2").champion) == COUNT


def test_no_traffic_gives_no_evidence():
    log(WINDOW, "1", land(CONFIG, WINDOW), 2.0, role="champion")
    assert measure_answers(CONFIG, WINDOW, VALIDATION) is None
    assert measure_answers(CONFIG, SECOND, VALIDATION) is None


def test_answers_of_both_arms_are_measured_apart():
    table = land(CONFIG, WINDOW)
    ages = table["age"].to_numpy()
    errors = pa.array(["ValueError"] * 10 + [None] * 90, pa.string())
    seconds = [0.1] * 90 + [0.5] * 10
    log(WINDOW, "2", table.slice(0, 100), 1.0, role="challenger", step=CANARY, error=errors, latency_s=seconds)
    log(WINDOW, "1", table.slice(100), 2.0, role="champion", step=CANARY, latency_s=0.1)
    found = measure_answers(CONFIG, WINDOW, VALIDATION)
    assert (found.challenger.version, found.challenger.rows, found.challenger.refused) == ("2", 100, 10)
    assert (found.champion.version, found.champion.rows, found.champion.refused) == ("1", 300, 0)
    assert (found.challenger.missing, found.challenger.timed, found.champion.latency_p95_s) == (0, 100, 0.1)
    assert found.challenger.latency_p95_s == pytest.approx(np.quantile(seconds, 0.95))
    own = ages[10:100] + 1.0
    expected = [np.mean(own <= 40), np.mean((own > 40) & (own <= 60)), np.mean(own > 60)]
    np.testing.assert_allclose(found.challenger.histogram, expected)
    assert found.challenger.most_common_share == np.unique(own, return_counts=True)[1].max() / 90


def test_a_challenger_that_fails_on_every_row_is_returned():
    table = land(CONFIG, WINDOW)
    log(WINDOW, "1", table, 2.0, role="champion")
    failed = {"id": table["id"], "time": table["at"], "prediction": pa.nulls(COUNT, pa.float64())}
    lake.land_predictions(
        CONFIG, WINDOW, "2", pa.table(failed | {"role": ["shadow"] * COUNT, "error": ["MemoryError"] * COUNT})
    )
    found = measure_answers(CONFIG, WINDOW, VALIDATION)
    assert (found.challenger.refused, found.challenger.missing) == (COUNT, 0)
    assert {breach.guardrail for breach in judge_guardrails(Guardrails(), found)} == {"errors"}


def test_predictions_that_are_not_finite_are_missing():
    table = land(CONFIG, WINDOW)
    log(WINDOW, "1", table, 2.0, role="champion")
    log(WINDOW, "2", table, float("nan"), role="shadow")
    found = measure_answers(CONFIG, WINDOW, VALIDATION)
    assert (found.challenger.refused, found.challenger.missing, found.challenger.histogram) == (0, COUNT, ())
    assert {breach.guardrail for breach in judge_guardrails(Guardrails(), found)} == {"missing"}


def test_the_error_of_a_missing_prediction_is_no_refusal():
    table = land(CONFIG, WINDOW)
    errors = ["the prediction is not a finite number"] * 10 + ["ValueError"] * 5 + [None] * (COUNT - 15)
    off_by = np.where(np.arange(COUNT) < 15, np.nan, 1.0)
    log(WINDOW, "1", table, 2.0, role="champion")
    log(WINDOW, "2", table, off_by, role="shadow", error=pa.array(errors, pa.string()))
    found = measure_answers(CONFIG, WINDOW, VALIDATION).challenger
    assert (found.rows, found.missing, found.refused) == (COUNT, 10, 5)


def test_batches_that_both_versions_were_timed_on_are_used():
    shadowed(WINDOW, land(CONFIG, WINDOW))
    timings = LatencyComparison((0.02,) * 20, (0.2,) * 15 + (0.02,) * 5)
    found = measure_answers(CONFIG, WINDOW, VALIDATION, timings).challenger
    assert (found.latency_p95_s, found.timed, found.slow) == (0.2, 20, 15)
    assert "latency" in {
        breach.guardrail
        for breach in judge_guardrails(Guardrails(), measure_answers(CONFIG, WINDOW, VALIDATION, timings))
    }


def test_a_request_is_timed_once():
    """All rows of a request have its seconds; one slow request of 100 rows is no slow version."""
    table = land(CONFIG, WINDOW)
    requests = [f"r{max(0, row - 100)}" for row in range(COUNT)]
    seconds = [9.0 if request == "r0" else 0.1 for request in requests]
    log(WINDOW, "1", table, 2.0, role="champion", latency_s=0.1)
    log(WINDOW, "2", table, 1.0, role="shadow", latency_s=seconds, request_id=requests)
    found = measure_answers(CONFIG, WINDOW, VALIDATION).challenger
    assert (found.timed, found.slow) == (COUNT - 100, 1)


def test_a_span_of_windows_is_measured_together():
    for window, seed in ((WINDOW, 0), (SECOND, 1)):
        shadowed(window, land(CONFIG, window, seed=seed))
    assert measure_answers(CONFIG, SPAN, VALIDATION).challenger.rows == 2 * COUNT
    part = Window(WINDOW.start + timedelta(days=2.5), SECOND.end)
    assert measure_answers(CONFIG, part, VALIDATION).challenger.rows == 1.5 * COUNT


def test_pairs_are_the_rows_that_both_predicted():
    table = land(CONFIG, WINDOW)
    log(WINDOW, "1", table.slice(0, 300), 2.0, role="champion", step="shadow")
    log(WINDOW, "2", table.slice(100), 1.0, role="shadow", step="shadow")
    found = labelled_pairs(CONFIG, ROLLOUT, LabelledSpan(SPAN, SPAN.end))
    assert len(found.pairs) == 200
    np.testing.assert_allclose(found.pairs.champion - found.pairs.y_true, 2.0)
    np.testing.assert_allclose(found.pairs.challenger - found.pairs.y_true, 1.0)
    assert found.clusters.tolist() == table["id"].slice(100, 200).to_pylist()


def test_immature_labels_are_excluded():
    """Labels are due a day after their row: at the end of the window, its last day does not count."""
    shadowed(WINDOW, land(CONFIG, WINDOW))
    as_of = WINDOW.end + timedelta(days=1)
    assert len(labelled_pairs(CONFIG, ROLLOUT, LabelledSpan(SPAN, as_of)).pairs) == COUNT
    config = CONFIG.model_copy(update={"columns": CONFIG.columns.model_copy(update={"label_delay_hours": 48.0})})
    early = LabelledSpan(SPAN, as_of)
    found = labelled_pairs(config, ROLLOUT, early)
    assert len(found.pairs) == COUNT * 4 // 5
    assert found.until < as_of - timedelta(hours=48)
    assert len(labelled_pairs(config, ROLLOUT, early._replace(closed=(WINDOW,))).pairs) == COUNT
    assert labelled_pairs(config, ROLLOUT, early._replace(as_of=WINDOW.start + timedelta(days=1))) is None


def test_windows_can_be_left_out():
    for window, seed in ((WINDOW, 0), (SECOND, 1)):
        shadowed(window, land(CONFIG, window, seed=seed))
    at = LabelledSpan(SPAN, SPAN.end + timedelta(days=2))
    assert len(labelled_pairs(CONFIG, ROLLOUT, at).pairs) == 2 * COUNT
    assert len(labelled_pairs(CONFIG, ROLLOUT, at._replace(excluding=(SECOND.name,))).pairs) == COUNT


def test_the_same_id_in_another_window_is_another_row():
    """Ages differ between seeds; a join across windows would pair a prediction with the label of the other row."""
    for window, seed in ((WINDOW, 0), (SECOND, 1)):
        table = rows(COUNT, seed, window).set_column(0, "id", [[str(number) for number in range(COUNT)]])
        lake.land_rows(CONFIG, window, table)
        labels = table.select(["id", "at"]).append_column("churned", table["age"])
        lake.land_labels(CONFIG, conform_labels(CONFIG, labels, "test"), window.end + timedelta(days=1))
        shadowed(window, table)
    found = labelled_pairs(CONFIG, ROLLOUT, LabelledSpan(SPAN, SPAN.end + timedelta(days=2)))
    np.testing.assert_allclose(found.pairs.champion - found.pairs.y_true, 2.0)
    assert len(np.unique(found.clusters)) == COUNT


def test_canary_arms_are_separate():
    shadowed(WINDOW, land(CONFIG, WINDOW))
    table = land(CONFIG, SECOND, seed=1)
    canary(SECOND, table)
    found = labelled_arms(CONFIG, ROLLOUT, LabelledSpan(SPAN, SPAN.end + timedelta(days=2)))
    champion, challenger = found.champion, found.challenger
    assert (len(champion.y_true), len(challenger.y_true)) == (300, 100)
    np.testing.assert_allclose(champion.y_pred - champion.y_true, 2.0)
    np.testing.assert_allclose(challenger.y_pred - challenger.y_true, 1.0)
    assert set(champion.strata) == set(challenger.strata) == {f"{SECOND.name} {CANARY}"}
    assert challenger.clusters.tolist() == table["id"].slice(0, 100).to_pylist()


def test_rows_that_the_champion_answered_for_a_failed_challenger_are_no_arm():
    """They are what the challenger finds hard, not a random part of the champion's traffic."""
    table = land(CONFIG, WINDOW)
    errors = pa.array(["ValueError"] * 20 + [None] * 80, pa.string())
    challenger = {"role": ["challenger"] * 100, "model_version": ["2"] * 100, "error": errors}
    champion = {"role": ["champion"] * 320, "model_version": ["1"] * 320, "error": pa.nulls(320, pa.string())}
    parts = [
        pa.table(
            {
                "id": served["id"],
                "time": served["at"],
                "prediction": served["age"].cast(pa.float64()),
                "step": [CANARY] * len(served),
            }
            | further
        )
        for served, further in (
            (table.slice(0, 100), challenger),
            (pa.concat_tables([table.slice(0, 20), table.slice(100)]), champion),
        )
    ]
    lake.land_predictions(CONFIG, WINDOW, "1", pa.concat_tables(parts))
    found = labelled_arms(CONFIG, ROLLOUT, LabelledSpan(SPAN, SPAN.end))
    assert (len(found.champion.y_true), len(found.challenger.y_true)) == (300, 80)
    assert measure_answers(CONFIG, WINDOW, VALIDATION).challenger.refused == 20


def in_canary(**changes: Any) -> RolloutState:
    return RolloutState(replace(ROLLOUT, **changes), step=1, since=WINDOW.start)


def test_units_are_counted_where_they_were_assigned():
    """The challenger failed on 20 of its rows, which the champion answered; shadow rows are of another step."""
    shadowed(WINDOW, land(CONFIG, WINDOW))
    table = land(CONFIG, SECOND, seed=1)
    errors = pa.array(["ValueError"] * 20 + [None] * 80, pa.string())
    log(SECOND, "2", table.slice(0, 100), 1.0, role="challenger", step=CANARY, error=errors)
    answered = pa.concat_tables([table.slice(0, 20), table.slice(100)])
    log(SECOND, "1", answered, 2.0, role="champion", step=CANARY)
    at = LabelledSpan(SPAN, SPAN.end)
    assert assigned_units(CONFIG, in_canary(), at) == (COUNT - 100, 100)
    assert assigned_units(CONFIG, in_canary(), at._replace(excluding=(SECOND.name,))) == (0, 0)


def test_a_unit_of_several_rows_is_counted_once_and_rows_without_one_never():
    table = land(CONFIG, WINDOW)
    units = pa.array([f"c{row % 10}" if row % 4 else None for row in range(COUNT)], pa.string())
    log(WINDOW, "2", table.slice(0, 100), 1.0, role="challenger", step=CANARY, unit=units.slice(0, 100))
    other = pa.array([f"d{row % 30}" if row % 4 else None for row in range(300)], pa.string())
    log(WINDOW, "1", table.slice(100), 2.0, role="champion", step=CANARY, unit=other)
    assert assigned_units(CONFIG, in_canary(unit="customer"), LabelledSpan(SPAN, SPAN.end)) == (30, 10)
    by_row = assigned_units(CONFIG, in_canary(), LabelledSpan(SPAN, SPAN.end))
    assert by_row == (30 + 75, 10 + 25), "without rollout.unit, a row that names no unit is one"


def test_shadow_rows_are_no_arm():
    shadowed(WINDOW, land(CONFIG, WINDOW))
    assert labelled_arms(CONFIG, ROLLOUT, LabelledSpan(SPAN, SPAN.end)) is None


def with_cluster(cluster: str, **columns: Any) -> ModelConfig:
    verdict = {"rollout": {"verdict": {"cluster": cluster}}}
    return model(
        task="regression",
        performance={"metric": "mae"},
        columns={"label_delay_hours": 24, "protected": ["country"]} | columns,
        validation={"slices": ["member"]},
        **verdict,
    )


def test_clusters_are_units_or_days():
    config = with_cluster("unit")
    table = land(config, WINDOW)
    canary(WINDOW, table)
    at, by_country = LabelledSpan(SPAN, SPAN.end), replace(ROLLOUT, unit="country")
    found = labelled_arms(config, by_country, at)
    assert found.challenger.clusters.tolist() == table["country"].slice(0, 100).to_pylist()
    assert found.slices["country"][-100:].tolist() == table["country"].slice(0, 100).to_pylist()
    assert set(found.slices) == {"member", "country"}
    by_day = labelled_arms(with_cluster("day"), by_country, at)
    assert sorted(set(by_day.champion.clusters)) == [f"2024-02-0{day}" for day in range(2, 6)]


def test_rows_without_a_unit_are_no_part_of_the_test():
    """They always get the champion, so they would bias its arm."""
    countries = ["DE", None] * (COUNT // 2)
    table = rows(COUNT, 0, WINDOW, country=pa.array(countries))
    lake.land_rows(CONFIG, WINDOW, table)
    labels = table.select(["id", "at"]).append_column("churned", table["age"])
    lake.land_labels(CONFIG, conform_labels(CONFIG, labels, "test"), WINDOW.end + timedelta(days=1))
    canary(WINDOW, table)
    found = labelled_arms(CONFIG, replace(ROLLOUT, unit="country"), LabelledSpan(SPAN, SPAN.end))
    assert (len(found.champion.y_true), len(found.challenger.y_true)) == (150, 50)


def in_france(table: pa.Table, worse: float, others: float) -> np.ndarray:
    return np.where(np.array(table["country"].to_pylist()) == "FR", worse, others)


def test_a_loss_in_one_slice_breaches_whichever_way_it_is_measured():
    """The challenger gains everywhere but in France, in a shadow and in a canary with half of the traffic."""
    config = with_cluster("unit").model_copy(update={"validation": ValidationPolicy(slice_min_rows=30)})
    table = land(config, WINDOW)
    log(WINDOW, "1", table, 2.0, role="champion", step="shadow")
    log(WINDOW, "2", table, in_france(table, 6.0, 1.0), role="shadow", step="shadow")
    table = land(config, SECOND, seed=1)
    log(SECOND, "2", table.slice(0, 200), in_france(table.slice(0, 200), 6.0, 1.0), role="challenger", step=CANARY)
    log(SECOND, "1", table.slice(200), 2.0, role="champion", step=CANARY)
    at = LabelledSpan(SPAN, SPAN.end + timedelta(days=2))
    for found in (labelled_pairs(config, ROLLOUT, at), labelled_arms(config, ROLLOUT, at)):
        labelled = measure_labelled(config, found, look=1)
        assert [gain.name for gain in labelled.slices] == ["country=DE", "country=FR", "country=IT"]
        assert [round(gain.gain, 6) for gain in labelled.slices] == [1.0, -4.0, 1.0]
        assert labelled.calibration is None, "a regression has no calibration error"
        evidence = replace(measure_answers(CONFIG, WINDOW, VALIDATION), labelled=labelled)
        (breach,) = (one for one in judge_guardrails(Guardrails(), evidence) if one.guardrail == "slices")
        assert "country=FR" in breach.reason


def classify(folder: Path, classes: Mapping[str, Sequence[str]]) -> ModelConfig:
    """Return the model with two classes, and register versions with these classes."""
    prepare_registry(folder)
    registry.client().create_registered_model(CONFIG.name)
    for names in classes.values():
        registry.client().create_model_version(CONFIG.name, str(folder), tags={"classes": json.dumps(names)})
    return model(columns={"label_delay_hours": 24}, performance={"metric": "log_loss"})


def land_classes(config: ModelConfig, chance: np.ndarray) -> pa.Table:
    table = rows(len(chance), 0, WINDOW)
    lake.land_rows(config, WINDOW, table)
    outcomes = pa.array((np.random.default_rng(1).random(len(chance)) < chance).astype(int))
    labels = table.select(["id", "at"]).append_column("churned", outcomes)
    lake.land_labels(config, conform_labels(config, labels, "test"), WINDOW.end + timedelta(days=1))
    return table


def test_an_overconfident_challenger_breaches_calibration(workspace):
    config = classify(workspace, {"1": ("0", "1"), "2": ("0", "1")})
    chance = 1 / (1 + np.exp(-np.random.default_rng(0).normal(size=2000)))
    table = land_classes(config, chance)
    sure = chance**4 / (chance**4 + (1 - chance) ** 4)
    answers = pa.table({"id": table["id"], "time": table["at"], "role": ["shadow"] * 2000})
    lake.land_predictions(config, WINDOW, "2", answers.append_column("prediction", pa.array(sure)))
    champion = pa.table({"id": table["id"], "time": table["at"], "prediction": chance})
    lake.land_predictions(config, WINDOW, "1", champion)
    found = measure_labelled(config, labelled_pairs(config, ROLLOUT, LabelledSpan(SPAN, SPAN.end)), look=1)
    assert found.calibration.champion < 0.05 < 0.15 < found.calibration.challenger
    evidence = replace(measure_answers(config, WINDOW, VALIDATION), labelled=found)
    assert "calibration" in {breach.guardrail for breach in judge_guardrails(Guardrails(), evidence)}


def test_probabilities_of_both_versions_refer_to_the_same_class(workspace):
    """Version 2 has its classes in the other order, so its logged number is the probability of the other class."""
    config = classify(workspace, {"1": ("0", "1"), "2": ("1", "0")})
    chance = np.linspace(0.01, 0.99, 500)
    table = land_classes(config, chance)
    for version, role, predicted in (("1", "champion", chance), ("2", "shadow", 1 - chance)):
        answers = {"id": table["id"], "time": table["at"], "prediction": predicted, "role": [role] * 500}
        lake.land_predictions(config, WINDOW, version, pa.table(answers))
    found = labelled_pairs(config, ROLLOUT, LabelledSpan(SPAN, SPAN.end))
    np.testing.assert_allclose(found.pairs.champion, found.pairs.challenger)
    assert found.gain(config.primary_metric).gain == pytest.approx(0.0)
