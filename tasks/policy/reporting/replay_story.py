"""Describe a replay in words and readable numbers, for the page and for the table in the terminal.

Numbers have just enough decimals to distinguish the loop from its baselines. The headline names the winner, whichever
it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from math import ceil, isfinite, log10
from typing import Literal

from tasks.policy.evidence.replay import EventKind, Replay, ReplayWindow, RolloutProgress
from tasks.policy.records.base import Window

NONE = "–"
"""Placeholder for a missing value."""

MOST_DECIMALS = 4

Scale = Literal["percent", "plain", "label"]


@dataclass(frozen=True, slots=True)
class MetricName:
    """Display names of a metric, in a sentence and as a title, and the scale of its values."""

    short: str
    title: str
    scale: Scale


METRIC_NAMES: Mapping[str, MetricName] = {
    "accuracy": MetricName("accuracy", "Accuracy", "percent"),
    "balanced_accuracy": MetricName("balanced accuracy", "Balanced accuracy", "percent"),
    "f1": MetricName("F1", "F1 score", "plain"),
    "roc_auc": MetricName("ROC AUC", "Area under the ROC curve (ROC AUC)", "plain"),
    "log_loss": MetricName("log loss", "Log loss", "plain"),
    "brier": MetricName("Brier score", "Brier score", "plain"),
    "mae": MetricName("MAE", "Mean absolute error (MAE)", "label"),
    "rmse": MetricName("RMSE", "Root mean square error (RMSE)", "label"),
    "pinball": MetricName("pinball loss", "Pinball loss", "label"),
}
EVENT_WORDS: Mapping[EventKind, str] = {
    "promoted": "promoted",
    "retrained": "retrained",
    "refused": "refused",
    "budget_refused": "over budget",
    "rolled_back": "rolled back",
    "quarantined": "quarantined",
    "recalled": "tried again",
    "shadowed": "rollout started",
    "advanced": "next step",
    "returned": "returned",
    "inconclusive": "inconclusive",
    "superseded": "superseded",
}


ROLLOUT_ENDS = ("promoted", "returned", "inconclusive", "aborted", "superseded")


@dataclass(frozen=True, slots=True)
class ReplayedRollout:
    """One rollout of a replay: the windows that it took, each with its progress, oldest first."""

    windows: tuple[tuple[ReplayWindow, RolloutProgress], ...]

    @property
    def last(self) -> RolloutProgress:
        return self.windows[-1][1]

    @property
    def period(self) -> Window:
        return Window(self.windows[0][0].window.start, self.windows[-1][0].window.end)

    @property
    def has_ended(self) -> bool:
        return self.last.status in ROLLOUT_ENDS

    @property
    def steps(self) -> str:
        """`shadow (2 windows), canary 10 % (1 window)`."""
        counts = Counter(progress.step for _, progress in self.windows)
        return ", ".join(f"{step} ({counted(count, 'window')})" for step, count in counts.items())


def rollouts(replay: Replay) -> tuple[ReplayedRollout, ...]:
    """The replay's rollouts in order of their start; windows after a rollout's end do not count."""
    found: dict[str, list[tuple[ReplayWindow, RolloutProgress]]] = {}
    for window in replay.windows:
        if window.rollout is None:
            continue
        known = found.setdefault(window.rollout.decision_id, [])
        if not known or known[-1][1].status not in ROLLOUT_ENDS:
            known.append((window, window.rollout))
    return tuple(ReplayedRollout(tuple(windows)) for windows in found.values())


def gain_text(rollout: ReplayedRollout, replay: Replay) -> str:
    """`+0.2 (-0.1 to +0.5)`, the gain at the last look in the metric's display scale; a dash before the first look."""
    last = rollout.last
    if last.gain is None or last.low is None or last.high is None:
        return NONE
    gain, low, high = (scaled(value, replay) for value in (last.gain, last.low, last.high))
    return f"{gain:+.3g} ({low:+.3g} to {high:+.3g})"


def metric_name(replay: Replay) -> MetricName:
    """Display name of the replay's metric; an unknown metric keeps its own name."""
    plain = replay.metric.replace("_", " ")
    return METRIC_NAMES.get(replay.metric, MetricName(plain, plain, "label" if replay.unit else "plain"))


