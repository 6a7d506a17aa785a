"""Deployments on a real server match the files, and automations act as described."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import pytest

from deployments.apply.definitions import INDEX, read_definitions
from deployments.apply.pools import read_pool
from deployments.config.blocks.alerts import SHARED_BLOCK, Alerts
from deployments.config.model import ModelConfig
from tasks.policy.records.errors import DeploymentError
from tasks.policy.records.events import about
from tests.support.deployed_models import churn, index_with, models
from tests.support.deployed_runs import deployed_runs
from tests.support.inbox import inbox


@pytest.fixture(scope="module")
def client(prefect_server: None) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def deployed(client: Any) -> None:
    """Deploy the committed file with Prefect's own deploy, then apply."""
    from deployments.apply.deploy import apply
    from deployments.apply.server_state import PrefectState, deploy

    with PrefectState() as state:
        pool = read_pool("perennial")
        state.save_pool(pool, exists=pool.name in [there.name for there in client.read_work_pools()])
    deploy(INDEX)
    left = apply()
    assert sorted(str(change) for change in left) == [
        "created  automation  perennial: a crashed run is taken up again",
        "created  automation  perennial: a run that never began is queued again",
        "created  automation  perennial: a silent run has crashed",
        "created  limit       perennial-training-dedicated",
        "created  variable    perennial_model_air_time",
        "created  variable    perennial_model_flight_delay",
    ]


def await_until(condition: Any, seconds: float = 150) -> Any:
    """Wait for a condition; after a locked database, the server repeats an event to its automations after 60 s."""
    deadline = monotonic() + seconds
    while not (seen := condition()) and monotonic() < deadline:
        sleep(0.2)
    return seen


def runs_of(client: Any, model: str) -> list[Any]:
    return [run for run in deployed_runs(client) if run.parameters.get("model") == model]


def emit(event: str, model: str, **payload: Any) -> Any:
    from prefect.events import emit_event

    return emit_event(
        f"perennial.{event}", resource=about("perennial.model", model, payload), payload={"model": model, **payload}
    )


def hand_over(event: str, model: str, **payload: Any) -> None:
    """Emit an event as a deployed flow does: repeat it until the server has stored it."""
    from tasks.adapters.orchestration import delivery

    with suppress(delivery.NotDelivered):
        delivery.await_stored(emit(event, model, **payload).id)
        return
    delivery.await_stored(emit(event, model, **payload).id)


def test_applying_twice_changes_nothing(deployed, capsys):
    from deployments.apply.deploy import apply

    assert apply() == ()
    assert (
        "nothing to change: 1 work pool, 1 limit, 2 variables, 11 deployments, 5 schedules, 8 triggers, 3 automations"
        in capsys.readouterr().out
    )


def test_model_is_deployed_and_removed_with_its_file(deployed, client):
    from deployments.apply.deploy import apply

    def slugs() -> set[str]:
        return {schedule.slug for schedule in client.read_deployment_by_name("monitor/monitor").schedules}

    with_churn = read_definitions(models(churn()))
    planned = apply(dry_run=True, definitions=with_churn)
    assert [str(change) for change in planned] == [
        "created  variable    perennial_model_churn",
        "created  schedule    monitor churn",
        "created  schedule    score churn",
    ]
    assert slugs() == {"air_time", "flight_delay"}, "a dry run changed something"
    apply(definitions=with_churn)
    assert slugs() == {"air_time", "flight_delay", "churn"}
    removed = apply()
    assert [str(change) for change in removed] == [
        "removed  variable    perennial_model_churn",
        "removed  schedule    monitor churn",
        "removed  schedule    score churn",
    ]
    assert slugs() == {"air_time", "flight_delay"}


@pytest.mark.slow("applies every deployment several times")
def test_training_slots_follow_prefect_yaml(deployed, client, tmp_path):
    from deployments.apply.deploy import apply

    def limits() -> dict[str, int]:
        found = client.read_global_concurrency_limits(limit=200)
        return {each.name: each.limit for each in found if each.name.startswith("perennial")}

    assert limits() == {"perennial-training-dedicated": 1}
    more = read_definitions(models(), index_with(tmp_path, "    dedicated: 1\n", "    dedicated: 3\n"))
    assert [str(change) for change in apply(dry_run=True, definitions=more)] == [
        "changed  limit       perennial-training-dedicated: limit 1 → 3",
        "changed  deployment  retrain: concurrency.limit 1 → 3",
    ]
    assert limits() == {"perennial-training-dedicated": 1}, "a dry run changed something"
    apply(definitions=more)
    assert limits() == {"perennial-training-dedicated": 3}
    none = read_definitions(models(), index_with(tmp_path, "    dedicated: 1\n    gpu: 1\n", "    gpu: 1\n"))
    apply(definitions=none)
    assert limits() == {}
    assert [str(change) for change in apply()] == ["created  limit       perennial-training-dedicated"]


