"""Publish Markdown artifacts in the Prefect dashboard, one page per action. Decisions, rollouts and the fleet have their own.

The sentences are those of the decision, identical in ledger and log. The only category values shown are those of
slices, which cannot be personal columns (`deployments/config/model.py`). Names, reasons and category values are
untrusted: unescaped, they could forge a heading, break out of a table, or show an external image above the form that
approves a promotion.
"""

from collections.abc import Sequence
from html import escape

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from deployments.config.model import ModelConfig
from tasks.adapters.reports.plots import reliability_plot, search_plot
from tasks.adapters.storage.links import version_link
from tasks.policy.backtest.study import Recommendation
from tasks.policy.economics.costs import Outcome
from tasks.policy.evidence.validation import MetricDifference, ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.governance.access import Approval, ApprovalRequest
from tasks.policy.model_gates.judgement import gate_rows
from tasks.policy.records.text import one_line, plain
from tasks.policy.reporting.backfill import Backfill
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.preview import Preview
from tasks.policy.training.race import USUAL, RaceReport, gain_over, mean_loss
from tasks.policy.training.search import SearchReport, SearchTrial

SHOWN_TRIALS = 10


def key(kind: str, model: str) -> str:
    """Return an artifact key as Prefect requires (lower case, digits, dashes); the dashboard has a history per key."""
    return f"{kind}-{model}".replace("_", "-")


def quoted(text: str) -> str:
    """Return a person's comment as a block quote; empty without one."""
    return f"\n\n> {plain(text)}" if text else ""


def bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {plain(sentence)}" for sentence in sentences)


def folded(title: str, sentences: tuple[str, ...]) -> str:
    """Return a collapsible list, as one HTML block without a blank line, at which the dashboard would end it."""
    items = "".join(f"<li>{escape(one_line(sentence))}</li>" for sentence in sentences)
    return f"<details><summary>{escape(title)}</summary><ul>{items}</ul></details>"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def publish_backfill_page(model: str, plan: Backfill, dry_run: bool) -> None:
    lists = (
        ("would be filled in" if dry_run else "filled in", plan.missing),
        ("done before", plan.done),
        ("left out, the champion was trained on them", plan.learned),
        ("without rows, tried again by the next back-fill", plan.empty),
    )
    parts = [f"# {model}: back-fill{' (dry run)' if dry_run else ''}", f"{plain(plan.headline)}."]
    parts += [
        f"## {words.capitalize()}\n\n{bullets(tuple(w.name for w in windows))}" for words, windows in lists if windows
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("backfill", model), description=plain(plan.headline))


def publish_preview_page(preview: Preview) -> None:
    """Publish the result of a dry run; one artifact history per model and flow."""
    stopped = ["## What would stop it", bullets(preview.refusals)] if preview.refusals else []
    parts = [
        f"# {preview.model}: {preview.action} (dry run)",
        f"{plain(preview.headline)}. Nothing was changed.",
        *stopped,
    ]
    parts += ["## What it would do", bullets(preview.reasons)]
    named = key(f"preview-{preview.action}", preview.model)
    create_markdown_artifact("\n\n".join(parts), key=named, description=plain(preview.headline))


def publish_backtest(model: str, recommendation: Recommendation, rows: list[dict[str, str]], page: str) -> None:
    """Publish the backtest's recommendation, the YAML to paste and every policy's figures."""
    sentence = plain(recommendation.sentence)
    parts = [f"# {model}: back-test of retraining policies", sentence]
    parts += [f"```yaml\n{recommendation.yaml}```"] if recommendation.yaml else []
    parts += [table(tuple(rows[0]), [tuple(row.values()) for row in rows]), f"Page with plots: {page}"]
    create_markdown_artifact("\n\n".join(parts), key=key("backtest", model), description=sentence)


