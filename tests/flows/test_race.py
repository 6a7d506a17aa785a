"""The race of strategies in a retrain: recorded, shown, and its winner is what the challenger is trained by."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import candidates, lake, ledger, models, registry, search
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Window, from_json
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import Snapshot
from tasks.policy.training.race import RACED, RaceReport, Strategy
from tasks.record import preview
from tasks.training import race as stage
from tasks.training.race import race_strategies
from tasks.training.train import train_challenger
from tests.support.trained_models import HOLDOUT, TRAINING, land, make_config, make_rows, prepare_registry

TURN = TRAINING.start + timedelta(days=30)
AS_OF = HOLDOUT.end


@pytest.fixture(autouse=True)
def _registry(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_registry(workspace)
    monkeypatch.setattr(stage.reports.artifacts, "create_markdown_artifact", lambda *_, **__: None)


def racing(task: str = "binary", **race: object) -> ModelConfig:
    training = {"parameters": {"n_estimators": 30, "max_depth": 3}, "min_rows": 100, "early_stopping_rounds": None}
    return make_config(task, training={**training, "race": {"windows": 2, "half_life_windows": [1], **race}})


def turned(task: str = "binary", rows: int = 1500) -> pa.Table:
    """Return rows of one concept, then of another in the latter half."""
    before = make_rows(task, rows=rows // 2, window=Window(TRAINING.start, TURN), turn=-1.0)
    return pa.concat_tables([before, make_rows(task, rows=rows // 2, window=Window(TURN, TRAINING.end), seed=1)])


def raced(config: ModelConfig, training: Snapshot, decision_id: str = "d1") -> RaceReport:
    with disable_run_logger():
        report = race_strategies.fn(config, training, decision_id, AS_OF)
    assert report is not None
    return report


def train(config: ModelConfig, training: Snapshot, race: RaceReport | None) -> ModelVersion:
    with disable_run_logger():
        return train_challenger.fn(config, training, "d1", None, race)


def test_recent_rows_win_after_a_change():
    config = racing(strategies=["recency_weighted"])
    training = land(config, TRAINING, turned())
    report = raced(config, training)
    assert report.winner == Strategy("recency_weighted", 1)
    assert report.gain > 0.1
    assert from_json(RaceReport, ledger.entries(config.name, kind=RACED)[0].body) == report
    version = train(config, training, report)
    assert json.loads(registry.version_files.manifest(version))["race"]["winner"]["kind"] == "recency_weighted"
    rows = lake.read_labelled(training)
    weighted = candidates.strategies.fit(config, report.winner, rows).scorer
    loaded = registry.version_files.load_scorer(version)
    assert (loaded.predict(rows) == weighted.predict(rows)).all()
    assert report.reasons[0] in json.loads(dict(version.tags)[registry.REMARKS])


def test_settings_stay_without_a_change():
    config = racing()
    training = land(config, TRAINING, make_rows(rows=1500))
    report = raced(config, training)
    assert report.winner == Strategy()
    assert "the file's settings stay" in report.reasons[0]
    plain = models.estimators.fit(config, lake.read_labelled(training)).scorer
    rows = make_rows(rows=50, window=HOLDOUT, seed=4)
    assert (
        registry.version_files.load_scorer(train(config, training, report)).predict(rows) == plain.predict(rows)
    ).all()


def test_race_runs_once_per_decision():
    config = racing(strategies=["recency_weighted"])
    training = land(config, TRAINING, turned())
    first = raced(config, training)
    assert raced(config, training) == first
    assert len(ledger.entries(config.name, kind=RACED)) == 1
    assert raced(config, training, "d2").compared > first.compared


def test_race_is_run_with_the_settings_that_the_champions_search_found(monkeypatch: pytest.MonkeyPatch):
    """In a replay, which does not search, and once the file asks for others, with those of the file."""
    weak = {"parameters": {"n_estimators": 4, "max_depth": 1}, "min_rows": 100}
    asked = {"trials": 4, "features": False, "parameters": {"n_estimators": {"low": 20, "high": 40}}}
    config = make_config("regression", training={**weak, "search": asked, "race": {"windows": 2, "strategies": []}})
    training = land(config, TRAINING, make_rows("regression"))
    champion = train(config, training, None)
    registry.set_aliases(config.name, {registry.CHAMPION: champion.version})
    found = registry.version_files.search_report(champion)
    assert found is not None and found.adopted
    used, run = [], candidates.race.run
    monkeypatch.setattr(
        candidates.race, "run", lambda given, *rest: used.append(given.training.parameters) or run(given, *rest)
    )
    raced(config, training, "d2")
    monkeypatch.setattr(stage.runs, "run_mode", lambda: RunMode.REPLAY)
    raced(config, training, "d3")
    monkeypatch.undo()
    assert used == [found.parameters, weak["parameters"]]
    edited = config.model_copy(update={"training": config.training.model_copy(update={"parameters": {"max_depth": 2}})})
    assert search.found_settings.with_found_settings(edited) is edited


def test_no_race_without_the_setting():
    config = make_config()
    with disable_run_logger():
        assert race_strategies.fn(config, land(config, TRAINING, make_rows()), "d1", AS_OF) is None


def champion_of(config: ModelConfig, until: Window) -> ModelVersion:
    """Register a champion that was trained on the rows of `until`, and record it in the ledger."""
    version = train(config, lake.labelled_snapshot(config, until, AS_OF), None)
    ledger.append(config.name, Fact("challenger.registered", version, AS_OF, "d1"))
    ledger.append(
        config.name,
        Fact("champion.promoted", Promotion(config.name, "d1", version.version, None, "promoted"), AS_OF, "d1"),
    )
    registry.set_aliases(config.name, {"champion": version.version})
    return version


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("kind", ["continue_champion", "refresh_leaves"])
def test_champion_is_continued(task, kind):
    """The champion's trees stay; it is fitted further, or its leaves anew, on rows that it has not seen."""
    config = racing(task, strategies=[kind])
    land(config, TRAINING, turned(task))
    champion = champion_of(config, Window(TRAINING.start, TURN))
    training = lake.labelled_snapshot(config, TRAINING, AS_OF)
    report = raced(config, training, "d2")
    entrant = report.entrants[1]
    assert entrant.refused is None and entrant.strategy.version == champion.version
    strategy = replace(entrant.strategy, since=champion.trained.end if kind == "continue_champion" else None)
    base = candidates.bases.load_base(config, strategy, TRAINING.end)
    fitted = candidates.strategies.fit(config, strategy, lake.read_labelled(training), base)
    old = registry.version_files.load_scorer(champion)
    added = (fitted.rounds or 0) - old.estimator.get_booster().num_boosted_rounds()
    assert added > 0 if kind == "continue_champion" else added == 0
    fresh = make_rows(task, rows=400, window=HOLDOUT, seed=5)
    losses = [candidates.race.window_loss(config, scorer, fresh) for scorer in (fitted.scorer, old)]
    assert losses[0] < losses[1], "the new rows are of the new concept"