def test_keep_switches_preserves_dashboard_switches(deployed, client):
    from deployments.apply.deploy import apply

    deployment = client.read_deployment_by_name("monitor/monitor")
    schedule = next(each for each in deployment.schedules if each.slug == "air_time")

    def switch(active: bool, **more: Any) -> None:
        client.request(
            "PATCH", f"/deployments/{deployment.id}/schedules/{schedule.id}", json={"active": active, **more}
        )

    switch(True, parameters={"model": "air_time"})  # as the dashboard does
    assert apply(dry_run=True, keep_switches=True) == ()
    (change,) = apply(dry_run=True)
    assert str(change) == "changed  schedule    monitor air_time: active True → False"
    switch(False)  # as scripts do: Prefect then empties the schedule's parameters (PrefectHQ/prefect#17982)
    (change,) = apply(keep_switches=True)
    assert str(change) == "changed  schedule    monitor air_time: parameters.model none → air_time"
    assert apply(dry_run=True) == ()


def test_repeated_retrain_request_starts_one_run(deployed, client):
    for _ in range(5):
        emit("retraining.requested", "wanted", decision_id="0123456789abcdef", until="2013-06-05T00:00:00+00:00",
             reasons=["mae rose by 3 minutes", "drift"])  # fmt: skip
    emit("retraining.requested", "terse")
    assert await_until(lambda: runs_of(client, "wanted") and runs_of(client, "terse"))
    sleep(2)  # time for a second run to appear
    (run,) = runs_of(client, "wanted")
    assert run.deployment_id == client.read_deployment_by_name("retrain/retrain").id
    assert run.parameters == {
        "model": "wanted",
        "until": "2013-06-05T00:00:00+00:00",
        "decision_id": "0123456789abcdef",
        "reason": "mae rose by 3 minutes",
        "requested_by": "automation",
    }
    (terse,) = runs_of(client, "terse")
    assert terse.parameters == {
        "model": "terse", "until": None, "decision_id": None, "reason": "perennial.retraining.requested", "requested_by": "automation",
    }  # fmt: skip


def test_two_decisions_start_two_runs(deployed, client):
    decisions = {"00000000aaaaaaaa", "00000000bbbbbbbb"}
    for _ in range(3):
        for decision in sorted(decisions):
            emit("challenger.validated", "hurried", decision_id=decision, until="2013-06-05T00:00:00+00:00")
    assert await_until(lambda: len(runs_of(client, "hurried")) >= 2)
    sleep(2)  # time for a third run to appear
    asked = [run.parameters["decision_id"] for run in runs_of(client, "hurried")]
    assert sorted(asked) == sorted(decisions)


def test_events_start_promotion_scoring_and_monitoring(deployed, client):
    hand_over(
        "challenger.validated",
        "proven",
        decision_id="0123456789abcdef",
        until="2013-06-05T00:00:00+00:00",
        reasons=["ok"],
    )
    hand_over("data.landed", "fresh", until="2013-06-05T00:00:00+00:00")
    hand_over("window.scored", "scored", until="2013-06-05T00:00:00+00:00")
    assert await_until(lambda: runs_of(client, "proven") and runs_of(client, "fresh") and runs_of(client, "scored"))
    (promotion,), (scoring,), (monitoring,) = (runs_of(client, model) for model in ("proven", "fresh", "scored"))
    assert promotion.deployment_id == client.read_deployment_by_name("promote/promote").id
    assert promotion.parameters == {
        "model": "proven",
        "until": "2013-06-05T00:00:00+00:00",
        "decision_id": "0123456789abcdef",
    }
    assert scoring.deployment_id == client.read_deployment_by_name("score/score").id
    assert scoring.parameters == {"model": "fresh", "until": "2013-06-05T00:00:00+00:00"}
    assert monitoring.deployment_id == client.read_deployment_by_name("monitor/monitor").id
    assert monitoring.parameters == {"model": "scored", "until": "2013-06-05T00:00:00+00:00"}


