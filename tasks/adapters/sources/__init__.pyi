from . import (
    csv_files as csv_files,
    file_dataset as file_dataset,
    files as files,
    limits as limits,
    nycflights as nycflights,
    own_labels as own_labels,
    own_predictions as own_predictions,
    read as read,
    sql as sql,
)
from .read import (
    OPTIONS as OPTIONS,
    TIMES as TIMES,
    check_function as check_function,
    read_labels as read_labels,
    read_sorted_labels as read_sorted_labels,
    read_window as read_window,
    where as where,
)
