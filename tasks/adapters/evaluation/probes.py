"""Probes: small models trained after each window on a quarter of its rows, only to tell what a fresh model would gain.

They never serve and are in no registry. Rows and models are files in a folder, `monitor`'s or a back-test's, named by
window and made whole or not at all; a file that is gone is made again from the lake. A probe has a fifth of the rounds
at twice the rate, so it costs a twentieth of a full model or less (README of the streams: 6 to 16 % with a fifth of the
rounds and a quarter of the rows of one window length; the drawn rows are bounded here).
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.lake.schemas import moment
from tasks.adapters.models import eligibility, estimators, files as model_files
from tasks.adapters.models.files import Scorer
from tasks.adapters.storage.atomic_files import whole_file, whole_folder
from tasks.adapters.storage.table_cache import KeptTables
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.base import Window, digest
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.reports import ProbeColumn
from tasks.policy.statistics import metrics

EVERY_NTH, ROUNDS_SHARE, RATE_FACTOR = 4, 0.2, 2.0
WINDOW_ROWS, PROBE_ROWS, SCORED_ROWS = 5_000, 40_000, 20_000
"""At most so many rows drawn from a window, learned from by a probe, and scored in a window."""
LATEST = 8
"""Probes scored on a window of service: the latest so many, and those of the age of each version that may serve."""
DEFAULT_ROUNDS, DEFAULT_RATE = 100, 0.3
NO_PROBE = "untaught"
_samples = KeptTables(128 * 2**20)
"""Read by each probe that learns from the window again; 128 MiB are 500 windows of 5,000 rows × 6 floats."""


def probe_folder(config: ModelConfig) -> Path:
    """Where `monitor` keeps this model's probes; another folder when what makes a probe changes."""
    columns = config.columns.model_dump_json(
        exclude={"label_lookback_days"}
    )  # how long labels are sought teaches nothing
    parts = (columns, config.training.model_dump_json(), config.period.model_dump_json())
    name = digest(config.task, str(config.window_days), *parts, length=8)
    return make_folder(workspace().home / "probes" / f"{config.name}-{name}")


def before_service(config: ModelConfig, as_of: datetime, folder: Path) -> list[ProbeColumn]:
    """Every window of history with the labels known at `as_of`, scored by all probes before it; each teaches the next."""
    rows = lake.labelled_rows(config, config.history(), as_of)
    columns = []
    for window in config.history_windows():
        inside = _within(config, rows, window)
        if len(inside):
            columns.append(_score(config, window, inside, folder))
            keep_sample(window, inside, folder)
    return columns


def take_up(
    config: ModelConfig, window: Window, as_of: datetime, folder: Path, aged: Sequence[datetime] | None = None
) -> ProbeColumn:
    """A window of service with the labels known at `as_of`, scored by probes before it; then it teaches the next.

    `aged`: until when the champion had learned, then those that may serve again. All probes are scored when left out.
    """
    rows = lake.labelled_rows(config, window, as_of)
    column = _score(config, window, rows, folder, aged)
    keep_sample(window, rows, folder)
    return column


def _score(
    config: ModelConfig, window: Window, rows: pa.Table, folder: Path, aged: Sequence[datetime] | None = None
) -> ProbeColumn:
    """Every probe that had learned before the window and counts, scored on its labelled rows."""
    earlier = (*config.history_windows(), *config.windows(end=max(window.start, config.period.history_until)))
    taught = [other for other in earlier if other < window and _sample_path(other, folder).exists()]
    places = range(len(taught))
    if aged is not None:
        peers = ([place for place in places if taught[place].end <= until][-1:] for until in aged)
        places = sorted({*places[-LATEST:], *chain.from_iterable(peers)})
    found = [(taught[place].end, _probe(config, _trailing(config, taught[: place + 1]), folder)) for place in places]
    scorers = [(until, scorer) for until, scorer in found if scorer is not None]
    values = losses(config, [scorer for _, scorer in scorers], rows)
    known = tuple((until, value) for (until, _), value in zip(scorers, values, strict=True) if math.isfinite(value))
    return ProbeColumn(window, config.performance.metric, len(rows), known, aged[0] if aged else None)


def _trailing(config: ModelConfig, windows: Sequence[Window]) -> list[Window]:
    """Those that a model trained after the last of them would learn from."""
    if not config.training.window_days:
        return list(windows)
    start = windows[-1].end - timedelta(days=config.training.window_days)
    return [window for window in windows if window.end > start]


