"""The images of the dashboard: positions, escaping, and rendering in a browser."""

import base64
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tasks.adapters.reports.plots import drift_plot, metric_plot, reliability_plot
from tasks.policy.evidence.validation import ReliabilityBin, ReliabilityCurve
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import FeatureDrift, MetricValue, PerformanceReport
from tests.support.browser import needs_chromium, render

FEATURE = FeatureDrift("amount", "numeric", "drifted", "wasserstein", 0.4, 0.1, 0.0, 0.0)


def reports(*values: float) -> list[PerformanceReport]:
    window, found = Window(utc("2024-01-01"), utc("2024-01-06")), []
    for value in values:
        metric = MetricValue("mae", value, value - 1, value + 1, 100, False)
        found.append(PerformanceReport(window, window.end, "1", 100, 100, "closed", (metric,), "mae"))
        window = window.next()
    return found


def svg(address: str) -> ElementTree.Element:
    kind, _, content = address.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(content))  # noqa: S314


def of(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return root.findall(f"{{http://www.w3.org/2000/svg}}{tag}")


def test_metric_axis_spans_the_bounds():
    (line,) = of(svg(metric_plot(reports(5, 7), "t")), "polyline")
    # bounds 4 to 8 on 44 to 258: 5 lies at 258 - 1/4 of 214, 7 at 258 - 3/4 of it
    assert line.get("points") == "70.0,204.5 740.0,97.5"


def test_best_past_level_is_drawn_if_known():
    known = reports(5, 7)
    known[-1] = replace(known[-1], baseline=known[0].metrics[0])
    dashed, _ = of(svg(metric_plot(known, "t")), "polyline")
    assert dashed.get("points") == "70.0,204.5 740.0,204.5"


@pytest.mark.parametrize("values", [(), (5,)])
def test_fewer_than_two_windows_are_not_drawn(values):
    assert metric_plot(reports(*values), "t") is None


def test_drift_bars_are_sorted_and_coloured():
    calm = replace(FEATURE, feature="age", verdict="stable", effect_size=0.05)
    _, first, second = of(svg(drift_plot([calm, FEATURE], "t")), "rect")
    assert float(first.get("width")) == pytest.approx(8 * float(second.get("width")), rel=0.01)
    assert (first.get("fill"), second.get("fill")) == ("#c84e00", "#a9b7c0")
    assert drift_plot([], "t") is None


def test_hostile_names_are_text():
    root = svg(drift_plot([replace(FEATURE, feature="</text><script>")], "<script>alert(1)</script>"))
    assert not of(root, "script")
    assert any("<script>" in (text.text or "") for text in of(root, "text"))


@needs_chromium
def test_a_browser_draws_it(tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text(
        f'<img id="plot" src="{metric_plot(reports(5, 7, 6), "churn")}"><img src="{drift_plot([FEATURE], "d")}">'
    )
    shown = render(page, tmp_path, width=800, height=500, ready="#plot")
    assert shown.console == ()
    assert shown.page_width == 800


def test_reliability_puts_a_calibrated_bin_on_the_diagonal():
    """The square is 214 wide from 273: 0.5 lies in its middle, (380, 151)."""
    curves = [
        ReliabilityCurve(name, (ReliabilityBin(0.5, value, 0.25, 0.75, 40),))
        for name, value in (("2", 0.5), ("1", 1.0))
    ]
    root = svg(reliability_plot(curves, "t"))
    champion, challenger = of(root, "circle")
    assert [(one.get("cx"), one.get("cy")) for one in (champion, challenger)] == [("380.0", "44.0"), ("380.0", "151.0")]
    assert [words.text for words in of(root, "text")][1:3] == ["challenger 2", "champion 1"]
    assert reliability_plot([], "t") is None
