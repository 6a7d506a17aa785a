"""Decide where a run is placed, dedicated hosts or a serverless pool, from its size, its data and its deadline.

The preferred place is used unless something rules it out, then the other one. If both are ruled out, the run stays on
the dedicated hosts: a late run is better than sensitive data that leaves them.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.policy.evidence.monitoring import History, Placement, WindowEvidence

PlaceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
DEDICATED = "dedicated"
PLACE_SETTING = "PERENNIAL_TRAINING_PLACE"
"""The environment variable with a run's place; unset on dedicated hosts."""
TRAINING_LIMITS = "perennial-training-"
"""Prefix of the concurrency limits on trainings per place."""
TRAIN = "train"
"""The flow that runs a model's training command on a work pool of the user's own."""


class Place(BaseModel):
    """A place that `prefect.yaml` lists under definitions.places, and its capacity."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    place: PlaceName = Field(DEDICATED, examples=["ecs"])
    """Its name under definitions.places in prefect.yaml: dedicated, gpu, docker, ecs, kubernetes."""
    max_rows: int | None = Field(None, ge=1, examples=[20_000_000])
    """Training rows that fit into its memory. Default: no limit."""
    rows_per_hour: float | None = Field(None, gt=0, examples=[5_000_000])
    """Training rows per hour, start-up included. Default: unknown."""


class PlacementPolicy(BaseModel):
    """Rules for the place where each retrain runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    dedicated: Place = Place()
    """Your own hosts; the only place for data that must stay on premises."""
    serverless: Place | None = None
    """A pool that is paid by use. Default: every retrain runs on the dedicated hosts."""
    prefer: Literal["dedicated", "serverless"] = Field("dedicated", examples=["serverless"])
    """The place to use when both can take the retrain."""
    residency: Literal["on_premises", "anywhere"] | None = Field(None, examples=["on_premises"])
    """Places to which the data may go. Default: `on_premises` if a column is personal, else `anywhere`."""
    deadline_hours: float | None = Field(None, gt=0, examples=[4])
    """Hours from the decision by which a retrain must be done."""


def training_limit(place: str) -> str:
    """Name of the concurrency limit on a place's trainings."""
    return f"{TRAINING_LIMITS}{place}"


def training_deployment(pool: str) -> str:
    """Name of the deployment of `train` on a work pool."""
    return f"{TRAIN}-{pool}"


def forecast_rows(history: History, evidence: WindowEvidence, window_days: float | None) -> int:
    """Rows that a retrain will read: those of the training window at the current rate, or all rows so far."""
    if window_days is not None:
        return round(evidence.rows / evidence.window.days * window_days)
    return history.training_rows + history.rows_since_training + evidence.rows


def decide_placement(policy: PlacementPolicy, rows: int, personal: tuple[str, ...] = ()) -> Placement:
    """Decide where a retrain on `rows` rows runs; `personal` are the columns that identify people."""
    if policy.serverless is None:
        return _placed(policy.dedicated, "dedicated", rows, ("every run of this model stays on dedicated hosts",))
    against = {
        "dedicated": tuple(_limits(policy, policy.dedicated, "dedicated hosts", rows)),
        "serverless": (
            *_residency(policy, personal),
            *_limits(policy, policy.serverless, f"the serverless pool {policy.serverless.place}", rows),
        ),
    }
    other: Literal["dedicated", "serverless"] = "serverless" if policy.prefer == "dedicated" else "dedicated"
    places = {"dedicated": policy.dedicated, "serverless": policy.serverless}
    if not against[policy.prefer]:
        reason = f"{policy.prefer} is preferred and nothing rules it out for {rows:,} rows"
        return _placed(places[policy.prefer], policy.prefer, rows, (reason,))
    if not against[other]:
        return _placed(places[other], other, rows, against[policy.prefer])
    stays = "neither place fits, so the run stays on dedicated hosts"
    return _placed(policy.dedicated, "dedicated", rows, (stays, *against["dedicated"], *against["serverless"]))


def _residency(policy: PlacementPolicy, personal: tuple[str, ...]) -> Iterator[str]:
    if policy.residency == "on_premises":
        yield "its data stays on premises (placement.residency)"
    elif policy.residency is None and personal:
        yield f"its data stays on premises, since {', '.join(personal)} identify people"


def _limits(policy: PlacementPolicy, place: Place, words: str, rows: int) -> Iterator[str]:
    if place.max_rows is not None and rows > place.max_rows:
        yield f"{rows:,} rows are forecast, {words} hold {place.max_rows:,}"
    hours = _hours(place, rows)
    if policy.deadline_hours is not None and hours is not None and hours > policy.deadline_hours:
        yield f"{words} would take {hours:.3g} h for {rows:,} rows, the deadline is {policy.deadline_hours:g} h"


def _hours(place: Place, rows: int) -> float | None:
    return None if place.rows_per_hour is None else rows / place.rows_per_hour


def _placed(place: Place, kind: Literal["dedicated", "serverless"], rows: int, reasons: tuple[str, ...]) -> Placement:
    return Placement(place.place, kind, rows, _hours(place, rows), reasons)
