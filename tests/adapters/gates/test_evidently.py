"""Evidently's measurement of samples: agreement, disagreement, robustness, and escaping on its page."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.gates import evidently as gate
from tasks.adapters.gates.evidently import draw_report, measure_samples
from tasks.adapters.gates.evidently_columns import RARE, Samples, escape, pool_rare
from tasks.adapters.gates.evidently_page import write_page
from tasks.policy.monitoring.drift import measure
from tasks.policy.monitoring.second_opinion import with_second_opinion
from tests.support.monitored_model import COUNT, amounts, baseline, model, profile, reference, rows, with_share

EVIL = "</script><script>alert('x\"')</script>"


def measured(config=None, frozen=None, sampled=None, **replaced):
    """Return the report on all rows, and Evidently's opinion of them or of other rows `sampled`, with an optional change."""
    config = config or model()
    frozen = frozen or reference(config)
    table = rows(COUNT, **replaced)
    report = measure(profile(config, frozen, table), frozen, config.drift)
    sample = baseline(config, frozen).sample.draw(5000, 0)
    features = {one.feature: one for one in frozen.features}
    samples = Samples((table if sampled is None else sampled).select([*features]), sample.rows, sample.days, features)
    found = measure_samples(report, samples, config.drift)
    return with_second_opinion(report, found.opinion, config.drift.max_share), found


def drifted(parts) -> set[str]:
    return {one.feature for one in parts[1].opinion.features if one.verdict == "drifted"}


def on_all_rows(parts) -> set[str]:
    return {one.feature for one in parts[0].features if one.verdict == "drifted"}


def page(folder: Path, parts, plots: int = 4, title: str = "title") -> str:
    report, found = parts
    path = folder / "churn" / "window" / "drift.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, folder, title, report, {"": draw_report(report, found, plots)})
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["psi", "ks", "kl", "wasserstein"])
def test_both_detect_the_same_moved_columns(method):
    config = model(drift={"method": method, "threshold": 0.15})
    random = np.random.default_rng(0)
    assert drifted(measured(config)) == on_all_rows(measured(config)) == set()
    parts = measured(config, amount=random.gamma(2, 150, COUNT), country=["XX"] * COUNT)
    assert drifted(parts) == on_all_rows(parts) == {"amount", "country"}
    assert parts[0].warnings == () and "by Evidently: 4, in disagreement: 0" in parts[0].reasons[-1]


@pytest.mark.parametrize("method", ["psi", "ks", "kl", "wasserstein"])
def test_effects_are_on_the_scale_of_the_limits(method):
    """Evidently's own scores are p-values, in σ of the sample, or above a noise floor."""
    config = model(drift={"method": method, "threshold": 0.15})
    report, found = measured(config, amount=[1.4 * value for value in amounts()])
    ours = {one.feature: one.effect_size for one in report.features}
    theirs = {one.feature: one.effect for one in found.opinion.features}
    assert theirs["amount"] == pytest.approx(ours["amount"], rel=0.35)


@pytest.mark.parametrize(("factor", "on_sample", "on_all"), [(2, "stable", "drifted"), (1, "drifted", "stable")])
def test_disagreement_beyond_sampling_error_warns(factor, on_sample, on_all):
    """Evidently gets other rows than were counted, as if counting were wrong."""
    counted, other = ([one * value for value in amounts()] for one in (factor, 3 - factor))
    report, found = measured(amount=counted, sampled=rows(COUNT, amount=other))
    (amount,) = [one for one in found.opinion.features if one.disagrees]
    assert (amount.feature, amount.verdict, amount.is_beyond_sampling_error) == ("amount", on_sample, True)
    assert amount.low < amount.effect < amount.high and not amount.low <= amount.limit <= amount.high
    assert on_all_rows((report, found)) == ({"amount"} if on_all == "drifted" else set())
    (warning,) = report.warnings
    assert re.fullmatch(
        rf"amount: Evidently on 2,000 rows: {on_sample}, wasserstein [\d.]+ \(99% interval [\d.]+ to [\d.]+\) against 0.15; "
        rf"on all 2,000 rows: {on_all}, wasserstein [\d.]+ against 0.15; sampling error does not explain the difference",
        warning,
    )
    assert report.reasons[-1].endswith("Evidently: 4, in disagreement: 1, beyond sampling error: 1")


