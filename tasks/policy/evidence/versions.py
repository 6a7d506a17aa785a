"""Versions of a model in the registry: their training data, their tags, the resources of their training, and alias moves."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from tasks.policy.records.base import Window, utc


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that one iteration used, from trigger to live."""

    rows: int
    wall_s: float
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    inferences: int = 0
    search_wall_s: Annotated[float, Field(exclude_if=lambda seconds: seconds == 0)] = 0.0
    """The part of `wall_s` that the search for better settings took."""
    search_cpu_s: Annotated[float, Field(exclude_if=lambda seconds: seconds == 0)] = 0.0

    @property
    def without_search(self) -> "Usage":
        """The same iteration without its search, whose cost depends on its budget instead of the rows."""
        wall_s, cpu_s = self.wall_s - self.search_wall_s, self.cpu_s - self.search_cpu_s
        return replace(self, wall_s=wall_s, cpu_s=cpu_s, search_wall_s=0.0, search_cpu_s=0.0)


USAGE = "usage"
"""Tag of a version that holds the resources its training used, as JSON."""


VALIDATED_UNTIL, VALIDATED_SHA256 = "validated_until", "validated_sha256"
"""Tags of a refitted version: the end of the rows of the model that was validated, and the SHA-256 of its files."""


OBSERVED = "observed_as"
"""Tag of a version of somebody else's service: its name in the service's log of predictions. It has no model file."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered model: its run, its training data and the decision that requested it."""

    model: str
    version: str
    run_id: str
    decision_id: str
    trained: Window
    training_rows: int
    sha256: str
    tags: tuple[tuple[str, str], ...] = field(default=())
    part: Annotated[Literal["serving", "validated"], Field(exclude_if=lambda part: part == "serving")] = "serving"
    """The model of this version that is meant: the one that serves, or the one that validation judged before the refit."""

    @property
    def is_refitted(self) -> bool:
        """Whether it was fitted once more with the holdout's rows, after the model that validation judges."""
        return VALIDATED_SHA256 in dict(self.tags)

    def before(self, start: datetime) -> "ModelVersion":
        """The version's model that has not seen rows from `start` on: the one that serves, else the validated one."""
        if self.trained.end <= start or not self.is_refitted:
            return self
        tags = dict(self.tags)
        trained = Window(self.trained.start, utc(tags[VALIDATED_UNTIL]))
        return replace(self, trained=trained, sha256=tags[VALIDATED_SHA256], part="validated")

    @property
    def observed_as(self) -> str | None:
        """The version's name in the log of the service that has it; None for a version with a model file."""
        return dict(self.tags).get(OBSERVED)


@dataclass(frozen=True, slots=True)
class Promotion:
    """Aliases after a move: the new champion and the one it replaced."""

    model: str
    decision_id: str
    champion: str
    previous: str | None
    action: Literal["promoted", "rolled_back", "unchanged"]
    reasons: tuple[str, ...] = ()
