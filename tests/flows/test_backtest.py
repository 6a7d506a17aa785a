"""Back-tests: a matrix from a file without a server, and a model's own history with one."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from deployments.cli import main
from flows.backtest import backtest
from tasks.adapters import ledger
from tasks.adapters.reports.backtest import pareto_front
from tasks.policy.backtest.study import run_backtest
from tasks.policy.decision.retraining import RetrainingPolicy
from tasks.policy.evidence.ledger import LABELS_QUARANTINED, Fact, LabelVerdicts
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import ModelConfigError
from tasks.policy.records.reports import LabelReport
from tasks.replay.candidates import plan_candidates
from tasks.replay.simulation import choose_policies, policy_yaml
from tests.policy.backtest.test_backtest import matrix_of
from tests.support.browser import elements, needs_chromium, render
from tests.support.trained_models import make_config, make_rows

ALPHAS = ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]


@pytest.fixture
def matrix_file(tmp_path: Path) -> Path:
    matrix = matrix_of()
    assert matrix.probe is not None
    path = tmp_path / "history.npz"
    np.savez(path, loss=matrix.loss, H=matrix.history, probe=matrix.probe, ks=np.full_like(matrix.loss, 0.6))
    return path


def test_matrix_backtest_writes_summary_and_page(matrix_file: Path, tmp_path: Path) -> None:
    assert main(["backtest", "--matrix", str(matrix_file), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    expected = {"perennial", "never", "every", "timer_2", "timer_4", "timer_8", "timer_16", "threshold_3_of_3"}
    expected |= {"adwin", "page_hinkley", "drift_share_ks", "drift_share_ev", "debt"}
    assert expected <= set(summary["policies"])
    for scores in summary["policies"].values():
        assert list(scores) == ALPHAS
        assert all(len(score["serving"]) == 16 and score["regret"] >= -1e-12 for score in scores.values())
    page = (tmp_path / "out" / "backtest.html").read_text()
    assert "Use " in page
    assert "default-src 'none'" in page, "the page loads nothing"
    assert page.count("<script src") == page.count("<link") == 0


@needs_chromium
def test_page_shows_lift_with_intervals(matrix_file: Path, tmp_path: Path) -> None:
    assert main(["backtest", "--matrix", str(matrix_file), "--out", str(tmp_path / "out")]) == 0
    page = render(
        tmp_path / "out" / "backtest.html", tmp_path, height=3600, ready="[data-figure=lift] .plotly .errorbar"
    )
    assert not page.console, page.console
    assert len(page.requests) == 1, "the page loads nothing"
    assert page.page_width <= 1280
    cells = [element.text for element in elements(page.dom) if element.tag == "td"]
    assert cells.count("perennial") == 2, "one row for its lift at every cost, and one among all policies"
    spoken = [cell for cell in cells if re.fullmatch(r"-?\d+\.\d\d \(-?\d+\.\d\d to -?\d+\.\d\d\)", cell)]
    assert len(spoken) > 20
    drawn = page.dom.count('class="xerror"')
    assert drawn >= 5, f"{drawn} policies are drawn with an interval"


def test_a_hostile_file_name_is_shown_as_text(matrix_file: Path, tmp_path: Path) -> None:
    hostile = matrix_file.rename(tmp_path / "<script>alert(1)<script>.npz")
    chosen = ["--alphas", "0.05", "--policies", "perennial"]
    assert main(["backtest", "--matrix", str(hostile), "--out", str(tmp_path), *chosen]) == 0
    page = elements((tmp_path / "backtest.html").read_text())
    assert next(element.text for element in page if element.tag == "h1") == f"Back-test of {hostile.name}"
    assert sum(element.tag == "script" for element in page) == 3  # the bundle, the figures, the drawing


def test_costs_and_policies_can_be_chosen(
    matrix_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--alphas", "0.05,0.1", "--policies", "perennial"]
    assert main(["backtest", "--matrix", str(matrix_file), "--out", str(tmp_path), *chosen]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["policies"]) == ["perennial"]
    assert list(summary["policies"]["perennial"]) == list(summary["optimum"]) == ["0.05", "0.1"]
    assert capsys.readouterr().out.startswith("Use perennial: over 16 served windows")
    assert main(["backtest", "--matrix", str(matrix_file), "--out", str(tmp_path), *chosen, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["recommendation"].startswith("Use perennial") and Path(outcome["page"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--matrix", "absent.npz", "--out", "."], "absent.npz: no such file"),
        (["--matrix", "{file}", "--out", ".", "--policies", "clever"], "--policies has clever; expected some of"),
        (["--matrix", "{file}", "--out", ".", "--alphas", "-1"], "expected costs above 0"),
        (["--matrix", "{text}", "--out", "."], "cannot be read as .npz"),
    ],
)
def test_invalid_backtest_ends_with_one_message(
    arguments: list[str], message: str, matrix_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.npz"
    text.write_text("no zip")
    assert main(["backtest", *(part.format(file=matrix_file, text=text) for part in arguments)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("backtest: ") and message in printed and "Traceback" not in printed


@pytest.mark.slow("starts the module as a process")
def test_module_runs_with_matrix_and_folder(matrix_file: Path, tmp_path: Path) -> None:
    """A public interface: the sentence on stdout, both files, and exit code 1 with one line on refusal."""
    command = [sys.executable, "-m", "flows.backtest", "--out", str(tmp_path / "out"), "--matrix"]
    done = subprocess.run([*command, str(matrix_file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Use ") and done.stdout.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["backtest.html", "summary.json"]
    refused = subprocess.run([*command, "absent.npz"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("backtest: absent.npz: no such file")


def test_matrix_without_output_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--matrix", "history.npz"]) == 2
    assert "--matrix needs --out" in capsys.readouterr().err


def test_pareto_front_holds_undominated_policies() -> None:
    assert pareto_front([(0, 0.5), (2, 0.3), (1, 0.6), (4, 0.3), (5, 0.1)]) == [(0, 0.5), (2, 0.3), (5, 0.1)]


@pytest.mark.parametrize(
    ("policy", "trigger"),
    [
        ("perennial", "perennial"),
        ("plain_probe", "probe"),
        ("debt", "regret_exceeds_cost"),
        ("never", "every"),
        ("drift_share_ks", "drifted_share"),
    ],
)
def test_recommended_yaml_is_a_valid_policy(policy: str, trigger: str) -> None:
    outcome = run_backtest(matrix_of("abrupt"), choose_policies([policy]), alphas=(0.02, 0.05, 0.1))
    pasted = yaml.safe_load(policy_yaml(outcome, window_days=5))["retraining"]
    when = RetrainingPolicy.model_validate(pasted).when
    assert when.trigger == trigger
    assert getattr(when, "alpha", 0.05) == 0.05


def write_model(folder: Path, live: bool = False, closed: Window | None = None, label_delay_hours: float = 0) -> Path:
    """Write a model whose concept changes on 2024-04-01, half-way through service; `live`: no end, `closed`: without rows."""
    turn, end = utc("2024-04-01"), utc("2024-05-01")
    before = make_rows(rows=1800, window=Window(utc("2024-01-01"), turn), seed=1)
    after = make_rows(rows=600, window=Window(turn, end), seed=2, turn=-1.0)
    table = pa.concat_tables([before, after])
    if closed:
        times = table.column("time").to_pylist()
        table = table.filter(pa.array([not closed.start <= time < closed.end for time in times]))
    pq.write_table(table, folder / "rows.parquet")
    config = make_config(
        name="turning_model",
        period={"start": utc("2024-01-01"), "history_until": utc("2024-03-01")} | ({} if live else {"end": end}),
        columns=make_config().columns.model_dump() | {"label_delay_hours": label_delay_hours},
        window_days=10,
        performance={"metric": "accuracy"},
        retraining={"when": {"trigger": "perennial"}, "min_labelled_rows": 90},
        training={"parameters": {"n_estimators": 20, "max_depth": 3}, "min_rows": 100, "window_days": 30},
    )
    path = folder / "turning_model.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))
    return path


@pytest.mark.usefixtures("prefect_server")
def test_own_history_is_backtested_with_each_candidate_once(tmp_path: Path, workspace: Path) -> None:
    model = str(write_model(tmp_path))
    outcome = backtest(model, (0.05, 0.2), ("perennial", "never", "every"))
    assert outcome["recommendation"].startswith("Use ")
    candidates = sorted(workspace.glob("backtest/turning_model-*/0*.npz"))
    assert len(candidates) == 11  # 12 windows; the last trains nothing
    with np.load(candidates[0].parent / "matrix.npz") as matrix:
        assert int(matrix["H"]) == 6
        loss, service = matrix["loss"], 9  # window 9 begins on 2024-03-31, so window 10 is all the new concept
        assert loss[5, 7] < 0.25 < 0.5 < loss[5, service + 1], "the old candidate fails on the new concept"
    assert Path(outcome["page"]).is_file()
    written = [path.stat().st_mtime_ns for path in candidates]
    backtest(model, (0.05,), ("perennial",))
    assert [path.stat().st_mtime_ns for path in candidates] == written, "a candidate is trained once"


@pytest.mark.slow("back-tests a record")
@pytest.mark.usefixtures("prefect_server")
def test_live_model_is_backtested_until_a_time(tmp_path: Path, workspace: Path) -> None:
    model = str(write_model(tmp_path, live=True))
    for until, last, windows in (("2024-04-12", "20240410", 10), ("2024-04-01", "20240331", 9)):
        outcome = backtest(model, (0.05,), ("never", "every"), until=utc(until))
        served = windows - 6
        assert f"over {served} served windows" in outcome["recommendation"]
        (matrix,) = workspace.glob(f"backtest/turning_model-*-{last}T000000-*/matrix.npz")
        with np.load(matrix) as stored:
            assert stored["loss"].shape == (windows, windows)


@pytest.mark.usefixtures("prefect_server")
def test_window_without_rows_has_no_losses(tmp_path: Path, workspace: Path) -> None:
    closed = Window(utc("2024-03-11"), utc("2024-03-21"))
    model = str(write_model(tmp_path, closed=closed))
    outcome = backtest(model, (0.05,), ("never", "every"))
    assert outcome["recommendation"].startswith("Use ")
    (matrix,) = workspace.glob("backtest/turning_model-*/matrix.npz")
    with np.load(matrix) as stored:
        known = np.isfinite(stored["loss"][5])
    assert known.tolist() == [False] * 6 + [True, False, True, True, True, True]
    write_model(tmp_path)
    backtest(model, (0.05,), ("never", "every"))
    complete = max(workspace.glob("backtest/turning_model-*/matrix.npz"), key=lambda path: path.stat().st_mtime)
    with np.load(complete) as stored:
        assert np.isfinite(stored["loss"][5, 6:]).all()


@pytest.mark.usefixtures("prefect_server")
def test_untrusted_labels_are_not_used(tmp_path: Path, workspace: Path) -> None:
    model = str(write_model(tmp_path))
    backtest(model, (0.05,), ("never", "every"))
    (before,) = workspace.glob("backtest/turning_model-*/matrix.npz")
    in_doubt = Window(utc("2024-03-11"), utc("2024-03-21"))
    report = LabelReport(in_doubt, "fail", (), ("labels came in another unit",))
    ledger.append("turning_model", Fact(LABELS_QUARANTINED, LabelVerdicts((report,)), in_doubt.end))
    backtest(model, (0.05,), ("never", "every"))
    (after,) = workspace.glob("backtest/turning_model-*-without-*/matrix.npz")
    with np.load(before) as complete, np.load(after) as parted:
        assert np.isfinite(complete["loss"][5, 6:]).all()
        assert np.isfinite(parted["loss"][5]).tolist() == [False] * 6 + [True, False, True, True, True, True]
        assert parted["rows"][7] < complete["rows"][7]


def test_invalid_end_date_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--model", "air_time", "--until", "soon"]) == 2
    assert "'soon' is not a date" in capsys.readouterr().err


@pytest.mark.slow("back-tests a record")
@pytest.mark.usefixtures("prefect_server")
def test_policies_wait_for_late_labels(tmp_path: Path, workspace: Path) -> None:
    """Labels fifteen days late, windows of ten: at a window's end, half of the labels of the previous window are known."""
    model = str(write_model(tmp_path, label_delay_hours=15 * 24))
    outcome = backtest(model, (0.05,), ("perennial", "never", "every"))
    assert "see a window's losses 1 window after it" in outcome["recommendation"]
    (matrix,) = workspace.glob("backtest/turning_model-*/matrix.npz")
    with np.load(matrix) as stored:
        assert (int(stored["H"]), int(stored["lag"])) == (5, 1)
        known, probed = np.isfinite(stored["loss"]), np.isfinite(stored["probe"])
    assert known[4].tolist() == [False] * 6 + [True] * 6, "the first serving model is trained at the end of window 5"
    assert probed[4].tolist() == [False] * 5 + [True] * 7, "a probe is trained on window 4 once its labels have arrived"
    every = json.loads(Path(outcome["summary"]).read_text())["policies"]["every"]["0.05"]
    assert every["serving"] == [4, 5, 6, 7, 8, 9]


def test_labels_too_late_for_the_record_are_reported() -> None:
    columns = make_config().columns.model_dump() | {"label_delay_hours": 400}
    config = make_config(columns=columns, window_days=1)
    with pytest.raises(ModelConfigError, match="labels of a window are known 16 windows after it"):
        plan_candidates(config, config.period.history_until + timedelta(days=10))