def publish_validation_page(config: ModelConfig, report: ValidationReport, run_id: str, reason: str) -> None:
    verdict = {"pass": "passed", "warn": "passed with a warning", "fail": "refused"}[report.verdict]
    parts = [
        f"# {config.name}: challenger {report.challenger} {verdict}",
        f"Requested because: {plain(reason)}",
        bullets(report.reasons),
        _differences(report.differences),
        *_gates(config, report),
        f"Champion: version {report.champion or 'none yet'}; compared on {report.rows:,} rows. "
        f"[MLflow: version {report.challenger}]({version_link(config.name, report.challenger)}), run `{run_id}`.",
    ]
    create_markdown_artifact(
        "\n\n".join(parts), key=key("validation", config.name), description=plain(report.reasons[0])
    )
    title = f"{config.name}: reliability of challenger {report.challenger}"
    plot = reliability_plot(report.gates.curves if report.gates else (), title)
    if plot:
        create_image_artifact(plot, key=key("plot-reliability", config.name), description=plain(title))


def publish_search_page(config: ModelConfig, report: SearchReport, version: str) -> None:
    """Publish what was searched before a version was trained, as a page and as a plot of its history."""
    named = plain(report.sentence)
    page = search_page(report, version, config.name)
    create_markdown_artifact(page, key=key("search", config.name), description=named)
    if address := search_plot(report.trials, f"{config.name}: search before version {version}"):
        create_image_artifact(address, key=key("plot-search", config.name), description=named)


def search_page(report: SearchReport, version: str, model: str) -> str:
    """Return Markdown: the result of a search, what it cost, and its best trials."""
    pruned = sum(trial.state == "pruned" for trial in report.trials)
    parts = [
        f"# {model}: search before version {version}",
        f"**{plain(as_sentence(report.sentence))}**",
        f"{len(report.trials)} trials, {pruned} of them ended early as hopeless, on {report.searched_rows:,} of "
        f"{report.rows:,} rows, {report.cpu_s:,.0f} CPU s, {report.usd:,.4f} USD. Each was trained on earlier rows and judged on "
        "later ones; lower losses are better.",
        table(("trial", "from", "state", "loss", "settings"), [_trial_row(trial) for trial in _best_trials(report)]),
    ]
    return "\n\n".join(parts)


def _best_trials(report: SearchReport) -> list[SearchTrial]:
    complete = [trial for trial in report.trials if trial.state == "complete"]
    best = sorted(complete, key=lambda trial: (trial.loss, trial.number))[:SHOWN_TRIALS]
    return list({trial.number: trial for trial in (*report.trials[:1], *best)}.values())


def _trial_row(trial: SearchTrial) -> tuple[str, ...]:
    return str(trial.number), trial.origin, trial.state, f"{trial.loss:.4g}", trial.describe()


def publish_race_page(config: ModelConfig, report: RaceReport) -> None:
    """Publish who raced, with their mean loss, their gain over the file's settings and their cost."""
    metric = report.metric
    header = ("strategy", f"mean {metric} loss on {len(report.windows)} windows", "gain", "CPU s", "outcome")
    usual = next(each for each in report.entrants if each.strategy.key == USUAL)
    rows = [
        (
            each.strategy.name,
            number(mean_loss(each)),
            number(gain_over(usual, each)),
            f"{each.cpu_s:.1f}",
            "wins" if each.strategy.key == report.winner.key else "did not run" if each.refused else "",
        )
        for each in report.entrants
    ]
    first, last = report.windows[0], report.windows[-1]
    parts = [
        f"# {config.name}: race of training strategies",
        bullets(report.reasons),
        table(header, rows),
        f"Each was fitted to rows before {first.start:%Y-%m-%d} and judged on {len(report.windows)} windows until "
        f"{last.end:%Y-%m-%d}. The verdict rests on {report.compared} windows, those of earlier races among them: gain "
        f"{report.gain:+.4g} ({report.low:+.4g} to {report.high:+.4g}). The race took {report.cpu_s:,.1f} CPU s.",
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("race", config.name), description=plain(report.reasons[0]))


