"""The search: what it finds, what it must not find, its budget, and that it can be repeated and continued."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.own_training import trainer
from tasks.adapters.search import journal as journals, space
from tasks.adapters.search.folds import block_losses, forward_folds
from tasks.adapters.search.forward_search import SearchJob, search
from tasks.policy.records.errors import EstimatorError
from tasks.policy.training.recipe import FeatureRecipe
from tasks.policy.training.search import TOLERANCE, SearchPolicy, SearchReport
from tests.support.trained_models import make_config, make_rows

WEAK: dict[str, Any] = {"n_estimators": 4, "max_depth": 1}
QUICK = {"n_estimators": {"low": 4, "high": 40}, "max_depth": {"low": 1, "high": 4}}
UNTIL = "2024-03-01T00:00:00+00:00"


def model(task: str = "regression", given: dict[str, Any] = WEAK, **search: Any) -> ModelConfig:
    policy = {"trials": 8, "parameters": QUICK} | search
    return make_config(task, training={"min_rows": 200, "parameters": given, "search": policy})


def run(config: ModelConfig, rows: pa.Table, decision_id: str = "d1", until: str = UNTIL, **job: Any) -> SearchReport:
    policy = config.training.search
    assert policy is not None
    chosen, report = search(config, rows, SearchJob(policy, decision_id, "hash", until, **job))
    assert chosen.training.parameters == report.parameters
    assert (chosen.training.recipe or FeatureRecipe()) == report.recipe
    return report


def without_times(report: SearchReport) -> list[Any]:
    return [replace(trial, wall_s=0.0, cpu_s=0.0) for trial in report.trials]


def noise(rows: int = 1200, categories: int = 200, seed: int = 4) -> pa.Table:
    """Return rows whose labels are random, with a category of many values that could memorise them."""
    random = np.random.default_rng(seed)
    table = make_rows("binary", rows=rows)
    place = table.column_names.index("colour")
    table = table.set_column(place, "colour", pa.array([f"c{code}" for code in random.integers(0, categories, rows)]))
    return table.set_column(table.column_names.index("label"), "label", pa.array(random.integers(0, 2, rows)))


def test_better_settings_are_found_and_adopted():
    report = run(model(), make_rows("regression"))
    assert report.adopted and report.gain is not None and report.gain.gain > 0.3
    assert report.parameters["n_estimators"] > 4
    assert report.sentence.endswith("adopted")


def test_adopted_settings_are_better_on_later_rows():
    rows = make_rows("regression", rows=1500)
    known, later = rows.slice(0, 1200), rows.slice(1200)
    config = model()
    assert config.training.search is not None
    chosen, _ = search(config, known, SearchJob(config.training.search, "d1", "hash", UNTIL))
    losses = [block_losses(each, trainer.fit(each, known).scorer, later)[0] for each in (config, chosen)]
    assert losses[1] < losses[0]


def test_noise_has_no_gain():
    """Every trial looks at the same noise; the best of them is not adopted, and the present settings stay."""
    report = run(model("binary"), noise())
    assert not report.adopted and "no gain" in report.sentence
    assert (report.parameters, report.recipe) == (WEAK, FeatureRecipe())


def test_best_settings_stay():
    rows = make_rows("regression")
    found = run(model(trials=12), rows)
    assert found.best is not None
    again = run(model(trials=12), rows, "d2", parameters=found.parameters, recipe=found.recipe)
    assert again.parameters == found.parameters or (again.gain is not None and again.gain.is_adopted)
    assert again.trials[0].parameters == found.parameters


def test_target_encoding_of_random_labels_does_not_pay():
    """A category with 200 values in 1,200 rows would give the label away if a row saw its own."""
    config, rows = model("binary", {"n_estimators": 40, "max_depth": 3}), noise()
    encoded = config.model_copy(
        update={"training": config.training.model_copy(update={"recipe": FeatureRecipe(target_encoded=("colour",))})}
    )
    later = noise(seed=5)
    fitted = trainer.fit(encoded, rows)
    assert block_losses(encoded, fitted.scorer, later)[0] > 0.68  # ln 2 = 0.693 knows nothing
    held_back = fitted.metrics["log_loss"]
    assert held_back > 0.68, "early stopping must not believe an encoding that saw these labels"
    report = run(model("binary", {"n_estimators": 40, "max_depth": 3}, trials=10), rows)
    assert any(trial.recipe.target_encoded for trial in report.trials)
    assert all(trial.loss > 0.67 for trial in report.trials if trial.losses)


def test_first_trial_has_the_present_settings_as_they_are():
    """Neither what they leave open nor what lies outside of the ranges is drawn (FLAML #795, #1318)."""
    present = {"max_depth": 11, "tree_method": "hist", "n_estimators": 6}
    report = run(model(given={"max_depth": 2}), make_rows("regression"), parameters=present)
    first = report.trials[0]
    assert (first.origin, first.parameters) == ("champion", present)
    config = model(given=present)
    fold = forward_folds(config, make_rows("regression"), 4)[0]
    expected = block_losses(config, trainer.fit(config, fold.training).scorer, fold.judged)[0]
    assert first.losses[0] == expected


def test_warm_start_is_used():
    """The best settings of the search before are tried right after the present ones, and all its trials inform the sampler."""
    rows = make_rows("regression")
    first = run(model(trials=8), rows, until="2024-02-01T00:00:00+00:00")
    later = run(model(trials=6), rows, "d2")
    assert first.best is not None
    assert later.trials[1].origin == "earlier" and later.trials[1].drawn == first.best.drawn
    cold = [trial.drawn for trial in run(model(trials=6), rows, "d3", until="2024-01-01T00:00:00+00:00").trials]
    assert [trial.drawn for trial in later.trials[4:]] != cold[4:]
    stored = journals.read("regression_model", "d2", journals_identity("d2"))
    assert stored is not None and len(stored.earlier) == sum(trial.state == "complete" for trial in first.trials)


def journals_identity(decision_id: str) -> str:
    content = journals._read("regression_model", f"{decision_id}.json")
    assert content is not None
    return content.identity


def test_searches_of_later_rows_inform_nothing():
    rows = make_rows("regression")
    run(model(trials=4), rows, until="2024-03-02T00:00:00+00:00")
    assert all(trial.origin != "earlier" for trial in run(model(trials=4), rows, "d2").trials)


def test_same_inputs_give_the_same_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rows, reports = make_rows("regression"), []
    for home in ("one", "other"):
        monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / home))
        reports.append(run(model(), rows))
    assert without_times(reports[0]) == without_times(reports[1])
    assert reports[0].gain == reports[1].gain


