"""Where models' files are found: deployments/, and the folder named by PERENNIAL_MODELS."""

import difflib
import os
from pathlib import Path

from tasks.policy.records.errors import ModelConfigError, NoModels

DEPLOYMENTS = Path(__file__).parent.parent
DEMO_MODELS = ("air_time", "flight_delay")
FLEET = "fleet"
"""Name of the file with the settings that models share (`fleet.py`)."""


def model_folders() -> tuple[Path, ...]:
    """Return the folders of models' files: deployments/, and the folder named by PERENNIAL_MODELS if it is set.

    Raises ModelConfigError if that folder does not exist.
    """
    own = os.environ.get("PERENNIAL_MODELS")
    if not own:
        return (DEPLOYMENTS,)
    folder = Path(own).expanduser()
    if not folder.is_dir():
        raise ModelConfigError(
            f"PERENNIAL_MODELS names {own}, expected an existing folder; create it, or fix or unset the variable"
        )
    return (DEPLOYMENTS, folder)


def available_models() -> tuple[str, ...]:
    """Return the names of the YAML files in the models' folders, sorted, without `fleet.yaml`.

    A folder named by PERENNIAL_MODELS replaces the demo's models: they are not offered, scheduled or surveyed any more, but
    a command that names one still finds it.
    """
    folders = model_folders()
    shipped = set() if len(folders) == 1 else {DEPLOYMENTS / f"{name}.yaml" for name in DEMO_MODELS}
    files = {path.stem for folder in folders for path in folder.glob("*.yaml") if path not in shipped}
    return tuple(sorted(files - {FLEET}))


def require_models() -> tuple[str, ...]:
    """Return the names of the models. Raises NoModels if there are none."""
    names = available_models()
    if not names:
        raise NoModels(f"{model_folders()[-1]}: holds no model's file, expected at least one; see perennial new --help")
    return names


def model_path(name_or_path: str | Path) -> Path:
    """Return a model's YAML file, given its name in a models' folder or a path. Raises ModelConfigError if missing."""
    path = Path(name_or_path)
    named = path.suffix not in (".yaml", ".yml")
    for candidate in [folder / f"{name_or_path}.yaml" for folder in model_folders()] if named else [path]:
        if candidate.is_file():
            return candidate.resolve()
    known = available_models()
    near = difflib.get_close_matches(str(name_or_path), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the models here are {', '.join(known) or 'none'}."
    raise ModelConfigError(
        f"{name_or_path}: no such model; expected a name under deployments/ or the path of a YAML file; {hint}"
    )
