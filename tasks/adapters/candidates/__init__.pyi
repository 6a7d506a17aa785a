from . import (
    features as features,
    folds as folds,
    journal as journal,
    search as search,
    space as space,
    spending as spending,
    study as study,
)
