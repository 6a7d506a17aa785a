"""Training with a search: its result reaches the version, its cost, the preview and the dashboard."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from flows.retrain import retrain
from tasks.adapters import ledger, registry, search
from tasks.adapters.orchestration import runs
from tasks.adapters.registry import version_files
from tasks.adapters.reports.artifacts import search_page
from tasks.adapters.reports.plots import search_plot
from tasks.policy.economics.costs import measured_cost, over_budget
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Usage
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.events import RunMode
from tasks.policy.reporting.preview import Preview
from tasks.policy.training.race import RACED, RacePolicy, RaceReport, Strategy
from tasks.record.history import next_cost_usd
from tasks.training.readiness import check_training
from tasks.training.train import TAKE_IN_S, longest_training_s, train_challenger
from tests.support.small_model import write_model
from tests.support.trained_models import TRAINING, land, make_config, make_rows, prepare_registry

WEAK = {"n_estimators": 4, "max_depth": 1}
SEARCH: dict[str, Any] = {"trials": 6, "parameters": {"n_estimators": {"low": 4, "high": 40}}}


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def model(**asked: Any) -> ModelConfig:
    return make_config("regression", training={"parameters": WEAK, "min_rows": 200, "search": SEARCH | asked})


def train(config: ModelConfig, decision_id: str = "d1") -> ModelVersion:
    snapshot = land(config, TRAINING, make_rows("regression"))
    with disable_run_logger():
        return train_challenger.fn(config, snapshot, decision_id)


def test_version_records_its_search():
    config = model()
    version = train(config)
    report, tags = version_files.search_report(version), dict(version.tags)
    assert report is not None and report.adopted and tags["search"].startswith("search: 6 trials")
    manifest = json.loads(version_files.manifest(version))
    assert manifest["search"] == report.sentence
    assert manifest["parameters"]["n_estimators"] == str(report.parameters["n_estimators"])
    logged = registry.client().get_run(version.run_id).data
    assert logged.metrics["search_trials"] == 6 and logged.metrics["search_gain"] > 0
    assert logged.params["n_estimators"] == manifest["parameters"]["n_estimators"]
    used = from_json(Usage, tags["usage"])
    assert 0 < used.search_wall_s < used.wall_s and used.search_cpu_s <= used.cpu_s


def test_next_search_starts_from_what_the_champion_found():
    config = model()
    first = train(config)
    registry.set_aliases(config.name, {registry.CHAMPION: first.version})
    found = version_files.search_report(first)
    second = version_files.search_report(train(config, "d2"))
    assert found is not None and second is not None
    assert second.trials[0].parameters == found.parameters != WEAK


def test_edited_settings_replace_those_that_were_found():
    config = model()
    registry.set_aliases(config.name, {registry.CHAMPION: train(config).version})
    edited = config.model_copy(update={"training": config.training.model_copy(update={"parameters": {"max_depth": 2}})})
    report = version_files.search_report(train(edited, "d2"))
    assert report is not None and report.trials[0].parameters == {"max_depth": 2}


def test_what_was_found_in_memory_is_not_used_with_an_engine_that_derives_no_features():
    config = model()
    registry.set_aliases(config.name, {registry.CHAMPION: train(config).version})
    assert search.found_settings.champions_search(config) is not None
    elsewhere = config.model_copy(update={"training": config.training.model_copy(update={"engine": "external"})})
    assert search.found_settings.with_found_settings(elsewhere) is elsewhere


def test_derived_features_serve(monkeypatch: pytest.MonkeyPatch):
    """A version whose winner derives features predicts through the registry like any other."""
    config = model()
    recipe = {"calendar": "numbers", "target_encoded": ["colour"]}
    config = ModelConfig.model_validate(
        config.model_dump() | {"training": {"min_rows": 200, "parameters": WEAK, "recipe": recipe}}
    )
    version = train(config)
    scorer = version_files.load_scorer(version, fresh=True)
    assert len(scorer.predict(make_rows("regression"))) == 1000
    assert json.loads(version_files.manifest(version))["recipe"]["target_encoded"] == ["colour"]


@pytest.mark.parametrize(("asked", "trials"), [(False, None), (True, 6)])
def test_replays_search_only_if_asked(asked, trials, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "run_mode", lambda dry_run=False: RunMode.REPLAY)
    report = version_files.search_report(train(model(in_replays=asked)))
    assert (report and len(report.trials)) == trials


def test_check_says_what_does_not_search():
    assert any("replays, back-tests and probes do not search" in said for said in check_training(model()))
    assert not any("replays, back" in said for said in check_training(model(in_replays=True)))


def test_preview_describes_the_search():
    said = search.space.describe(model(minutes=10), 0.0167)
    assert said is not None
    assert said.startswith(
        "search: it would spend 10 minutes or 6 trials (about 0.0167 USD) on colsample_bytree 0.4 to 1"
    )
    assert "n_estimators 4 to 40" in said and "derived features" in said
    assert search.space.describe(make_config(), None) is None


def test_cost_forecast_has_the_search_instead_of_past_ones():
    """The last retrain took 2 hours, one of them searching; the next searches for half an hour, at 0.1 USD an hour."""
    config = model(minutes=30)
    assert next_cost_usd(config, utc("2024-03-01")) == pytest.approx(0.05)
    version = train(model())
    used = Usage(1000, 7200.0, 7200.0, search_wall_s=3600.0, search_cpu_s=3600.0)
    tags = dict(version.tags) | {"usage": json.dumps({"rows": 1000, "wall_s": 7200.0, "cpu_s": 7200.0,
                                                      "search_wall_s": 3600.0, "search_cpu_s": 3600.0})}  # fmt: skip
    recorded = replace(version, tags=tuple(tags.items()))
    ledger.append(config.name, Fact("challenger.registered", recorded, utc("2024-03-01"), "d1"))
    assert measured_cost(config.budget, used) == pytest.approx(0.2)
    assert next_cost_usd(config, utc("2024-03-02")) == pytest.approx(0.15)


def test_cost_forecast_has_a_race_that_was_just_added():
    """The last retrain took an hour at 0.1 USD; two half-lives, the file's settings and one trailing span are four fits more."""
    version = train(model())
    used = {"rows": 1000, "wall_s": 3600.0, "cpu_s": 3600.0}
    recorded = replace(version, tags=tuple((dict(version.tags) | {"usage": json.dumps(used)}).items()))
    config = make_config(
        "regression", training={"parameters": WEAK, "min_rows": 200}, budget={"max_usd_per_month": 0.3}
    )
    ledger.append(config.name, Fact("challenger.registered", recorded, utc("2024-03-01"), "d1"))
    race = RacePolicy(strategies=("recency_weighted", "trailing"), half_life_windows=(8, 4))
    racing = config.model_copy(update={"training": config.training.model_copy(update={"race": race})})
    now = utc("2024-03-02")
    assert next_cost_usd(config, now) == pytest.approx(0.1) and next_cost_usd(racing, now) == pytest.approx(0.5)
    assert over_budget(config.budget, 0.1, next_cost_usd(config, now)) is None
    assert "0.50 USD" in str(over_budget(racing.budget, 0.1, next_cost_usd(racing, now)))
    raced = RaceReport((), "mae", (), Strategy(), 0.0, 0.0, 0.0, 0, ())
    ledger.append(config.name, Fact(RACED, raced, utc("2024-03-01"), "d1"))
    assert next_cost_usd(racing, now) == pytest.approx(0.1)  # what it took is part of the last retrain's usage


