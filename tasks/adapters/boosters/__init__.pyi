from . import (
    known as known,
    library as library,
    with_catboost as with_catboost,
    with_lightgbm as with_lightgbm,
    with_xgboost as with_xgboost,
)