def test_both_questions_of_a_rollout_start_a_run_within_a_minute(deployed, client):
    """Approval and promotion belong to one decision; a reminder of the second starts nothing more."""
    for request in ("0123456789abcdef-awaiting_approval-0", "0123456789abcdef-passed-2", "0123456789abcdef-passed-2"):
        hand_over("rollout.ready", "staged", decision_id="0123456789abcdef", request=request, reasons=["ready"])
    assert await_until(lambda: len(runs_of(client, "staged")) == 2)
    sleep(2)  # time for a third run to appear
    assert len(runs_of(client, "staged")) == 2


def test_degraded_champion_starts_a_rollback(deployed, client):
    hand_over("champion.degraded", "fallen", decision_id="0123456789abcdef", champion="7", reasons=["it is worse"])
    (run,) = await_until(lambda: runs_of(client, "fallen"))
    assert run.deployment_id == client.read_deployment_by_name("rollback/rollback").id
    assert run.parameters == {
        "model": "fallen", "until": None, "decision_id": "0123456789abcdef", "reason": "it is worse", "requested_by": "automation", "champion": "7",
    }  # fmt: skip


def test_expired_approval_starts_one_more_run(deployed, client):
    import inspect

    from prefect import flow
    from prefect.server.services import pause_expirations
    from prefect.states import Failed, Running

    out_of_time = "The flow was paused and never resumed."
    assert out_of_time in inspect.getsource(pause_expirations), "Prefect's message changed: fix the trigger"

    deployment = client.read_deployment_by_name("promote/promote")
    parameters = {"model": "unheard", "decision_id": "0123456789abcdef", "until": "2013-06-05T00:00:00Z"}
    late, broken = (
        client.create_flow_run_from_deployment(deployment.id, parameters={**parameters, "model": model})
        for model in ("unheard", "broken")
    )
    foreign = client.create_flow_run(
        flow(lambda model: model, name="ship"), parameters={"model": "foreign"}, tags=["promote"]
    )
    for run in (late, broken, foreign):
        client.set_flow_run_state(run.id, Running(), force=True)
    client.set_flow_run_state(foreign.id, Failed(message=out_of_time), force=True)
    client.set_flow_run_state(broken.id, Failed(message="the registry is gone"), force=True)
    client.set_flow_run_state(
        late.id, Failed(message=out_of_time), force=True
    )  # the test server does not run this service
    again = await_until(lambda: len(runs_of(client, "unheard")) > 1 and runs_of(client, "unheard"))
    (second,) = [run for run in again if run.id != late.id]
    assert {name: second.parameters[name] for name in ("model", "decision_id", "until")} == parameters
    assert second.created_by.type == "AUTOMATION"
    assert len(runs_of(client, "broken")) == 1, "a run that failed by itself was started again"
    assert not runs_of(client, "foreign"), "another project's promotion is ignored"


def test_subflow_events_are_left_to_the_caller(deployed, client):
    from prefect import flow, task

    from tasks.adapters.orchestration import events as announcements

    @task
    def tell(model: str) -> None:
        announcements.announce("retraining.requested", model, {"model": model})

    @flow
    def inner(model: str) -> None:
        tell(model)

    @flow
    def outer() -> None:
        inner("recorded")

    outer()
    inner("live")
    assert await_until(lambda: [run for run in runs_of(client, "live") if run.deployment_id])
    assert not [run for run in runs_of(client, "recorded") if run.deployment_id]


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def remove_blocks(client: Any) -> None:
    from deployments.alerts.delivery import server_blocks

    for identity in set(server_blocks(client).values()):
        client.delete_block_document(UUID(identity))


def test_alerts_contain_the_decisions_reasons(deployed, client, tmp_path):
    from deployments.apply.deploy import apply

    with inbox() as (address, received):
        file = secret(tmp_path / "alerts", f"http://{address}/")
        file.chmod(0o644)
        with pytest.raises(DeploymentError, match="others may read it"):
            apply(alerts_file=file)
        file.chmod(0o600)
        try:
            assert [change.verb for change in apply(alerts_file=file)] == ["created"] * 13
            assert apply(alerts_file=file) == ()
            emit("window.quarantined", "broken", reasons=["12 % of carrier is null", "limit 5 %"])
            assert await_until(lambda: received)
            subject, body = "broken: a window was quarantined", "12 % of carrier is null\nlimit 5 %"
            assert received == [{"subject": subject, "body": body, "text": f"{subject}\n{body}"}]
        finally:
            remove_blocks(client)
    assert [change.verb for change in apply()] == ["removed"] * 13


