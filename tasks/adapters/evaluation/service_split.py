"""The windows in which somebody else's service split its traffic between two versions, and which rows went to which.

A row belongs to the split if it came while both versions answered. The first row of each unit shows how units were assigned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.evaluation.prediction_log import ArmRows, finite_answers, read_labelled, with_role
from tasks.adapters.evaluation.rollout_labels import LabelledSpan
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.row_identity import first_match
from tasks.adapters.models.encoding import category_texts
from tasks.adapters.profiling.binned_rows import code_rows
from tasks.policy.comparison.split import find_overlap, why_not_random
from tasks.policy.records.base import Window
from tasks.policy.records.profile import ReferenceProfile

JUDGED = "whether a row has an answer and a label"
NOT_DUE, IS_JUDGED, IS_NOT_JUDGED = 0, 1, 2
"""Codes of `JUDGED`. Versions that answer, or get labels for, different rows are not compared on random ones."""


class Versions(NamedTuple):
    """Numbers of the two versions of a service that are compared."""

    champion: str
    challenger: str


@dataclass(frozen=True, slots=True)
class ServiceSplit:
    """The log of both versions in each window that is split, and the first row of each unit (n,) there."""

    served: Mapping[Window, ArmRows]
    strata: NDArray[np.int64]
    """The window of each unit, from 0."""
    of_challenger: NDArray[np.bool_]
    codes: Mapping[str, NDArray[np.integer]]
    """The bins of each feature, and `JUDGED`."""

    @property
    def share(self) -> float:
        """The challenger's share of the units."""
        return float(self.of_challenger.mean())

    def why_not_random(self) -> str | None:
        return why_not_random(self.strata, self.of_challenger, self.codes)


class _Answered(NamedTuple):
    """What both versions answered in a window: the log, its rows and their units, all (n,) in order of time."""

    log: pa.Table
    rows: pa.Table
    units: NDArray[np.str_]
    of_challenger: NDArray[np.bool_]

    @property
    def times(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.log["time"].cast(pa.int64()).to_numpy()
        return found

    def first_of_units(self) -> "_Answered":
        return self.where(np.unique(self.units, return_index=True)[1])

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "_Answered":
        """Choose by a mask (n,) or by places."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return _Answered(self.log.take(places), self.rows.take(places), self.units[places], self.of_challenger[places])


def why_not_split(config: ModelConfig, versions: Versions, window: Window) -> str | None:
    """Return why the window's traffic is not split between these versions; None if it is."""
    return _split_of(config, versions, window)[1]


def read_split(
    config: ModelConfig, versions: Versions, at: LabelledSpan, reference: ReferenceProfile
) -> ServiceSplit | None:
    """Read the windows of the span that are split between both versions; None if none is.

    Features are coded in the bins of the reference, without personal ones.
    """
    served: dict[Window, ArmRows] = {}
    units, sides, codes = [], [], []
    for window in lake.predicted_windows(config, at.span):
        if window.name in at.excluding:
            continue
        found, why_not = _split_of(config, versions, window)
        if why_not is None:
            challenger = pa.array(found.of_challenger)
            served[window] = ArmRows(found.log.filter(pc.invert(challenger)), found.log.filter(challenger))
            first = found.first_of_units()
            units.append(first.units)
            sides.append(first.of_challenger)
            coded = code_rows(config, reference, first.rows).codes
            codes.append({**coded, JUDGED: _judged(config, first, window, at)})
    if not served:
        return None
    strata = np.repeat(np.arange(len(units)), list(map(len, units)))
    own = np.unique(np.concatenate(units), return_index=True)[1]
    names = [name for name in codes[0] if all(name in each for each in codes)]
    return ServiceSplit(
        served,
        strata[own],
        np.concatenate(sides)[own],
        {name: np.concatenate([each[name] for each in codes])[own] for name in names},
    )


def _split_of(config: ModelConfig, versions: Versions, window: Window) -> tuple[_Answered, str | None]:
    """Return (what came while both versions answered, None), or (what came, why it is no split)."""
    found = _answered(config, versions, window)
    first = found.first_of_units()
    overlap = find_overlap(first.times, first.of_challenger)
    if overlap.why_not is not None:
        return found, overlap.why_not
    times = first.times[overlap.units]
    return found.where((found.times >= times.min()) & (found.times <= times.max())), None


def _answered(config: ModelConfig, versions: Versions, window: Window) -> _Answered:
    log = with_role(lake.read_predictions(config, window), "champion", "challenger")
    log = log.filter(pc.is_in(log["model_version"], pa.array(versions)))
    landed, unit = lake.landed_rows(config, window), config.rollout.unit or config.columns.key
    rows = lake.read_rows(landed) if landed else None
    if rows is None or unit not in rows.column_names:  # the window may predate the setting
        log, rows = (
            log.slice(0, 0),
            pa.table({config.columns.key: pa.array([], pa.string()), unit: pa.array([], pa.string())}),
        )
    place = first_match(log["id"], rows[config.columns.key])
    log, rows = log.filter(pc.is_valid(place)), rows.take(place.drop_null())
    known = pc.is_valid(rows[unit])
    log, rows = log.filter(known), rows.filter(known)
    units = np.array(category_texts(rows[unit]).to_pylist(), np.str_)
    return _Answered(log, rows, units, pc.equal(log["model_version"], versions.challenger).to_numpy())


def _judged(config: ModelConfig, first: _Answered, window: Window, at: LabelledSpan) -> NDArray[np.int64]:
    """Return the code of each row: whether its label is due and, if so, whether it can be judged."""
    columns = config.columns
    labelled = read_labelled(config, window, at.as_of, (columns.key,), ())[columns.key]
    usable = finite_answers(first.log)["id"]
    ids = first.log["id"]
    judged = pc.and_(pc.is_valid(first_match(ids, labelled)), pc.is_valid(first_match(ids, usable)))
    due = pc.less(first.rows[columns.time], moment(at.as_of - columns.all_labels_within)).to_numpy()
    return np.where(due | (window in at.closed), np.where(judged.to_numpy(), IS_JUDGED, IS_NOT_JUDGED), NOT_DUE)
