"""Train on an existing Dask cluster by `xgboost.dask`: its workers hold the rows and build the trees together.

Rows are encoded here, batch by batch, and sent to the workers. Which worker holds which rows changes the order of sums, so
the trees of two trainings may differ in the last digits; a model is compared with the champion as any other.
Reference: https://xgboost.readthedocs.io/en/stable/tutorials/dask.html
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xgboost import Booster

from tasks.adapters.engines.row_batches import Engine, RowBatches
from tasks.policy.records.errors import EstimatorError
from tasks.policy.records.text import reason_of

if TYPE_CHECKING:  # takes a second to import, and only this engine needs it
    from distributed import Client

CONNECT_S = 20.0


@contextmanager
def connected(engine: Engine) -> "Iterator[Client]":
    """Connect to the scheduler at an address, or at that of an environment variable. Raises EstimatorError."""
    scheduler, setting = engine.scheduler or "", f"{engine.model}: training.dask_scheduler"
    from distributed import Client  # takes a second, and only this engine needs it

    address = os.environ.get(scheduler, "") if re.fullmatch(r"[A-Za-z_]\w*", scheduler) else scheduler
    if not address:
        raise EstimatorError(
            f"{setting}: the environment variable {scheduler} is not set, expected the address of a Dask "
            "scheduler, such as tcp://10.0.0.5:8786"
        )
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EstimatorError(
            f"{setting}: no Dask scheduler answers at {address} ({reason_of(error)}); expected a running cluster; "
            "start it, correct the address, or set training.engine: memory"
        ) from None
    with client, client.as_current():
        if not client.scheduler_info()["workers"]:
            raise EstimatorError(
                f"{setting}: the cluster at {address} has no workers, expected at least one; start some"
            )
        yield client


def train(
    fitted: RowBatches, held_back: RowBatches | None, parameters: dict[str, Any], feature_types: list[str] | None
) -> Booster:
    """Return the booster trained with these parameters; `n_estimators` and `early_stopping_rounds` are among them."""
    from xgboost import dask as on_dask  # imports dask, which only this engine needs

    rounds, patience = parameters.pop("n_estimators"), parameters.pop("early_stopping_rounds", None)
    with connected(fitted.engine) as client:
        settings = {"enable_categorical": True, "feature_types": feature_types, "max_bin": parameters.get("max_bin")}
        training = on_dask.DaskQuantileDMatrix(client, *_sent(client, fitted), **settings)
        beside = held_back and on_dask.DaskQuantileDMatrix(client, *_sent(client, held_back), ref=training, **settings)
        result = on_dask.train(
            client,
            parameters,
            training,
            num_boost_round=rounds,
            evals=[(beside, "validation_0")] if beside else [],
            early_stopping_rounds=patience if beside else None,
            verbose_eval=False,
        )
    booster: Booster = result["booster"]
    return booster


def _sent(client: "Client", rows: RowBatches) -> tuple[Any, Any]:
    """Send the batches to the workers and return them as two Dask arrays: matrix and target."""
    import dask.array as da  # takes half a second, and only this engine needs it

    parts = []
    for matrix, target in rows:
        held = client.scatter([matrix, target], direct=False)
        parts.append(
            [
                da.from_delayed(each, value.shape, value.dtype)
                for each, value in zip(held, (matrix, target), strict=True)
            ]
        )
    matrices, targets = zip(*parts, strict=True)
    return da.concatenate(matrices), da.concatenate(targets)
