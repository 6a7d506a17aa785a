"""Would a fresh model do better? After each window small models are scored on rows that none of them has seen.

A window is taken up once, when enough of its labels are known; then its rows teach the next probe. The windows before
service are taken up together the first time. What was scored stands in the window's judgement in the ledger, so a
decision can be told again without the probes. A plain function, no task: it has no outcome of its own.
"""

from collections.abc import Sequence
from time import process_time

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation
from tasks.policy.records.evidence import MonitorRun
from tasks.policy.records.reports import PerformanceReport, ProbeColumn


def score_probes(config: ModelConfig, run: MonitorRun, reports: Sequence[PerformanceReport]) -> tuple[ProbeColumn, ...]:
    """Columns of the windows up to the run's whose labels have come since the last time; none without such a trigger.

    `reports` are this run's performance reports: the window's own and those that late labels changed.
    """
    if not any(trigger.needs_probes for trigger in config.retraining.when.leaves()):
        return ()
    began = process_time()
    columns = new_columns(config, run, reports)
    scored, spent = sum(len(column.losses) for column in columns), process_time() - began
    get_run_logger().info("probes: %s scored on %s windows in %.2f CPU s", scored, len(columns), spent)
    return columns


def new_columns(config: ModelConfig, run: MonitorRun, reports: Sequence[PerformanceReport]) -> tuple[ProbeColumn, ...]:
    """The same, whatever the policy."""
    as_of, history = run.as_of, run.history
    known = {column.window for evidence in history.evidence for column in evidence.probes}
    folder = evaluation.probes.probe_folder(config)
    columns = [] if known else evaluation.probes.before_service(config, as_of, folder)
    floor = config.retraining.min_labelled_rows
    latest = {report.window: report for report in (*history.performances, *reports) if report.window <= run.window}
    sound = {found: report for found, report in latest.items() if report.has_sound_labels}
    ready = [found for found, report in sound.items() if report.maturity != "open" and report.labelled_rows >= floor]
    aged = (run.champion.trained.end, *(served.learned_until for served in history.returnable))
    columns += [evaluation.probes.take_up(config, other, as_of, folder, aged) for other in sorted(set(ready) - known)]
    return tuple(columns)
