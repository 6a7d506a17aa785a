from . import (
    alias_transaction as alias_transaction,
    challenger as challenger,
    detectors as detectors,
    prediction_log as prediction_log,
    probes as probes,
    rollout_evidence as rollout_evidence,
    rollout_labels as rollout_labels,
    rollout_look as rollout_look,
    service_split as service_split,
)
