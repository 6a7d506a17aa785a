"""Manual edits of the registry are reported, affect only that model, and never move a champion."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from deployments.cli import main
from deployments.config.loading import load_model_config
from tasks.adapters import registry
from tasks.adapters.evaluation import alias_transaction, challenger as trial
from tasks.adapters.ledger import chain as ledger
from tasks.adapters.models import files as model_files
from tasks.adapters.registry import version_files
from tasks.adapters.reports import fleet as fleet_page
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.monitoring import History
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import to_json, utc
from tasks.policy.records.errors import ModelFileError, PromotionRefused, VersionGone
from tasks.record.fleet import survey_fleet
from tasks.record.history import find_challenger, find_champion, load_past, load_validation, registry_changes
from tasks.rollout.outcome import judge_outcome
from tasks.rollout.promotion import plan_rollback, promote_challenger, restore_previous
from tests.flows.test_promotion_stage import passed, put, rollback_request
from tests.support.monitor_runs import recorded_run
from tests.support.small_model import write_model
from tests.support.trained_models import make_config, make_rows, prepare_registry, register

pytestmark = pytest.mark.usefixtures("quiet")
CONFIG = make_config()
MODEL, AT = CONFIG.name, utc("2024-03-06")


def on_trial(decision_id: str, champion: str | None, turn: float = 1.0) -> ModelVersion:
    """Register a version that passed, as the flow retrain does."""
    version = register(CONFIG, decision_id, turn=turn)
    registry.set_aliases(MODEL, {"challenger": version.version})
    ledger.append(MODEL, Fact("challenger.registered", version, AT, decision_id))
    ledger.append(MODEL, Fact("challenger.validated", passed(version.version, champion), AT, decision_id))
    return version


def promote(decision_id: str) -> Promotion:
    """Promote as the flow does."""
    validation = load_validation(CONFIG, decision_id)
    assert validation is not None
    promotion = promote_challenger.fn(CONFIG, find_challenger(CONFIG, validation, decision_id), validation, decision_id)
    ledger.append(MODEL, Fact("champion.promoted", promotion, AT, decision_id))
    return promotion


def roll_back(decision_id: str = "back") -> Promotion:
    promotion = restore_previous.fn(CONFIG, rollback_request(MODEL, "wrong answers"), decision_id)
    ledger.append(MODEL, Fact("champion.rolled_back", promotion, AT, decision_id))
    return promotion


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home, copy = tmp_path_factory.mktemp("prepared") / "home", tmp_path_factory.mktemp("copy")
    prepare_registry(home)
    with pytest.MonkeyPatch.context() as patch, disable_run_logger():
        patch.setenv("PERENNIAL_HOME", str(home))
        for number, champion in (("1", None), ("2", "1")):
            on_trial(f"d{number}", champion)
            promote(f"d{number}")
        on_trial("d3", "2")
    put(home, copy)
    shutil.copytree(home / "ledger", copy / "ledger")
    return home, copy


@pytest.fixture(autouse=True)
def served(prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 2 serves, 1 is previous and 3 has passed validation, in registry and ledger."""
    home, copy = prepared
    put(copy, home)
    shutil.rmtree(home / "ledger")
    shutil.copytree(copy / "ledger", home / "ledger")
    monkeypatch.setenv("PERENNIAL_HOME", str(home))
    ledger._KNOWN.clear()
    return home


def files_of(number: str) -> Path:
    return Path(registry.client().get_model_version(MODEL, number).source) / "data" / "files"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    main(["audit", "verify", MODEL])
    return capsys.readouterr().out


def test_no_edits_are_reported_in_normal_operation(capsys):
    assert registry_changes(CONFIG, load_past(CONFIG)) == ()
    promote("d3")
    assert registry_changes(CONFIG, load_past(CONFIG)) == ()
    roll_back()
    assert registry_changes(CONFIG, load_past(CONFIG)) == ()
    on_trial("d4", "2")
    promote("d4")
    assert (registry_changes(CONFIG, load_past(CONFIG)), main(["audit", "verify", MODEL])) == ((), 0)


def test_unrecorded_promotion_is_completed_and_can_be_rolled_back():
    validation = load_validation(CONFIG, "d3")
    assert validation is not None
    promote_challenger.fn(CONFIG, find_challenger(CONFIG, validation), validation, "d3")
    assert registry_changes(CONFIG, load_past(CONFIG)) == ()
    assert roll_back().champion == "2"


