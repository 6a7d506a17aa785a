"""Write the folder that runs on a device: the model as its library stores it, its description, a manifest, a key, one file.

Only XGBoost models that Perennial trained can adapt: their trees are frozen and their leaf values are numbers that a device
can change and send back. Other models are refused by name.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.config.model import ModelConfig
from tasks.adapters.edge import device
from tasks.adapters.models.files import DESCRIPTION
from tasks.policy.records.errors import ExportRefused
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.training.edge import EdgeExport

PROGRAM = "perennial_edge.py"


def check_exportable(place: str, files: Mapping[str, bytes]) -> None:
    """Raise ExportRefused if a version with these files cannot run on a device; `place` names it."""
    if device.MODEL not in files or DESCRIPTION not in files or "raw" in json.loads(files[DESCRIPTION]):
        raise ExportRefused(
            f"{place}: holds {', '.join(sorted(files))}, expected an XGBoost model that Perennial trained from the features of "
            f"its file ({device.MODEL}); LightGBM, CatBoost, scikit-learn, adopted models (ONNX too) and features of your own "
            "cannot be exported: train with the default estimator to export"
        )
    try:
        device.Leaves(files[device.MODEL])
    except device.EdgeRefusal as refusal:
        raise ExportRefused(f"{place}: {refusal}") from None


def check_target(folder: Path) -> None:
    """Raise ExportRefused if the folder exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportRefused(
            f"{folder}: exists and is not empty, expected a new folder; each device has a key of its own"
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """What goes into a folder: the version's files and reference profile, and the record and key of the export."""

    files: Mapping[str, bytes]
    profile: ReferenceProfile
    export: EdgeExport
    decision_id: str
    key: bytes


def write_folder(folder: Path, config: ModelConfig, exported: Exported) -> None:
    """Write everything that a device needs into an empty folder; the key is readable by its owner only."""
    contents = {
        device.MODEL: exported.files[device.MODEL],
        device.DESCRIPTION: exported.files[DESCRIPTION],
        PROGRAM: Path(device.__file__).read_bytes(),
    }
    export = exported.export
    manifest = {
        "format": device.FORMAT,
        "model": export.model,
        "version": export.version,
        "sha256": export.sha256,
        "decision_id": exported.decision_id,
        "key_id": export.key_id,
        "created_as_of": export.at.isoformat(),
        "label": config.columns.label,
        "time": config.columns.time,
        "metric": config.performance.metric,
        "quantile": config.performance.quantile,
        "reference": _ranges(config, exported.profile),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / device.MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    (folder / device.KEY).touch(mode=0o600)
    (folder / device.KEY).write_text(exported.key.hex(), encoding="ascii")


def _ranges(config: ModelConfig, profile: ReferenceProfile) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each numeric feature in the reference, except for personal ones."""
    found = {}
    for each in profile.features:
        low, high = each.counts.minimum, each.counts.maximum
        if (
            each.kind == "numeric"
            and each.feature not in config.columns.personal
            and low is not None
            and high is not None
        ):
            found[each.feature] = (low, high)
    return found
