"""Decide which failures are transient; only these are retried, because a refusal would repeat."""

from typing import Any

from prefect import State

from tasks.policy.records.errors import NoChampion, PerennialError, RegistryError, VersionGone


def is_transient(_task: object, _run: object, state: State[Any]) -> bool:
    """Return whether to retry (`retry_condition_fn`): an unreachable registry or store may recover, a refusal may not."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, PerennialError):
        return True
    return isinstance(error, RegistryError) and not isinstance(error, (NoChampion, VersionGone))