def test_each_models_alerts_reach_its_own_people(deployed, client, tmp_path, capsys):
    """Three inboxes: of churn's people, of spam's, and the shared one. A failed run also reaches the shared one."""
    from prefect import flow
    from prefect.states import Failed, Running

    from deployments.apply.deploy import apply
    from deployments.cli import main

    def own(name: str, block: str) -> ModelConfig:
        return churn(name=name, alerts=Alerts(critical=(f"custom-webhook/{block}",), warning=()))

    definitions = read_definitions(models(own("churn", "churn-people"), own("spam", "spam-people")))
    with inbox() as (of_churn, churn_got), inbox() as (of_spam, spam_got), inbox() as (shared, shared_got):
        try:
            apply(definitions=definitions, alerts_file=secret(tmp_path / "shared", f"http://{shared}/"))
            lacking = "churn.yaml: alerts.critical names custom-webhook/churn-people, which does not exist"
            create = "create it: perennial alerts add custom-webhook/churn-people --from FILE"
            shown = capsys.readouterr().out
            assert lacking in shown and create in shown
            for block, address in (("churn-people", of_churn), ("spam-people", of_spam)):
                file = secret(tmp_path / block, f"http://{address}/")
                assert main(["alerts", "add", f"custom-webhook/{block}", "--from", str(file)]) == 0
            apply(definitions=definitions)
            assert "does not exist" not in capsys.readouterr().out
            assert apply(definitions=definitions) == ()

            emit("champion.degraded", "churn", decision_id="0123456789abcdef", champion="7", reasons=["it is worse"])
            emit("champion.degraded", "air_time", decision_id="0123456789abcdef", champion="3", reasons=["worse too"])
            emit("window.quarantined", "churn", reasons=["nobody wants to know"])
            failed = client.create_flow_run(
                flow(lambda model: model, name="monitor"), name="monitor spam until 2024-01-01", parameters={"model": "spam"},
                tags=["perennial", "monitor"],
            )  # fmt: skip
            client.set_flow_run_state(failed.id, Running(), force=True)
            client.set_flow_run_state(failed.id, Failed(message="the lake is gone"), force=True)
            assert await_until(lambda: churn_got and spam_got and len(shared_got) >= 2)
            sleep(2)  # time for a message to the wrong people
            assert [each["subject"] for each in churn_got] == ["churn: the new champion is worse than the previous one"]
            assert [each["subject"] for each in spam_got] == ["monitor spam until 2024-01-01: Failed"]
            assert {each["subject"] for each in shared_got} == {
                "air_time: the new champion is worse than the previous one",
                "monitor spam until 2024-01-01: Failed",
            }
        finally:
            remove_blocks(client)
            apply()


def test_ambiguous_alert_block_is_refused(deployed, client, tmp_path):
    from prefect.blocks.notifications import SlackWebhook

    from deployments.apply.deploy import apply

    file = secret(tmp_path / "alerts", "https://chat.example/hook")
    block = SlackWebhook(url="https://hooks.slack.com/services/a/b/c").save(SHARED_BLOCK)
    refusal = r"has a block named perennial-alerts of type slack-webhook, expected custom-webhook, or none yet"
    try:
        for dry_run in (True, False):
            with pytest.raises(DeploymentError, match=refusal):
                apply(dry_run=dry_run, alerts_file=file)
        assert [change.verb for change in apply(dry_run=True)] == ["created"] * 13, "the existing block is used"
    finally:
        client.delete_block_document(block)


def test_server_state_is_read_across_pages(deployed, client, monkeypatch):
    from prefect.blocks.notifications import SlackWebhook
    from prefect.client.schemas.actions import VariableCreate

    from deployments.apply.deploy import apply
    from deployments.apply.server_state import PrefectState

    for number in range(201):
        client.create_variable(VariableCreate(name=f"a_strangers_{number}", value=number))
    blocks = [SlackWebhook(url="https://chat.example/hook").save(name) for name in ("a-strangers", "perennial-alerts")]
    try:
        assert {change.definition.kind for change in apply(dry_run=True)} == {"automation"}, (
            "the automations that notify people"
        )
        with PrefectState() as state:
            everything = state.found_definitions(("perennial",))
            monkeypatch.setattr("deployments.apply.server_state.PAGE", 2)  # so that nothing fits into one response
            assert {each.key for each in state.found_definitions(("perennial",))} == {each.key for each in everything}
            assert state.blocks()[SHARED_BLOCK] == str(blocks[1])
    finally:
        for number in range(201):
            client.delete_variable_by_name(f"a_strangers_{number}")
        for block in blocks:
            client.delete_block_document(block)


