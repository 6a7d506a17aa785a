"""Model files: errors state the place, the value found and what is accepted."""

import re
import shutil
from pathlib import Path

import pytest

from deployments.cli import main
from deployments.config.folders import DEPLOYMENTS
from deployments.config.loading import load_model_config
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import ModelConfigError
from tasks.policy.training.online import OnlinePolicy
from tests.support.trained_models import make_config

AIR_TIME = (DEPLOYMENTS / "air_time.yaml").read_text(encoding="utf-8")


def edited(tmp_path: Path, old: str, new: str) -> Path:
    assert AIR_TIME.count(old) >= 1, f"air_time.yaml no longer holds {old!r}"
    path = tmp_path / "mine.yaml"
    path.write_text(AIR_TIME.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("purpose:", "purpse:", ("purpse is not a known key", "did you mean purpose?")),
        ("purpose:", "purpse:", ("purpose is missing", "expected")),
        ("risk: medium", "risk: huge", ("risk is 'huge'", "'low', 'medium' or 'high'")),
        ("window_days: 5", "window_days: -1", ("window_days is -1", "greater than or equal to 0.01")),
        (
            "window_days: 5",
            "window_days: soon",
            ("window_days is 'soon', expected a number of days, or a duration in", "such as 14 days"),
        ),
        ("window_days: 5", "window_days: 2 months", ("window_days is '2 months'", "such as 14 days")),
        ("window_days: 5", "window: month\nwindow_days: 5", ("window is month and window_days is 5", "one of them")),
        ("window_days: 5", "window: week", ("window is 'week', expected 'month'",)),
        (
            "window_days: 5",
            "window: month",
            ("period.history_until is 2013-04-21T00:00:00+00:00, expected the first", "2013-04-01T00:00:00Z"),
        ),
        ("label: air_time", "label: distance", ("'distance' is also a feature", "leaks")),
        ("id: flight_id", "id: air_time", ("label is 'air_time', which is also id or time",)),
        ("metric: mae\n", "metric: accuracy\n", ("'accuracy' does not fit task regression", "mae, rmse, pinball")),
        (
            "metric: mae\n",
            "metric: made\n",
            ("performance.metric is 'made', expected one of mae, rmse, pinball, or a name",),
        ),
        ("slices: [origin]", "slices: [colour]", ("performance.slices has colour", "features")),
        ("  features:\n", "  personal: [origin]\n  features:\n", ("performance.slices has origin", "identify no one")),
        ("trigger: perennial", "trigger: never", ("never", "'every'")),
        (
            "trigger: perennial",
            "trigger: calendar, cron: 61 3 * * *",
            ("'61 3 * * *'", "Bad minute", "0 3 1 * *"),
        ),
        (
            "trigger: perennial",
            "trigger: calendar, rrule: monthly",
            ("is 'monthly'", "FREQ=MONTHLY;BYMONTHDAY=1"),
        ),
        ("trigger: perennial", "trigger: calendar", ("cron and rrule: neither given", "expected one")),
        ("trigger: perennial", "trigger: arrival", ("labelled_rows and share: neither given", "expected one")),
        (
            "trigger: perennial",
            "trigger: arrival, labelled_rows: 0",
            ("labelled_rows is 0", "greater than or equal to 1"),
        ),
        ("start: 2013-01-01T00:00:00Z", "start: 2013-01-01T00:00:00+02:00", ("2013-01-01T00:00:00+02:00", "UTC")),
        ("history_until: 2013-04-21", "history_until: 2012-04-21", ("start < history_until",)),
        (
            "rollout:\n  feedback: false",
            "rollout: {verdict: {margin: .inf}}",
            ("rollout.verdict.margin is inf", "expected a finite number"),
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {shares: [10 perc, 50, 1.0]}",
            (
                "rollout.shares.0 is '10 perc', expected a number such as 0.05, or a percentage such as 5 %",
                "rollout.shares.1 is 50, ",
                "rollout.shares.2 is 1.0, expected a number between 0 and 1: 0.1 is 10 %, and the promotion after the last",
            ),
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {bake_hours: 48, max_days: 5}",
            ("max_days is 5", "(shadow, canary 10 %, canary 50 %)", "expected max_days of at least 6"),
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {guardrails: [latency]}",
            ("rollout.guardrails is ['latency'], expected a mapping with some of the keys max_error_share, max_lat",),
        ),
        ("rollout:\n  feedback: false", "rollout: canary", ("rollout is 'canary', expected a mapping with some of",)),
        (
            "rollout:\n  feedback: false",
            "rollout: {control: {kind: nginx}}",
            ("rollout.control is {'kind': 'nginx'}", "kind: haproxy"),
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {control: haproxy}",
            ("rollout.control is 'haproxy'", "kind: haproxy"),
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {control: {kind: haproxy, bakend: air}}",
            ("rollout.control.haproxy.bakend is not a known key", "did you mean backend?", "sockets is missing"),
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {unit: origin, control: {kind: sagemaker, endpoint: air, champion: a, challenger: b}}",
            ("rollout: unit is 'origin'", "expected no unit"),
        ),
        ("kind: python", "kind: sql", ("url_env is missing", "url_env and query")),
        ("kind: python", "kind: excel", ("source.kind is 'excel'", "'parquet'")),
        ("function: tasks.adapters.sources.nycflights:read_flights", "function: os.system('x')", ("source.function",)),
        ("[distance,", "[distance, distance,", ("distance is listed more than once",)),
        ("name: air_time", "name: ../../etc", ("name is '../../etc'",)),
        ("quality:\n", "quality:\n  suite: suite.yaml\n", ("quality.suite is 'suite.yaml'", "expectations.json")),
        ("quality:\n", "quality:\n  suite: none.json\n", ("quality.suite is none.json", "cannot be read")),
        ("quality:\n", "quality:\n  rows_in_memory: 10\n", ("rows_in_memory is 10", "greater than or equal to 1000")),
        ("  features:\n", "  extra: [air_time]\n  features:\n", ("extra has 'air_time'", "comes with the label")),
        ("quality:\n", "quality:\n  row_count_ratio: [2.5, 0.4]\n", ("row_count_ratio is [2.5, 0.4]", "[0.4, 2.5]")),
        (
            "{min: -60, max: 130}",
            "{min: 160, max: 130}",
            ("quality.columns.temperature.range", "min 160 lies above max 130"),
        ),
        ("metric: mae\n", "metric: mae\n  maturing_at: 0.99\n", ("maturing_at 0.99 lies above closed_at 0.98",)),
    ],
)
def test_error_names_file_field_value_and_expectation(tmp_path, old, new, words):
    with pytest.raises(ModelConfigError) as caught:
        load_model_config(edited(tmp_path, old, new))
    assert "mine.yaml: " in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"task": "multiclass"}, "does not fit task multiclass, expected it with task: binary or regression"),
        ({"estimator": "sklearn.linear_model:Ridge"}, "is given with sklearn.linear_model:Ridge, expected XGBoost"),
        ({"function": "mine:fit"}, "is given with mine:fit, expected XGBoost"),
        ({"pipeline": "mine:build"}, "after the pipeline mine:build, expected XGBoost"),
        ({"metric": "pinball"}, "does not fit metric pinball"),
        ({}, None),
        ({"estimator": "xgboost:XGBRegressor"}, None),
    ],
)
def test_online_corrector_needs_an_xgboost_model_of_one_margin(changes, refusal):
    task, metric = changes.pop("task", "regression"), changes.pop("metric", None)
    sections = {"performance": {"metric": metric}} if metric else {}
    training = {"online": {}, **changes}
    if refusal is None:
        assert make_config(task, training=training, **sections).training.online == OnlinePolicy()
        return
    with pytest.raises(ValueError, match=re.escape(refusal)):
        make_config(task, training=training, **sections)


