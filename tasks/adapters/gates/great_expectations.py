"""Great Expectations judges the measurements of a window; its page tells people.

The measurements stand in a frame of one row per column and one column per requirement, each cell how far that column
lies past its limit, so an expectation per requirement judges any number of columns: `max ≤ 0`. No value of a row is in
the frame, hence none can reach a result or a page. The page is one file that needs no network: what Great Expectations
would load from elsewhere is left out, and names are escaped, which its templates do not do.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from tasks.adapters.storage.atomic_files import write_whole
from tasks.policy.data_quality.quality import Measurement

WINDOW = "(window)"
FARTHEST = 1e9  # stands for an infinite distance, which neither JSON nor the page can show
ELSEWHERE = re.compile(
    r"<script\b.*?</script>|<footer\b.*?</footer>|<link\b[^>]*>|<img\b[^>]*>|"
    r"<nav class=\"navbar navbar-expand.*?</nav>\s*</div>\s*</nav>",
    re.DOTALL,
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1d2733; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d7dee6; vertical-align: top; }
.verdict { padding: .4rem .8rem; border-radius: .3rem; color: #fff; display: inline-block; font-weight: 600; }
.pass { background: #1a7f4b; } .warn { background: #9a6700; } .fail { background: #b42318; }
.text-success { color: #1a7f4b; } .text-danger { color: #b42318; }
.text-success::before { content: "✓"; } .text-danger::before { content: "✗"; }
.sticky, .ge-navigation-sidebar-container, .card { display: none; } a { color: inherit; text-decoration: none; }
"""


@dataclass(frozen=True)
class Judgement:
    """The measurements that Great Expectations found past their limit, and the result its page is drawn from."""

    broken: tuple[Measurement, ...]
    result: ExpectationSuiteValidationResult


def judge(measurements: Sequence[Measurement], suite_name: str) -> Judgement:
    """Run one expectation per requirement. Raises ValueError for a measurement that is no number."""
    frame = measurement_frame(measurements)
    batch = _context().data_sources.get("measurements").get_asset("window").get_batch_definition("whole")
    checks = list(frame.columns)
    suite = gx.ExpectationSuite(
        name=suite_name, expectations=[gxe.ExpectColumnMaxToBeBetween(column=name, max_value=0) for name in checks]
    )
    result = batch.get_batch({"dataframe": frame}).validate(suite, result_format="BASIC")
    failed = {one.expectation_config.kwargs["column"] for one in result.results if not one.success}
    judged = {one.expectation_config.kwargs["column"] for one in result.results if "observed_value" in one.result}
    if judged != set(checks):
        raise RuntimeError(
            f"{suite_name}: {', '.join(sorted(set(checks) - judged))} was not judged, expected every check"
        )
    broken = tuple(one for one in measurements if one.excess > 0)
    if {one.check for one in broken} != failed:
        raise RuntimeError(f"{suite_name}: Great Expectations fails {sorted(failed)}, the measurements say otherwise")
    return Judgement(broken, result)


def measurement_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """One row per column and one column per requirement; empty cells where a requirement does not concern a column."""
    rows: dict[str, dict[str, float]] = {}
    for one in measurements:
        if math.isnan(one.excess):
            raise ValueError(
                f"{one.check} of {one.column or 'the window'} is not a number, expected how far past the limit"
            )
        cells = rows.setdefault(one.column or WINDOW, {})
        cells[one.check] = max(cells.get(one.check, -FARTHEST), min(one.excess, FARTHEST))
    return pd.DataFrame.from_dict(rows, orient="index")


@cache
def _context() -> gx.data_context.EphemeralDataContext:
    """One context per process, in memory, with nothing shown and nothing sent."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas("measurements")
    source.add_dataframe_asset("window").add_batch_definition_whole_dataframe("whole")
    return context


@cache
def _view() -> DefaultJinjaPageView:
    """One view per process: it keeps its compiled templates."""
    return DefaultJinjaPageView()


def write_page(
    path: Path, judgement: Judgement, title: str, verdict: str, reasons: Sequence[str], rows: Mapping[str, str]
) -> str:
    """Write the page of one window and return its path. `rows` are facts shown above the table. Raises OSError."""
    for one in judgement.result.results:
        one.result["observed_value"] = round(float(one.result["observed_value"]), 6)  # the page knows no numpy numbers
    page = _view().render(ValidationResultsPageRenderer().render(judgement.result))
    body = ELSEWHERE.sub("", page[page.index("<body") : page.rindex("</body>")]).split(">", 1)[1]
    facts = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(fact)}</td></tr>" for name, fact in rows.items())
    listed = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
    broken = "".join(
        f"<tr><td>{html.escape(one.check)}</td><td>{html.escape(one.column or WINDOW)}</td>"
        f"<td>{html.escape(one.observed)}</td><td>{html.escape(one.expected)}</td><td>{one.failing_rows:,}</td></tr>"
        for one in judgement.broken
    )
    header = "<tr><th>requirement</th><th>column</th><th>found</th><th>expected</th><th>rows</th></tr>"
    write_whole(
        path,
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1><p class='verdict {verdict}'>{verdict}</p>"
        f"<ul>{listed}</ul><table>{facts}</table>"
        f"{f'<h2>Broken</h2><table>{header}{broken}</table>' if broken else ''}"
        f"<h2>All requirements</h2><p>Each number is how far the worst column lies past its limit.</p>{body}"
        "</body></html>",
    )
    return str(path)
