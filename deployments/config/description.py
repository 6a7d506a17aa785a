"""Describe in plain sentences what Perennial does with a model's file, for its author to check."""

from collections.abc import Iterator, Sequence

from deployments.config.blocks.alerts import SEVERITIES
from deployments.config.blocks.predictions import PredictionSource
from deployments.config.blocks.training import Training
from deployments.config.model import ModelConfig
from tasks.policy.comparison.split import why_not_unpaired


def describe(config: ModelConfig) -> tuple[str, ...]:
    """Describe each stage in one sentence, in the order in which the stages run."""
    return tuple(_sentences(config))


def _sentences(config: ModelConfig) -> Iterator[str]:
    columns = config.columns
    yield (
        f"predicts {columns.label} ({config.task}{_positive(config)}) from {_count(len(columns.features.names), 'feature')} "
        f"for {config.owner}, risk {config.risk}."
    )
    yield (
        f"reads {config.source.kind} {config.source.path or config.source.function or config.source.url_env} "
        f"in windows of {config.window_length} of {columns.time}{_settling(config)}; "
        f"labels follow {_label_delay(config)} and are read for {columns.label_lookback_days:g} days more."
    )
    yield (
        f"joins labels and predictions to rows by {' and '.join(columns.id_columns)}; each id occurs once in the "
        "history and once in a window."
    )
    if columns.personal:
        unread = [name for name in columns.personal if name not in columns.used]
        yield (
            f"shows no value of {' and '.join(columns.personal)} in reports and logs"
            + (f"; {' and '.join(unread)}: not read at all, as no other setting names it." if unread else ".")
        )
    yield (
        f"learns first from {config.period.start:%Y-%m-%d} to {config.period.history_until:%Y-%m-%d}, then serves"
        + (
            f" until {config.period.end:%Y-%m-%d}, {_count(len(config.windows()), 'window')}."
            if config.period.end
            else "."
        )
    )
    yield (
        f"quarantines a window with fewer than {config.quality.min_rows} rows, with more than "
        f"{config.quality.max_null_share_increase:.0%} more nulls than the reference, with more than "
        f"{config.quality.max_out_of_range_share:.0%} of its values out of range, or {_stale(config)}."
    )
    yield (
        f"calls a numeric feature drifted from {config.drift.method} {config.drift.threshold:g} on, confirmed at a "
        f"corrected p of {config.drift.alpha:g}; below {config.drift.min_rows} rows, or too few to show that, it says "
        "insufficient"
        + ("; a limit is never below the drift within the training rows" if config.drift.calibrated else "")
        + (f"; compared with the same {_phases(config)} where history holds it." if config.drift.calendar else ".")
    )
    if other := columns.features.other:
        yield f"of {_listed(other)} only the share of missing values is monitored."
    policy = config.retraining
    if config.predictions:
        yield from _own_service(config, config.predictions)
    if config.predictions and policy.advise_only:
        yield f"trains nothing (retraining.advise_only): tells people that retraining pays when {policy.when.describe()}."
        yield from _alerts(config)
        return
    yield f"retrains when {policy.when.describe()}."
    limits = [f"no sooner than {policy.cooldown_days:g} days after the last time"] if policy.cooldown_days else []
    if policy.max_retrains_per_month is not None:
        limits.append(f"at most {policy.max_retrains_per_month} times in 30 days")
    if config.budget.max_usd_per_month is not None:
        limits.append(f"for at most {config.budget.max_usd_per_month:g} $ a month")
    if limits:
        yield f"but {', '.join(limits)}."
    place = config.placement
    if place.serverless:
        deadline = f" within {place.deadline_hours:g} h" if place.deadline_hours else ""
        yield (
            f"runs a retrain on {place.dedicated.place} or {place.serverless.place}{deadline}, preferably {place.prefer}; "
            f"its data {'stays on premises' if _stays(config) else 'may go anywhere'}."
        )
    window = f"the trailing {config.training.window_days:g} days" if config.training.window_days else "all history"
    yield f"trains {config.training.trainer or 'XGBoost'} on {window}, with seed {config.training.seed}."
    yield from _ways_to_train(config.training)
    if config.training.trust:
        yield (
            "loads joblib, pickle and MLflow models from elsewhere, which can run any code (training.trust): in a process of its "
            "own, without credentials, with bounded memory and time."
        )
    if config.registry.outside_moves == "record":
        yield "follows a champion that someone else sets in MLflow, once it is checked, and records the move."
    evidence = f"{config.validation.confidence:.0%} intervals on at least {config.validation.min_rows} rows"
    yield (
        f"its risk, {config.risk}, requires {evidence} and "
        + ("a person's approval." if config.needs_approval else "no approval.")
    )
    gain = f"gains at least {config.validation.min_gain:g}" if config.validation.min_gain is not None else "is no worse"
    yield (
        f"accepts a challenger that {gain} in {config.performance.metric} on the latest {config.validation.holdout_days:g} "
        f"days with labels (margin {config.validation.margin_in_words}{_groups(config)})."
    )
    yield (
        "promotes nothing: your own service decides which version answers, and its log shows that."
        if config.predictions
        else _rollout(config)
    )
    yield from _alerts(config)


