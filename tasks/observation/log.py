"""Land the log of the predictions that somebody else's service made in a window, and follow its versions.

The log goes where our own predictions go, so everything that reads them works alike. A version that the log names for the
first time is registered. The one that answered most of the window's rows is the champion, if by more than chance.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, ledger, registry, sources, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.comparison.split import takes_over
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Window, digest
from tasks.policy.records.reports import Latency, Scoring, Snapshot
from tasks.policy.rollout.versions import registered


# three retries: the log's source, the lake or the registry may be briefly unavailable; landing twice changes nothing
@stage(retries=3, timeout_seconds=3600)
def land_log(config: ModelConfig, window: Window, rows: Snapshot) -> Scoring:
    """Read the log of the window's rows, register versions that are new in it, and store it.

    `rows` is the snapshot that holds the window's rows. Raises SourceError, SourceUnreachable.
    """
    keys = lake.landed_keys(config, window)
    champion = registry.version(config.name, registry.CHAMPION)
    classes = registry.classes(config.name, champion.version) if config.task != "regression" else ()
    known = lake.landed_keys(config, sources.own_predictions.known_span(config, window)).column(0)
    found = sources.own_predictions.read_own_predictions(config, window, keys, classes, known)
    with storage.lease.hold(config.name, "score"):
        numbers = _register_versions(config, champion, found.log)
        log = _numbered(found.log, numbers)
        champion = _follow_champion(config, champion, window, log)
        landed = rows
        if len(log):
            landed = lake.land_predictions(config, window, champion.version, log)
    _report(window, len(keys), found)
    return Scoring(window, champion.version, landed, len(keys), _latency(log))


def _register_versions(config: ModelConfig, champion: ModelVersion, log: pa.Table) -> dict[str, str]:
    """Register the versions that are new in the log, in the order in which they appear; return the number of each name."""
    known = registered(ledger.entries(config.name))
    numbers = {version.observed_as: number for number, version in known.items() if version.observed_as is not None}
    for name in log.sort_by("time")["version"].unique().to_pylist():
        if name in numbers:
            continue
        since: datetime = pc.min(log.filter(pc.equal(log["version"], name))["time"]).as_py()
        version = registry.observed.register_next(config, champion, name, digest(config.name, "observed", name))
        ledger.append(config.name, Fact("challenger.registered", version, since, version.decision_id, "service"))
        text = f"{name!r} is new in the log from {since:%Y-%m-%d %H:%M} on; it is version {version.version} here"
        get_run_logger().warning("observation: %s", text)
        numbers[name] = version.version
    return numbers


def _numbered(log: pa.Table, numbers: Mapping[str, str]) -> pa.Table:
    """Return the log in the columns of the lake's predictions."""
    versions = pa.array([numbers[name] for name in log["version"].to_pylist()], pa.string())
    place = log.column_names.index("version")
    return log.set_column(place, "model_version", versions).append_column(
        "step", pa.array([""] * len(log), pa.string())
    )


def _follow_champion(config: ModelConfig, champion: ModelVersion, window: Window, log: pa.Table) -> ModelVersion:
    """Return the version that answered most of the window's rows, and record it where it replaces the one before."""
    answered = evaluation.prediction_log.with_role(log, "champion")
    if not len(answered):
        return champion
    counts = Counter(answered["model_version"].to_pylist())
    number, most = counts.most_common(1)[0]
    if number == champion.version or not takes_over(counts[champion.version], most):
        return champion
    serving = registry.version(config.name, number)
    model, since = config.name, _since(config, window, serving.version, answered)
    reason = (
        f"your service answers with version {serving.version} ({serving.observed_as}) since {since:%Y-%m-%d %H:%M} UTC, before "
        f"with version {champion.version} ({champion.observed_as or 'trained here'})"
    )
    decision_id = digest(model, "observed from", window.name)
    moved = Promotion(model, decision_id, serving.version, champion.version, "promoted", (reason,))
    ledger.append(model, Fact("champion.promoted", moved, since, decision_id, "service"))
    registry.set_aliases(model, {registry.PREVIOUS: champion.version, registry.CHAMPION: serving.version})
    registry.tag(model, champion.version, status="stale", replaced_by=serving.version)
    registry.tag(model, serving.version, status="champion", promoted_by=decision_id)
    get_run_logger().warning("observation: %s", reason)
    return serving


def _since(config: ModelConfig, window: Window, version: str, answered: pa.Table) -> datetime:
    """Return the time of the version's first answer, in this window or the one before."""
    before = config.window_at(window.start - (window.end - window.start) / 2)
    earlier = evaluation.prediction_log.with_role(lake.read_predictions(config, before), "champion")
    logs = (log.filter(pc.equal(log["model_version"], version))["time"] for log in (earlier, answered))
    first: datetime = min(pc.min(times).as_py() for times in logs if len(times))
    return first


def _report(window: Window, rows: int, found: "sources.own_predictions.OwnPredictions") -> None:
    counts = evaluation.prediction_log.count_logged(found.log, rows)
    summary = (
        f"log of {window.name}: {rows:,} rows, {counts.missing:,} without a prediction, {counts.duplicates:,} with two "
        f"different ones, {counts.invalid:,} with an unusable one"
    )
    say = get_run_logger().warning if counts.missing + counts.duplicates + counts.invalid else get_run_logger().info
    say("observation: %s%s", summary, f"; {found.remark}" if found.remark else "")


def _latency(log: pa.Table) -> Latency:
    """Return quantiles of the seconds that an answer took; all 0 where the log has none."""
    seconds = log["latency_s"].drop_null().to_numpy() if "latency_s" in log.column_names else np.empty(0)
    p50, p95, p99 = np.quantile(seconds if len(seconds) else [0.0], [0.5, 0.95, 0.99])
    return Latency(float(p50), float(p95), float(p99), 0.0, len(seconds))
