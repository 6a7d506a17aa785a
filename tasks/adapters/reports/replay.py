"""The replay as one self-contained HTML page, and as a table for the terminal.

Style, data and Plotly's bundle are embedded, and the content security policy forbids every request, so the page works
offline. Names and reasons come from configuration and data and are escaped wherever they enter the page (Jinja's
autoescape, `tojson` inside scripts, tasks.adapters.reports.replay_charts).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tasks.adapters.reports.replay_panels import panels
from tasks.adapters.storage.atomic_files import write_whole
from tasks.adapters.storage.workspace import make_folder
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.replay import Replay
from tasks.policy.reporting import replay_story as story
from tasks.policy.reporting.decision import as_sentence

TEMPLATES = Path(__file__).parent / "templates"
LINK_SCHEMES = ("", "http", "https", "file")


def write_page(replays: Sequence[Replay], path: Path, links: Mapping[str, str] | None = None) -> Path:
    """Write the page atomically to `path` and return it. `links` are texts and addresses for its header.

    Raises ValueError for a link with another scheme than http(s) or file, WorkspaceError if the file cannot be written.
    """
    for words, address in (links or {}).items():
        if urlsplit(address).scheme.lower() not in LINK_SCHEMES:
            raise ValueError(f"link {words!r} leads to {address!r}; expected http(s)://, file:// or a relative path")
    make_folder(path.parent)
    try:
        return write_whole(path, _page(replays, links or {}))
    except OSError as error:
        raise WorkspaceError(
            f"{path}: the replay page cannot be written ({error.strerror}); expected a writable folder with about "
            "6 MB free; set PERENNIAL_HOME to another folder, or free disk space"
        ) from error


def summary_table(replays: Sequence[Replay]) -> Table:
    """Return the outcome of every model as a table for the terminal; metrics are means over the same served windows."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left", caption_justify="left")
    table.title = f"Replay, {story.period(replays)}"
    table.caption = "Means over the windows where all three are known. ↓ lower is better, ↑ higher is better."
    for heading in ("model", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("loop", "never", "every", "retrains", "promoted", "refused", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for replay in replays:
        means, gain = story.comparison(replay), story.gain_over_never(replay)
        values = [story.shown(means.get(baseline), replay) for baseline in ("loop", "never", "every")]
        if gain is not None and gain > 0:
            values[0] = f"[bold green]{values[0]}[/]"
        counts = [replay.count("retrained"), replay.count("promoted"), story.refusals(replay)]
        seconds = f"{story.total_seconds(replay):.0f} s"
        metric = Text(f"{story.metric_in_unit(replay)} {story.better_arrow(replay)}")
        table.add_row(Text(replay.model), metric, *values, *map(str, counts), seconds)
    return table


def _page(replays: Sequence[Replay], links: Mapping[str, str]) -> str:
    drawn = [panels(replay) for replay in replays]
    figures = {f"{panel.name}-{i}": panel.figure for i, group in enumerate(drawn) for panel in group}
    template = _environment().get_template("replay.html.j2")
    bundle = Markup(get_plotlyjs()) if figures else ""  # noqa: S704  # the package's own file, nothing put in
    return template.render(
        story=story, as_sentence=as_sentence, replays=replays, panels=drawn, figures=figures, links=links, plotly=bundle
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
    }  # browsers reject NaN in JSON
    return environment
