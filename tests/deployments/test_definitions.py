"""Definitions read from the files, and the plan of changes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from syrupy.extensions.json import JSONSnapshotExtension

from deployments.apply.definitions import INDEX, Definitions, read_definitions
from deployments.apply.plan import Definition, plan, summary
from deployments.cli import main
from deployments.config.blocks.alerts import SHARED_BLOCK
from deployments.config.blocks.schedule import Schedule
from deployments.config.folders import DEPLOYMENTS, available_models
from deployments.config.loading import load_model_config
from tasks.policy.records.errors import DeploymentError, ModelConfigError
from tests.support.deployed_models import churn, index_with, models
from tests.support.small_model import write_model


def schedules(definitions: Definitions, deployment: str) -> dict[str, dict[str, Any]]:
    found = next(item for item in definitions.deployments if item["name"] == deployment)
    return {schedule["slug"]: schedule for schedule in found["schedules"]}


def test_prefect_deploy_schedules_the_same_models():
    committed = yaml.safe_load(INDEX.read_text(encoding="utf-8"))["deployments"]
    assert {item["name"]: item.get("schedules", []) for item in committed} == {
        item["name"]: item["schedules"] for item in read_definitions().deployments
    }


def test_new_model_gets_default_schedules():
    definitions = read_definitions(models(churn()))
    assert schedules(definitions, "monitor")["churn"]["parameters"] == {"model": "churn"}
    assert schedules(definitions, "score")["churn"]["parameters"] == {"model": "churn"}
    assert "churn" not in schedules(definitions, "retrain")


def test_live_model_schedule_is_active():
    recorded = churn()
    live = churn(period=recorded.period.model_copy(update={"end": None}))
    assert schedules(read_definitions(models(recorded)), "monitor")["churn"]["active"] is False
    assert schedules(read_definitions(models(live)), "monitor")["churn"]["active"] is True


def test_schedule_in_prefect_yaml_overrides_the_default():
    definitions = read_definitions(models())
    assert schedules(definitions, "monitor")["air_time"]["cron"] == "30 6 * * *"


def test_live_model_has_an_alert_for_missing_monitoring():
    recorded = churn()
    live = churn(period=recorded.period.model_copy(update={"end": None}))
    missed = "perennial: notify that churn is not monitored"
    assert missed not in {each["name"] for each in read_definitions(models(recorded)).automations}
    (automation,) = [each for each in read_definitions(models(live)).automations if each["name"] == missed]
    assert automation["trigger"]["match"] == {"prefect.resource.id": "perennial.model.churn"}
    assert "no monitor run of churn ended" in automation["actions"][0]["body"]


def test_a_schedule_in_the_models_file_scores_and_monitor_follows():
    rule = {"cron": "0 7 1 * *", "timezone": "Europe/Berlin"}
    recorded = churn()
    monthly = churn(schedule=Schedule(**rule), period=recorded.period.model_copy(update={"end": None}))
    definitions = read_definitions(models(monthly))
    assert schedules(definitions, "score")["churn"] == {
        "slug": "churn", **rule, "active": True, "parameters": {"model": "churn"}
    }  # fmt: skip
    assert "churn" not in schedules(definitions, "monitor")
    alert = next(each for each in definitions.automations if each["name"].endswith("churn is not monitored"))
    assert alert["trigger"]["within"] == (31 * 24 + 1 + 6) * 3600, "October has an hour more in Berlin"
    assert "in the last 751 hours" in alert["actions"][0]["body"]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"cron": "0 25 * * *"}, "cron is '0 25 * * *' (Bad hour), expected five fields"),
        ({"cron": "0 6 * * *", "timezone": "Berlin"}, "timezone is 'Berlin', expected a name of the IANA database"),
    ],
)
def test_an_impossible_schedule_is_refused(schedule, words):
    with pytest.raises(ValidationError) as refused:
        Schedule(**schedule)
    assert words in str(refused.value)


def test_removed_model_has_no_schedule():
    definitions = read_definitions([load_model_config("air_time")])
    assert set(schedules(definitions, "monitor")) == {"air_time"}


@pytest.fixture
def own_models(tmp_path, monkeypatch) -> Path:
    """A models' folder of the user, beside deployments/."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("PERENNIAL_MODELS", str(folder))
    return folder


def model_file(path: Path, name: str) -> Path:
    return Path(shutil.move(write_model(path.parent, **{"name: small": f"name: {name}"}), path))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"customers": "churn"}, "{own}/customers.yaml: name is churn, expected customers, as runs find a model by the name of "
                                 "its file; rename it to churn.yaml, or write name: customers"),
        ({"churn": "churn", "copied": "churn"}, "{own}/copied.yaml: name is churn, expected copied, as runs find a model by "
                                                "the name of its file; {own}/churn.yaml is the file of churn; write name: copied"),
        ({"second": "air_time"}, "{own}/second.yaml: name is air_time, expected second, as runs find a model by the name of its "
                                 "file; {ours}/air_time.yaml is the file of air_time; write name: second"),
        ({"air_time": "air_time"}, "{ours}/air_time.yaml and {own}/air_time.yaml: both are the file of air_time, expected one, as "
                                   "runs would read only the first; rename one of the two models, in the file and in the file's "
                                   "name"),
    ],
)  # fmt: skip
def test_model_not_found_by_its_name_is_refused(own_models, files, words, capsys):
    for stem, name in files.items():
        model_file(own_models / f"{stem}.yaml", name)
    words = words.format(own=own_models, ours=DEPLOYMENTS)
    with pytest.raises(ModelConfigError) as refused:
        read_definitions()
    assert str(refused.value) == words
    assert main(["check"]) == 1
    assert capsys.readouterr().err == f"{words}\n"
    assert main(["check", str(own_models / f"{list(files)[-1]}.yaml")]) == 1