def test_champion_that_saw_the_windows_does_not_race():
    config = racing(strategies=["continue_champion", "earlier_champion"])
    land(config, TRAINING, turned())
    champion_of(config, TRAINING)
    report = raced(config, lake.labelled_snapshot(config, TRAINING, AS_OF), "d2")
    assert [each.refused is None for each in report.entrants] == [True, False]
    assert "has no model here that could be continued" in str(report.entrants[1].refused)


def test_preview_says_what_would_race():
    config = racing(strategies=["recency_weighted", "trailing"])
    land(config, TRAINING, turned())
    words = preview._describe_ways(config)
    assert words[0].startswith(
        "race: 3 strategies on the latest 2 closed windows (the file's settings; recency weighted"
    )
    assert preview._describe_ways(make_config()) == ()


@pytest.mark.parametrize("way", [{"command": ["train"]}, {"flow": "team/train"}])
def test_race_needs_training_in_this_process(way):
    with pytest.raises(
        ValueError, match=r"race is given with (command|flow), expected it with estimator or function only"
    ):
        make_config(training={**way, "race": {}})


def test_weights_halve_with_age():
    config = racing()
    rows = make_rows(rows=11, window=Window(TRAINING.start, TRAINING.start + timedelta(days=11)))
    weights = candidates.strategies.row_weights(config, Strategy("recency_weighted", 1), rows)
    assert weights[-1] == 1 and weights[5] == pytest.approx(0.5) and np.all(np.diff(weights) > 0)


def test_estimator_without_weights_is_refused_not_raised():
    config = make_config(
        training={
            "estimator": "sklearn.neighbors:KNeighborsClassifier",
            "min_rows": 100,
            "race": {"windows": 2, "strategies": ["recency_weighted"], "half_life_windows": [1]},
        }
    )
    report = raced(config, land(config, TRAINING, turned()))
    assert "takes no weights of rows" in str(report.entrants[1].refused)
    assert report.winner == Strategy()
