"""The application: who answers, what clients see when a version fails, limits, the key and the metrics."""

import gzip
import json
import math
from dataclasses import replace

import pyarrow as pa
import pytest

from infra.gateway import server
from infra.gateway.application import ApiKey
from infra.gateway.requests import MAX_BODY_BYTES
from infra.gateway.shadows import MOST_WAITING
from infra.gateway.versions import ServedVersion
from tasks.adapters import lake, registry
from tasks.adapters.evaluation.prediction_log import arms_of
from tasks.adapters.evaluation.rollout_evidence import arm_statistics
from tasks.policy.comparison.guardrails import GuardrailEvidence, Guardrails, judge_guardrails
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import GatewayError
from tasks.policy.rollout.traffic import position
from tests.support.gateway import NAME, ROW, ask, gateway_of, prepare, request, split_traffic, wait_for
from tests.support.trained_models import make_config, prepare_registry

AT = "2024-05-02T10:00:00Z"
CANARY = {"mode": "canary", "share": 0.5}
ROWS = [ROW | {"id": f"r{number}", "x": number / 10, "time": AT} for number in range(40)]


@pytest.fixture
def config(workspace):
    return prepare(workspace)


def predicted(number: str, *rows) -> list[float]:
    """Predictions of a version, by its scorer."""
    columns = {name: [row[name] for row in rows] for name in ("x", "noise", "colour", "flag")}
    scorer = registry.version_files.load_scorer(registry.version(NAME, number))
    return scorer.predict(pa.table(columns)).tolist()


def logged(gateway, at: str = AT) -> pa.Table:
    """Land the log and read it from the lake."""
    service = gateway.services[NAME]
    service.predict_shadows()
    service.log.close_segment()
    service.log.land()
    return lake.read_predictions(service.follower.config, service.follower.config.window_at(utc(at)))


class Broken:
    """An estimator that raises or returns a constant."""

    def __init__(self, outcome) -> None:
        self.outcome = outcome

    def predict_proba(self, matrix):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return [[0.0, self.outcome]] * len(matrix)


def break_version(gateway, role: str, outcome) -> None:
    """Let the version with this role fail from now on."""
    follower = gateway.services[NAME].follower
    version = getattr(follower.serving, role)
    fails = ServedVersion(version.number, replace(version.scorer, pipeline=[Broken(outcome)]), version.encoder)
    follower.serving = replace(follower.serving, **{role: fails})


def by_role(log: pa.Table) -> dict[str, int]:
    return {role: log["role"].to_pylist().count(role) for role in set(log["role"].to_pylist())}


def test_the_champion_answers_as_its_scorer_and_is_logged(config):
    gateway = gateway_of(config)
    answer = ask(gateway, ROWS[0], ROWS[1] | {"x": None})
    assert answer.json() == {"predictions": predicted("1", ROWS[0], ROWS[1] | {"x": None})}
    assert answer.headers["x-model-version"] == "1"
    log = logged(gateway)
    assert log.select(["id", "model_version", "role", "step", "error"]).to_pylist() == [
        {"id": each, "model_version": "1", "role": "champion", "step": "", "error": None} for each in ("r0", "r1")
    ]
    assert log["prediction"].to_pylist() == answer.json()["predictions"]
    assert set(log["request_id"].to_pylist()) == {answer.headers["x-request-id"]}
    assert all(0 < seconds < 1 for seconds in log["latency_s"].to_pylist())
    assert set(log["time"].to_pylist()) == {utc(AT)}


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_are_answered_and_logged(workspace, task):
    gateway = gateway_of(prepare(workspace, task, versions=1))
    answer = ask(gateway, ROWS[0]).json()["predictions"]
    assert len(answer) == 1
    service = next(iter(gateway.services.values()))
    service.log.close_segment()
    assert service.log.land() == 1
    config = service.follower.config
    assert lake.read_predictions(config, config.window_at(utc(AT)))["prediction"].to_pylist() == answer


