"""Count batches of one feature into its frozen reference, with the feature's rules from the model's YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.profiling.columns import count_categories, presence, read_numbers, type_name
from tasks.policy.data_quality.acceptance import accepted_categories, accepted_range
from tasks.policy.records.base import digest
from tasks.policy.records.profile import (
    MISSING,
    FeatureCounts,
    FeatureReference,
    merge_counts,
    with_missing,
)
from tasks.policy.statistics.binning import BinGuide, count_values


def hash_names(rows: Mapping[str, int]) -> dict[str, int]:
    """Replace category names of a personal column by digests, because profiles are stored and displayed."""
    return {digest(name): count for name, count in rows.items()}


@dataclass
class FeatureCounter:
    """Counter of one feature against its reference; its memory does not grow with the number of batches."""

    reference: FeatureReference
    range: tuple[float, float]
    categories: frozenset[str] | None
    personal: bool = False
    guide: BinGuide = field(init=False)
    place: Mapping[str, int] = field(init=False)
    counts: FeatureCounts = field(init=False)

    def __post_init__(self) -> None:
        self.guide = BinGuide.of(np.asarray(self.reference.edges, dtype=np.float64))
        self.place = {name: index for index, name in enumerate(self.reference.categories)}
        bins = len(self.reference.counts.counts)
        gaps = (0.0,) * len(self.reference.counts.gaps)
        self.counts = FeatureCounts(self.reference.feature, MISSING, 0, (0,) * bins, gaps=gaps)

    def add(self, column: pa.Array) -> None:
        part = self._count_numbers(column) if self.reference.kind == "numeric" else self._count_categories(column)
        self.counts = replace(merge_counts((self.counts, part)), arrow_type=part.arrow_type)

    def add_absent(self, rows: int) -> None:
        """Count the rows of a batch without the column as null."""
        self.counts = replace(self.counts, rows=self.counts.rows + rows, nulls=self.counts.nulls + rows)

    def _count_numbers(self, column: pa.Array) -> FeatureCounts:
        numbers = read_numbers(column).without(self.reference.sentinel)
        counts = count_values(self.reference.feature, type_name(column.type), numbers.values, self.guide, self.range)
        return with_missing(counts, numbers.nulls, numbers.non_finite, numbers.unreadable)

    def _count_categories(self, column: pa.Array) -> FeatureCounts:
        counted = presence(column) if self.reference.kind == "other" else column
        rows, nulls, unreadable = count_categories(counted, self.reference.kind == "boolean")
        rows = hash_names(rows) if self.personal else rows
        counts, outside = [0] * len(self.counts.counts), 0
        for name, count in rows.items():
            counts[self.place.get(name, -1)] += count
            if self.categories is not None and name not in self.categories:
                outside += count
        found = FeatureCounts(
            self.reference.feature, type_name(column.type), sum(counts), tuple(counts), outside=outside
        )
        return with_missing(found, nulls, unreadable=unreadable)


def counter_of(reference: FeatureReference, config: ModelConfig) -> FeatureCounter:
    rule, slack = config.quality.columns.get(reference.feature), config.quality.range_slack
    own_range = (rule.range.min, rule.range.max) if rule and rule.range else (None, None)
    own, personal = rule.categories if rule else None, reference.feature in config.columns.personal
    personal = personal and reference.kind != "other"
    own = tuple(digest(name) for name in own) if own and personal else own
    return FeatureCounter(
        reference, accepted_range(reference, slack, own_range), accepted_categories(reference, own), personal
    )
