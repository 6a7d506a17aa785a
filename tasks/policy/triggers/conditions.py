"""The conditions that a model's YAML can name: when retraining is worth asking for. `triggers.py` judges them.

A condition says when; cooldown, caps, budget and sample floors (`retraining.py`) say when not, whatever it says.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.policy.statistics.metrics import HIGHER_IS_BETTER
from tasks.policy.triggers.calendars import BEGIN, next_date


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Persistent(Rule):
    """Holds in at least k of the last m windows, the latest among them (mlops-stacks' breach rule)."""

    k: int = Field(1, ge=1, le=100)
    """Breaches needed."""
    m: int = Field(1, ge=1, le=100)
    """Among so many latest windows."""

    @model_validator(mode="after")
    def _can_hold(self) -> "Persistent":
        if self.k > self.m:
            raise ValueError(f"k is {self.k} and m is {self.m}, expected k <= m: k breaches among the last m windows")
        return self

    @property
    def persistence(self) -> str:
        """How often it must hold, as the end of a sentence; nothing where one window is enough."""
        return "" if self.m == 1 else f" in {self.k} of the last {self.m} windows and the latest"


class MetricBreach(Persistent):
    """The metric lies past a limit in at least k of the last m windows, the latest among them."""

    trigger: Literal["metric_breach"]
    metric: str
    """Which metric; its own direction says which side of the limit is bad."""
    limit: float
    """Level that the metric must keep."""
    release: float | None = None
    """Hysteresis: a breach lasts until the metric is back past this level; the limit itself when left out."""

    @model_validator(mode="after")
    def _releases_on_the_good_side(self) -> "MetricBreach":
        higher = HIGHER_IS_BETTER.get(self.metric, False)
        if self.release is not None and (self.release < self.limit if higher else self.release > self.limit):
            side = ">=" if higher else "<="
            raise ValueError(
                f"release is {self.release:g}, expected {side} the limit {self.limit:g}, the good side of it"
            )
        return self


class MetricShift(Persistent):
    """The metric is significantly worse than its best past level, by at least a margin, in k of the last m windows."""

    trigger: Literal["metric_shift"]
    metric: str
    margin: float = Field(0.0, ge=0)
    """How much worse than the baseline counts, in units of the metric."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Chance of ever alarming on a champion as good as ever; without always_valid, largest p-value of one window."""
    always_valid: bool = Field(True, exclude_if=lambda on: bool(on))  # left out of ids, so that decisions keep theirs
    """Judge blocks of windows by intervals that hold at every look at once. False: test each window by itself, which
    sees a fall sooner and alarms on a stable model sooner or later (in 50 windows at alpha 0.01, on 7 of 10)."""


class MetricDecay(Rule):
    """The mean of the champion's windows is worse than the best past level, both surely, however often one looked."""

    trigger: Literal["metric_decay"]
    metric: str
    margin: float = Field(0.0, ge=0)
    """How much worse than the best past level counts, in units of the metric."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Chance of ever alarming on a champion that has not decayed."""


class Adaptive(Rule):
    """The champion's losses have changed for the worse: an adaptive window over them dropped its past (ADWIN)."""

    trigger: Literal["adaptive"]
    metric: str
    delta: float = Field(0.05, gt=0, lt=1)
    """Chance of a false alarm."""


class RegretExceedsCost(Rule):
    """What the champion lost since it began, above what models did when fresh, exceeds what a retrain costs."""

    trigger: Literal["regret_exceeds_cost"]
    factor: float = Field(1.0, gt=0)
    """Regret must reach so many times the cost."""


class Probe(Rule):
    """Small models trained after each window have beaten one of the champion's age by more than a retrain costs."""

    trigger: Literal["probe"]
    alpha: float | None = Field(None, gt=0)
    """What a retrain costs, in losses of one window, as in the back-test; from the budget's money when left out."""


class Perennial(Rule):
    """The recommended policy on the same small models: what a fresh one will lead by and has led by pays the retrain."""

    trigger: Literal["perennial"]
    alpha: float | None = Field(None, gt=0)
    """What a retrain costs, in losses of one window, as in the back-test; from the budget's money when left out."""
    compute_share: float = Field(0.2, ge=0, le=1)
    """Share of that cost that is compute; the rest is rollout."""


class MeanShift(Rule):
    """Any feature's mean lies further than `sigma` reference standard deviations from the reference's."""

    trigger: Literal["mean_shift"]
    sigma: float = Field(3.0, gt=0)


class DriftedShare(Rule):
    """At least this share of the features drifted."""

    trigger: Literal["drifted_share"]
    share: float = Field(0.3, gt=0, le=1)


class NewRows(Rule):
    """Rows landed since the champion's training reach this fraction of its training rows."""

    trigger: Literal["new_rows"]
    fraction: float = Field(0.05, gt=0)


class Every(Rule):
    """So many days have passed since the last training."""

    trigger: Literal["every"]
    days: float = Field(30, gt=0)


class Arrival(Rule):
    """New rows with labels have come since the latest training: so many, or so large a share of the training rows."""

    trigger: Literal["arrival"]
    labelled_rows: int | None = Field(None, ge=1)
    """So many new rows with labels."""
    share: float | None = Field(None, gt=0)
    """So large a share of the rows that the champion was trained on."""

    @model_validator(mode="after")
    def _asks_for_one(self) -> "Arrival":
        if (self.labelled_rows is None) == (self.share is None):
            given = "neither" if self.share is None else "both"
            raise ValueError(f"labelled_rows and share: {given} given, expected one, such as labelled_rows: 50000")
        return self


class Calendar(Rule):
    """A date of a calendar rule has come since the last training."""

    trigger: Literal["calendar"]
    cron: str | None = Field(None, max_length=200)
    """Five fields, such as 0 3 1 * *: at 03:00 on the first of each month."""
    rrule: str | None = Field(None, max_length=500)
    """RFC 5545, such as FREQ=MONTHLY;BYMONTHDAY=1; counted from 2000-01-01 unless DTSTART is given."""
    timezone: str = Field("UTC", max_length=100)
    """Whose wall clock the rule means, by its IANA name."""

    @model_validator(mode="after")
    def _has_dates(self) -> "Calendar":
        if (self.cron is None) == (self.rrule is None):
            given = "neither" if self.cron is None else "both"
            raise ValueError(f"cron and rrule: {given} given, expected one, such as cron: 0 3 1 * *")
        if self.next_date(BEGIN) is None:
            raise ValueError(f"{self.text} never has a date from {BEGIN:%Y-%m-%d} on, expected one that recurs")
        return self

    @property
    def text(self) -> str:
        """The rule as its owner wrote it."""
        rule = f"cron {self.cron}" if self.cron is not None else f"{self.rrule}"
        return rule if self.timezone == "UTC" else f"{rule} ({self.timezone})"

    def next_date(self, after: datetime) -> datetime | None:
        """The first date later than `after`, in UTC; None where the rule has ended."""
        kind, rule = ("cron", self.cron) if self.cron is not None else ("rrule", self.rrule or "")
        return next_date(kind, rule, self.timezone, after)


class AnyOf(Rule):
    """At least one of the conditions holds."""

    trigger: Literal["any_of"]
    conditions: tuple["Condition", ...] = Field(min_length=1)


class AllOf(Rule):
    """All of the conditions hold."""

    trigger: Literal["all_of"]
    conditions: tuple["Condition", ...] = Field(min_length=1)


class AtLeast(Rule):
    """At least n of the conditions hold."""

    trigger: Literal["at_least"]
    n: int = Field(ge=1)
    conditions: tuple["Condition", ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_hold(self) -> "AtLeast":
        if self.n > len(self.conditions):
            raise ValueError(
                f"n is {self.n} with {len(self.conditions)} conditions, expected n <= {len(self.conditions)}"
            )
        return self


Group = AnyOf | AllOf | AtLeast
Condition = Annotated[
    MetricBreach
    | MetricShift
    | MetricDecay
    | Adaptive
    | RegretExceedsCost
    | Probe
    | Perennial
    | MeanShift
    | DriftedShare
    | NewRows
    | Arrival
    | Every
    | Calendar
    | AnyOf
    | AllOf
    | AtLeast,
    Field(discriminator="trigger"),
]
for _group in (AnyOf, AllOf, AtLeast):
    _group.model_rebuild()


def leaves(condition: Condition) -> Iterator[Condition]:
    """The conditions that are not groups, in the order of the YAML."""
    if isinstance(condition, Group):
        for part in condition.conditions:
            yield from leaves(part)
    else:
        yield condition
