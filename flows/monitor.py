"""Monitor one model: check new data, measure drift and performance, and decide whether a retrain pays.

A failed gate ends the run with a verdict, not an error: the window is quarantined and nothing is trained on it. A window
without rows is quarantined too, and checked again until its rows arrive or the next window is complete. When a retrain
pays, the run emits `perennial.retraining.requested`, which an automation turns into a run of `retrain`. A running rollout is
judged with the window's evidence and moved on.
"""

from prefect import flow

from flows.outside_moves import follow_outside_moves
from flows.parameters import Model, Moment, run_name, scheduled_as_of
from tasks.adapters.orchestration.runs import run_as, run_mode
from tasks.data.profile import profile_window
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.monitoring.decision import decide
from tasks.monitoring.diagnosis import diagnose_window
from tasks.monitoring.drift import measure_drift
from tasks.monitoring.performance import measure_performance
from tasks.monitoring.probes import score_probes
from tasks.monitoring.quality import check_quality
from tasks.observation.comparison import compare_versions
from tasks.policy.evidence.monitoring import Judgement, WindowEvidence
from tasks.policy.records.reports import PerformanceReport
from tasks.record.history import load_judgement, load_latency, load_past, load_scoring, prepare_run
from tasks.record.publication import (
    ask_for_retraining,
    emit_heartbeat,
    publish_degradation,
    publish_judgement,
)
from tasks.rollout.access import admit, check_window
from tasks.rollout.outcome import evaluate_promotion
from tasks.rollout.probation import watch_fresh_champion
from tasks.rollout.steps import carry_on
from tasks.training.online import learn_online


@flow(name="monitor", flow_run_name=run_name("monitor"))
def monitor(model: Model, until: Moment | None = None, dry_run: bool = False) -> Judgement:
    """Judge a model's latest complete window and decide whether to retrain.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        until: Judge as of this time (UTC); nothing that became known later is read. When left empty: the time a
            scheduled run was due, else now.
        dry_run: Decide and explain, but write no ledger entry and hand nothing over.
    """
    config = admit(model)
    as_of = scheduled_as_of(config, until)
    window = config.window_until(as_of)
    if not dry_run:
        follow_outside_moves(config, as_of)
    past = load_past(config)
    recorded = load_judgement(config, past, window)
    if recorded and not dry_run:
        carry_on(config, past, window, as_of, run_mode(dry_run))
        ask_for_retraining(config, recorded, past)
        emit_heartbeat(config, recorded)
        return recorded
    check_window(config, past, window)
    if config.predictions and not dry_run and load_scoring(config, past, window) is None:
        run_as(run_mode(), "score", model=model, until=as_of)  # its log is evidence, so it must have been read
        past = load_past(config)
    run = prepare_run(config, past, window, as_of, run_mode(dry_run))
    snapshot = take_snapshot(config, window, may_be_empty=True)
    land_labels(config, as_of)
    profile = profile_window(config, snapshot, run.champion)
    quality = check_quality(config, snapshot, profile, run.champion, run.history)
    evidence, revised = WindowEvidence(window, snapshot.rows, quality), ()
    if quality.verdict != "fail":
        drift = measure_drift(config, profile, run.champion)
        performance, *revised = measure_performance(config, run, load_latency(config, past, window))
        probes = score_probes(config, run, (performance, *revised))
        evidence = WindowEvidence(window, snapshot.rows, quality, drift, performance, probes)
    diagnosis = diagnose_window(config, run, evidence, revised)
    judgement = learn_online(config, run, decide(config, run, evidence, revised, diagnosis))
    evaluate_promotion(config, run.with_labels(revised))
    recorded_now = publish_judgement(config, run, judgement)
    if config.predictions:
        compare_versions(config, run, judgement)
    carry_on(config, past.extended(recorded_now), window, as_of, run.mode)
    degraded = watch_fresh_champion(config, run.extended(recorded_now), _reports(judgement))
    if degraded and not dry_run:
        publish_degradation(config, degraded)
    emit_heartbeat(config, judgement)
    return judgement


def _reports(judgement: Judgement) -> tuple[PerformanceReport, ...]:
    """Return the performance reports of this run: revised earlier windows, then the run's own window."""
    own = judgement.evidence.performance
    return (*judgement.revised, own) if own else judgement.revised
