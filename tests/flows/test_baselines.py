"""A replay's baselines are measured on the same rows, including a class that no model knows."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from tasks.adapters import lake
from tasks.replay.baselines import compare_with_baselines
from tests.support.trained_models import HOLDOUT, land, make_config, make_rows, prepare_registry, register


def test_unknown_class_is_a_miss_for_every_model(tmp_path, workspace):
    """With two or four known classes the metric was silently wrong; with three it failed."""
    prepare_registry(workspace)
    config = make_config("multiclass", performance={"metric": "f1"})
    version = register(config)
    rows = make_rows("multiclass", rows=400, window=HOLDOUT, seed=9)
    texts = np.where(np.arange(400) % 5 == 0, "zz", rows.column("label").to_pylist())
    land(config, HOLDOUT, rows.set_column(rows.column_names.index("label"), "label", pa.array(texts)))
    known = ("high", "low", "middle")
    sure = np.eye(3)[[known.index(name) if name in known else 0 for name in texts]]
    served = {"id": rows["id"], "time": rows["time"], "prediction": pa.array(list(sure))}
    lake.land_predictions(config, HOLDOUT, version.version, pa.table(served))
    rivals = pd.DataFrame({"id": rows["id"].to_pylist(), "never": list(sure), "every": list(sure[:, ::-1])})
    rivals.attrs = {"never": known, "every": known[::-1]}
    rivals.to_parquet(tmp_path / f"{HOLDOUT.name}.parquet")
    as_of = HOLDOUT.end + timedelta(days=1)
    (found,) = compare_with_baselines.fn(config, [(HOLDOUT, version.version)], as_of, tmp_path)
    right = f1_score(texts, np.array(known)[sure.argmax(axis=1)], average="macro")
    assert [found.loop.value, found.never, found.every] == pytest.approx([right] * 3)
    assert found.labelled_rows == 400
