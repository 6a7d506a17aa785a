"""Synthetic replay records of a year: two models, 51 windows, every kind of event. Seeded, no clock."""

import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from tasks.policy.evidence.replay import EventKind, Replay, ReplayEvent, ReplayWindow, RolloutProgress
from tasks.policy.records.base import Window, digest
from tasks.policy.records.reports import MetricValue

FIRST = datetime(2013, 4, 21, tzinfo=UTC)
FEATURES = ("temperature", "day_of_year", "dew_point", "wind_direction", "carrier", "scheduled_minutes")
EVENTS: dict[str, tuple[tuple[int, EventKind, str], ...]] = {
    "air_time": (
        (6, "retrained", "Retrained on 96,412 rows: MAE 0.81 minutes past its baseline in 2 of 3 windows (limit 0.5)."),
        (6, "promoted", "Version 2 replaced version 1: MAE 7.92 against 8.66 minutes on the same 4,530 rows."),
        (15, "quarantined", "61 % of temperature is null, the reference has 0.4 % (limit 10.4 %)."),
        (19, "retrained", "Retrained on 98,006 rows: 60 days since the last training."),
        (19, "refused", "Version 3 was refused: MAE 8.31 against 8.05 minutes, 0.26 worse (margin 0.2)."),
        (27, "retrained", "Retrained on 97,120 rows: MAE 1.10 minutes past its baseline (limit 0.5, p < 0.0001)."),
        (27, "promoted", "Version 4 replaced version 2: MAE 7.80 against 8.94 minutes on the same 4,488 rows."),
        (30, "rolled_back", "Version 2 was restored: version 4 answered in 412 ms at p99 (limit 200 ms)."),
        (33, "retrained", "Retrained on 97,964 rows: MAE 0.92 minutes past its baseline (limit 0.5, p < 0.0001)."),
        (33, "promoted", "Version 5 replaced version 2: MAE 7.71 against 8.58 minutes on the same 4,602 rows."),
        (35, "budget_refused", "No retrain: 3 of 3 retrains of October are spent."),
        (45, "retrained", "Retrained on 98,311 rows: 60 days since the last training."),
        (45, "promoted", "Version 6 replaced version 5: MAE 8.20 against 8.61 minutes on the same 4,377 rows."),
    ),
    "flight_delay": (
        (12, "retrained", "Retrained on 101,220 rows: 60 days since the last training."),
        (12, "promoted", "Version 2 replaced version 1: log loss 0.4810 against 0.5022 on the same 4,711 rows."),
        (25, "retrained", "Retrained on 99,871 rows: log loss 0.0312 past its baseline (limit 0.02, p = 0.001)."),
        (25, "refused", "Version 3 was refused: origin = LGA lost 0.07 (slice margin 0.05)."),
        (28, "retrained", "Retrained on 100,140 rows: log loss 0.0355 past its baseline (limit 0.02, p = 0.001)."),
        (28, "promoted", "Version 4 replaced version 2: log loss 0.4012 against 0.4301 on the same 4,690 rows."),
        (41, "retrained", "Retrained on 98,730 rows: 60 days since the last training."),
        (41, "promoted", "Version 5 replaced version 4: log loss 0.4466 against 0.4620 on the same 4,402 rows."),
    ),
}
CHAMPIONS = {
    "air_time": ((0, "1"), (7, "2"), (28, "4"), (31, "2"), (34, "5"), (46, "6")),
    "flight_delay": ((0, "1"), (13, "2"), (29, "4"), (42, "5")),
}
PURPOSES = {
    "air_time": "Block times for tomorrow's schedule, so that crews and gates get the minutes a flight takes.",
    "flight_delay": "Warn passengers and ground staff the day before about flights that will probably arrive late.",
}


def recorded_replays(windows: int = 51) -> tuple[Replay, Replay]:
    """Return both demo models: `air_time` has a quarantine, a rollback and late labels at its end."""
    return _replay("flight_delay", "binary", "log_loss", windows), _replay("air_time", "regression", "mae", windows)


ROLLOUTS = (
    # version, champion, windows from the start, steps of each window, gains, end
    ("2", "1", 3, ("shadow", "shadow", "shadow", "shadow"), (None, 0.2, 0.5, 0.6), "promoted", "The gain is above -0.2."),
    ("3", "2", 19, ("shadow", "canary 10 %", "canary 10 %"), (0.1, -0.4, -0.7), "returned", "Version 3 is worse."),
    ("4", "2", 24, ("shadow", "canary 10 %", "canary 50 %", "canary 50 %"), (0.1, 0.3, 0.5, 0.5), "promoted", "It is no worse."),
    ("6", "5", 40, ("shadow",) * 6, (0.1, -0.1, -0.05, 0, 0, 0.02), "inconclusive", "No verdict after 30 days."),
    ("7", "5", 48, ("shadow", "canary 10 %", "canary 10 %"), (None, 0.4, 0.1), "running", ""),
)  # fmt: skip


