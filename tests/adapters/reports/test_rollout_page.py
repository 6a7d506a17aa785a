"""The page of a rollout: parsed, in Chromium without a network, and as the dashboard's artifact and image."""

import base64
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.reports import rollout
from tasks.adapters.reports.page import rollout_path
from tasks.adapters.reports.rollout import gain_plot, image, markdown, publish_rollout_page, render, share_plot
from tasks.adapters.storage.workspace import workspace
from tasks.policy.comparison.guardrails import Breach
from tasks.policy.reporting.rollout import headline
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import RolloutState
from tests.adapters.reports.recorded_rollouts import (
    CANARY,
    SHADOW,
    in_canary,
    looked,
    moved,
    promoted,
    returned,
    running,
    started,
)
from tests.support.browser import Element, elements, needs_chromium, render as shown_in_browser
from tests.support.trained_models import make_config

HOSTILE = "</style></svg><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">|"
STATES = {
    "started": (started(SHADOW), SHADOW),
    "running": (running(), SHADOW),
    "in canary": (in_canary(), CANARY),
    "promoted": (promoted(), SHADOW),
    "returned": (returned(), CANARY),
}


def config(policy: RolloutPolicy = SHADOW) -> ModelConfig:
    budget = {"value_usd_per_metric_unit_per_day": 1000}
    return make_config(budget=budget).model_copy(update={"rollout": policy})


def page(name: str) -> list[Element]:
    state, policy = STATES[name]
    return elements(render(config(policy), state))


def table(name: str, attribute: str) -> list[str]:
    """Return the text of the rows of the table with this attribute, without its heading."""
    found = page(name)
    texts = [element.text for element in found if element.tag == "tr"]
    text_of_table = next((element.text for element in found if attribute in element.attributes), "")
    return [text for text in texts if text in text_of_table][1:]


@pytest.mark.parametrize("name", STATES)
def test_page_begins_with_one_plain_sentence(name: str) -> None:
    found = next(element for element in page(name) if "headline" in element.classes)
    assert found.text == headline(STATES[name][0])


def test_running_rollout_shows_steps_looks_and_guardrails() -> None:
    assert table("running", "data-steps") == ["shadow 0 % 2024-03-01 06:00 now running"]
    first, second = table("running", "data-looks")
    assert first.startswith("1 of 5 2024-03-04 3,100 paired +0.002 -0.028")
    assert "no verdict yet inconclusive, 1 of 5 looks" in first
    assert second.startswith("2 of 5 2024-03-07 6,200 paired +0.004")
    assert table("running", "data-guardrails")[:2] == [
        "rows failed or refused 0.097 % 0.032 % 1 % more within limit",
        "latency, 95th percentile 12 ms 10 ms 2 times, and 10 ms more within limit",
    ]
    assert not [element for element in page("running") if "warning" in element.classes]


def test_ended_rollout_shows_what_ended_each_step_and_the_uplift() -> None:
    shadow, canary = table("returned", "data-steps")
    assert shadow.endswith("3 days Shadow: 3,100 units answered, no guardrail breached.")
    assert "12 days returned: version 8 takes 0.031 s at the 95th percentile" in canary
    assert canary.endswith(
        "2024-03-13 held by Ada: checking a complaint of gate B4 2024-03-13 resumed by Ada: complaint resolved"
    )
    assert table("returned", "data-guardrails")[0].startswith(
        "latency, 95th percentile 31 ms 10 ms 2 times, and 10 ms more breached version 8"
    )
    gains = next(element.text for element in page("promoted") if "gains" in element.classes)
    assert gains.startswith(
        "Version 8 gains 0.006 log loss against champion 7 on 12,400 rows (95 % interval of the gain"
    )
    assert "Value: 6.00 USD a day (-1." in gains


def test_plan_longer_than_max_days_is_a_warning() -> None:
    (warning,) = [element.text for element in page("in canary") if "warning" in element.classes]
    assert warning.startswith("Expect this rollout to end inconclusive:") and "max_days is 10" in warning


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314


