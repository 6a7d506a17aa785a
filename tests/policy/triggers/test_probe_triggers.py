"""Probe triggers: accumulated advantage by hand, in money, and on both sides of the limit."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.economics.costs import Budget, forecast_cost
from tasks.policy.evidence.monitoring import Decision, EarlierChampion, History, WindowEvidence
from tasks.policy.evidence.versions import Usage
from tasks.policy.monitoring.diagnosis import Diagnosis
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.reports import ProbeColumn
from tasks.policy.reporting.decision import headline
from tasks.policy.triggers.base import Case, TriggerResult
from tasks.policy.triggers.probe import Perennial, Probe
from tests.policy.triggers.judged_windows import evidence, history, report, window

HISTORY = 6
CHAMPION_UNTIL = window(HISTORY - 2).end


def column(number: int, aged: float, fresh: float, served: bool = True, metric: str = "accuracy") -> ProbeColumn:
    """Return a window's losses of two probes: one of the champion's age, and a fresh one."""
    losses = ((CHAMPION_UNTIL, aged), (window(number - 1).end, fresh))
    if not served:
        losses = ((window(number - 1).end, fresh),)
    return ProbeColumn(window(number), metric, 500, losses, CHAMPION_UNTIL if served else None)


def case(*leads: float, budget: Budget | None = None, cost_usd: float | None = None, **known: Any) -> Case:
    """Return service windows in which the champion-aged probe loses `leads` more than the fresh one, after a history without gaps."""
    before = tuple(column(number, 0.2, 0.2, served=False) for number in range(1, HISTORY))
    served = [column(HISTORY + place, 0.2 + lead, 0.2) for place, lead in enumerate(leads)]
    earlier = [replace(evidence(HISTORY + place), probes=(one,)) for place, one in enumerate(served)]
    if earlier:
        earlier[0] = replace(earlier[0], probes=before + earlier[0].probes)
    latest = earlier.pop() if earlier else evidence(HISTORY)
    history = History(evidence=tuple(earlier), trained_until=CHAMPION_UNTIL, **known)
    return Case(latest, history, latest.window.end, 200, 200, budget or Budget(), cost_usd)


def test_advantages_accumulate_from_zero():
    """0.02, then -0.05 (floored at 0), then 0.03 + 0.0201: the limit of 0.05 is reached only in the fourth window."""
    rule = Probe(trigger="probe", alpha=0.05)
    leads = (0.02, -0.05, 0.03, 0.0201)
    assert [rule.judge(case(*leads[:count])).holds for count in range(1, 5)] == [False, False, False, True]


@pytest.mark.parametrize(("fixed_usd", "pays"), [(90.0, True), (90_000.0, False)])
@pytest.mark.parametrize("trigger", ["probe", "perennial", "regret_exceeds_cost"])
def test_decision_with_forecast_cost_serialises(trigger: str, fixed_usd: float, pays: bool):
    """A NumPy number in the cost would make `holds` a NumPy boolean, which JSON cannot represent."""
    budget = Budget(fixed_usd_per_retrain=fixed_usd, value_usd_per_metric_unit_per_day=1000.0)
    cost = forecast_cost(budget, [Usage(1000, wall_s=60.0)], 1500)
    policy = RetrainingPolicy.model_validate({"when": {"trigger": trigger}})
    *earlier, latest = (report(HISTORY - 3 + place, accuracy=value) for place, value in enumerate((0.9, 0.9, 0.9, 0.6)))
    seen = evidence(HISTORY, performance=latest, probes=(column(HISTORY, 0.24, 0.2),))
    past = history(*earlier, champion_since=seen.window.start, trained_until=CHAMPION_UNTIL)
    decision = decide_retraining("m", policy, policy.case(seen, past, seen.window.end, budget, cost.usd))
    assert decision.retrain is pays
    assert from_json(Decision, to_json(decision)) == decision


def test_missing_evidence_is_stated_in_windows():
    finding = Probe(trigger="probe", alpha=0.05).judge(case(0.02))
    assert "0.02 accuracy in total over 1 windows" in finding.reasons[0]
    assert finding.would_change == (
        "would retrain once fresh probes are ahead by 0.05 accuracy in total, in 2 windows if the latest lead of "
        "0.02 accuracy persists",
    )


def test_windows_before_last_training_are_ignored():
    rule, leads = Probe(trigger="probe", alpha=0.05), (0.04, 0.04)
    assert rule.judge(case(*leads)).holds
    assert not rule.judge(case(*leads, retrained_at=(window(HISTORY + 1).start,))).holds


def test_window_without_new_labels_does_not_trigger():
    known = case(0.04, 0.04)
    waiting = WindowEvidence(window(HISTORY + 2), 1000)
    history = replace(known.history, evidence=(*known.history.evidence, known.evidence))
    later = replace(known, evidence=waiting, history=history)
    for rule in (Probe(trigger="probe", alpha=0.01), Perennial(trigger="perennial", alpha=0.01)):
        assert not rule.judge(later).holds
    assert "no window has gained enough labels" in rule.judge(later).reasons[0]


def test_nothing_triggers_before_service_labels():
    silent = Perennial(trigger="perennial").judge(case())
    assert not silent.holds and "no window of service" in silent.reasons[0]


def test_the_limit_comes_from_money():
    """120 USD per retrain against 1000 USD per unit and day over windows of 5 days: 0.024 of the metric."""
    budget = Budget(value_usd_per_metric_unit_per_day=1000)
    for lead, holds in ((0.0239, False), (0.0241, True)):
        finding = Probe(trigger="probe").judge(case(lead, budget=budget, cost_usd=120.0))
        assert finding.holds is holds
        assert "a retrain pays off from 0.024 accuracy (120.00 USD)" in finding.reasons[0]


def test_unbounded_losses_are_scaled_by_their_median():
    """A median of 10 minutes counts as 0.2, so alpha 0.05 is 2.5 minutes."""
    before = tuple(column(number, 10, 10, served=False, metric="mae") for number in range(1, HISTORY))
    for lead, holds in ((2.4, False), (2.6, True)):
        own = column(HISTORY, 10 + lead, 10, metric="mae")
        latest = replace(evidence(HISTORY), probes=(*before, own))
        finding = Probe(trigger="probe", alpha=0.05).judge(Case(latest, History(), latest.window.end, 200, 200))
        assert finding.holds is holds


def stream(gap: float, windows: int = 30, seed: int = 0) -> list[ProbeColumn]:
    """Yield columns of a stream in which every window of a probe's age costs `gap` more, with noise of 0.003."""
    random = np.random.default_rng(seed)
    columns = []
    for number in range(1, windows):
        served = number >= HISTORY * 2
        age = [(window(past).end, 0.2 + gap * (number - past) + random.normal(0, 0.003)) for past in range(number)]
        until = window(HISTORY * 2 - 1).end if served else None
        columns.append(ProbeColumn(window(number), "accuracy", 500, tuple(age), until))
    return columns


