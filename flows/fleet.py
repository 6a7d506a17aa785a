"""Show all models, most urgent first: an artifact in the dashboard and a page that works offline.

Models whose file is broken come first. Only the ledger and the registry are read. `make serve` also shows this page, up
to date at each visit: /reports/fleet.html of its reports.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from deployments.config.folders import available_models
from flows.parameters import Model, Moment, in_utc, wall_clock
from tasks.record.fleet import publish_fleet, survey_files


@flow(name="fleet", flow_run_name="fleet")
def fleet(models: Annotated[list[Model], Field(max_length=500)] | None = None, until: Moment | None = None) -> str:
    """Show every model's champion, health, drift, last decision, next check, spending and open approvals.

    Args:
        models: Names under deployments/, or paths of YAML files anywhere. All under deployments/, when left empty.
        until: As of this time (UTC). Now, when left empty.
    """
    surveyed = survey_files(models or available_models(), in_utc(until) if until else wall_clock())
    return str(publish_fleet(surveyed))
