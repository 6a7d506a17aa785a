"""Probes: small models trained on a quarter of each window's rows, only to estimate what a fresh model would gain.

A probe is trained after each window. Probes never serve and are not in the registry. Rows and models are files in a
folder, `monitor`'s or a backtest's, named by window and written atomically; a missing file is created again from the
lake. A probe has a fifth of the rounds at twice the learning rate, so it costs a twentieth of a full model or less
(README of the streams: 6 to 16 % with a fifth of the rounds and a quarter of the rows of one window length; the drawn
rows are bounded here).
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
from tasks.adapters.lake.casts import moment
from tasks.adapters.models import eligibility, files as model_files
from tasks.adapters.models.files import Scorer
from tasks.adapters.models.label_alignment import with_columns
from tasks.adapters.own_training import trainer
from tasks.adapters.storage.atomic_files import atomic_file, atomic_folder
from tasks.adapters.storage.table_cache import TableCache
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.base import Window, digest
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.reports import ProbeColumn
from tasks.policy.statistics import metrics
from tasks.policy.statistics.resampling import thin

EVERY_NTH, ROUNDS_SHARE, RATE_FACTOR = 4, 0.2, 2.0
WINDOW_ROWS, PROBE_ROWS, SCORED_ROWS = 5_000, 40_000, 20_000
"""Maximum rows sampled from a window, used to train a probe, and scored in a window."""
LATEST = 8
"""Probes scored on a window of service: the latest ones, and those as old as each version that may serve."""
DEFAULT_ROUNDS, DEFAULT_RATE = 100, 0.3
NO_PROBE = "untaught"  # empty file in place of a probe that its rows could not train
_samples = TableCache(128 * 2**20)
"""Cache of samples, which several probes read; 128 MiB hold 500 windows of 5,000 rows × 6 floats."""


def probe_folder(config: ModelConfig) -> Path:
    """Return the folder of this model's probes in `monitor`; it changes with every setting that affects a probe."""
    columns = config.columns.model_dump_json(
        exclude={"label_lookback_days"}
    )  # the label look-back does not affect training
    parts = (columns, config.training.model_dump_json(), config.period.model_dump_json())
    name = digest(config.task, str(config.window_days), *parts, length=8)
    return make_folder(workspace().home / "probes" / f"{config.name}-{name}")


def score_history(config: ModelConfig, as_of: datetime, folder: Path) -> list[ProbeColumn]:
    """Score each window of history, with the labels known at `as_of`, by all earlier probes, then store its sample."""
    rows = lake.labelled_rows(config, config.history(), as_of)
    columns = []
    for window in config.history_windows():
        inside = _within(config, rows, window)
        if len(inside):
            columns.append(_score(config, window, inside, folder))
            store_sample(window, inside, folder)
    return columns


def score_window_of_service(
    config: ModelConfig, window: Window, as_of: datetime, folder: Path, training_ends: Sequence[datetime] | None = None
) -> ProbeColumn:
    """Score a window of service, with the labels known at `as_of`, by earlier probes, then store its sample.

    `training_ends`: end of the champion's training range, then those of the versions that may serve again. None scores all
    probes.
    """
    rows = lake.labelled_rows(config, window, as_of)
    column = _score(config, window, rows, folder, training_ends)
    store_sample(window, rows, folder)
    return column


def _score(
    config: ModelConfig, window: Window, rows: pa.Table, folder: Path, training_ends: Sequence[datetime] | None = None
) -> ProbeColumn:
    """Score the selected probes that were trained before the window on its labelled rows."""
    earlier = (*config.history_windows(), *config.windows(end=max(window.start, config.period.history_until)))
    trained = [other for other in earlier if other < window and _sample_path(other, folder).exists()]
    indices: Sequence[int] = range(len(trained))
    if training_ends is not None:
        peers = ([index for index in indices if trained[index].end <= until][-1:] for until in training_ends)
        indices = sorted({*indices[-LATEST:], *chain.from_iterable(peers)})
    found = [(trained[index].end, _probe(config, _trailing(config, trained[: index + 1]), folder)) for index in indices]
    scorers = [(until, scorer) for until, scorer in found if scorer is not None]
    values = losses(config, [scorer for _, scorer in scorers], rows)
    known = tuple((until, value) for (until, _), value in zip(scorers, values, strict=True) if math.isfinite(value))
    return ProbeColumn(window, config.performance.metric, len(rows), known, training_ends[0] if training_ends else None)


def _trailing(config: ModelConfig, windows: Sequence[Window]) -> list[Window]:
    """Return the windows that a model trained after the last of them would learn from."""
    if not config.training.window_days:
        return list(windows)
    start = windows[-1].end - timedelta(days=config.training.window_days)
    return [window for window in windows if window.end > start]


