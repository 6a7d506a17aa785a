"""Labels and predictions share one order of classes; a class that no model knows is a miss in every metric."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from tasks.adapters.models.label_alignment import align_labels, in_order
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import metric_intervals
from tasks.policy.statistics.metrics import Metric

WORST = {
    "accuracy": 0,
    "balanced_accuracy": 0,
    "f1": 0,
    "roc_auc": 0,
    "log_loss": -np.log(np.finfo(float).eps),
    "brier": 1,
}
"""Each binary metric if every row is wrong and was predicted with certainty."""


def labels(*texts: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def test_binary_models_share_one_class_order():
    sure = np.array([0.9, 0.2])
    assert in_order(("no", "yes"), sure, ("yes", "no")) == pytest.approx([0.1, 0.8])
    assert in_order(("no", "yes"), sure, ("no", "yes")) is sure
    assert in_order((), sure, ()) is sure, "a regression has no classes"


@pytest.mark.parametrize("metric", metrics.CLASS_METRICS)
def test_metrics_are_worst_without_known_labels(metric):
    """A source that starts to write ja and nein instead of yes and no; the model itself is as good as ever."""
    y_true, (predicted,) = align_labels(labels(*["ja", "nein"] * 20), [(("no", "yes"), np.array([0.9, 0.2] * 20))])
    assert metrics.compute(Metric(metric), y_true, predicted) == pytest.approx(WORST[metric])
    low, high = metric_intervals([Metric(metric)], y_true, predicted)[metric]
    assert low <= WORST[metric] + 1e-9 and WORST[metric] - 1e-9 <= high


@pytest.mark.parametrize("metric", metrics.CLASS_METRICS)
def test_third_class_worsens_every_binary_metric(metric):
    random = np.random.default_rng(0)
    predicted = random.uniform(size=400)
    texts = np.where(random.uniform(size=400) < predicted, "yes", "no")
    spoilt = np.where(np.arange(400) % 4 == 1, "maybe", texts)
    before, after = (
        metrics.as_loss(
            Metric(metric),
            metrics.compute(Metric(metric), *_alone(align_labels(labels(*seen), [(("no", "yes"), predicted)]))),
        )
        for seen in (texts, spoilt)
    )
    assert after > before + 0.05


def _alone(encoded):
    y_true, (predicted,) = encoded
    return y_true, predicted


def test_a_missing_label_stays_missing_and_a_number_a_number():
    y_true, _ = align_labels(labels("no", None, "maybe"), [(("no", "yes"), np.array([0.1, 0.5, 0.9]))])
    assert list(np.isnan(y_true)) == [False, True, False]
    y_true, (predicted,) = align_labels(pa.chunked_array([[0.0, 1.5]]), [((), np.array([2.0, 3.0]))])
    assert (y_true == [0.0, 1.5]).all() and (predicted == [2.0, 3.0]).all()


@pytest.mark.parametrize("known", [("a", "b"), ("a", "b", "c")])
def test_unknown_class_is_an_additional_class(known):
    """An even number of classes was silently wrong, an odd one a ValueError, because NaN became the smallest integer."""
    texts = [*known, "zz"] * 10
    sure = np.eye(len(known))[[place % len(known) for place in range(len(texts))]]
    y_true, both = align_labels(labels(*texts), [(known, sure), (known, sure)])
    decided = [(*known, "zz")[place] for place in both[0].argmax(axis=1)]
    for predicted in both:
        assert metrics.compute(Metric("f1"), y_true, predicted) == pytest.approx(
            f1_score(texts, decided, average="macro")
        )
        assert np.isfinite(metrics.compute(Metric("log_loss"), y_true, predicted))


def test_models_with_different_classes_share_all_four():
    upper, lower = (("No", "Yes"), np.array([0.1, 0.9, 0.9])), (("no", "yes"), np.array([0.1, 0.9, 0.9]))
    y_true, (first, second) = align_labels(labels("no", "yes", "Yes"), [upper, lower])
    assert metrics.compute(Metric("accuracy"), y_true, first) == pytest.approx(1 / 3)
    assert metrics.compute(Metric("accuracy"), y_true, second) == pytest.approx(2 / 3)
