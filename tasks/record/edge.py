"""Export a version to a device, and read what the device sends back: both leave an entry in the ledger.

An update is judged against what the ledger says: which folder its key was exported with, which version is the champion, and
which updates were taken in before.
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.config.model import ModelConfig
from tasks.adapters import edge, ledger, registry
from tasks.adapters.storage.atomic_files import atomic_folder
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import digest, from_json
from tasks.policy.records.errors import ExportRefused, ForeignUpdate, UpdateRefused
from tasks.policy.training.edge import EXPORTED, IMPORTED, EdgeExport, EdgeUpdate, ImportFacts, find_fault

if TYPE_CHECKING:  # loads XGBoost
    from tasks.adapters.edge.updates import SignedUpdate

COMPLETED = ("challenger.validated", "challenger.refused")


def export_version(config: ModelConfig, version: ModelVersion, folder: Path, request: RunRequest) -> EdgeExport:
    """Write a folder that runs this version on a device without Perennial, and record it.

    Raises ExportRefused if the version cannot be exported, or if the folder exists and is not empty.
    """
    place = f"{config.name} version {version.version}"
    if version.observed_as is not None:
        raise ExportRefused(f"{place}: has no model file, because your own service has it; expected a trained version")
    files = registry.version_files.serving_files(version)
    edge.folder.check_exportable(place, files)
    edge.folder.check_target(folder)
    key = edge.keys.make_key(config.name)
    export = EdgeExport(config.name, version.version, version.sha256, edge.device.key_id(key), request.as_of)
    decision_id = digest(config.name, EXPORTED, export.key_id)
    profile = registry.version_files.reference_profile(version)
    try:
        with atomic_folder(folder) as own:
            edge.folder.write_folder(own, config, edge.folder.Exported(files, profile, export, decision_id, key))
            ledger.append(config.name, Fact(EXPORTED, export, request.as_of, decision_id, request.actor))
    except OSError as error:
        raise ExportRefused(
            f"{folder}: cannot be written ({error.strerror}), expected a folder you may write to"
        ) from None
    return export


def read_update(config: ModelConfig, address: str, champion: ModelVersion, now: datetime) -> "SignedUpdate":
    """Return a device's update after checking its signature, its base, its age and that it is new. Raises UpdateRefused."""
    try:
        with Path(address).open("rb") as file:
            content = file.read(edge.updates.MOST_BYTES + 1)
    except OSError as error:
        raise UpdateRefused(
            f"{config.name}: {address} cannot be read ({error.strerror}), expected the file that a device wrote with "
            "python perennial_edge.py update"
        ) from None
    signed = edge.updates.open_update(config.name, content)
    facts = ImportFacts(_export(config, signed.update.key_id), champion, now, _imported(config, signed.update.key_id))
    fault = find_fault(signed.update, facts, config.training.edge)
    if fault is not None:
        raise fault
    return signed


def record_update(config: ModelConfig, request: RunRequest, update: EdgeUpdate) -> None:
    """Record that a person imports this update, once for each update."""
    ledger.append(config.name, Fact(IMPORTED, update, request.as_of, update.decision_id, request.actor))


def _export(config: ModelConfig, key_id: str) -> EdgeExport:
    """Return the export that this key belongs to. Raises ForeignUpdate if the ledger does not name it."""
    known = (from_json(EdgeExport, entry.body) for entry in ledger.entries(config.name, kind=EXPORTED))
    found = next((export for export in known if export.key_id == key_id), None)
    if found is None:
        raise ForeignUpdate(f"{config.name}: key {key_id} is not in the ledger, expected one that an export recorded")
    return found


def _imported(config: ModelConfig, key_id: str) -> tuple[EdgeUpdate, ...]:
    """Return the updates of a device that were taken in and validated; an interrupted import may be completed."""
    entries = ledger.entries(config.name)
    completed = {entry.decision_id for entry in entries if entry.kind in COMPLETED}
    found = [
        from_json(EdgeUpdate, each.body) for each in entries if each.kind == IMPORTED and each.decision_id in completed
    ]
    return tuple(update for update in found if update.key_id == key_id)
