"""Evidently draws what was measured: same verdicts, escaped names, worst columns only."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.gates.evidently import draw_report, without_markup
from tasks.adapters.gates.report_sample import draw_reference
from tasks.policy.monitoring.drift import measure
from tests.support.monitored_model import model, profile, reference, rows

EVIL = "</script><script>alert('x\"')</script>"


@pytest.fixture
def measured(tmp_path):
    """Everything that a report is drawn from, for rows with an optional change."""

    def build(config=None, frozen=None, **replaced):
        config = config or model()
        frozen = frozen or reference(config)
        profiled = profile(config, frozen, rows(2000, **replaced), sample_path=tmp_path / "sample.parquet")
        return config, frozen, profiled, measure(profiled, frozen, config.drift)

    return build


def drawn(measured_parts, plots: int = 4, title: str = "title"):
    _, frozen, profiled, report = measured_parts
    return draw_report(report, frozen, profiled.sample_uri, plots, title)


def test_evidently_fails_exactly_the_columns_measured_as_drifted(measured):
    parts = measured(amount=np.random.default_rng(0).gamma(2, 150, 2000), country=["XX"] * 2000)
    assert drawn(parts).failed == {"amount", "country"}
    assert drawn(measured()).failed == frozenset()


def test_a_null_burst_fails_in_evidently_too_though_it_drops_nulls(measured):
    values = rows(2000)["amount"].to_pylist()
    parts = measured(amount=[None if number < 1200 else value for number, value in enumerate(values)])
    assert drawn(parts).failed == {"amount"}


@pytest.mark.parametrize("plots", [0, 1, 4])
def test_statuses_do_not_depend_on_what_is_drawn(measured, plots):
    parts = measured(amount=np.zeros(2000), age=[None] * 2000)
    found = drawn(parts, plots)
    assert found.failed == {"amount", "age"}
    assert found.html.count('"DATA DISTRIBUTION"') == min(plots, 3)  # age has nothing to draw


def test_a_report_without_a_sample_still_lists_and_judges(measured):
    _, frozen, _, report = measured(amount=np.zeros(2000))
    found = draw_report(report, frozen, None, 4, "title")
    assert found.failed == {"amount"} and "amount" in found.html


def test_names_and_categories_cannot_end_the_script(measured):
    config = model({"numeric": ["amount"], "categorical": [EVIL], "boolean": []})
    categories = {EVIL: ["<img src=x onerror=alert(1)>", EVIL] * 5000}
    frozen = reference(config, **categories)
    parts = measured(config, frozen, **{EVIL: ["<b>new</b>"] * 1500 + [EVIL] * 500})
    page = drawn(parts).html
    assert EVIL not in page and "<img src=x" not in page and "<b>new</b>" not in page
    assert r"\u003c/script>\u003cscript>alert" in page


def plotted(page: str) -> str:
    """What the page's plots are drawn from."""
    start = re.search(r"var metric_[0-9a-f]{32} = ", page).end()
    dashboard, _ = json.JSONDecoder().raw_decode(page[start:])
    return json.dumps(dashboard, ensure_ascii=False)


def test_escaping_leaves_the_data_what_it_was(measured):
    assert "<b>0.1</b>" in plotted(drawn(measured(), title="<b>0.1</b>").html)


def test_a_category_is_text_in_a_plots_labels_and_never_a_link(measured):
    """Plotly reads labels as a little HTML: links are live in them."""
    link = "<a href='http://evil.example'>click</a>"
    config = model()
    frozen = reference(config, country=[link, "FR"] * 5000)
    dashboard = plotted(drawn(measured(config, frozen, country=[link] * 2000)).html)
    assert "<a href" not in dashboard and "&lt;a href='http://evil.example'>click&lt;/a>" in dashboard


def test_a_page_of_another_layout_is_refused_rather_than_left_unescaped():
    with pytest.raises(RuntimeError, match="no data block"):
        without_markup("<html>var other = {}</html>")


def test_the_page_says_what_is_sampled_and_loads_nothing(measured):
    page = drawn(measured()).html
    assert "Numbers come from all 2,000 rows" in page and "as drawn from its profile" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(?:https?:)?//", page)


def test_the_reference_is_drawn_in_its_own_proportions():
    frozen = {feature.feature: feature for feature in reference(model()).features}
    amount = draw_reference(frozen["amount"], 5000)
    assert amount.mean() == pytest.approx(frozen["amount"].counts.mean, rel=0.03)
    country = draw_reference(frozen["country"], 1000)
    assert (country == "DE").mean() == pytest.approx(0.5, abs=0.03)
    nothing = reference(model(), 100, amount=pa.nulls(100, pa.float64())).features[0]
    assert draw_reference(nothing, 100).empty
