"""External memory needs less memory than the rows, from the snapshot to the registered version."""

import shutil

import pytest

from tests.support.large_training import Size, run
from tests.support.trained_models import empty_registry, prepare_registry

SIZE = Size(rows=600_000, numeric=38, parts=60, rounds=3, depth=4)


@pytest.mark.slow("trains on 600,000 rows twice, in processes of their own")
@pytest.mark.timeout(900)
def test_external_memory_is_bounded(tmp_path):
    home = tmp_path / "large"
    prepare_registry(home)
    run("land", SIZE, home)
    memory = run("ours", SIZE, home)
    shutil.copy(empty_registry(), home / "mlflow.db")
    external = run("ours", SIZE, home, "external")
    assert external.sha256 == memory.sha256
    assert external.peak_anonymous_mb < memory.peak_anonymous_mb
    assert external.peak_anonymous_mb < 620, (
        "libraries take 330 MB, and no part of it may grow with the number of features"
    )
