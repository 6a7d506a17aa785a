"""Peak memory in MB, whatever unit the operating system reports it in."""

import re
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.adapters.models.resources import peak_memory_mb


@pytest.mark.parametrize(("platform", "maxrss"), [("linux", 500_000), ("darwin", 512_000_000)])
def test_the_same_memory_is_the_same_number_on_linux_and_macos(monkeypatch, platform, maxrss):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=maxrss))
    assert peak_memory_mb() == 512.0


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no /proc")
def test_the_peak_is_the_one_that_the_kernel_reports():
    """VmHWM is in KiB. The kernel updates the two numbers at different times."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert peak_memory_mb() == pytest.approx(int(found[1]) * 1024 / 1e6, rel=0.05)