def test_the_challenger_answers_the_units_of_its_share(config):
    split = split_traffic(config, **CANARY)
    gateway = gateway_of(config)
    answer = ask(gateway, *ROWS)
    roles = [split.role_of(row["id"]) for row in ROWS]
    assert {"champion", "challenger"} == set(roles)
    both = zip(roles, predicted("1", *ROWS), predicted("2", *ROWS), strict=True)
    assert answer.json()["predictions"] == [ours if role == "champion" else other for role, ours, other in both]
    assert answer.headers["x-model-version"] == "1,2"
    log = {row["id"]: (row["role"], row["model_version"], row["step"]) for row in logged(gateway).to_pylist()}
    expected = {"champion": ("champion", "1", "canary 50 %"), "challenger": ("challenger", "2", "canary 50 %")}
    assert log == {row["id"]: expected[role] for row, role in zip(ROWS, roles, strict=True)}


@pytest.mark.parametrize("change", [{"share": 0.0}, {"mode": "none"}])
def test_a_challenger_without_a_share_gets_no_request(config, change):
    split_traffic(config, **CANARY | change)
    gateway = gateway_of(config)
    ask(gateway, *ROWS)
    assert by_role(logged(gateway)) == {"champion": len(ROWS)}


def test_all_rows_of_a_unit_are_answered_by_one_version(config):
    split = split_traffic(config, unit="customer", **CANARY)
    gateway = gateway_of(config)
    for row in ROWS[:30]:
        ask(gateway, row | {"customer": f"c{int(row['x'] * 10) % 3}"})
    roles = {(row["unit"], row["role"]) for row in logged(gateway).to_pylist()}
    assert roles == {(unit, split.role_of(unit)) for unit in ("c0", "c1", "c2")}


@pytest.mark.parametrize("row", [{"customer": None}, {}], ids=["null", "absent"])
def test_a_row_without_its_unit_gets_the_champion(config, row):
    split_traffic(config, unit="customer", mode="canary", share=0.999)
    gateway = gateway_of(config)
    assert ask(gateway, ROWS[0] | row).headers["x-model-version"] == "1"


def test_without_an_id_the_request_is_the_unit(config):
    split = split_traffic(config, **CANARY)
    gateway = gateway_of(config)
    row = {name: value for name, value in ROWS[0].items() if name != "id"}
    for number in range(10):
        answer = request(gateway, "/invocations", {"inputs": [row]}, x_request_id=f"mine-{number}")
        wanted = "1" if split.role_of(f"mine-{number}") == "champion" else "2"
        assert (answer.headers["x-request-id"], answer.headers["x-model-version"]) == (f"mine-{number}", wanted)
    assert logged(gateway)["id"].null_count == 10


@pytest.mark.parametrize("outcome", [RuntimeError("boom"), MemoryError()], ids=repr)
def test_where_the_challenger_fails_the_champion_answers(config, outcome):
    split = split_traffic(config, **CANARY)
    gateway = gateway_of(config)
    break_version(gateway, "challenger", outcome)
    answer = ask(gateway, *ROWS)
    assert answer.json()["predictions"] == predicted("1", *ROWS)
    assert answer.headers["x-model-version"] == "1"
    failed = [row for row in logged(gateway).to_pylist() if row["error"]]
    assert {row["id"] for row in failed} == {row["id"] for row in ROWS if split.role_of(row["id"]) == "challenger"}
    assert {(row["role"], row["model_version"], row["prediction"]) for row in failed} == {("challenger", "2", None)}
    assert "boom" not in failed[0]["error"]
    assert f'failed_rows_total{{model="{NAME}",role="challenger",version="2"}} {len(failed)}' in metrics_of(gateway)


@pytest.mark.parametrize(
    ("value", "error", "guardrail"),
    [
        (math.nan, "the prediction is not a finite number", "missing"),
        (math.inf, "the prediction is not a finite number", "missing"),
        (1.5, "the prediction is not a probability", "errors"),
        (-1e-9, "the prediction is not a probability", "errors"),
    ],
)
@pytest.mark.parametrize("role", ["challenger", "shadow"])
def test_a_prediction_that_is_no_answer_is_not_served(config, monkeypatch, role, value, error, guardrail):
    """As in batch scoring: only its own row is lost, the champion serves it, and the log says why."""
    split_traffic(config, **CANARY if role == "challenger" else {"mode": "shadow", "share": 0.0})
    gateway = gateway_of(config)
    predict, row_of = ServedVersion.predict, [row["id"] for row in ROWS]
    lost = {each for each in row_of if hash_of(each) < 0.3}

    def spoiled(version, rows, numbers=None):
        found = predict(version, rows, numbers)
        bad = [version.number == "2" and row["id"] in lost for row in rows]
        return [value if each else right for each, right in zip(bad, found, strict=True)]

    monkeypatch.setattr(ServedVersion, "predict", spoiled)
    answer = ask(gateway, *ROWS).json()["predictions"]
    log = logged(gateway)
    found = arm_statistics("2", arms_of(log, "1", "2").challenger)
    tried = {row["id"] for row in log.to_pylist() if row["role"] == role}
    counts = {"missing": found.missing, "errors": found.refused}
    assert (found.rows, counts.pop(guardrail), set(counts.values())) == (len(tried), len(tried & lost), {0})
    assert tried & lost
    assert {breach.guardrail for breach in judge_guardrails(Guardrails(), evidence_of(log))} == {guardrail}
    assert {row["error"] for row in log.to_pylist()} == {None, error}
    by_champion = set(row_of) - (tried - lost if role == "challenger" else set())
    expected = zip(row_of, predicted("1", *ROWS), predicted("2", *ROWS), strict=True)
    assert answer == [ours if each in by_champion else other for each, ours, other in expected]


