from . import (
    baseline_drift as baseline_drift,
    binned_rows as binned_rows,
    columns as columns,
    domain_classifier as domain_classifier,
    feature_counter as feature_counter,
    leakage as leakage,
    profile as profile,
    reference_sample as reference_sample,
    sample as sample,
)