def test_small_samples_rarely_warn_at_the_limit():
    """A shift just past the limit: samples of 500 rows often miss it, which does not contradict the count of all rows."""
    config = model({"numeric": ["amount"], "categorical": [], "boolean": []}, drift={"threshold": 0.15})
    frozen = reference(config)
    window = rows(30_000, amount=np.random.default_rng(1).gamma(2, 56.5, 30_000))
    report = measure(profile(config, frozen, window), frozen, config.drift)
    (amount,) = report.features
    assert amount.verdict == "drifted" and amount.effect_size < 0.2
    opinions, random = [], np.random.default_rng(2)
    for seed in range(60):
        sample = baseline(config, frozen).sample.draw(500, seed)
        current = window.select(["amount"]).take(random.choice(30_000, 500, replace=False))
        samples = Samples(current, sample.rows, sample.days, {"amount": frozen.features[0]})
        opinions += measure_samples(report, samples, config.drift).opinion.features
    assert sum(one.disagrees for one in opinions) >= 10
    assert sum(one.is_beyond_sampling_error for one in opinions) <= 1


def test_nulls_infinities_and_text_are_measured():
    for other in (None, float("inf")):
        assert drifted(measured(amount=with_share(amounts(), 0.6, other))) == {"amount"}
    assert drifted(measured(amount=[str(value) for value in amounts()])) == {"amount"}
    assert drifted(measured(country=[["DE"]] * COUNT)) == {"country"}


@pytest.mark.parametrize("method", ["psi", "ks", "kl", "wasserstein"])
def test_single_extreme_value_neither_hides_nor_causes_drift(method):
    config = model(drift={"method": method, "threshold": 0.15})
    moved, still = [value + 300 for value in amounts()], amounts()
    moved[0] = still[0] = 1e6
    assert drifted(measured(config, amount=moved)) == {"amount"}
    assert drifted(measured(config, amount=still)) == set()


