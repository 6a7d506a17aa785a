"""Promotion on a real registry: atomic, once per decision, and only of a version that can serve."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from prefect import flow
from prefect.logging import disable_run_logger
from prefect.transactions import transaction

from tasks.adapters import registry
from tasks.adapters.evaluation import alias_transaction
from tasks.adapters.registry import version_files
from tasks.policy.evidence.validation import MetricDifference, ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.governance.access import Principal
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import utc
from tasks.policy.records.errors import MoveFailed, PromotionRefused, RegistryError
from tasks.policy.rollout.restorable import RollbackPlan
from tasks.rollout.promotion import plan_rollback, promote_challenger, restore_previous
from tests.support.trained_models import make_config, prepare_registry, register

CONFIG = make_config()
MODEL = CONFIG.name


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def passed(challenger: str, champion: str | None) -> ValidationReport:
    gain = MetricDifference("log_loss", 0.5, 0.4, 0.1, 0.05, 0.15, 500)
    differences = () if champion is None else (gain,)
    return ValidationReport(challenger, champion, "pass", differences, ("gain +0.1",), 500, champion is None)


def promote(version: ModelVersion, serving: str | None, /, **changes) -> Promotion:
    with disable_run_logger():
        report = replace(passed(version.version, serving), **changes)
        return promote_challenger.fn(CONFIG, version, report, version.decision_id)


def rollback_request(model: str, reason: str) -> RunRequest:
    """Ada asks for a rollback."""
    moment, ada = utc("2024-03-06"), Principal("person", "ada@example.com")
    return RunRequest("rollback", model, ada, ada.name, moment, moment, reason)


def roll_back(decision_id: str = "rollback-1") -> Promotion:
    with disable_run_logger():
        request = rollback_request(MODEL, "wrong answers at night")
        return restore_previous.fn(CONFIG, request, decision_id)


def status(number: str) -> str:
    return registry.tags(MODEL, number)["status"]


def challenger(decision_id: str, turn: float = 1.0) -> ModelVersion:
    version = register(CONFIG, decision_id, turn=turn)
    registry.set_aliases(MODEL, {"challenger": version.version})
    return version


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace where version 2 serves, 1 is previous and 3 is the challenger, with a copy to restore it from."""
    home, copy = tmp_path_factory.mktemp("prepared") / "home", tmp_path_factory.mktemp("copy")
    prepare_registry(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home))
        for number, champion in (("1", None), ("2", "1")):
            promote(challenger(f"d{number}"), champion)
        challenger("d3")
    put(home, copy)
    return home, copy


def put(source: Path, target: Path) -> None:
    """Copy registry and files to the target; through SQLite's backup, because connections stay open."""
    with (
        closing(sqlite3.connect(source / "mlflow.db")) as read,
        closing(sqlite3.connect(target / "mlflow.db")) as write,
    ):
        read.backup(write)
    shutil.copytree(source / "artifacts", target / "artifacts", dirs_exist_ok=True)


@pytest.fixture
def three_versions(prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> list[ModelVersion]:
    """Prepare a registry where version 2 serves, 1 is previous and 3 is the challenger."""
    home, copy = prepared
    put(copy, home)
    monkeypatch.setenv("PERENNIAL_HOME", str(home))
    return [registry.version(MODEL, number) for number in ("1", "2", "3")]


def corrupt(version: ModelVersion) -> None:
    source = Path(registry.client().get_model_version(MODEL, version.version).source)
    path = source / "data" / "files" / "model.ubj"
    path.write_bytes(path.read_bytes()[:-10])


def test_first_model_has_no_previous():
    promotion = promote(challenger("d1"), None)
    assert (promotion.action, promotion.champion, promotion.previous) == ("promoted", "1", None)
    assert registry.aliases(MODEL) == {"champion": "1"}


def test_promotion_moves_all_three_aliases(three_versions):
    promotion = promote(three_versions[2], "2")
    assert promotion == Promotion(MODEL, "d3", "3", "2", "promoted", ("gain +0.1",))
    assert registry.aliases(MODEL) == {"champion": "3", "previous": "2"}
    assert (status("1"), status("2"), status("3")) == ("stale", "stale", "champion")
    assert registry.tags(MODEL, "3")["promoted_by"] == "d3"


def test_promotion_is_idempotent_per_decision(three_versions):
    promoted = promote(three_versions[2], "2")
    newer = challenger("d4")
    assert promote(three_versions[2], "2") == promoted, "an interrupted promotion is recorded now"
    assert registry.aliases(MODEL) == {"champion": "3", "previous": "2", "challenger": newer.version}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verdict": "fail"}, "validation says fail"),
        ({"verdict": "warn"}, "validation says warn"),
        ({"challenger": "1"}, "validation is for version 1, not for 3"),
        ({"champion": "1"}, "compared with champion 1, but now champion 2 serves"),
        ({"differences": ()}, "no difference on the primary metric"),
    ],
)
def test_failed_validation_moves_nothing(three_versions, changes, reason):
    before = registry.aliases(MODEL)
    with pytest.raises(PromotionRefused, match=reason):
        promote(three_versions[2], "2", **changes)
    assert registry.aliases(MODEL) == before
    assert (status("2"), status("3")) == ("champion", "registered")


