"""The backtest as one HTML page: the cost of each policy, with intervals.

The plots are the Pareto front of mean loss against retrains, regret over the cost of a retrain, and lift with its
interval over a timer with as many retrains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tasks.adapters.reports import page
from tasks.adapters.reports.page import Chart
from tasks.adapters.storage.atomic_files import write_atomically
from tasks.policy.backtest.comparison import PolicyComparison, times
from tasks.policy.backtest.study import Backtest, Lift, Recommendation

SEEN = 3.0
"""Lift at which the plot is cut off: if a timer is as good as hindsight, the lift's denominator is close to zero."""
COLUMNS = ("policy", "mean regret", "skill", "lift", "retrains", "deployments", "probes")

Lifts = Mapping[str, Mapping[float, Lift | None]]


def write_page(backtest: Backtest, lifts: Lifts, path: Path, title: str, recommendation: Recommendation) -> Path:
    """Write the page atomically. Raises OSError."""
    html = page.render(
        "backtest.html.j2",
        {"pareto": _pareto(backtest), "regret": _regret(backtest), "lift": _lift(backtest, lifts)},
        title=title,
        recommendation=recommendation.sentence,
        yaml=recommendation.yaml,
        lift_alpha=f"{_middle(backtest):g}",
        lift_rows=_lift_rows(backtest, lifts),
        alpha_names=[f"{alpha:g}" for alpha in backtest.alphas],
        columns=COLUMNS,
        rows=[_row(backtest, policy) for policy in backtest.ranking()],
    )
    return write_atomically(path, html)


def pareto_front(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points (retrains, loss) that no other point dominates, in order of retrains."""
    front: list[tuple[int, float]] = []
    for retrains, loss in sorted(set(points)):
        if not front or loss < front[-1][1]:
            front.append((retrains, loss))
    return front


def _pareto(backtest: Backtest) -> Chart:
    traces: list[Chart] = []
    everything: list[tuple[int, float]] = []
    for policy, scores in backtest.policies.items():
        points = [(len(score.run.trainings), score.run.mean_loss) for score in scores.values()]
        everything += points
        hover = [f"{policy}<br>α {alpha:g}<br>%{{x}} retrains, loss %{{y:.4f}}<extra></extra>" for alpha in scores]
        marker = {"color": _colour(policy), "size": 11 if policy == "perennial" else 7}
        traces.append(_trace(points, name=policy, mode="markers", marker=marker, hovertemplate=hover))
    line = {"color": "ink", "width": 1, "dash": "dot"}
    front = _trace(pareto_front(everything), name="front", mode="lines", line=line)
    return _figure([*traces, front], {"title": "retrains"}, {"title": "mean loss"})


def _regret(backtest: Backtest) -> Chart:
    traces = []
    for policy in backtest.ranking():
        points = [(alpha, score.regret) for alpha, score in backtest.policies[policy].items()]
        line = {"color": _colour(policy), "width": 3} if policy == "perennial" else {"width": 1}
        traces.append(_trace(points, name=policy, mode="lines+markers", line=line))
    axis = {"title": "α, cost of a retrain", "type": "log", "tickvals": backtest.alphas, "tickangle": "auto"}
    return _figure(traces, axis, {"title": "regret"})


def _middle(backtest: Backtest) -> float:
    """Return the cost α of a retrain to which the recommendation applies."""
    return backtest.alphas[len(backtest.alphas) // 2]


def _lift(backtest: Backtest, lifts: Lifts) -> Chart:
    """Plot each policy's lift and interval, best on top; omit policies without a retrain at this cost."""
    alpha, traces = _middle(backtest), []
    known = [(policy, lift) for policy in backtest.ranking() if (lift := lifts[policy][alpha])]
    for policy, lift in sorted(known, key=lambda each: each[1].lift):
        ends = {"array": [lift.high - lift.lift], "arrayminus": [lift.lift - lift.low], "symmetric": False}
        bars = {"type": "data", **ends, "color": _colour(policy), "thickness": 2}
        hover = f"{policy}<br>{lift.retrains} retrains<br>lift {_lift_text(lift)}<extra></extra>"
        marker = {"color": _colour(policy), "size": 9}
        traces.append(_trace([(lift.lift, policy)], mode="markers", marker=marker, hovertemplate=hover, error_x=bars))
    bounds = [bound for _, lift in known for bound in (lift.low, lift.high)]
    shown = [max(-SEEN, min([-0.2, *bounds])) - 0.1, min(SEEN, max([1.0, *bounds])) + 0.1]
    figure = _figure(traces, {"title": "lift", "range": shown}, {"automargin": True})
    line = {"color": "ink", "width": 1, "dash": "dot"}
    timer = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": line}
    figure["layout"] |= {"shapes": [timer], "showlegend": False, "height": max(200, 90 + 26 * len(known))}
    return figure


def _colour(policy: str) -> str:
    return "better" if policy == "perennial" else "calm"


def _trace(points: Sequence[tuple[float, float | str]], **style: object) -> Chart:
    x, y = zip(*points, strict=True)
    return {"type": "scatter", "x": x, "y": y, **style}


def _figure(traces: Sequence[Chart], xaxis: Chart, yaxis: Chart) -> Chart:
    margin = {"l": 70, "r": 12, "t": 8, "b": 48}
    axes = {"xaxis": xaxis, "yaxis": {"fixedrange": False, **yaxis}}
    layout = {"height": 460, "margin": margin, "hovermode": "closest", "showlegend": True, **axes}
    return {"data": traces, "layout": layout}


def _lift_rows(backtest: Backtest, lifts: Lifts) -> list[list[str]]:
    """Return the policies with a lift at any cost, best first, and their lift at each cost."""
    known = [policy for policy in backtest.ranking() if any(lifts[policy].values())]
    return [[policy, *map(_lift_text, lifts[policy].values())] for policy in known]


def _lift_text(lift: Lift | None) -> str:
    return "–" if lift is None else f"{lift.lift:.2f} ({lift.low:.2f} to {lift.high:.2f})"


def _row(backtest: Backtest, policy: str) -> list[str]:
    scores = list(backtest.policies[policy].values())
    return [
        policy,
        f"{backtest.mean_regret(policy):.4f}",
        _average([score.skill for score in scores]),
        _average([score.lift for score in scores]),
        f"{_mean([len(score.run.trainings) for score in scores]):.1f}",
        f"{_mean([score.run.deployments for score in scores]):.1f}",
        f"{_mean([len(score.run.probes) for score in scores]):.1f}",
    ]


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)


