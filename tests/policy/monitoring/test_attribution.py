"""Attribution of prediction and loss changes to features: by hand and against XGBoost's contributions."""

import numpy as np
import pytest

from tasks.adapters.models import estimators, shap as attribution
from tasks.policy.monitoring.attribution import (
    explain_loss,
    explain_predictions,
    freeze,
    loss_shifts,
    prediction_shifts,
)
from tests.support.trained_models import make_config, make_rows


def test_prediction_shift_is_split_by_feature():
    """Contributions of a: mean 1 → 3; of b: mean 0 → -0.5. Together the prediction moved by +1.5."""
    before = np.array([[0.0, 0.0], [2.0, 0.0]])
    now = np.array([[3.0, -1.0], [3.0, 0.0]])
    shifts = prediction_shifts(freeze(["a", "b"], before), now)
    assert [(shift.feature, shift.moved) for shift in shifts] == [("a", 2.0), ("b", -0.5)]


def test_explained_loss_is_change_of_shares_times_losses():
    """Low and high contributions, half each in training; now a quarter low (loss 1) and three quarters high (loss 5).

    (1/4 - 1/2) · 1 + (3/4 - 1/2) · 5 = 1.
    """
    profile = freeze(["a", "still"], np.array([[0.0, 7.0], [1.0, 7.0]] * 50))
    now = np.array([[0.0, 7.0]] * 25 + [[1.0, 7.0]] * 75)
    shifts = loss_shifts(profile, now, np.repeat([1.0, 5.0], [25, 75]))
    assert [(shift.feature, pytest.approx(shift.moved)) for shift in shifts] == [("a", 1.0), ("still", 0.0)]


def test_sentence_names_features_with_significant_effect():
    random = np.random.default_rng(0)
    profile = freeze(["a", "b", "c"], random.normal(0, 1, (1000, 3)))
    shifts = prediction_shifts(profile, random.normal((0.8, 0.0, 0.5), 1, (500, 3)))
    sentence = explain_predictions(shifts, ["a", "b"], "minutes") or ""
    assert "minutes since training" in sentence and "a +" in sentence
    assert "b " not in sentence.split("SHAP values")[1] and "c " not in sentence.split("SHAP values")[1]
    assert explain_predictions(shifts, ["b"], "minutes") is None


@pytest.mark.parametrize("seed", range(5))
def test_same_distribution_has_no_significant_effect(seed):
    """Ten features without drift, at two standard errors each: at most two may appear significant."""
    random = np.random.default_rng(seed)
    profile = freeze([f"f{place}" for place in range(10)], random.normal(size=(2000, 10)))
    shifts = loss_shifts(profile, random.normal(size=(500, 10)), random.exponential(size=500))
    assert sum(abs(shift.moved) > 3 * shift.error for shift in shifts) <= 3
    assert explain_loss(shifts, [], "mae") is None


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_xgboost_contributions_explain_the_shift(task):
    config, rows = make_config(task), make_rows(task)
    scorer = estimators.fit(config, rows).scorer
    moved = make_rows(task, seed=1)
    shifted = moved.set_column(moved.column_names.index("x"), "x", [moved["x"].to_numpy() + 1.5])
    before, now = (attribution.contributions(scorer, table, 1000) for table in (rows, shifted))
    shifts = prediction_shifts(freeze(scorer.encoding.names, before), now)
    assert shifts[0].feature == "x" and shifts[0].moved > 0
    margins = [
        scorer.estimator.get_booster().inplace_predict(scorer.encoding.encode(table), predict_type="margin").mean()
        for table in (rows, shifted)
    ]
    assert sum(shift.moved for shift in shifts) == pytest.approx(margins[1] - margins[0], abs=1e-3)


def test_model_without_shap_values_is_not_explained():
    config = make_config(training={"estimator": "sklearn.linear_model:LogisticRegression", "min_rows": 200})
    scorer = estimators.fit(config, make_rows()).scorer
    assert attribution.contributions(scorer, make_rows()) is None
    boosted = estimators.fit(make_config(), make_rows()).scorer
    assert attribution.contributions(boosted, make_rows().drop_columns(["x"])) is None


def test_predicted_class_is_explained():
    scorer = estimators.fit(make_config("multiclass"), make_rows("multiclass")).scorer
    assert attribution.contributions(scorer, make_rows("multiclass"), 50).shape == (50, 4)
