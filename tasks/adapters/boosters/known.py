"""The libraries whose models have a file of their own, by class and by file name."""

from collections.abc import Iterable
from typing import Any

from tasks.adapters.boosters.library import BoostingLibrary
from tasks.adapters.boosters.with_catboost import CatBoostLibrary
from tasks.adapters.boosters.with_lightgbm import LightGBMLibrary
from tasks.adapters.boosters.with_xgboost import XGBoostLibrary

LIBRARIES: tuple[BoostingLibrary, ...] = (XGBoostLibrary(), LightGBMLibrary(), CatBoostLibrary())


def library_of(estimator: Any) -> BoostingLibrary | None:
    """Return the library of an estimator or of its class; None for any other estimator."""
    kind = estimator if isinstance(estimator, type) else type(estimator)
    return next((library for library in LIBRARIES if library.owns(kind)), None)


def library_of_files(names: Iterable[str]) -> BoostingLibrary | None:
    """Return the library whose file is among these names; None if none is."""
    listed = set(names)
    return next((library for library in LIBRARIES if library.file in listed), None)
