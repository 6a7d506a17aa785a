"""File binding: a ledger stays bound to its file until an authorised person accepts another."""

from pathlib import Path

import pytest

from deployments.cli import main
from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import ledger, registry
from tasks.policy.governance.binding import FileBinding, bound_to, why_not_accept, why_not_bound
from tasks.policy.records.base import utc
from tasks.policy.records.errors import AccessRefused, PromotionRefused
from tasks.record.fleet import survey_files
from tests.support.small_model import write_model

pytestmark = pytest.mark.attack("whoever can write a second file")
FIRST = utc("2024-01-21")
RISKY = {"risk: low": "risk: high\naccess: {approve: [Ada, Grace]}"}


@pytest.mark.usefixtures("prefect_server")
def test_second_file_of_the_same_name_promotes_nothing(tmp_path):
    real, second = write_model(tmp_path / "real", **RISKY), write_model(tmp_path / "second")
    retrain(real, until=FIRST, requested_by="Ada")
    for flow in (promote, monitor, retrain):
        with pytest.raises(AccessRefused, match=r"bound to .*real/small\.yaml \(risk high\), not to .*second/small"):
            flow(second, until=FIRST)
    assert registry.CHAMPION not in registry.aliases("small")
    with pytest.raises(PromotionRefused, match="Ada requested this"):
        promote(real, until=FIRST, approved_by="Ada")
    assert promote(real, until=FIRST, approved_by="Grace").action == "promoted"


@pytest.mark.usefixtures("prefect_server")
def test_lower_risk_takes_effect_after_acceptance(tmp_path, capsys):
    model = write_model(tmp_path, **RISKY)
    retrain(model, until=FIRST, requested_by="Ada")
    write_model(tmp_path)
    with pytest.raises(AccessRefused, match="has risk: low, but its ledger is bound to risk: high"):
        promote(model, until=FIRST)
    (shown,) = survey_files([model], FIRST).broken
    assert "have Ada or Grace accept the change" in shown.sentence
    accept = ["accept", "--model", model, "--reason", "the model is advice only by now"]
    assert main([*accept, "--by", "Mallory"]) == 2
    assert "Mallory may not accept a change of the file, expected Ada or Grace" in capsys.readouterr().err
    assert main([*accept, "--by", "Grace"]) == 0
    assert promote(model, until=FIRST).action == "promoted"
    assert [entry.actor for entry in ledger.entries("small", kind="file.accepted")] == ["Grace"]
    assert main([*accept, "--by", "Grace"]) == 2, "there is nothing left to accept"


def test_file_in_a_moved_models_folder_is_the_same_file(tmp_path, monkeypatch):
    bindings = []
    for host in ("one", "other"):
        write_model(tmp_path / host)
        monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path / host))
        bindings.append(load_model_config("small").binding)
    assert bindings[0] == bindings[1]
    assert bindings[0].file == "small.yaml"


def test_other_settings_may_change_freely(tmp_path):
    before = load_model_config(write_model(tmp_path)).binding
    after = load_model_config(write_model(tmp_path, **{"limit: 1.0": "limit: 2.0"})).binding
    assert why_not_bound(before, after) is None
    approval = load_model_config(
        write_model(tmp_path, **{"risk: low": "risk: low\npromotion: {mode: approval}"})
    ).binding
    assert "access or promotion" in why_not_bound(before, approval)


def test_ledger_from_before_bindings_opens():
    assert bound_to(()) is None
    assert why_not_bound(None, FileBinding("small.yaml", "low", "x")) is None
    assert "by is unnamed, expected the name of the person" in why_not_accept(
        FileBinding("small.yaml", "low", "x"), "unnamed"
    )


def test_paths_are_shown_in_full(tmp_path):
    assert Path(load_model_config(write_model(tmp_path)).binding.file).is_absolute()
