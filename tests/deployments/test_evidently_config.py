"""Settings under `drift.evidently`, and their error messages."""

import pytest
from pydantic import ValidationError

from deployments.config.messages import explain_all
from deployments.config.model import ModelConfig
from tests.support.monitored_model import FEATURES, model

MEAN = {"metric": "MeanValue", "parameters": {"column": "amount"}}


def mistakes(*items: dict, **sections) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        model(drift={"evidently": list(items)}, **sections)
    return explain_all("churn.yaml", raised.value.errors(), ModelConfig)


@pytest.mark.parametrize(
    "item",
    [
        MEAN,
        MEAN | {"tests": {"gt": 25, "lte": {"relative": 0.1}, "eq": "text"}, "fails_as": "drifted"},
        MEAN | {"share_tests": {"lt": {"absolute": 5}}},
        {"metric": "CategoryCount", "parameters": {"column": "country", "categories": ["DE"]}, "tests": {"is_in": [1]}},
        {"preset": "DataDriftPreset", "parameters": {"columns": ["amount"], "per_column_method": {"age": "ks"}}},
        {"report": "own.reports:drift", "parameters": {"column": "anything"}, "default_tests": True},
    ],
)
def test_metrics_presets_and_functions_are_accepted(item):
    (found,) = model(drift={"evidently": [item]}).drift.evidently
    assert found.fails_as == item.get("fails_as", "warn")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "drift.evidently.0: names nothing to compute, expected one of metric, preset and report"),
        (MEAN | {"preset": "A"}, "drift.evidently.0: names metric and preset, expected one of metric, preset and report"),
        ({"preset": "A", "tests": {"lt": 1}}, "tests belong to a metric, found a preset"),
        (MEAN | {"tests": {"lesser": 1}}, "tests: lesser is not a test, expected one of eq, not_eq, gt, gte, lt, lte, is_in"),
        (MEAN | {"tests": {"lt": "1"}}, "tests: lt is '1', expected a number, or a distance from the reference: {relative: 0.1} or {absolute: 5}"),
        (MEAN | {"tests": {"lt": {"relativ": 1}}}, "expected a number, or a distance from the reference: {relative: 0.1}"),
        (MEAN | {"tests": {"lt": True}}, "tests: lt is True, expected a number"),
        (MEAN | {"tests": {"is_in": 3}}, "tests: is_in is 3, expected a list of values"),
        (MEAN | {"fails_as": "failed"}, "fails_as is 'failed', expected 'warn' or 'drifted'"),
        ({"metric": "os.system"}, "drift.evidently.0.metric is 'os.system', expected text that should match"),
        ({"metric": "MeanValue", "parameters": {"column": "amuont"}}, "drift.evidently.0 reads 'amuont', expected a feature"),
        ({"preset": "A", "parameters": {"columns": ["amount", "b"]}}, "drift.evidently.0 reads 'b', expected a feature"),
        ({"preset": "A", "parameters": {"per_column_method": {"b": "ks"}}}, "drift.evidently.0 reads 'b', expected a feature"),
        (MEAN | {"colum": 1}, "drift.evidently.0.colum is not a known key"),
    ],
)  # fmt: skip
def test_error_names_what_is_expected(item, message):
    assert any(message in sentence for sentence in mistakes(item))


def test_a_personal_column_is_refused():
    (sentence,) = mistakes(
        {"metric": "UniqueValueCount", "parameters": {"column": "country"}},
        columns={"personal": ["country"], "features": FEATURES},
    )
    assert "reads 'country', expected a feature that columns.personal does not list" in sentence


def test_evidently_settings_are_part_of_the_fingerprint():
    assert model(drift={"evidently": [MEAN]}).fingerprint != model(drift={"evidently": []}).fingerprint