def _alerts(config: ModelConfig) -> Iterator[str]:
    """Describe who is told, where the model's file names people of its own."""
    sent = [(severity, getattr(config.alerts, severity)) for severity in SEVERITIES]
    parts = [f"{severity} alerts to {_series(blocks) or 'no one'}" for severity, blocks in sent if blocks is not None]
    if parts:
        yield f"sends {_series(parts)}."


def _series(parts: Sequence[str]) -> str:
    """Join with commas, and the last with `and`."""
    *first, last = parts or ("",)
    comma = "," if len(first) > 1 else ""
    return f"{', '.join(first)}{comma} and {last}" if first else last


def _ways_to_train(training: Training) -> Iterator[str]:
    before = []
    if training.race:
        before.append(f"lets ways to choose the rows race on the latest {training.race.windows} closed windows")
    if training.search:
        before.append(f"searches better settings for {training.search.describe_limit()}")
    if before:
        yield f"before each training, {' and '.join(before)}; the file's settings stay without a clear gain."
    if training.online:
        yield (
            "between retrains, corrects the champion's trees after each window whose labels have closed, while that is no worse "
            "than the champion as it was trained."
        )


def _own_service(config: ModelConfig, own: PredictionSource) -> Iterator[str]:
    """Describe what is done with the predictions of the user's own service, and what cannot be done without its model."""
    source = own.source
    yield (
        f"scores nothing: reads what your own service predicted from {source.kind} "
        f"{source.path or source.function or source.url_env}, and joins it to rows whose time is at most "
        f"{own.delay_hours:g} h away."
    )
    yield (
        f"calls it a data fault if more than {100 * own.max_missing_share:.3g} % of a window's rows have no prediction, "
        f"{100 * own.max_duplicate_share:.3g} % two different ones or {100 * own.max_invalid_share:.3g} % an unusable one."
    )
    yield (
        f"follows the versions in {own.version}; one that is new is reported."
        if own.version
        else "cannot notice a new version of your service: predictions.version names no column of the log."
    )
    yield from _comparisons(config, own)
    yield "explains no prediction by its features: there are no SHAP values without the model's file."
    yield "tries no version out and rolls none back (no smoke test, no rollout, no probation): your own service does that."
    yield "measures drift with equal weight for all features: their importance is not known."
    yield "offers no replay, which would have to predict again; `perennial run backfill` judges past windows."


