from . import (
    evidently_app as evidently_app,
    evidently_workspace as evidently_workspace,
    local_guard as local_guard,
    mlflow_app as mlflow_app,
    prefect_app as prefect_app,
)
