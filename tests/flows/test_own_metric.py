"""A lender's model: judged by profit, a metric of the lender's own, and retrained by a trigger of the lender's own."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deployments.cli import main
from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.policy.evidence.monitoring import History, Judgement, WindowEvidence
from tasks.policy.records.base import utc
from tasks.policy.records.errors import MetricError, ModelConfigError, TriggerError
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")

MODULE = f"""{example("triggers", "python")}

{example("metrics", "python")}

def wrong_shape(labels, predictions):
    return np.ones(3)


class Broken(LosingMoney):
    trigger: Literal["broken"]

    def judge(self, case):
        return self.result(case.evidence.drift.drifted_share > 0.5, "drift")


class Hasty(LosingMoney):
    trigger: Literal["hasty"]

    def judge(self, case):
        return True
"""
YAML = f"""\
name: loans-2024
owner: lender@example.com
purpose: Decides which loans are granted.
risk: low
task: binary
source: {{kind: parquet, path: rows.parquet}}
columns:
  id: loan
  time: at
  label: defaulted
  label_delay_hours: 12 hours
  features: {{numeric: [income, debt]}}
  extra: [amount]
window_days: 2
period: {{start: 2024-01-01T00:00:00Z, history_until: 2024-01-21T00:00:00Z, end: 2024-02-06T00:00:00Z}}
{example("metrics")}{example("triggers")}budget: {{value_usd_per_metric_unit_per_day: 200, fixed_usd_per_retrain: 30}}
training: {{window_days: 4, min_rows: 300, parameters: {{n_estimators: 30, max_depth: 3, learning_rate: 0.3}}}}
validation: {{holdout_days: 1.5, min_rows: 100}}
rollout: {{mode: none}}
"""
START, CHANGE, ROWS_PER_DAY = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 25, tzinfo=UTC), 200


def loans(days: int = 36) -> pd.DataFrame:
    """Return loans: debt makes them default, from CHANGE on income does."""
    random, count = np.random.default_rng(5), days * ROWS_PER_DAY
    at = pd.date_range(START, periods=count, freq=timedelta(days=1) / ROWS_PER_DAY)
    income, debt = random.normal(size=count), random.normal(size=count)
    risk = np.where(at < CHANGE, debt, income) * 3 + random.normal(scale=0.5, size=count)
    return pd.DataFrame(
        {
            "loan": [f"l{number}" for number in range(count)],
            "at": at,
            "income": income,
            "debt": debt,
            "amount": random.lognormal(5, 0.7, count).round(2),
            "defaulted": (risk > 0.5).astype(int),
        }
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lender.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    loans().to_parquet(tmp_path / "rows.parquet")
    path = tmp_path / "loans-2024.yaml"
    path.write_text(YAML, encoding="utf-8")
    return str(path)


def judged(model: str, day: int) -> Judgement:
    score(model, until=utc("2024-01-01") + timedelta(days=day))
    return monitor(model, until=utc("2024-01-01") + timedelta(days=day))


def test_profit_judges_retrains_and_validates(model):
    first = retrain(model, until=utc("2024-01-21"))
    promote(model, until=utc("2024-01-21"))
    assert first.first_model and first.reasons[0].startswith("first model: profit ")
    assert first.constant.gain > 0, "it earns more than granting everybody or nobody a loan"

    calm = judged(model, 24)
    report = calm.evidence.performance
    values = {metric.name: metric for metric in report.metrics}
    assert {"profit", "caught", "f2", "log_loss"} <= set(values)
    rows = loans()
    mean = rows["amount"].mean()
    assert values["profit"].low < values["profit"].value < values["profit"].high
    assert 0.01 * mean < values["profit"].value < 0.08 * mean
    assert not calm.decision.retrain

    judged(model, 26)
    losing = judged(model, 28)
    assert losing.evidence.performance.metric("profit").value < 0
    assert losing.decision.retrain
    assert losing.decision.triggers == ("losing_money",)
    assert losing.decision.reasons[0].startswith("a loan earned -")

    validation = retrain(model, until=utc("2024-01-31"), decision_id=losing.decision.decision_id)
    assert (validation.verdict, validation.differences[0].name) == ("pass", "profit")
    assert validation.differences[0].low > 0
    promote(model, until=utc("2024-01-31"))
    judged(model, 32)
    assert judged(model, 34).evidence.performance.metric("profit").value > 0


def test_the_backtest_judges_the_own_trigger_beside_the_others_in_metric_and_money(model, capsys):
    """Profit turns negative on day 24. The trigger waits for that; `every` pays for 7 retrains, `never` loses on."""
    (words,) = [line.split()[2:] for line in example("triggers", "console").splitlines()]
    place = words.index("--model") + 1
    words = [*words[:place], model, *words[place + 1 :]]
    assert main(["backtest", *words, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    summary = json.loads(Path(outcome["summary"]).read_text())
    assert set(summary["policies"]) == {"losing_money", "perennial", "never", "every", "timer_4"}
    own, never = (summary["policies"][name]["0.05"] for name in ("losing_money", "never"))
    first = load_model_config(model)
    turned = len(first.history_windows()) + 2  # windows of two days: this one begins on the day of the change
    assert own["serving"][:3] == never["serving"][:3] == [turned - 3] * 3, (
        "it kept the first model while that earned money"
    )
    assert turned in own["serving"], "retrained after the first window that lost money"
    assert own["regret"] < never["regret"]
    assert 1 <= len(set(own["serving"])) - 1 <= 3
    money = outcome["recommendation"]
    assert "In USD over these 16 days, after 30.00 for each retrain, against never: " in money
    gains = dict(re.findall(r"(\w+) ([+-][\d,]+)", money.split("against never: ")[1]))
    assert set(gains) == {"losing_money", "perennial", "every", "timer_4"}
    assert int(gains["losing_money"].replace(",", "")) > 0
    assert main(["backtest", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Use ") and Path(outcome["page"]).as_uri() in shown.splitlines()[-1]


def test_a_trigger_that_raises_is_named(model, capsys):
    text = Path(model).read_text(encoding="utf-8")
    Path(model).write_text(text.replace("lender:LosingMoney", "lender:Broken"), encoding="utf-8")
    assert main(["backtest", "--model", model, "--policies", "broken", "--until", "2024-01-26"]) == 1
    assert (
        "retraining: trigger lender:Broken: judge raised AttributeError: 'NoneType' object has no attribute 'drifted_share' in "
        "2024-01-21..2024-01-23; expected a TriggerResult"
    ) in capsys.readouterr().err
    Path(model).write_text(text.replace("lender:LosingMoney", "lender:Hasty"), encoding="utf-8")
    config = load_model_config(model)
    case = config.retraining.case(WindowEvidence(config.windows()[0], 400), History(), utc("2024-01-23"))
    with pytest.raises(
        TriggerError, match=r"lender:Hasty: judge returned bool in .*; return self\.result\(holds, reason\)"
    ):
        config.retraining.when.decide(case)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lender:profit", "lendr:profit", "metrics.profit.function is lendr:profit, which cannot be imported"),
        ("lender:LosingMoney", "lender:Losing", "trigger is lender:Losing, which cannot be imported"),
        ("lender:LosingMoney", "lender:profit", "expected a subclass of tasks.policy.triggers.base.Trigger"),
        ("at_least_usd: 0", "at_least: 0", "trigger lender:LosingMoney: at_least_usd: Field required; at_least"),
        ("columns: [amount]}", "columns: [amont]}", "metrics.profit.columns has 'amont', expected columns that are stored"),
        ("{function: recall_at_precision, parameters: {precision: 0.6}}", "{function: wape}", "expected task: regression"),
        ("parameters: {precision: 0.6}", "parameters: {precison: 0.6}", "has 'precison', but recall_at_precision takes precision"),
        ("higher_is_better: true, ", "", "higher_is_better is missing"),
        ("metric: profit", "metric: profits", "performance.metric is 'profits', expected one of"),
        ("  f2:", "  f1:", "metrics.f1 has the name of a built-in metric"),
    ],
)  # fmt: skip
def test_mistakes_are_named(model, old, new, message):
    text = Path(model).read_text(encoding="utf-8")
    assert old in text
    Path(model).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises((ModelConfigError, MetricError), match=message.replace("(", r"\(")):
        load_model_config(model).measured_metrics  # noqa: B018


def test_a_metric_of_the_wrong_shape_is_refused_with_its_remedy(model):
    text = Path(model).read_text(encoding="utf-8").replace("lender:profit", "lender:wrong_shape")
    Path(model).write_text(text.replace(", columns: [amount]}", "}"), encoding="utf-8")
    with pytest.raises(MetricError, match=r"metrics.profit: the function returned shape \(3,\) for \d+ rows"):
        retrain(model, until=utc("2024-01-21"))