def publish_promotion_page(config: ModelConfig, promotion: Promotion, actor: str, comment: str) -> None:
    create_markdown_artifact(
        f"# {config.name}: {promotion.action.replace('_', ' ')}\n\nChampion is version {promotion.champion}, previous is "
        f"{promotion.previous or 'none'}; by {plain(actor)}.{quoted(comment)}\n\n{bullets(promotion.reasons)}",
        key=key("promotion", config.name),
        description=f"champion is version {promotion.champion}",
    )


def approval_evidence(
    config: ModelConfig,
    report: ValidationReport,
    challenger: ModelVersion,
    request: ApprovalRequest,
    refusal: str | None = None,
) -> str:
    """Return the text above the form that asks a person for approval."""
    who = ", ".join(config.access.approve) or "any named person who did not request it"
    parts = [
        *([f"**The last answer was not accepted:** {plain(refusal)}"] if refusal else []),
        f"# May version {challenger.version} of {config.name} serve?",
        f"{plain(config.purpose)} Risk: {config.risk}. It would replace {report.champion or 'no version, as it is the first'}.",
        bullets(report.reasons),
        _differences(report.differences),
        *_gates(config, report),
        f"Trained on {challenger.training_rows:,} rows from {challenger.trained.name}; compared on {report.rows:,} rows "
        f"that neither has seen. MLflow run `{challenger.run_id}`, decision `{challenger.decision_id}`.",
        f"Requested by {plain(', '.join(request.requesters)) or 'automation'}; to be answered by {plain(who)}, until "
        f"{request.expires_at:%Y-%m-%d %H:%M} UTC. No answer counts as a rejection.",
    ]
    return "\n\n".join(part for part in parts if part)


def publish_answer_page(config: ModelConfig, approval: Approval) -> None:
    title = f"# {config.name}: version {approval.version} {approval.verdict.replace('_', ' ')}"
    create_markdown_artifact(
        f"{title}{quoted(approval.comment)}\n\n{bullets(approval.reasons)}",
        key=key("approval", config.name),
        description=plain(approval.reasons[0]),
    )


def publish_outcome(model: str, version: str, outcome: Outcome) -> None:
    """Publish whether a promotion paid off."""
    create_markdown_artifact(
        f"# {model}, version {version}: {outcome.verdict}\n\n{plain(outcome.reason)}",
        key=key("outcome", model),
        description=plain(outcome.reason),
    )


def publish_comparison(model: str, text: str, kind: str = "comparison") -> None:
    """Publish how versions of somebody else's service compare."""
    create_markdown_artifact(f"# {model}\n\n{plain(text)}", key=key(kind, model), description=plain(text))


def _differences(differences: tuple[MetricDifference, ...]) -> str:
    rows = [
        (
            d.slice_name or "all rows",
            d.name,
            f"{d.champion:.4g}",
            f"{d.challenger:.4g}",
            f"{d.gain:+.4g} ({d.low:+.4g} to {d.high:+.4g})",
            f"{d.rows:,}",
        )
        for d in differences
    ]
    return table(("slice", "metric", "champion", "challenger", "gain (interval)", "rows"), rows) if rows else ""


def _gates(config: ModelConfig, report: ValidationReport) -> list[str]:
    """Return the table of the gates beside the primary metric, and of the slices that an error tree found."""
    if report.gates is None:
        return []
    rows = [
        (
            row.gate,
            row.verdict or "does not apply",
            row.value,
            row.limit,
            number(row.champion),
            number(row.challenger),
            row.subject,
        )
        for row in gate_rows(config.validation, report.gates)
    ]
    header = ("gate", "verdict", "value (interval)", "limit", "champion", "challenger", "measure")
    found = ["## Gates", table(header, rows)]
    if report.gates.slices:
        found += ["Slices in which the challenger lost most, found on earlier rows, measured on later ones:"]
        found += [_differences(report.gates.slices)]
    return found
