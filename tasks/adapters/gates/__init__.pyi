from . import (
    evidently as evidently,
    evidently_columns as evidently_columns,
    evidently_metrics as evidently_metrics,
    evidently_page as evidently_page,
    expectation_suite as expectation_suite,
    great_expectations as great_expectations,
    quality_page as quality_page,
    sentences as sentences,
    window_rows as window_rows,
)