def evidence_of(log: pa.Table) -> GuardrailEvidence:
    arms = arms_of(log, "1", "2")
    window = Window(utc("2024-05-02"), utc("2024-05-03"))
    return GuardrailEvidence(window, arm_statistics("1", arms.champion), arm_statistics("2", arms.challenger))


def hash_of(text: str) -> float:
    return position("nan", text)


def test_a_challenger_with_too_few_predictions_leaves_the_answer_to_the_champion(config, monkeypatch):
    split_traffic(config, **CANARY)
    gateway = gateway_of(config)
    predict = ServedVersion.predict

    def too_few(version, rows, numbers=None):
        found = predict(version, rows, numbers)
        return found[1:] if version.number == "2" else found

    monkeypatch.setattr(ServedVersion, "predict", too_few)
    assert ask(gateway, *ROWS).json()["predictions"] == predicted("1", *ROWS)


def test_a_champion_without_a_finite_prediction_answers_with_an_error(config):
    gateway = gateway_of(config)
    break_version(gateway, "champion", math.nan)
    answer = ask(gateway, ROWS[0])
    assert (answer.status_code, "not a finite number" in answer.json()["message"]) == (500, True)
    assert [row["error"] for row in logged(gateway).to_pylist()] == ["the prediction is not a finite number"]


def test_a_shadow_predicts_every_row_and_serves_none(config):
    split_traffic(config, mode="shadow", share=0.0, step="shadow")
    gateway = gateway_of(config)
    assert ask(gateway, *ROWS).json()["predictions"] == predicted("1", *ROWS)
    log = logged(gateway).to_pylist()
    shadow = {row["id"]: row["prediction"] for row in log if row["role"] == "shadow"}
    assert shadow == {row["id"]: found for row, found in zip(ROWS, predicted("2", *ROWS), strict=True)}
    assert len(log) == 2 * len(ROWS)


def test_a_shadow_that_fails_changes_no_answer(config):
    split_traffic(config, mode="shadow", share=0.0, step="shadow")
    gateway = gateway_of(config)
    break_version(gateway, "challenger", RuntimeError("boom"))
    assert ask(gateway, ROWS[0]).json()["predictions"] == predicted("1", ROWS[0])
    failed = [row["role"] for row in logged(gateway).to_pylist() if row["error"]]
    assert failed == ["shadow"]


