"""Records of a replay: one per window, used to resume after an interruption, and the final comparison.

Records are JSON files in the workspace's `replay/` folder, written atomically.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, registry, reports, storage
from tasks.adapters.orchestration.stage import stage
from tasks.adapters.storage.atomic_files import file_lock, write_atomically
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.replay import Replay, ReplayEvent, ReplayWindow
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Window, from_json, to_json
from tasks.policy.records.errors import ReplayRefused
from tasks.policy.records.reports import DriftReport


def replay_folder(model: str) -> Path:
    return storage.workspace.make_folder(storage.workspace.workspace().home / "replay" / model)


def open_replay(config: ModelConfig, windows: Sequence[Window]) -> Path:
    """Return the folder of the replay's records.

    Raises ReplayRefused without a complete window, or if the champion was trained on rows after the first window that
    has no record yet.
    """
    if config.predictions is not None:
        raise ReplayRefused(
            f"{config.name}: its predictions are those of your own service, which cannot be made again; expected a model that is "
            "served here; judge past windows with `perennial run backfill`, and policies with `perennial backtest`"
        )
    if not windows:
        raise ReplayRefused(
            f"{config.name}: no complete window of {config.window_length} to replay; expected start and end further apart"
        )
    folder = replay_folder(config.name)
    missing = next((window for window in windows if load_window(folder, window) is None), None)
    if missing and registry.CHAMPION in registry.aliases(config.name):
        champion = registry.version(config.name, registry.CHAMPION)
        if champion.trained.end > missing.end:
            raise ReplayRefused(
                f"{config.name}: champion version {champion.version} was trained on rows until {champion.trained.end:%Y-%m-%d}, "
                f"after {missing.name}, which is to be replayed; expected a champion from before it; "
                "set PERENNIAL_HOME to an empty folder to replay from the beginning"
            )
    return folder


def load_window(folder: Path, window: Window) -> ReplayWindow | None:
    path = folder / f"{window.name}.json"
    return from_json(ReplayWindow, path.read_bytes()) if path.exists() else None


def load_windows(folder: Path, windows: Sequence[Window]) -> tuple[ReplayWindow, ...]:
    """Read every window's record. Raises FileNotFoundError if the record of a replayed window is missing."""
    return tuple(from_json(ReplayWindow, (folder / f"{window.name}.json").read_bytes()) for window in windows)


def record_window(folder: Path, record: ReplayWindow) -> None:
    write_atomically(folder / f"{record.window.name}.json", to_json(record))


def first_champion(config: ModelConfig) -> ModelVersion | None:
    """Return the first champion, which would still serve if the model were never retrained; None if there was none."""
    for entry in ledger.entries(config.name):
        if entry.kind == "champion.promoted":
            return registry.version(config.name, from_json(Promotion, entry.body).champion)
    return None


def summarise(config: ModelConfig, judgement: Judgement, events: tuple[ReplayEvent, ...]) -> ReplayWindow:
    """Summarise a window as it was when judged; the flow adds later labels at its end."""
    decision, evidence = judgement.decision, judgement.evidence
    drift, performance = evidence.drift, evidence.performance
    worst = max(drift.features, key=lambda feature: feature.effect_size / feature.threshold) if drift else None
    quarantined = evidence.quality is not None and evidence.quality.verdict == "fail"
    if quarantined and evidence.quality:
        first, *others = evidence.quality.reasons
        more = f" and {len(others)} more, see the window's data checks" if others else ""
        events = (ReplayEvent("quarantined", f"{first}{more}"), *events)
    return ReplayWindow(
        window=evidence.window,
        rows=evidence.rows,
        labelled_rows=performance.labelled_rows if performance else 0,
        maturity=performance.maturity if performance else "open",
        champion=judgement.champion,
        metric=performance.metric(config.performance.metric) if performance else None,
        never=None,
        every=None,
        quality=evidence.quality.verdict if evidence.quality else "pass",
        drift=drift.verdict if drift else "insufficient",
        drifted_share=_share_past_limit(drift) if drift else 0.0,
        worst_feature=worst.feature if worst else None,
        worst_effect=worst.effect_size if worst else None,
        diagnosis=decision.diagnosis,
        retrain=decision.retrain,
        reasons=decision.reasons,
        decision_id=decision.decision_id,
        events=events,
    )


def _share_past_limit(drift: DriftReport) -> float:
    """Return the unweighted share of features past their drift limit."""
    past = [feature for feature in drift.features if feature.verdict == "drifted"]
    return len(past) / len(drift.features) if drift.features else 0.0


@stage
def report_replay(replay: Replay) -> Path:
    """Store the finished replay, then write the page and summary.json of all replays in this workspace."""
    folder = replay_folder(replay.model)
    write_atomically(folder / "replay.json", to_json(replay))
    with file_lock(folder.parent / ".report.lock"):  # if two replays end at once, the later one includes both
        replays = finished_replays()
        summary = {finished.model: finished.summary() for finished in replays}
        write_atomically(folder.parent / "summary.json", json.dumps(summary, indent=2))
        return reports.replay.write_page(replays, replays_page())


def replays_page() -> Path:
    """Return the path of the page of all replays in this workspace."""
    return storage.workspace.workspace().home / "replay" / "index.html"


def finished_replays() -> tuple[Replay, ...]:
    paths = sorted((storage.workspace.workspace().home / "replay").glob("*/replay.json"))
    return tuple(from_json(Replay, path.read_bytes()) for path in paths)
