"""The drift page of a window: the decision in words, then Evidently's widgets, in our own HTML.

Evidently's own page writes names and values unescaped into a `<script>`, and repeats 3.6 MB of script and style. Here
the data is JSON with `<` escaped, and all pages of a workspace share the script and style files. Their names derive
from their content and their addresses are relative: reports open offline, and a new version never changes an old page.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from evidently.core.report import Snapshot
from evidently.legacy.model.dashboard import DashboardInfo
from evidently.legacy.model.widget import AdditionalGraphInfo, BaseWidgetInfo
from evidently.legacy.renderers.html_widgets import group_widget
from evidently.legacy.utils import NumpyEncoder
from evidently.legacy.utils.dashboard import STATIC_PATH, dashboard_info_to_json

from tasks.adapters.storage.atomic_files import write_atomically
from tasks.policy.records.reports import DriftReport

SHARED = "assets"
STYLE = """
@font-face { font-family: 'Material Icons'; src: url(data:font/woff2;base64,%s) format('woff2'); }
.material-icons { font: 24px/1 'Material Icons'; display: inline-block; white-space: nowrap; direction: ltr; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #1d2733; }
header { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.warning { border-left: .3rem solid #9a6700; padding-left: .8rem; }
"""


def write_page(path: Path, reports: Path, title: str, report: DriftReport, snapshots: Mapping[str, Snapshot]) -> None:
    """Write the page to `path`, under `reports`, with one group of widgets per named snapshot. Raises OSError."""
    up = "../" * len(path.parent.relative_to(reports).parts) + SHARED
    script, style = write_assets(reports)
    write_atomically(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<link rel="stylesheet" href="{up}/{style}"></head><body>{_header(title, report)}<div id="drift"></div>'
        f'<script>var global = globalThis</script><script src="{up}/{script}"></script>'
        f"<script>{_drawing(snapshots)}</script></body></html>",
    )


def _header(title: str, report: DriftReport) -> str:
    sentences = [*report.reasons, *_how_to_read(report)]
    warnings = (
        f"<section class='warning'><h2>Warnings</h2>{_list(report.warnings)}</section>" if report.warnings else ""
    )
    return f"<header><h1>{html.escape(title)}</h1>{_list(sentences)}{warnings}</header>"


def _how_to_read(report: DriftReport) -> list[str]:
    opinion = report.second_opinion
    if opinion is None or opinion.unavailable:
        return [f"All numbers below are based on all {report.rows:,} rows and {report.reference_rows:,} reference rows"]
    return [
        f"The verdict is based on all {report.rows:,} rows and {report.reference_rows:,} reference rows. Evidently measured "
        f"a random sample of {opinion.rows:,} and {opinion.reference_rows:,} of them with its own methods; the plots show "
        "this sample. Evidently's effects are converted to the scale of the limits; its own scores are listed with its tests"
    ]


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(one)}</li>" for one in sentences)
    return f"<ul>{items}</ul>"


def _drawing(snapshots: Mapping[str, Snapshot]) -> str:
    """Return the script call that draws all snapshots in one dashboard, one group each."""
    widgets: list[BaseWidgetInfo] = []
    for name, snapshot in snapshots.items():
        stored = snapshot.to_snapshot_model()
        widgets += [group_widget(title=name, widgets=stored.widgets), *stored.tests_widgets]
    graphs = {
        graph.id: graph.params if isinstance(graph, AdditionalGraphInfo) else graph.dict()
        for widget in widgets
        for graph in widget.get_additional_graphs()
    }
    dashboard = dashboard_info_to_json(DashboardInfo(name="Report", widgets=widgets))
    details = json.dumps(graphs, cls=NumpyEncoder)
    return f'drawDashboard({_in_script(dashboard)}, new Map(Object.entries({_in_script(details)})), "drift")'


def _in_script(data: str) -> str:
    """Escape `<` in JSON: it occurs only inside strings, and unescaped it could close the script element."""
    return data.replace("<", "\\u003c")


def write_assets(reports: Path) -> tuple[str, str]:
    """Write Evidently's script and style under `reports`, atomically and unless present; return their names."""
    names = []
    for kind, content in zip(("js", "css"), _assets(), strict=True):
        name = f"evidently-{hashlib.sha256(content.encode()).hexdigest()[:16]}.{kind}"
        path = reports / SHARED / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        names.append(name)
    return names[0], names[1]


@cache
def _assets() -> tuple[str, str]:
    static = Path(STATIC_PATH)
    font = base64.b64encode((static / "material-ui-icons.woff2").read_bytes()).decode()
    return (static / "index.js").read_text(encoding="utf-8"), STYLE % font
