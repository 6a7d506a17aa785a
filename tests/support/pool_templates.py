"""Base job templates of the work pools: each worker's own template with the defaults of `infra/pools/pools.yaml`.

The templates are committed: `apply` needs no worker library, and a new version of one is a reviewed diff.
`python -m tests.support.pool_templates` regenerates them.
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
    """Map each pool's name to the content of its file. Raises KeyError for a default without a template variable."""
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