@pytest.mark.parametrize(("gap", "retrains"), [(0.0, False), (0.01, True)])
def test_perennial_retrains_only_an_ageing_model(gap, retrains):
    columns = stream(gap)
    held = []
    for last in range(HISTORY * 2 - 1, len(columns)):
        latest = replace(evidence(columns[last].window.start.day), probes=tuple(columns[: last + 1]))
        latest = replace(latest, window=columns[last].window)
        known = Case(latest, History(), columns[last].window.end, 200, 200)
        held.append(Perennial(trigger="perennial", alpha=0.05).judge(known).holds)
    assert any(held) is retrains


def test_what_comes_later_is_not_read():
    columns = stream(0.01)
    now = HISTORY * 2 + 3
    latest = replace(evidence(0), window=columns[now].window, probes=tuple(columns[: now + 1]))
    poisoned = tuple(replace(one, losses=((one.losses[0][0], 1e6),)) for one in columns[now + 1 :])
    for rule in (Probe(trigger="probe", alpha=0.05), Perennial(trigger="perennial", alpha=0.05)):
        plain = rule.judge(Case(latest, History(), latest.window.end, 200, 200))
        future = replace(latest, probes=latest.probes + poisoned)
        assert rule.judge(Case(future, History(), latest.window.end, 200, 200)) == plain


def test_perennial_equals_plain_rule_with_little_history():
    latest = replace(evidence(HISTORY), probes=(column(HISTORY, 0.3, 0.2),))
    known = Case(latest, History(), latest.window.end, 200, 200)
    finding = Perennial(trigger="perennial", alpha=0.05).judge(known)
    assert finding.holds and finding.triggers == ("perennial",)


