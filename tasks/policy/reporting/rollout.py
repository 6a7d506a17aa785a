"""Describe a rollout: the first sentence, the plan and the uplift."""

from collections.abc import Sequence

from tasks.policy.comparison.plan import horizon_warning as forecast_warning
from tasks.policy.comparison.verdict import Conclusion
from tasks.policy.economics.costs import Budget
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.replay_story import METRIC_NAMES, counted, share_text
from tasks.policy.reporting.rollout_looks import DAY, days_left, look_points
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import RolloutState

CONCLUSIONS: dict[Conclusion, str] = {
    "undecided": "no verdict yet",
    "non_inferior": "no worse than the champion",
    "superior": "better than the champion",
    "worse": "worse than the champion",
}
GUARDRAILS = {
    "errors": "rows failed or refused",
    "latency": "latency, 95th percentile",
    "missing": "missing predictions",
    "constant": "same prediction",
    "confidence": "shift of the predictions (PSI)",
    "calibration": "calibration error",
    "slices": "metric in the worst slice",
}
NOT_MEASURED = "not measured"


def metric_words(metric: str) -> str:
    """`log loss` for `log_loss`."""
    return METRIC_NAMES[metric].short if metric in METRIC_NAMES else metric.replace("_", " ")


def headline(state: RolloutState) -> str:
    """The rollout in one or two sentences: where the challenger is and what is known, or how it ended."""
    plan = state.plan
    version, reasons = f"Version {plan.version}", state.moves[-1].reasons if state.moves else ()
    if state.status == "ended":
        return _ending(state)
    if state.status == "held":
        return f"{version} is held in step {state.current.name} until a person resumes or aborts it. {_first(reasons)}"
    if state.status == "awaiting_approval":
        return (
            f"{version} passed step {state.current.name} and waits for approval before it serves; champion "
            f"{plan.champion} serves all traffic. {_first(reasons[::-1])}"
        )
    if state.status == "passed":
        return f"{version} passed its rollout and will replace champion {plan.champion}. {_first(reasons[::-1])}"
    parts = [_verdict_words(state), looks_words(state), *_days_words(state)]
    return f"{version} {_place(state)} beside champion {plan.champion}: {', '.join(parts)}."


def _place(state: RolloutState) -> str:
    step = state.current
    if step.mode == "shadow":
        return "is in shadow"
    steps = f"step {state.step + 1} of {len(state.plan.steps)}"
    return f"serves {share_text(step.share)} of the traffic ({'A/B test' if step.mode == 'ab' else 'canary'}, {steps})"


def _verdict_words(state: RolloutState) -> str:
    return CONCLUSIONS[state.verdict.conclusion if state.verdict else "undecided"]


def looks_words(state: RolloutState) -> str:
    """`2 of 4 looks`, or `no look yet` where the number of looks is not planned."""
    if state.verdict:
        return f"{state.verdict.look} of {max(state.verdict.look, state.verdict.planned_looks)} looks"
    return f"0 of {state.plan.forecast.looks} looks" if state.plan.forecast else "no look yet"


def _days_words(state: RolloutState) -> tuple[str, ...]:
    days = days_left(state)
    if days is None:
        return ()
    if state.verdict and state.verdict.information >= 1:
        return ("at the planned end",)
    return (f"about {counted(round(days), 'day')} to go" if days >= 0.5 else "less than a day to go",)


def _ending(state: RolloutState) -> str:
    plan, move = state.plan, state.end
    if move is None:
        return f"The rollout of version {plan.version} has ended."
    after, reason = f"after {days_text((move.at - plan.started_at) / DAY)}", _first(move.reasons)
    rollout, serves = f"The rollout of version {plan.version}", f"champion {plan.champion} serves all traffic. {reason}"
    if move.end == "promoted":
        proof = as_sentence(state.verdict.reason) if state.verdict and state.is_proven else reason
        return f"Version {plan.version} replaced champion {plan.champion} {after}. {proof}"
    if move.end == "inconclusive":
        return f"{rollout} ended without a verdict {after}; {serves}"
    if move.end == "aborted":
        return f"{rollout} was aborted by {move.by} {after}; {serves}"
    if move.end == "superseded":
        return f"{rollout} was superseded {after}. {reason}"
    return f"Version {plan.version} was returned {after}; {serves}"


