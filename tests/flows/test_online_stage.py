"""The stage that updates the online corrector: what teaches it, what serves, and what happens when something goes wrong."""

import json
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, ledger, online, registry
from tasks.adapters.storage.workspace import workspace as current_workspace
from tasks.policy.evidence.ledger import LABELS_QUARANTINED, Fact, LabelVerdicts, Past
from tasks.policy.evidence.monitoring import Decision, History, Judgement, MonitorRun, WindowEvidence
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Window, from_json, to_json
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import LabelReport, PerformanceReport
from tasks.policy.rollout.traffic import TrafficSplit
from tasks.policy.training.online import ROLLED_BACK, UPDATED, OnlineUpdate
from tasks.rollout.scoring import score_window
from tasks.training.online import FROZEN, learn_online
from tests.support.trained_models import (
    HOLDOUT,
    TRAINING,
    land as land_labelled,
    make_config,
    make_rows,
    prepare_registry,
    register,
)

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _registry(workspace: Path, quiet: None) -> None:
    prepare_registry(workspace)


def config_of(task: str = "binary", **settings: object) -> ModelConfig:
    training = {"parameters": {"n_estimators": 30, "max_depth": 3}, "min_rows": 200, "online": settings}
    return make_config(task, training=training, window_days=5)


def windows(count: int) -> list[Window]:
    first = Window(TRAINING.end, TRAINING.end + 5 * DAY)
    return [Window(first.start + 5 * number * DAY, first.end + 5 * number * DAY) for number in range(count)]


def land(config: ModelConfig, window: Window, turn: float, flipped: bool = False) -> None:
    """Land a window's rows and labels; `flipped` exchanges the classes."""
    rows = make_rows(config.task, rows=400, window=window, seed=window.start.toordinal(), turn=turn)
    if flipped:
        place = rows.column_names.index("label")
        rows = rows.set_column(place, "label", pa.array(1 - rows["label"].to_numpy()))
    lake.land_rows(config, window, rows)
    lake.land_labels(config, lake.schemas.conform_labels(config, rows, "test"), window.end)


def judgement_of(window: Window, champion: ModelVersion, diagnosis: str = "none") -> Judgement:
    report = PerformanceReport(window, window.end, champion.version, 400, 400, "closed", (), "log_loss")
    decision = Decision(f"decision-{window.name}", champion.model, window, False, (), diagnosis)
    return Judgement(window.end, champion.version, WindowEvidence(window, 400, performance=report), decision)


def learn(
    config: ModelConfig, champion: ModelVersion, judged: list[Judgement], mode: RunMode = RunMode.LIVE
) -> Judgement:
    """Run the stage for the last of these windows."""
    *earlier, own = judged
    history = History(performances=tuple(one.evidence.performance for one in earlier))
    window, past = own.decision.window, Past(ledger.entries(config.name))
    return learn_online.fn(config, MonitorRun(window, own.as_of, champion, history, past, mode), own)


def live_through(config: ModelConfig, turns: list[float], flipped: tuple[int, ...] = ()) -> list[Judgement]:
    """Serve windows whose labels depend on x by these factors; return the judgements."""
    champion, judged = register(config), []
    for number, (window, turn) in enumerate(zip(windows(len(turns)), turns, strict=True)):
        land(config, window, turn, number in flipped)
        judged.append(learn(config, champion, [*judged, judgement_of(window, champion)]))
    return judged


def updates(config: ModelConfig) -> list[OnlineUpdate]:
    entries = (entry for entry in ledger.entries(config.name) if entry.kind in (UPDATED, ROLLED_BACK))
    return [from_json(OnlineUpdate, entry.body) for entry in entries]


FADING = [0.9, 0.7, 0.5, 0.3, 0.1]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_gradual_change_is_followed(task):
    config = config_of(task)
    judged = live_through(config, FADING)
    first, *_, last = updates(config)
    assert first.serving is None, "no window has judged it yet"
    assert last.serving == last.newest
    assert last.gain.low > 0
    metric = "mae" if task == "regression" else "log_loss"
    assert judged[-1].online.startswith(
        f"Online corrector: state 5 serves; it lowered {metric} of the last 4 windows by "
    )
    assert judged[-1].online.endswith("compared with the frozen champion")


def test_a_stationary_stream_is_not_harmed():
    config = config_of()
    live_through(config, [1.0] * 5)
    last = updates(config)[-1]
    assert last.gain.low > -config.validation.margin("log_loss", last.gain.champion)
    assert last.serving == last.newest


def test_harmful_update_is_stopped_and_the_last_good_state_serves():
    """Flipped labels teach the wrong thing once; the window after them shows it."""
    config = config_of()
    judged = live_through(config, [0.8, 0.6, 0.6, 0.6, 0.6, 0.6], flipped=(4,))
    last = updates(config)[-1]
    assert 4 + 1 in [update.newest.number for update in updates(config)]
    assert last.serving is not None
    assert last.serving.number < 5, "learned before the labels were flipped"
    assert ledger.entries(config.name)[-1].kind == ROLLED_BACK
    assert f"state {last.serving.number}, the last good one, serves; state 6 does not: it lost" in judged[-1].online