def test_a_time_as_id_needs_one_source(tmp_path):
    path = edited(tmp_path, "  id: flight_id", "  id: scheduled_departure")
    assert load_model_config(path).columns.key == "id+scheduled_departure"
    text = path.read_text().replace("  label_time: scheduled_departure\n", "")
    path.write_text(
        text.replace("quality:\n", "labels: {source: {kind: parquet, path: labels}, time: at}\nquality:\n", 1)
    )
    with pytest.raises(
        ModelConfigError, match=r"columns.id is the time .*expected an id column that both sources have"
    ):
        load_model_config(path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "{trigger: perennial}",
            "{trigger: any_of, conditions: [{trigger: mean_shift, sgma: 3}]}",
            "retraining.when.any_of.conditions.0.mean_shift.sgma is not a known key; did you mean sigma?",
        ),
        (
            "{trigger: perennial}",
            "perennial",
            "retraining.when is 'perennial', expected a mapping such as {trigger: perennial}",
        ),
        (
            "{trigger: perennial}",
            "{trigger: any_of, conditions: [probe]}",
            "retraining.when.any_of.conditions.0 is 'probe', expected a mapping such as {trigger: probe}",
        ),
        (
            "{trigger: perennial}",
            "{trigger: any_of, conditions: []}",
            "retraining.when.any_of.conditions is [], expected at least one",
        ),
        (
            "{trigger: perennial}",
            "[{trigger: perennial}]",
            "retraining.when is [{'trigger': 'perennial'}], expected a mapping that begins with trigger:; combine "
            "several with {trigger: any_of, conditions: [...]}",
        ),
        (
            "\ntraining:\n",
            "\ntraining:\n  estimator: sklearn.ensemble.RandomForestRegressor\n",
            "training.estimator is 'sklearn.ensemble.RandomForestRegressor', expected module:name, such as "
            "sklearn.ensemble:RandomForestRegressor",
        ),
        (
            "n_estimators: ",
            "sizes: 2026-01-01, n_estimators: ",
            "training.parameters.sizes is datetime.date(2026, 1, 1), expected text, a number, true or false, a list or a mapping",
        ),
        (
            "max_null_share",
            "max_nul_share",
            "quality.columns.pressure.max_nul_share is not a known key; did you mean max_null_share?",
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {unit: air_time}",
            "rollout.unit is 'air_time', which comes with the label, expected a column that rows have",
        ),
        (
            "rollout:\n  feedback: false",
            "rollout: {unit: scheduled_departure}",
            "rollout.unit is 'scheduled_departure', the time column, expected a column that names who gets the answers, such as customer",
        ),
        (
            "label_time: scheduled_departure",
            "label_time: air_time",
            "columns: label_time is 'air_time', the label itself, expected when the label became known",
        ),
        (
            "label: air_time\n",
            "label: air_time\n  protected: [air_time]\n",
            "columns: protected has 'air_time', which comes with the label, expected columns that rows have",
        ),
        (
            "[distance,",
            "[distance, scheduled_departure,",
            "columns: time column 'scheduled_departure' is also a feature, expected columns derived from it, such as its hour or weekday",
        ),
    ],
)
def test_error_is_one_line(tmp_path, old, new, line):
    with pytest.raises(ModelConfigError) as caught:
        load_model_config(edited(tmp_path, old, new))
    assert str(caught.value) == f"mine.yaml: {line}"


