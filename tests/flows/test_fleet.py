"""The fleet page from a real ledger and registry: flow, command and artifact."""

from pathlib import Path

import pytest

from deployments.config.loading import load_model_config
from flows.fleet import fleet
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import ledger
from tasks.policy.records.base import utc
from tasks.record.fleet import survey_fleet
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST = utc("2024-01-21")


def test_fleet_shows_served_and_new_models(tmp_path):
    from prefect.artifacts import Artifact

    model = write_model(tmp_path / "served")
    fresh = tmp_path / "fresh.yaml"
    fresh.write_text((tmp_path / "served" / "small.yaml").read_text().replace("name: small", "name: fresh"))
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    for window in load_model_config(model).windows(end=utc("2024-01-25")):
        score(model, until=window.end)
        monitor(model, until=window.end)
    facts = len(ledger.entries("small"))
    page = fleet([model, str(fresh)], until=utc("2024-01-25"))
    html = Path(page).read_text(encoding="utf-8")
    first, second = html.split('data-model="')[1:]
    assert first.startswith("fresh") and "no version serves" in first
    assert second.startswith("small") and "version 1" in second and "Keep champion v1" in second
    assert ">2024-01-27<" in second and '<polyline points="' in second
    assert len(ledger.entries("small")) == facts, "the page changed something"
    artifact = Artifact.get("fleet")
    assert artifact.description == "Action required for 1 model, 1 healthy."
    assert "| small |" in artifact.data


def test_fleet_shows_nothing_later_than_until(tmp_path):
    config = load_model_config(write_model(tmp_path))
    retrain(str(tmp_path / "small.yaml"), until=FIRST)
    promote(str(tmp_path / "small.yaml"), until=FIRST)
    (before,) = survey_fleet([config], utc("2024-01-20")).members
    (after,) = survey_fleet([config], FIRST).members
    assert (before.champion_since, after.champion_since) == (None, FIRST)


def test_broken_file_is_a_row_with_its_error(tmp_path, monkeypatch):
    from prefect.artifacts import Artifact

    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    write_model(tmp_path)
    (tmp_path / "odd.yaml").write_text("name: odd\nowner: [")
    (tmp_path / "fleet.yaml").write_text("shared_budget: {max_usd_per_month: 100}")
    page = fleet(["small", "odd"], until=FIRST)
    odd, small = Path(page).read_text(encoding="utf-8").split('data-model="')[1:]
    assert odd.startswith("odd") and "action required" in odd and "odd.yaml: is not YAML" in odd
    assert small.startswith("small") and "no version serves" in small
    artifact = Artifact.get("fleet")
    assert artifact.description == "Action required for 2 models."
    assert "- **odd**: odd.yaml: is not YAML" in artifact.data


def test_broken_fleet_file_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    (tmp_path / "fleet.yaml").write_text("shared_budget: 100")
    surveyed = survey_fleet([load_model_config(write_model(tmp_path))], FIRST)
    assert [member.facts.model for member in surveyed.members] == ["small"]
    (broken,) = surveyed.broken
    assert broken.model == "fleet" and "fleet.yaml: shared_budget is 100" in broken.sentence