def test_abrupt_reversal_falls_back_to_the_frozen_champion():
    """What was learned from a change is wrong when the change ends; no earlier state is better than the frozen one."""
    config = config_of()
    live_through(config, [-1.0, -1.0, -1.0, -1.0, 1.0])
    last = updates(config)[-1]
    assert last.serving is None
    assert "the frozen champion serves; state 5 does not: it" in last.sentence


def test_windows_in_doubt_never_teach():
    config = config_of()
    champion, spans = register(config), windows(5)
    judged = []
    for number, window in enumerate(spans):
        land(config, window, 0.5)
        judged.append(judgement_of(window, champion, "upstream_data_fault" if number == 1 else "none"))
        ledger.append(config.name, Fact("window.judged", judged[-1], window.end, judged[-1].decision.decision_id))
    doubted = LabelVerdicts((LabelReport(spans[2], "fail", (), ("labels came in another unit",)),))
    ledger.append(config.name, Fact(LABELS_QUARANTINED, doubted, spans[2].end))
    open_report = replace(judged[3].evidence.performance, maturity="maturing")
    judged[3] = replace(judged[3], evidence=replace(judged[3].evidence, performance=open_report))
    learn(config, champion, judged)
    assert updates(config)[-1].newest.learned == (spans[0], spans[4])


def test_rows_that_the_champion_was_trained_on_never_teach():
    config = config_of()
    champion = register(config)
    window = Window(TRAINING.end - 5 * DAY, TRAINING.end)
    judged = learn(config, champion, [judgement_of(window, champion)])
    assert "no window since its training has closed with sound labels" in judged.online
    assert not updates(config)


def test_same_window_updates_once():
    config = config_of()
    judged = live_through(config, FADING[:3])
    before, champion = ledger.entries(config.name), registry.version(config.name, "1")
    assert learn(config, champion, judged).online == judged[-1].online
    assert ledger.entries(config.name) == before


def state_files(config: ModelConfig) -> list[Path]:
    return sorted(Path(online.store.folder(config.name)).rglob("*.json"))


def test_killed_between_file_and_ledger_entry(monkeypatch):
    """The next run writes the same file again, bit for bit, and records it."""
    config = config_of()
    champion, window = register(config), windows(1)[0]
    land(config, window, 0.5)

    def killed(*_: object) -> None:
        raise LedgerError("killed here")

    with monkeypatch.context() as patched, pytest.raises(LedgerError):
        patched.setattr(ledger, "append", killed)
        learn(config, champion, [judgement_of(window, champion)])
    (written,) = state_files(config)
    content = written.read_bytes()
    learn(config, champion, [judgement_of(window, champion)])
    assert state_files(config) == [written]
    assert written.read_bytes() == content
    assert len(updates(config)) == 1


def test_dry_run_writes_nothing():
    config = config_of()
    champion, window = register(config), windows(1)[0]
    land(config, window, 0.5)
    judged = learn(config, champion, [judgement_of(window, champion)], RunMode.DRY_RUN)
    assert "state 1 does not: it was compared" in judged.online
    assert not updates(config)
    assert not state_files(config)


def test_without_the_setting_nothing_is_read_or_written():
    config = make_config()
    champion, window = register(config), windows(1)[0]
    judgement = judgement_of(window, champion)
    assert learn(config, champion, [judgement]) is judgement
    assert "online" not in json.loads(to_json(judgement))
    assert not (Path(current_workspace().lake) / config.name / "online").exists()
    assert config_of().fingerprint != config.fingerprint


def scored(config: ModelConfig, window: Window) -> pa.Table:
    """Land and score a window; return its log."""
    rows = make_rows(config.task, rows=50, window=window, seed=77)
    score_window.fn(config, lake.land_rows(config, window, rows), registry.version(config.name, "1"))
    return lake.read_predictions(config, window)


def frozen_predictions(config: ModelConfig, window: Window) -> list[float]:
    scorer = registry.version_files.load_scorer(registry.version(config.name, "1"))
    return scorer.predict(lake.read_rows(lake.landed_rows(config, window))).tolist()


def test_state_serves_the_next_window_and_is_logged():
    config = config_of()
    live_through(config, FADING)
    log = scored(config, windows(6)[-1])
    assert set(log["online_state"].to_pylist()) == {5}
    assert not np.allclose(log["prediction"].to_numpy(), frozen_predictions(config, windows(6)[-1]))


def test_state_serves_no_window_that_began_before_it_was_made():
    config = config_of()
    live_through(config, FADING)
    champion = registry.version(config.name, "1")
    states = [online.serving.load_champion(config, champion, window.start).state for window in windows(6)]
    assert states == [None, None, None, 3, 4, 5]


