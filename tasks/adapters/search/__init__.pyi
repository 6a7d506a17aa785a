from . import (
    features as features,
    folds as folds,
    forward_search as forward_search,
    journal as journal,
    space as space,
    spending as spending,
    study as study,
)
