"""Validation: challenger and champion from the registry on rows that neither has seen."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import registry
from tasks.adapters.evaluation import challenger as trial
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.records.reports import Snapshot
from tasks.rollout import outcome
from tasks.training.validation import validate_challenger
from tests.support.trained_models import HOLDOUT, TRAINING, land, make_config, make_rows, prepare_registry, register

BEFORE = Window(utc("2024-01-01"), utc("2024-02-01"))


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def validate(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, holdout: Snapshot
) -> ValidationReport:
    with disable_run_logger():
        return validate_challenger.fn(config, challenger, champion, holdout)


def held_out(config: ModelConfig, **rows) -> Snapshot:
    return land(config, HOLDOUT, make_rows(config.task, **{"rows": 600, "window": HOLDOUT, "seed": 9} | rows))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_challenger_of_the_new_concept_passes(task):
    """After a concept change: one model of the old concept and one of the new, validated in both roles."""
    config = make_config(task)
    old = register(config, "old", BEFORE, turn=-1.0)
    new = register(config, "new", TRAINING, turn=1.0)
    holdout = held_out(config)
    forward, backward = validate(config, new, old, holdout), validate(config, old, new, holdout)
    primary = forward.differences[0]
    assert (forward.verdict, backward.verdict) == ("pass", "fail")
    assert primary.gain > 0.2
    assert backward.differences[0].gain == pytest.approx(-primary.gain)
    assert (primary.name, primary.rows) == (config.performance.metric, 600)
    assert (primary.p_value is None) == (task == "regression")
    assert [item.slice_name for item in forward.differences[1:]] == ["colour=blue", "colour=green", "colour=red"]
    assert dict(registry.version(config.name, "2").tags)["validation"] == "pass"
    histograms = (forward.challenger_predictions, forward.champion_predictions)
    assert [(one.version, one.rows, len(one.shares)) for one in histograms] == [("2", 600, 10), ("1", 600, 10)]
    assert from_json(ValidationReport, to_json(forward)) == forward


def test_holdout_with_rescaled_labels_fails():
    config = make_config("regression")
    challenger = register(config)
    rows = make_rows("regression", 600, HOLDOUT, seed=9)
    thousandfold = pa.array(rows["label"].to_numpy() * 1000)
    holdout = land(config, HOLDOUT, rows.set_column(rows.column_names.index("label"), "label", thousandfold))
    report = validate(config, challenger, None, holdout)
    assert report.verdict == "fail"
    assert "as if the unit had changed" in report.reasons[0]


def test_swapped_holdout_classes_are_reported():
    config = make_config("binary")
    challenger = register(config)
    rows = make_rows("binary", 600, HOLDOUT, seed=9)
    swapped = pa.array(1 - rows["label"].to_numpy())
    report = validate(
        config,
        challenger,
        None,
        land(config, HOLDOUT, rows.set_column(rows.column_names.index("label"), "label", swapped)),
    )
    assert any("would be with classes swapped" in reason for reason in report.reasons)


def with_gender(rows: pa.Table, blind_to: str | None = None) -> pa.Table:
    """Return rows of two genders; labels of `blind_to` follow the opposite concept."""
    gender = np.array(["f", "m"] * (len(rows) // 2))
    label = rows.column("label").to_numpy()
    label = np.where(gender == blind_to, -label, label) if blind_to else label
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array(label))
    return rows.append_column("gender", pa.array(gender))


def guarded(**columns) -> ModelConfig:
    config = make_config("regression")
    columns = {"protected": ("gender",)} | columns
    return config.model_copy(update={"columns": config.columns.model_copy(update=columns)})


def test_loss_in_a_protected_group_fails():
    """The new model gains more for m than it loses for f, who follow the old concept."""
    config = guarded()
    old, new = register(config, "old", BEFORE, turn=-1.0), register(config, "new", TRAINING, turn=1.0)
    rows = with_gender(make_rows("regression", rows=600, window=HOLDOUT, seed=9), blind_to="f")
    report = validate(config, new, old, land(config, HOLDOUT, rows))
    groups = {item.slice_name: item for item in report.differences if (item.slice_name or "").startswith("gender=")}
    assert {name: item.rows for name, item in groups.items()} == {"gender=f": 300, "gender=m": 300}
    assert groups["gender=f"].gain < -1 < 1 < groups["gender=m"].gain
    assert report.verdict == "fail"
    assert any("mae of gender=f loses" in reason and "more than the accepted" in reason for reason in report.reasons)
    (sentence,) = (reason for reason in report.reasons if reason.startswith("groups of gender: challenger's mae"))
    assert "gender=f gains least" in sentence
    assert from_json(ValidationReport, to_json(report)) == report


def test_groups_without_loss_pass_and_are_listed():
    config = guarded()
    old, new = register(config, "old", BEFORE, turn=-1.0), register(config, "new", TRAINING, turn=1.0)
    holdout = land(config, HOLDOUT, with_gender(make_rows("regression", rows=600, window=HOLDOUT, seed=9)))
    report = validate(config, new, old, holdout)
    assert report.verdict == "pass"
    assert any(reason.startswith("groups of gender: challenger's mae") for reason in report.reasons)


def test_personal_groups_are_numbered():
    config = guarded(personal=("gender",))
    old, new = register(config, "old", BEFORE, turn=-1.0), register(config, "new", TRAINING, turn=1.0)
    holdout = land(config, HOLDOUT, with_gender(make_rows("regression", rows=600, window=HOLDOUT, seed=9)))
    report = validate(config, new, old, holdout)
    assert [item.slice_name for item in report.differences[-2:]] == ["gender=group 1", "gender=group 2"]
    later = guarded(protected=("age_group",))
    reasons = validate(later, new, old, holdout).reasons
    assert "groups of age_group: not compared, as none has 100 labelled rows that define the metric" in reasons


def test_copy_of_the_champion_is_non_inferior_without_gain():
    config = make_config()
    one, other = register(config, "one"), register(config, "other")
    holdout = held_out(config)
    assert validate(config, other, one, holdout).verdict == "pass"
    greedy = make_config(validation={"min_gain": 0.0001, "min_rows": 100})
    report = validate(greedy, other, one, holdout)
    assert report.verdict == "fail"
    assert "gain +0, expected at least 0.0001" in report.reasons[0]


def test_stored_metrics_are_not_used():
    """Published examples compare with stored metrics; here forged ones have no effect."""
    config = make_config()
    old, new = register(config, "old", BEFORE, turn=-1.0), register(config, "new")
    registry.client().log_metric(old.run_id, "held_back_log_loss", 0.0001)
    registry.tag(config.name, old.version, validation="pass", log_loss="0.0001")
    report = validate(config, new, old, held_out(config))
    assert report.verdict == "pass"
    assert report.differences[0].champion > 1.0


def test_training_rows_do_not_validate():
    config = make_config()
    challenger = register(config, "new", Window(TRAINING.start, HOLDOUT.end))
    report = validate(config, challenger, register(config, "old"), held_out(config))
    assert report.verdict == "fail"
    assert "expected rows that neither model has seen" in report.reasons[0]


def test_too_few_labelled_rows_fail():
    config = make_config()
    report = validate(config, register(config), None, held_out(config, rows=99))
    assert (report.verdict, report.rows) == ("fail", 99)
    assert report.reasons[0] == (
        "99 labelled rows to validate on, expected at least 100; wait for labels, or hold out more days "
        "(validation.holdout_days)"
    )


@pytest.mark.parametrize(("floor", "verdict"), [(0.5, "pass"), (0.001, "fail"), (None, "pass")])
def test_first_model_is_compared_with_its_floor(floor, verdict):
    config = make_config(validation={"first_model_floor": floor, "min_rows": 100})
    report = validate(config, register(config), None, held_out(config))
    assert (report.verdict, report.first_model, report.champion) == (verdict, True, None)


def test_challenger_with_changed_files_fails(workspace):
    config = make_config()
    challenger = register(config)
    path = next((workspace / "artifacts").rglob("model.ubj"))
    path.write_bytes(path.read_bytes()[:-20])
    report = validate(config, challenger, None, held_out(config))
    assert report.verdict == "fail"
    assert "version 1 does not serve: model files have sha256" in report.reasons[0]


def test_challenger_with_missing_column_fails():
    wide = make_config(
        columns={
            "id": "id",
            "time": "time",
            "label": "label",
            "features": {"numeric": ["x", "noise", "label_seen_in_training_only"], "categorical": ["colour"]},
        }
    )
    rows = make_rows().append_column("label_seen_in_training_only", make_rows().column("x"))
    from tasks.adapters.models import estimators
    from tasks.adapters.profiling.profile import freeze_reference
    from tasks.adapters.registry import registration
    from tests.support.trained_models import make_snapshot

    profile = freeze_reference(rows.to_batches(), wide, TRAINING, "0" * 64)
    challenger = registration.register(
        wide, registration.TrainedModel(estimators.fit(wide, rows), make_snapshot(), profile), "d1"
    )
    config = make_config()
    report = validate(config, challenger, None, held_out(config))
    assert report.verdict == "fail"
    assert "column label_seen_in_training_only: not among" in report.reasons[0]


def test_class_known_only_to_the_challenger_counts():
    config = make_config("multiclass")
    rows = make_rows("multiclass", rows=600, window=HOLDOUT, seed=9)
    champion = register_with_classes(config, "old", {"high": "middle"})
    challenger = register(config, "new")
    report = validate(config, challenger, champion, land(config, HOLDOUT, rows))
    assert report.verdict == "pass"
    assert report.differences[0].gain > 1.0
    assert report.rows == 600


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_class_unknown_to_all_versions_is_a_miss(task):
    """A quarter of the holdout rows has a class that training never had; none of these rows is left out."""
    config = make_config(task, performance={"metric": "accuracy"})
    rows = make_rows(task, rows=400, window=HOLDOUT, seed=9)
    texts = [str(name) if place % 4 else "9" for place, name in enumerate(rows.column("label").to_pylist())]
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array(texts))
    first, second = register(config, "d1"), register(config, "d2", seed=1)
    only = trial.compare(config, second, None, HOLDOUT, rows)
    both = trial.compare(config, second, first, HOLDOUT, rows)
    assert only.rows == both.rows == both.primary.rows == 400
    assert 0.55 < only.first.value <= 0.75 and 0.55 < both.primary.champion <= 0.75
    assert abs(both.primary.gain) < 0.1


def register_with_classes(config: ModelConfig, decision_id: str, renamed: dict[str, str]) -> ModelVersion:
    """Register a version whose training rows had some classes under other names."""
    from tasks.adapters.models import estimators
    from tasks.adapters.profiling.profile import freeze_reference
    from tasks.adapters.registry import registration
    from tests.support.trained_models import make_snapshot

    rows = make_rows(config.task, window=BEFORE)
    labels = [renamed.get(name, name) for name in rows.column("label").to_pylist()]
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array(labels))
    profile = freeze_reference(rows.to_batches(), config, BEFORE, "0" * 64)
    return registration.register(
        config, registration.TrainedModel(estimators.fit(config, rows), make_snapshot(BEFORE), profile), decision_id
    )


def test_outcome_uses_one_class_order():
    """Two models that differ only in the name of one class: outcome and validation agree, and there is no gain."""
    config = make_config("multiclass", performance={"metric": "accuracy"})
    old = register_with_classes(config, "old", {"low": "alpha"})
    new = register_with_classes(config, "new", {})
    land(config, HOLDOUT, make_rows("multiclass", rows=600, window=HOLDOUT, seed=9))
    gain = outcome._gain(config, old, new, HOLDOUT, HOLDOUT.end + timedelta(days=1))
    report = validate(config, new, old, held_out(config))
    assert gain.gain == pytest.approx(report.differences[0].gain, abs=0.02)
    assert 0 < gain.gain < 0.6, "the old one misses the class that it knows by another name, and nothing else"
