"""Bounded sample of a version's training rows with their values, stored with the version.

Evidently compares it with the window's sample. Its rows are a subset of the binned rows, so the same calendar weights
apply to both. Personal features, text, dates and lists are left out.
"""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters.profiling.binned_rows import hours_of, sample_indices, spread
from tasks.policy.records.profile import Floats, ReferenceProfile
from tasks.policy.reference.calibration import effective_rows

ROWS, CELLS = 20_000, 2_000_000
"""Maximum number of stored rows and of values; a wide table stores fewer rows."""
PLACE, HOUR = "place among the binned rows", "hour"


@dataclass(frozen=True)
class ReferenceSample:
    """Rows with values; `places` (n,) index the version's binned rows; `hours` (n,) since 1970 (UTC), -1 if unknown."""

    rows: pa.Table
    places: NDArray[np.int64]
    hours: NDArray[np.int64]

    @property
    def days(self) -> NDArray[np.object_]:
        """The day of each row, in the format of `FeatureReference.left_out`, shape (n,)."""
        return self.hours.astype("datetime64[h]").astype("datetime64[D]").astype(str).astype(object)

    def take(self, chosen: NDArray[np.int64]) -> "ReferenceSample":
        return ReferenceSample(self.rows.take(pa.array(chosen)), self.places[chosen], self.hours[chosen])

    def draw(self, most: int, seed: int, weights: Floats | None = None) -> "ReferenceSample":
        """Draw at most `most` rows at random; with `weights` of all binned rows, at most the effective number of rows.

        The effective number is (Σw)² / Σw² of this sample's weights. Draws are with replacement if the weights differ.
        """
        random, own = np.random.default_rng(seed), np.ones(len(self.places))
        if weights is not None:
            own = weights[self.places]
        size = min(most, round(effective_rows(own))) if own.any() else 0
        alike = len(np.unique(own[own > 0])) <= 1
        chosen = random.choice(len(own), size, replace=not alike, p=own / own.sum()) if size else np.empty(0, np.int64)
        return self.take(np.sort(chosen))


def draw_sample(config: ModelConfig, reference: ReferenceProfile, rows: pa.Table) -> ReferenceSample:
    """Sample, at even intervals, the training rows that `draw_rows` bins."""
    binned = sample_indices(reference, len(rows))
    names = [
        frozen.feature
        for frozen in reference.features
        if frozen.kind != "other"
        and frozen.feature not in config.columns.personal
        and rows.column_names.count(frozen.feature) == 1
    ]
    places = spread(len(binned), min(ROWS, max(1, CELLS // max(1, len(names)))))
    taken = rows.take(pa.array(binned[places]))
    return ReferenceSample(taken.select(names), places, hours_of(config, taken))


def to_parquet(sample: ReferenceSample) -> bytes:
    """Serialize a sample as Parquet: places and hours first, then the features in order."""
    target = io.BytesIO()
    names = [PLACE, HOUR, *(f"value {name}" for name in sample.rows.column_names)]
    columns = [pa.array(sample.places), pa.array(sample.hours), *sample.rows.columns]
    pq.write_table(pa.table(columns, names=names), target, compression="zstd")
    return target.getvalue()


def from_parquet(content: bytes) -> ReferenceSample:
    table = pq.read_table(io.BytesIO(content), use_threads=False)
    rows = table.select(range(2, table.num_columns))
    rows = rows.rename_columns([name.removeprefix("value ") for name in rows.column_names])
    return ReferenceSample(rows, table.column(0).to_numpy(), table.column(1).to_numpy())