def test_all_errors_are_reported_at_once(tmp_path):
    path = edited(tmp_path, "risk: medium", "risk: huge")
    path.write_text(path.read_text().replace("window_days: 5", "window_days: 0"))
    with pytest.raises(ModelConfigError) as caught:
        load_model_config(path)
    assert {"risk", "window_days"} <= {line.split()[1] for line in str(caught.value).splitlines()}


@pytest.mark.parametrize(("content", "words"), [("a: [", "is not YAML"), ("- a", "holds list"), ("", "holds NoneType")])
def test_file_without_mapping_is_reported(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ModelConfigError, match=words):
        load_model_config(path)


def test_yaml_object_tags_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(ModelConfigError, match="is not YAML"):
        load_model_config(path)


def test_unknown_name_suggests_the_nearest_model():
    with pytest.raises(ModelConfigError, match="did you mean air_time"):
        load_model_config("airtime")


def test_relative_source_is_resolved_beside_the_file(tmp_path):
    path = edited(
        tmp_path,
        "kind: python\n  function: tasks.adapters.sources.nycflights:read_flights",
        "kind: csv\n  path: rows.csv",
    )
    shutil.copy(path, tmp_path / "elsewhere.yaml")
    assert load_model_config(tmp_path / "elsewhere.yaml").source.path == str(tmp_path / "rows.csv")


