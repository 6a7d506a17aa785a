"""Derived features as fitted: the numbers that a recipe learned from training rows, and their application.

They are stored with the model as JSON (`models.files`). Batch scoring, validation, monitoring and the gateway all apply
them through `Encoding`, to the encoded features and the row's time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.adapters.recipes.calendar_parts import Times, calendar_columns, calendar_names
from tasks.adapters.recipes.numbers import Squash, fit_squash, interaction_column
from tasks.adapters.recipes.target_encoding import TargetMeans, fit_means, forward_column
from tasks.policy.records.errors import FeatureError
from tasks.policy.training.recipe import FeatureRecipe, Interaction

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DerivedFeatures:
    """What a recipe adds to the encoded features, in this order: calendar parts, target means, interactions.

    `squashed` features are replaced in place. `time` is the column of the row's time, which calendar parts read.
    """

    calendar: Literal["numbers", "cyclic"] | None = None
    time: str | None = None
    targets: tuple[TargetMeans, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    squashed: tuple[Squash, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the added columns."""
        calendar = [f"{self.time} {part}" for part in calendar_names(self.calendar)] if self.calendar else []
        means = (f"{each.feature} mean label" for each in self.targets)
        return (*calendar, *means, *(each.name for each in self.interactions))

    @property
    def sources(self) -> tuple[tuple[str, ...], ...]:
        """The features that each added column comes from; none for a calendar part."""
        calendar: list[tuple[str, ...]] = [()] * (len(calendar_names(self.calendar)) if self.calendar else 0)
        means = ((each.feature,) for each in self.targets)
        return (*calendar, *means, *((each.left, each.right) for each in self.interactions))

    def applied(self, names: Sequence[str], encoded: Matrix, times: Times | None) -> Matrix:
        """Return encoded features (n, features) with the added columns, float32. `times` (n,) are in UTC."""
        place = {name: number for number, name in enumerate(names)}
        targets = [each.column(encoded[:, place[each.feature]]) for each in self.targets]
        return self._joined(place, encoded, times, targets)

    def by_source(self, names: Sequence[str], values: Floats) -> Floats:
        """Add what belongs to added columns to the features they come from: (…, columns) becomes (…, features).

        An interaction counts half for either feature. Calendar parts belong to no feature and are left out.
        """
        summed = values[..., : len(names)].copy()
        for number, sources in enumerate(self.sources):
            for name in sources:
                summed[..., list(names).index(name)] += values[..., len(names) + number] / len(sources)
        return summed

    def _joined(
        self, place: Mapping[str, int], encoded: Matrix, times: Times | None, targets: Sequence[Floats]
    ) -> Matrix:
        columns = []
        if self.calendar:
            if times is None:
                raise FeatureError(
                    f"column {self.time}: is missing, expected the row's time; features are derived from it"
                )
            columns.append(calendar_columns(times, self.calendar))
        columns += [each.reshape(-1, 1) for each in targets]
        with np.errstate(over="ignore"):
            for each in self.interactions:
                left, right = (encoded[:, place[name]].astype(float) for name in (each.left, each.right))
                columns.append(interaction_column(each, left, right).reshape(-1, 1))
            joined = np.hstack([encoded, *(column.astype(np.float32) for column in columns)], dtype=np.float32)
        for squash in self.squashed:
            joined[:, place[squash.feature]] = squash.column(encoded[:, place[squash.feature]].astype(float))
        joined[np.isinf(joined)] = np.nan
        return joined


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Encoded training rows in time order: features (n, features), times (n,) in UTC, labels (n,), sizes of categories."""

    names: tuple[str, ...]
    encoded: Matrix
    times: Times
    y: Floats
    categories: Mapping[str, int]


def fit_derived(recipe: FeatureRecipe, time: str, rows: TrainingRows) -> tuple[DerivedFeatures, Matrix]:
    """Fit a recipe to training rows; return it with the rows' matrix, in which a target mean sees earlier rows only."""
    place = {name: number for number, name in enumerate(rows.names)}

    def column(name: str) -> Matrix:
        return rows.encoded[:, place[name]]

    sizes = [(name, column(name), rows.y, rows.categories[name]) for name in recipe.target_encoded]
    derived = DerivedFeatures(
        recipe.calendar,
        time if recipe.calendar else None,
        tuple(fit_means(*each) for each in sizes),
        recipe.interactions,
        tuple(fit_squash(name, column(name).astype(float)) for name in recipe.squashed),
    )
    forward = [forward_column(*each) for each in sizes]
    return derived, derived._joined(place, rows.encoded, rows.times, forward)