def test_recreated_model_has_no_earlier_verdict(capsys):
    registry.client().delete_registered_model(MODEL)
    new = register(CONFIG, "d9", turn=-1.0)
    assert new.version == "1"
    for number in ("2", "3"):
        register(CONFIG, f"d9-{number}", turn=-1.0)
    with pytest.raises(VersionGone, match=r"not the one that the ledger names.* deleted and recreated"):
        promote("d3")
    registry.set_aliases(MODEL, {"champion": "1", "previous": "2"})
    with pytest.raises(VersionGone, match="no earlier validation applies to it"):
        find_champion(CONFIG, required=True)
    with pytest.raises(PromotionRefused, match="nothing is rolled back: version 1, which is previous"):
        roll_back()
    assert registry.aliases(MODEL) == {"champion": "1", "previous": "2"}
    assert "registry: version 2, which is champion" in printed(capsys) and main(["audit", "verify", MODEL]) == 1


def test_earlier_verdicts_stay_with_the_deleted_model():
    registry.client().delete_registered_model(MODEL)
    on_trial("e1", None)
    with pytest.raises(PromotionRefused, match=r"decision d1 validated run"):
        promote("d1")
    assert promote("e1").champion == "1"
    assert find_champion(CONFIG, required=True).decision_id == "e1"
    assert registry_changes(CONFIG, load_past(CONFIG)) == ()


@pytest.mark.parametrize(
    ("alias", "number", "fix"),
    [
        ("champion", "3", "alias champion is on version 3, expected version 2"),
        ("champion", "1", "alias champion is on version 1, expected version 2"),
        ("champion", None, "alias champion is on no version, expected version 2"),
    ],
)
def test_manually_moved_champion_blocks_promotion_and_rollback(alias, number, fix, capsys):
    registry.set_aliases(MODEL, {alias: number})
    assert fix in printed(capsys) and main(["audit", "verify", MODEL]) == 1
    (change,) = registry_changes(CONFIG, load_past(CONFIG))
    assert change.startswith(fix) and "set it back to version 2 in MLflow" in change
    on_trial("d4", number)
    before = registry.aliases(MODEL)
    with pytest.raises(PromotionRefused, match=fix):
        promote("d4")
    assert fix in str(alias_transaction.why_not_move_aliases(MODEL, before))
    with pytest.raises(PromotionRefused):
        roll_back()
    assert registry.aliases(MODEL) == before
    registry.set_aliases(MODEL, {"champion": "2"})
    assert roll_back().champion == "1"


@pytest.mark.parametrize("number", ["3", None])
def test_manually_moved_previous_is_not_restored(number, capsys):
    registry.set_aliases(MODEL, {"previous": number})
    assert f"alias previous is on {'version 3' if number else 'no version'}, expected version 1" in printed(capsys)
    with pytest.raises(PromotionRefused):
        roll_back()
    assert plan_rollback.fn(CONFIG).refusal
    assert registry.aliases(MODEL)["champion"] == "2"
    assert promote("d3").champion == "3", "a promotion does not depend on previous"


def test_manually_moved_challenger_is_reported(capsys):
    registry.set_aliases(MODEL, {"challenger": "1"})
    assert "alias challenger is on version 1, which does not await promotion" in printed(capsys)


def test_unvalidated_version_with_forged_tags_does_not_serve():
    foreign_version = registry.client().get_model_version(MODEL, "3")
    made = registry.client().create_model_version(
        MODEL, foreign_version.source, foreign_version.run_id, tags=dict(foreign_version.tags)
    )
    registry.set_aliases(MODEL, {"champion": str(made.version)})
    with pytest.raises(VersionGone, match="version 4 is not in the ledger"):
        find_champion(CONFIG, required=True)


def test_deleted_version_is_reported_and_its_classes_stay_known(capsys):
    registry.client().delete_model_version(MODEL, "1")
    assert (
        "version 1, which is previous" in printed(capsys)
        and "was deleted" in registry_changes(CONFIG, load_past(CONFIG))[0]
    )
    assert registry.classes(MODEL, "1") == ("0", "1")
    promotion = Promotion(MODEL, "d2", "2", "1", "promoted")
    assert (
        judge_outcome(CONFIG, recorded_run(CONFIG, registry.version(MODEL, "2"), History(), AT), promotion, []) is None
    )
    with pytest.raises(PromotionRefused, match="nothing to roll back to"):
        roll_back()


