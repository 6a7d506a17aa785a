"""The record of a replay, window by window, and its comparison: Perennial, never retrained, always retrained."""

from dataclasses import dataclass
from typing import Any, Literal

from tasks.policy.evidence.monitoring import DiagnosisKind
from tasks.policy.records.base import Window
from tasks.policy.records.reports import DriftVerdict, Maturity, MetricValue, Verdict

EventKind = Literal[
    "retrained",
    "promoted",
    "refused",
    "rolled_back",
    "quarantined",
    "budget_refused",
    "recalled",
    "shadowed",
    "advanced",
    "returned",
    "inconclusive",
    "superseded",
]
"""What happened in a window. The last five are those of a rollout; `shadowed` is its start."""


@dataclass(frozen=True, slots=True)
class ReplayEvent:
    """An action or refusal in one window of a replay."""

    kind: EventKind
    text: str
    """One sentence with its numbers, as in the ledger."""


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """A rollout after one window. The gain and its sequential interval cover all labelled rows so far."""

    decision_id: str
    version: str
    champion: str
    step: str
    """Name of the step, such as `canary 10 %`."""
    share: float
    """Share of the traffic that the challenger serves from here on: 1 once promoted, 0 in shadow or once it ended."""
    status: str
    """A status of `RolloutStatus`; once ended, how: a `RolloutEnd`."""
    reason: str
    """Why the step or status changed last, or the latest verdict, in a sentence."""
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    """Accepted loss of the metric, in its units."""
    look: int = 0
    planned_looks: int = 0

    @property
    def has_gain(self) -> bool:
        return self.gain is not None and self.low is not None and self.high is not None

    @property
    def passes_above(self) -> float | None:
        """Gain above which the challenger passes: the interval is then above minus the margin."""
        if self.gain is None or self.low is None or self.margin is None:
            return None
        return self.gain - self.low - self.margin

    @property
    def harm_below(self) -> float | None:
        """Gain below which traffic returns to the champion: the interval is below 0, and the challenger did not pass."""
        if self.gain is None or self.high is None:
            return None
        harm, passes = self.gain - self.high, self.passes_above
        return harm if passes is None else min(harm, passes)


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """One served window. `metric` is the loop's realised value; `never` and `every` are the baselines'."""

    window: Window
    rows: int
    labelled_rows: int
    maturity: Maturity
    champion: str
    metric: MetricValue | None
    never: float | None
    every: float | None
    quality: Verdict
    drift: DriftVerdict
    drifted_share: float
    worst_feature: str | None
    worst_effect: float | None
    diagnosis: DiagnosisKind
    retrain: bool
    reasons: tuple[str, ...]
    decision_id: str
    events: tuple[ReplayEvent, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    """Wall time by flow."""
    rollout: RolloutProgress | None = None
    """The rollout that was active in this window or ended in it."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One model's replay. `seconds` is wall time by stage."""

    model: str
    purpose: str
    task: str
    metric: str
    higher_is_better: bool
    windows: tuple[ReplayWindow, ...]
    seconds: tuple[tuple[str, float], ...]
    unit: str = ""
    """Unit of the label, for metrics in that unit (mae, rmse, pinball): `minutes`."""

    def count(self, kind: EventKind) -> int:
        return sum(event.kind == kind for window in self.windows for event in window.events)

    def means(self) -> dict[str, float]:
        """Mean metric of loop, never and every, over the windows where all three are known."""
        known = [w for w in self.windows if w.metric is not None and w.never is not None and w.every is not None]
        if not known:
            return {}
        return {
            "loop": sum(w.metric.value for w in known if w.metric) / len(known),
            "never": sum(w.never for w in known if w.never is not None) / len(known),
            "every": sum(w.every for w in known if w.every is not None) / len(known),
        }

    @property
    def headline(self) -> str:
        """The result of the replay in one sentence."""
        means = self.means()
        unit = f" {self.unit}" if self.unit and self.metric in ("mae", "rmse", "pinball") else ""
        values = (
            f"{self.metric} {means['loop']:.4g}{unit} with the loop, {means['never']:.4g} never retrained, "
            f"{means['every']:.4g} retrained every window"
            if means
            else f"{self.metric} is not known in any window"
        )
        counts = (
            f"{self.count('retrained')} retrains, {self.count('promoted')} promotions, {self.count('refused')} refusals"
        )
        return f"{self.model}: {len(self.windows)} windows, {values}; {counts}"

    def summary(self) -> dict[str, Any]:
        """This model's entry in summary.json."""
        return {
            "windows": len(self.windows),
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            **self.means(),
            "retrains": self.count("retrained"),
            "promotions": self.count("promoted"),
            "refusals": self.count("refused") + self.count("budget_refused"),
            "seconds": dict(self.seconds),
        }
