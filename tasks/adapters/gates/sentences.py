"""Describe expectations and their results in Great Expectations' words, without values of hidden columns."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from numbers import Number
from string import Template
from typing import Any

from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.render.renderer.inline_renderer import InlineRenderer

from tasks.adapters.gates.expectation_suite import Expected
from tasks.policy.data_quality.expectations import Parameters

HIDDEN = "(not shown)"
SHOWN_VALUES = 20
PLAIN = {"column", "column_A", "column_B", "mostly_pct", "strict_min", "strict_max"}
"""Arguments that a sentence may show for a hidden column too."""


def sentence(one: Expected, parameters: Parameters, hidden: bool) -> str:
    """Describe an expectation: "age values must be greater than or equal to 18, at least 99 % of the time."."""
    arguments = {name: _filled(value, parameters) for name, value in one.arguments.items()}
    if one.description:
        return one.description
    if one.learned:
        template, values = _template(one.type, tuple(sorted(arguments))), _values(arguments)
    else:
        template, values = _rendered(ExpectationConfiguration(one.type, arguments))
    shown = {name: value if name in PLAIN or not hidden else HIDDEN for name, value in values.items()}
    return Template(template).safe_substitute(_shortened(shown, hidden)).strip()


def found(total: Mapping[str, Any], hidden: bool) -> str:
    """Describe a result in counts; show a value only if it is a number or a time of a column that is not hidden."""
    if "unexpected_count" in total:
        values = total["element_count"] - (total.get("missing_count") or 0)
        share = total["unexpected_count"] / values if values else 0.0
        return f"otherwise in {total['unexpected_count']:,} of {values:,} rows ({share:.1%})"
    observed = total.get("observed_value")
    if observed is None:
        return "none"
    return _text(observed) if isinstance(observed, Number | datetime) and not hidden else "others, not shown"


def _filled(value: object, parameters: Parameters) -> object:
    return parameters.get(value["$PARAMETER"], value) if isinstance(value, dict) and "$PARAMETER" in value else value


@cache
def _template(kind: str, arguments: tuple[str, ...]) -> str:
    """Return the sentence template of a learned expectation, which depends on the names of its arguments only.

    Great Expectations takes 10 ms to render one template, and a model has about a hundred of these expectations.
    """
    stand_ins = {"column": "column", "mostly": 0.5, "strict_min": True, "strict_max": True, "value_set": ["a"]}
    given = {name: stand_ins.get(name, 1.0 if name.startswith("min") else 2.0) for name in arguments}
    return _rendered(ExpectationConfiguration(kind, given))[0]


def _values(arguments: Mapping[str, Any]) -> dict[str, str]:
    found = {name: _text(value) for name, value in arguments.items()}
    if "mostly" in arguments:
        found["mostly_pct"] = f"{100 * arguments['mostly']:.6g}"
    if "value_set" in arguments:
        listed = [_text(value) for value in arguments["value_set"]]
        more = [f"and {len(listed) - SHOWN_VALUES:,} more"] if len(listed) > SHOWN_VALUES else []
        found["v__0"] = " ".join([*listed[:SHOWN_VALUES], *more])
    return found


def _rendered(configuration: ExpectationConfiguration) -> tuple[str, dict[str, str]]:
    """Return the template and its values from Great Expectations' own renderer."""
    content = InlineRenderer(render_object=configuration).get_rendered_content()[0].value
    values = {name: getattr(param, "value", param) for name, param in (content.params or {}).items()}
    plain = {name: value["value"] if isinstance(value, dict) else value for name, value in values.items()}
    return content.template or configuration.type, {name: _text(value) for name, value in plain.items()}


def _shortened(values: Mapping[str, str], hidden: bool) -> dict[str, str]:
    """Truncate long sets; of a hidden set show neither its values nor its size."""
    listed = [name for name in values if name.startswith("v__")]
    kept = 1 if hidden else SHOWN_VALUES
    cut = dict.fromkeys(listed[kept:], "")
    more = {listed[kept]: f"and {len(listed) - kept:,} more"} if len(listed) > kept and not hidden else {}
    return {**values, **cut, **more}


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"
    return str(value)
