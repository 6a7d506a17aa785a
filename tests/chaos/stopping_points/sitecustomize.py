"""Stop a child process of a test at a named call, without test code in the product.

Python imports `sitecustomize` at start from PYTHONPATH. If CHAOS_FOLDER is set, the functions in POINTS are wrapped when
their modules are imported. `<CHAOS_FOLDER>/<model>.plan` defines one stop: `module.function before|after N kill|wait`. At
the N-th such call for that model, the plan is renamed to `<model>.reached`, so that it acts once, and the process kills
itself or waits for `<model>.go`.
"""

import importlib.abc
import os
import signal
import sys
import time
from functools import wraps
from pathlib import Path

FOLDER = Path(os.environ.get("CHAOS_FOLDER", ""))
POINTS = {
    "tasks.data.snapshot": ("take_snapshot", "land_labels"),
    "tasks.data.split": ("split_labelled_rows",),
    "tasks.training.train": ("train_challenger",),
    "tasks.training.validation": ("validate_challenger",),
    "tasks.rollout.promotion": ("promote_challenger",),
    "tasks.rollout.steps": ("_carry_out",),
    "tasks.adapters.traffic.split_store": ("write_split",),
    "tasks.adapters.reports.rollout": ("publish_rollout_page",),
    "tasks.record.publication": ("publish_validation", "publish_promotion"),
    "tasks.adapters.registry.registration": ("register", "_resolve_race"),
    "tasks.adapters.evaluation.alias_transaction": ("move",),
    "tasks.adapters.registry.versions": ("tag", "aliases"),
    "tasks.adapters.evaluation.challenger": ("smoke_test",),
    "tasks.adapters.ledger.chain": ("append",),
    "tasks.adapters.orchestration.events": ("announce",),
    "mlflow.tracking.client": ("MlflowClient.delete_registered_model_alias",),
}
CALLS: dict[tuple[str, str], int] = {}


def stop_here(name: str, when: str, arguments: tuple) -> None:
    for argument in arguments:
        model = argument if isinstance(argument, str) else getattr(argument, "name", getattr(argument, "model", None))
        plan = FOLDER / f"{model}.plan" if isinstance(model, str) and "/" not in model else None
        if plan is None or not plan.exists():
            continue
        point, at, number, action = plan.read_text().split()
        if (point, at) == (name, when):
            CALLS[name, when] = CALLS.get((name, when), 0) + 1
            if CALLS[name, when] == int(number):
                strike(plan, action)
        return


def strike(plan: Path, action: str) -> None:
    (plan.with_suffix(".pid")).write_text(str(os.getpid()))
    plan.rename(plan.with_suffix(".reached"))
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while not plan.with_suffix(".go").exists():
        time.sleep(0.05)


def watched(function, name: str):
    @wraps(function)
    def around(*arguments, **named):
        stop_here(name, "before", (*arguments, *named.values()))
        answer = function(*arguments, **named)
        stop_here(name, "after", (*arguments, *named.values()))
        return answer

    return around


def watch(module) -> None:
    for path in POINTS[module.__name__]:
        owner = module
        *owners, last = path.split(".")
        for each in owners:
            owner = getattr(owner, each)
        found, name = getattr(owner, last), f"{module.__name__}.{path}"
        if hasattr(found, "fn"):  # a Prefect task
            found.fn = watched(found.fn, name)
        else:
            setattr(owner, last, watched(found, name))


class Watcher(importlib.abc.MetaPathFinder):
    """Wrap a module's functions right after its execution."""

    def find_spec(self, fullname, path, target=None):
        if fullname not in POINTS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                execute = spec.loader.exec_module

                def executed(module, execute=execute):
                    execute(module)
                    watch(module)

                spec.loader.exec_module = executed
                return spec
        return None


if os.environ.get("CHAOS_FOLDER"):
    sys.meta_path.insert(0, Watcher())
