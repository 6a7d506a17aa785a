"""Fetch a model that was trained elsewhere, and recognise its format by content; nothing of it is run here.

An MLflow model of a flavour that has a safe file (XGBoost, LightGBM, CatBoost, ONNX, skops) is reduced to that file. Any other
MLflow model, and everything that pickle reads, can run code when loaded: `FORMATS` says which.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import mlflow.artifacts
import obstore
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from tasks.adapters.storage import relocation
from tasks.adapters.storage.object_store import store_at
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.errors import ForeignModelError
from tasks.policy.records.text import reason_of, without_secrets
from tasks.policy.rollout.versions import RUNS_CODE

MAX_BYTES = 2 * 2**30
"""Largest model that is taken in; it is read into memory when served."""
FORMATS = {
    "xgboost": "an XGBoost booster (UBJ or JSON)",
    "lightgbm": "a LightGBM text model",
    "catboost": "a CatBoost model (cbm)",
    "onnx": "an ONNX model",
    "skops": "a skops file",
    "joblib": "a joblib or pickle file",
    "pyfunc": "an MLflow model",
}
"""Formats by name, as messages call them."""
SAFE_FLAVOURS = {
    "xgboost": ("xgboost", "data"),
    "lightgbm": ("lightgbm", "data"),
    "catboost": ("catboost", "data"),
    "onnx": ("onnx", "data"),
    "sklearn": ("skops", "pickled_model"),
}
"""MLflow flavour: the format of its file, and the key that names the file."""
ACCEPTED = (
    "XGBoost (.ubj, .json), LightGBM (.txt), CatBoost (.cbm), ONNX, skops, joblib, pickle, or an MLflow model "
    "(models:/, runs:/)"
)
LOGGED_MODEL = "models:/m-"
"""Address of a model by MLflow's id; a version that `log_model` registered has it as its source."""
PICKLED = (".joblib", ".pkl", ".pickle", ".cloudpickle")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\x78\x9c", b"\x78\x01", b"\x78\xda", b"\xfd7zXZ")
"""How the compressed files begin that joblib writes."""


@dataclass(frozen=True)
class Artefact:
    """A model's files as they were found, by their path, and where they come from.

    `columns` are the inputs that an MLflow signature names; empty without one. `lineage` holds the original's SHA-256, and run
    and version where MLflow knows them.
    """

    format: str
    files: Mapping[str, bytes]
    lineage: Mapping[str, str]
    columns: tuple[str, ...] = ()

    @property
    def runs_code(self) -> bool:
        return self.format in RUNS_CODE


def fetch(address: str) -> Artefact:
    """Fetch the model at a path, URL (s3://, gs://), MLflow address (models:/, runs:/) or MLflow folder.

    Raises ForeignModelError if it cannot be read, is too large or of no known format.
    """
    with tempfile.TemporaryDirectory() as place:
        folder, origin = _fetched(address, Path(place))
        files = _read(folder, address)
    digest = sha256(files)
    lineage = {"adopted_from": without_secrets(address), "original_sha256": digest, **origin}
    if "MLmodel" in files:
        return _unwrapped(files, lineage, address)
    if len(files) != 1:
        shown = ", ".join(sorted(files)[:5]) or "nothing"
        raise _refusal(address, f"holds {shown}, expected one file or an MLflow model; name the file")
    ((name, content),) = files.items()
    return Artefact(recognised(name, content, address), files, {**lineage, "original_format": Path(name).suffix}, ())


