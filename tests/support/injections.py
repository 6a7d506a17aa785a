"""Labelled test bed of the diagnosis: changes of a known kind, injected into real flights.

A year is divided into blocks of one window; the champion is trained on two of three blocks. A service window consists
of days drawn at random from the other blocks. Windows without an injection therefore have the champion's
distribution, whatever season or weather did. An injected window follows ten clean ones, which establish the past
level. It passes through the product's own profile, quality, drift, estimate, diagnosis and decision. The policy
retrains for the slightest reason; only the diagnosis prevents a retrain.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import moment
from tasks.adapters.models import estimators, shap as attribution
from tasks.adapters.profiling import baseline_drift
from tasks.adapters.profiling.profile import freeze_reference, profile_batches
from tasks.adapters.sources.nycflights import read_flights
from tasks.monitoring.quality import QualityReference, judge_quality
from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.evidence.monitoring import Decision, History, WindowEvidence
from tasks.policy.monitoring import estimation, performance as levels
from tasks.policy.monitoring.attribution import freeze
from tasks.policy.monitoring.diagnosis import decide_diagnosis
from tasks.policy.monitoring.drift import measure
from tasks.policy.monitoring.estimate_errors import Estimate
from tasks.policy.records.base import Window, WindowGrid
from tasks.policy.records.reports import MetricValue, PerformanceReport
from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.resampling import Resampling
from tasks.policy.triggers.combinators import AnyOf
from tasks.policy.triggers.drift import DriftedShare, MeanShift
from tasks.policy.triggers.metric_shift import MetricShift
from tests.support.monitored_model import reader

Change = Callable[["Bed", pa.Table, np.random.Generator], pa.Table]
CLEAN_BEFORE, LEARN_FROM = 10, 3
FAULT, CONCEPT = {"upstream_data_fault"}, {"concept_drift"}
UNHARMED = {"none", "harmless_covariate_shift"}


@dataclass
class Bed:
    """One demo model, its champion and its clean service windows."""

    name: str
    rows_at_most: int = 200_000

    @cached_property
    def config(self) -> ModelConfig:
        return load_model_config(self.name)

    def __post_init__(self) -> None:
        period = self.config.period
        table = read_flights(period.start, period.end)
        table = table.filter(table.column(self.config.columns.label).is_valid())
        blocks = list(WindowGrid(period.start, self.config.window_days).between(period.start, period.end))
        held_out = blocks[2::3]
        learned = pa.concat_tables(self._between(table, block) for block in blocks if block not in held_out)
        days = [day for block in held_out for day in WindowGrid(block.start, 1).between(block.start, block.end)]
        order = np.random.default_rng(7).permutation(len(days))
        size = round(self.config.window_days)
        drawn = [[days[place] for place in order[start : start + size]] for start in range(0, len(days) - size, size)]
        self.windows = blocks[: len(drawn)]
        self.rows = {
            window: self._moved_to(table, window, own) for window, own in zip(self.windows, drawn, strict=True)
        }
        learned = learned.take(np.arange(0, len(learned), -(-len(learned) // self.rows_at_most)))
        fitted = estimators.fit(self.config, learned)
        self.scorer, self.importance = fitted.scorer, fitted.importance
        complete = Window(period.start, period.end)
        frozen = freeze_reference(learned.to_batches(), self.config, complete, "bed")
        self.reference = baseline_drift.with_stable_effects(self.config, frozen, learned)
        self.attribution = freeze(self.scorer.encoding.names, attribution.contributions(self.scorer, learned))

    def _between(self, table: pa.Table, window: Window) -> pa.Table:
        time = table.column(self.config.columns.time)
        return table.filter(pc.and_(pc.greater_equal(time, moment(window.start)), pc.less(time, moment(window.end))))

    def _moved_to(self, table: pa.Table, window: Window, days: list[Window]) -> pa.Table:
        """Return the rows of these days, shifted in time to the days of the window."""
        parts, name = [], self.config.columns.time
        for place, day in zip(WindowGrid(window.start, 1).between(window.start, window.end), days, strict=True):
            rows = self._between(table, day)
            shift = pa.scalar(place.start - day.start, pa.duration("us"))
            moved = pc.add(rows.column(name).cast(pa.timestamp("us", "UTC")), shift)
            parts.append(rows.set_column(rows.column_names.index(name), name, moved))
        return pa.concat_tables(parts)

    def judge(self, window: Window, change: Change, before: list[pa.Table] | None = None, seed: int = 0) -> Decision:
        """Decide on a window after a change; `before` follows the clean windows that precede it."""
        place = self.windows.index(window)
        clean = [self.rows[self.windows[(place - back) % len(self.windows)]] for back in range(CLEAN_BEFORE, 0, -1)]
        earlier = (clean + (before or []))[-CLEAN_BEFORE:] if before is None else clean + before
        random = np.random.default_rng(seed + place)
        return self._decide(window, earlier, change(self, self.rows[window], random))

    def _decide(self, window: Window, earlier: list[pa.Table], rows: pa.Table) -> Decision:
        config, step = self.config, window.end - window.start
        starts = [window.start - step * back for back in range(len(earlier), 0, -1)]
        reports: list[PerformanceReport] = []
        for start, table in zip(starts, earlier, strict=True):
            reports.append(self._performance(Window(start, start + step), table, reports))
        profile = profile_batches(rows.to_batches(), self.reference, config, window)
        before = [len(table) for table in earlier]
        quality = judge_quality(config, profile, QualityReference(self.reference), reader(rows), before)
        drift = report = estimate = None
        if quality.verdict != "fail":
            drift = measure(profile, self.reference, config.drift, self.importance)
            report = self._performance(window, rows, reports)
            estimate = self._estimate(earlier[-LEARN_FROM:], rows)
        evidence = WindowEvidence(window, len(rows), quality, drift, report)
        diagnosis = decide_diagnosis(evidence, Estimate(estimate) if estimate else None)
        name = config.performance.metric
        eager = AnyOf(
            trigger="any_of",
            conditions=(
                MetricShift(trigger="metric_shift", metric=name, alpha=0.05, always_valid=False),
                DriftedShare(trigger="drifted_share", share=0.05),
                MeanShift(trigger="mean_shift", sigma=1),
            ),
        )
        policy, history = RetrainingPolicy(when=eager), History(performances=tuple(reports))
        decision = decide_retraining(config.name, policy, policy.case(evidence, history, window.end), diagnosis)
        return replace(decision, reasons=(*decision.reasons, *diagnosis.reasons))

    def losses(self, rows: pa.Table) -> np.ndarray:
        y_true, predicted = self._answers(rows)
        found = metrics.row_losses(self.config.primary_metric, y_true, predicted)
        assert found is not None
        return found

    def _answers(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        y_true = self.scorer.labels(rows.column(self.config.columns.label))
        known = np.isfinite(y_true)
        return y_true[known], self.scorer.predict(rows)[known]

    def _performance(self, window: Window, rows: pa.Table, before: list[PerformanceReport]) -> PerformanceReport:
        name, (y_true, predicted) = self.config.performance.metric, self._answers(rows)
        metric = metrics.Metric(name)
        low, high = intervals.metric_interval(metric, y_true, predicted, Resampling(draws=200))
        own = MetricValue(name, metrics.compute(metric, y_true, predicted), low, high, len(y_true), False)
        best = levels.best_past_level(before, name)
        closed = [value.value for value in levels.closed_values(before, name)]
        p_value, noise = None, levels.window_noise(closed)
        if best:
            p_value = levels.shift_p_value(own, best[0], noise)
        level = best[0] if best else None
        report = PerformanceReport(window, window.end, "1", len(rows), len(y_true), "closed", (own,), name)
        return replace(
            report,
            baseline=level,
            shift_p_value=p_value,
            noise=noise.sigma if noise else None,
            noise_windows=len(closed),
        )

    def _estimate(self, learned: list[pa.Table], rows: pa.Table) -> MetricValue | None:
        pairs = [self._answers(table) for table in learned]
        y_true, predicted = (np.concatenate(part) for part in zip(*pairs, strict=True))
        now, name = self.scorer.predict(rows), self.config.performance.metric
        if self.config.task == "regression":
            return estimation.estimate_loss(estimation.learn_losses(metrics.Metric(name), y_true, predicted), now)
        found = estimation.estimate_classes(now, estimation.calibrate(y_true, predicted))
        return next(value for value in found if value.name == name)


def clean(bed: Bed, rows: pa.Table, random: np.random.Generator) -> pa.Table:
    return rows


def put(rows: pa.Table, name: str, values: object) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, from_pandas=True))


def rescaled(name: str, factor: float, offset: float = 0.0) -> Change:
    return lambda bed, rows, random: put(rows, name, rows.column(name).to_numpy() * factor + offset)


def stuck(name: str) -> Change:
    def change(bed: Bed, rows: pa.Table, random: np.random.Generator) -> pa.Table:
        values = rows.column(name).to_numpy()
        return put(rows, name, np.full(len(rows), values[np.isfinite(values)][0]))

    return change


def nulls(name: str, share: float) -> Change:
    def change(bed: Bed, rows: pa.Table, random: np.random.Generator) -> pa.Table:
        lost = pa.array(random.random(len(rows)) < share)
        return rows.set_column(rows.column_names.index(name), name, pc.if_else(lost, None, rows.column(name)))

    return change


def recoded(name: str, lower: bool) -> Change:
    """Recode categories: to unseen lower-case names, or each to the name of the next one."""

    def change(bed: Bed, rows: pa.Table, random: np.random.Generator) -> pa.Table:
        texts = rows.column(name).cast(pa.string())
        if lower:
            return rows.set_column(rows.column_names.index(name), name, pc.utf8_lower(texts))
        known = sorted(pc.unique(texts).drop_null().to_pylist())
        following = dict(zip(known, known[1:] + known[:1], strict=True))
        return put(rows, name, [following.get(text) for text in texts.to_pylist()])

    return change


def reweighted(score: Callable[[Bed, pa.Table], np.ndarray], strength: float = 2.0) -> Change:
    """Draw half of the rows with weights e^(strength · standardised score): inputs shift, P(label | inputs) stays."""

    def change(bed: Bed, rows: pa.Table, random: np.random.Generator) -> pa.Table:
        values = np.nan_to_num(score(bed, rows))
        weights = np.exp(strength * (values - values.mean()) / (values.std() or 1.0))
        return rows.take(random.choice(len(rows), len(rows) // 2, replace=False, p=weights / weights.sum()))

    return change


def by_column(name: str) -> Callable[[Bed, pa.Table], np.ndarray]:
    return lambda bed, rows: rows.column(name).to_numpy().astype(float)


def by_expected_loss(bed: Bed, rows: pa.Table) -> np.ndarray:
    """Score rows by expected loss: p(1 - p) for classes, the predicted value for regression."""
    y_pred = bed.scorer.predict(rows)
    return y_pred if bed.config.task == "regression" else y_pred * (1 - y_pred)


def relabelled(share: float, segment: tuple[str, str] | None = None) -> Change:
    """Change the labels of a share of the rows (of a segment): flipped for classes, 20 % higher for regression."""

    def change(bed: Bed, rows: pa.Table, random: np.random.Generator) -> pa.Table:
        name = bed.config.columns.label
        chosen = random.random(len(rows)) < share
        if segment:
            chosen &= pc.equal(rows.column(segment[0]).cast(pa.string()), segment[1]).to_numpy(zero_copy_only=False)
        values = rows.column(name).to_numpy(zero_copy_only=False)
        other = values * 1.2 if bed.config.task == "regression" else ~values.astype(bool)
        mixed = np.where(chosen, other, values)
        kind = rows.schema.field(name).type
        return rows.set_column(rows.column_names.index(name), name, pa.array(mixed).cast(kind, safe=False))

    return change


@dataclass(frozen=True)
class Injection:
    """A change, the diagnoses accepted for it, and the changes of the windows before it."""

    name: str
    change: Change
    right: frozenset[str]
    before: tuple[Change, ...] = ()


def injections(bed: Bed) -> Iterator[Injection]:
    """Yield every kind of injection for one model."""
    heavy = "distance" if bed.config.task == "regression" else "departure_hour"
    for name, change in {
        "unit: miles to km": rescaled("distance", 1.609344),
        "unit: minutes to hours": rescaled("scheduled_minutes", 1 / 60),
        "unit: F to C": rescaled("temperature", 1 / 1.8, -32 / 1.8),
        "stuck: pressure": stuck("pressure"),
        "stuck: departure_hour": stuck("departure_hour"),
        "nulls: temperature 60 %": nulls("temperature", 0.6),
        "nulls: carrier 30 %": nulls("carrier", 0.3),
        "recoded: carrier, new names": recoded("carrier", lower=True),
        "recoded: carrier, names swapped": recoded("carrier", lower=False),
        "recoded: destination, names swapped": recoded("destination", lower=False),
    }.items():
        yield Injection(name, change, frozenset(FAULT))
    shift = frozenset(UNHARMED | {"harmful_covariate_shift"})
    yield Injection(f"reweighted: {heavy}", reweighted(by_column(heavy), 1.0), shift)
    yield Injection("reweighted: harm", reweighted(by_expected_loss, 3.0), shift)
    yield Injection("labels: JFK changed", relabelled(0.9, ("origin", "JFK")), frozenset(CONCEPT))
    yield Injection("concept: abrupt", relabelled(0.5), frozenset(CONCEPT))
    ramp = (relabelled(0.1), relabelled(0.2), relabelled(0.3))
    yield Injection("concept: gradual", relabelled(0.4), frozenset(CONCEPT), ramp)
    yield Injection("concept: recurring", relabelled(0.5), frozenset(CONCEPT), (relabelled(0.5), clean, clean))
    yield Injection("clean", clean, frozenset(UNHARMED))


@dataclass(frozen=True)
class Verdict:
    injection: str
    window: str
    expected: frozenset[str]
    kind: str
    retrain: bool
    reasons: tuple[str, ...]

    @property
    def right(self) -> bool:
        return self.kind in self.expected


def run(bed: Bed, windows: int) -> list[Verdict]:
    """Judge every injection on `windows` windows, spread over the year."""
    chosen = [bed.windows[place] for place in np.linspace(0, len(bed.windows) - 1, windows).round().astype(int)]
    found = []
    for injection in injections(bed):
        for window in chosen:
            place, random = bed.windows.index(window), np.random.default_rng(place_seed(window))
            ahead = [bed.windows[(place - back) % len(bed.windows)] for back in range(len(injection.before), 0, -1)]
            before = [change(bed, bed.rows[one], random) for change, one in zip(injection.before, ahead, strict=True)]
            rows = injection.change
            expected = _expected(bed, injection, window)
            decision = bed.judge(window, rows, before)
            found.append(
                Verdict(injection.name, window.name, expected, decision.diagnosis, decision.retrain, decision.reasons)
            )
    return found


def place_seed(window: Window) -> int:
    return window.start.toordinal()


def _expected(bed: Bed, injection: Injection, window: Window) -> frozenset[str]:
    """Return the accepted diagnoses of an injection.

    A reweighting is harmful if the loss of the drawn rows is at least 30 % above the windows' mean, which exceeds their
    noise, and harmless up to 10 %; in between both are accepted.
    """
    if not injection.name.startswith("reweighted"):
        return injection.right
    random = np.random.default_rng(bed.windows.index(window))
    drawn = bed.losses(injection.change(bed, bed.rows[window], random)).mean()
    level = np.mean([bed.losses(rows).mean() for rows in bed.rows.values()])
    if drawn >= 1.3 * level:
        return frozenset({"harmful_covariate_shift"})
    return frozenset(UNHARMED) if drawn <= 1.1 * level else injection.right