@pytest.mark.slow("starts a server of its own")
def test_dry_run_on_an_empty_server_shows_plan_and_unpolled_queues(tmp_path_factory, monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.apply.deploy import apply
    from tasks.adapters.orchestration.server import running_server, wait_until_healthy
    from tasks.adapters.storage.workspace import workspace

    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path_factory.mktemp("fresh")))
    with running_server(workspace()) as server:
        wait_until_healthy(server["PREFECT_API_URL"])
        with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
            changes = apply(dry_run=True)
    assert {change.verb for change in changes} == {"created"}
    assert "no worker polls queue default of work pool perennial" in capsys.readouterr().out


def test_run_of_a_dead_process_is_requeued(deployed, client, monkeypatch):
    from prefect.settings import get_current_settings
    from prefect.states import Running

    from tasks.adapters.orchestration.requeue import POOL, WORKER_LABEL, requeue_orphaned_runs, worker_name

    monkeypatch.setattr("tasks.adapters.orchestration.requeue.PAGE", 1)  # one run per response
    deployment = client.read_deployment_by_name("score/score")
    own = worker_name(POOL, ())
    taken_by = {"gone": own, "lives": own, "elsewhere": f"{POOL}-other-host", "gone as well": own}
    runs = {}
    for name, worker in taken_by.items():
        run = runs[name] = client.create_flow_run_from_deployment(deployment.id, parameters={"model": "any"})
        client.set_flow_run_state(run.id, Running(), force=True)
        client.update_flow_run(run.id, infrastructure_pid=str(os.getpid()) if name == "lives" else "999999999")
        client.update_flow_run_labels(run.id, {WORKER_LABEL: worker})
    assert requeue_orphaned_runs(str(get_current_settings().api.url)) == 2
    states = {name: client.read_flow_run(run.id).state.name for name, run in runs.items()}
    back = "AwaitingRetry"
    assert states == {"gone": back, "lives": "Running", "elsewhere": "Running", "gone as well": back}


@pytest.mark.parametrize(
    ("pool", "pids", "back"),
    [
        ("perennial", {f"{gethostname()}:999999999": True, "999999999": True, None: True}, 3),
        ("perennial", {"other-host:999999999": False, "http+docker://localhost:9f3c": False}, 0),
        ("perennial", {f"{gethostname()}:{os.getpid()}": False, str(os.getpid()): False}, 0),
        ("perennial-docker", {"http+docker://localhost:9f3c": False, "999999999": False, None: False}, 0),
    ],
)
def test_only_local_processes_are_considered_dead(deployed, client, pool, pids, back):
    from prefect.settings import get_current_settings
    from prefect.states import Running

    from deployments.apply.server_state import PrefectState
    from tasks.adapters.orchestration.requeue import WORKER_LABEL, requeue_orphaned_runs, worker_name

    if pool != "perennial":
        with PrefectState() as state:
            state.save_pool(read_pool(pool), exists=False)
    flow = client.read_deployment_by_name("score/score").flow_id
    deployment = client.create_deployment(flow, name="held", entrypoint="flows.score.score", work_pool_name=pool)
    runs = {}
    for pid in pids:
        run = runs[pid] = client.create_flow_run_from_deployment(deployment, parameters={"model": "any"})
        client.set_flow_run_state(run.id, Running(), force=True)
        client.update_flow_run(run.id, infrastructure_pid=pid)
        client.update_flow_run_labels(run.id, {WORKER_LABEL: worker_name(pool, ())})
    try:
        assert requeue_orphaned_runs(str(get_current_settings().api.url), pool) == back
        assert {pid: client.read_flow_run(run.id).state.name == "AwaitingRetry" for pid, run in runs.items()} == pids
    finally:
        for run in runs.values():
            client.delete_flow_run(run.id)
        client.delete_deployment(deployment)
        if pool != "perennial":
            client.delete_work_pool(pool)


def test_unnamed_run_is_requeued_only_without_other_workers(deployed, client):
    from prefect.settings import get_current_settings
    from prefect.states import Pending

    from tasks.adapters.orchestration.requeue import POOL, requeue_orphaned_runs

    api_url = str(get_current_settings().api.url)
    deployment = client.read_deployment_by_name("score/score")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"model": "any"})
    client.set_flow_run_state(run.id, Pending(), force=True)
    client.send_worker_heartbeat(POOL, f"{POOL}-other-host", heartbeat_interval_seconds=30)
    assert requeue_orphaned_runs(api_url) == 0
    client.request(
        "DELETE",
        "/work_pools/{work_pool_name}/workers/{name}",
        path_params={"work_pool_name": POOL, "name": f"{POOL}-other-host"},
    )
    assert requeue_orphaned_runs(api_url) == 1
