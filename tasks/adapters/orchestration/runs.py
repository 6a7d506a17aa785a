"""Runs a flow in this process as a run of its own, loaded by the entrypoint that its deployment uses.

Such runs are no sub-flows: for the tracking task of each sub-flow Prefect makes a client anew, which costs 0.4 s
every time (measured on 3.8). REPLAYING tells `announce` that no automation may act on what they say.
"""

from contextvars import copy_context
from functools import partial
from typing import Any

from prefect.context import FlowRunContext
from prefect.flows import load_flow_from_entrypoint

from tasks.adapters.orchestration.events import BACKFILLING, REPLAYING


def run_missed(name: str, **parameters: Any) -> Any:
    """Run a flow on a window that was missed; what it decides is for the record."""
    apart = copy_context()
    apart.run(BACKFILLING.set, True)
    return apart.run(partial(run_recorded, name, **parameters))


def run_recorded(name: str, **parameters: Any) -> Any:
    """Run a flow on recorded history and return what it returns; its events start nothing."""
    alone = copy_context()
    alone.run(FlowRunContext.__var__.set, None)
    alone.run(REPLAYING.set, True)
    return alone.run(partial(load_flow_from_entrypoint(f"flows.{name}.{name}"), **parameters))