def test_deleted_champion_can_be_replaced():
    registry.client().delete_model_version(MODEL, "2")
    assert "version 2, which is champion" in registry_changes(CONFIG, load_past(CONFIG))[0]
    on_trial("d4", None)
    assert promote("d4").champion == "4"
    assert registry_changes(CONFIG, load_past(CONFIG)) == ()


@pytest.mark.parametrize(
    "tags",
    [
        {"sha256": "0" * 64},
        {"decision_id": "another"},
        {"classes": '["no", "yes"]'},
        {"classes": "not JSON"},
        {"trained_until": "never"},
        {"training_rows": "many"},
        {"trusted_types": '["os.system"]'},
    ],
)
def test_edited_tag_is_reported_and_ignored(tags, capsys):
    before = registry.version(MODEL, "3")
    classes = registry.classes(MODEL, "3")
    registry.tag(MODEL, "3", **tags)
    after = registry.version(MODEL, "3")
    assert replace(after, tags=()) == replace(before, tags=())
    assert dict(after.tags)["trusted_types"] == dict(before.tags)["trusted_types"]
    assert registry.classes(MODEL, "3") == classes
    assert registry.find(MODEL, "another") is None
    assert f"version 3: tags {next(iter(tags))} differ from the ledger's record, which takes precedence" in printed(
        capsys
    )
    assert promote("d3").champion == "3"


def test_edited_status_does_not_unbar_a_version():
    promote("d3")
    roll_back()
    registry.tag(MODEL, "3", status="registered", quarantined_by="", promoted_by="", move_by="")
    with pytest.raises(PromotionRefused, match="quarantined"):
        promote("d3")


def exchange_files(version: str) -> None:
    """Put another model's files in place of a version's, with the hash tag that fits them."""
    foreign = register(CONFIG, "foreign", turn=-1.0)
    for name in model_files.read(files_of(foreign.version)):
        shutil.copy(files_of(foreign.version) / name, files_of(version) / name)
    registry.tag(MODEL, version, sha256=foreign.sha256)


@pytest.mark.attack("whoever can write to the registry")
def test_swapped_model_files_are_not_served():
    exchange_files("2")
    champion = registry.version(MODEL, "champion")
    with pytest.raises(ModelFileError, match=r"expected .* as recorded when they were registered"):
        version_files.load_scorer(champion, fresh=True)
    assert "does not serve" in str(trial.try_predict(champion, make_rows(rows=40), fresh=True))
    assert "does not serve" in str(trial.smoke_test(champion))


@pytest.mark.attack("whoever can write to the registry")
def test_swapped_previous_files_block_rollback():
    exchange_files("1")
    with pytest.raises(PromotionRefused, match="cannot serve: version 1 does not serve"):
        roll_back()


def test_old_version_is_checked_against_its_tag(served, monkeypatch):
    shutil.rmtree(served / "ledger")
    ledger._KNOWN.clear()
    body = json.loads(to_json(registry.version(MODEL, "2")))
    del body["sha256"]
    ledger.append(MODEL, Fact("challenger.registered", json.dumps(body), AT, "d2"))
    version = registry.version(MODEL, "2")
    assert version.sha256 == registry.tags(MODEL, "2")["sha256"]
    assert version_files.load_scorer(version, fresh=True).classes == ("0", "1")
    registry.tag(MODEL, "2", sha256="0" * 64)
    with pytest.raises(ModelFileError):
        version_files.load_scorer(registry.version(MODEL, "2"), fresh=True)


def test_broken_entry_is_one_row_of_the_fleet_page(tmp_path):
    other = load_model_config(write_model(tmp_path))
    registry.client().delete_registered_model(MODEL)
    register(CONFIG, "d9")
    registry.set_aliases(MODEL, {"champion": "1"})
    fleet = survey_fleet([CONFIG, other], AT)
    assert [member.facts.model for member in fleet.members] == ["small"]
    (broken,) = fleet.broken
    assert broken.model == MODEL and "not the one that the ledger names" in broken.sentence
    html = fleet_page.render(fleet)
    assert "its entry in the registry cannot be used" in html and 'data-model="small"' in html


def test_moved_alias_is_shown_on_the_fleet_page():
    registry.set_aliases(MODEL, {"champion": "1"})
    (member,) = survey_fleet([CONFIG], AT).members
    assert member.health == "action required"
    assert "alias champion is on version 1, expected version 2" in fleet_page.render(survey_fleet([CONFIG], AT))
    assert [need.kind for need in member.needs].count("registry") == 1