def _average(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.2f}" if known else "–"


def table(backtest: Backtest) -> list[dict[str, str]]:
    """Return the page's rows for an artifact."""
    return [dict(zip(COLUMNS, _row(backtest, policy), strict=True)) for policy in backtest.ranking()]


@dataclass(frozen=True)
class FirstLook:
    """The texts of the page that `perennial new` writes, beside the comparison of policies."""

    model: str
    metric: str
    scope: str
    notes: tuple[str, ...]
    guesses: tuple[str, ...]
    questions: tuple[str, ...]
    steps: tuple[str, ...]


def policy_columns(metric: str) -> tuple[str, ...]:
    """Return the header of `policy_rows`."""
    return "policy", "retrains", metric, "gain over never (95 %)", "cost", "worth"


def policy_rows(comparison: PolicyComparison) -> list[tuple[str, ...]]:
    """Return one row of texts per policy."""
    return [
        (
            each.policy,
            f"{each.retrains}, switched back {times(each.switches_back)}" if each.switches_back else str(each.retrains),
            f"{each.metric:.4g}",
            "–" if each.serves_as_never else f"{each.gain:+.3g} ({each.low:+.3g} to {each.high:+.3g})",
            "< 0.01 $" if 0 < each.cost_usd < 0.01 else f"{each.cost_usd:,.2f} $",
            "?" if each.value_usd is None else f"{each.value_usd:,.2f} $",
        )
        for each in comparison.results
    ]


def write_first_look(comparison: PolicyComparison, texts: FirstLook, path: Path) -> Path:
    """Write the page of `perennial new` atomically. Raises WorkspaceError."""
    html = page.render(
        "new.html.j2",
        comparison=comparison,
        columns=policy_columns(texts.metric),
        rows=policy_rows(comparison),
        **{field.name: getattr(texts, field.name) for field in fields(texts)},
    )
    return page.write(html, path, "first-look")