TYPES = {
    "decimal": lambda values: pa.array(values).cast(pa.decimal128(18, 6), safe=False),
    "dictionary": lambda values: pa.array(values).dictionary_encode(),
    "float32": lambda values: pa.array(np.array(values, np.float32)),
    "int64 with nulls": lambda values: pa.array([None, *map(round, values[1:])], pa.int64()),
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_numeric_type_is_measured(kind):
    """Evidently treats nullable and Arrow types as unknown and skips them."""
    assert drifted(measured(amount=TYPES[kind](amounts()))) == set()
    assert drifted(measured(amount=TYPES[kind]([value * 0.3 for value in amounts()]))) == {"amount"}


@pytest.mark.parametrize("nothing", [pa.nulls(COUNT), pa.nulls(COUNT, pa.float64()), pa.nulls(COUNT, pa.string())])
@pytest.mark.parametrize("feature", ["amount", "country", "member"])
def test_all_null_column_drifts_without_error(feature, nothing):
    assert drifted(measured(**{feature: nothing})) == {feature}


def test_constant_and_low_cardinality_columns_stay_numeric():
    config = model()
    constant = reference(config, amount=np.zeros(10_000))
    assert drifted(measured(config, constant, amount=np.zeros(COUNT))) == set()
    assert drifted(measured(config, constant, amount=np.ones(COUNT))) == {"amount"}
    assert drifted(measured(age=[18 + number % 3 for number in range(COUNT)])) == {"age"}


def test_unseen_category_drifts_by_its_share():
    names = rows()["country"].to_pylist()
    assert drifted(measured(country=["XX", *names[1:]])) == set()
    assert drifted(measured(country=with_share(names, 0.15, "XX"))) == {"country"}


def test_many_rare_categories_are_not_drift():
    """Evidently's PSI of two samples of 2,000 categories exceeds 0.5 by chance."""
    config, random = model(), np.random.default_rng(3)
    frozen = reference(config, country=random.integers(0, 900, 10_000).astype(str))
    assert "country" not in drifted(measured(config, frozen, country=random.integers(0, 900, COUNT).astype(str)))


def test_empty_or_small_window_is_insufficient(tmp_path):
    config = model()
    frozen = reference(config)
    report = measure(profile(config, frozen, rows(30)), frozen, config.drift)
    sample = baseline(config, frozen).sample
    samples = Samples(
        rows(30).select([one.feature for one in frozen.features]),
        sample.rows,
        sample.days,
        {one.feature: one for one in frozen.features},
    )
    found = measure_samples(report, samples, config.drift)
    assert (found.opinion.verdict, found.opinion.features) == ("insufficient", ())
    assert draw_report(report, found, 4).tests_results == []


def test_rare_categories_are_pooled_by_expected_count():
    current, ours = pool_rare(*(gate.pd.Series(["a"] * 50 + ["b"] * 2 + ["c"] * 3, dtype=object) for _ in range(2)))
    assert current.value_counts().to_dict() == ours.value_counts().to_dict() == {"a": 50, RARE: 5}


@pytest.mark.parametrize("plots", [0, 1, 4])
def test_tests_do_not_depend_on_plots(tmp_path, plots):
    parts = measured(amount=np.zeros(COUNT), age=[None] * COUNT)
    assert drifted(parts) == {"amount", "age"}
    snapshot = draw_report(*parts, plots)
    failed = {one.metric_config.params["column"] for one in snapshot.tests_results if one.status.value == "FAIL"}
    assert failed == {"amount", "age, null share psi"}
    assert page(tmp_path, parts, plots).count('"DATA DISTRIBUTION"') == min(plots, 3)  # age has no value to draw


def test_names_and_categories_cannot_close_the_script(tmp_path):
    config = model({"numeric": ["amount"], "categorical": [EVIL], "boolean": []})
    frozen = reference(config, **{EVIL: ["<img src=x onerror=alert(1)>", EVIL] * 5000})
    parts = measured(config, frozen, **{EVIL: ["<b>new</b>"] * 1500 + [EVIL] * 500})
    shown = page(tmp_path, parts, title=EVIL)
    assert EVIL not in shown and "<img src=x" not in shown and "<b>new</b>" not in shown
    assert "‹/script›‹script›alert" in dashboard(shown)


def dashboard(shown: str) -> str:
    """Return the data of the page's plots."""
    found, _ = json.JSONDecoder().raw_decode(shown[shown.index("drawDashboard(") + len("drawDashboard(") :])
    return json.dumps(found, ensure_ascii=False)


def test_plot_labels_escape_links(tmp_path):
    """Plotly interprets a subset of HTML in labels, including links."""
    link = "<a href='http://evil.example'>click</a>"
    frozen = reference(model(), country=[link, "FR"] * 5000)
    drawn = dashboard(page(tmp_path, measured(model(), frozen, country=[link] * COUNT)))
    assert "<a href" not in drawn and "‹a href='http://evil.example'›click‹/a›" in drawn


def test_escaped_names_stay_distinct():
    assert escape(["a<", "a‹", "b"]) == ["a‹", "a‹ (1)", "b"]


def test_page_states_sample_size_and_works_offline(tmp_path):
    shown = page(tmp_path, measured())
    assert (
        "The verdict is based on all 2,000 rows" in shown
        and "Evidently measured a random sample of 2,000 and 5,000 of them" in shown
    )
    addresses = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?([^\"'>]+)", shown)
    assert len(addresses) == 2 and all(address.startswith("../../assets/evidently-") for address in addresses)