def test_time_limit_includes_the_search():
    longest = timedelta(seconds=longest_training_s(model(minutes=10)))
    assert longest == timedelta(hours=6, minutes=11, seconds=TAKE_IN_S)


def test_page_shows_the_history():
    report = version_files.search_report(train(model()))
    assert report is not None
    page = search_page(report, "1", "small")
    assert "search before version 1" in page and "adopted" in page and "| champion |" in page
    plot = search_plot(report.trials, "small")
    assert plot is not None and plot.startswith("data:image/svg+xml")
    assert search_plot(report.trials[:1], "small") is None


def test_retrain_shows_its_search(prefect_server: None, tmp_path: Path):
    """A dry run says what would be searched; the retrain's page and plot show what was."""
    given = "  min_rows: 300\n"
    block = "  search: {trials: 4, features: false, parameters: {n_estimators: {low: 5, high: 30}}}\n"
    path = write_model(tmp_path, **{given: given + block})
    first = utc("2024-01-21")
    preview = retrain(path, until=first, requested_by="Ada", dry_run=True)
    assert isinstance(preview, Preview) and any("search: it would spend 4 trials" in said for said in preview.reasons)
    assert isinstance(retrain(path, until=first, requested_by="Ada"), ValidationReport)
    with get_client(sync_client=True) as client:
        page, plot = (
            client.request("GET", f"/artifacts/{name}/latest").json() for name in ("search-small", "plot-search-small")
        )
    assert "| champion |" in page["data"] and page["description"].startswith("search: 4 trials")
    assert plot["type"] == "image"