def test_a_corrupted_model_never_becomes_champion(three_versions):
    before = registry.aliases(MODEL)
    version_files.load_scorer(three_versions[2])
    corrupt(three_versions[2])
    with pytest.raises(PromotionRefused, match="version 3 does not serve: model files have sha256"):
        promote(three_versions[2], "2")
    assert registry.aliases(MODEL) == before


def test_model_broken_during_promotion_restores_aliases(three_versions):
    """The smoke test before the move has passed; the one through the alias detects the damage."""
    before = registry.aliases(MODEL)
    corrupt(three_versions[2])
    wanted = {"previous": "2", "champion": "3", "challenger": None}
    with disable_run_logger(), pytest.raises(MoveFailed, match="version 3 cannot serve as champion"):
        alias_transaction.move(MODEL, "d3", before, wanted)
    assert registry.aliases(MODEL) == before
    assert alias_transaction.aliases_before_move(MODEL, "3", "d3") == before


def test_registry_failure_restores_aliases(three_versions):
    """MLflow refuses an alias on a missing version: previous has moved by then, champion has not."""
    before = registry.aliases(MODEL)
    wanted = {"previous": "2", "challenger": "99", "champion": "3"}
    with (
        disable_run_logger(),
        pytest.raises(RegistryError, match="alias challenger cannot be moved to version 99"),
    ):
        alias_transaction.move(MODEL, "d3", before, wanted)
    assert registry.aliases(MODEL) == before


def test_outer_transaction_failure_restores_aliases(three_versions):
    """As if the ledger entry of the promotion could not be written: the flow's transaction undoes the move."""
    before = registry.aliases(MODEL)
    with disable_run_logger(), pytest.raises(OSError, match="disk full"), transaction():
        promote(three_versions[2], "2")
        assert registry.aliases(MODEL)["champion"] == "3"
        raise OSError("disk full")
    assert registry.aliases(MODEL) == before


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_killed_promotion_is_completed_by_a_rerun(three_versions, steps):
    """The process died after this many aliases; the version's tags record the state before, not the half-done state."""
    before = registry.aliases(MODEL)
    registry.tag(MODEL, "3", move_from=json.dumps(before), move_by="d3")
    wanted = {"previous": "2", "champion": "3", "challenger": None}
    registry.set_aliases(MODEL, dict(list(wanted.items())[:steps]))
    promotion = promote(three_versions[2], "2")
    assert (promotion.champion, promotion.previous) == ("3", "2")
    assert registry.aliases(MODEL) == {"champion": "3", "previous": "2"}
    assert (status("2"), status("3")) == ("stale", "champion")


def test_killed_promotion_of_a_broken_model_is_undone(three_versions):
    before = registry.aliases(MODEL)
    registry.tag(MODEL, "3", move_from=json.dumps(before), move_by="d3")
    registry.set_aliases(MODEL, {"previous": "2", "champion": "3"})
    corrupt(three_versions[2])
    with disable_run_logger(), pytest.raises(MoveFailed):
        alias_transaction.move(
            MODEL, "d3", alias_transaction.aliases_before_move(MODEL, "3", "d3"), {"previous": "2", "champion": "3"}
        )
    assert registry.aliases(MODEL) == before


def test_aliases_moved_by_others_are_left_alone(three_versions):
    read_earlier = registry.aliases(MODEL)
    registry.set_aliases(MODEL, {"champion": "1"})
    with disable_run_logger(), pytest.raises(MoveFailed, match="champion was moved by someone else"):
        alias_transaction.move(MODEL, "d3", read_earlier, {"previous": "2", "champion": "3"})
    assert registry.aliases(MODEL)["champion"] == "1"


def test_rollback_moves_aliases_and_quarantines(three_versions):
    promote(three_versions[2], "2")
    restored = roll_back()
    assert restored == Promotion(
        MODEL, "rollback-1", "2", None, "rolled_back", ("ada@example.com: wrong answers at night",)
    )
    assert registry.aliases(MODEL) == {"champion": "2"}
    tags = registry.tags(MODEL, "3")
    assert (tags["status"], tags["quarantined_by"], tags["quarantine_reason"]) == (
        "quarantined",
        "ada@example.com",
        "wrong answers at night",
    )
    assert status("2") == "champion"


def test_rollback_is_idempotent_and_a_second_one_is_refused(three_versions):
    promote(three_versions[2], "2")
    assert roll_back() == roll_back()
    with pytest.raises(PromotionRefused, match="champion is 2, previous is none"):
        roll_back("rollback-2")
    assert registry.aliases(MODEL) == {"champion": "2"}


@pytest.mark.parametrize("versions", [0, 1])
def test_rollback_needs_a_previous_version(versions):
    if versions:
        promote(challenger("d1"), None)
    with pytest.raises(PromotionRefused, match="nothing to roll back to"):
        roll_back()
    assert registry.aliases(MODEL).get("champion") == ("1" if versions else None)


