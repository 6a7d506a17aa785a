"""What users of other rollout systems complain of, each as a test of ours; the rest are where their subject is tested.

| complaint | test |
|---|---|
| no traffic leads to a rollback (argo-rollouts #1905) | here |
| stuck after inconclusive (argo-rollouts #3015) | here |
| a failed analysis did not stop the rollout (argo-rollouts #1411) | here |
| seven of ten points at 100 against 1 still pass (spinnaker #6278) | here |
| weight 0 still gets traffic (seldon-core #5181, #4067) | here, `test_application.py`, `test_haproxy.py` |
| promotion by hand only (kserve #3085) | here, `test_e2e.py` on a real server |
| a declared weight that requests ignore (OME) | `test_haproxy.py`, `test_sagemaker.py` |
"""

from collections import Counter

import numpy as np
import pytest

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollout import rollout
from flows.score import score
from tasks.adapters import evaluation, lake, orchestration, registry, traffic
from tasks.adapters.storage import lease
from tasks.policy.comparison.evidence import paired_evidence
from tasks.policy.comparison.plan import RolloutForecast, VerdictPolicy
from tasks.policy.comparison.verdict import decide_verdict
from tasks.policy.records.base import Window, utc
from tasks.policy.rollout.traffic import TrafficSplit
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tests.support.small_rollout import begin_rollout, serve, state, with_rollout

pytestmark = pytest.mark.usefixtures("prefect_server")
SHADOW = with_rollout("{feedback: false}")
NO_TRAFFIC = with_rollout("{feedback: false, max_days: 3}")


def test_no_traffic_is_neither_a_rollback_nor_a_promotion(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **NO_TRAFFIC)
    monitor(model, until=utc("2024-01-27"))
    assert (state().status, traffic.read_split("small").mode) == ("running", "shadow")
    assert "no traffic, no verdict" in state().looks[-1].unevaluated[0]
    monitor(model, until=utc("2024-01-29"))
    assert state().end.end == "inconclusive"
    assert registry.aliases("small")[registry.CHAMPION] == "1"
    assert registry.tags("small", "2").get("status") not in ("quarantined", "rejected"), "it did nothing wrong"


def test_an_inconclusive_rollout_does_not_stop_the_next_one(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **with_rollout("{feedback: false, max_days: 1}"))
    monitor(model, until=utc("2024-01-27"))
    assert state().end.end == "inconclusive"
    retrain(model, until=utc("2024-01-27"), reason="a third model")
    promote(model, until=utc("2024-01-27"))
    assert (state().plan.version, state().status) == ("3", "running")


def test_a_held_inconclusive_rollout_is_freed_by_a_person(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **with_rollout("{feedback: false, max_days: 3, on_inconclusive: hold}"))
    monitor(model, until=utc("2024-01-29"))
    assert state().status == "held"
    rollout(model, action="resume", reason="the traffic is back", requested_by="Ada", until=utc("2024-01-29"))
    serve(model, 31)
    assert (state().status, state().is_proven) == ("passed", True)


def test_a_failed_analysis_stops_the_rollout_where_it_is(tmp_path, begin, monkeypatch):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    score(model, until=utc("2024-01-27"))
    before = traffic.read_split("small")

    def fail(*_: object) -> None:
        raise ArithmeticError("the analysis failed")

    with monkeypatch.context() as patch:
        patch.setattr(evaluation.rollout_look, "look_at", fail)
        with pytest.raises(ArithmeticError):
            monitor(model, until=utc("2024-01-27"))
    assert (state().looks, state().moves, traffic.read_split("small")) == ((), (), before)
    monitor(model, until=utc("2024-01-27"))
    assert state().status == "passed", "the next run judges the window"


@pytest.mark.parametrize("method", ["group_sequential", "confidence_sequence", "t_test"])
@pytest.mark.parametrize("units", [10, 200])
def test_seven_of_ten_values_at_100_against_1_never_pass(method, units):
    y_true, champion, challenger = np.zeros(units), np.ones(units), np.tile([100.0] * 7 + [1.0] * 3, units // 10)
    pairs = PairedPredictions(y_true, champion, challenger)
    found = paired_evidence(Metric("mae"), pairs, np.arange(units), utc("2024-01-27"))
    plan = RolloutForecast(units=units, days=10, looks=1, margin=1.0, sigma=1.0)
    assert decide_verdict(VerdictPolicy(method=method), plan, (), found).conclusion == "worse"


@pytest.mark.parametrize(("mode", "share"), [("canary", 0.0), ("ab", 0.0), ("none", 0.5)])
def test_weight_0_means_no_row(tmp_path, begin, mode, share):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    with lease.hold("small", "test"):
        traffic.write_split(TrafficSplit("small", "1", "2", mode, share, None, "salt", "canary 0 %"))
    score(model, until=utc("2024-01-27"))
    log = lake.read_predictions(load_model_config(model), Window(utc("2024-01-25"), utc("2024-01-27")))
    assert (set(log["model_version"].to_pylist()), set(log["role"].to_pylist())) == ({"1"}, {"champion"})


def test_promotion_needs_no_hand(tmp_path, begin, monkeypatch):
    """A passed rollout emits the event that an automation turns into a run of `promote`."""
    model = begin_rollout(begin, tmp_path, **SHADOW)
    emitted: Counter[str] = Counter()
    announce = orchestration.events.announce

    def count(event: str, name: str, payload: object) -> None:
        emitted[f"perennial.{event}"] += 1
        announce(event, name, payload)

    monkeypatch.setattr(orchestration.events, "announce", count)
    serve(model, 27)
    assert (state().status, emitted["perennial.rollout.ready"]) == ("passed", 1)
    monitor(model, until=utc("2024-01-27"))
    assert emitted["perennial.rollout.ready"] == 2, "the first event may have been lost"