def with_rollouts(replay: Replay) -> Replay:
    """Return the replay of 51 windows with five rollouts: two promoted, one returned, one inconclusive, one running."""
    windows = list(replay.windows)
    for version, champion, first, steps, gains, end, reason in ROLLOUTS:
        for i, (step, gain) in enumerate(zip(steps, gains, strict=True)):
            ended = i == len(steps) - 1 and end != "running"
            share = float(step.split()[1]) / 100 if step != "shadow" else 0.0
            half, look = 1.6 / (i + 1), sum(known is not None for known in gains[: i + 1])
            progress = RolloutProgress(
                digest(replay.model, version), version, champion, step,
                (1.0 if end == "promoted" else 0.0) if ended else share, end if ended else "running",
                reason if ended else "No verdict yet.", gain, None if gain is None else gain - half,
                None if gain is None else gain + 0.8 * half, 0.2, look, len(steps),
            )  # fmt: skip
            events = (
                [ReplayEvent("shadowed", f"version {version} in shadow beside champion {champion}")] if i == 0 else []
            )
            if ended and end in ("returned", "inconclusive"):
                kind: EventKind = "returned" if end == "returned" else "inconclusive"
                events.append(ReplayEvent(kind, f"version {version}: {reason}"))
            elif i and step != steps[i - 1]:
                events.append(ReplayEvent("advanced", f"version {version} to {step}: no guardrail breached"))
            window = windows[first + i]
            windows[first + i] = replace(window, rollout=progress, events=(*window.events, *events))
    return replace(replay, windows=tuple(windows))


def _replay(model: str, task: str, metric: str, windows: int) -> Replay:
    chance = random.Random(model)
    served = tuple(_window(model, metric, i, windows, chance) for i in range(windows))
    seconds = (("score", 6.2), ("quality", 5.1), ("drift", 31.4), ("train", 22.8), ("rivals", 41.3))
    return Replay(model, PURPOSES[model], task, metric, False, served, seconds, "minutes" if metric == "mae" else "")


def _window(model: str, metric: str, i: int, windows: int, chance: random.Random) -> ReplayWindow:
    start = FIRST + timedelta(days=5 * i)
    rows = 4600 + chance.randrange(-300, 300)
    champion = [name for first, name in CHAMPIONS[model] if first <= i][-1]
    age = i - max(first for first, _ in CHAMPIONS[model] if first <= i)
    events = tuple(ReplayEvent(kind, text) for at, kind, text in EVENTS[model] if at == i)
    bad = any(event.kind == "quarantined" for event in events)
    scale = 1.0 if metric == "mae" else 0.045
    level = (8.0 if metric == "mae" else 0.43) + scale * (0.5 * math.sin(i / 7) + chance.gauss(0, 0.18))
    loop = level + scale * min(age, 9) * 0.08
    share = min(1.0, max(0.0, 0.1 + age * 0.035 + chance.gauss(0, 0.05)))
    last = windows - 1 - i
    maturity: Literal["open", "maturing", "closed"] = "open" if last == 0 else "maturing" if last == 1 else "closed"
    labelled = {"open": 0.12, "maturing": 0.64, "closed": 0.975}[maturity]
    spread = scale * 0.22
    value = MetricValue(metric, loop, loop - spread, loop + spread, int(rows * labelled), False, 0.95, last == 1)
    measured = not bad and maturity != "open"
    retrain = any(event.kind == "retrained" for event in events)
    return ReplayWindow(
        window=Window(start, start + timedelta(days=5)),
        rows=rows,
        labelled_rows=int(rows * labelled),
        maturity=maturity,
        champion=champion,
        metric=value if measured else None,
        never=level + scale * min(1.9, 0.04 * i + 0.4 * math.sin(i / 9) ** 2) if measured else None,
        every=level - scale * 0.03 if measured else None,
        quality="fail" if bad else "pass",
        drift="drifted" if share >= 0.3 else "stable",
        drifted_share=share,
        worst_feature=FEATURES[(i // 6) % len(FEATURES)],
        worst_effect=max(0.02, share * 1.6 + chance.gauss(0, 0.06)),
        diagnosis="upstream_data_fault" if bad else "harmful_covariate_shift" if retrain else "none",
        retrain=retrain,
        reasons=_reasons(metric, loop, retrain, bad),
        decision_id=digest(model, str(i)),
        events=events,
    )


def _reasons(metric: str, loop: float, retrain: bool, bad: bool) -> tuple[str, ...]:
    if bad:
        return ("No decision: the window failed quality and is quarantined.",)
    limit = "0.5" if metric == "mae" else "0.02"
    if retrain:
        past = f"{metric} is {loop:.4g}, past its baseline by more than {limit} for 2 of the last 3 windows."
        return past, "Cooldown of 10 days is over."
    return (f"{metric} is {loop:.4g}, within {limit} of its baseline for the last 3 windows.",)
