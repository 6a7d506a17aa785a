"""Stages of the loop.

Importing this package disables the telemetry of every library before any of them loads, and MLflow's pickle loading.
It also normalises the environment: an empty setting, which compose files can pass, is removed; trailing slashes are
stripped from addresses; and this machine is added to `NO_PROXY`.
"""

import os

SETTINGS = ("PERENNIAL_", "PREFECT_", "MLFLOW_", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
ADDRESSES = ("PREFECT_API_URL", "PREFECT_UI_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def _normalise_environment() -> None:
    for name in [name for name, value in os.environ.items() if name.startswith(SETTINGS) and not value.strip()]:
        del os.environ[name]
    for name in ADDRESSES:
        if os.environ.get(name, "").startswith(("http://", "https://")):
            os.environ[name] = os.environ[name].rstrip("/")
    for name in ("NO_PROXY", "no_proxy"):
        known = [host.strip() for host in os.environ.get(name, "").split(",") if host.strip()]
        if "*" not in known:
            os.environ[name] = ",".join(dict.fromkeys((*known, *THIS_MACHINE)))


_normalise_environment()

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(_name, _value)