def test_new_champion_starts_frozen():
    config = config_of()
    live_through(config, FADING)
    moved = Promotion(config.name, "d9", "1", "2", "rolled_back")
    ledger.append(config.name, Fact("champion.rolled_back", moved, windows(5)[-1].end, "d9"))
    champion = registry.version(config.name, "1")
    assert online.serving.load_champion(config, champion).state is None, "not even with its own state of long ago"


def test_altered_state_is_refused_and_the_frozen_champion_serves(caplog):
    config = config_of()
    live_through(config, FADING)
    newest = state_files(config)[-1]
    newest.write_bytes(newest.read_bytes() + b" ")  # still valid JSON
    window = windows(6)[-1]
    with caplog.at_level(logging.WARNING):
        log = scored(config, window)
    assert "online_state" not in log.column_names
    assert log["prediction"].to_pylist() == frozen_predictions(config, window)
    assert "the frozen champion 1 serves: state 5: 1/000005-" in caplog.text
    assert "as in the ledger; it was changed or cut short" in caplog.text


@pytest.mark.parametrize("is_online", [True, False])
def test_challenger_is_compared_with_the_champion_as_it_served(is_online):
    """What the champion logged before the labels were known counts, because its corrector has learned from them since."""
    config = config_of() if is_online else make_config()
    champion, challenger = register(config, "d1"), register(config, "d2", seed=1)
    rows = make_rows(rows=400, window=HOLDOUT, seed=9)
    holdout = land_labelled(config, HOLDOUT, rows)
    log = pa.table({"id": rows["id"], "time": rows["time"], "prediction": np.full(400, 0.5)})
    lake.land_predictions(config, HOLDOUT, champion.version, log)
    found = evaluation.challenger.compare(config, challenger, champion, HOLDOUT, lake.read_labelled(holdout))
    assert (found.primary.champion == pytest.approx(np.log(2))) == is_online


def test_shadow_predicts_beside_a_corrected_champion():
    config = config_of()
    live_through(config, FADING)
    window, challenger = windows(6)[-1], register(config, "d2", seed=1)
    snapshot = lake.land_rows(config, window, make_rows(rows=50, window=window, seed=77))
    split = TrafficSplit(config.name, "1", challenger.version, mode="shadow")
    score_window.fn(config, snapshot, registry.version(config.name, "1"), split, challenger)
    log = lake.read_predictions(config, window).select(["role", "online_state"]).to_pylist()
    assert {(row["role"], row["online_state"]) for row in log} == {("champion", 5), ("shadow", None)}


def test_labels_that_come_later_than_the_windows_that_teach():
    """Labels come three windows late, and two windows teach: states are still compared, and learn from two windows."""
    config = config_of(windows=2)
    champion, spans = register(config), windows(9)
    judged = []
    for number, window in enumerate(spans):
        land(config, window, 1 - number / 8)
        judged.append(judgement_of(window, champion))
        known = [one if place + 3 <= number else without_labels(one) for place, one in enumerate(judged)]
        learn(config, champion, known)
    last = updates(config)[-1]
    assert last.newest.learned == tuple(spans[4:6])
    assert last.gain.low > 0
    assert last.serving == last.newest


def without_labels(judgement: Judgement) -> Judgement:
    report = replace(judgement.evidence.performance, maturity="open")
    return replace(judgement, evidence=replace(judgement.evidence, performance=report))


def test_state_is_withdrawn_once_no_window_closes_any_more():
    config = config_of(windows=2)
    judged = live_through(config, FADING)
    champion = registry.version(config.name, "1")
    sentences = []
    for window in windows(9)[5:]:
        judged.append(without_labels(judgement_of(window, champion)))
        sentences.append(learn(config, champion, judged).online)
    assert "state 5 serves" in sentences[0]
    assert sentences[:2] == [updates(config)[4].sentence] * 2
    assert sentences[2:] == [f"{FROZEN}; no window has closed for 3 windows, so nothing judges a state"] * 2
    assert [entry.kind for entry in ledger.entries(config.name)[-2:]] == [UPDATED, ROLLED_BACK]
    assert online.serving.load_champion(config, champion).state is None


def test_state_is_withdrawn_once_all_that_it_learned_is_in_doubt():
    config = config_of()
    judged = live_through(config, FADING)
    champion, spans = registry.version(config.name, "1"), windows(6)
    doubted = LabelVerdicts(tuple(LabelReport(window, "fail", (), ("another unit",)) for window in spans[:5]))
    ledger.append(config.name, Fact(LABELS_QUARANTINED, doubted, spans[5].end))
    judged.append(without_labels(judgement_of(spans[5], champion)))
    assert learn(config, champion, judged).online.startswith(f"{FROZEN}; no window since its training has closed")
    assert online.serving.load_champion(config, champion).state is None
    assert len(updates(config)) == 6