def _first(reasons: Sequence[str]) -> str:
    return as_sentence(reasons[0]) if reasons else ""


def days_text(days: float) -> str:
    """`12 days`, `6 hours`, `less than an hour`."""
    if days * 24 < 0.5:
        return "less than an hour"
    return counted(round(days), "day") if days >= 1 else counted(round(days * 24), "hour")


def plan_sentences(state: RolloutState, policy: RolloutPolicy, metric: str) -> tuple[str, ...]:
    """The plan: units and days that the verdict needs, and the money at stake meanwhile."""
    plan, needed = state.plan, state.plan.forecast
    steps = f"Steps: {', then '.join(step.name for step in plan.steps)}, then promotion."
    if needed is None:
        return (steps, "The rows and days that a verdict needs are not known, because there is no forecast.")
    units = counted(needed.units, "row") if plan.unit is None else f"{counted(needed.units, 'unit')} ({plan.unit})"
    sentences = [
        steps,
        f"A challenger as good as the champion needs {units} and about {days_text(needed.days)}, with "
        f"{counted(needed.looks, 'look')}, to show with {policy.verdict.power * 100:g} % power that it loses less than "
        f"{needed.margin:.4g} {metric_words(metric)}.",
    ]
    if all(step.share == 0 for step in plan.steps):
        sentences.append("No traffic is at stake: the challenger only predicts in shadow.")
    elif needed.exposed_usd is not None:
        sentences.append(
            f"A challenger that is worse by this margin would cost {needed.exposed_usd:,.2f} USD on the traffic that it "
            "serves until then."
        )
    else:
        sentences.append(
            "The money at stake is not known; set budget.value_usd_per_metric_unit_per_day to express it in USD."
        )
    return tuple(sentences)


def horizon_warning(state: RolloutState, policy: RolloutPolicy) -> str | None:
    """Warn while the verdict needs more days than the rollout may take; None otherwise."""
    if state.plan.forecast is None or not state.is_active:
        return None
    warning = forecast_warning(state.plan.forecast, policy.max_days)
    return as_sentence(warning) if warning else None


def uplift(state: RolloutState, policy: RolloutPolicy, metric: str, budget: Budget) -> tuple[str, ...]:
    """What the challenger gains, in the metric and in USD, with intervals; empty while undecided or without labels."""
    points = look_points(state)
    if not points or state.status in ("running", "held"):
        return ()
    last, words, level = points[-1], metric_words(metric), f"{policy.verdict.confidence * 100:g} %"
    verb = "gains" if last.gain >= 0 else "loses"
    sentences = [
        f"Version {state.plan.version} {verb} {abs(last.gain):.3g} {words} against champion {state.plan.champion} on "
        f"{last.rows:,} rows ({level} interval of the gain {last.low:+.3g} to {last.high:+.3g})."
    ]
    value = budget.value_usd_per_metric_unit_per_day
    if value is None:
        return (*sentences, "To express this in USD, set budget.value_usd_per_metric_unit_per_day.")
    days = budget.horizon_days
    sentences.append(
        f"Value: {_usd(last.gain * value)} a day ({_usd(last.low * value)} to {_usd(last.high * value)}), "
        f"{_usd(last.gain * value * days)} over the {days:g} days that an improvement is expected to last "
        f"({_usd(last.low * value * days)} to {_usd(last.high * value * days)})."
    )
    if last.look < last.planned_looks:
        sentences.append(
            "An estimate at an early end is too extreme on average; the interval allows for the early end."
        )
    return tuple(sentences)


def _usd(amount: float) -> str:
    return f"{'-' if amount < 0 else ''}{abs(amount):,.2f} USD"