def sha256(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of a single file, as `sha256sum` prints it; of several, that of their names and hashes."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("\n".join(f"{name}:{hashes[name]}" for name in sorted(hashes)).encode()).hexdigest()


def recognised(name: str, content: bytes, address: str) -> str:
    """Return the format of a file by its content, where the name does not contradict it. Raises ForeignModelError."""
    suffix = Path(name).suffix.lower()
    if not content:
        raise _refusal(address, "is empty, expected a model")
    if suffix in PICKLED or (content[:1] == b"\x80" and content[1:2] <= b"\x05") or content.startswith(COMPRESSED):
        return "joblib"
    if content.startswith(b"PK\x03\x04"):  # any other zip, such as a PyTorch model, may run code when loaded
        return "skops" if b"schema.json" in content else "joblib"
    if content.startswith(b"CBM1"):
        return "catboost"
    if content[:200].lstrip().startswith(b"tree"):
        return "lightgbm"
    if content.lstrip()[:1] == b"{" and b"learner" in content[:4096]:
        return "xgboost"
    if suffix == ".onnx":
        return "onnx"
    raise _refusal(
        address, f"is of no format that can be taken in ({name}, {len(content):,} bytes), expected {ACCEPTED}"
    )


def _refusal(address: str, sentence: str) -> ForeignModelError:
    return ForeignModelError(f"{without_secrets(address)}: {sentence}")


def _fetched(address: str, place: Path) -> tuple[Path, dict[str, str]]:
    """Return where the files lie, and what MLflow says about their origin."""
    scheme = urlsplit(address).scheme
    if scheme in ("models", "runs", "mlflow-artifacts"):
        return _from_mlflow(address, place)
    if scheme in ("s3", "gs"):
        return _from_store(address, place), {}
    if "://" in address and scheme != "file":
        raise _refusal(
            address, f"is of the scheme {scheme}://, expected a file, models:/, runs:/, s3:// or gs://; download it"
        )
    path = Path(address.removeprefix("file://")).expanduser()
    if not path.exists():
        raise _refusal(address, f"does not exist, expected {ACCEPTED}; check the path")
    return path, {}


def _from_mlflow(address: str, place: Path) -> tuple[Path, dict[str, str]]:
    """Download from the workspace's MLflow; `models:/` is looked up there, and never in MLflow's global registry."""
    uri = workspace().mlflow
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    origin: dict[str, str] = {}
    location = address
    try:
        if address.startswith("models:/") and not address.startswith(LOGGED_MODEL):
            name, _, number = address.removeprefix("models:/").partition("/")
            name, _, alias = name.partition("@")
            found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
            origin = {"original_version": f"{name} {found.version}", "original_run": found.run_id or ""}
            location = found.source
        elif address.startswith("runs:/"):
            run_id, _, path = address.removeprefix("runs:/").strip("/").partition("/")
            origin, location = {"original_run": run_id}, _in_run(client, run_id, path)
        if location.startswith(LOGGED_MODEL):  # MLflow would look the id up in its global store, whatever is passed
            location = client.get_logged_model(location.removeprefix("models:/").strip("/")).artifact_location
        got = mlflow.artifacts.download_artifacts(
            artifact_uri=relocation.current_location(location), dst_path=str(place), tracking_uri=uri, registry_uri=uri
        )
    except (MlflowException, OSError) as error:
        raise _refusal(
            address, f"cannot be read from MLflow ({reason_of(error)[:200]}); check the name, and MLFLOW_TRACKING_URI"
        ) from None  # MLflow quotes the complete address
    return Path(got), {name: value for name, value in origin.items() if value}


def _in_run(client: MlflowClient, run_id: str, path: str) -> str:
    """Return the address of a run's model: of the one that `log_model` named so, else of the run's artifact of that path."""
    run = client.get_run(run_id)
    for output in run.outputs.model_outputs if run.outputs else ():
        logged = client.get_logged_model(output.model_id)
        if logged.name == path:
            return str(logged.artifact_location)
    return f"{relocation.current_location(run.info.artifact_uri)}/{path}".rstrip("/")


def _from_store(address: str, place: Path) -> Path:
    """Download one object from a bucket, or all objects under the address if none has this name."""
    above, _, name = address.rstrip("/").rpartition("/")
    if above.endswith("/"):
        raise _refusal(address, "names a bucket, expected a file or an MLflow model in it; name its folder")
    try:
        store = store_at(above)
        found = _objects(store, name)
        if not found:
            raise _refusal(address, "does not exist, expected a file or an MLflow model; check the address")
        size = sum(found.values())
        if size > MAX_BYTES:
            raise _too_large(address, size)
        for path in found:
            target = place / path
            if ".." in PurePosixPath(path).parts or not target.is_relative_to(place):
                raise _refusal(address, f"holds the name {path}, expected names without '..'")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bytes(store.get(path).bytes()))
    except (BaseError, OSError) as error:
        raise _refusal(
            address, f"cannot be read ({reason_of(error)[:200]}); check the address and the credentials"
        ) from None  # the store quotes the complete URL, which may contain a signature
    return place / name


def _objects(store: ObjectStore, name: str) -> dict[str, int]:
    """Return the size of the object of this name, or of each object under it, by its path in the store."""
    try:
        return {name: store.head(name)["size"]}
    except FileNotFoundError:
        listed = (found for batch in obstore.list(store, prefix=f"{name}/") for found in batch)
        return {str(found["path"]): found["size"] for found in listed if str(found["path"]) != name}


def _too_large(address: str, size: int) -> ForeignModelError:
    return _refusal(address, f"holds {size:,} bytes, expected at most {MAX_BYTES:,}; take in a smaller model")


def _read(place: Path, address: str) -> dict[str, bytes]:
    """Read a file or all files of a folder by their path in it; links are refused, as they may lead anywhere."""
    paths = [place] if place.is_file() else sorted(path for path in place.rglob("*") if not path.is_dir())
    base = place.parent if place.is_file() else place
    if linked := [path for path in paths if path.is_symlink() and path != place]:
        raise _refusal(address, f"holds the link {linked[0].relative_to(base)}, expected files only")
    size = sum(path.stat().st_size for path in paths)
    if size > MAX_BYTES:
        raise _too_large(address, size)
    try:
        return {path.relative_to(base).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise _refusal(address, f"cannot be read ({error.strerror}); check its permissions") from None


def _unwrapped(files: dict[str, bytes], lineage: dict[str, str], address: str) -> Artefact:
    """Reduce an MLflow model to the safe file of its flavour, if it has one."""
    try:
        described: dict[str, Any] = yaml.safe_load(files["MLmodel"])
        flavours: dict[str, dict[str, Any]] = described["flavors"]
        columns = _signature(described)
        origin = {"original_run": str(described["run_id"])} if described.get("run_id") else {}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        kind = type(error).__name__
        raise _refusal(address, f"has an MLmodel file that cannot be read ({kind}); log the model again") from None
    lineage = {**origin, **lineage}
    for flavour, (format_, key) in SAFE_FLAVOURS.items():
        name = str(flavours.get(flavour, {}).get(key, ""))
        own = files.get(name)
        if own is not None and recognised(name, own, address) == format_:
            return Artefact(format_, {name: own}, {**lineage, "original_format": f"MLflow {flavour}"}, columns)
    named = ", ".join(sorted(set(flavours) - {"python_function"})) or "python_function"
    return Artefact("pyfunc", files, {**lineage, "original_format": f"MLflow {named}"}, columns)


def _signature(described: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the column names of an MLflow signature; empty without one, or for tensors."""
    inputs = json.loads((described.get("signature") or {}).get("inputs") or "[]")
    return tuple(str(column["name"]) for column in inputs if column.get("name"))
