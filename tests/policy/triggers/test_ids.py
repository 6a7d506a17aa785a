"""Decision ids never change: the JSON of every kind of condition, including the order of fields, is pinned.

The expected texts and ids were written by Perennial 0.1.0 at commit be2c2f2. Ledgers refer to decisions by these ids: if
one changed, an earlier decision would be made again.
"""

import pytest

from tasks.policy.decision.retraining import RetrainingPolicy, decision_id
from tasks.policy.records.base import Window, utc

WINDOW = Window(utc("2013-05-01"), utc("2013-05-06"))
CONDITIONS = [
    (
        {"trigger": "metric_breach", "metric": "accuracy", "limit": 0.85},
        '{"k":1,"m":1,"trigger":"metric_breach","metric":"accuracy","limit":0.85,"release":null}',
    ),
    (
        {"trigger": "metric_breach", "metric": "log_loss", "limit": 0.4, "release": 0.35, "k": 2, "m": 3},
        '{"k":2,"m":3,"trigger":"metric_breach","metric":"log_loss","limit":0.4,"release":0.35}',
    ),
    (
        {"trigger": "metric_shift", "metric": "mae"},
        '{"k":1,"m":1,"trigger":"metric_shift","metric":"mae","margin":0.0,"alpha":0.01}',
    ),
    (
        {
            "trigger": "metric_shift",
            "metric": "mae",
            "margin": 0.5,
            "alpha": 0.05,
            "always_valid": False,
            "k": 2,
            "m": 4,
        },
        '{"k":2,"m":4,"trigger":"metric_shift","metric":"mae","margin":0.5,"alpha":0.05,"always_valid":false}',
    ),
    (
        {"trigger": "metric_decay", "metric": "rmse"},
        '{"trigger":"metric_decay","metric":"rmse","margin":0.0,"alpha":0.05}',
    ),
    (
        {"trigger": "metric_decay", "metric": "rmse", "margin": 0.1, "alpha": 0.1},
        '{"trigger":"metric_decay","metric":"rmse","margin":0.1,"alpha":0.1}',
    ),
    ({"trigger": "adaptive", "metric": "roc_auc"}, '{"trigger":"adaptive","metric":"roc_auc","delta":0.05}'),
    (
        {"trigger": "adaptive", "metric": "roc_auc", "delta": 0.002},
        '{"trigger":"adaptive","metric":"roc_auc","delta":0.002}',
    ),
    ({"trigger": "regret_exceeds_cost"}, '{"trigger":"regret_exceeds_cost","factor":1.0}'),
    ({"trigger": "regret_exceeds_cost", "factor": 2}, '{"trigger":"regret_exceeds_cost","factor":2.0}'),
    ({"trigger": "probe"}, '{"trigger":"probe","alpha":null}'),
    ({"trigger": "probe", "alpha": 0.05}, '{"trigger":"probe","alpha":0.05}'),
    ({"trigger": "perennial"}, '{"trigger":"perennial","alpha":null,"compute_share":0.2}'),
    (
        {"trigger": "perennial", "alpha": 0.05, "compute_share": 0.5},
        '{"trigger":"perennial","alpha":0.05,"compute_share":0.5}',
    ),
    ({"trigger": "mean_shift"}, '{"trigger":"mean_shift","sigma":3.0}'),
    ({"trigger": "mean_shift", "sigma": 2}, '{"trigger":"mean_shift","sigma":2.0}'),
    ({"trigger": "drifted_share"}, '{"trigger":"drifted_share","share":0.3}'),
    ({"trigger": "drifted_share", "share": 0.5}, '{"trigger":"drifted_share","share":0.5}'),
    ({"trigger": "new_rows"}, '{"trigger":"new_rows","fraction":0.05}'),
    ({"trigger": "new_rows", "fraction": 0.1}, '{"trigger":"new_rows","fraction":0.1}'),
    ({"trigger": "arrival", "labelled_rows": 50000}, '{"trigger":"arrival","labelled_rows":50000,"share":null}'),
    ({"trigger": "arrival", "share": 0.2}, '{"trigger":"arrival","labelled_rows":null,"share":0.2}'),
    ({"trigger": "every"}, '{"trigger":"every","days":30.0}'),
    ({"trigger": "every", "days": 7}, '{"trigger":"every","days":7.0}'),
    (
        {"trigger": "calendar", "cron": "0 3 1 * *"},
        '{"trigger":"calendar","cron":"0 3 1 * *","rrule":null,"timezone":"UTC"}',
    ),
    (
        {"trigger": "calendar", "rrule": "FREQ=MONTHLY;BYMONTHDAY=1", "timezone": "America/New_York"},
        '{"trigger":"calendar","cron":null,"rrule":"FREQ=MONTHLY;BYMONTHDAY=1","timezone":"America/New_York"}',
    ),
    (
        {"trigger": "any_of", "conditions": [{"trigger": "every", "days": 30}, {"trigger": "new_rows"}]},
        '{"trigger":"any_of","conditions":[{"trigger":"every","days":30.0},{"trigger":"new_rows","fraction":0.05}]}',
    ),
    (
        {
            "trigger": "all_of",
            "conditions": [
                {"trigger": "every", "days": 30},
                {"trigger": "any_of", "conditions": [{"trigger": "mean_shift"}]},
            ],
        },
        '{"trigger":"all_of","conditions":[{"trigger":"every","days":30.0},{"trigger":"any_of","conditions":[{"trigger":"mean_shift","sigma":3.0}]}]}',
    ),
    (
        {
            "trigger": "at_least",
            "n": 2,
            "conditions": [{"trigger": "every"}, {"trigger": "drifted_share"}, {"trigger": "probe"}],
        },
        '{"trigger":"at_least","n":2,"conditions":[{"trigger":"every","days":30.0},{"trigger":"drifted_share","share":0.3},{"trigger":"probe","alpha":null}]}',
    ),
]
POLICIES = [
    (
        {"when": {"trigger": "metric_breach", "metric": "accuracy", "limit": 0.85}},
        '{"when":{"k":1,"m":1,"trigger":"metric_breach","metric":"accuracy","limit":0.85,"release":null},"cooldown_days":0.0,"max_retrains_per_month":null,"min_rows":200,"min_labelled_rows":200}',
        "699897a5e41dc71a",
        "e1c63945189212c6",
    ),
    (
        {
            "when": {"trigger": "perennial"},
            "cooldown_days": 10,
            "max_retrains_per_month": 2,
            "min_rows": 100,
            "min_labelled_rows": 50,
        },
        '{"when":{"trigger":"perennial","alpha":null,"compute_share":0.2},"cooldown_days":10.0,"max_retrains_per_month":2,"min_rows":100,"min_labelled_rows":50}',
        "aafa9d5f87b4429c",
        "c57e483f62dfc56c",
    ),
    (
        {
            "when": {
                "trigger": "all_of",
                "conditions": [
                    {"trigger": "every", "days": 30},
                    {"trigger": "any_of", "conditions": [{"trigger": "mean_shift"}]},
                ],
            },
            "cooldown_days": 3.5,
            "escalate_after": 5,
        },
        '{"when":{"trigger":"all_of","conditions":[{"trigger":"every","days":30.0},{"trigger":"any_of","conditions":[{"trigger":"mean_shift","sigma":3.0}]}]},"cooldown_days":3.5,"max_retrains_per_month":null,"min_rows":200,"min_labelled_rows":200,"escalate_after":5}',
        "ea1c169cf1af9906",
        "1cbebc91b134e2ab",
    ),
    (
        {
            "when": {
                "trigger": "at_least",
                "n": 2,
                "conditions": [{"trigger": "every"}, {"trigger": "drifted_share"}, {"trigger": "probe"}],
            },
            "max_retrains_per_month": 0,
        },
        '{"when":{"trigger":"at_least","n":2,"conditions":[{"trigger":"every","days":30.0},{"trigger":"drifted_share","share":0.3},{"trigger":"probe","alpha":null}]},"cooldown_days":0.0,"max_retrains_per_month":0,"min_rows":200,"min_labelled_rows":200}',
        "4b908b90d1d84761",
        "44faf8e54bbff038",
    ),
    (
        {
            "when": {
                "trigger": "any_of",
                "conditions": [
                    {"trigger": "metric_breach", "metric": "log_loss", "limit": 0.4, "release": 0.35, "k": 2, "m": 3},
                    {
                        "trigger": "metric_shift",
                        "metric": "mae",
                        "margin": 0.5,
                        "alpha": 0.05,
                        "always_valid": False,
                        "k": 2,
                        "m": 4,
                    },
                    {"trigger": "metric_decay", "metric": "rmse"},
                    {"trigger": "calendar", "cron": "0 3 1 * *"},
                ],
            }
        },
        '{"when":{"trigger":"any_of","conditions":[{"k":2,"m":3,"trigger":"metric_breach","metric":"log_loss","limit":0.4,"release":0.35},{"k":2,"m":4,"trigger":"metric_shift","metric":"mae","margin":0.5,"alpha":0.05,"always_valid":false},{"trigger":"metric_decay","metric":"rmse","margin":0.0,"alpha":0.05},{"trigger":"calendar","cron":"0 3 1 * *","rrule":null,"timezone":"UTC"}]},"cooldown_days":0.0,"max_retrains_per_month":null,"min_rows":200,"min_labelled_rows":200}',
        "201895a11f416157",
        "3e86c8bc2a4eea87",
    ),
]


@pytest.mark.parametrize(("given", "written"), CONDITIONS)
def test_condition_json_is_unchanged(given: dict, written: str) -> None:
    assert RetrainingPolicy.model_validate({"when": given}).when.model_dump_json() == written


@pytest.mark.parametrize(("given", "written", "own", "when_empty"), POLICIES)
def test_decision_ids_are_unchanged(given: dict, written: str, own: str, when_empty: str) -> None:
    policy = RetrainingPolicy.model_validate(given)
    assert policy.model_dump_json() == written
    assert decision_id("flight_delay", policy, WINDOW) == own
    assert decision_id("flight_delay", policy, WINDOW, empty=True) == when_empty


def test_every_kind_of_condition_is_pinned() -> None:
    branches = RetrainingPolicy.model_json_schema()["properties"]["when"]["discriminator"]["mapping"]
    assert {given["trigger"] for given, _ in CONDITIONS} == set(branches)
