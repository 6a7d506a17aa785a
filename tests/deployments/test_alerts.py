"""Who gets which alerts: routing, blocks from files, and test messages that a real local server receives."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.alerts.blocks import named_blocks, save_block, types
from deployments.alerts.routing import notifies
from deployments.apply.definitions import read_definitions
from deployments.cli import main
from deployments.config.blocks.alerts import SEVERITIES, SHARED_BLOCK, Alerts
from deployments.config.description import describe
from deployments.config.fleet import load_fleet_config
from deployments.config.loading import load_model_config
from tasks.policy.records.errors import DeploymentError, ModelConfigError
from tests.support.deployed_models import churn, index_with, models
from tests.support.inbox import inbox
from tests.support.small_model import write_model
from tests.support.ways_in import example

SLACK, PAGER = "slack-webhook/ml-team", "pager-duty-webhook/on-call"
ALL = {SHARED_BLOCK: "0", SLACK: "1", PAGER: "2"}


# routing -------------------------------------------------------------------------------------------------------------


def routed(*own: Any, blocks: dict[str, str] = ALL) -> dict[str, Any]:
    """The automations that notify, by name."""
    definitions = read_definitions(models(*own)).routed(blocks)
    return {each["name"].removeprefix("perennial: notify "): each for each in definitions.automations if notifies(each)}


def matched(automation: Any, label: str = "prefect.resource.id") -> Any:
    return automation["trigger"]["match"][label]


def test_without_alerts_one_block_gets_everything_whatever_the_number_of_models():
    recorded = churn()
    few, many = routed(), routed(*(recorded.model_copy(update={"name": f"model_{number}"}) for number in range(1000)))
    assert few == many
    assert len(few) == 13
    assert {action["block_document_id"] for each in few.values() for action in each["actions"]} == {SHARED_BLOCK}
    assert matched(few["about a degraded champion"]) == "perennial.model.*"
    assert not routed(blocks={})


def test_a_model_with_alerts_gets_its_own_and_the_others_keep_the_shared_block():
    found = routed(churn(alerts=Alerts(critical=(PAGER, SLACK), warning=(SLACK,))))
    assert matched(found["about a degraded champion"]) == ["perennial.model.air_time", "perennial.model.flight_delay"]
    for block in (PAGER, SLACK):
        own = found[f"about a degraded champion ({block})"]
        assert matched(own) == ["perennial.model.churn"]
        assert [action["block_document_id"] for action in own["actions"]] == [block]
    assert f"about a quarantined window ({PAGER})" not in found
    assert matched(found[f"about a quarantined window ({SLACK})"]) == ["perennial.model.churn"]
    assert matched(found["about a rollout that ended"]) == "perennial.model.*", "info is left out, so it is shared"


def test_models_that_share_a_block_share_its_automations():
    one = churn(alerts=Alerts(critical=(PAGER,)))
    own = [one.model_copy(update={"name": f"model_{number}"}) for number in range(1000)]
    found = routed(*own)
    assert len(found) == 13 + 2, "a degraded champion and a failed run, once for all"
    assert len(matched(found[f"about a degraded champion ({PAGER})"])) == 1000


def test_failed_runs_reach_the_models_own_block_and_the_shared_one():
    found = routed(churn(alerts=Alerts(critical=(PAGER,))))
    assert "prefect.resource.name" not in found["about a failed run"]["trigger"]["match"]
    names = matched(found[f"about a failed run ({PAGER})"], "prefect.resource.name")
    assert {"monitor churn", "monitor churn *", "retrain churn *"} <= set(names)
    assert "monitor churn*" not in names, "which churn_2 would match as well"
    assert f"about a failed automation ({PAGER})" not in found


def test_an_empty_list_sends_nothing():
    found = routed(churn(alerts=Alerts(critical=(), warning=(), info=())))
    for name, automation in found.items():
        if "failed" not in name:
            assert "perennial.model.churn" not in matched(automation), name


def test_a_missing_monitor_run_is_one_automation_with_each_block():
    recorded = churn(alerts=Alerts(critical=(PAGER, SLACK)))
    live = recorded.model_copy(update={"period": recorded.period.model_copy(update={"end": None})})
    actions = routed(live)["that churn is not monitored"]["actions"]
    assert [action["block_document_id"] for action in actions] == [PAGER, SLACK]


def test_alerts_for_blocks_that_do_not_exist_go_to_the_shared_one():
    found = routed(churn(alerts=Alerts(critical=(PAGER,))), blocks={SHARED_BLOCK: "0"})
    assert found == routed()
    audience = read_definitions(models(churn(alerts=Alerts(critical=(PAGER,))))).audience.on({SHARED_BLOCK: "0"})
    assert audience.missing() == (("churn.yaml", "critical", PAGER),)


def test_fleet_alerts_replace_the_shared_block(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    write_model(tmp_path)
    (tmp_path / "fleet.yaml").write_text(f"alerts: {{critical: [{PAGER}]}}\n")
    definitions = read_definitions().routed(ALL)
    found = {each["name"]: each for each in definitions.automations if notifies(each)}
    assert "perennial: notify about a degraded champion" not in found
    assert matched(found[f"perennial: notify about a degraded champion ({PAGER})"]) == "perennial.model.*"
    assert matched(found["perennial: notify about a quarantined window"]) == "perennial.model.*"
    (tmp_path / "fleet.yaml").write_text("alerts: {critical: [on-call]}\n")
    with pytest.raises(ModelConfigError, match="alerts with lists of blocks, such as slack-webhook/ml-team"):
        load_fleet_config()


def test_the_shared_block_has_one_name_even_with_its_type():
    found = routed(
        churn(alerts=Alerts(critical=(f"custom-webhook/{SHARED_BLOCK}",))),
        blocks={SHARED_BLOCK: "0", f"custom-webhook/{SHARED_BLOCK}": "0"},
    )
    assert found == routed()
    documents = [{"id": "0", "name": SHARED_BLOCK, "block_type": {"slug": "custom-webhook"}}]
    assert named_blocks(iter(documents)) == {SHARED_BLOCK: "0", f"custom-webhook/{SHARED_BLOCK}": "0"}


def test_a_notification_without_severity_is_refused(tmp_path):
    path = index_with(
        tmp_path,
        '          severity: info\n          subject: "{{ event.payload.model }}: a validated',
        '          subject: "{{ event.payload.model }}: a validated',
    )
    with pytest.raises(DeploymentError, match="has severity None, expected one of critical, warning, info"):
        read_definitions(models(), path).routed(ALL)


# the model's file ----------------------------------------------------------------------------------------------------


def test_the_example_is_a_valid_block(tmp_path):
    config = load_model_config(
        write_model(tmp_path, **{"rollout: {mode: none}\n": f"rollout: {{mode: none}}\n{example('alerts')}"})
    )
    assert config.alerts == Alerts(critical=(PAGER, SLACK), warning=(SLACK,), info=())
    assert (
        f"sends critical alerts to {PAGER} and {SLACK}, warning alerts to {SLACK}, and info alerts to no one."
        in describe(config)
    )


def test_alerts_change_no_id(tmp_path):
    plain = load_model_config(write_model(tmp_path))
    own = plain.model_copy(update={"alerts": Alerts(critical=(PAGER,))})
    assert plain.fingerprint == own.fingerprint
    assert "alerts" not in plain.model_dump(mode="json")


@pytest.mark.parametrize("entry", ["on-call", "slack webhook/x", "https://hooks.slack.com/services/a/b/c"])
def test_what_is_no_block_is_refused(tmp_path, entry):
    alerts = f"rollout: {{mode: none}}\nalerts: {{critical: ['{entry}']}}\n"
    with pytest.raises(ModelConfigError, match=r"alerts\.critical"):
        load_model_config(write_model(tmp_path, **{"rollout: {mode: none}\n": alerts}))


# blocks --------------------------------------------------------------------------------------------------------------


def secret(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def examples(tmp_path, monkeypatch, prefect_server) -> Iterator[list[str]]:
    """The commands of the page, in a folder with their files; the blocks are removed afterwards."""
    from prefect.client.orchestration import get_client

    from deployments.alerts.delivery import server_blocks

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path / "models"))
    path = Path(
        write_model(
            tmp_path / "models",
            **{
                "name: small": "name: churn",
                "rollout: {mode: none}\n": f"rollout: {{mode: none}}\n{example('alerts')}",
            },
        )
    )
    path.rename(path.with_stem("churn"))
    secret(tmp_path, "slack.txt", "https://hooks.slack.com/services/T123AAAA1/B12345678/abcdefghijklmnopqrstuvwx\n")
    secret(tmp_path, "pager.yaml", example("alerts", "yaml", 1))
    yield [line.removeprefix("perennial ") for line in example("alerts", "console").splitlines()]
    with get_client(sync_client=True) as client:
        for identity in set(server_blocks(client).values()):
            client.delete_block_document(identity)


def test_the_commands_of_the_page_create_blocks_whose_test_messages_arrive(examples, monkeypatch, capfd):
    from prefect.blocks.notifications import SlackWebhook

    add_slack, add_pager, apply, test = (line.split() for line in examples)
    assert apply == ["apply"], "tests/deployments/test_deployments.py runs it"
    assert main(test) == 1
    assert (
        f"critical  {PAGER}: does not exist; create it: perennial alerts add {PAGER} --from FILE"
        in capfd.readouterr().out
    )
    assert main(add_slack) == main(add_pager) == 0
    with inbox() as (address, received):
        monkeypatch.setattr("apprise.plugins.pagerduty.PAGERDUTY_API_LOOKUP", {"us": f"http://{address}/pager"})
        SlackWebhook(url=f"json://{address}/slack").save("ml-team", overwrite=True)
        capfd.readouterr()
        assert main(test) == 0
        shown = capfd.readouterr().out
        assert shown == f"critical  {PAGER}: delivered\ncritical  {SLACK}: delivered\nwarning   {SLACK}: delivered\n"
        pager, first, second = received
        assert "churn: test of critical alerts" in json.dumps(pager)
        assert (pager["routing_key"], pager["payload"]["severity"]) == ("0123456789abcdef0123456789abcdef", "critical")
        assert [each["title"] for each in (first, second)] == [
            "churn: test of critical alerts",
            "churn: test of warning alerts",
        ]

        SlackWebhook(url=f"json://{address}/refused/5ecret").save("ml-team", overwrite=True)
        assert main(test) == 1
        out, err = capfd.readouterr()
        assert f"critical  {PAGER}: delivered\ncritical  {SLACK}: failed: the service did not accept the message" in out
        assert "5ecret" not in out + err


@pytest.mark.usefixtures("examples")
def test_a_custom_webhook_says_why_a_message_failed_and_no_address(tmp_path, capfd):
    path = tmp_path / "models" / "churn.yaml"
    path.write_text(
        path.read_text().replace(
            example("alerts"), "alerts: {critical: [custom-webhook/pager], warning: [], info: []}\n"
        )
    )
    with inbox() as (address, received):
        for where, outcome in (("ok", "delivered"), ("refused", "failed: the service answered 404")):
            file = secret(tmp_path, "webhook", f"http://{address}/{where}/5ecret")
            assert main(["alerts", "add", "custom-webhook/pager", "--from", str(file)]) == 0
            assert main(["alerts", "test", "--model", "churn"]) == (outcome != "delivered")
            out, err = capfd.readouterr()
            assert f"critical  custom-webhook/pager: {outcome}\n" in out
            assert "5ecret" not in out + err
    assert received[0]["subject"] == "churn: test of critical alerts"
    assert main(["alerts", "test", "--model", "churn"]) == 1
    out, err = capfd.readouterr()
    assert "failed: the service cannot be reached (ConnectError)" in out
    assert "5ecret" not in out + err


@pytest.mark.usefixtures("examples")
def test_a_secret_may_come_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", StringIO("https://chat.example/hooks/5ecret\n"))
    assert main(["alerts", "add", "custom-webhook/pager", "--from", "-"]) == 0
    assert capsys.readouterr().out == "custom-webhook/pager is saved\n"


@pytest.mark.parametrize(
    ("block", "text", "words"),
    [
        (
            "pagerduty-webhook/on-call",
            "x",
            "did you mean pager-duty-webhook/on-call? Prefect's own types are custom-webhook,",
        ),
        ("slack-webhook", "x", "slack-webhook: expected TYPE/NAME, such as slack-webhook/ml-team"),
        (
            "slack-webhook/Bad_Name!",
            "https://chat.example/5ecret",
            "name is 'Bad_Name!', expected lower-case letters, digits",
        ),
        ("slack-webhook/x", "hooks.example/5ecret", "expected one address that begins with https://"),
        ("slack-webhook/x", "https://chat.example/5ecret", "Prefect's block cannot use it"),
        (
            "pager-duty-webhook/x",
            "{integration_key: 5ecret, api_key: key, notify_type: 5ecret}",
            "Prefect's block refuses notify_type (literal_error)",
        ),
        ("opsgenie-webhook/x", "{apikey: 5ecret, priority: 5ecret}", "Prefect's block refuses priority (int_parsing)"),
        ("ms-teams-webhook/x", "https://chat.example/5ecret", "Prefect's block cannot use it"),
        ("custom-webhook/x", "5ecret 5ecret", "expected one address that begins with https://"),
        ("pager-duty-webhook/x", "https://chat.example/5ecret", "expected lines of YAML with integration_key, api_key"),
        ("pager-duty-webhook/x", "integration_key: 5ecret", "Prefect's block refuses api_key (missing)"),
        ("pager-duty-webhook/x", "{integration_key: ' ', api_key: 5ecret}", "Prefect's block cannot use it"),
        ("sendgrid-email/x", "api_key: [5ecret", "expected lines of YAML with api_key, sender_email, to_emails"),
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(tmp_path, block, text, words, caplog, capfd):
    with pytest.raises(DeploymentError) as refused:
        save_block(block, secret(tmp_path, "file", text))
    assert words in str(refused.value)
    assert "5ecret" not in "".join((str(refused.value), caplog.text, *capfd.readouterr()))


def test_a_file_that_others_can_read_is_refused(tmp_path):
    file = secret(tmp_path, "file", "https://chat.example/5ecret")
    file.chmod(0o640)
    with pytest.raises(DeploymentError, match="others may read it, expected only its owner to; run: chmod 600"):
        save_block("custom-webhook/x", file)


def test_the_page_names_types_that_prefect_has():
    named = {block.split("/")[0] for blocks in yaml.safe_load(example("alerts"))["alerts"].values() for block in blocks}
    assert named | {"ms-teams-webhook", "custom-webhook", "sendgrid-email"} <= set(types())
    assert set(yaml.safe_load(example("alerts"))["alerts"]) == set(SEVERITIES)
