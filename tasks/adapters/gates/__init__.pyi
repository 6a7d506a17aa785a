from . import (
    evidently as evidently,
    evidently_columns as evidently_columns,
    evidently_metrics as evidently_metrics,
    evidently_page as evidently_page,
    great_expectations as great_expectations,
)
