"""The fleet page: parsed, in Chromium without a network, and as the dashboard's table."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.adapters.reports.fleet import curve, markdown, render
from tasks.adapters.reports.page import write
from tasks.adapters.storage.workspace import workspace as described
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.reports import DriftReport
from tasks.policy.reporting.fleet import BrokenModel, Fleet, ModelFacts, describe_member, survey
from tasks.policy.rollout.state import RolloutState
from tests.policy.reporting.test_fleet import NOW, PASSED, STARTED, WINDOW, facts, judged
from tests.support.browser import elements, needs_chromium, render as shown_in_browser

HOSTILE = "</style><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">|"


def fleet() -> Fleet:
    earlier = Window(utc("2024-02-19"), utc("2024-02-24"))
    return survey(
        [
            facts(judged(earlier, value=0.8), judged(drift="drifted"), model="calm", max_usd=100.0, spent_usd=60.0, max_retrains=3),
            facts(judged(), PASSED, approval=True, model="waiting"),
            facts(champion=None, model="fresh"),
        ],
        NOW,
    )  # fmt: skip


def rows(html: str) -> list[str]:
    return [element.text for element in elements(html) if "data-model" in element.attributes]


def test_page_lists_models_most_urgent_first():
    waiting, fresh, calm = rows(render(fleet()))
    assert waiting.startswith("waiting version 3 serves")
    assert "action required version 4 passed and is waiting for approval: gains 0.02" in waiting
    assert "no champion" in fresh and "train and promote the first one" in fresh
    assert "watch 4 of 10 features drifted" in calm
    assert "accuracy 0.9 0.88 to 0.92 best past level 0.9" in calm
    assert (
        "Keep champion v3 2024-02-24..2024-02-29 No reason to. 2024-03-05 00:00 0 of 3 60.00 USD of 100.00 USD" in calm
    )


def test_page_names_models_without_a_file():
    assert "without a file under deployments/: small" in render(fleet(), ("small",))
    assert "without a file" not in render(fleet())


def test_curve_needs_two_windows():
    calm = next(member for member in fleet().members if member.facts.model == "calm")
    drawn = curve(calm)
    assert drawn.points == "4,40 176,4"  # 0.8 at the bottom, 0.9 at the top
    assert drawn.baseline == 4
    assert curve(replace(calm, series=calm.series[:1])) is None


def with_report(known: ModelFacts, uri: str) -> ModelFacts:
    entry = known.entries[-1]
    judgement = from_json(Judgement, entry.body)
    drift: DriftReport = replace(judgement.evidence.drift, report_uri=uri)
    judgement = replace(judgement, evidence=replace(judgement.evidence, drift=drift))
    return replace(known, entries=(*known.entries[:-1], replace(entry, body=to_json(judgement))))


def addresses(html: str) -> list[str]:
    return [element.attributes["href"] for element in elements(html) if element.tag == "a"]


def test_reports_and_versions_are_linked():
    uri = str(described().reports / "calm" / "w" / "drift.html")
    html = render(survey([with_report(facts(judged(), model="calm"), uri)], NOW))
    assert addresses(html) == ["http://127.0.0.1:5000/#/models/calm/versions/3", "calm/w/drift.html"]


@pytest.mark.parametrize("uri", ["javascript://alert(1)", "data://text/html,x"])
def test_script_links_are_left_out(uri):
    html = render(survey([with_report(facts(judged()), uri)], NOW))
    assert not [address for address in addresses(html) if address.startswith(("javascript", "data"))]


def test_broken_model_file_has_a_row_with_its_error():
    broken = survey([facts(judged(), model="calm")], NOW, broken=[BrokenModel("odd", "odd.yaml: owner is missing | x")])
    odd, calm = rows(render(broken))
    assert odd.startswith("odd its file cannot be read action required odd.yaml: owner is missing | x")
    assert "no champion" not in odd and "USD" not in odd
    assert calm.startswith("calm version 3 serves")
    text = markdown(broken, "fleet.html")
    assert text.index("- **odd**: odd.yaml: owner is missing \\| x") < text.index(
        "| odd | action required | not known |"
    )


def test_running_rollouts_have_a_row_and_a_link_to_their_page():
    running = survey([facts(judged(), PASSED, STARTED, model="calm")], NOW)
    (row,) = [element.text for element in elements(render(running)) if "data-rollout" in element.attributes]
    assert (
        row
        == "calm 4 shadow 0 % no look yet Version 4 is in shadow beside champion 3: no verdict yet, no look yet. page"
    )
    assert addresses(render(running))[-1] == "calm/rollouts/version-4-bbbbbbbb.html"
    assert "| calm | 4 | shadow | 0 % | no look yet | Version 4 is in shadow" in markdown(running, "fleet.html")
    assert "Running rollouts" not in render(fleet()) + markdown(fleet(), "fleet.html")


def hostile() -> Fleet:
    member = describe_member(replace(facts(judged(), PASSED, approval=True), model=HOSTILE, owner=HOSTILE))
    needs = tuple(replace(need, sentence=HOSTILE) for need in member.needs)
    plan = replace(describe_member(facts(STARTED)).rollout.plan, version=HOSTILE, champion=HOSTILE, decision_id=HOSTILE)
    return Fleet(
        NOW, (replace(member, needs=needs, rollout=RolloutState(plan)),), broken=(BrokenModel(HOSTILE, HOSTILE),)
    )


def test_hostile_texts_are_shown_as_text():
    html = render(hostile(), (HOSTILE,))
    assert HOSTILE not in html
    assert not [element for element in elements(html) if element.tag in ("script", "img")]
    assert "<script" not in markdown(hostile(), "fleet.html")


def test_a_page_without_charts_forbids_scripts():
    policy = next(each for each in elements(render(fleet())) if each.attributes.get("http-equiv"))
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_artifact_lists_required_actions_first():
    text = markdown(fleet(), str(described().reports / "fleet.html"))
    assert text.startswith("# Fleet: Action required for 2 models, 1 to watch.")
    assert "[Full page](http://127.0.0.1:4280/reports/fleet.html)" in text
    assert "- **waiting**: version 4 passed and is waiting for approval: gains 0.02" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| calm |")]
    assert line.count(" | ") == 8


def test_empty_fleet_is_one_sentence():
    assert "No model has a file" in render(survey([], NOW))


def test_failed_write_keeps_the_old_page(tmp_path: Path):
    (tmp_path / "fleet.html").mkdir()
    with pytest.raises(WorkspaceError, match="the fleet page cannot be written"):
        write("new", tmp_path / "fleet.html", "fleet")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["fleet.html"]


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_page_works_offline_without_console_errors(tmp_path: Path, width: int, dark: bool):
    page = write(render(fleet()), tmp_path / "fleet.html", "fleet")
    shown = shown_in_browser(page, tmp_path, width=width, height=1200, dark=dark, ready="svg.spark polyline")
    assert shown.console == ()
    assert shown.requests == (page.as_uri(),)
    assert shown.page_width == width
    assert len(rows(shown.dom)) == 3


@needs_chromium
def test_hostile_texts_do_not_run_in_a_browser(tmp_path: Path):
    shown = shown_in_browser(write(render(hostile()), tmp_path / "fleet.html", "fleet"), tmp_path)
    assert next(element.text for element in elements(shown.dom) if element.tag == "title") == "Perennial fleet"
    assert str(WINDOW.name) in shown.dom
