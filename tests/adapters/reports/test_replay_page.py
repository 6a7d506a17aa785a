"""The page and the terminal table of a replay: parsed, and in Chromium."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tasks.adapters.reports.replay import summary_table, write_page
from tasks.policy.evidence.replay import Replay, ReplayEvent, RolloutProgress
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.reporting.replay_story import headline
from tests.adapters.reports.recorded_replays import recorded_replays, with_rollouts
from tests.support.browser import Element, elements, needs_chromium, render

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_page(recorded_replays(), folder / "index.html", {"MLflow": "http://127.0.0.1:5000"})


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def figures(html: str) -> dict[str, Any]:
    found = next(element for element in elements(html) if element.attributes.get("id") == "figures")
    read: dict[str, Any] = json.loads(found.text)
    return read


def texts(html: str, tag: str) -> list[str]:
    return [element.text for element in elements(html) if element.tag == tag]


def rows(html: str) -> list[Element]:
    return [element for element in elements(html) if "data-decision" in element.attributes]


def written(replay: Replay, folder: Path) -> str:
    return write_page([replay], folder / "page.html").read_text(encoding="utf-8")


def test_page_summarises_each_model(html: str) -> None:
    headlines = [element.text for element in elements(html) if "headline" in element.classes]
    assert headlines == [headline(replay) for replay in recorded_replays()]
    assert texts(html, "h1") == ["2 models, 21 April – 31 December 2013"]


def test_the_overview_has_a_row_of_numbers_per_model(html: str) -> None:
    row = next(text for text in texts(html, "tr") if text.startswith("air_time MAE (minutes) ↓"))
    # loop, never, every; retrains, promoted, refused by gate or budget, rolled back, quarantined; 106.8 s
    assert row == "air_time MAE (minutes) ↓ 8.4 9.1 7.9 5 of 51 4 2 1 1 1 min 47 s"


def test_every_window_is_one_row_with_its_decision(html: str) -> None:
    all_rows = rows(html)
    assert len(all_rows) == 2 * 51
    assert sum("uneventful" not in row.classes for row in all_rows) == 4 + 8
    quarantined = next(row.text for row in all_rows if "2013-07-05" in row.text and "quarantined" in row.text)
    assert "No decision: data quarantined" in quarantined
    assert "61 % of temperature is null" in quarantined


def test_metric_chart_has_gaps_for_unmeasured_windows(html: str) -> None:
    band, every, never, loop = figures(html)["metric-1"]["data"]
    assert [len(line["y"]) for line in (every, never, loop)] == [51, 51, 51]
    assert [position for position, value in enumerate(loop["y"]) if value is None] == [15, 50]
    assert loop["marker"]["symbol"][49] == "circle-open"  # an estimate
    assert loop["marker"]["symbol"][48] == "circle"
    assert band["x"].count(None) == 2  # one closed outline before the quarantine, one after
    assert "loop 7.9 minutes (7.7 to 8.2)<br>never retrained 7.9, every window 7.9" in loop["hovertext"][0]


def test_events_are_marked_at_their_window(html: str) -> None:
    reigns, *lanes = figures(html)["events-1"]["data"]
    assert [lane["y"][0] for lane in lanes] == [
        "promoted", "retrained", "refused", "over budget", "rolled back", "quarantined",
    ]  # fmt: skip
    assert len({lane["marker"]["symbol"] for lane in lanes}) == 6  # distinguishable without colour
    rolled_back = lanes[4]
    assert rolled_back["x"] == ["2013-09-20T12:00:00+00:00"]  # window 30 starts on 18 September
    assert "Version 2 was restored: version 4 answered in<br>412 ms" in rolled_back["hovertext"][0]
    assert reigns["text"] == ["v1", "v2", "v4", "v2", "v5", "v6"]
    assert reigns["marker"]["color"][1] == reigns["marker"]["color"][3]  # the same version, the same tint
    assert reigns["base"][1] == "2013-05-26T00:00:00+00:00"


@pytest.fixture(scope="module")
def rolled_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(with_rollouts(recorded_replays()[1]), tmp_path_factory.mktemp("rollouts"))


def test_rollouts_have_a_row_with_their_steps_and_what_ended_them(rolled_out: str) -> None:
    shown = [element.text for element in elements(rolled_out) if "data-rollout" in element.attributes]
    assert len(shown) == 5
    assert shown[1] == (
        "v3 against v2 2013-07-25 – 2013-08-09 shadow (1 window), canary 10 % (2 windows) 3 of 3 -0.7 (-1.23 to -0.273) "
        "returned Version 3 is worse."
    )
    assert shown[4].endswith("2 of 3 +0.1 (-0.433 to +0.527) running No verdict yet.")


def test_gain_of_each_rollout_is_drawn_with_its_boundaries(rolled_out: str) -> None:
    passes, harm, margin, gain = figures(rolled_out)["gain-0"]["data"]
    assert len(gain["y"]) == 3 + 3 + 4 + 6 + 2  # a window without labels has no point
    assert [passes["y"][i] for i in (0, 4)] == [None, None]  # no label yet; the gap after the first rollout
    assert passes["y"][1] == pytest.approx(0.8 - 0.2)  # half of the interval, less the margin
    assert harm["y"][1] == pytest.approx(-0.8 * 0.8)
    assert margin["y"][:5] == [-0.2] * 4 + [None]
    assert gain["marker"]["symbol"][2] == "triangle-up" and gain["marker"]["symbol"][5] == "triangle-left"
    assert gain["error_y"]["array"][0] == pytest.approx(0.64)
    assert "look 1 of 4, gain +0.2 (-0.6 to +0.84)" in gain["hovertext"][0]


def test_share_after_each_window_of_a_rollout_is_drawn(rolled_out: str) -> None:
    (bars,) = figures(rolled_out)["share-0"]["data"]
    assert bars["y"][:4] == [6, 6, 6, 100]  # a shadow serves nothing, but is to be seen
    assert bars["marker"]["pattern"]["shape"][:4] == ["/", "/", "/", ""]
    assert bars["marker"]["color"][3:7] == ["better", "loop", "loop", "back"]


def test_replay_without_rollouts_has_no_charts_of_them(html: str) -> None:
    assert not [name for name in figures(html) if name.startswith(("gain", "share"))]
    assert not [element for element in elements(html) if "data-rollout" in element.attributes]


def test_drift_labels_and_cost_have_charts(html: str) -> None:
    drawn = figures(html)
    drift, labels = drawn["drift-1"]["data"][0], drawn["labels-1"]["data"][0]
    assert all(
        (share >= 30) == (fill == "never") for share, fill in zip(drift["y"], drift["marker"]["color"], strict=True)
    )
    assert labels["marker"]["pattern"]["shape"][-3:] == ["", "/", "x"]
    every, never, loop = drawn["cost-1"]["data"]
    assert (every["y"][-1], never["y"][-1], loop["y"][-1]) == (51, 0, 5)


def test_charts_have_text_alternatives(html: str) -> None:
    charts = [element.attributes for element in elements(html) if "data-figure" in element.attributes]
    assert len(charts) == 12
    assert all(chart["role"] == "img" for chart in charts)
    assert charts[7]["aria-label"] == (
        "Champion and events. Champions: v1, then v2, then v4, then v2, then v5, then v6. "
        "Events: 4 promoted, 5 retrained, 1 refused, 1 over budget, 1 rolled back, 1 quarantined."
    )


def test_page_is_self_contained(page: Path, html: str) -> None:
    assert page.stat().st_size < 6_000_000
    found = elements(html)
    assert not [element for element in found if {"src", "srcset"} & element.attributes.keys() or element.tag == "link"]
    assert [element.attributes["href"] for element in found if element.attributes.get("href", "#")[0] != "#"] == [
        "http://127.0.0.1:5000"
    ]
    policy = next(element for element in found if element.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none';")
    assert (
        sum("Plotly" in element.text and len(element.text) > 1_000_000 for element in found if element.tag == "script")
        == 1
    )


def hostile_replay() -> Replay:
    """Return a replay in which every free text is an attack."""
    replay = recorded_replays(8)[1]
    events = (ReplayEvent("retrained", HOSTILE), ReplayEvent("quarantined", HOSTILE))
    windows = [
        replace(
            w,
            events=events,
            reasons=(HOSTILE,),
            worst_feature=HOSTILE,
            champion=HOSTILE,
            decision_id=HOSTILE,
            rollout=RolloutProgress(
                HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.1, HOSTILE, HOSTILE, 0.1, 0.0, 0.2, 0.1, look=1, planned_looks=2
            ),
        )
        for w in replay.windows
    ]
    named = replace(replay, model=HOSTILE, purpose=HOSTILE, metric=HOSTILE, unit=HOSTILE)
    return replace(named, windows=tuple(windows), seconds=((HOSTILE, 1.0),))


def test_hostile_names_and_reasons_are_shown_as_text(tmp_path: Path) -> None:
    html = write_page([hostile_replay()], tmp_path / "page.html", {HOSTILE: "x"}).read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert "<img" not in html.split("<main>")[1].split("</main>")[0]
    assert len(texts(html, "script")) == 3  # the bundle, the figures, the drawing
    assert HOSTILE in rows(html)[0].text
    assert "<script" not in "".join(figures(html)["events-0"]["data"][1]["hovertext"])
    assert "<script" not in "".join(figures(html)["gain-0"]["data"][-1]["hovertext"])


@pytest.mark.parametrize("address", ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x"])
def test_script_link_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match=r"expected http\(s\)://, file:// or a relative path"):
        write_page([], tmp_path / "page.html", {"see": address})
    assert list(tmp_path.iterdir()) == []


def test_links_to_pages_and_files_are_kept(tmp_path: Path) -> None:
    links = {"a": "https://example.com/x", "b": "../reports/a.html", "c": "file:///srv/ledger"}
    html = write_page([], tmp_path / "page.html", links).read_text(encoding="utf-8")
    assert [element.attributes["href"] for element in elements(html) if element.tag == "a"] == list(links.values())


def test_model_without_windows_has_no_charts(tmp_path: Path) -> None:
    html = written(replace(recorded_replays()[0], windows=()), tmp_path)
    assert "No window was replayed, so there is nothing to compare yet." in html
    assert len(html) < 50_000  # no bundle where there is nothing to draw
    assert not [element for element in elements(html) if "data-figure" in element.attributes]


def test_empty_replay_is_one_sentence(tmp_path: Path) -> None:
    assert "No model was replayed" in write_page([], tmp_path / "page.html").read_text(encoding="utf-8")


def test_windows_without_labels_leave_gaps_and_dashes(tmp_path: Path) -> None:
    replay = recorded_replays(6)[0]
    unlabelled = {"metric": None, "never": None, "every": None, "labelled_rows": 0, "maturity": "open"}
    unseen = {"worst_feature": None, "worst_effect": None, "rows": 0, "reasons": (), "champion": ""}
    bare = [replace(window, **unlabelled, **unseen) for window in replay.windows]
    html = written(replace(replay, windows=tuple(bare)), tmp_path)
    assert "6 windows served with no retrains; no labels to compare by yet." in html
    assert figures(html)["metric-0"]["data"][3]["y"] == [None] * 6
    assert rows(html)[0].text.count("–") >= 5


def test_nan_values_become_gaps(tmp_path: Path) -> None:
    replay = recorded_replays(4)[0]
    first, metric = replay.windows[0], replay.windows[0].metric
    broken = replace(metric, value=float("nan"), low=float("nan"), high=float("inf"))
    windows = (replace(first, metric=broken, never=float("nan"), worst_effect=float("inf")), *replay.windows[1:])
    assert figures(written(replace(replay, windows=windows), tmp_path))["metric-0"]["data"][3]["y"][0] is None


def test_failed_write_keeps_the_old_page(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.mkdir()
    with pytest.raises(WorkspaceError, match="the replay page cannot be written"):
        write_page([], target)
    assert list(tmp_path.iterdir()) == [target]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WorkspaceError, match="cannot be created"):
        write_page([], blocked / "page.html")


def test_terminal_table_fits_eighty_columns() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(summary_table(recorded_replays()))
    lines = [line.split() for line in captured.get().splitlines()]
    assert ["flight_delay", "log", "loss", "↓", "0.449", "0.481", "0.428", "4", "3", "1", "107", "s"] in lines
    assert ["air_time", "MAE", "(minutes)", "↓", "8.4", "9.1", "7.9", "5", "4", "2", "107", "s"] in lines


def test_terminal_table_escapes_markup() -> None:
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(summary_table([replace(recorded_replays(3)[0], model="[red]x[/]", windows=())]))
    assert "[red]x[/]" in captured.get()


@needs_chromium
def test_every_chart_is_drawn_without_console_errors(page: Path, tmp_path: Path) -> None:
    for width, dark in ((1280, False), (390, True)):
        shown = render(page, tmp_path, width=width, height=2400, dark=dark, ready="[data-figure=cost-1] svg")
        assert shown.console == ()
        assert shown.requests == (page.as_uri(),)
        assert shown.page_width == width  # no horizontal scrolling, not even on a phone
        drawn = [element for element in elements(shown.dom) if "js-plotly-plot" in element.classes]
        assert len(drawn) == 12
        canvases = [element for element in elements(shown.dom) if "main-svg" in element.classes]
        assert len(canvases) >= 24
        assert all(float(canvas.attributes["width"]) < width for canvas in canvases)
        assert ("rgb(92, 184, 242)" if dark else "rgb(0, 103, 165)") in shown.dom
        assert shown.screenshot.stat().st_size > 50_000


@needs_chromium
def test_hostile_text_does_not_run_in_a_browser(tmp_path: Path) -> None:
    shown = render(write_page([hostile_replay()], tmp_path / "page.html"), tmp_path)
    assert texts(shown.dom, "title")[0].startswith("Perennial replay: </script>")
    assert not [element for element in elements(shown.dom) if element.tag == "img"]


@needs_chromium
def test_page_error_is_detected(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>undefined.name</script>")
    assert "Cannot read properties of undefined" in render(broken, tmp_path).console[0]
