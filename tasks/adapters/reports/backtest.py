"""The backtest as one self-contained HTML page: the cost of each policy, with intervals.

Plotly's bundle is embedded once; names are escaped by Plotly's JSON and by Jinja. The plots are the Pareto front of mean
loss against retrains, regret over the cost of a retrain, and lift with its interval over a timer with as many retrains.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from tasks.adapters.storage.atomic_files import write_whole
from tasks.policy.backtest.study import Backtest, Lift, Recommendation

SEEN = 3.0
"""Lift at which the plot is cut off: if a timer is as good as hindsight, the lift's denominator is close to zero."""
OURS, OTHERS = "#0b7a4b", "#9aa3ad"
TEMPLATES = Path(__file__).parent / "templates"


Lifts = Mapping[str, Mapping[float, Lift | None]]


def write_page(backtest: Backtest, lifts: Lifts, path: Path, title: str, recommendation: Recommendation) -> Path:
    """Write the page atomically. Raises OSError."""
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    text = pages.get_template("backtest.html.j2").render(
        title=title,
        recommendation=recommendation.sentence,
        yaml=recommendation.yaml,
        plotly=get_plotlyjs(),
        pareto=_html(_pareto(backtest), "pareto"),
        regret=_html(_regret(backtest), "regret"),
        lift=_html(_lift(backtest, lifts), "lift"),
        lift_alpha=f"{_middle(backtest):g}",
        lift_rows=_lift_rows(backtest, lifts),
        alpha_names=[f"{alpha:g}" for alpha in backtest.alphas],
        rows=[_row(backtest, policy) for policy in backtest.ranking()],
        alphas=", ".join(f"{alpha:g}" for alpha in backtest.alphas),
    )
    return write_whole(path, text)


def _html(figure: go.Figure, name: str) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False}))


def pareto_front(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points (retrains, loss) that no other point dominates, in order of retrains."""
    front: list[tuple[int, float]] = []
    for retrains, loss in sorted(set(points)):
        if not front or loss < front[-1][1]:
            front.append((retrains, loss))
    return front


def _pareto(backtest: Backtest) -> go.Figure:
    figure = go.Figure()
    everything: list[tuple[int, float]] = []
    for policy, scores in backtest.policies.items():
        points = [(len(score.run.trainings), score.run.mean_loss) for score in scores.values()]
        everything += points
        colour, size = (OURS, 11) if policy == "perennial" else (OTHERS, 7)
        hover = [f"{policy}<br>α {alpha:g}<br>%{{x}} retrains, loss %{{y:.4f}}" for alpha in scores]
        style: dict[str, Any] = {"color": colour, "size": size}
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, mode="markers", name=policy, marker=style, hovertemplate=hover)
    x, y = zip(*pareto_front(everything), strict=True)
    figure.add_scatter(x=x, y=y, mode="lines", name="front", line={"color": "#1d2329", "width": 1, "dash": "dot"})
    return _styled(figure, "retrains", "mean loss")


def _regret(backtest: Backtest) -> go.Figure:
    figure = go.Figure()
    for policy in backtest.ranking():
        scores = backtest.policies[policy]
        line = {"color": OURS, "width": 3} if policy == "perennial" else {"width": 1}
        y = [score.regret for score in scores.values()]
        figure.add_scatter(x=list(scores), y=y, mode="lines+markers", name=policy, line=line)
    figure.update_xaxes(type="log", tickvals=list(backtest.alphas))
    return _styled(figure, "α, cost of a retrain", "regret")


def _middle(backtest: Backtest) -> float:
    """Return the cost α of a retrain to which the recommendation applies."""
    return backtest.alphas[len(backtest.alphas) // 2]


def _lift(backtest: Backtest, lifts: Lifts) -> go.Figure:
    """Plot each policy's lift and interval, best on top; omit policies without a retrain at this cost."""
    alpha, figure = _middle(backtest), go.Figure()
    known = [(policy, lift) for policy in backtest.ranking() if (lift := lifts[policy][alpha])]
    for policy, lift in sorted(known, key=lambda each: each[1].lift):
        colour = OURS if policy == "perennial" else OTHERS
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [lift.high - lift.lift],
            "arrayminus": [lift.lift - lift.low],
        }
        hover = f"{policy}<br>{lift.retrains} retrains<br>lift {_lift_text(lift)}<extra></extra>"
        figure.add_scatter(
            x=[lift.lift], y=[policy], mode="markers", name=policy, hovertemplate=hover, showlegend=False,
            marker={"color": colour, "size": 9}, error_x={**bars, "color": colour, "thickness": 2},
        )  # fmt: skip
    bounds = [bound for _, lift in known for bound in (lift.low, lift.high)]
    figure.update_xaxes(range=[max(-SEEN, min([-0.2, *bounds])) - 0.1, min(SEEN, max([1.0, *bounds])) + 0.1])
    figure.add_vline(x=0, line={"color": "#1d2329", "width": 1, "dash": "dot"})
    _styled(figure, "lift", "")
    return figure.update_layout(height=max(200, 90 + 26 * len(known)), margin={"l": 150})


def _lift_rows(backtest: Backtest, lifts: Lifts) -> list[tuple[str, list[str]]]:
    """Return the policies with a lift at any cost, best first, and their lift at each cost."""
    known = [policy for policy in backtest.ranking() if any(lifts[policy].values())]
    return [(policy, [_lift_text(lift) for lift in lifts[policy].values()]) for policy in known]


def _lift_text(lift: Lift | None) -> str:
    return "–" if lift is None else f"{lift.lift:.2f} ({lift.low:.2f} to {lift.high:.2f})"


def _styled(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_layout(template="plotly_white", height=460, margin={"l": 60, "r": 20, "t": 20, "b": 50})
    return figure.update_xaxes(title=x).update_yaxes(title=y)


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
    names = ("policy", "mean regret", "skill", "lift", "retrains", "deployments", "probes")
    return [dict(zip(names, _row(backtest, policy), strict=True)) for policy in backtest.ranking()]
