"""Score one window and log every prediction; `monitor` compares them with labels later.

Where the user's own service answers (`predictions` in the model's file), its log is read instead and nothing is scored.
Otherwise the champion answers, and during a rollout the challenger as well, as the model's traffic split says. A run that
was started because data arrived, or by the model's own schedule, emits `perennial.window.scored`, which an automation turns
into a run of `monitor`.
"""

from datetime import datetime

from prefect import flow

from deployments.config.model import ModelConfig
from flows.outside_moves import follow_outside_moves
from flows.parameters import Model, Moment, run_name, scheduled_as_of
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.observation.log import land_log
from tasks.observation.reference import freeze_history, history_to_read
from tasks.policy.records.base import Window
from tasks.policy.records.reports import Scoring
from tasks.record.history import find_champion, load_past, load_scoring
from tasks.record.publication import ask_for_monitoring, publish_scoring
from tasks.rollout.access import admit, check_window
from tasks.rollout.scoring import is_answered, score_window
from tasks.rollout.traffic import find_traffic


@flow(name="score", flow_run_name=run_name("score"))
def score(model: Model, until: Moment | None = None) -> Scoring | None:
    """Score a model's latest complete window with its champion. Scoring a window twice changes nothing.

    A window without rows is not recorded; a later run scores it once its rows have arrived.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        until: Score the latest window that is complete at this time (UTC). When left empty: the time a scheduled run
            was due, else now.
    """
    config = admit(model)
    as_of = scheduled_as_of(config, until)
    window = config.window_until(as_of)
    follow_outside_moves(config, as_of)
    past = load_past(config)
    scoring = load_scoring(config, past, window)
    if scoring is None:
        check_window(config, past, window)
        scoring = _observe(config, window, as_of) if config.predictions else _score(config, window)
        if scoring:
            publish_scoring(config, scoring)
    ask_for_monitoring(config, window, as_of)
    return scoring


def _score(config: ModelConfig, window: Window) -> Scoring | None:
    champion = find_champion(config, required=True)
    snapshot = take_snapshot(config, window, may_be_empty=True)
    if not snapshot.rows or is_answered(config, snapshot):
        return None
    traffic = find_traffic(config, champion)
    return score_window(config, snapshot, champion, traffic.split, traffic.challenger)


def _observe(config: ModelConfig, window: Window, as_of: datetime) -> Scoring | None:
    """Read what the user's own service predicted; on the first run, freeze the history as its reference before."""
    snapshot = take_snapshot(config, window, may_be_empty=True)
    if not snapshot.rows:
        return None
    if find_champion(config) is None:
        history = take_snapshot(config, config.history())
        land_labels(config, as_of)
        freeze_history(config, history, window, as_of)
        for earlier in history_to_read(config):
            land_log(config, earlier, history)
    return land_log(config, window, snapshot)
