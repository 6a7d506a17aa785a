"""`perennial check` names the user's code that cannot be imported or called, whatever it raises, without a traceback."""

from pathlib import Path

import pytest

from deployments.cli import main
from tests.support.small_model import write_model

MODULES = {
    "own_syntax": ("def broken(:\n", "SyntaxError: invalid syntax (own_syntax.py, line 1)"),
    "own_exit": ("raise SystemExit('no licence')\n", "SystemExit: no licence"),
    "own_fault": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "own_missing": ("import no_such_package\n", "No module named 'no_such_package'"),
}
SOURCE = "source: {kind: parquet, path: rows.parquet}"
PLACES = {
    "trigger": ("trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3", "trigger: 'MODULE:T'"),
    "metrics.own.function": (
        "window_days: 2",
        "window_days: 2\nmetrics: {own: {function: 'MODULE:f', higher_is_better: true}}",
    ),
    "training.estimator": ("min_rows: 300", "estimator: 'MODULE:E'\n  min_rows: 300"),
    "training.function": (
        "min_rows: 300\n  parameters: {n_estimators: 30, max_depth: 3, learning_rate: 0.3}",
        "function: 'MODULE:f'\n  min_rows: 300",
    ),
    "training.pipeline": ("min_rows: 300", "pipeline: 'MODULE:f'\n  min_rows: 300"),
    "MODULE:f": (SOURCE, "source: {kind: python, function: 'MODULE:f'}"),
    "quality.suite": ("window_days: 2", "window_days: 2\nquality: {suite: 'MODULE:f'}"),
    "drift.evidently.0.report": ("window_days: 2", "window_days: 2\ndrift: {evidently: [{report: 'MODULE:f'}]}"),
}


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (text, _) in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def error_of(capsys: pytest.CaptureFixture[str], path: str) -> str:
    assert main(["check", path]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize("module", ["own_syntax", "own_exit"])
@pytest.mark.parametrize("place", PLACES)
def test_a_module_that_cannot_be_imported_is_named_where_it_is_set(place, module, tmp_path, capsys):
    old, new = (each.replace("MODULE", module) for each in PLACES[place])
    error = error_of(capsys, write_model(tmp_path / "model", **{old: new}))
    assert place.replace("MODULE", module) in error
    assert f"cannot be imported ({MODULES[module][1]})" in error


@pytest.mark.parametrize("module", MODULES)
def test_the_reason_is_whatever_the_module_raises(module, tmp_path, capsys):
    old, new = PLACES["metrics.own.function"]
    error = error_of(capsys, write_model(tmp_path / "model", **{old: new.replace("MODULE", module)}))
    assert f"metrics.own.function is {module}:f, which cannot be imported ({MODULES[module][1]})" in error


@pytest.mark.parametrize("place", ["training.pipeline", "quality.suite", "metrics.own.function"])
def test_a_function_that_check_calls_is_named_when_it_fails(place, tmp_path, capsys):
    (tmp_path / "own_called.py").write_text("def f(*_):\n    raise KeyError('shop')\n", encoding="utf-8")
    old, new = PLACES[place]
    error = error_of(capsys, write_model(tmp_path / "model", **{old: new.replace("MODULE", "own_called")}))
    assert place.removesuffix(".function") in error and "raised KeyError: 'shop'" in error
