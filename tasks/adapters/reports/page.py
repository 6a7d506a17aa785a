"""HTML pages of one file: a shared template, style, content security policy and, for charts, Plotly with one script.

A page works offline: the policy forbids every request, and all scripts on a page without charts. Names and reasons come
from configuration, people and data and are escaped wherever they enter a page: by Jinja's autoescape, and by `tojson`
inside scripts.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tasks.adapters.storage.atomic_files import write_atomically
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.rollout.state import Rollout

TEMPLATES = Path(__file__).parent / "templates"

Chart = dict[str, Any]
"""Plotly JSON (https://plotly.com/javascript/reference/): a trace, or a figure of traces and layout.

A colour is the name of a style in page.css ("loop", "muted", …), which charts.js replaces by the colour of the reader's
light or dark theme.
"""


def render(template: str, figures: Mapping[str, Chart] | None = None, **values: object) -> str:
    """Render a template; `figures` maps the `data-figure` of its elements to what is drawn in them."""
    bundle = Markup(get_plotlyjs()) if figures else ""  # noqa: S704  # the package's own file, without any input
    return _environment().get_template(template).render(figures=figures, plotly=bundle, **values)


def write(html: str, path: Path, name: str) -> Path:
    """Write a page atomically and return its path; `name` is for the message. Raises WorkspaceError."""
    make_folder(path.parent)
    try:
        return write_atomically(path, html)
    except OSError as error:
        raise WorkspaceError(
            f"{path}: the {name} page cannot be written ({error.strerror}); expected a writable folder with about "
            "6 MB free; set PERENNIAL_HOME to another folder, or free disk space"
        ) from error


def rollout_path(model: str, plan: Rollout) -> Path:
    """Return the path of a rollout's page; a version that is rolled out again gets another one."""
    name = f"version-{quote(plan.version, safe='')}-{quote(plan.decision_id[:8], safe='')}.html"
    return workspace().reports / model / "rollouts" / name


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # browsers reject NaN in JSON
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment
