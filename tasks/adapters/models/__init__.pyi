from . import (
    early_stopping as early_stopping,
    eligibility as eligibility,
    encoding as encoding,
    estimators as estimators,
    files as files,
    label_alignment as label_alignment,
    resources as resources,
    shap as shap,
)