KILLED = """
from tests.adapters.search.test_forward_search import model, run
from tests.support.trained_models import make_rows
print("searching", flush=True)
run(model(), make_rows("regression"))
"""


def test_killed_search_continues_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workspace: Path
):
    rows = make_rows("regression")
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=os.environ | {"PERENNIAL_HOME": str(workspace)})
    place = workspace / "lake" / "regression_model" / journals.SEARCHES / "d1.json"
    deadline = time.monotonic() + 60
    while not place.exists() or place.read_text().count('"number"') < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert place.read_text().count('"number"') < 8, "it was killed too late to test anything"
    continued = run(model(), rows)
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "uninterrupted"))
    assert without_times(continued) == without_times(run(model(), rows))


def test_journal_of_other_rows_or_settings_is_not_continued():
    rows = make_rows("regression")
    first = run(model(trials=4), rows)
    policy = SearchPolicy.model_validate({"trials": 4, "parameters": QUICK})
    _, other = search(model(trials=4), rows, SearchJob(policy, "d1", "other hash", UNTIL))
    assert other.trials[0].wall_s != first.trials[0].wall_s  # it was measured anew
    seeded = model(trials=4)
    seeded = seeded.model_copy(update={"training": seeded.training.model_copy(update={"seed": 8})})
    assert without_times(run(seeded, rows)) != without_times(first)


def test_refused_settings_are_a_failed_trial():
    """XGBoost refuses an unknown tree method when it fits; the search goes on."""
    methods = {"tree_method": {"choices": ["hist", "nonsense"]}}
    report = run(model(given=WEAK | {"tree_method": "hist"}, parameters=QUICK | methods), make_rows("regression"))
    failed = [trial for trial in report.trials if trial.state == "failed"]
    assert failed and all(trial.parameters["tree_method"] == "nonsense" and trial.reason for trial in failed)
    assert len(report.trials) == 8 and report.parameters["tree_method"] == "hist"


@pytest.mark.parametrize(
    ("limit", "rows"), [({"minutes": 0.1}, 1_000), ({"usd": 0.006}, 1_000), ({"minutes": 0.1}, 60_000)]
)
def test_budget_is_spent_within_a_tenth(limit, rows):
    """6 seconds, or 0.006 USD at 3.6 USD an hour; with many rows the trials use a part of them."""
    config = model(trials=None, **limit)
    config = config.model_copy(update={"budget": config.budget.model_copy(update={"compute_usd_per_hour": 3.6})})
    table = make_rows("regression", rows=rows)
    began = time.perf_counter()
    report = run(config, table)
    assert 6 * (1 - TOLERANCE) <= time.perf_counter() - began <= 6 * (1 + TOLERANCE)
    assert len(report.trials) > 5
    assert (report.searched_rows < report.rows) == (rows > 1_000)


def test_small_space_ends_early():
    """Logistic regression with three choices of C: three trials, whatever the budget."""
    ranges = {"C": {"choices": [0.1, 1.0, 10.0]}}
    training = {"estimator": "sklearn.linear_model:LogisticRegression", "min_rows": 200,
                "search": {"minutes": 5, "features": False, "parameters": ranges}}  # fmt: skip
    report = run(make_config("binary", training=training), make_rows("binary"))
    assert [trial.number for trial in report.trials] == [0, 1, 2]


def test_too_few_rows_are_not_searched():
    report = run(model(), make_rows("regression", rows=120))
    assert report.fault and not report.trials and report.parameters == WEAK
    assert "nothing was searched: 120 labelled rows" in report.sentence


def test_unknown_parameter_is_named():
    with pytest.raises(EstimatorError, match="max_dept is not known to XGBRegressor; did you mean max_depth"):
        space.check(model(parameters={"max_dept": {"low": 1, "high": 2}}))


def test_folds_lie_forward_in_time():
    """A fold trains on rows whose labels were known when its judged rows began: half a day earlier here."""
    config = make_config("regression")
    config = config.model_copy(update={"columns": config.columns.model_copy(update={"label_delay_hours": 12.0})})
    rows = make_rows("regression")
    folds = forward_folds(config, rows, 4)
    assert sum(len(fold.judged) for fold in folds) == 500
    for fold in folds:
        gap = fold.judged["time"][0].as_py() - fold.training["time"][-1].as_py()
        assert 12 * 3600 < gap.total_seconds() < 15 * 3600
