"""Everything that is deployed, in a file that is committed: a change of a deployment, form or automation is a reviewed diff.

`python -m tests.support.deployment_snapshot` writes it anew.
"""

import json
from pathlib import Path

from deployments.apply.definitions import read_definitions
from deployments.apply.prefect_definitions import wanted_definitions

SNAPSHOT = Path(__file__).parent / "snapshots" / "deployments.json"


def current() -> dict[str, dict[str, object]]:
    definitions = wanted_definitions(read_definitions(), alerts=True)
    return {f"{each.kind} {each.name}": dict(each.fields) for each in definitions}


if __name__ == "__main__":
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(json.dumps(current(), indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