def store_sample(window: Window, rows: pa.Table, folder: Path) -> None:
    """Write a quarter of the labelled rows, at most 5,000, for later probes; an existing sample is not replaced."""
    path = _sample_path(window, folder)
    if not path.exists():
        step = max(EVERY_NTH, -(-len(rows) // WINDOW_ROWS))
        drawn = rows.take(thin(len(rows), step, seed=abs(int(window.start.timestamp()))))
        try:
            with atomic_file(path) as own:
                pq.write_table(drawn, own)
        except OSError as error:
            raise WorkspaceError(
                f"{path}: cannot be written ({error.strerror}); expected a writable workspace"
            ) from error


def _within(config: ModelConfig, rows: pa.Table, window: Window) -> pa.Table:
    """Return the rows with a time in the window."""
    time = rows.column(config.columns.time)
    return rows.filter(pc.and_(pc.greater_equal(time, moment(window.start)), pc.less(time, moment(window.end))))


def _probe(config: ModelConfig, windows: Sequence[Window], folder: Path) -> Scorer | None:
    """Train the probe on these windows' samples, once; None if the rows cannot train a model."""
    own_folder = folder / f"{windows[-1].end:%Y-%m-%dT%H%M%S}"
    if not own_folder.exists():
        cheap = probe_config(config)
        rows = _drawn(windows, folder)
        with atomic_folder(own_folder) as own:
            if eligibility.why_not_train(cheap, rows) is None:
                model_files.save(trainer.fit(cheap, rows).scorer, own)
            else:
                (own / NO_PROBE).touch()
    return _loaded(own_folder, config.training.imported)


def probe_config(config: ModelConfig) -> ModelConfig:
    """Return the configuration with fewer rounds and a lower row minimum; a custom estimator keeps its parameters.

    XGBoost stands in for a command or a flow.
    """
    training = config.training.stand_in()
    parameters = dict(training.parameters)
    if not (training.estimator or training.function):
        rounds, rate = (
            float(given) if isinstance(given := parameters.get(name), int | float) and given else default
            for name, default in (("n_estimators", DEFAULT_ROUNDS), ("learning_rate", DEFAULT_RATE))
        )
        parameters["n_estimators"] = max(5, round(rounds * ROUNDS_SHARE))
        parameters["learning_rate"] = min(1.0, rate * RATE_FACTOR)
    floor = max(10, training.min_rows // EVERY_NTH)
    cheaper = training.model_copy(update={"parameters": parameters, "min_rows": floor, "early_stopping_rounds": None})
    return config.model_copy(update={"training": cheaper})


def losses(config: ModelConfig, scorers: Sequence[Scorer], rows: pa.Table) -> list[float]:
    """Return each scorer's primary metric on labelled rows, as a loss; NaN if the metric is undefined on these rows."""
    step = max(1, -(-len(rows) // SCORED_ROWS))
    scored = rows.take(thin(len(rows), step, seed=0)) if step > 1 else rows
    label, metric = scored.column(config.columns.label), config.primary_metric
    found = []
    for scorer in scorers:
        y_true, y_pred = scorer.predict_labelled(scored, label)
        known = np.isfinite(scorer.labels(label))
        y_true = with_columns(config, y_true, scored.filter(pa.array(known)))
        few = metrics.undefined(metric, y_true, metrics.class_count(y_pred))
        value = metrics.compute(metric, y_true, y_pred)
        found.append(float("nan") if few else metrics.as_loss(metric, value))
    return found


def _sample_path(window: Window, folder: Path) -> Path:
    return folder / f"{window.name}.parquet"


def _drawn(windows: Sequence[Window], folder: Path) -> pa.Table:
    """Draw one of n rows of these windows' samples, one sample at a time: together they may take gigabytes."""
    paths = [_sample_path(window, folder) for window in windows]
    counts = [pq.read_metadata(path).num_rows for path in paths]
    step, drawn = max(1, -(-sum(counts) // PROBE_ROWS)), []
    for number, (path, count) in enumerate(zip(paths, counts, strict=True)):
        rows = _samples.get(path, partial(pq.read_table, path, partitioning=None))
        drawn.append(rows if step == 1 else rows.take(thin(count, step, seed=number)))
    return pa.concat_tables(drawn, promote_options="default")  # older rows lack a column that was added since


@lru_cache(maxsize=256)  # a backtest scores every probe on every window
def _loaded(folder: Path, imported: tuple[str, ...]) -> Scorer | None:
    if (folder / NO_PROBE).exists():
        return None
    files = model_files.read(folder)
    packages = model_files.trusted_packages(imported)
    return model_files.load(files, model_files.sha256(files), model_files.types_of(files), packages)