def unit_of(replay: Replay) -> str:
    """Unit of the metric's values: `%`, the label's unit, or none."""
    scale = metric_name(replay).scale
    return {"percent": "%", "label": replay.unit, "plain": ""}[scale]


def scaled(value: float, replay: Replay) -> float:
    """The value on its display scale: percent metrics are multiplied by 100."""
    return value * 100 if unit_of(replay) == "%" else value


def comparison(replay: Replay) -> dict[str, float]:
    """Mean metric of loop, never and every; empty unless all three are finite."""
    means = replay.means()
    return means if all(isfinite(mean) for mean in means.values()) else {}


def decimals(replay: Replay) -> int:
    """Decimals that distinguish loop, never and every: at least 1 (3 for values without a unit), at most 4."""
    values = sorted(scaled(mean, replay) for mean in comparison(replay).values())
    gaps = [high - low for low, high in pairwise(values) if high - low >= 0.5 * 10**-MOST_DECIMALS]
    needed = [ceil(-log10(gap) - 1e-6) for gap in gaps]  # floating-point error can make a gap of 0.1 slightly smaller
    return min(MOST_DECIMALS, max([1 if unit_of(replay) else 3, *needed]))


def shown(value: float | None, replay: Replay, unit: bool = False) -> str:
    """Format a metric's value, with its unit if requested; a dash if there is none."""
    if value is None or not isfinite(value):
        return NONE
    number = f"{scaled(value, replay):.{decimals(replay)}f}"
    return f"{number} {unit_of(replay)}".rstrip() if unit else number


def counted(count: int, noun: str) -> str:
    """`1 retrain`, `5 retrains`, `no retrains`."""
    return f"{f'{count:,}' if count else 'no'} {noun}{'' if count == 1 else 's'}"


def metric_in_unit(replay: Replay) -> str:
    """`MAE (minutes)`, `log loss`, `accuracy (%)`."""
    unit = unit_of(replay)
    return f"{metric_name(replay).short} ({unit})" if unit else metric_name(replay).short


def better_arrow(replay: Replay) -> str:
    """An arrow in the direction of better values."""
    return "↑" if replay.higher_is_better else "↓"


def refusals(replay: Replay) -> int:
    """Challengers refused by a gate, and retrains refused by the budget."""
    return replay.count("refused") + replay.count("budget_refused")


def share_text(share: float) -> str:
    """`33 %`; `0.4 %` below one percent."""
    return f"{share * 100:.1f} %" if 0 < share < 0.01 else f"{share * 100:.0f} %"


def version_name(champion: str) -> str:
    """`v3` for a number from the registry, else the name unchanged; a dash for none."""
    return f"v{champion}" if champion.isdigit() else champion or NONE


def confidence_text(replay: Replay) -> str:
    """`95 % interval`, with the level of the windows' metrics."""
    levels = {window.metric.confidence for window in replay.windows if window.metric}
    return f"{' or '.join(f'{level * 100:g} %' for level in sorted(levels))} interval".strip()


def effect_text(effect: float | None) -> str:
    """An effect size with two decimals."""
    return NONE if effect is None or not isfinite(effect) else f"{effect:.2f}"


def window_length(replay: Replay) -> str:
    """`5 days`, `6 hours`: the length of the first window."""
    days = replay.windows[0].window.days
    return counted(round(days), "day") if days == round(days) else f"{days * 24:g} hours"


def total_seconds(replay: Replay) -> float:
    return sum(seconds for _, seconds in replay.seconds)


def duration_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def happened(window: ReplayWindow) -> bool:
    """Whether the loop acted or refused to in this window, or its data did not pass."""
    return bool(window.events) or window.retrain or window.quality != "pass"


def eventful(replay: Replay) -> list[ReplayWindow]:
    return [window for window in replay.windows if happened(window)]


def gain_over_never(replay: Replay) -> float | None:
    """Improvement of the loop over never retraining, in the metric's unit; negative if worse."""
    means = comparison(replay)
    if not means:
        return None
    return (means["loop"] - means["never"]) * (1 if replay.higher_is_better else -1)


