"""Updates of devices: what is accepted gives the device's own model; whatever was changed, cut or signed by others is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.adapters.edge import device, keys
from tasks.adapters.edge.device import EdgeModel
from tasks.adapters.edge.updates import SignedUpdate, corrected, open_update
from tasks.adapters.models import files
from tasks.adapters.models.files import Scorer
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.errors import ForeignUpdate, TamperedUpdate, UpdateBeyondLimits, UpdateRefused
from tests.support.edge_folders import exported_model, on_device
from tests.support.trained_models import HOLDOUT, TRAINING, make_rows


def adapted(folder: Path, task: str) -> bytes:
    """Adapt to rows of another concept and return the update."""
    rows = make_rows(task, rows=400, window=HOLDOUT, turn=0.5)
    with EdgeModel(folder) as model:
        model.adapt(on_device(rows), rows["label"].to_pylist())
        model.update(folder / "update.json")
    return (folder / "update.json").read_bytes()


def base_of(folder: Path, task: str) -> tuple[ModelVersion, dict[str, bytes]]:
    contents = files.read(folder.parent / "version")
    return ModelVersion(f"{task}_model", "1", "run", "d1", TRAINING, 1000, files.sha256(contents)), contents


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_update_gives_the_model_of_the_device_bit_for_bit(task, tmp_path):
    frozen, folder = exported_model(tmp_path, task)
    signed = open_update(f"{task}_model", adapted(folder, task))
    scorer = corrected(*base_of(folder, task), signed, 2.0).scorer
    rows = make_rows(task, rows=200, window=HOLDOUT, seed=8)
    with EdgeModel(folder) as model:
        expected = model.predict(on_device(rows))
    assert scorer.predict(rows).tobytes() == expected.tobytes() != frozen.predict(rows).tobytes()
    stored = tmp_path / "again"
    stored.mkdir()
    files.save(scorer, stored)
    again = files.load(files.read(stored), files.sha256(files.read(stored)))
    assert again.predict(rows).tobytes() == expected.tobytes()


@pytest.fixture
def update(tmp_path: Path) -> tuple[bytes, Path]:
    folder = exported_model(tmp_path)[1]
    return adapted(folder, "binary"), folder


def test_update_holds_no_row(update):
    """It names no column, no category and no value of a row."""
    content, folder = update
    body = json.loads(content)["body"]
    assert set(body) == {
        "format", "model", "version", "sha256", "number", "created_at", "counts", "losses", "leaves", "log",
        "learned_until",
    }  # fmt: skip
    description = json.loads((folder / device.DESCRIPTION).read_bytes())
    words = [*(name for name, _ in description["features"] if len(name) > 1), *description["categories"]["colour"]]
    assert not [word for word in words if f'"{word}"'.encode() in content]


def test_any_changed_byte_is_refused(update):
    content, _ = update
    assert open_update("binary_model", content).update.number == 1
    for place in range(len(content)):
        for flipped in (1, 32, 128):
            changed = bytearray(content)
            changed[place] ^= flipped
            with pytest.raises(UpdateRefused):
                open_update("binary_model", bytes(changed))


FORGERIES: dict[str, Any] = {
    "cut short": lambda content: content[:-20],
    "nothing": lambda content: b"",
    "a list": lambda content: b"[]",
    "no JSON": lambda content: b"\xff\xfe",
    "other spaces": lambda content: json.dumps(json.loads(content)).encode(),
    "a line at its end": lambda content: content + b"\n",
    "deep": lambda content: b"[" * 100_000,
    "no body": lambda content: b'{"body":[],"key_id":"","signature":""}',
}


@pytest.mark.parametrize("case", FORGERIES)
def test_forged_update_is_refused(case, update):
    with pytest.raises(TamperedUpdate, match="the update cannot be trusted"):
        open_update("binary_model", FORGERIES[case](update[0]))


def resigned(content: bytes, folder: Path, **changes: Any) -> bytes:
    """Return the update with another body, signed with the folder's key: what somebody who holds the device can write."""
    key = bytes.fromhex((folder / device.KEY).read_text(encoding="ascii"))
    body = json.loads(content)["body"] | changes
    return device.canonical({"body": body, "key_id": device.key_id(key), "signature": device.sign(body, key)}).encode()


@pytest.mark.parametrize(
    "changes",
    [{"format": 99}, {"leaves": "?"}, {"leaves": "AAA="}, {"number": "x"}, {"created_at": None}, {"losses": 3}],
)
def test_signed_body_that_is_no_update_is_refused(changes, update):
    with pytest.raises(TamperedUpdate):
        open_update("binary_model", resigned(*update, **changes))


def test_key_of_another_workspace_or_model_is_foreign(update):
    content, _ = update
    with pytest.raises(ForeignUpdate, match="this workspace has not exported for other_model"):
        open_update("other_model", content)
    (stored,) = (workspace().home / keys.FOLDER / "binary_model").iterdir()
    assert stored.stat().st_mode & 0o077 == 0 and stored.parent.stat().st_mode & 0o077 == 0
    stored.unlink()
    with pytest.raises(ForeignUpdate, match="which this workspace has not exported"):
        open_update("binary_model", content)


def test_key_id_is_no_path(update):
    signed = json.loads(update[0]) | {"key_id": "../../mlflow"}
    with pytest.raises(ForeignUpdate):
        open_update("binary_model", device.canonical(signed).encode())


def moved(folder: Path, update: SignedUpdate, share: float) -> Scorer:
    """Take in an update that changes every leaf by this share of its value, at a limit of one half."""
    base, contents = base_of(folder, "binary")
    leaves = device.Leaves(contents[device.MODEL]).frozen * np.float32(1 + share)
    return corrected(base, contents, SignedUpdate(update.update, leaves), 0.5).scorer


def test_update_may_move_predictions_up_to_the_limit(update):
    content, folder = update
    signed = open_update("binary_model", content)
    assert moved(folder, signed, 0.49) and moved(folder, signed, -0.49)
    with pytest.raises(UpdateBeyondLimits, match=r"can move a prediction by 0\.51 times"):
        moved(folder, signed, 0.51)
    with pytest.raises(UpdateBeyondLimits, match="changes nothing"):
        moved(folder, signed, 0)
    with pytest.raises(UpdateBeyondLimits, match="finite numbers"):
        moved(folder, signed, float("nan"))
    base, contents = base_of(folder, "binary")
    with pytest.raises(UpdateBeyondLimits, match="has 1 leaves"):
        corrected(base, contents, SignedUpdate(signed.update, np.ones(1, np.float32)), 0.5)