def test_broken_previous_version_is_not_restored(three_versions):
    before = registry.aliases(MODEL)
    corrupt(three_versions[0])
    with pytest.raises(PromotionRefused, match=r"previous version 1 cannot serve: .* 2 keeps serving"):
        roll_back()
    assert registry.aliases(MODEL) == before
    assert status("2") == "champion"


def test_killed_rollback_is_completed_by_a_rerun(three_versions):
    before = registry.aliases(MODEL)
    registry.tag(MODEL, "1", move_from=json.dumps(before), move_by="rollback-1")
    registry.set_aliases(MODEL, {"champion": "1"})
    assert roll_back().champion == "1"
    assert registry.aliases(MODEL) == {"champion": "1", "challenger": "3"}
    assert status("2") == "quarantined"


def promotion_cut_off_after_its_first_alias(number: str, decision_id: str) -> None:
    registry.tag(MODEL, number, move_from=json.dumps(registry.aliases(MODEL)), move_by=decision_id)
    registry.set_aliases(MODEL, {"previous": registry.aliases(MODEL)["champion"]})


def test_rollback_after_a_killed_promotion_restores_previous(three_versions):
    promotion_cut_off_after_its_first_alias("3", "d3")
    with disable_run_logger():
        assert plan_rollback.fn(CONFIG) == RollbackPlan("2", "1", None)
    assert registry.aliases(MODEL)["previous"] == "2", "a dry run changes nothing"
    assert roll_back().champion == "1"
    assert registry.aliases(MODEL) == {"champion": "1", "challenger": "3"}
    assert (status("1"), status("2")) == ("champion", "quarantined")
    with pytest.raises(PromotionRefused, match="compared with champion 2, but now champion 1 serves"):
        promote(three_versions[2], "2")


def test_refused_rollback_leaves_a_killed_promotion_resumable(three_versions):
    promotion_cut_off_after_its_first_alias("3", "d3")
    corrupt(three_versions[0])
    with pytest.raises(PromotionRefused, match="previous version 1 cannot serve"):
        roll_back()
    assert promote(three_versions[2], "2").previous == "2"


def test_conflicting_killed_promotions_are_refused(three_versions):
    promotion_cut_off_after_its_first_alias("3", "d3")
    promotion_cut_off_after_its_first_alias(challenger("d4").version, "d4")
    with pytest.raises(PromotionRefused, match="champion is 2, previous is 2"):
        roll_back()


def test_a_quarantined_version_never_serves_again(three_versions):
    promote(three_versions[2], "2")
    roll_back()
    with pytest.raises(PromotionRefused, match="quarantined"):
        promote(three_versions[2], "2")
    assert registry.aliases(MODEL) == {"champion": "2"}


def test_champion_loads_by_alias_after_each_move(three_versions):
    for move in (lambda: promote(three_versions[2], "2"), roll_back):
        serving = move().champion
        assert registry.version(MODEL, "champion").version == serving
        assert version_files.load_scorer(registry.version(MODEL, "champion"), fresh=True)


def test_mlflow_refuses_an_alias_on_a_missing_version():
    """The test of a registry failure between two aliases relies on this."""
    register(CONFIG)
    with pytest.raises(MlflowException):
        registry.client().set_registered_model_alias(MODEL, "champion", "99")


@pytest.mark.usefixtures("prefect_server")
def test_flow_failure_undoes_the_promotion(three_versions):
    before = registry.aliases(MODEL)
    version = three_versions[2]

    @flow(name="promote then write")
    def promote_then_write(disk_is_full: bool) -> str:
        with transaction():
            promotion = promote_challenger(CONFIG, version, passed("3", "2"), "d3")
            if disk_is_full:
                raise OSError("disk full")
        return promotion.champion

    with pytest.raises(OSError, match="disk full"):
        promote_then_write(disk_is_full=True)
    assert registry.aliases(MODEL) == before
    assert promote_then_write(disk_is_full=False) == "3"
    assert registry.aliases(MODEL) == {"champion": "3", "previous": "2"}


def test_killed_return_is_completed_by_a_rerun(three_versions):
    back = replace(three_versions[0], decision_id="return-1")  # version 1, which an earlier decision had promoted
    before = registry.aliases(MODEL)
    registry.tag(MODEL, "1", move_from=json.dumps(before), move_by="return-1")
    registry.set_aliases(MODEL, {"previous": "2", "champion": "1"})
    promoted = promote(back, "2")
    assert (promoted.action, promoted.previous) == ("promoted", "2")
    assert registry.aliases(MODEL) == {"champion": "1", "previous": "2", "challenger": "3"}
    assert (status("1"), status("2")) == ("champion", "stale")
    assert promote(back, "2") == promoted


def test_repeated_promotion_after_a_rollback_changes_nothing(three_versions):
    promote(three_versions[2], "2")
    promote(challenger("d4"), "3")
    assert roll_back().champion == "3"
    again = promote(three_versions[2], "2")
    assert (again.action, again.champion, again.previous, again.reasons) == ("unchanged", "3", None, ())
