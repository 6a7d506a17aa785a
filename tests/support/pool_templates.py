"""The work pools' base job templates: what each worker publishes, with our defaults from `infra/pools/pools.yaml`.

They are committed, so that `apply` needs no worker's library and a new version of one is a reviewed diff.
`python -m tests.support.pool_templates` writes them anew.
"""

import json
from importlib import import_module
from typing import Any

import yaml

from deployments.apply.pools import POOLS

WORKERS = {
    "process": "prefect.workers.process:ProcessWorker",
    "docker": "prefect_docker.worker:DockerWorker",
    "ecs": "prefect_aws.workers:ECSWorker",
    "kubernetes": "prefect_kubernetes.worker:KubernetesWorker",
}


def worker_of(kind: str) -> Any:
    module, name = WORKERS[kind].split(":")
    return getattr(import_module(module), name)


def wanted() -> dict[str, dict[str, Any]]:
    """Name → what its file shall hold. Raises KeyError for a default that the worker has no variable for."""
    listed = yaml.safe_load((POOLS / "pools.yaml").read_text(encoding="utf-8"))
    files = {}
    for name, pool in listed.items():
        template = worker_of(pool["type"]).get_default_base_job_template()
        for variable, value in pool["defaults"].items():
            template["variables"]["properties"][variable]["default"] = value
        files[name] = {"type": pool["type"], "description": pool["description"], "base_job_template": template}
    return json.loads(json.dumps(files))


if __name__ == "__main__":
    for name, content in wanted().items():
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (POOLS / f"{name}.json").write_text(text, encoding="utf-8")
