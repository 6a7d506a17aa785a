"""One exercise of `make drill` behind each service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.haproxy import needs_haproxy

pytestmark = pytest.mark.slow("trains, serves and judges with real processes for several minutes")


@pytest.mark.parametrize("service", ["gateway", pytest.param("haproxy", marks=needs_haproxy)])
def test_a_bad_challenger_loses_its_traffic_without_a_failed_request(service: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.drill", "--service", service, "--fault", "raises on"]
    environment = {**os.environ, "PERENNIAL_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "bench" / "drill.json").exists()
