from . import (
    features as features,
    folds as folds,
    forward_search as forward_search,
    found_settings as found_settings,
    journal as journal,
    space as space,
    spending as spending,
    study as study,
)