def keep_sample(window: Window, rows: pa.Table, folder: Path) -> None:
    """Write every 4th of the labelled rows, at most 5,000, for later probes; what was written stays."""
    path = _sample_path(window, folder)
    if not path.exists():
        step = max(EVERY_NTH, -(-len(rows) // WINDOW_ROWS))
        drawn = rows.take(np.arange(0, len(rows), step))
        try:
            with whole_file(path) as own:
                pq.write_table(drawn, own)
        except OSError as error:
            raise WorkspaceError(
                f"{path}: cannot be written ({error.strerror}); expected a writable workspace"
            ) from error


def _within(config: ModelConfig, rows: pa.Table, window: Window) -> pa.Table:
    """The rows whose time lies in the window."""
    time = rows.column(config.columns.time)
    return rows.filter(pc.and_(pc.greater_equal(time, moment(window.start)), pc.less(time, moment(window.end))))


def _probe(config: ModelConfig, windows: Sequence[Window], folder: Path) -> Scorer | None:
    """The probe that learned from these windows' samples; trained once. None where they cannot teach."""
    own_folder = folder / f"{windows[-1].end:%Y-%m-%dT%H%M%S}"
    if not own_folder.exists():
        cheap = probe_config(config)
        rows = _drawn(windows, folder)
        with whole_folder(own_folder) as own:
            if eligibility.why_not_train(cheap, rows) is None:
                model_files.save(estimators.fit(cheap, rows).scorer, own)
            else:
                (own / NO_PROBE).touch()
    return _loaded(own_folder)


def probe_config(config: ModelConfig) -> ModelConfig:
    """The model's configuration with a probe's rounds and floors; an estimator of one's own keeps its parameters."""
    training = config.training
    parameters = dict(training.parameters)
    if training.estimator is None:
        rounds = float(parameters.get("n_estimators") or DEFAULT_ROUNDS)
        parameters["n_estimators"] = max(5, round(rounds * ROUNDS_SHARE))
        parameters["learning_rate"] = min(1.0, float(parameters.get("learning_rate") or DEFAULT_RATE) * RATE_FACTOR)
    floor = max(10, training.min_rows // EVERY_NTH)
    cheaper = training.model_copy(update={"parameters": parameters, "min_rows": floor, "early_stopping_rounds": None})
    return config.model_copy(update={"training": cheaper})


def losses(config: ModelConfig, scorers: Sequence[Scorer], rows: pa.Table) -> list[float]:
    """The primary metric of each scorer on labelled rows, as a loss; NaN where the rows do not define it."""
    step = max(1, -(-len(rows) // SCORED_ROWS))
    scored = rows.take(np.arange(0, len(rows), step)) if step > 1 else rows
    label, name = scored.column(config.columns.label), config.performance.metric
    found = []
    for scorer in scorers:
        truth, predicted = scorer.judged(scored, label)
        few = metrics.undefined(name, truth, 2 if predicted.ndim == 1 else predicted.shape[1])
        value = metrics.compute(name, truth, predicted, config.performance.quantile)
        found.append(float("nan") if few else metrics.as_loss(name, value))
    return found


def _sample_path(window: Window, folder: Path) -> Path:
    return folder / f"{window.name}.parquet"


def _drawn(windows: Sequence[Window], folder: Path) -> pa.Table:
    """Every nth of all rows that these windows' samples hold, drawn sample by sample: all at once may be gigabytes."""
    paths = [_sample_path(window, folder) for window in windows]
    counts = [pq.read_metadata(path).num_rows for path in paths]
    step, before, drawn = max(1, -(-sum(counts) // PROBE_ROWS)), 0, []
    for path, count in zip(paths, counts, strict=True):
        rows = _samples.get(path, partial(pq.read_table, path, partitioning=None))
        drawn.append(rows if step == 1 else rows.take(np.arange(-before % step, count, step)))
        before += count
    return pa.concat_tables(drawn)


@lru_cache(maxsize=256)  # a back-test scores every probe on every window
def _loaded(folder: Path) -> Scorer | None:
    if (folder / NO_PROBE).exists():
        return None
    files = model_files.read(folder)
    return model_files.load(files, model_files.sha256(files))
