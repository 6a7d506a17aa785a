"""The demo replays recorded history and names the models that it leaves out."""

from pathlib import Path

import pytest

from deployments.cli import demo, main
from tests.support.small_model import write_model

LIVE = {", end: 2024-02-06T00:00:00Z": ""}


def replayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of models that would be replayed, instead of starting server and processes."""
    names: list[str] = []
    monkeypatch.setattr(
        demo.signal, "signal", lambda *_: None
    )  # the demo's signal handler must not stay in this process
    monkeypatch.setattr(demo, "_replay", lambda configs, _: names.extend(config.name for config in configs.values()))
    return names


def test_live_model_is_left_out_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live = write_model(tmp_path / "live", **LIVE, **{"name: small": "name: live_model"})
    names = replayed(monkeypatch)
    assert main(["demo", live, write_model(tmp_path / "recorded")]) == 0
    assert names == ["small"]
    assert capsys.readouterr().out.splitlines() == ["live_model: left out, it is a live model: period.end is not set"]


def test_only_live_models_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = replayed(monkeypatch)
    assert main(["demo", write_model(tmp_path, **LIVE)]) == 2
    assert names == []
    assert "expected one whose file sets period.end" in capsys.readouterr().err