def test_the_fingerprint_follows_every_setting(tmp_path):
    same = load_model_config(edited(tmp_path, "risk: medium", "risk: medium  # said again")).fingerprint
    other = load_model_config(edited(tmp_path, "cooldown_days: 10", "cooldown_days: 11")).fingerprint
    assert same == load_model_config("air_time").fingerprint != other


def test_windows_are_contiguous_and_complete():
    config = load_model_config("air_time")
    windows = config.windows(end=utc("2013-05-04"))
    assert [window.name for window in windows] == ["2013-04-21..2013-04-26", "2013-04-26..2013-05-01"]
    assert config.window_until(utc("2013-05-04")) == windows[-1]


@pytest.mark.parametrize("at", ["2013-04-21", "2013-04-25T23:59:59", "2013-04-20T23:59:59", "2013-01-20", "2031-01-01"])
def test_every_time_is_in_one_window(at):
    config = load_model_config("air_time")
    window = config.window_at(utc(at))
    assert window.start <= utc(at) < window.end
    known = (*config.history_windows(), *config.windows(end=utc("2031-02-01")))
    assert window in known


def test_settling_window_is_read_later(tmp_path):
    config = load_model_config(edited(tmp_path, "kind: python\n", "kind: python\n  settle_hours: 36\n"))
    window = config.windows(end=utc("2013-05-01"))[-1]
    assert config.read_at(window) == utc("2013-05-02T12:00")
    assert config.window_until(utc("2013-05-02T11:59")).end == utc("2013-04-26")
    assert config.window_until(utc("2013-05-02T12:00")) == window
    with pytest.raises(ModelConfigError, match="from 2013-04-27 12:00 UTC on"):
        config.window_until(utc("2013-04-27"))


def test_error_before_the_first_window_names_its_time():
    with pytest.raises(ModelConfigError, match="from 2013-04-26"):
        load_model_config("air_time").window_until(utc("2013-04-25"))


def test_a_window_in_another_zone_is_refused():
    with pytest.raises(ValueError, match="not in UTC"):
        Window(utc("2013-01-01").replace(tzinfo=None), utc("2013-01-02"))


def test_calendars_and_arrivals_are_described(tmp_path):
    from deployments.config.description import describe

    rules = "{trigger: calendar, cron: 0 3 1 * *, timezone: America/New_York}, {trigger: arrival, share: 0.2}"
    rule = f"{{trigger: any_of, conditions: [{rules}]}}"
    described = " ".join(describe(load_model_config(edited(tmp_path, "{trigger: perennial}", rule))))
    assert "a date of cron 0 3 1 * * (America/New_York) has passed since the last training" in described
    assert "new rows with labels reach 20% of the training rows" in described


def test_ways_to_train_are_described(tmp_path):
    from deployments.config.description import describe

    plain = " ".join(describe(load_model_config(edited(tmp_path, "\ntraining:", "\ntraining:"))))
    assert "before each training" not in plain and "between retrains" not in plain
    every = "\ntraining:\n  race: {windows: 6}\n  search: {minutes: 10, trials: 40}\n  online: {}"
    described = " ".join(describe(load_model_config(edited(tmp_path, "\ntraining:", every))))
    assert "before each training, lets ways to choose the rows race on the latest 6 closed windows" in described
    assert "and searches better settings for 10 minutes or 40 trials; the file's settings stay without" in described
    assert "between retrains, corrects the champion's trees after each window" in described


def test_label_time_is_described(tmp_path):
    from deployments.config.description import describe

    later = edited(tmp_path, "label_time: scheduled_departure", "label_time: known_at")
    described = " ".join(describe(load_model_config(later)))
    assert (
        "labels follow at a time of their own (24 h after columns.label_time: known_at) and are read for 30 days more"
        in described
    )