def test_column_round_trips_through_the_ledger():
    one = column(HISTORY, 0.3, 0.2)
    assert from_json(ProbeColumn, to_json(one)) == one
    assert isinstance(one.losses[0][0], datetime)


class TestAReturningSeason:
    """Two alternating concepts; a probe knows the concept of the latest window it was trained on."""

    seasons = "AAAAAABBBBBBAAAAAABBBBBBAAAAAABBBBBB"

    def live(self, seasons: str, may_return: bool = True):
        """Carry out the decision after each window from the 13th on; return (window, retrain or version, concept)."""
        random, done = np.random.default_rng(5), []
        rule = Perennial(trigger="perennial", alpha=0.2)
        learned, champion, since = {"1": 11}, "1", window(12).start
        versions: list[EarlierChampion] = []
        past: list[WindowEvidence] = []

        def seen(number: int, places: set[int], served: bool) -> ProbeColumn:
            losses = tuple(
                (window(place).end, (0.2 if seasons[place] == seasons[number] else 0.4) + random.normal(0, 0.004))
                for place in sorted(places)
            )
            until = window(learned[champion]).end if served else None
            return ProbeColumn(window(number), "accuracy", 500, losses, until)

        for number in range(12, len(seasons)):
            aged = {learned[champion], *(learned[each.version] for each in versions)}
            columns = [seen(number, {*range(max(0, number - 8), number), *aged}, True)]
            if number == 12:
                columns = [seen(place, set(range(place)), False) for place in range(1, 12)] + columns
            evidence_now = replace(evidence(number), probes=tuple(columns))
            known = History(
                evidence=tuple(past), champion_since=since, returnable=tuple(versions) if may_return else ()
            )
            finding = rule.judge(Case(evidence_now, known, window(number).end, 200, 200))
            past.append(evidence_now)
            if finding.holds or finding.go_back_to:
                before, champion = champion, finding.go_back_to or str(len(learned) + 1)
                learned.setdefault(champion, number)
                versions = [each for each in versions if each.version != champion]
                versions.append(EarlierChampion(before, window(learned[before]).end, since))
                since = window(number).end
                done.append((number, finding, seasons[learned[champion]]))
        return done

    def test_goes_back_when_a_season_returns(self):
        done = self.live(self.seasons)
        returns = [(number, concept) for number, finding, concept in done if finding.go_back_to]
        assert len(returns) == 3, "each time that a season returns"
        assert all(concept == self.seasons[number] for number, concept in returns)
        assert all(
            not finding.holds and finding.triggers == ("perennial",) for _, finding, _ in done if finding.go_back_to
        )

    def test_retrains_without_an_earlier_version(self):
        done = self.live(self.seasons, may_return=False)
        assert done and all(finding.holds and finding.go_back_to is None for _, finding, _ in done)
        assert not self.live("A" * len(self.seasons))


def test_going_back_respects_cooldown_without_training():
    found = TriggerResult(False, ("better",), (), ("perennial",), go_back_to="3")
    settled = decided(found, champion_since=window(0).start)
    assert (settled.retrain, settled.go_back_to) == (False, "3")
    assert headline(settled, "5") == "Return to v3 from champion v5. Better."
    fresh = decided(found, champion_since=window(3).start)
    assert (fresh.go_back_to, fresh.blocked_by) == (None, "cooldown")
    assert "would return to the earlier version from 2013-05-26" in fresh.would_change[0]
    assert decided(replace(found, holds=True), champion_since=window(0).start).go_back_to is None
    fault = Diagnosis("upstream_data_fault", ("wind: as if stuck",))
    assert decided(found, fault, champion_since=window(0).start).go_back_to is None


def decided(finding: TriggerResult, diagnosis: Diagnosis | None = None, **known: Any) -> Decision:
    """Return the decision on this finding after window 3, with a cooldown of ten days."""
    policy = RetrainingPolicy(when=Perennial(trigger="perennial"), cooldown_days=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Perennial, "judge", lambda *_: finding)
        seen = evidence(3)
        return decide_retraining("m", policy, policy.case(seen, History(**known), seen.window.end), diagnosis)