def test_a_shadow_does_not_predict_before_the_client_has_its_answer(config, monkeypatch):
    """Neither does it keep the next client waiting: it predicts in another thread, whose queue is bounded."""
    split_traffic(config, mode="shadow", share=0.0, step="shadow")
    gateway, predict, asked = gateway_of(config), ServedVersion.predict, MOST_WAITING // len(ROWS) + 2

    def answer_only(version, rows, numbers=None):
        assert version.number == "1"
        return predict(version, rows, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(ServedVersion, "predict", answer_only)
        assert {ask(gateway, *ROWS).status_code for _ in range(asked)} == {200}
    assert f'shed_rows_total{{model="{NAME}",version="2"}} {2 * len(ROWS):.1f}' in metrics_of(gateway)
    service = gateway.services[NAME]
    while service.shadows:
        service.predict_shadows()
    roles = by_role(logged(gateway))
    assert roles == {"champion": asked * len(ROWS), "shadow": MOST_WAITING}


def test_a_version_that_answers_is_not_the_one_that_shadowed(config):
    """A version's buffers are not for two threads; the shadow's thread may still predict when the split changes."""
    split_traffic(config, mode="shadow", share=0.0, step="shadow")
    follower = gateway_of(config).services[NAME].follower
    shadow = follower.serving.challenger
    follower.refresh()
    assert follower.serving.challenger is shadow
    split_traffic(config, **CANARY)
    follower.refresh()
    canary = follower.serving.challenger
    assert (canary.number, canary is shadow) == ("2", False)
    registry.set_aliases(NAME, {registry.CHAMPION: "2"})
    follower.refresh()
    assert follower.serving.champion is canary


def test_where_the_champion_fails_the_client_is_told_and_it_is_logged(config):
    gateway = gateway_of(config)
    break_version(gateway, "champion", RuntimeError("boom"))
    answer = ask(gateway, ROWS[0])
    assert answer.status_code == 500
    assert answer.json()["error_code"] == "INTERNAL_ERROR"
    assert "version 1 failed: RuntimeError" in answer.json()["message"]
    assert [row["prediction"] for row in logged(gateway).to_pylist()] == [None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "secret"}, "row 1: column x: is text, expected an integer or decimal number"),
        ({"flag": 3}, "row 1: column flag: is a number, expected a boolean"),
        ({"time": "secret"}, "row 1: column time: is text that is no time, expected ISO 8601"),
        ({"time": "2999-01-01"}, "row 1: column time: lies in the future"),
        ({"time": "1700-01-01"}, "row 1: column time: lies before the model's history, expected a time from 20"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "row 1: column time: is text that is no time"),
        ({"id": []}, "row 1: column id: is a list"),
    ],
)
def test_a_bad_row_is_refused_by_number_and_name(config, change, message):
    gateway = gateway_of(config)
    answer = ask(gateway, ROWS[0], ROWS[1] | change)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert message in answer.json()["message"]
    assert "secret" not in answer.text


def test_refused_rows_are_logged_without_their_values(config):
    gateway = gateway_of(config)
    ask(gateway, ROWS[0] | {"x": "secret"})
    row = logged(gateway).to_pylist()[0]
    assert (row["id"], row["role"], row["prediction"]) == ("r0", "champion", None)
    assert "column x: is text" in row["error"]
    assert "secret" not in row["error"]


def test_a_missing_column_is_named(config):
    row = {name: value for name, value in ROW.items() if name != "colour"}
    answer = ask(gateway_of(config), row)
    assert (answer.status_code, "row 0: column colour: is missing" in answer.json()["message"]) == (400, True)


