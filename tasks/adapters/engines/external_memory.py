"""XGBoost's external memory: the binned rows lie in files, and each round reads them again.

Categories are learned before, from the columns alone. Memory holds one batch, the targets and XGBoost's gradients.
Reference: https://xgboost.readthedocs.io/en/stable/tutorials/external_memory.html
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xgboost import DataIter, ExtMemQuantileDMatrix

from tasks.adapters.engines.row_batches import Matrix, RowBatches, Target
from tasks.adapters.storage.workspace import workspace


class _Batches(DataIter):
    """Hand the batches to XGBoost, as often as it asks for them."""

    def __init__(self, rows: RowBatches, feature_types: list[str] | None, cache_prefix: str) -> None:
        super().__init__(cache_prefix=cache_prefix)
        self._rows, self._types = rows, feature_types
        self._left: Iterator[tuple[Matrix, Target]] = iter(())
        self._ended: BaseException | None = None

    def reset(self) -> None:
        self._left = iter(self._rows)

    def next(self, input_data: Callable[..., Any]) -> bool:
        try:
            matrix, target = next(self._left, (None, None))
        except BaseException as ended:
            # SIGTERM or Ctrl-C: XGBoost carries only exceptions of type Exception out of its callback, and would
            # otherwise take the rows so far for all rows
            self._ended = ended
            raise RuntimeError("interrupted") from ended
        if matrix is None:
            return False
        input_data(data=matrix, label=target, feature_types=self._types)
        return True

    def reraise(self) -> None:
        if self._ended is not None and not isinstance(self._ended, Exception):
            self._exception = None  # XGBoost checks that it was raised
            raise self._ended
        super().reraise()


@contextmanager
def cache_folder() -> Iterator[Path]:
    """Yield a folder for the files of `matrices`, deleted afterwards; the matrices must be gone before the block ends."""
    with tempfile.TemporaryDirectory(prefix="external-", dir=workspace().home) as folder:
        yield Path(folder)


def matrices(
    folder: Path,
    fitted: RowBatches,
    held_back: RowBatches | None,
    parameters: dict[str, Any],
    feature_types: list[str] | None,
) -> tuple[ExtMemQuantileDMatrix, ExtMemQuantileDMatrix | None]:
    """Bin the rows into files of this folder, and return them as XGBoost reads them: fitted, and held back if there are any."""
    settings = {
        "nthread": parameters.get("nthread") or parameters.get("n_jobs"),
        "max_bin": parameters.get("max_bin"),
        "enable_categorical": True,
    }
    training = ExtMemQuantileDMatrix(_Batches(fitted, feature_types, f"{folder}/fitted"), **settings)
    if held_back is None:
        return training, None
    beside = _Batches(held_back, feature_types, f"{folder}/held-back")
    return training, ExtMemQuantileDMatrix(beside, ref=training, **settings)
