"""Score probes: small models that show whether a fresh model would do better, on rows that none of them was trained on.

Each window is processed once, when enough of its labels are known: existing probes are scored on it, then its rows
train the next probe. The windows before service are processed together on the first run. The scores are stored in the
window's judgement in the ledger, so a decision can be reproduced without the probes. These are plain functions, not
tasks, because they have no outcome of their own.
"""

from collections.abc import Sequence
from time import process_time

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation
from tasks.policy.evidence.monitoring import MonitorRun
from tasks.policy.records.reports import PerformanceReport, ProbeColumn


def score_probes(config: ModelConfig, run: MonitorRun, reports: Sequence[PerformanceReport]) -> tuple[ProbeColumn, ...]:
    """Score probes on the windows, up to the run's, whose labels have arrived since the last run.

    Returns one column of losses per window; empty if no trigger of the policy needs probes. `reports` are this run's
    performance reports: the window's own and those that late labels changed.
    """
    if not any(trigger.needs_probes for trigger in config.retraining.when.leaves()):
        return ()
    began = process_time()
    columns = new_columns(config, run, reports)
    scored, spent = sum(len(column.losses) for column in columns), process_time() - began
    get_run_logger().info("probes: %s scored on %s windows in %.2f CPU s", scored, len(columns), spent)
    return columns


def new_columns(config: ModelConfig, run: MonitorRun, reports: Sequence[PerformanceReport]) -> tuple[ProbeColumn, ...]:
    """Score probes on the newly labelled windows, whether or not a trigger needs them."""
    as_of, history = run.as_of, run.history
    known = {column.window for evidence in history.evidence for column in evidence.probes}
    folder = evaluation.probes.probe_folder(config)
    columns = [] if known else evaluation.probes.score_history(config, as_of, folder)
    floor = config.retraining.min_labelled_rows
    latest = {report.window: report for report in (*history.performances, *reports) if report.window <= run.window}
    sound = {found: report for found, report in latest.items() if report.has_sound_labels}
    ready = [found for found, report in sound.items() if report.maturity != "open" and report.labelled_rows >= floor]
    training_ends = (run.champion.trained.end, *(earlier.learned_until for earlier in history.returnable))
    columns += [
        evaluation.probes.score_window_of_service(config, other, as_of, folder, training_ends)
        for other in sorted(set(ready) - known)
    ]
    return tuple(columns)
