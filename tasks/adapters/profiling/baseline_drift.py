"""Drift limits calibrated on the model's own history: drift of windows of training rows against the remaining rows.

Windows are runs of consecutive days, which preserves the dependence between days (moving blocks: Künsch 1989). Each
window is compared with all other days, on a bounded sample counted into the reference's frozen bins. Seasons that the
history contains then cause no alarm.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.models.encoding import as_table, category_texts
from tasks.policy.records.profile import FeatureReference, ReferenceProfile
from tasks.policy.reference.calendar_match import SEASON_DAYS
from tasks.policy.reference.calibration import calibrated_threshold, stable_distances

ROWS, BINS = 40_000, 64
DAYS_PER_WINDOW = 4
"""Minimum length of the history in windows; a shorter history gives no estimate for stable windows."""


def with_stable_effects(config: ModelConfig, reference: ReferenceProfile, rows: pa.Table) -> ReferenceProfile:
    """Return the profile with each feature's effect size that 1% of stable windows exceed.

    Windows are compared with all other days (`stable_effect`) and with days of the same season (`seasonal_effect`).
    The profile is unchanged if calibration is off or the history is shorter than `DAYS_PER_WINDOW` windows.
    Personal features are unchanged, because their values are not read again. Features with fewer known values than
    `drift.min_rows` or with too few days are unchanged too.
    """
    if not config.drift.calibrated or not len(rows):
        return reference
    drawn = rows.take(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), ROWS)).round().astype(int)))
    day = pc.days_between(pc.min(drawn.column(config.columns.time)), drawn.column(config.columns.time)).to_numpy()
    window = max(1, round(config.window_days))
    if len(np.unique(day)) < DAYS_PER_WINDOW * window:
        return reference
    features = tuple(
        frozen
        if frozen.feature in config.columns.personal or frozen.kind == "other"
        else _with_effects(config, frozen, drawn, day, window)
        for frozen in reference.features
    )
    return replace(reference, features=features)


def _with_effects(
    config: ModelConfig, frozen: FeatureReference, rows: pa.Table, day: np.ndarray, window: int
) -> FeatureReference:
    column = as_table(rows, (frozen.feature,)).column(frozen.feature)
    if frozen.kind == "numeric":
        values = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
        edges = np.asarray(frozen.edges)[:: max(1, len(frozen.edges) // BINS)]
        known, places = np.isfinite(values), np.searchsorted(edges, values, side="left")
        known &= values != frozen.sentinel if frozen.sentinel is not None else True
        known &= ~np.isin(_days(rows, config), frozen.left_out) if frozen.left_out else True
        widths = np.diff(edges) / frozen.sigma if frozen.counts.std > 0 else None
        method = config.drift.method if widths is not None else "ks"
        bins = len(edges) + 1
    else:
        texts = pa.array(frozen.categories, pa.string())
        found = pc.index_in(category_texts(column), value_set=texts, skip_nulls=True)
        places = pc.fill_null(found, len(texts)).to_numpy()
        known, widths, method, bins = column.is_valid().to_numpy(), None, "psi", len(texts) + 1
    if known.sum() < config.drift.min_rows:
        return frozen
    _, which = np.unique(day[known], return_inverse=True)
    if which.max() < window:
        return frozen
    counts = np.zeros((which.max() + 1, bins))
    np.add.at(counts, (which, places[known]), 1)
    stable, seasonal = (
        calibrated_threshold(stable_distances(counts, window, method, widths, around))
        for around in (None, round(SEASON_DAYS))
    )
    return replace(frozen, stable_effect=stable, seasonal_effect=seasonal)


def _days(rows: pa.Table, config: ModelConfig) -> np.ndarray:
    return pc.strftime(rows.column(config.columns.time), "%Y-%m-%d").to_numpy()