def test_check_describes_models_and_fails_on_an_invalid_file(tmp_path, capsys):
    assert main(["check"]) == 0
    described = capsys.readouterr().out
    assert (
        "the perennial policy finds that a fresh model is worth the cost of a retrain or 15 days have passed"
        in described
    )
    assert "no group of origin may significantly lose more than 0.06" in described
    assert "predicts arrives_late (binary; F1 and probabilities refer to" in described
    assert main(["check", str(edited(tmp_path, "risk: medium", "risk: huge"))]) == 1
    assert "mine.yaml: risk is 'huge'" in capsys.readouterr().err


def test_check_describes_personal_columns(tmp_path, capsys):
    path = edited(tmp_path, "  features:\n", "  personal: [carrier, carier]\n  features:\n")
    assert main(["check", str(path)]) == 0
    described = capsys.readouterr().out
    assert (
        "shows no value of carrier and carier in reports and logs; carier: not read at all, as no other setting names it"
        in described
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("{mode: none}", "then promotes it automatically, without a rollout."),
        ("{feedback: false}", "first as a shadow that answers nothing, then to everything; a step takes at least 24 h"),
        ("{unit: carrier, shares: [0.1, 0.5]}", "then to 10 % and 50 % of the values of carrier, then to all;"),
        ("{mode: ab, on_inconclusive: hold}", "then to 5 % of the rows for an A/B test, then to all;"),
    ],
)
def test_check_describes_the_rollout(tmp_path, capsys, block, expected):
    path = edited(tmp_path, "rollout:\n  feedback: false", f"rollout: {block}")
    assert main(["check", str(path)]) == 0
    assert expected in capsys.readouterr().out


def test_check_refuses_a_leaking_feature(tmp_path, capsys):
    path = edited(tmp_path, "label: air_time", "label: Distance")
    assert main(["check", str(path)]) == 1
    assert "columns.features: distance has the name of the label Distance" in capsys.readouterr().err


def test_personal_column_cannot_be_a_slice(tmp_path: Path) -> None:
    """A slice is named by its value, which the ledger stores forever."""
    path = edited(tmp_path, "  slices: [origin]\nretraining:", "retraining:")
    text = path.read_text(encoding="utf-8").replace("  features:\n", "  personal: [origin]\n  features:\n")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ModelConfigError, match=r"validation\.slices has origin, .* expected features that identify no one"
    ):
        load_model_config(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "which holds no suite; expected the output of json.dumps"),
        (
            '{"expectations": [{"kwargs": {"column": "wind"}}]}',
            "names column 'wind' in expectation 1 (); expected columns",
        ),
        (
            '{"expectations": [{"type": "t", "kwargs": {"column": "distance"}}, {"type": "expect_table_columns_to_match_set", '
            '"kwargs": {"column_set": ["distance", "air_time"]}}]}',
            "names column 'air_time' in expectation 2 (expect_table_columns_to_match_set); expected columns that are stored",
        ),
        (
            '{"expectations": [{"type": "expect_table_columns_to_match_ordered_list", '
            '"kwargs": {"column_list": ["air_time"]}}]}',
            "labels come later than their rows, so leave the label out of this list of columns",
        ),
        (
            '{"expectations": [{"kwargs": {"column": "distance", "row_condition": {"column": {"name": "wind"}}}}]}',
            "names column 'wind'",
        ),
    ],
)
def test_invalid_suite_is_named(tmp_path, content, words):
    (tmp_path / "own.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelConfigError, match=r"mine\.yaml: quality\.suite is own\.json, which") as caught:
        load_model_config(edited(tmp_path, "quality:\n", "quality:\n  suite: own.json\n"))
    assert words in str(caught.value)


def test_suite_beside_the_file_may_name_extra_columns(tmp_path):
    (tmp_path / "own.json").write_text('{"expectations": [{"kwargs": {"column": "tail_number"}}]}', encoding="utf-8")
    path = edited(tmp_path, "quality:\n", "quality:\n  suite: own.json\n")
    path.write_text(path.read_text().replace("  features:\n", "  extra: [tail_number]\n  features:\n", 1))
    config = load_model_config(path)
    assert config.quality.suite == str(tmp_path / "own.json") and "tail_number" in config.columns.used