def of_class(svg: str, tag: str, css: str) -> list[ElementTree.Element]:
    found = parsed(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    return [each for each in found if css in (each.get("class") or "").split()]


def test_each_look_is_drawn_with_its_verdict_as_a_shape() -> None:
    looks = of_class(gain_plot(promoted(), SHADOW), "g", "look")
    shapes = [[part.tag.rpartition("}")[2] for part in look][-1] for look in looks]
    assert shapes == ["circle", "circle", "path", "path"]
    assert [look.get("class") for look in looks] == ["look ", "look ", "look passed", "look passed"]
    assert looks[0][0].text.startswith("look 1 of 5, 2024-03-04: gain +0.002 (-0.028")
    assert looks[0][0].text.endswith(") on 3,100 rows; no verdict yet")
    assert of_class(gain_plot(returned(), CANARY), "g", "worse")


def test_boundaries_are_solid_until_now_and_dashed_ahead() -> None:
    plot = gain_plot(running(), SHADOW)
    known, ahead = of_class(plot, "polyline", "pass")
    assert [len(line.get("points", "").split()) for line in (known, ahead)] == [2, 4]  # 2 looks, then 3 more of 5
    assert known.get("points", "").split()[-1] == ahead.get("points", "").split()[0]
    assert [line.get("class") for line in of_class(gain_plot(promoted(), SHADOW), "polyline", "pass")] == ["pass"]
    assert len(of_class(gain_plot(started(SHADOW), SHADOW), "polyline", "expected")) == 2


def test_share_is_a_staircase_that_ends_where_the_rollout_did() -> None:
    def heights(state: RolloutState) -> list[float]:
        (line,) = of_class(share_plot(state), "polyline", "share-line")
        return [float(corner.split(",")[1]) for corner in line.get("points", "").split()]

    # from 24 (100 %) to 100 (0 %): 10 % is 7.6 above the floor
    assert heights(in_canary()) == [100.0, 100.0, 92.4, 92.4]
    assert heights(returned()) == [100.0, 100.0, 92.4, 92.4, 100.0, 100.0]
    assert heights(promoted()) == [100.0, 100.0, 24.0, 24.0]


def test_boundaries_of_a_single_look_are_short_lines() -> None:
    state = looked(started(SHADOW), SHADOW, 0.001)
    (known,) = of_class(gain_plot(moved(state, "ended", "no longer needed", end="aborted"), SHADOW), "polyline", "pass")
    assert len(known.get("points", "").split()) == 2


def test_a_first_interval_does_not_flatten_the_others() -> None:
    state = looked(started(SHADOW), SHADOW, 0.001)
    wide = replace(state.looks[0], verdict=replace(state.looks[0].verdict, low=-5.0, high=5.0))
    state = looked(replace(state, looks=(wide,)), SHADOW, 0.002)
    labels = [text.text or "" for text in parsed(gain_plot(state, SHADOW)).iter("{http://www.w3.org/2000/svg}text")]
    ticks = [float(label) for label in labels if label.startswith(("+", "-"))]
    assert max(map(abs, ticks)) < 0.1


def test_artifact_has_the_same_content_as_tables() -> None:
    text = markdown(config(CANARY), returned(), workspace().reports / "page.html")
    assert text.splitlines()[:3] == ["# binary_model: rollout of version 8", "", f"**{headline(returned())}**"]
    assert "| canary 10 % | 10 % | 2024-03-04 07:00 | 2024-03-16 07:00 | 2024-03-13 held by Ada:" in text
    assert "| 5 of 20 | 2024-03-16 | 15,500 | -0.016 (-0.02" in text
    assert (
        "| latency, 95th percentile | 31 ms | 10 ms | 2 times, and 10 ms more | breached: version 8 takes 0.031 s"
        in text
    )
    assert "[Page with plots](http://127.0.0.1:4280/reports/page.html)" in text


def test_page_and_artifact_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[dict[str, str]] = []
    for kind in ("create_markdown_artifact", "create_image_artifact"):
        monkeypatch.setattr(rollout, kind, lambda content, **more: published.append(more))
    path = publish_rollout_page(config(), running())
    assert path == workspace().reports / "binary_model" / "rollouts" / "version-8-dddddddd.html"
    assert "Version 8 is in shadow beside champion 7" in path.read_text(encoding="utf-8")
    assert published == [
        {"key": "rollout-binary-model", "description": headline(running())},
        {"key": "plot-rollout-binary-model", "description": "binary_model: gain of version 8 over champion 7"},
    ]
    assert path.stat().st_size < 60_000  # written again at each look


def test_hostile_version_stays_in_its_folder() -> None:
    plan = replace(running().plan, version="../../x", decision_id="../../y")
    assert rollout_path("m", plan).parent == workspace().reports / "m" / "rollouts"


def hostile() -> RolloutState:
    """Return an ended rollout in which every free text is an attack."""
    state = returned()
    plan = replace(state.plan, version=HOSTILE, champion=HOSTILE, decision_id=HOSTILE, unit=HOSTILE, reasons=(HOSTILE,))
    looks = tuple(
        replace(
            look,
            breaches=(Breach("latency", HOSTILE),),
            unevaluated=(HOSTILE,),
            verdict=replace(look.verdict, reason=HOSTILE),
        )
        for look in state.looks
    )
    moves = tuple(replace(move, reasons=(HOSTILE,), by=HOSTILE) for move in state.moves)
    return replace(state, plan=plan, looks=looks, moves=moves)


def test_hostile_text_is_escaped_in_page_artifact_and_image() -> None:
    html = render(config(CANARY), hostile())
    assert HOSTILE not in html and "<img" not in html
    assert not [element for element in elements(html) if element.tag in ("script", "img")]
    text = markdown(config(CANARY), hostile(), Path("page.html"))
    assert "<script" not in text and "<img" not in text
    assert all(line.count("|") - line.count("\\|") in (0, 5, 6, 8) for line in text.splitlines())  # no broken table row
    address = image(gain_plot(hostile(), CANARY), HOSTILE)
    root = parsed(base64.b64decode(address.partition(",")[2]).decode())
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


@needs_chromium
@pytest.mark.parametrize(("name", "width"), [("in canary", 390), ("promoted", 1280)])
def test_page_is_drawn_without_scripts_or_requests(name: str, width: int, tmp_path: Path) -> None:
    state, policy = STATES[name]
    file = tmp_path / "page.html"
    file.write_text(render(config(policy), state), encoding="utf-8")
    shown = shown_in_browser(file, tmp_path, width=width, dark=width < 500, ready="svg.plot")
    assert shown.console == ()
    assert shown.requests == (file.as_uri(),)
    assert shown.page_width == width  # no horizontal scrolling, not even on a phone


@needs_chromium
def test_hostile_text_does_not_run_in_a_browser(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(render(config(CANARY), hostile()), encoding="utf-8")
    shown = shown_in_browser(file, tmp_path, ready="svg.plot")
    assert next(element.text for element in elements(shown.dom) if element.tag == "title") != "owned"
    assert not [element for element in elements(shown.dom) if element.tag == "img"]


@needs_chromium
def test_image_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(f'<img id="plot" src="{image(gain_plot(promoted(), SHADOW), "gain")}">')
    shown = shown_in_browser(file, tmp_path, width=920, height=380, ready="#plot")
    assert shown.console == ()
    assert shown.page_width == 920


def test_held_rollout_says_who_can_act() -> None:
    state = moved(running(), "held", "checking a complaint", by="Ada")
    assert "until a person resumes or aborts it. Checking a complaint." in render(config(), state)
