from . import (
    eligibility as eligibility,
    encoding as encoding,
    estimators as estimators,
    files as files,
    label_alignment as label_alignment,
    shap as shap,
    slice_values as slice_values,
)
