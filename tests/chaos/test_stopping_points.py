"""Every place where a process is stopped exists; a function that moved is found here, before the chaos tests run."""

import importlib
import re
from operator import attrgetter
from pathlib import Path

import pytest

from tests.chaos.matrix import BOUNDARIES
from tests.chaos.rollout_kills import KILLS
from tests.chaos.stopping_points.sitecustomize import POINTS

NAMES = {f"{module}.{function}" for module, functions in POINTS.items() for function in functions}
PLAN = re.compile(r'"([\w.]+) (?:before|after) [0-9]+"')


@pytest.mark.parametrize("module", POINTS)
def test_a_wrapped_function_exists(module: str) -> None:
    for name in POINTS[module]:
        assert callable(attrgetter(name)(importlib.import_module(module)))


def test_every_plan_stops_at_a_wrapped_function() -> None:
    source = (Path(__file__).parent / "faults.py").read_text(encoding="utf-8")
    planned = {plan.split()[0] for plan in (*BOUNDARIES.values(), *KILLS.values())} | set(PLAN.findall(source))
    assert planned <= NAMES