def test_file_passed_by_path_may_have_any_name(tmp_path, own_models):
    assert main(["check", str(model_file(tmp_path / "draft.yaml", "churn"))]) == 0


def test_linked_model_file_is_deployed(tmp_path, own_models):
    (own_models / "churn.yaml").symlink_to(model_file(tmp_path / "version-7.yaml", "churn"))
    assert "churn" in schedules(read_definitions(), "monitor")


def test_unset_variable_is_refused(tmp_path, monkeypatch):
    path = index_with(tmp_path, "name: perennial\n    job_variables", "name: '{{ $POOL_OF_OURS }}'\n    job_variables")
    with pytest.raises(DeploymentError, match="uses POOL_OF_OURS, which is not set"):
        read_definitions(models(), path)
    monkeypatch.setenv("POOL_OF_OURS", "perennial")
    assert read_definitions(models(), path).deployments


def test_automation_without_our_prefix_is_refused(tmp_path):
    path = index_with(tmp_path, '"perennial: promote a validated challenger"', '"promote a validated challenger"')
    with pytest.raises(
        DeploymentError, match="'promote a validated challenger', expected a name that begins with 'perennial: '"
    ):
        read_definitions(models(), path)


def test_invalid_entrypoint_is_named(tmp_path):
    from deployments.apply.prefect_definitions import wanted_definitions

    path = index_with(tmp_path, "flows.score.score", "flows.score.nothing")
    with pytest.raises(DeploymentError, match=r"deployment score is flows\.score\.nothing"):
        wanted_definitions(read_definitions(models(), path).routed({}))


def test_definitions_match_the_snapshot(snapshot):
    """A change of a deployment, form or automation is a reviewed diff; write it with `pytest --snapshot-update`."""
    from deployments.apply.prefect_definitions import wanted_definitions

    definitions = wanted_definitions(read_definitions().routed({SHARED_BLOCK: "the server's id"}))
    now = {f"{each.kind} {each.name}": dict(each.fields) for each in definitions}
    assert now == snapshot(extension_class=JSONSnapshotExtension)


# plan ----------------------------------------------------------------------------------------------------------------


def test_plan_lists_created_changed_and_removed():
    before = [Definition("schedule", "monitor a", {"cron": "0 6 * * *", "parameters": {"model": "a"}}, "id-a"),
              Definition("schedule", "monitor b", {"cron": "0 6 * * *"}, "id-b")]  # fmt: skip
    after = [Definition("schedule", "monitor a", {"cron": "0 7 * * *", "parameters": {"model": "c"}}),
             Definition("deployment", "monitor", {})]  # fmt: skip
    assert [str(change) for change in plan(after, before)] == [
        "created  deployment  monitor",
        "changed  schedule    monitor a: cron 0 6 * * * → 0 7 * * *; parameters.model a → c",
        "removed  schedule    monitor b",
    ]
    assert summary(after, plan(after, before)) == "1 created, 1 changed, 1 removed"


def test_plan_of_equal_definitions_is_empty():
    there = [Definition("schedule", "monitor a", {"cron": "0 6 * * *"}, "id-a")]
    wanted = [Definition("schedule", "monitor a", {"cron": "0 6 * * *"})]
    assert plan(wanted, there) == ()
    assert summary(wanted, ()) == "nothing to change: 1 schedule"


def test_changed_definition_keeps_its_server_id():
    there = [Definition("automation", "perennial: x", {"enabled": False}, "id-x")]
    (change,) = plan([Definition("automation", "perennial: x", {"enabled": True})], there)
    assert change.definition.identity == "id-x"


def test_apply_without_server_names_the_setting(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.apply.deploy import apply

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(DeploymentError, match="PREFECT_API_URL is not set"),
    ):
        apply(dry_run=True)


def test_a_folder_of_models_replaces_the_demo(own_models):
    model_file(own_models / "churn.yaml", "churn")
    assert available_models() == ("churn",)
    scheduled = {
        schedule["parameters"]["model"]
        for deployment in read_definitions().deployments
        for schedule in deployment["schedules"]
        if "model" in schedule.get("parameters", {})
    }
    assert scheduled == {"churn"}
    assert load_model_config("air_time").name == "air_time", "a command that names it still finds it"


def test_names_that_differ_only_in_their_hyphens_are_refused(own_models):
    for name in ("card-fraud", "card_fraud"):
        model_file(own_models / f"{name}.yaml", name)
    with pytest.raises(
        ModelConfigError, match="differ only in - and _, and Prefect's artifacts of both would have one name"
    ):
        read_definitions()