def test_too_large_a_body_is_refused(config):
    answer = request(gateway_of(config), "/invocations", b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413


def test_another_content_type_is_refused(config):
    """A web page may send text/plain to any address without asking; JSON it may not."""
    answer = request(gateway_of(config), "/invocations", b"{}", content_type="text/plain")
    assert answer.status_code == 415


def test_a_compressed_body_is_refused(config):
    answer = request(gateway_of(config), "/invocations", gzip.compress(b"{}"), content_encoding="gzip")
    assert (answer.status_code, "content-encoding is 'gzip', expected none" in answer.json()["message"]) == (415, True)


def test_half_a_character_is_refused(config):
    """Otherwise no answer of that moment could be written to the log."""
    gateway = gateway_of(config)
    broken = json.dumps({"dataframe_records": [ROWS[0] | {"id": "X"}]}).replace('"X"', '"\\ud800"').encode()
    answer = request(gateway, "/invocations", broken)
    assert (answer.status_code, "body: is not JSON (UnicodeEncodeError)" in answer.json()["message"]) == (400, True)
    ask(gateway, ROWS[1])
    assert logged(gateway)["id"].to_pylist() == [ROWS[1]["id"]]


def test_other_methods_and_pages_are_refused(config):
    gateway = gateway_of(config)
    assert request(gateway, "/invocations").status_code == 405
    found = request(gateway, "/models/other/invocations", {"inputs": [ROW]})
    assert found.status_code == 404
    assert f"expected POST /models/{NAME}/invocations" in found.json()["message"]


def test_several_models_have_an_address_each(workspace):
    configs = [prepare(workspace, versions=1)]
    gateway = gateway_of(*configs, make_config("regression"))
    assert request(gateway, f"/models/{NAME}/invocations", {"inputs": [ROW]}).status_code == 200
    assert request(gateway, "/invocations", {"inputs": [ROW]}).status_code == 404
    answer = request(gateway, "/models/regression_model/invocations", {"inputs": [ROW]})
    assert answer.status_code == 503
    assert "perennial run retrain --model regression_model" in answer.json()["message"]


def test_only_requests_with_the_key_are_answered(config, tmp_path):
    path = tmp_path / "key"
    path.write_text("first key, long enough\n")
    path.chmod(0o600)
    key = ApiKey(path)
    key.read()
    gateway = gateway_of(config, key=key)
    body = {"inputs": [ROW]}

    def status(header: str) -> int:
        return request(gateway, "/invocations", body, authorization=header).status_code

    assert [status("Bearer first key, long enough"), status("Bearer other"), status(""), status("Bearer ")] == [
        200, 401, 401, 401
    ]  # fmt: skip
    assert request(gateway, "/health").status_code == 200
    assert request(gateway, "/metrics").status_code == 401
    path.write_text("second key, long enough")
    key.refresh()
    assert [status("Bearer first key, long enough"), status("Bearer second key, long enough")] == [401, 200]
    path.write_text("")
    key.refresh()
    assert status("Bearer second key, long enough") == 200
    assert "second key" not in repr(key)


@pytest.mark.parametrize(("text", "mode", "message"), [("short", 0o600, "at least 16"), ("x" * 20, 0o644, "chmod 600")])
def test_a_weak_key_is_refused(tmp_path, text, mode, message):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(GatewayError, match=message):
        ApiKey(path).read()


def metrics_of(gateway) -> str:
    return request(gateway, "/metrics").text


def test_metrics_count_by_version_and_role(config):
    split_traffic(config, **CANARY)
    gateway = gateway_of(config)
    ask(gateway, *ROWS)
    ask(gateway, {})
    text = metrics_of(gateway)
    served = {role: float(text.split(f'rows_total{{model="{NAME}",role="{role}",version="{number}"}} ')[1].split()[0])
              for role, number in (("champion", "1"), ("challenger", "2"))}  # fmt: skip
    assert sum(served.values()) == len(ROWS)
    assert f'perennial_gateway_requests_total{{model="{NAME}",status="200"}} 1.0' in text
    assert f'perennial_gateway_requests_total{{model="{NAME}",status="400"}} 1.0' in text
    assert f'prediction_seconds_count{{model="{NAME}",role="champion",version="1"}} 1.0' in text
    assert f'perennial_gateway_unwritten_rows{{model="{NAME}"}}' in text


def test_ready_names_who_answers_and_refuses_while_draining(config):
    split_traffic(config, **CANARY)
    gateway = gateway_of(config)
    ready = request(gateway, "/ready")
    assert (ready.status_code, ready.json()["models"][NAME]) == (
        200, {"champion": "1", "challenger": "2", "share": 0.5, "step": "canary 50 %"}
    )  # fmt: skip
    gateway.is_draining = True
    assert request(gateway, "/ready").status_code == 503
    assert request(gateway, "/health").status_code == 200
    answer = ask(gateway, ROW)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


@pytest.mark.parametrize(("work", "status"), [("follow", 503), ("flush", 503), ("shadow", 200), ("land", 200)])
def test_ready_tells_a_thread_that_fails_until_it_works_again(config, caplog, work, status):
    gateway, fails = gateway_of(config), True

    def repeated(_: object) -> None:
        if fails:
            raise RuntimeError("id 4711")

    repeated.__name__ = work
    with server._repeated(repeated, gateway, 0.001):
        wait_for(lambda: gateway.faults, 5)
        ready = request(gateway, "/ready")
        assert (ready.status_code, ready.json()["faults"]) == (status, {work: "RuntimeError"})
        wait_for(lambda: len([each for each in caplog.records if each.exc_info]) == 1, 5)
        fails = False
        wait_for(lambda: not gateway.faults, 5)
    assert request(gateway, "/ready").json()["faults"] == {}
    assert [each.message for each in caplog.records] == [f"{work} failed, and is tried again"], "logged once"


def test_without_a_champion_nothing_is_ready(workspace):
    prepare_registry(workspace)
    gateway = gateway_of(make_config())
    assert request(gateway, "/ready").status_code == 503
    assert ask(gateway, ROW).status_code == 503