def _comparisons(config: ModelConfig, own: PredictionSource) -> Iterator[str]:
    """Describe which versions are compared: those that predict the same rows, and those that share the traffic."""
    if own.version is None:
        yield "compares no versions: predictions.version names no column of the log."
        return
    why_not = why_not_unpaired(config.primary_metric)
    yield (
        f"compares no versions that share the traffic: {why_not}."
        if why_not
        else f"compares the versions in {own.version} that share the traffic, if your service assigns rows at random."
    )
    if own.role is None:
        yield "compares no shadow: predictions.role names no column of the log that tells one from the champion."
    elif config.rollout.feedback:
        yield "compares no shadow: answers may change the labels (rollout.feedback: true), which a log cannot make up for."
    else:
        yield f"compares a shadow or challenger in {own.role} with the champion on rows that both predicted."


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def describe_adopted(number: str, model_format: str) -> tuple[str, ...]:
    """Say what a champion that was trained elsewhere cannot offer, one line each."""
    return (
        f"champion {number} was adopted ({model_format}): no SHAP values, so no drift is attributed to features by their effect.",
        "its probabilities are as calibrated as its maker left them; estimates without labels rest on them.",
        "which rows it was trained on, and for how many rounds, is not known here.",
        "the gateway serves it without the fast path for single rows; it is asked once per request.",
    )


def _rollout(config: ModelConfig) -> str:
    """Describe how a challenger becomes champion."""
    policy, approved = config.rollout, " once a person approves" if config.needs_approval else ""
    if not policy.steps:
        return f"then promotes it{approved or ' automatically'}, without a rollout."
    shares = " and ".join(f"{100 * step.share:.3g} %" for step in policy.steps if step.share)
    units = f"the values of {policy.unit}" if policy.unit else "the rows"
    test = " for an A/B test" if policy.chosen_mode == "ab" else ""
    served = f" to {shares} of {units}{test}{approved}, then to all" if shares else f" to everything{approved}"
    end = "the champion stays" if policy.on_inconclusive == "keep_champion" else "a person decides"
    return (
        f"then rolls it out: first as a shadow that answers nothing, then{served}; a step takes at least "
        f"{policy.bake_hours:g} h and {_count(policy.min_units, 'unit')}; without a verdict after {policy.max_days:g} days {end}."
    )


def _groups(config: ModelConfig) -> str:
    named = dict.fromkeys((*config.validation.slices, *config.columns.protected))
    return (
        f"; no group of {', '.join(named)} may significantly lose more than {config.validation.slice_margin_in_words}"
        if named
        else ""
    )


def _stale(config: ModelConfig) -> str:
    hours = config.quality.max_age_hours
    limit = f"{hours:g} h" if hours else "the usual gap between rows of the reference (24 h at least)"
    return f"whose newest row lies further before its end than {limit}"


def _label_delay(config: ModelConfig) -> str:
    columns = config.columns
    if not columns.has_label_time:
        return f"after {columns.label_delay_hours:g} h"
    later = f"{columns.label_delay_hours:g} h after " if columns.label_delay_hours else ""
    return f"at a time of their own ({later}columns.label_time: {columns.label_time})"


def _settling(config: ModelConfig) -> str:
    hours = config.source.settle_hours
    return f", each read once, {hours:g} h after its end, with the rows that have arrived by then" if hours else ""


def _positive(config: ModelConfig) -> str:
    """Describe the positive class, which F1 and probabilities refer to; empty unless the task is binary."""
    if config.task != "binary":
        return ""
    named = config.columns.positive_label
    last = "the class that is last by size or alphabet, as columns.positive_label names none"
    return f"; F1 and probabilities refer to {repr(named) if named else last}"


def _stays(config: ModelConfig) -> bool:
    residency = config.placement.residency
    return residency == "on_premises" or (residency is None and bool(config.columns.personal))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _phases(config: ModelConfig) -> str:
    names = {"day": "hours of the day", "week": "hours of the week", "season": "time of year"}
    return " and ".join(names[phase] for phase in config.drift.calendar)
