"""Predict with a model that may run code: the program of the child process, which `sandbox` starts and stops.

It reads requests from its standard input and writes answers to its standard output, each as an 8-byte length and an Arrow IPC
stream. It imports nothing of Perennial, and limits its own memory, CPU time and processes before it loads the model.
"""

import json
import os
import resource
import select
import struct
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO


def bound(settings: dict[str, Any]) -> None:
    """Limit this process's memory, CPU time, files and number of processes; no core file, as it would hold rows."""
    limits = [
        (resource.RLIMIT_AS, settings["memory_bytes"]),
        (resource.RLIMIT_CPU, settings["cpu_s"]),
        (resource.RLIMIT_FSIZE, settings["file_bytes"]),
        (resource.RLIMIT_NPROC, settings["processes"]),
    ]
    for kind, limit in limits:
        most = resource.getrlimit(kind)[1]
        if limit and (most == resource.RLIM_INFINITY or limit < most):
            resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with_parent() -> None:
    """End this process when its parent does, even while the model computes: its end of the pipe is closed then."""
    hung_up = select.poll()
    hung_up.register(0, 0)

    def watch() -> None:
        hung_up.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def load(folder: Path, model_format: str) -> Any:
    """Load the model: with MLflow, or with joblib, which also reads pickle and cloudpickle."""
    if model_format == "joblib":
        import joblib  # after the limits are set

        (path,) = (path for path in folder.rglob("*") if path.is_file())
        return joblib.load(path)
    import mlflow.pyfunc  # after the limits are set
    import yaml  # after the limits are set

    described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    for flavour in ("sklearn", "lightgbm", "xgboost", "catboost"):  # pyfunc would give classes instead of probabilities
        if flavour in described["flavors"]:
            model = getattr(mlflow, flavour).load_model(str(folder))
            if flavour == "sklearn" or hasattr(model, "predict_proba"):
                return model
    return mlflow.pyfunc.load_model(str(folder))


def describe(model: Any) -> dict[str, Any]:
    """Return what the model says about itself: its type, features, classes, and whether it gives probabilities."""
    inner = model.steps[-1][1] if hasattr(model, "steps") else model
    kind = _kind(model)
    names, classes = getattr(model, "feature_names_in_", None), getattr(model, "classes_", None)
    return {
        "estimator": type(inner).__name__,
        "features": None if names is None else [str(name) for name in names],
        "classes": None if classes is None else [str(name) for name in classes],
        "is_classifier": kind == "classifier" or (kind is None and classes is not None),
        "is_regressor": kind == "regressor",
        "has_probabilities": hasattr(model, "predict_proba"),
    }


def _kind(model: Any) -> str | None:
    """Return "classifier" or "regressor" as scikit-learn's tags say; None where the model has none."""
    from sklearn.base import BaseEstimator, is_classifier, is_regressor  # after the limits are set

    if not isinstance(model, BaseEstimator):
        kind = getattr(model, "_estimator_type", None)
        return kind if kind in ("classifier", "regressor") else None
    return "classifier" if is_classifier(model) else "regressor" if is_regressor(model) else None


def predict(model: Any, frame: Any, task: str) -> Any:
    """Predict a data frame: probabilities where the model has them, else what `predict` gives, as float64."""
    import numpy as np  # after the limits are set

    give = model.predict_proba if task != "regression" and hasattr(model, "predict_proba") else model.predict
    return np.asarray(give(frame), np.float64)


def answer(stream: BinaryIO, facts: dict[str, Any], values: Any = None) -> None:
    """Write one answer: the facts as metadata of the schema, the predictions as columns."""
    import pyarrow as pa  # after the limits are set

    wide = [] if values is None else [values] if values.ndim == 1 else list(values.T)
    table = pa.table({str(number): pa.array(column) for number, column in enumerate(wide)})
    table = table.replace_schema_metadata({"facts": json.dumps(facts)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    stream.write(struct.pack("<Q", content.size) + content.to_pybytes())
    stream.flush()


def serve(folder: Path, model_format: str, task: str, channel: BinaryIO) -> None:
    """Load the model, say what it is, and answer until the parent closes the pipe."""
    import pyarrow as pa  # after the limits are set

    model = load(folder, model_format)
    answer(channel, describe(model))
    source = sys.stdin.buffer
    while len(head := source.read(8)) == 8:
        (size,) = struct.unpack("<Q", head)
        table = pa.ipc.open_stream(source.read(size)).read_all()
        try:
            answer(channel, {}, predict(model, table.to_pandas(), task))
        except Exception as error:  # noqa: BLE001 whatever the model raises is reported to the parent, which refuses
            answer(channel, failure(error))


def failure(error: BaseException) -> dict[str, Any]:
    """Return an exception as facts: its type and first line, and whether the limit of memory is its cause."""
    lines, kind = str(error).strip().splitlines(), type(error).__name__
    return {
        "error": f"{kind}: {lines[0][:300]}" if lines else kind,
        "out_of_memory": isinstance(error, MemoryError),
    }


def main(settings: dict[str, Any]) -> None:
    # whatever the model prints must not end up between the answers
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    end_with_parent()
    bound(settings)
    try:
        serve(Path(settings["folder"]), settings["format"], settings["task"], channel)
    except Exception as error:  # noqa: BLE001 as above: loading runs the model's code
        answer(channel, failure(error))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
