"""The decorator of every stage: a Prefect task with shared retries, cache policy and argument passing.

A stage is never cached: its writes are idempotent by decision, and its inputs refer to tables that may have grown. It
is retried only after transient failures. Prefect visits every field of an argument to find futures; large records, such
as a model's history, are passed with `quote`, which skips that visit.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from tasks.adapters.orchestration.retry_conditions import is_transient
from tasks.policy.evidence.ledger import Past
from tasks.policy.evidence.monitoring import History, MonitorRun
from tasks.policy.records.profile import WindowProfile

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
DELAYS_S = {1: [10], 2: [2, 10], 3: [2, 10, 30]}
"""Seconds before each retry, by number of retries: an unreachable store recovers within seconds or not soon."""
LARGE = (History, MonitorRun, Past, WindowProfile)


class Stage(Task[Parameters, Result]):
    """A task that passes large records without Prefect's visit of every field."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return super().__call__(
            *(_quoted(value) for value in arguments),
            **{name: _quoted(value) for name, value in named.items()},
        )


def _quoted(value: object) -> object:
    return quote(value) if isinstance(value, LARGE) else value


@overload
def stage(body: Callable[Parameters, Result], /) -> Stage[Parameters, Result]: ...
@overload
def stage(
    *, retries: int = 0, **options: Any
) -> Callable[[Callable[Parameters, Result]], Stage[Parameters, Result]]: ...
def stage(body: Callable[..., Any] | None = None, /, *, retries: int = 0, **options: Any) -> Any:
    """Turn a function into a stage; `options` are those of `prefect.task` and override the shared ones.

    Args:
        body: The function, where the decorator is used without parentheses.
        retries: Maximum retries after a transient failure, 0 to 3 (delays in `DELAYS_S`). A comment at the call names
            the failure.
    """
    shared: dict[str, Any] = {"cache_policy": NO_CACHE, "retry_condition_fn": is_transient}
    if retries:
        shared |= {"retries": retries, "retry_delay_seconds": DELAYS_S[retries]}
    settings = shared | options
    return Stage(body, **settings) if body else lambda function: Stage(function, **settings)
