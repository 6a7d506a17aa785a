"""Labels that carry further columns of their rows, for metrics that read them, such as the amount of a loan.

Labels are selected, resampled and split by slice in many places. A subclass of numpy's array selects the columns along
with the labels ("Subclassing ndarray", NumPy user guide), so none of these places needs to know about them.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Labels(np.ndarray[Any, np.dtype[np.float64]]):
    """An array (n,) of labels with `columns` by name, each (n,). Selecting rows selects those of the columns.

    >>> labels = Labels.of([0, 1, 1], {"amount": [10.0, 20.0, 30.0]})
    >>> labels[[2, 0]].columns["amount"]
    array([30., 10.])
    >>> type(labels == 1) is np.ndarray  # a result is no label
    True
    """

    columns: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, values: ArrayLike, columns: Mapping[str, ArrayLike]) -> Self:
        """Attach columns, each of the labels' length."""
        labels = np.array(values, float).view(cls)
        labels.columns = {name: np.asarray(column) for name, column in columns.items()}
        return labels

    def __array_finalize__(self, source: object) -> None:
        self.columns = getattr(source, "columns", {})

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def __getitem__(self, rows: Any) -> Any:
        found = super().__getitem__(rows)
        if isinstance(found, Labels):
            found.columns = {name: column[rows] for name, column in self.columns.items()}
        return found