def decision_words(window: ReplayWindow) -> str:
    """The decision in words: retrain, keep, return, or none because the data was quarantined."""
    if window.quality == "fail":
        return "No decision: data quarantined"
    if any(event.kind == "recalled" for event in window.events):
        return "Return to an earlier version"
    return "Retrain" if window.retrain else "Keep the champion"


def headline(replay: Replay) -> str:
    """The replay in one or two sentences with its numbers. Means are over the windows where all three are known."""
    means = comparison(replay)
    if not replay.windows:
        return "No window was replayed, so there is nothing to compare yet."
    retrains = replay.count("retrained")
    if not means:
        served = counted(len(replay.windows), "window")
        return f"{served} served with {counted(retrains, 'retrain')}; no labels to compare by yet."
    metric, loop = metric_name(replay).short, shown(means["loop"], replay, unit=True)
    never, every = shown(means["never"], replay), shown(means["every"], replay)
    baseline = f"retraining every window {every}, with {counted(len(replay.windows), 'retrain')} instead of {retrains}."
    if retrains == 0:
        return f"The loop did not retrain: {metric} {loop}, never retraining {never}; {baseline}"
    if never == shown(means["loop"], replay):
        return f"The loop's {metric} was {loop}, the same as never retraining; {baseline}"
    if (gain_over_never(replay) or 0.0) < 0:
        return f"The loop's {metric} of {loop} was worse than never retraining, {never}; {baseline}"
    return f"The loop kept {metric} at {loop}; never retraining would have been {never}; {baseline}"


def bargain(replay: Replay) -> str | None:
    """The loop's share of the gain of retraining every window, and its share of the retrains.

    None if there is nothing to compare: no labels, no retrain, or no gain of the loop.
    """
    means, retrains, windows = comparison(replay), replay.count("retrained"), len(replay.windows)
    gain = gain_over_never(replay)
    if not means or gain is None or gain <= 0 or not retrains:
        return None
    possible = (means["every"] - means["never"]) * (1 if replay.higher_is_better else -1)
    cost = f"{share_text(retrains / windows)} of its retrains"
    if shown(means["loop"], replay) == shown(means["every"], replay):
        return f"As good as retraining every window, with {cost}."
    if gain > possible:
        return f"Better than retraining every window, with {cost}."
    return f"That is {share_text(gain / possible)} of what retraining every window gains, for {cost}."


def next_steps(replays: Sequence[Replay], page: str) -> tuple[str, ...]:
    """Suggest what to look at after a replay, in order."""
    steps = [f"the replay page, every window of every model: {page}"]
    for replay in replays:
        if window := _notable_window(replay):
            events = "; ".join(event.text for event in window.events)
            steps.append(f"one decision of {replay.model}, {window.window.name} on that page: {events}")
    steps.append(
        "`make serve`, then Artifacts in the Prefect dashboard: each decision with its evidence, and the fleet page"
    )
    return tuple(steps)


def _notable_window(replay: Replay) -> ReplayWindow | None:
    """The first window whose retrain was promoted, else the first with any event."""
    promoted = (window for window in replay.windows if any(event.kind == "promoted" for event in window.events))
    return next(promoted, None) or next((window for window in replay.windows if window.events), None)


def compared(replay: Replay) -> str:
    """The number of windows that the means are over."""
    known = sum(w.metric is not None and w.never is not None and w.every is not None for w in replay.windows)
    windows = counted(len(replay.windows), "window")
    return f"Means over {known} of {windows}: those where all three are known."


def title(replays: Sequence[Replay]) -> str:
    """Title of the replay: `2 models, 21 April – 31 December 2013`."""
    if not any(replay.windows for replay in replays):
        return "Nothing was replayed"
    return f"{counted(len(replays), 'model')}, {period(replays)}"


def period(replays: Sequence[Replay]) -> str:
    """`21 April – 31 December 2013`, over all replays; the end is the last day served."""
    windows = [window.window for replay in replays for window in replay.windows]
    if not windows:
        return "no window"
    start = min(window.start for window in windows)
    end = max(window.end for window in windows) - timedelta(microseconds=1)
    first, last = f"{start.day} {start:%B}", f"{end:%d %B %Y}".lstrip("0")
    return f"{first} – {last}" if start.year == end.year else f"{first} {start.year} – {last}"
