from . import (
    error_tree as error_tree,
    fairness as fairness,
    faults as faults,
    metric_gates as metric_gates,
)
